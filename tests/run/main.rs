//! `arw-cli run`: real programs in a real sandbox, governed by a gateway of their own.
//!
//! Each test runs as whoever runs it; as root the same is tried as an ordinary user too.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// An ordinary user that need not exist.
const USER: u32 = 65_501;

/// Who runs the command.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Caller {
    /// Whoever runs the tests.
    Myself,
    /// An ordinary user, when the tests run as root.
    Ordinary,
}

/// Both kinds of caller, as far as this process can be them.
fn callers() -> Vec<Caller> {
    if nix::unistd::geteuid().is_root() { vec![Caller::Myself, Caller::Ordinary] } else { vec![Caller::Myself] }
}

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        // The ordinary user needs the program, and a place to write.
        let program = folder.path().join("arw-cli");
        // By another process: were it open for writing here, a test that starts a program at that moment would hand
        // the descriptor on, and executing the copy would fail with ETXTBSY.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_arw-cli")).arg(&program).status();
        assert!(copied.expect("cp").success());
        for path in [folder.path(), &program] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("opened");
        }
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn run(&self, caller: Caller, arguments: &[&str]) -> Output {
        let program = self.path().join("arw-cli");
        let state = self.path().join(format!("state-{caller:?}"));
        let mut command = match caller {
            Caller::Myself => Command::new(&program),
            Caller::Ordinary => {
                let mut command = Command::new("setpriv");
                command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"]).arg(&program);
                command
            }
        };
        command
            .env_clear()
            .env("HOME", self.path())
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .arg("--state-dir")
            .arg(state)
            .args(["run", "--persona", "demo"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("it runs")
    }

    /// The lines of the ledger of the only run of `caller`.
    fn ledger(&self, caller: Caller) -> Vec<serde_json::Value> {
        let runs = self.path().join(format!("state-{caller:?}")).join("runs");
        let run = std::fs::read_dir(runs).expect("a run").next().expect("a run").expect("a run").path();
        let text = std::fs::read_to_string(run.join("ledger/00000000000000000001.jsonl")).expect("a ledger");
        text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect()
    }
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn both(output: &Output) -> String {
    format!("{:?}\n{}\n{}", output.status, out(output), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_command_reaches_what_its_persona_may_and_nothing_else() {
    for caller in callers() {
        let home = Home::new();
        let script = "curl -sS $ARW_DEMO_ORIGIN; curl -sS http://example.com/; \
                      curl -sS --noproxy '*' -m 5 http://192.0.2.1/ 2>&1; echo direct $?";
        let output = home.run(caller, &["--", "sh", "-c", script]);
        let text = out(&output);
        assert!(text.contains("hello from the demonstration origin"), "{caller:?} {}", both(&output));
        assert!(text.contains("\"code\":\"not_allowlisted\""), "{caller:?} {}", both(&output));
        // 7: curl could not connect. There is no route, so it knows at once.
        assert!(text.contains("direct 7"), "{caller:?} {}", both(&output));
        let lines = home.ledger(caller);
        assert_eq!(lines.iter().filter(|line| line["kind"] == "open").count(), 1, "{lines:?}");
        assert_eq!(lines.iter().filter(|line| line["kind"] == "deny").count(), 1, "{lines:?}");
        assert!(lines.iter().all(|line| line["kind"] == "close" || line["identity"] == "netns"), "{lines:?}");
    }
}

#[test]
fn a_program_that_knows_of_no_proxy_reaches_an_allowed_name_and_no_other() {
    for caller in callers() {
        let home = Home::new();
        let script = "unset http_proxy HTTP_PROXY https_proxy HTTPS_PROXY all_proxy ALL_PROXY; \
                      curl -sS $ARW_DEMO_ORIGIN; curl -sS http://example.com/ 2>&1; echo refused $?";
        let output = home.run(caller, &["--", "sh", "-c", script]);
        let text = out(&output);
        assert!(text.contains("hello from the demonstration origin"), "{caller:?} {}", both(&output));
        // 6: curl could not resolve the name.
        assert!(text.contains("refused 6"), "{caller:?} {}", both(&output));
        let lines = home.ledger(caller);
        let denied: Vec<_> = lines.iter().filter(|line| line["kind"] == "deny").collect();
        assert_eq!(denied.len(), 1, "a name that is asked for twice is one line: {lines:?}");
        assert_eq!((&denied[0]["host"], &denied[0]["code"]), (&"example.com".into(), &"not_allowlisted".into()));
    }
}

/// It is opened while the sandbox is made: when that fails, the command may have begun, and must not go on.
#[test]
fn a_command_without_a_ledger_is_ended() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: it takes root to mount a file system that is full");
        return;
    }
    let home = Home::new();
    let state = home.path().join("small");
    std::fs::create_dir(&state).expect("a folder");
    // Files enough for what comes before the ledger, and for its folder; not for its keys, segment and checkpoints.
    let script = format!(
        "mount -t tmpfs -o nr_inodes=10 tmpfs {state} && exec {program} --state-dir {state} run --persona demo -- sleep 61.5",
        state = state.display(),
        program = home.path().join("arw-cli").display(),
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).env("HOME", home.path()).stdin(Stdio::null());
    let output = command.output().expect("it runs");
    let said = both(&output);
    if said.contains("unshare failed") || said.contains("mount:") {
        println!("SKIP: no mounts of its own here: {said}");
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("opening the ledger of the run"), "{said}");
    let lives = |entry: std::fs::DirEntry| {
        std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == b"sleep\x0061.5\x00")
    };
    let found = std::fs::read_dir("/proc").expect("proc").flatten().any(lives);
    assert!(!found, "the command goes on");
}

#[test]
fn the_exit_status_is_the_commands() {
    for caller in callers() {
        let home = Home::new();
        assert_eq!(home.run(caller, &["--", "sh", "-c", "exit 7"]).status.code(), Some(7));
        assert_eq!(home.run(caller, &["--", "sh", "-c", "kill -9 $$"]).status.code(), Some(137));
        let missing = home.run(caller, &["--", "no-such-program"]);
        assert!(!missing.status.success(), "{}", both(&missing));
        assert!(String::from_utf8_lossy(&missing.stderr).contains("no-such-program"), "{}", both(&missing));
    }
}

#[test]
fn nothing_that_it_started_survives_it() {
    for caller in callers() {
        let home = Home::new();
        // A name that no other process has: the length of its sleep.
        let long = format!("{}.{}", 86_000 + std::process::id() % 400, if caller == Caller::Myself { 11 } else { 22 });
        let script = format!("setsid sleep {long} >/dev/null 2>&1 & sleep 0.2; echo started");
        let output = home.run(caller, &["--", "sh", "-c", &script]);
        assert!(out(&output).contains("started"), "{}", both(&output));
        let left = std::fs::read_dir("/proc").expect("proc").flatten().any(|entry| {
            std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| line.windows(long.len()).any(|part| part == long.as_bytes()))
        });
        assert!(!left, "{caller:?}: the daemonised sleep is still there");
    }
}

#[test]
fn nothing_comes_before_the_hosts_own_work_whoever_launches_it() {
    let before_all = |program: &[&str]| {
        let mut command = Command::new("chrt");
        command.args(["--rr", "1", "nice", "-n", "-5"]).args(program).stdin(Stdio::null());
        command.output().expect("chrt")
    };
    if !before_all(&["true"]).status.success() {
        println!("SKIP: nothing here may run in real time");
        return;
    }
    let home = Home::new();
    let (program, state) = (home.path().join("arw-cli"), home.path().join("state"));
    let [program, state] = [&program, &state].map(|path| path.to_str().expect("text"));
    // Niceness and policy (proc_pid_stat(5)); 1 and 2 are those of real time.
    let seen = "cut -d' ' -f19,41 /proc/self/stat";
    let output = before_all(&[program, "--state-dir", state, "run", "--persona", "demo", "--", "sh", "-c", seen]);
    let text = out(&output);
    let numbers: Vec<i32> = text.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    assert!(matches!(numbers[..], [nice, policy] if nice >= 0 && ![1, 2].contains(&policy)), "{}", both(&output));
}

#[test]
fn a_higher_preset_needs_a_justification_and_an_unknown_persona_is_refused() {
    let home = Home::new();
    let output = home.run(Caller::Myself, &["--preset", "turbo", "--", "true"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("justification"), "{}", both(&output));
    let output = home.run(Caller::Myself, &["--persona", "nobody-knows", "--", "true"]);
    assert_ne!(output.status.code(), Some(0), "{}", both(&output));
}

#[test]
fn the_report_tells_what_holds_and_never_claims_a_preset_that_does_not() {
    for caller in callers() {
        let home = Home::new();
        let output = home.run(caller, &["--report", "--", "true"]);
        let report = String::from_utf8_lossy(&output.stderr).into_owned();
        for control in ["network_namespace", "seccomp", "capabilities", "no_new_privs", "environment", "descriptors"] {
            let line = report.lines().find(|line| line.starts_with(control)).unwrap_or_default();
            assert!(line.contains("enforced"), "{caller:?} {control}: {report}");
        }
        let claimed = report.lines().any(|line| line.starts_with("preset") && !line.contains("not eco"));
        let quota = report.lines().find(|line| line.starts_with("cpu_quota")).unwrap_or_default();
        assert!(!claimed || quota.contains("enforced"), "{report}");
    }
}

#[test]
fn without_control_groups_the_limits_of_one_process_stand_in() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP without_control_groups: the ordinary user is tried from root only");
        return;
    }
    let home = Home::new();
    let output = home.run(Caller::Ordinary, &["--", "sh", "-c", "ulimit -d; ulimit -u 2>/dev/null || true"]);
    let first = out(&output).lines().next().unwrap_or_default().to_owned();
    assert!(first.parse::<u64>().is_ok(), "the data limit is a number: {}", both(&output));
}

#[test]
fn a_workspace_is_there_and_the_rest_of_the_host_is_not() {
    for caller in callers() {
        let home = Home::new();
        let folder = home.path().join("work");
        std::fs::create_dir(&folder).expect("made");
        std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("opened");
        std::fs::write(home.path().join("secret"), "the secret").expect("written");
        let folder = folder.canonicalize().expect("real");
        let script = format!(
            "echo made > {0}/file; cat {0}/../secret; ls /root /home /var/lib 2>&1 | head -3",
            folder.display()
        );
        let output = home.run(caller, &["--workspace", &folder.display().to_string(), "--", "sh", "-c", &script]);
        assert_eq!(std::fs::read_to_string(folder.join("file")).ok().as_deref(), Some("made\n"), "{}", both(&output));
        assert!(!out(&output).contains('x') || out(&output).contains("No such file"), "{}", both(&output));
    }
}

/// As the shipped unit runs the daemon: it may look into no process.
#[test]
fn a_workspace_is_the_commands_own_for_root_that_may_look_into_no_process() {
    let whole = ["env"];
    let narrowed = ["setpriv", "--bounding-set=-sys_ptrace"];
    let by = |caller: &[&str], program: &[&str]| {
        let mut command = Command::new(caller[0]);
        command.args(&caller[1..]).args(program).stdin(Stdio::null()).output().expect("executed")
    };
    if !nix::unistd::geteuid().is_root() || !by(&narrowed, &["true"]).status.success() {
        println!("SKIP: only root has something to give up");
        return;
    }
    let home = Home::new();
    let (program, state) = (home.path().join("arw-cli"), home.path().join("state"));
    let folder = home.path().join("work");
    std::fs::create_dir(&folder).expect("made");
    std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("opened");
    let [program, state, work] = [&program, &state, &folder].map(|path| path.to_str().expect("text"));
    let script = "echo made > file && test $(stat -c %u .) = $(id -u) && echo own || echo not";
    let run = ["--state-dir", state, "run", "--persona", "demo", "--workspace", work, "--", "sh", "-c", script];
    let run = [&[program], run.as_slice()].concat();
    let output = by(&whole, &run);
    if out(&output) == "not\n" {
        println!("SKIP: the file system of `{work}` shows nobody else's folder as the command's own");
        return;
    }
    assert_eq!(out(&output), "own\n", "{}", both(&output));
    std::fs::remove_file(folder.join("file")).expect("made");
    let output = by(&narrowed, &run);
    assert_eq!(out(&output), "own\n", "{}", both(&output));
    let outside = std::fs::metadata(folder.join("file")).expect("made");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&outside), 0, "outside it is the folder's owner's");
}
