//! How a line is read, what is flushed of it, and where that goes: for `systole explain`, and for the page. It reads with the
//! daemon's own code, in an interval of its own.

mod explanation;
mod parts;
mod reading;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::aggregate::rules::{RuleOutcome, Rules};
use crate::aggregate::{Columns, Quota, Shard, ShardOptions, kind_as};
use crate::presence::policy::Policy;
use crate::protocol::{Line, Options, lines, lossy, parse_line};
use crate::rollup::{Interval, Registry, RegistryOptions, SelfMetrics};
use crate::series::{KeyBuilder, Series};
use crate::sinks::graphite::{self, GraphiteNames};
use crate::sinks::{SinkContext, SinkKind};
use crate::snapshot::{Filter, Snapshot};
use crate::sys::unix_time;
use crate::watches::WatchedLine;

pub use explanation::{Explanation, GoesTo, Rule};
pub use reading::Reading;

/// Where snapshots go.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Label of the sink.
    pub name: String,
    /// Which series it gets, under which names.
    pub filter: Filter,
    /// What it is.
    pub kind: SinkKind,
    /// What it is told of the daemon.
    pub context: SinkContext,
}

/// Where a rule stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulePlace {
    /// The file.
    pub file: String,
    /// Its line there, from 1.
    pub line: usize,
}

/// What explaining needs to know of the configuration.
#[derive(Clone, Debug)]
pub struct ExplainerOptions {
    /// How lines are read.
    pub protocol: Options,
    /// How a shard aggregates.
    pub shard: ShardOptions,
    /// Series that an explanation may have.
    pub max_series: usize,
    /// How intervals are closed.
    pub registry: RegistryOptions,
    /// Time between flushes.
    pub interval: Duration,
    /// Names where no sink says them.
    pub names: GraphiteNames,
    /// The rules.
    pub rules: Arc<Rules>,
    /// Where each of them stands, as far as that is known.
    pub rule_places: Vec<RulePlace>,
    /// The sinks.
    pub destinations: Vec<Destination>,
    /// How silence is judged; `None` if presence is off.
    pub policy: Option<Arc<Policy>>,
}

/// Explains lines. Clones are the same.
#[derive(Clone)]
pub struct Explainer(Arc<ExplainerOptions>);

impl fmt::Debug for Explainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Explainer").finish_non_exhaustive()
    }
}

/// A rule that a series meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Met {
    /// Its number, from 0.
    pub number: usize,
    /// The key that its pattern has.
    pub key: &'static str,
    /// Its pattern.
    pub pattern: String,
    /// What becomes of the series, in words.
    pub outcome: String,
    /// Patterns of the keys of tags that it drops.
    pub drop_tags: Vec<String>,
}

impl Explainer {
    /// With what is known of the configuration.
    pub fn new(options: ExplainerOptions) -> Explainer {
        Explainer(Arc::new(options))
    }

    /// Time between flushes, in seconds.
    pub fn interval_secs(&self) -> f64 {
        self.0.interval.as_secs_f64()
    }

    /// Reads a datagram; what is a secret of presence is masked.
    pub fn read(&self, datagram: &[u8]) -> Reading {
        let heartbeats = self.0.shard.heartbeats.as_ref();
        let mut reading = reading::read(datagram, &self.0.protocol, heartbeats, &self.0.shard.times);
        if let Some(heartbeats) = heartbeats {
            reading.mask(heartbeats);
        }
        if let Some(policy) = &self.0.policy {
            // What is granted, as the daemon does it.
            for granted in &mut reading.maintenance {
                let asked = granted["seconds"].as_f64().unwrap_or(0.0);
                granted["seconds"] = json!(asked.min(policy.maintenance_max));
                if asked > policy.maintenance_max {
                    granted["asked"] = json!(asked);
                }
            }
        }
        reading.watches = self.watches_of(datagram);
        reading
    }

    /// Which watches take the samples of a datagram, and what they make of them.
    fn watches_of(&self, datagram: &[u8]) -> Vec<Value> {
        let Some(policy) = self.0.policy.as_ref().filter(|policy| !policy.watches.is_empty()) else {
            return Vec::new();
        };
        let mut all: Vec<Value> = Vec::new();
        for series in self.series_of(datagram) {
            let outcome = self.0.rules.find(&series).map(|(_, rule)| Rules::outcome(rule, &series));
            let is_dropped = matches!(outcome, Some(RuleOutcome::Dropped));
            let series = if let Some(RuleOutcome::Is(renamed)) = outcome { renamed } else { series };
            let heartbeats = self.0.shard.heartbeats.as_ref();
            if heartbeats.is_some_and(|heartbeats| heartbeats.is_reserved(series.name())) {
                continue;
            }
            let Some((_, watch, stars)) = policy.watches.find(series.name()) else { continue };
            let tag = |key: &str| series.tags().find(|(known, _)| *known == key).and_then(|(_, value)| value);
            let line = WatchedLine { name: series.name(), stars: &stars, tag: &tag, source: None };
            let mut taken = json!({"match": watch.pattern, "evidence": watch.evidence});
            match watch.who_of_any(&line) {
                _ if is_dropped => taken["message"] = "a rule drops it, so that it shows nothing".into(),
                None => taken["message"] = "the names of service and instance do not come out of it".into(),
                Some((service, instance)) => {
                    (taken["service"], taken["instance"]) = (json!(service), json!(instance));
                    if let Some(interval) = watch.interval {
                        let (late, down) = policy.deadlines_of(&service, interval);
                        taken["interval"] = json!(interval);
                        (taken["late_after"], taken["down_after"]) = (json!(late), json!(down));
                    }
                    if let Some(floor) = watch.floor {
                        taken["floor"] = json!(floor);
                    }
                }
            }
            if !all.contains(&taken) {
                all.push(taken);
            }
        }
        all
    }

    /// The rule that a series meets.
    pub fn rule_of(&self, series: &Series) -> Option<Met> {
        let (number, rule) = self.0.rules.find(series)?;
        let outcome = match Rules::outcome(rule, series) {
            RuleOutcome::Dropped => "dropped".to_string(),
            RuleOutcome::Same => "as it is".to_string(),
            RuleOutcome::Is(series) => format!("becomes {series}"),
        };
        let mut words = vec![outcome];
        if !rule.drop {
            words.extend((rule.scale != 1.0).then(|| format!("values times {}", rule.scale)));
            words.extend(Some(rule.overrides.to_string()).filter(|overrides| !overrides.is_empty()));
        }
        let (key, pattern) = (rule.pattern.form().key(), rule.pattern.to_string());
        Some(Met { number, key, pattern, outcome: words.join("; "), drop_tags: rule.drop_tags.clone() })
    }

    /// Where a rule stands.
    pub fn place_of(&self, rule: usize) -> Option<&RulePlace> {
        self.0.rule_places.get(rule)
    }

    /// The series of the samples of a datagram, before rules.
    fn series_of(&self, datagram: &[u8]) -> Vec<Series> {
        let mut all = Vec::new();
        let mut keys = KeyBuilder::hiding(self.0.shard.heartbeats.clone());
        for line in lines(datagram) {
            let Ok(Line::Samples(samples)) = parse_line(line, &self.0.protocol) else { continue };
            for metric in samples.filter_map(Result::ok) {
                let kind = kind_as(metric.kind, self.0.shard.fold_histograms);
                all.push(Series::from_key(keys.metric(&metric, kind)));
            }
        }
        all
    }

    /// Which rule each sample of a datagram meets, and what becomes of it.
    pub fn rules_of(&self, datagram: &[u8]) -> Vec<Met> {
        self.series_of(datagram).iter().filter_map(|series| self.rule_of(series)).collect()
    }

    /// What would be flushed of a datagram alone.
    pub fn flushed(&self, datagram: &[u8]) -> Snapshot {
        let quota = Quota::new(self.0.max_series);
        let mut shard = Shard::new(ShardOptions { quota, ..self.0.shard.clone() });
        let mut registry =
            Registry::new(RegistryOptions { self_metrics: SelfMetrics::Off, ..self.0.registry.clone() }, 1);
        // Its own interval begins at 0.
        shard.set_origin(Some(unix_time()));
        shard.ingest(datagram, &self.0.protocol, None, 0.0);
        let none = [const { Vec::new() }; 5];
        let secs = self.interval_secs();
        let interval = Interval::last(secs, secs, secs, self.0.interval);
        let mut snapshot = registry.close(&mut [shard.close(none, Columns::default())], interval);
        snapshot.sort();
        snapshot
    }

    /// The lines that a Graphite server would get of a snapshot.
    pub fn graphite_lines(&self, snapshot: &Snapshot) -> Vec<String> {
        lossy(&graphite::encode(snapshot, &self.0.names))
            .lines()
            // The time would be that of the flush.
            .map(|line| line.rsplit_once(' ').map_or(line, |(line, _)| line).to_string())
            .collect()
    }

    /// The sinks that get something of a snapshot, and under which names.
    pub fn goes_to(&self, snapshot: &Snapshot) -> Vec<(String, Vec<String>)> {
        let of = |one: &Destination| {
            let changed = snapshot.for_sink(&one.name, &one.filter);
            let own = changed.as_ref().unwrap_or(snapshot);
            let names = one.kind.spec().names(own, &one.context);
            (!names.is_empty()).then(|| (one.name.clone(), names))
        };
        self.0.destinations.iter().filter_map(of).collect()
    }
}
