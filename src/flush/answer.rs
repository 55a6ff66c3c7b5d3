//! Answers to the management port: what the open interval holds, and forgetting series before their time.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::timeout;

use crate::aggregate::{Class, Gauge, Peeked, Shard, Tally};
use crate::inert::Plain;
use crate::management::{Listing, MAX_ITEMS, MAX_SERIES, Request, Shown, Stats};
use crate::series::Series;
use crate::sinks::Outlet;
use crate::snapshot::{Deletion, SelfMetrics};

use super::Flusher;

/// Longest wait for a worker.
const PATIENCE: Duration = Duration::from_secs(5);

/// A series of several workers, put together.
enum Whole {
    Sum(f64),
    /// Its values of each worker, put together with what it was when the interval began.
    Gauge(Gauge),
    Samples(Vec<f64>, u64),
}

impl Flusher {
    /// Answers a request; nobody may wait for the answer any more.
    pub(super) async fn answer(&mut self, request: Request) {
        match request {
            Request::Show(class, reply) => {
                let _ = reply.send(self.listing(class).await);
            }
            Request::Delete(class, name, reply) => {
                let _ = reply.send(self.delete(class, &name).await);
            }
            Request::Stats(reply) => {
                let _ = reply.send(self.stats().await);
            }
        }
    }

    /// Asks every worker; those that do not answer are left out.
    async fn ask<T: Send + 'static>(&self, question: impl Fn(&mut Shard) -> T + Clone + Send + 'static) -> Vec<T> {
        let mut pending = Vec::new();
        for mouth in &self.mouths {
            for worker in 0..mouth.listener.workers() {
                pending.push(mouth.listener.ask(worker, question.clone()));
            }
        }
        let mut answers = Vec::new();
        for answer in pending {
            answers.extend(timeout(PATIENCE, answer).await.ok().and_then(Result::ok));
        }
        answers
    }

    async fn listing(&self, class: Class) -> Listing {
        let looked = self
            .ask(move |shard| (shard.held(class), shard.peek(class, MAX_SERIES, MAX_ITEMS), shard.open_tally().clone()))
            .await;
        let mut tally = Tally::default();
        let (mut order, mut held): (Vec<(Series, Whole)>, usize) = (Vec::new(), 0);
        let mut places: HashMap<Series, usize> = HashMap::new();
        let has_zeros = self.registry.tells_idle(class);
        for (count, entries, counts) in looked {
            tally.add(&counts);
            held += count.saturating_sub(entries.len());
            for (series, peeked) in entries {
                let whole = match (class, peeked) {
                    (Class::Gauge, Peeked::Told(gauge)) => Whole::Gauge(gauge),
                    (Class::Gauge, _) if self.registry.standing(&series).is_some() => Whole::Gauge(Gauge::default()),
                    (Class::Counter, Peeked::Sum(sum)) => Whole::Sum(sum),
                    (Class::Counter, Peeked::Idle) if has_zeros => Whole::Sum(0.0),
                    (Class::Timer, Peeked::Samples(first, all)) => Whole::Samples(first, all),
                    (Class::Timer, Peeked::Idle) if has_zeros => Whole::Samples(Vec::new(), 0),
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
        let more = held + order.len().saturating_sub(MAX_SERIES);
        let mut entries = self.own_counters(class, &tally);
        entries.extend(order.into_iter().take(MAX_SERIES).map(|(series, whole)| {
            let shown = match whole {
                Whole::Sum(sum) => Shown::Number(sum),
                Whole::Gauge(told) => {
                    let mut gauge = self.registry.standing(&series).unwrap_or_default();
                    gauge.then(&told);
                    Shown::Number(gauge.value())
                }
                Whole::Samples(first, all) => Shown::List(first, all),
            };
            (series.to_string(), shown)
        }));
        entries.extend(self.own_gauge(class));
        Listing { entries, more: more as u64 }
    }

    /// The original's own counters, which are among all others there.
    fn own_counters(&self, class: Class, tally: &Tally) -> Vec<(String, Shown)> {
        let SelfMetrics::Etsy { prefix, .. } = self.registry.self_metrics() else { return Vec::new() };
        if class != Class::Counter {
            return Vec::new();
        }
        [
            ("bad_lines_seen", tally.malformed_total()),
            ("packets_received", tally.datagrams + tally.chunks),
            ("metrics_received", tally.lines - tally.empty),
        ]
        .map(|(name, count)| (format!("{prefix}.{name}"), Shown::Number(count as f64)))
        .to_vec()
    }

    /// The original's own gauge, from the second flush on.
    fn own_gauge(&self, class: Class) -> Option<(String, Shown)> {
        let SelfMetrics::Etsy { prefix, .. } = self.registry.self_metrics() else { return None };
        let name = format!("{prefix}.timestamp_lag");
        let published = self.published.borrow();
        let gauges = &published.snapshot.as_ref().filter(|_| class == Class::Gauge)?.gauges;
        let lag = gauges.iter().find(|point| point.series.name() == name)?;
        Some((name, Shown::Number(lag.gauge.value())))
    }

    /// Forgets a series, or all in a folder (`a.b.*`); their names.
    async fn delete(&mut self, class: Class, name: &str) -> Vec<String> {
        let (exact, folder) = (name.to_string(), name.strip_suffix('*').filter(|text| text.ends_with('.')));
        let folder = folder.map(str::to_string);
        let folder_is_none = folder.is_none();
        let is_wanted = move |series: &Series| {
            let shown = series.to_string();
            shown == exact || folder.as_ref().is_some_and(|folder| shown.starts_with(folder.as_str()))
        };
        let mut seen = HashSet::new();
        let mut deleted = self.ask(move |shard| shard.forget(class, &is_wanted)).await.concat();
        deleted.retain(|series| seen.insert(series.clone()));
        if class == Class::Gauge {
            deleted.iter().for_each(|series| self.registry.forget_standing(series));
        }
        // Those of a folder are as many as they are; a name with its tags may be read in another way than it was written.
        let exact = deleted.iter().filter(|_| folder_is_none).cloned().map(Deletion::Series);
        if !self.registry.delete(Deletion::of_name(class, name).into_iter().chain(exact)) {
            tracing::warn!(name = %Plain(name), "too many deletions in one interval; sinks that remember series keep telling some");
        }
        deleted.iter().map(Series::to_string).collect()
    }

    async fn stats(&self) -> Stats {
        let looked = self.ask(|shard| (shard.last_heard(), shard.open_tally().malformed_total())).await;
        let open: u64 = looked.iter().map(|(_, malformed)| malformed).sum();
        let account = |outlet: &Outlet| (outlet.name().to_string(), outlet.kind(), outlet.account());
        Stats {
            last_heard: looked.iter().filter_map(|(heard, _)| *heard).reduce(f64::max),
            bad_lines: self.totals.malformed_total() + open,
            sinks: self.outlets.iter().map(account).collect(),
        }
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
