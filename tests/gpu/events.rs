//! Events of the driver, through the library.

use std::ops::ControlFlow;
use std::time::Duration;

use arw::gpu::{GpuEvent, HealthReason, Occurrence, WatchFault, Xid};

use crate::fake::{Fake, host, uuid};

const TICK: Duration = Duration::from_millis(10);

/// What is given until the first tick without an event.
fn events(fake: &Fake) -> (Vec<GpuEvent>, Result<(), WatchFault>) {
    let mut given = Vec::new();
    let ended = fake.open().watch(TICK, |event| match event {
        Some(event) => {
            given.push(event);
            ControlFlow::Continue(())
        }
        None => ControlFlow::Break(()),
    });
    (given, ended)
}

#[test]
fn events_are_given_once_each_with_the_gpu_and_what_happened() {
    let Some(fake) = Fake::new(&(host(2) + "event 1 xid 79\nevent 0 ecc 0\nevent 0 xid 31\nevent 0 xid 999\n")) else {
        return;
    };
    let (given, ended) = events(&fake);
    assert_eq!(ended, Ok(()));
    let of = |gpu, what| GpuEvent { gpu: Some(uuid(gpu)), what };
    let expected = [
        of(1, Occurrence::Xid(Xid(79))),
        of(0, Occurrence::EccUncorrected),
        of(0, Occurrence::Xid(Xid(31))),
        of(0, Occurrence::Xid(Xid(999))),
    ];
    assert_eq!(given, expected);
    assert_eq!(Xid(79).reason(), HealthReason::Lost);
    assert_eq!(fake.log(), ["init", "set_create", "registered", "registered", "set_free", "shutdown"]);
}

#[test]
fn a_gpu_lost_during_the_wait_ends_the_watch_instead_of_spinning() {
    let Some(fake) = Fake::new(&(host(1) + "event 0 error 15\nevent 0 error 15\nevent 0 error 15\n")) else { return };
    let (given, ended) = events(&fake);
    assert_eq!(given, [GpuEvent { gpu: None, what: Occurrence::Lost }]);
    assert_eq!(ended, Err(WatchFault::Lost));
}

#[test]
fn another_failure_of_the_wait_ends_the_watch() {
    let Some(fake) = Fake::new(&(host(1) + "event 0 error 999\n")) else { return };
    let (given, ended) = events(&fake);
    assert!(given.is_empty() && matches!(ended, Err(WatchFault::Failed(_))), "{ended:?}");
}

#[test]
fn a_gpu_that_refuses_the_registration_does_not_blind_the_others() {
    let Some(fake) = Fake::new(&(host(3) + "1 error register 999\nevent 2 xid 48\n")) else { return };
    let (given, ended) = events(&fake);
    assert_eq!((given.len(), ended), (1, Ok(())));
    let log = fake.log();
    let count = |what: &str| log.iter().filter(|line| *line == what).count();
    assert_eq!((count("set_create"), count("set_free")), (2, 2), "{log:?}");
}

#[test]
fn gpus_that_report_no_events_are_said_to_need_polling() {
    let Some(fake) = Fake::new(&host(2).replace("event_types 31", "event_types 4")) else { return };
    assert_eq!(events(&fake).1, Err(WatchFault::NothingToWatch));
    fake.script(&(host(1) + "0 error register 999\n"));
    assert_eq!(events(&fake).1, Err(WatchFault::NothingToWatch));
}

#[test]
fn an_event_of_a_gpu_that_no_longer_says_its_name_is_still_given() {
    let Some(fake) = Fake::new(&(host(1) + "0 error uuid 15\nevent 0 xid 79\n")) else { return };
    let (given, _) = events(&fake);
    assert_eq!(given, [GpuEvent { gpu: None, what: Occurrence::Xid(Xid(79)) }]);
}

#[test]
fn a_set_that_could_never_be_freed_is_not_made() {
    let Some(fake) = Fake::without("-DWITHOUT_SET_FREE", &(host(1) + "event 0 xid 79\n")) else { return };
    assert_eq!(events(&fake).1, Err(WatchFault::NothingToWatch));
    assert_eq!(fake.log(), ["init", "shutdown"]);
}
