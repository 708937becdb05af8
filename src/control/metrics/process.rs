//! The process itself, under the names that Prometheus client libraries use. What `/proc` does not tell is left out.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Families;

impl Families {
    pub(super) fn process(&mut self) {
        if let Some(descriptors) = std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count) {
            self.gauge("process_open_fds", "Open descriptors.", descriptors);
        }
        if let Ok((soft, _)) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
            self.gauge("process_max_fds", "Most descriptors that may be open.", soft);
        }
        // proc_pid_statm(5): all and resident memory, in pages.
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let mut pages = statm.split(' ').map_while(|field| field.parse::<u64>().ok());
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
        let page = page.and_then(|page| u64::try_from(page).ok());
        if let (Some(virtual_pages), Some(resident), Some(page)) = (pages.next(), pages.next(), page) {
            let bytes = resident.saturating_mul(page);
            self.gauge("process_resident_memory_bytes", "Resident memory.", bytes);
            let bytes = virtual_pages.saturating_mul(page);
            self.gauge("process_virtual_memory_bytes", "Virtual memory.", bytes);
        }
        if let Some(threads) = std::fs::read_dir("/proc/self/task").ok().map(Iterator::count) {
            self.gauge("process_threads", "Threads.", threads);
        }
        if let Some(started) = started() {
            self.gauge("process_start_time_seconds", "When it began, since the epoch.", format!("{started:?}"));
        }
        if let Ok(usage) = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF) {
            let seconds = [usage.user_time(), usage.system_time()]
                .iter()
                .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
                .sum::<f64>();
            self.counter("process_cpu_seconds", "User and system time.", format!("{seconds:?}"));
        }
        let tasks = tokio::runtime::Handle::try_current().map(|executor| executor.metrics().num_alive_tasks());
        if let Ok(tasks) = tasks {
            self.gauge("arw_control_tasks", "Tasks of the control executor.", tasks);
        }
    }
}

/// Seconds since the epoch at which this process began.
fn started() -> Option<f64> {
    // proc_pid_stat(5): field 22 is the start in clock ticks since boot; the name in field 2 may hold anything but ends
    // at the last parenthesis.
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let ticks: u64 = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let rate = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    let up = boot.tv_sec() as f64 + boot.tv_nsec() as f64 / 1e9;
    Some(now - up + ticks as f64 / rate as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_measured() {
        let mut families = Families(String::new());
        families.process();
        for name in [
            "process_open_fds ",
            "process_max_fds ",
            "process_resident_memory_bytes ",
            "process_virtual_memory_bytes ",
            "process_threads ",
            "process_start_time_seconds ",
            "process_cpu_seconds_total ",
        ] {
            let value = families.0.lines().find_map(|line| line.strip_prefix(name)).expect(name);
            assert!(value.parse::<f64>().is_ok_and(|value| value > 0.0), "{name}{value}");
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        let age = now - started().expect("known");
        // A tick is 10 ms, and a test process does not live for days.
        assert!((-1.0..200_000.0).contains(&age), "{age}");
    }
}
