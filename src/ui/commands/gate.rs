//! `egress preview`.

use super::context::Context;
use crate::control::{Preview, PreviewRequest};
use crate::ledger::{Outcome as Decision, Via};
use crate::ui::args::EgressCommand;
use crate::ui::text::safe;
use crate::ui::{Failure, Outcome, Paint, Screen};

pub(super) async fn run(command: EgressCommand, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let EgressCommand::Preview { url, persona, method } = command;
    let request = PreviewRequest { persona, url: Some(url), host: None, port: None, scheme: None, method };
    let answer: Preview = context.client.send("/egress/preview", &request).await?;
    if screen.json() {
        screen.value(&answer, false)?;
    } else {
        show(&answer, screen)?;
    }
    Ok(match answer.decision {
        Decision::Allow | Decision::WouldDeny => Outcome::Done,
        Decision::Deny => Outcome::Refused,
    })
}

fn show(answer: &Preview, screen: &mut Screen) -> Result<(), Failure> {
    let (paint, word) = match answer.decision {
        Decision::Allow => (Paint::Good, "allow"),
        Decision::Deny => (Paint::Bad, "deny"),
        Decision::WouldDeny => (Paint::Warn, "allow (report mode; enforcement would deny)"),
    };
    let target = format!("{}://{}:{}", answer.scheme, answer.host, answer.port);
    let line = format!("{}  {} as {}", screen.paint(paint, word), safe(&target), answer.persona);
    screen.line(&line)?;
    let mut facts: Vec<(&str, String)> = Vec::new();
    if let Some(code) = answer.code {
        facts.push(("code", code.code().to_owned()));
    }
    if let Some(lease) = &answer.lease {
        facts.push(("lease", lease.as_str().to_owned()));
    }
    if let Some(rule) = &answer.rule {
        facts.push(("rule", rule.as_str().to_owned()));
    } else if answer.via == Some(Via::Public) && answer.decision == Decision::Allow {
        facts.push(("by", "the persona's posture".to_owned()));
    }
    if let Some(detail) = &answer.detail {
        facts.push(("why", safe(detail).into_owned()));
    }
    for note in &answer.notes {
        facts.push(("note", safe(note).into_owned()));
    }
    if let Some(hint) = &answer.lease_hint {
        facts.push(("try", safe(hint).into_owned()));
    }
    facts.push(("record", format!("ledger line {}", answer.seq)));
    for (name, value) in facts {
        screen.line(&format!("  {name:<7}{value}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{DenialCode, PersonaId, Scheme};
    use crate::ui::screen::capture;

    #[test]
    fn a_denial_says_why_and_what_to_do() {
        let answer = Preview {
            decision: Decision::Deny,
            persona: PersonaId::parse("demo").expect("valid"),
            host: "api.example.com".to_owned(),
            port: 443,
            scheme: Scheme::Https,
            code: Some(DenialCode::NotAllowlisted),
            via: None,
            rule: None,
            lease: None,
            detail: Some("no rule allows `api.example.com`".to_owned()),
            lease_hint: Some("add the host to `personas/demo.toml`".to_owned()),
            notes: vec!["no address was looked up".to_owned()],
            seq: 7,
        };
        assert_eq!(
            capture(|screen| show(&answer, screen).expect("shown")),
            "\
deny  https://api.example.com:443 as demo
  code   not_allowlisted
  why    no rule allows `api.example.com`
  note   no address was looked up
  try    add the host to `personas/demo.toml`
  record ledger line 7
"
        );
    }
}
