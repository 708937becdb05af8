//! `status` and `health`.

use std::time::Duration;

use super::context::Context;
use crate::control::{Arming, ClientError, EgressStatus, GatewayStatus, Health, Readiness, Tunnel, Tunnels};
use crate::ui::text::{amount, count, size, span};
use crate::ui::{Failure, Outcome, Paint, Screen, Table};

/// Tunnels that `status` lists. 20: a screen; `--json` has them all.
const SHOWN_TUNNELS: usize = 20;
/// Personas that are not armed that `status` lists. 20, as for tunnels.
const SHOWN_PERSONAS: usize = 20;

pub(super) async fn status(context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    if screen.json() {
        let status: serde_json::Value = context.client.fetch("/state/egress/status").await?;
        let tunnels: serde_json::Value = context.client.fetch("/state/tunnels?limit=10000").await?;
        screen.value(&serde_json::json!({ "status": status, "tunnels": tunnels["tunnels"] }), false)?;
        return Ok(Outcome::Done);
    }
    let status: EgressStatus = context.client.fetch("/state/egress/status").await?;
    let tunnels: Tunnels = context.client.fetch("/state/tunnels?limit=10000").await?;
    show_status(&status, &tunnels.tunnels, screen)?;
    Ok(Outcome::Done)
}

fn show_status(status: &EgressStatus, tunnels: &[Tunnel], screen: &mut Screen) -> Result<(), Failure> {
    let heading = |screen: &Screen, name: &str| screen.paint(Paint::Strong, &format!("{name:<10}"));
    match &status.gateway {
        Some(gateway) => {
            let word = if gateway.draining { (Paint::Warn, "draining") } else { (Paint::Good, "open") };
            let line = format!(
                "{}{}  {}  {}, {}",
                heading(screen, "gateway"),
                screen.paint(word.0, word.1),
                gateway.listening.join(" "),
                amount(gateway.connections, "connection"),
                amount(gateway.tunnels, "tunnel")
            );
            screen.line(&line)?;
            let shed = count(gateway.shed);
            let accepted = amount(gateway.accepted, "connection");
            screen.line(&format!("{:<10}{accepted} since the start, {shed} turned away", ""))?;
        }
        None => {
            let line = format!("{}{}", heading(screen, "gateway"), screen.paint(Paint::Warn, "off"));
            screen.line(&line)?;
        }
    }
    let ledger = &status.ledger;
    let (paint, word) = match (ledger.enabled, ledger.available) {
        (false, _) => (Paint::Bad, "OFF: what leaves is not recorded".to_owned()),
        (true, true) => (Paint::Good, "writable".to_owned()),
        (true, false) => {
            let reason = ledger.detail.as_deref().or(ledger.cause.as_deref()).unwrap_or("no reason given");
            (Paint::Bad, format!("UNAVAILABLE, nothing leaves: {}", crate::ui::text::safe(reason)))
        }
    };
    let line = format!(
        "{}{}  {}, {} signed, {}  {}",
        heading(screen, "ledger"),
        screen.paint(paint, &word),
        amount(ledger.last_seq, "line"),
        count(ledger.signed_size.unwrap_or(0)),
        size(ledger.bytes),
        ledger.dir.display()
    );
    screen.line(&line)?;
    let line = format!(
        "{}generation {}, {}",
        heading(screen, "policy"),
        status.policy.generation,
        amount(status.policy.personas, "persona")
    );
    screen.line(&line)?;
    let (paint, who) = match status.policy.authority.as_str() {
        "none" => (Paint::Warn, "no policy file: an administrator may do everything".to_owned()),
        source => (Paint::Plain, format!("{source}, {}", amount(status.policy.grants, "grant"))),
    };
    let line = format!("{}{}", heading(screen, "authority"), screen.paint(paint, &crate::ui::text::safe(&who)));
    screen.line(&line)?;
    show_arming(&status.arming, screen)?;
    let line = format!("{}{}", heading(screen, "daemon"), status.version);
    screen.line(&line)?;
    if let Some(gateway) = &status.gateway {
        show_personas(gateway, screen)?;
    }
    show_tunnels(tunnels, screen)
}

/// Nothing while nothing is to be armed.
fn show_arming(arming: &Arming, screen: &mut Screen) -> Result<(), Failure> {
    if !arming.enabled {
        return Ok(());
    }
    let word = match arming.not_armed.as_slice() {
        [] => screen.paint(Paint::Good, "armed"),
        not_armed => screen.paint(Paint::Warn, &format!("{} not armed", amount(not_armed.len() as u64, "persona"))),
    };
    let heading = screen.paint(Paint::Strong, &format!("{:<10}", "personas"));
    screen.line(&format!("{heading}{word}"))?;
    for not_armed in arming.not_armed.iter().take(SHOWN_PERSONAS) {
        let text = format!("{:<10}{}: {}", "", not_armed.persona, not_armed.code);
        screen.painted(Paint::Warn, &crate::ui::text::safe(&text))?;
    }
    Ok(())
}

fn show_personas(gateway: &GatewayStatus, screen: &mut Screen) -> Result<(), Failure> {
    if gateway.personas.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["PERSONA", ">OPEN", ">ALLOWED", ">WOULD DENY", ">DENIED", ">UP", ">DOWN"]);
    for persona in &gateway.personas {
        table.row(
            Paint::Plain,
            &[
                persona.persona.as_str(),
                &count(persona.tunnels),
                &count(persona.allowed),
                &count(persona.would_deny),
                &count(persona.denied),
                &size(persona.bytes_up),
                &size(persona.bytes_down),
            ],
        );
    }
    screen.line("")?;
    table.show(screen)?;
    Ok(())
}

fn show_tunnels(tunnels: &[Tunnel], screen: &mut Screen) -> Result<(), Failure> {
    if tunnels.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&[">DECISION", "PERSONA", "TARGET", ">AGE", ">UP", ">DOWN"]);
    for tunnel in tunnels.iter().take(SHOWN_TUNNELS) {
        table.row(
            Paint::Plain,
            &[
                &tunnel.decision.to_string(),
                tunnel.persona.as_str(),
                &format!("{}://{}", tunnel.scheme, tunnel.target),
                &span(Duration::from_millis(tunnel.age_ms)),
                &size(tunnel.bytes_up),
                &size(tunnel.bytes_down),
            ],
        );
    }
    screen.line("")?;
    table.show(screen)?;
    if tunnels.len() > SHOWN_TUNNELS {
        let rest = count((tunnels.len() - SHOWN_TUNNELS) as u64);
        screen.painted(Paint::Faint, &format!("and {rest} more; `arw-cli --json status` has them all"))?;
    }
    Ok(())
}

pub(super) async fn health(context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let health: Health = context.client.fetch("/healthz").await?;
    let reasons = match context.client.fetch::<Readiness>("/readyz").await {
        Ok(_) => Vec::new(),
        Err(ClientError::Refused(problem)) if problem.code == "not_ready" => problem.reasons,
        Err(error) => return Err(error.into()),
    };
    let ready = reasons.is_empty();
    if screen.json() {
        let answer = serde_json::json!({
            "status": health.status, "version": health.version, "ready": ready, "reasons": reasons,
        });
        screen.value(&answer, false)?;
    } else if ready {
        let word = screen.paint(Paint::Good, "ready");
        screen.line(&format!("{word}  arw-server {}", health.version))?;
    } else {
        let word = screen.paint(Paint::Bad, "not ready");
        let reasons = crate::ui::text::safe(&reasons.join(", ")).into_owned();
        screen.line(&format!("{word}  arw-server {}: {reasons}", health.version))?;
    }
    Ok(if ready { Outcome::Done } else { Outcome::Refused })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{LedgerStatus, NotArmed, PersonaTraffic, PolicyStatus};
    use crate::domain::{PersonaId, Scheme};
    use crate::ui::screen::capture;

    fn demo() -> PersonaId {
        PersonaId::parse("demo").expect("valid")
    }

    fn sample() -> EgressStatus {
        EgressStatus {
            version: "0.1.0".to_owned(),
            gateway: Some(GatewayStatus {
                listening: vec!["127.0.0.1:9080".to_owned()],
                draining: false,
                connections: 3,
                tunnels: 1,
                accepted: 1_240,
                shed: 0,
                personas: vec![PersonaTraffic {
                    persona: demo(),
                    connections: 3,
                    tunnels: 1,
                    allowed: 1_234,
                    would_deny: 0,
                    denied: 5,
                    bytes_up: 2_048,
                    bytes_down: 3 << 20,
                }],
            }),
            ledger: LedgerStatus {
                enabled: true,
                available: true,
                cause: None,
                detail: None,
                since: None,
                dir: "/var/lib/arw/ledger".into(),
                origin: "arw.local/egress".to_owned(),
                public_key: None,
                durability: "batch".to_owned(),
                last_seq: 2_473,
                unsynced_lines: 3,
                signed_size: Some(2_400),
                signed_at: None,
                checkpoint_error: None,
                segments: 1,
                bytes: 1 << 20,
                refused_total: 0,
            },
            policy: PolicyStatus { generation: 2, personas: 1, authority: "none".to_owned(), grants: 0 },
            arming: Arming { enabled: false, not_armed: Vec::new() },
        }
    }

    fn tunnel() -> Tunnel {
        Tunnel {
            decision: 41,
            persona: demo(),
            client: "127.0.0.1:40000".to_owned(),
            scheme: Scheme::Https,
            target: "api.example.com:443".to_owned(),
            rule: None,
            lease: None,
            bytes_up: 512,
            bytes_down: 1_536,
            age_ms: 245_000,
        }
    }

    #[test]
    fn status_reads_like_this() {
        let text = capture(|screen| show_status(&sample(), &[tunnel()], screen).expect("shown"));
        assert_eq!(
            text,
            "\
gateway   open  127.0.0.1:9080  3 connections, 1 tunnel
          1 240 connections since the start, 0 turned away
ledger    writable  2 473 lines, 2 400 signed, 1.0 MiB  /var/lib/arw/ledger
policy    generation 2, 1 persona
authority no policy file: an administrator may do everything
daemon    0.1.0

PERSONA  OPEN  ALLOWED  WOULD DENY  DENIED       UP     DOWN
demo        1    1 234           0       5  2.0 KiB  3.0 MiB

DECISION  PERSONA  TARGET                           AGE     UP     DOWN
      41  demo     https://api.example.com:443  4 m 5 s  512 B  1.5 KiB
"
        );
    }

    #[test]
    fn a_persona_that_is_not_armed_is_told_where_that_is_wanted() {
        let mut status = sample();
        status.arming.enabled = true;
        let text = capture(|screen| show_status(&status, &[], screen).expect("shown"));
        assert!(text.contains("\npersonas  armed\n"), "{text}");
        status.arming.not_armed = vec![NotArmed { persona: demo(), code: "persona_review_stale".to_owned() }];
        let text = capture(|screen| show_status(&status, &[], screen).expect("shown"));
        assert!(text.contains("\npersonas  1 persona not armed\n          demo: persona_review_stale\n"), "{text}");
    }

    #[test]
    fn a_ledger_that_is_off_or_broken_cannot_be_overlooked() {
        let mut status = sample();
        status.ledger.enabled = false;
        let text = capture(|screen| show_status(&status, &[], screen).expect("shown"));
        assert!(text.contains("ledger    OFF: what leaves is not recorded"), "{text}");
        status.ledger = LedgerStatus {
            enabled: true,
            available: false,
            detail: Some("disk full\x1b[2J".to_owned()),
            ..status.ledger
        };
        let text = capture(|screen| show_status(&status, &[], screen).expect("shown"));
        assert!(text.contains("UNAVAILABLE, nothing leaves: disk full\\u{1b}[2J"), "{text}");
    }
}
