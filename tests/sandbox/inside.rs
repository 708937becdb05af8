//! What a command finds inside: its root, its network, its limits.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};

use arw::sandbox::plan::{Access, Filter, Limit, ProcView, Resource};
use arw::sandbox::profile::Workspace;
use arw::sandbox::{Control, End, Exit, LaunchError, ListenerRole, Plan, Profile, ProfileName, Step, Text};

use crate::support::{plan, run, start, workload};

fn said(plan: &Plan) -> String {
    run(plan).said
}

fn shell(profile: ProfileName, script: &str) -> Plan {
    plan(profile, &["sh", "-c", script])
}

#[test]
fn the_environment_is_rebuilt_and_holds_the_proxy() {
    let mut workload = workload(&["env"]);
    workload.env.push((Text::from("OWN"), Text::from("1")));
    let said = said(&Profile::embedded(ProfileName::Standard).plan(&workload).expect("plan"));
    let names: Vec<&str> = said.lines().filter_map(|line| line.split('=').next()).collect();
    for name in ["OWN", "PATH", "HOME", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "NODE_USE_ENV_PROXY"] {
        assert!(names.contains(&name), "{said}");
    }
    assert!(!names.iter().any(|name| name.starts_with("CARGO")), "{said}");
}

#[test]
fn the_root_is_read_only_and_the_private_places_are_not() {
    for place in ["/", "/usr", "/etc", "/run", "/dev", "/proc"] {
        let ended = run(&shell(ProfileName::Compat, &format!("touch {place}/x")));
        assert_ne!(ended.end, End::Exit(Exit::Code(0)), "{place}");
    }
    for place in ["/tmp", "/dev/shm", "$HOME", "/var/tmp"] {
        let ended = run(&shell(ProfileName::Strict, &format!("touch {place}/x && ls {place}/x")));
        assert_eq!(ended.end, End::Exit(Exit::Code(0)), "{place}: {}", ended.said);
    }
}

#[test]
fn private_memory_has_a_bound_in_bytes_and_in_files() {
    let fill = "head -c 80000000 /dev/zero > /tmp/big; wc -c < /tmp/big";
    let kept: u64 =
        said(&shell(ProfileName::Strict, fill)).lines().last().expect("a line").trim().parse().expect("bytes");
    assert!(kept <= 64 << 20, "{kept}");
    let many = "cd /dev/shm; i=0; while [ $i -lt 20000 ] && true > f$i; do i=$((i+1)); done 2>/dev/null; echo $i";
    let made: u64 =
        said(&shell(ProfileName::Strict, many)).lines().last().expect("a line").trim().parse().expect("files");
    assert!(made <= (16 << 20) / 4096, "{made}");
    let mut loose = shell(ProfileName::Strict, fill);
    for mount in &mut loose.mounts {
        if let arw::sandbox::plan::Mount::Memory { bytes, .. } = mount {
            *bytes = 1 << 30;
        }
    }
    let kept: u64 = said(&loose).lines().last().expect("a line").trim().parse().expect("bytes");
    assert_eq!(kept, 80_000_000, "the bound was the reason");
}

#[test]
fn the_strict_profile_executes_nothing_that_it_wrote() {
    let script = "cp /bin/true /tmp/t && /tmp/t";
    assert_eq!(run(&shell(ProfileName::Strict, script)).end, End::Exit(Exit::Code(126)));
    assert_eq!(run(&shell(ProfileName::Standard, script)).end, End::Exit(Exit::Code(0)));
}

#[test]
fn a_workspace_is_written_as_the_plan_says() {
    let folder = tempfile::tempdir_in("/tmp").expect("folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("permissions");
    let with = |access| {
        let mut workload = workload(&["sh", "-c", "echo made > made && cat made"]);
        let source = fs::canonicalize(folder.path()).expect("path");
        workload.workspaces.push(Workspace { source, target: "/work".into(), access });
        run(&Profile::embedded(ProfileName::Strict).plan(&workload).expect("plan"))
    };
    assert_ne!(with(Access::ReadOnly).end, End::Exit(Exit::Code(0)));
    assert!(!folder.path().join("made").exists());
    let ended = with(Access::ReadWrite);
    assert_eq!((ended.end, ended.said.as_str()), (End::Exit(Exit::Code(0)), "made\n"));
    assert!(folder.path().join("made").exists());
}

/// An earlier run leaves a link in its workspace; the next launch must not follow it while the host is in reach.
#[test]
fn a_link_left_in_a_workspace_leads_no_mount_astray() {
    let folder = tempfile::tempdir_in("/tmp").expect("folder");
    let target = tempfile::tempdir_in("/tmp").expect("folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("permissions");
    symlink(target.path(), folder.path().join("sub")).expect("link");
    let mut workload = workload(&["true"]);
    let at = |source: &std::path::Path, target: &str| Workspace {
        source: source.to_owned(),
        target: target.into(),
        access: Access::ReadWrite,
    };
    workload.workspaces = vec![at(folder.path(), "/work"), at(target.path(), "/work/sub/deeper")];
    let plan = |workload: &arw::sandbox::profile::Workload| {
        Profile::embedded(ProfileName::Standard).plan(workload).expect("plan")
    };
    assert_eq!(step_of(&plan(&workload)), Step::MountTarget);
    assert_eq!(fs::read_dir(target.path()).expect("folder").count(), 0, "nothing was made behind the link");
    // A writable source that is reached through a link is refused too.
    workload.workspaces = vec![at(&folder.path().join("sub"), "/work")];
    assert_eq!(step_of(&plan(&workload)), Step::BindSource);
}

fn step_of(plan: &Plan) -> Step {
    match start(plan) {
        Err(LaunchError::Step(fault)) => fault.step,
        other => panic!("{:?}", other.map(|_| ()).err()),
    }
}

#[test]
fn a_fork_bomb_ends_at_its_limit() {
    let script = "i=0; while [ $i -lt 64 ]; do sleep 5 & i=$((i+1)); done; echo all";
    let mut plan = shell(ProfileName::Strict, script);
    plan.limits.retain(|limit| limit.resource != Resource::Processes);
    assert!(said(&plan).contains("all"), "64 processes are possible without the limit");
    plan.limits.push(Limit { resource: Resource::Processes, most: 16 });
    let ended = run(&plan);
    // An ordinary user's processes outside count too, so the number itself is not looked at.
    assert!(!ended.said.contains("all"), "{}", ended.said);
}

#[test]
fn proc_shows_the_sandboxs_own_processes_and_nothing_that_steers_the_host() {
    let script = "ls /proc | grep -c '^[0-9]'; ls -d /proc/1 2>&1; cat /proc/timer_list /proc/keys /proc/kcore | wc -c; \
                  echo 1 > /proc/sys/kernel/panic; ls /proc/meminfo /proc/sys";
    let masked = said(&shell(ProfileName::Standard, script));
    assert!(masked.contains("/proc/1': No such file") || masked.contains("/proc/1: No such file"), "{masked}");
    assert!(masked.lines().any(|line| line == "0"), "{masked}");
    assert!(masked.contains("meminfo\n") && masked.contains("Read-only file system"), "{masked}");
    let mut plan = shell(ProfileName::Strict, "ls /proc/meminfo /proc/sys /proc/self/status");
    let only = said(&plan);
    assert!(only.contains("/proc/self/status\n") && !only.contains("\n/proc/sys:\n"), "{only}");
    plan.mounts.iter_mut().for_each(|mount| {
        if let arw::sandbox::plan::Mount::Proc { view } = mount {
            *view = ProcView::Masked;
        }
    });
    assert!(said(&plan).contains("/proc/sys"), "the view was the reason");
}

#[test]
fn a_synthetic_address_arrives_at_the_transparent_listener_with_its_name() {
    let script = "import socket\n\
                  for host in ('198.18.7.9', 'fd61:7277:c612::99'):\n \
                  s = socket.create_connection((host, 8443), 10)\n \
                  print(s.recv(9).decode(), flush=True)\n";
    let mut workload = workload(&["python3", "-c", script]);
    workload.transparent_ports = vec![8443];
    let plan = Profile::embedded(ProfileName::Strict).plan(&workload).expect("plan");
    let mut running = start(&plan).expect("launch");
    let listeners = std::mem::take(&mut running.launched.listeners);
    let transparent = listeners.into_iter().filter(|(listener, _)| listener.role == ListenerRole::Transparent);
    for ((listener, socket), wanted) in transparent.zip(["198.18.7.9:8443", "[fd61:7277:c612::99]:8443"]) {
        let socket = std::net::TcpListener::from(socket);
        socket.set_nonblocking(false).expect("blocking");
        let (mut client, _) = socket.accept().expect("accept");
        let wanted: SocketAddr = wanted.parse().expect("address");
        assert_eq!(client.local_addr().expect("address"), wanted, "{listener:?}");
        client.write_all(b"connected").expect("write");
    }
    assert_eq!(running.finish().said, "connected\nconnected\n");
}

#[test]
fn a_name_is_asked_of_the_resolver_that_was_handed_out() {
    let mut running = start(&plan(ProfileName::Strict, &["getent", "hosts", "name.example"])).expect("launch");
    let listeners = std::mem::take(&mut running.launched.listeners);
    let (_, socket) =
        listeners.into_iter().find(|(listener, _)| listener.role == ListenerRole::DnsUdp).expect("resolver");
    let socket = std::net::UdpSocket::from(socket);
    socket.set_nonblocking(false).expect("blocking");
    let mut query = [0; 512];
    let (len, _) = socket.recv_from(&mut query).expect("query");
    let asked = String::from_utf8_lossy(&query[..len]).into_owned();
    assert!(asked.contains("\u{4}name\u{7}example"), "{asked:?}");
    let _ = running.launched.kill(crate::support::PATIENCE);
}

#[test]
fn a_foreign_entry_ends_the_process() {
    // int 0x80 with getpid's i386 number, called as a function.
    let script = "import ctypes, mmap\n\
                  m = mmap.mmap(-1, 4096, prot=7)\n\
                  m.write(bytes([0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3]))\n\
                  f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\n\
                  print('answered', f())\n";
    if !cfg!(target_arch = "x86_64") {
        println!("SKIP: another architecture");
        return;
    }
    let mut plan = plan(ProfileName::Compat, &["python3", "-c", script]);
    let ended = run(&plan);
    assert_eq!(ended.end, End::Exit(Exit::Signal(libc::SIGSYS)), "{}", ended.said);
    plan.without.push(Control::Seccomp);
    plan.require.clear();
    let ended = run(&plan);
    if ended.end == End::Exit(Exit::Signal(libc::SIGSEGV)) {
        println!("SKIP of the counter-proof: this kernel has no 32-bit entry");
    } else {
        assert!(ended.said.contains("answered"), "{}", ended.said);
    }
}

/// Real programs, each under the tightest profile that suits it.
#[test]
fn everyday_programs_work() {
    for (profile, argv, wanted) in [
        (
            ProfileName::Strict,
            &[
                "python3",
                "-c",
                "import ssl, threading, subprocess; t = threading.Thread(target=lambda: print(subprocess.check_output(['echo', 'ok']).decode())); t.start(); t.join()",
            ][..],
            "ok",
        ),
        (ProfileName::Strict, &["git", "--version"], "git version"),
        (ProfileName::Strict, &["bash", "-c", "echo a | tr a b"], "b"),
        (
            ProfileName::Standard,
            &["node", "-e", "require('fs'); setTimeout(() => console.log('ok', require('os').userInfo().username), 1)"],
            "ok runtime",
        ),
        (ProfileName::Standard, &["sh", "-c", "id -un; hostname"], "runtime"),
    ] {
        let ended = run(&plan(profile, argv));
        assert_eq!(ended.end, End::Exit(Exit::Code(0)), "{argv:?}: {}", ended.said);
        assert!(ended.said.contains(wanted), "{argv:?}: {}", ended.said);
    }
}

#[test]
fn the_filter_is_the_reason_for_what_it_refuses() {
    let script = "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); print('opened')";
    let mut plan = plan(ProfileName::Strict, &["python3", "-c", script]);
    assert!(!said(&plan).contains("opened"));
    plan.seccomp = Filter::Standard;
    assert!(said(&plan).contains("opened"));
    let mut unused = Vec::new();
    std::io::empty().read_to_end(&mut unused).expect("nothing");
}

/// The kernel's names for the namespaces that a command is in, beside the host's.
#[test]
fn each_namespace_is_its_own_until_it_is_left_out() {
    let inside = |without: &[Control], name: &str| {
        let mut plan = plan(ProfileName::Standard, &["readlink", &format!("/proc/self/ns/{name}")]);
        plan.without = without.to_vec();
        plan.require.clear();
        if without.contains(&Control::Root) {
            plan.workdir = "/".into();
        }
        said(&plan).trim().to_owned()
    };
    for (control, name) in [
        (Control::MountNamespace, "mnt"),
        (Control::PidNamespace, "pid"),
        (Control::NetworkNamespace, "net"),
        (Control::IpcNamespace, "ipc"),
        (Control::UtsNamespace, "uts"),
        (Control::CgroupNamespace, "cgroup"),
    ] {
        let host = fs::read_link(format!("/proc/self/ns/{name}")).expect("link").display().to_string();
        let own = inside(&[], name);
        assert!(own.starts_with(name) && own != host, "{own} and {host}");
        // Without its own processes there is no new `/proc` to mount either.
        let without = match control {
            Control::PidNamespace => vec![control, Control::Root, Control::LandlockFiles],
            Control::MountNamespace => vec![control, Control::Root, Control::LandlockFiles, Control::PidNamespace],
            _ => vec![control],
        };
        assert_eq!(inside(&without, name), host, "without {control}");
    }
}

#[test]
fn no_group_of_the_callers_and_no_id_but_its_own_is_inside() {
    let said = said(&shell(ProfileName::Strict, "id -u; id -G; grep -c . /proc/self/uid_map; ls -A /run | wc -l"));
    let lines: Vec<&str> = said.lines().collect();
    let (uid, gid) = crate::support::user().inside();
    assert_eq!(lines[0], uid.to_string());
    if crate::support::is_root() {
        assert_eq!(lines[1], gid.to_string(), "{said}");
    }
    assert_eq!(lines[3], "0", "nothing of the host's /run is seen: {said}");
}

/// What `/proc/<init>/environ` shows to whoever may look: nothing.
#[test]
fn the_init_has_no_environment_and_cannot_be_looked_into() {
    let running = start(&plan(ProfileName::Standard, &["sleep", "1000"])).expect("launch");
    let path = format!("/proc/{}/environ", running.launched.pid);
    match fs::read(&path) {
        Ok(environment) => assert_eq!(environment, b"", "{path}"),
        Err(fault) => assert_eq!(fault.raw_os_error(), Some(libc::EACCES)),
    }
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&path).expect("entry"));
    assert_eq!(owner, 0, "a process that is not dumpable belongs to root");
}

#[test]
fn no_new_privileges_are_gained_unless_that_is_left_out() {
    let mut plan = shell(ProfileName::Standard, "grep NoNewPrivs /proc/self/status");
    assert_eq!(said(&plan), "NoNewPrivs:\t1\n");
    plan.require.clear();
    // Landlock and the filter need it of whoever has no CAP_SYS_ADMIN.
    plan.without = vec![
        Control::NoNewPrivs,
        Control::Seccomp,
        Control::LandlockFiles,
        Control::LandlockTcp,
        Control::LandlockScopes,
    ];
    assert_eq!(said(&plan), "NoNewPrivs:\t0\n");
}

#[test]
fn landlock_keeps_a_file_closed_that_the_root_would_show() {
    let folder = tempfile::tempdir_in("/tmp").expect("folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
    fs::write(folder.path().join("file"), "shown").expect("write");
    let mut plan = shell(ProfileName::Strict, "cat /shown/file");
    plan.mounts.push(arw::sandbox::plan::Mount::Bind {
        source: fs::canonicalize(folder.path()).expect("path"),
        target: "/shown".into(),
        access: Access::ReadOnly,
        absent: arw::sandbox::plan::Absent::Fault,
    });
    assert!(said(&plan).contains("Permission denied"), "bound, and no rule names it");
    plan.without = vec![Control::LandlockFiles];
    assert_eq!(said(&plan), "shown");
}

#[test]
fn landlock_keeps_ports_closed_that_loopback_would_carry() {
    let script = "import socket\ns = socket.socket(); s.bind(('127.0.0.1', 5555)); s.listen()\n\
                  socket.create_connection(('127.0.0.1', 5555)); print('connected')";
    let mut plan = plan(ProfileName::Strict, &["python3", "-c", script]);
    assert!(said(&plan).contains("Permission"), "neither bound nor connected");
    plan.without = vec![Control::LandlockTcp];
    assert_eq!(said(&plan), "connected\n");
}

/// A limit of no bytes does not stop a core file that the host pipes to a program; one byte does.
#[test]
fn a_core_file_goes_nowhere_not_even_into_a_pipe() {
    let said = said(&shell(ProfileName::Compat, "grep 'core file' /proc/self/limits"));
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(words[4..6], ["1", "1"], "{said}");
}
