//! A question put to the policy by a person: a URL, and what would be decided about it. Nothing leaves.

use crate::domain::{
    ClientAddr, Denial, EgressIntent, Host, Identity, Labels, Method, PersonaId, Scheme, Surface, Target, Timestamp,
    normalise_path,
};

use super::grant::{Decision, Grant};
use super::snapshot::Snapshot;

/// Longest URL, in bytes. 8 KiB, as long as a path may be.
const MAX_URL: usize = 8 << 10;

/// What is asked for, in normal form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What would be spoken.
    pub scheme: Scheme,
    /// Where to.
    pub target: Target,
    /// The method, for plain HTTP.
    pub method: Option<Method>,
    /// The path, for plain HTTP.
    pub path: Option<String>,
    /// What of the question was not looked at, and why.
    pub notes: Vec<String>,
}

/// What would be decided, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It may leave.
    Allow,
    /// It may leave only because the persona is in report mode.
    WouldDeny,
    /// It may not.
    Deny,
}

/// The decision, with a literal address judged as the gate would.
#[derive(Debug)]
pub struct Verdict {
    /// In one word.
    pub answer: Answer,
    /// What let it through.
    pub grant: Option<Grant>,
    /// What stops it, or would in enforcement.
    pub denial: Option<Denial>,
}

impl Snapshot {
    /// What would be decided about `question` from `persona` at `client`, at the moment `now`.
    pub fn verdict(
        &self,
        question: &Question,
        persona: PersonaId,
        client: ClientAddr,
        now: Timestamp,
    ) -> (EgressIntent, Verdict) {
        let intent = question.intent(persona, client);
        let verdict = Verdict::of(self.decide(&intent, now), &intent);
        (intent, verdict)
    }
}

impl Verdict {
    fn of(decision: Decision, intent: &EgressIntent) -> Self {
        let refused = |denial| Self { answer: Answer::Deny, grant: None, denial: Some(denial) };
        let grant = match decision {
            Decision::Deny(denial) => return refused(denial),
            Decision::Allow(grant) => grant,
        };
        let mut denial = grant.would_deny().cloned();
        if let Host::Addr(addr) = intent.target.host {
            if let Err(denial) = grant.vet(addr) {
                return refused(denial);
            }
            denial = denial.or_else(|| grant.would_deny_address(addr));
        }
        let answer = if denial.is_some() { Answer::WouldDeny } else { Answer::Allow };
        Self { answer, grant: Some(grant), denial }
    }

    /// What may be spoken, where something may.
    pub fn scheme(&self) -> Option<Scheme> {
        self.grant.as_ref().map(Grant::scheme)
    }
}

impl Question {
    /// Reads `https://host`, `http://host/path` or `tcp://host:port` as the gateway would see it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_url(url: &str) -> Result<Self, String> {
        if url.len() > MAX_URL {
            return Err(format!("a URL has at most {MAX_URL} bytes"));
        }
        let (scheme, rest) =
            url.split_once("://").ok_or("the URL does not start with `https://`, `http://` or `tcp://`")?;
        let scheme = [Scheme::Https, Scheme::Http, Scheme::Tcp]
            .into_iter()
            .find(|known| known.as_str().eq_ignore_ascii_case(scheme))
            .ok_or("the URL does not start with `https://`, `http://` or `tcp://`")?;
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let target = Target::parse(authority.as_bytes(), default_port(scheme)).map_err(|fault| fault.to_string())?;
        let raw_path = &tail[..tail.find(['?', '#']).unwrap_or(tail.len())];
        let mut notes = Vec::new();
        let path = match scheme {
            Scheme::Http => Some(normalise_path(raw_path).map_err(|fault| fault.to_string())?),
            Scheme::Https | Scheme::Tcp => {
                if !matches!(tail, "" | "/") {
                    notes.push("the gateway sees no path in a tunnel, so it was not looked at".to_owned());
                }
                None
            }
        };
        let method = (scheme == Scheme::Http).then(|| Method::parse("GET").ok()).flatten();
        Ok(Self { scheme, target, method, path, notes })
    }

    /// Reads a host by itself.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_host(host: &str, port: Option<u16>, scheme: Scheme) -> Result<Self, String> {
        let host = Host::parse(host.as_bytes()).map_err(|fault| fault.to_string())?;
        let port = match port {
            Some(0) => return Err("the port is not a number from 1 to 65535".to_owned()),
            Some(port) => port,
            None => default_port(scheme).ok_or("`tcp` has no usual port, so name one")?,
        };
        let path = (scheme == Scheme::Http).then(|| "/".to_owned());
        let method = (scheme == Scheme::Http).then(|| Method::parse("GET").ok()).flatten();
        Ok(Self { scheme, target: Target { host, port }, method, path, notes: Vec::new() })
    }

    /// The same question about another method, which only plain HTTP shows.
    ///
    /// # Errors
    /// When it is not a method.
    pub fn by_method(mut self, text: &str) -> Result<Self, String> {
        match self.scheme {
            Scheme::Http => self.method = Some(Method::parse(text).map_err(|fault| fault.to_string())?),
            Scheme::Https | Scheme::Tcp => {
                self.notes.push("the gateway sees no method in a tunnel, so it was not looked at".to_owned());
            }
        }
        Ok(self)
    }

    fn intent(&self, persona: PersonaId, client: ClientAddr) -> EgressIntent {
        EgressIntent {
            persona,
            identity: Identity::None,
            client,
            surface: match self.scheme {
                Scheme::Https | Scheme::Tcp => Surface::Tunnel,
                Scheme::Http => Surface::Forward,
            },
            target: self.target.clone(),
            method: self.method.clone(),
            path: self.path.clone(),
            recorded_path: None,
            labels: Labels::default(),
        }
    }
}

const fn default_port(scheme: Scheme) -> Option<u16> {
    match scheme {
        Scheme::Https => Some(443),
        Scheme::Http => Some(80),
        Scheme::Tcp => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Result<String, String> {
        let Question { scheme, target, path, .. } = Question::of_url(url)?;
        Ok(format!("{scheme} {target} {}", path.unwrap_or_default()).trim_end().to_owned())
    }

    #[test]
    fn urls_are_read_as_the_gateway_would_see_them() {
        for (url, expected) in [
            ("https://API.Example.com", "https api.example.com:443"),
            ("https://api.example.com:8443/v1?x=1#y", "https api.example.com:8443"),
            ("http://api.example.com", "http api.example.com:80 /"),
            ("HTTP://api.example.com/a/../b?q=secret", "http api.example.com:80 /b"),
            ("http://api.example.com?q", "http api.example.com:80 /"),
            ("tcp://db.example.com:5432", "tcp db.example.com:5432"),
            ("https://[2001:db8::1]/", "https [2001:db8::1]:443"),
            ("https://evil.example#@api.example.com:x", "https evil.example:443"),
        ] {
            assert_eq!(of(url), Ok(expected.to_owned()), "{url}");
        }
    }

    #[test]
    fn urls_that_somebody_could_read_otherwise_are_refused() {
        for url in [
            "",
            "api.example.com",
            "ftp://api.example.com",
            "https://",
            "https://user@api.example.com",
            "https://api.example.com\\@evil.example",
            "https://api.example.com:0",
            "https://api.example.com:65536",
            "https://2130706433",
            "https://a\0.example.com",
            "tcp://db.example.com",
            "http://api.example.com/%2f",
        ] {
            assert!(of(url).is_err(), "{url}: {:?}", of(url));
        }
    }
}
