//! The estimator beside simpler ones and one that is cleverer, on recordings.

use super::*;

/// Recorded by `cargo run --release -p benches --bin link-trace`: what the sources of real moves over real TCP told their
/// estimators, 20 s each, over lines of 100 Mbit/s and 40 ms there and back which a process makes of packets. `near` has
/// next to no delay; `changing` carries 100, 30, 80, 10 and 50 Mbit/s, one after the other; of `lossy`, one packet of 200
/// gets lost, and of `lossy-pauses` one of 500; another connection takes its part of `shared` half of the time. In those with
/// pauses, and `near`, there is little to send for 1.5 s of 4.
const TRACES: [(&str, &[u8]); 7] = [
    ("steady", include_bytes!("../../../traces/link-steady.zst")),
    ("changing", include_bytes!("../../../traces/link-changing.zst")),
    ("lossy", include_bytes!("../../../traces/link-lossy.zst")),
    ("shared", include_bytes!("../../../traces/link-shared.zst")),
    ("near", include_bytes!("../../../traces/link-near.zst")),
    ("pauses", include_bytes!("../../../traces/link-pauses.zst")),
    ("lossy-pauses", include_bytes!("../../../traces/link-lossy-pauses.zst")),
];

/// How often a forecast is made: as often as a move thinks about its link.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A forecast within this time after one in which there was too little to send is one after a pause.
const PAUSED_LATELY: Duration = Duration::from_secs(1);

/// Whose forecasts are compared.
const WAYS: [&str; 4] = ["last", "moving", "best", "ours"];

/// The sum of the errors of each way, and of what came true.
#[derive(Clone, Copy, Default)]
struct Score {
    errors: [f64; WAYS.len()],
    truth: f64,
    forecasts: u32,
}

impl Score {
    fn parts(&self) -> [f64; WAYS.len()] {
        self.errors.map(|error| error / self.truth)
    }
}

/// What a recording says afterwards: each acknowledgement with all that was acknowledged until then, and when there was
/// nothing to send.
struct Truth {
    acknowledged: Vec<(Duration, u64)>,
    idle: Vec<Duration>,
    end: Duration,
}

impl Truth {
    fn of(trace: &LinkTrace) -> Self {
        let (mut acknowledged, mut idle) = (Vec::new(), Vec::new());
        let (mut on_their_way, mut sum) = (Vec::new(), 0);
        for (at, event) in &trace.events {
            match event {
                LinkEvent::Sent(bytes) => on_their_way.push(*bytes),
                LinkEvent::Acknowledged(earlier) => {
                    sum += on_their_way.remove(*earlier);
                    acknowledged.push((*at, sum));
                }
                LinkEvent::Lost(earlier) => _ = on_their_way.remove(*earlier),
                LinkEvent::Idle => idle.push(*at),
                LinkEvent::CameBack(_) => {}
            }
        }
        Self { acknowledged, idle, end: trace.events.last().unwrap().0 }
    }

    /// Bytes that were acknowledged in so long a time from the first acknowledgement after `now` on, if there was enough to
    /// send until then.
    fn carried(&self, now: Duration, horizon: Duration) -> Option<f64> {
        let first = self.acknowledged.partition_point(|(at, _)| *at <= now);
        let (from, before) = *self.acknowledged.get(first)?;
        let until = from + horizon;
        let is_idle = self.idle.iter().any(|at| (now..=until).contains(at));
        let last = self.acknowledged.partition_point(|(at, _)| *at <= until) - 1;
        (!is_idle && until <= self.end).then(|| (self.acknowledged[last].1 - before) as f64)
    }

    fn was_idle_lately(&self, now: Duration) -> bool {
        self.idle.iter().any(|at| (now.saturating_sub(PAUSED_LATELY)..now).contains(at))
    }
}

/// What the others forecast from: the estimator's own delivery rates, and all that is acknowledged.
#[derive(Default)]
struct Others {
    /// All acknowledgements: when, bytes.
    acknowledged: Vec<(Duration, u64)>,
    last: f64,
    best: Best,
}

impl Others {
    /// To be told when the estimator was.
    fn acknowledged(&mut self, now: Duration, sent: &Sent, delivered: u64, window: Duration) {
        self.acknowledged.push((now, sent.bytes));
        let arriving = now - sent.delivered_at;
        let leaving = sent.at.saturating_sub(sent.first_sent_at);
        self.last = (delivered - sent.delivered) as f64 / arriving.max(leaving).as_secs_f64();
        if !sent.is_limited || self.best.best().is_none_or(|best| self.last > best) {
            self.best.add(now, window, self.last);
        }
    }

    /// Of all of the last time.
    fn moving(&self, now: Duration, window: Duration) -> f64 {
        let since = now.saturating_sub(window);
        let recent = self.acknowledged.iter().rev().take_while(|(at, _)| *at >= since);
        recent.map(|(_, bytes)| *bytes as f64).sum::<f64>() / (now - since).as_secs_f64()
    }
}

/// How forecasts of what the link carries in so long a time were: while there had been enough to send for a while, and
/// after a pause.
fn judge(trace: &LinkTrace, horizon: Duration) -> [Score; 2] {
    let truth = Truth::of(trace);
    let (mut estimator, mut others) = (LinkEstimator::new(), Others::default());
    let (mut on_their_way, mut scores) = (Vec::new(), [Score::default(); 2]);
    let (mut is_sending, mut look_at) = (false, trace.events[0].0);
    let window = |estimator: &LinkEstimator| {
        let round_trip = estimator.estimate().map_or(Duration::ZERO, |link| link.round_trip);
        (round_trip * RATE_ROUND_TRIPS).max(RATE_LEAST)
    };
    for (now, event) in &trace.events {
        while look_at < *now {
            look_at += LOOK_EVERY;
            let Some(link) = estimator.estimate().filter(|_| is_sending) else { continue };
            let Some(carried) = truth.carried(look_at, horizon) else { continue };
            let moving = others.moving(look_at, window(&estimator));
            let best = others.best.best().unwrap();
            let score = &mut scores[usize::from(truth.was_idle_lately(look_at))];
            let rates = [others.last, moving, best, link.bytes_per_second];
            for (error, rate) in score.errors.iter_mut().zip(rates) {
                *error += (rate * horizon.as_secs_f64() - carried).abs();
            }
            score.truth += carried;
            score.forecasts += 1;
        }
        match event {
            LinkEvent::Sent(bytes) => {
                on_their_way.push(estimator.sent(*now, *bytes));
                is_sending = true;
            }
            LinkEvent::Acknowledged(earlier) => {
                let sent = on_their_way.remove(*earlier);
                let window = window(&estimator);
                estimator.acknowledged(*now, &sent);
                others.acknowledged(*now, &sent, estimator.delivered(), window);
            }
            LinkEvent::Lost(earlier) => estimator.lost(&on_their_way.remove(*earlier)),
            LinkEvent::CameBack(after) => estimator.came_back(*now, *after),
            LinkEvent::Idle => {
                estimator.idle();
                is_sending = false;
            }
        }
    }
    scores
}

#[test]
fn the_forecast_beats_the_others() {
    println!("error of {WAYS:?}, as a part of what came true");
    let mut sums = [[0.0; WAYS.len()]; 2];
    let mut counts = [0.0; 2];
    for (name, bytes) in TRACES {
        let trace = LinkTrace::from_bytes(&zstd::decode_all(bytes).unwrap()).unwrap();
        for ms in [200, 500, 1000] {
            let scores = judge(&trace, Duration::from_millis(ms));
            for (class, score) in ["always enough", "after a pause"].iter().zip(scores) {
                if score.forecasts > 0 {
                    let parts = score.parts().map(|part| format!("{:5.1} %", 100.0 * part));
                    let count = score.forecasts;
                    println!("{name:12} {class} {ms:4} ms, {count:3}: {}", parts.join(" "));
                }
            }
            for ((sum, count), score) in sums.iter_mut().zip(&mut counts).zip(scores) {
                if score.forecasts > 0 {
                    sum.iter_mut().zip(score.parts()).for_each(|(sum, part)| *sum += part);
                    *count += 1.0;
                }
            }
        }
    }
    let [enough, pause] = [0, 1].map(|class| sums[class].map(|sum| sum / counts[class]));
    for (class, parts) in [("always enough", enough), ("after a pause", pause)] {
        println!("{class}: {}", parts.map(|part| format!("{:5.1} %", 100.0 * part)).join(" "));
    }
    let [last, moving, best, ours] = enough;
    assert!(ours < 0.95 * moving && ours < 0.85 * last && ours < 0.75 * best, "{enough:?}");
    let [last, moving, best, ours] = pause;
    assert!(ours < 0.5 * moving && ours < 0.8 * last && ours < 0.9 * best, "{pause:?}");
}
