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

use hyper::Method;
use serde_json::{Value, json};

use crate::http_client::append;
use crate::presence::{Alarm, UnixTime, WarningCode};
use crate::supervise::caught;
use crate::sys::unix_time;
use crate::untrusted::{Escaped, in_url};

use super::{DEADLINE, FIRST_PAUSE, LONGEST_PAUSE, Target};

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
    let url = append(&line.url, "/api/v2/alerts");
    let mut pause = FIRST_PAUSE;
    // The watchdog is sent at once, because its absence is the alarm.
    let mut due = Instant::now();
    loop {
        let (notices, _) = line.outbox.take(usize::MAX);
        line.in_work = notices.len();
        let now = UnixTime::from_secs(unix_time());
        for notice in notices {
            let key = notice.alarm.key.dedup_key();
            if notice.resolved {
                alerts.open.remove(&key);
                let said = notice.event.map_or(now, |(_, event)| event.at);
                // Alertmanager rejects an end before the start.
                let end = said.min(now - TICK_SECS).max(notice.alarm.since);
                let (alarm, detail, came) = (notice.alarm, notice.detail, Instant::now());
                alerts.ended.insert(key, Ended { alarm, detail, end, came, taken: None });
            } else {
                alerts.ended.remove(&key);
                alerts.open(key, notice.alarm, notice.detail, now);
            }
        }
        line.in_work = 0;
        line.part.alive();
        alerts.open.retain(|_, (alarm, ..)| alarm.until.is_none_or(|until| now < until));
        let began = Instant::now();
        let everything = began >= due;
        let bodies = alerts.bodies(everything, began, now, line.page.as_deref());
        let stopping = *line.stop.borrow();
        if !bodies.is_empty() && (!line.fails || everything || stopping) {
            match send(line, &url, bodies).await {
                Ok(()) => {
                    alerts.note_taken(everything, began);
                    alerts.open.values_mut().for_each(|(.., new)| *new = false);
                    if everything {
                        due = Instant::now() + EVERY;
                    }
                    pause = FIRST_PAUSE;
                    line.note(Ok(()));
                }
                Err(problem) => {
                    line.note(Err(&problem));
                    due = Instant::now() + pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        if stopping && line.outbox.is_empty() {
            return;
        }
        if line.outbox.is_empty() {
            // While it cannot be reached, only the periodic send of all alerts is tried.
            let again = alerts.ended.values().filter_map(Ended::due).min().filter(|_| !line.fails);
            let next = again.map_or(due, |again| again.min(due));
            line.rest(next.saturating_duration_since(Instant::now()), true).await;
        }
    }
}

async fn send(line: &Target, url: &str, bodies: Vec<Value>) -> Result<(), String> {
    for body in bodies {
        let answer = line.client.ask(Method::POST, url, Some(body.to_string().into_bytes()), None, DEADLINE).await;
        let answer = answer.map_err(|error| error.to_string())?;
        if !answer.is_good() {
            let says = String::from_utf8_lossy(&answer.body[..answer.body.len().min(200)]).into_owned();
            return Err(format!("it answers {}: {}", answer.status, Escaped(&says)));
        }
    }
    Ok(())
}

impl Alerts {
    /// The alerts to send at `began`, Unix second `now`: new ones and due resolutions, or all with the watchdog.
    fn bodies(&self, everything: bool, began: Instant, now: UnixTime, page: Option<&str>) -> Vec<Value> {
        let open = self.open.values().filter(|(.., new)| everything || *new);
        let open = open.map(|(alarm, detail, _)| alert(alarm, detail, alarm.until.unwrap_or(now + HOLDS), page));
        let ended = self.ended.values().filter(|ended| everything || ended.due().is_some_and(|due| due <= began));
        let ended = ended.map(|ended| alert(&ended.alarm, &ended.detail, ended.end, page));
        let watchdog = everything.then(|| watchdog(now, page));
        let all: Vec<Value> = open.chain(ended).chain(watchdog).collect();
        all.chunks(BATCH).map(|part| Value::Array(part.to_vec())).collect()
    }

    /// Takes an alert that fires. The severity is a label: when it changes, what was sent before is another alert, and ends.
    fn open(&mut self, key: String, alarm: Alarm, detail: String, now: UnixTime) {
        let severity = alarm.severity;
        let before = self.open.insert(key.clone(), (alarm, detail, true));
        if let Some((alarm, detail, _)) = before.filter(|(alarm, ..)| alarm.severity != severity) {
            let end = (now - TICK_SECS).max(alarm.since);
            let ended = Ended { alarm, detail, end, came: Instant::now(), taken: None };
            self.ended.insert(format!("{key}/{}", ended.alarm.severity), ended);
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
fn alert(alarm: &Alarm, detail: &str, ends: UnixTime, page: Option<&str>) -> Value {
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
        "annotations": {"summary": Escaped(&alarm.text).to_string(), "description": Escaped(detail).to_string()},
        "startsAt": alarm.since.rfc3339(),
        "endsAt": ends.rfc3339(),
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
