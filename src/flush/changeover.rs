//! What a reload changes in the flusher, at a tick: the interval is closed as it was, and the next one is as the new
//! configuration says. What can fail was done before; nothing here waits but for listeners that leave.
//!
//! A worker that does not answer at that tick goes on as before: what is planned for it begins with the interval that it closes
//! next. Until then it is among those that are published as `behind`.
//!
//! Shards have places in the registry, in the order of workers. Of a worker that begins anew, and of one whose listener leaves, the
//! registry holds the series itself from then on ([`crate::rollup::Registry::arrange`]).

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::mpsc::error::SendError;
use tokio::sync::oneshot;

use crate::aggregate::Shard;
use crate::net::relay::RelayStats;
use crate::net::{Hold, Listener, ListenerOptions, Listeners, NextShards, Taps, WorkerChange};
use crate::rollup::RegistryOptions;
use crate::sinks::{SinkChange, SinkDriver, SinkStats};
use crate::sys::now;
use crate::telemetry::{ListenerAccount, Tally};

use super::{Flusher, account_of};

/// Longest time for a listener that leaves to read what the kernel holds.
const LEAVING: Duration = Duration::from_secs(5);

/// What a listener is from the next interval on.
#[derive(Debug)]
pub enum NextListener {
    /// The one at this place, with these options if they are others.
    Kept(usize, Option<Box<ListenerOptions>>),
    /// A new one.
    New(NewListener),
}

/// A listener that reads nothing yet.
#[derive(Debug)]
pub struct NewListener(Option<Box<(Listener, Hold)>>);

impl NewListener {
    /// Holds a listener.
    pub fn new(held: (Listener, Hold)) -> NewListener {
        NewListener(Some(Box::new(held)))
    }
}

impl Drop for NewListener {
    fn drop(&mut self) {
        if let Some((listener, _)) = self.0.as_deref() {
            listener.leave();
        }
    }
}

/// What a sink is from the next interval on.
#[derive(Debug)]
pub enum NextDriver {
    /// The one at this place, as it is or changed.
    Kept(usize, Option<Box<SinkChange>>),
    /// A new one.
    New(HeldDriver),
}

/// A driver that gets nothing. If nobody takes it, the flusher has it as one that leaves: what it has is not lost.
#[derive(Debug)]
pub struct HeldDriver {
    driver: Option<SinkDriver>,
    until: Instant,
    untaken: UnboundedSender<LeavingSink>,
}

impl HeldDriver {
    /// Holds a driver, which may go on delivering until then if it leaves.
    pub(super) fn new(driver: SinkDriver, until: Instant, untaken: UnboundedSender<LeavingSink>) -> HeldDriver {
        HeldDriver { driver: Some(driver), until, untaken }
    }

    /// The driver.
    pub fn driver(&self) -> Option<&SinkDriver> {
        self.driver.as_ref()
    }

    /// The driver, for whoever ends it or puts it in place.
    pub fn take(&mut self) -> Option<SinkDriver> {
        self.driver.take()
    }
}

impl Drop for HeldDriver {
    fn drop(&mut self) {
        let Some(driver) = self.driver.take() else { return };
        if !driver.has_something() {
            return driver.leave();
        }
        let sink = LeavingSink { stats: driver.stats(), driver: Some(driver), until: self.until };
        if let Err(SendError(LeavingSink { driver: Some(driver), .. })) = self.untaken.send(sink) {
            // There is no flusher any more.
            driver.leave();
        }
    }
}

/// What is different from the next interval on; `None` is what stays.
#[derive(Default)]
pub struct Changeover {
    /// All listeners, in order.
    pub listeners: Option<Vec<NextListener>>,
    /// All sinks, in order.
    pub drivers: Option<Vec<NextDriver>>,
    /// How long sinks that are not among them may go on delivering.
    pub grace: Duration,
    /// What workers pass lines on to.
    pub taps: Option<Taps>,
    /// What shards are.
    pub shards: NextShards,
    /// How intervals are closed.
    pub registry: Option<RegistryOptions>,
    /// What names of series have before the names that are sent.
    pub prepended: Option<String>,
    /// All relays, and the names of those whose accounts begin.
    pub relays: Option<(Vec<RelayStats>, Vec<String>)>,
    /// What else changes at the same moment.
    pub commit: Option<Box<dyn FnOnce() + Send>>,
}

impl fmt::Debug for Changeover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changeover").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

impl Changeover {
    /// Whether it concerns intervals, and so has to wait for the end of one.
    pub fn needs_tick(&self) -> bool {
        let Changeover { listeners, drivers, taps, shards, registry, prepended, relays, grace: _, commit: _ } = self;
        let is_same = matches!(shards, NextShards::Same);
        listeners.is_some()
            || drivers.is_some()
            || taps.is_some()
            || !is_same
            || registry.is_some()
            || prepended.is_some()
            || relays.is_some()
    }
}

/// A changeover that waits for the end of the interval, and whoever waits for it.
#[derive(Debug)]
pub(super) struct PlannedChange {
    change: Box<Changeover>,
    done: oneshot::Sender<Vec<String>>,
}

/// What was there before a changeover, or goes on until it has ended.
#[derive(Debug, Default)]
pub(super) struct Before {
    /// What is known of listeners that leave: the last ones of all, in order.
    leaving: Vec<Leaving>,
    /// Sinks that get nothing more, and deliver what they have.
    pub(super) drivers: Vec<LeavingSink>,
}

/// A sink that leaves.
#[derive(Debug)]
pub(super) struct LeavingSink {
    /// `None` once it has ended; its account is in one more interval.
    pub(super) driver: Option<SinkDriver>,
    stats: SinkStats,
    until: Instant,
}

/// A listener that leaves.
#[derive(Debug)]
struct Leaving {
    /// Workers that still read.
    reading: Vec<oneshot::Receiver<()>>,
    until: Instant,
    /// It has read all there was before the interval was closed.
    is_read: bool,
}

impl Flusher {
    /// Changes over at the end of the interval, or at once if that has nothing to do with intervals.
    pub(super) fn plan_changeover(&mut self, change: Box<Changeover>, done: oneshot::Sender<Vec<String>>) {
        let waiting = PlannedChange { change, done };
        if waiting.change.needs_tick() {
            self.waiting_change = Some(waiting);
        } else {
            self.finish_changeover(waiting);
        }
    }

    /// What is different for a worker of a listener, if something is.
    pub(super) fn worker_change(&self, listener: usize) -> Option<WorkerChange> {
        let PlannedChange { change, .. } = self.waiting_change.as_ref()?;
        let own = change.listeners.iter().flatten().find_map(|next| match next {
            NextListener::Kept(place, options) if *place == listener => options.clone(),
            NextListener::Kept(..) | NextListener::New(_) => None,
        });
        let (taps, shard) = (change.taps.clone(), change.shards.clone());
        let is_same = own.is_none() && taps.is_none() && matches!(shard, NextShards::Same);
        (!is_same).then_some(WorkerChange { options: own, taps, shard })
    }

    /// Before an interval is closed: which listeners that leave have read all there was.
    pub(super) fn look_at_leaving(&mut self) {
        for leaving in &mut self.before.leaving {
            leaving.reading.retain_mut(|worker| matches!(worker.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
            leaving.is_read = leaving.reading.is_empty() || now() >= leaving.until;
        }
    }

    /// After an interval was closed: lets those go that have nothing more for the next one.
    pub(super) async fn let_go(&mut self) {
        self.let_sinks_go();
        let is_read: Vec<bool> = self.before.leaving.iter().map(|leaving| leaving.is_read).collect();
        if !is_read.contains(&true) {
            return;
        }
        let first = self.listeners.iter().len() - is_read.len();
        let (mut order, mut kept, mut gone, mut place) = (Vec::new(), Listeners::default(), Vec::new(), 0);
        for (n, listener) in std::mem::take(&mut self.listeners).into_vec().into_iter().enumerate() {
            let places = place..place + listener.workers();
            place = places.end;
            if n >= first && is_read[n - first] {
                gone.push(listener);
            } else {
                order.extend(places.map(Some));
                kept.add(listener);
            }
        }
        self.before.leaving.retain(|leaving| !leaving.is_read);
        self.put_in_order(kept, &order);
        for listener in gone {
            let url = listener.url().to_string();
            // Its series take no room any more. The registry holds them until their time is over.
            let asked = (0..listener.workers()).map(|worker| listener.ask(worker, Shard::leave)).collect();
            let shards = self.patience(super::WORKER_PATIENCE).answers(asked).await;
            drop_aside(shards);
            listener.leave();
            // Its workers have nothing left to do.
            listener.join(now() + super::CLOSING).await;
            tracing::info!(listener = url, "not listening any more");
        }
        self.publish_again();
    }

    /// Ends sinks that have delivered all they had, or whose time is over: what they have not delivered is on disk then, or
    /// dropped and counted.
    fn let_sinks_go(&mut self) {
        self.take_untaken();
        if self.before.drivers.is_empty() {
            return;
        }
        self.before.drivers.retain(|sink| sink.driver.is_some());
        let now = now();
        for sink in &mut self.before.drivers {
            let until = sink.until;
            if let Some(driver) = sink.driver.take_if(|driver| driver.has_ended() || now >= until) {
                tokio::spawn(driver.finish(now));
            }
        }
        self.account_for_sinks();
    }

    /// Nobody is answered any more, and no change comes to be, for the daemon stops. What the new sinks of one were to go on with is
    /// theirs: they end as the others do.
    pub(super) fn drop_changes(&mut self) {
        (self.inbox.requests, self.waiting_change) = (None, None);
        while let Ok(sink) = self.inbox.untaken.try_recv() {
            self.before.drivers.push(sink);
        }
    }

    /// Sinks that were to be put in place, or taken out of those that leave, and were not: they leave.
    fn take_untaken(&mut self) {
        while let Ok(sink) = self.inbox.untaken.try_recv() {
            sink.driver.iter().for_each(SinkDriver::leave);
            self.before.drivers.push(sink);
        }
    }

    /// Hands out a sink that leaves: another one of its name goes on with what it has.
    pub(super) fn take_leaving(&mut self, name: &str) -> Option<HeldDriver> {
        self.take_untaken();
        let is_it = |sink: &LeavingSink| sink.stats.name() == name && sink.driver.is_some();
        let sink = self.before.drivers.iter_mut().rfind(|sink| is_it(sink))?;
        let (driver, until) = (sink.driver.take()?, sink.until);
        Some(HeldDriver::new(driver, until, self.inbox.leave.clone()))
    }

    /// Sinks that have a spool, and its folder; those that leave, too.
    pub(super) fn spools(&mut self) -> Vec<(String, PathBuf)> {
        self.take_untaken();
        let leaving = self.before.drivers.iter().filter_map(|sink| sink.driver.as_ref());
        let drivers = self.drivers.iter().chain(leaving);
        drivers.filter_map(|driver| Some((driver.name().to_string(), driver.spool()?))).collect()
    }

    /// These are the sinks that the ledger has: those that leave, too, unless another one has the name.
    fn account_for_sinks(&mut self) {
        let is_there = |name: &str| self.drivers.iter().any(|driver| driver.name() == name);
        let leaving = self.before.drivers.iter().map(|sink| sink.stats.clone());
        let leaving = leaving.filter(|stats| !is_there(stats.name()));
        let sinks: Vec<SinkStats> = leaving.chain(self.drivers.iter().map(SinkDriver::stats)).collect();
        self.counted.sinks.retain(|name, _| sinks.iter().any(|stats| stats.name() == name));
        self.sources.sinks = sinks.into();
    }

    /// Publishes the last interval as it is seen now.
    fn publish_again(&self) {
        let (snapshot, as_of) = {
            let published = self.inbox.published.borrow();
            (published.snapshot.clone(), published.as_of)
        };
        self.publish(snapshot, false, as_of);
    }

    /// How many listeners are not leaving; they come first.
    pub(super) fn active_listeners(&self) -> usize {
        // After a panic there may be none any more.
        self.listeners.iter().len().saturating_sub(self.before.leaving.len())
    }

    /// Receive workers that a change has not reached yet.
    pub(super) fn behind(&self) -> Vec<String> {
        self.listeners.iter().flat_map(Listener::behind).map(String::from).collect()
    }

    /// Listeners that are leaving.
    pub(super) fn leaving(&self) -> Vec<String> {
        self.listeners.iter().skip(self.active_listeners()).map(|listener| listener.url().to_string()).collect()
    }

    /// After an interval was closed: the next one is as the changeover says.
    pub(super) fn change_over(&mut self) {
        let (mut waiting, left) = (self.waiting_change.take(), std::mem::take(&mut self.left));
        let listeners = waiting.as_mut().and_then(|waiting| waiting.change.listeners.take());
        let places: Vec<usize> = left.iter().map(|(place, _)| *place).collect();
        self.change_listeners(listeners, &places);
        if !left.is_empty() {
            self.registry.expect_other_rules();
            drop_aside(left);
        }
        let Some(mut waiting) = waiting else { return };
        let change = &mut waiting.change;
        if let Some(options) = change.registry.take() {
            self.registry.change(options);
        }
        if let Some(prepended) = change.prepended.take() {
            self.senders.prepend(&prepended);
        }
        if let Some(drivers) = change.drivers.take() {
            self.change_drivers(drivers, change.grace);
        }
        if let Some((relays, anew)) = change.relays.take() {
            let goes_on = |name: &String| !anew.contains(name) && relays.iter().any(|relay| relay.name() == name);
            self.counted.relays.retain(|name, _| goes_on(name));
            self.sources.relays = relays.into();
        }
        self.finish_changeover(waiting);
    }

    fn finish_changeover(&mut self, mut waiting: PlannedChange) {
        if let Some(commit) = waiting.change.commit.take() {
            commit();
        }
        let behind = self.behind();
        for worker in &behind {
            tracing::warn!(worker, "a receive worker does not answer: it goes on as before until it does");
        }
        self.publish_again();
        // Whoever asked may have gone.
        let _ = waiting.done.send(behind);
    }

    /// Puts listeners in place. `renewed` are the places of workers whose shards are new.
    fn change_listeners(&mut self, next: Option<Vec<NextListener>>, renewed: &[usize]) {
        if next.is_none() && renewed.is_empty() {
            return;
        }
        let all: Vec<Listener> = std::mem::take(&mut self.listeners).into_vec();
        let active = all.len() - self.before.leaving.len();
        let next = next.unwrap_or_else(|| (0..active).map(|n| NextListener::Kept(n, None)).collect());
        let mut place = 0;
        let mut before: Vec<Option<(Listener, std::ops::Range<usize>)>> = Vec::new();
        for listener in all {
            let places = place..place + listener.workers();
            place = places.end;
            before.push(Some((listener, places)));
        }
        let of_worker = |place: usize| (!renewed.contains(&place)).then_some(place);
        let (mut order, mut listeners) = (Vec::new(), Listeners::default());
        for one in next {
            match one {
                NextListener::Kept(n, options) => {
                    let Some((mut listener, places)) = before.get_mut(n).and_then(Option::take) else { continue };
                    if let Some(options) = options {
                        listener.set_protocol(options.protocol);
                    }
                    order.extend(places.map(of_worker));
                    listeners.add(listener);
                }
                NextListener::New(mut new) => {
                    let Some((listener, hold)) = new.0.take().map(|held| *held) else { continue };
                    order.extend(std::iter::repeat_n(None, listener.workers()));
                    tracing::info!(listener = listener.url(), "listening");
                    listeners.add(listener);
                    drop(hold);
                }
            }
        }
        let mut leaving = Vec::new();
        for (listener, places) in before.drain(..active).flatten() {
            let until = now() + LEAVING;
            leaving.push(Leaving { reading: listener.begin_leaving(until), until, is_read: false });
            order.extend(places.map(of_worker));
            listeners.add(listener);
        }
        // Those that were leaving before stay the last ones.
        for (listener, places) in before.into_iter().flatten() {
            order.extend(places.map(of_worker));
            listeners.add(listener);
        }
        leaving.append(&mut self.before.leaving);
        self.before.leaving = leaving;
        self.put_in_order(listeners, &order);
        if let Some(presence) = &self.presence {
            presence.look_with(self.listeners.look_at_watched());
        }
    }

    /// These are the listeners from now on; `order` has for each place of a shard the one that it comes from.
    fn put_in_order(&mut self, listeners: Listeners, order: &[Option<usize>]) {
        self.listeners = listeners;
        self.registry.arrange(order);
        let workers = self.listeners.iter().map(Listener::workers).sum();
        self.open = vec![Tally::default(); workers];
        self.drops = vec![0; self.listeners.iter().len()];
        let mut totals = std::mem::take(&mut self.totals.listeners);
        let mut account = |listener: &Listener| -> ListenerAccount {
            let known = totals.iter().position(|one| one.url == listener.url());
            known.map_or_else(|| account_of(listener, &Tally::default(), 0, 0.0), |at| totals.remove(at))
        };
        let now: Vec<ListenerAccount> = self.listeners.iter().map(&mut account).collect();
        // What was received by those that have left stays received.
        self.totals.listeners = now.into_iter().chain(totals).collect();
        self.watch_queues();
    }

    fn change_drivers(&mut self, next: Vec<NextDriver>, grace: Duration) {
        let mut before: Vec<Option<SinkDriver>> = std::mem::take(&mut self.drivers).into_iter().map(Some).collect();
        for one in next {
            match one {
                NextDriver::Kept(n, change) => {
                    let Some(driver) = before.get_mut(n).and_then(Option::take) else { continue };
                    if let Some(change) = change {
                        driver.change(*change);
                    }
                    self.drivers.push(driver);
                }
                NextDriver::New(mut new) => {
                    let Some(driver) = new.take() else { continue };
                    // Its account begins anew.
                    self.counted.sinks.remove(driver.name());
                    self.drivers.push(driver);
                }
            }
        }
        for driver in before.into_iter().flatten() {
            driver.leave();
            let (stats, until) = (driver.stats(), now() + grace);
            self.before.drivers.push(LeavingSink { driver: Some(driver), stats, until });
        }
        self.account_for_sinks();
    }
}

/// Drops what may take long, where nobody waits for it.
fn drop_aside<T: Send + 'static>(what: T) {
    tokio::task::spawn_blocking(move || drop(what));
}
