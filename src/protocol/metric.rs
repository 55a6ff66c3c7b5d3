//! One sample of a metric line, borrowed from the datagram.

use std::borrow::Cow;
use std::num::NonZeroU64;

use crate::named::named_enum;

use super::fields::{Field, field, filled};
use super::number::decimal;
use super::tags::{Tags, lossy};

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// `c`
    Counter,
    /// `g`
    Gauge,
    /// `ms`
    Timer,
    /// `h`
    Histogram,
    /// `d`
    Distribution,
    /// `s`
    Set,
    /// `m`: aggregates as a counter.
    Meter,
    /// `kv`: values passed on as they arrived.
    Kv,
}

impl Kind {
    /// Every kind, in the order of its number.
    pub const ALL: [Kind; 8] = [
        Kind::Counter,
        Kind::Gauge,
        Kind::Timer,
        Kind::Histogram,
        Kind::Distribution,
        Kind::Set,
        Kind::Meter,
        Kind::Kv,
    ];

    /// The kinds that series are of, in the order of their numbers: a meter aggregates as a counter.
    pub(crate) const OF_SERIES: [Kind; 7] =
        [Kind::Counter, Kind::Gauge, Kind::Timer, Kind::Histogram, Kind::Distribution, Kind::Set, Kind::Kv];

    /// The kind of series that has this name.
    pub(crate) fn of_series(name: &str) -> Option<Kind> {
        Kind::OF_SERIES.into_iter().find(|kind| kind.name() == name)
    }

    /// The type token of the wire, or `None` for an unknown one. Case-sensitive.
    #[inline]
    pub fn from_token(token: &[u8]) -> Option<Kind> {
        Some(match token {
            b"c" => Kind::Counter,
            b"g" => Kind::Gauge,
            b"ms" => Kind::Timer,
            b"h" => Kind::Histogram,
            b"d" => Kind::Distribution,
            b"s" => Kind::Set,
            b"m" => Kind::Meter,
            b"kv" => Kind::Kv,
            _ => return None,
        })
    }

    /// The word that records use.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Timer => "timer",
            Kind::Histogram => "histogram",
            Kind::Distribution => "distribution",
            Kind::Set => "set",
            Kind::Meter => "meter",
            Kind::Kv => "kv",
        }
    }
}

/// The share of events that were sent: above 0 and at most 1, so no later stage checks again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleRate(f64);

impl SampleRate {
    /// Every event was sent.
    pub const ONE: SampleRate = SampleRate(1.0);

    /// Interprets a rate from the wire: 0 and anything above 1 count as 1 (clients print tiny rates as `0.000000`).
    /// `None` if it is negative or so small that dividing by it overflows.
    pub fn new(rate: f64) -> Option<SampleRate> {
        if rate.is_nan() || (rate < 0.0) || (rate == 0.0 && rate.is_sign_negative()) {
            return None;
        }
        if rate == 0.0 || rate > 1.0 {
            return Some(SampleRate::ONE);
        }
        (1.0 / rate).is_finite().then_some(SampleRate(rate))
    }

    /// The rate, in (0, 1].
    #[inline]
    pub fn get(self) -> f64 {
        self.0
    }

    /// How many events one sample stands for: `1 / rate`, at least 1.
    #[inline]
    pub fn weight(self) -> f64 {
        if self.0 == 1.0 { 1.0 } else { 1.0 / self.0 }
    }
}

/// What a gauge's value does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GaugeOp {
    /// Sets the gauge.
    Set,
    /// Adds to it.
    Increase,
    /// Subtracts from it.
    Decrease,
}

/// Whether a leading sign makes a gauge relative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GaugeSign {
    /// `+5` adds 5, `-5` subtracts 5, as in the original statsd.
    Delta,
    /// `-5` sets -5, as in DogStatsD.
    Absolute,
}

/// A metric's name without tags, valid UTF-8. It has two pieces because SignalFx tags may be cut out of its middle.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    /// Validated UTF-8, kept as bytes: the hot path only compares and copies them.
    pub(super) head: &'a [u8],
    pub(super) tail: &'a [u8],
    pub(super) sanitize: bool,
}

impl<'a> Name<'a> {
    /// A name in one piece, unchanged.
    pub fn plain(name: &'a str) -> Name<'a> {
        Name { head: name.as_bytes(), tail: &[], sanitize: false }
    }

    /// Length before cleaning, in bytes.
    #[inline]
    pub fn raw_len(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// The bytes from the wire, if the name is in one piece.
    pub(crate) fn as_sent(&self) -> Option<&'a [u8]> {
        self.tail.is_empty().then_some(self.head)
    }

    /// Whether the name begins, or may begin, with these bytes. A name in two pieces, or one that is cleaned, is checked
    /// exactly later.
    #[inline]
    pub(super) fn begins_with(&self, bytes: &[u8]) -> bool {
        if !self.sanitize && self.tail.is_empty() {
            return self.head.starts_with(bytes);
        }
        let differs = self.head.iter().zip(bytes).position(|(ours, theirs)| ours != theirs);
        // Cleaning does not change anything before the first byte that it changes.
        differs.is_none_or(|at| self.sanitize && !self.head[..=at].iter().all(|&b| super::sanitize::is_clean(b)))
    }

    /// Appends the name, cleaned if the listener asks for it.
    #[inline]
    pub fn write_to(&self, out: &mut Vec<u8>) {
        if self.sanitize {
            super::sanitize::write_clean(self.text().chars(), out);
        } else {
            out.extend_from_slice(self.head);
            out.extend_from_slice(self.tail);
        }
    }

    /// The name, cleaned if the listener asks for it.
    pub(super) fn clean(&self) -> Cow<'a, str> {
        if self.sanitize { Cow::Owned(self.to_string()) } else { self.text() }
    }

    /// The name before cleaning.
    fn text(&self) -> Cow<'a, str> {
        if self.tail.is_empty() {
            return lossy(self.head);
        }
        Cow::Owned(lossy(self.head).into_owned() + &lossy(self.tail))
    }

    /// Whether cleaning leaves nothing of the name.
    pub(super) fn is_empty(&self) -> bool {
        if !self.sanitize {
            return self.raw_len() == 0;
        }
        !self.text().chars().any(super::sanitize::leaves_something)
    }
}

impl std::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut bytes = Vec::with_capacity(self.raw_len());
        self.write_to(&mut bytes);
        f.write_str(&String::from_utf8_lossy(&bytes))
    }
}

/// The values of one sample.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// One number, or several packed ones: at least one, all checked.
    Numbers {
        /// The first.
        first: f64,
        /// The whole packed text, when more than one item stands in it.
        packed: Option<&'a [u8]>,
    },
    /// A gauge's values, each with what it does. The magnitude is not negative unless signs are absolute.
    Gauge {
        /// The first.
        first: (GaugeOp, f64),
        /// The whole packed text, when more than one item stands in it.
        packed: Option<&'a [u8]>,
        /// How a sign is read.
        sign: GaugeSign,
    },
    /// A counter's total, 0 or more: what was added since the last one counts.
    Total(f64),
    /// A set member: any text, never empty.
    Member(&'a [u8]),
}

impl<'a> Values<'a> {
    /// The numbers in order; nothing for a gauge or a set.
    pub fn numbers(self) -> impl Iterator<Item = f64> + 'a {
        let (first, packed) = match self {
            Values::Numbers { first, packed } => (Some(first), packed),
            Values::Total(total) => (Some(total), None),
            Values::Gauge { .. } | Values::Member(_) => (None, None),
        };
        let rest = packed.into_iter().flat_map(|text| items(text).skip(1).filter_map(decimal));
        first.into_iter().chain(rest)
    }

    /// The gauge adjustments in order; nothing for the other types.
    pub fn gauge(self) -> impl Iterator<Item = (GaugeOp, f64)> + 'a {
        let (first, packed, sign) = match self {
            Values::Gauge { first, packed, sign } => (Some(first), packed, sign),
            Values::Numbers { .. } | Values::Total(_) | Values::Member(_) => (None, None, GaugeSign::Delta),
        };
        let rest =
            packed.into_iter().flat_map(move |text| items(text).skip(1).filter_map(move |i| gauge_item(i, sign)));
        first.into_iter().chain(rest)
    }

    /// The number of values, at least 1.
    pub fn len(self) -> usize {
        match self {
            Values::Numbers { packed, .. } | Values::Gauge { packed, .. } => {
                packed.map_or(1, |text| items(text).count())
            }
            Values::Total(_) | Values::Member(_) => 1,
        }
    }

    /// Never: a sample has at least one value.
    pub fn is_empty(self) -> bool {
        false
    }
}

/// The non-empty items of a packed text, blanks trimmed.
pub(super) fn items(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b':').map(trim_blanks).filter(|item| !item.is_empty())
}

/// One gauge item: what it does, and its magnitude.
#[inline]
pub(super) fn gauge_item(item: &[u8], sign: GaugeSign) -> Option<(GaugeOp, f64)> {
    let number = decimal(item)?;
    Some(match (sign, item.first()) {
        (GaugeSign::Delta, Some(b'+')) => (GaugeOp::Increase, number.abs()),
        (GaugeSign::Delta, Some(b'-')) => (GaugeOp::Decrease, number.abs()),
        _ => (GaugeOp::Set, number),
    })
}

/// Without spaces and tabs at either end.
#[inline]
pub(super) fn trim_blanks(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

named_enum! {
    /// DogStatsD's tag cardinality of a container; parsed, not used.
    pub enum Cardinality {
        /// No tags of the origin.
        None = "none",
        /// Those that take few values.
        Low = "low",
        /// Those of the orchestrator, too.
        Orchestrator = "orchestrator",
        /// All of them.
        High = "high",
    }
}

impl Cardinality {
    /// Reads the text after `card:`, case-insensitively.
    pub fn from_text(text: &[u8]) -> Option<Cardinality> {
        Cardinality::ALL.into_iter().find(|c| text.eq_ignore_ascii_case(c.as_str().as_bytes()))
    }
}

/// One sample: a name with tags, a type and at least one value.
#[derive(Clone, Copy, Debug)]
pub struct Metric<'a> {
    /// The bare name.
    pub name: Name<'a>,
    /// The tags of the name and of every `#` section.
    pub tags: Tags<'a>,
    /// The type.
    pub kind: Kind,
    /// The values.
    pub values: Values<'a>,
    /// The sample rate, 1 if none was sent.
    pub rate: SampleRate,
    /// The sample's own timestamp in Unix seconds.
    pub timestamp: Option<NonZeroU64>,
    /// Unknown sections: skipped, never a reason to reject the line.
    pub skipped: u32,
    /// Everything after the type. Fields that aggregation does not need are read from it on demand.
    pub(super) fields: &'a [u8],
}

impl<'a> Metric<'a> {
    fn sections(&self) -> impl Iterator<Item = &'a [u8]> {
        self.fields.split(|&b| b == b'|')
    }

    /// The skipped sections, verbatim.
    pub fn skipped_sections(&self) -> impl Iterator<Item = &'a [u8]> {
        self.sections().filter(|section| super::fields::is_unknown(section))
    }

    /// The rate as it was sent, if it is outside of (0, 1] and therefore counts as 1.
    pub fn odd_rate(&self) -> Option<&'a [u8]> {
        let rates = self.sections().filter_map(|section| match field(section) {
            Field::Rate(rate) => Some(trim_blanks(rate)),
            _ => None,
        });
        rates.last().filter(|rate| decimal(rate).is_some_and(|rate| rate == 0.0 || rate > 1.0))
    }

    /// DogStatsD's container id.
    pub fn container(&self) -> Option<&'a [u8]> {
        let ids = self.sections().filter_map(|section| match field(section) {
            Field::Container(id) => filled(id),
            _ => None,
        });
        ids.last()
    }

    /// DogStatsD's external data.
    pub fn external_data(&self) -> Option<&'a [u8]> {
        let all = self.sections().filter_map(|section| match field(section) {
            Field::ExternalData(data) => filled(data),
            _ => None,
        });
        all.last()
    }

    /// DogStatsD's tag cardinality.
    pub fn cardinality(&self) -> Option<Cardinality> {
        let levels = self.sections().filter_map(|section| match field(section) {
            Field::Cardinality(level) => Cardinality::from_text(level),
            _ => None,
        });
        levels.last()
    }
}
