//! Test alerts: a problem and its end, sent to targets at once and outside of their queues, with what became of each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use utoipa::ToSchema;

use crate::presence::{Alarm, AlertKey, AlertName, AlertState, Notification, Severity, UnixTime};
use crate::supervise::caught;
use crate::sys::unix_time;

use super::running::{Listed, TargetList};
use super::sender::Sender;
use super::{TargetKind, alertmanager, driver, exec};

/// What a test sends to an Alertmanager ends by itself after so long: one that ended at once would be told to nobody.
const HOLDS: Duration = Duration::from_secs(60);

/// What became of one notification.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct TestAttempt {
    /// Whether the receiver took it.
    pub delivered: bool,
    /// The receiver's HTTP status, where it took it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How long that took, in seconds.
    pub seconds: f64,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What became of a test at one target.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct TestReport {
    /// Its name.
    pub target: String,
    /// Its type.
    #[schema(value_type = String)]
    pub r#type: TargetKind,
    /// Where it is, without secrets.
    pub place: String,
    /// The problem; absent where none was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<TestAttempt>,
    /// Its end; absent where none was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolve: Option<TestAttempt>,
    /// Why something was not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl TestReport {
    /// Whether everything that was sent was delivered.
    pub fn is_good(&self) -> bool {
        self.problem.iter().chain(&self.resolve).all(|attempt| attempt.delivered)
    }
}

/// Why no test was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoTest {
    /// No target is configured.
    NoTargets,
    /// None has this name; the names that there are.
    Unknown(Vec<String>),
    /// Another test is on its way.
    Busy,
}

/// Sends test alerts. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tester {
    targets: TargetList,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Tester {
    pub(super) fn new(targets: TargetList) -> Tester {
        Tester { targets, turn: Arc::default() }
    }

    /// Sends a problem of a severity, and its end, to all targets that take such a severity, or to the one with a name. A test
    /// has no service: patterns of services and instances are not asked.
    ///
    /// # Errors
    /// Why nothing was sent.
    pub async fn test(&self, only: Option<&str>, severity: Severity) -> Result<Vec<TestReport>, NoTest> {
        let all = self.targets.configured();
        if all.is_empty() {
            return Err(NoTest::NoTargets);
        }
        let is_tested = |target: &&Listed| only.is_none_or(|only| target.outbox.name() == only);
        let tested: Vec<Listed> = all.iter().filter(is_tested).cloned().collect();
        if tested.is_empty() {
            return Err(NoTest::Unknown(all.iter().map(|target| target.outbox.name().to_string()).collect()));
        }
        let Ok(_turn) = self.turn.try_lock() else { return Err(NoTest::Busy) };
        let mut tests = tokio::task::JoinSet::new();
        for (n, target) in tested.into_iter().enumerate() {
            let (sender, outbox, is_asked_for) = (target.sender(), target.outbox, only.is_some());
            tests.spawn(async move {
                let report = report(&sender, severity, is_asked_for).await;
                if report.problem.is_some() && report.is_good() {
                    outbox.note_success();
                }
                (n, report)
            });
        }
        let mut reports: Vec<(usize, TestReport)> = Vec::new();
        while let Some(report) = tests.join_next().await {
            reports.extend(report.ok());
        }
        reports.sort_by_key(|(n, _)| *n);
        Ok(reports.into_iter().map(|(_, report)| report).collect())
    }
}

/// A test of one target.
async fn report(sender: &Sender, severity: Severity, is_asked_for: bool) -> TestReport {
    let options = &sender.options;
    let mut report = TestReport {
        target: options.name.clone(),
        r#type: options.kind,
        place: options.place(),
        problem: None,
        resolve: None,
        note: None,
    };
    if !options.route.is_grave_enough(severity) && !is_asked_for {
        report.note = Some(format!("not sent: it takes `{}` and graver", options.route.least));
        return report;
    }
    let problem = attempt(sender, &notification(severity, false)).await;
    let is_delivered = problem.delivered;
    report.problem = Some(problem);
    // The pairing rule: an end if and only if the problem was delivered.
    if options.kind == TargetKind::Alertmanager {
        report.note = Some(format!("it ends by itself in {} s", HOLDS.as_secs()));
    } else if !options.route.resolved {
        report.note = Some("no end is sent: `resolved = false`".into());
    } else if is_delivered {
        report.resolve = Some(attempt(sender, &notification(severity, true)).await);
    }
    report
}

/// The problem of a test, or its end.
fn notification(severity: Severity, resolved: bool) -> Notification {
    let text = if resolved {
        "this test alert is over"
    } else {
        "this is a test alert: nothing is wrong; somebody asked for it"
    };
    let now = UnixTime::from_secs(unix_time());
    let alarm = Alarm {
        key: AlertKey::of(AlertName::Test),
        severity,
        text: text.into(),
        since: now,
        until: Some(now + HOLDS.as_secs_f64()),
        state: AlertState::Firing,
    };
    Notification { alarm, resolved, event: None, detail: String::new(), version: 0, ending: None }
}

/// Sends one, and says what became of it.
async fn attempt(sender: &Sender, notification: &Notification) -> TestAttempt {
    let began = Instant::now();
    let outcome = caught(async {
        match sender.options.kind {
            TargetKind::Exec => exec::attempt_once(sender, notification).await.map(|()| None),
            TargetKind::Alertmanager => alertmanager::attempt(sender, notification).await.map(|said| said.parse().ok()),
            TargetKind::Webhook | TargetKind::Slack | TargetKind::PagerDuty | TargetKind::Ntfy => {
                driver::attempt(sender, notification).await.map(|said| said.parse().ok())
            }
        }
    });
    let outcome = outcome.await.unwrap_or_else(|panic| Err(format!("the daemon failed: {panic:?}")));
    TestAttempt {
        delivered: outcome.is_ok(),
        status: outcome.as_ref().ok().copied().flatten(),
        seconds: (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
        error: outcome.err(),
    }
}
