//! `[[presence.watch]]`: metrics that are heartbeats, too.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::protocol::MAX_DECLARED_INTERVAL;
use crate::settings::{Opt, OptionVisitor, TablesOf, choice, count, maybe_count, maybe_seconds};
use crate::watches::{Evidence, MAX_WATCHES, MetricWatch, Template, Watches};

use super::presence_job;

const INTERVAL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(MAX_DECLARED_INTERVAL as u64);

const EVIDENCE: [(&str, Evidence); 3] =
    [("any", Evidence::Any), ("change", Evidence::Change), ("nonzero", Evidence::Nonzero)];

/// A watch as it stands in the file.
struct Table {
    pattern: String,
    service: String,
    instance: String,
    interval: Option<f64>,
    evidence: Evidence,
    floor: Option<u32>,
    max_instances: usize,
}

impl Table {
    fn new() -> Table {
        Table {
            pattern: String::new(),
            service: String::new(),
            instance: "{host}".into(),
            interval: None,
            evidence: Evidence::Any,
            floor: None,
            max_instances: 1000,
        }
    }

    fn of(watch: &MetricWatch) -> Table {
        Table {
            pattern: watch.pattern.clone(),
            service: watch.service.to_string(),
            instance: watch.instance.to_string(),
            interval: watch.interval,
            evidence: watch.evidence,
            floor: watch.floor,
            max_instances: watch.max_instances,
        }
    }

    fn describe(&mut self, v: &mut dyn OptionVisitor) {
        let mut is_there = !v.is_reader() && !self.pattern.is_empty();
        let pattern = Opt::Text(&mut self.pattern);
        v.field("match", "Pattern of the metrics' names.", Opt::Maybe(&mut is_there, Box::new(pattern)));
        v.require_one("match", is_there, "\"airflow.scheduler_heartbeat\"");
        v.example("match", "\"airflow.scheduler_heartbeat\"");
        let mut is_there = !v.is_reader() && !self.service.is_empty();
        let service = Opt::Text(&mut self.service);
        let doc =
            "The service that they are beats of: `{1}` is what the first star matched, `{KEY}` the value of a tag.";
        v.field("service", doc, Opt::Maybe(&mut is_there, Box::new(service)));
        v.require_one("service", is_there, "\"airflow\"");
        v.example("service", "\"airflow\"");
        let doc =
            "The instance, likewise: `{source}` is the sender's address, `{host}` the tag `host` or else that address.";
        v.field("instance", doc, Opt::Text(&mut self.instance));
        maybe_seconds(
            v,
            "interval",
            "The next one comes within that; without it, it is learned.",
            &mut self.interval,
            INTERVAL,
        );
        v.example("interval", "\"10s\"");
        let doc = "Which lines count: all, those with another value than the last, or those whose value is not 0.";
        choice(v, "evidence", doc, &EVIDENCE, &mut self.evidence);
        maybe_count(v, "floor", "Fewer lines a minute than this are too few.", &mut self.floor, 1..=1_000_000_000);
        v.example("floor", "5");
        count(v, "max_instances", "Most instances of a service.", &mut self.max_instances, 1..=100_000);
        if !is_there {
            return;
        }
        let is_plain = !self.service.contains('{');
        v.require("service", if is_plain { presence_job::name(&self.service) } else { Ok(()) });
        for (key, text) in [("service", &self.service), ("instance", &self.instance)] {
            v.require(key, Template::parse(text, self.stars()).map(drop));
        }
    }

    fn stars(&self) -> usize {
        self.pattern.matches('*').count()
    }

    /// The watch; `None` if that was complained about.
    fn watch(self) -> Option<MetricWatch> {
        let stars = self.stars();
        Some(MetricWatch {
            service: Template::parse(&self.service, stars).ok()?,
            instance: Template::parse(&self.instance, stars).ok()?,
            pattern: self.pattern,
            interval: self.interval,
            evidence: self.evidence,
            floor: self.floor,
            max_instances: self.max_instances,
        })
    }
}

pub(super) fn describe(watches: &mut Arc<Watches>, v: &mut dyn OptionVisitor) {
    let mut all: Vec<Table> = watches.all().iter().map(Table::of).collect();
    let mut patterns: Vec<String> = Vec::new();
    let one = |table: &mut Table, v: &mut dyn OptionVisitor| {
        table.describe(v);
        let is_twice = !table.pattern.is_empty() && patterns.contains(&table.pattern);
        let problem = || format!("an earlier watch takes `{}`: this one would never get a line", table.pattern);
        v.require("match", if is_twice { Err(problem()) } else { Ok(()) });
        let is_many = patterns.len() >= MAX_WATCHES;
        v.require("match", if is_many { Err(format!("at most {MAX_WATCHES} watches")) } else { Ok(()) });
        patterns.push(table.pattern.clone());
    };
    let doc = "Metrics that are heartbeats, too, and stay metrics; the first watch whose pattern matches takes a line.";
    v.sections("watch", doc, &mut TablesOf { tables: &mut all, new: |_| Table::new(), describe: one });
    *watches = Arc::new(Watches::new(all.into_iter().filter_map(Table::watch).collect()));
}
