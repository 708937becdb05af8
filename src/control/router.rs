//! From a request to its handler, through the one gate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::asks::{Ask, asks};
use super::caller::Caller;
use super::origin;
use super::problem::{Problem, ProblemCode};
use super::routes;
use super::state::App;
use crate::domain::ClientAddr;

/// Bytes of a body. 64 KiB: the longest is a preview of one URL.
pub(crate) const MAX_BODY: usize = 64 << 10;

/// All routes of the table behind the gate.
pub(crate) fn build(app: Arc<App>) -> Router {
    routes::table()
        .into_iter()
        .fold(Router::new(), |router, route| router.route(route.path, (route.handler)()))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), gate))
        .with_state(app)
}

/// One answer, begun within `limit`.
pub(crate) async fn answer(router: Router, request: Request, limit: Duration) -> Response {
    let handled = TowerToHyperService::new(router).call(request);
    let response = match tokio::time::timeout(limit, handled).await {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(_) => {
            Problem::new(ProblemCode::TimedOut, format!("no answer within {} s", limit.as_secs())).into_response()
        }
    };
    harden(response)
}

/// The API is for programs: nothing of it is to be kept, framed, sniffed or run by a browser.
fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    );
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}

/// Whoever gets past this may ask, and may do what is asked. What is not public by the table needs an admin, unknown
/// paths too.
async fn gate(State(app): State<Arc<App>>, mut request: Request<Body>, next: Next) -> Response {
    match admit(&app, &mut request).await {
        Ok(()) => next.run(request).await,
        Err(problem) => {
            // A wrong token is worth a line, and the throttle bounds how many there can be.
            if problem.code == ProblemCode::AdminTokenWrong {
                tracing::warn!("a wrong admin token was presented to the control API");
            } else {
                tracing::debug!(code = problem.code.code(), "control request refused");
            }
            problem.into_response()
        }
    }
}

async fn admit(app: &App, request: &mut Request) -> Result<(), Problem> {
    // The accept loop sets it on every request; without it nobody is anybody.
    let peer = *request
        .extensions()
        .get::<ClientAddr>()
        .ok_or_else(|| Problem::new(ProblemCode::Internal, "the request has no peer"))?;
    origin::check(peer, request.uri(), request.headers())?;
    if !routes::is_public(request.method(), request.uri().path()) {
        let named = |uid| app.state.governance.authority.names(uid);
        let caller = Caller(app.auth.authenticate(peer, request.headers(), Instant::now(), named)?);
        match asks(request.method(), request.uri().path()) {
            // The proof is for those who hand it on; that there is one is enough here.
            Ask::Gate(action, resource) => drop(app.permit(&caller, action, resource).await?),
            Ask::Handler => {}
        }
        request.extensions_mut().insert(caller);
    }
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if declared.and_then(|text| text.parse::<u64>().ok()).is_some_and(|length| length > MAX_BODY as u64) {
        return Err(too_large());
    }
    Ok(())
}

/// The body is longer than the bound.
pub(crate) fn too_large() -> Problem {
    Problem::new(ProblemCode::BodyTooLarge, format!("a body has at most {MAX_BODY} bytes"))
}

async fn not_found() -> Problem {
    Problem::new(ProblemCode::NotFound, "there is no such route").hint("see /spec/openapi.json")
}

async fn method_not_allowed() -> Problem {
    Problem::new(ProblemCode::MethodNotAllowed, "the route does not have this method").hint("see /spec/openapi.json")
}
