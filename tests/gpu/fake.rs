//! Builds the fake library and writes its script.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use arw::gpu::{
    Adapter, ComputeMode, GpuUuid, Gpus, Health, Memory, MigMode, Minor, PciAddress, ProcessUsage, Reading,
};
use tempfile::TempDir;

/// The source of the fake.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gpu/fake_nvml.c");

/// A loaded-to-be fake library in a folder of its own, so that each test has its own state.
pub(crate) struct Fake {
    folder: TempDir,
}

impl Fake {
    /// The fake with this script; nothing, and a line that says so, where there is no C compiler.
    pub(crate) fn new(script: &str) -> Option<Self> {
        Self::copy_of(compiled()?, script)
    }

    /// The fake with something left out (`-DWITHOUT_…`): a library that is not what it says.
    pub(crate) fn without(what: &str, script: &str) -> Option<Self> {
        let (_folder, library) = build(&[what])?;
        Self::copy_of(&library, script)
    }

    fn copy_of(library: &Path, script: &str) -> Option<Self> {
        // Another file is another library to the loader, with its own variables.
        let fake = Self { folder: folder() };
        fs::copy(library, fake.library()).expect("copied");
        fs::set_permissions(fake.library(), Permissions::from_mode(0o755)).expect("own file");
        fake.script(script);
        Some(fake)
    }

    /// Opens it through the real loader.
    pub(crate) fn open(&self) -> Gpus {
        Gpus::open(Some(&self.library()))
    }

    pub(crate) fn library(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so.1")
    }

    /// What it answers from now on.
    pub(crate) fn script(&self, script: &str) {
        fs::write(self.folder.path().join("libnvidia-ml.so.1.script"), script).expect("written");
    }

    /// What it has opened and closed.
    pub(crate) fn log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.folder.path().join("libnvidia-ml.so.1.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }
}

fn compiled() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<(TempDir, PathBuf)>> = OnceLock::new();
    BUILT.get_or_init(|| build(&[])).as_ref().map(|(_, library)| library.as_path())
}

fn build(options: &[&str]) -> Option<(TempDir, PathBuf)> {
    let folder = folder();
    let library = folder.path().join("fake.so");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]).args(options);
    match cc.arg("-o").arg(&library).arg(SOURCE).arg("-ldl").status() {
        Ok(status) => assert!(status.success(), "the fake does not compile"),
        Err(fault) => {
            println!("SKIP gpu: the fake library needs `cc`: {fault}");
            return None;
        }
    }
    Some((folder, library))
}

/// A folder that nobody else may write, as the loader's check wants it.
fn folder() -> TempDir {
    tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().expect("a folder")
}

/// The UUID of the fake's GPU `number`.
pub(crate) fn uuid(number: u32) -> GpuUuid {
    GpuUuid::parse(&format!("GPU-00000000-0000-4000-8000-{number:012x}")).expect("valid")
}

/// The script of a host with `count` healthy GPUs. GPU n has the minor n + 3: an index is no minor.
pub(crate) fn host(count: u32) -> String {
    let gpu = |n: u32| {
        format!(
            "{n} uuid {}\n{n} name NVIDIA H200\n{n} pci 00000000:{:02X}:00.0\n{n} minor {}\n\
             {n} memory 150000000000 1000000000 140000000000 9000000000\n{n} mig 0 0\n{n} compute_mode 0\n\
             {n} utilization 37 12\n{n} temperature 41\n{n} power 123456\n{n} ecc_uncorrected 0\n{n} throttle 0\n\
             {n} event_types 31\n",
            uuid(n),
            n + 0x1b,
            n + 3,
        )
    };
    let gpus: String = (0..count).map(gpu).collect();
    format!("driver 580.95.05\ncuda 13000\ncount {count}\n{gpus}")
}

/// A healthy GPU with so much memory, made without any library.
pub(crate) fn adapter(number: u32, total: u64, used: u64) -> Adapter {
    Adapter {
        index: number,
        uuid: uuid(number),
        name: "NVIDIA H200".to_owned(),
        pci: PciAddress::parse(&format!("0000:{:02x}:00.0", number + 1)).expect("valid"),
        minor: Minor::new(number + 3).expect("valid"),
        mig: MigMode::Off,
        compute_mode: ComputeMode::Shared,
        memory: Memory { total, reserved: 0, free: total - used, used },
        health: Health::default(),
    }
}

/// A reading of a GPU with these processes (id, bytes), made without any library.
pub(crate) fn reading(number: u32, used: u64, processes: &[(u32, Option<u64>)]) -> Reading {
    let usage = |(pid, memory): &(u32, Option<u64>)| ProcessUsage { pid: *pid, memory: *memory, utilization: None };
    let total = 150_000_000_000;
    Reading {
        memory: Some(Memory { total, reserved: 0, free: total - used, used }),
        processes: Some(processes.iter().map(usage).collect()),
        ..Reading::unknown(uuid(number), Health::default())
    }
}
