//! What a person is told: title, text and link of a notification, made in one place for all targets.
//!
//! A text says what was seen, since when, how sure that is, and where to look. An end says how it came about: what was
//! forgotten, replaced or said goodbye has not recovered.

use serde_json::{Value, json};

use crate::presence::describe::length;
use crate::presence::{AlertName, Ending, Identity, Notification, ServiceState, Severity, State, WarningCode};
use crate::untrusted::{Escaped, in_url};

/// The first word of the title of an end.
fn word_of(ending: Ending) -> &'static str {
    match ending {
        Ending::Over => "RESOLVED",
        Ending::Left | Ending::Replaced | Ending::Forgotten | Ending::Maintenance => "ENDED",
    }
}

/// What is to be known of an end beside the event; empty for an end as one expects it.
fn explanation(ending: Ending) -> &'static str {
    match ending {
        Ending::Over => "",
        Ending::Left => "This alarm ended with a goodbye: nobody is waited for any more.",
        Ending::Replaced => "This alarm ended because a newer instance took the place: this one was not heard again.",
        Ending::Forgotten => {
            "This alarm ended because its subject was forgotten, not because it recovered: it was not heard again."
        }
        Ending::Maintenance => {
            "This alarm ended because maintenance began, not because it recovered: what is still wrong at its end is told \
             again."
        }
    }
}

/// A notification in words. Everything in it is escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// One line without the severity.
    pub(super) title: String,
    /// `CRITICAL`, `WARNING`, `INFO`, `RESOLVED` or `ENDED`.
    pub(super) word: &'static str,
    /// Some lines: what was seen, since when, how sure that is, and of an end, how it came about.
    pub(super) text: String,
    /// The same for who has the whole sentence elsewhere: what is behind it first.
    pub(super) background: String,
    /// Where to look.
    pub(super) link: Option<String>,
}

impl Message {
    /// The words for a notification; `page` is where the daemon's own page is.
    pub(super) fn new(notification: &Notification, page: Option<&str>) -> Message {
        let alarm = &notification.alarm;
        let (title, rest) = alarm.text.split_once("; ").unwrap_or((&alarm.text, ""));
        let ending = notification.resolved.then(|| notification.ending());
        let word = match (ending, alarm.severity) {
            (Some(ending), _) => word_of(ending),
            (None, Severity::Critical) => "CRITICAL",
            (None, Severity::Warning) => "WARNING",
            (None, Severity::Info) => "INFO",
        };
        let (seen, since, sure) = (capital(rest), since(notification), sureness(notification));
        let explanation = ending.map_or("", explanation);
        let text = joined(&[&seen, &since, &sure, explanation]);
        let background = joined(&[&sure, &since, explanation]);
        Message { title: Escaped(title).to_string(), word, text, background, link: link(notification, page) }
    }

    /// The title with its word.
    pub(super) fn headline(&self) -> String {
        format!("{}: {}", self.word, self.title)
    }
}

/// Lines that say something, escaped.
fn joined(lines: &[&str]) -> String {
    let lines = lines.iter().filter(|line| !line.is_empty());
    lines.map(|line| Escaped(line).to_string()).collect::<Vec<_>>().join("\n")
}

/// A sentence of a clause; empty if there is none.
fn capital(clause: &str) -> String {
    let mut chars = clause.chars();
    let Some(first) = chars.next() else { return String::new() };
    let end = if clause.ends_with(['.', '?', '!']) { "" } else { "." };
    format!("{}{}{end}", first.to_uppercase(), chars.as_str())
}

/// Since when; of an end, how long it took.
fn since(notification: &Notification) -> String {
    let alarm = &notification.alarm;
    match (&notification.event, notification.resolved) {
        (Some((_, event)), true) => {
            let took = length((event.at - alarm.since).max(0.0));
            format!("It lasted {took}, from {} to {}.", alarm.since.clock(), event.at.clock())
        }
        (_, true) => format!("It began at {}.", alarm.since.clock()),
        (Some((_, event)), false) => {
            let seen = event.context.as_ref().and_then(|context| context.last_seen);
            let heard = seen.map_or(String::new(), |seen| format!(", last heard at {}", seen.clock()));
            format!("Since {}{heard}.", alarm.since.clock())
        }
        (None, false) => format!("Since {}.", alarm.since.clock()),
    }
}

/// How sure it is: what we could not see, and whether others are heard.
fn sureness(notification: &Notification) -> String {
    let context = notification.event.as_ref().and_then(|(_, event)| event.context.as_ref());
    let blind = context.map_or(0.0, |context| context.blind_s);
    let blind = if blind > 0.0 {
        format!("{} in which we could not see were left out; ", length(blind))
    } else {
        String::new()
    };
    let detail = notification.detail.trim();
    match (notification.resolved, blind.is_empty() && detail.is_empty()) {
        (true, _) | (_, true) => String::new(),
        (false, false) => format!("{blind}{detail}"),
    }
}

/// The page that shows what an alarm is about.
fn link(notification: &Notification, page: Option<&str>) -> Option<String> {
    let page = page?.trim_end_matches('/');
    let service = notification.alarm.key.service.as_deref();
    Some(format!("{page}/presence{}", service.map_or(String::new(), |service| format!("/{}", in_url(service)))))
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
        | AlertName::Test
        | AlertName::Watch => None,
    }
}

/// A notification as JSON, as webhooks and commands get it: the event, and what it means as a notification.
pub(super) fn event(notification: &Notification, identity: &Identity, page: Option<&str>) -> Value {
    let alarm = &notification.alarm;
    let mut event = match &notification.event {
        Some((number, event)) => identity.publish(*number, event),
        // It was pending over a restart, so nothing else is known.
        None => {
            let to = state_of(alarm.key.name).filter(|_| !notification.resolved);
            json!({
                "v": 1,
                "id": format!("{}-{}", identity.id(0), alarm.key.dedup_key()),
                "time": alarm.since.rfc3339(),
                "node": identity.node,
                "kind": alarm.key.name.kind(),
                "service": alarm.key.service,
                "instance": alarm.key.instance,
                "to": to,
                "notify": true,
                "severity": alarm.severity,
                "text": Escaped(&alarm.text).to_string(),
            })
        }
    };
    let message = Message::new(notification, page);
    event["alertname"] = alarm.key.name.as_str().into();
    event["resolved"] = notification.resolved.into();
    if notification.resolved {
        event["ending"] = notification.ending().as_str().into();
    }
    event["since"] = alarm.since.rfc3339().into();
    event["detail"] = Escaped(&notification.detail).to_string().into();
    event["title"] = message.headline().into();
    event["message"] = message.text.into();
    if let Some(link) = message.link {
        event["link"] = link.into();
    }
    event
}

/// The code of a warning, or what else tells alarms of one name apart.
pub(super) fn code(notification: &Notification) -> Option<&'static str> {
    notification.alarm.key.code.map(WarningCode::as_str)
}

/// No more than so many characters of a text; a cut is shown.
pub(super) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_string();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// No more than so many bytes of a text.
pub(super) fn cut_bytes(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::describe::describe;
    use crate::presence::{
        Alarm, AlertKey, AlertState, Change, Event, Health, InstanceContext, JobReason, JobState, MassSilencePhase,
        Phase, Reason, ServiceContext, UnixTime, WatchReason, WatchState,
    };

    fn event_of(change: Change, instance: Option<&str>, context: Option<InstanceContext>) -> Event {
        Event {
            at: UnixTime::from_secs(1_717_985_692.25),
            change,
            service: Some("checkout".into()),
            instance: instance.map(Into::into),
            nodes: None,
            peer: None,
            notify: true,
            context,
            service_context: Some(ServiceContext {
                service_state: ServiceState::Up,
                present: 2,
                total: 3,
                min: None,
                ephemeral: false,
            }),
            job: None,
        }
    }

    fn notification(name: AlertName, event: Event, since: f64, resolved: bool, detail: &str) -> Notification {
        let key = AlertKey { service: event.service.clone(), instance: event.instance.clone(), ..AlertKey::of(name) };
        let alarm = Alarm {
            key,
            severity: if resolved { Severity::Warning } else { event.severity() },
            text: describe(&event),
            since: UnixTime::from_secs(since),
            until: None,
            state: AlertState::Firing,
        };
        Notification { alarm, resolved, event: Some((7, event)), detail: detail.into(), version: 0, ending: None }
    }

    const PAGE: Option<&str> = Some("http://stats:8127/");

    #[test]
    fn an_instance_that_is_down_says_what_was_seen_since_when_how_sure_and_where() {
        let context = InstanceContext {
            silence_s: 45.0,
            blind_s: 12.0,
            interval_s: Some(10.0),
            misses: Some(4),
            timeout_s: 45.0,
            last_seen: Some(UnixTime::from_secs(1_717_985_635.25)),
            source: Some(std::net::IpAddr::from([10, 0, 0, 5])),
            ..InstanceContext::default()
        };
        let down = Change::Instance { from: Some(State::Late), to: Some(State::Down), reason: Reason::MissedBeats };
        let detail = "Loss of web-1 in the last hour: 0.4 %. 184 of 184 other instances are heard in time; the kernel \
                      dropped nothing in the last 10 min.";
        let told = notification(
            AlertName::InstanceDown,
            event_of(down, Some("web-1"), Some(context)),
            1_717_985_692.25,
            false,
            detail,
        );
        let message = Message::new(&told, PAGE);
        assert_eq!(message.headline(), "WARNING: checkout/web-1 is down: it missed 4 beats of 10 s");
        assert_eq!(
            message.text,
            "Last heard 57 s ago from 10.0.0.5; 2 of 3 instances present.\n\
             Since 2024-06-10 02:14:52 UTC, last heard at 2024-06-10 02:13:55 UTC.\n\
             12 s in which we could not see were left out; Loss of web-1 in the last hour: 0.4 %. 184 of 184 other \
             instances are heard in time; the kernel dropped nothing in the last 10 min."
        );
        assert_eq!(message.link.as_deref(), Some("http://stats:8127/presence/checkout"));
    }

    #[test]
    fn an_end_says_how_it_came_about() {
        for (to, reason, word, says) in [
            (Some(State::Up), Reason::Recovered, "RESOLVED: checkout/web-1 is back", ""),
            (None, Reason::DownExpired, "ENDED: checkout/web-1 is forgotten", "forgotten, not because it recovered"),
            (
                None,
                Reason::Operator,
                "ENDED: checkout/web-1 was forgotten by an operator",
                "forgotten, not because it recovered",
            ),
            (Some(State::Left), Reason::Goodbye, "ENDED: checkout/web-1 said goodbye", "ended with a goodbye"),
            (
                Some(State::Left),
                Reason::Replaced,
                "ENDED: checkout/web-1 was replaced by a newer instance",
                "a newer instance took the place",
            ),
        ] {
            let change = Change::Instance { from: Some(State::Down), to, reason };
            let event = event_of(change, Some("web-1"), None);
            let message = Message::new(
                &notification(AlertName::InstanceDown, event, 1_717_984_972.0, true, "3 of 3 others"),
                PAGE,
            );
            assert_eq!(message.headline(), word);
            assert!(message.text.contains("It lasted 12 min, from 2024-06-10 02:02:52 UTC to "), "{}", message.text);
            assert!(message.text.contains(says) && !message.text.contains("others"), "{}", message.text);
            assert_eq!(says.is_empty(), !message.text.contains("This alarm ended"), "{}", message.text);
        }
        let silenced = Change::Service { from: Some(ServiceState::Down), to: Some(ServiceState::Maintenance) };
        let message =
            Message::new(&notification(AlertName::ServiceDown, event_of(silenced, None, None), 1e9, true, ""), None);
        assert_eq!(message.headline(), "ENDED: checkout is in maintenance");
        assert!(message.text.contains("not because it recovered"), "{}", message.text);
        let gone = Change::Service { from: Some(ServiceState::Down), to: None };
        let message =
            Message::new(&notification(AlertName::ServiceDown, event_of(gone, None, None), 1e9, true, ""), None);
        assert_eq!(message.headline(), "ENDED: checkout is forgotten: it has no instance any more");
        assert!(message.text.contains("not because it recovered") && message.link.is_none());
    }

    #[test]
    fn every_name_has_words_that_a_person_understands() {
        let service = |to| Change::Service { from: Some(ServiceState::Up), to: Some(to) };
        for (name, change, title) in [
            (AlertName::ServiceDown, service(ServiceState::Down), "CRITICAL: checkout is down: no instance is present"),
            (
                AlertName::ServiceDegraded,
                service(ServiceState::Degraded),
                "WARNING: checkout is degraded: too few instances are present",
            ),
            (AlertName::Flapping, Change::Flapping(Phase::Start), "WARNING: checkout goes up and down"),
            (
                AlertName::MassSilence,
                Change::MassSilence(MassSilencePhase::Start),
                "CRITICAL: more than half of the instances that should be heard are silent, in several services: one \
                 cause is likelier than many",
            ),
            (
                AlertName::ServiceGone,
                Change::Warning(WarningCode::ServiceGone),
                "WARNING: checkout: all instances have said goodbye, and none has come back",
            ),
            (
                AlertName::Conflict,
                Change::Warning(WarningCode::InstanceConflict),
                "WARNING: checkout: two processes use this name in turn",
            ),
            (
                AlertName::Job,
                Change::Job { from: JobState::Running, to: JobState::Failed, reason: JobReason::Exit(137) },
                "CRITICAL: checkout failed with exit 137, as after signal 9",
            ),
            (
                AlertName::Job,
                Change::Job { from: JobState::Ok, to: JobState::Missed, reason: JobReason::NoRun },
                "CRITICAL: checkout did not run when it was due",
            ),
            (
                AlertName::Health,
                Change::Health { from: Some(Health::Ok), to: Some(Health::Critical) },
                "CRITICAL: checkout says by its service check that it is not well (critical)",
            ),
            (
                AlertName::Watch,
                Change::Watch { from: WatchState::Ok, to: WatchState::Low, reason: WatchReason::Floor },
                "WARNING: checkout has had too few lines for two minutes",
            ),
            (AlertName::PeerUnreachable, Change::Peer(Phase::Start), "CRITICAL: two observers cannot reach each other"),
            (
                AlertName::Ingest,
                Change::Warning(WarningCode::IngestDrops),
                "WARNING: checkout: the kernel drops datagrams before we can read them",
            ),
        ] {
            let told = notification(name, event_of(change, None, None), 1e9, false, "");
            let message = Message::new(&told, PAGE);
            assert_eq!(message.headline(), title);
            assert!(message.text.contains("Since 2001-09-09 01:46:40 UTC"), "{}", message.text);
            let json = event(&told, &Identity { node: "n".into(), boot: 5 }, PAGE);
            assert_eq!((json["alertname"].as_str(), json["title"].as_str()), (Some(name.as_str()), Some(title)));
        }
    }

    #[test]
    fn texts_are_cut_where_a_receiver_has_a_limit() {
        assert_eq!((cut("abcdef", 4).as_str(), cut("abc", 3).as_str()), ("abc…", "abc"));
        assert_eq!(cut_bytes("aé", 2), "a");
    }
}
