use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::config::Durability;

/// An ordinary user with an empty home, and no `/etc/arw`.
struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("temporary folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("below the folder")).expect("folder");
        std::fs::write(&path, text).expect("file");
        path
    }

    fn env(&self, variables: &[(&str, &str)]) -> Environment {
        let home = self.dir.path().to_str().expect("UTF-8");
        let home = [("HOME", home)];
        Environment::of(home.iter().chain(variables).copied()).with_system_config_dir(self.path("etc"))
    }

    fn load(&self, variables: &[(&str, &str)]) -> Result<Loaded, Faults> {
        load(&Overrides::default(), &self.env(variables))
    }

    /// Loads `text` as the file.
    fn with_file(&self, text: &str, variables: &[(&str, &str)]) -> Result<Loaded, Faults> {
        let file = self.write("s.toml", text);
        let args = Overrides { config_file: Some(file), ..Overrides::default() };
        load(&args, &self.env(variables))
    }

    fn faults(&self, text: &str, variables: &[(&str, &str)]) -> String {
        let faults = self.with_file(text, variables).expect_err("faulty").to_string();
        faults.replace(&format!("{}/", self.dir.path().display()), "")
    }
}

#[test]
fn nothing_given_means_the_defaults_below_the_home() {
    let host = Host::new();
    let loaded = host.load(&[]).expect("defaults");
    let state = host.path(".local/state/arw");
    assert_eq!(loaded.config, ServerConfig::defaults(state.clone(), state.join("config")));
    assert_eq!(loaded.warnings, Vec::<String>::new());
    assert_eq!(loaded.config_file, None);
}

#[test]
fn environment_beats_file_beats_default_and_the_command_line_beats_all() {
    let host = Host::new();
    let text = "[proxy]\ndns_guard = false\nblock_ip_literals = false\nbind = \"127.0.0.1:7000\"\n[control]\nbind = \"[::1]:7001\"\n[log]\nfilter = \"warn\"\n";
    let config = host.with_file(text, &[("ARW_DNS_GUARD_ENABLE", "YES"), ("ARW_PORT", "0")]).expect("good").config;
    assert!(config.proxy.dns_guard, "variable over file");
    assert!(!config.proxy.block_ip_literals, "file over default");
    assert_eq!(config.control.bind.to_string(), "[::1]:0", "the port from the variable, the address from the file");
    assert_eq!(config.proxy.bind[0].port(), 7_000);
    assert_eq!(config.ledger.durability, Durability::Batch, "default");

    let args = Overrides {
        config_file: Some(host.path("s.toml")),
        state_dir: Some("here".into()),
        log_filter: Some("debug".to_owned()),
        ..Overrides::default()
    };
    let config = load(&args, &host.env(&[("ARW_STATE_DIR", "/elsewhere")])).expect("good").config;
    assert_eq!(config.state_dir, Path::new("/here"), "seen from the current folder");
    assert_eq!(config.ledger.dir, Path::new("/here/ledger"));
    assert_eq!(config.log.filter, "debug");
}

#[test]
fn every_variable_of_this_part_has_its_effect() {
    let host = Host::new();
    let hash = "b".repeat(64);
    let config = host
        .load(&[
            ("ARW_BIND", "127.0.0.2"),
            ("ARW_PORT", "81"),
            ("ARW_CONFIG_DIR", "/c"),
            ("ARW_STATE_DIR", "/s"),
            ("ARW_LOGS_DIR", "logs"),
            ("ARW_ADMIN_TOKEN_SHA256", &hash),
            ("ARW_EGRESS_PROXY_ENABLE", "off"),
            ("ARW_EGRESS_PROXY_PORT", "82"),
            ("ARW_EGRESS_LEDGER_ENABLE", "no"),
            ("ARW_EGRESS_BLOCK_IP_LITERALS", "False"),
            ("ARW_DNS_GUARD_ENABLE", "0"),
            ("ARW_NET_POSTURE", "strict"),
            ("ARW_NET_ALLOWLIST", " a.example, *.b.example ,"),
            ("ARW_PERSONA_ID", "demo"),
        ])
        .expect("good")
        .config;
    let mut expected = ServerConfig::defaults("/s".into(), "/c".into());
    expected.control.bind = ([127, 0, 0, 2], 81).into();
    expected.control.admin_token_sha256 = Some(hash);
    expected.log.dir = Some("/logs".into());
    expected.proxy.enable = false;
    expected.proxy.bind = vec![([127, 0, 0, 1], 82).into()];
    expected.proxy.block_ip_literals = false;
    expected.proxy.dns_guard = false;
    expected.ledger.enable = false;
    expected.default_persona = Some(DefaultPersona {
        id: PersonaId::parse("demo").expect("id"),
        posture: Some("strict".to_owned()),
        allow: vec!["a.example".to_owned(), "*.b.example".to_owned()],
    });
    assert_eq!(config, expected);
}

#[test]
fn an_empty_variable_is_one_that_is_not_set() {
    let host = Host::new();
    let names = VARIABLES.iter().map(|variable| (variable.name, ""));
    let loaded = host.load(&names.collect::<Vec<_>>()).expect("as if nothing were set");
    assert_eq!(loaded, host.load(&[]).expect("defaults"));
}

#[test]
fn every_wrong_variable_is_reported_together_with_the_wrong_file() {
    let host = Host::new();
    let variables = [
        ("ARW_DNS_GUARD_ENABLE", "maybe"),
        ("ARW_BIND", "example.com"),
        ("ARW_ADMIN_TOKEN_SHA256", "hunter2"),
        ("ARW_PERSONA_ID", "No"),
        ("ARW_NET_POSTURE", "off"),
    ];
    assert_eq!(
        host.faults("[proxy]\nenable = 7\n", &variables),
        "\
s.toml:2: proxy.enable: `7` is not a boolean (hint: write `true` or `false`, without quotes)
environment: ARW_ADMIN_TOKEN_SHA256: this is not 64 hexadecimal digits (hint: write the SHA-256 of the token: printf %s \"$TOKEN\" | sha256sum)
environment: ARW_DNS_GUARD_ENABLE: `maybe` is not a boolean (hint: write 1, 0, true, false, yes, no, on or off)
environment: ARW_BIND: `example.com` is not an address (hint: write 127.0.0.1 or ::1; the port is ARW_PORT)
environment: ARW_PERSONA_ID: an id is made of `a-z`, `0-9`, `.`, `_` and `-`; found `N`"
    );
}

#[test]
fn a_port_is_plain_decimal_within_16_bits() {
    let host = Host::new();
    for (text, good) in
        [("0", true), ("65535", true), ("65536", false), ("-1", false), ("+80", false), (" 80", false), ("0x50", false)]
    {
        for name in ["ARW_PORT", "ARW_EGRESS_PROXY_PORT"] {
            assert_eq!(host.load(&[(name, text)]).is_ok(), good, "{name}={text}");
        }
    }
}

#[test]
fn a_named_file_must_exist_and_an_unnamed_one_may_be_absent() {
    let host = Host::new();
    let missing = host.path("missing.toml");
    let faults = host.load(&[("ARW_CONFIG", missing.to_str().expect("UTF-8"))]).expect_err("missing");
    assert!(faults.to_string().contains("cannot be read"), "{faults}");

    let file = host.write("etc/arw-server.toml", "[proxy]\nworkers = 2\n");
    let loaded = host.load(&[]).expect("found");
    assert_eq!(loaded.config_file, Some(file));
    assert_eq!(loaded.config.config_dir, host.path("etc"));
    assert_eq!(loaded.config.proxy.workers, 2);
}

#[test]
fn an_unnamed_file_that_cannot_be_read_is_a_fault_and_not_passed_over() {
    let host = Host::new();
    std::fs::create_dir_all(host.path("etc")).expect("folder");
    std::os::unix::fs::symlink(host.path("gone"), host.path("etc/arw-server.toml")).expect("link");
    assert!(host.load(&[]).is_err(), "a dangling link is somebody's lost configuration");

    let file = host.write("etc2/arw-server.toml", "");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).expect("chmod");
    let faults = host.load(&[("ARW_CONFIG_DIR", host.path("etc2").to_str().expect("UTF-8"))]).expect_err("writable");
    assert!(faults.to_string().contains("everybody may write"), "{faults}");
}

#[test]
fn the_state_folder_is_found_in_the_documented_order() {
    let host = Host::new();
    let state = |variables: &[(&str, &str)], euid: u32| {
        let loaded = load(&Overrides::default(), &host.env(variables).for_user(euid)).expect("good");
        loaded.config.state_dir
    };
    assert_eq!(state(&[], 0), Path::new("/var/lib/arw"));
    assert_eq!(state(&[("STATE_DIRECTORY", "/var/lib/one:/var/lib/two")], 0), Path::new("/var/lib/one"));
    assert_eq!(state(&[("XDG_STATE_HOME", "/xdg")], 1000), Path::new("/xdg/arw"));
    assert_eq!(state(&[("XDG_STATE_HOME", "relative")], 1000), host.path(".local/state/arw"));
    assert_eq!(state(&[("STATE_DIRECTORY", "/sd"), ("ARW_STATE_DIR", "/given")], 0), Path::new("/given"));
    assert_eq!(state(&[("ARW_STATE_DIR", "given")], 1000), Path::new("/given"));

    let nowhere = Environment::of([("LANG", "C")]).with_system_config_dir(host.path("etc"));
    let faults = load(&Overrides::default(), &nowhere).expect_err("no folder");
    assert!(faults.to_string().contains("ARW_STATE_DIR"), "{faults}");
    let file = host.write("s.toml", "state_dir = \"/from/file\"\n");
    let args = Overrides { config_file: Some(file), ..Overrides::default() };
    let config = load(&args, &nowhere).expect("the file says where").config;
    assert_eq!(config.state_dir, Path::new("/from/file"));
    assert_eq!(config.config_dir, Path::new("/from/file/config"));
}

#[test]
fn a_relative_folder_in_the_file_is_refused() {
    let host = Host::new();
    let faults = host.faults("state_dir = \"here\"\n", &[]);
    assert_eq!(faults, "s.toml:1: state_dir: `here` is relative (hint: write an absolute path)");
}

#[test]
fn the_admin_token_is_hashed_and_never_told() {
    let host = Host::new();
    let token = "hunter2-hunter2-hunter2";
    let hash = TokenHash::of(token.as_bytes()).to_hex();
    let loaded = host.load(&[("ARW_ADMIN_TOKEN", token)]).expect("good");
    assert_eq!(loaded.config.control.admin_token_sha256.as_deref(), Some(hash.as_str()));
    assert!(!format!("{loaded:?}").contains("hunter2"));
    assert!(loaded.warnings.is_empty());

    let upper = hash.to_uppercase();
    host.load(&[("ARW_ADMIN_TOKEN", token), ("ARW_ADMIN_TOKEN_SHA256", &upper)]).expect("they agree");
    let in_file = format!("[control]\nadmin_token_sha256 = \"{}\"\n", "0".repeat(64));
    let loaded = host.with_file(&in_file, &[("ARW_ADMIN_TOKEN", token)]).expect("variable over file");
    assert_eq!(loaded.config.control.admin_token_sha256, Some(hash));

    let disagree = [("ARW_ADMIN_TOKEN", token), ("ARW_ADMIN_TOKEN_SHA256", &"0".repeat(64))];
    let faults = host.load(&disagree).expect_err("they disagree").to_string();
    assert!(faults.contains("ARW_ADMIN_TOKEN: it disagrees") && !faults.contains("hunter2"), "{faults}");
    for bad in ["hunter2 hunter2 hunter2", "hunter2hunter2hunter2hunter2\n", "hünter2hunter2hunter2hunter2"] {
        let faults = host.load(&[("ARW_ADMIN_TOKEN", bad)]).expect_err("no header carries it").to_string();
        assert!(!faults.contains("nter2"), "{faults}");
    }
    let warnings = host.load(&[("ARW_ADMIN_TOKEN", "hunter2")]).expect("short").warnings;
    assert!(warnings.len() == 1 && !warnings[0].contains("hunter2"), "{warnings:?}");
}

#[test]
fn the_control_api_does_not_leave_loopback_with_or_without_a_token() {
    let host = Host::new();
    let token = ("ARW_ADMIN_TOKEN", "hunter2-hunter2-hunter2");
    for address in ["0.0.0.0", "::", "192.0.2.1", "::ffff:127.0.0.1", "fe80::1"] {
        for variables in [vec![("ARW_BIND", address)], vec![("ARW_BIND", address), token]] {
            let faults = host.load(&variables).expect_err(address).to_string();
            assert!(faults.starts_with("environment: ARW_BIND: ") && faults.contains("not loopback"), "{faults}");
        }
    }
    for address in ["127.0.0.1", "127.8.8.8", "::1", "localhost"] {
        host.load(&[("ARW_BIND", address)]).expect(address);
    }
    let faults = host.faults("[control]\nbind = \"0.0.0.0:8091\"\n", &[]);
    assert!(faults.starts_with("s.toml:2: control.bind: `0.0.0.0:8091` is not loopback"), "{faults}");
}

#[test]
fn the_ledger_goes_off_only_with_the_proxy_or_by_the_word_of_the_file() {
    let host = Host::new();
    let off = ("ARW_EGRESS_LEDGER_ENABLE", "0");
    let faults = host.load(&[off]).expect_err("silent").to_string();
    assert!(faults.starts_with("environment: ARW_EGRESS_LEDGER_ENABLE: the ledger cannot be off"), "{faults}");
    assert!(host.faults("[ledger]\nenable = false\n", &[]).starts_with("s.toml:2: ledger.enable: "));
    host.load(&[off, ("ARW_EGRESS_PROXY_ENABLE", "0")]).expect("nothing leaves");
    let loaded = host.with_file("[ledger]\nrequired = false\n", &[off]).expect("said twice");
    assert!(!loaded.config.ledger.enable);
    assert!(loaded.warnings.iter().any(|warning| warning.contains("unrecorded")), "{:?}", loaded.warnings);
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let host = Host::new();
    let long = "x".repeat(120);
    for (text, expected) in [
        ("[proxy.tls]\nbind = \"127.0.0.1:9443\"\n", "proxy.tls.certificate: it is missing"),
        ("[proxy.tls]\nkey = \"k\"\ncertificate = \"c\"\n", "proxy.tls.bind: it is missing"),
        ("[proxy.tls]\nclient_ca = \"ca\"\n", "proxy.tls.key: it is missing"),
        ("[proxy]\nbind = \"127.0.0.1:8091\"\n", "control.bind: `127.0.0.1:8091` is taken by `proxy.bind`"),
        ("[proxy]\nbind = [\"127.0.0.1:1\", \"127.0.0.1:1\"]\n", "proxy.bind: `127.0.0.1:1` is taken by `proxy.bind`"),
        ("[proxy]\nbind = \"0.0.0.0:8091\"\n", "control.bind: `127.0.0.1:8091` is taken"),
        ("[proxy]\nbind = []\nunix_socket = \"\"\n", "proxy.bind: the proxy is on and listens nowhere"),
        ("[proxy]\nunix_socket = \"control.sock\"\n", "proxy.unix_socket: it is the same path"),
        (&format!("[proxy]\nunix_socket = \"/{long}\"\n"), "proxy.unix_socket: the path of the socket has 121 bytes"),
    ] {
        let faults = host.faults(text, &[]);
        assert!(faults.contains(expected), "{text}: {faults}");
    }
    let text = "[proxy]\nbind = [\"127.0.0.1:0\", \"127.0.0.1:0\"]\n";
    host.with_file(text, &[("ARW_PORT", "0")]).expect("the kernel chooses different ports");
}

#[test]
fn one_slip_is_one_fault() {
    let host = Host::new();
    for text in [
        "[proxy]\nbind = \"nowhere\"\nunix_socket = \"\"\n",
        "[proxy.tls]\nbind = \"nowhere\"\ncertificate = \"c\"\nkey = \"k\"\n",
        "[ledger]\nenable = false\nrequired = \"no\"\n",
    ] {
        assert_eq!(host.faults(text, &[]).lines().count(), 1, "{text}");
    }
}

#[test]
fn a_proxy_on_the_network_without_tls_is_warned_of() {
    let host = Host::new();
    let warnings = host.with_file("[proxy]\nbind = \"0.0.0.0:9080\"\n", &[]).expect("allowed").warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("in the clear"), "{warnings:?}");
}

#[test]
fn a_proxy_port_moves_every_listener_and_says_when_two_become_one() {
    let host = Host::new();
    let text = "[proxy]\nbind = [\"127.0.0.1:1\", \"127.0.0.1:2\", \"[::1]:3\"]\n";
    let loaded = host.with_file(text, &[("ARW_EGRESS_PROXY_PORT", "9")]).expect("good");
    let bind: Vec<String> = loaded.config.proxy.bind.iter().map(ToString::to_string).collect();
    assert_eq!(bind, ["127.0.0.1:9", "[::1]:9"]);
    assert_eq!(loaded.warnings.len(), 1);
}

#[test]
fn an_allowlist_without_a_host_is_refused_and_never_means_everything() {
    let host = Host::new();
    for list in [",", " , ", " "] {
        let faults = host.load(&[("ARW_NET_ALLOWLIST", list)]).expect_err("no host").to_string();
        assert!(faults.contains("it names no host"), "{faults}");
    }
    assert!(host.load(&[("ARW_NET_POSTURE", " ")]).is_err());
    let persona = host.load(&[("ARW_NET_POSTURE", "off")]).expect("good").config.default_persona.expect("there");
    assert_eq!((persona.id.as_str(), persona.posture.as_deref(), persona.allow.len()), ("default", Some("off"), 0));
    let loaded = host.load(&[("ARW_PERSONA_ID", "demo")]).expect("harmless");
    assert!(loaded.config.default_persona.is_none() && loaded.warnings.len() == 1);
}

#[test]
fn a_gpu_library_is_named_whole_or_not_at_all() {
    let host = Host::new();
    for relative in ["libnvidia-ml.so.1", "./x.so", "../x.so"] {
        let faults = host.faults(&format!("[runtimes]\ngpu_library = \"{relative}\""), &[]);
        let expected = format!("s.toml:2: runtimes.gpu_library: `{relative}` is not an absolute path (hint: ");
        assert!(faults.starts_with(&expected), "{faults}");
    }
    let none = host.with_file("[runtimes]\ngpu_library = \"\"", &[]).expect("none");
    assert_eq!(none.config.runtimes.gpu_library, None);
    let some = host.with_file("[runtimes]\ngpu_library = \"/opt/nvml.so\"", &[]).expect("some");
    assert_eq!(some.config.runtimes.gpu_library.as_deref(), Some(Path::new("/opt/nvml.so")));
}
