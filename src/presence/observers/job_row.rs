//! A line of a job as it goes over the wire.

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::named::named_enum;
use crate::presence::engine::JobSighting;
use crate::protocol::{
    Heartbeat, JobStatus, JobTags, MIN_DECLARED_INTERVAL, is_instance_name, is_presence_name, is_service_name,
};

use super::digest::{MOST_TEXT, Row, is_age, maybe, quoted, shortened};

named_enum! {
    /// What a line of a job says.
    pub enum JobSign {
        /// A run began.
        Start = "start",
        /// It ended well.
        Ok = "ok",
        /// It failed.
        Fail = "fail",
        /// The job is none any more.
        Goodbye = "goodbye",
    }
}

/// A line of a job that a node has heard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRow {
    /// Its service.
    pub s: CompactString,
    /// Its instance.
    pub i: CompactString,
    /// What it said.
    pub sign: JobSign,
    /// Milliseconds since then.
    pub age_ms: u64,
    /// Of which run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<CompactString>,
    /// The start of the process, which is the run if that has no id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<CompactString>,
    /// A status that is none, for which it is `fail`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub odd_status: Option<CompactString>,
    /// The machine that it was on, if it is not the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<CompactString>,
    /// The exit status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<i64>,
    /// How long the run took, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
    /// How long a run may take, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_runtime: Option<f64>,
    /// The interval that it declared, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<f64>,
    /// What it said beside that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<CompactString>,
    /// Others have heard it, and this node has not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub relayed: bool,
}

impl JobRow {
    /// A line as it is sent.
    pub(super) fn of(sighting: JobSighting) -> JobRow {
        let sign = match sighting.status() {
            Some(JobStatus::Start) => JobSign::Start,
            Some(JobStatus::Ok) => JobSign::Ok,
            Some(JobStatus::Fail) => JobSign::Fail,
            None => JobSign::Goodbye,
        };
        let JobSighting { beat, age, relayed } = sighting;
        let tags = beat.job.map_or_else(JobTags::default, |tags| *tags);
        JobRow {
            s: beat.service,
            i: beat.instance,
            sign,
            age_ms: (age.max(0.0) * 1000.0).round() as u64,
            run: tags.run,
            start: beat.start,
            odd_status: tags.odd_status,
            host: tags.host,
            exit: tags.exit,
            duration: tags.duration,
            max_runtime: tags.max_runtime,
            interval: beat.interval,
            message: beat.message.map(shortened),
            relayed,
        }
    }

    /// Seconds since it was heard.
    pub(super) fn age(&self) -> f64 {
        self.age_ms as f64 / 1000.0
    }

    /// A line as it is taken.
    pub(super) fn into_sighting(self) -> JobSighting {
        let (age, relayed) = (self.age(), self.relayed);
        let status = match self.sign {
            JobSign::Start => Some(JobStatus::Start),
            JobSign::Ok => Some(JobStatus::Ok),
            JobSign::Fail => Some(JobStatus::Fail),
            JobSign::Goodbye => None,
        };
        let JobRow { run, odd_status, host, exit, duration, max_runtime, .. } = self;
        let tags = JobTags { status, run, odd_status, host, exit, duration, max_runtime };
        let beat = Heartbeat {
            service: self.s,
            instance: self.i,
            interval: self.interval,
            goodbye: status.is_none(),
            start: self.start,
            message: self.message,
            job: status.map(|_| Box::new(tags)),
            ..Heartbeat::default()
        };
        JobSighting { beat, age, relayed }
    }
}

impl Row for JobRow {
    fn json_bytes(&self) -> usize {
        let texts = [&self.run, &self.start, &self.odd_status, &self.host, &self.message]
            .into_iter()
            .flatten()
            .map(|text| 12 + quoted(text));
        200 + quoted(&self.s) + quoted(&self.i) + texts.sum::<usize>()
    }

    fn is_right(&self) -> bool {
        let spans = [Some(self.age()), self.duration, self.max_runtime, self.interval];
        is_service_name(&self.s)
            && is_instance_name(&self.i)
            && maybe(&self.run, is_presence_name)
            && maybe(&self.start, is_presence_name)
            && maybe(&self.host, is_presence_name)
            && self.odd_status.as_ref().is_none_or(|odd| odd.len() <= MOST_TEXT)
            && self.message.as_ref().is_none_or(|message| message.len() <= MOST_TEXT)
            && spans.into_iter().flatten().all(is_age)
            && self.interval.is_none_or(|interval| interval >= MIN_DECLARED_INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_no_client_may_send_is_wrong() {
        let row = |interval| {
            let beat = Heartbeat {
                service: "s".into(),
                instance: "i".into(),
                interval,
                job: Some(Box::default()),
                ..Heartbeat::default()
            };
            JobRow::of(JobSighting { beat, age: 1.0, relayed: false })
        };
        assert!(row(None).is_right() && row(Some(1.0)).is_right());
        assert!(!row(Some(0.0)).is_right() && !row(Some(1e-9)).is_right());
    }

    #[test]
    fn a_line_comes_back_as_it_was() {
        let tags = JobTags {
            status: Some(JobStatus::Fail),
            run: Some("r".into()),
            odd_status: Some("failed".into()),
            host: Some("box7".into()),
            exit: Some(-9),
            duration: Some(2.5),
            max_runtime: Some(60.0),
        };
        let beat = Heartbeat {
            service: "s".into(),
            instance: "i".into(),
            interval: Some(3600.0),
            start: Some("1".into()),
            message: Some("no space".into()),
            job: Some(Box::new(tags)),
            ..Heartbeat::default()
        };
        let bye = Heartbeat { service: "s".into(), instance: "i".into(), goodbye: true, ..Heartbeat::default() };
        for beat in [beat, bye] {
            let sighting = JobSighting { beat, age: 1.25, relayed: true };
            let text = serde_json::to_string(&JobRow::of(sighting.clone())).expect("JSON");
            let row: JobRow = serde_json::from_str(&text).expect("a row");
            assert_eq!(row.into_sighting(), sighting);
        }
    }
}
