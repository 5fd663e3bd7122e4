//! What happens before and after every call: who may, what is noted, how long it took.

use std::time::Instant;

use axum::body::Body;
use axum::http::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::answer::{Began, FailedAs, Made};
use super::router::State;
use crate::access::{Caller, Role};
use crate::api::{ApiError, ErrorCode};
use crate::audit_trail::{Asked, CallId, Sender};
use crate::method::Method;
use crate::metrics::{CallLabels, MethodLabel};

/// Lets a call through if its sender's role may, and notes it.
pub(super) async fn guard(
    (state, method): (State, &'static Method),
    request: Request<Body>,
    next: Next,
) -> Response {
    let began = Instant::now();
    let response = judged(&state, method, request, next).await;
    count(&state, method.name, &response, began);
    response
}

/// Counts an answer.
pub(super) fn count(state: &State, method: &'static str, response: &Response, began: Instant) {
    let metrics = state.metrics();
    let status = response.status().as_u16();
    metrics.calls.get_or_create(&CallLabels { method, status }).inc();
    let seconds = began.elapsed().as_secs_f64();
    metrics.call_seconds.get_or_create(&MethodLabel { method }).observe(seconds);
}

async fn judged(
    state: &State,
    method: &'static Method,
    request: Request<Body>,
    next: Next,
) -> Response {
    let Some(sender) = request.extensions().get::<Sender>().cloned() else {
        return ApiError::internal("a request without a sender").into_response();
    };
    let refusal = match sender.role {
        Some(role) if role >= method.role => None,
        role => Some(forbidden(method, &sender, role)),
    };
    if !method.changes {
        return match refusal {
            Some(error) => error.into_response(),
            None => next.run(request).await,
        };
    }
    match CallId::new() {
        Ok(id) => {
            let target = target(method, request.uri().path()).unwrap_or_default();
            let asked = Asked { sender, id, method: method.name, target };
            noted(state, asked, refusal, request, next).await
        }
        Err(error) => error.into_response(),
    }
}

/// A call that changes something, with both of its ends in the audit log.
async fn noted(
    state: &State,
    asked: Asked,
    refusal: Option<ApiError>,
    mut request: Request<Body>,
    next: Next,
) -> Response {
    let audit = state.audit();
    if let Some(error) = refusal {
        audit.refused(asked).await;
        return error.into_response();
    }
    if let Err(error) = audit.asked(asked.clone()).await {
        return error.into_response();
    }
    let id = asked.id.clone();
    request.extensions_mut().insert(id.clone());
    // Before it begins: an operation may end before it is answered that it has begun.
    audit.expects(asked.clone());
    let span = tracing::info_span!("call", id = id.0, method = asked.method, target = asked.target);
    let response = tracing::Instrument::instrument(next.run(request), span).await;
    if response.extensions().get::<Began>().is_none() {
        audit.expects_no_more(&id);
        let made = response.extensions().get::<Made>().map(|made| made.0.to_string());
        let asked = Asked { target: made.unwrap_or(asked.target), ..asked };
        audit.answered(asked, response.extensions().get::<FailedAs>().map(|failed| failed.0)).await;
    }
    response
}

fn forbidden(method: &Method, sender: &Sender, role: Option<Role>) -> ApiError {
    let Caller { uid, .. } = sender.caller;
    let who = match role {
        None => format!("user {uid} has no role here"),
        Some(role) => format!("user {uid} is {role} here"),
    };
    let message = format!("{who}; {} takes {}", method.name, method.role);
    ApiError::new(ErrorCode::Forbidden, message)
        .with_hint("an administrator can give it in the section `roles` of the configuration")
}

/// What a call is about: the part of its path that is a parameter.
fn target(method: &Method, path: &str) -> Option<String> {
    let parts = method.path.split('/').zip(path.split('/'));
    let found = parts.into_iter().find(|(pattern, _)| pattern.starts_with('{'));
    // A name has 63 characters at most; what is longer is none, and is not written without end.
    found.map(|(_, text)| text.chars().take(80).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calls_target_is_its_paths_parameter() {
        let of = |name, path| target(Method::named(name), path);
        assert_eq!(of("machines.stop", "/v1/machines/web/stop").as_deref(), Some("web"));
        assert_eq!(of("operations.cancel", "/v1/operations/7/cancel").as_deref(), Some("7"));
        assert_eq!(of("machines.create", "/v1/machines"), None);
        let long = of("machines.stop", &format!("/v1/machines/{}/stop", "x".repeat(999)));
        assert_eq!(long.unwrap().len(), 80);
    }
}
