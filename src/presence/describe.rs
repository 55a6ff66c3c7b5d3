//! Events in words: what a person reads in a log, on the board, in a page at night.

use std::borrow::Cow;
use std::fmt::Write;

use compact_str::CompactString;

use super::alert_book::{AlertKey, AlertName};
use super::event::{
    Change, Event, Health, InstanceContext, MassSilencePhase, PeerContext, PeerKind, Phase, Reason, WarningCode,
    WatchReason, WatchState,
};
use super::instance::State;
use super::jobs::{JobReason, JobState};
use super::service::ServiceState;

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

/// How many instances are present, of those that are present or down, or of those that must be, if these are more.
pub fn how_many(present: usize, total: usize, min: Option<u32>) -> String {
    match min {
        Some(min) if min as usize > total => format!("{present} of {min} expected"),
        _ => format!("{present} of {total} present"),
    }
}

/// What a warning means, and what to do about it.
fn warning(code: WarningCode) -> &'static str {
    match code {
        WarningCode::IngestDrops => {
            "the kernel drops datagrams before we can read them; that time counts against nobody"
        }
        WarningCode::QueueDrops => "more heartbeats come than presence takes; that time counts against nobody",
        WarningCode::LocalPause => "we stood still for a while; that time counts against nobody",
        WarningCode::ClockStep => "the wall clock was set; no deadline depends on it",
        WarningCode::PromiseMismatch => "beats come slower than promised; the measured interval counts",
        WarningCode::PromiseLoose => "beats come twenty times as often as promised: are milliseconds sent as seconds?",
        WarningCode::InstanceConflict => "two processes use this name in turn; give each its own instance",
        WarningCode::Limit => {
            "a limit on services or instances is reached; services that are not established give way to new ones, established \
             ones stay, and what finds no room is refused"
        }
        WarningCode::Sampled => "heartbeats are sent with a sample rate, so most of them are never sent",
        WarningCode::StateLost => "the saved state could not be read; presence starts empty",
        WarningCode::HighLoss => {
            "the network loses many heartbeats: instance alarms are less reliable, consider misses = \"auto\""
        }
        WarningCode::ServiceGone => "all instances have said goodbye, and none has come back",
        WarningCode::PeerUnreachable => {
            "another observer cannot be reached; what it alone heard counts against nobody for now"
        }
        WarningCode::Deaf => "we hear nothing while another observer hears the fleet: our ear is broken, not the fleet",
        WarningCode::WatchIrregular => {
            "this metric stops now and then by itself, so its silence tells nothing and is no alarm from now on; set an \
             `interval` for its watch, or another `evidence`"
        }
        WarningCode::ZeroRepeated => "goodbyes keep coming: is 0 sent for down, or does a proxy repeat gauges?",
    }
}

/// What an instance is said to have done or suffered.
fn instance_text<T>(to: Option<State>, reason: Reason, context: Option<&InstanceContext<T>>) -> String {
    let text = match (to, reason) {
        (Some(State::Down), _) => return down_text(reason, context),
        (Some(State::Up | State::Unknown), Reason::Registered) => "was heard for the first time",
        (Some(State::Up | State::Unknown), Reason::Confirmed) => "is still there after our restart",
        (Some(State::Up | State::Unknown), Reason::LateBeat) => "is back in time",
        (Some(State::Up | State::Unknown), Reason::Recovered) => "is back",
        (Some(State::Up | State::Unknown), Reason::Returned) => "has returned",
        (Some(State::Up | State::Unknown), Reason::Restarted) => "was restarted",
        (Some(State::Up | State::Unknown), Reason::Implicit) => "sends metrics, if no heartbeats",
        (Some(State::Up | State::Unknown), _) => "is up",
        (Some(State::Late), _) => "is late",
        (Some(State::Left), Reason::Goodbye) => "said goodbye",
        (Some(State::Left), Reason::Elsewhere) => "is not heard by this node any more; others may hear it",
        (Some(State::Left), Reason::NeverEstablished) => "fell silent before its interval was known",
        (Some(State::Left), Reason::Replaced) => "was replaced by a newer instance",
        (Some(State::Left), Reason::BecameJob) => "is a job now; its runs are judged, not its silence",
        (Some(State::Left), Reason::Irregular) => "is silent, as it is now and then",
        (Some(State::Left), _) => "has left",
        (None, Reason::Operator) => "was forgotten by an operator",
        (None, Reason::Reserved) => "is forgotten: the API has the name of its service in its paths now",
        (None, _) => "is forgotten",
    };
    text.into()
}

/// Why an instance is down.
fn down_text<T>(reason: Reason, context: Option<&InstanceContext<T>>) -> String {
    let text = match reason {
        Reason::MissedBeats => match context.and_then(|context| Some((context.misses?, context.interval_s?))) {
            Some((misses, interval)) => return format!("is down: it missed {misses} beats of {}", length(interval)),
            None => "is down: it missed its beats",
        },
        Reason::SilentSinceRestart => "is down: it was not heard since we started",
        Reason::MassSilence => "is down in a mass silence",
        Reason::MaintenanceOver => "is still down after its maintenance",
        Reason::FlappingOver => "is still down after flapping",
        Reason::NotBackAfterMassSilence => "is down: it did not come back after the mass silence",
        Reason::NotBackWithService => "is down: it did not come back with its service",
        Reason::NotBackAfterPeer => {
            "is down: a lost observer alone heard it, and it did not come back when the others did"
        }
        Reason::Peer => "is down: a lost observer alone heard it",
        // None of these makes an instance go down.
        Reason::Registered
        | Reason::Confirmed
        | Reason::LateBeat
        | Reason::Recovered
        | Reason::Returned
        | Reason::Restarted
        | Reason::Implicit
        | Reason::MissedBeat
        | Reason::Hold
        | Reason::Goodbye
        | Reason::NeverEstablished
        | Reason::Elsewhere
        | Reason::Replaced
        | Reason::BecameJob
        | Reason::Irregular
        | Reason::Reserved
        | Reason::Operator
        | Reason::Evicted
        | Reason::LeftExpired
        | Reason::DownExpired => "is down",
    };
    text.into()
}

fn service_text(to: Option<ServiceState>) -> &'static str {
    match to {
        Some(ServiceState::Down) => "is down: no instance is present",
        Some(ServiceState::Degraded) => "is degraded: too few instances are present",
        Some(ServiceState::Up) => "is up",
        Some(ServiceState::Left) => "has left: all instances said goodbye",
        Some(ServiceState::Maintenance) => "is in maintenance",
        Some(ServiceState::Unknown) => "was not heard yet",
        None => "is forgotten: it has no instance any more",
    }
}

/// What a job did or suffered.
fn job_text(to: JobState, reason: JobReason) -> Cow<'static, str> {
    let text = match (to, reason) {
        (JobState::Failed, JobReason::Exit(status)) => return exit_text(status).into(),
        (_, JobReason::MaintenanceOver) => return format!("is still {to} after its maintenance").into(),
        (JobState::Overrun, JobReason::MaxRuntime) => "runs for longer than it may",
        (JobState::Overrun, _) => "still runs, and its next run was due",
        (JobState::Lost, JobReason::TooManyRuns) => "has more runs open than are kept; the oldest is given up as lost",
        (JobState::Lost, _) => "has begun another run, and the one before never ended",
        (JobState::Missed, JobReason::StillRunning) => "did not run when it was due; the run before has not ended",
        (JobState::Missed, _) => "did not run when it was due",
        (JobState::Unheard, JobReason::EndUnheard) => "may have ended its run while we could not hear",
        (JobState::Unheard, _) => "was due while we could not hear; its next run is awaited",
        (JobState::Retired, JobReason::Operator) => "was forgotten by an operator",
        (JobState::Retired, JobReason::Evicted) => "is forgotten: it made room for another job",
        (JobState::Retired, JobReason::Expired) => "is forgotten: it was not heard for long",
        (JobState::Retired, _) => "said goodbye; no run of it is awaited any more",
        (JobState::Waiting, JobReason::Operator) => {
            "was forgotten by an operator; it is configured, so its next run is awaited"
        }
        (JobState::Waiting, _) => "was not heard yet",
        (JobState::Running, _) => "has begun a run",
        (JobState::Ok, _) => "ended well",
        (JobState::Failed, JobReason::BadStatus) => "counts as failed: its `status` is none of start, ok and fail",
        (JobState::Failed, _) => "failed",
    };
    text.into()
}

/// The machine that a run was on, unless the name of the job says so.
fn on_host<T>(event: &Event<T>) -> String {
    let host =
        event.job.as_ref().and_then(|job| job.host.as_ref()).filter(|host| event.instance.as_ref() != Some(host));
    host.map_or_else(String::new, |host| format!(" on {host}"))
}

/// A failure with an exit status. Shells report a signal `n` as `128 + n`.
fn exit_text(status: i64) -> String {
    match status.checked_sub(128) {
        Some(signal @ 1..=64) => format!("failed with exit {status}, as after signal {signal}"),
        _ => format!("failed with exit {status}"),
    }
}

fn health_text(to: Option<Health>) -> &'static str {
    let Some(to) = to else { return "is not judged by its service check any more" };
    match to {
        Health::Ok => "says by its service check that it is well",
        Health::Warning => "says by its service check that something is amiss (warning)",
        Health::Critical => "says by its service check that it is not well (critical)",
        Health::Unknown => "says by its service check that it cannot tell how it is (unknown)",
    }
}

fn watch_text(to: WatchState, reason: WatchReason) -> &'static str {
    match (to, reason) {
        (WatchState::Low, _) => "has had too few lines for two minutes",
        (WatchState::Ok, WatchReason::Floor) => "has enough lines again",
        (WatchState::Ok, WatchReason::Down) => "has no lines at all; the alarm about its silence stands for it",
        (WatchState::Ok, WatchReason::Forgotten) => "is not there any more, and its lines are not counted",
    }
}

/// Two observers, of which one cannot be reached, or can be again.
fn peer_text(phase: Phase, nodes: Option<&[CompactString; 2]>, context: Option<&PeerContext>) -> String {
    let who = nodes.map_or("two observers".to_string(), |[one, other]| format!("the observers {one} and {other}"));
    match (phase, context) {
        (Phase::Start, Some(PeerContext { peer, by, why, kind, .. })) => {
            let why = why.as_deref().map_or(String::new(), |why| format!("; {why}"));
            match kind {
                PeerKind::Observer => format!("the observer {peer} does not answer {by}{why}"),
                PeerKind::Node => format!("the node {peer} of the cluster does not answer {by}{why}"),
                PeerKind::Bus => format!("{by} does not reach {peer}{why}"),
            }
        }
        (Phase::End, Some(PeerContext { peer, former, kind: PeerKind::Node, .. })) => match former {
            true => format!("the node {peer} does not belong to the cluster any more"),
            false => format!("the node {peer} of the cluster answers again"),
        },
        (Phase::End, Some(PeerContext { peer, by, kind: PeerKind::Bus, .. })) => format!("{by} reaches {peer} again"),
        (Phase::End, Some(context)) if context.former => format!("{who} do not ask each other any more"),
        (Phase::Start, None) => format!("{who} cannot reach each other"),
        (Phase::End, _) => format!("{who} reach each other again"),
    }
}

/// The end of an alarm in one sentence, where no event tells of it: what it is about, and that it is not seen any more.
pub fn over_text(key: &AlertKey) -> String {
    let service = key.service.as_deref().unwrap_or("");
    let who = match key.instance.as_deref() {
        None | Some("-") => service.to_string(),
        Some(instance) => format!("{service}/{instance}"),
    };
    match key.name {
        AlertName::InstanceDown | AlertName::ServiceDown => format!("{who} is not down any more"),
        AlertName::ServiceDegraded => format!("{who} is not degraded any more"),
        AlertName::ServiceGone => format!("{who} is not gone any more"),
        AlertName::Flapping => format!("{who} has settled"),
        AlertName::Health => format!("the service check of {who} is not critical any more"),
        AlertName::Job => format!("the job {who} has no problem any more"),
        AlertName::Watch => format!("{who} has enough lines again"),
        AlertName::MassSilence => "the mass silence is over".into(),
        AlertName::PeerUnreachable => peer_text(Phase::End, key.nodes.as_ref(), None),
        AlertName::Conflict | AlertName::Ingest | AlertName::Test => match key.code {
            Some(code) if who.is_empty() => format!("not seen any more: {}", warning(code)),
            Some(code) => format!("{who}: not seen any more: {}", warning(code)),
            None => "it is over".into(),
        },
    }
}

/// An event in one sentence. Names are as they were sent: whoever shows them escapes them.
pub fn describe<T>(event: &Event<T>) -> String {
    let service = event.service.as_deref().unwrap_or("");
    let who = match event.instance.as_deref() {
        Some("*") | None => service.to_string(),
        Some("-") if matches!(event.change, Change::Job { .. }) => service.to_string(),
        Some(instance) => format!("{service}/{instance}"),
    };
    let mut out = match event.change {
        Change::Instance { to, reason, .. } => format!("{who} {}", instance_text(to, reason, event.context.as_ref())),
        Change::Service { to, .. } => format!("{who} {}", service_text(to)),
        Change::Job { to, reason, .. } => format!("{who} {}{}", job_text(to, reason), on_host(event)),
        Change::Health { to, .. } => format!("{who} {}", health_text(to)),
        Change::Watch { to, reason, .. } => format!("{who} {}", watch_text(to, reason)),
        Change::Peer(phase) => peer_text(phase, event.nodes.as_ref(), event.peer.as_ref()),
        Change::Flapping(Phase::Start) => format!("{who} goes up and down; its changes stay quiet until it settles"),
        Change::Flapping(Phase::End) => format!("{who} has settled"),
        Change::MassSilence(MassSilencePhase::Start) => {
            "more than half of the instances that should be heard are silent, in several services: \
             one cause is likelier than many"
                .into()
        }
        Change::MassSilence(MassSilencePhase::HoldExpired) => {
            "the mass silence lasts; the silent are shown as down and nobody is told of each".into()
        }
        Change::MassSilence(MassSilencePhase::End) => "most of those that were silent are heard again".into(),
        Change::Maintenance(Phase::Start) => format!("{who} is in maintenance"),
        Change::Maintenance(Phase::End) => format!("the maintenance of {who} is over"),
        Change::Warning(code) if who.is_empty() => warning(code).into(),
        Change::Warning(code) => format!("{who}: {}", warning(code)),
        Change::Restored(count) => format!("presence was restored; {count} instances are to be confirmed"),
    };
    let mut add = |text: String| {
        let _ = write!(out, "; {text}");
    };
    if let (Change::Instance { to, .. }, Some(context)) = (event.change, &event.context) {
        if matches!(to, Some(State::Down | State::Late)) {
            let from = context.source.map_or(String::new(), |source| format!(" from {source}"));
            add(format!("last heard {} ago{from}", length(context.silence_s + context.blind_s)));
        }
        if let Some(down_for) = context.down_for_s {
            add(format!("it was down for {}", length(down_for)));
        }
    }
    if let (Change::Job { to, .. }, Some(job)) = (event.change, &event.job) {
        if let Some(due) = job.due {
            add(format!("it was due at {}", due.clock()));
        }
        if let Some(lasted) = job.duration_s {
            let verb = if to == JobState::Overrun { "it has been running for" } else { "it ran for" };
            add(format!("{verb} {}", length(lasted)));
        }
        if let Some(run) = &job.run {
            add(format!("run {run}"));
        }
        if let Some(message) = &job.message {
            add(format!("it said: {message}"));
        }
        if let Some(at) = job.last_success {
            add(format!("its last good run ended at {}", at.clock()));
        }
        if let Some(at) = job.next_due {
            add(format!("the next one is due at {}", at.clock()));
        }
    }
    if let Some(service) = event
        .service_context
        .as_ref()
        .filter(|_| !matches!(event.change, Change::Job { .. }))
        .filter(|_| event.instance.as_deref() != Some("*"))
    {
        add(match service.min {
            Some(_) => how_many(service.present, service.total, service.min),
            None => format!("{} of {} instances present", service.present, service.total),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::event::{JobContext, ServiceContext};
    use crate::presence::time::UnixTime;

    #[test]
    fn a_down_says_what_was_seen() {
        let context = InstanceContext {
            silence_s: 45.0,
            interval_s: Some(10.0),
            misses: Some(4),
            timeout_s: 45.0,
            source: Some(std::net::IpAddr::from([10, 0, 0, 5])),
            ..InstanceContext::default()
        };
        let down = Change::Instance { from: Some(State::Late), to: Some(State::Down), reason: Reason::MissedBeats };
        let event = Event {
            service: Some("checkout".into()),
            instance: Some("web-1".into()),
            context: Some(context),
            service_context: Some(ServiceContext {
                service_state: ServiceState::Up,
                present: 2,
                total: 3,
                min: None,
                ephemeral: false,
            }),
            ..Event::new(UnixTime::default(), down, true)
        };
        assert_eq!(
            describe(&event),
            "checkout/web-1 is down: it missed 4 beats of 10 s; last heard 45 s ago from 10.0.0.5; 2 of 3 instances present"
        );
    }

    #[test]
    fn who_is_expected_and_never_came_is_counted_against_what_is_expected() {
        let change = Change::Service { from: None, to: Some(ServiceState::Down) };
        let context =
            ServiceContext { service_state: ServiceState::Down, present: 0, total: 0, min: Some(1), ephemeral: false };
        let event = Event {
            service: Some("must".into()),
            service_context: Some(context),
            ..Event::new(UnixTime::default(), change, true)
        };
        assert_eq!(describe(&event), "must is down: no instance is present; 0 of 1 expected");
        assert_eq!([how_many(1, 2, Some(2)), how_many(1, 2, None)], ["1 of 2 present", "1 of 2 present"]);
    }

    #[test]
    fn a_job_says_what_its_run_did() {
        for (instance, to, reason, text) in [
            ("-", JobState::Failed, JobReason::Exit(137), "backup failed with exit 137, as after signal 9"),
            ("-", JobState::Failed, JobReason::Exit(1), "backup failed with exit 1"),
            ("-", JobState::Failed, JobReason::Exit(i64::MIN), "backup failed with exit -9223372036854775808"),
            ("box7", JobState::Missed, JobReason::NoRun, "backup/box7 did not run when it was due"),
            ("-", JobState::Missed, JobReason::MaintenanceOver, "backup is still missed after its maintenance"),
        ] {
            let change = Change::Job { from: JobState::Running, to, reason };
            let event = Event::new(UnixTime::default(), change, true);
            let event = Event { service: Some("backup".into()), instance: Some(instance.into()), ..event };
            assert_eq!(describe(&event), text);
        }
    }

    #[test]
    fn a_failure_says_what_somebody_on_call_asks_first() {
        let at = |secs: f64| Some(UnixTime::from_secs(secs));
        let job = JobContext {
            host: Some("box7".into()),
            duration_s: Some(12.0),
            last_success: at(0.0),
            next_due: at(86_400.0),
            ..JobContext::default()
        };
        let change = Change::Job { from: JobState::Running, to: JobState::Failed, reason: JobReason::Exit(3) };
        let event =
            Event { service: Some("backup".into()), job: Some(job), ..Event::new(UnixTime::default(), change, true) };
        assert_eq!(
            describe(&event),
            "backup failed with exit 3 on box7; it ran for 12 s; its last good run ended at 1970-01-01 00:00:00 UTC; the next one is \
             due at 1970-01-02 00:00:00 UTC"
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
