//! Webhooks: `POST {"version":1,"events":[…],"dedup_keys":[…]}`, in order, retried until it is accepted.

use hyper::Method;
use serde_json::{Value, json};

use crate::http_client::masked;
use crate::presence::{AlertName, Notification, ServiceState, State};
use crate::supervise::caught;
use crate::untrusted::Escaped;

use super::{DEADLINE, FIRST_PAUSE, LONGEST_PAUSE, Target};

/// Events in one request.
const BATCH: usize = 100;

pub(super) async fn run(mut line: Target) {
    // A batch that was in work at a panic is not tried again.
    while let Err(panic) = caught(deliver(&mut line)).await {
        line.restart(panic).await;
    }
}

async fn deliver(line: &mut Target) {
    let mut batch: Vec<Notification> = Vec::new();
    let mut pause = FIRST_PAUSE;
    loop {
        if batch.is_empty() {
            let (notices, dropped) = line.outbox.take(BATCH);
            batch = notices;
            line.in_work = batch.len();
            if dropped > 0 {
                tracing::error!(
                    target_url = masked(&line.url),
                    dropped,
                    "the webhook's queue was full; the oldest problems were given up"
                );
            }
        }
        let stopping = *line.stop.borrow();
        if batch.is_empty() {
            if stopping {
                return;
            }
            line.rest(LONGEST_PAUSE, true).await;
            continue;
        }
        line.part.alive();
        match send(line, &batch).await {
            Ok(()) => {
                line.note(Ok(()));
                batch.clear();
                line.in_work = 0;
                pause = FIRST_PAUSE;
            }
            Err(problem) => {
                line.note(Err(&problem));
                if stopping {
                    tracing::error!(
                        target_url = masked(&line.url),
                        events = batch.len(),
                        "the webhook does not answer; these are lost"
                    );
                    return;
                }
                line.rest(pause, false).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

async fn send(line: &Target, batch: &[Notification]) -> Result<(), String> {
    let events: Vec<Value> = batch.iter().map(|notice| event(line, notice)).collect();
    let keys: Vec<String> = batch.iter().map(|notice| notice.alarm.key.dedup_key()).collect();
    let body = json!({"version": 1, "events": events, "dedup_keys": keys});
    let answer = line.client.ask(Method::POST, &line.url, Some(body.to_string().into_bytes()), None, DEADLINE).await;
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.is_good() { Ok(()) } else { Err(format!("it answers {}", answer.status)) }
}

/// The state that an alarm of this name stands for, where it is always the same.
fn state_of(name: AlertName) -> Option<&'static str> {
    match name {
        AlertName::InstanceDown => Some(State::Down.as_str()),
        AlertName::ServiceDown => Some(ServiceState::Down.as_str()),
        AlertName::ServiceDegraded => Some(ServiceState::Degraded.as_str()),
        AlertName::Conflict
        | AlertName::Flapping
        | AlertName::Health
        | AlertName::Ingest
        | AlertName::Job
        | AlertName::MassSilence
        | AlertName::PeerUnreachable
        | AlertName::ServiceGone
        | AlertName::Watch => None,
    }
}

fn event(line: &Target, notice: &Notification) -> Value {
    let alarm = &notice.alarm;
    let mut event = match &notice.event {
        Some((number, event)) => line.identity.publish(*number, event),
        // It was pending over a restart, so nothing else is known.
        None => json!({
            "v": 1,
            "id": format!("{}-{}", line.identity.id(0), alarm.key.dedup_key()),
            "time": alarm.since.rfc3339(),
            "node": line.identity.node,
            "kind": alarm.key.name.kind(),
            "service": alarm.key.service,
            "instance": alarm.key.instance,
            "to": state_of(alarm.key.name),
            "notify": true,
            "severity": alarm.severity,
            "text": Escaped(&alarm.text).to_string(),
        }),
    };
    event["alertname"] = alarm.key.name.as_str().into();
    event["resolved"] = notice.resolved.into();
    event["detail"] = Escaped(&notice.detail).to_string().into();
    event
}
