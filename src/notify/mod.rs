//! Sends notifications to targets: webhooks, Slack, PagerDuty, ntfy, Alertmanager, commands, and to a dead man's switch.
//! Each target has its own task, queue, route and schedule, so none waits for another; the presence thread only puts
//! notifications into queues.
//!
//! | file | has |
//! |---|---|
//! | `route` | which alarms a target is sent |
//! | [`outbox`] | its queue, what it knows to be told, and its account |
//! | `message` | the words, the same for all |
//! | `sender` | one request over HTTP, by type, and what an answer means |
//! | `driver` | delivers a queue over HTTP; retries |
//! | `exec` | runs a command for each notification |
//! | `alertmanager` | repeats what fires, and what ended |
//! | `trial` | test alerts |
//! | `dead_man_switch` | asks an address while all is well |

mod alertmanager;
mod dead_man_switch;
mod driver;
mod exec;
mod message;
mod outbox;
mod route;
mod sender;
mod trial;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::http_client::{HttpClient, Tls, masked};
use crate::named::named_enum;
use crate::presence::{Identity, Notification};
use crate::supervise::{Panic, Part, Role, Supervisor};
use crate::telemetry::NotifierAccount;

use dead_man_switch::DeadManSwitch;
use sender::Sender;
use trial::Tested;

pub use dead_man_switch::Watchdog;
pub use outbox::{Loss, Outbox, Outcome, SavedTarget};
pub use route::Route;
pub use trial::{NoTest, TestAttempt, TestReport, Tester};

/// Longest wait for a response of the dead man's switch, and of a target unless it is configured.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Pauses between attempts: 1, 2, 4, … up to a minute.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A target that could not be reached, and has had nothing to do for so long, counts as one that can be: only an attempt tells.
/// It is longer than any pause between two attempts.
const RECOVERS_AFTER: Duration = Duration::from_secs(900);

/// Where events of PagerDuty go (Events API v2).
pub const PAGERDUTY: &str = "https://events.pagerduty.com/v2/enqueue";

named_enum! {
    /// What kind of receiver a target is.
    pub enum TargetKind {
        /// A URL that gets events as JSON.
        Webhook = "webhook",
        /// An incoming webhook of Slack, or of what understands its form.
        Slack = "slack",
        /// PagerDuty, Events API v2.
        PagerDuty = "pagerduty",
        /// A topic of an ntfy server.
        Ntfy = "ntfy",
        /// An Alertmanager.
        Alertmanager = "alertmanager",
        /// A command.
        Exec = "exec",
    }
}

/// A target as it is configured.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetOptions {
    /// Label in status and ledger.
    pub name: String,
    /// What it is.
    pub kind: TargetKind,
    /// Its URL; of an Alertmanager the base. Empty for a command.
    pub url: String,
    /// For `Authorization: Bearer`; empty for none.
    pub token: String,
    /// PagerDuty's integration key.
    pub routing_key: String,
    /// A program and its arguments, run without a shell.
    pub command: Vec<String>,
    /// More variables of its environment.
    pub env: BTreeMap<String, String>,
    /// Most processes of the command at a time (1..=32).
    pub processes: usize,
    /// TLS of its URL.
    pub tls: Tls,
    /// Longest attempt.
    pub timeout: Duration,
    /// What it is sent.
    pub route: Route,
}

impl TargetOptions {
    /// A target with every default.
    pub fn new(name: &str, kind: TargetKind) -> TargetOptions {
        TargetOptions {
            name: name.to_string(),
            kind,
            url: if kind == TargetKind::PagerDuty { PAGERDUTY.into() } else { String::new() },
            token: String::new(),
            routing_key: String::new(),
            command: Vec::new(),
            env: BTreeMap::new(),
            processes: 4,
            tls: Tls::default(),
            timeout: if kind == TargetKind::Exec { Duration::from_secs(30) } else { DEADLINE },
            route: Route::default(),
        }
    }

    /// Where it is, without what may be secret: of a command its program, for arguments may hold tokens.
    pub fn place(&self) -> String {
        if self.kind == TargetKind::Exec {
            self.command.first().cloned().unwrap_or_default()
        } else {
            masked(&self.url)
        }
    }
}

/// Who is notified.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// The targets, their names all different.
    pub all: Vec<TargetOptions>,
    /// URL of the dead man's switch, requested every minute while the daemon is healthy.
    pub dead_man_switch: Option<String>,
    /// URL of the daemon's page, for links in alerts.
    pub page: Option<String>,
    /// The identity of the daemon.
    pub identity: Option<Identity>,
}

/// A view of the account of a target. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NotifierStats {
    name: String,
    outbox: Arc<Outbox>,
}

impl NotifierStats {
    /// The target's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its account since the start.
    pub fn account(&self) -> NotifierAccount {
        self.outbox.account()
    }
}

/// State of a target's task.
#[derive(Debug)]
struct Target {
    sender: Sender,
    outbox: Arc<Outbox>,
    stop: watch::Receiver<bool>,
    /// When an attempt found nobody last.
    failed_at: Option<Instant>,
    /// When the receiver took something last.
    took_at: Option<Instant>,
    /// What the receiver said when it refused something, until it takes something again.
    refused: Option<String>,
    part: Part,
}

impl Target {
    fn name(&self) -> &str {
        &self.sender.options.name
    }

    /// Records whether the receiver could be reached, and logs a change.
    fn note(&mut self, outcome: Result<(), &str>) {
        match outcome {
            Ok(()) => {
                (self.refused, self.took_at) = (None, Some(Instant::now()));
                if self.outbox.note_success() {
                    tracing::info!(to = self.name(), "alerts are delivered again");
                }
            }
            Err(problem) => {
                self.failed_at = Some(Instant::now());
                if !self.outbox.note_failure(problem) {
                    let place = self.sender.options.place();
                    tracing::error!(to = self.name(), place, problem, "alerts cannot be delivered; retrying");
                }
            }
        }
    }

    /// Records that the receiver was reached and refuses something; what it said is logged once.
    fn note_refused(&mut self, problem: &str, consequence: &str) {
        self.outbox.note_refusal(problem);
        if self.refused.as_deref() != Some(problem) {
            let place = self.sender.options.place();
            tracing::error!(to = self.name(), place, problem, "{consequence}");
            self.refused = Some(problem.to_string());
        }
    }

    /// Whether the receiver has taken something since then.
    fn has_taken_since(&self, then: Instant) -> bool {
        self.took_at.is_some_and(|at| at > then)
    }

    /// Notes that a notification, tried first at `first`, is not taken. Where others were since, that is its own fault.
    fn note_failure_of_one(&mut self, first: Instant, problem: &str, consequence: &str) {
        if self.has_taken_since(first) {
            self.note_refused(problem, consequence);
        } else {
            self.note(Err(problem));
        }
    }

    /// There is nothing to send: a receiver that could not be reached long ago is taken for one that can be.
    fn recover(&mut self) {
        if self.outbox.fails() && self.failed_at.is_none_or(|at| at.elapsed() >= RECOVERS_AFTER) {
            self.outbox.note_recovered();
            tracing::info!(to = self.name(), "nothing waits for a target that could not be reached; it may be back");
        }
    }

    /// The daemon stops, and the receiver does not answer.
    fn give_up_at_stop(&self) {
        let lost = self.outbox.shut_down();
        tracing::error!(
            to = self.name(),
            notifications = lost,
            "the target does not answer; these are told after the next start, if they are not over then"
        );
    }

    /// Counts what a panic has lost, and waits for the next start.
    async fn restart(&mut self, panic: Panic) {
        let lost = self.outbox.finish_all(Outcome::Lost(Loss::Failed));
        if lost > 0 {
            tracing::error!(to = self.name(), notifications = lost, "notifications are lost");
        }
        self.part.restart(panic).await;
    }

    /// Waits for a timeout, a notification, or the stop; `true` for the stop.
    async fn rest(&mut self, longest: Duration, for_notification: bool) -> bool {
        let outbox = Arc::clone(&self.outbox);
        tokio::select! {
            () = tokio::time::sleep(longest) => false,
            () = outbox.wait(), if for_notification => false,
            _ = self.stop.wait_for(|stop| *stop) => true,
        }
    }
}

impl Target {
    /// Waits until notifications that were taken are to be tried again, some of them is not to be sent any more, or the stop.
    async fn rest_with(&mut self, taken: &mut Vec<Notification>, longest: Duration) {
        let (until, count) = (Instant::now() + longest, taken.len());
        while Instant::now() < until && taken.len() == count && !*self.stop.borrow() {
            self.rest(until.saturating_duration_since(Instant::now()), true).await;
            self.outbox.keep_wanted(taken);
        }
    }
}

/// The queues of all targets, before their tasks run.
#[derive(Debug)]
pub struct Outboxes {
    targets: Vec<Target>,
    dead_man_switch: Option<(String, HttpClient)>,
    stop: watch::Sender<bool>,
}

impl Outboxes {
    /// A queue for each target; notifications wait there until [`Outboxes::start`].
    ///
    /// # Errors
    /// If a file of TLS cannot be read, or TLS cannot be set up.
    pub fn new(targets: Targets) -> std::io::Result<Outboxes> {
        let (stop, stopped) = watch::channel(false);
        let mut outboxes = Outboxes { targets: Vec::new(), dead_man_switch: None, stop };
        let Targets { all, dead_man_switch, page, identity } = targets;
        let is_any = !all.is_empty() || dead_man_switch.is_some();
        let (Some(identity), true) = (identity, is_any) else { return Ok(outboxes) };
        let client = HttpClient::new()?;
        for options in all {
            let own = if options.tls.is_default() { client.clone() } else { HttpClient::with(&options.tls)? };
            let (name, kind) = (options.name.clone(), options.kind);
            let (route, forgets) = (options.route.clone(), kind == TargetKind::Alertmanager);
            let (options, page, identity) = (Arc::new(options), page.clone(), identity.clone());
            outboxes.targets.push(Target {
                sender: Sender { options, client: own, page, identity },
                // An incident stays open until it is resolved; Alertmanager is told the end with the problem.
                outbox: Arc::new(Outbox::new(&name, route, kind == TargetKind::PagerDuty, forgets)),
                stop: stopped.clone(),
                failed_at: None,
                took_at: None,
                refused: None,
                part: Part::new("notify"),
            });
        }
        outboxes.dead_man_switch = dead_man_switch.map(|url| (url, client));
        Ok(outboxes)
    }

    /// The queue of each target; every notification is offered to all.
    pub fn queues(&self) -> Vec<Arc<Outbox>> {
        self.targets.iter().map(|target| Arc::clone(&target.outbox)).collect()
    }

    /// Views of the accounts.
    pub fn stats(&self) -> Vec<NotifierStats> {
        let stats =
            |target: &Target| NotifierStats { name: target.name().to_string(), outbox: Arc::clone(&target.outbox) };
        self.targets.iter().map(stats).collect()
    }

    /// What sends test alerts to the targets.
    pub fn tester(&self) -> Tester {
        let tested = |target: &Target| Tested { sender: target.sender.clone(), outbox: Arc::clone(&target.outbox) };
        Tester::new(self.targets.iter().map(tested).collect())
    }

    /// Starts a task for each target on the current runtime, which `supervisor` watches. `watchdog` checks the daemon's
    /// health.
    pub fn start(self, watchdog: Watchdog, supervisor: &Supervisor) -> Notifiers {
        let part = |name: &str| supervisor.part(&format!("notify:{name}"), Role::Ordinary);
        let (mut tasks, outboxes) = (Vec::new(), self.queues());
        for target in self.targets {
            let part = part(target.name());
            let target = Target { part: part.clone(), ..target };
            tasks.push(match target.sender.options.kind {
                TargetKind::Alertmanager => part.task(alertmanager::run(target)),
                TargetKind::Exec => part.task(exec::run(target)),
                TargetKind::Webhook | TargetKind::Slack | TargetKind::PagerDuty | TargetKind::Ntfy => {
                    part.task(driver::run(target))
                }
            });
        }
        if let Some((url, client)) = self.dead_man_switch {
            let part = part("dead_man_switch");
            let stop = self.stop.subscribe();
            let switch = DeadManSwitch { url, client, stop, watchdog, outboxes, part: part.clone() };
            tasks.push(part.task(switch.run()));
        }
        Notifiers { tasks, stop: self.stop }
    }
}

/// The tasks of all targets.
#[derive(Debug)]
pub struct Notifiers {
    tasks: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

impl Notifiers {
    /// Stops all tasks: each tries once more to deliver its queue, until `deadline`.
    pub async fn stop(self, deadline: Instant) {
        let _ = self.stop.send(true);
        let mut late = 0;
        for mut task in self.tasks {
            if tokio::time::timeout_at(deadline.into(), &mut task).await.is_err() {
                task.abort();
                late += 1;
            }
        }
        if late > 0 {
            tracing::warn!("some alerts were not delivered before the stop; they are told after the next start");
        }
    }
}
