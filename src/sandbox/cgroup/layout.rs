//! Which hierarchies the host has, and where this process is in them.
//!
//! Sources: `proc_pid_mountinfo(5)`, `proc_pid_cgroup(5)`, `cgroups(7)`.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::CgroupFault;

/// Where to look, and what to call ours. The default is the host's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// Only hierarchies that are mounted here or below are used.
    pub root: PathBuf,
    /// The mount table of this process.
    pub mountinfo: PathBuf,
    /// The groups of this process.
    pub own: PathBuf,
    /// A group, as a path from the top of each hierarchy, that an operator made for us; leaves are made
    /// below it, and not below the group that this process is in. Never the top itself.
    pub below: Option<PathBuf>,
    /// The name of our folder.
    pub folder: String,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/sys/fs/cgroup"),
            mountinfo: PathBuf::from("/proc/self/mountinfo"),
            own: PathBuf::from("/proc/self/cgroup"),
            below: None,
            folder: "arw".to_owned(),
        }
    }
}

/// Which kind of groups the host offers to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Version 2 only.
    Unified,
    /// Version 1 only.
    V1,
    /// Controllers in version 1, and a version 2 tree beside them.
    Hybrid,
    /// Neither.
    None,
}

/// A part of the kernel that counts and limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Controller {
    /// CPU time: quota and weight.
    Cpu,
    /// CPU time used; of its own in v1 only.
    CpuAcct,
    /// Which CPUs.
    CpuSet,
    /// Memory and swap.
    Memory,
    /// How many tasks.
    Pids,
    /// Stops and continues; of its own in v1 only.
    Freezer,
    /// Block devices.
    Io,
}

impl Controller {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Cpu, Self::CpuAcct, Self::CpuSet, Self::Memory, Self::Pids, Self::Freezer, Self::Io];

    /// Those that v2 hands down by name.
    pub(super) const UNIFIED: [Self; 5] = [Self::Cpu, Self::CpuSet, Self::Memory, Self::Pids, Self::Io];

    /// The kernel's name in v1.
    pub const fn v1_name(self) -> &'static str {
        match self {
            Self::Io => "blkio",
            other => other.v2_name(),
        }
    }

    /// The kernel's name in v2; v2 has no controllers `cpuacct` and `freezer`, it does their work always.
    pub const fn v2_name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::CpuAcct => "cpuacct",
            Self::CpuSet => "cpuset",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Freezer => "freezer",
            Self::Io => "io",
        }
    }

    fn from_v1(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|controller| controller.v1_name() == name)
    }
}

/// One hierarchy and the group in it below which ours are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Those of v1; empty for the v2 tree.
    pub controllers: Vec<Controller>,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The group below which our folder stands.
    pub dir: PathBuf,
    /// Whether `dir` is the top of what we can see.
    pub top: bool,
}

impl Hierarchy {
    /// The nearest group to `dir` that is there for as long as this process is.
    pub(super) fn lasting(&self) -> &Path {
        match self.dir.parent() {
            Some(above) if self.dir.ends_with(UNITS[1]) => above,
            _ => &self.dir,
        }
    }
}

/// All hierarchies that we can reach, and why not the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub unified: Option<Hierarchy>,
    pub v1: Vec<Hierarchy>,
    pub unreachable: Vec<String>,
}

/// A line of the mount table that is of a cgroup file system.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    root: PathBuf,
    point: PathBuf,
    /// `None` for v2.
    controllers: Option<Vec<Controller>>,
}

/// The group into which the daemon moves itself; `DelegateSubgroup=` of our unit names it too.
pub(super) const SUPERVISOR: &str = "arw-supervisor";

/// Our unit, and the one beside it whose group is for leaves alone. Where both are, the daemon's own group hands nothing
/// down: systemd puts no new process into one that does, so a daemon could not be started again beside living runtimes
/// (before 254, which has `DelegateSubgroup=`).
const UNITS: [&str; 2] = ["arw-server.service", "arw-runtimes.service"];

impl Layout {
    pub(super) fn kind(&self) -> Kind {
        match (&self.unified, self.v1.is_empty()) {
            (Some(_), true) => Kind::Unified,
            (Some(_), false) => Kind::Hybrid,
            (None, false) => Kind::V1,
            (None, true) => Kind::None,
        }
    }

    pub(super) fn read(roots: &Roots) -> Result<Self, CgroupFault> {
        let read = |path: &Path| std::fs::read(path).map_err(|source| CgroupFault::file(path, source));
        Self::parse(roots, &read(&roots.mountinfo)?, &read(&roots.own)?)
    }

    /// Reads the two tables. A line that is not UTF-8 is passed over: its path could not be said either.
    pub(super) fn parse(roots: &Roots, mountinfo: &[u8], own: &[u8]) -> Result<Self, CgroupFault> {
        let below = roots.below.as_deref().map(check_below).transpose()?;
        let mounts: Vec<Mount> = lines(mountinfo).filter_map(|line| mount(line, &roots.root)).collect();
        let mut layout = Self::default();
        for line in lines(own) {
            let mut fields = line.splitn(3, ':');
            let (Some(number), Some(names), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            let v2 = number == "0" && names.is_empty();
            let controllers: Vec<Controller> = names.split(',').filter_map(Controller::from_v1).collect();
            if !v2 && controllers.is_empty() {
                continue;
            }
            // The last mount of a hierarchy lies on top of those before it.
            let wanted = |mount: &&Mount| match &mount.controllers {
                None => v2,
                Some(found) => !v2 && controllers.iter().all(|one| found.contains(one)),
            };
            let what = if v2 { "the v2 tree".to_owned() } else { format!("`{names}`") };
            let Some(mount) = mounts.iter().rfind(wanted) else {
                layout.unreachable.push(format!("{what} is not mounted below `{}`", roots.root.display()));
                continue;
            };
            match place(mount, path, below, v2) {
                Ok((dir, top)) => {
                    let hierarchy = Hierarchy { controllers, mount: mount.point.clone(), dir, top };
                    if v2 { layout.unified = Some(hierarchy) } else { layout.v1.push(hierarchy) }
                }
                Err(reason) => layout.unreachable.push(format!("{what}: {reason}")),
            }
        }
        // That of the CPU last, as it is entered.
        layout.v1.sort_by_key(|hierarchy| hierarchy.controllers.contains(&Controller::Cpu));
        Ok(layout)
    }
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &str> {
    bytes.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok())
}

/// `36 35 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu`
fn mount(line: &str, root: &Path) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (inner, point) = (unescape(before.next()?)?, unescape(before.next()?)?);
    let mut after = after.split(' ');
    let controllers = match after.next()? {
        "cgroup2" => None,
        "cgroup" => Some(after.nth(1)?.split(',').filter_map(Controller::from_v1).collect()),
        _ => return None,
    };
    let mount = Mount { root: PathBuf::from(inner), point: PathBuf::from(point), controllers };
    mount.point.starts_with(root).then_some(mount)
}

/// The mount table writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'\\' {
            let digits = std::str::from_utf8(tail.get(..3)?).ok()?;
            out.push(u8::from_str_radix(digits, 8).ok()?);
            rest = &tail[3..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    String::from_utf8(out).ok()
}

/// The folder of our own group, or of the configured one, and whether that is the top.
fn place(mount: &Mount, own: &str, below: Option<&Path>, v2: bool) -> Result<(PathBuf, bool), String> {
    if let Some(below) = below {
        let dir = mount.point.join(below);
        return if dir.is_dir() { Ok((dir, false)) } else { Err(format!("there is no group `/{}`", below.display())) };
    }
    if own.ends_with(" (deleted)") {
        return Err("the group of this process was removed".to_owned());
    }
    let path = Path::new(own);
    let inner = path
        .strip_prefix(&mount.root)
        .ok()
        .filter(|inner| path.is_absolute() && plain(inner) && plain(mount.root.strip_prefix("/").unwrap_or(path)))
        .ok_or_else(|| format!("the group of this process, `{own}`, lies outside of what is mounted here"))?;
    // Started by a unit with `DelegateSubgroup=`, or settled before: what is ours begins one above.
    let inner = if v2 && inner.ends_with(SUPERVISOR) { inner.parent().unwrap_or(inner) } else { inner };
    if v2 && inner.ends_with(UNITS[0]) {
        let beside = mount.point.join(inner.with_file_name(UNITS[1]));
        if beside.is_dir() {
            return Ok((beside, false));
        }
    }
    let dir = if inner.as_os_str().is_empty() { mount.point.clone() } else { mount.point.join(inner) };
    Ok((dir, inner.as_os_str().is_empty()))
}

fn plain(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_)))
}

fn check_below(path: &Path) -> Result<&Path, CgroupFault> {
    let fault = |reason| CgroupFault::Below { path: path.to_owned(), reason };
    let inner = path.strip_prefix("/").unwrap_or(path);
    if inner.as_os_str().is_empty() {
        return Err(fault("it is the top of the hierarchy"));
    }
    if !plain(inner) {
        return Err(fault("it has `..` in it"));
    }
    Ok(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
50 31 0:39 / /mnt/elsewhere/pids rw,relatime - cgroup cgroup rw,pids
";

    fn parse(mountinfo: &str, own: &str) -> Layout {
        Layout::parse(&Roots::default(), mountinfo.as_bytes(), own.as_bytes()).expect("layout")
    }

    #[test]
    fn a_hybrid_host_is_read_with_the_own_group_of_each_hierarchy() {
        let layout = parse(HYBRID, "9:name=systemd:/x\n8:pids:/\n4:memory:/a/b\n1:cpu,cpuacct:/\n0::/user/me\n");
        assert_eq!(layout.kind(), Kind::Hybrid);
        let unified = layout.unified.expect("v2");
        assert_eq!((unified.dir.as_path(), unified.top), (Path::new("/sys/fs/cgroup/unified/user/me"), false));
        assert_eq!(layout.v1.len(), 2);
        assert_eq!(layout.v1[0].dir, Path::new("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(layout.v1[1].controllers, [Controller::Cpu, Controller::CpuAcct]);
        assert!(layout.v1[1].top);
        assert_eq!(layout.unreachable, ["`pids` is not mounted below `/sys/fs/cgroup`"]);
    }

    #[test]
    fn a_unified_host_is_read() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let layout = parse(mounts, "0::/system.slice/arw.service\n");
        assert_eq!(layout.kind(), Kind::Unified);
        assert_eq!(layout.unified.expect("v2").dir, Path::new("/sys/fs/cgroup/system.slice/arw.service"));
    }

    #[test]
    fn a_daemon_in_its_own_subgroup_finds_the_group_above() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let unified = parse(mounts, "0::/system.slice/arw.service/arw-supervisor\n").unified.expect("v2");
        assert_eq!(unified.dir, Path::new("/sys/fs/cgroup/system.slice/arw.service"));
        let unified = parse(mounts, "0::/system.slice/not-arw-supervisor\n").unified.expect("v2");
        assert_eq!(unified.dir, Path::new("/sys/fs/cgroup/system.slice/not-arw-supervisor"));
    }

    #[test]
    fn the_daemon_s_unit_uses_the_unit_beside_it_and_nobody_else_does() {
        let mounted = tempfile::tempdir().expect("dir");
        let slice = mounted.path().join("system.slice");
        std::fs::create_dir_all(slice.join("arw-runtimes.service")).expect("made");
        let roots = Roots { root: mounted.path().to_owned(), ..Roots::default() };
        let mounts = format!("30 23 0:26 / {} rw - cgroup2 cgroup2 rw\n", mounted.path().display());
        let hierarchy = |own: &str| {
            let layout = Layout::parse(&roots, mounts.as_bytes(), own.as_bytes()).expect("layout");
            layout.unified.expect("v2")
        };
        let dir = |own: &str| hierarchy(own).dir;
        for own in ["0::/system.slice/arw-server.service\n", "0::/system.slice/arw-server.service/arw-supervisor\n"] {
            assert_eq!(dir(own), slice.join("arw-runtimes.service"), "{own}");
            assert_eq!(hierarchy(own).lasting(), slice, "that unit may be restarted beside the daemon");
        }
        // A foreground run must not stand among the daemon's runtimes, nor a daemon of another slice.
        for own in ["system.slice/run-1.scope", "system.slice/not-arw-server.service", "user.slice/arw-server.service"]
        {
            assert_eq!(dir(&format!("0::/{own}\n")), mounted.path().join(own));
            assert_eq!(hierarchy(&format!("0::/{own}\n")).lasting(), mounted.path().join(own));
        }
    }

    #[test]
    fn inside_a_container_the_mounted_part_is_taken_off() {
        let mounts = "30 23 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let unified = parse(mounts, "0::/docker/abc/me\n").unified.expect("v2");
        assert_eq!((unified.dir.as_path(), unified.top), (Path::new("/sys/fs/cgroup/me"), false));
        assert!(parse(mounts, "0::/docker/abc\n").unified.expect("v2").top);
    }

    #[test]
    fn a_group_outside_of_the_mount_or_gone_is_not_guessed() {
        let mounts = "30 23 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        for own in ["0::/docker/abcd\n", "0::/\n", "0::/docker/abc/../../x\n", "0::/docker/abc/x (deleted)\n", "0::\n"]
        {
            let layout = parse(mounts, own);
            assert_eq!((layout.kind(), layout.unreachable.len()), (Kind::None, 1), "{own}");
        }
        let mounts = "30 23 0:26 /.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(parse(mounts, "0::/../x\n").kind(), Kind::None);
    }

    #[test]
    fn escaped_mount_points_are_read_and_the_topmost_mount_counts() {
        let roots = Roots { root: PathBuf::from("/a b"), ..Roots::default() };
        let mounts =
            b"1 1 0:1 / /a\\040b/x rw - cgroup cgroup rw,pids\n2 1 0:1 / /a\\040b/y rw - cgroup cgroup rw,pids\n\
            3 1 0:1 / /a\\04 rw - cgroup cgroup rw,pids\n";
        let layout = Layout::parse(&roots, mounts, b"8:pids:/\n").expect("layout");
        assert_eq!(layout.v1[0].dir, Path::new("/a b/y"));
    }

    #[test]
    fn what_is_no_table_gives_no_groups() {
        for (mounts, own) in [("", ""), ("- -\n- cgroup", "::::\n1:2"), (HYBRID, ""), (HYBRID, "8:pids")] {
            assert_eq!(parse(mounts, own).kind(), Kind::None);
        }
        let layout = Layout::parse(&Roots::default(), HYBRID.as_bytes(), b"0::/\xff\n4:memory:/\n").expect("layout");
        assert_eq!(layout.kind(), Kind::V1);
    }

    #[test]
    fn the_top_and_a_way_up_are_refused_as_the_configured_group() {
        for bad in ["/", "", "/a/../..", ".."] {
            let roots = Roots { below: Some(PathBuf::from(bad)), ..Roots::default() };
            let fault = Layout::parse(&roots, HYBRID.as_bytes(), b"0::/\n").expect_err(bad);
            assert!(matches!(fault, CgroupFault::Below { .. }), "{bad}: {fault}");
        }
    }
}
