//! `admin …`: leases.

use serde_json::{Value, json};

use super::context::Context;
use crate::control::escape;
use crate::ui::args::{AdminCommand, AdminPersonaCommand, GrantArgs, LeaseCommand};
use crate::ui::text::{cut, safe, size};
use crate::ui::{Failure, Outcome, Paint, Screen, Table};

/// Widest justification in a table.
const WIDTH: usize = 48;

pub(super) async fn run(command: AdminCommand, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    match command {
        AdminCommand::Persona(AdminPersonaCommand::Grant(args)) => grant(&args, context, screen).await,
        AdminCommand::Attest { subject, note } => {
            let body = json!({ "subject": subject, "note": note });
            let attested: Value = context.client.send("/attestations", &body).await?;
            if screen.json() {
                screen.value(&attested, false)?;
            } else {
                screen.line(&format!("recorded: {}", safe(&subject)))?;
            }
            Ok(Outcome::Done)
        }
        AdminCommand::Audit { limit } => audit(limit, context, screen).await,
        AdminCommand::Lease(LeaseCommand::List { ended }) => list(ended, context, screen).await,
        AdminCommand::Lease(LeaseCommand::Revoke { id, reason }) => {
            let reason = reason.map(|reason| format!("?reason={}", escape(&reason))).unwrap_or_default();
            let answer: Value = context.client.remove(&format!("/leases/{id}{reason}")).await?;
            let kept = answer["persisted"] != false;
            if screen.json() {
                screen.value(&answer, false)?;
            } else {
                let cut = answer["cut"].as_u64().unwrap_or(0);
                screen.line(&format!("revoked {id}; {cut} open connections were cut"))?;
                if !kept {
                    let told = "it is not on the disk: the daemon goes on trying, and a restart before that brings the lease back";
                    screen.painted(Paint::Warn, told)?;
                }
            }
            Ok(if kept { Outcome::Done } else { Outcome::Refused })
        }
    }
}

async fn grant(args: &GrantArgs, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let mut body = json!({
        "capability": args.capability,
        "subject": args.persona,
        "ttl_secs": args.ttl.as_secs(),
        "justification": args.justification,
    });
    for (name, bound) in [("max_uses", args.max_uses), ("max_bytes", args.max_bytes)] {
        if let Some(bound) = bound {
            body[name] = bound.into();
        }
    }
    let lease: Value = context.client.send("/leases", &body).await?;
    if screen.json() {
        screen.value(&lease, false)?;
    } else {
        let text = |key: &str| safe(lease[key].as_str().unwrap_or("-")).into_owned();
        let (id, until) = (text("id"), text("expires_at"));
        screen.line(&format!("{id}: {} may use {} until {until}", args.persona, text("capability")))?;
        screen.line(&format!("take it back with `arw-cli admin lease revoke {id}`"))?;
    }
    Ok(Outcome::Done)
}

async fn audit(limit: u16, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let page: Value = context.client.fetch(&format!("/state/audit?limit={limit}")).await?;
    if screen.json() {
        screen.value(&page, false)?;
        return Ok(Outcome::Done);
    }
    let mut table = Table::new(&["time", "who", "what", "to", "after", "why"]);
    for line in page["entries"].as_array().into_iter().flatten() {
        let entry = &line["audit"];
        let text = |value: &Value| safe(value.as_str().unwrap_or("-")).into_owned();
        let to =
            ["persona", "runtime", "lease"].iter().filter_map(|key| line[key].as_str()).collect::<Vec<_>>().join(" ");
        let (after, why) = (text(&entry["after"]), text(&line["detail"]));
        let row = [
            text(&entry["at"]),
            text(&entry["actor"]),
            text(&entry["action"]),
            safe(&to).into_owned(),
            cut(&after, WIDTH).into_owned(),
            cut(&why, WIDTH).into_owned(),
        ];
        table.row(Paint::Plain, &row.each_ref().map(String::as_str));
    }
    if table.is_empty() {
        screen.line("nothing was done yet")?;
    } else {
        table.show(screen)?;
    }
    Ok(Outcome::Done)
}

async fn list(ended: u16, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let leases: Value = context.client.fetch(&format!("/state/leases?ended={ended}")).await?;
    if screen.json() {
        screen.value(&leases, false)?;
        return Ok(Outcome::Done);
    }
    let mut table = Table::new(&["id", "persona", "capability", "until", "used", "by", "why"]);
    for (paint, key) in [(Paint::Plain, "leases"), (Paint::Warn, "ended")] {
        for lease in leases[key].as_array().into_iter().flatten() {
            let text = |key: &str| safe(lease[key].as_str().unwrap_or("-")).into_owned();
            let until = match lease["end"].as_str() {
                Some(end) => format!("{end} {}", text("ended_at")),
                None => text("expires_at"),
            };
            let why = text("justification");
            let row = [
                text("id"),
                text("subject"),
                text("capability"),
                until,
                used(lease),
                text("issuer"),
                cut(&why, WIDTH).into_owned(),
            ];
            table.row(paint, &row.each_ref().map(String::as_str));
        }
    }
    if table.is_empty() {
        screen.line("no lease is in force")?;
    } else {
        table.show(screen)?;
    }
    Ok(Outcome::Done)
}

fn used(lease: &Value) -> String {
    let of = |bound: &Value, show: fn(u64) -> String| {
        bound.as_u64().map(|bound| format!("/{}", show(bound))).unwrap_or_default()
    };
    match (lease["uses"].as_u64(), lease["bytes"].as_u64()) {
        (Some(uses), Some(bytes)) => format!(
            "{uses}{} times, {}{}",
            of(&lease["max_uses"], |uses| uses.to_string()),
            size(bytes),
            of(&lease["max_bytes"], size)
        ),
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_is_shown_with_its_bound_and_never_invented() {
        assert_eq!(used(&json!({ "uses": 3, "bytes": 2048 })), "3 times, 2.0 KiB");
        assert_eq!(used(&json!({ "uses": 3, "bytes": 0, "max_uses": 5, "max_bytes": 1024 })), "3/5 times, 0 B/1.0 KiB");
        assert_eq!(used(&json!({ "max_uses": 5 })), "-");
    }
}
