//! The daemon's own confinement: of every thread, also while it launches, restarts and reloads.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::stage::{Host, bash};
use crate::support::{Daemon, Setup, wait_for};

/// What `/proc` shows of every thread of a process: the fields that begin so.
fn threads(pid: u32, field: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let status = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    let shown = |status: String| status.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim().to_owned();
    status.map(shown).collect()
}

/// The children of a process, all of its threads'.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
}

/// The keeper of the launcher, which the daemon executed, and the launcher itself.
fn launcher(daemon: &Daemon) -> (u32, u32) {
    let [keeper] = children(daemon.pid())[..] else { panic!("{:?}", children(daemon.pid())) };
    let launcher = wait_for("a launcher", || children(keeper).first().copied());
    (keeper, launcher)
}

fn end(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
}

#[test]
fn every_thread_of_it_is_inside_and_its_launcher_is_not() {
    if !crate::can_launch() {
        return;
    }
    let host = Host::start(&bash("one", "echo up; sleep 1000", "auto_start = true"));
    host.wait_state("one", "ready");
    let pid = host.daemon.pid();
    assert!(threads(pid, "Seccomp:").len() > 4, "workers, the ledger's writer, the executor");
    assert!(threads(pid, "Seccomp:").iter().all(|mode| mode == "2"), "{:?}", threads(pid, "Seccomp:"));
    assert!(threads(pid, "NoNewPrivs:").iter().all(|set| set == "1"));
    let root = nix::unistd::geteuid().is_root();
    // dac_read_search, kill, net_bind_service, sys_resource, as far as this host gives them.
    let most: u64 = if root { 0x0100_0424 } else { 0 };
    for field in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
        for set in threads(pid, field) {
            assert_eq!(u64::from_str_radix(&set, 16).unwrap() & !most, 0, "{field} {set}");
        }
    }
    if root {
        for set in threads(pid, "CapBnd:") {
            assert_eq!(u64::from_str_radix(&set, 16).unwrap() & !most, 0, "CapBnd {set}");
        }
    }
    let (keeper, launcher) = launcher(&host.daemon);
    let own = threads(std::process::id(), "Seccomp:").remove(0);
    assert_eq!((threads(keeper, "Seccomp:"), threads(launcher, "Seccomp:")), (vec![own.clone()], vec![own]));

    let (status, found) = host.ask("GET", "/state/confinement");
    assert_eq!((status, &found["mode"]), (200, &"auto".into()), "{found}");
    let state = |control: &str| {
        let controls = found["controls"].as_array().unwrap();
        let found = controls.iter().find(|finding| finding["control"] == control);
        found.unwrap_or_else(|| panic!("{control}: {controls:?}"))["state"].clone()
    };
    assert_eq!(state("seccomp"), "enforced");
    assert_eq!(state("no_new_privs"), "enforced");
    assert_eq!(state("capabilities"), if root { "enforced" } else { "partial" });
    match state("landlock_files").as_str().unwrap() {
        "unavailable" => println!("SKIP: this kernel has no Landlock of the second ABI: {found}"),
        // Files of the runtime's folder are not for the daemon's eyes alone, those of others are.
        _ => assert!(host.daemon.log().contains("the daemon is confined")),
    }
    if !root {
        assert_eq!(found["capabilities"], serde_json::json!([]));
    }
}

#[test]
fn a_killed_launcher_is_replaced_although_the_daemon_can_execute_nothing() {
    if !crate::can_launch() {
        return;
    }
    let stays = bash("stays", "echo up; sleep 1000", "auto_start = true");
    let host = Host::start(&format!("{stays}{}", bash("later", "echo up; sleep 1000", "")));
    let before = host.wait_state("stays", "ready");
    for _ in 0..2 {
        let (keeper, first) = launcher(&host.daemon);
        end(first);
        wait_for("another launcher", || children(keeper).into_iter().find(|pid| *pid != first));
        // A restart budget bounds how often a launch that came between may fail; here none does.
        host.must("later", "start");
        host.wait_state("later", "ready");
        host.must("later", "stop");
        host.wait_state("later", "stopped");
    }
    assert_eq!(host.view("stays")["pid"], before["pid"], "what was launched goes on without a launcher");

    // With its keeper gone too there is none, and it is said; another daemon has one, and adopts what runs.
    let (keeper, last) = launcher(&host.daemon);
    end(keeper);
    end(last);
    wait_for("their end", || (!Path::new(&format!("/proc/{last}/exe")).exists()).then_some(()));
    host.act("later", "start");
    host.daemon.wait_for_log("the launcher is dead");
    let mut host = host;
    host.daemon.restart();
    assert_eq!(host.wait_state("stays", "ready")["pid"], before["pid"]);
    host.must("later", "start");
    host.wait_state("later", "ready");
}

#[test]
fn the_launcher_goes_with_the_daemon_however_it_ends() {
    if !crate::can_launch() {
        return;
    }
    let mut host = Host::start(&bash("one", "echo up; sleep 1000", "auto_start = true"));
    let before = host.wait_state("one", "ready");
    let gone = |pid: u32| fs::read(format!("/proc/{pid}/cmdline")).map_or(true, |line| line.is_empty());
    for round in 0..2 {
        let (keeper, launcher) = launcher(&host.daemon);
        match round {
            0 => host.daemon.kill9(),
            _ => {
                host.daemon.sigterm();
                host.daemon.wait_for_exit();
            }
        }
        wait_for("the end of both", || (gone(keeper) && gone(launcher)).then_some(()));
        host.daemon.restart();
        assert_eq!(host.wait_state("one", "ready")["pid"], before["pid"]);
    }
}

/// What the manifest names at the start can be read, beside the settings or not; a place that a reload names cannot,
/// until the daemon is started again.
#[test]
fn a_secret_in_a_folder_that_nothing_named_at_the_start_waits_for_a_restart() {
    if !crate::can_launch() {
        return;
    }
    let (known, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for folder in [&known, &other] {
        fs::write(folder.path().join("key"), "hunter2").unwrap();
    }
    let runtime = |id: &str, folder: &Path| {
        let more = format!("[runtimes.process.secrets]\nKEY = \"{}\"", folder.join("key").display());
        bash(id, "echo \"key: $KEY\"; sleep 1000", &format!("auto_start = true\n{more}"))
    };
    let first = runtime("first", known.path());
    let mut host = Host::start(&first);
    host.wait_log("first", "key: hunter2");
    // A secret is rotated as a file is: by another one of its name.
    fs::write(known.path().join("fresh"), "hunter3").unwrap();
    fs::rename(known.path().join("fresh"), known.path().join("key")).unwrap();
    host.must("first", "restart");
    host.wait_log("first", "key: hunter3");
    let (_, found) = host.ask("GET", "/state/confinement");
    if found["controls"][0]["state"] == "unavailable" {
        println!("SKIP: this kernel has no Landlock of the second ABI");
        return;
    }
    host.declare(&format!("{first}{}", runtime("second", other.path())));
    let view = host.wait("second", "refused", |view| view["state"] == "error");
    let said = view.to_string();
    assert!(said.contains("named when it started") && !said.contains("hunter"), "{said}");
    host.daemon.restart();
    host.must("second", "start");
    host.wait_log("second", "key: hunter2");
}

#[test]
fn off_is_off_and_require_refuses_a_start_without_a_wall() {
    let off = Daemon::start(Setup::new().set("confine", "off"));
    let own = threads(std::process::id(), "Seccomp:").remove(0);
    assert!(threads(off.pid(), "Seccomp:").iter().all(|mode| *mode == own));
    off.wait_for_log("the daemon does not confine itself");
    // A service manager that listens on an abstract name needs one of the walls to have a door.
    let said = Setup::new().set("confine", "require").env("NOTIFY_SOCKET", "@arw-test-nobody").refused();
    assert!(said.contains("landlock_scopes is unavailable"), "{said}");
    let auto = Daemon::start(Setup::new().env("NOTIFY_SOCKET", "@arw-test-nobody"));
    auto.wait_for_log("the daemon is not confined by this");
    assert!(threads(auto.pid(), "Seccomp:").iter().all(|mode| mode == "2"));
}

/// The launcher reads the manifest itself: what an operator declares while it runs is bound, without a restart of anything.
#[test]
fn folders_that_a_reload_declares_are_bound_by_a_launcher_that_binds_no_other() {
    if !crate::can_launch() {
        return;
    }
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let works_in = |id: &str, folder: &Path| {
        let runtime = bash(id, "test -d /data && echo it is there; sleep 1000", "auto_start = true");
        let workspaces = format!("workspaces = [\"{}:/data:rw\"]\nstop_grace", folder.display());
        runtime.replace("stop_grace", &workspaces)
    };
    let first = works_in("first", folders[0].path());
    let host = Host::start(&first);
    host.wait_state("first", "ready");
    host.wait_log("first", "it is there");
    host.declare(&format!("{first}{}", works_in("later", folders[1].path())));
    host.wait_log("later", "it is there");
    host.wait_state("later", "ready");
    assert!(!host.daemon.log().contains("keep to the charter"));
}

/// At the top of a hierarchy only a privileged process makes a folder, and the daemon is none any more when it launches.
#[test]
fn limits_hold_as_they_do_without_the_walls() {
    if !crate::can_launch() {
        return;
    }
    let applied = |confine: &str| {
        let host =
            Host::start_with(&bash("one", "sleep 1000", "auto_start = true"), |setup| setup.set("confine", confine));
        host.wait_state("one", "ready");
        let (_, view) = host.ask("GET", "/orchestrator/runtimes/one/report");
        assert!(view["applied"].as_array().is_some_and(|all| all.len() > 5), "{view:#}");
        view["applied"].clone()
    };
    let (inside, outside) = (applied("auto"), applied("off"));
    assert_eq!(inside, outside);
    println!("{inside:#}");
}
