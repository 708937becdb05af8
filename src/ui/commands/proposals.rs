//! `persona show|history|annotate|review|propose|proposals|approve|reject|feedback`: what the daemon keeps of personas.

use std::io::Read;
use std::path::Path;

use serde_json::{Value, json};

use super::context::Context;
use crate::control::ClientError;
use crate::domain::PersonaId;
use crate::ui::args::{FeedbackCommand, ProposeArgs, ReviewCommand};
use crate::ui::text::{cut, safe};
use crate::ui::{Failure, Outcome, Paint, Screen, Table};

/// Largest patch or notice that is read: the API takes no larger body.
const MAX_FILE: u64 = 64 << 10;
/// Widest text in a table.
const WIDTH: usize = 60;
/// Digits of a digest that are shown to people.
const SHORT: usize = 12;

pub(super) async fn show(name: &PersonaId, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let state: Value = context.client.fetch(&format!("/state/persona/{name}")).await?;
    if screen.json() {
        screen.value(&state, false)?;
        return Ok(Outcome::Done);
    }
    let text = |value: &Value| safe(value.as_str().unwrap_or("-")).into_owned();
    let standing = text(&state["standing"]);
    let paint = if standing == "persona_armed" { Paint::Good } else { Paint::Warn };
    screen.painted(paint, &format!("{name}  {standing}"))?;
    let review = &state["review"];
    let reviewed = match review.is_null() {
        true => "never".to_owned(),
        false => {
            let fits = if review["fits"] == true { "fits" } else { "stale: the persona has changed since" };
            format!(
                "{} by {}, notice {}; {fits}",
                text(&review["at"]),
                text(&review["reviewer"]),
                short(&review["notice_digest"])
            )
        }
    };
    let feedback = &state["feedback"];
    let taken = if feedback["taken"] == true { "taken" } else { "not taken" };
    let last = match feedback["last_at"].as_str() {
        Some(at) => format!("{} times, last {}", feedback["count"], safe(at)),
        None => "none yet".to_owned(),
    };
    let heartbeat = state["heartbeat_secs"].as_u64().map_or("none".to_owned(), |secs| format!("every {secs} s"));
    for (label, value) in [
        ("in force", short(&state["in_force"])),
        (
            "file",
            state["file"]["digest"].as_str().map_or("none of its own".to_owned(), |_| text(&state["file"]["digest"])),
        ),
        ("review", reviewed),
        ("heartbeat", heartbeat),
        ("feedback", format!("{taken}; {last}")),
        ("open", format!("{} proposals", state["open_proposals"])),
    ] {
        screen.line(&format!("  {label:<10}{value}"))?;
    }
    Ok(Outcome::Done)
}

pub(super) async fn history(
    name: &PersonaId,
    (limit, before): (u64, Option<u64>),
    context: &Context,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let before = before.map(|before| format!("&before={before}")).unwrap_or_default();
    let page: Value = context.client.fetch(&format!("/state/persona/{name}/history?limit={limit}{before}")).await?;
    if screen.json() {
        screen.value(&page, false)?;
        return Ok(Outcome::Done);
    }
    let mut table = Table::new(&[">LINE", "WHEN", "WHAT", ">PROPOSAL", "BY", "SAID"]);
    for line in page["lines"].as_array().into_iter().flatten() {
        let text = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
        let (seq, proposal) = (number(&line["seq"]), number(&line["proposal"]));
        let said = said(&line["data"]);
        table.row(Paint::Plain, &[&seq, &text("at"), &text("kind"), &proposal, &text("actor"), &cut(&said, WIDTH)]);
        for note in line["notes"].as_array().into_iter().flatten() {
            let text = |key: &str| note[key].as_str().unwrap_or("-").to_owned();
            table.row(Paint::Strong, &["", &text("at"), "note", "", &text("actor"), &cut(&text("text"), WIDTH)]);
        }
    }
    table.show(screen)?;
    if let Some(next) = page["next"].as_u64() {
        screen.line(&format!("older lines: --before {next}"))?;
    }
    Ok(Outcome::Done)
}

/// What people said, of what a line has.
fn said(data: &Value) -> String {
    let found = ["note", "justification", "why"].iter().find_map(|key| data[*key].as_str());
    found.unwrap_or_default().to_owned()
}

pub(super) async fn annotate(
    name: &PersonaId,
    line: u64,
    note: &str,
    context: &Context,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let answer: Value =
        context.client.send(&format!("/persona/{name}/history/{line}/note"), &json!({ "note": note })).await?;
    done(&answer, &format!("noted on line {line} of `{name}`"), screen)
}

pub(super) async fn review(command: ReviewCommand, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let ReviewCommand::Record { name, reviewer, notice, justification } = command;
    let notice = notice_text(&notice)?;
    let body = json!({ "reviewer": reviewer, "notice": notice, "justification": justification });
    let review: Value = context.client.send(&format!("/persona/{name}/review"), &body).await?;
    let (file, notice) = (short(&review["file_digest"]), short(&review["notice_digest"]));
    done(&review, &format!("the review of `{name}` is recorded: persona {file}, notice {notice}"), screen)
}

/// A file, or the text itself. One word is a file: a slip in its name must not become what people were told.
fn notice_text(given: &str) -> Result<String, Failure> {
    let path = Path::new(given);
    let is_text = given.trim().contains(char::is_whitespace) && !path.is_file();
    if is_text { Ok(given.to_owned()) } else { read(path) }
}

pub(super) async fn propose(args: ProposeArgs, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let text = read(&args.patch)?;
    let patch: Value = serde_json::from_str(&text).map_err(|fault| Failure::new("the patch is not JSON").why(fault))?;
    let mut body = json!({ "patch": patch, "justification": args.justification });
    if let Some(base) = args.base {
        body["base"] = json!(base);
    }
    let path = format!("/persona/{}/proposals", args.name);
    let proposal: Value = match context.client.send(&path, &body).await {
        Ok(proposal) => proposal,
        Err(fault) => return refused(fault, screen),
    };
    if screen.json() {
        screen.value(&proposal, false)?;
        return Ok(Outcome::Done);
    }
    screen.line(&format!("proposal {} for `{}`", proposal["id"], args.name))?;
    widens(&proposal, screen)?;
    Ok(Outcome::Done)
}

pub(super) async fn proposals(
    name: &PersonaId,
    all: bool,
    context: &Context,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let state = if all { "" } else { "?state=submitted" };
    let page: Value = context.client.fetch(&format!("/state/persona/{name}/proposals{state}")).await?;
    if screen.json() {
        screen.value(&page, false)?;
        return Ok(Outcome::Done);
    }
    let proposals = page["proposals"].as_array().cloned().unwrap_or_default();
    if proposals.is_empty() {
        screen.line(&format!("no proposals for `{name}`"))?;
    }
    for proposal in &proposals {
        let text = |key: &str| safe(proposal[key].as_str().unwrap_or("-")).into_owned();
        screen.painted(Paint::Strong, &format!("{}  {}", proposal["id"], text("state")))?;
        screen.line(&format!(
            "  proposed  {} by {}: {}",
            text("submitted_at"),
            text("submitted_by"),
            text("justification")
        ))?;
        if proposal["decided_by"].is_string() {
            screen.line(&format!("  decided   {} by {}: {}", text("decided_at"), text("decided_by"), text("note")))?;
        }
        for step in proposal["patch"].as_array().into_iter().flatten() {
            screen.line(&format!("  {}", safe(&step.to_string())))?;
        }
        widens(proposal, screen)?;
    }
    Ok(Outcome::Done)
}

/// A warning where a proposal would open something.
fn widens(proposal: &Value, screen: &mut Screen) -> Result<(), Failure> {
    let one = |widened: &Value| match widened["rule"].as_str() {
        Some(rule) => format!("{} `{rule}`", widened["code"].as_str().unwrap_or("-")),
        None => widened["code"].as_str().unwrap_or("-").to_owned(),
    };
    let all: Vec<String> = proposal["widens"].as_array().into_iter().flatten().map(one).collect();
    if !all.is_empty() {
        screen.painted(Paint::Warn, &safe(&format!("  the persona could do more by it: {}", all.join(", "))))?;
    }
    Ok(())
}

pub(super) async fn approve(
    name: &PersonaId,
    proposal: u64,
    (note, widening): (&str, bool),
    context: &Context,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let path = format!("/persona/{name}/proposals/{proposal}/approve");
    let applied: Value = match context.client.send(&path, &json!({ "note": note, "widening": widening })).await {
        Ok(applied) => applied,
        Err(fault) => return refused(fault, screen),
    };
    if screen.json() {
        screen.value(&applied, false)?;
    } else if applied["in_force"] == true {
        screen.painted(Paint::Good, &format!("proposal {proposal} is in force"))?;
    } else {
        let text = "it is in the persona's file and not in force: a reload found faults in other files; `arw-cli reload` shows them";
        screen.painted(Paint::Warn, text)?;
    }
    Ok(if applied["in_force"] == true { Outcome::Done } else { Outcome::Refused })
}

pub(super) async fn reject(
    name: &PersonaId,
    proposal: u64,
    note: &str,
    context: &Context,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let path = format!("/persona/{name}/proposals/{proposal}/reject");
    let answer: Value = context.client.send(&path, &json!({ "note": note })).await?;
    done(&answer, &format!("proposal {proposal} is rejected"), screen)
}

pub(super) async fn feedback(
    command: FeedbackCommand,
    context: &Context,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let (args, granted) = match command {
        FeedbackCommand::OptIn(args) => (args, true),
        FeedbackCommand::OptOut(args) => (args, false),
        FeedbackCommand::Send { name, body } => {
            let body: Value =
                serde_json::from_str(&body).map_err(|fault| Failure::new("the feedback is not JSON").why(fault))?;
            let answer: Value = context.client.send(&format!("/persona/{name}/feedback"), &body).await?;
            return done(&answer, "heard", screen);
        }
    };
    let body = json!({ "granted": granted, "justification": args.justification });
    let answer: Value = context.client.send(&format!("/persona/{}/feedback/consent", args.name), &body).await?;
    let said = if granted { "feedback is taken" } else { "feedback is refused from now on" };
    done(&answer, &format!("`{}`: {said}", args.name), screen)
}

fn done(answer: &Value, text: &str, screen: &mut Screen) -> Result<Outcome, Failure> {
    if screen.json() {
        screen.value(answer, false)?;
    } else {
        screen.painted(Paint::Good, text)?;
    }
    Ok(Outcome::Done)
}

/// A refusal, with every fault that a reload would find.
fn refused(fault: ClientError, screen: &mut Screen) -> Result<Outcome, Failure> {
    match fault {
        ClientError::Refused(problem) if !problem.faults.is_empty() && !screen.json() => {
            for fault in &problem.faults {
                let hint = fault.hint.as_ref().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
                screen.painted(Paint::Bad, &safe(&format!("{}: {}{hint}", fault.key, fault.message)))?;
            }
            screen.line(&safe(&problem.detail))?;
            Ok(Outcome::Refused)
        }
        other => Err(other.into()),
    }
}

/// A small text file, or standard input.
fn read(path: &Path) -> Result<String, Failure> {
    let failed = |fault: std::io::Error| Failure::new(format!("`{}` cannot be read", path.display())).why(fault);
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(MAX_FILE + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).map_err(failed)?.take(MAX_FILE + 1).read_to_string(&mut text)
    };
    read.map_err(failed)?;
    match text.len() as u64 > MAX_FILE {
        true => Err(Failure::new(format!("`{}` is larger than {MAX_FILE} bytes", path.display()))),
        false => Ok(text),
    }
}

fn short(digest: &Value) -> String {
    safe(digest.as_str().and_then(|digest| digest.get(..SHORT)).unwrap_or("-")).into_owned()
}

fn number(value: &Value) -> String {
    value.as_u64().map_or("-".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::screen::capture;

    #[test]
    fn a_notice_of_one_word_is_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("what we told.md");
        std::fs::write(&file, "Told.\n").expect("written");
        assert_eq!(notice_text(file.to_str().expect("text")).expect("read"), "Told.\n");
        assert_eq!(notice_text("we told them").expect("text"), "we told them");
        assert!(notice_text("docs/notcie.md").is_err(), "a slip is not a notice");
    }

    #[test]
    fn a_proposal_that_opens_something_is_told_so() {
        let proposal = json!({ "widens": [{ "code": "posture" }, { "code": "allow", "rule": "api" }] });
        let text = capture(|screen| widens(&proposal, screen).expect("shown"));
        assert_eq!(text, "  the persona could do more by it: posture, allow `api`\n");
        assert_eq!(capture(|screen| widens(&json!({ "widens": [] }), screen).expect("shown")), "");
    }
}
