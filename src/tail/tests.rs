use std::time::Duration;

use super::*;
use crate::acl::AccessList;

/// A tail of a daemon with presence, one who looks, and a worker.
fn looking(filter: Filter, limit: Option<u64>) -> (Tail, TailReader, TailTap) {
    let heartbeats = Heartbeats { secrets: vec!["s3cret".into()], ..Heartbeats::default() };
    let times = TimeWindow { past_secs: 100.0, future_secs: 10.0, origin: Some(0.0) };
    let tail = Tail::new(Some(heartbeats), times, &Memory::new(1 << 30));
    let tap = tail.tap().of_listener("udp://127.0.0.1:8125", Options::default());
    assert!(!tap.is_on());
    let reader = tail.open(filter, limit).expect("a place");
    assert!(tap.is_on());
    (tail, reader, tap)
}

fn datagram(tap: &TailTap, at: f64, text: &str) {
    let batch = TailBatch { at, lines: text.lines().count() as u64, is_malformed: true };
    tap.look(batch, std::iter::once((text.as_bytes(), Some("10.0.0.1:5".parse().expect("an address")), false)));
}

/// What waits for who looks, as JSON.
async fn shown(reader: &TailReader) -> Vec<serde_json::Value> {
    let mut all = Vec::new();
    while let Ok(Some(item)) = tokio::time::timeout(Duration::from_millis(1), reader.next()).await {
        all.push(match item {
            TailItem::Line(line) => serde_json::to_value(&*line).expect("JSON"),
            TailItem::Skipped(count) => serde_json::json!({ "skipped": count }),
        });
    }
    all
}

#[tokio::test(start_paused = true)]
async fn every_line_has_the_verdict_of_its_listener() {
    let (tail, reader, tap) = looking(Filter::default(), None);
    for (line, verdict, reason, kind, name) in [
        ("api.hits:1|c|#a:b", "ok", None, Some("counter"), Some("api.hits")),
        ("api.latency:12,5|ms", "malformed", Some("bad_value"), None, None),
        ("api.hits:1|c|T900", "ok", None, Some("counter"), Some("api.hits")),
        ("api.hits:1|c|T700", "malformed", Some("bad_timestamp"), Some("counter"), Some("api.hits")),
        ("a:1|c:x|g:2|ms", "malformed", Some("bad_value"), Some("counter"), Some("a")),
        ("heartbeat.pay.web-1:60|g|#key:s3cret|T1", "ok", None, Some("heartbeat"), Some("heartbeat.pay.web-1")),
        ("_e{6,1}:deploy|x", "ok", None, Some("event"), Some("deploy")),
        ("_e{6,1}:deploy|x|d:1", "malformed", Some("bad_timestamp"), Some("event"), Some("deploy")),
        ("_sc|disk|2", "ok", None, Some("service_check"), Some("disk")),
        ("hello", "malformed", Some("missing_type"), None, None),
    ] {
        datagram(&tap, 950.0, line);
        tail.hand_on(false);
        let found = shown(&reader).await;
        let found = found.first().unwrap_or_else(|| panic!("{line} is not shown"));
        assert_eq!((&found["verdict"], &found["reason"]), (&verdict.into(), &reason.into()), "{line}: {found}");
        assert_eq!((&found["kind"], &found["name"]), (&kind.into(), &name.into()), "{line}: {found}");
        assert_eq!((&found["from"], &found["listener"]), (&"10.0.0.1".into(), &"udp://127.0.0.1:8125".into()));
        assert!(!found["line"].as_str().expect("text").contains("s3cret"), "{found}");
    }
    tap.look_at_fragment(1.0, b"half\x1b a li", None, crate::protocol::Reason::BadFrame);
    tail.hand_on(false);
    let found = shown(&reader).await;
    assert_eq!((&found[0]["line"], &found[0]["reason"]), (&"half\\u{1b} a li".into(), &"bad_frame".into()));
    drop(reader);
    assert!(!tap.is_on());
}

#[tokio::test(start_paused = true)]
async fn only_what_is_wanted_is_shown() {
    let name = |name: &str| Filter { name: Some(name.into()), ..Filter::default() };
    let network = |text: &str| AccessList::new(Some(vec![text.parse().expect("a network")]));
    for (filter, expected) in [
        (name("api.*"), vec!["api.hits:1|c", "api.time:x|ms"]),
        (name("hits"), vec!["api.hits:1|c", "web.hits:1|c"]),
        (name("*.hits"), vec!["api.hits:1|c", "web.hits:1|c"]),
        (Filter { malformed: true, ..name("api.t?me") }, vec!["api.time:x|ms"]),
        (Filter { from: network("10.0.0.0/8"), ..name("web") }, vec!["web.hits:1|c"]),
        (Filter { from: network("10.9.0.0/16"), ..Filter::default() }, vec![]),
    ] {
        let (tail, reader, tap) = looking(filter.clone(), None);
        datagram(&tap, 1.0, "api.hits:1|c\n\nweb.hits:1|c\napi.time:x|ms\n");
        tail.hand_on(true);
        let found = shown(&reader).await;
        let lines: Vec<_> = found.iter().map(|line| line["line"].as_str().unwrap_or("something else")).collect();
        assert_eq!(lines, expected, "{filter:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_sampled_within_bounds_and_what_is_not_shown_is_counted() {
    let (tail, reader, tap) = looking(Filter::default(), None);
    let (mut lines, mut skipped, mut all) = (0, 0, 0);
    // Ten seconds of a hundred batches of 64 datagrams with 3 lines in each 10 ms.
    for turn in 0..200 {
        for slot in 0..5 {
            let at = f64::from(turn * 5 + slot) * 0.01;
            for _ in 0..100 {
                let text = b"a:1|c\nb:2|c\nc:3|c\n";
                tap.look(TailBatch { at, lines: 192, is_malformed: false }, (0..64).map(|_| (&text[..], None, false)));
                all += 192;
            }
        }
        assert!(tail.0.memory.bytes(Holder::HttpBodies) < 3 << 20);
        tail.hand_on(turn % 20 == 19);
        for item in shown(&reader).await {
            match item["skipped"].as_u64() {
                Some(count) => skipped += count,
                None => lines += 1,
            }
        }
    }
    let most = u64::from(MOST_PER_SECOND) * 11;
    assert!((most / 2..=most).contains(&lines), "{lines} lines");
    let known = (lines + skipped) as f64 / f64::from(all);
    assert!((0.99..=1.01).contains(&known), "{lines} lines and {skipped} skipped of {all}");
}

#[tokio::test(start_paused = true)]
async fn a_rare_line_is_found_in_a_flood_and_so_is_a_malformed_one() {
    for filter in
        [Filter { name: Some("rare.*".into()), ..Filter::default() }, Filter { malformed: true, ..Filter::default() }]
    {
        let (tail, reader, tap) = looking(filter, None);
        let rare = "rare.hits:x|c";
        for slot in 0..50 {
            // In the middle of its slot.
            let at = f64::from(slot) * 0.01 + 0.005;
            // The first batch of a slot has it, and is looked at whatever follows.
            let texts = (0..64).map(|n| (if n == 40 { rare } else { "a:1|c" }.as_bytes(), None, false));
            tap.look(TailBatch { at, lines: 64, is_malformed: true }, texts);
            let others = (0..640).map(|_| (&b"a:1|c"[..], None, false));
            tap.look(TailBatch { at, lines: 640, is_malformed: false }, others);
        }
        tail.hand_on(false);
        assert_eq!(shown(&reader).await.len(), 50);
    }
}

#[tokio::test(start_paused = true)]
async fn there_are_as_many_lines_as_asked_for_and_as_many_readers_as_there_are_places() {
    let (tail, reader, tap) = looking(Filter::default(), Some(2));
    datagram(&tap, 1.0, "a:1|c\nb:1|c\nc:1|c\n");
    tail.hand_on(true);
    assert_eq!(shown(&reader).await.len(), 2);
    assert!(reader.next().await.is_none());
    let more: Vec<_> = (1..MOST_CLIENTS).map(|_| tail.open(Filter::default(), None).expect("a place")).collect();
    assert!(tail.open(Filter::default(), None).is_none());
    drop(reader);
    assert!(tail.open(Filter::default(), None).is_some() && tap.is_on());
    drop(more);
    assert!(!tap.is_on());
}

#[tokio::test(start_paused = true)]
async fn a_piece_beyond_what_fits_is_cut_to_whole_lines() {
    let (tail, reader, tap) = looking(Filter::default(), None);
    let text = format!("first:1|c\n{}", "x".repeat(200_000));
    datagram(&tap, 1.0, &text);
    let cut = format!("whole:1|c\n{}", "y".repeat(3000));
    let batch = TailBatch { at: 2.0, lines: 2, is_malformed: true };
    tap.look(batch, std::iter::once((cut.as_bytes(), None, true)));
    tail.hand_on(true);
    let found = shown(&reader).await;
    assert_eq!((&found[0]["name"], &found[1]["name"]), (&"first".into(), &"whole".into()));
    let long = found[2]["line"].as_str().expect("text");
    assert!(found[2]["reason"] == "too_long" && long.chars().count() == 1001, "{}", found[2]);
    assert_eq!(found[3]["skipped"], 2);
}
