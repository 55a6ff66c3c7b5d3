//! What owners do with batches of lines: they merge the points of an interval, carry on what goes over intervals, and make
//! the snapshot that sinks get. Together it is what a [`Registry`](crate::rollup::Registry) makes of one node's lines, split
//! where the log is: everything is a function of the log and of the configuration, never of a clock.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::aggregate::rules::{NO_RULE, Rules};
use crate::rollup::{self, RegistryOptions, SelfMetrics};
use crate::series::Series;
use crate::snapshot::{Snapshot, merge_timestamped};
use crate::telemetry::{ClusterAccount, ClusterPartitionAccount, Ledger, Limit, Limited, ListenerAccount};

use super::batch::{Batch, EdgeAccount, merge_contents};
use super::carried::Carried;
use super::content::{Content, Emission};
use super::replay::Account;
use super::roster::Finding;
use super::{Interval, NodeName};

/// Most messages that can't be read of which it is said why.
const MOST_ERRORS: usize = 3;

/// Most edges that are named.
const MOST_NAMES: usize = 20;

/// The partition whose batches have the accounts of the edges.
const ACCOUNTS: u16 = 0;

/// What series begin with that each owner emits of its own partitions.
const OF_PARTITIONS: [&str; 2] = ["systole.cluster.batches.", "systole.cluster.samples."];

/// How batches are merged.
#[derive(Clone, Debug)]
pub struct ContentOptions {
    /// How intervals are closed, as on one node alone.
    pub registry: RegistryOptions,
    /// The configured length of an interval, in seconds.
    pub interval_secs: f64,
}

/// Merges batches of lines.
#[derive(Clone, Debug)]
pub struct IntervalContent {
    pub(super) options: ContentOptions,
}

/// What was merged of an interval of a partition.
#[derive(Clone, Debug, Default)]
pub struct MergedInterval {
    pub(super) points: Arc<Snapshot>,
    /// The sum of the edges' accounts; `None` if there are none.
    ledger: Option<Arc<Ledger>>,
    unreadable: u64,
    /// Values that are left out, as the edges together have more than one node keeps.
    limited: Limited,
    errors: Vec<String>,
}

impl MergedInterval {
    /// Messages that could not be read.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Why the first of those could not be read, or the ledgers of others.
    pub fn errors(&self) -> &[String] {
        &self.errors
    }
}

impl Content for IntervalContent {
    type Merged = MergedInterval;
    type Gauges = Carried;

    fn merge<'a>(&self, messages: impl Iterator<Item = &'a [u8]>) -> MergedInterval {
        let mut merged = MergedInterval::default();
        let mut contents = Vec::new();
        let mut ledger: Option<Ledger> = None;
        for message in messages {
            match Batch::decode(message, self.rules()) {
                Ok(Batch { header, mut content, ledger_error }) => {
                    merged.errors.extend(ledger_error.clone().filter(|_| merged.errors.len() < MOST_ERRORS));
                    if let Some(account) = header.account {
                        let is_read = ledger_error.is_none() && !account.is_left_out();
                        let own = is_read.then(|| std::mem::take(&mut content.ledger));
                        ledger.get_or_insert_default().unite(&known(own, &account, &header.edge));
                    }
                    contents.push(content);
                }
                Err(error) => {
                    merged.unreadable += 1;
                    if merged.errors.len() < MOST_ERRORS {
                        merged.errors.push(error.to_string());
                    }
                }
            }
        }
        let policy = &self.options.registry.summary;
        let mut points = merge_contents(contents, policy);
        // Each edge has the bound for itself.
        let left_out = points.kvs.iter_mut().map(|point| point.keep(policy.timers.exact_samples)).sum();
        merged.limited.count(Limit::KvValues, left_out);
        merged.points = Arc::new(points);
        merged.ledger = ledger.map(Arc::new);
        merged
    }

    fn follow(&self, standing: &mut Carried, interval: Interval, merged: &MergedInterval) {
        standing.follow(self, interval, &merged.points);
    }
}

/// An edge's account, or what is known without it.
fn known(ledger: Option<Ledger>, account: &EdgeAccount, edge: &NodeName) -> Ledger {
    if let Some(ledger) = ledger {
        return ledger;
    }
    let lost = ListenerAccount {
        url: format!("edge {edge}"),
        kernel_drops: account.kernel_drops,
        ..ListenerAccount::default()
    };
    Ledger { listeners: vec![lost], ..Ledger::default() }
}

impl IntervalContent {
    /// Merges as these options say. Whether they are those of a part is of no matter.
    pub fn new(mut options: ContentOptions) -> IntervalContent {
        options.registry.is_partial = false;
        IntervalContent { options }
    }

    pub(super) fn rules(&self) -> Option<&Arc<Rules>> {
        self.options.registry.rules.as_ref()
    }

    /// When an interval ended, as one node would have closed it at its tick.
    pub(super) fn closed(&self, interval: Interval) -> rollup::Interval {
        let secs = self.options.interval_secs;
        // A multiple of 0.2, say, as people write it.
        let end = ((interval + 1) as f64 * secs * 1e6).round() / 1e6;
        rollup::Interval { tick: interval + 1, ..rollup::Interval::new(end, secs, end, Duration::from_secs_f64(secs)) }
    }

    /// The numbers of rules of an interval that have longer ones.
    pub(super) fn slow_rules(&self) -> impl Iterator<Item = u32> {
        let all = self.rules().into_iter().flat_map(|rules| rules.all_overrides());
        (0..).zip(all).filter(|(_, own)| own.every > 1).map(|(number, _)| number)
    }

    /// What sinks get of an interval: emissions of one node and one interval, each of another partition. The ledger is the
    /// sum of what the edges counted, if it is among these.
    pub fn snapshot(&self, emissions: Vec<Emission<IntervalContent>>) -> Snapshot {
        let Some(first) = emissions.first() else { return Snapshot::default() };
        let mut whole = self.empty(first.interval);
        let (mut ledger, mut told) = (None, BatchFindings::default());
        for Emission { partition, merged, standing, account, .. } in emissions {
            if partition == ACCOUNTS {
                ledger = Some(merged.ledger.as_deref().cloned().unwrap_or_default());
            }
            told.add(partition, &merged, account.as_ref());
            let standing = standing.emitted();
            unite_rules(&mut whole, &merged.points);
            unite_rules(&mut whole, &standing);
            let points = Arc::try_unwrap(merged.points).unwrap_or_else(|shared| (*shared).clone());
            self.add(&mut whole, points, &standing);
        }
        merge_timestamped(&mut whole.timestamped);
        whole.events_and_checks.sort_by(|a, b| a.time.total_cmp(&b.time));
        let has_accounts = ledger.is_some();
        whole.ledger = ledger.unwrap_or_default();
        whole.ledger.cluster = told.account();
        whole.ledger.update_completeness();
        self.options.registry.add_own_series(&mut whole, &Ledger::default(), |series| {
            has_accounts || OF_PARTITIONS.iter().any(|prefix| series.name().starts_with(prefix))
        });
        whole.sort();
        whole
    }

    /// An interval without anything.
    fn empty(&self, interval: Interval) -> Snapshot {
        let registry = &self.options.registry;
        let closed = self.closed(interval);
        let mut whole = Snapshot {
            sequence: interval,
            end: closed.end,
            interval_secs: closed.length_secs,
            rate_secs: registry.rate_secs.unwrap_or(closed.length_secs),
            policy: Arc::clone(&registry.summary),
            stats_prefix: match &registry.self_metrics {
                SelfMetrics::Etsy { prefix, .. } => Some(Arc::clone(prefix)),
                SelfMetrics::Off | SelfMetrics::Ledger => None,
            },
            ..Snapshot::default()
        };
        whole.overrides.rules = self.rules().cloned();
        whole
    }

    /// Adds a partition: what was merged, without what goes over intervals, which is in the other.
    fn add(&self, whole: &mut Snapshot, merged: Snapshot, standing: &Snapshot) {
        let slow: Vec<u32> = self.slow_rules().collect();
        let of = merged.overrides.of;
        let is_here = |series: &Series| slow.is_empty() || of.get(series).is_none_or(|rule| !slow.contains(rule));
        whole.counters.extend(merged.counters.into_iter().filter(|point| is_here(&point.series)));
        whole.timers.extend(merged.timers.into_iter().filter(|point| is_here(&point.series)));
        whole.sets.extend(merged.sets.into_iter().filter(|point| is_here(&point.series)));
        whole.kvs.extend(merged.kvs.into_iter().filter(|point| is_here(&point.series)));
        whole.timestamped.extend(merged.timestamped);
        whole.events_and_checks.extend(merged.events_and_checks);
        whole.counters.extend_from_slice(&standing.counters);
        whole.gauges.extend_from_slice(&standing.gauges);
        whole.timers.extend_from_slice(&standing.timers);
        whole.sets.extend_from_slice(&standing.sets);
        whole.kvs.extend_from_slice(&standing.kvs);
    }
}

/// Adds the rules of the series of a part, and the lengths of their intervals.
fn unite_rules(whole: &mut Snapshot, part: &Snapshot) {
    let (ours, theirs) = (&mut whole.overrides, &part.overrides);
    if !theirs.of.is_empty() {
        Arc::make_mut(&mut ours.of).extend(theirs.of.iter().map(|(series, rule)| (series.clone(), *rule)));
    }
    for (every, length) in &theirs.lengths {
        // A partition that has just begun has a shorter one.
        match ours.lengths.iter_mut().find(|(known, _)| known == every) {
            Some((_, known)) if known.interval_secs >= length.interval_secs => {}
            Some((_, known)) => *known = *length,
            None => ours.lengths.push((*every, *length)),
        }
    }
}

/// What is told of batches, of all partitions of a snapshot together.
#[derive(Default)]
struct BatchFindings {
    account: ClusterAccount,
    behind: BTreeSet<NodeName>,
    is_sealed: bool,
}

impl BatchFindings {
    fn add(&mut self, partition: u16, merged: &MergedInterval, account: Option<&Account>) {
        let mut own = ClusterPartitionAccount {
            unreadable: merged.unreadable,
            limited: merged.limited,
            ..ClusterPartitionAccount::default()
        };
        let mut partial: BTreeSet<&NodeName> = BTreeSet::new();
        if let Some(account) = account {
            self.is_sealed = true;
            own.late = account.late.len() as u64;
            for finding in &account.findings {
                match finding {
                    Finding::Lost { from, to, .. } => {
                        own.lost = own.lost.saturating_add(to.saturating_sub(*from).saturating_add(1));
                    }
                    Finding::Skewed { .. } => own.skewed += 1,
                    Finding::Ignored { .. } => own.ignored += 1,
                    Finding::Unreadable { .. } => own.unreadable += 1,
                    Finding::Partial { edge, .. } => _ = partial.insert(edge),
                    _ => {}
                }
            }
            self.behind.extend(account.late.iter().map(|late| late.id.edge.clone()));
            self.behind.extend(account.missing.iter().cloned());
            if partition == ACCOUNTS {
                self.account.edges_heard = account.heard.len() as u64;
                self.account.edges_expected = (account.heard.len() + account.missing.len()) as u64;
                self.account.edges_partial = partial.len() as u64;
            }
        }
        let account = &mut self.account;
        account.batches_late += own.late;
        account.batches_lost = account.batches_lost.saturating_add(own.lost);
        account.batches_skewed += own.skewed;
        account.batches_ignored += own.ignored;
        account.batches_unreadable += own.unreadable;
        account.samples_limited.add(&own.limited);
        if own != ClusterPartitionAccount::default() {
            self.account.partitions.insert(partition.to_string(), own);
        }
    }

    /// `None` for an amendment.
    fn account(mut self) -> Option<ClusterAccount> {
        self.account.edges_behind = self.behind.iter().take(MOST_NAMES).map(ToString::to_string).collect();
        (self.is_sealed || !self.account.partitions.is_empty()).then_some(self.account)
    }
}

/// The number of the rule of a series in an interval.
pub(super) fn rule_of(of: &HashMap<Series, u32>, series: &Series) -> u32 {
    if of.is_empty() { NO_RULE } else { of.get(series).copied().unwrap_or(NO_RULE) }
}

#[cfg(test)]
mod tests {
    use super::super::BatchId;
    use super::super::batch::{BatchHeader, FORMAT, Flags, encode, partition};
    use super::super::replay::LateBatch;
    use super::super::session::SessionId;
    use super::*;
    use crate::aggregate::rules::Rule;
    use crate::aggregate::{Gauge, SeriesOverrides, Sum};
    use crate::protocol::{GaugeOp, Kind};
    use crate::rollup::GaugeLife;
    use crate::snapshot::{CounterPoint, GaugePoint, SnapshotOverrides};
    use crate::telemetry::LineAccount;

    const FIRST: Interval = 170_000_000;

    fn content(change: impl FnOnce(&mut RegistryOptions)) -> IntervalContent {
        let slow = SeriesOverrides { every: 3, ..SeriesOverrides::default() };
        let rules = Rules::new(vec![Rule { overrides: slow, ..Rule::default() }]);
        let mut registry = RegistryOptions {
            gauge_life: GaugeLife::Secs(20.0),
            zero_when_idle: [true; 3],
            series_ttl_secs: [Some(20.0); 5],
            self_metrics: SelfMetrics::Ledger,
            rules: Some(Arc::new(rules)),
            prefix: "p.".into(),
            ..RegistryOptions::default()
        };
        change(&mut registry);
        IntervalContent::new(ContentOptions { registry, interval_secs: 10.0 })
    }

    fn name(name: &str) -> NodeName {
        name.parse().expect("a name")
    }

    fn counter(name: &str, value: f64) -> CounterPoint {
        let mut sum = Sum::default();
        sum.add(value);
        CounterPoint { series: Series::new(Kind::Counter, name, &[]), sum }
    }

    fn gauge(name: &str, op: GaugeOp, value: f64) -> GaugePoint {
        let mut gauge = Gauge::default();
        gauge.apply(op, value, 1.7e9);
        GaugePoint { series: Series::new(Kind::Gauge, name, &[]), gauge }
    }

    /// A message of the only partition; series whose names begin with `slow` are under the rule.
    fn message(edge: &str, counters: &[CounterPoint], gauges: &[GaugePoint], ledger: Option<&Ledger>) -> Vec<u8> {
        let slow = counters.iter().filter(|point| point.series.name().starts_with("slow"));
        let snapshot = Snapshot {
            counters: counters.to_vec(),
            gauges: gauges.to_vec(),
            overrides: SnapshotOverrides {
                of: Arc::new(slow.map(|point| (point.series.clone(), 0)).collect()),
                ..SnapshotOverrides::default()
            },
            ..Snapshot::default()
        };
        let header = BatchHeader {
            format: FORMAT,
            edge: name(edge),
            boot: 1,
            n: 1,
            interval: FIRST,
            length: 10.0,
            flags: Flags::default(),
            clean_before: true,
            config: 0,
            account: ledger.map(EdgeAccount::new),
        };
        encode(&header, &partition(&snapshot, std::num::NonZeroU16::MIN)[0]).messages.remove(0)
    }

    fn merge(content: &IntervalContent, messages: &[Vec<u8>]) -> MergedInterval {
        content.merge(messages.iter().map(|message| &message[..]))
    }

    fn emission(partition: u16, merged: MergedInterval, account: Option<Account>) -> Emission<IntervalContent> {
        Emission {
            partition,
            interval: FIRST,
            version: 0,
            cut: 1,
            owner: SessionId { node: name("g"), start: 1 },
            merged,
            standing: Carried::default(),
            account,
            batches: Vec::new(),
        }
    }

    fn values(snapshot: &Snapshot) -> Vec<String> {
        let counters = snapshot.counters.iter().map(|point| format!("{} {}", point.series, point.sum.value()));
        let gauges = snapshot.gauges.iter().map(|point| format!("{} {}", point.series, point.gauge.value()));
        counters.chain(gauges).collect()
    }

    /// What sinks get of intervals of one partition.
    fn follow(
        content: &IntervalContent,
        standing: &mut Carried,
        interval: Interval,
        messages: &[Vec<u8>],
    ) -> Vec<String> {
        let merged = merge(content, messages);
        content.follow(standing, interval, &merged);
        values(&content.snapshot(vec![Emission { interval, standing: standing.clone(), ..emission(1, merged, None) }]))
    }

    #[test]
    fn gauges_idle_series_and_longer_intervals_go_on_over_intervals_and_checkpoints() {
        let content = content(|_| ());
        let mut standing = Carried::default();
        let first = message(
            "a",
            &[counter("c", 1.0), counter("slow", 2.0)],
            &[gauge("g", GaugeOp::Set, 5.0), gauge("loose", GaugeOp::Increase, 1.0)],
            None,
        );
        let more = message("b", &[counter("slow", 3.0)], &[gauge("g", GaugeOp::Decrease, 1.0)], None);
        let expected = [
            // The first interval ends a longer one, whose number is a multiple, wherever it began.
            (vec![first.clone(), more.clone()], vec!["c 1", "slow 5", "g 4", "loose 1"]),
            (vec![more.clone()], vec!["c 0", "g 3", "loose 1"]),
            (vec![], vec!["c 0", "slow 3", "g 3"]),
            (vec![], vec![]),
            (vec![], vec![]),
            (vec![], vec!["slow 0"]),
        ];
        for (interval, (messages, expected)) in (FIRST + 1..).zip(expected) {
            let bytes = postcard::to_stdvec(&standing).expect("encoded");
            let mut other: Carried = postcard::from_bytes(&bytes).expect("what was written");
            assert_eq!(postcard::to_stdvec(&other).expect("encoded"), bytes);
            let own = follow(&content, &mut standing, interval, &messages);
            assert_eq!(
                (&own, own.len()),
                (&follow(&content, &mut other, interval, &messages), expected.len()),
                "{interval}"
            );
            assert_eq!(own, expected, "{interval}");
        }
    }

    #[test]
    fn a_ledger_that_can_not_be_read_takes_no_points_with_it() {
        let content = content(|_| ());
        let bytes = postcard::to_stdvec(&(1_u64, 7_u64, b"junk".to_vec())).expect("encoded");
        let account: EdgeAccount = postcard::from_bytes(&bytes).expect("an account");
        let plain = message("a", &[counter("c", 1.0)], &[], None);
        let (header, body) = BatchHeader::decode(&plain).expect("a message of ours");
        let header = BatchHeader { account: Some(account), ..header };
        let merged = merge(&content, &[header.encode(body)]);
        assert_eq!((merged.points.counters.len(), merged.unreadable(), merged.errors().len()), (1, 0, 1));
        let ledger = merged.ledger.as_deref().expect("what the header has");
        assert_eq!((&ledger.listeners[0].url[..], ledger.listeners[0].kernel_drops), ("edge a", 7));
    }

    #[test]
    fn the_ledger_is_what_all_edges_counted_and_what_is_missing() {
        let content = content(|_| ());
        let listener = |datagrams, kernel_drops| ListenerAccount {
            url: "udp://[::]:8125".into(),
            datagrams,
            kernel_drops,
            ..ListenerAccount::default()
        };
        let ledger = |lines, listener| Ledger {
            lines: LineAccount { read: lines, metrics: lines, ..LineAccount::default() },
            listeners: vec![listener],
            ..Ledger::default()
        };
        let messages = [
            message("a", &[counter("c", 1.0)], &[], Some(&ledger(3, listener(30, 0)))),
            message("b", &[counter("c", 1.0)], &[], Some(&ledger(4, listener(50, 20)))),
            b"\x07".to_vec(),
        ];
        let merged = merge(&content, &messages);
        assert_eq!(merged.errors(), ["the message has format 7; this version reads format 1"]);
        let id = |edge| BatchId { edge: name(edge), boot: 1, n: 1 };
        let account = Account {
            late: vec![LateBatch { id: id("late"), interval: 1 }],
            heard: vec![name("a"), name("b")],
            missing: vec![name("c"), name("d")],
            findings: vec![
                Finding::Lost { edge: name("a"), from: 3, to: 6 },
                Finding::Partial { edge: name("b"), interval: FIRST },
            ],
        };
        let skewed = Finding::Skewed { edge: name("e"), boot: 1, n: 1, interval: 1 };
        let other = Account { findings: vec![skewed], missing: vec![name("c")], ..Account::default() };
        let other = emission(63, MergedInterval::default(), Some(other));
        let snapshot = content.snapshot(vec![other.clone(), emission(0, merged, Some(account))]);
        let (ledger, cluster) = (&snapshot.ledger, snapshot.ledger.cluster.as_ref().expect("an account"));
        assert_eq!((snapshot.sequence, snapshot.end, snapshot.interval_secs), (FIRST, 1_700_000_010.0, 10.0));
        assert_eq!((ledger.lines.read, ledger.listeners.len(), ledger.listeners[0].datagrams), (7, 1, 80));
        assert_eq!((cluster.edges_expected, cluster.edges_heard, cluster.edges_partial), (4, 2, 1));
        assert_eq!((cluster.batches_late, cluster.batches_lost, cluster.batches_skewed), (1, 4, 1));
        assert_eq!(
            (cluster.batches_unreadable, &cluster.edges_behind[..]),
            (1, &["c", "d", "late"].map(String::from)[..])
        );
        assert_eq!((ledger.completeness, ledger.check()), (0.4, Ok(())));
        let all = values(&snapshot);
        for own in [
            "c 2",
            "p.systole.lines.read 7",
            "p.systole.cluster.edges.expected 4",
            "p.systole.cluster.batches.lost;partition=0 4",
            "p.systole.cluster.batches.skewed;partition=63 1",
            "p.systole.completeness 0.4",
        ] {
            assert!(all.iter().any(|known| known == own), "{own}: {all:?}");
        }
        // A node that has not the partition of the accounts tells of its own partitions alone.
        let snapshot = content.snapshot(vec![other]);
        assert_eq!(values(&snapshot), ["p.systole.cluster.batches.skewed;partition=63 1"]);
        assert_eq!((snapshot.ledger.completeness, snapshot.ledger.lines.read), (1.0, 0));
    }
}
