//! The targets that run, and how a reload changes them. One of the same name and type keeps its queue and what it was told, and
//! its task goes on with what is new between two attempts. One that is gone tries to deliver what it has, within a bound; its
//! account is there until an interval has what became of that.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::http_client::HttpClient;
use crate::supervise::{Part, Role, Supervisor};
use crate::telemetry::NotifierAccount;

use super::outbox::Outbox;
use super::sender::Sender;
use super::{Target, TargetKind, Targets, alertmanager, driver, exec};

/// A target, as others than its task see it.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) outbox: Arc<Outbox>,
    /// What its task sends with from the next attempt on.
    sender: Arc<watch::Sender<Sender>>,
    stop: Arc<watch::Sender<bool>>,
    /// When it ends at the latest, once a reload has removed it.
    deadline: Arc<watch::Sender<Option<Instant>>>,
    /// It is not configured any more.
    is_leaving: bool,
}

impl Listed {
    /// A target that sends so, before its task runs, and what others see of it.
    pub(super) fn new(sender: Sender) -> (Target, Listed) {
        let (stop, stopped) = watch::channel(false);
        let (newest, renewed) = watch::channel(sender.clone());
        let (name, kind, route) = (&sender.options.name, sender.options.kind, sender.options.route.clone());
        // An incident stays open until it is resolved; Alertmanager is told the end with the problem.
        let (ends_passing, forgets) = (kind == TargetKind::PagerDuty, kind == TargetKind::Alertmanager);
        let outbox = Arc::new(Outbox::new(name, route, ends_passing, forgets));
        let listed = Listed {
            outbox: Arc::clone(&outbox),
            sender: Arc::new(newest),
            stop: Arc::new(stop),
            deadline: Arc::new(watch::channel(None).0),
            is_leaving: false,
        };
        let part = Part::new("notify");
        let target = Target {
            sender,
            newest: renewed,
            outbox,
            stop: stopped,
            failed_at: None,
            took_at: None,
            refused: None,
            part,
        };
        (target, listed)
    }

    /// What it sends with.
    pub(super) fn sender(&self) -> Sender {
        self.sender.borrow().clone()
    }

    /// Makes it send so, if that is something else.
    fn change(&self, sender: Sender) {
        let is_same = {
            let was = self.sender.borrow();
            Arc::ptr_eq(&was.options, &sender.options) && was.page == sender.page
        };
        if !is_same {
            self.outbox.set_route(&sender.options.route);
            self.sender.send_replace(sender);
        }
    }
}

/// All targets that run. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct TargetList(Arc<Mutex<Vec<Listed>>>);

impl TargetList {
    fn lock(&self) -> MutexGuard<'_, Vec<Listed>> {
        // Every change leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, listed: Listed) {
        self.lock().push(listed);
    }

    /// Those that are configured.
    pub(super) fn configured(&self) -> Vec<Listed> {
        self.lock().iter().filter(|one| !one.is_leaving).cloned().collect()
    }

    /// The queue of each that is configured; every notification is offered to all.
    pub fn queues(&self) -> Vec<Arc<Outbox>> {
        self.configured().into_iter().map(|one| one.outbox).collect()
    }

    /// The account of each since it began, with those that leave.
    pub fn accounts(&self) -> BTreeMap<String, NotifierAccount> {
        let all = self.lock();
        // Of two that have one name, the one that is configured comes last, and stays.
        let leaving = all.iter().filter(|one| one.is_leaving);
        let ordered = leaving.chain(all.iter().filter(|one| !one.is_leaving));
        ordered.map(|one| (one.outbox.name().to_string(), one.outbox.account())).collect()
    }
}

/// What the targets are to send with after a reload. Nothing has changed yet.
#[derive(Debug)]
pub struct NextTargets(Vec<Sender>);

impl NextTargets {
    /// Opens what these targets take; one that is as it was keeps what it has opened.
    pub(super) fn open(targets: Targets, known: &TargetList, client: &HttpClient) -> io::Result<NextTargets> {
        let Targets { all, page, identity, .. } = targets;
        let Some(identity) = identity else { return Ok(NextTargets(Vec::new())) };
        let known: Vec<Sender> = known.configured().iter().map(Listed::sender).collect();
        let open = |options: super::TargetOptions| {
            let page = page.clone();
            if let Some(same) = known.iter().find(|same| *same.options == options) {
                return Ok(Sender { page, ..same.clone() });
            }
            let client = if options.tls.is_default() { client.clone() } else { HttpClient::with(&options.tls)? };
            Ok(Sender { options: Arc::new(options), client, page, identity: identity.clone() })
        };
        all.into_iter().map(open).collect::<io::Result<_>>().map(NextTargets)
    }

    pub(super) fn into_senders(self) -> Vec<Sender> {
        self.0
    }
}

/// Targets that a reload has removed, and that take what comes still.
#[derive(Debug)]
#[must_use]
pub struct Removed(Vec<Listed>);

impl Removed {
    /// Nothing comes any more: they deliver what they have, for so long at most.
    pub fn end(self, grace: Duration) {
        for one in self.0 {
            one.deadline.send_replace(Some(Instant::now() + grace));
            one.stop.send_replace(true);
        }
    }
}

/// The tasks of all targets. Clones are one.
#[derive(Clone, Debug)]
pub struct Notifiers {
    list: TargetList,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
    stop: Arc<watch::Sender<bool>>,
    supervisor: Supervisor,
    /// So long the account of one that has ended is there.
    linger: Duration,
}

impl Notifiers {
    pub(super) fn new(
        list: TargetList,
        stop: watch::Sender<bool>,
        supervisor: &Supervisor,
        linger: Duration,
    ) -> Notifiers {
        Notifiers { list, tasks: Arc::default(), stop: Arc::new(stop), supervisor: supervisor.clone(), linger }
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        // Every change leaves it whole.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A part of the daemon.
    pub(super) fn part(&self, name: &str) -> Part {
        self.supervisor.part(&format!("notify:{name}"), Role::Ordinary)
    }

    /// Waits for this task at the stop, too.
    pub(super) fn keep(&self, task: JoinHandle<()>) {
        let mut tasks = self.tasks();
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    /// Starts the task of a target on the current runtime.
    pub(super) fn start_one(&self, target: Target, listed: &Listed) {
        let part = self.part(target.name());
        let target = Target { part: part.clone(), ..target };
        let (list, stop, deadline) = (self.list.clone(), self.stop.subscribe(), listed.deadline.subscribe());
        self.keep(part.task(run(target, deadline, (list, stop, self.linger))));
    }

    /// The queue of each that is configured.
    pub fn queues(&self) -> Vec<Arc<Outbox>> {
        self.list.queues()
    }

    /// Opens what targets take.
    ///
    /// # Errors
    /// If a file of TLS cannot be read, or TLS cannot be set up.
    pub fn open(&self, targets: Targets) -> io::Result<NextTargets> {
        NextTargets::open(targets, &self.list, &HttpClient::new()?)
    }

    /// These are the targets from now on. New ones are started, and what is put into their queues is sent.
    pub fn change(&self, next: NextTargets) -> Removed {
        let mut all = self.list.lock();
        let (mut left, leaving): (Vec<Listed>, Vec<Listed>) = all.drain(..).partition(|one| !one.is_leaving);
        *all = leaving;
        for sender in next.0 {
            let identity = |sender: &Sender| (sender.options.name.clone(), sender.options.kind);
            let known = left.iter().position(|one| identity(&one.sender()) == identity(&sender));
            if let Some(at) = known {
                let known = left.remove(at);
                known.change(sender);
                all.push(known);
            } else {
                let (target, listed) = Listed::new(sender);
                self.start_one(target, &listed);
                all.push(listed);
            }
        }
        left.iter_mut().for_each(|one| one.is_leaving = true);
        all.extend(left.iter().cloned());
        Removed(left)
    }

    /// Stops all tasks: each tries once more to deliver its queue, until `deadline`.
    pub async fn stop(self, deadline: Instant) {
        for one in self.list.lock().iter() {
            one.stop.send_replace(true);
        }
        self.stop.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks());
        let mut late = 0;
        for mut task in tasks {
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

/// A target's task, to its end.
async fn run(
    target: Target,
    deadline: watch::Receiver<Option<Instant>>,
    (list, mut stop, linger): (TargetList, watch::Receiver<bool>, Duration),
) {
    let (outbox, part) = (Arc::clone(&target.outbox), target.part.clone());
    let work = async {
        match target.sender.options.kind {
            TargetKind::Alertmanager => alertmanager::run(target).await,
            TargetKind::Exec => exec::run(target).await,
            TargetKind::Webhook | TargetKind::Slack | TargetKind::PagerDuty | TargetKind::Ntfy => {
                driver::run(target).await;
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = passed(deadline.clone()) => {}
    }
    if deadline.borrow().is_none() {
        return;
    }
    // Its end is no failure.
    part.leave();
    let lost = outbox.shut_down();
    if lost > 0 {
        tracing::error!(
            to = outbox.name(),
            notifications = lost,
            "a target that was removed did not take these in time"
        );
    }
    tokio::select! {
        () = tokio::time::sleep(linger) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    list.lock().retain(|one| !Arc::ptr_eq(&one.outbox, &outbox));
}

/// Resolves when there is a deadline, and it has passed.
async fn passed(mut deadline: watch::Receiver<Option<Instant>>) {
    let at = deadline.wait_for(Option::is_some).await.ok().and_then(|at| *at);
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
