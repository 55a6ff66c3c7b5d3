//! The daemon's own numbers since the start, as Prometheus text 0.0.4 or OpenMetrics 1.0: the table of counters, and what
//! presence says.

use crate::presence::Reading;
use crate::prometheus_text::{PrometheusText, Shape, labels};
use crate::telemetry::Ledger;

/// `presence` is what presence says for a scrape.
pub(super) fn render(ledger: &Ledger, uptime_secs: f64, presence: &[Reading], is_open: bool) -> String {
    let mut out = PrometheusText::new(is_open);
    out.family("systole_build_info", Shape::Gauge, "The version that runs.");
    out.sample("systole_build_info", "", &labels([("version", env!("CARGO_PKG_VERSION"))]), None, 1.0);
    out.family("systole_uptime_seconds", Shape::Gauge, "Time since the start.");
    out.sample("systole_uptime_seconds", "", "", None, uptime_secs);
    for metric in ledger.metrics() {
        let (shape, suffix) = shape(metric.is_counter);
        out.family(metric.name, shape, metric.help);
        metric.samples.iter().for_each(|(tags, value)| {
            out.sample(metric.name, suffix, &labels(tags.iter().map(|(key, value)| (key, value))), None, *value);
        });
    }
    readings(presence, &mut out);
    out.finish()
}

fn shape(is_counter: bool) -> (Shape, &'static str) {
    if is_counter { (Shape::Counter, "_total") } else { (Shape::Gauge, "") }
}

/// Presence, name by name: a family stands together.
fn readings(readings: &[Reading], out: &mut PrometheusText) {
    let mut sorted: Vec<&Reading> = readings.iter().collect();
    sorted.sort_by_key(|reading| reading.name);
    for family in sorted.chunk_by(|a, b| a.name == b.name) {
        let (name, is_counter) = (family[0].name, family[0].counts);
        let (shape, suffix) = shape(is_counter);
        let stem = if is_counter { name.trim_end_matches("_total") } else { name };
        let help = match name {
            "presence_state" => "0 unknown, 1 up, 2 late, 3 down, 4 left.",
            _ => "See docs/presence.md.",
        };
        out.family(stem, shape, help);
        family.iter().for_each(|reading| {
            let tags = labels(reading.tags.iter().map(|(key, value)| (key, value)));
            out.sample(stem, suffix, &tags, None, reading.value);
        });
    }
}
