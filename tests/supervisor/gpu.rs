//! A runtime that asks for a GPU, on a host that may have none.

use crate::stage::{Host, bash};

#[test]
fn without_a_gpu_the_launch_is_refused_with_the_reason_and_others_run() {
    if !crate::can_launch() {
        return;
    }
    let wants = bash("trainer", "echo trained", "accelerator = \"gpu\"\n[runtimes.gpu]\ncount = 1");
    let other = bash("other", "echo $CUDA_VISIBLE_DEVICES $NVIDIA_VISIBLE_DEVICES; sleep 1000", "auto_start = true");
    let host = Host::start(&format!("{wants}{other}"));
    // Whoever has none is told so: libraries do not look for one.
    host.wait_log("other", "-1 void");
    host.must("trainer", "start");
    let view = host.wait("trainer", "answered", |view| view["state"] != "stopped" && view["state"] != "starting");
    if std::path::Path::new("/dev/nvidia0").exists() {
        println!("SKIP: this host has a GPU");
        return;
    }
    assert_eq!(view["state"], "error");
    assert!(view["detail"].as_str().unwrap().contains("gpu unavailable: "), "{view:#}");
    assert_eq!(host.view("other")["state"], "ready");
}
