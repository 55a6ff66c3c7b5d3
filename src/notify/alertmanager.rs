//! Alertmanager, API v2: every alarm that is open is sent again each minute, with an end five minutes ahead, so that one
//! that we can no longer speak for ends by itself; one that is over is sent with its end until it is taken. Source:
//! Alertmanager's `api/v2/openapi.yaml`, `POST /alerts`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};

use crate::inert::{Plain, in_url};
use crate::presence::{Alarm, rfc3339};
use crate::sys::unix_time;

use super::{DEADLINE, FIRST_PAUSE, LONGEST_PAUSE, Line};

/// Time between two sends of everything that is open, and how long each holds, in seconds.
const EVERY: Duration = Duration::from_secs(60);
const HOLDS: f64 = 300.0;

/// Alerts in one request.
const BATCH: usize = 500;

#[derive(Default)]
struct Alerts {
    /// Alarms that are open, and whether Alertmanager does not know them yet.
    open: BTreeMap<String, (Alarm, String, bool)>,
    /// Ended ones that Alertmanager has not taken, with their ends.
    ended: BTreeMap<String, (Alarm, String, f64)>,
}

pub(super) async fn run(mut line: Line) {
    let url = format!("{}/api/v2/alerts", line.url.trim_end_matches('/'));
    let mut alerts = Alerts::default();
    let mut pause = FIRST_PAUSE;
    // The watchdog is sent at once: silence is what it warns of.
    let mut due = Instant::now();
    loop {
        let (notices, _) = line.outbox.take(usize::MAX);
        let now = unix_time();
        for notice in notices {
            let key = notice.alarm.topic.key();
            if notice.resolved {
                alerts.open.remove(&key);
                alerts.ended.insert(key, (notice.alarm, notice.detail, now));
            } else {
                alerts.ended.remove(&key);
                alerts.open.insert(key, (notice.alarm, notice.detail, true));
            }
        }
        alerts.open.retain(|_, (alarm, ..)| alarm.until.is_none_or(|until| now < until));
        let everything = Instant::now() >= due;
        let bodies = alerts.bodies(everything, now, line.page.as_deref());
        let stopping = *line.stop.borrow();
        if !bodies.is_empty() && (!line.fails || everything || stopping) {
            match send(&line, &url, bodies).await {
                Ok(()) => {
                    alerts.ended.clear();
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
            line.rest(due.saturating_duration_since(Instant::now()), true).await;
        }
    }
}

async fn send(line: &Line, url: &str, bodies: Vec<Value>) -> Result<(), String> {
    for body in bodies {
        let answer = line.fetch.ask(Method::POST, url, Some(body.to_string().into_bytes()), None, DEADLINE).await;
        let answer = answer.map_err(|error| error.to_string())?;
        if !answer.is_good() {
            let says = String::from_utf8_lossy(&answer.body[..answer.body.len().min(200)]).into_owned();
            return Err(format!("it answers {}: {}", answer.status, Plain(&says)));
        }
    }
    Ok(())
}

impl Alerts {
    /// What is to be sent: what is new or ended, or everything with the watchdog.
    fn bodies(&self, everything: bool, now: f64, page: Option<&str>) -> Vec<Value> {
        let open = self.open.values().filter(|(.., new)| everything || *new);
        let open = open.map(|(alarm, detail, _)| alert(alarm, detail, alarm.until.unwrap_or(now + HOLDS), page));
        let ended = self.ended.values().map(|(alarm, detail, end)| alert(alarm, detail, *end, page));
        let watchdog = everything.then(|| watchdog(now, page));
        let all: Vec<Value> = open.chain(ended).chain(watchdog).collect();
        all.chunks(BATCH).map(|part| Value::Array(part.to_vec())).collect()
    }
}

/// Labels are identity and nothing else, so that several of us say the same.
fn alert(alarm: &Alarm, detail: &str, ends: f64, page: Option<&str>) -> Value {
    let topic = &alarm.topic;
    let mut labels = json!({"alertname": topic.name, "severity": alarm.severity, "source": "presence"});
    for (label, value) in [
        ("service", topic.service.as_deref()),
        ("instance", topic.instance.as_deref()),
        ("code", topic.code.as_deref()),
    ] {
        if let Some(value) = value {
            labels[label] = Plain(value).to_string().into();
        }
    }
    let mut alert = json!({
        "labels": labels,
        "annotations": {"summary": Plain(&alarm.text).to_string(), "description": Plain(detail).to_string()},
        "startsAt": rfc3339(alarm.since),
        "endsAt": rfc3339(ends),
    });
    if let Some(page) = page {
        let service = topic.service.as_deref().map_or(String::new(), |service| format!("/{}", in_url(service)));
        alert["generatorURL"] = format!("{page}/presence{service}").into();
    }
    alert
}

fn watchdog(now: f64, page: Option<&str>) -> Value {
    let mut alert = json!({
        "labels": {"alertname": "PresenceWatchdog", "severity": "none", "source": "presence"},
        "annotations": {
            "summary": "presence is being watched",
            "description": "This alert is always firing. Route it to a dead-man's switch: when it stops, nobody watches.",
        },
        "startsAt": rfc3339(now),
        "endsAt": rfc3339(now + HOLDS),
    });
    if let Some(page) = page {
        alert["generatorURL"] = format!("{page}/presence").into();
    }
    alert
}
