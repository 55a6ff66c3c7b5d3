//! What the engine reports: every change of an instance or a service, and everything else that somebody may have to know.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use compact_str::CompactString;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::named::named_enum;
use crate::untrusted::Escaped;

use super::describe::describe;
use super::instance::State;
use super::jobs::{JobReason, JobState};
use super::service::ServiceState;
use super::text_bytes;
use super::time::{EngineTime, Epoch, UnixTime};

named_enum! {
    /// What an event is about.
    pub enum EventKind {
        /// An instance changed.
        Instance = "instance",
        /// A service changed.
        Service = "service",
        /// A job changed.
        Job = "job",
        /// A service check said something else than before.
        Health = "health",
        /// A watched metric has too few lines, or enough again.
        Watch = "watch",
        /// Another observer cannot be reached, or can be again.
        Peer = "peer",
        /// Flapping began or ended.
        Flapping = "flapping",
        /// Most of what should be heard is silent, or is heard again.
        MassSilence = "mass_silence",
        /// Maintenance began or ended.
        Maintenance = "maintenance",
        /// Something to know that is no change.
        Warning = "warning",
        /// The daemon started and remembered instances that are to be confirmed.
        Restored = "restored",
    }
}

named_enum! {
    /// Why something changed.
    pub enum Reason {
        /// Heard for the first time.
        Registered = "registered",
        /// Heard for the first time since we started.
        Confirmed = "confirmed",
        /// Heard after it was late.
        LateBeat = "late_beat",
        /// Heard after it was down.
        Recovered = "recovered",
        /// Heard after it left.
        Returned = "returned",
        /// Another process than before.
        Restarted = "restarted",
        /// One of its metrics was heard.
        Implicit = "implicit",
        /// One beat was missed.
        MissedBeat = "missed_beat",
        /// Enough beats were missed.
        MissedBeats = "missed_beats",
        /// Not heard since we started.
        SilentSinceRestart = "silent_since_restart",
        /// Silent like most of the others.
        MassSilence = "mass_silence",
        /// A mass silence has lasted for too long to hold downs back.
        Hold = "hold",
        /// Down, and no longer in maintenance.
        MaintenanceOver = "maintenance_over",
        /// Down, and no longer flapping.
        FlappingOver = "flapping_over",
        /// Down since a mass silence that is over.
        NotBackAfterMassSilence = "not_back_after_mass_silence",
        /// Down since its service was, which is back.
        NotBackWithService = "not_back_with_service",
        /// Down since the only observer that heard it was lost, and most of the others are heard again.
        NotBackAfterPeer = "not_back_after_peer",
        /// Only an observer that cannot be reached heard it.
        Peer = "peer",
        /// It said goodbye.
        Goodbye = "goodbye",
        /// Silent before its interval was known.
        NeverEstablished = "never_established",
        /// A newer instance took its place.
        Replaced = "replaced",
        /// Silent at a node of a cluster that judges nobody: others may hear it.
        Elsewhere = "elsewhere",
        /// It is a job now, whose silence means nothing.
        BecameJob = "became_job",
        /// A watched metric that comes and goes, so that its silence means nothing.
        Irregular = "irregular",
        /// Its service has a name that the API needs.
        Reserved = "reserved",
        /// An operator removed it.
        Operator = "operator",
        /// It made room for another one.
        Evicted = "evicted",
        /// It left long ago.
        LeftExpired = "left_expired",
        /// It went down long ago.
        DownExpired = "down_expired",
    }
}

named_enum! {
    /// What a warning is about, in the order of the names: alerts are listed in it.
    pub enum WarningCode {
        /// The wall clock was set.
        ClockStep = "clock_step",
        /// We hear nothing, and another observer hears the fleet.
        Deaf = "deaf",
        /// The network loses many heartbeats.
        HighLoss = "high_loss",
        /// The kernel drops datagrams.
        IngestDrops = "ingest_drops",
        /// Two processes use one name.
        InstanceConflict = "instance_conflict",
        /// A limit is reached.
        Limit = "limit",
        /// We stood still.
        LocalPause = "local_pause",
        /// Another observer cannot be reached.
        PeerUnreachable = "peer_unreachable",
        /// Beats come much more often than declared.
        PromiseLoose = "promise_loose",
        /// Beats come slower than declared.
        PromiseMismatch = "promise_mismatch",
        /// The queue of presence was full.
        QueueDrops = "queue_drops",
        /// Heartbeats are sent with a sample rate.
        Sampled = "sampled",
        /// Nobody of a service has come back.
        ServiceGone = "service_gone",
        /// The saved state could not be read.
        StateLost = "state_lost",
        /// A watched metric stops now and then by itself.
        WatchIrregular = "watch_irregular",
        /// Goodbyes keep coming.
        ZeroRepeated = "zero_repeated",
    }
}

named_enum! {
    /// How grave something is.
    pub enum Severity {
        /// It wakes somebody.
        Critical = "critical",
        /// It can wait until the morning.
        Warning = "warning",
        /// It is good to know.
        Info = "info",
    }
}

named_enum! {
    /// Whether something begins or is over.
    pub enum Phase {
        /// It begins.
        Start = "start",
        /// It is over.
        End = "end",
    }
}

named_enum! {
    /// How a mass silence goes on.
    pub enum MassSilencePhase {
        /// It begins.
        Start = "start",
        /// It lasts too long to hold downs back.
        HoldExpired = "hold_expired",
        /// It is over.
        End = "end",
    }
}

named_enum! {
    /// What a service check says, in the order of its numbers on the wire.
    pub enum Health {
        /// Status 0.
        Ok = "ok",
        /// Status 1.
        Warning = "warning",
        /// Status 2.
        Critical = "critical",
        /// Status 3.
        Unknown = "unknown",
    }
}

impl Health {
    /// What a status on the wire says; every number beyond 2 is unknown.
    pub fn of_status(status: u8) -> Health {
        match status {
            0 => Health::Ok,
            1 => Health::Warning,
            2 => Health::Critical,
            _ => Health::Unknown,
        }
    }

    /// Whether it is a problem: critical and unknown are.
    pub fn is_bad(self) -> bool {
        matches!(self, Health::Critical | Health::Unknown)
    }
}

named_enum! {
    /// Whether a watched metric has as many lines a minute as it should.
    pub enum WatchState {
        /// It has.
        Ok = "ok",
        /// It has fewer.
        Low = "low",
    }
}

named_enum! {
    /// Why the state of a watched metric changed.
    pub enum WatchReason {
        /// Its lines of a minute were counted.
        Floor = "floor",
        /// Its instance is down, and that alarm stands for it.
        Down = "down",
        /// Its instance is not known any more.
        Forgotten = "forgotten",
    }
}

impl MassSilencePhase {
    fn reason(self) -> Reason {
        match self {
            MassSilencePhase::Start => Reason::MassSilence,
            MassSilencePhase::HoldExpired => Reason::Hold,
            MassSilencePhase::End => Reason::Recovered,
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// An instance changed its state; without one it was not known before, or is forgotten.
    Instance {
        /// State before.
        from: Option<State>,
        /// State now.
        to: Option<State>,
        /// Why.
        reason: Reason,
    },
    /// A service changed its state; without one it was not known before, or is forgotten.
    Service {
        /// State before.
        from: Option<ServiceState>,
        /// State now.
        to: Option<ServiceState>,
    },
    /// A job changed its state.
    Job {
        /// State before.
        from: JobState,
        /// State now.
        to: JobState,
        /// Why.
        reason: JobReason,
    },
    /// A service check said something else than before.
    Health {
        /// What it said before; `None` if this is the first.
        from: Option<Health>,
        /// What it says now; `None` if it is not there any more.
        to: Option<Health>,
    },
    /// A watched metric has too few lines, or enough again.
    Watch {
        /// State before.
        from: WatchState,
        /// State now.
        to: WatchState,
        /// Why.
        reason: WatchReason,
    },
    /// Another observer cannot be reached, or can be again; `nodes` of the event has both.
    Peer(Phase),
    /// Flapping began or ended.
    Flapping(Phase),
    /// Most of what should be heard is silent, or is heard again.
    MassSilence(MassSilencePhase),
    /// Maintenance began or ended.
    Maintenance(Phase),
    /// Something to know that is no change.
    Warning(WarningCode),
    /// The daemon started and remembered so many instances that are to be confirmed.
    Restored(u64),
}

/// What stands for no state, before and after.
const NOT_KNOWN_YET: &str = "none";
const FORGOTTEN: &str = "forgotten";

impl Change {
    /// What it is about.
    pub fn kind(&self) -> EventKind {
        match self {
            Change::Instance { .. } => EventKind::Instance,
            Change::Service { .. } => EventKind::Service,
            Change::Job { .. } => EventKind::Job,
            Change::Health { .. } => EventKind::Health,
            Change::Watch { .. } => EventKind::Watch,
            Change::Peer(_) => EventKind::Peer,
            Change::Flapping(_) => EventKind::Flapping,
            Change::MassSilence(_) => EventKind::MassSilence,
            Change::Maintenance(_) => EventKind::Maintenance,
            Change::Warning(_) => EventKind::Warning,
            Change::Restored(_) => EventKind::Restored,
        }
    }

    /// The state before, as records have it.
    pub fn from_name(&self) -> Option<&'static str> {
        match self {
            Change::Instance { from, .. } => Some(from.map_or(NOT_KNOWN_YET, State::as_str)),
            Change::Service { from, .. } => Some(from.map_or(NOT_KNOWN_YET, ServiceState::as_str)),
            Change::Job { from, .. } => Some(from.as_str()),
            Change::Health { from, .. } => Some(from.map_or(NOT_KNOWN_YET, Health::as_str)),
            Change::Watch { from, .. } => Some(from.as_str()),
            Change::Peer(_)
            | Change::Flapping(_)
            | Change::MassSilence(_)
            | Change::Maintenance(_)
            | Change::Warning(_)
            | Change::Restored(_) => None,
        }
    }

    /// The state or the phase now, as records have it.
    pub fn to_name(&self) -> Option<&'static str> {
        match self {
            Change::Instance { to, .. } => Some(to.map_or(FORGOTTEN, State::as_str)),
            Change::Service { to, .. } => Some(to.map_or(FORGOTTEN, ServiceState::as_str)),
            Change::Job { to, .. } => Some(to.as_str()),
            Change::Health { to, .. } => Some(to.map_or(FORGOTTEN, Health::as_str)),
            Change::Watch { to, .. } => Some(to.as_str()),
            Change::Peer(phase) | Change::Flapping(phase) | Change::Maintenance(phase) => Some(phase.as_str()),
            Change::MassSilence(phase) => Some(phase.as_str()),
            Change::Warning(_) | Change::Restored(_) => None,
        }
    }

    /// Why, as records have it.
    pub fn reason(&self) -> Option<Cow<'static, str>> {
        match self {
            Change::Instance { reason, .. } => Some(reason.as_str().into()),
            Change::MassSilence(phase) => Some(phase.reason().as_str().into()),
            Change::Job { reason, .. } => Some(reason.text()),
            Change::Watch { reason, .. } => Some(reason.as_str().into()),
            Change::Service { .. }
            | Change::Health { .. }
            | Change::Peer(_)
            | Change::Flapping(_)
            | Change::Maintenance(_)
            | Change::Warning(_)
            | Change::Restored(_) => None,
        }
    }

    /// Which warning.
    pub fn code(&self) -> Option<WarningCode> {
        match self {
            Change::Warning(code) => Some(*code),
            Change::Instance { .. }
            | Change::Service { .. }
            | Change::Job { .. }
            | Change::Health { .. }
            | Change::Watch { .. }
            | Change::Peer(_)
            | Change::Flapping(_)
            | Change::MassSilence(_)
            | Change::Maintenance(_)
            | Change::Restored(_) => None,
        }
    }

    /// How many instances a restart restored.
    pub fn restored(&self) -> Option<u64> {
        if let Change::Restored(count) = self { Some(*count) } else { None }
    }

    /// How grave it is.
    pub fn severity(&self) -> Severity {
        match self {
            // What a lost observer alone heard is in nobody's sight, so its alarm stands for all of that.
            Change::Service { to: Some(ServiceState::Down), .. }
            | Change::Job { to: JobState::Failed | JobState::Missed, .. }
            | Change::Health { to: Some(Health::Critical), .. }
            | Change::Peer(Phase::Start)
            | Change::MassSilence(MassSilencePhase::Start) => Severity::Critical,
            Change::Service { to: Some(ServiceState::Degraded), .. }
            | Change::Instance { to: Some(State::Down), .. }
            | Change::Job { to: JobState::Overrun | JobState::Lost, .. }
            | Change::Health { to: Some(Health::Unknown), .. }
            | Change::Watch { to: WatchState::Low, .. }
            | Change::Flapping(Phase::Start)
            | Change::Warning(_) => Severity::Warning,
            Change::Instance { .. }
            | Change::Service { .. }
            | Change::Job { .. }
            | Change::Health { .. }
            | Change::Watch { .. }
            | Change::Peer(Phase::End)
            | Change::Flapping(Phase::End)
            | Change::MassSilence(MassSilencePhase::HoldExpired | MassSilencePhase::End)
            | Change::Maintenance(_)
            | Change::Restored(_) => Severity::Info,
        }
    }
}

/// One event, on the engine's clock as it comes out of the engine, in Unix time as it is published.
#[derive(Clone, Debug, PartialEq)]
pub struct Event<T = UnixTime> {
    /// When.
    pub at: T,
    /// What happened.
    pub change: Change,
    /// To which service.
    pub service: Option<CompactString>,
    /// To which instance; `*` is the service as a whole.
    pub instance: Option<CompactString>,
    /// Between which two observers, in the order of their names.
    pub nodes: Option<[CompactString; 2]>,
    /// What this node knows of the other one.
    pub peer: Option<PeerContext>,
    /// Whether somebody is to be notified.
    pub notify: bool,
    /// What was known of the instance.
    pub context: Option<InstanceContext<T>>,
    /// What was known of its service.
    pub service_context: Option<ServiceContext>,
    /// What was known of the run of a job.
    pub job: Option<JobContext>,
}

/// What does not answer a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerKind {
    /// Another observer.
    #[default]
    Observer,
    /// A node of the same cluster.
    Node,
    /// The bus of the cluster.
    Bus,
}

impl PeerKind {
    fn is_observer(&self) -> bool {
        *self == PeerKind::Observer
    }
}

/// What a node knew of a peer that does not answer it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerContext {
    /// Who does not answer: its name, or where it is.
    pub peer: CompactString,
    /// Whom it does not answer.
    pub by: CompactString,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<CompactString>,
    /// What it is.
    #[serde(default, skip_serializing_if = "PeerKind::is_observer")]
    pub kind: PeerKind,
    /// It is no peer any more by the configuration: nobody knows whether it answers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub former: bool,
}

/// What was known of the run of a job when the job changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JobContext {
    /// Its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<CompactString>,
    /// The machine that it was on, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<CompactString>,
    /// How long it took, or has been going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_s: Option<f64>,
    /// When it was due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<UnixTime>,
    /// What it said at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<CompactString>,
    /// Of a problem: when a run last ended well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<UnixTime>,
    /// Of a problem: when the next run is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_due: Option<UnixTime>,
}

/// What was known of a service when something about it was reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceContext {
    /// The service's state.
    pub service_state: ServiceState,
    /// Instances that are present.
    pub present: usize,
    /// Instances that are present or down.
    pub total: usize,
    /// Instances that must be present, if that is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
    /// Its instances come and go: nothing about it is critical.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
}

/// What was known of an instance when it changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InstanceContext<T = UnixTime> {
    /// As it said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<CompactString>,
    /// As it said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<CompactString>,
    /// Last beat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<T>,
    /// Who sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Silent for so long, our own blindness left out.
    pub silence_s: f64,
    /// Time that did not count because we could not see.
    pub blind_s: f64,
    /// Interval in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_s: Option<f64>,
    /// Beats that must be missed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub misses: Option<u32>,
    /// Silence that means down.
    pub timeout_s: f64,
    /// How long it was down, when it is no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down_for_s: Option<f64>,
}

/// An event as records, webhooks and the snapshot's binary form have it: flat, without its time. What does not apply is
/// left out.
#[derive(Serialize, Deserialize)]
struct FlatEvent<'a> {
    kind: EventKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<WarningCode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nodes: Option<Cow<'a, [CompactString; 2]>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peer: Option<Cow<'a, PeerContext>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    job: Option<Cow<'a, JobContext>>,
    notify: bool,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    context: Option<Cow<'a, InstanceContext>>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    service_context: Option<Cow<'a, ServiceContext>>,
}

impl FlatEvent<'_> {
    /// What happened; `None` if the fields do not belong together.
    fn change(&self) -> Option<Change> {
        let (from, to, reason) = (self.from.as_deref(), self.to.as_deref(), self.reason.as_deref());
        Some(match self.kind {
            EventKind::Instance => Change::Instance {
                from: state(from?, State::from_name)?,
                to: state(to?, State::from_name)?,
                reason: Reason::from_name(reason?)?,
            },
            EventKind::Service => Change::Service {
                from: state(from?, ServiceState::from_name)?,
                to: state(to?, ServiceState::from_name)?,
            },
            EventKind::Job => Change::Job {
                from: JobState::from_name(from?)?,
                to: JobState::from_name(to?)?,
                reason: JobReason::from_text(reason?)?,
            },
            EventKind::Health => {
                Change::Health { from: state(from?, Health::from_name)?, to: state(to?, Health::from_name)? }
            }
            EventKind::Watch => Change::Watch {
                from: WatchState::from_name(from?)?,
                to: WatchState::from_name(to?)?,
                reason: WatchReason::from_name(reason?)?,
            },
            EventKind::Peer => Change::Peer(Phase::from_name(to?)?),
            EventKind::Flapping => Change::Flapping(Phase::from_name(to?)?),
            EventKind::MassSilence => Change::MassSilence(MassSilencePhase::from_name(to?)?),
            EventKind::Maintenance => Change::Maintenance(Phase::from_name(to?)?),
            EventKind::Warning => Change::Warning(self.code?),
            EventKind::Restored => Change::Restored(self.count?),
        })
    }
}

/// A state, or that there is none; `None` if the name means neither.
fn state<S>(name: &str, from_name: impl Fn(&str) -> Option<S>) -> Option<Option<S>> {
    if matches!(name, NOT_KNOWN_YET | FORGOTTEN) { Some(None) } else { from_name(name).map(Some) }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let flat = FlatEvent {
            kind: self.change.kind(),
            service: self.service.as_deref().map(Cow::Borrowed),
            instance: self.instance.as_deref().map(Cow::Borrowed),
            from: self.change.from_name().map(Cow::Borrowed),
            to: self.change.to_name().map(Cow::Borrowed),
            reason: self.change.reason(),
            code: self.change.code(),
            count: self.change.restored(),
            nodes: self.nodes.as_ref().map(Cow::Borrowed),
            peer: self.peer.as_ref().map(Cow::Borrowed),
            job: self.job.as_ref().map(Cow::Borrowed),
            notify: self.notify,
            context: self.context.as_ref().map(Cow::Borrowed),
            service_context: self.service_context.as_ref().map(Cow::Borrowed),
        };
        flat.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Event {
    /// Its time is not among the fields, and 0.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Event, D::Error> {
        let flat = FlatEvent::deserialize(deserializer)?;
        let Some(change) = flat.change() else {
            return Err(serde::de::Error::custom(format!("an event of kind `{}` lacks what belongs to it", flat.kind)));
        };
        Ok(Event {
            at: UnixTime::default(),
            change,
            service: flat.service.map(|service| service.as_ref().into()),
            instance: flat.instance.map(|instance| instance.as_ref().into()),
            nodes: flat.nodes.map(Cow::into_owned),
            peer: flat.peer.map(Cow::into_owned),
            notify: flat.notify,
            context: flat.context.map(Cow::into_owned),
            service_context: flat.service_context.map(Cow::into_owned),
            job: flat.job.map(Cow::into_owned),
        })
    }
}

/// Who publishes events: their ids are unique and grow with every start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of the node.
    pub node: String,
    /// When it started, Unix seconds.
    pub boot: u64,
}

impl Identity {
    /// The id of the event with a number.
    pub fn id(&self, number: u64) -> String {
        format!("{}-{}-{number:06}", self.node, self.boot)
    }

    /// The number of an event of ours; `None` if it is from another start or node.
    pub fn number(&self, id: &str) -> Option<u64> {
        id.strip_prefix(&format!("{}-{}-", self.node, self.boot))?.parse().ok()
    }

    /// An event as webhooks and the API have it: times are RFC 3339.
    pub fn publish(&self, number: u64, event: &Event) -> Value {
        let mut value = serde_json::to_value(event).unwrap_or_default();
        if let Some(seen) = event.context.as_ref().and_then(|context| context.last_seen) {
            value["last_seen"] = seen.rfc3339().into();
        }
        if let Some(job) = &event.job {
            for (key, at) in [("due", job.due), ("last_success", job.last_success), ("next_due", job.next_due)] {
                if let Some(at) = at {
                    value["job"][key] = at.rfc3339().into();
                }
            }
        }
        value["v"] = 1.into();
        value["id"] = self.id(number).into();
        value["node"] = self.node.as_str().into();
        value["time"] = event.at.rfc3339().into();
        value["severity"] = event.severity().as_str().into();
        value["text"] = Escaped(&describe(event)).to_string().into();
        value
    }
}

/// Unix seconds as people and webhooks have it, to the millisecond.
pub fn rfc3339(secs: f64) -> String {
    // Times before 1970 and beyond the year 9999 are clocks that were never set.
    let since = Duration::from_millis((secs.clamp(0.0, 253_402_300_799.0) * 1000.0).round() as u64);
    humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
}

impl UnixTime {
    /// As people and webhooks have it, to the millisecond.
    pub fn rfc3339(self) -> String {
        rfc3339(self.as_secs())
    }

    /// As sentences have it, to the second: `2024-06-10 02:14:52 UTC`.
    pub fn clock(self) -> String {
        let text = self.rfc3339();
        format!("{} {} UTC", &text[..10], &text[11..19])
    }
}

impl Event<EngineTime> {
    /// The event in Unix time.
    pub fn in_unix_time(self, epoch: Epoch) -> Event {
        Event {
            at: epoch.to_unix(self.at),
            change: self.change,
            service: self.service,
            instance: self.instance,
            nodes: self.nodes,
            peer: self.peer,
            notify: self.notify,
            context: self.context.map(|context| context.in_unix_time(epoch)),
            service_context: self.service_context,
            job: self.job,
        }
    }
}

impl InstanceContext<EngineTime> {
    fn in_unix_time(self, epoch: Epoch) -> InstanceContext {
        InstanceContext {
            version: self.version,
            start: self.start,
            last_seen: self.last_seen.map(|seen| epoch.to_unix(seen)),
            source: self.source,
            silence_s: self.silence_s,
            blind_s: self.blind_s,
            interval_s: self.interval_s,
            misses: self.misses,
            timeout_s: self.timeout_s,
            down_for_s: self.down_for_s,
        }
    }
}

impl<T> Event<T> {
    /// Bytes that it takes beside itself.
    pub fn heap_bytes(&self) -> usize {
        let context = self.context.iter().flat_map(|context| [&context.version, &context.start]);
        let job = self.job.iter().flat_map(|job| [&job.run, &job.message]);
        let names = [&self.service, &self.instance].into_iter().chain(context).chain(job).flatten();
        let peer = self.peer.iter().flat_map(|peer| [Some(&peer.peer), Some(&peer.by), peer.why.as_ref()]).flatten();
        names.chain(self.nodes.iter().flatten()).chain(peer).map(text_bytes).sum()
    }

    pub(super) fn new(at: T, change: Change, notify: bool) -> Event<T> {
        Event {
            at,
            change,
            service: None,
            instance: None,
            nodes: None,
            peer: None,
            notify,
            context: None,
            service_context: None,
            job: None,
        }
    }

    /// How grave it is.
    pub fn severity(&self) -> Severity {
        let is_ephemeral = self.service_context.as_ref().is_some_and(|service| service.ephemeral);
        match self.change.severity() {
            Severity::Critical if is_ephemeral => Severity::Warning,
            severity => severity,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_flat_in_json_and_comes_back() {
        let down = Change::Instance { from: Some(State::Late), to: Some(State::Down), reason: Reason::MissedBeats };
        let gone = Change::Service { from: Some(ServiceState::Left), to: None };
        for (change, json) in [
            (
                down,
                r#"{"kind":"instance","service":"s","from":"late","to":"down","reason":"missed_beats","notify":true}"#,
            ),
            (gone, r#"{"kind":"service","service":"s","from":"left","to":"forgotten","notify":true}"#),
            (
                Change::Job { from: JobState::Running, to: JobState::Failed, reason: JobReason::Exit(137) },
                r#"{"kind":"job","service":"s","from":"running","to":"failed","reason":"exit 137","notify":true}"#,
            ),
            (
                Change::Job { from: JobState::Failed, to: JobState::Retired, reason: JobReason::Goodbye },
                r#"{"kind":"job","service":"s","from":"failed","to":"retired","reason":"goodbye","notify":true}"#,
            ),
            (
                Change::Health { from: None, to: Some(Health::Critical) },
                r#"{"kind":"health","service":"s","from":"none","to":"critical","notify":true}"#,
            ),
            (
                Change::Health { from: Some(Health::Unknown), to: Some(Health::Ok) },
                r#"{"kind":"health","service":"s","from":"unknown","to":"ok","notify":true}"#,
            ),
            (
                Change::Watch { from: WatchState::Ok, to: WatchState::Low, reason: WatchReason::Floor },
                r#"{"kind":"watch","service":"s","from":"ok","to":"low","reason":"floor","notify":true}"#,
            ),
            (Change::Peer(Phase::Start), r#"{"kind":"peer","service":"s","to":"start","notify":true}"#),
            (Change::Flapping(Phase::End), r#"{"kind":"flapping","service":"s","to":"end","notify":true}"#),
            (
                Change::MassSilence(MassSilencePhase::HoldExpired),
                r#"{"kind":"mass_silence","service":"s","to":"hold_expired","reason":"hold","notify":true}"#,
            ),
            (Change::Maintenance(Phase::Start), r#"{"kind":"maintenance","service":"s","to":"start","notify":true}"#),
            (Change::Warning(WarningCode::Limit), r#"{"kind":"warning","service":"s","code":"limit","notify":true}"#),
            (Change::Restored(3), r#"{"kind":"restored","service":"s","count":3,"notify":true}"#),
        ] {
            let event = Event { service: Some("s".into()), ..Event::new(UnixTime::default(), change, true) };
            assert_eq!(serde_json::to_string(&event).expect("JSON"), json);
            assert_eq!(serde_json::from_str::<Event>(json).expect("an event"), event);
        }
        for wrong in [
            r#"{"kind":"instance","service":"s","from":"late","to":"degraded","reason":"missed_beats","notify":true}"#,
            r#"{"kind":"warning","service":"s","notify":true}"#,
            r#"{"kind":"job","service":"s","from":"running","to":"failed","reason":"exit","notify":true}"#,
            r#"{"kind":"health","service":"s","from":"ok","to":"down","notify":true}"#,
            r#"{"kind":"flapping","to":"hold_expired","notify":true}"#,
        ] {
            assert!(serde_json::from_str::<Event>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_event_between_two_observers_has_their_names() {
        let event = Event::new(UnixTime::default(), Change::Peer(Phase::Start), true);
        let event = Event { nodes: Some(["a".into(), "b".into()]), ..event };
        let json = r#"{"kind":"peer","to":"start","nodes":["a","b"],"notify":true}"#;
        assert_eq!(serde_json::to_string(&event).expect("JSON"), json);
        assert_eq!(serde_json::from_str::<Event>(json).expect("an event"), event);
    }

    #[test]
    fn an_event_goes_from_the_engines_clock_to_unix_time_as_a_whole() {
        let context = InstanceContext { last_seen: Some(EngineTime::from_secs(3.0)), ..InstanceContext::default() };
        let event = Event::new(EngineTime::from_secs(5.0), Change::Restored(1), false);
        let epoch = Epoch::new(UnixTime::from_secs(1000.0), EngineTime::default());
        let event = Event { context: Some(context), ..event }.in_unix_time(epoch);
        let seen = event.context.and_then(|context| context.last_seen);
        assert_eq!((event.at, seen), (UnixTime::from_secs(1005.0), Some(UnixTime::from_secs(1003.0))));
    }
}
