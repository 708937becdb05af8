use std::fs;

use super::*;
use crate::sandbox::plan::{Absent, ProcView};
use crate::sandbox::profile::{Workload, Workspace};
use crate::sandbox::{Profile, Text};

fn floor(mapped: Option<(u32, u32)>) -> Floor {
    let charter = Charter {
        first_uid: 70_000,
        uids: 16,
        manifest: "/nonexistent/runtimes.toml".into(),
        follows: true,
        shelves: Vec::new(),
        kept: Vec::new(),
        written: Vec::new(),
    };
    // Not what this host makes of the test's own user.
    Floor { mapped, ..Floor::new(charter) }
}

const HOST: User = User::Host { uid: 70_003, gid: 70_003 };
const MAPPED: User = User::Mapped { uid: 1_000, gid: 1_000, outside_uid: 0, outside_gid: 0 };

fn plan(name: ProfileName, user: User) -> Plan {
    let mut workload = Workload::new(vec![Text::from("true")], user);
    workload.devices.push("/dev/nvidia7".into());
    let workspace = |source: &str, target: &str, access| Workspace {
        source: source.into(),
        target: target.into(),
        access,
        owner: Owner::Command,
    };
    workload.workspaces.push(workspace("/srv/a", "/work", Access::ReadWrite));
    workload.workspaces.push(workspace("/srv/b", "/work/b", Access::ReadOnly));
    Profile::embedded(name).plan(&workload).expect("plan")
}

fn breach(outcome: Result<(), Fault>) -> Option<Breach> {
    let fault = outcome.err()?;
    assert_eq!(fault.step, Step::Charter);
    let code = fault.detail.split(':').next().expect("a code");
    Some(Breach::from_code(code).unwrap_or_else(|| panic!("{fault}")))
}

#[test]
fn every_profile_keeps_to_it() {
    for name in ProfileName::ALL {
        assert_eq!(breach(floor(None).admits(&plan(*name, HOST))), None, "{name}");
        assert_eq!(breach(floor(Some((0, 0))).admits(&plan(*name, MAPPED))), None, "{name}");
    }
}

#[test]
fn a_user_is_one_of_the_range_or_the_launcher_itself() {
    let host = |uid, gid| User::Host { uid, gid };
    let mapped = |uid, gid, outside_uid, outside_gid| User::Mapped { uid, gid, outside_uid, outside_gid };
    let table = [
        (None, host(70_000, 70_000), true),
        (None, host(70_015, 70_015), true),
        (None, host(70_016, 70_016), false),
        (None, host(69_999, 69_999), false),
        (None, host(0, 0), false),
        (None, host(70_003, 0), false),
        (None, host(70_003, 42), false),
        (None, host(1_000, 1_000), false),
        (None, host(u32::MAX, u32::MAX), false),
        (None, MAPPED, false),
        (Some((0, 0)), MAPPED, true),
        (Some((0, 0)), HOST, false),
        (Some((0, 0)), mapped(0, 1_000, 0, 0), false),
        (Some((0, 0)), mapped(1_000, 0, 0, 0), false),
        (Some((1_000, 1_000)), mapped(1_000, 1_000, 1_000, 1_000), true),
        (Some((1_000, 1_000)), mapped(1_000, 1_000, 1_001, 1_000), false),
        (Some((1_000, 1_000)), mapped(1_000, 1_000, 1_000, 0), false),
    ];
    for (own, user, admitted) in table {
        let expected = (!admitted).then_some(Breach::User);
        assert_eq!(breach(floor(own).admits(&plan(ProfileName::Strict, user))), expected, "{own:?} {user:?}");
    }
    // A range that reaches down to root, or over the end, has neither.
    let mut wide = floor(None);
    (wide.charter.first_uid, wide.charter.uids) = (0, u32::MAX);
    assert_eq!(breach(wide.admits(&plan(ProfileName::Strict, host(0, 0)))), Some(Breach::User));
    assert_eq!(breach(wide.admits(&plan(ProfileName::Strict, host(u32::MAX, u32::MAX)))), Some(Breach::User));
}

#[test]
fn no_wall_is_left_out_and_each_is_required() {
    for control in Control::ALL {
        let mut without = plan(ProfileName::Standard, HOST);
        without.without = vec![*control];
        assert_eq!(breach(floor(None).admits(&without)), Some(Breach::Control), "{control}");
        let mut lax = plan(ProfileName::Standard, HOST);
        lax.require.retain(|one| one != control);
        let expected = BOUNDARY.contains(control).then_some(Breach::Control);
        assert_eq!(breach(floor(None).admits(&lax)), expected, "{control}");
    }
    for change in [|plan: &mut Plan| plan.limits.clear(), |plan: &mut Plan| plan.limits[0].most = 1 << 30] {
        let mut dumps = plan(ProfileName::Standard, HOST);
        let core = dumps.limits.iter().position(|limit| limit.resource == Resource::CoreFile).expect("a limit");
        dumps.limits.swap(0, core);
        change(&mut dumps);
        assert_eq!(breach(floor(None).admits(&dumps)), Some(Breach::Limit));
    }
}

#[test]
fn a_root_begins_as_a_profiles_and_nothing_is_made_over_what_is_bound() {
    let bind = |source: &str, target: &str, access, owner| Mount::Bind {
        source: source.into(),
        target: target.into(),
        access,
        absent: Absent::Fault,
        owner,
    };
    let changed = |change: &dyn Fn(&mut Vec<Mount>)| {
        let mut plan = plan(ProfileName::Strict, HOST);
        change(&mut plan.mounts);
        breach(floor(None).admits(&plan))
    };
    let end = |entry: Mount| changed(&|mounts| mounts.push(entry.clone()));
    assert_eq!(changed(&|mounts| drop(mounts.remove(0))), Some(Breach::Root));
    assert_eq!(changed(&|mounts| mounts.clear()), Some(Breach::Root));
    assert_eq!(changed(&|mounts| mounts.insert(0, Mount::Folder { target: "/x".into() })), Some(Breach::Root));
    let writable = |mounts: &mut Vec<Mount>| {
        let programs = mounts.iter_mut().find_map(|entry| match entry {
            Mount::Bind { access, owner, .. } => Some((access, owner)),
            _ => None,
        });
        let (access, owner) = programs.expect("programs are bound");
        (*access, *owner) = (Access::ReadWrite, Owner::Command);
    };
    assert_eq!(changed(&writable), Some(Breach::Root));
    for late in [
        Mount::File { target: "/work/authorized_keys".into(), contents: "x".to_owned() },
        Mount::Link { target: "/work/link".into(), to: "/etc".into() },
        Mount::Folder { target: "/work/folder".into() },
        Mount::Proc { view: ProcView::Masked },
        bind("/dev/nvidia1", "/dev/nvidia1", Access::Device, Owner::Host),
    ] {
        assert_eq!(end(late.clone()), Some(Breach::Order), "{late:?}");
    }
    for over in ["/etc", "/proc/sys", "/usr/bin", "/.arw", "/run", "/", "/work/../etc"] {
        assert_eq!(end(bind("/srv/a", over, Access::ReadOnly, Owner::Host)), Some(Breach::Target), "{over}");
    }
}

#[test]
fn a_device_is_a_card_by_its_own_name_and_belongs_to_the_host() {
    let device = |source: &str, target: &str, owner| {
        let mut plan = plan(ProfileName::Gpu, HOST);
        let first = plan.mounts.iter().position(|entry| matches!(entry, Mount::Proc { .. })).expect("proc");
        let (source, target) = (source.into(), target.into());
        let entry = Mount::Bind { source, target, access: Access::Device, absent: Absent::Skip, owner };
        plan.mounts.insert(first, entry);
        breach(floor(None).admits(&plan))
    };
    assert_eq!(device("/dev/nvidia0", "/dev/nvidia0", Owner::Host), None);
    let disk = "/dev/sda";
    for (source, target, owner) in [
        (disk, disk, Owner::Host),
        (disk, "/dev/nvidia0", Owner::Host),
        ("/dev/nvidia0", disk, Owner::Host),
        ("/dev/nvidia0", "/dev/nvidia0", Owner::Command),
        ("/dev/nvidia", "/dev/nvidia", Owner::Host),
        ("/dev/nvidia0/../sda", "/dev/nvidia0/../sda", Owner::Host),
        ("/dev/nvidia-caps/nvidia-cap1", "/dev/nvidia-caps/nvidia-cap1", Owner::Host),
        ("/dev/mem", "/dev/mem", Owner::Command),
    ] {
        assert_eq!(device(source, target, owner), Some(Breach::Device), "{source} {target}");
    }
}

#[test]
fn namespaces_are_all_of_a_launch_and_no_other() {
    use Namespace::{Ipc, Mount, Network, Pid, User, Uts};
    let all = [Mount, Pid, Network, Ipc, Uts];
    let with_user = [User, Mount, Pid, Network, Ipc, Uts];
    assert_eq!(breach(floor(None).admits_namespaces(&all)), None);
    assert_eq!(breach(floor(Some((0, 0))).admits_namespaces(&with_user)), None);
    assert_eq!(breach(floor(None).admits_namespaces(&with_user)), Some(Breach::Namespaces));
    assert_eq!(breach(floor(Some((0, 0))).admits_namespaces(&all)), Some(Breach::Namespaces));
    assert_eq!(breach(floor(None).admits_namespaces(&[])), Some(Breach::Namespaces));
    for left_out in 0..all.len() {
        let mut some = all.to_vec();
        some.remove(left_out);
        assert_eq!(breach(floor(None).admits_namespaces(&some)), Some(Breach::Namespaces), "{some:?}");
        some.push(some[0]);
        assert_eq!(breach(floor(None).admits_namespaces(&some)), Some(Breach::Namespaces), "{some:?}");
    }
}

/// A host on which everything that is bound lies in one folder.
struct Host {
    floor: Floor,
    folder: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let at = folder.path().canonicalize().expect("real");
        for made in ["work/deeper", "read", "other", "state/recipes/one", "state/runtimes", "config"] {
            fs::create_dir_all(at.join(made)).expect("folder");
        }
        let charter = Charter {
            manifest: at.join("config/runtimes.toml"),
            shelves: vec![at.join("state/recipes")],
            kept: vec![at.join("state"), at.join("config")],
            written: vec![at.join("state")],
            ..floor(None).charter
        };
        Self { floor: Floor { mapped: None, ..Floor::new(charter) }, folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().expect("real").join(name)
    }

    fn declare(&mut self, workspaces: &[String]) -> bool {
        let list: Vec<String> = workspaces.iter().map(|text| format!("{text:?}")).collect();
        let manifest = format!(
            "[[runtimes]]\nid = \"one\"\npersona = \"demo\"\n[runtimes.process]\ncommand = \"true\"\nuser = 1007\n\
             workspaces = [{}]\n",
            list.join(", ")
        );
        // Another file, as an editor makes one: a time alone may be the same.
        fs::write(self.at("config/new"), manifest).expect("write");
        fs::rename(self.at("config/new"), self.at("config/runtimes.toml")).expect("rename");
        self.floor.look_again()
    }

    fn bound(&self, name: &str, access: Access, owner: Owner) -> Option<Breach> {
        self.bound_at(&self.at(name), access, owner)
    }

    fn bound_at(&self, source: &Path, access: Access, owner: Owner) -> Option<Breach> {
        let opened = fs::File::open(source).expect("it is there").into();
        let (source, target) = (source.to_owned(), "/work".into());
        breach(self.floor.admits_source(&Mount::Bind { source, target, access, absent: Absent::Fault, owner }, &opened))
    }
}

#[test]
fn what_is_bound_was_declared_and_a_manifest_may_declare_more() {
    use Access::{ReadOnly, ReadWrite};
    let mut host = Host::new();
    let own = Owner::Command;
    assert_eq!(host.bound("work", ReadOnly, own), Some(Breach::Source));
    assert_eq!(breach(host.floor.admits_user(User::Host { uid: 1_007, gid: 1_007 })), Some(Breach::User));
    let (work, read) = (host.at("work").display().to_string(), host.at("read").display().to_string());
    assert!(host.declare(&[format!("{work}:/w:rw"), format!("{read}:/r")]));
    assert!(!host.floor.look_again(), "nothing has changed since");
    assert_eq!(breach(host.floor.admits_user(User::Host { uid: 1_007, gid: 1_007 })), None);
    assert_eq!(breach(host.floor.admits_user(User::Host { uid: 1_008, gid: 1_008 })), Some(Breach::User));
    for (name, access, expected) in [
        ("work", ReadWrite, None),
        ("work", ReadOnly, None),
        ("read", ReadOnly, None),
        ("read", ReadWrite, Some(Breach::Source)),
        ("work/deeper", ReadWrite, Some(Breach::Source)),
        ("other", ReadOnly, Some(Breach::Source)),
        ("state/runtimes", ReadOnly, Some(Breach::Source)),
        ("state", ReadOnly, Some(Breach::Source)),
    ] {
        assert_eq!(host.bound(name, access, own), expected, "{name} {access:?}");
    }
    for secret in ["/etc/passwd", "/", "/etc", "/proc/self/environ", "/root", "/dev"] {
        if fs::File::open(secret).is_ok() {
            assert_eq!(host.bound_at(Path::new(secret), ReadOnly, own), Some(Breach::Source), "{secret}");
        }
    }
    // What a recipe brings is for reading, and its files are the host's.
    assert_eq!(host.bound("state/recipes/one", ReadOnly, Owner::Host), None);
    assert_eq!(host.bound("state/recipes/one", ReadOnly, own), Some(Breach::Source));
    assert_eq!(host.bound("state/recipes/one", ReadWrite, Owner::Host), Some(Breach::Source));
    assert_eq!(host.bound("state/recipes", ReadOnly, Owner::Host), Some(Breach::Source));

    // A manifest that is faulty changes nothing, one that names no folder takes all back.
    fs::write(host.at("config/runtimes.toml"), "[[runtimes").expect("write");
    assert!(!host.floor.look_again());
    assert_eq!(host.bound("work", ReadWrite, own), None);
    assert!(host.declare(&[]));
    assert_eq!(host.bound("work", ReadOnly, own), Some(Breach::Source));
    // Where the caller can write it, it counts as it was at the start.
    host.floor.charter.follows = false;
    assert!(!host.declare(&[work]));
    assert_eq!(host.bound("work", ReadOnly, own), Some(Breach::Source));
}

#[test]
fn what_is_declared_is_still_neither_the_hosts_nor_the_gateways() {
    use Access::{ReadOnly, ReadWrite};
    let mut host = Host::new();
    let text = |path: &Path, access: &str| format!("{}:/x:{access}", path.display());
    let (state, home) = (host.at("state"), host.at(""));
    fs::create_dir(host.at("state/mine")).expect("folder");
    let mine = host.at("state/mine");
    let paths = [&state, &home, &mine, Path::new("/etc"), Path::new("/usr/bin"), Path::new("/dev/null")];
    assert!(host.declare(&paths.map(|path| text(path, "rw"))));
    assert_eq!(host.bound("state", ReadOnly, Owner::Command), Some(Breach::Kept));
    assert_eq!(host.bound_at(&home, ReadOnly, Owner::Command), Some(Breach::Kept));
    assert_eq!(host.bound_at(&mine, ReadWrite, Owner::Command), None);
    assert_eq!(host.bound_at(Path::new("/etc"), ReadWrite, Owner::Command), Some(Breach::System));
    let programs = Path::new("/usr/bin");
    assert_eq!(host.bound_at(programs, ReadWrite, Owner::Host), Some(Breach::System));
    assert_eq!(host.bound_at(programs, ReadOnly, Owner::Host), None);
    // A device is not a folder that somebody works in, whatever it is declared as.
    assert_eq!(host.bound_at(Path::new("/dev/null"), ReadWrite, Owner::Command), Some(Breach::Source));
}

/// The name is declared; where it leads is for whoever can put a link there to say, and that must be nobody inside.
#[test]
fn a_link_counts_where_the_operator_made_it_and_nowhere_else() {
    use std::os::unix::fs::symlink;
    let mut host = Host::new();
    let rw = |path: PathBuf| format!("{}:/x:rw", path.display());
    symlink(host.at("other"), host.at("short")).expect("link");
    let names = ["short", "work", "work/inner", "state/inner"].map(|name| rw(host.at(name)));
    assert!(host.declare(&names));
    assert_eq!(host.bound("short", Access::ReadWrite, Owner::Command), None);
    assert!(host.declare(&names[1..]));
    // By the command in its own folder, and by the caller in its state.
    symlink(host.at("other"), host.at("work/inner")).expect("link");
    symlink(host.at("other"), host.at("state/inner")).expect("link");
    assert_eq!(host.bound("work/inner", Access::ReadWrite, Owner::Command), Some(Breach::Source));
    assert_eq!(host.bound("state/inner", Access::ReadWrite, Owner::Command), Some(Breach::Source));
}
