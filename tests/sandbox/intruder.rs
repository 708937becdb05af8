//! Who has broken into the caller speaks to the launcher: nonsense, and what no caller of ours would say. A resident launcher
//! carries out nothing that goes below its charter; which check refuses it is asserted by its code, so that each is missed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use arw::sandbox::charter::{Breach, Charter};
use arw::sandbox::plan::{Absent, Access, Mount, Owner};
use arw::sandbox::{Control, Plan, Profile, ProfileName, User};
use arw::sys::clone::open_pidfd;
use arw::sys::message::{self, MAX_DESCRIPTORS};
use arw::sys::process;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::{Value, json};

use crate::support::{PATIENCE, charter, is_root, plan, user, wait_for};

/// A launcher of our own program, and the caller's end of its socket.
struct Intruder {
    socket: Option<OwnedFd>,
    launcher: Child,
}

impl Intruder {
    fn start(words: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_arw-cli"));
        command.arg0("arw-launcher").args(words).env_clear();
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let (ours, theirs) = message::pair().expect("pair");
        command.current_dir("/").stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        Self { socket: Some(ours), launcher: command.spawn().expect("launcher") }
    }

    /// As its caller starts it, before somebody takes that over.
    fn chartered(charter: &Charter) -> Self {
        let intruder = if is_root() { Self::spawn(away_from_the_host()) } else { Self::start(&["resident"]) };
        intruder.give(charter);
        intruder
    }

    fn give(&self, charter: &Charter) {
        self.say(&serde_json::to_vec(charter).expect("JSON"), &[]);
        let held = message::receive(self.socket.as_ref().expect("open"), 64).expect("it answers");
        assert_eq!(held.bytes, b"\"charter\"");
    }

    fn say(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        // Where it is gone already there is nobody to say it to.
        let _ = message::send(self.socket.as_ref().expect("open"), bytes, descriptors);
    }

    /// What a launch says, until its channel closes. A launcher that dropped the request says nothing.
    fn launch(&self, request: &Value, plan: &File) -> Vec<Value> {
        self.launch_with(request, plan, &[])
    }

    fn launch_with(&self, request: &Value, plan: &File, more: &[BorrowedFd<'_>]) -> Vec<Value> {
        let null = File::options().read(true).write(true).open("/dev/null").expect("null");
        let (ours, theirs) = message::pair().expect("pair");
        let standard = [null.as_fd(); 3];
        let mut all = vec![plan.as_fd(), theirs.as_fd()];
        all.extend(standard);
        all.extend(more);
        self.say(json!({"launch": request}).to_string().as_bytes(), &all);
        drop(theirs);
        let mut said = Vec::new();
        loop {
            match message::receive(&ours, 64 << 10) {
                Ok(message) if !message.bytes.is_empty() => {
                    said.push(serde_json::from_slice(&message.bytes).expect("JSON"))
                }
                _ => return said,
            }
        }
    }

    fn number(&self) -> i32 {
        self.launcher.id().cast_signed()
    }

    /// Hangs up, and waits until the launcher and all that it made is gone.
    fn end(mut self) {
        drop(self.socket.take());
        self.await_end();
    }

    fn await_end(&mut self) {
        wait_for(&open_pidfd(self.number()).expect("not reaped yet"));
        self.launcher.wait().expect("wait");
        let since = Instant::now();
        while let Some(left) = in_session(self.number()).first() {
            assert!(since.elapsed() < PATIENCE, "process {left} is left");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A resident launcher in namespaces of its own: were a check missing, what root's launcher does would be done to this host.
fn away_from_the_host() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--ipc", "--uts", "bash", "-c", "exec -c -a arw-launcher \"$0\" resident"]);
    command.arg(env!("CARGO_BIN_EXE_arw-cli"));
    command
}

/// The processes of the session that a launcher leads, which are the launcher and what it made.
fn in_session(leader: i32) -> Vec<i32> {
    let numbers = fs::read_dir("/proc").expect("proc").flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_member =
        |pid: &i32| process::stat(Some(*pid)).is_ok_and(|found| found.session == leader && found.state != b'Z');
    numbers.filter(is_member).collect()
}

/// What is mounted right at one of the places where a root is built.
fn mounted() -> BTreeSet<String> {
    let places = ["/mnt", "/media", "/srv", "/tmp", "/run", "/var"];
    let table = fs::read_to_string("/proc/self/mountinfo").expect("proc");
    let at = |line: &&str| line.split(' ').nth(4).is_some_and(|place| places.contains(&place));
    table.lines().filter(at).map(str::to_owned).collect()
}

fn sealed(text: &[u8]) -> File {
    let memory = memfd_create(c"plan", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).expect("memory");
    let mut file = File::from(memory);
    file.write_all(text).expect("write");
    file.rewind().expect("rewind");
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).expect("seal");
    file
}

fn sealed_plan(plan: &Plan) -> File {
    sealed(&serde_json::to_vec(plan).expect("JSON"))
}

fn namespaces() -> Vec<&'static str> {
    let own = matches!(user(), User::Mapped { .. }).then_some("user");
    own.into_iter().chain(["mount", "pid", "network", "ipc", "uts"]).collect()
}

fn request() -> Value {
    json!({
        "namespaces": namespaces(), "cgroup": false, "joins": 0, "last": false, "held": false, "exit_record": false, "adoption": false, "log": null,
    })
}

fn has_run(said: &[Value]) -> bool {
    said.iter().any(|event| event.get("running").is_some())
}

/// Messages that say nothing, with how many descriptors each.
fn nonsense() -> Vec<(Vec<u8>, usize)> {
    let launch = |request: Value| json!({"launch": request}).to_string().into_bytes();
    let with = |key: &str, value: Value| {
        let mut request = request();
        request[key] = value;
        launch(request)
    };
    vec![
        (b"\xff\xfe".to_vec(), 0),
        (b"{}".to_vec(), 5),
        (vec![b'['; 60 << 10], 1),
        (vec![b' '; 65 << 10], 1),
        (b"{\"launch\":{}}".to_vec(), 5),
        (Vec::new(), 5),
        (launch(request()), 0),
        (launch(request()), 4),
        (launch(request()), 6),
        (launch(request()), MAX_DESCRIPTORS + 1),
        (launch(request()), 253),
        (with("joins", json!(u64::MAX)), 7),
        (with("joins", json!(2)), 6),
        (with("log", json!(1)), 6),
        (with("stray", json!(1)), 5),
        (with("namespaces", json!(["time"])), 5),
        ([launch(request()), b"{}".to_vec()].concat(), 5),
        (b"{\"prepare\":{\"namespaces\":[],\"ground\":{},\"stray\":1}}".to_vec(), 0),
    ]
}

/// Each piece alone, to a launcher that knows nothing else.
#[test]
fn a_launcher_that_hears_nonsense_leaves_nothing_behind() {
    let before = mounted();
    let null = File::open("/dev/null").expect("null");
    for (said, count) in nonsense() {
        let intruder = Intruder::start(&[]);
        intruder.say(&said, &vec![null.as_fd(); count]);
        intruder.end();
    }
    assert_eq!(mounted(), before);
}

/// A plan that cannot be one: not sealed, not JSON, of another kind of file. The sandbox ends before anything runs, and the
/// launcher goes on.
#[test]
fn a_plan_that_is_none_is_refused_and_the_next_one_is_not() {
    let intruder = Intruder::start(&[]);
    let good = plan(ProfileName::Strict, &["true"]);
    if !can_launch(&intruder, &good) {
        return;
    }
    let text = serde_json::to_vec(&good).expect("JSON");
    let mut unsealed = File::from(memfd_create(c"plan", MFdFlags::MFD_CLOEXEC).expect("memory"));
    unsealed.write_all(&text).expect("write");
    let behind = sealed(&[text.as_slice(), b"{}"].concat());
    let torn = sealed(&text[..text.len() / 2]);
    let null = File::open("/dev/null").expect("null");
    let folder = File::open("/").expect("folder");
    for plan in [unsealed, behind, torn, sealed(b""), null, folder] {
        let said = intruder.launch(&request(), &plan);
        assert!(!has_run(&said), "{said:?}");
        let fault = said.iter().find_map(|event| event.get("failed")).unwrap_or_else(|| panic!("{said:?}"));
        assert_eq!(fault["step"], "read_plan", "{fault}");
    }
    assert!(has_run(&intruder.launch(&request(), &sealed_plan(&good))));
    intruder.end();
}

fn can_launch(intruder: &Intruder, plan: &Plan) -> bool {
    let said = intruder.launch(&request(), &sealed_plan(plan));
    let fault = said.iter().find_map(|event| event.get("failed"));
    match fault {
        Some(fault) if fault["step"] == "clone" => {
            println!("SKIP: this kernel gives no namespaces: {fault}");
            false
        }
        _ => {
            assert!(has_run(&said), "{said:?}");
            true
        }
    }
}

/// The caller can make no other launcher, so nonsense must not take it away.
#[test]
fn a_keeper_has_another_launcher_after_nonsense() {
    let folder = tempfile::tempdir().expect("folder");
    let intruder = Intruder::chartered(&charter(folder.path()));
    let null = File::open("/dev/null").expect("null");
    for (said, count) in nonsense() {
        intruder.say(&said, &vec![null.as_fd(); count]);
    }
    let good = plan(ProfileName::Strict, &["true"]);
    can_launch(&intruder, &good);
    intruder.end();
}

/// A keeper with nothing to hold to launches nothing, and one that has something takes nothing else.
#[test]
fn a_keeper_without_a_charter_launches_nothing_and_none_is_given_twice() {
    let good = sealed_plan(&plan(ProfileName::Strict, &["true"]));
    let unsworn = Intruder::start(&["resident"]);
    assert_eq!(unsworn.launch(&request(), &good), Vec::<Value>::new());
    unsworn.end();
    let folder = tempfile::tempdir().expect("folder");
    let narrow = Charter { first_uid: 1, uids: 0, ..charter(folder.path()) };
    let sworn = Intruder::chartered(&narrow);
    sworn.say(&serde_json::to_vec(&charter(folder.path())).expect("JSON"), &[]);
    if is_root() {
        refused(&sworn, &request(), &plan(ProfileName::Strict, &["true"]), Breach::User);
    }
    sworn.end();
}

fn refused(intruder: &Intruder, request: &Value, plan: &Plan, breach: Breach) {
    is_breach(&intruder.launch(request, &sealed_plan(plan)), breach);
}

fn is_breach(said: &[Value], breach: Breach) {
    let fault = said.iter().find_map(|event| event.get("failed")).unwrap_or_else(|| panic!("{breach}: {said:?}"));
    assert_eq!(fault["step"], "charter", "{fault}");
    let detail = fault["detail"].as_str().expect("text");
    assert!(detail.starts_with(&format!("{breach}: ")), "{breach}: {detail}");
    assert!(!has_run(said));
}

/// A launcher with its charter and a host's folders; `None` where the kernel gives no namespaces.
struct Chartered {
    intruder: Intruder,
    folder: tempfile::TempDir,
}

impl Chartered {
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().expect("folder");
        let at = folder.path().canonicalize().expect("real");
        for made in ["work", "read", "other", "state/recipes/one", "state/runtimes"] {
            fs::create_dir_all(at.join(made)).expect("folder");
        }
        let intruder = Intruder::chartered(&charter(&at));
        let can = can_launch(&intruder, &plan(ProfileName::Strict, &["true"]));
        can.then_some(Self { intruder, folder })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().expect("real").join(name)
    }

    fn declare(&self, workspaces: &[String]) {
        let list: Vec<String> = workspaces.iter().map(|text| format!("{text:?}")).collect();
        let manifest = format!(
            "[[runtimes]]\nid = \"one\"\npersona = \"demo\"\n[runtimes.process]\ncommand = \"true\"\nworkspaces = [{}]\n",
            list.join(", ")
        );
        fs::write(self.at("new"), manifest).expect("write");
        fs::rename(self.at("new"), self.at("runtimes.toml")).expect("rename");
    }

    fn binding(&self, source: &Path, access: Access, owner: Owner) -> Vec<Value> {
        let mut plan = plan(ProfileName::Standard, &["true"]);
        plan.mounts.push(bind(source, access, owner));
        self.intruder.launch(&request(), &sealed_plan(&plan))
    }
}

fn bind(source: &Path, access: Access, owner: Owner) -> Mount {
    Mount::Bind { source: source.to_owned(), target: "/work".into(), access, absent: Absent::Fault, owner }
}

#[test]
fn a_chartered_launcher_makes_no_other_user_and_leaves_no_wall_out() {
    let Some(Chartered { intruder, folder }) = Chartered::start() else { return };
    let strict = || plan(ProfileName::Strict, &["true"]);
    let own = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let host = |uid, gid| User::Host { uid, gid };
    let mapped = |uid, outside_uid, outside_gid| User::Mapped { uid, gid: uid, outside_uid, outside_gid };
    let users = [host(0, 0), host(231_072, 0), host(231_072, 42), host(231_071, 231_071), host(1_000, 1_000)];
    for user in users.into_iter().chain([mapped(1_000, own.0 ^ 1, own.1), mapped(0, own.0, own.1)]) {
        refused(&intruder, &request(), &Plan { user, ..strict() }, Breach::User);
    }
    if is_root() {
        // With a user namespace, as the plan then has it, and without.
        let user = mapped(1_000, 0, 0);
        refused(&intruder, &request(), &Plan { user, ..strict() }, Breach::User);
        let mut with_user = request();
        with_user["namespaces"].as_array_mut().expect("list").push(json!("user"));
        refused(&intruder, &with_user, &Plan { user, ..strict() }, Breach::Namespaces);
    }
    let all = namespaces();
    for left_out in 0..all.len() {
        let mut some = all.clone();
        let name = some.remove(left_out);
        let mut request = request();
        request["namespaces"] = json!(some);
        println!("without {name}");
        refused(&intruder, &request, &strict(), Breach::Namespaces);
    }
    let boundary = [
        Control::Identity,
        Control::MountNamespace,
        Control::PidNamespace,
        Control::NetworkNamespace,
        Control::Root,
        Control::Seccomp,
        Control::Capabilities,
        Control::NoNewPrivs,
        Control::Descriptors,
    ];
    for control in boundary {
        refused(&intruder, &request(), &Plan { without: vec![control], ..strict() }, Breach::Control);
        let mut lax = strict();
        lax.require.retain(|one| *one != control);
        refused(&intruder, &request(), &lax, Breach::Control);
    }
    refused(&intruder, &request(), &Plan { limits: Vec::new(), ..strict() }, Breach::Limit);
    // A file of the intruder's, into which the init would write while it is root.
    let trap = tempfile::tempfile().expect("file");
    let mut joining = request();
    joining["joins"] = json!(1);
    is_breach(&intruder.launch_with(&joining, &sealed_plan(&strict()), &[trap.as_fd()]), Breach::Group);
    let folder = File::open(folder.path()).expect("folder");
    let mut inside = request();
    inside["cgroup"] = json!(true);
    is_breach(&intruder.launch_with(&inside, &sealed_plan(&strict()), &[folder.as_fd()]), Breach::Group);
    assert_eq!(trap.metadata().expect("metadata").len(), 0);
    assert!(has_run(&intruder.launch(&request(), &sealed_plan(&strict()))), "what keeps to it is launched as before");
    intruder.end();
}

#[test]
fn a_chartered_launcher_binds_what_is_declared_and_nothing_else() {
    use Access::{Device, ReadOnly, ReadWrite};
    let Some(host) = Chartered::start() else { return };
    let (work, read, other) = (host.at("work"), host.at("read"), host.at("other"));
    let state = host.at("state");
    for (source, access) in [
        (Path::new("/"), ReadWrite),
        (Path::new("/etc"), ReadWrite),
        (Path::new("/etc/passwd"), ReadOnly),
        (Path::new("/proc/self"), ReadOnly),
        (&work, ReadWrite),
        (&work, ReadOnly),
        (&state, ReadOnly),
        (&state.join("runtimes"), ReadWrite),
    ] {
        for owner in [Owner::Command, Owner::Host] {
            is_breach(&host.binding(&source.canonicalize().expect("there"), access, owner), Breach::Source);
        }
    }
    // What is declared while it runs counts at the next launch.
    let rw = |path: &Path| format!("{}:/work:rw", path.display());
    let mut all = vec![rw(&work), format!("{}:/work", read.display()), rw(Path::new("/etc")), rw(&state)];
    all.extend([rw(&work.join("inner")), rw(&state.join("inner")), rw(&host.at("short"))]);
    host.declare(&all);
    for (source, access) in [(&work, ReadWrite), (&work, ReadOnly), (&read, ReadOnly)] {
        let said = host.binding(source, access, Owner::Command);
        assert!(has_run(&said), "{} {access:?}: {said:?}", source.display());
    }
    assert!(has_run(&host.binding(&state.join("recipes/one"), ReadOnly, Owner::Host)));
    is_breach(&host.binding(&state.join("recipes/one"), ReadWrite, Owner::Host), Breach::Source);
    is_breach(&host.binding(&read, ReadWrite, Owner::Command), Breach::Source);
    is_breach(&host.binding(&other, ReadOnly, Owner::Command), Breach::Source);
    is_breach(&host.binding(&state, ReadOnly, Owner::Command), Breach::Kept);
    is_breach(&host.binding(Path::new("/etc"), ReadWrite, Owner::Command), Breach::System);
    // A declared name whose last part is a link by now: of the command, or of the caller.
    for link in [work.join("inner"), state.join("inner")] {
        symlink(&other, &link).expect("link");
        is_breach(&host.binding(&link, ReadOnly, Owner::Command), Breach::Source);
    }
    // The operator's own is followed.
    symlink(&other, host.at("short")).expect("link");
    assert!(has_run(&host.binding(&other, ReadWrite, Owner::Command)));
    host.declare(&all[1..]);
    is_breach(&host.binding(&work, ReadWrite, Owner::Command), Breach::Source);

    // Devices, and entries that would be made on the host.
    let changed = |change: &dyn Fn(&mut Vec<Mount>)| {
        let mut plan = plan(ProfileName::Standard, &["true"]);
        change(&mut plan.mounts);
        host.intruder.launch(&request(), &sealed_plan(&plan))
    };
    let before_home = |entry: Mount| changed(&|mounts| mounts.insert(mounts.len() - 1, entry.clone()));
    for node in ["/dev/kmsg", "/dev/sda", "/dev/null"] {
        let (source, target, absent, owner) = (node.into(), node.into(), Absent::Skip, Owner::Host);
        is_breach(&before_home(Mount::Bind { source, target, access: Device, absent, owner }), Breach::Device);
    }
    let file = Mount::File { target: "/work/made".into(), contents: "x".to_owned() };
    let over = [bind(&read, ReadOnly, Owner::Command), file];
    is_breach(&changed(&|mounts| mounts.extend(over.clone())), Breach::Order);
    let (source, absent, owner) = (read.clone(), Absent::Fault, Owner::Command);
    let over = Mount::Bind { source, target: "/proc/sys".into(), access: ReadOnly, absent, owner };
    is_breach(&changed(&|mounts| mounts.push(over.clone())), Breach::Target);
    is_breach(&changed(&|mounts| drop(mounts.remove(0))), Breach::Root);
    host.intruder.end();
}

/// What a launcher makes ahead is held to the same: without a mount namespace of its own it would mount on the host, which is
/// one of this test's here.
#[test]
fn nothing_is_made_ahead_that_goes_below_the_charter() {
    if !is_root() {
        println!("SKIP: a mount namespace for the launcher is made by root");
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let intruder = Intruder::chartered(&charter(folder.path()));
    let good = plan(ProfileName::Strict, &["true"]);
    if !can_launch(&intruder, &good) {
        return;
    }
    let mounts = || fs::read_to_string(format!("/proc/{}/mountinfo", intruder.number())).expect("proc");
    let before = mounts();
    let ground = Profile::embedded(ProfileName::Strict).ground();
    for namespaces in [json!([]), json!(["pid", "network", "ipc", "uts"])] {
        let ground = json!({"mapped": null, "mounts": ground, "proc": "masked", "local_prefixes": []});
        intruder.say(json!({"prepare": {"namespaces": namespaces, "ground": ground}}).to_string().as_bytes(), &[]);
        // Heard after it, so by then that was heard.
        assert!(has_run(&intruder.launch(&request(), &sealed_plan(&good))));
        assert_eq!(mounts(), before);
    }
    intruder.end();
}
