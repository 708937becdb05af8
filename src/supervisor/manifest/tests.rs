use std::path::Path;
use std::time::Duration;

use crate::config::RuntimesFile;

use super::super::names::{Accelerator, Condition, RestartRule};
use super::{Change, Defaults, GpuChoice, Manifest, Probe, diff, read};
use crate::sandbox::ProfileName;
use crate::sandbox::preset::PresetName;

const DEMO: &str = "[[runtimes]]\nid = \"demo\"\npersona = \"p\"\n";
const PROCESS: &str = "[runtimes.process]\ncommand = \"/bin/true\"\n";

fn read_text(text: &str) -> Result<Manifest, Vec<String>> {
    let path = Path::new("r.toml");
    let show = |faults: Vec<crate::config::Fault>| faults.iter().map(ToString::to_string).collect();
    match RuntimesFile::parse(path, text) {
        Err(document) => Err(show(document.into_faults())),
        Ok(file) => read(file, &Defaults::default()).map_err(|faults| show(faults.0)),
    }
}

/// A manifest of runtimes that have these keys beside what each needs.
pub(in crate::supervisor) fn manifest_of(runtimes: &[(&str, &str)]) -> Manifest {
    let one = |(id, keys): &(&str, &str)| format!("[[runtimes]]\nid = \"{id}\"\npersona = \"p\"\n{keys}\n{PROCESS}");
    read_text(&runtimes.iter().map(one).collect::<String>()).expect("a good manifest")
}

/// The faults of one runtime with these keys and tables, without file and line.
fn faults_of(keys: &str, tables: &str) -> Vec<String> {
    let text = format!("{DEMO}{keys}\n{PROCESS}{tables}\n");
    match read_text(&text) {
        Ok(_) => Vec::new(),
        Err(faults) => {
            faults.iter().map(|fault| fault.splitn(3, ':').last().expect("fault").trim().to_owned()).collect()
        }
    }
}

#[test]
fn the_shipped_manifest_is_read_and_shows_every_kind() {
    let text = include_str!("../../../configs/runtime/runtimes.toml");
    let manifest = read_text(text).expect("the shipped file is good");
    let ids: Vec<&str> = manifest.runtimes().map(|spec| spec.id.as_str()).collect();
    assert_eq!(ids, ["hello", "model", "nightly-report", "trainer"]);
    let by = |id: &str| manifest.runtimes().find(|spec| spec.id.as_str() == id).expect(id);
    let model = by("model");
    assert_eq!((model.preset, model.profile), (PresetName::Balanced, ProfileName::Standard));
    assert!(matches!(&model.health.as_ref().expect("health").probe, Probe::Http { path, .. } if path == "/"));
    assert_eq!(model.budget.egress, Some(10 << 30));
    assert_eq!(model.limits.swap, Some(0));
    assert_eq!(by("nightly-report").schedule.as_ref().expect("schedule").zone(), "Europe/Berlin");
    assert_eq!(by("nightly-report").depends_on[0].condition, Condition::Ready);
    let trainer = by("trainer");
    assert_eq!((trainer.accelerator, trainer.profile), (Accelerator::Gpu, ProfileName::Gpu));
    assert_eq!(trainer.gpu.as_ref().expect("gpu").choice, GpuChoice::Count(1));
}

#[test]
fn the_commented_keys_of_the_shipped_manifest_are_keys() {
    let text = include_str!("../../../configs/runtime/runtimes.toml");
    let probes = ["tcp", "exec", "log", "notify"];
    let mut tried = 0;
    for (index, line) in text.lines().enumerate() {
        let Some(key) = line.strip_prefix("# ").filter(|line| line.contains(" = ") || line.starts_with("[runtimes"))
        else {
            continue;
        };
        let name = key.split(" = ").next().expect("name");
        let whole: Vec<&str> =
            text.lines().enumerate().map(|(at, line)| if at == index { key } else { line }).collect();
        let faults = read_text(&whole.join("\n")).err().unwrap_or_default();
        // A second probe and a watchdog without `sec` are faults of another kind.
        let unknown: Vec<&String> =
            faults.iter().filter(|fault| fault.contains("unknown") || fault.contains("expected")).collect();
        assert!(unknown.is_empty() || name == "sec", "{key}: {unknown:?}");
        assert!(!probes.contains(&name) || faults.iter().any(|fault| fault.contains("2 probes")), "{key}: {faults:?}");
        tried += 1;
    }
    assert!(tried >= 9, "{tried}");
}

#[test]
fn defaults_are_the_careful_ones() {
    let manifest = manifest_of(&[("demo", "")]);
    let spec = manifest.runtimes().next().expect("one");
    assert_eq!(
        (spec.preset, spec.profile, spec.restart),
        (PresetName::Eco, ProfileName::Standard, RestartRule::OnFailure)
    );
    assert_eq!((spec.restart_max, spec.restart_window), (3, Duration::from_secs(600)));
    assert!(!spec.auto_start && spec.publish.is_empty() && spec.health.is_none() && spec.process.env.is_empty());
    assert_eq!(spec.name, "demo");
}

#[test]
fn all_faults_of_a_file_come_together_with_line_key_and_hint() {
    let text = r#"
[[runtimes]]
id = "web"
persona = "Demo"
tags = [""]
preset = "turbo"
depends_on = ["dbb", "web", "job:done"]
publish = ["127.0.0.1:8080:80"]
schedule = "99 * * * *"
[runtimes.process]
command = "./run"
colour = "red"
[[runtimes]]
id = "db"
persona = "p"
publish = ["0.0.0.0:8080:80"]
[runtimes.process]
command = "/bin/true"
[[runtimes]]
id = "db"
persona = "p"
[runtimes.process]
command = "/bin/true"
"#;
    let faults = read_text(text).expect_err("faulty");
    let start = |fault: &String| fault.split(": ").take(2).collect::<Vec<_>>().join(": ");
    let mut sorted = faults.clone();
    sorted.sort_by_key(|fault| fault.split(':').nth(1).and_then(|line| line.parse::<u64>().ok()));
    assert_eq!(sorted, faults);
    assert_eq!(
        faults.iter().map(start).collect::<Vec<_>>(),
        [
            "r.toml:4: runtimes[0].persona",
            "r.toml:5: runtimes[0].tags[0]",
            "r.toml:6: runtimes[0].preset",
            "r.toml:7: runtimes[0].depends_on[1]",
            "r.toml:7: runtimes[0].depends_on[2]",
            "r.toml:7: runtimes[0].depends_on[0]",
            "r.toml:9: runtimes[0].schedule",
            "r.toml:11: runtimes[0].process.command",
            "r.toml:12: runtimes[0].process.colour",
            "r.toml:16: runtimes[1].publish[0]",
            "r.toml:20: runtimes[2].id",
        ],
        "{faults:#?}"
    );
}

#[test]
fn what_runtimes_mean_to_each_other_is_checked() {
    let two = |one: &str, other: &str| {
        let text = format!(
            "{DEMO}{one}\n{PROCESS}[[runtimes]]\nid = \"other\"\npersona = \"p\"\n{other}\n{PROCESS}[runtimes.restart]\npolicy = \"always\"\n"
        );
        read_text(&text).err().unwrap_or_default()
    };
    assert!(two("depends_on = [\"other\"]", "").is_empty());
    for (one, other, message) in [
        ("depends_on = [\"othr\"]", "", "unknown runtime `othr` (hint: did you mean `other`?)"),
        ("depends_on = [\"other\"]", "depends_on = [\"demo:started\"]", "wait for each other: demo → other → demo"),
        ("depends_on = [\"other:completed\"]", "", "it never completes"),
        ("publish = [\"127.0.0.1:80:1\"]", "publish = [\"0.0.0.0:80:1\"]", "taken by `demo` in line 4"),
        ("publish = [\"127.0.0.1:80:1\", \"127.0.0.1:80:2\"]", "", "taken by `demo` in line 4"),
        ("", "schedule = \"0 0 * * *\"", "what is always started again needs no schedule"),
    ] {
        let faults = two(one, other);
        assert!(faults.len() == 1 && faults[0].contains(message), "{one} {other}: {faults:?}");
    }
}

#[test]
fn each_key_has_bounds() {
    for (keys, tables, message) in [
        ("preset = \"balanced\"", "", "needs a justification"),
        ("preset = \"balanced\"\njustification = \" \"", "", "the text is empty"),
        ("preset = \"gpu\"\njustification = \"x\"", "", "there is none"),
        ("preset = \"max\"", "", "one of eco, balanced"),
        ("profile = \"stric\"", "", "did you mean `strict`?"),
        ("timezone = \"UTC\"", "", "a time zone without a schedule"),
        ("schedule = \"0 0 * * *\"\ntimezone = \"Berlin\"", "", "no time zone"),
        ("tags = [\"a\", \"a\"]", "", "named twice"),
        ("tags = [\"a b\"]", "", "without spaces"),
        ("require = [\"seccompp\"]", "", "did you mean `seccomp`?"),
        ("publish = [\"8080:80\"]", "", "expected `ADDRESS:PORT:INNER`"),
        ("name = \"a\\u001b[2J\"", "", "control characters"),
        ("", "user = 0", "never root"),
        ("", "user = 4294967295", "at most 4294967294"),
        ("", "env = { HTTPS_PROXY = \"x\" }", "sets this variable itself"),
        ("", "env = { no_proxy = \"*\" }", "sets this variable itself"),
        ("", "env = { arw_admin_token = \"x\" }", "sets this variable itself"),
        ("", "env = { \"A=B\" = \"x\" }", "letters, digits"),
        ("", "env = { A = \"x\" }\nsecrets = { A = \"/s\" }", "in `env` and in `secrets`"),
        ("", "secrets = { A = \"s\" }", "written from `/`"),
        ("", "secrets = { A = \"/s/../etc/shadow\" }", "written from `/`"),
        ("", "workdir = \"work\"", "written from `/`"),
        ("", "args = [\"a\\u0000b\"]", "no NUL"),
        ("", "stop_grace = \"1h\"", "between 0.1 and 300 s"),
        ("", "[runtimes.watchdog]\nsec = 0", "between 1 and 3600"),
        ("", "[runtimes.restart]\nmax = 0", "policy = \"no\""),
        ("", "[runtimes.restart]\nmax = 1001", "between 1 and 1000"),
        ("", "[runtimes.restart]\nwindow = \"1s\"", "between 60"),
        ("", "[runtimes.restart]\nbackoff = \"0s\"", "between 0.1"),
        ("", "[runtimes.restart]\nbackoff = \"10s\"\nbackoff_max = \"5s\"", "shorter than the first"),
        ("", "[runtimes.restart]\npolicy = \"sometimes\"", "one of no, on-failure, always"),
        ("", "[runtimes.budget]\nrequests = 0", "at least 1"),
        ("", "[runtimes.limits]\nmemory = \"1KiB\"", "between 1048576"),
        ("", "[runtimes.gpu]\ncount = 1", "without `accelerator"),
        ("accelerator = \"gpu\"", "[runtimes.gpu]\ncount = 0", "between 1 and 64"),
        ("accelerator = \"gpu\"", "[runtimes.gpu]\ncount = 1\nuuids = [\"GPU-1\"]", "exclude each other"),
        ("accelerator = \"gpu\"", "[runtimes.gpu]\nuuids = [\"0\"]", "named `GPU-…`"),
        ("", "[runtimes.health]", "0 probes"),
        ("", "[runtimes.health]\nnotify = false", "`false` says nothing"),
        ("", "[runtimes.health]\ntcp = \"127.0.0.1:1\"\nnotify = true", "2 probes"),
        ("", "[runtimes.health]\ntcp = \"10.0.0.1:80\"", "not a loopback address"),
        ("", "[runtimes.health]\ntcp = \"127.0.0.1:0\"", "not a loopback address"),
        ("", "[runtimes.health]\nhttp = \"https://127.0.0.1:80/\"", "plain http"),
        ("", "[runtimes.health]\nhttp = \"http://127.0.0.1:80@evil.example/\"", "not a loopback address"),
        ("", "[runtimes.health]\nhttp = \"http://127.0.0.1:80/a b\"", "printable ASCII"),
        ("", "[runtimes.health]\nnotify = true\ninterval = \"1s\"", "tell readiness once"),
        ("", "[runtimes.health]\ntcp = \"localhost:80\"\ninterval = \"1s\"\ntimeout = \"2s\"", "overlap"),
        ("", "[runtimes.health]\ntcp = \"localhost:80\"\nfailure_threshold = 0", "between 1 and 1000"),
    ] {
        let faults = faults_of(keys, tables);
        assert!(faults.len() == 1 && faults[0].contains(message), "{keys} {tables}: {faults:?}");
    }
}

#[test]
fn a_fault_never_repeats_the_value_of_a_variable() {
    let faults = faults_of("", "env = { ARW_X = \"hunter2\", B = \"hunter2\\u0000\" }\nsecrets = { C = \"hunter2\" }");
    assert_eq!(faults.len(), 3);
    assert!(!faults.join(" ").contains("hunter2"), "{faults:?}");
}

#[test]
fn a_cycle_is_found_once_and_named() {
    let ring: String = (0..300)
        .map(|n| {
            let next = (n + 1) % 300;
            format!("[[runtimes]]\nid = \"r{n}\"\npersona = \"p\"\ndepends_on = [\"r{next}\"]\n{PROCESS}")
        })
        .collect();
    let faults = read_text(&ring).expect_err("a cycle");
    assert!(faults.len() == 1 && faults[0].contains("they wait for each other") && faults[0].len() < 300, "{faults:?}");
}

#[test]
fn too_many_runtimes_are_refused() {
    let many: String =
        (0..=super::MAX_RUNTIMES).map(|n| format!("[[runtimes]]\nid = \"r{n}\"\npersona = \"p\"\n{PROCESS}")).collect();
    let faults = read_text(&many).expect_err("too many");
    assert!(faults.len() == 1 && faults[0].contains("more than 1024 runtimes"), "{faults:?}");
}

#[test]
fn an_equal_manifest_changes_nothing() {
    let text = include_str!("../../../configs/runtime/runtimes.toml");
    let (one, two) = (read_text(text).expect("good"), read_text(text).expect("good"));
    assert_eq!(diff(&one, &two), []);
}

#[test]
fn a_reload_names_what_changed_and_whether_it_needs_a_launch() {
    let old = manifest_of(&[("a", ""), ("b", ""), ("c", ""), ("d", "")]);
    let new =
        manifest_of(&[("a", ""), ("b", "tags = [\"x\"]"), ("c", "profile = \"strict\"\nauto_start = true"), ("e", "")]);
    let changes: Vec<String> = diff(&old, &new)
        .iter()
        .map(|change| match change {
            Change::Remove(id) => format!("remove {id}"),
            Change::Relaunch { spec, keys } => format!("relaunch {} {keys:?}", spec.id),
            Change::Adjust { spec, keys } => format!("adjust {} {keys:?}", spec.id),
            Change::Add(spec) => format!("add {}", spec.id),
        })
        .collect();
    let expected = ["remove d", "relaunch c [\"profile\", \"auto_start\"]", "adjust b [\"tags\"]", "add e"];
    assert_eq!(changes, expected);
}

#[test]
fn whatever_changes_the_process_or_its_confinement_needs_a_launch() {
    let plain = format!("{DEMO}{PROCESS}");
    let old = read_text(&plain).expect("good");
    for (keys, tables, launch) in [
        ("name = \"x\"", "", false),
        ("schedule = \"0 0 * * *\"", "", false),
        ("justification = \"x\"", "", false),
        ("preset = \"turbo\"\njustification = \"x\"", "", true),
        ("profile = \"compat\"", "", true),
        ("consent = [\"text\"]", "", true),
        ("publish = [\"127.0.0.1:80:80\"]", "", true),
        ("require = [\"seccomp\"]", "", true),
        ("accelerator = \"gpu\"", "", true),
        ("", "args = [\"x\"]", true),
        ("", "env = { A = \"x\" }", true),
        ("", "secrets = { A = \"/x\" }", true),
        ("", "workdir = \"/x\"", true),
        ("", "user = 7", true),
        ("", "stop_grace = \"1s\"", false),
        ("", "[runtimes.health]\nnotify = true", false),
        ("", "[runtimes.watchdog]\nsec = 5", true),
        ("", "[runtimes.restart]\nmax = 5", false),
        ("", "[runtimes.budget]\nrequests = 5", false),
        ("", "[runtimes.limits]\nswap = 0", true),
    ] {
        let new = read_text(&format!("{DEMO}{keys}\n{PROCESS}{tables}\n")).expect("good");
        let changes = diff(&old, &new);
        assert_eq!(changes.len(), 1, "{keys} {tables}");
        assert_eq!(matches!(changes[0], Change::Relaunch { .. }), launch, "{keys} {tables}");
    }
}
