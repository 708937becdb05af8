//! `confinement`: how the daemon itself is confined.

use super::context::Context;
use crate::control::DaemonConfinement;
use crate::sandbox::State;
use crate::ui::text::safe;
use crate::ui::{Failure, Outcome, Paint, Screen, Table};

pub(super) async fn run(context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let found: DaemonConfinement = context.client.fetch("/state/confinement").await?;
    if screen.json() {
        screen.value(&serde_json::json!(found), false)?;
    } else {
        show(&found, screen)?;
    }
    Ok(Outcome::Done)
}

fn show(found: &DaemonConfinement, screen: &mut Screen) -> Result<(), Failure> {
    if found.controls.is_empty() {
        screen.painted(Paint::Bad, "the daemon is not confined (`confine = \"off\"`)")?;
        return Ok(());
    }
    let mut table = Table::new(&["CONTROL", "STATE", "WHAT IS MISSING"]);
    for finding in &found.controls {
        let paint = match finding.state {
            State::Enforced => Paint::Plain,
            State::Partial(_) => Paint::Warn,
            State::Unavailable(_) => Paint::Bad,
        };
        table.row(paint, &[finding.control.code(), finding.state.code(), &safe(finding.state.why())]);
    }
    table.show(screen)?;
    let held = match found.capabilities.as_slice() {
        [] => "no capability is held".to_owned(),
        held => format!("capabilities held: {}", held.join(", ")),
    };
    screen.line("")?;
    screen.line(&safe(&held))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Control, Finding};
    use crate::ui::screen::capture;

    #[test]
    fn what_is_missing_stands_beside_the_wall() {
        let found = DaemonConfinement {
            mode: "auto".to_owned(),
            controls: vec![
                Finding { control: Control::Seccomp, state: State::Enforced },
                Finding { control: Control::LandlockFiles, state: State::Unavailable("none".to_owned()) },
            ],
            capabilities: vec!["kill".to_owned()],
        };
        let text = capture(|screen| show(&found, screen).expect("shown"));
        assert!(text.contains("landlock_files  unavailable  none"), "{text}");
        assert!(text.ends_with("capabilities held: kill\n"), "{text}");
        let off = DaemonConfinement { controls: Vec::new(), ..found };
        assert!(capture(|screen| show(&off, screen).expect("shown")).contains("not confined"));
    }
}
