//! What single values cannot show: settings that contradict each other or would open the gateway.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Fault;
use super::server_file::Draft;

/// Longest path of a Unix socket on Linux: `sun_path` less its final NUL, unix(7).
const MAX_SOCKET_PATH: usize = 107;

/// Judges the merged settings. A rule looks only at keys that could be read, so that one slip is one
/// fault.
pub(super) fn check(draft: &Draft, faults: &mut Vec<Fault>, warnings: &mut Vec<String>) {
    control_stays_on_loopback(draft, faults);
    ledger_is_there(draft, faults, warnings);
    tls_is_whole(draft, faults);
    listeners_differ(draft, faults);
    proxy_listens(draft, faults);
    sockets_fit(draft, faults);
    library_is_named_whole(draft, faults);
    traces_are_built_in(draft, faults);
    exposure(draft, warnings);
}

/// The API can mint access and read the ledger. Without TLS its token would cross the network in the
/// clear, so until the API speaks TLS itself no other address is accepted, token or not.
fn control_stays_on_loopback(draft: &Draft, faults: &mut Vec<Fault>) {
    let control = &draft.config.control;
    if control.bind.ip().is_loopback() || !draft.readable(&["control.bind"]) {
        return;
    }
    let missing = match control.admin_token_sha256 {
        None => "it has no admin token and does not speak TLS",
        Some(_) => "it does not speak TLS",
    };
    faults.push(
        draft
            .fault(
                "control.bind",
                format!("`{}` is not loopback: the control API stays there, because {missing}", control.bind),
            )
            .hint("bind 127.0.0.1 and reach it through SSH or the Unix socket"),
    );
}

fn ledger_is_there(draft: &Draft, faults: &mut Vec<Fault>, warnings: &mut Vec<String>) {
    let (proxy, ledger) = (&draft.config.proxy, &draft.config.ledger);
    if !proxy.enable || !draft.readable(&["proxy.enable", "ledger.enable", "ledger.required"]) {
        return;
    }
    match (ledger.enable, ledger.required) {
        (true, true) => {}
        (true, false) => {
            warnings
                .push("`ledger.required = false`: when the ledger cannot write, traffic leaves unrecorded".to_owned());
        }
        (false, false) => warnings.push("the ledger is off: traffic leaves unrecorded".to_owned()),
        (false, true) => faults.push(
            draft
                .fault(
                    "ledger.enable",
                    "the ledger cannot be off while the proxy is on: traffic would leave unrecorded",
                )
                .hint("switch the proxy off, or write `required = false` under [ledger] in the file"),
        ),
    }
}

fn tls_is_whole(draft: &Draft, faults: &mut Vec<Fault>) {
    let tls = &draft.tls;
    let keys = ["proxy.tls.bind", "proxy.tls.certificate", "proxy.tls.key", "proxy.tls.client_ca"];
    let there = [tls.bind.is_some(), tls.certificate.is_some(), tls.key.is_some(), tls.client_ca.is_some()];
    if !draft.readable(&keys) || !there.contains(&true) {
        return;
    }
    for (key, _) in keys.iter().zip(there).take(3).filter(|(_, there)| !there) {
        faults.push(
            draft
                .fault(key, "it is missing, and the rest of [proxy.tls] is set")
                .hint("TLS needs `bind`, `certificate` and `key`; without all three remove the section"),
        );
    }
}

/// Two listeners on one address: the second would fail at start, or with `SO_REUSEPORT` share silently.
fn listeners_differ(draft: &Draft, faults: &mut Vec<Fault>) {
    let mut seen: Vec<(&'static str, SocketAddr)> = Vec::new();
    let proxy = draft.config.proxy.bind.iter().map(|addr| ("proxy.bind", *addr));
    let tls = draft.tls.bind.iter().map(|addr| ("proxy.tls.bind", *addr));
    let control = std::iter::once(("control.bind", draft.config.control.bind));
    for (key, addr) in proxy.chain(tls).chain(control) {
        let clash = seen.iter().find(|(_, other)| addr.port() != 0 && overlap(*other, addr));
        match clash {
            Some((other, _)) if draft.readable(&[key, other]) => {
                faults.push(draft.fault(key, format!("`{addr}` is taken by `{other}`")).hint("give each its own port"));
            }
            _ => seen.push((key, addr)),
        }
    }
}

/// Same port, and the same address or one that stands for all of its family.
fn overlap(left: SocketAddr, right: SocketAddr) -> bool {
    let all = left.ip().is_unspecified() || right.ip().is_unspecified();
    left.port() == right.port() && (left.ip() == right.ip() || (all && left.is_ipv4() == right.is_ipv4()))
}

fn proxy_listens(draft: &Draft, faults: &mut Vec<Fault>) {
    let proxy = &draft.config.proxy;
    let keys = ["proxy.enable", "proxy.bind", "proxy.unix_socket", "proxy.tls.bind"];
    let somewhere = !proxy.bind.is_empty() || proxy.unix_socket.is_some() || draft.tls.bind.is_some();
    if proxy.enable && !somewhere && draft.readable(&keys) {
        faults.push(
            draft
                .fault("proxy.bind", "the proxy is on and listens nowhere")
                .hint("set `bind`, `unix_socket` or [proxy.tls], or write `enable = false`"),
        );
    }
}

fn sockets_fit(draft: &Draft, faults: &mut Vec<Fault>) {
    let state = &draft.config.state_dir;
    let placed = |path: &Path| state.join(path);
    let control = placed(&draft.config.control.unix_socket);
    let proxy = draft.config.proxy.unix_socket.as_deref().map(placed);
    for (key, path) in [("control.unix_socket", Some(&control)), ("proxy.unix_socket", proxy.as_ref())] {
        let Some(path) = path.filter(|_| draft.readable(&[key, "state_dir"])) else { continue };
        let bytes = path.as_os_str().as_bytes().len();
        if bytes > MAX_SOCKET_PATH {
            faults.push(
                draft
                    .fault(
                        key,
                        format!("the path of the socket has {bytes} bytes, and the kernel takes {MAX_SOCKET_PATH}"),
                    )
                    .hint("name a shorter path, such as /run/arw/name.sock"),
            );
        }
    }
    if proxy.is_some_and(|proxy| proxy == control) && draft.readable(&["control.unix_socket", "proxy.unix_socket"]) {
        faults.push(draft.fault("proxy.unix_socket", "it is the same path as `control.unix_socket`"));
    }
}

/// It runs inside the daemon, so where it lies depends on nothing. Whose it is is looked at when it is loaded.
fn library_is_named_whole(draft: &Draft, faults: &mut Vec<Fault>) {
    let key = "runtimes.gpu_library";
    let Some(path) = draft.config.runtimes.gpu_library.as_deref().filter(|_| draft.readable(&[key])) else { return };
    if !path.is_absolute() {
        faults.push(
            draft
                .fault(key, format!("`{}` is not an absolute path", path.display()))
                .hint("write the whole path, such as /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"),
        );
    }
}

/// Who asks for traces and gets none would not notice.
fn traces_are_built_in(draft: &Draft, faults: &mut Vec<Fault>) {
    if cfg!(not(feature = "otlp")) && draft.config.telemetry.otlp_endpoint.is_some() {
        faults.push(
            draft
                .fault("telemetry.otlp_endpoint", "otlp_not_built: this build exports no traces")
                .hint("leave it empty, or build with `--features otlp`"),
        );
    }
}

fn exposure(draft: &Draft, warnings: &mut Vec<String>) {
    for addr in draft.config.proxy.bind.iter().filter(|addr| draft.config.proxy.enable && !addr.ip().is_loopback()) {
        warnings.push(format!(
            "the proxy listens on `{addr}` without TLS: personas' tokens cross that network in the clear"
        ));
    }
}
