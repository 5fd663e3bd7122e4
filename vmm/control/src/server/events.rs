//! A stream of events (server-sent events, as the HTML standard has them).

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use http_body_util::channel::Channel;
use std::time::Duration;

use super::router::State;
use crate::api::Event;
use crate::events::{Place, TooLate};

/// Frames that wait for a reader before its place in the ring does.
const FRAMES: usize = 4;
/// A reader is told this often that the connection lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Follows events: from behind the one with the id `after`; or with the `last` of those that were, and from now on.
pub(super) fn stream(state: State, after: Option<&str>, last: u64) -> Response {
    let events = &state.registry().shared().events;
    let (place, gap) = match after.map(|id| events.after(id)) {
        None => (events.last(last), None),
        Some(Ok(place)) => (place, None),
        Some(Err(TooLate)) => (events.now(), Some(events.gap())),
    };
    let (sender, body) = Channel::<Bytes>::new(FRAMES);
    tokio::spawn(async move {
        tokio::select! {
            () = follow(&state, place, gap, sender) => {}
            () = state.ends() => {}
        }
    });
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::new(body)).into_response()
}

async fn follow(
    state: &State,
    mut place: Place,
    gap: Option<Event>,
    mut sender: http_body_util::channel::Sender<Bytes>,
) {
    let events = &state.registry().shared().events;
    // At once, so that who follows knows that it does.
    let first = gap.as_ref().map_or_else(|| ": follows\n\n".to_owned(), frame);
    if sender.send_data(first.into()).await.is_err() {
        return;
    }
    loop {
        let next = tokio::time::timeout(HEARTBEAT, events.next(&mut place)).await;
        let text = match next {
            Ok(Ok(events)) => events.iter().map(frame).collect(),
            // It was too slow, and what it missed is gone: it is cut off, and comes back with the id that it has.
            Ok(Err(TooLate)) => {
                state.metrics().readers_cut_off.inc();
                return;
            }
            Err(_) => ": still here\n\n".to_owned(),
        };
        // Waits while the reader does not read; the connection's patience ends that.
        if sender.send_data(text.into()).await.is_err() {
            return;
        }
    }
}

fn frame(event: &Event) -> String {
    // Nothing in it can fail to be written, or has a line's end in it.
    let data = serde_json::to_string(event).unwrap_or_default();
    format!("id: {}\nevent: {}\ndata: {data}\n\n", event.id, event.kind.name())
}
