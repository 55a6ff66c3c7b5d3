//! What one node tells another, and takes of it, page after page.

use super::*;
use crate::presence::event::Severity;
use crate::presence::{AlertName, AlertState, Policy};
use crate::protocol::{Heartbeat, Heartbeats, Line, Options, Signal, parse_line};

fn at(secs: f64) -> EngineTime {
    EngineTime::from_secs(secs)
}

const UNIX: UnixTime = UnixTime::from_secs(1e9);

/// A node with as many peers as names.
struct Node {
    engine: Engine,
    observers: Observers,
}

impl Node {
    fn new(name: &str, start: u64, peers: &[&str]) -> Node {
        let urls: Vec<String> = peers.iter().map(|peer| format!("http://{peer}")).collect();
        let policy = Policy { max_registrations_per_second: 1_000_000, ..Policy::default() };
        let none = std::iter::empty();
        Node {
            engine: Engine::new(policy, at(0.0), 1).shared(),
            observers: Observers::new(name, start, &urls, SavedObservers::default(), none, (at(0.0), UNIX)),
        }
    }

    fn digest(&self, since: Option<Cursor>) -> Digest {
        self.observers.digest(&self.engine, since, UNIX)
    }

    fn take(&mut self, peer: usize, digest: Digest) -> Result<bool, Mistaken> {
        let now = self.engine.now();
        self.observers.take_digest(peer, digest, &mut self.engine, (now, UNIX))
    }

    fn at(&mut self, secs: f64) {
        self.engine.at(at(secs));
        self.observers.tick(&mut self.engine, UNIX);
    }

    fn view(&self, peer: usize) -> PeerView {
        self.observers.view(&self.engine).peers[peer].clone()
    }
}

fn over_the_wire(digest: &Digest) -> (usize, Digest) {
    let json = serde_json::to_vec(digest).expect("JSON");
    (json.len(), Digest::read(&json).expect("an answer"))
}

/// Asks until there is no more; the lengths of the answers.
fn exchange(from: &Node, to: &mut Node) -> Vec<usize> {
    let mut pages = Vec::new();
    loop {
        let since = to.observers.cursor(0);
        let (bytes, digest) = over_the_wire(&from.digest(since));
        assert_eq!((digest.wrong, digest.check_step(since)), (0, Ok(())));
        pages.push(bytes);
        if to.take(0, digest) == Ok(false) {
            return pages;
        }
    }
}

fn alarm(n: usize) -> Notification {
    let key = AlertKey { service: Some(format!("s{n}").into()), ..AlertKey::of(AlertName::Job) };
    let alarm = Alarm {
        key,
        severity: Severity::Warning,
        text: "\u{1}".repeat(6_000),
        since: UNIX,
        until: None,
        state: AlertState::Firing,
    };
    Notification { alarm, resolved: false, event: None, detail: String::new(), version: 0, ending: None }
}

#[test]
fn every_name_that_is_taken_off_the_wire_is_taken_from_a_peer() {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    let mut add = |name: &[u8]| {
        for (before, after) in
            [("heartbeat.", ":10|g"), ("heartbeat:10|g|#service:", ""), ("_sc|heartbeat|0|#service:", "")]
        {
            let tags = [b",instance:", name, b",start:", name, b",version:", name].concat();
            let section: &[u8] = if after.is_empty() { b"" } else { b"|#x:y" };
            lines.push([before.as_bytes(), name, after.as_bytes(), section, &tags].concat());
        }
    };
    for byte in 0..=255_u8 {
        add(&[byte]);
        add(&[b'a', byte, b'b']);
        add(&[byte; 128]);
    }
    for text in ["\u{85}", "\u{7f}\u{9f}", "\u{2028}", "\u{fffd}", "\"\\/", "peer", "\u{1F4A9}", "a b", "__", "../.."] {
        add(text.as_bytes());
    }
    let (mut a, mut b) = (Node::new("a", 1, &["b"]), Node::new("b", 2, &["a"]));
    let heartbeats = Heartbeats::default();
    let mut heard = 0;
    for line in &lines {
        let signal = match parse_line(line, &Options::default()) {
            Ok(Line::Samples(samples)) => heartbeats.of_line(samples, None),
            Ok(Line::ServiceCheck(check)) => heartbeats.of_check(&check, None),
            _ => None,
        };
        if let Some(Signal::Heartbeat(beat)) = signal {
            a.engine.beat(&beat);
            heard += 1;
        }
    }
    assert!(heard > 1_000, "{heard}");
    a.observers.note(vec![alarm(1)], a.engine.now());
    exchange(&a, &mut b);
    let names = |node: &Node| {
        let all = node.engine.view(crate::presence::Epoch::UNIX).into_iter();
        all.flat_map(|view| view.instances.into_iter().map(move |one| (view.service.clone(), one.instance)))
            .collect::<Vec<_>>()
    };
    assert_eq!((names(&b), b.view(0).refused), (names(&a), 0));
}

#[test]
fn a_large_fleet_is_told_in_pages_and_so_are_those_whom_others_have_heard() {
    let (mut a, mut b, mut c) = (Node::new("a", 1, &["b"]), Node::new("b", 2, &["a"]), Node::new("c", 3, &["b"]));
    let hostile = "\"".repeat(120);
    for n in 0..6_000 {
        let own = if n % 2 == 0 { &mut a } else { &mut b };
        let service = format!("s{}-{hostile}", n % 100).into();
        own.engine.beat(&Heartbeat {
            service,
            instance: n.to_string().into(),
            interval: Some(1_000.0),
            ..Heartbeat::default()
        });
    }
    for node in [&mut a, &mut b, &mut c] {
        node.at(70.0);
    }
    for n in 0..200 {
        a.observers.note(vec![alarm(n)], a.engine.now());
    }
    let pages = exchange(&a, &mut b);
    assert!(pages.len() > 20 && pages.iter().all(|bytes| *bytes < 300 << 10), "{pages:?}");
    assert_eq!((b.engine.summary().present, b.observers.peers[0].open.len()), (6_000, 200));
    // What b has of a, c gets from b.
    let pages = exchange(&b, &mut c);
    assert!(pages.len() > 5 && pages.iter().all(|bytes| *bytes < 300 << 10), "{pages:?}");
    assert_eq!(c.engine.summary().present, 6_000);
    // It is told once.
    assert!(exchange(&b, &mut c).iter().all(|bytes| *bytes < 1_000));
}

#[test]
fn a_peer_that_always_has_more_is_lost_and_judged_without() {
    let (mut a, b) = (Node::new("a", 1, &["b"]), Node::new("b", 2, &["a"]));
    let page = |n: u64| Digest { more: true, cursor: format!("2.{n}.1"), ..b.digest(None) };
    let mut lost = None;
    for step in 0_u32..60 {
        let secs = f64::from(step) * 0.25;
        a.at(secs);
        assert_eq!(a.take(0, page(u64::from(step))), Ok(true));
        if lost.is_none() && a.observers.answering().next().is_none() {
            lost = Some(secs);
            assert!(a.observers.may_judge(a.engine.now()));
        }
    }
    assert!(lost.is_some_and(|secs| secs <= 2.25), "{lost:?}");
    // Without a whole answer it does not count as one that answers, nor speaks for this one.
    assert_eq!((a.view(0).reachable, a.observers.speaker()), (false, Some("a")));
    assert_eq!(a.take(0, b.digest(None)), Ok(false));
    assert!(a.view(0).reachable);
}

#[test]
fn three_polls_that_end_without_a_whole_answer_are_a_lost_peer_whatever_came() {
    let (mut a, b) = (Node::new("a", 1, &["b"]), Node::new("b", 2, &["a"]));
    for _ in 0..3 {
        assert!(a.observers.answering().next().is_some());
        assert_eq!(a.take(0, Digest { more: true, ..b.digest(None) }), Ok(true));
        a.observers.miss(0, Missed::More, &mut a.engine);
    }
    assert!(a.observers.answering().next().is_none());
}

#[test]
fn problems_of_a_peer_have_a_bound_and_their_bytes_are_counted() {
    let memory = Memory::new(16 << 20);
    let (mut a, mut b) = (Node::new("a", 1, &["b"]), Node::new("b", 2, &["a"]));
    a.observers = a.observers.in_memory(&memory);
    let cap = memory.cap(Holder::Presence);
    let count = (cap / 4_096) as usize;
    for n in 0..count {
        b.observers.note(vec![alarm(n)], b.engine.now());
    }
    exchange(&b, &mut a);
    let held = memory.bytes(Holder::Presence);
    assert!(held <= cap && held > cap / 2, "{held} of {cap}");
    let (open, refused) = (a.observers.peers[0].open.len(), a.view(0).refused);
    assert!(refused > 0 && open as u64 + refused == count as u64, "{open} and {refused} of {count}");
    assert_eq!(a.engine.refusals().of(crate::presence::Refusal::Digest), refused);
    a.at(2.0);
    let counted = memory.bytes(Holder::Presence);
    assert!(counted.abs_diff(held) < held / 4, "{counted}, estimated as {held}");
    // Versions and ends are learnt of no more than there is room for.
    let rows = (0..count).map(|n| ProblemRow {
        key: AlertKey { instance: Some(n.to_string().into()), ..AlertKey::of(AlertName::Job) },
        severity: Severity::Warning,
        text: "x".repeat(4_000),
        age: 1.0,
        ends_in: None,
        open: false,
        closed_age: Some(0.5),
        ending: None,
        told: BTreeMap::from([("hook".into(), ToldRow { version: 1, age: 1.0, severity: Severity::Warning })]),
    });
    assert_eq!(a.take(0, Digest { problems: rows.collect(), ..b.digest(a.observers.cursor(0)) }), Ok(false));
    a.at(4.0);
    assert!(memory.bytes(Holder::Presence) <= cap + cap / 8, "{}", memory.bytes(Holder::Presence));
    assert!(a.observers.peers[0].closed.len() < count);
}

#[test]
fn peers_may_swap_their_addresses_and_one_name_is_refused_while_another_has_it() {
    let mut a = Node::new("a", 1, &["b", "c"]);
    let (b, c) = (Node::new("b", 2, &["a"]), Node::new("c", 3, &["a"]));
    assert_eq!((a.take(0, b.digest(None)), a.take(1, c.digest(None))), (Ok(false), Ok(false)));
    assert_eq!(a.take(1, b.digest(None)), Err(Mistaken::Namesake("b".into())));
    assert_eq!(a.take(0, c.digest(None)), Err(Mistaken::Namesake("c".into())));
    for _ in 0..MISSED_POLLS {
        (0..2).for_each(|peer| a.observers.miss(peer, Missed::Silent, &mut a.engine));
    }
    assert_eq!((a.take(0, c.digest(None)), a.take(1, b.digest(None))), (Ok(false), Ok(false)));
    assert_eq!((a.view(0).node, a.view(1).node), (Some("c".into()), Some("b".into())));
    assert_eq!(a.take(0, a.digest(None)), Err(Mistaken::Namesake("a".into())));
}

#[test]
fn what_a_peer_tells_anew_replaces_what_it_told_when_all_of_it_is_there() {
    let (mut a, mut b) = (Node::new("a", 1, &["b"]), Node::new("b", 2, &["a"]));
    for n in 0..200 {
        b.observers.note(vec![alarm(n)], b.engine.now());
    }
    exchange(&b, &mut a);
    assert_eq!(a.observers.peers[0].open.len(), 200);
    // It starts again, and has none of the first half.
    b.observers = Node::new("b", 9, &["a"]).observers;
    for n in 100..200 {
        b.observers.note(vec![alarm(n)], b.engine.now());
    }
    assert_eq!(a.take(0, b.digest(a.observers.cursor(0))), Ok(true));
    assert_eq!(a.observers.peers[0].open.len(), 200);
    exchange(&b, &mut a);
    assert_eq!(a.observers.peers[0].open.len(), 100);
}

#[test]
fn a_cursor_that_is_none_of_ours_is_told_everything() {
    let mut b = Node::new("b", 2, &["a"]);
    b.observers.note(vec![alarm(1)], b.engine.now());
    for since in ["2.0.18446744073709551615", "2.18446744073709551615.18446744073709551615.4294967295", "3.0.1"] {
        let digest = b.digest(since.parse().ok());
        assert_eq!((digest.whole, digest.more, digest.problems.len()), (true, false, 1), "{since}");
    }
}

#[test]
fn seconds_that_a_peer_dropped_are_left_out_for_whom_it_alone_heard_as_far_as_they_are_since_their_last_beat() {
    let (mut a, mut b) = (Node::new("a", 1, &["b"]), Node::new("b", 2, &["a"]));
    let beat = |service: &str| Heartbeat {
        service: service.into(),
        instance: "x".into(),
        interval: Some(10.0),
        ..Heartbeat::default()
    };
    b.engine.beat(&beat("there"));
    a.engine.beat(&beat("here"));
    exchange(&b, &mut a);
    let silences = |a: &Node| {
        ["there", "here"].map(|service| {
            let view = a.engine.view_of_instance(service, "x", crate::presence::Epoch::UNIX);
            view.expect("it is known").silence_s
        })
    };
    a.engine.at(at(20.0));
    for (dropped_ms, expected) in [(vec![20_001, 61_000], [20.0, 20.0]), (vec![5_000, 6_000], [18.0, 20.0])] {
        let digest = Digest { dropped_ms, ..b.digest(a.observers.cursor(0)) };
        assert_eq!((a.take(0, digest), silences(&a)), (Ok(false), expected));
    }
}
