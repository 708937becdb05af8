//! The journal's native protocol: one datagram of `NAME=value` lines
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).

use std::path::PathBuf;

use tokio::net::UnixDatagram;

use super::SinkFault;
use super::parcel::Parcel;
use super::syslog;
use crate::domain::is_deceptive;

/// The journal.
#[derive(Debug)]
pub(super) struct Journald {
    socket: PathBuf,
}

impl Journald {
    pub(super) const fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub(super) async fn deliver(&self, parcel: &Parcel) -> Result<(), SinkFault> {
        let fault = |fault| SinkFault::later(&format!("`{}`", self.socket.display()), fault);
        let socket = UnixDatagram::unbound().map_err(fault)?;
        socket.connect(&self.socket).map_err(fault)?;
        socket.send(&entry(parcel)).await.map(drop).map_err(fault)
    }
}

/// No value has a line end: ids and JSON have none, and from the summary they are taken, with all that could touch the
/// terminal of whoever reads it.
fn entry(parcel: &Parcel) -> Vec<u8> {
    let shown = |letter| if is_deceptive(letter) { ' ' } else { letter };
    let summary: String = parcel.summary.chars().map(shown).collect();
    format!(
        "MESSAGE={summary}\nPRIORITY={}\nSYSLOG_IDENTIFIER=arw-server\nARW_EVENT_ID={}\nARW_EVENT_TYPE={}\nARW_EVENT={}\n",
        syslog::level(parcel),
        parcel.id,
        parcel.kind,
        parcel.body,
    )
    .into_bytes()
}
