//! Signed heads and proofs, for whoever audits from elsewhere.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::IntoResponse;

use super::egress::{blocking, ledger_problem};
use super::problem::{Problem, ProblemCode};
use super::state::App;
use crate::ledger::{self, Ledger, LedgerError, Proof};

/// Signs the tree as it is now, unless that was signed already.
pub(super) async fn checkpoint(State(app): State<Arc<App>>) -> Result<impl IntoResponse, Problem> {
    let ledger = app.state.ledger.clone();
    let head = blocking(move || ledger.checkpoint()).await?.map_err(|error| ledger_problem(&error))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], head.note))
}

pub(super) async fn proof(State(app): State<Arc<App>>, Path(seq): Path<String>) -> Result<Json<Proof>, Problem> {
    let seq = sequence(&seq).ok_or_else(|| {
        Problem::new(
            ProblemCode::BadRequest,
            "a sequence number is a decimal number from 1, without sign or zeros before it",
        )
    })?;
    let _reading = app.reading().await?;
    let ledger = app.state.ledger.clone();
    let dir = app.state.config.ledger.dir.clone();
    blocking(move || prove(&ledger, &dir, seq)).await?.map(Json)
}

fn sequence(text: &str) -> Option<u64> {
    let plain = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// Against a head that covers the line, signed now if need be: a line is provable when it was recorded.
fn prove(ledger: &Ledger, dir: &std::path::Path, seq: u64) -> Result<Proof, Problem> {
    let missing = |why: &str| Problem::new(ProblemCode::NoSuchEntry, format!("there is no line {seq}: {why}"));
    if seq > *ledger.watch().borrow() {
        return Err(missing("it was not written yet"));
    }
    ledger.checkpoint().map_err(|error| ledger_problem(&error))?;
    match ledger::prove(dir, seq) {
        Ok(proof) => Ok(proof),
        Err(LedgerError::NoLine { why, .. }) => Err(missing(why)),
        Err(error) => Err(ledger_problem(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_have_one_form() {
        assert_eq!(sequence("1"), Some(1));
        assert_eq!(sequence("18446744073709551615"), Some(u64::MAX));
        for bad in ["", "0", "01", "+1", "-1", "1.0", "18446744073709551616", "1%20"] {
            assert_eq!(sequence(bad), None, "{bad}");
        }
    }
}
