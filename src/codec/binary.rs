//! A snapshot as bytes, for the spool: everything that a sink may need of it, without loss. The format is postcard's
//! (<https://postcard.jamesmunns.com>), compressed by deflate, after a version byte; presence events and the ledger are
//! JSON inside.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde::{Deserialize, Serialize};

use crate::aggregate::rules::{NO_RULE, Rules};
use crate::aggregate::{EventOrCheck, SeriesOverrides, TimestampedSample};
use crate::presence::{Event, UnixTime};
use crate::series::Series;
use crate::snapshot::{
    CounterPoint, Deletion, Footprint, GaugePoint, KvPoint, Length, Point, SetPoint, Snapshot, SnapshotOverrides,
    SummaryPolicy, TimerPoint,
};

/// Version of the format.
const VERSION: u8 = 1;

/// Largest snapshot that is decompressed, in bytes.
const MOST_BYTES: u64 = 8 << 30;

#[derive(Serialize, Deserialize)]
struct Encoded<'a> {
    sequence: u64,
    end: f64,
    interval_secs: f64,
    rate_secs: f64,
    counters: Cow<'a, [CounterPoint]>,
    gauges: Cow<'a, [GaugePoint]>,
    timers: Cow<'a, [TimerPoint]>,
    sets: Cow<'a, [SetPoint]>,
    kvs: Cow<'a, [KvPoint]>,
    timestamped: Cow<'a, [TimestampedSample]>,
    events_and_checks: Cow<'a, [EventOrCheck]>,
    /// JSON, which knows nothing of the time.
    presence: Vec<(UnixTime, String)>,
    ledger: String,
    policy: Cow<'a, SummaryPolicy>,
    all_overrides: Vec<SeriesOverrides>,
    series_rules: Vec<(Series, u32)>,
    lengths: Vec<(u32, Length)>,
    stats_prefix: Option<String>,
}

fn invalid(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// Overrides, the series that have one by its number, and the lengths of longer intervals.
type Parts = (Vec<SeriesOverrides>, Vec<(Series, u32)>, Vec<(u32, Length)>);

impl Snapshot {
    /// Encodes the whole snapshot.
    ///
    /// # Errors
    /// If memory is not sufficient.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let (all_overrides, series_rules, lengths) = self.overrides.parts(self);
        let presence = self.presence.iter().map(|event| Ok((event.at, serde_json::to_string(event)?)));
        let encoded = Encoded {
            sequence: self.sequence,
            end: self.end,
            interval_secs: self.interval_secs,
            rate_secs: self.rate_secs,
            counters: Cow::Borrowed(&self.counters),
            gauges: Cow::Borrowed(&self.gauges),
            timers: Cow::Borrowed(&self.timers),
            sets: Cow::Borrowed(&self.sets),
            kvs: Cow::Borrowed(&self.kvs),
            timestamped: Cow::Borrowed(&self.timestamped),
            events_and_checks: Cow::Borrowed(&self.events_and_checks),
            presence: presence.collect::<Result<_, serde_json::Error>>()?,
            ledger: serde_json::to_string(&self.ledger)?,
            policy: Cow::Borrowed(&self.policy),
            all_overrides,
            series_rules,
            lengths,
            stats_prefix: self.stats_prefix.as_deref().map(str::to_string),
        };
        let mut packed = DeflateEncoder::new(vec![VERSION], Compression::fast());
        let written = postcard::to_io(&encoded, io::BufWriter::new(&mut packed)).map_err(invalid)?;
        // At the end, where versions that do not know it do not read.
        postcard::to_io(&(&self.deleted, self.part), written)
            .map_err(invalid)?
            .into_inner()
            .map_err(|error| io::Error::other(error.to_string()))?
            .flush()?;
        packed.finish()
    }

    /// Decodes a snapshot.
    ///
    /// # Errors
    /// If the bytes are not a snapshot of this version.
    pub fn decode(bytes: &[u8]) -> io::Result<Snapshot> {
        let Some((&VERSION, packed)) = bytes.split_first() else {
            return Err(invalid("it was written by another version"));
        };
        let mut plain = Vec::new();
        DeflateDecoder::new(packed).take(MOST_BYTES).read_to_end(&mut plain)?;
        let (encoded, rest): (Encoded<'_>, _) = postcard::take_from_bytes(&plain).map_err(invalid)?;
        let (deleted, rest): (Vec<Deletion>, _) = match rest {
            [] => (Vec::new(), rest),
            rest => postcard::take_from_bytes(rest).map_err(invalid)?,
        };
        let part = if rest.is_empty() { 0 } else { postcard::from_bytes(rest).map_err(invalid)? };
        let presence = encoded.presence.iter().map(|(at, text)| {
            let event: Event = serde_json::from_str(text)?;
            Ok(Event { at: *at, ..event })
        });
        let rules = (!encoded.all_overrides.is_empty()).then(|| Arc::new(Rules::of_overrides(encoded.all_overrides)));
        Ok(Snapshot {
            sequence: encoded.sequence,
            part,
            end: encoded.end,
            interval_secs: encoded.interval_secs,
            rate_secs: encoded.rate_secs,
            counters: encoded.counters.into_owned(),
            gauges: encoded.gauges.into_owned(),
            timers: encoded.timers.into_owned(),
            sets: encoded.sets.into_owned(),
            kvs: encoded.kvs.into_owned(),
            timestamped: encoded
                .timestamped
                .iter()
                .map(|one| TimestampedSample { rule: NO_RULE, ..one.clone() })
                .collect(),
            events_and_checks: encoded.events_and_checks.into_owned(),
            presence: presence.collect::<Result<_, serde_json::Error>>()?,
            deleted,
            ledger: serde_json::from_str(&encoded.ledger)?,
            policy: Arc::new(encoded.policy.into_owned()),
            overrides: SnapshotOverrides {
                rules,
                of: Arc::new(encoded.series_rules.into_iter().collect()),
                lengths: encoded.lengths,
                ..SnapshotOverrides::default()
            },
            stats_prefix: encoded.stats_prefix.as_deref().map(Arc::from),
            footprint: Footprint::default(),
            delivery: None,
        })
    }
}

impl SnapshotOverrides {
    /// The overrides of the series in a snapshot, renumbered, and which series has which.
    fn parts(&self, snapshot: &Snapshot) -> Parts {
        let (mut all_overrides, mut series_rules) = (Vec::new(), Vec::new());
        let mut numbers: HashMap<u32, u32> = HashMap::new();
        let points = (0..).map_while(|n| snapshot.point(n));
        for series in points.map(Point::series) {
            let Some((&rule, overrides)) = self.of.get(series).and_then(|rule| {
                let rules = self.rules.as_ref()?;
                Some((rule, rules.overrides(*rule)?))
            }) else {
                continue;
            };
            let number = *numbers.entry(rule).or_insert_with(|| {
                all_overrides.push(overrides.clone());
                (all_overrides.len() - 1) as u32
            });
            series_rules.push((series.clone(), number));
        }
        (all_overrides, series_rules, self.lengths.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{CanonicalTags, EventOrCheckBody, Gauge, Members, Sum, Timer, TimerPolicy};
    use crate::codec::{RecordType, Records};
    use crate::protocol::{Cardinality, Kind, Reason};
    use crate::telemetry::LineAccount;
    use proptest::prelude::*;

    fn records(snapshot: &Snapshot) -> String {
        let mut out = Vec::new();
        Records::ALL.write(snapshot, &mut out);
        String::from_utf8(out).expect("records are text")
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn what_is_decoded_is_what_was_encoded(
            values in proptest::collection::vec((-1e6..1e9_f64, 1..4_u8), 0..300),
            exact in 1..400_usize,
            weighted: bool,
            members in 0..3000_u32,
        ) {
            let policy = TimerPolicy { exact_samples: exact, digits: 3, weighted };
            let (mut timer, mut sum, mut set) = (Timer::default(), Sum::default(), Members::default());
            for (value, weight) in &values {
                timer.record(*value, f64::from(*weight), &policy);
                sum.add(*value);
            }
            (0..members).for_each(|n| set.insert(&n.to_le_bytes()));
            let series = |kind, name: &str| Series::new(kind, name, &[("k", Some("v w")), ("bare", None), ("ü", Some(""))]);
            let overrides = SeriesOverrides { percentiles: Some(vec![10.0]), buckets: vec![5.0], ..SeriesOverrides::default() };
            let of = std::iter::once((series(Kind::Timer, "t"), 3)).collect();
            let snapshot = Snapshot {
                sequence: 7,
                end: 1.7e9 + 0.25,
                interval_secs: 10.000_1,
                rate_secs: 10.0,
                counters: vec![CounterPoint { series: series(Kind::Counter, "c"), sum }],
                gauges: vec![GaugePoint { series: series(Kind::Gauge, "g"), gauge: Gauge::absolute(-2.5, 3.0) }],
                timers: vec![TimerPoint { series: series(Kind::Timer, "t"), timer }],
                sets: vec![SetPoint { series: series(Kind::Set, "s"), members: set }],
                kvs: vec![KvPoint { series: series(Kind::Kv, "k"), values: vec![1.0, 2.0] }],
                events_and_checks: vec![EventOrCheck {
                    time: 1.0,
                    tags: CanonicalTags::new(&[("a", None)]),
                    host: Some("h".into()),
                    container: None,
                    external_data: None,
                    cardinality: Some(Cardinality::Low),
                    body: EventOrCheckBody::ServiceCheck { name: "n".into(), status: 2, message: None },
                }],
                policy: Arc::new(SummaryPolicy { timers: policy, percentiles: vec![50.0, -3.0], ..SummaryPolicy::default() }),
                overrides: SnapshotOverrides {
                    rules: Some(Arc::new(Rules::of_overrides(vec![SeriesOverrides::default(), SeriesOverrides::default(),
                        SeriesOverrides::default(), overrides]))),
                    of: Arc::new(of),
                    ..SnapshotOverrides::default()
                },
                deleted: vec![
                    Deletion::Series(series(Kind::Counter, "gone")),
                    Deletion::Folder(crate::aggregate::Class::Timer, "a.".into()),
                ],
                ledger: crate::telemetry::Ledger {
                    lines: LineAccount { malformed: [(Reason::BadValue, 3)].into_iter().collect(), ..LineAccount::default() },
                    completeness: 0.5,
                    ..Default::default()
                },
                ..Snapshot::default()
            };
            let encoded = snapshot.encode().expect("it can be encoded");
            let decoded = Snapshot::decode(&encoded).expect("it can be decoded");
            prop_assert_eq!(records(&decoded), records(&snapshot));
            prop_assert_eq!(decoded.len(), snapshot.len());
            prop_assert_eq!(&decoded.deleted, &snapshot.deleted);
            for cut in 0..encoded.len().min(400) {
                prop_assert!(Snapshot::decode(&encoded[..cut]).is_err());
            }
        }
    }

    #[test]
    fn an_event_of_presence_comes_back_with_everything() {
        let text = r#"{"kind":"instance","service":"pay","instance":"a","from":"up","to":"late","reason":"missed_beat",
            "notify":false,"version":"1.2","silence_s":3.5,"blind_s":0.0,"timeout_s":30.0,"service_state":"up","present":1,
            "total":2}"#;
        let event: Event = serde_json::from_str(text).expect("an event");
        let snapshot = Snapshot {
            presence: vec![Event { at: UnixTime::from_secs(5.0), ..event }],
            part: 3,
            ..Snapshot::default()
        };
        let decoded = Snapshot::decode(&snapshot.encode().expect("encoded")).expect("decoded");
        assert_eq!(decoded.identity(), snapshot.identity());
        assert_eq!(decoded.presence, snapshot.presence);
        let only = Records { only: Some(vec![RecordType::Presence]), ..Records::ALL };
        let mut out = Vec::new();
        only.write(&decoded, &mut out);
        assert!(String::from_utf8_lossy(&out).contains(r#""version":"1.2""#));
    }

    #[test]
    fn bytes_that_were_changed_are_refused_or_read_as_some_snapshot_but_never_panic() {
        let policy = TimerPolicy { exact_samples: 50, ..TimerPolicy::default() };
        let timer = |samples: u32| {
            let mut timer = Timer::default();
            (0..samples).for_each(|n| timer.record(f64::from(n) * 1.7 - 9.0, f64::from(1 + n % 3), &policy));
            TimerPoint { series: Series::new(Kind::Timer, "t", &[("n", Some(&samples.to_string()))]), timer }
        };
        let mut set = Members::default();
        (0..40_u8).for_each(|n| set.insert(&[n]));
        let snapshot = Snapshot {
            timers: vec![timer(3), timer(40), timer(400)],
            sets: vec![SetPoint { series: Series::new(Kind::Set, "s", &[]), members: set }],
            policy: Arc::new(SummaryPolicy {
                timers: policy,
                percentiles: vec![50.0, 99.0],
                ..SummaryPolicy::default()
            }),
            ..Snapshot::default()
        };
        let encoded = snapshot.encode().expect("encoded");
        let mut plain = Vec::new();
        DeflateDecoder::new(&encoded[1..]).read_to_end(&mut plain).expect("deflated");
        let mut state = 88172645463325252_u64;
        let mut random = || {
            // Xorshift (Marsaglia 2003).
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        let (mut read, mut refused) = (0, 0);
        for _ in 0..1000 {
            let mut changed = plain.clone();
            for _ in 0..1 + random() % 3 {
                let at = random() % changed.len();
                changed[at] = random() as u8;
            }
            let mut packed = DeflateEncoder::new(vec![VERSION], Compression::fast());
            packed.write_all(&changed).expect("memory");
            match Snapshot::decode(&packed.finish().expect("memory")) {
                Ok(decoded) => {
                    read += 1;
                    let _ = records(&decoded);
                }
                Err(_) => refused += 1,
            }
        }
        assert!(read > 30 && refused > 30, "{read} read, {refused} refused");
    }
}
