//! What the gate would decide, without a dial or a look-up.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};

use super::egress::{blocking, ledger_problem};
use super::extract::JsonBody;
use super::problem::{Problem, ProblemCode};
use super::state::App;
use super::wire::{Preview, PreviewRequest};
use crate::domain::{
    ClientAddr, Denial, EgressIntent, Host, Identity, Labels, Method, Scheme, Surface, Target, normalise_path,
};
use crate::ledger::{Kind, Outcome, Record, Via};
use crate::policy::{Decision, Grant, GrantedBy};

/// Longest URL, in bytes. 8 KiB, as long as a path may be.
const MAX_URL: usize = 8 << 10;

/// What is asked for, in normal form.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    scheme: Scheme,
    target: Target,
    method: Option<Method>,
    path: Option<String>,
    notes: Vec<String>,
}

pub(super) async fn preview(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<ClientAddr>,
    JsonBody(request): JsonBody<PreviewRequest>,
) -> Result<Json<Preview>, Problem> {
    let question = Question::read(&request).map_err(|detail| Problem::new(ProblemCode::BadRequest, detail))?;
    if app.state.policy.load().persona(&request.persona).is_none() {
        return Err(Problem::new(ProblemCode::NoSuchPersona, format!("there is no persona `{}`", request.persona)));
    }
    blocking(move || app.preview(&request, question, peer)).await?.map(Json)
}

impl App {
    fn preview(&self, request: &PreviewRequest, question: Question, client: ClientAddr) -> Result<Preview, Problem> {
        let Question { scheme, target, method, path, mut notes } = question;
        let intent = EgressIntent {
            persona: request.persona.clone(),
            identity: Identity::None,
            client,
            surface: surface(scheme),
            target,
            method,
            path,
            recorded_path: None,
            labels: Labels::default(),
        };
        let verdict = Verdict::of(self.state.policy.load().decide(&intent, self.state.clock.now()), &intent);
        if verdict.outcome != Outcome::Deny {
            if verdict.scheme != Some(scheme)
                && let Some(granted) = verdict.scheme
            {
                notes.push(format!("a tunnel to it is granted as `{granted}`"));
            }
            if let Host::Name(_) = intent.target.host {
                notes.push("no address was looked up; each one is judged when it is".to_owned());
            }
            notes.push("budgets and rates are counted at the time of the request".to_owned());
        }
        let host = intent.target.host.to_string();
        let record = verdict.record(&intent, scheme, &host);
        let receipt = self.state.ledger.append(&record).map_err(|error| ledger_problem(&error))?;
        let lease_hint = verdict.denial.as_ref().filter(|denial| denial.code.leasable()).map(|_| {
            format!("add `{host}` and port {} to an allow rule of persona `{}`", intent.target.port, intent.persona)
        });
        Ok(Preview {
            decision: verdict.outcome,
            persona: intent.persona,
            port: intent.target.port,
            scheme: verdict.scheme.unwrap_or(scheme),
            code: verdict.denial.as_ref().map(|denial| denial.code),
            via: verdict.via,
            rule: verdict
                .grant
                .as_ref()
                .and_then(|grant| grant.rule().cloned())
                .or_else(|| verdict.denial.as_ref().and_then(|denial| denial.rule.clone())),
            detail: verdict.denial.map(|denial| denial.detail),
            lease_hint,
            notes,
            seq: receipt.seq(),
            host,
        })
    }
}

const fn surface(scheme: Scheme) -> Surface {
    match scheme {
        Scheme::Https | Scheme::Tcp => Surface::Tunnel,
        Scheme::Http => Surface::Forward,
    }
}

/// The decision, with a literal address judged as the gate would.
struct Verdict {
    outcome: Outcome,
    grant: Option<Grant>,
    via: Option<Via>,
    scheme: Option<Scheme>,
    denial: Option<Denial>,
}

impl Verdict {
    fn of(decision: Decision, intent: &EgressIntent) -> Self {
        let refused =
            |denial| Self { outcome: Outcome::Deny, grant: None, via: None, scheme: None, denial: Some(denial) };
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
        Self {
            outcome: if denial.is_some() { Outcome::WouldDeny } else { Outcome::Allow },
            via: match grant.via() {
                GrantedBy::Rule => Some(Via::Policy),
                GrantedBy::Public => Some(Via::Public),
                GrantedBy::Report => None,
            },
            scheme: Some(grant.scheme()),
            grant: Some(grant),
            denial,
        }
    }

    fn record<'a>(&'a self, intent: &'a EgressIntent, asked: Scheme, host: &'a str) -> Record<'a> {
        let mut record = Record::new(Kind::Preview);
        record.persona = Some(&intent.persona);
        record.client = Some(intent.client);
        record.scheme = Some(self.scheme.unwrap_or(asked));
        record.host = Some(host);
        record.port = Some(intent.target.port);
        record.method = intent.method.as_ref().map(Method::as_str);
        record.path = intent.path.as_deref();
        record.outcome = Some(self.outcome);
        record.via = self.via;
        record.rule = self.grant.as_ref().and_then(Grant::rule);
        if let Some(denial) = &self.denial {
            record.code = Some(denial.code);
            record.rule = record.rule.or(denial.rule.as_ref());
            record.detail = Some(&denial.detail);
        }
        record
    }
}

impl Question {
    /// Reads either form; the error says what is wrong with it.
    fn read(request: &PreviewRequest) -> Result<Self, String> {
        let mut question = match (&request.url, &request.host) {
            (Some(_), Some(_)) => return Err("name a `url` or a `host`, not both".to_owned()),
            (None, None) => return Err("name a `url` or a `host`".to_owned()),
            (Some(_), None) if request.port.is_some() || request.scheme.is_some() => {
                return Err("`port` and `scheme` go with `host`; a `url` has its own".to_owned());
            }
            (Some(url), None) => Self::of_url(url)?,
            (None, Some(host)) => Self::of_host(host, request.port, request.scheme.unwrap_or(Scheme::Https))?,
        };
        match (&request.method, question.scheme) {
            (Some(text), Scheme::Http) => {
                question.method = Some(Method::parse(text).map_err(|fault| fault.to_string())?);
            }
            (None, Scheme::Http) => question.method = Method::parse("GET").ok(),
            (Some(_), Scheme::Https | Scheme::Tcp) => {
                question.notes.push("the gateway sees no method in a tunnel, so it was not looked at".to_owned());
            }
            (None, Scheme::Https | Scheme::Tcp) => {}
        }
        Ok(question)
    }

    fn of_host(host: &str, port: Option<u16>, scheme: Scheme) -> Result<Self, String> {
        let host = Host::parse(host.as_bytes()).map_err(|fault| fault.to_string())?;
        let port = match port {
            Some(0) => return Err("the port is not a number from 1 to 65535".to_owned()),
            Some(port) => port,
            None => default_port(scheme).ok_or("`tcp` has no usual port, so name one")?,
        };
        let path = (scheme == Scheme::Http).then(|| "/".to_owned());
        Ok(Self { scheme, target: Target { host, port }, method: None, path, notes: Vec::new() })
    }

    fn of_url(url: &str) -> Result<Self, String> {
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
        Ok(Self { scheme, target, method: None, path, notes })
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
