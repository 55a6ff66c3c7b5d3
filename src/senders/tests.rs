//! The whole of it without sockets: sketches of workers, interval by interval, and what is published.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::*;
use crate::protocol::Reason;
use crate::random::Random;

/// Senders of the tests, by number.
fn origin(n: usize) -> Origin {
    Origin::at(Ipv4Addr::from(0x7f00_0001 + n as u32 * 37).into())
}

/// Reads batches of 64 datagrams, each from the sender that `sender` draws, and of one line; `received` came before.
fn read(sketch: &mut Sketch, batches: usize, received: u64, mut sender: impl FnMut() -> usize) {
    for batch in 0..batches {
        sketch.begin_batch(received + batch as u64 * 64, 0, false);
        for _ in 0..64 {
            let n = sender();
            if sketch.attends() {
                sketch.begin_lines(b"job.step.load:1|c", origin(n));
            }
        }
    }
}

fn close(summary: &mut Summary, sketch: &mut Sketch, number: u64, lines: u64) -> Arc<Report> {
    let part = Part { listener: "udp://test".into(), lines, gathered: sketch.close(lines) };
    let closed = Closed { end: number as f64 * 10.0, length_secs: 10.0 };
    Arc::new(summary.close(&closed, &[part], |pid| (pid == 7).then(|| "nginx".to_string())))
}

/// Numbers from [0, 1).
fn random() -> impl FnMut() -> f64 {
    let mut random = Random::new(1);
    move || random.unit()
}

#[test]
fn shares_of_a_thousand_senders_are_right_to_a_point_when_one_batch_in_64_is_looked_at() {
    const SENDERS: usize = 1000;
    let weight = |n: usize| 1.0 / (n + 1) as f64;
    let all: f64 = (0..SENDERS).map(weight).sum();
    let sums: Vec<f64> = (0..SENDERS)
        .scan(0.0, |sum, n| Some(std::mem::replace(sum, *sum + weight(n) / all) + weight(n) / all))
        .collect();
    let mut next = random();
    let mut draw = || {
        let u = next();
        sums.partition_point(|&sum| sum < u).min(SENDERS - 1)
    };
    let (mut sketch, mut summary) = (Sketch::new(7, false, false), Summary::new(""));
    // So many came in the interval before that one batch in 64 is enough.
    sketch.close(600_000);
    let mut report = Arc::default();
    for interval in 1..=3 {
        read(&mut sketch, 9_000, 0, &mut draw);
        report = close(&mut summary, &mut sketch, interval, 9_000 * 64);
    }
    assert!((50.0..=64.0).contains(&report.sampled_one_in) && report.window_secs > 10.0, "{report:?}");
    assert!((0.002..0.01).contains(&report.error), "{}", report.error);
    for n in 0..20 {
        let stat = report.stat_of(&Sender::new(origin(n), b"")).expect("it is known");
        let (share, right) = (report.share_of(&stat.rates), weight(n) / all);
        assert!((share - right).abs() < 0.01, "{n}: {share} of {right}");
    }
    assert!((report.lines_per_sec / 57_600.0 - 1.0).abs() < 1e-9, "{}", report.lines_per_sec);
    let spark = &report.senders[0].spark;
    assert!(spark.len() == 3 && spark.iter().all(|&point| (6000.0..9500.0).contains(&point)), "{spark:?}");
}

#[test]
fn of_few_datagrams_each_is_looked_at_and_what_has_stopped_is_gone() {
    let (mut sketch, mut summary) = (Sketch::new(7, false, false), Summary::new("eu."));
    let mut turn = 0;
    read(&mut sketch, 100, 0, || {
        turn += 1;
        usize::from(turn % 4 == 0)
    });
    let report = close(&mut summary, &mut sketch, 1, 6400);
    assert_eq!((report.sampled_one_in, report.error, report.seen), (1.0, 0.0, 2.0));
    assert_eq!((report.senders[0].rates.lines, report.senders[1].rates.lines), (480.0, 160.0));
    let shares = report.of_series("eu.job.step.wait");
    assert_eq!((shares.len(), shares[0].share, shares[0].id.as_str()), (2, 0.75, "127.0.0.1"));
    assert!(report.of_series("eu.other").is_empty());
    assert!(close(&mut summary, &mut sketch, 2, 0).senders.is_empty());
}

/// New series of an interval, a value of `request_id` each.
fn explode(sketch: &mut Sketch, interval: usize, count: usize) {
    sketch.begin_batch(0, 0, false);
    for n in 0..count {
        sketch.begin_lines(b"job.step:1|c", origin(9));
        let value = format!("{}", interval * count + n);
        let tags = [(&b"region"[..], &b"eu"[..]), (b"request_id", value.as_bytes())];
        sketch.new_series(b"job.step.load", || b"", tags.into_iter(), false);
    }
}

#[test]
fn a_tag_that_explodes_is_named_after_two_intervals_with_its_prefix_and_its_sender() {
    let (mut sketch, mut summary) = (Sketch::new(7, false, false), Summary::new(""));
    (1..=2).for_each(|interval| _ = close(&mut summary, &mut sketch, interval, 0));
    for interval in 3..=5 {
        explode(&mut sketch, interval as usize, 12_400);
        let report = close(&mut summary, &mut sketch, interval, 12_400);
        assert_eq!(report.warnings.len(), usize::from(interval > 3), "{:?}", report.warnings);
        let Some(SenderWarning { text: sentence, short }) = report.warnings.first() else { continue };
        assert!(short.starts_with("1,2") && short.ends_with(" new/s by request_id"), "{short}");
        let (tag, rest) = sentence.split_once(" makes 1,2").expect("about 1,240");
        assert_eq!((tag, &rest[2..]), ("Tag `request_id`", " new series a second, under `job.step.`, from 127.0.1.78"));
    }
    // Few series share a value, so it is no roll-out.
    assert!(close(&mut summary, &mut sketch, 6, 0).warnings.is_empty());
}

#[test]
fn values_of_names_without_room_are_extrapolated() {
    let (mut sketch, mut summary) = (Sketch::new(7, false, false), Summary::new(""));
    sketch.begin_batch(0, 0, true);
    for n in 0..170_000 {
        let value = format!("{n}");
        let tags = [(&b"region"[..], &b"eu"[..]), (b"request_id", value.as_bytes())];
        sketch.new_series(b"job.step.load", || b"", tags.into_iter(), true);
    }
    let report = close(&mut summary, &mut sketch, 1, 170_000);
    assert_eq!(report.prefixes[0].1.folded, 17_000.0);
    // What is extrapolated of a sender is no more than its lines.
    assert!(report.senders.iter().all(|stat| stat.rates.folded <= stat.rates.lines), "{:?}", report.senders);
    let rate = |key: &str| report.tag_keys.iter().find(|known| known.key == key).expect("it is there").new_per_sec;
    assert!((rate("request_id") / 17_000.0 - 1.0).abs() < 0.06 && rate("region") < 0.11, "{:?}", report.tag_keys);
}

#[test]
fn a_roll_out_is_no_explosion() {
    let (mut sketch, mut summary) = (Sketch::new(7, false, false), Summary::new(""));
    (1..=2).for_each(|interval| _ = close(&mut summary, &mut sketch, interval, 0));
    for interval in 3..=5_usize {
        for host in 0..600 {
            for _ in 0..40 {
                let value = format!("pod-{interval}-{host}");
                sketch.new_series(b"web.hits", || b"", [(&b"host"[..], value.as_bytes())].into_iter(), false);
            }
        }
        assert!(close(&mut summary, &mut sketch, interval as u64, 24_000).warnings.is_empty());
    }
}

#[test]
fn while_a_limit_is_near_every_batch_asks_and_its_events_have_senders() {
    let sketch = || {
        let mut sketch = Sketch::new(7, false, false);
        sketch.close(100_000_000);
        sketch.begin_batch(0, 0, false);
        sketch
    };
    let asks = |sketch: &mut Sketch, lines, near| {
        sketch.begin_batch(0, lines, near);
        let asked = |_: &u64| {
            sketch.begin_batch(0, lines, near);
            sketch.asks()
        };
        (0..640).filter(asked).count()
    };
    assert!((2..=30).contains(&asks(&mut sketch(), 0, false)), "one in 64");
    assert_eq!(asks(&mut sketch(), 0, true), 640);
    let mut many_new = sketch();
    (0..1000).for_each(|_| many_new.new_series(b"a", || b"", std::iter::empty(), false));
    assert_eq!(asks(&mut many_new, 0, false), 640);
    let malformed = || {
        let mut sketch = sketch();
        (0..1000).for_each(|_| _ = sketch.malformed(b"x", Reason::BadValue));
        sketch
    };
    assert_eq!(asks(&mut malformed(), 100_000, false), 640);
    assert!(asks(&mut malformed(), 100_001, false) < 40, "fewer than one in a hundred lines");
}

#[test]
fn names_that_find_no_room_and_floods_of_malformed_lines_are_named_with_their_sender() {
    let (mut sketch, mut summary) = (Sketch::new(7, false, false), Summary::new(""));
    let mut said = Vec::new();
    for interval in 1..=2 {
        (0..2).for_each(|_| sketch.begin_batch(0, 0, true));
        for n in 0..2000_usize {
            sketch.begin_lines(b"user.1.clicks:1|c", origin(3));
            sketch.new_series(format!("user.{n}.clicks").as_bytes(), || b"ci-1", std::iter::empty(), true);
            sketch.begin_lines(b"api:1,5|ms", origin(4));
            if sketch.malformed(b"api:1,5|ms", Reason::BadValue) {
                sketch.keep_example(b"api:1,5|ms", Reason::BadValue, b"api:1,5|ms".to_vec());
            }
        }
        let report = close(&mut summary, &mut sketch, interval, 4000);
        said = report.warnings.iter().map(|notice| notice.text.clone()).collect();
    }
    let expected = [
        "Names that begin with `user.` make 200 new series a second, from 127.0.0.112 (ci-1)",
        "200 malformed lines a second (bad_value), such as `api:1,5|ms`, most of them from 127.0.0.149",
    ];
    assert_eq!(said, expected);
}

#[test]
fn processes_and_containers_are_senders_and_lines_in_between_are_not_mixed_up() {
    let (mut sketch, mut summary) = (Sketch::new(7, true, false), Summary::new(""));
    sketch.begin_batch(0, 0, false);
    sketch.begin_lines(b"a.x:1|c\na.x:2|c|c:ci-1\n\nb.y:1|c|c:ci-1\r\na.x:3|c", Origin::Process { pid: 7, uid: 33 });
    let report = close(&mut summary, &mut sketch, 1, 4);
    let found = |id: &str| {
        let at = report.senders.iter().position(|stat| stat.sender.to_string() == id).expect("it is there");
        let prefix = |at: u32| report.prefixes[at as usize].0.to_string();
        let mine = report.pairs.iter().filter(|(sender, ..)| *sender as usize == at);
        let mut pairs: Vec<_> = mine.map(|(_, at, rates)| (prefix(*at), rates.lines * 10.0)).collect();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        (report.senders[at].label(), report.senders[at].rates.bytes * 10.0, pairs)
    };
    assert_eq!(found("pid:7"), ("nginx".into(), 15.0, vec![("a.".into(), 2.0)]));
    let of_container = vec![("a.".to_string(), 1.0), ("b.".to_string(), 1.0)];
    assert_eq!(found("pid:7/ci-1"), ("nginx".into(), 31.0, of_container));
}

#[test]
fn what_is_kept_is_bounded_whatever_is_sent() {
    let (mut sketch, mut summary) = (Sketch::new(7, false, false), Summary::new(""));
    for interval in 1..=3_usize {
        sketch.begin_batch(0, 0, false);
        for n in 0..20_000 {
            let name = format!("x{}{}.{}", "y".repeat(n % 60), n * 7919, interval);
            let line = format!("{name}:1|c|c:ci-{n}");
            sketch.begin_lines(line.as_bytes(), origin(n * interval));
            let (key, value) = (format!("k{n}"), format!("v{n}"));
            sketch.new_series(name.as_bytes(), || b"", [(key.as_bytes(), value.as_bytes())].into_iter(), false);
            sketch.malformed(line.as_bytes(), Reason::ALL[n % Reason::ALL.len()]);
        }
        let bytes = sketch.heap_bytes();
        assert!(bytes < 1 << 20, "{bytes} of a worker");
        let report = close(&mut summary, &mut sketch, interval as u64, 20_000);
        assert!((report.seen / 40_000.0 - 1.0).abs() < 0.15, "{} seen", report.seen);
        let bytes = summary.heap_bytes() + report.heap_bytes();
        assert!(bytes < 2 << 20, "{bytes} of all");
    }
}
