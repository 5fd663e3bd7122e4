//! [`LinkTrace`]: what a link estimator was told, as a recording.

use std::time::Duration;

/// What a source told its [`LinkEstimator`](crate::pba::LinkEstimator), event by event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkTrace {
    /// Each with when it was, ascending.
    pub events: Vec<(Duration, LinkEvent)>,
}

/// What it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// A batch of so many bytes begins to go out.
    Sent(u64),
    /// One of those on their way is acknowledged: so many that left earlier still are on theirs.
    Acknowledged(usize),
    /// One of them will never be.
    Lost(usize),
    /// Something came back after so long.
    CameBack(Duration),
    /// There is nothing to send, or was a little later: whoever says it does not say when.
    Idle,
}

impl LinkTrace {
    /// A line for each event: microseconds since the one before, and what it was.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = String::new();
        let mut last = 0;
        for (at, event) in &self.events {
            let at = at.as_micros();
            text.push_str(&format!("{} ", at - last));
            last = at;
            text.push_str(&match event {
                LinkEvent::Sent(bytes) => format!("s{bytes}\n"),
                LinkEvent::Acknowledged(earlier) => format!("a{earlier}\n"),
                LinkEvent::Lost(earlier) => format!("l{earlier}\n"),
                LinkEvent::CameBack(after) => format!("r{}\n", after.as_micros()),
                LinkEvent::Idle => "i\n".to_owned(),
            });
        }
        text.into_bytes()
    }

    /// The recording that `bytes` are; `None` if they are none.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (mut events, mut now, mut on_their_way) = (Vec::new(), 0u64, 0);
        for line in text.lines() {
            let (since, what) = line.split_once(' ')?;
            now = now.checked_add(since.parse().ok()?)?;
            let (kind, number) = what.split_at_checked(1)?;
            let event = match kind {
                "s" => LinkEvent::Sent(number.parse().ok()?),
                "a" => LinkEvent::Acknowledged(number.parse().ok()?),
                "l" => LinkEvent::Lost(number.parse().ok()?),
                "r" => LinkEvent::CameBack(Duration::from_micros(number.parse().ok()?)),
                "i" if number.is_empty() => LinkEvent::Idle,
                _ => return None,
            };
            match event {
                LinkEvent::Sent(_) => on_their_way += 1,
                LinkEvent::Acknowledged(earlier) | LinkEvent::Lost(earlier) => {
                    if earlier >= on_their_way {
                        return None;
                    }
                    on_their_way -= 1;
                }
                LinkEvent::CameBack(_) | LinkEvent::Idle => {}
            }
            events.push((Duration::from_micros(now), event));
        }
        Some(Self { events })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_is_read_as_it_was_written() {
        let events = [
            (3, LinkEvent::Sent(4096)),
            (3, LinkEvent::Sent(17)),
            (900, LinkEvent::Acknowledged(1)),
            (900, LinkEvent::CameBack(Duration::from_micros(897))),
            (905, LinkEvent::Idle),
            (2000, LinkEvent::Lost(0)),
        ];
        let events = events.map(|(at, event)| (Duration::from_micros(at), event)).to_vec();
        let trace = LinkTrace { events };
        let bytes = trace.to_bytes();
        assert_eq!(bytes, b"3 s4096\n0 s17\n897 a1\n0 r897\n5 i\n1095 l0\n");
        assert_eq!(LinkTrace::from_bytes(&bytes), Some(trace));
    }

    #[test]
    fn what_is_no_recording_is_refused() {
        for bytes in [
            "x s1\n",
            "1\n",
            "1 \n",
            "1 s\n",
            "1 q7\n",
            "1 i7\n",
            "1 \u{e9}7\n",
            "1 a0\n",
            "1 s5\n1 a1\n",
            "1 s5\n1 l0\n1 a0\n",
            "1 s5\n18446744073709551615 i\n",
        ] {
            assert_eq!(LinkTrace::from_bytes(bytes.as_bytes()), None, "{bytes:?}");
        }
    }
}
