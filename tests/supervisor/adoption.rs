//! A daemon that dies leaves its runtimes running, and the next one takes them over.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use crate::network::free_port;
use crate::stage::{Host, bash, perl, server};
use crate::support::daemon::ADMIN_TOKEN;
use crate::support::wait_for;

#[test]
fn a_killed_daemon_costs_no_runtime_its_life() {
    if !crate::can_launch() {
        return;
    }
    let port = free_port();
    let more = format!(
        "auto_start = true\npublish = [\"127.0.0.1:{port}:8000\"]\n[runtimes.health]\ntcp = \"127.0.0.1:8000\"\ninterval = \"100ms\""
    );
    let ticking = "(while :; do echo tick; sleep 0.1; done) & while :; do exec 3<>/dev/tcp/allowed.test/{PORT} && { printf 'GET /hello HTTP/1.0\\r\\nHost: allowed.test\\r\\nConnection: close\\r\\n\\r\\n' >&3; head -n 1 <&3; exec 3>&-; }; sleep 0.1; done";
    let manifest =
        format!("{}{}", perl("web", &server(8000, "same"), &more), bash("ticker", ticking, "auto_start = true"));
    let mut host = Host::start(&manifest);
    let web = host.wait_state("web", "ready");
    let ticker = host.wait_state("ticker", "ready");
    host.wait_log("ticker", "200 OK");
    host.daemon.kill9();
    // Nobody looks, and it goes on.
    let before = host.log("ticker").matches("tick").count();
    crate::support::wait_for("ticks without a daemon", || {
        (host.log("ticker").matches("tick").count() > before + 3).then_some(())
    });
    let answered = host.log("ticker").matches("200 OK").count();
    host.daemon.restart();
    for (id, old) in [("web", &web), ("ticker", &ticker)] {
        let view = host.wait_state(id, "ready");
        assert_eq!((&view["pid"], &view["run"]), (&old["pid"], &old["run"]), "{view:#}");
        assert!(!view["claim"].is_null());
    }
    crate::support::wait_for("egress after the adoption", || {
        (host.log("ticker").matches("200 OK").count() > answered).then_some(())
    });
    // The adopted one is looked after like any other.
    host.must("ticker", "stop");
    assert_eq!(host.wait_state("ticker", "stopped")["last_death"]["cause"], "operator");
}

/// Between the request and the running command nothing is lost: the next daemon has the runtime, under its name and with its
/// record, or there is nothing of it.
#[test]
fn killed_at_any_moment_of_a_launch_the_next_daemon_has_all_of_it_or_nothing() {
    if !crate::can_launch() {
        return;
    }
    const MARK: &str = "moment-mark";
    let more = "[runtimes.restart]\npolicy = \"no\"";
    let mut host = Host::start(&bash("job", &format!("sleep 100000; : {MARK}"), more));
    let (mut adopted, mut nothing) = (0, 0);
    for step in 0..24 {
        // What stands ready has come by then, but for every third launch.
        let settled = Duration::from_millis(if step % 3 == 2 { 0 } else { 100 });
        std::thread::sleep(settled);
        let mut asked = TcpStream::connect(host.daemon.control).unwrap();
        write!(
            asked,
            "POST /orchestrator/runtimes/job/start HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nContent-Length: 0\r\n\r\n",
            host.daemon.control
        )
        .unwrap();
        // A launch takes a few milliseconds, a few dozen in a debug build on a busy machine.
        std::thread::sleep(Duration::from_micros(300) * step * step);
        host.daemon.kill9();
        host.daemon.restart();
        // Until it was taken up it is shown as stopped.
        let view = host.wait("job", "taken up or gone", |view| {
            view["state"] == "ready" || (view["state"] == "stopped" && !crate::stage::lives(MARK))
        });
        if view["state"] == "ready" {
            adopted += 1;
            let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", view["pid"])).unwrap();
            let named = groups.lines().filter(|line| !line.starts_with("0::") && line.contains("/rt-"));
            for line in named {
                assert!(line.ends_with("-job"), "it has its name in every hierarchy that can give it: {groups}");
            }
            assert!(crate::stage::lives(MARK));
            host.must("job", "stop");
            host.wait_state("job", "stopped");
        } else {
            nothing += 1;
        }
        wait_for("nothing to be left of it", || (!crate::stage::lives(MARK)).then_some(()));
    }
    println!("{adopted} launches were adopted, of {nothing} nothing was left");
    assert!(
        adopted > 0 && nothing > 0,
        "the first is killed as soon as it was asked for, the last long after its launch"
    );
}

#[test]
fn an_end_that_nobody_saw_is_written_down_and_followed() {
    if !crate::can_launch() {
        return;
    }
    let script = "if [ \"$ARW_RUNTIME_RUN\" = 1 ]; then echo last words; sleep 1; exit 9; fi; sleep 1000";
    let more = "auto_start = true\n[runtimes.restart]\nbackoff = \"100ms\"";
    let mut host = Host::start(&bash("mortal", script, more));
    let view = host.wait_state("mortal", "ready");
    host.daemon.kill9();
    let proc = format!("/proc/{}", view["pid"]);
    crate::support::wait_for("its end", || (!std::path::Path::new(&proc).exists()).then_some(()));
    host.daemon.restart();
    let view = host.wait("mortal", "launched anew", |view| view["run"] == 2 && view["state"] == "ready");
    let death = &view["last_death"];
    assert_eq!((&death["cause"], &death["code"]), (&"exit".into(), &9.into()), "{death}");
    assert_eq!(death["last_lines"][0], "last words");
    assert_eq!(view["restarts"]["used"], 1);
}

#[test]
fn one_that_is_no_longer_declared_ends_when_the_daemon_comes_back() {
    if !crate::can_launch() {
        return;
    }
    let mut host = Host::start(&bash("gone", "sleep 1000; : no-longer-declared-mark", "auto_start = true"));
    host.wait_state("gone", "ready");
    host.daemon.kill9();
    std::fs::write(host.daemon.config_dir().join("runtime/runtimes.toml"), "").unwrap();
    host.daemon.restart();
    assert!(!crate::stage::lives("no-longer-declared-mark"));
    assert_eq!(host.ask("GET", "/orchestrator/runtimes/gone").0, 404);
}

#[test]
fn a_service_managers_stop_leaves_runtimes_alone_and_a_terminals_does_not() {
    if !crate::can_launch() {
        return;
    }
    let mut host = Host::start(&bash("kept", "sleep 1000; : kept-over-sigterm-mark", "auto_start = true"));
    let pid = host.wait_state("kept", "ready")["pid"].clone();
    host.daemon.sigterm();
    host.daemon.wait_for_exit();
    assert!(crate::stage::lives("kept-over-sigterm-mark"));
    host.daemon.restart();
    assert_eq!(host.wait_state("kept", "ready")["pid"], pid);
    host.daemon.signal(nix::sys::signal::Signal::SIGINT);
    host.daemon.wait_for_exit();
    assert!(!crate::stage::lives("kept-over-sigterm-mark"));
}

#[test]
fn a_launch_that_was_never_written_down_is_ended() {
    if !crate::can_launch() {
        return;
    }
    let mut host = Host::start(&bash("half", "sleep 1000; : half-launched-mark", "auto_start = true"));
    host.wait_state("half", "ready");
    host.daemon.kill9();
    // As if the daemon had died between the launch and the record of it, on a host without control groups.
    let file = host.daemon.state_dir().join("runtimes/half/run.json");
    let mut run: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    run["init"] = serde_json::Value::Null;
    run["leaf"] = serde_json::Value::Null;
    std::fs::write(&file, run.to_string()).unwrap();
    std::fs::write(host.daemon.config_dir().join("runtime/runtimes.toml"), "").unwrap();
    host.daemon.restart();
    crate::support::wait_for("its end", || (!crate::stage::lives("half-launched-mark")).then_some(()));
}

#[test]
fn one_that_was_adopted_frozen_is_looked_after_once_it_goes_on() {
    if !crate::can_launch() {
        return;
    }
    let script = "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done";
    let more = "auto_start = true\n[runtimes.restart]\npolicy = \"no\"";
    let mut host = Host::start(&bash("still", script, more));
    host.wait_log("still", "up");
    let (status, body) = host.act("still", "freeze");
    if status == 409 {
        println!("SKIP: nothing here can freeze: {body}");
        return;
    }
    let pid = host.wait_state("still", "frozen")["pid"].clone();
    host.daemon.kill9();
    host.daemon.restart();
    assert_eq!(host.wait_state("still", "frozen")["pid"], pid);
    host.must("still", "thaw");
    host.wait_state("still", "ready");
    // Not by the daemon: only its watch over the end can tell. The init passes the signal on.
    let init = nix::unistd::Pid::from_raw(i32::try_from(pid.as_i64().unwrap()).unwrap());
    nix::sys::signal::kill(init, nix::sys::signal::Signal::SIGTERM).unwrap();
    let death = host.wait_end("still")["last_death"].clone();
    assert_eq!((&death["cause"], &death["code"]), (&"exit".into(), &5.into()), "{death}");
}

/// Takes a runtime from its daemon: whoever connects there owns it.
fn take_over(host: &Host, id: &str) -> std::os::fd::OwnedFd {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    let made = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let address = UnixAddr::new(&host.daemon.state_dir().join("runtimes").join(id).join("own.sock")).unwrap();
    connect(std::os::fd::AsRawFd::as_raw_fd(&made), &address).unwrap();
    made
}

#[test]
fn an_init_that_drops_its_owner_is_taken_back_and_nothing_is_restarted() {
    if !crate::can_launch() {
        return;
    }
    let script = "trap 'exit 5' TERM; while :; do sleep 0.1; done";
    let more = "auto_start = true\n[runtimes.health]\nexec = [\"/bin/true\"]\ninterval = \"100ms\"\nfailure_threshold = 1\n[runtimes.restart]\nbackoff = \"100ms\"";
    let host = Host::start(&bash("one", script, more));
    let before = host.wait_state("one", "ready");
    drop(take_over(&host, "one"));
    host.daemon.wait_for_log("has it again");
    let after = host.wait_state("one", "ready");
    assert_eq!((&after["pid"], &after["run"]), (&before["pid"], &before["run"]), "{after:#}");
    assert_eq!((&after["restarts"]["used"], &after["last_death"]), (&0.into(), &serde_json::Value::Null));
    // It takes orders again, and its end is heard of.
    let said = host.daemon.cli(&["runtime", "exec", "one", "--", "echo", "mine"]);
    assert_eq!(said.stdout, b"mine\n", "{said:?}");
    let init = nix::unistd::Pid::from_raw(i32::try_from(after["pid"].as_i64().unwrap()).unwrap());
    nix::sys::signal::kill(init, nix::sys::signal::Signal::SIGTERM).unwrap();
    let death = host.wait("one", "restarted", |view| view["run"] == 2)["last_death"].clone();
    assert_eq!((&death["cause"], &death["code"]), (&"exit".into(), &5.into()), "{death}");
}

#[test]
fn two_owners_do_not_take_a_runtime_from_each_other_for_ever() {
    if !crate::can_launch() {
        return;
    }
    let more = "auto_start = true\n[runtimes.restart]\nbackoff = \"100ms\"";
    let host = Host::start(&bash("one", "sleep 1000", more));
    host.wait_state("one", "ready");
    drop(take_over(&host, "one"));
    host.daemon.wait_for_log("has it again");
    drop(take_over(&host, "one"));
    let again = host.wait("one", "launched anew", |view| view["run"] == 2 && view["state"] == "ready");
    assert_eq!(again["restarts"]["used"], 1, "{again:#}");
}
