//! Runtimes with a GPU: on a host that has none, and with a fake management library behind the real daemon.
//!
//! The fake says what a driver would; the device nodes are made in a mount namespace of the daemon's own, which takes
//! root. The library is that of `tests/gpu`.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use serde_json::Value as Json;
use tempfile::TempDir;

use crate::stage::{Host, bash, lives};
use crate::support::{Setup, wait_for};

/// A gibibyte.
const GIB: u64 = 1 << 30;
/// In use on each GPU before anything is launched.
const IDLE: u64 = 500 << 20;

#[test]
fn without_a_gpu_the_launch_is_refused_with_the_reason_and_others_run() {
    if !crate::can_launch() {
        return;
    }
    let wants = bash("trainer", "echo trained", "accelerator = \"gpu\"\n[runtimes.gpu]\ncount = 1");
    let other = bash("other", "echo $CUDA_VISIBLE_DEVICES $NVIDIA_VISIBLE_DEVICES; sleep 1000", "auto_start = true");
    let host = Host::start(&format!("{wants}{other}"));
    // Whoever has none is told so: libraries do not look for one.
    host.wait_log("other", "-1 void");
    host.must("trainer", "start");
    let view = host.wait("trainer", "answered", |view| view["state"] != "stopped" && view["state"] != "starting");
    if std::path::Path::new("/dev/nvidia0").exists() {
        println!("SKIP: this host has a GPU");
        return;
    }
    assert_eq!(view["state"], "error");
    assert!(view["detail"].as_str().unwrap().contains("gpu unavailable: "), "{view:#}");
    assert_eq!(host.view("other")["state"], "ready");
}

/// The fake library in a folder of its own, with what it says.
struct Fake {
    folder: Arc<TempDir>,
}

impl Fake {
    /// Where it can be built.
    fn new() -> Option<Self> {
        static BUILT: OnceLock<Option<(TempDir, PathBuf)>> = OnceLock::new();
        let built = BUILT.get_or_init(|| {
            let folder = private_folder();
            let library = folder.path().join("fake.so");
            let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gpu/fake_nvml.c");
            let mut cc = Command::new("cc");
            cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
            match cc.status() {
                Ok(status) => assert!(status.success(), "the fake does not compile"),
                Err(fault) => {
                    println!("SKIP: the fake library needs `cc`: {fault}");
                    return None;
                }
            }
            Some((folder, library))
        });
        let (_, library) = built.as_ref()?;
        let fake = Self { folder: Arc::new(private_folder()) };
        fs::copy(library, fake.library()).unwrap();
        fs::set_permissions(fake.library(), Permissions::from_mode(0o755)).unwrap();
        fake.says(2, &[], "");
        Some(fake)
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so.1")
    }

    /// From now on: `count` healthy GPUs of 140 GB, of which each process holds so much, and `more`. In one step, since
    /// it is read all the time.
    fn says(&self, count: u32, processes: &[(u32, i64, u64)], more: &str) {
        let mut script = format!("driver 580.95.05\ncuda 13000\ncount {count}\n");
        for gpu in 0..count {
            let own = processes.iter().filter(|(of, ..)| *of == gpu);
            let used = IDLE + own.clone().map(|(.., bytes)| bytes).sum::<u64>();
            write!(
                script,
                "{gpu} uuid {}\n{gpu} name NVIDIA H200\n{gpu} pci 00000000:{:02X}:00.0\n{gpu} minor {}\n{gpu} mig 0 0\n\
                 {gpu} compute_mode 0\n{gpu} memory 150000000000 0 {} {used}\n{gpu} utilization 37 12\n\
                 {gpu} temperature 41\n{gpu} power 123456\n{gpu} ecc_uncorrected 0\n{gpu} throttle 0\n{gpu} event_types 31\n",
                uuid(gpu),
                gpu + 0x1b,
                gpu + 3,
                150_000_000_000 - used
            )
            .unwrap();
            for (_, pid, bytes) in own.filter(|(_, pid, _)| *pid > 0) {
                writeln!(script, "{gpu} compute {pid} {bytes}").unwrap();
            }
        }
        let path = self.folder.path().join("libnvidia-ml.so.1.script");
        let fresh = path.with_extension("fresh");
        fs::write(&fresh, script + more).unwrap();
        fs::rename(fresh, path).unwrap();
    }

    /// A daemon that loads it, in a mount namespace with the nodes of two GPUs.
    fn host(&self, manifest: &str) -> Host {
        let library = self.library().to_str().unwrap().to_owned();
        let dev = self.folder.path().join("dev");
        let devices = self.folder.path().join("devices");
        fs::write(&devices, "Character devices:\n  1 mem\n195 nvidia\n239 nvidia-uvm\n\nBlock devices:\n").unwrap();
        fs::create_dir(&dev).unwrap();
        let script = format!(
            "set -e; dev={}; mount -t tmpfs -o mode=0755 tmpfs $dev; mkdir $dev/pts $dev/shm; \
             for node in null zero full random urandom tty; do touch $dev/$node; mount --bind /dev/$node $dev/$node; done; \
             mount --bind /dev/pts $dev/pts; ln -s pts/ptmx $dev/ptmx; \
             mknod -m 0666 $dev/nvidia3 c 195 3; mknod -m 0666 $dev/nvidia4 c 195 4; \
             mknod -m 0666 $dev/nvidiactl c 195 255; mknod -m 0666 $dev/nvidia-uvm c 239 0; \
             mount --rbind $dev /dev; mount --bind {} /proc/devices; exec \"$0\" \"$@\"",
            dev.display(),
            devices.display()
        );
        let manifest = manifest.to_owned();
        Host::start_with(&manifest, |setup: Setup| {
            setup.set("runtimes.gpu_library", library).wrapped(&["unshare", "-m", "sh", "-c", &script])
        })
    }
}

fn private_folder() -> TempDir {
    tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap()
}

fn uuid(gpu: u32) -> String {
    format!("GPU-00000000-0000-4000-8000-{gpu:012x}")
}

/// The fake, where sandboxes, nodes and a compiler can be had.
fn fake() -> Option<Fake> {
    if !crate::can_launch() {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let made =
        Command::new("unshare").args(["-m", "mknod"]).arg(folder.path().join("x")).args(["c", "195", "3"]).output();
    match made {
        Ok(output) if output.status.success() => Fake::new(),
        Ok(output) => {
            println!("SKIP: device nodes cannot be made here: {}", String::from_utf8_lossy(&output.stderr));
            None
        }
        Err(fault) => {
            println!("SKIP: device nodes cannot be made here: {fault}");
            None
        }
    }
}

fn with_gpu(id: &str, script: &str, gpu: &str) -> String {
    let more = format!(
        "auto_start = true\naccelerator = \"gpu\"\nprofile = \"gpu\"\n[runtimes.gpu]\n{gpu}\n[runtimes.restart]\npolicy = \"no\""
    );
    bash(id, script, &more)
}

/// Whether the processes of a runtime can be told from others here: they are known by their group.
fn is_metered(host: &Host, id: &str) -> bool {
    let view = host.wait(id, "looked at", |view| !view["gpus"].as_array().unwrap().is_empty());
    let metered = view["gpus"][0]["memory_bytes"].is_u64();
    if !metered {
        println!("SKIP: without control groups GPU memory is not metered: {view}");
    }
    metered
}

fn pid(view: &Json) -> i64 {
    view["pid"].as_i64().unwrap()
}

#[test]
fn it_sees_its_own_gpu_and_no_other_and_is_measured() {
    let Some(fake) = fake() else { return };
    let look = "for node in nvidia3 nvidia4 nvidiactl nvidia-uvm; do [ -c /dev/$node ] && echo -n \"$node \"; done; \
                echo $CUDA_VISIBLE_DEVICES; sleep 1000";
    let host = fake.host(&format!(
        "{}{}",
        with_gpu("one", look, "count = 1\nmemory = \"1GiB\""),
        with_gpu("two", look, &format!("uuids = [\"{}\"]", uuid(1)))
    ));
    host.wait_log("one", &format!("nvidia3 nvidiactl nvidia-uvm {}", uuid(0)));
    host.wait_log("two", &format!("nvidia4 nvidiactl nvidia-uvm {}", uuid(1)));
    let one = host.wait_state("one", "ready");
    fake.says(2, &[(0, pid(&one), GIB / 2), (1, 1, GIB)], "");
    let view = host.wait("one", "measured", |view| view["gpus"][0]["memory_bytes"] == GIB / 2);
    assert_eq!(
        (&view["gpus"][0]["memory_limit"], view["gpus"][0]["health"].as_array().unwrap().len()),
        (&GIB.into(), 0)
    );
    let budget = view["budget"].as_array().unwrap().iter().find(|row| row["kind"] == "gpu_memory").unwrap().clone();
    assert_eq!((&budget["used"], &budget["ratio"]), (&(GIB / 2).into(), &0.5.into()), "{budget}");
    // What another process holds on the other GPU is not its own.
    assert_eq!(host.view("two")["gpus"][0]["memory_bytes"], 0);
    let (status, text) = host.read("/metrics");
    assert_eq!(status, 200);
    for line in [
        format!("arw_gpu_adapter_memory_bytes{{gpu=\"{}\",kind=\"used\"}} {}", uuid(0), IDLE + GIB / 2),
        format!("arw_gpu_adapter_memory_bytes{{gpu=\"{}\",kind=\"total\"}} 150000000000", uuid(1)),
        format!("arw_gpu_utilization_ratio{{gpu=\"{}\"}} 0.37", uuid(0)),
        format!("arw_gpu_temperature_celsius{{gpu=\"{}\"}} 41", uuid(1)),
        format!("arw_gpu_power_watts{{gpu=\"{}\"}} 123.456", uuid(0)),
        "arw_automation_budget_ratio{automation=\"one\",kind=\"gpu_memory\"} 0.5".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[test]
fn a_spent_gpu_memory_warns_then_stops_and_its_gpu_is_free_when_the_memory_is_back() {
    let Some(fake) = fake() else { return };
    let host = fake.host(&with_gpu("hog", "sleep 1000; : gpu-hog-mark", "count = 2\nmemory = \"1GiB\""));
    let pid = pid(&host.wait_state("hog", "ready"));
    if !is_metered(&host, "hog") {
        return;
    }
    // On each GPU for itself: together they are above it, and neither is.
    fake.says(2, &[(0, pid, GIB * 7 / 10), (1, pid, GIB * 7 / 10)], "");
    host.wait("hog", "measured", |view| view["gpus"][1]["memory_bytes"] == GIB * 7 / 10);
    // What cannot be measured is neither nothing nor too much.
    fake.says(2, &[(0, pid, GIB * 7 / 10), (1, -1, GIB * 90)], "");
    host.daemon.wait_for_log("the GPU memory of a runtime cannot be measured");
    assert_eq!(host.view("hog")["state"], "ready");
    fake.says(2, &[(0, pid, GIB / 10), (1, pid, GIB * 95 / 100)], "");
    host.daemon.wait_for_log("a runtime is about to spend its GPU memory");
    assert_eq!(host.view("hog")["state"], "ready");
    fake.says(2, &[(0, pid, GIB / 10), (1, pid, GIB)], "");
    let view = host.wait_end("hog");
    assert_eq!(
        (&view["last_death"]["cause"], &view["health"]),
        (&"budget".into(), &"budget_exhausted".into()),
        "{view:#}"
    );
    assert_eq!(view["detail"], "its budget of `gpu_memory` is spent");
    assert!(!lives("gpu-hog-mark"));
    // A process of it still has a context: the next start waits, and says for whom.
    let waiting = host.daemon.wait_for_log("GPU memory is not given back yet");
    assert!(waiting.contains(&format!("[{pid}]")), "{waiting}");
    host.must("hog", "start");
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(host.view("hog")["state"], "starting");
    fake.says(2, &[], "");
    let again = host.wait_state("hog", "ready");
    assert_eq!(again["run"], 2);
}

#[test]
fn an_error_of_the_gpu_is_a_reason_and_nothing_starts_on_it() {
    let Some(fake) = fake() else { return };
    let chosen = |gpu: u32| format!("uuids = [\"{}\"]", uuid(gpu));
    let host = fake.host(&format!(
        "{}{}",
        with_gpu("broken", "sleep 1000", &chosen(0)),
        with_gpu("lost", "sleep 1000", &chosen(1))
    ));
    host.wait_state("broken", "ready");
    host.wait_state("lost", "ready");
    // A program's own error is shown, and no more.
    let mut events = "event 0 xid 31\n".to_owned();
    fake.says(2, &[], &events);
    host.wait("broken", "marked", |view| view["gpus"][0]["health"][0] == "gpu_xid_application");
    assert_eq!((&host.view("broken")["state"], &host.view("broken")["health"]), (&"ready".into(), &"well".into()));
    events += "event 0 xid 48\n";
    fake.says(2, &[], &events);
    let view = host.wait_state("broken", "degraded");
    assert_eq!(view["health"], "gpu_xid_device");
    let (_, text) = host.read("/metrics");
    for reason in ["gpu_xid_device", "gpu_xid_application"] {
        let line = format!("arw_runtime_supervisor_health{{runtime=\"broken\",reason=\"{reason}\"}} 1");
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    fake.says(2, &[], &(events.clone() + "1 error all 15\n"));
    let view = host.wait_state("lost", "degraded");
    assert_eq!(view["health"], "gpu_lost");
    // It came back, and is well; the other has an error that only a person can judge.
    fake.says(2, &[], &events);
    assert_eq!(host.wait_state("lost", "ready")["health"], "well");
    host.must("broken", "restart");
    let view = host.wait_state("broken", "error");
    assert!(view["detail"].as_str().unwrap().contains("gpu_xid_device"), "{view:#}");
    host.must("lost", "restart");
    host.wait("lost", "launched anew", |view| view["run"] == 2 && view["state"] == "ready");
}

#[test]
fn an_adopted_run_keeps_its_gpu_its_budget_and_what_was_there_before() {
    let Some(fake) = fake() else { return };
    let waits = "auto_start = false\naccelerator = \"gpu\"\nprofile = \"gpu\"\n[runtimes.gpu]\ncount = 1";
    let second = bash("second", "sleep 1000", waits);
    fake.says(1, &[], "");
    let mut host = fake.host(&format!("{}{second}", with_gpu("first", "sleep 1000", "count = 1\nmemory = \"1GiB\"")));
    let first = host.wait_state("first", "ready");
    if !is_metered(&host, "first") {
        return;
    }
    host.daemon.kill9();
    host.daemon.restart();
    assert_eq!(host.wait_state("first", "ready")["pid"], first["pid"]);
    host.must("second", "start");
    let refused = host.wait_state("second", "error");
    assert!(refused["detail"].as_str().unwrap().contains("can be given"), "{refused:#}");
    fake.says(1, &[(0, pid(&first), 2 * GIB)], "");
    assert_eq!(host.wait_end("first")["last_death"]["cause"], "budget");
    // What it left is waited for, measured against what was there before it was launched.
    host.daemon.wait_for_log("GPU memory is not given back yet");
    fake.says(1, &[], "");
    wait_for("its GPU", || {
        host.must("second", "restart");
        let view = host.wait("second", "settled", |view| matches!(view["state"].as_str(), Some("ready" | "error")));
        (view["state"] == "ready").then_some(())
    });
}

#[test]
fn a_library_that_others_can_replace_is_not_loaded() {
    if !crate::can_launch() {
        return;
    }
    let Some(fake) = Fake::new() else { return };
    fs::set_permissions(fake.library(), Permissions::from_mode(0o777)).unwrap();
    let library = fake.library().to_str().unwrap().to_owned();
    let manifest = with_gpu("one", "true", "count = 1");
    let host = Host::start_with(&manifest, |setup| setup.set("runtimes.gpu_library", library));
    let view = host.wait_state("one", "error");
    assert!(view["detail"].as_str().unwrap().contains("could be replaced by another user"), "{view:#}");
    assert!(!fake.folder.path().join("libnvidia-ml.so.1.log").exists(), "it was initialised");
}
