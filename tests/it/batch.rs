//! Batches of the scale-out: what they take on the wire, and any bytes in their place.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Instant;

use systole::internals::aggregate::{Sum, Timer, TimerPolicy};
use systole::internals::cluster::batch::{
    Batch, BatchHeader, FORMAT, Flags, MESSAGE_BYTES, encode, merge, partition, partition_of,
};
use systole::internals::cluster::{Carried, Content, ContentOptions, Emission, IntervalContent, SessionId};
use systole::internals::protocol::Kind;
use systole::internals::rollup::RegistryOptions;
use systole::internals::series::Series;
use systole::internals::snapshot::{CounterPoint, Snapshot, SummaryPolicy, TimerPoint};

/// Xorshift (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }

    /// About normal, with a mean of 0 and a deviation of 1.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.next() as f64 / u64::MAX as f64).sum::<f64>() - 6.0
    }
}

/// So many counters and a tenth as many timers of 20 samples in milliseconds, with names as services have them.
fn interval(counters: usize, random: &mut Random) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for n in 0..counters + counters / 10 {
        let name = format!(
            "{}.{}.{}.{}",
            random.of(&["checkout", "billing", "search", "auth", "cart", "mail", "edge", "img"]),
            random.of(&["http", "db", "cache", "queue"]),
            random.of(&["get", "put", "list", "post"]),
            random.of(&["hits", "miss", "err", "ok", "bytes"])
        );
        let (host, region, route) = (format!("web-{:03}", n % 400), format!("eu-{}", n % 3), format!("/r{n:05}"));
        let tags = [("host", Some(host.as_str())), ("region", Some(&region)), ("route", Some(&route))];
        if n < counters {
            let mut sum = Sum::default();
            sum.add(random.below(500) as f64);
            snapshot.counters.push(CounterPoint { series: Series::new(Kind::Counter, &name, &tags), sum });
        } else {
            let mut timer = Timer::default();
            for _ in 0..20 {
                let ms = ((3.0 + random.normal()).exp() * 1000.0).round() / 1000.0;
                timer.record(ms, 1.0, &TimerPolicy::default());
            }
            snapshot.timers.push(TimerPoint { series: Series::new(Kind::Timer, &name, &tags), timer });
        }
    }
    snapshot
}

fn header(n: u64) -> BatchHeader {
    BatchHeader {
        format: FORMAT,
        edge: "edge-1".parse().expect("a name"),
        boot: 1,
        n,
        interval: 170_000_000,
        length: 10.0,
        flags: Flags::default(),
        clean_before: true,
        config: 1,
        account: None,
    }
}

/// 36 bytes a series are the bar for 100,000 counters: 4 MB for these and 10,000 timers. Set
/// `SYSTOLE_TEST_BATCH_SERIES=100000` for all of them.
#[test]
fn an_interval_takes_36_bytes_a_series() {
    let counters = std::env::var("SYSTOLE_TEST_BATCH_SERIES").map_or(10_000, |text| text.parse().expect("a number"));
    // As many series in a partition as 100,000 have in 64.
    let partitions = NonZeroU16::new((counters * 64 / 100_000).max(1) as u16).expect("it is 1 or more");
    let snapshot = interval(counters, &mut Random(88_172_645_463_325_252));
    let start = Instant::now();
    let parts = partition(&snapshot, partitions);
    let partitioned = start.elapsed();
    let messages: Vec<Vec<u8>> = parts.iter().flat_map(|part| encode(&header(1), part).messages).collect();
    let encoded = start.elapsed();
    let batches: Vec<Batch> = messages.iter().map(|message| Batch::decode(message, None).expect("a batch")).collect();
    let decoded = start.elapsed();
    let policy = Arc::new(SummaryPolicy::default());
    let twice = batches.into_iter().map(|batch| {
        let other =
            Batch { header: BatchHeader { edge: "edge-2".parse().expect("a name"), ..header(1) }, ..batch.clone() };
        merge(vec![other, batch], &policy)
    });
    let merged: usize = twice.map(|merged| merged.len()).sum();
    let all: usize = messages.iter().map(Vec::len).sum();
    let largest = messages.iter().map(Vec::len).max().unwrap_or(0);
    println!(
        "{counters} counters in {partitions} partitions: {all} bytes, {} messages, the largest {largest} bytes; \
         partitioned in {partitioned:?}, encoded in {:?}, decoded in {:?}, two edges merged in {:?}",
        messages.len(),
        encoded - partitioned,
        decoded - encoded,
        start.elapsed() - decoded
    );
    assert_eq!((messages.len(), merged), (usize::from(partitions.get()), snapshot.len()));
    assert!(all <= 36 * snapshot.len(), "{all} bytes");
    assert!(largest <= MESSAGE_BYTES, "{largest} bytes");
}

/// Ten edges with the same series, one partition at a time: 2 s of processor and 400 MiB are the bar for 100,000 counters each.
#[test]
fn ten_edges_are_merged_one_partition_at_a_time() {
    let counters = std::env::var("SYSTOLE_TEST_BATCH_SERIES").map_or(1000, |text| text.parse().expect("a number"));
    let partitions = NonZeroU16::new((counters * 64 / 100_000).max(1) as u16).expect("it is 1 or more");
    // The names are the same for every edge, and the values are not.
    let edge = |n: u64| {
        let mut snapshot = interval(counters, &mut Random(88_172_645_463_325_252));
        for point in &mut snapshot.timers {
            point.timer = Timer::default();
            let mut random = Random(n + 1);
            (0..20).for_each(|_| {
                point.timer.record(random.below(1_000_000) as f64 / 1000.0, 1.0, &TimerPolicy::default())
            });
        }
        let parts = partition(&snapshot, partitions);
        parts.iter().map(|part| encode(&header(n + 1), part).messages).collect::<Vec<_>>()
    };
    let edges: Vec<Vec<Vec<Vec<u8>>>> = (0..10).map(edge).collect();
    let registry = RegistryOptions::default();
    let content = IntervalContent::new(ContentOptions { registry, interval_secs: 10.0 });
    let (start, mut points, mut samples) = (Instant::now(), 0, 0);
    for partition in 0..partitions.get() {
        let messages = edges.iter().flat_map(|edge| &edge[usize::from(partition)]);
        let merged = content.merge(messages.map(|message| &message[..]));
        assert_eq!(merged.unreadable(), 0);
        let mut standing = Carried::default();
        content.follow(&mut standing, 170_000_000, &merged);
        let owner = SessionId { node: "g".parse().expect("a name"), start: 1 };
        let (batches, account) = (Vec::new(), None);
        let (interval, version, cut) = (170_000_000, 0, 1);
        let emission = Emission { partition, interval, version, cut, owner, merged, standing, account, batches };
        let snapshot = content.snapshot(vec![emission]);
        points += snapshot.len();
        samples += snapshot.timers.iter().map(|point| point.timer.samples()).sum::<u64>();
    }
    println!("ten edges of {counters} counters merged in {:?}", start.elapsed());
    assert_eq!((points, samples), (counters + counters / 10, counters as u64 / 10 * 200));
}

#[test]
fn a_series_is_in_the_part_of_its_partition() {
    let partitions = NonZeroU16::new(7).expect("not 0");
    let snapshot = interval(700, &mut Random(1));
    for (part, number) in partition(&snapshot, partitions).iter().zip(0..) {
        let message = &encode(&header(1), part).messages[0];
        let content = Batch::decode(message, None).expect("a batch").content;
        assert!(content.counters.len() > 50, "{number}: {}", content.counters.len());
        assert!(content.counters.iter().all(|point| partition_of(&point.series, partitions) == number));
        assert!(content.timers.iter().all(|point| partition_of(&point.series, partitions) == number));
    }
}

/// Bytes that were messages, and others, are read or refused; what is read can be merged and written again.
#[test]
fn any_bytes_are_a_batch_or_an_error() {
    let mut random = Random(4242);
    let snapshot = interval(60, &mut random);
    let policy = Arc::new(SummaryPolicy::default());
    let part = &partition(&snapshot, NonZeroU16::MIN)[0];
    let message = encode(&header(1), part).messages.remove(0);
    let (mut read, mut refused) = (0, 0);
    for round in 0..20_000 {
        let mut bytes = match round % 4 {
            0 => (0..random.below(200)).map(|_| random.next() as u8).collect(),
            _ => message.clone(),
        };
        if !bytes.is_empty() {
            if round % 8 == 0 {
                bytes[0] = FORMAT;
            }
            for _ in 0..1 + random.below(3) {
                let at = random.below(bytes.len());
                match random.below(4) {
                    0 => bytes[at] ^= 1 << random.below(8),
                    1 => bytes[at] = random.next() as u8,
                    2 => bytes.truncate(at + 1),
                    _ => bytes.insert(at, random.next() as u8),
                }
            }
        }
        match Batch::decode(&bytes, None) {
            Ok(batch) => {
                read += 1;
                let merged = merge(vec![batch.clone(), batch], &policy);
                let again = encode(&header(1), &partition(&merged, NonZeroU16::MIN)[0]);
                Batch::decode(&again.messages[0], None).expect("what was written can be read");
            }
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().is_empty());
            }
        }
    }
    assert!(read > 100 && refused > 10_000, "{read} read, {refused} refused");
}
