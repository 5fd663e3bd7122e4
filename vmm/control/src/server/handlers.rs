//! What each method does. The table in `method.rs` says who may.

use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State as FromState};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use hyper::upgrade::OnUpgrade;
use serde::Deserialize;

use super::answer::{Answer, Made, accepted, many, ok};
use super::body::Sent;
use super::router::{Routes, State};
use super::{console, events, openapi, pass};
use crate::api::{
    AddPeer, ApiError, ChangeMove, CreateMachine, ErrorCode, Event, EventKind, HandOver,
    MachineName, Migrate, Resolve, RestoreSnapshot, Shutdown, Stop, TakeSnapshot,
};
use crate::audit_trail::{CallId, Sender};
use crate::{health, host};

/// The longest that a call may wait for an operation.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How long the end of a killed process is waited for.
const KILL_PATIENCE: Duration = Duration::from_secs(1);

/// How long it is waited for that a move has other limits: one that has not begun to send gets them when it does.
const CHANGE_PATIENCE: Duration = Duration::from_secs(5);

/// A name in a path, or an id: what is no text is refused as everything else is.
type Named = Result<Path<String>, PathRejection>;

/// Puts every handler behind its method.
pub(super) fn add_all(routes: &mut Routes) {
    routes.add("info", info);
    routes.add("health", health);
    routes.add("metrics", metrics);
    routes.add("openapi", openapi);
    routes.add("events", follow_events);
    routes.add("machines.list", list_machines);
    routes.add("machines.create", create_machine);
    routes.add("machines.show", show_machine);
    routes.add("machines.delete", delete_machine);
    routes.add("machines.start", start_machine);
    routes.add("machines.stop", stop_machine);
    routes.add("machines.kill", kill_machine);
    routes.add("machines.pause", pause_machine);
    routes.add("machines.resume", resume_machine);
    routes.add("machines.power_button", press_power_button);
    routes.add("machines.snapshot", snapshot_machine);
    routes.add("machines.handover", hand_machine_over);
    routes.add("machines.migrate", migrate_machine);
    routes.add("machines.migration_check", check_migration);
    routes.add("machines.resolve", resolve_machine);
    routes.add("machines.forget", forget_machine);
    routes.add("machines.log", machine_log);
    routes.add("machines.console", machine_console);
    routes.add("snapshots.restore", restore_snapshot);
    routes.add("files.pass", pass_files);
    routes.add("peers.list", list_peers);
    routes.add("peers.add", add_peer);
    routes.add("peers.remove", remove_peer);
    routes.add("receipts.list", list_receipts);
    routes.add("receipts.show", show_receipt);
    routes.add("operations.list", list_operations);
    routes.add("operations.show", show_operation);
    routes.add("operations.change", change_operation);
    routes.add("operations.cancel", cancel_operation);
    routes.add("shutdown", shutdown);
}

/// What follows the path.
fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    let query = query.map(|Query(query)| query);
    query.map_err(|error| ApiError::new(ErrorCode::BadRequest, error.body_text()))
}

fn text(path: Named) -> Result<String, ApiError> {
    path.map(|Path(text)| text)
        .map_err(|error| ApiError::new(ErrorCode::BadRequest, error.body_text()))
}

fn name(path: Named) -> Result<MachineName, ApiError> {
    text(path)?.parse().map_err(|error: crate::api::NameError| {
        ApiError::new(ErrorCode::BadRequest, error.to_string())
    })
}

/// Does on a thread of its own what waits for storage.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)?
}

async fn info(FromState(state): FromState<State>, Extension(sender): Extension<Sender>) -> Answer {
    ok(blocking(move || host::info(&state, sender.role)).await?)
}

async fn health(FromState(state): FromState<State>) -> Answer {
    ok(blocking(move || Ok(health::check(&state))).await?)
}

async fn metrics(FromState(state): FromState<State>) -> Answer {
    let text = blocking(move || state.registry().metrics().map_err(ApiError::internal)).await?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

async fn openapi() -> Answer {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    Ok((kind, openapi::openapi_json()).into_response())
}

/// What may follow the path of the events.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Past {
    /// Events that were already, to begin with.
    #[serde(default)]
    last: u64,
}

async fn follow_events(
    FromState(state): FromState<State>,
    headers: HeaderMap,
    past: Result<Query<Past>, QueryRejection>,
) -> Answer {
    let Past { last } = query(past)?;
    let after = headers.get("last-event-id").map(|id| id.to_str().unwrap_or_default());
    Ok(events::stream(state, after, last))
}

async fn list_machines(FromState(state): FromState<State>) -> Answer {
    many(&state.registry().list())
}

async fn create_machine(
    FromState(state): FromState<State>,
    Sent(CreateMachine { name, spec }): Sent<CreateMachine>,
) -> Answer {
    let made = Made(name.clone());
    let machine = blocking(move || state.registry().create(&name, spec)).await?;
    let mut response = (StatusCode::CREATED, Json(machine)).into_response();
    response.extensions_mut().insert(made);
    Ok(response)
}

async fn show_machine(FromState(state): FromState<State>, path: Named) -> Answer {
    ok(state.registry().find(&name(path)?)?.show())
}

async fn delete_machine(FromState(state): FromState<State>, path: Named) -> Answer {
    let name = name(path)?;
    blocking(move || state.registry().delete(&name)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn start_machine(
    FromState(state): FromState<State>,
    Extension(id): Extension<CallId>,
    path: Named,
) -> Answer {
    let name = name(path)?;
    accepted(&blocking(move || state.registry().start(&name, id)).await?.show())
}

async fn stop_machine(
    FromState(state): FromState<State>,
    Extension(id): Extension<CallId>,
    path: Named,
    Sent(stop): Sent<Stop>,
) -> Answer {
    let name = name(path)?;
    accepted(&state.registry().stop(&name, &stop, id)?.show())
}

async fn kill_machine(FromState(state): FromState<State>, path: Named) -> Answer {
    let entry = state.registry().find(&name(path)?)?;
    let events = &state.registry().shared().events;
    let mut place = events.now();
    entry.kill()?;
    // What is answered is what it came to: a killed process is gone in moments.
    let is_noted = |event: &Event| matches!(&event.kind, EventKind::MachineState { machine, .. } if machine == entry.name());
    let noted = async {
        while events.next(&mut place).await.is_ok_and(|news| !news.iter().any(is_noted)) {}
    };
    let _ = tokio::time::timeout(KILL_PATIENCE, noted).await;
    ok(entry.show())
}

async fn pause_machine(FromState(state): FromState<State>, path: Named) -> Answer {
    ok(state.registry().pause(&name(path)?).await?)
}

async fn resume_machine(FromState(state): FromState<State>, path: Named) -> Answer {
    ok(state.registry().resume(&name(path)?).await?)
}

async fn press_power_button(FromState(state): FromState<State>, path: Named) -> Answer {
    ok(state.registry().press_power_button(&name(path)?).await?)
}

async fn snapshot_machine(
    FromState(state): FromState<State>,
    Extension(id): Extension<CallId>,
    path: Named,
    Sent(request): Sent<TakeSnapshot>,
) -> Answer {
    accepted(&state.registry().snapshot(&name(path)?, request, id)?.show())
}

async fn hand_machine_over(
    FromState(state): FromState<State>,
    Extension(id): Extension<CallId>,
    path: Named,
    Sent(HandOver { form }): Sent<HandOver>,
) -> Answer {
    accepted(&state.registry().hand_over(&name(path)?, form, id)?.show())
}

async fn migrate_machine(
    FromState(state): FromState<State>,
    Extension(id): Extension<CallId>,
    path: Named,
    Sent(request): Sent<Migrate>,
) -> Answer {
    accepted(&state.registry().migrate(&name(path)?, request, id)?.show())
}

/// What follows the path is the order that is thought of.
async fn check_migration(
    FromState(state): FromState<State>,
    path: Named,
    order: Result<Query<Migrate>, QueryRejection>,
) -> Answer {
    let (name, order) = (name(path)?, query(order)?);
    order.check()?;
    let described = state.registry().describe(&name).await;
    let (of_thread, named) = (state.clone(), name.clone());
    let check = move || of_thread.registry().check_migration(&named, &order, described);
    let (mut check, survey) = blocking(check).await?;
    if let Some(survey) = survey {
        match state.registry().survey(&name, survey).await {
            Ok(forecast) => check.forecast = Some(forecast),
            // What was found stands all the same.
            Err(error) => check.no_forecast = Some(error.message),
        }
    }
    ok(check)
}

async fn resolve_machine(
    FromState(state): FromState<State>,
    path: Named,
    Sent(Resolve { run_here }): Sent<Resolve>,
) -> Answer {
    let name = name(path)?;
    if !run_here {
        let why = "run_here is not true: nothing is said";
        return Err(ApiError::new(ErrorCode::Conflict, why)
            .with_hint("if it is said and wrong, the machine runs on two hosts, and nobody finds out by itself"));
    }
    ok(blocking(move || state.registry().resolve(&name)).await?)
}

async fn forget_machine(FromState(state): FromState<State>, path: Named) -> Answer {
    let name = name(path)?;
    blocking(move || state.registry().forget(&name)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn machine_log(FromState(state): FromState<State>, path: Named) -> Answer {
    let entry = state.registry().find(&name(path)?)?;
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, entry.console().history()).into_response())
}

async fn machine_console(
    FromState(state): FromState<State>,
    path: Named,
    headers: HeaderMap,
    upgrade: Option<Extension<OnUpgrade>>,
) -> Answer {
    let entry = state.registry().find(&name(path)?)?;
    console::check(&headers)?;
    let Some(Extension(upgrade)) = upgrade else { return Err(no_upgrade()) };
    let most = state.registry().shared().limits.console_clients;
    let reader = entry.console().reader(most).ok_or_else(|| {
        let message = format!("machine {} has {most} consoles already", entry.name());
        ApiError::new(ErrorCode::Limit, message).with_hint("limits.console_clients is the limit")
    })?;
    console::upgrade(upgrade, reader, state)
}

async fn restore_snapshot(
    FromState(state): FromState<State>,
    Extension(id): Extension<CallId>,
    Sent(request): Sent<RestoreSnapshot>,
) -> Answer {
    accepted(&blocking(move || state.registry().restore(request, id)).await?.show())
}

async fn list_peers(FromState(state): FromState<State>) -> Answer {
    ok(state.registry().shared().peers.list())
}

async fn add_peer(FromState(state): FromState<State>, Sent(request): Sent<AddPeer>) -> Answer {
    let peer = blocking(move || state.registry().shared().peers.add(request)).await?;
    Ok((StatusCode::CREATED, Json(peer)).into_response())
}

async fn remove_peer(FromState(state): FromState<State>, path: Named) -> Answer {
    let name = name(path)?;
    blocking(move || state.registry().shared().peers.remove(&name)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn list_receipts(FromState(state): FromState<State>) -> Answer {
    let list = move || state.registry().shared().receipts.list().map_err(ApiError::internal);
    many(&blocking(list).await?)
}

async fn show_receipt(FromState(state): FromState<State>, path: Named) -> Answer {
    let session = text(path)?;
    ok(blocking(move || state.registry().shared().receipts.get(&session)).await?)
}

async fn list_operations(FromState(state): FromState<State>) -> Answer {
    ok(state.registry().shared().operations.list())
}

/// What may follow the path of an operation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    /// Milliseconds to wait for its end.
    #[serde(default)]
    wait_ms: u64,
}

async fn show_operation(
    FromState(state): FromState<State>,
    path: Named,
    wait: Result<Query<Wait>, QueryRejection>,
) -> Answer {
    let Wait { wait_ms } = query(wait)?;
    let operation = state.registry().shared().operations.find(&text(path)?)?;
    ok(operation.wait(Duration::from_millis(wait_ms).min(LONGEST_WAIT)).await)
}

async fn change_operation(
    FromState(state): FromState<State>,
    path: Named,
    Sent(change): Sent<ChangeMove>,
) -> Answer {
    let operation = state.registry().shared().operations.find(&text(path)?)?;
    change.check()?;
    operation.change(change)?;
    ok(operation.wait_for_change(change, CHANGE_PATIENCE).await?)
}

async fn cancel_operation(FromState(state): FromState<State>, path: Named) -> Answer {
    let operation = state.registry().shared().operations.find(&text(path)?)?;
    operation.cancel()?;
    ok(operation.show())
}

async fn pass_files(
    FromState(state): FromState<State>,
    Extension(sender): Extension<Sender>,
    headers: HeaderMap,
    upgrade: Option<Extension<OnUpgrade>>,
) -> Answer {
    pass::check(&headers)?;
    let Some(Extension(upgrade)) = upgrade else { return Err(no_upgrade()) };
    pass::upgrade(upgrade, state, sender)
}

fn no_upgrade() -> ApiError {
    ApiError::new(ErrorCode::BadRequest, "this connection cannot be upgraded")
}

async fn shutdown(
    FromState(state): FromState<State>,
    Sent(Shutdown { stop_machines }): Sent<Shutdown>,
) -> Answer {
    tokio::spawn(async move {
        if stop_machines {
            state.registry().stop_all().await;
        }
        state.end();
    });
    Ok(StatusCode::ACCEPTED.into_response())
}
