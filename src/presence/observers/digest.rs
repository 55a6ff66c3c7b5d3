//! What one node tells another: `GET /api/v1/presence/peer`. It holds ages and never instants, so that no two clocks have
//! to agree; and only what that node itself has heard, so that it does not matter who asks whom.

use std::borrow::Cow;
use std::collections::BTreeMap;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::presence::alert_book::{AlertKey, Ending};
use crate::presence::announced::Announced;
use crate::presence::engine::Sighting;
use crate::presence::event::Severity;
use crate::protocol::{is_instance_name, is_presence_name, is_service_name};

use super::acts::ActId;
use super::job_row::JobRow;

/// Bytes of JSON after which an answer ends; who asks goes on from its cursor. A row more may be in it.
const PAGE_BYTES: usize = 256 << 10;

/// Longest answer that is read, in bytes: a page, its last row, and room for what later versions add.
pub const MOST_BYTES: usize = 1 << 20;

/// Most targets that a node has, or that were told of a problem, and the longest name of one, in bytes.
pub(super) const MOST_TARGETS: usize = 64;
const MOST_TARGET: usize = 256;

/// Longest name of a node in characters, and longest text that is told of a problem in bytes.
const MOST_NODE: usize = 128;
pub(super) const MOST_TEXT: usize = 4_096;

/// Greatest age, in seconds, and greatest number that every reader of JSON takes as it is.
const MOST_AGE: f64 = 1e10;
const MOST_NUMBER: u64 = 1 << 53;

/// Seconds in which too much was dropped are told for so many seconds, so there are two of each at most.
pub(super) const DROPPED_SECS: f64 = 60.0;
const MOST_DROPPED: usize = 120;

/// Whether a text may name a node: 1 to 128 characters without a control character, `,` and `/`.
pub fn is_node_name(text: &str) -> bool {
    (1..=MOST_NODE).contains(&text.chars().count()) && !text.contains(|c: char| c.is_control() || c == ',' || c == '/')
}

/// Up to where somebody has what a node tells: which of its starts, and the numbers of what it told last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The start of the node.
    pub start: u64,
    /// The last sighting.
    pub heard: u64,
    /// The last problem or act.
    pub changed: u64,
    /// While everything is told: from which place on of those whom others have heard. `None` is told what is new.
    pub relayed: Option<u32>,
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.start, self.heard, self.changed)?;
        self.relayed.map_or(Ok(()), |place| write!(f, ".{place}"))
    }
}

impl std::str::FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Cursor, ()> {
        let mut parts = text.split('.').map(|part| part.parse::<u64>().map_err(drop));
        let mut next = || parts.next().ok_or(())?;
        let cursor = Cursor { start: next()?, heard: next()?, changed: next()?, relayed: None };
        let relayed = parts.next().transpose()?.map(|place| u32::try_from(place).unwrap_or(u32::MAX));
        if parts.next().is_some() { Err(()) } else { Ok(Cursor { relayed, ..cursor }) }
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
    /// It notifies some of its targets.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub speaks: bool,
    /// It is a node of a cluster that judges nobody.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub listens_only: bool,
    /// Whom it has heard.
    #[serde(default)]
    pub heard: Vec<Heard>,
    /// What jobs said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<JobRow>,
    /// Problems that it holds open, has closed, or knows to be notified.
    #[serde(default)]
    pub problems: Vec<ProblemRow>,
    /// What its operators have done.
    #[serde(default)]
    pub acts: Vec<ActRow>,
    /// Milliseconds since the seconds in which it dropped too much.
    #[serde(default)]
    pub dropped_ms: Vec<u64>,
    /// Rows that cannot be right, and were left out when it was read.
    #[serde(skip)]
    pub wrong: u64,
}

/// What a node of a cluster is asked over the bus, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// Who asks.
    pub node: CompactString,
    /// Its cursor, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

impl Question {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// A question from its bytes: who asks, and its cursor. `None` if it is none.
    pub fn read(body: &[u8]) -> Option<(CompactString, Option<Cursor>)> {
        let Question { node, since } = serde_json::from_slice(body).ok()?;
        let since = since.map(|since| since.parse()).transpose().ok()?;
        is_node_name(&node).then_some((node, since))
    }
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
    /// What its last service check said, and milliseconds since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<(u8, u64)>,
    /// That in words, empty if there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<CompactString>,
    /// Lines of its metric here, since the node began to count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u64>,
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
    /// How that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
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
    /// Who announced that, and why.
    #[serde(flatten)]
    pub announced: Announced,
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
            health: sighting.health.map(|(status, age)| (status, millis(age))),
            message: sighting.message.map(shortened),
            lines: sighting.lines,
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
            health: self.health.map(|(status, age)| (status, secs(age))),
            message: self.message,
            lines: self.lines,
        }
    }
}

/// A text that is not longer than what a peer takes.
pub(super) fn shortened(text: CompactString) -> CompactString {
    if text.len() <= MOST_TEXT { text } else { text[..text.floor_char_boundary(MOST_TEXT)].into() }
}

/// Bytes of a text as JSON, at most.
pub(super) fn quoted(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' => 2,
        0..b' ' => 6,
        _ => 1,
    };
    2 + text.bytes().map(escaped).sum::<usize>()
}

/// A row of an answer.
pub(super) trait Row {
    /// Bytes of it as JSON, about.
    fn json_bytes(&self) -> usize;

    /// Whether it can be right.
    fn is_right(&self) -> bool;
}

pub(super) fn maybe(text: &Option<CompactString>, is_right: impl Fn(&str) -> bool) -> bool {
    text.as_deref().is_none_or(is_right)
}

fn is_target(name: &str) -> bool {
    (1..=MOST_TARGET).contains(&name.len())
}

pub(super) fn is_age(secs: f64) -> bool {
    (0.0..=MOST_AGE).contains(&secs)
}

impl Row for Heard {
    fn json_bytes(&self) -> usize {
        let texts = [&self.start, &self.version, &self.message].into_iter().flatten().map(|text| 12 + quoted(text));
        130 + quoted(&self.s) + quoted(&self.i) + texts.sum::<usize>()
    }

    fn is_right(&self) -> bool {
        let ages = [self.left_age_ms, self.health.map(|(_, age)| age)].into_iter().flatten();
        let oldest = ages.fold(self.age_ms.max(self.known_ms), u64::max) as f64 / 1000.0;
        let interval = self.interval.is_none_or(|interval| (0.001..=1e7).contains(&interval));
        let texts = maybe(&self.start, is_presence_name)
            && maybe(&self.version, is_presence_name)
            && maybe(&self.message, |message| message.len() <= MOST_TEXT);
        is_service_name(&self.s) && is_instance_name(&self.i) && texts && is_age(oldest) && interval
    }
}

impl Row for ProblemRow {
    fn json_bytes(&self) -> usize {
        let names = [&self.key.service, &self.key.instance].into_iter().flatten();
        let names = names.chain(self.key.nodes.iter().flatten()).map(|name| 16 + quoted(name));
        let told = self.told.keys().map(|target| 100 + quoted(target));
        200 + quoted(&self.text) + names.sum::<usize>() + told.sum::<usize>()
    }

    fn is_right(&self) -> bool {
        let ages = [self.ends_in, self.closed_age];
        let is_told = |(target, told): (&CompactString, &ToldRow)| {
            is_target(target) && told.version <= MOST_NUMBER && is_age(told.age)
        };
        maybe(&self.key.service, is_service_name)
            && maybe(&self.key.instance, is_presence_name)
            && self.key.nodes.iter().flatten().all(|node| is_node_name(node))
            && self.text.len() <= MOST_TEXT
            && self.told.len() <= MOST_TARGETS
            && self.told.iter().all(is_told)
            && is_age(self.age)
            && ages.into_iter().flatten().all(is_age)
    }
}

impl Row for ActRow {
    fn json_bytes(&self) -> usize {
        let said = self.announced.by.iter().chain(&self.announced.why).map(|text| 7 + quoted(text)).sum::<usize>();
        150 + quoted(&self.service) + quoted(&self.id.node) + self.instance.as_deref().map_or(0, quoted) + said
    }

    fn is_right(&self) -> bool {
        let ages = [Some(self.age), self.maintenance];
        is_node_name(&self.id.node)
            && is_service_name(&self.service)
            && maybe(&self.instance, is_presence_name)
            && self.announced.is_short()
            && ages.into_iter().flatten().all(is_age)
    }
}

/// The room that is left in an answer.
#[derive(Debug)]
pub(super) struct Room {
    bytes: usize,
    is_empty: bool,
}

impl Room {
    /// That of an answer with nothing in it.
    pub(super) fn new() -> Room {
        Room { bytes: PAGE_BYTES, is_empty: true }
    }

    /// Adds a row if it finds room, and whether it did: the first always does, so that each answer is a step on.
    pub(super) fn put<T: Row>(&mut self, rows: &mut Vec<T>, row: T) -> bool {
        let bytes = row.json_bytes();
        if bytes > self.bytes && !self.is_empty {
            return false;
        }
        (self.bytes, self.is_empty) = (self.bytes.saturating_sub(bytes), false);
        rows.push(row);
        true
    }
}

impl Digest {
    /// What a node of a cluster tells that has heard nobody.
    pub fn of_nobody(node: CompactString) -> Digest {
        let cursor = Cursor { start: 1, changed: 1, ..Cursor::default() }.to_string();
        Digest { v: 1, node, cursor, listens_only: true, ..Digest::default() }
    }

    /// Reads an answer. Rows that cannot be right are left out and counted: a node that tells one of them tells the others
    /// all the same.
    ///
    /// # Errors
    /// What is wrong with all of it.
    pub fn read(body: &[u8]) -> Result<Digest, String> {
        let mut digest: Digest = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        digest.check().map_err(Cow::into_owned)?;
        let rows = digest.rows();
        digest.heard.retain(Row::is_right);
        digest.jobs.retain(Row::is_right);
        digest.problems.retain(Row::is_right);
        digest.acts.retain(Row::is_right);
        digest.dropped_ms.truncate(MOST_DROPPED);
        digest.wrong = (rows - digest.rows()) as u64;
        Ok(digest)
    }

    /// Takes out who was forgotten.
    pub fn take_forgotten(&mut self) -> Vec<ActRow> {
        self.acts.extract_if(.., |act| act.maintenance.is_none()).collect()
    }

    fn rows(&self) -> usize {
        self.heard.len() + self.jobs.len() + self.problems.len() + self.acts.len() + self.dropped_ms.len()
    }

    /// Whether an answer goes on from where it was asked for: who says that there is more and comes to no end is not waited
    /// for.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_step(&self, since: Option<Cursor>) -> Result<(), String> {
        let to: Cursor = self.cursor.parse().map_err(|()| "its cursor is none")?;
        if self.more && self.rows() == 0 && self.wrong == 0 {
            return Err("there is more, it says, and there is nothing in it".into());
        }
        let Some(from) = since.filter(|from| from.start == to.start) else { return Ok(()) };
        if to.heard < from.heard || to.changed < from.changed && !self.whole {
            return Err("its cursor goes back".into());
        }
        let is_on = to.heard > from.heard || to.changed > from.changed || to.relayed > from.relayed;
        if self.more && !is_on { Err("there is more, it says, and its cursor stays".into()) } else { Ok(()) }
    }

    /// What is wrong with an answer that can be read.
    fn check(&self) -> Result<(), Cow<'static, str>> {
        if self.v != 1 {
            return Err(format!("it is of version {}, not 1", self.v).into());
        }
        if !is_node_name(&self.node) {
            return Err("its node has no proper name".into());
        }
        if self.cursor.parse::<Cursor>().is_err() {
            return Err("its cursor is none".into());
        }
        let is_right = |(target, _): (&CompactString, &bool)| is_target(target);
        if self.targets.len() > MOST_TARGETS || !self.targets.iter().all(is_right) {
            return Err("a target of it cannot be".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::alert_book::AlertName;

    fn digest() -> Digest {
        Digest {
            v: 1,
            node: "a".into(),
            cursor: "7.3.1".into(),
            heard: vec![Heard { s: "web".into(), i: "web-1".into(), age_ms: 20, ..Heard::default() }],
            ..Digest::default()
        }
    }

    fn problem() -> ProblemRow {
        ProblemRow {
            key: AlertKey::of(AlertName::MassSilence),
            severity: Severity::Critical,
            text: "x".into(),
            age: 1.0,
            ends_in: None,
            open: true,
            closed_age: None,
            ending: None,
            told: BTreeMap::from([("hook".into(), at_target(1))]),
        }
    }

    fn at_target(version: u64) -> ToldRow {
        ToldRow { version, age: 1.0, severity: Severity::Warning }
    }

    fn act() -> ActId {
        ActId { node: "a".into(), start: 1_700_000_000_000_000, number: 1 }
    }

    fn read(digest: &Digest) -> Result<Digest, String> {
        Digest::read(&serde_json::to_vec(digest).expect("JSON"))
    }

    #[test]
    fn an_answer_comes_back_and_a_cursor_is_three_numbers_or_four() {
        assert_eq!(read(&digest()), Ok(digest()));
        let cursor = Cursor { start: 7, heard: 3, changed: 1, relayed: None };
        for (text, cursor) in [("7.3.1", cursor), ("7.3.1.9", Cursor { relayed: Some(9), ..cursor })] {
            assert_eq!((text.parse(), cursor.to_string()), (Ok(cursor), text.into()));
        }
        for wrong in ["", "7", "7.3", "7.3.1.0.0", "7.3.1.", "7.-3.1", "a.b.c"] {
            assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn nodes_of_the_version_before_tell_no_words_of_a_check_and_take_rows_that_have_them() {
        let said = Heard { health: Some((2, 100)), message: Some("disk full".into()), ..digest().heard.remove(0) };
        let json = serde_json::to_string(&said).expect("JSON");
        assert_eq!(serde_json::from_str::<Heard>(&json).expect("a row").into_sighting().message, said.message);
        let before = json.replace(",\"message\":\"disk full\"", "");
        assert_ne!(before, json);
        assert_eq!(serde_json::from_str::<Heard>(&before).expect("a row"), Heard { message: None, ..said });
    }

    #[test]
    fn a_broken_answer_is_refused_whole() {
        for wrong in [
            Digest { v: 2, ..digest() },
            Digest { node: "".into(), ..digest() },
            Digest { node: "a\nb".into(), ..digest() },
            Digest { node: "a/b".into(), ..digest() },
            Digest { node: "a".repeat(MOST_NODE + 1).into(), ..digest() },
            Digest { cursor: "none".into(), ..digest() },
        ] {
            assert!(read(&wrong).is_err(), "{wrong:?}");
        }
        for text in ["", "{}", "[]", "{\"v\":1}", "<html>"] {
            assert!(Digest::read(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_row_that_cannot_be_right_is_left_out_and_counted_and_the_others_are_taken() {
        let row = || digest().heard.remove(0);
        let heard = |row: Heard| Digest { heard: vec![row, digest().heard.remove(0)], ..digest() };
        let of = |row: ProblemRow| Digest { problems: vec![row, problem()], ..digest() };
        let done = |service: &str, age: f64| Digest {
            acts: vec![ActRow {
                id: act(),
                service: service.into(),
                instance: None,
                age,
                maintenance: None,
                announced: Announced::default(),
            }],
            ..digest()
        };
        let about = |nodes: [&str; 2]| AlertKey { nodes: Some(nodes.map(Into::into)), ..problem().key };
        for wrong in [
            heard(Heard { s: "x".repeat(129).into(), ..row() }),
            heard(Heard { s: "events".into(), ..row() }),
            heard(Heard { i: "".into(), ..row() }),
            heard(Heard { version: Some("x".repeat(129).into()), ..row() }),
            heard(Heard { message: Some("x".repeat(MOST_TEXT + 1).into()), ..row() }),
            heard(Heard { age_ms: u64::MAX, ..row() }),
            heard(Heard { interval: Some(0.0), ..row() }),
            of(ProblemRow { told: BTreeMap::from([("x".into(), at_target(MOST_NUMBER + 1))]), ..problem() }),
            of(ProblemRow { told: BTreeMap::from([("".into(), at_target(1))]), ..problem() }),
            of(ProblemRow { text: "x".repeat(MOST_TEXT + 1), ..problem() }),
            of(ProblemRow { age: -1.0, ..problem() }),
            of(ProblemRow { key: about(["a", "b\n"]), ..problem() }),
            of(ProblemRow { key: about(["a", &"b".repeat(MOST_NODE + 1)]), ..problem() }),
            done("", 0.0),
            done("web", 1e11),
            Digest { dropped_ms: vec![1; MOST_DROPPED + 1], ..digest() },
        ] {
            let taken = read(&wrong).expect("an answer");
            assert_eq!((taken.wrong, taken.rows() + 1), (1, wrong.rows()), "{wrong:?}");
        }
    }

    #[test]
    fn an_answer_goes_on_from_where_it_was_asked_for_or_is_none() {
        let from = |text: &str| Some(text.parse().expect("a cursor"));
        let step = |to: &str, more: bool, whole: bool, since| {
            let answer = Digest { cursor: to.into(), more, whole, ..digest() };
            answer.check_step(since).is_ok()
        };
        assert!(step("7.3.1", true, true, None) && step("8.0.1", true, true, from("7.9.9")));
        assert!(step("7.3.1", false, false, from("7.3.1")) && !step("7.3.1", true, false, from("7.3.1")));
        assert!(step("7.3.1.5", true, false, from("7.3.1.4")) && !step("7.3.1.4", true, false, from("7.3.1.4")));
        assert!(!step("7.2.1", false, false, from("7.3.1")) && !step("7.3.1", false, false, from("7.3.2")));
        // What changed is told from the beginning.
        assert!(step("7.3.1.0", true, true, from("7.3.2")));
        let nothing = Digest { more: true, heard: Vec::new(), ..digest() };
        assert!(nothing.check_step(None).is_err());
    }

    #[test]
    fn bytes_of_rows_are_about_what_they_are_as_json() {
        let texts = ["x".repeat(128), "\"".repeat(128), "\u{1}".repeat(128), "\u{e9}".repeat(64)];
        for text in texts.iter().map(|text| CompactString::from(text.as_str())) {
            let key = AlertKey { service: Some(text.clone()), instance: Some(text.clone()), ..problem().key };
            let heard = Heard {
                s: text.clone(),
                i: text.clone(),
                version: Some(text.clone()),
                left_age_ms: Some(123_456),
                interval: Some(10.5),
                health: Some((2, 123_456)),
                message: Some(text.clone()),
                ..Heard::default()
            };
            let problem = ProblemRow { key, ends_in: Some(1.25), closed_age: Some(1.25), ..problem() };
            let act = ActRow {
                id: act(),
                service: text.clone(),
                instance: Some(text.clone()),
                age: 1.25,
                maintenance: Some(60.0),
                announced: Announced { by: Some(text.clone()), why: Some(text) },
            };
            for (bytes, json) in [
                (heard.json_bytes(), serde_json::to_string(&heard)),
                (problem.json_bytes(), serde_json::to_string(&problem)),
                (act.json_bytes(), serde_json::to_string(&act)),
            ] {
                let json = json.expect("JSON");
                assert!(bytes >= json.len() && bytes < json.len() + 200, "{bytes}: {json}");
            }
        }
    }
}
