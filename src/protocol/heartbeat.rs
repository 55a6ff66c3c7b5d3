//! Heartbeats: which lines are signs of life, and which interval they declare.
//!
//! ```text
//! heartbeat.SERVICE[.INSTANCE]:VALUE|g          `__` in SERVICE is a dot; INSTANCE is the rest
//! heartbeat:VALUE|g|#service:S[,instance:I][,start:ID][,version:V][,interval:SECS]
//! _sc|heartbeat|STATUS|[h:HOST|]#service:S[,instance:I][,interval:SECS]
//! maintenance.SERVICE[.INSTANCE]:SECS|g         or maintenance:SECS|g|#service:S
//! ```
//! Every form of a heartbeat may carry what a job says of a run: `status:start|ok|fail`, `run:ID`, `exit:N`, `duration:SECS`,
//! `max_runtime:SECS`. Another status counts as `fail`. `host:NAME` is the machine, if the
//! instance is not.
//! A gauge above 1 declares that the next heartbeat comes within that many seconds; 0 is a goodbye. 1 and every other type declare no
//! interval.

use std::borrow::Cow;
use std::net::IpAddr;

use compact_str::CompactString;

use super::error::ParseError;
use super::metric::{GaugeOp, Kind, Metric};
use super::service_check::ServiceCheck;
use super::tags::{Tag, cut_lossy, lossy};

/// Longest declared interval: a week, in seconds.
pub const MAX_DECLARED_INTERVAL: f64 = 604_800.0;

/// Longest run of a job that is believed: a year, in seconds.
const MAX_RUN_SECS: f64 = 31_622_400.0;

/// Shortest declared interval, in seconds.
pub const MIN_DECLARED_INTERVAL: f64 = 1.0;

/// Longest name of a service or an instance, in bytes.
const MAX_PRESENCE_NAME: usize = 128;

/// Longest kept message of a service check, in bytes, and of one that says how a run of a job ended.
const MAX_MESSAGE: usize = 200;
const MAX_JOB_MESSAGE: usize = 1000;

/// Longest part of a status that is not known which is shown, in bytes.
const MAX_ODD_STATUS: usize = 40;

/// Names that no service may have: the API has these words in its paths.
pub const TAKEN: [&str; 3] = ["events", "maintenance", "peer"];

/// Whether a text may be the name of an instance, or a start or a version that it says: 1 to 128 bytes of any
/// kind. What a node takes off the wire it takes from other observers, too.
pub fn is_presence_name(text: &str) -> bool {
    (1..=MAX_PRESENCE_NAME).contains(&text.len())
}

/// Whether a text may be the name of an instance: `*` stands for all of a service.
pub fn is_instance_name(text: &str) -> bool {
    is_presence_name(text) && text != "*"
}

/// Whether a text may be the name of a service: the API has some words in its paths.
pub fn is_service_name(text: &str) -> bool {
    is_presence_name(text) && !TAKEN.contains(&text)
}

/// Names under which maintenance is announced.
pub(super) const MAINTENANCE: &str = "maintenance";

/// The instance of a heartbeat that names none.
const NOBODY: &str = "-";

/// A heartbeat.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heartbeat {
    /// The service.
    pub service: CompactString,
    /// The instance; `-` is the service as a whole.
    pub instance: CompactString,
    /// The declared interval: the next heartbeat comes within this many seconds.
    pub interval: Option<f64>,
    /// Whether it is a goodbye.
    pub goodbye: bool,
    /// Identifies the start of the process: a time, or any text that changes with it.
    pub start: Option<CompactString>,
    /// The version of the program.
    pub version: Option<CompactString>,
    /// Status of a service check: 0 ok, 1 warning, 2 critical, 3 unknown.
    pub health: Option<u8>,
    /// The message of the service check.
    pub message: Option<CompactString>,
    /// Who sent it.
    pub source: Option<IpAddr>,
    /// A secret that some services ask for.
    pub key: Option<CompactString>,
    /// Whether it has a sample rate, so that most others were not sent.
    pub sampled: bool,
    /// What a job says of a run.
    pub job: Option<Box<JobTags>>,
}

/// What a job says of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobTags {
    /// What the run does; `None` if the line says nothing of that.
    pub status: Option<JobStatus>,
    /// Which run.
    pub run: Option<CompactString>,
    /// A status that is none of these: the run counts as failed.
    pub odd_status: Option<CompactString>,
    /// The machine that it is on, if that is said beside the instance.
    pub host: Option<CompactString>,
    /// The exit status, if it is a number.
    pub exit: Option<i64>,
    /// How long the run took, in seconds.
    pub duration: Option<f64>,
    /// How long a run may take, in seconds.
    pub max_runtime: Option<f64>,
}

impl JobTags {
    /// What is wrong with the status, for people.
    pub fn complaint(&self) -> Option<CompactString> {
        let odd = self.odd_status.as_ref()?;
        Some(format!("its status `{odd}` is none of start, ok and fail").into())
    }
}

/// What a run of a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobStatus {
    /// It begins.
    Start,
    /// It ended well.
    Ok,
    /// It failed.
    Fail,
}

/// What a line means to presence.
#[derive(Clone, Debug, PartialEq)]
pub enum Signal {
    /// A heartbeat or a goodbye.
    Heartbeat(Heartbeat),
    /// Maintenance: silence is expected for a time; 0 ends it.
    Maintenance {
        /// The service.
        service: CompactString,
        /// One of its instances, or all if `None`.
        instance: Option<CompactString>,
        /// Length in seconds, from now on.
        seconds: f64,
        /// Who sent it.
        source: Option<IpAddr>,
        /// A secret that some services ask for.
        key: Option<CompactString>,
    },
    /// A metric with tags `service` and `instance`: a sign of life of an instance that is known.
    Assist {
        /// Which service.
        service: CompactString,
        /// Which instance.
        instance: CompactString,
        /// Who sent it.
        source: Option<IpAddr>,
        /// A secret that some services ask for.
        key: Option<CompactString>,
    },
    /// An ordinary metric under a heartbeat's name, with the reason why it is no heartbeat.
    Ignored(Ignored),
    /// Who was seen by what is watched, since it was looked at last.
    Watched(Vec<Seen>),
}

/// An instance that watched metrics show to be alive.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// The number of the watch.
    pub watch: u16,
    /// The service.
    pub service: CompactString,
    /// The instance.
    pub instance: CompactString,
    /// Who sent it, if the watch asks for that.
    pub source: Option<IpAddr>,
    /// How many lines, if the watch asks for that.
    pub lines: u32,
    /// The value that shows it, if the watch wants a change.
    pub value: Option<f64>,
    /// That value is the first of its series since we started, and so are all others.
    pub is_first: bool,
    /// Lines of further instances, for which there is no room.
    pub refused: u32,
}

/// Why a line under a heartbeat's name is no heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// A gauge that is adjusted, not set: `+5`.
    Delta,
    /// A counter with the value 0.
    NoIncrement,
    /// It names no service.
    NoService,
    /// A name is empty or longer than 128 bytes, a service's is one of [`TAKEN`], or an instance's is `*`.
    BadName,
    /// Its value is not valid for a heartbeat.
    BadValue,
    /// It is a heartbeat, but its `status` is none of a run: it counts as a failed one.
    BadStatus,
}

impl Ignored {
    /// Every reason, in order.
    pub const ALL: [Ignored; 6] = [
        Ignored::Delta,
        Ignored::NoIncrement,
        Ignored::NoService,
        Ignored::BadName,
        Ignored::BadValue,
        Ignored::BadStatus,
    ];

    /// The value of the tag `reason` in series.
    pub fn name(self) -> &'static str {
        match self {
            Ignored::Delta => "delta",
            Ignored::NoIncrement => "no_increment",
            Ignored::NoService => "no_service",
            Ignored::BadName => "bad_name",
            Ignored::BadValue => "bad_value",
            Ignored::BadStatus => "bad_status",
        }
    }

    /// A message for people.
    pub fn message(self) -> &'static str {
        match self {
            Ignored::Delta => "a heartbeat sets its gauge, and does not change it",
            Ignored::NoIncrement => "the counter counts nothing",
            Ignored::NoService => "it names no service",
            Ignored::BadName => {
                "names have 1 to 128 bytes, and no service is called `events`, `maintenance` or `peer`, which the API has in its \
                 paths, and no instance `*`, which stands for all"
            }
            Ignored::BadValue => "its value means nothing",
            Ignored::BadStatus => "its `status` is none of start, ok and fail, so it counts as a failed run",
        }
    }
}

/// Which lines are heartbeats.
#[derive(Clone, Debug, PartialEq)]
pub struct Heartbeats {
    /// Reserved names, such as `heartbeat`; a `.` and the service may follow.
    pub names: Vec<String>,
    /// Whether `maintenance.*` is read.
    pub maintenance: bool,
    /// Whether metrics with tags `service` and `instance` count as signs of life.
    pub assist: bool,
    /// Whether an instance without a name is named by its address.
    pub by_address: bool,
    /// Whether heartbeats are also recorded as metrics.
    pub forward: bool,
    /// Keys of services, which are masked everywhere.
    pub secrets: Vec<String>,
}

impl Default for Heartbeats {
    fn default() -> Heartbeats {
        Heartbeats {
            names: vec!["heartbeat".into()],
            maintenance: true,
            assist: false,
            by_address: false,
            forward: false,
            secrets: Vec::new(),
        }
    }
}

#[derive(Default)]
struct HeartbeatTags<'a> {
    service: Option<Cow<'a, str>>,
    instance: Option<Cow<'a, str>>,
    interval: Option<f64>,
    start: Option<Cow<'a, str>>,
    version: Option<Cow<'a, str>>,
    key: Option<Cow<'a, str>>,
    status: Option<Cow<'a, str>>,
    host: Option<Cow<'a, str>>,
    run: Option<Cow<'a, str>>,
    exit: Option<Cow<'a, str>>,
    duration: Option<Cow<'a, str>>,
    max_runtime: Option<Cow<'a, str>>,
}

impl Heartbeats {
    /// If a name is reserved, what follows it and its dot.
    fn reserved<'n>(&self, name: &'n str) -> Option<(bool, &'n str)> {
        let behind = |reserved: &str| match name.strip_prefix(reserved)? {
            "" => Some(""),
            rest => rest.strip_prefix('.'),
        };
        if let Some(rest) = self.names.iter().find_map(|reserved| behind(reserved)) {
            return Some((false, rest));
        }
        if self.maintenance { behind(MAINTENANCE).map(|rest| (true, rest)) } else { None }
    }

    /// Whether metrics of a name belong to presence: they are no ordinary ones, valid heartbeats or not.
    pub fn is_reserved(&self, name: &str) -> bool {
        self.reserved(name).is_some()
    }

    /// Whether a metric may be a signal: a cheap check that few pass.
    #[inline]
    pub fn may_concern(&self, metric: &Metric<'_>) -> bool {
        let begins = |reserved: &str| metric.name.begins_with(reserved.as_bytes());
        (self.assist && !metric.tags.is_empty())
            || self.names.iter().any(|name| begins(name))
            || (self.maintenance && begins(MAINTENANCE))
    }

    /// The signal of the samples of one line. A line is at most one signal, whatever it packs: that of its last valid sample
    /// that may be one.
    pub fn of_line<'a>(
        &self,
        samples: impl Iterator<Item = Result<Metric<'a>, ParseError>> + Clone,
        from: Option<IpAddr>,
    ) -> Option<Signal> {
        let good = samples.filter_map(Result::ok);
        // Without `implicit` only the name matters, and all samples of a line have the same.
        if !self.assist && !good.clone().next().is_some_and(|first| self.may_concern(&first)) {
            return None;
        }
        let last = good.filter(|metric| !self.assist || self.may_concern(metric)).last()?;
        self.of_metric(&last, from)
    }

    /// The signal of a metric; `None` if it is an ordinary one.
    pub fn of_metric(&self, metric: &Metric<'_>, from: Option<IpAddr>) -> Option<Signal> {
        let name = metric.name.clean();
        let tags = heartbeat_tags(metric.tags.iter());
        let Some((is_maintenance, rest)) = self.reserved(&name) else {
            return if self.assist { assist(&tags, from) } else { None };
        };
        let who = self.who(rest, tags.service.as_deref(), tags.instance.as_deref());
        if is_maintenance {
            let (service, instance) = who.ok()?;
            let (op, seconds) = metric.values.gauge().last().filter(|_| metric.kind == Kind::Gauge)?;
            let key = short(&tags.key);
            let signal = Signal::Maintenance { service, instance, seconds, source: from, key };
            return (op == GaugeOp::Set && seconds >= 0.0).then_some(signal);
        }
        let (service, instance) = match who {
            Ok(who) => who,
            Err(why) => return Some(Signal::Ignored(why)),
        };
        let mut beat = self.beat(service, instance, &tags, from);
        beat.sampled = metric.rate.get() < 1.0;
        match metric.kind {
            Kind::Gauge => match metric.values.gauge().last() {
                Some((GaugeOp::Set, 0.0)) => beat.goodbye = true,
                Some((GaugeOp::Set, value)) if value > 1.0 && value <= MAX_DECLARED_INTERVAL => {
                    beat.interval = Some(value)
                }
                Some((GaugeOp::Set, value)) if value >= 0.0 => {}
                Some((GaugeOp::Set, _)) | None => return Some(Signal::Ignored(Ignored::BadValue)),
                // An adjustment is not valid here.
                Some(_) => return Some(Signal::Ignored(Ignored::Delta)),
            },
            Kind::Counter if metric.values.numbers().sum::<f64>() <= 0.0 => {
                return Some(Signal::Ignored(Ignored::NoIncrement));
            }
            _ => {}
        }
        declare_interval(&mut beat, tags.interval);
        Some(Signal::Heartbeat(beat))
    }

    /// The signal of a service check; `None` if it is an ordinary one.
    pub fn of_check(&self, check: &ServiceCheck<'_>, from: Option<IpAddr>) -> Option<Signal> {
        let (is_maintenance, rest) = self.reserved(check.name)?;
        if is_maintenance {
            return None;
        }
        let tags = heartbeat_tags(check.tags().iter());
        let host = check.host.map(lossy);
        let named = tags.instance.as_deref().or(host.as_deref());
        let (service, instance) = match self.who(rest, tags.service.as_deref(), named) {
            Ok(who) => who,
            Err(why) => return Some(Signal::Ignored(why)),
        };
        let mut beat = self.beat(service, instance, &tags, from);
        beat.health = Some(check.status);
        let most = if beat.job.is_some() { MAX_JOB_MESSAGE } else { MAX_MESSAGE };
        beat.message = check.message.map(|text| cut_lossy(text, most).into());
        declare_interval(&mut beat, tags.interval);
        Some(Signal::Heartbeat(beat))
    }

    fn beat(
        &self,
        service: CompactString,
        instance: Option<CompactString>,
        tags: &HeartbeatTags<'_>,
        from: Option<IpAddr>,
    ) -> Heartbeat {
        let unnamed = || match from {
            Some(address) if self.by_address => address.to_string().into(),
            _ => NOBODY.into(),
        };
        Heartbeat {
            service,
            instance: instance.unwrap_or_else(unnamed),
            start: short(&tags.start),
            version: short(&tags.version),
            key: short(&tags.key),
            source: from,
            job: job_tags(tags).map(Box::new),
            ..Heartbeat::default()
        }
    }

    /// The service and the instance. Those of the name take precedence over the tags, because some clients put a tag
    /// `service` on everything.
    fn who(&self, rest: &str, service: Option<&str>, instance: Option<&str>) -> Result<Who, Ignored> {
        let (named, inner) = rest.split_once('.').unwrap_or((rest, ""));
        let inner = Some(inner).filter(|inner| !inner.is_empty()).or(instance);
        let service = match service {
            _ if named.contains("__") => Cow::Owned(named.replace("__", ".")),
            _ if !named.is_empty() => Cow::Borrowed(named),
            Some(service) => Cow::Borrowed(service),
            None => return Err(Ignored::NoService),
        };
        if !is_service_name(&service) || inner.is_some_and(|inner| !is_instance_name(inner)) {
            return Err(Ignored::BadName);
        }
        Ok((service.into(), inner.map(Into::into)))
    }
}

/// A service, and an instance if there is one.
type Who = (CompactString, Option<CompactString>);

fn short(text: &Option<Cow<'_, str>>) -> Option<CompactString> {
    text.as_deref().filter(|text| is_presence_name(text)).map(Into::into)
}

fn assist(tags: &HeartbeatTags<'_>, from: Option<IpAddr>) -> Option<Signal> {
    // Longer names are not valid.
    let (service, instance) = (short(&tags.service)?, short(&tags.instance)?);
    Some(Signal::Assist { service, instance, source: from, key: short(&tags.key) })
}

/// What the tags say of a run of a job; `None` if they say nothing of one. An exit status other than 0 is a failure, whatever
/// `status` says, and without `status` it is the end of a run all the same. A status that is not known never looks like
/// success.
fn job_tags(tags: &HeartbeatTags<'_>) -> Option<JobTags> {
    let said = tags.status.as_deref();
    let says = |word: &str| said.is_some_and(|said| said.eq_ignore_ascii_case(word));
    let is_good = tags.exit.as_deref().is_none_or(|exit| exit == "0");
    let (status, is_odd) = match said {
        None if tags.exit.is_none() => (None, false),
        Some(_) if says("start") => (Some(JobStatus::Start), false),
        Some(_) if !says("ok") => (Some(JobStatus::Fail), !says("fail")),
        _ => (Some(if is_good { JobStatus::Ok } else { JobStatus::Fail }), false),
    };
    let odd_status = said.filter(|_| is_odd).map(|said| said[..said.floor_char_boundary(MAX_ODD_STATUS)].into());
    let seconds = |text: &Option<Cow<'_, str>>| {
        let seconds = text.as_deref()?.parse().ok()?;
        (0.0..=MAX_RUN_SECS).contains(&seconds).then_some(seconds)
    };
    let max_runtime = seconds(&tags.max_runtime).filter(|seconds| *seconds > 0.0);
    if status.is_none() && max_runtime.is_none() {
        return None;
    }
    let run = tags.run.as_deref().map(|run| run[..run.floor_char_boundary(MAX_PRESENCE_NAME)].into());
    let exit = tags.exit.as_deref().and_then(|exit| exit.parse().ok());
    Some(JobTags {
        status,
        run,
        odd_status,
        host: short(&tags.host),
        exit,
        duration: seconds(&tags.duration),
        max_runtime,
    })
}

/// The tag `interval` takes precedence over the value.
fn declare_interval(beat: &mut Heartbeat, interval: Option<f64>) {
    match interval {
        Some(0.0) => beat.goodbye = true,
        Some(seconds) if seconds > 0.0 && seconds <= MAX_DECLARED_INTERVAL => {
            beat.interval = Some(seconds.max(MIN_DECLARED_INTERVAL))
        }
        _ => {}
    }
}

/// The tags of a heartbeat; of several with one key the first.
fn heartbeat_tags<'a>(all: impl Iterator<Item = Tag<'a>>) -> HeartbeatTags<'a> {
    let mut tags = HeartbeatTags::default();
    let mut interval = None;
    for tag in all {
        let slot = match tag.key {
            b"service" => &mut tags.service,
            b"instance" => &mut tags.instance,
            b"start" => &mut tags.start,
            b"version" => &mut tags.version,
            b"key" => &mut tags.key,
            b"interval" => &mut interval,
            b"status" => &mut tags.status,
            b"host" => &mut tags.host,
            b"run" => &mut tags.run,
            b"exit" => &mut tags.exit,
            b"duration" => &mut tags.duration,
            b"max_runtime" => &mut tags.max_runtime,
            _ => continue,
        };
        if slot.is_none() {
            *slot = tag.value.filter(|value| !value.is_empty()).map(lossy);
        }
    }
    tags.interval = interval.and_then(|text| text.parse().ok()).filter(|seconds: &f64| seconds.is_finite());
    tags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Line, Options, parse_line};

    fn signal(line: &str, heartbeats: &Heartbeats) -> Option<Signal> {
        match parse_line(line.as_bytes(), &Options::default()) {
            Ok(Line::Samples(mut samples)) => heartbeats.of_metric(&samples.next()?.ok()?, None),
            Ok(Line::ServiceCheck(check)) => heartbeats.of_check(&check, None),
            _ => None,
        }
    }

    fn beat(service: &str, instance: &str, interval: Option<f64>) -> Option<Signal> {
        let (service, instance) = (service.into(), instance.into());
        Some(Signal::Heartbeat(Heartbeat { service, instance, interval, ..Heartbeat::default() }))
    }

    #[test]
    fn every_form_names_the_sender_and_its_interval() {
        let heartbeats = Heartbeats::default();
        for (line, expected) in [
            ("heartbeat.checkout.web-1:10|g", beat("checkout", "web-1", Some(10.0))),
            ("heartbeat.checkout:10|g", beat("checkout", "-", Some(10.0))),
            ("heartbeat.nightly__etl.host.example.org:1|g", beat("nightly.etl", "host.example.org", None)),
            ("heartbeat:30|g|#service:a,instance:b", beat("a", "b", Some(30.0))),
            ("heartbeat.a:10|g|#service:injected,instance:b", beat("a", "b", Some(10.0))),
            ("heartbeat,service=a,instance=b:10|g", beat("a", "b", Some(10.0))),
            ("heartbeat;service=a;instance=b:10|g", beat("a", "b", Some(10.0))),
            ("heartbeat.a:1|c", beat("a", "-", None)),
            ("heartbeat.a:x|s", beat("a", "-", None)),
            ("heartbeat.a:10|g|#interval:1", beat("a", "-", Some(1.0))),
            ("heartbeat.a:1|c|#interval:0.2", beat("a", "-", Some(1.0))),
            ("heartbeat.a:1e9|g", beat("a", "-", None)),
            ("heartbeat.a:+5|g", Some(Signal::Ignored(Ignored::Delta))),
            ("heartbeat.a:-5|g", Some(Signal::Ignored(Ignored::Delta))),
            ("heartbeat.a:0|c", Some(Signal::Ignored(Ignored::NoIncrement))),
            ("heartbeat:10|g", Some(Signal::Ignored(Ignored::NoService))),
            ("heartbeats.a:10|g", None),
            ("kafka.heartbeat.a:10|g", None),
        ] {
            assert_eq!(signal(line, &heartbeats), expected, "{line}");
        }
        for line in ["heartbeat.a:0|g", "heartbeat.a:10|g|#interval:0"] {
            assert!(
                matches!(signal(line, &heartbeats), Some(Signal::Heartbeat(Heartbeat { goodbye: true, .. }))),
                "{line}"
            );
        }
        let check = signal("_sc|heartbeat|2|h:web-1|#service:a,interval:10|m:bad", &heartbeats);
        let Some(Signal::Heartbeat(beat)) = check else { panic!("{check:?}") };
        assert_eq!((&*beat.service, &*beat.instance, beat.interval, beat.health), ("a", "web-1", Some(10.0), Some(2)));
        let long = format!("heartbeat.{}:10|g", "a".repeat(129));
        assert_eq!(signal(&long, &heartbeats), Some(Signal::Ignored(Ignored::BadName)));
        for line in [
            "heartbeat.events.a:10|g",
            "heartbeat:10|g|#service:maintenance",
            "_sc|heartbeat|0|#service:events",
            "heartbeat.a.*:10|g",
        ] {
            assert_eq!(signal(line, &heartbeats), Some(Signal::Ignored(Ignored::BadName)), "{line}");
        }
        let tagged = "heartbeat:10|g|@0.5|#service:a,version:1,start:2,key:k";
        let Some(Signal::Heartbeat(beat)) = signal(tagged, &heartbeats) else { panic!("{tagged}") };
        assert_eq!((beat.key.as_deref(), beat.start.as_deref(), beat.sampled), (Some("k"), Some("2"), true));
    }

    #[test]
    fn a_job_says_what_its_run_does() {
        let job = |line: &str| match signal(line, &Heartbeats::default()) {
            Some(Signal::Heartbeat(beat)) => (beat.job.map(|job| *job), beat.message),
            other => panic!("{line}: {other:?}"),
        };
        let status = |status| Some(JobTags { status: Some(status), ..JobTags::default() });
        let odd = |said: &str, exit| {
            let (status, odd_status) = (Some(JobStatus::Fail), Some(said.into()));
            Some(JobTags { status, odd_status, exit, ..JobTags::default() })
        };
        for (tags, expected) in [
            ("status:start", status(JobStatus::Start)),
            ("status:ok", status(JobStatus::Ok)),
            ("status:fail", status(JobStatus::Fail)),
            ("status:ok,exit:0", Some(JobTags { status: Some(JobStatus::Ok), exit: Some(0), ..JobTags::default() })),
            ("status:ok,exit:3", Some(JobTags { status: Some(JobStatus::Fail), exit: Some(3), ..JobTags::default() })),
            ("status:ok,exit:KILL", status(JobStatus::Fail)),
            ("status:OK", status(JobStatus::Ok)),
            ("status:Fail", status(JobStatus::Fail)),
            ("status:failed", odd("failed", None)),
            ("status:200", odd("200", None)),
            ("status:done,exit:0", odd("done", Some(0))),
            ("exit:0", Some(JobTags { status: Some(JobStatus::Ok), exit: Some(0), ..JobTags::default() })),
            ("exit:4", Some(JobTags { status: Some(JobStatus::Fail), exit: Some(4), ..JobTags::default() })),
            ("duration:5", None),
            ("status:fail,duration:-1,max_runtime:0", status(JobStatus::Fail)),
        ] {
            assert_eq!(job(&format!("heartbeat.a:1|g|#{tags}")).0, expected, "{tags}");
        }
        let all = "status:start,run:r1,host:box7,max_runtime:600,duration:1.5";
        let whole = JobTags {
            status: Some(JobStatus::Start),
            run: Some("r1".into()),
            odd_status: None,
            host: Some("box7".into()),
            exit: None,
            duration: Some(1.5),
            max_runtime: Some(600.0),
        };
        assert_eq!(job(&format!("heartbeat:3600|g|#service:a,{all}")).0, Some(whole));
        let long = "x".repeat(2000);
        let (_, message) = job(&format!("_sc|heartbeat|2|#service:a,status:fail|m:{long}"));
        assert_eq!(message.map(|message| message.len()), Some(MAX_JOB_MESSAGE));
    }

    #[test]
    fn maintenance_and_assistance_are_signals_where_they_are_wanted() {
        let wanted = Heartbeats { assist: true, ..Heartbeats::default() };
        let service: CompactString = "a".into();
        let (instance, seconds) = (Some("b".into()), 60.0);
        let expected = Signal::Maintenance { service: service.clone(), instance, seconds, source: None, key: None };
        assert_eq!(signal("maintenance.a.b:60|g", &wanted), Some(expected));
        assert_eq!(signal("maintenance.a:-60|g", &wanted), None);
        assert_eq!(signal("maintenance.a:60|g", &Heartbeats { maintenance: false, ..Heartbeats::default() }), None);
        let line = "req:1|c|#service:a,instance:b";
        let assist = Signal::Assist { service, instance: "b".into(), source: None, key: None };
        assert_eq!(signal(line, &wanted), Some(assist));
        assert_eq!(signal(line, &Heartbeats::default()), None);
    }
}
