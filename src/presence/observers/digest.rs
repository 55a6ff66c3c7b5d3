//! What one node tells another: `GET /api/v1/presence/peer`. It holds ages and never instants, so that no two clocks have
//! to agree; and only what that node itself has heard, so that it does not matter who asks whom.

use std::borrow::Cow;
use std::collections::BTreeMap;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::presence::alert_book::AlertKey;
use crate::presence::engine::Sighting;
use crate::presence::event::Severity;

use super::acts::ActId;

/// Most sightings, problems and acts in one answer; who asks goes on from its cursor.
pub const MOST_ROWS: usize = 20_000;
pub(super) const MOST_PROBLEMS: usize = 5_000;
pub(super) const MOST_ACTS: usize = 1_000;

/// Most targets that a node has, or that were told of a problem.
pub(super) const MOST_TARGETS: usize = 64;

/// Greatest number of notifications about one problem at one target.
const MOST_TOLD: u64 = 1 << 52;

/// Longest name and longest text in an answer, in bytes.
const MOST_NAME: usize = 256;
const MOST_TEXT: usize = 4_096;

/// Greatest age, in seconds.
const MOST_AGE: f64 = 1e10;

/// Up to where somebody has what a node tells: which of its starts, and the numbers of what it told last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The start of the node.
    pub start: u64,
    /// The last sighting.
    pub heard: u64,
    /// The last problem or act.
    pub changed: u64,
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.start, self.heard, self.changed)
    }
}

impl std::str::FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Cursor, ()> {
        let mut parts = text.split('.').map(|part| part.parse::<u64>().map_err(drop));
        let mut next = || parts.next().ok_or(())?;
        let cursor = Cursor { start: next()?, heard: next()?, changed: next()? };
        if parts.next().is_some() { Err(()) } else { Ok(cursor) }
    }
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Digest {
    /// Version of the form: 1.
    pub v: u32,
    /// Name of the node.
    pub node: CompactString,
    /// Where to go on.
    pub cursor: String,
    /// It has all problems: what was told of them before does not hold any more.
    pub whole: bool,
    /// There is more: ask again at once.
    pub more: bool,
    /// Its targets, and whether each can be reached.
    #[serde(default)]
    pub targets: BTreeMap<CompactString, bool>,
    /// It is about to stop.
    pub leaving: bool,
    /// Whom it has heard.
    #[serde(default)]
    pub heard: Vec<Heard>,
    /// Problems that it holds open, has closed, or knows to be notified.
    #[serde(default)]
    pub problems: Vec<ProblemRow>,
    /// What its operators have done.
    #[serde(default)]
    pub acts: Vec<ActRow>,
    /// Milliseconds since the seconds in which it dropped too much.
    #[serde(default)]
    pub dropped_ms: Vec<u64>,
}

/// An instance that a node has heard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Heard {
    /// Its service.
    pub s: CompactString,
    /// Its name.
    pub i: CompactString,
    /// Milliseconds since its last beat.
    pub age_ms: u64,
    /// Milliseconds since its last goodbye.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_age_ms: Option<u64>,
    /// The interval that it declared, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<f64>,
    /// As it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<CompactString>,
    /// As it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<CompactString>,
    /// Milliseconds since it was registered.
    #[serde(default)]
    pub known_ms: u64,
    /// Its beats until now.
    #[serde(default)]
    pub beats: u64,
    /// Others have heard it, and this node has not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub relayed: bool,
}

/// A problem as a node sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProblemRow {
    /// What it is about.
    pub key: AlertKey,
    /// How grave it is.
    pub severity: Severity,
    /// In words.
    pub text: String,
    /// Seconds since it began.
    pub age: f64,
    /// Seconds until it is over by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_in: Option<f64>,
    /// The node holds it open.
    pub open: bool,
    /// Seconds since the node saw its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_age: Option<f64>,
    /// What has arrived at each target, whoever notified it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub told: BTreeMap<CompactString, ToldRow>,
}

/// What a target was told of a problem.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToldRow {
    /// How often its beginning or its end was notified: odd while it is out.
    pub version: u64,
    /// Seconds since the last of them.
    pub age: f64,
    /// How grave it was said to be.
    pub severity: Severity,
}

/// What an operator has done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActRow {
    /// Which one it is.
    pub id: ActId,
    /// To which service.
    pub service: CompactString,
    /// To which instance; without one to all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<CompactString>,
    /// Seconds since then.
    pub age: f64,
    /// Maintenance of so many seconds, from then on; without it, it was forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<f64>,
}

impl Heard {
    /// A sighting as it is sent.
    pub(super) fn of(sighting: Sighting) -> Heard {
        let millis = |secs: f64| (secs.max(0.0) * 1000.0).round() as u64;
        Heard {
            s: sighting.service,
            i: sighting.instance,
            age_ms: millis(sighting.age),
            left_age_ms: sighting.left_age.map(millis),
            interval: sighting.interval,
            start: sighting.start,
            version: sighting.version,
            known_ms: millis(sighting.known),
            beats: sighting.beats,
            relayed: sighting.relayed,
        }
    }

    /// A sighting as it is taken.
    pub(super) fn into_sighting(self) -> Sighting {
        let secs = |millis: u64| millis as f64 / 1000.0;
        Sighting {
            service: self.s,
            instance: self.i,
            age: secs(self.age_ms),
            left_age: self.left_age_ms.map(secs),
            interval: self.interval,
            start: self.start,
            version: self.version,
            known: secs(self.known_ms),
            beats: self.beats,
            relayed: self.relayed,
        }
    }
}

impl Digest {
    /// Reads an answer.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(body: &[u8]) -> Result<Digest, String> {
        let digest: Digest = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        digest.check().map_err(Cow::into_owned)?;
        Ok(digest)
    }

    /// What is wrong with an answer that can be read.
    fn check(&self) -> Result<(), Cow<'static, str>> {
        let name = |name: &str| !name.is_empty() && name.len() <= MOST_NAME && !name.chars().any(char::is_control);
        let maybe = |text: &Option<CompactString>| text.as_deref().is_none_or(name);
        let age = |age: f64| (0.0..=MOST_AGE).contains(&age);
        let maybe_age = |secs: Option<f64>| secs.is_none_or(age);
        if self.v != 1 {
            return Err(format!("it is of version {}, not 1", self.v).into());
        }
        if !name(&self.node) {
            return Err("its node has no proper name".into());
        }
        if self.cursor.parse::<Cursor>().is_err() {
            return Err("its cursor is none".into());
        }
        let (heard, problems, acts) = (self.heard.len(), self.problems.len(), self.acts.len());
        if heard > MOST_ROWS || problems > MOST_PROBLEMS || acts.max(self.dropped_ms.len()) > MOST_ACTS {
            return Err(format!("it holds too much: {heard} instances, {problems} problems, {acts} acts").into());
        }
        let is_right = |row: &Heard| {
            let oldest = row.age_ms.max(row.left_age_ms.unwrap_or(0)).max(row.known_ms) as f64 / 1000.0;
            let interval = row.interval.is_none_or(|interval| (0.001..=1e7).contains(&interval));
            name(&row.s) && name(&row.i) && maybe(&row.start) && maybe(&row.version) && age(oldest) && interval
        };
        if let Some(wrong) = self.heard.iter().position(|row| !is_right(row)) {
            return Err(format!("instance {wrong} of it cannot be").into());
        }
        if self.targets.len() > MOST_TARGETS || !self.targets.keys().all(|target| name(target)) {
            return Err("a target of it cannot be".into());
        }
        let is_told =
            |(target, told): (&CompactString, &ToldRow)| name(target) && told.version <= MOST_TOLD && age(told.age);
        let is_right = |row: &ProblemRow| {
            let ages = [row.ends_in, row.closed_age];
            maybe(&row.key.service)
                && maybe(&row.key.instance)
                && row.text.len() <= MOST_TEXT
                && age(row.age)
                && ages.into_iter().all(maybe_age)
                && row.told.len() <= MOST_TARGETS
                && row.told.iter().all(is_told)
        };
        if let Some(wrong) = self.problems.iter().position(|row| !is_right(row)) {
            return Err(format!("problem {wrong} of it cannot be").into());
        }
        let is_right = |row: &ActRow| {
            name(&row.id.node)
                && name(&row.service)
                && maybe(&row.instance)
                && age(row.age)
                && maybe_age(row.maintenance)
        };
        if self.acts.iter().all(is_right) { Ok(()) } else { Err("an act in it cannot be".into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> Digest {
        Digest {
            v: 1,
            node: "a".into(),
            cursor: "7.3.1".into(),
            heard: vec![Heard { s: "web".into(), i: "web-1".into(), age_ms: 20, ..Heard::default() }],
            ..Digest::default()
        }
    }

    #[test]
    fn an_answer_comes_back_and_a_cursor_is_three_numbers() {
        let text = serde_json::to_vec(&digest()).expect("JSON");
        assert_eq!(Digest::read(&text), Ok(digest()));
        assert_eq!("7.3.1".parse(), Ok(Cursor { start: 7, heard: 3, changed: 1 }));
        for wrong in ["", "7", "7.3", "7.3.1.0", "7.-3.1", "a.b.c"] {
            assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_broken_answer_is_refused_whole() {
        let heard = |row: Heard| Digest { heard: vec![row], ..digest() };
        let row = || digest().heard.remove(0);
        let many = vec![row(); MOST_ROWS + 1];
        for wrong in [
            Digest { v: 2, ..digest() },
            Digest { node: "".into(), ..digest() },
            Digest { node: "a\nb".into(), ..digest() },
            Digest { cursor: "none".into(), ..digest() },
            Digest { heard: many, ..digest() },
            heard(Heard { s: "x".repeat(MOST_NAME + 1).into(), ..row() }),
            heard(Heard { i: "".into(), ..row() }),
            heard(Heard { age_ms: u64::MAX, ..row() }),
            heard(Heard { interval: Some(0.0), ..row() }),
            Digest {
                acts: vec![ActRow {
                    id: ActId { node: "a".into(), start: 1, number: 1 },
                    service: "".into(),
                    instance: None,
                    age: 0.0,
                    maintenance: None,
                }],
                ..digest()
            },
        ] {
            let text = serde_json::to_vec(&wrong).expect("JSON");
            assert!(Digest::read(&text).is_err(), "{wrong:?}");
        }
        for text in ["", "{}", "[]", "{\"v\":1}", "<html>"] {
            assert!(Digest::read(text.as_bytes()).is_err(), "{text}");
        }
    }
}
