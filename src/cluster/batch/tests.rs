//! Tests of batches.

use std::collections::HashSet;
use std::num::NonZeroU16;
use std::sync::Arc;

use proptest::prelude::*;

use crate::aggregate::rules::{NO_RULE, Rules};
use crate::aggregate::{
    CanonicalTags, EventOrCheck, EventOrCheckBody, Gauge, GaugePolicy, Levels, Members, SeriesOverrides, Sum, Timer,
    TimerPolicy, TimestampedSample,
};
use crate::codec::Records;
use crate::protocol::{Cardinality, GaugeOp, Kind};
use crate::series::Series;
use crate::snapshot::{
    CounterPoint, GaugePoint, KvPoint, SetPoint, Snapshot, SnapshotOverrides, SummaryPolicy, TimerPoint,
    merge as merge_snapshots,
};
use crate::telemetry::{Ledger, LineAccount, ListenerAccount};

use super::deflate::{deflate, inflate};
use super::*;

fn partitions(count: u16) -> NonZeroU16 {
    NonZeroU16::new(count).expect("a number of partitions")
}

fn policy(exact_samples: usize) -> Arc<SummaryPolicy> {
    let timers = TimerPolicy { exact_samples, ..TimerPolicy::default() };
    Arc::new(SummaryPolicy { timers, percentiles: vec![50.0, 99.0], ..SummaryPolicy::default() })
}

fn header(edge: &str, n: u64) -> BatchHeader {
    BatchHeader {
        format: FORMAT,
        edge: edge.parse().expect("a name"),
        boot: 3,
        n,
        interval: 170_000_000,
        length: 10.01,
        flags: Flags::default(),
        clean_before: true,
        config: u64::MAX - 5,
        account: None,
    }
}

/// The messages of the only partition.
fn whole(snapshot: &Snapshot) -> Encoded {
    encode(&header("edge-1", 7), &partition(snapshot, partitions(1))[0])
}

fn plain(message: &[u8]) -> Vec<u8> {
    let (_, body) = BatchHeader::decode(message).expect("a header");
    inflate(body, MAX_PLAIN_BYTES).expect("a body")
}

/// What a snapshot says, in the order of series.
fn records(snapshot: &Snapshot, policy: &Arc<SummaryPolicy>) -> String {
    let mut sorted = Snapshot { policy: Arc::clone(policy), ..snapshot.clone() };
    sorted.sort();
    let mut out = Vec::new();
    Records::ALL.write(&sorted, &mut out);
    String::from_utf8(out).expect("records are text")
}

/// What a random point is made of: class, kind, name, tags and numbers.
type Seed = (u8, u8, String, Vec<(String, Option<String>)>, Vec<(f64, u8)>);

fn seed() -> impl Strategy<Value = Seed> {
    let tag = (r"[a-cü=;]{1,3}", proptest::option::of(r"[a-c é:]{0,5}"));
    let number = prop_oneof![-2000.0..2000.0_f64, (-5000..5000_i32).prop_map(|n| f64::from(n) / 10.0), any::<f64>()]
        .prop_filter("values are finite", |value| value.is_finite());
    let numbers = proptest::collection::vec((number, 1..4_u8), 1..40);
    (0..7_u8, 0..3_u8, r"[a-c]{1,2}(\.[a-cöß]{1,4}){0,3}", proptest::collection::vec(tag, 0..4), numbers)
}

fn event(name: &str, tags: &[(&str, Option<&str>)], time: f64) -> EventOrCheck {
    EventOrCheck {
        time,
        tags: CanonicalTags::new(tags),
        host: Some("h".into()),
        container: None,
        external_data: None,
        cardinality: Some(Cardinality::Low),
        body: EventOrCheckBody::ServiceCheck { name: name.into(), status: 2, message: None },
    }
}

/// A snapshot of random points, each series once.
fn snapshot(seeds: &[Seed], policy: &SummaryPolicy) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let mut known = HashSet::new();
    for (class, kind, name, tags, numbers) in seeds {
        let tags: Vec<_> = tags.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        let kind = match class {
            0 => Kind::Counter,
            1 => Kind::Gauge,
            2 => [Kind::Timer, Kind::Histogram, Kind::Distribution][usize::from(*kind)],
            3 => Kind::Set,
            4 => Kind::Kv,
            _ => [Kind::Counter, Kind::Gauge][usize::from(*kind % 2)],
        };
        let series = Series::new(kind, name, &tags);
        let values = numbers.iter().map(|(value, _)| *value);
        if !known.insert((*class, series.clone())) {
            continue;
        }
        match class {
            0 => {
                let mut sum = Sum::default();
                values.for_each(|value| sum.add(value));
                snapshot.counters.push(CounterPoint { series, sum });
            }
            1 => {
                let mut gauge = Gauge::default();
                for (value, op) in numbers {
                    let op = [GaugeOp::Set, GaugeOp::Increase, GaugeOp::Decrease][usize::from(*op - 1)];
                    gauge.apply(op, *value, 1.7e9 + f64::from(numbers.len() as u32));
                }
                snapshot.gauges.push(GaugePoint { series, gauge });
            }
            2 => {
                let mut timer = Timer::default();
                numbers.iter().for_each(|(value, weight)| timer.record(*value, f64::from(*weight), &policy.timers));
                // As they are in an interval that is closed.
                timer.sort();
                snapshot.timers.push(TimerPoint { series, timer });
            }
            3 => {
                let mut members = Members::default();
                let times = if numbers.len() > 35 { 100_u32 } else { 1 };
                (0..times * numbers.len() as u32).for_each(|n| members.insert(&n.to_le_bytes()));
                snapshot.sets.push(SetPoint { series, members });
            }
            4 => snapshot.kvs.push(KvPoint { series, values: values.collect() }),
            5 => snapshot.timestamped.extend((0..).zip(values).map(|(n, value)| TimestampedSample {
                series: series.clone(),
                time: 1.7e9 + f64::from(n),
                value,
                rule: NO_RULE,
            })),
            _ => snapshot.events_and_checks.push(event(name, &tags, numbers[0].0)),
        }
    }
    snapshot
}

/// The same points in another order.
fn reversed(snapshot: &Snapshot) -> Snapshot {
    let mut other = snapshot.clone();
    other.counters.reverse();
    other.gauges.reverse();
    other.timers.reverse();
    other.sets.reverse();
    other.kvs.reverse();
    other.timestamped.reverse();
    other
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn what_is_read_is_what_was_written(
        seeds in proptest::collection::vec(seed(), 0..40),
        exact in prop_oneof![Just(10_usize), Just(4096)],
        count in 1..9_u16,
    ) {
        let policy = policy(exact);
        let snapshot = snapshot(&seeds, &policy);
        let other = reversed(&snapshot);
        let parts = partition(&snapshot, partitions(count));
        let other_parts = partition(&other, partitions(count));
        prop_assert_eq!(parts.len(), usize::from(count));
        let mut read = Vec::new();
        for (part, other) in parts.iter().zip(&other_parts) {
            let encoded = encode(&header("a", 1), part);
            prop_assert_eq!((encoded.messages.len(), encoded.left_out.len()), (1, 0));
            prop_assert_eq!(&encode(&header("a", 1), other).messages, &encoded.messages);
            let batch = Batch::decode(&encoded.messages[0], None).expect("it can be read");
            prop_assert_eq!(&batch.header, &header("a", 1));
            prop_assert_eq!(&encode(&batch.header, &partition(&batch.content, partitions(1))[0]).messages, &encoded.messages);
            read.push(batch.content);
        }
        // Events are in order within a partition alone.
        let events = |snapshot: &Snapshot| {
            let mut all: Vec<_> = snapshot.events_and_checks.iter().map(|event| format!("{event:?}")).collect();
            all.sort();
            all
        };
        let mut merged = merge_contents(read, &policy);
        prop_assert_eq!(events(&merged), events(&snapshot));
        merged.events_and_checks.clone_from(&snapshot.events_and_checks);
        merged.ledger = snapshot.ledger.clone();
        prop_assert_eq!(records(&merged, &policy), records(&snapshot, &policy));
    }

    #[test]
    fn bytes_that_were_changed_are_refused_or_read_as_something(
        seeds in proptest::collection::vec(seed(), 1..20),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let policy = policy(10);
        let message = whole(&snapshot(&seeds, &policy)).messages.remove(0);
        prop_assert!(Batch::decode(&message[..cut.index(message.len())], None).is_err());
        prop_assert!(Batch::decode(&[&message[..], &[0]].concat(), None).is_err());
        let body = plain(&message);
        for is_plain in [false, true] {
            let mut bytes = if is_plain { body.clone() } else { message.clone() };
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            let message = if is_plain { header("a", 1).encode(&deflate(&bytes)) } else { bytes };
            if let Ok(batch) = Batch::decode(&message, None) {
                let merged = merge(vec![batch.clone(), batch], &policy);
                let _ = records(&merged, &policy);
            }
        }
        for cut in (0..body.len().min(300)).step_by(7) {
            // A body may end after any record, and nowhere else.
            if let Ok(batch) = Batch::decode(&header("a", 1).encode(&deflate(&body[..cut])), None) {
                prop_assert_eq!(plain(&whole(&batch.content).messages[0]), &body[..cut]);
            }
        }
    }
}

#[test]
fn partitions_of_series_are_the_same_everywhere_and_for_ever() {
    let all: Vec<u16> = [
        Series::new(Kind::Counter, "api.hits", &[]),
        Series::new(Kind::Gauge, "api.hits", &[]),
        Series::new(Kind::Counter, "api.hits", &[("region", Some("eu")), ("canary", None)]),
        Series::new(Kind::Counter, "api.hits", &[("canary", None), ("region", Some("eu"))]),
        Series::new(Kind::Timer, "\u{e9}t\u{e9}", &[("k", Some(""))]),
        Series::new(Kind::Kv, "", &[]),
    ]
    .iter()
    .flat_map(|series| [64, 1000, 1].map(|count| partition_of(series, partitions(count))))
    .collect();
    assert_eq!(all, PINNED);
}

const PINNED: [u16; 18] = [55, 327, 0, 63, 407, 0, 5, 741, 0, 5, 741, 0, 6, 6, 0, 37, 837, 0];

#[test]
fn the_header_comes_back_and_says_what_is_wrong_with_it() {
    let mut ledger = Ledger { lines: LineAccount { read: 12, ..LineAccount::default() }, ..Ledger::default() };
    ledger.listeners = vec![ListenerAccount { kernel_drops: 4, ..ListenerAccount::default() }; 2];
    let account = EdgeAccount::new(&ledger);
    assert_eq!((account.lines, account.kernel_drops), (12, 8));
    let flags = Flags { hello: true, first: true, more: false, last: true };
    let header = BatchHeader { flags, account: Some(account), ..header("web-01", u64::MAX) };
    let message = header.encode(b"body");
    let (read, body) = BatchHeader::decode(&message).expect("a header");
    assert_eq!((&read, body), (&header, &b"body"[..]));
    assert_eq!(read.account.expect("an account").ledger(), Ok(Some(ledger)));
    let error = |message: &[u8]| BatchHeader::decode(message).expect_err("no header").to_string();
    assert_eq!(error(b""), "the message is empty");
    assert_eq!(error(&[2, 1]), "the message has format 2; this version reads format 1");
    assert!(error(&vec![1; MAX_MESSAGE_BYTES + 1]).starts_with("the message has 8388609 bytes"));
    let changed = |at: usize, byte: u8| {
        let mut message = message.clone();
        message[at] = byte;
        error(&message)
    };
    assert!(changed(2, b'.').starts_with("header, edge: the name of a node has '.' at byte 0"), "{}", changed(2, b'.'));
    assert!(changed(1, 200).starts_with("header, edge: "));
    let flags_at = 8 + 1 + 10 + 5 + 8 - 1;
    assert_eq!(changed(flags_at, 0x40), "header, flags: 0x40 has unknown ones");
    assert!(error(&message[..flags_at - 3]).starts_with("header, length: "), "{}", error(&message[..flags_at - 3]));
}

#[test]
fn nothing_is_a_message_too() {
    let encoded = whole(&Snapshot::default());
    assert_eq!(encoded.messages.len(), 1);
    assert!(encoded.messages[0].len() < 60, "{} bytes", encoded.messages[0].len());
    let batch = Batch::decode(&encoded.messages[0], None).expect("a batch");
    assert_eq!((batch.header, batch.content.len()), (header("edge-1", 7), 0));
    assert_eq!(merge(Vec::new(), &policy(10)).len(), 0);
}

#[test]
fn a_large_part_is_cut_between_series_into_messages_of_half_a_mebibyte() {
    let policy = policy(4096);
    let mut snapshot = Snapshot::default();
    let mut random = 1_u64;
    for n in 0..3000 {
        let mut timer = Timer::default();
        for _ in 0..60 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            timer.record(f64::from_bits(random >> 12 | 1023 << 52), 1.0, &policy.timers);
        }
        let series = Series::new(Kind::Timer, &format!("t.{n:05}"), &[("host", Some(&format!("web-{}", random % 97)))]);
        snapshot.timers.push(TimerPoint { series, timer });
    }
    snapshot.events_and_checks = vec![event("n", &[], 1.0)];
    let flags = Flags { first: true, last: true, ..Flags::default() };
    let account = Some(EdgeAccount::new(&Ledger::default()));
    let first = BatchHeader { flags, account, ..header("a", 40) };
    let messages = encode(&first, &partition(&snapshot, partitions(1))[0]).messages;
    assert!((3..6).contains(&messages.len()), "{}", messages.len());
    assert!(messages.iter().all(|message| message.len() <= MESSAGE_BYTES));
    assert!(messages.iter().rev().skip(1).all(|message| message.len() > MESSAGE_BYTES * 15 / 16));
    let mut batches = Vec::new();
    for (message, at) in messages.iter().zip(0..) {
        let batch = Batch::decode(message, None).expect("a batch");
        let (is_first, is_last) = (at == 0, at + 1 == messages.len());
        let flags = Flags { hello: false, first: true, more: !is_last, last: is_last };
        assert_eq!((batch.header.n, batch.header.flags), (40 + at as u64, flags));
        assert_eq!(batch.header.account.is_some(), is_first);
        batches.insert(0, batch);
    }
    let merged = merge(batches, &policy);
    assert_eq!((merged.timers.len(), merged.events_and_checks.len()), (3000, 1));
    assert_eq!((merged.sequence, merged.interval_secs), (170_000_000, 10.01));
    let mut again = merge_snapshots(&[&Snapshot { policy: Arc::clone(&policy), ..snapshot }]);
    again.ledger = merged.ledger.clone();
    (again.sequence, again.interval_secs, again.rate_secs) = (merged.sequence, merged.interval_secs, merged.rate_secs);
    assert_eq!(records(&merged, &policy), records(&again, &policy));
}

#[test]
fn names_that_compress_well_are_cut_too() {
    // Memory, not bytes, ends these messages.
    let name = "n".repeat(50_000);
    let counters = (0..800)
        .map(|n| CounterPoint { series: Series::new(Kind::Counter, &format!("{name}{n}"), &[]), sum: Sum::default() });
    let snapshot = Snapshot { counters: counters.collect(), ..Snapshot::default() };
    let messages = whole(&snapshot).messages;
    assert_eq!(messages.len(), 2);
    let read = messages.iter().map(|message| Batch::decode(message, None).expect("a batch").content.counters.len());
    assert_eq!(read.sum::<usize>(), 800);
}

#[test]
fn a_series_larger_than_a_message_stays_whole_up_to_the_bound() {
    let policy = policy(1_000_000);
    let timer = |samples: u32| {
        let mut timer = Timer::default();
        (0..samples).for_each(|n| timer.record(f64::from(n.wrapping_mul(2_654_435_761)) / 7.0, 1.0, &policy.timers));
        TimerPoint { series: Series::new(Kind::Timer, &format!("t{samples}"), &[]), timer }
    };
    let values: Vec<f64> = (0..100_000).map(|n| f64::from(n) / 3.0).collect();
    let snapshot = Snapshot {
        timers: vec![timer(3), timer(200_000), timer(700_000)],
        kvs: vec![KvPoint { series: Series::new(Kind::Kv, "k", &[]), values: values.clone() }],
        ..Snapshot::default()
    };
    let encoded = whole(&snapshot);
    assert_eq!(encoded.left_out, ["timer:t700000"]);
    assert!(encoded.messages.iter().any(|message| message.len() > MESSAGE_BYTES));
    let batches = encoded.messages.iter().map(|message| Batch::decode(message, None).expect("a batch")).collect();
    let merged = merge(batches, &policy);
    assert_eq!(merged.timers.iter().map(|point| point.timer.samples()).collect::<Vec<_>>(), [200_000, 3]);
    assert_eq!(merged.kvs.len(), 1);
    assert_eq!(merged.kvs[0].values, values);
}

/// A record of a series without tags that shares nothing with the name before it.
fn raw(class: RecordClass, kind: Kind, name: &str, value: &[u8]) -> Vec<u8> {
    let head = (class as u8) << 3 | kind as u8;
    [&[head, 0, name.len() as u8], name.as_bytes(), value].concat()
}

fn error_of(plain: &[u8]) -> String {
    content(&deflate(plain), None).expect_err("no body").to_string()
}

#[test]
fn a_small_message_cannot_take_much_memory() {
    let zeros = deflate(&vec![0; MAX_PLAIN_BYTES + 1]);
    assert!(zeros.len() < 100_000);
    assert_eq!(
        content(&zeros, None).expect_err("a bomb").to_string(),
        "the body can't be inflated: it has more than 16777216 bytes"
    );
    // A histogram of 5 digits takes 8 MiB for a large number.
    let policy = TimerPolicy { exact_samples: 1, digits: 5, ..TimerPolicy::default() };
    let mut timer = Timer::default();
    [1.0, 1e9].iter().for_each(|&value| timer.record(value, 1.0, &policy));
    let value = postcard::to_allocvec(&timer).expect("memory");
    let plain: Vec<u8> =
        (0..99).flat_map(|n| raw(RecordClass::Timer, Kind::Timer, &format!("t{n:02}"), &value)).collect();
    assert!(error_of(&plain).ends_with("the points take more than 134217728 bytes of memory"), "{}", error_of(&plain));
    // Names that share everything.
    let sum = postcard::to_allocvec(&Sum::default()).expect("memory");
    let long = "n".repeat(60_000);
    let mut plain = [&[0, 0][..], &postcard::to_allocvec(&long).expect("memory"), &sum].concat();
    let shared = postcard::to_allocvec(&long.len()).expect("memory");
    (0..5000).for_each(|_| plain.extend([&[0][..], &shared, &[0], &sum].concat()));
    assert!(error_of(&plain).ends_with("bytes of memory"), "{}", error_of(&plain));
    // Lengths without content.
    let many = postcard::to_allocvec(&u64::MAX).expect("memory");
    let plain = raw(RecordClass::Kv, Kind::Kv, "k", &many);
    assert!(error_of(&plain).starts_with("record 0, at byte 0 of the inflated body: key-value pair: "));
}

#[test]
fn an_error_says_what_is_wrong_and_where() {
    let sum = postcard::to_allocvec(&Sum::default()).expect("memory");
    let good = raw(RecordClass::Counter, Kind::Counter, "b", &sum);
    let after = |record: &[u8]| {
        let error = error_of(&[&good, record].concat());
        error.strip_prefix("record 1, at byte 20 of the inflated body: ").expect("where it is").to_string()
    };
    let counter = |name: &str| raw(RecordClass::Counter, Kind::Counter, name, &sum);
    assert_eq!(after(&counter("a")), "counter:a is not in order");
    assert_eq!(after(&[0, 2, 0]), "a name shares 2 bytes with one of 1");
    assert_eq!(after(&[0, 0, 2, b'c', 0xC3]), "a text of a name is no UTF-8 after byte 1");
    assert_eq!(after(&[0, 0, 5, b'c', TAG, b'y', TAG, b'x']), "the tags of \"c\" are not in order");
    assert_eq!(after(&[0, 0, 5, b'c', TAG, b'x', TAG, b'x']), "the tags of \"c\" are not in order");
    assert_eq!(after(&[0, 0, 4, b'c', TAG, VALUE, VALUE]), "a text of a name is no UTF-8 after byte 0");
    assert_eq!(after(&[0x11, 0, 0]), "there is no record of kind 0x11");
    assert_eq!(after(&[0x38, 0, 0]), "there is no record of kind 0x38");
    assert!(after(&[0, 0, 1, b'c', 1]).starts_with("counter: "), "{}", after(&[0, 0, 1, b'c', 1]));
    let check = whole(&Snapshot { events_and_checks: vec![event("n", &[], 1.0)], ..Snapshot::default() });
    let check = plain(&check.messages[0]);
    assert!(error_of(&[check, good].concat()).ends_with("a series follows an event"));
    assert_eq!(
        content(&[], None).expect_err("nothing").to_string(),
        "the body can't be inflated: it ends in the middle, at byte 0"
    );
    let body = [deflate(b""), vec![1, 2]].concat();
    assert_eq!(
        content(&body, None).expect_err("more").to_string(),
        "the body can't be inflated: 2 bytes follow its end"
    );
}

#[test]
fn timers_are_merged_with_the_digits_of_their_rule() {
    let policy = policy(2);
    let five = TimerPolicy { digits: 5, ..policy.timers };
    let series = Series::new(Kind::Timer, "t", &[]);
    let own = SeriesOverrides { digits: Some(5), ..SeriesOverrides::default() };
    let overrides = SnapshotOverrides {
        rules: Some(Arc::new(Rules::of_overrides(vec![own]))),
        of: Arc::new(std::iter::once((series.clone(), 0)).collect()),
        ..SnapshotOverrides::default()
    };
    let content = |values: &[f64]| {
        let mut timer = Timer::default();
        values.iter().for_each(|&value| timer.record(value, 1.0, &five));
        let timers = vec![TimerPoint { series: series.clone(), timer }];
        Snapshot { timers, overrides: overrides.clone(), ..Snapshot::default() }
    };
    let values = [100_100.7, 100_200.3, 100_300.9, 100_400.1];
    let merged = merge_contents(vec![content(&values[..1]), content(&values[1..])], &policy);
    let read = merged.timers[0].timer.sorted();
    assert!(read.iter().zip(values).all(|((read, _), value)| (read / value - 1.0).abs() < 1e-5), "{read:?}");
}

#[test]
fn batches_are_merged_by_edge_boot_and_number_and_gauges_by_time() {
    let policy = policy(10);
    let batch = |edge: &str, boot, n, ops: &[(GaugeOp, f64, f64)], kv: f64| {
        let mut gauge = Gauge::default();
        ops.iter().for_each(|&(op, value, now)| gauge.apply(op, value, now));
        let mut sum = Sum::default();
        sum.add(kv / 3.0);
        let content = Snapshot {
            gauges: vec![GaugePoint { series: Series::new(Kind::Gauge, "g", &[]), gauge }],
            counters: vec![CounterPoint { series: Series::new(Kind::Counter, "c", &[]), sum }],
            kvs: vec![KvPoint { series: Series::new(Kind::Kv, "k", &[]), values: vec![kv] }],
            ..Snapshot::default()
        };
        Batch { header: BatchHeader { boot, ..header(edge, n) }, content, ledger_error: None }
    };
    let late = (GaugeOp::Set, 20.0, 12.0);
    let all = [
        batch("a", 9, 9, &[late, (GaugeOp::Decrease, 3.0, 13.0)], 1.0),
        batch("b", 1, 9, &[(GaugeOp::Increase, 0.5, 19.0)], 2.0),
        batch("b", 2, 10, &[(GaugeOp::Set, 10.0, 11.0), (GaugeOp::Increase, 1.0, 18.0)], 3.0),
        batch("b", 2, 11, &[(GaugeOp::Increase, 0.25, 14.0)], 4.0),
    ];
    let merged = merge(all.to_vec(), &policy);
    assert_eq!(merged.gauges[0].gauge.value(), 17.75);
    assert_eq!(merged.gauges[0].gauge.set_at(), Some(12.0));
    assert_eq!(merged.kvs[0].values, [1.0, 2.0, 3.0, 4.0]);
    let bytes = whole(&merged).messages;
    for order in [[3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
        let again = merge(order.map(|n| all[n].clone()).to_vec(), &policy);
        assert_eq!(whole(&again).messages, bytes, "{order:?}");
    }
}

#[test]
fn series_have_their_rules_and_rules_that_are_not_known_are_errors() {
    let three = || vec![SeriesOverrides::default(); 3];
    let rules = Arc::new(Rules::of_overrides(three()));
    let series = |kind, name| Series::new(kind, name, &[]);
    let (most, plain) = (series(Kind::Gauge, "most"), series(Kind::Counter, "plain"));
    let (mut levels, gauge) = (Levels::default(), Gauge::absolute(3.0, 1.7e9));
    [Gauge::absolute(9.0, 1.6e9), gauge].iter().for_each(|gauge| levels.add(gauge));
    let of = [(most.clone(), 2), (series(Kind::Timer, "t"), 0), (series(Kind::Set, "not in the interval"), 1)];
    let timestamped = |time, rule| TimestampedSample { series: plain.clone(), time, value: 1.0, rule };
    let snapshot = Snapshot {
        counters: vec![CounterPoint { series: plain.clone(), sum: Sum::default() }],
        gauges: vec![GaugePoint { series: most.clone(), gauge }],
        timers: vec![TimerPoint { series: series(Kind::Timer, "t"), timer: Timer::default() }],
        timestamped: vec![timestamped(1.7e9, 1), timestamped(1.8e9, NO_RULE)],
        overrides: SnapshotOverrides {
            rules: Some(Arc::clone(&rules)),
            of: Arc::new(of.iter().cloned().collect()),
            levels: std::iter::once((most.clone(), levels)).collect(),
            ..SnapshotOverrides::default()
        },
        ..Snapshot::default()
    };
    let message = &whole(&snapshot).messages[0];
    let read = Batch::decode(message, Some(&rules)).expect("a batch").content;
    assert_eq!(*read.overrides.of, of[..2].iter().cloned().collect());
    assert_eq!(read.overrides.levels, snapshot.overrides.levels);
    assert_eq!(read.timestamped, snapshot.timestamped);
    assert_eq!(whole(&read).messages[0], *message);
    // The values are those of both sides.
    let merged = merge_contents(vec![read.clone(), read], &policy(10));
    let seen = merged.overrides.levels[&most].resolved(0.0);
    assert_eq!([GaugePolicy::Max, GaugePolicy::Sum].map(|policy| seen.value(policy)), [Some(9.0), Some(24.0)]);
    let error = |rules: Option<&Arc<Rules>>| Batch::decode(message, rules).expect_err("no batch").to_string();
    let here = "record 1, at byte 24 of the inflated body: counter:plain has rule 1, counted from 0, and there are";
    assert_eq!(error(None), format!("{here} 0 here"));
    assert_eq!(error(Some(&Arc::new(Rules::of_overrides(three()[..1].to_vec())))), format!("{here} 1 here"));
}

#[test]
fn bodies_are_the_same_whatever_was_written_before() {
    let counters = |count: u32| -> Snapshot {
        let counter = |n: u32| {
            let mut sum = Sum::default();
            sum.add(f64::from(n).sqrt());
            CounterPoint { series: Series::new(Kind::Counter, &format!("load.{n}"), &[]), sum }
        };
        Snapshot { counters: (0..count).map(counter).collect(), ..Snapshot::default() }
    };
    let (small, large) = (counters(100), counters(100_000));
    let mut writer = BodyWriter::default();
    for snapshot in [&small, &large, &Snapshot::default(), &small] {
        let part = &partition(snapshot, partitions(1))[0];
        let (ours, fresh) = (writer.bodies(part, 300), bodies(part, 300));
        assert_eq!(ours.bodies, fresh.bodies);
        assert!(!fresh.bodies.is_empty() && (fresh.bodies.len() > 1) == (snapshot.counters.len() > 1000));
    }
}
