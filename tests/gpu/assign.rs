//! Who gets which GPU: decision tables, and properties over random hosts.

use std::collections::BTreeSet;

use arw::gpu::{
    Adapter, AssignFault, ComputeMode, GpuUuid, Health, HealthReason, Holdings, MigMode, Request, RequestFault, Unfit,
    assign,
};
use proptest::prelude::*;

use crate::fake::{adapter, uuid};

const GIB: u64 = 1 << 30;

fn count(count: u32, min_free: u64) -> Request {
    Request::new(Some(count), &[], min_free).expect("valid")
}

fn named(numbers: &[u32], min_free: u64) -> Request {
    let uuids: Vec<String> = numbers.iter().map(|number| uuid(*number).to_string()).collect();
    Request::new(None, &uuids, min_free).expect("valid")
}

fn given(adapters: &[Adapter], request: &Request) -> Result<Vec<GpuUuid>, AssignFault> {
    let assignment = assign(adapters, &BTreeSet::new(), request)?;
    Ok(assignment.gpus().iter().map(|gpu| gpu.uuid.clone()).collect())
}

#[test]
fn a_request_says_how_many_or_which() {
    let one = uuid(1).to_string();
    for (count, uuids, fault) in [
        (None, vec![], RequestFault::Nothing),
        (Some(1), vec![one.clone()], RequestFault::Both),
        (Some(0), vec![], RequestFault::Count(0)),
        (Some(65), vec![], RequestFault::Count(65)),
        (None, vec![one.clone(); 65], RequestFault::TooMany(65)),
        (None, vec![one.clone(), one.to_lowercase().replace("gpu", "GPU")], RequestFault::Twice(uuid(1))),
    ] {
        assert_eq!(Request::new(count, &uuids, 0), Err(fault));
    }
    for bad in ["0", "all", "none", "MIG-00000000-0000-4000-8000-000000000001", "GPU-1\nCUDA=0"] {
        assert!(matches!(Request::new(None, &[bad.to_owned()], 0), Err(RequestFault::Identity(_))), "{bad}");
    }
}

#[test]
fn a_small_job_does_not_take_the_large_gpu_and_the_least_used_goes_first() {
    let host = [adapter(0, 140 * GIB, 0), adapter(1, 24 * GIB, 4 * GIB), adapter(2, 24 * GIB, GIB)];
    assert_eq!(given(&host, &count(1, 0)), Ok(vec![uuid(2)]));
    assert_eq!(given(&host, &count(2, 0)), Ok(vec![uuid(2), uuid(1)]));
    assert_eq!(given(&host, &count(1, 80 * GIB)), Ok(vec![uuid(0)]));
    assert_eq!(given(&host, &count(1, 22 * GIB)), Ok(vec![uuid(2)]));
}

#[test]
fn gpus_by_name_come_in_the_order_of_the_request() {
    let host = [adapter(0, GIB, 0), adapter(1, GIB, 0), adapter(2, GIB, 0)];
    assert_eq!(given(&host, &named(&[2, 0], 0)), Ok(vec![uuid(2), uuid(0)]));
    assert_eq!(given(&host, &named(&[2, 9], 0)), Err(AssignFault::Unknown(uuid(9))));
}

#[test]
fn what_is_unfit_is_not_given_by_name_or_by_count() {
    let fit = adapter(0, 80 * GIB, 0);
    let lost = Health::from_iter([HealthReason::ThermalSlowdown, HealthReason::Lost]);
    let little = Unfit::TooLittleMemory { free: 9 * GIB, wanted: 10 * GIB };
    for (unfit, why) in [
        (Adapter { mig: MigMode::On, ..fit.clone() }, Unfit::Mig(MigMode::On)),
        (Adapter { mig: MigMode::Changing, ..fit.clone() }, Unfit::Mig(MigMode::Changing)),
        (Adapter { mig: MigMode::Unknown, ..fit.clone() }, Unfit::Mig(MigMode::Unknown)),
        (Adapter { compute_mode: ComputeMode::Prohibited, ..fit.clone() }, Unfit::ComputeMode(ComputeMode::Prohibited)),
        (Adapter { compute_mode: ComputeMode::Unknown, ..fit.clone() }, Unfit::ComputeMode(ComputeMode::Unknown)),
        (Adapter { health: lost, ..fit.clone() }, Unfit::Unhealthy(HealthReason::Lost)),
        (adapter(0, 80 * GIB, 71 * GIB), little),
    ] {
        let by_name = given(std::slice::from_ref(&unfit), &named(&[0], 10 * GIB));
        assert_eq!(by_name, Err(AssignFault::Unfit { uuid: uuid(0), why }));
        let by_count = given(&[unfit], &count(1, 10 * GIB));
        assert_eq!(by_count, Err(AssignFault::TooFew { wanted: 1, fit: 0, unfit: vec![(uuid(0), why)] }));
    }
    for works in [
        Adapter { compute_mode: ComputeMode::ExclusiveProcess, ..fit.clone() },
        Adapter { health: Health::from_iter([HealthReason::XidApplication]), ..fit.clone() },
    ] {
        assert_eq!(given(&[works], &count(1, 10 * GIB)), Ok(vec![uuid(0)]));
    }
}

#[test]
fn a_held_gpu_is_not_given_twice_and_comes_back_when_it_is_released() {
    let host = [adapter(0, GIB, 0), adapter(1, GIB, 0)];
    let mut holdings = Holdings::default();
    holdings.assign(&host, &count(1, 0), &"a").expect("free");
    assert_eq!(holdings.holder(&uuid(0)), Some(&"a"));
    let fault = holdings.assign(&host, &named(&[0], 0), &"b").expect_err("held");
    assert_eq!((fault.code(), fault), ("gpu_held", AssignFault::Unfit { uuid: uuid(0), why: Unfit::Held }));
    assert_eq!(holdings.assign(&host, &count(2, 0), &"b").expect_err("one is held").code(), "gpu_too_few");
    assert_eq!(holdings.of(&"b").count(), 0, "a refused request books nothing");
    assert_eq!(holdings.assign(&host, &count(1, 0), &"a"), Err(AssignFault::HoldsAlready));
    assert_eq!(holdings.release(&"a"), [uuid(0)]);
    assert_eq!(holdings.release(&"a"), []);
    assert_eq!(holdings.assign(&host, &count(2, 0), &"b").expect("free").gpus().len(), 2);
}

#[test]
fn a_restarted_daemon_adopts_what_runs_whatever_its_health_and_nothing_twice() {
    let worn = Adapter { health: Health::from_iter([HealthReason::EccUncorrected]), ..adapter(0, GIB, GIB) };
    let host = [worn, adapter(1, GIB, 0)];
    let mut holdings = Holdings::default();
    assert_eq!(holdings.adopt(&host, &[uuid(0)], &"a").expect("runs").gpus()[0].uuid, uuid(0));
    let held = AssignFault::Unfit { uuid: uuid(0), why: Unfit::Held };
    assert_eq!(holdings.adopt(&host, &[uuid(1), uuid(0)], &"b"), Err(held));
    assert_eq!(holdings.of(&"b").count(), 0);
    assert_eq!(holdings.adopt(&host, &[uuid(5)], &"b"), Err(AssignFault::Unknown(uuid(5))));
    assert_eq!(holdings.adopt(&host, &[], &"b").expect_err("nothing").code(), "gpu_too_few");
    assert_eq!(holdings.adopt(&host, &[uuid(1)], &"a"), Err(AssignFault::HoldsAlready));
    assert_eq!(holdings.adopt(&host, &[uuid(1), uuid(1)], &"b").expect("runs").gpus().len(), 1);
}

#[test]
fn a_refusal_says_what_an_operator_needs() {
    let busy = [adapter(0, 80 * GIB, 79 * GIB)];
    let fault = given(&busy, &named(&[0], 2 * GIB)).expect_err("too little");
    let text = format!("GPU `{}` cannot be given: {GIB} bytes are free and {} were asked for", uuid(0), 2 * GIB);
    assert_eq!((fault.to_string(), fault.code()), (text, "gpu_too_little_memory"));
    let fault = given(&busy, &count(3, 0)).expect_err("too few");
    assert_eq!((fault.to_string().as_str(), fault.code()), ("3 GPUs were asked for and 1 can be given", "gpu_too_few"));
}

fn any_adapter(number: u32) -> impl Strategy<Value = Adapter> {
    let modes = prop_oneof![4 => Just(MigMode::Off), 1 => Just(MigMode::On), 1 => Just(MigMode::Unknown)];
    let reasons = prop_oneof![4 => Just(None), 1 => prop::sample::select(&HealthReason::ALL[..]).prop_map(Some)];
    (1..=4_u64, 0..=4_u64, modes, reasons).prop_map(move |(size, used, mig, reason)| {
        let total = size * 20 * GIB;
        Adapter { mig, health: reason.into_iter().collect(), ..adapter(number, total, total / 4 * used) }
    })
}

fn any_host() -> impl Strategy<Value = Vec<Adapter>> {
    (0..9_u32).prop_flat_map(|size| (0..size).map(any_adapter).collect::<Vec<_>>())
}

fn any_request() -> impl Strategy<Value = Request> {
    let uuids = prop::sample::subsequence((0..9_u32).collect::<Vec<_>>(), 1..4).prop_shuffle();
    let free = (0..5_u64).prop_map(|size| size * 10 * GIB);
    prop_oneof![
        (1..5_u32, free.clone()).prop_map(|(wanted, free)| count(wanted, free)),
        (uuids, free).prop_map(|(uuids, free)| named(&uuids, free)),
    ]
}

proptest! {
    #[test]
    fn no_gpu_has_two_holders_whatever_is_asked_and_given_back(
        host in any_host(),
        steps in prop::collection::vec((0..6_u8, prop::option::of(any_request())), 0..40),
    ) {
        let mut holdings = Holdings::default();
        let mut model: Vec<(u8, Vec<GpuUuid>)> = Vec::new();
        for (holder, request) in steps {
            match request {
                Some(request) => {
                    let Ok(assignment) = holdings.assign(&host, &request, &holder) else { continue };
                    prop_assert!(model.iter().all(|(other, _)| *other != holder));
                    model.push((holder, assignment.gpus().iter().map(|gpu| gpu.uuid.clone()).collect()));
                }
                None => {
                    let given = holdings.release(&holder);
                    let known: Vec<GpuUuid> =
                        model.iter().filter(|(other, _)| *other == holder).flat_map(|(_, gpus)| gpus.clone()).collect();
                    prop_assert_eq!(given.into_iter().collect::<BTreeSet<_>>(), known.into_iter().collect());
                    model.retain(|(other, _)| *other != holder);
                }
            }
            let all: Vec<&GpuUuid> = model.iter().flat_map(|(_, gpus)| gpus).collect();
            prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        }
    }

    #[test]
    fn what_is_given_is_fit_whole_and_the_same_each_time(
        host in any_host(),
        held in prop::collection::btree_set(0..9_u32, 0..5),
        request in any_request(),
        wanted in 1..5_u32,
        free in 0..80_u64,
    ) {
        let held: BTreeSet<GpuUuid> = held.into_iter().map(uuid).collect();
        prop_assert_eq!(assign(&host, &held, &request), assign(&host, &held, &request));
        // The oracle: which GPUs may be given at all.
        let free = free * GIB;
        let fits = |adapter: &&Adapter| {
            !held.contains(&adapter.uuid)
                && adapter.mig == MigMode::Off
                && adapter.health.unusable().is_none()
                && adapter.memory.free >= free
        };
        let fit: BTreeSet<&GpuUuid> = host.iter().filter(fits).map(|adapter| &adapter.uuid).collect();
        match assign(&host, &held, &count(wanted, free)) {
            Ok(assignment) => {
                let given: BTreeSet<&GpuUuid> = assignment.gpus().iter().map(|gpu| &gpu.uuid).collect();
                prop_assert_eq!(given.len(), wanted as usize);
                prop_assert!(given.is_subset(&fit));
            }
            Err(AssignFault::TooFew { wanted: asked, fit: found, unfit }) => {
                prop_assert!(found < asked && found == fit.len());
                prop_assert_eq!(found + unfit.len(), host.len());
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}
