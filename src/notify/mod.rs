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
//! | `running` | which targets there are, and what a reload changes of them |
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
mod running;
mod sender;
mod trial;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::http_client::{HttpClient, Tls, masked};
use crate::named::named_enum;
use crate::presence::{Identity, Notification};
use crate::supervise::{Panic, Part, Supervisor};

use dead_man_switch::DeadManSwitch;
use running::Listed;
use sender::Sender;

pub use dead_man_switch::Watchdog;
pub use outbox::{Loss, Outbox, Outcome, SavedTarget};
pub use route::Route;
pub use running::{NextTargets, Notifiers, Removed, TargetList};
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
#[derive(Clone, Debug, Default, PartialEq)]
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

/// State of a target's task.
#[derive(Debug)]
struct Target {
    sender: Sender,
    /// What it sends with from the next attempt on.
    newest: watch::Receiver<Sender>,
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

    /// Whether a reload has changed it.
    fn is_changed(&self) -> bool {
        self.newest.has_changed().unwrap_or(false)
    }

    /// Takes over what a reload has changed; whether it has.
    fn renew(&mut self) -> bool {
        let is_changed = self.is_changed();
        if is_changed {
            self.sender = self.newest.borrow_and_update().clone();
            self.refused = None;
        }
        is_changed
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
            "the target does not answer; these are told after the next start, if it is configured and they are not over then"
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

    /// Waits for a timeout, a notification, a reload, or the stop; `true` for the stop.
    async fn rest(&mut self, longest: Duration, for_notification: bool) -> bool {
        let outbox = Arc::clone(&self.outbox);
        // What a clone has seen is news here still.
        let mut newest = self.newest.clone();
        tokio::select! {
            () = tokio::time::sleep(longest) => false,
            Ok(()) = newest.changed() => false,
            () = outbox.wait(), if for_notification => false,
            _ = self.stop.wait_for(|stop| *stop) => true,
        }
    }
}

impl Target {
    /// Waits until notifications that were taken are to be tried again, some of them is not to be sent any more, a reload, or the
    /// stop.
    async fn rest_with(&mut self, taken: &mut Vec<Notification>, longest: Duration) {
        let (until, count) = (Instant::now() + longest, taken.len());
        while Instant::now() < until && taken.len() == count && !self.is_changed() && !*self.stop.borrow() {
            self.rest(until.saturating_duration_since(Instant::now()), true).await;
            self.outbox.keep_wanted(taken);
        }
    }
}

/// The queues of all targets, before their tasks run.
#[derive(Debug)]
pub struct Outboxes {
    targets: Vec<Target>,
    list: TargetList,
    dead_man_switch: Option<(String, HttpClient)>,
}

impl Outboxes {
    /// A queue for each target; notifications wait there until [`Outboxes::start`].
    ///
    /// # Errors
    /// If a file of TLS cannot be read, or TLS cannot be set up.
    pub fn new(targets: Targets) -> std::io::Result<Outboxes> {
        let mut outboxes = Outboxes { targets: Vec::new(), list: TargetList::default(), dead_man_switch: None };
        let is_any = !targets.all.is_empty() || targets.dead_man_switch.is_some();
        if targets.identity.is_none() || !is_any {
            return Ok(outboxes);
        }
        let client = HttpClient::new()?;
        let dead_man_switch = targets.dead_man_switch.clone();
        for sender in NextTargets::open(targets, &outboxes.list, &client)?.into_senders() {
            let (target, listed) = Listed::new(sender);
            outboxes.targets.push(target);
            outboxes.list.add(listed);
        }
        outboxes.dead_man_switch = dead_man_switch.map(|url| (url, client));
        Ok(outboxes)
    }

    /// All targets.
    pub fn list(&self) -> TargetList {
        self.list.clone()
    }

    /// What sends test alerts to the targets.
    pub fn tester(&self) -> Tester {
        Tester::new(self.list.clone())
    }

    /// Starts a task for each target on the current runtime, which `supervisor` watches. `watchdog` checks the daemon's
    /// health. The account of a target that a reload removes is there for `linger` after its end.
    pub fn start(self, watchdog: Watchdog, supervisor: &Supervisor, linger: Duration) -> Notifiers {
        let (stop, stopped) = watch::channel(false);
        let notifiers = Notifiers::new(self.list.clone(), stop, supervisor, linger);
        for (target, listed) in self.targets.into_iter().zip(self.list.configured()) {
            notifiers.start_one(target, &listed);
        }
        if let Some((url, client)) = self.dead_man_switch {
            let part = notifiers.part("dead_man_switch");
            let targets = self.list;
            let switch = DeadManSwitch { url, client, stop: stopped, watchdog, targets, part: part.clone() };
            notifiers.keep(part.task(switch.run()));
        }
        notifiers
    }
}
