//! What is counted of a handler's requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

/// The upper bounds of the buckets of [`HttpUsage::durations`], in seconds: those that Prometheus' clients use.
pub const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

const BUCKET_MICROS: [u64; 11] =
    [5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000];

/// What a handler has answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HttpUsage {
    /// Requests that came so far, whatever became of them.
    pub requests: u64,
    /// Requests that are being answered, those that wait for an instance included.
    pub in_flight: u64,
    /// Answers by the first digit of their status, 1 to 5.
    pub answers: [u64; 5],
    /// Requests whose client went away before it had an answer.
    pub abandoned: u64,
    /// Requests that ended in a trap, or without an answer of the guest.
    pub failed: u64,
    /// Requests that were turned away, because too many were waiting or no memory was left, and connections that were
    /// too many.
    pub overloaded: u64,
    /// Requests whose answer did not begin in time.
    pub timed_out: u64,
    /// Instances that exist now.
    pub instances: u64,
    /// Instances that were made so far.
    pub instances_made: u64,
    /// How many requests took at most [`BUCKETS`]' seconds, from their head to the end of their answer; the last
    /// counts those that took longer. Each counts in one.
    pub durations: [u64; 12],
    /// How long all requests together took.
    pub duration_sum: Duration,
}

/// The counters of one handler.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: AtomicU64,
    in_flight: AtomicU64,
    answers: [AtomicU64; 5],
    abandoned: AtomicU64,
    failed: AtomicU64,
    overloaded: AtomicU64,
    timed_out: AtomicU64,
    instances: AtomicU64,
    instances_made: AtomicU64,
    durations: [AtomicU64; 12],
    duration_micros: AtomicU64,
}

impl Metrics {
    pub(crate) fn usage(&self) -> HttpUsage {
        let each = |counters: &[AtomicU64], into: &mut [u64]| {
            into.iter_mut().zip(counters).for_each(|(value, counter)| *value = counter.load(Relaxed));
        };
        let mut usage = HttpUsage {
            requests: self.requests.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            abandoned: self.abandoned.load(Relaxed),
            failed: self.failed.load(Relaxed),
            overloaded: self.overloaded.load(Relaxed),
            timed_out: self.timed_out.load(Relaxed),
            instances: self.instances.load(Relaxed),
            instances_made: self.instances_made.load(Relaxed),
            duration_sum: Duration::from_micros(self.duration_micros.load(Relaxed)),
            ..HttpUsage::default()
        };
        each(&self.answers, &mut usage.answers);
        each(&self.durations, &mut usage.durations);
        usage
    }

    /// The guest trapped, or returned without an answer.
    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    /// A request was turned away.
    pub(super) fn overloaded(&self) {
        self.overloaded.fetch_add(1, Relaxed);
    }

    /// An answer did not begin in time.
    pub(super) fn timed_out(&self) {
        self.timed_out.fetch_add(1, Relaxed);
    }
}

/// A request in flight: counted when it came, and when it is dropped.
#[derive(Debug)]
pub(super) struct InFlight {
    metrics: Arc<Metrics>,
    begun: Instant,
    status: Option<StatusCode>,
}

impl InFlight {
    pub(super) fn begin(metrics: &Arc<Metrics>) -> InFlight {
        metrics.requests.fetch_add(1, Relaxed);
        metrics.in_flight.fetch_add(1, Relaxed);
        InFlight { metrics: Arc::clone(metrics), begun: Instant::now(), status: None }
    }

    /// When it came.
    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    /// Its answer has this status.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let metrics = &self.metrics;
        metrics.in_flight.fetch_sub(1, Relaxed);
        match self.status {
            None => metrics.abandoned.fetch_add(1, Relaxed),
            Some(status) => {
                let class = usize::from(status.as_u16() / 100).clamp(1, 5);
                metrics.answers[class - 1].fetch_add(1, Relaxed)
            }
        };
        let micros = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKET_MICROS.iter().position(|bound| micros <= *bound).unwrap_or(BUCKET_MICROS.len());
        metrics.durations[bucket].fetch_add(1, Relaxed);
        metrics.duration_micros.fetch_add(micros, Relaxed);
    }
}

/// An instance that exists.
#[derive(Debug)]
pub(super) struct Alive(Arc<Metrics>);

impl Alive {
    pub(super) fn begin(metrics: &Arc<Metrics>) -> Alive {
        metrics.instances.fetch_add(1, Relaxed);
        metrics.instances_made.fetch_add(1, Relaxed);
        Alive(Arc::clone(metrics))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.instances.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_is_counted_once_in_each() {
        let metrics = Arc::new(Metrics::default());
        let answer = async |status: Option<StatusCode>, millis| {
            let mut request = InFlight::begin(&metrics);
            if let Some(status) = status {
                request.answered(status);
            }
            tokio::time::advance(Duration::from_millis(millis)).await;
        };
        answer(Some(StatusCode::OK), 5).await;
        answer(Some(StatusCode::NOT_FOUND), 6).await;
        answer(Some(StatusCode::BAD_GATEWAY), 11_000).await;
        answer(None, 0).await;
        let waiting = InFlight::begin(&metrics);
        let usage = metrics.usage();
        assert_eq!((usage.requests, usage.in_flight, usage.abandoned), (5, 1, 1));
        assert_eq!(usage.answers, [0, 1, 0, 1, 1]);
        assert_eq!(usage.durations, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(usage.duration_sum, Duration::from_millis(11_011));
        drop(waiting);
        assert_eq!(metrics.usage().in_flight, 0);
    }

    #[test]
    fn the_bounds_are_the_same_in_both_units() {
        for (seconds, micros) in BUCKETS.iter().zip(BUCKET_MICROS) {
            assert_eq!(Duration::from_secs_f64(*seconds), Duration::from_micros(micros));
        }
    }
}
