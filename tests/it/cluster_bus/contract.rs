//! What a driver relies on, of any bus.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use systole::internals::cluster::{Chain, NodeName, Record, Sequence, Stored, StoredBatch};
use systole::internals::cluster_bus::{Answer, Bus, BusError, Page, Responder};
use tokio::sync::Notify;
use tokio::time::Instant;

/// For how long sessions are kept here.
pub const SESSION_MAX_AGE: Duration = Duration::from_secs(2);

/// Batches of each edge and partition while the leader dies.
const MANY: u32 = 1000;

/// No call fails for so long, whoever dies.
const PATIENCE: Duration = Duration::from_secs(25);

/// Where buses are: several, which share what they keep.
pub trait Place: Send + Sync + 'static {
    /// The bus of a node, 0 to 2.
    fn bus(&self, node: usize) -> Arc<dyn Bus>;

    /// Kills what keeps batches and records, without a word; comes back when that is over.
    fn kill_leader(&self) -> impl Future<Output = ()> + Send;
}

/// All of it, on a new bus.
pub async fn holds(place: Arc<impl Place>) {
    let buses = [place.bus(0), place.bus(1), place.bus(2)];
    nodes_that_start_at_once_prepare_it(&buses).await;
    batches_are_read_in_order_from_anywhere(&*buses[0], &*buses[1]).await;
    nodes_answer_each_other(&*buses[0], &buses[1]).await;
    records_follow_each_other(&*buses[0], &*buses[1]).await;
    of_two_that_race_one_wins(&buses, 4, 20).await;
    checkpoints_of_any_length_are_read_back(&*buses[0], &*buses[1]).await;
    sessions_are_replaced_and_expire(&*buses[0], &*buses[1]).await;
    what_is_acknowledged_outlives_the_leader(&place, &buses).await;
    for bus in buses {
        bus.close().await.expect("closed");
        assert!(matches!(bus.sessions().await, Err(BusError::Failed(_))));
    }
}

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

fn bytes(text: impl Into<String>) -> Bytes {
    Bytes::from(text.into())
}

fn payloads<'a>(all: impl IntoIterator<Item = &'a StoredBatch>) -> Vec<&'a [u8]> {
    all.into_iter().map(|batch| &batch.payload[..]).collect()
}

/// Asks again while the bus can't be reached, as a driver does.
async fn again<'a, T>(ask: impl Fn() -> Answer<'a, T>) -> T {
    let begun = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error @ (BusError::Refused | BusError::Different { .. })) => panic!("{error}"),
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn nodes_that_start_at_once_prepare_it(buses: &[Arc<dyn Bus>; 3]) {
    let [a, b, c] = buses;
    for _ in 0..2 {
        tokio::join!(again(|| a.prepare()), again(|| b.prepare()), again(|| c.prepare()));
    }
    let page = a.batches(0, 1).await.expect("read");
    assert!(page.batches.is_empty() && page.is_end, "{page:?}");
    assert_eq!((page.first, page.last), (1, 0));
    assert!(a.sessions().await.expect("read").is_empty());
    assert!(a.last_record(0).await.expect("read").is_none());
    assert!(a.records(0, 0).await.expect("read").is_empty());
}

/// All batches from a sequence on.
async fn read_all(bus: &dyn Bus, partition: u16, from: Sequence) -> (Vec<StoredBatch>, Page) {
    let (mut all, mut from) = (Vec::new(), from);
    let begun = Instant::now();
    loop {
        let mut page = again(|| bus.batches(partition, from)).await;
        assert!(begun.elapsed() < PATIENCE, "there is no end");
        all.append(&mut page.batches);
        from = all.last().map_or(from, |batch| batch.sequence + 1);
        if page.is_end {
            return (all, page);
        }
    }
}

async fn batches_are_read_in_order_from_anywhere(a: &dyn Bus, b: &dyn Bus) {
    let put = async |n: u32| {
        for (edge, partition) in [("one", 0), ("one", 1), ("two", 0)] {
            let sent = f64::from(n) + 0.1;
            again(|| a.put_batch(partition, &name(edge), sent, bytes(format!("{edge} {n}")))).await;
        }
    };
    for n in 0..20 {
        put(n).await;
    }
    let expected = |n| (n..20).flat_map(|n| [format!("one {n}"), format!("two {n}")]).collect::<Vec<_>>();
    let (all, page) = read_all(b, 0, 1).await;
    assert_eq!(payloads(&all), expected(0).iter().map(String::as_bytes).collect::<Vec<_>>());
    assert!(all.is_sorted_by_key(|batch| batch.sequence) && all.is_sorted_by(|a, b| a.stored <= b.stored));
    assert_eq!((all[38].sent, all[39].sent), (19.1, 19.1));
    assert!(page.first == 1 && page.last >= all[39].sequence, "{page:?}");

    // From the middle, from the beginning again, and on from the end.
    for from in [10, 0, 19] {
        let (some, _) = read_all(b, 0, all[from * 2].sequence).await;
        assert_eq!(payloads(&some), expected(from).iter().map(String::as_bytes).collect::<Vec<_>>());
    }
    let (none, page) = read_all(b, 0, all[39].sequence + 1).await;
    assert!(none.is_empty() && page.is_end);
    put(20).await;
    let (new, page) = read_all(b, 0, all[39].sequence + 1).await;
    assert_eq!(payloads(&new), [&b"one 20"[..], b"two 20"]);
    assert!(page.last >= new[1].sequence, "{page:?}");
    // No batch of another partition is between two.
    assert_eq!(read_all(b, 1, 1).await.0.len(), 21);

    // Again, out of order, with one that belongs to another partition.
    let (other, _) = read_all(b, 1, 1).await;
    let sequences = [all[30].sequence, other[3].sequence, all[2].sequence, all[3].sequence];
    let bodies = again(|| b.bodies(0, &sequences)).await;
    assert_eq!(payloads(&bodies), payloads([&all[30], &all[2], &all[3]]));
    assert_eq!((bodies[0].sent, bodies[0].stored), (all[30].sent, all[30].stored));
}

async fn nodes_answer_each_other(a: &dyn Bus, b: &Arc<dyn Bus>) {
    let two = name("two");
    // Nobody is there yet.
    assert!(matches!(a.ask(&two, bytes("?")).await, Err(BusError::Failed(_))));
    let (serving, long) = (b.clone(), vec![b'x'; 300 << 10]);
    let responder: Responder = Arc::new(move |question| {
        let (is_silent, answer) = (question == "silent", [&question[..], &long[..]].concat());
        Box::pin(async move { (!is_silent).then(|| Bytes::from(answer)) })
    });
    let served = tokio::spawn(async move { serving.serve(&name("two"), responder).await });
    for question in ["one", "two"] {
        let answer = again(|| a.ask(&two, bytes(question))).await;
        assert_eq!((&answer[..3], answer.len()), (question.as_bytes(), 3 + (300 << 10)));
    }
    assert_eq!(a.ask(&two, bytes("silent")).await, Err(BusError::TimedOut));
    served.abort();
    let begun = Instant::now();
    while a.ask(&two, bytes("?")).await.is_ok() {
        assert!(begun.elapsed() < PATIENCE, "it answers still");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn records_follow_each_other(a: &dyn Bus, b: &dyn Bus) {
    let mut last = 0;
    for n in 0..10 {
        for partition in [3, 5] {
            let expected = again(|| a.last_record(partition)).await.map_or(0, |record| record.sequence);
            assert_eq!(a.write_record(partition, expected, bytes(n.to_string())).await, Ok(()));
            last = again(|| a.last_record(partition)).await.expect("a record").sequence;
        }
    }
    let (mut all, mut after) = (Vec::<Stored>::new(), 0);
    while all.len() < 10 {
        let mut some = again(|| b.records(5, after)).await;
        assert!(!some.is_empty());
        all.append(&mut some);
        after = all[all.len() - 1].sequence;
    }
    let found: Vec<&[u8]> = all.iter().map(|record| &record.payload[..]).collect();
    let expected: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    assert_eq!(found, expected.iter().map(String::as_bytes).collect::<Vec<_>>());
    assert_eq!(all[9].sequence, last);
    assert!(again(|| b.records(5, last)).await.is_empty());
    // What follows another one than the last is rubbish, and stays out.
    assert_eq!(a.write_record(5, all[8].sequence, bytes("late")).await, Err(BusError::Refused));
    assert_eq!(a.write_record(5, 0, bytes("first")).await, Err(BusError::Refused));
    assert_eq!(again(|| b.last_record(5)).await.expect("a record").sequence, last);
}

/// The valid record, found as a node finds it that begins: old ones are gone.
async fn valid(bus: &dyn Bus, partition: u16) -> Chain {
    let last = again(|| bus.last_record(partition)).await;
    let mut chain = Chain::begin(last.as_ref());
    loop {
        let records = again(|| bus.records(partition, chain.last())).await;
        if records.is_empty() {
            return chain;
        }
        for record in &records {
            assert!(chain.take(record), "records are missing");
        }
    }
}

fn record((prev, follows): (Sequence, u64), token: u64) -> Bytes {
    Record { prev, follows, token, ..Record::genesis() }.encode()
}

/// Both nodes write after the same record, and again until one of them has won, which both find.
async fn of_two_that_race_one_wins(buses: &[Arc<dyn Bus>; 3], partition: u16, rounds: u64) {
    let mut wins = BTreeSet::new();
    for round in 0..rounds {
        let before = valid(&*buses[0], partition).await;
        let begun = Instant::now();
        let race = async |bus: &dyn Bus, token: u64| {
            let mut seen = before.clone();
            while seen.valid().0 == before.valid().0 {
                assert!(begun.elapsed() < PATIENCE, "{token} neither wins nor loses");
                let _proves_nothing = bus.write_record(partition, seen.last(), record(before.tip(), token)).await;
                for record in again(|| bus.records(partition, seen.last())).await {
                    assert!(seen.take(&record), "records are missing");
                }
            }
            seen.valid().1.expect("it was read").token
        };
        let (a, b) = tokio::join!(race(&*buses[1], 2 * round), race(&*buses[2], 2 * round + 1));
        assert!(a == b && a / 2 == round, "{round}: {a} and {b}");
        wins.insert(a);
    }
    assert_eq!(wins.len() as u64, rounds);
}

async fn checkpoints_of_any_length_are_read_back(a: &dyn Bus, b: &dyn Bus) {
    let long: Bytes = (0..2_500_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    let all = [(0, bytes("short")), (0, long.clone()), (5, bytes("")), (0, long.slice(..512 << 10)), (1, long)];
    let mut written = Vec::new();
    for (partition, payload) in &all {
        written.push(again(|| a.write_checkpoint(*partition, payload.clone())).await);
    }
    for ((partition, payload), sequence) in all.iter().zip(&written) {
        let found = again(|| b.read_checkpoint(*partition, *sequence)).await;
        assert!(found.as_ref() == Some(payload), "checkpoint {sequence} of {partition}");
    }
    assert_eq!(again(|| b.read_checkpoint(1, written[0])).await, None);
}

async fn sessions_are_replaced_and_expire(a: &dyn Bus, b: &dyn Bus) {
    let mut put = Vec::new();
    for (node, text) in [("x", "first"), ("y", "first"), ("x", "second")] {
        put.push(again(|| a.put_session(&name(node), bytes(text))).await);
    }
    let found = again(|| b.sessions()).await;
    let brief: Vec<_> = found.iter().map(|session| (session.sequence, &session.payload[..])).collect();
    assert_eq!(brief, [(put[1], &b"first"[..]), (put[2], b"second")]);
    let begun = Instant::now();
    while !again(|| b.sessions()).await.is_empty() {
        assert!(begun.elapsed() < 5 * SESSION_MAX_AGE, "they never expire");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Edges write one batch after the other, a node reads them, and others race for records, while the leader dies.
async fn what_is_acknowledged_outlives_the_leader(place: &Arc<impl Place>, buses: &[Arc<dyn Bus>; 3]) {
    let (written, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let some_are_written = Arc::new(Notify::new());
    let mut writers = Vec::new();
    for (node, partition) in [(0, 6), (0, 7), (1, 6), (1, 7)] {
        let (bus, written, some_are_written) = (buses[node].clone(), written.clone(), some_are_written.clone());
        writers.push(tokio::spawn(async move {
            let edge = name(&format!("edge-{node}"));
            for n in 0..MANY {
                again(|| bus.put_batch(partition, &edge, 0.5, bytes(format!("{edge} {n}")))).await;
                if written.fetch_add(1, Ordering::Relaxed) == 100 {
                    some_are_written.notify_one();
                }
            }
        }));
    }
    let reader = {
        let (bus, is_over) = (buses[2].clone(), is_over.clone());
        tokio::spawn(async move {
            let mut all = Vec::<StoredBatch>::new();
            loop {
                let is_last = is_over.load(Ordering::Relaxed);
                let from = all.last().map_or(1, |batch| batch.sequence + 1);
                let (mut some, _) = read_all(&*bus, 6, from).await;
                all.append(&mut some);
                if is_last {
                    return all;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    };
    some_are_written.notified().await;
    let kill = async {
        place.kill_leader().await;
        assert!(written.load(Ordering::Relaxed) < 4 * MANY as usize, "nobody was writing any more");
    };
    tokio::join!(kill, of_two_that_race_one_wins(buses, 5, 40));
    for writer in writers {
        writer.await.expect("it does not panic");
    }
    is_over.store(true, Ordering::Relaxed);
    let read = reader.await.expect("it does not panic");

    for partition in [6, 7] {
        let (all, _) = read_all(&*buses[1], partition, 1).await;
        let mut seen = BTreeMap::<&str, u32>::new();
        for batch in &all {
            let text = std::str::from_utf8(&batch.payload).expect("text");
            let (edge, n) = text.split_once(' ').expect("an edge and a number");
            let (next, n) = (seen.entry(edge).or_default(), n.parse::<u32>().expect("a number"));
            assert!(n <= *next, "{edge} of {partition}: {n} instead of {next}");
            *next = (*next).max(n + 1);
        }
        assert_eq!(seen, BTreeMap::from([("edge-0", MANY), ("edge-1", MANY)]));
        if partition == 6 {
            let brief =
                |all: &[StoredBatch]| all.iter().map(|one| (one.sequence, one.payload.clone())).collect::<Vec<_>>();
            assert_eq!(brief(&read), brief(&all), "who read all the time has seen something else");
        }
    }
    assert_eq!(valid(&*buses[0], 5).await.valid().0, valid(&*buses[1], 5).await.valid().0);
}
