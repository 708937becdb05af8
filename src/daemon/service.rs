//! What the service manager wants to hear (sd_notify(3)).

use std::time::Duration;

use sd_notify::NotifyState;

fn tell(states: &[NotifyState<'_>]) {
    // Without a service manager there is nobody to tell.
    let _ = sd_notify::notify(states);
}

/// The daemon serves.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload begins.
pub(super) fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// The daemon ends.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The daemon is alive.
pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`alive`] is said: four times in what the service manager allows, so that one answer of a worker may come late.
pub(super) fn heartbeat() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 4)
}
