//! Asks the daemon: a thread of its own with what is wanted now, once an interval and at once when that changes. The status
//! comes first; without an answer to it nothing else is asked.

use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http_body_util::BodyExt;
use hyper::Method;
use hyper::header::DATE;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;

use crate::untrusted::in_url;

use super::super::client::{DaemonClient, refusal};
use super::Message;
use super::keys::{SeriesOrder, View};
use super::model::{Block, Happened, History, RawLine, SendersPage, SeriesPage, Service, Trouble};

/// Rounds are this far apart at least and at most.
const ROUND: (f64, f64) = (1.0, 10.0);
/// The wait after a tick until the daemon has published it.
const AFTER_TICK: f64 = 0.15;
/// The wait before a query whose words are being typed, as the page has it.
const TYPING: Duration = Duration::from_millis(60);
/// Waits between attempts while nobody answers, in seconds; the last one stays.
const RETRIES: [f64; 4] = [1.0, 2.0, 4.0, 8.0];
/// The wait before raw lines are asked for again.
const TAIL_AGAIN: Duration = Duration::from_secs(2);
/// Most of a line, or of a refusal, that is kept until the rest comes, in bytes.
const MAX_PENDING: usize = 1 << 20;
/// Clocks that are closer than this are the same: `Date` has whole seconds.
const CLOCKS_AGREE: f64 = 2.0;
/// Points of the sparklines of a list.
const SPARK_POINTS: f64 = 120.0;
/// How far sparklines and the change of series reach back, in seconds.
pub(super) const SPARK_SECS: f64 = 300.0;
/// Reach of a chart until another is chosen, and the shortest, in seconds.
pub(super) const FIRST_REACH: f64 = 1800.0;
const LEAST_REACH: f64 = 60.0;
/// Most points that the first lines ask for.
const LEDGER_POINTS: f64 = 1000.0;
/// Intervals that the sparklines of the first lines have.
const TILE_INTERVALS: f64 = 44.0;

/// What is shown, so that it has to be asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wish {
    /// Grows with each change by a key.
    pub(super) number: u64,
    pub(super) view: View,
    /// The words of the filter.
    pub(super) query: String,
    pub(super) order: SeriesOrder,
    /// The series whose chart is shown.
    pub(super) chart: Option<String>,
    /// How far it reaches back.
    pub(super) reach_secs: f64,
    /// The sender whose prefixes are shown.
    pub(super) sender: Option<String>,
    /// The line that is explained.
    pub(super) line: Option<String>,
    /// Whether the lower blocks are on the screen.
    pub(super) blocks: bool,
}

/// An answer to a part of a wish.
#[derive(Clone, Debug)]
pub(super) enum Answered {
    Status { status: Value, ahead: f64 },
    Trouble(Trouble),
    Ledger(Block<History>),
    Series(Block<SeriesPage>),
    Senders(Block<SendersPage>),
    Prefixes(Block<SendersPage>),
    Presence(Block<Vec<Service>>),
    Events(Block<Vec<Happened>>),
    Chart(Block<History>),
    Details(Block<Value>),
    Explained(Block<Value>),
    Lines(Block<Vec<RawLine>>),
}

/// Now, in Unix seconds.
pub(super) fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Asks until nobody listens to the answers any more.
pub(super) async fn ask_on(client: DaemonClient, mut wishes: watch::Receiver<Wish>, out: Sender<Message>) {
    let mut failures = 0;
    // What the last round has asked for.
    let mut known = wishes.borrow().clone();
    let mut clock = DaemonClock { ahead: 0.0, interval: 10.0, uptime: 0.0 };
    loop {
        let wait = match status(&client).await {
            Ok((status, ahead)) => {
                failures = 0;
                let number = |key: &str, default: f64| status[key].as_f64().unwrap_or(default);
                let (interval, uptime) = (number("interval", 10.0).max(0.001), number("uptime_secs", f64::MAX));
                clock = DaemonClock { ahead, interval, uptime };
                let tick = status["as_of"].as_f64();
                let sent =
                    out.send(Message::Answered(Box::new(wishes.borrow().clone()), Answered::Status { status, ahead }));
                if sent.is_err() {
                    return;
                }
                match round(&client, &mut wishes, &out, clock).await {
                    Some(asked) => known = asked,
                    None => return,
                }
                until_next(tick, clock.interval, unix_now() + ahead)
            }
            Err((why, is_refusal)) => {
                let wait = RETRIES[failures.min(RETRIES.len() - 1)];
                failures += 1;
                let trouble = Trouble { why, is_refusal, again: unix_now() + wait };
                if out.send(Message::Answered(Box::new(known.clone()), Answered::Trouble(trouble))).is_err() {
                    return;
                }
                wait
            }
        };
        let next = tokio::time::Instant::now() + Duration::from_secs_f64(wait);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => break,
                changed = wishes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(TYPING).await;
                    let wish = wishes.borrow_and_update().clone();
                    if failures == 0 {
                        parts(&client, &wish, Some(&known), &out, clock).await;
                    }
                    known = wish;
                }
            }
        }
    }
}

/// Seconds until the next round: just after the next tick, so that a closed interval is shown as soon as there is one.
fn until_next(tick: Option<f64>, interval: f64, now: f64) -> f64 {
    let wait = match tick {
        Some(tick) if interval >= ROUND.0 => {
            let since = (now - tick).max(0.0);
            interval - since % interval + AFTER_TICK
        }
        _ => interval,
    };
    wait.clamp(ROUND.0 / 2.0, ROUND.1)
}

/// All that is wished, anew if the wish changes meanwhile; the wish that was asked for, or nothing if nobody wishes any more.
async fn round(
    client: &DaemonClient,
    wishes: &mut watch::Receiver<Wish>,
    out: &Sender<Message>,
    clock: DaemonClock,
) -> Option<Wish> {
    loop {
        let wish = wishes.borrow_and_update().clone();
        tokio::select! {
            () = parts(client, &wish, None, out, clock) => return Some(wish),
            changed = wishes.changed() => changed.ok()?,
        }
    }
}

/// The status, and how far the daemon's clock is ahead of ours; or why not, and whether it was refused.
async fn status(client: &DaemonClient) -> Result<(Value, f64), (String, bool)> {
    let answer = client.request(Method::GET, "/api/v1/status", None).await.map_err(|why| (why, false))?;
    let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if answer.status != 200 {
        return Err((refusal(answer.status, &value), true));
    }
    if !value["lines"].is_object() {
        return Err(("it answers, but not as systole does".into(), true));
    }
    let date = answer.headers.get(DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
    let theirs = date.and_then(|date| date.duration_since(UNIX_EPOCH).ok()).map(|date| date.as_secs_f64());
    let ahead = theirs.map_or(0.0, |theirs| theirs - unix_now());
    Ok((value, if ahead.abs() < CLOCKS_AGREE { 0.0 } else { ahead }))
}

/// The time at the daemon.
#[derive(Clone, Copy, Debug)]
struct DaemonClock {
    /// Its clock minus ours, in seconds.
    ahead: f64,
    /// Seconds between two flushes.
    interval: f64,
    /// Seconds since its start.
    uptime: f64,
}

/// Asks for what is on the screen; of a wish that has changed since `known` only for what is new.
async fn parts(client: &DaemonClient, wish: &Wish, known: Option<&Wish>, out: &Sender<Message>, clock: DaemonClock) {
    let is_new = |of: fn(&Wish) -> String| known.is_none_or(|known| of(known) != of(wish));
    let give = |answered: Answered| {
        // Without anybody who takes it, the next round ends this.
        let _ = out.send(Message::Answered(Box::new(wish.clone()), answered));
    };
    let ledger = async {
        if known.is_none() {
            give(Answered::Ledger(ledger(client, unix_now() + clock.ahead, clock.interval).await));
        }
    };
    let series = async {
        if wish.view == View::Series && is_new(|wish| format!("{:?} {:?} {}", wish.view, wish.order, wish.query)) {
            let points = (SPARK_SECS / clock.interval).ceil().clamp(2.0, SPARK_POINTS);
            let path =
                format!("/api/v1/series?q={}&sort={}&limit=200&spark={points}", in_url(&wish.query), wish.order.name());
            give(Answered::Series(block(client, &path).await));
        }
    };
    let shows_senders = wish.blocks || matches!(wish.view, View::Senders | View::TagKeys | View::Losses);
    let senders = async {
        if shows_senders && is_new(|wish| format!("{:?} {}", wish.view, wish.blocks)) {
            give(Answered::Senders(block(client, "/api/v1/senders?limit=100").await));
        }
        if let Some(sender) = &wish.sender
            && is_new(|wish| format!("{:?}", wish.sender))
        {
            let path = format!("/api/v1/senders?limit=100&sender={}", in_url(sender));
            give(Answered::Prefixes(block(client, &path).await));
        }
    };
    let presence = async {
        if (wish.blocks || wish.view == View::Presence) && is_new(|wish| format!("{:?} {}", wish.view, wish.blocks)) {
            give(Answered::Presence(block(client, "/api/v1/presence").await));
        }
    };
    let events = async {
        if known.is_none() {
            give(Answered::Events(events(client).await));
        }
    };
    let chart = async {
        if let Some(id) = &wish.chart
            && is_new(|wish| format!("{:?} {}", wish.chart, wish.reach_secs))
        {
            let id = in_url(id);
            // A time before its start, of which a sink may know, is only shown when somebody asks for it.
            let is_asked = wish.reach_secs > FIRST_REACH;
            let reach = if is_asked { wish.reach_secs } else { wish.reach_secs.min(clock.uptime.max(LEAST_REACH)) };
            let from = unix_now() + clock.ahead - reach;
            give(Answered::Chart(block(client, &format!("/api/v1/history?id={id}&from={from:.3}")).await));
            give(Answered::Details(block(client, &format!("/api/v1/series/details?id={id}")).await));
        }
    };
    let explained = async {
        if let Some(line) = &wish.line
            && is_new(|wish| format!("{:?}", wish.line))
        {
            give(Answered::Explained(block(client, &format!("/api/v1/explain?line={}", in_url(line))).await));
        }
    };
    tokio::join!(ledger, series, senders, presence, events, chart, explained);
}

/// What the first lines draw, from the daemon's history.
async fn ledger(client: &DaemonClient, now: f64, interval: f64) -> Block<History> {
    let reach = SPARK_SECS.max(TILE_INTERVALS * interval);
    // Very short intervals are more than an answer may have.
    let (from, step) = (now - reach, interval.max(reach / LEDGER_POINTS));
    let mut path = format!("/api/v1/history?from={from:.3}&step={step}");
    let lines = super::super::account::LINE_PARTS.map(|(_, field)| format!("lines.{field}"));
    let series = ["counters", "gauges", "timers", "sets", "kvs"].map(|kind| format!("series.{kind}"));
    for entry in lines.iter().chain(&series).map(String::as_str).chain(["lines.read"]) {
        path.push_str(&format!("&ledger={entry}"));
    }
    block(client, &path).await
}

/// The last events; of a daemon without a journal those of presence.
async fn events(client: &DaemonClient) -> Block<Vec<Happened>> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Journal {
        events: Vec<Happened>,
    }
    match block::<Journal>(client, "/api/v1/events?limit=20").await {
        Block::Known(journal) => Block::Known(journal.events),
        Block::Lacking => match block::<Vec<Happened>>(client, "/api/v1/presence/events").await {
            Block::Known(mut events) => {
                events.reverse();
                events.truncate(20);
                Block::Known(events)
            }
            other => other,
        },
        Block::Awaited => Block::Awaited,
        Block::Refused(why) => Block::Refused(why),
    }
}

/// One route.
async fn block<T: DeserializeOwned>(client: &DaemonClient, path: &str) -> Block<T> {
    let answer = match client.request(Method::GET, path, None).await {
        Ok(answer) => answer,
        Err(why) => return Block::Refused(why),
    };
    if answer.status == 200 {
        return serde_json::from_slice(&answer.body)
            .map_or_else(|error| Block::Refused(format!("an answer that is not understood: {error}")), Block::Known);
    }
    let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    match value["error"]["code"].as_str() {
        Some("not_found") => Block::Lacking,
        _ => Block::Refused(refusal(answer.status, &value)),
    }
}

/// Passes raw lines on while their view is on the screen; in between nobody asks, and it costs the daemon nothing.
pub(super) async fn tail_on(client: DaemonClient, mut wishes: watch::Receiver<Wish>, out: Sender<Message>) {
    loop {
        if wishes.wait_for(|wish| wish.view == View::Lines).await.is_err() {
            return;
        }
        let of = wishes.borrow().clone();
        let give = |block| out.send(Message::Answered(Box::new(of.clone()), Answered::Lines(block))).is_ok();
        let away = async {
            let _ = wishes.wait_for(|wish| wish.view != View::Lines).await;
        };
        let is_over = tokio::select! {
            () = away => false,
            ended = tail(&client, &give) => {
                let is_heard = give(ended);
                tokio::time::sleep(TAIL_AGAIN).await;
                !is_heard
            }
        };
        if is_over {
            return;
        }
    }
}

/// One stream of raw lines, until it ends; why it did.
async fn tail(client: &DaemonClient, give: &impl Fn(Block<Vec<RawLine>>) -> bool) -> Block<Vec<RawLine>> {
    let (status, mut body) = match client.open("/api/v1/tail").await {
        Ok(opened) => opened,
        Err(why) => return Block::Refused(why),
    };
    let mut pending = Vec::new();
    if status == 200 {
        give(Block::Known(Vec::new()));
    }
    while let Some(Ok(frame)) = body.frame().await {
        pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        if status != 200 || pending.len() > MAX_PENDING {
            continue;
        }
        // What is not whole yet waits for the rest.
        let end = pending.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines = pending[..end].split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let lines: Vec<RawLine> = lines.collect();
        pending.drain(..end);
        if !lines.is_empty() && !give(Block::Known(lines)) {
            break;
        }
    }
    let value: Value = serde_json::from_slice(&pending).unwrap_or_default();
    match (status, value["error"]["code"].as_str()) {
        (200, _) => Block::Known(Vec::new()),
        (_, Some("not_found")) => Block::Lacking,
        (status, _) => Block::Refused(refusal(status, &value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_comes_just_after_a_tick() {
        for (tick, interval, now, expected) in [
            (Some(1000.0), 10.0, 1003.0, 7.15),
            (Some(1000.0), 10.0, 1009.9, 0.5),
            (Some(1000.0), 1.0, 1000.2, 0.95),
            (Some(1000.0), 60.0, 1001.0, 10.0),
            (Some(1000.0), 0.2, 1000.1, 0.5),
            (None, 10.0, 1000.0, 10.0),
        ] {
            assert!((until_next(tick, interval, now) - expected).abs() < 1e-6, "{tick:?} {interval} {now}");
        }
    }
}
