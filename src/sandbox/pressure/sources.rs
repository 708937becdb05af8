//! Where the readings come from: `/proc/pressure` and the host's thermometers.

use std::path::{Path, PathBuf};
use std::time::Instant;

use sysinfo::Components;

use crate::sandbox::cgroup::Psi;

use super::{Celsius, Reading};

/// Reads the host. A source that is not there is left out, today and at the next reading.
#[derive(Debug)]
pub struct Sources {
    pressure: PathBuf,
    /// `None` where there are no sensors to speak of.
    components: Option<Components>,
    start: Instant,
}

impl Default for Sources {
    fn default() -> Self {
        Self::new(Path::new("/proc/pressure"))
    }
}

impl Sources {
    /// Pressure from the files in `pressure`, temperatures from the kernel's sensors.
    pub fn new(pressure: &Path) -> Self {
        Self { pressure: pressure.to_owned(), components: Components::new().ok(), start: Instant::now() }
    }

    /// The host now. Blocks as long as the slowest sensor takes, usually well below a millisecond.
    pub fn read(&mut self) -> Reading {
        let hottest = self.hottest();
        Reading {
            at: self.start.elapsed(),
            cpu: self.psi("cpu"),
            memory: self.psi("memory"),
            io: self.psi("io"),
            hottest,
        }
    }

    fn hottest(&mut self) -> Option<Celsius> {
        let components = self.components.as_mut()?;
        // Sensors come and go with what is plugged in.
        components.refresh(true);
        components.iter().filter_map(sysinfo::Component::temperature).filter_map(Celsius::from_degrees).max()
    }

    fn psi(&self, name: &str) -> Option<Psi> {
        Psi::parse(&std::fs::read_to_string(self.pressure.join(name)).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_host_are_read_and_missing_ones_are_unknown() {
        let dir = tempfile::tempdir().expect("dir");
        let text = "some avg10=61.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        std::fs::write(dir.path().join("cpu"), text).expect("write");
        std::fs::write(dir.path().join("memory"), "broken").expect("write");
        let reading = Sources::new(dir.path()).read();
        assert_eq!(reading.cpu.expect("pressure").some.avg10.hundredths(), 6_100);
        assert_eq!((reading.memory, reading.io), (None, None));
    }

    #[test]
    fn a_broken_sensor_is_not_believed() {
        for bad in [f32::NAN, f32::INFINITY, -127.0, 255.0, 1e9] {
            assert_eq!(Celsius::from_degrees(bad), None, "{bad}");
        }
        assert_eq!(Celsius::from_degrees(85.25).expect("degrees").degrees(), 85.25);
    }
}
