//! Ledger lines for a person. Hosts, paths and details were chosen by strangers, so everything goes
//! through a table or [`safe`].

use crate::domain::Timestamp;
use crate::ledger::{Kind, Line, Outcome};
use crate::ui::text::{cut, moment, safe, size, span};
use crate::ui::{Failure, Paint, Screen, Table};

/// Longest target in a table; `--json` has it whole.
const TARGET_WIDTH: usize = 60;

/// Lines under each other, with headings.
pub(super) fn show(lines: &[Line], screen: &mut Screen) -> Result<(), Failure> {
    let mut table = Table::new(&[">SEQ", "TIME", "KIND", "PERSONA", "TARGET", "WHAT"]);
    for line in lines {
        let [seq, time, kind, persona, target, what] = cells(line);
        table.row(paint(line), &[&seq, &time, &kind, &persona, &target, &what]);
    }
    if !table.is_empty() {
        table.show(screen)?;
    }
    Ok(())
}

/// One line, as it comes: columns of fixed width, since nobody knows the next ones.
pub(super) fn show_one(line: &Line, screen: &mut Screen) -> Result<(), Failure> {
    let [seq, time, kind, persona, target, what] = cells(line);
    let text = format!("{seq:>8}  {time}  {kind:<7}  {persona:<12}  {}  {}", safe(&target), safe(&what));
    screen.painted(paint(line), text.trim_end())?;
    Ok(())
}

fn cells(line: &Line) -> [String; 6] {
    let persona = line.persona.as_ref().map_or("-", |persona| persona.as_str());
    [
        line.seq.to_string(),
        moment(line.time),
        word(line.kind).to_owned(),
        persona.to_owned(),
        cut(&target(line), TARGET_WIDTH).into_owned(),
        what(line),
    ]
}

const fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Open => "open",
        Kind::Deny => "deny",
        Kind::Close => "close",
        Kind::Preview => "preview",
        Kind::Note => "note",
        Kind::Audit => "audit",
    }
}

const fn paint(line: &Line) -> Paint {
    match (line.kind, line.decision) {
        (Kind::Deny, _) => Paint::Bad,
        (_, Some(Outcome::WouldDeny)) => Paint::Warn,
        (Kind::Close | Kind::Preview, _) => Paint::Faint,
        (Kind::Open | Kind::Note | Kind::Audit, _) => Paint::Plain,
    }
}

/// `https://host:port`, `GET http://host:port/path`.
fn target(line: &Line) -> String {
    let Some(host) = &line.host else { return "-".to_owned() };
    let scheme = line.scheme.map(|scheme| format!("{scheme}://")).unwrap_or_default();
    let port = line.port.map(|port| format!(":{port}")).unwrap_or_default();
    let method = line.method.as_deref().map(|method| format!("{method} ")).unwrap_or_default();
    let path = line.path.as_deref().unwrap_or_default();
    format!("{method}{scheme}{host}{port}{path}")
}

/// The decision, or the end of what was decided.
fn what(line: &Line) -> String {
    match line.kind {
        Kind::Close => {
            let reason = line.close_reason.map_or("-", |reason| reason.code());
            let traffic =
                format!("{} up, {} down", size(line.bytes_up.unwrap_or(0)), size(line.bytes_down.unwrap_or(0)));
            let time = span(std::time::Duration::from_millis(line.duration_ms.unwrap_or(0)));
            let opened = line.opened.map(|seq| format!(" of {seq}")).unwrap_or_default();
            format!("{reason}{opened}, {traffic}, {time}")
        }
        Kind::Note => line.detail.clone().unwrap_or_default(),
        Kind::Audit => {
            let audit = line.audit.as_deref();
            let (actor, action) = audit.map_or(("-", "-"), |audit| (&audit.actor, &audit.action));
            let why = line.detail.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
            format!("{action} by {actor}{why}")
        }
        Kind::Open | Kind::Deny | Kind::Preview => {
            let decision = match line.decision {
                Some(Outcome::Allow) => "allow",
                Some(Outcome::WouldDeny) => "would_deny",
                Some(Outcome::Deny) => "deny",
                None => "",
            };
            let code = line.code.map(|code| code.code()).unwrap_or_default();
            let rule = line.rule.as_ref().map(|rule| format!("rule {rule}")).unwrap_or_default();
            let lease = line.lease.as_ref().map(|lease| format!("lease {lease}")).unwrap_or_default();
            // A denial says so by its kind.
            let decision = if line.kind == Kind::Deny { "" } else { decision };
            [decision, code, &rule, &lease]
                .iter()
                .filter(|word| !word.is_empty())
                .copied()
                .collect::<Vec<_>>()
                .join(" ")
        }
    }
}

/// From when to when, for statistics.
pub(super) fn period(first: Option<Timestamp>, last: Option<Timestamp>) -> String {
    match first.zip(last) {
        Some((first, last)) => format!("{} to {}", moment(first), moment(last)),
        None => "no lines".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::screen::capture;

    fn line(text: &str) -> Line {
        Line::parse(text.as_bytes()).expect("a line")
    }

    fn sample() -> Vec<Line> {
        [
            r#"{"seq":1,"time":"2026-11-22T10:31:20.000000Z","kind":"note","detail":"started"}"#,
            r#"{"seq":2,"time":"2026-11-22T10:31:21.000000Z","kind":"open","persona":"demo","scheme":"https","host":"api.example.com","port":443,"decision":"allow","via":"policy","rule":"api"}"#,
            r#"{"seq":3,"time":"2026-11-22T10:31:22.000000Z","kind":"deny","scheme":"http","host":"evil.example","port":80,"method":"GET","path":"/a","decision":"deny","code":"not_allowlisted"}"#,
            r#"{"seq":4,"time":"2026-11-22T10:31:23.000000Z","kind":"close","persona":"demo","host":"api.example.com","port":443,"opened":2,"bytes_up":1024,"bytes_down":2048,"duration_ms":1500,"close_reason":"client_closed"}"#,
        ]
        .map(line)
        .into()
    }

    #[test]
    fn lines_read_like_this() {
        let text = capture(|screen| show(&sample(), screen).expect("shown"));
        assert_eq!(
            text,
            "\
SEQ  TIME                  KIND   PERSONA  TARGET                        WHAT
  1  2026-11-22 10:31:20Z  note   -        -                             started
  2  2026-11-22 10:31:21Z  open   demo     https://api.example.com:443   allow rule api
  3  2026-11-22 10:31:22Z  deny   -        GET http://evil.example:80/a  not_allowlisted
  4  2026-11-22 10:31:23Z  close  demo     api.example.com:443           client_closed of 2, 1.0 KiB up, 2.0 KiB down, 1.5 s
"
        );
    }

    #[test]
    fn a_line_cannot_write_to_the_terminal() {
        let mut hostile = sample().remove(2);
        hostile.host = Some("\u{1b}]0;owned\u{7}\r\nevil\u{202e}".to_owned());
        hostile.path = Some("/\n2  2026 open demo".to_owned());
        let table = capture(|screen| show(std::slice::from_ref(&hostile), screen).expect("shown"));
        let single = capture(|screen| show_one(&hostile, screen).expect("shown"));
        assert_eq!(table.lines().count(), 2, "{table}");
        assert_eq!(single.lines().count(), 1, "{single}");
        for text in [table, single] {
            assert!(!text.contains(['\u{1b}', '\u{7}', '\r', '\u{202e}']), "{text:?}");
        }
    }
}
