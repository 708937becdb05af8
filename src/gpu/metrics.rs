//! The series of the GPUs, in the OpenMetrics text format. A value that could not be read has no sample.

use std::fmt::{Display, Write as _};

use super::reading::Reading;

/// Appends the four families to `out`, each with its metadata also when no GPU has a sample for it. The
/// label `gpu` is the UUID. The caller writes the final `# EOF`.
pub fn encode(readings: &[Reading], out: &mut String) {
    let name = "arw_gpu_adapter_memory_bytes";
    family(out, name, "bytes", "Memory of a GPU: all, kept by the driver, free, and allocated by processes.");
    for reading in readings {
        let Some(memory) = reading.memory else { continue };
        let kinds =
            [("total", memory.total), ("reserved", memory.reserved), ("free", memory.free), ("used", memory.used)];
        for (kind, bytes) in kinds {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name}{{gpu=\"{}\",kind=\"{kind}\"}} {bytes}", reading.uuid);
        }
    }
    let help = "Part of the last sample period in which a kernel ran.";
    gauge(out, readings, "arw_gpu_utilization_ratio", "ratio", help, |reading| {
        reading.utilization.map(|percent| f64::from(percent) / 100.0)
    });
    let help = "Temperature of the die.";
    gauge(out, readings, "arw_gpu_temperature_celsius", "celsius", help, |reading| reading.temperature);
    gauge(out, readings, "arw_gpu_power_watts", "watts", "Power drawn.", |reading| {
        reading.power.map(|milliwatts| f64::from(milliwatts) / 1000.0)
    });
}

fn gauge<V: Display>(
    out: &mut String,
    readings: &[Reading],
    name: &str,
    unit: &str,
    help: &str,
    value: impl Fn(&Reading) -> Option<V>,
) {
    family(out, name, unit, help);
    for reading in readings {
        if let Some(value) = value(reading) {
            let _ = writeln!(out, "{name}{{gpu=\"{}\"}} {value}", reading.uuid);
        }
    }
}

fn family(out: &mut String, name: &str, unit: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n# UNIT {name} {unit}");
}
