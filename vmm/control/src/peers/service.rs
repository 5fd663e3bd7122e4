//! What another host can ask of this one. It has proven who it is; what it says is checked all the same.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State as FromState;
use axum::http::Request;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::de::DeserializeOwned;

use super::message::{Hello, Invitation, MESSAGE_MAX_BYTES, Offer, Question, VERSION};
use crate::api::{ApiError, ErrorCode, Peer};
use crate::audit_trail::{Asked, AuditTrail, CallId, Sender};
use crate::random::unhex;
use crate::server::{State, read_body};

/// How long a message may take to arrive.
const ARRIVING: Duration = Duration::from_secs(10);

type Answer = Result<axum::response::Response, ApiError>;

/// Every call.
pub(super) fn router(state: State) -> Router {
    Router::new()
        .route("/v1/hello", get(hello))
        .route("/v1/trial", post(trial))
        .route("/v1/check", post(check))
        .route("/v1/invitations", post(invite))
        .route("/v1/answers", post(answer))
        .route("/v1/receipts", post(countersign))
        .with_state(state)
}

async fn hello() -> Answer {
    let release = env!("CARGO_PKG_VERSION").to_owned();
    Ok(Json(Hello { version: VERSION, release }).into_response())
}

/// Takes bytes, so that the other end sees how fast they go.
async fn trial(request: Request<Body>) -> Answer {
    read(request).await?;
    Ok(Json(()).into_response())
}

async fn check(
    FromState(state): FromState<State>,
    Extension(peer): Extension<Peer>,
    request: Request<Body>,
) -> Answer {
    let invitation: Invitation = message(request).await?;
    let checked = blocking(move || Ok(state.registry().check_arrival(&peer, &invitation))).await?;
    Ok(Json(checked).into_response())
}

async fn invite(
    FromState(state): FromState<State>,
    Extension(peer): Extension<Peer>,
    request: Request<Body>,
) -> Answer {
    let invitation: Invitation = message(request).await?;
    let asked = asked(&peer, "peers.invite", invitation.name.to_string())?;
    let id = asked.id.clone();
    state.audit().asked(asked.clone()).await?;
    // Before it begins: the operation may end before it is answered that it has begun.
    state.audit().expects(asked.clone());
    let audit = Arc::clone(state.audit());
    let outcome = blocking(move || state.registry().invite(&peer, invitation, id)).await;
    if let Err(error) = &outcome {
        audit.expects_no_more(&asked.id);
        audit.answered(asked, Some(error.code)).await;
    }
    Ok(Json(outcome?).into_response())
}

async fn answer(
    FromState(state): FromState<State>,
    Extension(peer): Extension<Peer>,
    request: Request<Body>,
) -> Answer {
    let question: Question = message(request).await?;
    if !question.refuse {
        let work = move || state.registry().answer_about(&peer, &question);
        return Ok(Json(blocking(work).await?).into_response());
    }
    let asked = asked(&peer, "peers.refuse", question.machine.clone())?;
    noted(&Arc::clone(state.audit()), asked, move || {
        state.registry().answer_about(&peer, &question)
    })
    .await
}

async fn countersign(
    FromState(state): FromState<State>,
    Extension(peer): Extension<Peer>,
    request: Request<Body>,
) -> Answer {
    let offer: Offer = message(request).await?;
    let asked = asked(&peer, "peers.countersign", offer.statement.machine.clone())?;
    noted(&Arc::clone(state.audit()), asked, move || state.registry().countersign(&peer, offer))
        .await
}

/// A call of another host that changes something.
fn asked(peer: &Peer, method: &'static str, target: String) -> Result<Asked, ApiError> {
    Ok(Asked { sender: Sender::of_host(&peer.key), id: CallId::new()?, method, target })
}

/// Does it, with both of its ends in the audit log.
async fn noted<T: serde::Serialize + Send + 'static>(
    audit: &Arc<AuditTrail>,
    asked: Asked,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Answer {
    audit.asked(asked.clone()).await?;
    let outcome = blocking(work).await;
    audit.answered(asked, outcome.as_ref().err().map(|error| error.code)).await;
    Ok(Json(outcome?).into_response())
}

/// An id in a message.
pub(crate) fn id(text: &str, what: &str) -> Result<[u8; 16], ApiError> {
    unhex(text).filter(|id| *id != [0; 16]).ok_or_else(|| {
        ApiError::new(ErrorCode::BadRequest, format!("{what} is not 32 hexadecimal digits"))
    })
}

async fn message<T: DeserializeOwned>(request: Request<Body>) -> Result<T, ApiError> {
    let bytes = read(request).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        ApiError::new(ErrorCode::BadRequest, format!("the message cannot be used: {error}"))
            .with_hint("the two hosts may have versions of NovaCron that do not know each other")
    })
}

async fn read(request: Request<Body>) -> Result<Vec<u8>, ApiError> {
    read_body(request.into_body(), MESSAGE_MAX_BYTES, ARRIVING).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)?
}
