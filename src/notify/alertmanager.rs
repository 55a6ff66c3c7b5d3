//! Alertmanager, API v2. Every firing alert is sent again each minute, with an end five minutes ahead, so that it resolves
//! by itself if the daemon is gone. A resolution is sent until it is accepted, again 1, 3 and 7 seconds later, and then
//! each minute for a quarter of an hour.
//!
//! Alertmanager merges alerts into those it holds (`types/types.go`, `Alert.Merge`): an end ahead of *its* clock does not
//! resolve the alert, and the later end that it holds stays, five minutes ahead. A clock a few milliseconds behind is
//! enough for that. So an end is never later than the tick before it is sent, which covers usual clock differences, and
//! is repeated, which covers differences of seconds. Source: `api/v2/openapi.yaml`, `POST /alerts`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http_client::append;
use crate::presence::{Alarm, Notification, UnixTime, WarningCode};
use crate::supervise::caught;
use crate::sys::unix_time;
use crate::untrusted::{Escaped, in_url};

use super::message::Message;
use super::outbox::Outcome;
use super::sender::{Failure, Sender};
use super::{FIRST_PAUSE, LONGEST_PAUSE, Target};

/// Time between two sends of all firing alerts, and how long each holds, in seconds.
const EVERY: Duration = Duration::from_secs(60);
const HOLDS: f64 = 300.0;

/// A resolution is repeated at these times after it was first accepted, then with all alerts, until it is this old.
const AGAIN: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(7)];
const AGAIN_UNTIL: Duration = Duration::from_secs(900);

/// Most repeated resolutions; beyond it the oldest are dropped. Each was accepted before.
const ENDS: usize = 20_000;

/// A resolution is at least this much in the past when it is first sent: the time between two ticks.
const TICK_SECS: f64 = 0.25;

/// Alerts in one request.
const BATCH: usize = 500;

#[derive(Default)]
struct Alerts {
    /// Firing alerts, and whether Alertmanager does not know them yet.
    open: BTreeMap<String, (Alarm, String, bool)>,
    /// Resolved alerts, and what Alertmanager knows of them.
    ended: BTreeMap<String, Ended>,
}

struct Ended {
    alarm: Alarm,
    detail: String,
    /// When it was resolved, Unix seconds.
    end: UnixTime,
    /// When it was queued, and when the first and the last accepted request was sent.
    came: Instant,
    taken: Option<(Instant, Instant)>,
}

impl Ended {
    /// When it is due; `None` if it is sent with all alerts.
    fn due(&self) -> Option<Instant> {
        match self.taken {
            None => Some(self.came),
            Some((first, last)) => AGAIN.iter().map(|&later| first + later).find(|&due| due > last),
        }
    }
}

pub(super) async fn run(mut line: Target) {
    let mut alerts = Alerts::default();
    while let Err(panic) = caught(deliver(&mut line, &mut alerts)).await {
        line.restart(panic).await;
    }
}

async fn deliver(line: &mut Target, alerts: &mut Alerts) {
    let mut pause = FIRST_PAUSE;
    // The watchdog is sent at once, because its absence is the alarm.
    let mut due = Instant::now();
    loop {
        let now = UnixTime::from_secs(unix_time());
        if line.renew() {
            // It may be another one, which knows nothing.
            (due, pause) = (Instant::now(), FIRST_PAUSE);
        }
        if line.outbox.take_stand_down() {
            *alerts = Alerts::default();
        }
        line.outbox.take_all().into_iter().for_each(|one| alerts.take(one, now));
        line.part.alive();
        alerts.open.retain(|_, (alarm, ..)| alarm.until.is_none_or(|until| now < until));
        let began = Instant::now();
        let everything = began >= due;
        let bodies = alerts.bodies(everything, began, now, line.sender.page.as_deref());
        let stopping = *line.stop.borrow();
        if !bodies.is_empty() && (!line.outbox.fails() || everything || stopping) {
            match send(&line.sender, bodies).await {
                Ok(_) => {
                    line.outbox.finish_all(Outcome::Delivered);
                    alerts.note_taken(everything, began);
                    alerts.open.values_mut().for_each(|(.., new)| *new = false);
                    if everything {
                        due = Instant::now() + EVERY;
                    }
                    pause = FIRST_PAUSE;
                    line.note(Ok(()));
                }
                Err(failure) => {
                    line.note(Err(&failure.problem));
                    due = Instant::now() + failure.retry_after.unwrap_or(pause).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    if stopping {
                        line.give_up_at_stop();
                    }
                }
            }
        }
        if stopping && line.outbox.is_empty() {
            return;
        }
        if line.outbox.is_empty() {
            // While it cannot be reached, only the periodic send of all alerts is tried.
            let again = alerts.ended.values().filter_map(Ended::due).min().filter(|_| !line.outbox.fails());
            let next = again.map_or(due, |again| again.min(due));
            line.rest(next.saturating_duration_since(Instant::now()), true).await;
        }
    }
}

/// Posts alerts: all of them, though something of one part is refused, unless nobody answers. What the last answer said, or the
/// first failure.
async fn send(sender: &Sender, bodies: Vec<Value>) -> Result<String, Failure> {
    let mut said = Ok(String::new());
    for body in bodies {
        let answer = sender.post_json(append(&sender.options.url, "/api/v2/alerts"), &body).await;
        let is_answered = answer.as_ref().err().is_none_or(|failure| failure.status.is_some());
        said = said.and(answer);
        if !is_answered {
            break;
        }
    }
    said
}

/// When an alarm began, as it is sent at `now`: our clock may have been set back since, and Alertmanager rejects an end before
/// the start. A tick ago at the latest, for that is when it may end.
fn starts(alarm: &Alarm, now: UnixTime) -> UnixTime {
    alarm.since.min(now - TICK_SECS)
}

/// Posts one alert that ends when its alarm does, outside of what is repeated.
pub(super) async fn attempt(sender: &Sender, one: &Notification) -> Result<String, String> {
    let ends = one.alarm.until.unwrap_or(one.alarm.since + HOLDS);
    let body = Value::Array(vec![alert(
        &one.alarm,
        &Message::new(one, None).background,
        (one.alarm.since, ends),
        sender.page.as_deref(),
    )]);
    send(sender, vec![body]).await.map_err(|failure| failure.problem)
}

impl Alerts {
    /// Takes a notification over at Unix second `now`.
    fn take(&mut self, one: Notification, now: UnixTime) {
        let key = one.alarm.key.dedup_key();
        let detail = Message::new(&one, None).background;
        if one.resolved {
            self.open.remove(&key);
            let said = one.event.map_or(now, |(_, event)| event.at);
            let alarm = Alarm { since: starts(&one.alarm, now), ..one.alarm };
            let end = said.min(now - TICK_SECS).max(alarm.since);
            self.ended.insert(key, Ended { alarm, detail, end, came: Instant::now(), taken: None });
        } else {
            self.ended.remove(&key);
            self.open(key, one.alarm, detail, now);
        }
    }

    /// The alerts to send at `began`, Unix second `now`: new ones and due resolutions, or all with the watchdog.
    fn bodies(&self, everything: bool, began: Instant, now: UnixTime, page: Option<&str>) -> Vec<Value> {
        let open = self.open.values().filter(|(.., new)| everything || *new);
        let open = open.map(|(alarm, detail, _)| {
            alert(alarm, detail, (starts(alarm, now), alarm.until.unwrap_or(now + HOLDS)), page)
        });
        let ended = self.ended.values().filter(|ended| everything || ended.due().is_some_and(|due| due <= began));
        let ended = ended.map(|ended| alert(&ended.alarm, &ended.detail, (ended.alarm.since, ended.end), page));
        let watchdog = everything.then(|| watchdog(now, page));
        let all: Vec<Value> = open.chain(ended).chain(watchdog).collect();
        all.chunks(BATCH).map(|part| Value::Array(part.to_vec())).collect()
    }

    /// Takes an alert that fires. The severity is a label: when it changes, what was sent before is another alert, and ends.
    fn open(&mut self, key: String, alarm: Alarm, detail: String, now: UnixTime) {
        let severity = alarm.severity;
        let before = self.open.insert(key.clone(), (alarm, detail, true));
        if let Some((alarm, detail, _)) = before.filter(|(alarm, ..)| alarm.severity != severity) {
            let end = now - TICK_SECS;
            let alarm = Alarm { since: starts(&alarm, now), ..alarm };
            let ended = Ended { alarm, detail, end, came: Instant::now(), taken: None };
            self.ended.insert(format!("{key}//{}", ended.alarm.severity), ended);
        }
    }

    /// Records that the alerts of `began` were accepted.
    fn note_taken(&mut self, everything: bool, began: Instant) {
        for ended in self.ended.values_mut().filter(|e| everything || e.due().is_some_and(|due| due <= began)) {
            ended.taken = Some((ended.taken.map_or(began, |(first, _)| first), began));
        }
        self.ended.retain(|_, ended| ended.taken.is_none_or(|(first, _)| began < first + AGAIN_UNTIL));
        if self.ended.len() > ENDS {
            let mut taken: Vec<Instant> = self.ended.values().filter_map(|e| e.taken.map(|(first, _)| first)).collect();
            taken.sort_unstable();
            let mut surplus = self.ended.len() - ENDS;
            if let Some(&edge) = taken.get(surplus - 1) {
                self.ended.retain(|_, ended| {
                    let is_surplus = surplus > 0 && ended.taken.is_some_and(|(first, _)| first <= edge);
                    surplus -= usize::from(is_surplus);
                    !is_surplus
                });
            }
        }
    }
}

/// Labels are identity and nothing else, so that several daemons send equal alerts.
fn alert(alarm: &Alarm, detail: &str, (start, end): (UnixTime, UnixTime), page: Option<&str>) -> Value {
    let identity = &alarm.key;
    let mut labels = json!({"alertname": identity.name, "severity": alarm.severity, "source": "presence"});
    let nodes = identity.nodes.as_ref().map(|nodes| nodes.join(","));
    for (label, value) in [
        ("service", identity.service.as_deref()),
        ("instance", identity.instance.as_deref()),
        ("code", identity.code.map(WarningCode::as_str)),
        ("nodes", nodes.as_deref()),
    ] {
        if let Some(value) = value {
            labels[label] = Escaped(value).to_string().into();
        }
    }
    let mut alert = json!({
        "labels": labels,
        "annotations": {"summary": Escaped(&alarm.text).to_string(), "description": detail},
        "startsAt": start.rfc3339(),
        "endsAt": end.rfc3339(),
    });
    if let Some(page) = page {
        let service = identity.service.as_deref().map_or(String::new(), |service| format!("/{}", in_url(service)));
        alert["generatorURL"] = format!("{page}/presence{service}").into();
    }
    alert
}

fn watchdog(now: UnixTime, page: Option<&str>) -> Value {
    let mut alert = json!({
        "labels": {"alertname": "PresenceWatchdog", "severity": "none", "source": "presence"},
        "annotations": {
            "summary": "presence is being watched",
            "description": "This alert is always firing. Route it to a dead-man's switch: when it stops, nobody watches.",
        },
        "startsAt": now.rfc3339(),
        "endsAt": (now + HOLDS).rfc3339(),
    });
    if let Some(page) = page {
        alert["generatorURL"] = format!("{page}/presence").into();
    }
    alert
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::sync::Arc;

    use super::*;
    use crate::http_client::HttpClient;
    use crate::notify::{TargetKind, TargetOptions};
    use crate::presence::{AlertKey, AlertName, AlertState, Identity, Severity};

    fn notification(service: &str, severity: Severity, resolved: bool) -> Notification {
        let key = AlertKey { service: Some(service.into()), ..AlertKey::of(AlertName::ServiceDown) };
        let since = UnixTime::from_secs(10_000.0);
        let alarm = Alarm { key, severity, text: String::new(), since, until: None, state: AlertState::Firing };
        Notification { alarm, resolved, event: None, detail: String::new(), version: 0, ending: None }
    }

    #[test]
    fn no_alert_ends_before_it_starts_where_the_clock_was_set_back() {
        // By ten minutes, after they began.
        let now = UnixTime::from_secs(9_400.0);
        let mut alerts = Alerts::default();
        alerts.take(notification("open", Severity::Critical, false), now);
        alerts.take(notification("over", Severity::Critical, true), now);
        alerts.take(notification("worse", Severity::Warning, false), now);
        alerts.take(notification("worse", Severity::Critical, false), now);
        let bodies = alerts.bodies(true, Instant::now(), now, None);
        let all = bodies[0].as_array().expect("alerts");
        assert_eq!(all.len(), 5);
        for alert in all {
            let at = |key: &str| alert[key].as_str().expect("a time").to_string();
            assert!(at("startsAt") <= at("endsAt") && at("startsAt") <= now.rfc3339(), "{alert}");
        }
        let ends = all.iter().filter(|alert| alert["endsAt"].as_str() < Some(now.rfc3339().as_str())).count();
        assert_eq!(ends, 2);
    }

    #[tokio::test]
    async fn what_is_refused_of_one_part_does_not_keep_the_others_back() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut options = TargetOptions::new("t", TargetKind::Alertmanager);
        options.url = format!("http://{}", listener.local_addr().expect("bound"));
        let answers = std::thread::spawn(move || {
            let mut bodies = Vec::new();
            for status in ["400 first", "200 OK", "500 last"] {
                let (stream, _) = listener.accept().expect("a connection");
                let (mut reader, mut line, mut length) = (BufReader::new(stream), String::new(), 0);
                while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().expect("a length");
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).expect("a body");
                bodies.push(String::from_utf8(body).expect("text"));
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                reader.into_inner().write_all(answer.as_bytes()).expect("answered");
            }
            bodies
        });
        let identity = Identity { node: "n".into(), boot: 1 };
        let client = HttpClient::new().expect("a client");
        let sender = Sender { options: Arc::new(options), client, page: None, identity };
        let failure = send(&sender, vec![json!([1]), json!([2]), json!([3])]).await.expect_err("a failure");
        assert_eq!((failure.status, answers.join().expect("it ends").len()), (Some(400), 3));
        // Nobody is there now.
        let failure = send(&sender, vec![json!([1]), json!([2])]).await.expect_err("a failure");
        assert_eq!(failure.status, None);
    }
}
