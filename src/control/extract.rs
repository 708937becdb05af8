//! Queries and bodies, strictly: what is unknown or unclear is refused with a problem.

use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::header;
use axum::http::request::Parts;
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
        let declared = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = declared.and_then(|text| text.split(';').next()).unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            return Err(Problem::new(ProblemCode::NotJson, "the body must be declared as application/json"));
        }
        let bytes = to_bytes(request.into_body(), MAX_BODY).await.map_err(|_| too_large())?;
        let value = serde_json::from_slice(&bytes)
            .map_err(|error| Problem::new(ProblemCode::BadRequest, format!("the body is not understood: {error}")))?;
        Ok(Self(value))
    }
}
