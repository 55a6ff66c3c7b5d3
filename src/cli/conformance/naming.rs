//! Where servers write a metric: the naming of each that is known, or what `--naming` says.
//!
//! A location is a name with `{}` for the metric's. A `*` in front stands for anything. Which naming a server has is told by the
//! name that its first counter came out under.

use super::samples::Sample;
use super::vectors::{Figure, Type};

/// How the samples of a location come to one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Each interval has its own share.
    Sum,
    /// The latest counts: a gauge, or a total.
    Last,
    /// The interval in which the lines came counts: later ones are empty.
    First,
    /// The largest: a set is empty again in the next interval.
    Max,
}

/// A name that a figure is written under.
#[derive(Clone, Debug)]
struct Location {
    template: String,
    reading: Reading,
    /// What a value is multiplied by.
    scale: f64,
}

/// Figures of metrics, and where they are written.
#[derive(Clone, Debug)]
pub(super) struct Naming {
    pub(super) name: String,
    locations: Vec<(&'static [Type], Figure, Location)>,
}

const SAMPLED: &[Type] = &[Type::Timer, Type::Histogram, Type::Distribution];
const UNSCALED: &[Type] = &[Type::Histogram, Type::Distribution];
const COUNTER: &[Type] = &[Type::Counter];
const GAUGE: &[Type] = &[Type::Gauge];
const SET: &[Type] = &[Type::Set];
const TIMER: &[Type] = &[Type::Timer];

/// Types, a figure, where it is written, and how it is read.
pub(super) type Row = (&'static [Type], Figure, &'static str, Reading, f64);

/// As Systole writes Graphite's plaintext.
const SYSTOLE: &[Row] = &[
    (COUNTER, Figure::Value, "{}.count", Reading::Sum, 1.0),
    (GAUGE, Figure::Value, "{}", Reading::Last, 1.0),
    (SET, Figure::Value, "{}", Reading::Max, 1.0),
    (SAMPLED, Figure::Count, "{}.count", Reading::Sum, 1.0),
    (SAMPLED, Figure::Sum, "{}.sum", Reading::First, 1.0),
    (SAMPLED, Figure::Min, "{}.min", Reading::First, 1.0),
    (SAMPLED, Figure::Max, "{}.max", Reading::First, 1.0),
];

/// As the original does (`backends/graphite.js`), with `legacyNamespace: false`; it has timers alone.
const ETSY: &[Row] = &[
    (COUNTER, Figure::Value, "stats.counters.{}.count", Reading::Sum, 1.0),
    (GAUGE, Figure::Value, "stats.gauges.{}", Reading::Last, 1.0),
    (SET, Figure::Value, "stats.sets.{}.count", Reading::Max, 1.0),
    (SAMPLED, Figure::Count, "stats.timers.{}.count", Reading::Sum, 1.0),
    (SAMPLED, Figure::Sum, "stats.timers.{}.sum", Reading::First, 1.0),
    (SAMPLED, Figure::Min, "stats.timers.{}.lower", Reading::First, 1.0),
    (SAMPLED, Figure::Max, "stats.timers.{}.upper", Reading::First, 1.0),
];

/// The same with `legacyNamespace: true`, its default.
const LEGACY: &[Row] = &[
    (COUNTER, Figure::Value, "stats_counts.{}", Reading::Sum, 1.0),
    ETSY[1],
    ETSY[2],
    ETSY[3],
    ETSY[4],
    ETSY[5],
    ETSY[6],
];

/// As collectd's `write_graphite` does without rates: totals of counters, seconds of timers.
const COLLECTD: &[Row] = &[
    (COUNTER, Figure::Value, "*statsd.derive.{}", Reading::Last, 1.0),
    (GAUGE, Figure::Value, "*statsd.gauge.{}", Reading::Last, 1.0),
    (SET, Figure::Value, "*statsd.objects.{}", Reading::Max, 1.0),
    (SAMPLED, Figure::Count, "*statsd.gauge.{}-count", Reading::Sum, 1.0),
    (SAMPLED, Figure::Sum, "*statsd.latency.{}-sum", Reading::First, 1000.0),
    (SAMPLED, Figure::Min, "*statsd.latency.{}-lower", Reading::First, 1000.0),
    (SAMPLED, Figure::Max, "*statsd.latency.{}-upper", Reading::First, 1000.0),
];

/// As netdata exports what it has collected: totals of counters, thousandths of what has decimals.
const NETDATA: &[Row] = &[
    (COUNTER, Figure::Value, "*statsd_{}.counter.counter", Reading::Last, 1.0),
    (GAUGE, Figure::Value, "*statsd_{}.gauge.gauge", Reading::Last, 0.001),
    (SET, Figure::Value, "*statsd_{}.set.unique", Reading::Max, 1.0),
    (TIMER, Figure::Min, "*statsd_{}.timer.min", Reading::First, 0.001),
    (TIMER, Figure::Max, "*statsd_{}.timer.max", Reading::First, 0.001),
    (UNSCALED, Figure::Min, "*statsd_{}.histogram.min", Reading::First, 0.001),
    (UNSCALED, Figure::Max, "*statsd_{}.histogram.max", Reading::First, 0.001),
];

/// Prometheus' ways: totals, and seconds of timers; with units and without.
const PROMETHEUS: &[Row] = &[
    (COUNTER, Figure::Value, "{}_total", Reading::Last, 1.0),
    (COUNTER, Figure::Value, "{}", Reading::Last, 1.0),
    (GAUGE, Figure::Value, "{}", Reading::Last, 1.0),
    (SET, Figure::Value, "{}", Reading::Last, 1.0),
    (TIMER, Figure::Count, "{}_seconds_count", Reading::Last, 1.0),
    (TIMER, Figure::Sum, "{}_seconds_sum", Reading::Last, 1000.0),
    (SAMPLED, Figure::Count, "{}_count", Reading::Last, 1.0),
    (TIMER, Figure::Sum, "{}_sum", Reading::Last, 1000.0),
    (UNSCALED, Figure::Sum, "{}_sum", Reading::Last, 1.0),
];

/// StatsD lines, as [`StatsdLines`](super::samples::StatsdLines) names them; the original's dialect has timers alone.
const STATSD: &[Row] = &[
    (COUNTER, Figure::Value, "{}|c", Reading::Last, 1.0),
    (GAUGE, Figure::Value, "{}|g", Reading::Last, 1.0),
    (SET, Figure::Value, "{}|s", Reading::Last, 1.0),
    (&[Type::Histogram], Figure::Count, "{}|h.count", Reading::Last, 1.0),
    (&[Type::Histogram], Figure::Sum, "{}|h.sum", Reading::Last, 1.0),
    (&[Type::Histogram], Figure::Min, "{}|h.min", Reading::Last, 1.0),
    (&[Type::Histogram], Figure::Max, "{}|h.max", Reading::Last, 1.0),
    (&[Type::Distribution], Figure::Count, "{}|d.count", Reading::Last, 1.0),
    (&[Type::Distribution], Figure::Sum, "{}|d.sum", Reading::Last, 1.0),
    (&[Type::Distribution], Figure::Min, "{}|d.min", Reading::Last, 1.0),
    (&[Type::Distribution], Figure::Max, "{}|d.max", Reading::Last, 1.0),
    (SAMPLED, Figure::Count, "{}|ms.count", Reading::Last, 1.0),
    (SAMPLED, Figure::Sum, "{}|ms.sum", Reading::Last, 1.0),
    (SAMPLED, Figure::Min, "{}|ms.min", Reading::Last, 1.0),
    (SAMPLED, Figure::Max, "{}|ms.max", Reading::Last, 1.0),
];

/// The namings of each output, those that name more first: every name ends in `{}`.
pub(super) const GRAPHITE: &[(&str, &[Row])] =
    &[("etsy", ETSY), ("etsy, legacy", LEGACY), ("collectd", COLLECTD), ("netdata", NETDATA), ("systole", SYSTOLE)];
pub(super) const SCRAPE: &[(&str, &[Row])] = &[("prometheus", PROMETHEUS)];
pub(super) const LINES: &[(&str, &[Row])] = &[("statsd", STATSD)];

/// The words of `--naming`.
const WORDS: [(&str, &[Type], Figure, Reading); 8] = [
    ("counter", COUNTER, Figure::Value, Reading::Sum),
    ("total", COUNTER, Figure::Value, Reading::Last),
    ("gauge", GAUGE, Figure::Value, Reading::Last),
    ("set", SET, Figure::Value, Reading::Max),
    ("count", SAMPLED, Figure::Count, Reading::Sum),
    ("sum", SAMPLED, Figure::Sum, Reading::First),
    ("min", SAMPLED, Figure::Min, Reading::First),
    ("max", SAMPLED, Figure::Max, Reading::First),
];

impl Naming {
    fn known(name: &str, rows: &[Row]) -> Naming {
        let location = |&(types, figure, template, reading, scale): &Row| {
            (types, figure, Location { template: template.to_string(), reading, scale })
        };
        Naming { name: name.to_string(), locations: rows.iter().map(location).collect() }
    }

    /// As the flags say: `counter=stats.{}.count`, `sum=stats.{}.sum*1000`.
    ///
    /// # Errors
    /// That a flag is not of this form, with what would be right.
    pub(super) fn given(flags: &[String]) -> Result<Naming, String> {
        let locations = flags.iter().map(|flag| {
            let (word, template) =
                flag.split_once('=').filter(|(_, template)| template.contains("{}")).ok_or_else(|| {
                    format!("--naming: `{flag}` has no name; `counter=stats.counters.{{}}.count` is right")
                })?;
            let known = WORDS.iter().find(|(known, ..)| *known == word).ok_or_else(|| {
                let words: Vec<&str> = WORDS.iter().map(|(known, ..)| *known).collect();
                format!("--naming: unknown figure `{word}`; {} are right", words.join(", "))
            })?;
            let scaled = template.rsplit_once('*').and_then(|(name, scale)| Some((name, scale.parse::<f64>().ok()?)));
            let (template, scale) = scaled.unwrap_or((template, 1.0));
            Ok((known.1, known.2, Location { template: template.to_string(), reading: known.3, scale }))
        });
        Ok(Naming { name: "given".into(), locations: locations.collect::<Result<_, String>>()? })
    }

    /// The first of these namings under which a counter of this name has come out.
    pub(super) fn of(known: &[(&str, &[Row])], counter: &str, samples: &[Sample]) -> Option<Naming> {
        let namings = known.iter().map(|(name, rows)| Naming::known(name, rows));
        namings.into_iter().find(|naming| naming.find(Type::Counter, Figure::Value, counter, samples, false).is_some())
    }

    /// Whether it says where a figure is written. A counter of Prometheus only grows: nothing can be told of one that falls.
    pub(super) fn tells(&self, kind: Type, figure: Figure, value: f64) -> bool {
        let falls = kind == Type::Counter && value < 0.0 && self.name == SCRAPE[0].0;
        !falls && self.locations(kind, figure).next().is_some()
    }

    fn locations(&self, kind: Type, figure: Figure) -> impl Iterator<Item = &Location> {
        self.locations
            .iter()
            .filter(move |(types, of, _)| types.contains(&kind) && *of == figure)
            .map(|(_, _, location)| location)
    }

    /// The value of a figure among samples, which are those of one series, or of several that differ in tags. Names are compared
    /// to the letter, or by their letters and digits alone, because servers clean names differently.
    pub(super) fn find(&self, kind: Type, figure: Figure, name: &str, samples: &[Sample], exact: bool) -> Option<f64> {
        self.locations(kind, figure).find_map(|location| {
            let values: Vec<f64> = samples
                .iter()
                .filter(|sample| !sample.value.is_nan() && location.is_of(name, &sample.name, exact))
                .map(|sample| sample.value)
                .collect();
            let value = match location.reading {
                Reading::Sum => (!values.is_empty()).then(|| values.iter().sum()),
                Reading::Last => values.last().copied(),
                Reading::First => values.first().copied(),
                Reading::Max => values.iter().copied().reduce(f64::max),
            };
            Some(value? * location.scale)
        })
    }

    /// Whether a sample is of a metric of this name, in any figure of its type.
    pub(super) fn is_of(&self, kind: Type, name: &str, sample: &Sample, exact: bool) -> bool {
        let mut locations = self.locations.iter().filter(|(types, ..)| types.contains(&kind));
        locations.any(|(_, _, location)| location.is_of(name, &sample.name, exact))
    }
}

impl Location {
    fn is_of(&self, metric: &str, sample: &str, exact: bool) -> bool {
        let as_compared = |text: &str| if exact { text.to_string() } else { letters(text) };
        let (template, anything) = match self.template.strip_prefix('*') {
            Some(rest) => (rest, true),
            None => (self.template.as_str(), false),
        };
        let (wanted, found) = (as_compared(&template.replace("{}", metric)), as_compared(sample));
        if anything { found.ends_with(&wanted) } else { found == wanted }
    }
}

/// Letters and digits alone, of ASCII.
pub(super) fn letters(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str, value: f64) -> Sample {
        Sample { name: name.into(), tags: [].into(), value }
    }

    #[test]
    fn a_server_is_known_by_the_name_of_its_first_counter() {
        for (written, expected) in [
            ("stats.counters.probe.count", Some("etsy")),
            ("stats_counts.probe", Some("etsy, legacy")),
            ("host.statsd.derive.probe", Some("collectd")),
            ("netdata.peer.statsd_probe.counter.counter", Some("netdata")),
            ("probe.count", Some("systole")),
            ("mine.probe", None),
        ] {
            let found = Naming::of(GRAPHITE, "probe", &[sample(written, 1.0)]);
            assert_eq!(found.map(|naming| naming.name), expected.map(String::from), "{written}");
        }
    }

    #[test]
    fn intervals_are_added_gauges_are_the_last_and_extremes_the_first() {
        let naming = Naming::known("systole", SYSTOLE);
        let samples = [
            sample("a.count", 2.0),
            sample("a.min", 5.0),
            sample("a", 1.0),
            sample("a.count", 3.0),
            sample("a.min", 0.0),
            sample("a", 7.0),
        ];
        let find = |kind, figure| naming.find(kind, figure, "a", &samples, true);
        assert_eq!(find(Type::Counter, Figure::Value), Some(5.0));
        assert_eq!(find(Type::Gauge, Figure::Value), Some(7.0));
        assert_eq!(find(Type::Timer, Figure::Min), Some(5.0));
        assert_eq!(find(Type::Timer, Figure::Max), None);
    }

    #[test]
    fn a_naming_may_be_given_with_a_scale() {
        let naming = Naming::given(&["counter=x.{}".into(), "sum=x.{}.sum*1000".into()]).expect("a naming");
        let samples = [sample("x.a", 2.0), sample("x.a.sum", 0.5)];
        assert_eq!(naming.find(Type::Counter, Figure::Value, "a", &samples, true), Some(2.0));
        assert_eq!(naming.find(Type::Timer, Figure::Sum, "a", &samples, true), Some(500.0));
        assert!(naming.tells(Type::Counter, Figure::Value, -1.0) && !naming.tells(Type::Gauge, Figure::Value, 1.0));
        assert!(!Naming::known("prometheus", PROMETHEUS).tells(Type::Counter, Figure::Value, -1.0));
        assert!(Naming::given(&["counter=x".into()]).is_err_and(|problem| problem.contains("is right")));
        assert!(Naming::given(&["speed={}".into()]).is_err_and(|problem| problem.contains("unknown figure")));
    }
}
