//! What the driver says through the library, good and bad.

use arw::gpu::{ComputeMode, Health, HealthReason, Inventory, MigMode, Minor, ProcessUsage, Reading, lost};

use crate::fake::{Fake, host, uuid};

fn inventory(script: &str) -> Option<Inventory> {
    Fake::new(script).map(|fake| fake.open().inventory().expect("GPUs"))
}

fn reading(script: &str) -> Option<Reading> {
    Fake::new(script).map(|fake| fake.open().read(&uuid(0)).expect("GPUs"))
}

/// A healthy host of one GPU but for the lines of `key`.
fn host_but(key: &str, lines: &str) -> String {
    let kept = |line: &&str| !line.starts_with(&format!("0 {key} "));
    let host = host(1);
    host.lines().filter(kept).chain(lines.lines()).map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_inventory_has_what_each_gpu_is_and_how_it_may_be_used() {
    let Some(inventory) = inventory(&host(2)) else { return };
    assert_eq!(inventory.versions.driver, "580.95.05");
    assert_eq!(inventory.versions.cuda.expect("said").to_string(), "13.0");
    assert_eq!((inventory.adapters.len(), inventory.faults.len()), (2, 0));
    let second = &inventory.adapters[1];
    assert_eq!((second.index, &second.uuid, second.name.as_str()), (1, &uuid(1), "NVIDIA H200"));
    assert_eq!((second.pci.to_string(), second.minor), ("0000:1c:00.0".to_owned(), Minor::new(4).expect("valid")));
    assert_eq!((second.mig, second.compute_mode), (MigMode::Off, ComputeMode::Shared));
    let memory = second.memory;
    assert_eq!((memory.total, memory.reserved), (150_000_000_000, 1_000_000_000));
    assert_eq!((memory.free, memory.used), (140_000_000_000, 9_000_000_000));
    assert_eq!(second.health, Health::default());
}

#[test]
fn modes_are_read_and_what_cannot_be_read_is_unknown() {
    for (key, lines, mig, mode) in [
        ("mig", "0 mig 1 1", MigMode::On, ComputeMode::Shared),
        ("mig", "0 mig 0 1", MigMode::Changing, ComputeMode::Shared),
        ("mig", "", MigMode::Off, ComputeMode::Shared),
        ("mig", "0 error mig 999", MigMode::Unknown, ComputeMode::Shared),
        ("compute_mode", "0 compute_mode 3", MigMode::Off, ComputeMode::ExclusiveProcess),
        ("compute_mode", "0 compute_mode 2", MigMode::Off, ComputeMode::Prohibited),
        ("compute_mode", "0 compute_mode 77", MigMode::Off, ComputeMode::Unknown),
        ("compute_mode", "", MigMode::Off, ComputeMode::Shared),
    ] {
        let Some(inventory) = inventory(&host_but(key, lines)) else { return };
        let adapter = &inventory.adapters[0];
        assert_eq!((adapter.mig, adapter.compute_mode), (mig, mode), "{lines}");
    }
}

#[test]
fn a_lost_gpu_is_a_fault_of_its_own_and_the_others_stay() {
    let Some(fake) = Fake::new(&host(2)) else { return };
    let gpus = fake.open();
    let before = gpus.inventory().expect("GPUs");
    fake.script(&format!("{}0 error all 15\n", host(2)));
    let now = gpus.inventory().expect("the driver as a whole works");
    assert_eq!(now.adapters, before.adapters[1..]);
    assert_eq!((now.faults[0].index, now.faults[0].reason.code()), (0, "gpu_lost"));
    assert_eq!(lost(&before, &now), [uuid(0)]);
    assert_eq!(lost(&now, &before), []);
    let reading = gpus.read(&uuid(0)).expect("the driver as a whole works");
    assert_eq!(reading, Reading::unknown(uuid(0), Health::from_iter([HealthReason::Lost])));
}

#[test]
fn a_gpu_that_the_driver_never_knew_reads_as_lost() {
    let Some(fake) = Fake::new(&host(1)) else { return };
    let reading = fake.open().read(&uuid(7)).expect("GPUs");
    assert_eq!(reading.health.unusable(), Some(HealthReason::Lost));
}

#[test]
fn a_gpu_without_a_trustworthy_identity_is_no_adapter() {
    for (key, lines, reason) in [
        ("uuid", "0 uuid GPU-0,GPU-1", "gpu_unreadable"),
        ("uuid", "", "gpu_unreadable"),
        ("minor", "0 minor 255", "gpu_unreadable"),
        ("minor", "0 minor 254", "gpu_unreadable"),
        ("minor", "", "gpu_unreadable"),
        ("pci", "0 pci ../../x", "gpu_unreadable"),
        ("memory", "0 error memory 16", "gpu_reset_required"),
        ("uuid", "0 error uuid 4", "gpu_no_permission"),
    ] {
        let Some(inventory) = inventory(&host_but(key, lines)) else { return };
        assert_eq!(inventory.adapters, [], "{lines}");
        assert_eq!(inventory.faults[0].reason.code(), reason, "{lines}");
    }
}

#[test]
fn two_gpus_of_one_name_are_one_adapter_and_one_fault() {
    let twin = host(2).replace(uuid(1).as_str(), uuid(0).as_str());
    let Some(inventory) = inventory(&twin) else { return };
    assert_eq!((inventory.adapters.len(), inventory.faults.len()), (1, 1));
    assert_eq!((inventory.faults[0].index, &inventory.faults[0].uuid), (1, &Some(uuid(0))));
}

#[test]
fn a_library_that_claims_billions_of_gpus_is_asked_for_64() {
    let Some(inventory) = inventory(&host(2).replace("count 2", "count 4294967295")) else { return };
    assert_eq!((inventory.adapters.len(), inventory.faults.len()), (2, 62));
}

#[test]
fn a_reading_has_every_value_and_its_processes_once_each() {
    let script = host(1)
        + "0 compute 100 5000000000\n0 compute 200 4000000000\n0 graphics 100 5000000000\n0 graphics 300\n\
           0 sample 100 10000000 30\n0 sample 100 9000000 99\n0 sample 200 1000000 80\n0 sample 999 10000000 5\n";
    let Some(reading) = reading(&script) else { return };
    assert_eq!(reading.memory.expect("read").used, 9_000_000_000);
    assert_eq!((reading.utilization, reading.temperature, reading.power), (Some(37), Some(41), Some(123_456)));
    let of = |pid, memory, utilization| ProcessUsage { pid, memory, utilization };
    let expected = [of(100, Some(5_000_000_000), Some(30)), of(200, Some(4_000_000_000), None), of(300, None, None)];
    assert_eq!(reading.processes.expect("read"), expected);
    assert_eq!(reading.health, Health::default());
}

#[test]
fn no_process_is_an_empty_list_and_an_unreadable_list_is_none() {
    let Some(idle) = reading(&host(1)) else { return };
    assert_eq!(idle.processes, Some(Vec::new()));
    let Some(broken) = reading(&(host(1) + "0 error compute 999\n")) else { return };
    assert_eq!(broken.processes, None);
    assert_eq!(broken.health, Health::from_iter([HealthReason::Unreadable]));
}

#[test]
fn a_value_that_cannot_be_read_is_absent_and_never_zero() {
    let bare =
        host_but("power", "").lines().filter(|line| !line.contains("temperature")).collect::<Vec<_>>().join("\n");
    let Some(reading) = reading(&bare) else { return };
    assert_eq!((reading.power, reading.temperature, reading.utilization), (None, None, Some(37)));
    assert_eq!(reading.health, Health::default(), "a missing sensor is no fault");
}

#[test]
fn what_ails_a_gpu_has_its_reason() {
    for (key, lines, reason) in [
        ("ecc_uncorrected", "0 ecc_uncorrected 3", HealthReason::EccUncorrected),
        ("retirement_pending", "0 retirement_pending 1", HealthReason::RetirementPending),
        ("throttle", "0 throttle 64", HealthReason::ThermalSlowdown),
        ("throttle", "0 throttle 32", HealthReason::ThermalSlowdown),
        ("power", "0 error power 15", HealthReason::Lost),
        ("power", "0 error power 16", HealthReason::ResetRequired),
        ("power", "0 error power 8", HealthReason::PowerCable),
        ("power", "0 error power 11", HealthReason::InterruptFault),
        ("power", "0 error power 14", HealthReason::InforomCorrupt),
        ("power", "0 error power 17", HealthReason::NoPermission),
        ("power", "0 error power 18", HealthReason::VersionMismatch),
        ("power", "0 error power 999", HealthReason::Unreadable),
    ] {
        let Some(reading) = reading(&host_but(key, lines)) else { return };
        assert_eq!(reading.health, Health::from_iter([reason]), "{lines}");
    }
    let Some(inventory) = inventory(&(host(1) + "0 throttle 4\n")) else { return };
    assert_eq!(inventory.adapters[0].health, Health::default(), "the power cap is no heat");
}

#[test]
fn a_name_that_is_made_to_forge_a_log_line_is_made_printable() {
    let Some(inventory) = inventory(&host_but("name", "0 name \u{1b}[2JH200\r")) else { return };
    assert_eq!(inventory.adapters[0].name, "?[2JH200?");
}

#[test]
fn the_library_is_shut_down_when_the_gpus_are_dropped() {
    let Some(fake) = Fake::new(&host(1)) else { return };
    drop(fake.open());
    assert_eq!(fake.log(), ["init", "shutdown"]);
}
