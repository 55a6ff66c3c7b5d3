//! Two or more observers: nodes that hear the same fleet, or parts of it, judge as one and notify once.
//!
//! Each asks each other twice a second for what that one itself has heard ([`digest`]), and judges by the later evidence.
//! A silence is judged only with an answer of every peer that answers at all, so that a down means that nobody has heard it.
//! To each target one node *speaks*: the one with the lowest name among those that answer and can reach it; what that means is
//! in [`problems`]. Pure: time is an argument, and who asks and answers is somebody else's.
//!
//! | file | keeps |
//! |---|---|
//! | `acts` | what operators have done |
//! | [`digest`], `job_row` | what goes over the wire |
//! | `members` | who is an observer in a cluster, where that is not configured |
//! | `peer` | whether a peer answers, how it is, and what it holds open |
//! | `problems` | what is notified, by whomever |

mod acts;
mod digest;
mod job_row;
#[cfg(test)]
mod line_tests;
#[cfg(test)]
mod member_tests;
mod members;
#[cfg(test)]
mod page_tests;
mod peer;
mod problems;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::iter::Peekable;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::Alarm;
use super::alert_book::{AlertKey, Notification, Which};
use super::engine::{Engine, Observation};
use super::event::{PeerContext, PeerKind, Phase};
use super::time::{EngineTime, UnixTime};
use crate::memory::{Holder, Holding, Memory};

use acts::Acts;
use digest::{DROPPED_SECS, Room};
use members::Membership;
use peer::Peer;
use problems::{Learned, Problem, Problems, Speaking};

pub use acts::ActId;
pub use digest::{ActRow, Cursor, Digest, Heard, MOST_BYTES, ProblemRow, Question, ToldRow, is_node_name};
pub use job_row::{JobRow, JobSign};
pub use members::MemberOptions;

/// Time between two polls, in seconds.
pub const POLL_SECS: f64 = 0.5;

/// So many polls without an answer are a peer that does not answer.
const MISSED_POLLS: u32 = 3;

/// Silence is judged with answers that are no older, in seconds.
const FRESH_SECS: f64 = 0.75;

/// Judging waits for fresher answers for so long at most, in seconds.
const HOLD_SECS: f64 = 1.0;

/// A peer of which nothing whole came for so many seconds does not answer either, whatever it says and however slowly.
const LOST_SECS: f64 = (MISSED_POLLS + 1) as f64 * POLL_SECS;

/// Instances that nobody hears which are named.
const NAMED: usize = 5;

/// Most bytes of a text about a peer, and most names of those that ask.
const MOST_TROUBLE: usize = 300;
const MOST_ASKERS: usize = 64;

/// Bytes of what peers tell of problems are counted so often, in seconds, and estimated between.
const COUNT_EVERY: f64 = 1.0;

/// Why a poll had no whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// There was none.
    Silent,
    /// It cannot be used.
    Broken,
    /// Who answers has the name of this node, or of another peer.
    Namesake,
    /// There is more of it: the next poll goes on.
    More,
}

/// Why an answer was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mistaken {
    /// The peer has this node's own name, or is this node.
    #[error("it calls itself `{0}`, which is the name of this node or of another observer")]
    Namesake(CompactString),
    /// It cannot be read.
    #[error("{0}")]
    Broken(String),
}

/// What survives a restart.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SavedObservers {
    /// Peers by their URLs, and which start of each had answered last.
    peers: Vec<(String, Option<CompactString>)>,
    #[serde(default)]
    starts: Vec<Option<u64>>,
    problems: Vec<Problem>,
    /// Peers that are no members of the cluster any more.
    #[serde(default)]
    former: Vec<String>,
    /// Peers that have said that they are leaving.
    #[serde(default)]
    leaving: Vec<String>,
}

impl SavedObservers {
    /// The nodes of a cluster that it knew, by their names.
    pub fn members(&self) -> Vec<String> {
        self.peers.iter().map(|(name, _)| name).filter(|name| members::is_member_name(name)).cloned().collect()
    }

    /// Lets an engine that was saved with them know the places of its peers among these URLs.
    pub fn place_peers(&self, urls: &[String], engine: &mut Engine) {
        engine.renumber_peers(|place| {
            let (known, _) = self.peers.get(usize::from(place))?;
            urls.iter().position(|url| url == known).and_then(|place| u16::try_from(place).ok())
        });
    }
}

/// What a target is to be sent.
#[derive(Debug, Default)]
pub struct Spoken {
    /// In order.
    pub notifications: Vec<Notification>,
    /// Before that: this node begins to speak. All that is out there.
    pub again: Option<Vec<Notification>>,
    /// Before that: this node speaks no longer. What waits to be sent is another's.
    pub is_silenced: bool,
    /// What others have notified while it was on its way here.
    pub overtaken: Vec<AlertKey>,
    /// What others have notified while this node speaks, and whether it is out by that.
    pub learned: Vec<(Alarm, bool)>,
}

/// A peer as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PeerView {
    /// Where it is, without what is secret.
    pub url: String,
    /// Its name, once it has said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<CompactString>,
    /// Whether it answers.
    pub reachable: bool,
    /// Seconds since its last answer was asked for.
    pub digest_age_s: f64,
    /// Whether it can reach its targets, all of them.
    pub notifier: bool,
    /// It has said that it is leaving.
    pub leaving: bool,
    /// It has the name of this node: one of both must be set.
    pub same_name: bool,
    /// It does not answer for so long that this is an alarm.
    pub gone: bool,
    /// Why its last poll had no whole answer, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<CompactString>,
    /// Answers that could not be used.
    pub refused: u64,
}

/// All observers as they are shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ObserversView {
    /// Name of this node.
    pub node: CompactString,
    /// Who notifies, as this node sees it; `None` while it does not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speaker: Option<CompactString>,
    /// Who notifies targets that the speaker does not notify.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub targets: BTreeMap<CompactString, CompactString>,
    /// Peers that notify as well, or may: they do not reach the one that does, or are not reached from here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<CompactString>,
    /// Instances that a lost peer alone had heard.
    pub unwatched: usize,
    /// Some of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unwatched_names: Vec<String>,
    /// It judges nobody, being a node of a cluster that only receives.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub listens_only: bool,
    /// The peers, in the order of the configuration.
    pub peers: Vec<PeerView>,
}

/// This node among others.
#[derive(Debug)]
pub struct Observers {
    node: CompactString,
    /// Which start of this node it is.
    start: u64,
    peers: Vec<Peer>,
    problems: Problems,
    /// What operators have done, here or elsewhere.
    acts: Acts,
    /// Seconds in which too much was dropped here, by the number of the change.
    dropped: VecDeque<(u64, EngineTime)>,
    /// Number of the last change of anything but sightings.
    last_number: u64,
    /// Its own targets, and whether each can be reached.
    targets: BTreeMap<CompactString, bool>,
    is_leaving: bool,
    /// Those that it speaks to.
    spoken_to: BTreeSet<CompactString>,
    /// What others have notified since the target was last spoken to.
    learned: Vec<Learned>,
    /// Who has asked this node, and when last.
    askers: BTreeMap<CompactString, EngineTime>,
    /// Alarms of peers that are none any more.
    former: Vec<[CompactString; 2]>,
    /// The cluster, if they are its nodes.
    membership: Option<Membership>,
    /// When time last passed.
    ticked: EngineTime,
    /// For how many seconds silence was not judged, as far as this node ran.
    waited: f64,
    /// What all of it takes, and when that was counted.
    held: Holding,
    counted: EngineTime,
}

/// Two nodes in the order of their names: both call what is between them the same.
fn in_order(a: &str, b: &str) -> [CompactString; 2] {
    if a <= b { [a.into(), b.into()] } else { [b.into(), a.into()] }
}

/// Making one.
impl Observers {
    /// A node among peers at these URLs, at a time of both clocks; `start` tells its starts apart. `firing` is what its
    /// alert book holds open.
    pub fn new(
        node: &str,
        start: u64,
        urls: &[String],
        saved: SavedObservers,
        firing: impl Iterator<Item = Alarm>,
        times: (EngineTime, UnixTime),
    ) -> Observers {
        Observers::made((node, None), start, urls, saved, firing, times)
    }

    /// A node of a cluster.
    pub fn in_cluster(
        node: &str,
        start: u64,
        options: MemberOptions,
        saved: SavedObservers,
        firing: impl Iterator<Item = Alarm>,
        times: (EngineTime, UnixTime),
    ) -> Observers {
        let members = if options.listens_only { Vec::new() } else { saved.members() };
        Observers::made((node, Some(Membership::new(options, times.0))), start, &members, saved, firing, times)
    }

    fn made(
        (node, membership): (&str, Option<Membership>),
        start: u64,
        urls: &[String],
        saved: SavedObservers,
        firing: impl Iterator<Item = Alarm>,
        (now, unix): (EngineTime, UnixTime),
    ) -> Observers {
        let known = |url: &String| {
            let (_, known) = saved.peers.iter().find(|(known, _)| known == url)?;
            // This node may have been given that name since.
            known.clone().filter(|known| known != node)
        };
        let start_before = |url: &String| {
            let place = saved.peers.iter().position(|(known, _)| known == url)?;
            saved.starts.get(place).copied().flatten()
        };
        let peer = |url: &String| {
            let peer = Peer::new(url, known(url), now).started_before(start_before(url));
            peer.forgotten(saved.former.contains(url), now).leaving(saved.leaving.contains(url))
        };
        let peers: Vec<Peer> = urls.iter().map(peer).collect();
        let listens_only = membership.as_ref().is_some_and(|membership| membership.options.listens_only);
        // One that judges nobody sees no end of what it has found before.
        let is_its = |alarm: &Alarm| !listens_only || alarm.key.service.is_none();
        let firing: Vec<Alarm> = firing.filter(is_its).collect();
        // Whom an earlier start has reported; of those that are no peers any more that is over.
        let mut former: Vec<[CompactString; 2]> = firing.iter().filter_map(|alarm| alarm.key.nodes.clone()).collect();
        // 0 is what somebody has who has nothing.
        let mut last_number = 1;
        let problems = Problems::restored(saved.problems, firing, now, unix, &mut last_number);
        let mut observers = Observers {
            node: node.into(),
            start,
            peers,
            problems,
            acts: Acts::new(node, start),
            dropped: VecDeque::new(),
            last_number,
            targets: BTreeMap::new(),
            is_leaving: false,
            spoken_to: BTreeSet::new(),
            learned: Vec::new(),
            askers: BTreeMap::new(),
            former: Vec::new(),
            membership,
            ticked: now,
            waited: 0.0,
            held: Memory::unlimited().holding(Holder::Presence),
            counted: now,
        };
        for place in 0..observers.peers.len() {
            let nodes = observers.nodes_with(observers.peers[place].name());
            if let Some(known) = former.iter().position(|known| *known == nodes) {
                observers.peers[place].alarm = Some(former.swap_remove(known));
            }
        }
        if let Some(membership) = &mut observers.membership {
            membership.adopt_alarm(node, &mut former);
        }
        Observers { former, ..observers }
    }

    /// The same in this memory.
    #[must_use]
    pub fn in_memory(self, memory: &Memory) -> Observers {
        Observers { held: memory.holding(Holder::Presence), ..self }
    }

    /// Bytes that it takes.
    pub fn heap_bytes(&self) -> usize {
        self.problems.heap_bytes() + self.acts.heap_bytes() + self.peers.iter().map(Peer::heap_bytes).sum::<usize>()
    }

    /// Writes what survives a restart as JSON.
    ///
    /// # Errors
    /// What `out` says.
    pub fn store(&self, out: impl std::io::Write) -> std::io::Result<()> {
        #[derive(Serialize)]
        struct Stored<'a> {
            peers: Vec<(&'a str, Option<&'a CompactString>)>,
            starts: Vec<Option<u64>>,
            problems: Vec<&'a Problem>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            former: Vec<&'a str>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            leaving: Vec<&'a str>,
        }
        let peers = self.peers.iter().map(|peer| (peer.url.as_str(), peer.node.as_ref())).collect();
        let starts = self.peers.iter().map(Peer::last_start).collect();
        let former = self.peers.iter().filter(|peer| peer.is_former).map(|peer| peer.url.as_str()).collect();
        let leaving = self.peers.iter().filter(|peer| peer.is_leaving).map(|peer| peer.url.as_str()).collect();
        let problems = self.problems.saved();
        Ok(serde_json::to_writer(out, &Stored { peers, starts, problems, former, leaving })?)
    }
}

/// What this node tells others.
impl Observers {
    /// What is new to whoever has a cursor; everything to who has none, or one of another start. At most a page of it.
    pub fn digest(&self, engine: &Engine, since: Option<Cursor>, unix: UnixTime) -> Digest {
        let now = engine.now();
        let known = since.filter(|cursor| cursor.start == self.start && cursor.changed <= self.last_number);
        let begin = Cursor { start: self.start, relayed: Some(0), ..Cursor::default() };
        let mut from = known.unwrap_or(begin);
        if from.relayed.is_none() && (from.changed == 0 || self.problems.has_forgotten(from.changed)) {
            // What has changed is told from the beginning, and whom others have heard is known there.
            (from.changed, from.relayed) = (0, Some(u32::MAX));
        }
        let mut digest = Digest {
            v: 1,
            node: self.node.clone(),
            whole: from.changed == 0,
            targets: self.targets.clone(),
            leaving: self.is_leaving,
            speaks: !self.spoken_to.is_empty(),
            listens_only: self.listens_only(),
            ..Digest::default()
        };
        let mut room = Room::new();
        let changed = self.tell_changes(&mut digest, &mut room, from.changed, (now, unix));
        let has_all_changes = changed == self.last_number;
        let ((heard, relayed), has_all_heard) =
            engine.sightings((from.heard, from.relayed), |observation| match observation {
                Observation::Instance(sighting) => room.put(&mut digest.heard, Heard::of(sighting)),
                Observation::Job(sighting) => room.put(&mut digest.jobs, JobRow::of(sighting)),
            });
        digest.more = !has_all_changes || !has_all_heard;
        let relayed = relayed.filter(|_| digest.more);
        digest.cursor = Cursor { start: self.start, heard, changed, relayed }.to_string();
        digest
    }

    /// Tells problems and acts after a number, in the order of their numbers, as far as there is room; up to which number.
    fn tell_changes(
        &self,
        digest: &mut Digest,
        room: &mut Room,
        since: u64,
        (now, unix): (EngineTime, UnixTime),
    ) -> u64 {
        let mut problems = self.problems.rows(since, now, unix).peekable();
        let mut acts = self.acts.rows(since, now).peekable();
        let mut last = since;
        loop {
            let (problem, act) = (number_of(&mut problems), number_of(&mut acts));
            let has_room = if problem <= act {
                problems.next().is_none_or(|(_, row)| room.put(&mut digest.problems, row))
            } else {
                acts.next().is_none_or(|(_, row)| room.put(&mut digest.acts, row))
            };
            let number = problem.min(act);
            if has_room && number < u64::MAX {
                last = number;
                continue;
            }
            if has_room {
                last = self.last_number;
            }
            // Who was not there, or does not know, has its own reasons not to count them.
            let dropped = self.dropped.iter().filter(|(number, _)| since > 0 && *number > since && *number <= last);
            digest.dropped_ms = dropped.map(|(_, at)| ((now - *at).max(0.0) * 1000.0) as u64).collect();
            return last;
        }
    }

    /// It is about to stop, and says so.
    pub fn leave(&mut self) {
        self.is_leaving = true;
    }
}

/// The number of the next change; none is after all others.
fn number_of<T>(changes: &mut Peekable<impl Iterator<Item = (u64, T)>>) -> u64 {
    changes.peek().map_or(u64::MAX, |(number, _)| *number)
}

/// What others tell this node.
impl Observers {
    /// The name of this node.
    pub fn node(&self) -> &CompactString {
        &self.node
    }

    /// Where to go on with a peer.
    pub fn cursor(&self, peer: usize) -> Option<Cursor> {
        self.peers.get(peer)?.cursor
    }

    /// Takes a part of an answer that was asked for at `asked`: who was forgotten, so that nobody learns them again, and then
    /// who was heard. The rest of it follows with [`Observers::take_digest`].
    ///
    /// # Errors
    /// If who answers has the name of this node, or of another peer that answers.
    pub fn take_part(
        &mut self,
        peer: usize,
        node: &str,
        (forgotten, heard): (Vec<ActRow>, Vec<Heard>),
        engine: &mut Engine,
        asked: EngineTime,
    ) -> Result<(), Mistaken> {
        let is_taken = |(at, known): (usize, &Peer)| at != peer && known.is_answering_as(node);
        let is_namesake = node == self.node || self.peers.iter().enumerate().any(is_taken);
        let Some(known) = self.peers.get_mut(peer) else { return Ok(()) };
        if is_namesake {
            known.refused += 1;
            return Err(Mistaken::Namesake(node.into()));
        }
        let id = u16::try_from(peer).unwrap_or(u16::MAX);
        self.note_own_acts(engine);
        for act in forgotten {
            self.acts.take(act, engine, asked, &mut self.last_number);
        }
        for row in heard {
            let sighting = row.into_sighting();
            if !self.acts.is_forgotten(&sighting.service, Some(&sighting.instance), asked - sighting.age) {
                engine.observe_elsewhere(id, &sighting, asked);
            }
        }
        Ok(())
    }

    /// Takes an answer of a peer that was asked at `asked`; whether there is more to ask for at once.
    ///
    /// # Errors
    /// If who answers has the name of this node, or of another peer that answers.
    pub fn take_digest(
        &mut self,
        peer: usize,
        mut digest: Digest,
        engine: &mut Engine,
        (asked, unix): (EngineTime, UnixTime),
    ) -> Result<bool, Mistaken> {
        let now = engine.now();
        let Ok(cursor) = digest.cursor.parse() else { return Err(Mistaken::Broken("its cursor is none".into())) };
        let part = (digest.take_forgotten(), std::mem::take(&mut digest.heard));
        self.take_part(peer, &digest.node, part, engine, asked)?;
        let Some(known) = self.peers.get_mut(peer) else { return Ok(false) };
        known.begin(&digest, cursor);
        let mut refused = digest.wrong;
        for row in &digest.problems {
            let learned = self.problems.learn(row, (now, unix), &mut self.last_number, &self.held);
            let has_room = learned.is_some();
            let learned = learned.into_iter().flatten();
            self.learned.extend(learned.filter(|one| self.targets.contains_key(&one.target)));
            let is_taken = known.take_problem(row, self.problems.knows(&row.key), (now, unix), &self.held);
            refused += u64::from(!has_room || !is_taken);
        }
        known.refused += refused;
        engine.refuse_digest(refused);
        let is_back = known.finish(asked, &digest);
        let id = u16::try_from(peer).unwrap_or(u16::MAX);
        if is_back && known.has_started_again() {
            engine.note_peer_restart(id);
        }
        for row in std::mem::take(&mut digest.jobs) {
            let job = engine.job_instance(&row.s, &row.i);
            if !self.acts.is_forgotten(&row.s, Some(job), asked - row.age()) {
                engine.observe_job_elsewhere(id, row.into_sighting(), asked);
            }
        }
        // Maintenance may be of somebody whom this answer tells of.
        for act in digest.acts {
            if !self.acts.is_forgotten(&act.service, act.instance.as_deref(), asked - act.age) {
                self.acts.take(act, engine, asked, &mut self.last_number);
            }
        }
        let recent = digest.dropped_ms.iter().map(|&ms| ms as f64 / 1000.0).filter(|age| *age <= DROPPED_SECS);
        let dropped: Vec<EngineTime> = recent.map(|age| asked - age).collect();
        engine.leave_out_elsewhere(id, &dropped);
        if is_back {
            engine.regain_peer(id);
        }
        Ok(digest.more)
    }

    /// Why a poll of a peer had no whole answer, in words.
    pub fn note_trouble(&mut self, peer: usize, trouble: &str) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.trouble = Some(trouble[..trouble.floor_char_boundary(MOST_TROUBLE)].into());
        }
    }

    /// A node of this name has asked this one.
    pub fn note_asker(&mut self, node: &str, now: EngineTime) {
        if let Some(asked) = self.askers.get_mut(node) {
            *asked = now;
        } else if !node.is_empty() && self.askers.len() < MOST_ASKERS {
            self.askers.insert(node.into(), now);
        }
    }

    fn note_own_acts(&mut self, engine: &mut Engine) {
        for act in engine.take_acts() {
            self.acts.note_own(act, &mut self.last_number);
        }
    }

    /// A poll of a peer had no whole answer.
    pub fn miss(&mut self, peer: usize, why: Missed, engine: &mut Engine) {
        let now = engine.now();
        let Some(known) = self.peers.get_mut(peer) else { return };
        if why == Missed::Broken {
            engine.refuse_digest(1);
            known.refused += 1;
        }
        if known.miss(why, now) {
            engine.lose_peer(u16::try_from(peer).unwrap_or(u16::MAX));
        }
    }
}

/// Judging and speaking.
impl Observers {
    /// Whether silence may be judged: what every peer that answers has heard up to now is known, or was waited for. A peer whose
    /// answers take long, but not so long that it is lost, makes judging rare and does not end it.
    pub fn may_judge(&mut self, now: EngineTime) -> bool {
        self.wait(now);
        if self.membership.as_ref().is_some_and(|membership| !membership.may_judge(now)) {
            return false;
        }
        let is_late = self.waited >= HOLD_SECS;
        let may = self.peers.iter().all(|peer| peer.lets_judge(now, is_late));
        if may {
            self.waited = 0.0;
        }
        may
    }

    /// Lets time pass in which this node waits for its peers. While it stood still it did not.
    fn wait(&mut self, now: EngineTime) {
        let secs = (now - std::mem::replace(&mut self.ticked, now)).clamp(0.0, POLL_SECS);
        self.waited += secs;
        self.peers.iter_mut().for_each(|peer| peer.wait(secs));
    }

    /// The peers that answer, by their names; `None` for one that has not said it yet.
    pub fn answering(&self) -> impl Iterator<Item = Option<&CompactString>> {
        self.peers.iter().filter(|peer| peer.answers()).map(|peer| peer.node.as_ref())
    }

    /// Lets time pass: reports peers that are gone, and those that are back.
    pub fn tick(&mut self, engine: &mut Engine, unix: UnixTime) {
        let now = engine.now();
        self.wait(now);
        for (peer, id) in self.peers.iter_mut().zip(0..) {
            if peer.lose_if_silent(now) {
                engine.lose_peer(id);
            }
        }
        let may_report = self.follow_members(engine);
        let kind = if self.membership.is_some() { PeerKind::Node } else { PeerKind::Observer };
        for place in 0..self.peers.len() {
            let nodes = self.nodes_with(self.peers[place].name());
            let (peer, id) = (&mut self.peers[place], u16::try_from(place).unwrap_or(u16::MAX));
            let is_gone = may_report && peer.is_gone(now);
            if is_gone && peer.alarm.is_none() {
                engine.report_peer(Phase::Start, nodes.clone(), Some(peer.context(&self.node, kind)));
                peer.alarm = Some(nodes);
            } else if peer.answers()
                && peer.is_known
                && let Some(nodes) = peer.alarm.take()
            {
                engine.report_peer(Phase::End, nodes, Some(peer.context(&self.node, kind)));
            }
            if peer.alarm.is_some() {
                engine.tell_lost_peer(id);
            }
        }
        for nodes in std::mem::take(&mut self.former) {
            let context = PeerContext { by: self.node.clone(), former: true, ..PeerContext::default() };
            engine.report_peer(Phase::End, nodes, Some(context));
        }
        self.askers.retain(|_, asked| now - *asked < LOST_SECS);
        self.note_own_acts(engine);
        self.acts.tick(engine);
        self.dropped.retain(|(_, at)| now - *at < DROPPED_SECS);
        for at in engine.take_dropped() {
            self.last_number += 1;
            self.dropped.push_back((self.last_number, at));
        }
        let forgot = self.problems.tick(now, unix, &mut self.last_number);
        if forgot {
            self.peers.iter_mut().for_each(|peer| peer.closed.retain(|key, _| self.problems.knows(key)));
        }
        if now - self.counted >= COUNT_EVERY {
            self.counted = now;
            self.held.set(self.heap_bytes() as u64);
        }
    }

    /// Takes what this node's own machine would notify.
    pub fn note(&mut self, notifications: Vec<Notification>, now: EngineTime) {
        for notification in notifications {
            self.problems.note(notification, now, &mut self.last_number, &self.held);
        }
    }

    /// Takes whether one of this node's targets can be reached.
    pub fn note_target(&mut self, target: &str, works: bool) {
        if self.targets.get(target) == Some(&works) {
            return;
        }
        if self.targets.insert(target.into(), works).is_none() {
            self.problems.begin_with(target, self.ticked, &mut self.last_number);
        }
    }

    /// This node has a target no more: what is on its way there is for those who have it.
    pub fn forget_target(&mut self, target: &str, now: EngineTime) {
        self.targets.remove(target);
        if self.spoken_to.remove(target) {
            self.problems.take_back(target, now, &mut self.last_number);
        }
    }

    /// A target has dealt with the beginning of a problem, or with its end.
    pub fn note_arrived(&mut self, target: &str, one: &Which, now: EngineTime) {
        self.problems.note_arrived(target, one, now, &mut self.last_number);
    }

    /// Takes what a target is known to have been told: these alarms, and no others, are out there.
    pub fn adopt(&mut self, target: &str, known: Vec<Alarm>, times: (EngineTime, UnixTime)) {
        self.problems.adopt(target, known, times, &mut self.last_number);
    }

    /// Who speaks to most targets, as this node sees it; `None` while it has not heard of every peer.
    fn speaker(&self) -> Option<&str> {
        let is_any = !self.targets.is_empty() || self.peers.iter().any(|peer| !peer.targets.is_empty());
        self.lowest(|targets| (!is_any || !targets.is_empty()).then(|| !is_any || targets.values().any(|works| *works)))
    }

    /// Who speaks to a target.
    fn speaker_to(&self, target: &str) -> Option<&str> {
        self.lowest(|targets| targets.get(target).copied())
    }

    /// The lowest of those that answer and whose targets work. If nobody's do, somebody has to go on trying: the lowest of those
    /// that have them.
    fn lowest(&self, works: impl Fn(&BTreeMap<CompactString, bool>) -> Option<bool>) -> Option<&str> {
        let is_unseen = self.membership.as_ref().is_some_and(|membership| !membership.may_speak());
        if is_unseen || !self.peers.iter().all(|peer| peer.is_known) {
            return None;
        }
        let judging = self.peers.iter().filter(|peer| peer.answers() && !peer.listens_only);
        let own = Some((self.node.as_str(), &self.targets)).filter(|_| !self.listens_only());
        let all = judging.map(|peer| (peer.name(), &peer.targets)).chain(own);
        let able = all.filter_map(|(name, targets)| Some((!works(targets)?, name)));
        able.min().map(|(_, name)| name)
    }

    /// What a target is to be sent now.
    pub fn speak(&mut self, engine: &Engine, target: &str) -> Spoken {
        let now = engine.now();
        let speaks = self.speaker_to(target).is_some_and(|speaker| speaker == self.node);
        let was_speaking = self.spoken_to.contains(target);
        let (own, others) = std::mem::take(&mut self.learned).into_iter().partition(|one| one.target == target);
        self.learned = others;
        let own: Vec<Learned> = own;
        let overtaken = own.iter().filter(|one| one.is_overtaken).map(|one| one.alarm.key.clone()).collect();
        let mut spoken = Spoken { overtaken, ..Spoken::default() };
        if was_speaking && !speaks {
            spoken.is_silenced = true;
            self.spoken_to.remove(target);
            self.problems.take_back(target, now, &mut self.last_number);
        }
        if speaks {
            if was_speaking {
                spoken.learned = own.into_iter().map(|one| (one.alarm, one.is_out)).collect();
            } else {
                self.spoken_to.insert(target.into());
                spoken.again = Some(self.problems.out(target));
            }
            spoken.notifications = {
                let to = Speaking { node: &self.node, target, peers: &self.peers, engine, now };
                self.problems.speak(to, &mut self.last_number)
            };
        }
        spoken
    }

    /// Whom a lost peer alone had heard, in words; `nodes` are those of the alarm.
    pub fn unwatched(&self, nodes: Option<&[CompactString; 2]>, engine: &Engine) -> String {
        let names = engine.unwatched_names(NAMED);
        let count = engine.unwatched();
        let more = match count.saturating_sub(names.len()) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        let peer = self.peers.iter().find(|peer| peer.alarm.as_ref() == nodes);
        match count {
            0 if peer.is_none_or(Peer::has_answered) => "Everything that it had heard is heard by others.".into(),
            0 => "It has not answered since this node started: whom it hears is not known here.".into(),
            1 => format!(
                "It alone had heard {}, which nobody hears now: that silence is not told by itself.",
                names.join("")
            ),
            _ => format!(
                "It alone had heard {}{more}, {count} instances that nobody hears now: their silence is not told by itself.",
                names.join(", ")
            ),
        }
    }

    /// How they are.
    pub fn view(&self, engine: &Engine) -> ObserversView {
        let now = engine.now();
        let view = |peer: &Peer| PeerView {
            url: peer.url.clone(),
            node: peer.node.clone(),
            reachable: peer.answers() && peer.is_known,
            digest_age_s: peer.age(now).max(0.0),
            notifier: peer.targets.values().all(|works| *works),
            leaving: peer.is_leaving,
            same_name: peer.is_namesake,
            gone: peer.is_gone(now),
            problem: peer.trouble.clone().filter(|_| !peer.answers()),
            refused: peer.refused,
        };
        let speaker = self.speaker().map(CompactString::from);
        let names: BTreeSet<&CompactString> = self
            .peers
            .iter()
            .filter(|peer| peer.answers())
            .flat_map(|peer| peer.targets.keys())
            .chain(self.targets.keys())
            .collect();
        let other = |target: &CompactString| self.speaker_to(target).filter(|by| speaker.as_deref() != Some(by));
        let speaks = |peer: &&Peer| peer.answers() && peer.speaks;
        let hears_not = self.askers.keys().filter(|&node| {
            let is_reached = |peer: &Peer| peer.answers() && peer.node.as_ref() == Some(node);
            *node != self.node && !self.peers.is_empty() && !self.peers.iter().any(is_reached)
        });
        let also = self.peers.iter().filter(speaks).filter_map(|peer| peer.node.as_ref()).chain(hears_not);
        let own = Some(&self.node).filter(|_| !self.spoken_to.is_empty());
        let is_said = |by: &CompactString| {
            speaker.as_ref() == Some(by) || names.iter().any(|target| self.speaker_to(target) == Some(by))
        };
        let also: BTreeSet<CompactString> = also.chain(own).filter(|by| !is_said(by)).cloned().collect();
        let targets = names.into_iter().filter_map(|target| Some((target.clone(), other(target)?.into()))).collect();
        ObserversView {
            node: self.node.clone(),
            targets,
            speaker,
            also: also.into_iter().collect(),
            unwatched: engine.unwatched(),
            unwatched_names: engine.unwatched_names(NAMED),
            listens_only: self.listens_only(),
            peers: self.peers.iter().filter(|peer| !peer.is_former).map(view).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
