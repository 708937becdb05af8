//! Where attacks are run: a daemon, an origin that must not be reached, and how a row is judged.

use crate::support::{Client, Daemon, DnsServer, End, Origin, Setup, readable};

/// A persona that may reach `origin.test` by plain HTTP, and nothing else.
pub(crate) const AGENT: &str = "agent";
/// A persona that may reach every public address, but not `denied.test`.
pub(crate) const ROAMER: &str = "roamer";

/// Daemon, origin and name server of one class of attacks.
pub(crate) struct Ground {
    pub(crate) daemon: Daemon,
    pub(crate) origin: Origin,
    pub(crate) dns: DnsServer,
}

/// One attack that must be refused.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) status: u16,
    pub(crate) code: &'static str,
}

/// A row: `bytes` are refused with `status` and `code`.
pub(crate) fn row(name: impl Into<String>, bytes: impl Into<Vec<u8>>, status: u16, code: &'static str) -> Row {
    Row { name: name.into(), bytes: bytes.into(), status, code }
}

/// Credentials of a persona, as a whole field line.
pub(crate) fn credentials(persona: &str) -> String {
    Daemon::credentials(persona)
}

/// A `CONNECT` by `persona` whose target and `Host` are these bytes.
pub(crate) fn connect(persona: &str, target: impl AsRef<[u8]>) -> Vec<u8> {
    let target = target.as_ref();
    let end = format!("\r\n{}\r\n", credentials(persona));
    [b"CONNECT ", target, b" HTTP/1.1\r\nHost: ", target, end.as_bytes()].concat()
}

/// A `GET` by `persona` of `http://<authority>/`, whose `Host` is the same authority.
pub(crate) fn forward(persona: &str, authority: impl AsRef<[u8]>) -> Vec<u8> {
    let authority = authority.as_ref();
    let end = format!("\r\n{}\r\n", credentials(persona));
    [b"GET http://", authority, b"/ HTTP/1.1\r\nHost: ", authority, end.as_bytes()].concat()
}

impl Ground {
    /// With default limits.
    pub(crate) fn new() -> Self {
        Self::with(|setup| setup)
    }

    /// With `change` applied to the settings.
    pub(crate) fn with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let origin = Origin::http();
        let dns = DnsServer::start();
        dns.host("origin.test", &["127.0.0.1"]);
        dns.host("denied.test", &["127.0.0.1"]);
        let agent = format!(
            "[[allow]]\nid = \"origin\"\nhosts = [\"origin.test\"]\ncidrs = [\"127.0.0.1/32\"]\nports = [{}]\n\
             schemes = [\"http\"]\n",
            origin.port()
        );
        let roamer = "posture = \"public\"\n[[deny]]\nid = \"no\"\nhosts = [\"denied.test\", \"*.denied.test\"]\n";
        let setup = Setup::new().dns(&dns).persona(AGENT, &agent).persona(ROAMER, roamer);
        Self { daemon: Daemon::start(change(setup)), origin, dns }
    }

    /// Authority of the origin, as the agent may name it.
    pub(crate) fn authority(&self) -> String {
        format!("origin.test:{}", self.origin.port())
    }

    /// A request of the agent's to the origin, with these fields (each with its CRLF) and this body.
    pub(crate) fn request(&self, method: &str, path: &str, fields: &str, body: &str) -> Vec<u8> {
        let authority = self.authority();
        let credentials = credentials(AGENT);
        format!("{method} http://{authority}{path} HTTP/1.1\r\nHost: {authority}\r\n{credentials}{fields}\r\n{body}")
            .into_bytes()
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.daemon.proxy)
    }

    /// Runs every row and fails with all that did not hold.
    pub(crate) fn refuse_all(&self, rows: &[Row]) {
        let faults: Vec<String> = rows
            .iter()
            .filter_map(|row| self.refuse(row).err().map(|fault| format!("{}: {fault}", row.name)))
            .collect();
        assert!(faults.is_empty(), "{} of {} rows broke:\n{}", faults.len(), rows.len(), faults.join("\n"));
    }

    /// What must hold for one row: the answer, its ledger line, no byte to the origin, no query, and no
    /// second answer.
    fn refuse(&self, row: &Row) -> Result<(), String> {
        let (connections, queries) = (self.origin.connections(), self.dns.asked().len());
        let mut client = self.client();
        // The gateway may answer and end before it has read everything.
        let _ = client.try_send(&row.bytes);
        let answer = client.try_answer_to("GET").map_err(|fault| fault.readable())?;
        let told = (answer.status, answer.code());
        if told != (row.status, row.code.to_owned()) {
            return Err(format!("answered {told:?}, not {:?}: {}", (row.status, row.code), answer.text()));
        }
        if !answer.reason.starts_with(row.code) {
            return Err(format!("the status line does not say so: {}", answer.head));
        }
        let line = self.daemon.ledger_line(answer.decision());
        if line["kind"] != "deny" || line["code"] != row.code {
            return Err(format!("recorded as {line}"));
        }
        if answer.field("connection") == Some("close") {
            match client.read_to_end() {
                (rest, End::Clean) if rest.is_empty() => {}
                (rest, end) => return Err(format!("then {end:?} after {}", readable(&rest))),
            }
        } else {
            // The next answer on the connection is that of the next request, so there was no other between.
            client.send(forward(ROAMER, "probe.denied.test"));
            let probe = client.try_answer_to("GET").map_err(|fault| fault.readable())?;
            if probe.code() != "denied_by_rule" || probe.problem()["host"] != "probe.denied.test" {
                return Err(format!("an answer came between: {}{}", probe.head, probe.text()));
            }
        }
        if self.origin.connections() != connections {
            return Err(format!("the origin was reached: {}", readable(&self.origin.raw_bytes())));
        }
        if self.dns.asked().len() != queries {
            return Err(format!("a query left: {:?}", self.dns.asked()));
        }
        Ok(())
    }
}
