//! Every loss that the ledger counts, in words and with its place.

use serde_json::Value;

use super::super::account::count;

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// One way in which something was lost, refused or left out.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Loss {
    /// `datagrams dropped by the kernel`.
    pub(super) what: String,
    /// The listener, sink or reason; may be empty.
    pub(super) place: String,
    /// Since the start of the daemon.
    pub(super) total: u64,
    /// In a second, now; 0 until it is known.
    pub(super) per_sec: f64,
}

/// Every loss that the ledger counts, those that cost data of senders first; also those of which there were none.
pub(super) fn losses(status: &Value) -> Vec<Loss> {
    let mut out = Vec::new();
    let mut push = |what: &str, place: &str, counter: &Value| match counter {
        Value::Object(by_reason) => {
            for (reason, n) in by_reason {
                let place = if place.is_empty() { reason.clone() } else { format!("{place}  {reason}") };
                out.push(Loss { what: what.into(), place, total: count(n), per_sec: 0.0 });
            }
        }
        n => out.push(Loss { what: what.into(), place: place.to_string(), total: count(n), per_sec: 0.0 }),
    };
    for listener in status["listeners"].as_array().into_iter().flatten() {
        let url = listener["url"].as_str().unwrap_or("");
        for (what, counter) in [
            ("datagrams dropped by the kernel", "kernel_drops"),
            ("datagrams left unread at a stop", "unread"),
            ("datagrams too large", "truncated"),
            ("datagrams, connections refused", "refused"),
        ] {
            push(what, url, &listener[counter]);
        }
    }
    push("malformed lines", "", &status["lines"]["malformed"]);
    push("lines lost in failures", "", &status["lines"]["internal_error"]);
    push("events and checks over the bound", "", &status["lines"]["notes_dropped"]);
    push("tags beyond `max_tags`", "", &status["lines"]["tags_cut"]);
    push("samples folded into overflow", "", &status["samples"]["folded"]);
    push("samples over a limit", "", &status["samples"]["limited"]);
    push("samples dropped by rules", "", &status["samples"]["dropped_by_rule"]);
    for (name, sink) in entries(&status["sinks"]) {
        push("records dropped by a sink", name, &sink["dropped"]);
    }
    for (name, relay) in entries(&status["relays"]) {
        push("datagrams not relayed", name, &relay["dropped"]);
        for (target, sent) in entries(&relay["targets"]) {
            push("lines not relayed", &format!("{name}  {target}"), &sent["lost"]);
        }
    }
    push("heartbeats over the queue", "", &status["presence"]["queue_drops"]);
    push("heartbeats refused", "", &status["presence"]["refused"]);
    push("heartbeats lost in failures", "", &status["presence"]["failed"]);
    push("presence events over the bound", "", &status["presence"]["events_dropped"]);
    push("intervals lost in failures", "", &status["flush"]["failed"]);
    push("rows of the capture lost", "", &status["capture"]["lost"]);
    push("lines of the log lost", "", &status["log"]["lines_lost"]);
    push("lines of the log over the limit", "", &status["log"]["lines_suppressed"]);
    for (url, port) in entries(&status["ports"]) {
        push("connections refused", url, &port["refused"]);
        push("answers cut", url, &port["answers_cut"]);
        push("answers refused", url, &port["answers_refused"]);
    }
    for (name, part) in entries(&status["parts"]) {
        push("lost when a part failed", name, &part["lost"]);
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_loss_has_its_place() {
        let status = json!({"listeners": [{"url": "udp://a", "kernel_drops": 7}], "lines": {"malformed": {"bad_value": 4}},
            "sinks": {"g": {"dropped": {"queue_full": 9}}}});
        let lost: Vec<_> = losses(&status).into_iter().filter(|loss| loss.total > 0).collect();
        let lost: Vec<_> = lost.iter().map(|loss| (loss.what.as_str(), loss.place.as_str(), loss.total)).collect();
        assert_eq!(
            lost,
            [
                ("datagrams dropped by the kernel", "udp://a", 7),
                ("malformed lines", "bad_value", 4),
                ("records dropped by a sink", "g  queue_full", 9)
            ]
        );
    }
}
