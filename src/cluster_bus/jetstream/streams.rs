//! The streams: what they are called, how they are set, and whether they are so.
//!
//! A server that is too old for a setting takes it and ignores it without a word, and nodes may be configured differently.
//! So what a stream was made with is never relied on: it is read back and compared.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::cluster::{NodeName, Sequence};

use super::super::{BusError, LIMIT};
use super::BusOptions;
use super::api::{Api, NO_STREAM};

/// For how long the server knows ids of messages, of which we send none. It must not change while a stream lives: replicas
/// have differed after that.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Records of each partition that are kept.
const MAX_RECORDS: i64 = 64;

/// Chunks of checkpoints of each partition that are kept.
pub(super) const MAX_CHUNKS: i64 = 128;

/// What is compared. `num_replicas` and what follows may be changed on a living stream by hand.
const FIELDS: [&str; 13] = [
    "subjects",
    "retention",
    "storage",
    "discard",
    "max_age",
    "duplicate_window",
    "max_msgs",
    "max_msgs_per_subject",
    "max_msg_size",
    "deny_delete",
    "allow_direct",
    "num_replicas",
    "max_bytes",
];

/// A stream as it is looked at.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) name: String,
    config: Map<String, Value>,
    /// What the leader said last, and when it was asked.
    state: Mutex<Option<(Instant, StreamState)>>,
}

/// How far a stream goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamState {
    pub(super) first: Sequence,
    pub(super) last: Sequence,
}

#[derive(Deserialize)]
struct Info {
    config: Map<String, Value>,
    state: InfoState,
}

#[derive(Deserialize)]
struct InfoState {
    messages: u64,
    first_seq: Sequence,
    last_seq: Sequence,
}

impl Stream {
    fn new(name: String, subjects: &[String], special: Value) -> Stream {
        let mut config = json!({
            "name": name, "subjects": subjects, "retention": "limits", "discard": "old", "storage": "file",
            "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_msgs_per_subject": -1,
            "max_msg_size": -1, "allow_direct": true,
        });
        let config = config.as_object_mut().expect("it is one");
        config.extend(special.as_object().cloned().unwrap_or_default());
        let max_age = config["max_age"].as_u64().unwrap_or(0);
        // A server takes none that is longer than the age.
        let window = nanoseconds(DUPLICATE_WINDOW);
        let window = if max_age > 0 { window.min(max_age) } else { window };
        config.insert("duplicate_window".into(), window.into());
        Stream { name, config: std::mem::take(config), state: Mutex::new(None) }
    }

    /// Whether it begins anew when all its servers were stopped.
    pub(super) fn is_forgetful(&self) -> bool {
        self.config["storage"] == "memory"
    }

    async fn info(&self, api: &Api) -> Result<Option<Info>, BusError> {
        match api.ask::<Info>(&format!("STREAM.INFO.{}", self.name), &Value::Null).await? {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.err_code == NO_STREAM => Ok(None),
            Err(error) => Err(error.explain(&self.name)),
        }
    }

    /// Makes it if it is missing. Others may do so at the same time: what counts is what is there afterwards.
    pub(super) async fn prepare(&self, api: &Api) -> Result<(), BusError> {
        if let Some(info) = self.info(api).await? {
            return self.compare(&info.config);
        }
        let made = api.ask::<Value>(&format!("STREAM.CREATE.{}", self.name), &Value::Object(self.config.clone())).await;
        match (self.info(api).await?, made) {
            (Some(info), _) => self.compare(&info.config),
            (None, Ok(Err(error))) => Err(error.explain(&self.name)),
            (None, Err(error)) => Err(error),
            (None, Ok(Ok(_))) => Err(BusError::TimedOut),
        }
    }

    fn compare(&self, found: &Map<String, Value>) -> Result<(), BusError> {
        for field in FIELDS {
            let (wanted, found) = (self.config.get(field), found.get(field));
            let normal = |value: Option<&Value>| match value {
                // What is off or has no limit may be left out.
                None | Some(Value::Null | Value::Bool(false)) => Value::Null,
                Some(Value::Number(number)) if number.as_i64().is_some_and(|number| number <= 0) => Value::Null,
                Some(value) => value.clone(),
            };
            if normal(wanted) != normal(found) {
                return Err(BusError::Different {
                    stream: self.name.clone(),
                    field,
                    expected: show(field, wanted),
                    found: show(field, found),
                });
            }
        }
        Ok(())
    }

    /// An error unless it goes as far as a sequence that was acknowledged: a new leader may have yet to catch up.
    pub(super) async fn reaches(&self, api: &Api, sequence: Sequence) -> Result<(), BusError> {
        if sequence == 0 {
            return Ok(());
        }
        let last = api.limited(LIMIT, self.state(api)).await?.last;
        if last >= sequence {
            return Ok(());
        }
        let text = "its leader has yet to catch up, or has lost messages";
        Err(BusError::Failed(format!("{} ends at {last}, not at {sequence}: {text}", self.name)))
    }

    /// How far it went at some time after this was called. Those who ask at once share an answer.
    pub(super) async fn state(&self, api: &Api) -> Result<StreamState, BusError> {
        let called = Instant::now();
        let mut known = self.state.lock().await;
        if let Some((asked, state)) = *known
            && asked >= called
        {
            return Ok(state);
        }
        let asked = Instant::now();
        let Some(Info { state, .. }) = self.info(api).await? else {
            let text = format!("there is no stream {}: a node of the cluster makes it when it starts", self.name);
            return Err(BusError::Failed(text));
        };
        let last = state.last_seq;
        let first = if state.messages == 0 { last + 1 } else { state.first_seq.max(1) };
        *known = Some((asked, StreamState { first, last }));
        Ok(StreamState { first, last })
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A setting for people.
fn show(field: &str, value: Option<&Value>) -> String {
    match (field, value) {
        (_, None | Some(Value::Null)) => "none".into(),
        ("max_age" | "duplicate_window", Some(value)) => {
            humantime::format_duration(Duration::from_nanos(value.as_u64().unwrap_or(0))).to_string()
        }
        ("subjects", Some(Value::Array(all))) if all.len() > 3 => {
            format!("{} subjects from {} to {}", all.len(), all[0], all[all.len() - 1])
        }
        (_, Some(value)) => value.to_string(),
    }
}

/// A partition as it stands in subjects.
fn token(partition: u16) -> String {
    format!("{partition:02}")
}

/// All streams of a cluster, and their subjects.
#[derive(Debug)]
pub(super) struct Streams {
    prefix: String,
    pub(super) batches: Vec<Stream>,
    pub(super) records: Stream,
    pub(super) checkpoints: Stream,
    pub(super) sessions: Stream,
}

impl Streams {
    pub(super) fn new(options: &BusOptions) -> Streams {
        let prefix = options.name.clone();
        let name = |suffix: String| format!("{}_{suffix}", prefix.to_uppercase());
        let subject = |rest: &str| format!("{prefix}.{rest}");
        let replicas = options.replicas;
        let batches = (0..options.streams).map(|i| {
            let mine = (0..options.partitions).filter(|partition| partition % options.streams == i);
            let subjects: Vec<String> = mine.map(|partition| subject(&format!("p.{}.*", token(partition)))).collect();
            let max_bytes = options.max_bytes.and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(-1);
            let max_age = nanoseconds(options.max_age);
            let special =
                json!({ "num_replicas": replicas, "max_bytes": max_bytes, "max_age": max_age, "discard": "new" });
            Stream::new(name(format!("P{i}")), &subjects, special)
        });
        let records = json!({ "num_replicas": replicas, "max_msgs_per_subject": MAX_RECORDS, "deny_delete": true });
        let checkpoints = json!({ "num_replicas": replicas, "max_msgs_per_subject": MAX_CHUNKS });
        let sessions = json!({
            "num_replicas": replicas, "storage": "memory", "max_msgs_per_subject": 1,
            "max_age": nanoseconds(options.session_max_age),
        });
        Streams {
            batches: batches.collect(),
            records: Stream::new(name("R".into()), &[subject("r.*")], records),
            checkpoints: Stream::new(name("C".into()), &[subject("c.*")], checkpoints),
            sessions: Stream::new(name("N".into()), &[subject("n.*")], sessions),
            prefix,
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Stream> {
        self.batches.iter().chain([&self.records, &self.checkpoints, &self.sessions])
    }

    /// The stream of a partition's batches.
    pub(super) fn of(&self, partition: u16) -> &Stream {
        &self.batches[partition as usize % self.batches.len()]
    }

    pub(super) fn batch(&self, partition: u16, edge: &NodeName) -> String {
        format!("{}.p.{}.{edge}", self.prefix, token(partition))
    }

    /// What all batches of a partition have.
    pub(super) fn batch_filter(&self, partition: u16) -> String {
        format!("{}.p.{}.*", self.prefix, token(partition))
    }

    /// Whether a subject is that of a batch of the partition.
    pub(super) fn is_batch_of(&self, partition: u16, subject: &str) -> bool {
        subject.starts_with(self.batch_filter(partition).trim_end_matches('*'))
    }

    /// Where a node is asked.
    pub(super) fn question(&self, node: &NodeName) -> String {
        format!("{}.q.{node}", self.prefix)
    }

    pub(super) fn record(&self, partition: u16) -> String {
        format!("{}.r.{}", self.prefix, token(partition))
    }

    pub(super) fn checkpoint(&self, partition: u16) -> String {
        format!("{}.c.{}", self.prefix, token(partition))
    }

    pub(super) fn session(&self, node: &NodeName) -> String {
        format!("{}.n.{node}", self.prefix)
    }

    pub(super) fn session_filter(&self) -> String {
        format!("{}.n.*", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams(partitions: u16, streams: u16) -> Streams {
        Streams::new(&BusOptions { partitions, streams, max_bytes: Some(1 << 30), ..BusOptions::default() })
    }

    #[test]
    fn partitions_are_spread_over_streams() {
        let all = streams(5, 2);
        let names: Vec<&str> = all.all().map(|stream| &stream.name[..]).collect();
        assert_eq!(names, ["SYSTOLE_P0", "SYSTOLE_P1", "SYSTOLE_R", "SYSTOLE_C", "SYSTOLE_N"]);
        assert_eq!(all.batches[1].config["subjects"], json!(["systole.p.01.*", "systole.p.03.*"]));
        assert_eq!((&all.of(3).name[..], &all.record(3)[..]), ("SYSTOLE_P1", "systole.r.03"));
        assert!(all.is_batch_of(1, "systole.p.01.a") && !all.is_batch_of(1, "systole.p.010.a"));
        assert_eq!(all.sessions.config["duplicate_window"], json!(60_000_000_000_u64));
    }

    #[test]
    fn a_difference_names_the_stream_and_the_setting() {
        let all = streams(64, 1);
        let stream = &all.batches[0];
        let mut found = stream.config.clone();
        // A server says more than it was told, and leaves out what is off.
        found.insert("template_owner".into(), "".into());
        found.insert("max_msgs".into(), json!(0));
        assert_eq!(stream.compare(&found), Ok(()));
        for (field, value, expected) in [
            ("max_age", json!(60_000_000_000_u64), "max_age = 1m where this node wants 2h"),
            ("num_replicas", json!(1), "num_replicas = 1 where this node wants 3"),
            ("deny_delete", json!(true), "deny_delete = true where this node wants none"),
            (
                "subjects",
                json!(["systole.p.00.*"]),
                "subjects = [\"systole.p.00.*\"] where this node wants 64 subjects from \"systole.p.00.*\"",
            ),
        ] {
            let mut found = found.clone();
            found.insert(field.into(), value);
            let error = stream.compare(&found).expect_err("a difference").to_string();
            assert!(error.starts_with("stream `SYSTOLE_P0` has ") && error.contains(expected), "{error}");
        }
    }
}
