//! Queries and bodies, strictly: what is unknown or unclear is refused with a problem.

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::problem::{Problem, ProblemCode};
use super::router::{MAX_BODY, too_large};

/// Query parameters; `T` says `deny_unknown_fields`.
pub(crate) struct Strict<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Strict<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(value) = Query::<T>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Problem::new(ProblemCode::BadQuery, rejection.body_text()))?;
        Ok(Self(value))
    }
}

/// A body declared as `application/json`. A page of another site cannot declare that without a
/// preflight, which nobody answers.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        declared(&parts.headers)?;
        understood(&whole(body).await?).map(Self)
    }
}

/// The same where a request may also be without a body.
pub(crate) struct OptionalBody<T>(pub(crate) Option<T>);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for OptionalBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let bytes = whole(body).await?;
        if bytes.is_empty() {
            return Ok(Self(None));
        }
        declared(&parts.headers)?;
        understood(&bytes).map(|value| Self(Some(value)))
    }
}

fn declared(headers: &HeaderMap) -> Result<(), Problem> {
    let declared = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = declared.and_then(|text| text.split(';').next()).unwrap_or_default().trim();
    match essence.eq_ignore_ascii_case("application/json") {
        true => Ok(()),
        false => Err(Problem::new(ProblemCode::NotJson, "the body must be declared as application/json")),
    }
}

async fn whole(body: Body) -> Result<Bytes, Problem> {
    to_bytes(body, MAX_BODY).await.map_err(|_| too_large())
}

fn understood<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes)
        .map_err(|error| Problem::new(ProblemCode::BadRequest, format!("the body is not understood: {error}")))
}
