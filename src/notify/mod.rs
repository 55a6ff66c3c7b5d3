//! Sends notifications to Alertmanager, webhooks and a dead man's switch. Each receiver has its own task, queue and
//! schedule, so none waits for another; the presence thread only puts notifications into queues.

mod alertmanager;
mod dead_man_switch;
mod webhook;

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::http_client::{HttpClient, masked};
use crate::presence::{Identity, Notification};
use crate::supervise::{Panic, Part, Role, Supervisor};

use dead_man_switch::DeadManSwitch;

pub use dead_man_switch::Watchdog;

/// Most notifications in a queue.
const QUEUE: usize = 1000;

/// Longest wait for a response.
const DEADLINE: Duration = Duration::from_secs(10);

/// Pauses between attempts: 1, 2, 4, … up to a minute.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The receivers.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// Base URLs of Alertmanagers; each is sent everything.
    pub alertmanagers: Vec<String>,
    /// URLs of webhooks; each is sent everything.
    pub webhooks: Vec<String>,
    /// URL of the dead man's switch, requested every minute while the daemon is healthy.
    pub dead_man_switch: Option<String>,
    /// URL of the daemon's page, for links in alerts.
    pub page: Option<String>,
    /// The identity of the daemon.
    pub identity: Option<Identity>,
}

/// Who is told.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// Its queue.
    pub outbox: Arc<Outbox>,
    /// Whether it needs the open alerts again after a restart: Alertmanager forgets what is not repeated.
    pub again: bool,
}

/// The queue of one receiver.
#[derive(Debug, Default)]
pub struct Outbox {
    queue: Mutex<Queue>,
    wake: tokio::sync::Notify,
}

#[derive(Debug, Default)]
struct Queue {
    notices: VecDeque<Notification>,
    /// Problems that were dropped from the queue: their resolutions are dropped too.
    given_up: HashSet<String>,
    dropped: u64,
}

impl Outbox {
    /// Queues notifications. When the queue is full the oldest problem is dropped, and its resolution with it; the resolution
    /// of a problem that was sent is never dropped.
    pub fn put(&self, notices: &[Notification]) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        for notice in notices {
            let key = notice.alarm.key.dedup_key();
            if notice.resolved && queue.given_up.remove(&key) {
                continue;
            }
            if queue.notices.len() >= QUEUE
                && let Some(at) = queue.notices.iter().position(|notice| !notice.resolved)
                && let Some(gone) = queue.notices.remove(at)
            {
                queue.dropped += 1;
                let gone = gone.alarm.key.dedup_key();
                let end =
                    queue.notices.iter().position(|notice| notice.resolved && notice.alarm.key.dedup_key() == gone);
                match end {
                    Some(end) => drop(queue.notices.remove(end)),
                    None => drop(queue.given_up.insert(gone)),
                }
            }
            queue.notices.push_back(notice.clone());
        }
        self.wake.notify_one();
    }

    /// Takes up to a number of notifications, and the number dropped since the last call.
    fn take(&self, most: usize) -> (Vec<Notification>, u64) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let count = queue.notices.len().min(most);
        let notices = queue.notices.drain(..count).collect();
        (notices, std::mem::take(&mut queue.dropped))
    }

    /// Whether no notification waits.
    pub fn is_empty(&self) -> bool {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).notices.is_empty()
    }
}

/// State of a receiver's task.
#[derive(Debug)]
struct Target {
    url: String,
    outbox: Arc<Outbox>,
    client: HttpClient,
    stop: watch::Receiver<bool>,
    page: Option<String>,
    identity: Identity,
    failing: Arc<AtomicUsize>,
    /// Whether the last attempt failed.
    fails: bool,
    /// Notifications that a panic now would lose.
    in_work: usize,
    part: Part,
}

impl Target {
    /// Records whether the receiver could be reached, and logs a change.
    fn note(&mut self, outcome: Result<(), &str>) {
        match outcome {
            Ok(()) if self.fails => {
                self.failing.fetch_sub(1, Ordering::Relaxed);
                tracing::info!(target_url = masked(&self.url), "alerts are delivered again");
            }
            Err(problem) if !self.fails => {
                self.failing.fetch_add(1, Ordering::Relaxed);
                tracing::error!(target_url = masked(&self.url), problem, "alerts cannot be delivered; retrying");
            }
            _ => {}
        }
        self.fails = outcome.is_err();
    }

    /// Counts what a panic has lost, and waits for the next start.
    async fn restart(&mut self, panic: Panic) {
        let lost = std::mem::take(&mut self.in_work);
        if lost > 0 {
            tracing::error!(target_url = masked(&self.url), notifications = lost, "notifications are lost");
        }
        self.part.count_lost(lost as u64);
        self.part.restart(panic).await;
    }

    /// Waits for a timeout, a notification, or the stop; `true` for the stop.
    async fn rest(&mut self, longest: Duration, for_notice: bool) -> bool {
        let outbox = Arc::clone(&self.outbox);
        tokio::select! {
            () = tokio::time::sleep(longest) => false,
            () = outbox.wake.notified(), if for_notice => false,
            _ = self.stop.wait_for(|stop| *stop) => true,
        }
    }
}

/// The queues of all receivers, before their tasks run.
#[derive(Debug)]
pub struct Outboxes {
    alertmanagers: Vec<Target>,
    webhooks: Vec<Target>,
    dead_man_switch: Option<(String, HttpClient)>,
    failing: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
}

impl Outboxes {
    /// A queue for each receiver; notifications wait there until [`Outboxes::start`].
    ///
    /// # Errors
    /// If the system's certificates cannot be read.
    pub fn new(targets: Targets) -> std::io::Result<Outboxes> {
        let (stop, stopped) = watch::channel(false);
        let failing = Arc::new(AtomicUsize::new(0));
        let mut outboxes = Outboxes {
            alertmanagers: Vec::new(),
            webhooks: Vec::new(),
            dead_man_switch: None,
            failing: Arc::clone(&failing),
            stop,
        };
        let urls =
            targets.alertmanagers.len() + targets.webhooks.len() + usize::from(targets.dead_man_switch.is_some());
        let (Some(identity), true) = (targets.identity, urls > 0) else { return Ok(outboxes) };
        let client = HttpClient::new()?;
        let target = |url: String| Target {
            url,
            outbox: Arc::default(),
            client: client.clone(),
            stop: stopped.clone(),
            page: targets.page.clone(),
            identity: identity.clone(),
            failing: Arc::clone(&failing),
            fails: false,
            in_work: 0,
            part: Part::new("notify"),
        };
        outboxes.alertmanagers = targets.alertmanagers.into_iter().map(target).collect();
        outboxes.webhooks = targets.webhooks.into_iter().map(target).collect();
        outboxes.dead_man_switch = targets.dead_man_switch.map(|url| (url, client.clone()));
        Ok(outboxes)
    }

    /// The queue of each receiver; every notification goes into all.
    pub fn receivers(&self) -> Vec<Receiver> {
        let receiver = |target: &Target, again| Receiver { outbox: Arc::clone(&target.outbox), again };
        let alertmanagers = self.alertmanagers.iter().map(|target| receiver(target, true));
        let webhooks = self.webhooks.iter().map(|target| receiver(target, false));
        alertmanagers.chain(webhooks).collect()
    }

    /// Starts a task for each receiver on the current runtime, which `supervisor` watches. `watchdog` checks the daemon's
    /// health.
    pub fn start(self, watchdog: Watchdog, supervisor: &Supervisor) -> Notifiers {
        let part = |name: &str| supervisor.part(&format!("notify:{name}"), Role::Ordinary);
        let mut tasks = Vec::new();
        for target in self.alertmanagers {
            let part = part("alertmanager");
            tasks.push(part.task(alertmanager::run(Target { part: part.clone(), ..target })));
        }
        for target in self.webhooks {
            let part = part("webhook");
            tasks.push(part.task(webhook::run(Target { part: part.clone(), ..target })));
        }
        if let Some((url, client)) = self.dead_man_switch {
            let part = part("dead_man_switch");
            let (stop, failing) = (self.stop.subscribe(), self.failing);
            let switch = DeadManSwitch { url, client, stop, watchdog, failing, part: part.clone() };
            tasks.push(part.task(switch.run()));
        }
        Notifiers { tasks, stop: self.stop }
    }
}

/// The tasks of all receivers.
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
            tracing::warn!("some alerts were not delivered before the stop");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::{Alarm, AlertKey, AlertName, AlertState, Severity, UnixTime};

    fn notice(n: usize, resolved: bool) -> Notification {
        let key = AlertKey {
            name: AlertName::InstanceDown,
            service: Some("a".into()),
            instance: Some(format!("{n}").into()),
            code: None,
            nodes: None,
        };
        let alarm = Alarm {
            key,
            severity: Severity::Warning,
            text: String::new(),
            since: UnixTime::default(),
            until: None,
            state: AlertState::Firing,
        };
        Notification { alarm, resolved, event: None, detail: String::new() }
    }

    #[test]
    fn a_full_queue_gives_up_problems_and_with_them_their_ends() {
        let outbox = Outbox::default();
        // A resolution whose problem was delivered long ago.
        outbox.put(&[notice(9999, true)]);
        (0..QUEUE + 4).for_each(|n| outbox.put(&[notice(n, false)]));
        outbox.put(&[notice(0, true)]);
        let (notices, dropped) = outbox.take(usize::MAX);
        assert_eq!((notices.len(), dropped), (QUEUE, 5));
        assert!(notices[0].resolved, "the end is still there");
        assert!(notices[1..].iter().all(|notice| !notice.resolved), "the end of a problem nobody was told of is not");
    }
}
