//! Capabilities (`capabilities(7)`): given up for good, and read back.

use std::io;

use nix::errno::Errno;

/// The sets of the calling thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// What counts now.
    pub effective: u64,
    /// What may be made to count.
    pub permitted: u64,
    /// What survives the execution of a file that inherits.
    pub inheritable: u64,
    /// What survives the execution of any file.
    pub ambient: u64,
    /// The upper bound of what executing a file can give.
    pub bounding: u64,
}

impl Capabilities {
    /// The sets as they are.
    ///
    /// # Errors
    /// None in practice; the system calls' own.
    pub fn of_this_thread() -> io::Result<Self> {
        let mut header = Header::default();
        let mut data = [Data::default(); 2];
        // SAFETY: with version 3 the kernel writes two struct __user_cap_data, and `data` holds two.
        let done = unsafe { libc::syscall(libc::SYS_capget, std::ptr::from_mut(&mut header), data.as_mut_ptr()) };
        Errno::result(done)?;
        let join = |part: fn(&Data) -> u32| u64::from(part(&data[0])) | (u64::from(part(&data[1])) << 32);
        let permitted = join(|data| data.permitted);
        let (mut bounding, mut ambient) = (0, 0);
        for number in 0..MAX_CAPABILITIES {
            // An unknown number ends the list: EINVAL.
            let Ok(bounded) = prctl(libc::PR_CAPBSET_READ, number, 0) else { break };
            bounding |= u64::from(bounded == 1) << number;
            // The kernel keeps only what is permitted in the ambient set.
            if permitted & (1 << number) != 0 {
                let raised = prctl(libc::PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, number).unwrap_or(0);
                ambient |= u64::from(raised == 1) << number;
            }
        }
        Ok(Self {
            effective: join(|data| data.effective),
            permitted,
            inheritable: join(|data| data.inheritable),
            ambient,
            bounding,
        })
    }

    /// Whether no set holds anything.
    pub const fn are_none(&self) -> bool {
        self.effective | self.permitted | self.inheritable | self.ambient | self.bounding == 0
    }
}

/// Empties the bounding set, so that no file can ever give a capability again. Needs `CAP_SETPCAP`.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn empty_bounding_set() -> io::Result<()> {
    narrow_bounding_set(0)
}

/// Takes everything but `keep` out of the bounding set. Needs `CAP_SETPCAP`.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn narrow_bounding_set(keep: u64) -> io::Result<()> {
    for number in (0..MAX_CAPABILITIES).filter(|number| keep & (1 << number) == 0) {
        match prctl(libc::PR_CAPBSET_DROP, number, 0) {
            Ok(_) => {}
            Err(Errno::EINVAL) => break,
            Err(fault) => return Err(fault.into()),
        }
    }
    Ok(())
}

/// Makes user id 0 an id like any other, and locks that (`SECBIT_NOROOT` and its neighbours). Needs
/// `CAP_SETPCAP`.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn lock_secure_bits() -> io::Result<()> {
    // linux/securebits.h: NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE, each with its lock.
    // KEEP_CAPS is only locked: off.
    const NOROOT: u64 = 0b11;
    const KEEP_CAPS_LOCKED: u64 = 0b10_0000;
    const NO_AMBIENT_RAISE: u64 = 0b1100_0000;
    prctl(libc::PR_SET_SECUREBITS, NOROOT | KEEP_CAPS_LOCKED | NO_AMBIENT_RAISE, 0)?;
    Ok(())
}

/// Empties the ambient, inheritable, permitted and effective sets.
///
/// # Errors
/// None in practice; the system calls' own.
pub fn drop_all() -> io::Result<()> {
    keep_only(0)
}

/// Empties the ambient and inheritable sets, and takes everything but `keep` out of the permitted and effective ones.
/// What is not permitted now does not become so.
///
/// # Errors
/// None in practice; the system calls' own.
pub fn keep_only(keep: u64) -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0)?;
    let keep = if keep == 0 { 0 } else { keep & Capabilities::of_this_thread()?.permitted };
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).expect("32 bits");
    let word = |bits: u32| Data { effective: bits, permitted: bits, inheritable: 0 };
    let mut header = Header::default();
    let data = [word(half(keep)), word(half(keep >> 32))];
    // SAFETY: with version 3 the kernel reads two struct __user_cap_data, and `data` holds two.
    let done = unsafe { libc::syscall(libc::SYS_capset, std::ptr::from_mut(&mut header), data.as_ptr()) };
    Errno::result(done)?;
    Ok(())
}

fn prctl(option: libc::c_int, first: u64, second: u64) -> Result<libc::c_int, Errno> {
    // SAFETY: the options used here take numbers only, no pointers, and change nothing but this thread's
    // credentials.
    Errno::result(unsafe { libc::prctl(option, first, second, 0_u64, 0_u64) })
}

/// More than the kernel has (41 in Linux 6.18), and all that two words hold.
const MAX_CAPABILITIES: u64 = 64;
/// `linux/prctl.h`.
const PR_CAP_AMBIENT_IS_SET: u64 = 1;
const PR_CAP_AMBIENT_CLEAR_ALL: u64 = 4;

/// `struct __user_cap_header_struct`; process 0 is the calling thread.
#[repr(C)]
#[derive(Debug)]
struct Header {
    version: u32,
    pid: i32,
}

impl Default for Header {
    fn default() -> Self {
        // _LINUX_CAPABILITY_VERSION_3
        Self { version: 0x2008_0522, pid: 0 }
    }
}

/// `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sets_read_here_are_those_that_proc_shows() {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("proc");
        let shown = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("line");
            u64::from_str_radix(line.trim_start_matches(':').trim(), 16).expect("hex")
        };
        let read = Capabilities::of_this_thread().expect("capabilities");
        assert_eq!(read.effective, shown("CapEff"));
        assert_eq!(read.permitted, shown("CapPrm"));
        assert_eq!(read.inheritable, shown("CapInh"));
        assert_eq!(read.ambient, shown("CapAmb"));
        assert_eq!(read.bounding, shown("CapBnd"));
    }
}
