//! The series of the GPUs.

use arw::gpu::{Health, Reading, encode};

use crate::fake::{reading, uuid};

fn text(readings: &[Reading]) -> String {
    let mut out = String::new();
    encode(readings, &mut out);
    out
}

#[test]
fn each_family_has_its_metadata_and_its_samples() {
    let full = Reading { utilization: Some(37), temperature: Some(41), power: Some(123_456), ..reading(1, 9, &[]) };
    let expected = "\
# HELP arw_gpu_adapter_memory_bytes Memory of a GPU: all, kept by the driver, free, and allocated by processes.
# TYPE arw_gpu_adapter_memory_bytes gauge
# UNIT arw_gpu_adapter_memory_bytes bytes
arw_gpu_adapter_memory_bytes{gpu=\"UUID\",kind=\"total\"} 150000000000
arw_gpu_adapter_memory_bytes{gpu=\"UUID\",kind=\"reserved\"} 0
arw_gpu_adapter_memory_bytes{gpu=\"UUID\",kind=\"free\"} 149999999991
arw_gpu_adapter_memory_bytes{gpu=\"UUID\",kind=\"used\"} 9
# HELP arw_gpu_utilization_ratio Part of the last sample period in which a kernel ran.
# TYPE arw_gpu_utilization_ratio gauge
# UNIT arw_gpu_utilization_ratio ratio
arw_gpu_utilization_ratio{gpu=\"UUID\"} 0.37
# HELP arw_gpu_temperature_celsius Temperature of the die.
# TYPE arw_gpu_temperature_celsius gauge
# UNIT arw_gpu_temperature_celsius celsius
arw_gpu_temperature_celsius{gpu=\"UUID\"} 41
# HELP arw_gpu_power_watts Power drawn.
# TYPE arw_gpu_power_watts gauge
# UNIT arw_gpu_power_watts watts
arw_gpu_power_watts{gpu=\"UUID\"} 123.456
";
    assert_eq!(text(&[full]), expected.replace("UUID", uuid(1).as_str()));
}

#[test]
fn a_value_that_could_not_be_read_has_no_sample() {
    let lost = Reading::unknown(uuid(1), Health::default());
    assert!(!text(&[lost]).contains(uuid(1).as_str()));
    assert_eq!(text(&[]).lines().count(), 12, "the metadata stays");
}
