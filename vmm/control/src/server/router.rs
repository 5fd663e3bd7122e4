//! Which path leads to which handler.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::handler::Handler;
use axum::http::{Method as HttpMethod, Request};
use axum::middleware::from_fn;
use axum::response::IntoResponse;
use axum::routing::{MethodFilter, MethodRouter, on};
use tokio::sync::watch;

use super::{guard, handlers};
use crate::api::{ApiError, ErrorCode, Timestamp};
use crate::audit_trail::AuditTrail;
use crate::config::Config;
use crate::method::{HttpVerb, Method};
use crate::metrics::Metrics;
use crate::registry::Registry;

/// What every handler has at hand.
#[derive(Clone, Debug)]
pub(crate) struct State(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    config: Config,
    audit: Arc<AuditTrail>,
    started_at: Timestamp,
    stop: Arc<watch::Sender<bool>>,
}

impl State {
    pub(crate) fn new(
        registry: Registry,
        config: Config,
        audit: Arc<AuditTrail>,
        stop: Arc<watch::Sender<bool>>,
    ) -> Self {
        Self(Arc::new(Inner { registry, config, audit, started_at: Timestamp::now(), stop }))
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.0.registry
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0.config
    }

    pub(crate) fn started_at(&self) -> Timestamp {
        self.0.started_at
    }

    /// Waits until the daemon is to end: what has no end of its own ends then.
    pub(super) async fn ends(&self) {
        // The sender lives as long as this.
        let _ = self.0.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Ends the daemon.
    pub(crate) fn end(&self) {
        self.0.stop.send_replace(true);
    }

    /// Whether it is to end.
    #[cfg(test)]
    pub(super) fn is_ending(&self) -> bool {
        *self.0.stop.borrow()
    }

    pub(crate) fn audit(&self) -> &Arc<AuditTrail> {
        &self.0.audit
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.0.registry.shared().metrics
    }

    pub(super) fn request_bytes(&self) -> usize {
        usize::try_from(self.0.config.limits.request_size.0).unwrap_or(usize::MAX)
    }

    pub(super) fn request_timeout(&self) -> Duration {
        self.0.config.limits.request_timeout.duration()
    }
}

/// The whole API.
pub(crate) fn router(state: State) -> Router {
    let mut routes = Routes { router: Router::new(), state: state.clone() };
    handlers::add_all(&mut routes);
    let unknown = state.clone();
    let router = routes.router.fallback(move |request: Request<Body>| async move {
        let began = Instant::now();
        let message = format!("there is no {} {}", request.method(), shown(request.uri().path()));
        let response = ApiError::new(ErrorCode::NotFound, message)
            .with_hint("GET /v1/openapi.json has every path")
            .into_response();
        guard::count(&unknown, "unknown", &response, began);
        response
    });
    router.method_not_allowed_fallback(not_allowed).with_state(state)
}

async fn not_allowed(method: HttpMethod, request: Request<Body>) -> ApiError {
    let path = shown(request.uri().path());
    let message = format!("{path} is there, and not for {method}");
    ApiError::new(ErrorCode::MethodNotAllowed, message)
        .with_hint("GET /v1/openapi.json has every path and its verbs")
}

/// What somebody sent is not echoed without end.
fn shown(path: &str) -> String {
    path.chars().take(120).collect()
}

/// Routes being added: one a row of the table.
pub(super) struct Routes {
    router: Router<State>,
    state: State,
}

impl Routes {
    /// Adds the handler of a method, behind its guard.
    pub(super) fn add<H, T>(&mut self, name: &'static str, handler: H)
    where
        H: Handler<T, State>,
        T: 'static,
    {
        let method = Method::named(name);
        let filter = match method.verb {
            HttpVerb::Get => MethodFilter::GET,
            HttpVerb::Post => MethodFilter::POST,
            HttpVerb::Patch => MethodFilter::PATCH,
            HttpVerb::Delete => MethodFilter::DELETE,
        };
        let state = self.state.clone();
        let layer =
            from_fn(move |request, next| guard::guard((state.clone(), method), request, next));
        let route: MethodRouter<State> = on(filter, handler).layer(layer);
        let router = std::mem::take(&mut self.router);
        self.router = router.route(method.path, route);
    }
}
