//! Events in words: what a person reads in a log, on the board, in a page at night.

use std::fmt::Write;

use super::event::{Event, EventKind, InstanceContext};

/// So many seconds, as people say it.
pub fn length(seconds: f64) -> String {
    let s = seconds.max(0.0);
    match s {
        s if s < 9.95 => format!("{} s", (s * 10.0).round() / 10.0),
        s if s < 119.5 => format!("{} s", s.round()),
        s if s < 7170.0 => format!("{} min", (s / 60.0).round()),
        s if s < 172_800.0 => format!("{} h", (s / 3600.0).round()),
        s => format!("{} days", (s / 86_400.0).round()),
    }
}

/// What a warning means, and what to do about it.
fn warning(code: &str) -> &'static str {
    match code {
        "ingest_drops" => "the kernel drops datagrams before we can read them; that time counts against nobody",
        "queue_drops" => "more heartbeats come than presence takes; that time counts against nobody",
        "local_pause" => "we stood still for a while; that time counts against nobody",
        "clock_step" => "the wall clock was set; no deadline depends on it",
        "promise_mismatch" => "beats come slower than promised; the measured interval counts",
        "promise_loose" => "beats come twenty times as often as promised: are milliseconds sent as seconds?",
        "instance_conflict" => "two processes use this name in turn; give each its own instance",
        "limit" => {
            "a limit on services or instances is reached; services that are not established give way to new ones, established \
             ones stay, and what finds no room is refused"
        }
        "sampled" => "heartbeats are sent with a sample rate, so most of them are never sent",
        "state_lost" => "the saved state could not be read; presence starts empty",
        "high_loss" => {
            "the network loses many heartbeats: instance alarms are less reliable, consider misses = \"auto\""
        }
        "service_gone" => "all instances have said goodbye, and none has come back",
        "zero_repeated" => "goodbyes keep coming: is 0 sent for down, or does a proxy repeat gauges?",
        _ => "presence",
    }
}

/// Why an instance changed.
fn because(reason: &str, facts: Option<&InstanceContext>) -> String {
    let beats = || match facts.and_then(|facts| Some((facts.misses?, facts.interval_s?))) {
        Some((misses, interval)) => format!("missed {misses} beats of {}", length(interval)),
        None => "missed its beats".into(),
    };
    match reason {
        "missed_beats" => beats(),
        "silent_since_restart" => "was not heard since we started".into(),
        "mass_silence" => "is silent in a mass silence".into(),
        "maintenance_over" => "is still down after its maintenance".into(),
        "flapping_over" => "is still down after flapping".into(),
        "not_back_after_mass_silence" => "did not come back after the mass silence".into(),
        "not_back_with_service" => "did not come back with its service".into(),
        other => other.replace('_', " "),
    }
}

/// An event in one sentence. Names are as they were sent: whoever shows them makes them inert.
pub fn describe(event: &Event) -> String {
    let service = event.service.as_deref().unwrap_or("");
    let who = match event.instance.as_deref() {
        Some("*") | None => service.to_string(),
        Some(instance) => format!("{service}/{instance}"),
    };
    let (to, reason) = (event.to.unwrap_or(""), event.reason.unwrap_or(""));
    let mut out = match (event.kind, to) {
        (EventKind::Instance, "down") => format!("{who} {}", because(reason, event.facts.as_ref())),
        (EventKind::Instance, "up") => match reason {
            "registered" => format!("{who} was heard for the first time"),
            "confirmed" => format!("{who} is still there after our restart"),
            "late_beat" => format!("{who} is back in time"),
            "recovered" => format!("{who} is back"),
            "returned" => format!("{who} has returned"),
            "restarted" => format!("{who} was restarted"),
            "implicit" => format!("{who} sends metrics, if no heartbeats"),
            _ => format!("{who} is up"),
        },
        (EventKind::Instance, "late") => format!("{who} is late"),
        (EventKind::Instance, "left") => match reason {
            "goodbye" => format!("{who} said goodbye"),
            "never_established" => format!("{who} fell silent before its interval was known"),
            "replaced" => format!("{who} was replaced by a newer instance"),
            _ => format!("{who} has left"),
        },
        (EventKind::Instance, _) => match reason {
            "operator" => format!("{who} was forgotten by an operator"),
            _ => format!("{who} is forgotten"),
        },
        (EventKind::Service, "down") => format!("{who} is down: no instance is present"),
        (EventKind::Service, "degraded") => format!("{who} is degraded: too few instances are present"),
        (EventKind::Service, "up") => format!("{who} is up"),
        (EventKind::Service, "left") => format!("{who} has left: all instances said goodbye"),
        (EventKind::Service, "forgotten") => format!("{who} is forgotten: it has no instance any more"),
        (EventKind::Service, "maintenance") => format!("{who} is in maintenance"),
        (EventKind::Service, _) => format!("{who} was not heard yet"),
        (EventKind::Flapping, "start") => format!("{who} goes up and down; its changes stay quiet until it settles"),
        (EventKind::Flapping, _) => format!("{who} has settled"),
        (EventKind::MassSilence, "start") => {
            "more than half of the instances that should be heard are silent, in several services: \
             one cause is likelier than many"
                .into()
        }
        (EventKind::MassSilence, "hold_expired") => {
            "the mass silence lasts; the silent are shown as down and nobody is told of each".into()
        }
        (EventKind::MassSilence, _) => "most of those that were silent are heard again".into(),
        (EventKind::Maintenance, "start") => format!("{who} is in maintenance"),
        (EventKind::Maintenance, _) => format!("the maintenance of {who} is over"),
        (EventKind::Warning, _) => {
            let text = warning(event.code.unwrap_or(""));
            if who.is_empty() { text.into() } else { format!("{who}: {text}") }
        }
        (EventKind::Restored, _) => {
            format!("presence was restored; {} instances are to be confirmed", event.count.unwrap_or(0))
        }
    };
    let mut add = |text: String| {
        let _ = write!(out, "; {text}");
    };
    if let Some(facts) = event.facts.as_ref().filter(|_| event.kind == EventKind::Instance) {
        match to {
            "down" | "late" => {
                let from = facts.source.map_or(String::new(), |source| format!(" from {source}"));
                add(format!("last heard {} ago{from}", length(facts.silence_s + facts.blind_s)));
            }
            _ => {}
        }
        if let Some(down_for) = facts.down_for_s {
            add(format!("it was down for {}", length(down_for)));
        }
    }
    if let Some(company) = event.company.as_ref().filter(|_| event.instance.as_deref() != Some("*")) {
        add(format!("{} of {} instances present", company.present, company.total));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::event::ServiceContext;

    #[test]
    fn a_down_says_what_was_seen() {
        let facts = InstanceContext {
            silence_s: 45.0,
            interval_s: Some(10.0),
            misses: Some(4),
            timeout_s: 45.0,
            source: Some(std::net::IpAddr::from([10, 0, 0, 5])),
            ..InstanceContext::default()
        };
        let event = Event {
            service: Some("checkout".into()),
            instance: Some("web-1".into()),
            from: Some("late"),
            to: Some("down"),
            reason: Some("missed_beats"),
            facts: Some(facts),
            company: Some(ServiceContext { service_state: "up", present: 2, total: 3 }),
            ..Event::new(0.0, EventKind::Instance, true)
        };
        assert_eq!(
            describe(&event),
            "checkout/web-1 missed 4 beats of 10 s; last heard 45 s ago from 10.0.0.5; 2 of 3 instances present"
        );
    }

    #[test]
    fn lengths_are_as_people_say_them() {
        for (seconds, text) in
            [(0.25, "0.3 s"), (22.5, "23 s"), (210.0, "4 min"), (7260.0, "2 h"), (604_800.0, "7 days")]
        {
            assert_eq!(length(seconds), text);
        }
    }
}
