//! What a probe's results amount to: thresholds, verdicts, and when to look again. Pure.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use tokio::time::Instant;

use super::check::Outcome;
use crate::state::ProbeKind;

/// The first interval between the eager checks of a container that has just started.
const EAGER_FIRST: Duration = Duration::from_millis(2);
/// The same for checks that cost more than a look: commands and calls.
const EAGER_FIRST_COSTLY: Duration = Duration::from_millis(100);
/// How much longer each eager interval is than the one before, in percent: what is waited in vain stays
/// below half of what the guest took to come up.
const EAGER_GROWTH: u32 = 150;

/// The numbers of a probe, with Kubernetes' defaults filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    pub(super) kind: ProbeKind,
    pub(super) initial_delay: Duration,
    pub(super) period: Duration,
    pub(super) timeout: Duration,
    success: u32,
    failure: u32,
    eager: Duration,
}

impl Schedule {
    /// Liveness is looked at after a period at the earliest, as the kubelet's ticker makes it: a guest that
    /// is just coming up is not dead. `cheap` checks are repeated more eagerly.
    pub(super) fn of(probe: &Probe, kind: ProbeKind, cheap: bool) -> Schedule {
        let number = |field: Option<i32>, default: u32| {
            field
                .and_then(|number| u32::try_from(number).ok())
                .filter(|number| *number > 0)
                .unwrap_or(default)
        };
        let seconds = |field, default| Duration::from_secs(number(field, default).into());
        let delay = seconds(probe.initial_delay_seconds, 0);
        let period = seconds(probe.period_seconds, 10);
        Schedule {
            kind,
            initial_delay: if kind == ProbeKind::Liveness { delay.max(period) } else { delay },
            period,
            timeout: seconds(probe.timeout_seconds, 1),
            success: number(probe.success_threshold, 1),
            failure: number(probe.failure_threshold, 3),
            eager: if cheap { EAGER_FIRST } else { EAGER_FIRST_COSTLY },
        }
    }
}

/// Where a probe stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    successes: u32,
    failures: u32,
    verdict: Option<bool>,
    eager: Option<Eager>,
}

#[derive(Clone, Copy, Debug)]
struct Eager {
    until: Instant,
    step: Duration,
}

/// What follows from a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// The verdict, if it changed.
    pub(super) verdict: Option<bool>,
    /// What users should hear of.
    pub(super) news: Option<News>,
    /// When to look again; `None` if the probe has done its work.
    pub(super) next: Option<Instant>,
}

/// What users should hear of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    Failed(String),
    Warned(String),
    Errored(String),
}

impl Progress {
    /// A probe whose first check is due at `first`.
    pub(super) fn new(schedule: &Schedule, first: Instant) -> Progress {
        let eager = (schedule.kind != ProbeKind::Liveness)
            .then(|| Eager { until: first + schedule.period, step: schedule.eager });
        Progress { successes: 0, failures: 0, verdict: None, eager }
    }

    /// Takes in the result of the check that was due at `due`. The next is a period after that, however long
    /// this one took.
    pub(super) fn record(
        &mut self,
        schedule: &Schedule,
        outcome: Outcome,
        due: Instant,
        now: Instant,
    ) -> Report {
        let next = (due + schedule.period).max(now);
        match outcome {
            Outcome::Success => self.succeeded(schedule, None, next),
            Outcome::Warning(text) => self.succeeded(schedule, Some(News::Warned(text)), next),
            Outcome::Failure(problem) => self.failed(schedule, problem, next, now),
            Outcome::Error(problem) => {
                Report { verdict: None, news: Some(News::Errored(problem)), next: Some(next) }
            }
        }
    }

    /// True while failures are not told and checks follow each other closely.
    pub(super) fn is_eager(&self) -> bool {
        self.eager.is_some()
    }

    fn succeeded(&mut self, schedule: &Schedule, news: Option<News>, next: Instant) -> Report {
        self.failures = 0;
        self.successes = self.successes.saturating_add(1);
        self.eager = None;
        let verdict = (self.successes >= schedule.success).then(|| self.turn(true)).flatten();
        let done = schedule.kind == ProbeKind::Startup && self.verdict == Some(true);
        Report { verdict, news, next: (!done).then_some(next) }
    }

    fn failed(&mut self, schedule: &Schedule, problem: String, next: Instant, now: Instant) -> Report {
        if let Some(eager) = &mut self.eager {
            if now < eager.until {
                let next = (now + eager.step).min(eager.until);
                eager.step = eager.step * EAGER_GROWTH / 100;
                return Report { verdict: None, news: None, next: Some(next) };
            }
            self.eager = None;
        }
        self.successes = 0;
        self.failures = self.failures.saturating_add(1);
        let verdict = (self.failures >= schedule.failure).then(|| self.turn(false)).flatten();
        // The container is ended; its next run is probed afresh.
        let done = schedule.kind != ProbeKind::Readiness && self.verdict == Some(false);
        Report { verdict, news: Some(News::Failed(problem)), next: (!done).then_some(next) }
    }

    fn turn(&mut self, verdict: bool) -> Option<bool> {
        let changed = self.verdict.replace(verdict) != Some(verdict);
        changed.then_some(verdict)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Results (`+` or `-`) of checks made when they are due, and what each led to: `R` ready, `N` not
    /// ready, `!` reported, `.` nothing, `x` the end; in brackets the milliseconds to the next check if
    /// it is not a whole period (1 s) away.
    #[track_caller]
    fn check(kind: ProbeKind, results: &str, expected: &[&str]) {
        let probe: Probe =
            serde_json::from_value(json!({"periodSeconds": 1, "failureThreshold": 2})).unwrap();
        let schedule = Schedule::of(&probe, kind, true);
        let mut now = Instant::now();
        let mut progress = Progress::new(&schedule, now);
        let mut seen = Vec::new();
        for result in results.chars() {
            let outcome = match result {
                '+' => Outcome::Success,
                '~' => Outcome::Warning("hm".into()),
                '?' => Outcome::Error("?".into()),
                _ => Outcome::Failure("no".into()),
            };
            let report = progress.record(&schedule, outcome, now, now);
            let mut text = String::new();
            text += match report.verdict {
                Some(true) => "R",
                Some(false) => "N",
                None => ".",
            };
            text += match report.news {
                Some(News::Failed(_)) => "!",
                Some(News::Warned(_)) => "~",
                Some(News::Errored(_)) => "?",
                None => "",
            };
            match report.next {
                None => text += "x",
                Some(next) => {
                    if next != now + schedule.period {
                        text += &format!("({})", (next - now).as_millis());
                    }
                    now = next;
                }
            }
            seen.push(text);
        }
        assert_eq!(seen, expected);
    }

    #[test]
    fn readiness_looks_eagerly_until_the_first_success() {
        check(ProbeKind::Readiness, "---+-", &[".(2)", ".(3)", ".(4)", "R", ".!"]);
        check(ProbeKind::Readiness, "+--+", &["R", ".!", "N!", "R"]);
        check(ProbeKind::Readiness, "~~-", &["R~", ".~", ".!"]);
    }

    #[test]
    fn a_check_that_cannot_be_made_counts_for_nothing() {
        check(ProbeKind::Liveness, "-?-", &[".!", ".?", "N!x"]);
        check(ProbeKind::Readiness, "?+", &[".?", "R"]);
    }

    #[test]
    fn eagerness_ends_with_the_first_period() {
        let probe = serde_json::from_value(json!({"periodSeconds": 1})).unwrap();
        let schedule = Schedule::of(&probe, ProbeKind::Readiness, true);
        let begin = Instant::now();
        let (mut now, mut silent) = (begin, 0);
        let mut progress = Progress::new(&schedule, begin);
        loop {
            let report = progress.record(&schedule, Outcome::Failure("no".into()), now, now);
            if report.news.is_some() {
                break;
            }
            now = report.next.unwrap();
            silent += 1;
        }
        assert_eq!(now, begin + schedule.period);
        assert!((10..20).contains(&silent), "{silent}");
    }

    #[test]
    fn liveness_ends_with_the_container() {
        check(ProbeKind::Liveness, "+-+--", &["R", ".!", ".", ".!", "N!x"]);
    }

    #[test]
    fn startup_ends_with_its_success() {
        check(ProbeKind::Startup, "-+", &[".(2)", "Rx"]);
    }

    #[test]
    fn liveness_gives_a_guest_time_to_come_up() {
        let delay = |kind, probe: serde_json::Value| {
            let probe = serde_json::from_value(probe).unwrap();
            Schedule::of(&probe, kind, true).initial_delay.as_secs()
        };
        assert_eq!(delay(ProbeKind::Liveness, json!({"periodSeconds": 3})), 3);
        assert_eq!(delay(ProbeKind::Liveness, json!({"periodSeconds": 3, "initialDelaySeconds": 7})), 7);
        assert_eq!(delay(ProbeKind::Readiness, json!({"periodSeconds": 3})), 0);
    }

    #[test]
    fn periods_are_counted_from_when_a_check_was_due() {
        let probe = serde_json::from_value(json!({"periodSeconds": 1})).unwrap();
        let schedule = Schedule::of(&probe, ProbeKind::Liveness, true);
        let due = Instant::now();
        let after = |took: u64| {
            let now = due + Duration::from_millis(took);
            let mut progress = Progress::new(&schedule, due);
            let next = progress.record(&schedule, Outcome::Success, due, now).next.unwrap();
            (next - due).as_millis()
        };
        assert_eq!((after(0), after(300), after(1700)), (1000, 1000, 1700));
    }

    #[test]
    fn thresholds_of_success() {
        let probe = serde_json::from_value(json!({"successThreshold": 2})).unwrap();
        let schedule = Schedule::of(&probe, ProbeKind::Readiness, true);
        let now = Instant::now();
        let mut progress = Progress::new(&schedule, now);
        assert_eq!(progress.record(&schedule, Outcome::Success, now, now).verdict, None);
        assert_eq!(progress.record(&schedule, Outcome::Success, now, now).verdict, Some(true));
    }
}
