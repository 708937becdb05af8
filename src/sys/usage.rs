//! CPU time and memory of this process.

use std::io;
use std::time::Duration;

use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::{SysconfVar, sysconf};

/// CPU time, user and system together, that all threads of the process have used (`getrusage(2)`).
///
/// # Errors
/// None in practice; the system call's own.
pub fn process_cpu() -> io::Result<Duration> {
    Ok(sum(&getrusage(UsageWho::RUSAGE_SELF)?))
}

/// CPU time, user and system together, that the calling thread has used.
///
/// # Errors
/// None in practice; the system call's own.
pub fn thread_cpu() -> io::Result<Duration> {
    Ok(sum(&getrusage(UsageWho::RUSAGE_THREAD)?))
}

/// Bytes of memory that the process holds in RAM (`/proc/self/statm`, second field, in pages).
///
/// # Errors
/// `/proc` is not mounted, or does not say what `proc_pid_statm(5)` promises.
pub fn resident_bytes() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text.split_ascii_whitespace().nth(1).and_then(|field| field.parse::<u64>().ok());
    let page = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|size| u64::try_from(size).ok());
    match (pages, page) {
        (Some(pages), Some(page)) => Ok(pages.saturating_mul(page)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel gave no memory size")),
    }
}

fn sum(usage: &Usage) -> Duration {
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_as_cpu_time_of_the_thread_and_the_process() {
        let (process, thread) = (process_cpu().expect("usage"), thread_cpu().expect("usage"));
        let mut seed = 1_u64;
        while thread_cpu().expect("usage") < thread + Duration::from_millis(2) {
            seed = std::hint::black_box(seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
        assert!(process_cpu().expect("usage") >= process + Duration::from_millis(2));
    }

    #[test]
    fn touched_memory_shows_as_resident() {
        let before = resident_bytes().expect("memory");
        // Well above what the other tests of this binary may give back meanwhile.
        let touched = std::hint::black_box(vec![1_u8; 96 << 20]);
        let after = resident_bytes().expect("memory");
        assert!(after >= before + (48 << 20), "{before} -> {after}");
        drop(touched);
    }
}
