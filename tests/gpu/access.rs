//! What a runtime may see of its GPUs.

use std::collections::BTreeSet;

use arw::gpu::{
    Assignment, DeviceNode, Majors, Need, NodeFault, Request, Scope, assign, environment, nodes, without_gpus,
};
use nix::sys::stat::makedev;

use crate::fake::{adapter, uuid};

const DEVICES: &str = "Character devices:\n  1 mem\n  4 /dev/vc/0\n195 nvidia\n195 nvidiactl\n234 nvidia-caps\n\
                       237 nvidia-uvm\n\nBlock devices:\n  8 sd\n 99 nvidia-uvm\n";

fn assignment(numbers: &[u32]) -> Assignment {
    let host: Vec<_> = (0..4).map(|number| adapter(number, 1 << 30, 0)).collect();
    let uuids: Vec<String> = numbers.iter().map(|number| uuid(*number).to_string()).collect();
    let request = Request::new(None, &uuids, 0).expect("valid");
    assign(&host, &BTreeSet::new(), &request).expect("free")
}

#[test]
fn the_environment_names_the_assigned_gpus_by_uuid_and_no_other() {
    let both = format!("{},{}", uuid(2), uuid(0));
    let expected = [
        ("CUDA_VISIBLE_DEVICES", both.clone()),
        ("NVIDIA_VISIBLE_DEVICES", both),
        ("CUDA_DEVICE_ORDER", "PCI_BUS_ID".to_owned()),
    ];
    assert_eq!(environment(&assignment(&[2, 0])), expected);
    assert_eq!(without_gpus(), [("CUDA_VISIBLE_DEVICES", "-1"), ("NVIDIA_VISIBLE_DEVICES", "void")]);
}

#[test]
fn the_nodes_are_exactly_the_assigned_gpus_by_minor_and_the_shared_ones() {
    let nodes = nodes(&assignment(&[2, 0]), &Majors::parse(DEVICES)).expect("loaded");
    let shown: Vec<_> =
        nodes.iter().map(|node| (node.path.to_str().expect("text"), node.major, node.minor, node.need)).collect();
    let expected = [
        ("/dev/nvidia5", 195, 5, Need::Required),
        ("/dev/nvidia3", 195, 3, Need::Required),
        ("/dev/nvidiactl", 195, 255, Need::Required),
        ("/dev/nvidia-uvm", 237, 0, Need::Required),
        ("/dev/nvidia-uvm-tools", 237, 1, Need::Optional),
    ];
    assert_eq!(shown, expected);
    let assigned = nodes.iter().filter(|node| node.scope == Scope::Assigned);
    assert!(assigned.map(|node| node.minor).eq([5, 3]));
}

#[test]
fn a_node_that_is_another_device_is_not_taken_for_it() {
    let node =
        DeviceNode { path: "/dev/nvidia3".into(), major: 195, minor: 3, scope: Scope::Assigned, need: Need::Required };
    assert!(node.is(makedev(195, 3)));
    for other in [makedev(195, 4), makedev(8, 3), makedev(1, 1), 0] {
        assert!(!node.is(other), "{other}");
    }
}

#[test]
fn without_the_kernels_modules_there_are_no_nodes() {
    let one = assignment(&[0]);
    let without = |name: &str| {
        let kept: Vec<&str> = DEVICES.lines().filter(|line| !line.contains(name)).collect();
        nodes(&one, &Majors::parse(&kept.join("\n")))
    };
    assert_eq!(without("nvidia-uvm"), Err(NodeFault::NoUnifiedMemory));
    assert_eq!(without("195"), Err(NodeFault::NoDriver));
    assert_eq!(nodes(&one, &Majors::parse("")), Err(NodeFault::NoDriver));
    // A block device of that name is none.
    let block = "Character devices:\n195 nvidia\nBlock devices:\n 99 nvidia-uvm\n";
    assert_eq!(nodes(&one, &Majors::parse(block)), Err(NodeFault::NoUnifiedMemory));
    let squatter = "Character devices:\n195 something\n237 nvidia-uvm\n";
    assert_eq!(nodes(&one, &Majors::parse(squatter)), Err(NodeFault::NoDriver));
    assert!(nodes(&one, &Majors::parse(&DEVICES.replace("nvidia\n", "nvidia-frontend\n"))).is_ok());
}
