//! Timers as the DataDog agent names their aggregates (datadog-agent, `pkg/metrics/histogram.go`): those that the configuration
//! lists (`max`, `median`, `avg`, `count`, …), and percentiles as `95percentile`.

use crate::snapshot::{Aggregate, Summary, number};

/// What is sent of a timer, each with its name and value; nothing of one without samples.
pub(super) fn aggregates<'a>(
    summary: &'a Summary,
    listed: &'a [String],
) -> impl Iterator<Item = (Aggregate, String, f64)> + 'a {
    let listed = listed.iter().map(|name| {
        let (aggregate, value) = match name.as_str() {
            "max" => (Aggregate::Max, summary.max),
            "min" => (Aggregate::Min, summary.min),
            "median" => (Aggregate::Median, summary.median),
            "avg" => (Aggregate::Mean, summary.mean),
            "sum" => (Aggregate::Sum, summary.sum),
            _ => (Aggregate::Count, summary.count),
        };
        (aggregate, name.clone(), value)
    });
    let percentiles = summary
        .percentiles
        .iter()
        .map(|p| (Aggregate::Percentile(p.percentile), format!("{}percentile", number(p.percentile)), p.value));
    listed.chain(percentiles).filter(|_| summary.samples > 0)
}
