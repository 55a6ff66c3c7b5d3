//! Names and labels as Prometheus has them: `[a-zA-Z_:][a-zA-Z0-9_:]*` and `[a-zA-Z_][a-zA-Z0-9_]*`; dots and all else
//! become `_`. Counters end in `_total`, timers are in seconds and end in `_seconds`.
//!
//! `systole_…` belongs to the daemon's `/metrics`: here the daemon's own series are `systole_self_…`, and overflow series, which
//! have one name in all kinds, are `systole_overflow_KIND`. What a scrape adds itself (`up`) is `exported_up`.

use crate::aggregate::OVERFLOW_NAME;
use crate::prometheus_text;
use crate::protocol::Kind;
use crate::series::Series;
use crate::untrusted::is_active;

/// Whose rules names follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Naming {
    /// Those above.
    #[default]
    Systole,
    /// statsd_exporter's: counters and timers keep their names, `:` becomes `_`, a run of `-` a single one, and tags without a value
    /// are left out. Timers are in seconds, too.
    Exporter,
}

impl Naming {
    /// Each with its word in the configuration.
    pub(super) const NAMES: [(&'static str, Naming); 2] =
        [("systole", Naming::Systole), ("exporter", Naming::Exporter)];

    /// What samples of counters end in.
    pub(super) fn of_counters(self) -> &'static str {
        match self {
            Naming::Systole => "_total",
            Naming::Exporter => "",
        }
    }

    fn clean(self, text: &str, is_name: bool) -> String {
        match self {
            Naming::Systole => clean(text, is_name),
            Naming::Exporter => {
                let mut before = ' ';
                let mut is_further = |c: char| std::mem::replace(&mut before, c) == '-' && c == '-';
                let text: String = text.chars().filter(|c| !is_further(*c)).collect();
                clean(&text, false)
            }
        }
    }
}

/// Labels that Prometheus uses itself.
const RESERVED: [&str; 2] = ["le", "quantile"];

/// What the daemon's own names begin with once they are clean, and what they begin with here.
const OWN: &str = "systole_";
const OWN_HERE: &str = "systole_self_";

/// Series that Prometheus writes beside those of a scrape, or for its rules.
const SYNTHETIC: [&str; 10] = [
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "scrape_samples_post_metric_relabeling",
    "scrape_series_added",
    "scrape_timeout_seconds",
    "scrape_sample_limit",
    "scrape_body_size_bytes",
    "ALERTS",
    "ALERTS_FOR_STATE",
];

/// The name of a series' family.
pub(super) fn family(series: &Series, naming: Naming) -> String {
    let mut name = naming.clean(series.name(), true);
    if series.name().ends_with(OVERFLOW_NAME) {
        name = format!("{name}_{}", series.kind().name());
    } else if let Some(rest) = name.strip_prefix(OWN) {
        name = format!("{OWN_HERE}{rest}");
    } else if SYNTHETIC.contains(&name.as_str()) {
        name = format!("exported_{name}");
    }
    if naming == Naming::Exporter {
        return name;
    }
    let suffix = match series.kind() {
        // The sample ends in `_total`, the family does not.
        Kind::Counter | Kind::Meter => {
            if let Some(stem) = name.strip_suffix("_total").filter(|stem| !stem.is_empty()) {
                name = stem.to_string();
            }
            ""
        }
        Kind::Timer if !name.ends_with("_seconds") => "_seconds",
        Kind::Timer | Kind::Gauge | Kind::Histogram | Kind::Distribution | Kind::Set | Kind::Kv => "",
    };
    name.push_str(suffix);
    name
}

/// What a series' values are divided by: timers are sent in milliseconds.
pub(in crate::sinks) fn divisor(series: &Series) -> f64 {
    if series.kind() == Kind::Timer { 1e3 } else { 1.0 }
}

/// `key="value",…` in the order of keys.
pub(super) fn labels(series: &Series, naming: Naming) -> String {
    prometheus_text::labels(label_pairs(series, naming))
}

/// The same without empty values: to Prometheus a label without a value is none.
pub(super) fn identity(series: &Series, naming: Naming) -> String {
    prometheus_text::labels(label_pairs(series, naming).into_iter().filter(|(_, value)| !value.is_empty()))
}

/// Labels in the order of keys; a key with several values has them with commas between.
pub(in crate::sinks) fn label_pairs(series: &Series, naming: Naming) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    let is_shown = |value: Option<&str>| naming == Naming::Systole || value.is_some();
    for (key, value) in series.tags().filter(|(_, value)| is_shown(*value)) {
        let mut key = naming.clean(key, false);
        if RESERVED.contains(&key.as_str()) || key.starts_with("__") {
            key = format!("exported_{}", key.trim_start_matches('_'));
        }
        let value = value.unwrap_or("");
        match all.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => {
                known.push(',');
                known.push_str(value);
            }
            None => all.push((key, value.to_string())),
        }
    }
    all.sort();
    all
}

/// A text without what acts on a terminal.
pub(super) fn harmless(text: &str) -> String {
    text.chars().map(|c| if is_active(c) { '_' } else { c }).collect()
}

fn clean(text: &str, colons: bool) -> String {
    let mut out: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':') { c } else { '_' })
        .collect();
    if out.is_empty() || out.starts_with(|c: char| c.is_ascii_digit()) {
        out.insert(0, '_');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_prometheus_takes() {
        let series = |kind, name: &str| family(&Series::new(kind, name, &[]), Naming::Systole);
        for (kind, name, expected) in [
            (Kind::Counter, "api.hits", "api_hits"),
            (Kind::Counter, "api.hits_total", "api_hits"),
            (Kind::Counter, "_total", "_total"),
            (Kind::Timer, "api.latency", "api_latency_seconds"),
            (Kind::Timer, "api.latency_seconds", "api_latency_seconds"),
            (Kind::Histogram, "size", "size"),
            (Kind::Gauge, "9 lives", "_9_lives"),
            (Kind::Set, "Zürich", "Z_rich"),
            (Kind::Counter, "systole.lines.read", "systole_self_lines_read"),
            (Kind::Gauge, "systole_series", "systole_self_series"),
            (Kind::Counter, "systole.overflow", "systole_overflow_counter"),
            (Kind::Gauge, "systole.overflow", "systole_overflow_gauge"),
            (Kind::Timer, "prod.systole.overflow", "prod_systole_overflow_timer_seconds"),
            (Kind::Gauge, "up", "exported_up"),
        ] {
            assert_eq!(series(kind, name), expected, "{name}");
        }
        let tags = [
            ("k", Some("b")),
            ("k", Some("a")),
            ("le", Some("x\"\n\\")),
            ("bare", None),
            ("a.b", Some("1")),
            ("__x", None),
        ];
        let series = Series::new(Kind::Gauge, "g", &tags);
        assert_eq!(labels(&series, Naming::Exporter), "a_b=\"1\",exported_le=\"x\\\"\\n\\\\\",k=\"a,b\"");
        let labels = labels(&series, Naming::Systole);
        assert_eq!(labels, "a_b=\"1\",bare=\"\",exported_le=\"x\\\"\\n\\\\\",exported_x=\"\",k=\"a,b\"");
    }

    #[test]
    fn names_of_the_exporter_are_as_it_writes_them() {
        // pkg/mapper/escape_test.go of statsd_exporter; its own names are apart here, as everywhere.
        for (name, expected) in [
            ("clean", "clean"),
            ("0starts_with_digit", "_0starts_with_digit"),
            ("with_underscore", "with_underscore"),
            ("with--doubledash", "with_doubledash"),
            ("with---multiple-dashes", "with_multiple_dashes"),
            ("with.dot", "with_dot"),
            ("with😱emoji", "with_emoji"),
            ("with.*.multiple", "with___multiple"),
            ("test.web-server.foo.bar", "test_web_server_foo_bar"),
            ("with:colon", "with_colon"),
            ("systole.lines.read", "systole_self_lines_read"),
        ] {
            for kind in [Kind::Counter, Kind::Timer] {
                assert_eq!(family(&Series::new(kind, name, &[]), Naming::Exporter), expected, "{name}");
            }
        }
    }

    #[test]
    fn an_empty_label_is_no_part_of_the_identity() {
        let series = Series::new(Kind::Gauge, "g", &[("bare", None), ("k", Some("v")), ("empty", Some(""))]);
        assert_eq!(identity(&series, Naming::Systole), "k=\"v\"");
    }
}
