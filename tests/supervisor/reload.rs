//! A reload applies the difference, and nothing of a faulty manifest.

use crate::stage::{Host, bash};

#[test]
fn only_what_changed_is_touched() {
    if !crate::can_launch() {
        return;
    }
    let stays = bash("stays", "sleep 1000", "auto_start = true");
    let changes = |script: &str| bash("changes", script, "auto_start = true");
    let goes = bash("goes", "sleep 1000; : goes-with-the-reload-mark", "auto_start = true");
    let host = Host::start(&format!("{stays}{}{goes}", changes("sleep 1001")));
    let pid = |id: &str| host.wait_state(id, "ready")["pid"].clone();
    let (stays_pid, changes_pid) = (pid("stays"), pid("changes"));
    pid("goes");
    let comes = bash("comes", "sleep 1000", "auto_start = true");
    let tagged = stays.replace("auto_start", "tags = [\"serving\"]\nauto_start");
    host.declare(&format!("{tagged}{}{comes}", changes("sleep 1002")));
    pid("comes");
    let view = host.wait("changes", "launched anew", |view| view["run"] == 2 && view["state"] == "ready");
    assert_ne!(view["pid"], changes_pid);
    assert_eq!(pid("stays"), stays_pid);
    assert_eq!(host.view("stays")["tags"][0], "serving");
    assert_eq!(host.ask("GET", "/orchestrator/runtimes/goes").0, 404);
    assert!(!crate::stage::lives("goes-with-the-reload-mark"));
}

#[test]
fn a_faulty_manifest_changes_nothing() {
    if !crate::can_launch() {
        return;
    }
    let manifest = bash("stays", "sleep 1000", "auto_start = true");
    let host = Host::start(&manifest);
    let pid = host.wait_state("stays", "ready")["pid"].clone();
    host.declare(&format!("{manifest}\n[[runtimes]]\nid = \"x\"\nprofil = \"strict\"\n"));
    host.daemon.wait_for_log("profil");
    assert_eq!(host.view("stays")["pid"], pid);
    assert_eq!(host.ask("GET", "/orchestrator/runtimes/x").0, 404);
}
