//! Answers to the management port: what the open interval holds, and forgetting series before their time.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::aggregate::{Class, Gauge, Inspected, Shard};
use crate::glob::Prefixes;
use crate::net::Listener;
use crate::rollup::SelfMetrics;
use crate::series::Series;
use crate::sinks::SinkDriver;
use crate::snapshot::Deletion;
use crate::sys::{now, since};
use crate::telemetry::{Ledger, ListenerAccount, Tally};

use super::handle::{Deleted, Listing, MAX_ITEMS, MAX_LISTING_BYTES, MAX_SERIES, OpenValue, Request, Stats};
use super::{Flusher, account_of};

/// Longest wait for a worker.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest wait for the counters of the open interval: of workers, and of presence.
const READING_PATIENCE: Duration = Duration::from_millis(200);

/// Longest time to read what the kernel holds before another process reads on.
const PAUSING: Duration = Duration::from_millis(200);

/// Workers are woken to read their counters at most this often.
const READING_EVERY: Duration = Duration::from_millis(100);

/// A series of several workers, put together.
enum Whole {
    Sum(f64),
    /// Its values of each worker, put together with what it was when the interval began.
    Gauge(Gauge),
    Samples(Vec<f64>, u64),
}

impl Flusher {
    /// Answers a request; nobody may wait for the answer any more.
    pub(super) async fn handle_request(&mut self, request: Request) {
        match request {
            Request::List(class, reply) => {
                let _ = reply.send(self.listing(class).await);
            }
            Request::Delete(class, names, reply) => {
                let _ = reply.send(self.delete(class, &names).await);
            }
            Request::Stats(reply) => {
                let _ = reply.send(self.stats().await);
            }
            Request::Sockets(reply) => {
                let active = self.active_listeners();
                let all: io::Result<Vec<_>> = self.listeners.iter().take(active).map(Listener::duplicates).collect();
                let _ = reply.send(all.map(|all| all.into_iter().flatten().collect()));
            }
            Request::KeepSockets(reply) => {
                let active = self.active_listeners();
                self.listeners.iter_mut().take(active).for_each(Listener::keep_sockets);
                let _ = reply.send(());
            }
            Request::TryState(reply) => self.try_state(reply).await,
            Request::PauseReading(trial, reply) => {
                (self.is_paused, self.trial) = (true, trial);
                let connections = self.listeners.pause(now() + PAUSING).await;
                self.read_drops();
                self.listeners.end_counting();
                // Whoever asked has given up, and nobody else reads.
                if reply.send(connections).is_err() {
                    self.resume_reading();
                }
            }
            Request::ResumeReading(reply) => {
                self.resume_reading();
                let _ = reply.send(());
            }
            Request::ChangeOver(change, done) => self.plan_changeover(change, done),
            Request::TakeLeaving(name, reply) => {
                let _ = reply.send(self.take_leaving(&name));
            }
            Request::Spools(reply) => {
                let _ = reply.send(self.spools());
            }
            Request::Read(reply) => {
                self.read_open().await;
                let _ = reply.send(Arc::clone(&self.inbox.published.borrow()));
            }
        }
    }

    fn resume_reading(&mut self) {
        self.is_paused = false;
        self.listeners.resume();
        // Nobody waits for that.
        drop(self.end_trial());
    }

    /// Asks every worker; those that do not answer are left out.
    async fn ask<T: Send + 'static>(&self, question: impl Fn(&mut Shard) -> T + Clone + Send + 'static) -> Vec<T> {
        self.ask_each(PATIENCE, question).await.into_iter().flatten().collect()
    }

    /// Asks every worker, in order; `None` for those that do not answer.
    async fn ask_each<T: Send + 'static>(
        &self,
        patience: Duration,
        question: impl Fn(&mut Shard) -> T + Clone + Send + 'static,
    ) -> Vec<Option<T>> {
        let mut pending = Vec::new();
        for listener in self.listeners.iter() {
            for worker in 0..listener.workers() {
                pending.push(listener.ask(worker, question.clone()));
            }
        }
        self.patience(patience).answers(pending).await
    }

    /// Reads the counters of the open interval and publishes them, unless that was done a moment ago. For a worker that does
    /// not answer the last reading stays: what is shown never falls.
    async fn read_open(&mut self) {
        if self.last_reading.is_some_and(|at| since(at) < READING_EVERY) {
            return;
        }
        let tallies = self.ask_each(READING_PATIENCE, |shard| shard.open_tally().clone()).await;
        for (open, tally) in self.open.iter_mut().zip(tallies) {
            if let Some(tally) = tally {
                *open = tally;
            }
        }
        if let Some(presence) = &self.presence
            && let Some(Ok(account)) =
                self.patience(READING_PATIENCE).wait(presence.ask(|state| state.unreported())).await
        {
            self.open_presence = account;
        }
        self.last_reading = Some(now());
        let totals = self.totals_with_open();
        self.inbox.published.send_modify(|published| Arc::make_mut(published).totals = totals);
    }

    /// The account since the start, with what was read of the open interval.
    pub(super) fn totals_with_open(&self) -> Ledger {
        let mut open = Ledger { presence: self.open_presence.clone(), ..Ledger::default() };
        let mut workers = self.open.iter();
        for ((listener, drops), closed) in self.listeners.iter().zip(&self.drops).zip(&self.totals.listeners) {
            let mut tally = Tally::default();
            workers.by_ref().take(listener.workers()).for_each(|worker| tally.add(worker));
            open.count(&tally);
            let kernel_drops = drops + listener.kernel_drops();
            let account = account_of(listener, &tally, 0, listener.queue_peak().max(closed.queue_peak));
            // Until the interval is closed a piece of a large send counts once; it counts no less then.
            open.listeners.push(ListenerAccount { kernel_drops, ..account });
        }
        let mut totals = self.totals.clone();
        totals.add_counts(&open);
        totals
    }

    async fn listing(&self, class: Class) -> Listing {
        let looked = self
            .ask(move |shard| {
                let entries = shard.inspect(class, MAX_SERIES, MAX_ITEMS, MAX_LISTING_BYTES);
                (shard.held(class), entries, shard.open_tally().clone())
            })
            .await;
        let mut tally = Tally::default();
        let (mut order, mut held): (Vec<(Series, Whole)>, usize) = (Vec::new(), 0);
        let mut places: HashMap<Series, usize> = HashMap::new();
        let has_zeros = self.registry.emits_idle(class);
        for (count, entries, counts) in looked {
            tally.add(&counts);
            held += count.saturating_sub(entries.len());
            for (series, peeked) in entries {
                let whole = match (class, peeked) {
                    (Class::Gauge, Inspected::Level(gauge)) => Whole::Gauge(gauge),
                    (Class::Gauge, _) if self.registry.held_gauge(&series).is_some() => Whole::Gauge(Gauge::default()),
                    (Class::Counter, Inspected::Sum(sum)) => Whole::Sum(sum),
                    (Class::Counter, Inspected::Idle) if has_zeros => Whole::Sum(0.0),
                    (Class::Timer, Inspected::Samples(first, all)) => Whole::Samples(first, all),
                    (Class::Timer, Inspected::Idle) if has_zeros => Whole::Samples(Vec::new(), 0),
                    _ => continue,
                };
                match places.get(&series) {
                    Some(&at) => join(&mut order[at].1, whole),
                    None => {
                        places.insert(series.clone(), order.len());
                        order.push((series, whole));
                    }
                }
            }
        }
        let mut more = held as u64;
        let mut entries = self.own_counters(class, &tally);
        let own = entries.len();
        let mut left = MAX_LISTING_BYTES;
        for (series, whole) in order {
            let room = if more == held as u64 && entries.len() - own < MAX_SERIES { left } else { 0 };
            let shown = match whole {
                _ if room < series.name().len() => None,
                Whole::Sum(sum) => Some(OpenValue::Number(sum)),
                Whole::Gauge(told) => {
                    let mut gauge = self.registry.held_gauge(&series).unwrap_or_default();
                    gauge.then(&told);
                    Some(OpenValue::Number(gauge.value()))
                }
                Whole::Samples(first, all) => Some(OpenValue::List(first, all)),
            };
            let entry = shown.map(|shown| (series.to_string(), shown));
            match entry.filter(|(name, shown)| name.len() + shown.bytes() <= room) {
                Some(entry) => {
                    left -= entry.0.len() + entry.1.bytes();
                    entries.push(entry);
                }
                None => more += 1,
            }
        }
        entries.extend(self.own_gauge(class));
        Listing { entries, more }
    }

    /// The original's own counters, which are among all others there.
    fn own_counters(&self, class: Class, tally: &Tally) -> Vec<(String, OpenValue)> {
        let SelfMetrics::Etsy { prefix, .. } = self.registry.self_metrics() else { return Vec::new() };
        if class != Class::Counter {
            return Vec::new();
        }
        [
            ("bad_lines_seen", tally.malformed_total()),
            ("packets_received", tally.listener.datagrams + tally.chunks),
            ("metrics_received", tally.lines.read - tally.lines.empty),
        ]
        .map(|(name, count)| (format!("{prefix}.{name}"), OpenValue::Number(count as f64)))
        .to_vec()
    }

    /// The original's own gauge, from the second flush on.
    fn own_gauge(&self, class: Class) -> Option<(String, OpenValue)> {
        let SelfMetrics::Etsy { prefix, .. } = self.registry.self_metrics() else { return None };
        let name = format!("{prefix}.timestamp_lag");
        let published = self.inbox.published.borrow();
        let gauges = &published.snapshot.as_ref().filter(|_| class == Class::Gauge)?.gauges;
        let lag = gauges.iter().find(|point| point.series.name() == name)?;
        Some((name, OpenValue::Number(lag.gauge.value())))
    }

    /// Forgets series, or all in a folder (`a.b.*`); for each name those that it stood for and no name before it.
    async fn delete(&mut self, class: Class, names: &[String]) -> Vec<Deleted> {
        let wanted = Arc::new(Wanted::new(names));
        let asked = Arc::clone(&wanted);
        let is_wanted = move |series: &Series| asked.has(&series.to_string());
        let mut seen = HashSet::new();
        let mut deleted = self.ask(move |shard| shard.forget(class, &is_wanted)).await.concat();
        deleted.retain(|series| seen.insert(series.clone()));
        deleted.iter().for_each(|series| self.registry.forget_open(class, series));
        if class == Class::Gauge {
            deleted.iter().for_each(|series| self.registry.forget_gauge(series));
        }
        // Those of a folder are as many as they are; a name with its tags may be read in another way than it was written.
        let alone = deleted.iter().filter(|series| !wanted.folders.begin(&series.to_string())).cloned();
        let named = names.iter().flat_map(|name| Deletion::of_name(class, name));
        if !self.registry.delete(named.chain(alone.map(Deletion::Series))) {
            tracing::warn!("too many deletions in one interval; sinks that remember series keep telling some");
        }
        let mut answers = vec![Deleted::default(); names.len()];
        let mut left = MAX_LISTING_BYTES;
        for series in deleted {
            let name = series.to_string();
            let Some(answer) = wanted.first(&name).map(|first| &mut answers[first]) else { continue };
            match left.checked_sub(name.len()) {
                Some(rest) => {
                    left = rest;
                    answer.names.push(name);
                }
                // Where names are left out, those that follow are, too.
                None => (left, answer.more) = (0, answer.more + 1),
            }
        }
        answers
    }

    async fn stats(&self) -> Stats {
        let looked = self.ask(|shard| (shard.last_heard(), shard.open_tally().malformed_total())).await;
        let open: u64 = looked.iter().map(|(_, malformed)| malformed).sum();
        let account = |driver: &SinkDriver| (driver.name().to_string(), driver.kind(), driver.account());
        Stats {
            last_heard: looked.iter().filter_map(|(heard, _)| *heard).reduce(f64::max),
            bad_lines: self.totals.malformed_total() + open,
            sinks: self.drivers.iter().map(account).collect(),
        }
    }
}

/// What a name such as `a.b.*` stands for: all names that begin so.
fn folder(name: &str) -> Option<&str> {
    name.strip_suffix('*').filter(|text| text.ends_with('.'))
}

/// Names of series that are to be forgotten.
struct Wanted {
    /// Each with its first place among those that were given.
    exact: HashMap<String, usize>,
    /// The same of folders, without their asterisks.
    inside: HashMap<String, usize>,
    /// How long these are.
    lengths: BTreeSet<usize>,
    folders: Prefixes,
}

impl Wanted {
    fn new(names: &[String]) -> Wanted {
        let folders = names.iter().filter_map(|name| folder(name));
        let (mut exact, mut inside) = (HashMap::new(), HashMap::new());
        for (n, name) in names.iter().enumerate() {
            exact.entry(name.clone()).or_insert(n);
            if let Some(folder) = folder(name) {
                inside.entry(folder.to_string()).or_insert(n);
            }
        }
        let lengths = inside.keys().map(String::len).collect();
        Wanted { exact, inside, lengths, folders: Prefixes::new(folders) }
    }

    fn has(&self, name: &str) -> bool {
        self.exact.contains_key(name) || self.folders.begin(name)
    }

    /// The first of those that were given that stands for this name.
    fn first(&self, name: &str) -> Option<usize> {
        let folders = self.lengths.iter().filter_map(|length| self.inside.get(name.get(..*length)?));
        folders.chain(self.exact.get(name)).copied().min()
    }
}

fn join(whole: &mut Whole, other: Whole) {
    match (whole, other) {
        (Whole::Sum(sum), Whole::Sum(other)) => *sum += other,
        (Whole::Gauge(gauge), Whole::Gauge(other)) => gauge.merge(&other),
        (Whole::Samples(first, all), Whole::Samples(other, count)) => {
            first.extend(other);
            first.truncate(MAX_ITEMS);
            *all += count;
        }
        // One class has one kind of values.
        _ => {}
    }
}
