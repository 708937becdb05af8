//! Who has broken into the caller speaks to the launcher: nonsense, and what no caller of ours would say.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use arw::sandbox::{Plan, ProfileName, User};
use arw::sys::clone::open_pidfd;
use arw::sys::message::{self, MAX_DESCRIPTORS};
use arw::sys::process;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::{Value, json};

use crate::support::{PATIENCE, plan, user, wait_for};

/// A launcher of our own program, and the caller's end of its socket.
struct Intruder {
    socket: Option<OwnedFd>,
    launcher: Child,
}

impl Intruder {
    fn start(words: &[&str]) -> Self {
        let (ours, theirs) = message::pair().expect("pair");
        let mut command = Command::new(env!("CARGO_BIN_EXE_arw-cli"));
        command.arg0("arw-launcher").args(words).env_clear().current_dir("/");
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        Self { socket: Some(ours), launcher: command.spawn().expect("launcher") }
    }

    fn say(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        // Where it is gone already there is nobody to say it to.
        let _ = message::send(self.socket.as_ref().expect("open"), bytes, descriptors);
    }

    /// What a launch says, until its channel closes. A launcher that dropped the request says nothing.
    fn launch(&self, request: &Value, plan: &File) -> Vec<Value> {
        let null = File::options().read(true).write(true).open("/dev/null").expect("null");
        let (ours, theirs) = message::pair().expect("pair");
        let standard = [null.as_fd(); 3];
        let mut all = vec![plan.as_fd(), theirs.as_fd()];
        all.extend(standard);
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
        "namespaces": namespaces(), "cgroup": false, "joins": 0, "exit_record": false, "adoption": false, "log": null,
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
    let intruder = Intruder::start(&["resident"]);
    let null = File::open("/dev/null").expect("null");
    for (said, count) in nonsense() {
        intruder.say(&said, &vec![null.as_fd(); count]);
    }
    let good = plan(ProfileName::Strict, &["true"]);
    can_launch(&intruder, &good);
    intruder.end();
}
