//! `[etsy]`: how the naming `etsy` writes names, and the histograms of timers.

use crate::settings::{ItemsOf, List, Opt, OptionVisitor, TablesOf, Wrong};
use crate::sinks::graphite::EtsyNames;
use crate::snapshot::Bins;

use super::print::number;

pub(super) fn names(visitor: &mut dyn OptionVisitor, _: &str, _: &str, names: &mut EtsyNames) {
    visitor.field(
        "legacy_namespace",
        "Write `stats.x` and `stats_counts.x` in place of `stats.counters.x.rate` and `.count`.",
        Opt::Flag(&mut names.legacy_namespace),
    );
    for (key, doc, value) in [
        ("global_prefix", "First part of every name.", &mut names.global_prefix),
        ("global_suffix", "Last part of every name.", &mut names.global_suffix),
        ("prefix_counter", "Part of the names of counters.", &mut names.prefix_counter),
        ("prefix_timer", "Part of the names of timers.", &mut names.prefix_timer),
        ("prefix_gauge", "Part of the names of gauges.", &mut names.prefix_gauge),
        ("prefix_set", "Part of the names of sets.", &mut names.prefix_set),
        ("prefix_stats", "Part of the names of the daemon's own series.", &mut names.prefix_stats),
    ] {
        visitor.field(key, doc, Opt::Text(value));
    }
    visitor.field("flush_counts", "Write counts beside rates.", Opt::Flag(&mut names.flush_counts));
    visitor.field(
        "calculated_timer_metrics",
        "Outputs of timers to write, such as `[\"count\", \"upper_percent\"]`; empty for all.",
        Opt::Texts(&mut names.calculated_timer_metrics),
    );
}

pub(super) fn histograms(visitor: &mut dyn OptionVisitor, key: &'static str, doc: &'static str, all: &mut Vec<Bins>) {
    let new = |_| Bins { metric: String::new(), limits: Vec::new() };
    visitor.sections(key, doc, &mut TablesOf { tables: all, new, describe });
}

fn describe(bins: &mut Bins, visitor: &mut dyn OptionVisitor) {
    fn limit(text: &str) -> Result<Option<Option<f64>>, Wrong> {
        match text.parse::<f64>() {
            _ if text == "inf" => Ok(Some(None)),
            Ok(limit) if limit.is_finite() => Ok(Some(Some(limit))),
            _ => Err(Wrong::Not("a number or \"inf\"".into())),
        }
    }
    visitor.field("metric", "Part of the names; empty for every timer.", Opt::Text(&mut bins.metric));
    visitor.example("metric", "\"render\"");
    let show = |limit: &Option<f64>| limit.map_or("inf".into(), number);
    let mut items = ItemsOf { items: &mut bins.limits, read: limit, show };
    let list = List { items: &mut items, form: "numbers, or \"inf\"", takes_numbers: true, or_one: false };
    let mut is_there = !visitor.is_reader();
    let doc = "Upper limits, excluded; empty for no histogram.";
    visitor.field("bins", doc, Opt::Maybe(&mut is_there, Box::new(Opt::List(list))));
    visitor.require_one("bins", is_there, "[10, 100, \"inf\"]");
}
