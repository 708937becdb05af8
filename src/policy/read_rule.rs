//! From the form of a rule to its meaning, with a fault for everything that has none.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::located::{Document, Found, Place, nearest};
use crate::config::{PortForm, RuleForm, TlsForm};
use crate::domain::{Method, RuleId, Scheme, classify};

use super::nets::NetIndex;
use super::path::PathPattern;
use super::pattern::{HostPattern, Purpose};
use super::ports::{self, PortSet};
use super::rule::{Budget, Rule};
use super::terms::{Rate, SchemeSet, TlsAnswer, TlsChoice};

/// Shortest prefix of an IPv4 network in an allow rule: the largest private network is 10.0.0.0/8.
const MIN_V4_PREFIX: u8 = 8;
/// Shortest prefix of an IPv6 network in an allow rule: the unique local addresses are fc00::/7.
const MIN_V6_PREFIX: u8 = 7;

/// Reads the rule at `position` (from 1) of its list. Faults are left in `document`; `None` when there are any.
pub(super) fn read(document: &Document, form: &RuleForm, purpose: Purpose, position: usize) -> Option<Rule> {
    Reader { document, form, purpose }.rule(position)
}

/// Reads `[tls]` of a persona or `tls` of a rule.
pub(super) fn read_tls(document: &Document, form: &TlsForm) -> TlsChoice {
    let answer = |found: &Option<Found<String>>| {
        let found = found.as_ref()?;
        match found.value.as_str() {
            "allow" => Some(TlsAnswer::Allow),
            "deny" => Some(TlsAnswer::Deny),
            other => {
                document.fault(&found.place, format!("`{}` is neither `allow` nor `deny`", bounded(other)));
                None
            }
        }
    };
    TlsChoice { missing_sni: answer(&form.missing_sni), ech: answer(&form.ech), not_tls: answer(&form.not_tls) }
}

/// What is repeated of an operator's text in a fault.
pub(super) fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

struct Reader<'f> {
    document: &'f Document,
    form: &'f RuleForm,
    purpose: Purpose,
}

impl Reader<'_> {
    fn rule(&self, position: usize) -> Option<Rule> {
        let form = self.form;
        let id = self.id(position);
        let cidrs = self.items(form.cidrs.as_deref(), |found| self.cidr(found));
        let hosts = self.items(form.hosts.as_deref(), |found| self.host(found, cidrs.as_deref().unwrap_or_default()));
        let ports = self.items(form.ports.as_deref(), |found| self.port(found));
        let schemes = self.items(form.schemes.as_deref(), |found| self.scheme(found));
        let methods = self.items(form.methods.as_deref(), |found| self.method(found));
        let paths = self.items(form.paths.as_deref(), |found| self.path(found));
        let budget = self.budget();
        let tls = read_tls(self.document, &form.tls);
        self.something_is_named();
        let schemes = self.schemes(schemes.as_deref());
        if !tls.is_empty() && !schemes.has(Scheme::Https) {
            self.fault(&form.at("tls"), "the rule has no `https`, so there is no TLS to judge", "leave `tls` out");
        }
        let cidrs = cidrs.unwrap_or_default();
        Some(Rule {
            id: id?,
            named: form.id.is_some(),
            hosts: hosts.unwrap_or_default().into(),
            opened: NetIndex::of(cidrs.iter().map(|net| (*net, 0))),
            cidrs: cidrs.into(),
            ports: match (ports, self.purpose) {
                (Some(ranges), _) => PortSet::of(ranges),
                (None, Purpose::Allow) => PortSet::web(),
                (None, Purpose::Deny) => PortSet::all(),
            },
            schemes,
            methods: methods.map(Into::into),
            paths: paths.map(Into::into),
            expires_at: form.expires_at.as_ref().map(|found| found.value),
            budget,
            tls,
            note: form.note.as_ref().map(|found| found.value.as_str().into()),
        })
    }

    fn fault(&self, place: &Place, message: impl Into<String>, hint: impl Into<String>) {
        self.document.fault_with_hint(place, message, hint);
    }

    /// What could be read of a list; faulty items report themselves.
    fn items<T, U>(&self, list: Option<&[Found<T>]>, read: impl Fn(&Found<T>) -> Option<U>) -> Option<Vec<U>> {
        list.map(|items| items.iter().filter_map(read).collect())
    }

    fn id(&self, position: usize) -> Option<RuleId> {
        let Some(found) = &self.form.id else {
            let kind = if self.purpose == Purpose::Allow { "allow" } else { "deny" };
            return Some(RuleId::parse(&format!("{kind}-{position}")).expect("letters, a hyphen and digits are an id"));
        };
        RuleId::parse(&found.value).map_err(|fault| self.document.fault(&found.place, fault.to_string())).ok()
    }

    fn something_is_named(&self) {
        if self.form.hosts.is_none() && self.form.cidrs.is_none() {
            let message = match self.purpose {
                Purpose::Allow => "the rule names neither `hosts` nor `cidrs`, so it allows nothing",
                Purpose::Deny => "the rule names neither `hosts` nor `cidrs`, so it denies nothing",
            };
            let hint = match self.purpose {
                Purpose::Allow => "name what it is for: hosts = [\"example.org\", \"*.example.org\"]",
                Purpose::Deny => "name what it is for; `posture = \"off\"` denies everything",
            };
            self.fault(&self.form.place, message, hint);
        }
    }

    fn host(&self, found: &Found<String>, cidrs: &[IpNet]) -> Option<HostPattern> {
        let text = found.value.as_str();
        let pattern = HostPattern::parse(text, self.purpose)
            .map_err(|fault| {
                self.fault(&found.place, format!("`{}`: {fault}", bounded(text)), fault.hint(&bounded(text)))
            })
            .ok()?;
        if let HostPattern::Literal(addr) = pattern
            && self.purpose == Purpose::Allow
            && !classify(addr).is_public()
            && !cidrs.iter().any(|net| net.contains(&addr.to_canonical()))
        {
            let addr = addr.to_canonical();
            let hint = format!("cidrs = [\"{}\"]", IpNet::from(addr));
            self.fault(&found.place, format!("`{addr}` is not a public address; only `cidrs` opens it"), hint);
        }
        Some(pattern)
    }

    fn cidr(&self, found: &Found<String>) -> Option<IpNet> {
        let text = found.value.as_str();
        let Some(net) = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)) else {
            let message = format!("`{}` is not a network", bounded(text));
            self.fault(&found.place, message, "an address and a prefix length, such as `10.1.0.0/16`");
            return None;
        };
        if net.trunc() != net {
            let message = format!("`{net}` has bits set behind its prefix");
            self.fault(&found.place, message, format!("`{}` or `{}`", net.trunc(), IpNet::from(net.addr())));
            return None;
        }
        if let IpNet::V6(v6) = net
            && v6.prefix_len() >= 96
            && let Some(v4) = v6.addr().to_ipv4_mapped()
        {
            let v4 = format!("{v4}/{}", v6.prefix_len() - 96);
            self.fault(&found.place, format!("`{net}` is IPv4 written as IPv6"), format!("`{v4}` means both forms"));
            return None;
        }
        let shortest = if net.addr().is_ipv4() { MIN_V4_PREFIX } else { MIN_V6_PREFIX };
        if self.purpose == Purpose::Allow && net.prefix_len() < shortest {
            let message = format!("`{net}` is too wide: it opens private networks that nobody named");
            self.fault(&found.place, message, format!("name each network, with a prefix of at least /{shortest}"));
            return None;
        }
        Some(net)
    }

    fn port(&self, found: &Found<PortForm>) -> Option<(u16, u16)> {
        let range = match &found.value {
            PortForm::Number(number) => ports::port(*number),
            PortForm::Text(text) => ports::range(text),
        };
        range.map_err(|fault| self.document.fault(&found.place, fault.to_string())).ok()
    }

    fn scheme(&self, found: &Found<String>) -> Option<Scheme> {
        match found.value.as_str() {
            "https" => Some(Scheme::Https),
            "http" => Some(Scheme::Http),
            "tcp" => Some(Scheme::Tcp),
            other => {
                let hint = match nearest(other, &["https", "http", "tcp"]) {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => "`https` (TLS, checked), `http` (plain, relayed) or `tcp` (opaque)".to_owned(),
                };
                self.fault(&found.place, format!("`{}` is not a scheme", bounded(other)), hint);
                None
            }
        }
    }

    /// The schemes of the rule. Methods and paths cannot be seen inside a tunnel: an allow rule that
    /// has them grants none, and a deny rule that has them must not look as if it denied any.
    fn schemes(&self, schemes: Option<&[Scheme]>) -> SchemeSet {
        let form = self.form;
        let sees_http = form.methods.is_some() || form.paths.is_some();
        let mut set = SchemeSet::default();
        schemes.unwrap_or_default().iter().for_each(|scheme| set.insert(*scheme));
        let blind = schemes.is_none() && self.purpose == Purpose::Deny || schemes.is_some() && set != SchemeSet::HTTP;
        // A faulty item of the list has spoken already.
        let complete = schemes.map(<[_]>::len) == form.schemes.as_ref().map(Vec::len);
        if sees_http && blind && complete {
            let hint = match self.purpose {
                Purpose::Allow => "schemes = [\"http\"], or a rule of its own for tunnels",
                Purpose::Deny => "schemes = [\"http\"], or deny the host without `methods` and `paths`",
            };
            let place = form.schemes.as_ref().and_then(|list| list.first()).map_or(&form.place, |found| &found.place);
            let place = Place { key: form.at("schemes").key, line: place.line };
            self.fault(&place, "`methods` and `paths` can only be seen in plain `http`, never inside a tunnel", hint);
        }
        if form.cidrs.is_some() && sees_http && self.purpose == Purpose::Deny {
            let hint = "deny the hosts by name, or the network without `methods` and `paths`";
            self.fault(&form.place, "a deny by `cidrs` denies the address whole", hint);
        }
        match (schemes, self.purpose) {
            (Some(_), _) => set,
            (None, Purpose::Deny) => SchemeSet::ALL,
            (None, Purpose::Allow) if sees_http => SchemeSet::HTTP,
            (None, Purpose::Allow) => SchemeSet::WEB,
        }
    }

    fn method(&self, found: &Found<String>) -> Option<Method> {
        let text = found.value.as_str();
        if text == "CONNECT" {
            self.fault(
                &found.place,
                "`CONNECT` opens a tunnel; it is not a method of a request",
                "`schemes` names tunnels",
            );
            return None;
        }
        if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
            let hint = format!("`{}`", bounded(&text.to_ascii_uppercase()));
            self.fault(&found.place, format!("`{}`: methods are written in capitals", bounded(text)), hint);
            return None;
        }
        Method::parse(text).map_err(|fault| self.document.fault(&found.place, fault.to_string())).ok()
    }

    fn path(&self, found: &Found<String>) -> Option<PathPattern> {
        let text = found.value.as_str();
        PathPattern::parse(text)
            .map_err(|fault| {
                let hint = "`/exact/path` or `/prefix/*`";
                self.fault(&found.place, format!("`{}`: {fault}", bounded(text)), hint);
            })
            .ok()
    }

    fn budget(&self) -> Budget {
        let form = self.form;
        let spendable = |place: &Place, amount: u64| {
            if amount == 0 {
                self.fault(place, "0 would deny every use", "leave the rule out, or set `expires_at`");
            }
            amount
        };
        Budget {
            max_uses: form.max_uses.as_ref().map(|found| spendable(&found.place, found.value)),
            max_bytes: form.max_bytes.as_ref().map(|found| spendable(&found.place, found.value.0)),
            rate: form.rate.as_ref().and_then(|found| {
                Rate::parse(&found.value).map_err(|fault| self.document.fault(&found.place, fault.to_string())).ok()
            }),
        }
    }
}
