//! All partitions of a node: its session, claims and releases, and the writing of records.
//!
//! A write holds if the valid chain of records goes on with it, and is lost if it goes on with another; see
//! [`Chain`]. Until one of the two is read the same bytes are sent again. What the server answers only says when
//! to look.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::random::Random;

use super::NodeName;
use super::bus::{Command, Event, Sequence, Stored};
use super::content::{Content, Emission};
use super::owner::{Owner, Step, Terms};
use super::preference::preferred;
use super::record::{BOUND, Chain, FORMAT, Record};
use super::session::{OwnSession, SessionId, SessionNote, Sessions};
use super::view::{NodeView, PartitionView};

/// Seconds between two calls of [`Node::tick`].
const TICK_SECS: f64 = 0.25;

/// Sessions are read so often, in seconds.
const READ_SESSIONS_SECS: f64 = 0.5;

/// The records of a partition are read so often, in seconds; more often while one of ours is on its way.
const READ_RECORDS_SECS: f64 = 1.0;

/// A node that owns nothing reads them less often the more nodes there are: so many seconds for each, but at least these.
const WATCH_SECS: f64 = 0.1;
const WATCH_LEAST_SECS: f64 = 10.0;
const WATCH_MOST_SECS: f64 = 30.0;

/// A record of which nothing was seen for so many seconds is sent again.
const RESEND_SECS: f64 = 1.5;

/// It is looked so often, in seconds, whether the stream still has the records that were read: it may have lost its end, or be
/// another one.
const LOOK_SECS: f64 = 10.0;

/// They are gone when all answers of so many seconds said so: a server that lags does not.
const GONE_SECS: f64 = 5.0;

/// A node that is not the preferred one claims a free partition so many seconds later.
const CLAIM_LATER_SECS: f64 = 2.0;

/// A partition is given up when another node was preferred for so many seconds, and nothing is overdue in it.
const RELEASE_SECS: f64 = 3.0;

/// Who a node is.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// This start of it.
    pub id: SessionId,
    /// What all owners have to agree about.
    pub terms: Terms,
    /// A random number that no other start of any node has.
    pub seed: u64,
}

/// A record of ours whose fate is not known yet.
#[derive(Debug)]
struct Write {
    record: Record,
    sent_at: f64,
}

/// What we know of a partition.
struct Slot<C: Content> {
    /// `None` until its last record was read.
    chain: Option<Chain>,
    owner: Option<Owner<C>>,
    write: Option<Write>,
    /// What stood before the records were lost, with what our owner had marked since.
    before: Option<Record>,
    read_at: f64,
    /// Whether the chain begins with all records, as some were not of the one that was read.
    needs_all: bool,
    /// When it is looked next whether the stream still has the records that were read, and since when it has not.
    look_at: f64,
    gone_since: Option<f64>,
    /// The valid record that is free to be claimed, and since when.
    free_since: Option<(Sequence, f64)>,
    /// Since when somebody else should have it.
    unwanted_since: Option<f64>,
}

impl<C: Content> Slot<C> {
    /// The record to go on with: the valid one, or what stood before if that is further; `None` until it is known.
    fn current<'a>(&'a self, genesis: &'a Record) -> Option<&'a Record> {
        let (sequence, valid) = self.chain.as_ref()?.valid();
        let valid = if sequence == 0 { genesis } else { valid? };
        let is_further = |before: &&Record| sequence == 0 || before.sealed > valid.sealed;
        Some(self.before.as_ref().filter(is_further).unwrap_or(valid))
    }

    /// The records that were read are gone, or some between them and others.
    fn begin_anew(&mut self) {
        let chain = self.chain.take();
        let valid = || chain.as_ref()?.valid().1.cloned();
        let known = self.owner.as_ref().map(Owner::settled).filter(|known| known.sealed > 0).or_else(valid);
        let is_further = |known: &Record| self.before.as_ref().is_none_or(|before| before.sealed <= known.sealed);
        if let Some(known) = known.filter(is_further) {
            self.before = Some(known);
        }
        (self.owner, self.write, self.gone_since) = (None, None, None);
        self.needs_all = true;
    }

    /// The last record was read: begins with it, or compares it with what was read.
    fn take_last(&mut self, last: Option<&Stored>, now: f64) {
        if self.chain.as_ref().is_some_and(|chain| chain.may_end_with(last)) {
            (self.gone_since, self.look_at) = (None, now + LOOK_SECS);
            return;
        }
        if self.chain.is_some() {
            let since = *self.gone_since.get_or_insert(now);
            self.look_at = now + RESEND_SECS;
            if now - since < GONE_SECS {
                return;
            }
            self.begin_anew();
        }
        let begin = if std::mem::take(&mut self.needs_all) { Chain::begin_with_all } else { Chain::begin };
        self.chain = Some(begin(last));
        (self.look_at, self.read_at) = (now + LOOK_SECS, f64::MIN);
    }
}

/// A node that owns partitions.
pub struct Node<C: Content> {
    content: Arc<C>,
    terms: Terms,
    session: OwnSession,
    sessions: Sessions,
    slots: Vec<Slot<C>>,
    read_sessions_at: f64,
    /// The last number that was given to a command.
    tickets: u64,
    seed: u64,
    is_leaving: bool,
    /// Never owns anything.
    only_watches: bool,
    spooled: u64,
    holds_back: bool,
    /// Live nodes that hold batches back.
    holding_back: BTreeSet<NodeName>,
    claims: u64,
    out: Vec<Command<Emission<C>>>,
}

impl<C: Content> Node<C> {
    /// A node that owns nothing yet, and merges batches by `content`.
    pub fn new(options: NodeOptions, content: Arc<C>) -> Node<C> {
        let slot = |_| Slot {
            chain: None,
            owner: None,
            write: None,
            before: None,
            read_at: f64::MIN,
            needs_all: false,
            look_at: f64::MIN,
            gone_since: None,
            free_since: None,
            unwanted_since: None,
        };
        Node {
            content,
            terms: options.terms,
            session: OwnSession::new(options.id),
            sessions: Sessions::default(),
            slots: (0..options.terms.partitions).map(slot).collect(),
            read_sessions_at: f64::MIN,
            tickets: 0,
            seed: options.seed,
            is_leaving: false,
            only_watches: false,
            spooled: 0,
            holds_back: false,
            holding_back: BTreeSet::new(),
            claims: 0,
            out: Vec::new(),
        }
    }

    /// One that takes no partitions, and only sees what others do.
    pub fn watching(options: NodeOptions, content: Arc<C>) -> Node<C> {
        Node { is_leaving: true, only_watches: true, ..Node::new(options, content) }
    }

    /// Which start of which node it is.
    pub fn id(&self) -> &SessionId {
        &self.session.id
    }

    /// Whether a later start of its name was seen: another node has it, or had. Others believe that one.
    pub fn is_superseded(&self) -> bool {
        self.session.is_superseded()
    }

    /// The least start that is later than that one, if it is over.
    pub fn outlived(&self) -> Option<u64> {
        Some(self.session.outlived()? + 1).filter(|start| *start < BOUND)
    }

    /// Goes on as another start, which owns nothing yet.
    pub fn start_again(&mut self, start: u64) {
        self.session.start_again(start);
        for slot in &mut self.slots {
            (slot.owner, slot.write, slot.free_since, slot.unwanted_since) = (None, None, None, None);
        }
    }

    /// How often [`tick`](Node::tick) wants to be called, in seconds.
    pub const fn tick_secs() -> f64 {
        TICK_SECS
    }

    /// What is to be done, in this order.
    pub fn commands(&mut self) -> Vec<Command<Emission<C>>> {
        std::mem::take(&mut self.out)
    }

    /// Gives all partitions up, and takes none again.
    pub fn leave(&mut self) {
        self.is_leaving = true;
        self.session.renew_now();
    }

    /// Batches that its edge has yet to send, and whether it holds them back as the bus has refused some; the others see it with
    /// the next session.
    pub fn set_spooled(&mut self, batches: u64, holds_back: bool) {
        if holds_back != self.holds_back {
            // Owners are to know before they seal.
            self.session.renew_now();
        }
        (self.spooled, self.holds_back) = (batches, holds_back);
    }

    /// What it says for people, which the others see with its next session.
    pub fn set_note(&mut self, note: SessionNote) {
        self.session.note = note;
    }

    /// Whether it may act: nobody calls it dead yet.
    pub fn is_trusted(&self, now: f64) -> bool {
        self.session.is_trusted(now)
    }

    /// The time of the bus, in Unix seconds; `None` if it is not known yet.
    pub fn bus_time(&self, now: f64) -> Option<f64> {
        self.session.bus_time(now)
    }

    /// What it knows of each partition.
    pub fn partitions(&self, now: f64) -> Vec<PartitionView> {
        let genesis = Record::genesis();
        let view = |(partition, slot): (u16, &Slot<C>)| {
            let current = || slot.current(&genesis).unwrap_or(&genesis);
            let view = slot.owner.as_ref().map(Owner::view);
            let view = view.unwrap_or_else(|| PartitionView::of_record(partition, current()));
            let is_owner_live = view.owner.as_ref().is_some_and(|owner| !self.sessions.is_dead(owner, now));
            PartitionView { is_owner_live, ..view }
        };
        (0_u16..).zip(&self.slots).map(view).collect()
    }

    /// The nodes whose sessions it has seen, itself among them, by name.
    pub fn nodes(&self, now: f64) -> Vec<NodeView> {
        self.sessions.views(now)
    }

    /// The partitions that it owns.
    pub fn owned(&self) -> impl Iterator<Item = u16> {
        (0_u16..).zip(&self.slots).filter(|(_, slot)| slot.owner.is_some()).map(|(partition, _)| partition)
    }

    /// How often it has taken a partition over.
    pub fn claims(&self) -> u64 {
        self.claims
    }

    /// The length of the intervals of a partition, in seconds, if it is another one than this node's: their numbers would mean
    /// other times, so it takes none.
    pub fn other_interval(&self) -> Option<f64> {
        let genesis = Record::genesis();
        self.slots.iter().find_map(|slot| other_interval(slot.current(&genesis)?, &self.terms))
    }

    /// Owned partitions whose log lacks what their record needs.
    pub fn log_lost(&self) -> impl Iterator<Item = u16> {
        let is_lost = |slot: &Slot<C>| slot.owner.as_ref().is_some_and(Owner::log_lost);
        (0_u16..).zip(&self.slots).filter(move |(_, slot)| is_lost(slot)).map(|(partition, _)| partition)
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: f64) {
        let owned = self.owned().count() as u32;
        // Before our own session replaces that of another node of our name.
        if now >= self.read_sessions_at {
            let every = if self.only_watches { self.sessions.watch_secs() } else { READ_SESSIONS_SECS };
            self.read_sessions_at = now + every;
            self.out.push(Command::ReadSessions);
        }
        self.out.extend(self.session.renew(!self.is_leaving, owned, (self.spooled, self.holds_back), now));
        if self.only_watches {
            return self.watch(now);
        }
        self.holding_back = self.sessions.holding_back(now).cloned().collect();
        let takers = self.sessions.takers(now);
        let me = takers.iter().position(|node| *node == self.session.id.node.as_str());
        let wanted = if self.is_leaving || me.is_some() { self.wanted(&takers) } else { Vec::new() };
        for partition in 0..self.terms.partitions {
            self.read_records(partition, now);
            let slot = &mut self.slots[partition as usize];
            if let Some(owner) = &mut slot.owner {
                let tickets = &mut self.tickets;
                owner.read(now, &mut || next(tickets), &mut self.out);
                let is_other = wanted.get(partition as usize).is_some_and(|node| Some(*node) != me);
                let is_unwanted = is_other || self.is_leaving && wanted.is_empty();
                slot.unwanted_since = is_unwanted.then(|| slot.unwanted_since.unwrap_or(now));
                self.step(partition, now);
            } else if me.is_some() && slot.write.is_none() {
                let is_preferred = wanted.get(partition as usize).is_some_and(|node| Some(*node) == me);
                self.claim(partition, is_preferred, now);
            }
        }
    }

    /// Reads records, far less often than an owner.
    fn watch(&mut self, now: f64) {
        let every = (WATCH_SECS * self.sessions.len() as f64).clamp(WATCH_LEAST_SECS, WATCH_MOST_SECS);
        for partition in 0..self.terms.partitions {
            // Those whose records were never read are asked for as an owner does.
            let slot = &self.slots[partition as usize];
            if slot.chain.is_none() || now >= slot.read_at + every {
                self.read_records(partition, now);
            }
        }
    }

    /// Which of some nodes should have each partition.
    fn wanted(&self, takers: &[&str]) -> Vec<usize> {
        let genesis = Record::genesis();
        let owner = |slot: &Slot<C>| {
            let owner = slot.current(&genesis)?.owner.as_ref()?.node.as_str();
            takers.iter().position(|node| *node == owner)
        };
        let owners: Vec<Option<usize>> = self.slots.iter().map(owner).collect();
        preferred(takers, &owners)
    }

    /// Takes what the bus, or the sinks, said.
    pub fn take(&mut self, event: Event, now: f64) {
        match event {
            Event::SessionStored { number, sequence } => self.session.acknowledged(number, sequence, now),
            Event::Sessions(all) => {
                self.sessions.take(&all, &mut self.session, now);
                if self.session.is_superseded() {
                    self.read_sessions_at = self.read_sessions_at.min(now + READ_SESSIONS_SECS);
                }
            }
            Event::LastRecord { partition, record } => {
                self.slots[partition as usize].take_last(record.as_ref(), now);
                self.read_records(partition, now);
            }
            Event::Records { partition, after, records } => self.take_records(partition, after, &records, now),
            Event::RecordAnswered { partition } => {
                let slot = &mut self.slots[partition as usize];
                if slot.write.is_some() {
                    slot.read_at = f64::MIN;
                    self.read_records(partition, now);
                }
            }
            Event::Batches { at, batches, is_end, first, last } => {
                self.owner(at.partition, now, |owner| {
                    owner.take_batches(at.ticket, &batches, is_end, (first, last), now);
                });
                let slot = &mut self.slots[at.partition as usize];
                if let (Some(owner), false) = (&mut slot.owner, is_end) {
                    let tickets = &mut self.tickets;
                    owner.read(now, &mut || next(tickets), &mut self.out);
                }
            }
            Event::Bodies { at, batches } => {
                self.owner(at.partition, now, |owner| owner.take_bodies(at.ticket, &batches));
            }
            Event::Checkpoint { at, payload } => {
                self.owner(at.partition, now, |owner| owner.take_checkpoint(at.ticket, payload.as_deref()));
            }
            Event::CheckpointStored { at, sequence } => {
                self.owner(at.partition, now, |owner| owner.checkpoint_stored(at.ticket, sequence));
            }
            Event::Emitted { at } => self.owner(at.partition, now, |owner| owner.mark(at.ticket)),
        }
    }

    fn owner(&mut self, partition: u16, now: f64, take: impl FnOnce(&mut Owner<C>)) {
        if let Some(owner) = &mut self.slots[partition as usize].owner {
            take(owner);
            self.step(partition, now);
        }
    }

    /// Reads records if it is time.
    fn read_records(&mut self, partition: u16, now: f64) {
        let slot = &mut self.slots[partition as usize];
        let every = if slot.write.is_some() { TICK_SECS } else { READ_RECORDS_SECS };
        if now < slot.read_at + every {
            return;
        }
        slot.read_at = now;
        if slot.chain.is_some() && now >= slot.look_at {
            slot.look_at = now + RESEND_SECS;
            self.out.push(Command::ReadLastRecord { partition });
        }
        self.out.push(match &slot.chain {
            None => Command::ReadLastRecord { partition },
            Some(chain) => Command::ReadRecords { partition, after: chain.read_after(slot.write.is_some()) },
        });
    }

    /// Takes records, and with them perhaps the fate of ours.
    fn take_records(&mut self, partition: u16, after: Sequence, records: &[Stored], now: f64) {
        let slot = &mut self.slots[partition as usize];
        let Some(chain) = slot.chain.as_mut().filter(|chain| after <= chain.last()) else { return };
        for record in records {
            let before = chain.valid().0;
            if !chain.take(record) {
                slot.begin_anew();
                return;
            }
            let (sequence, Some(valid)) = chain.valid() else { continue };
            if sequence == before {
                continue;
            }
            slot.before.take_if(|before| before.sealed <= valid.sealed);
            // Whatever we did follows what was valid before: it holds, or it never will.
            let ours = slot.write.take().filter(|write| write.record.token == valid.token);
            match (ours, &mut slot.owner) {
                (Some(_), _) if valid.owner.as_ref() != Some(&self.session.id) => slot.owner = None,
                (Some(_), Some(owner)) => owner.won(valid.clone()),
                (Some(_), None) => {
                    let who = (self.terms, self.session.id.clone());
                    let owner = Owner::new(Arc::clone(&self.content), partition, who, valid.clone(), now);
                    (slot.owner, slot.unwanted_since) = (Some(owner), None);
                    self.claims += 1;
                }
                (None, _) => slot.owner = None,
            }
        }
        if let Some(write) = &mut slot.write
            && now - write.sent_at >= RESEND_SECS
        {
            if slot.owner.is_none() && !self.session.is_trusted(now) {
                // A claim that nobody would trust. If it holds nevertheless it is found to be ours.
                slot.write = None;
            } else {
                write.sent_at = now;
                let payload = write.record.encode();
                self.out.push(Command::WriteRecord { partition, expected: chain.last(), payload });
            }
        }
        self.step(partition, now);
    }

    /// Writes a record that follows the valid one.
    fn write(&mut self, partition: u16, mut record: Record, now: f64) {
        let slot = &mut self.slots[partition as usize];
        let Some(chain) = &slot.chain else { return };
        record.format = FORMAT;
        (record.prev, record.follows) = chain.tip();
        record.token = Random::new(self.seed ^ next(&mut self.tickets)).bits();
        self.out.push(Command::WriteRecord { partition, expected: chain.last(), payload: record.encode() });
        slot.write = Some(Write { record, sent_at: now });
    }

    /// Claims a partition if it is free and our turn.
    fn claim(&mut self, partition: u16, is_preferred: bool, now: f64) {
        let slot = &mut self.slots[partition as usize];
        let (genesis, sequence) = (Record::genesis(), slot.chain.as_ref().map_or(0, |chain| chain.valid().0));
        let Some(record) = slot.current(&genesis) else { return };
        let is_ours = |owner: &SessionId| *owner == self.session.id;
        let is_free = record.owner.as_ref().is_none_or(|owner| is_ours(owner) || self.sessions.is_dead(owner, now));
        let is_other = other_interval(record, &self.terms).is_some();
        if !is_free || is_other || self.is_leaving || !self.session.is_trusted(now) {
            return;
        }
        let since = slot.free_since.filter(|(of, _)| *of == sequence).map_or(now, |(_, since)| since);
        if is_preferred || now - since > CLAIM_LATER_SECS {
            // A number that was forged does not stop it.
            let epoch = (record.epoch + 1).min(BOUND - 1);
            let (owner, interval_secs) = (Some(self.session.id.clone()), self.terms.interval_secs);
            let claim = Record { owner, epoch, interval_secs, ..record.clone() };
            self.write(partition, claim, now);
        }
        self.slots[partition as usize].free_since = Some((sequence, since));
    }

    /// Lets the owner of a partition do what it can.
    fn step(&mut self, partition: u16, now: f64) {
        let slot = &mut self.slots[partition as usize];
        let Some(owner) = &mut slot.owner else { return };
        if !self.session.is_trusted(now) {
            return;
        }
        let may_stay = |since| !self.is_leaving && (now - since <= RELEASE_SECS || owner.is_catching_up());
        let step = Step {
            now,
            offset: self.session.bus_time(0.0),
            holding_back: &self.holding_back,
            is_writing: slot.write.is_some(),
            release: slot.unwanted_since.is_some_and(|since| !may_stay(since)),
        };
        let tickets = &mut self.tickets;
        if let Some(record) = owner.step(step, &mut || next(tickets), &mut self.out) {
            self.write(partition, record, now);
        }
    }
}

/// The length of the intervals of a record that this node can't go on with.
fn other_interval(record: &Record, terms: &Terms) -> Option<f64> {
    (record.interval_secs > 0.0 && record.interval_secs != terms.interval_secs).then_some(record.interval_secs)
}

/// The next number of a counter.
fn next(counter: &mut u64) -> u64 {
    *counter += 1;
    *counter
}

#[cfg(test)]
mod tests {
    use super::super::batch::BatchHeader;
    use super::super::testing::{Bodies, TestBus, header, node, node_of, terms, watching};
    use super::super::{Command, Finding, NodeName, Terms};
    use super::Node;

    #[test]
    fn a_node_tells_what_it_owns_and_whom_it_sees() {
        let (mut bus, mut a, mut b) = (TestBus::default(), node("a", 1), node("b", 1));
        assert!(a.bus_time(0.0).is_none() && !a.is_trusted(0.0));
        b.set_spooled(7, false);
        bus.run(&mut [&mut a, &mut b], 0.0, 10.0);
        bus.batch("e", 1, 100, 20.0);
        bus.batch("e", 2, 101, 21.0);
        bus.run(&mut [&mut a, &mut b], 10.0, 23.0);
        assert_eq!(a.bus_time(23.0), Some(bus.time(23.0)));
        assert!(a.is_trusted(23.0) && !a.is_trusted(30.0));

        let nodes = a.nodes(23.0);
        let all: Vec<_> = nodes.iter().map(|one| (one.id.node.as_str(), one.load, one.spooled, one.is_live)).collect();
        assert_eq!(all, [("a", 1, 0, true), ("b", 1, 7, true)]);
        assert!(nodes.iter().all(|one| one.age < 3.0 && one.takes));
        assert!(a.nodes(40.0).iter().all(|one| !one.is_live && one.age > 10.0));

        // Both partitions are seen by both, and what one has read is told by it alone.
        let views = [a.partitions(23.0), b.partitions(23.0)];
        for (ours, theirs) in views[0].iter().zip(&views[1]) {
            let record = bus.record(ours.partition);
            assert_eq!((&ours.owner, ours.epoch, ours.sealed), (&record.owner, record.epoch, record.sealed));
            assert_eq!((&theirs.owner, theirs.epoch, theirs.sealed), (&record.owner, record.epoch, record.sealed));
            assert!(ours.is_ours != theirs.is_ours && ours.is_owner_live && theirs.is_owner_live && !ours.log_lost);
        }
        let mine = views.iter().map(|views| &views[0]).find(|view| view.is_ours).expect("somebody owns it");
        assert_eq!((mine.sealed, mine.emitted, mine.unemitted, mine.catching_up), (101, 101, 0, false));
        let [edge] = &mine.edges[..] else { panic!("{:?}", mine.edges) };
        assert_eq!((edge.name.as_str(), edge.boot, edge.n, edge.last, edge.left), ("e", 1, 2, 101, false));
        assert_eq!((edge.heard, edge.lag), (bus.time(21.0), 0.0));
    }

    #[test]
    fn a_node_that_only_watches_sees_who_owns_what_and_owns_nothing() {
        let (mut bus, mut a, mut w) = (TestBus::default(), node("a", 1), watching("w", 1));
        bus.batch("e", 1, 100, 10.0);
        bus.batch("e", 2, 101, 20.0);
        bus.run(&mut [&mut a, &mut w], 10.0, 50.0);
        assert!(w.owned().next().is_none() && a.owned().count() == 2);
        let seen = w.partitions(50.0);
        assert!(seen.iter().all(|one| one.is_owner_live && !one.is_ours && one.sealed >= 101), "{seen:?}");
        let nodes: Vec<_> = w.nodes(50.0).iter().map(|one| (one.takes, one.load, one.is_live)).collect();
        assert_eq!(nodes, [(true, 2, true), (false, 0, true)]);
        // The owner dies.
        bus.run(&mut [&mut w], 50.0, 70.0);
        assert!(w.owned().next().is_none() && w.partitions(70.0).iter().all(|one| !one.is_owner_live));
    }

    #[test]
    fn a_partition_is_not_given_up_while_batches_are_overdue() {
        let (mut bus, mut first, mut second, mut third) =
            (TestBus::default(), node("a", 1), node("b", 1), node("c", 1));
        bus.batch("e", 1, 100, 10.0);
        bus.batch("e", 2, 101, 20.0);
        bus.run(&mut [&mut first], 10.0, 22.0);
        // The first is gone, and so is the edge. Who takes over waits for what is overdue for ten seconds,
        bus.run(&mut [&mut second], 44.0, 54.0);
        assert_eq!(second.owned().count(), 2);
        // and a third one that joins meanwhile has its partition when that was sealed, not after three.
        bus.run(&mut [&mut second, &mut third], 54.0, 58.5);
        assert_eq!((third.owned().count(), bus.record(0).sealed, bus.record(1).sealed), (0, 101, 101));
        bus.run(&mut [&mut second, &mut third], 58.5, 75.0);
        assert_eq!((second.owned().count(), third.owned().count()), (1, 1));
        let owners = bus.all_records().filter(|record| record.sealed < 102).map(|record| record.owner);
        assert!(owners.into_iter().all(|owner| owner.is_some()));
    }

    /// Who owns each partition, by its valid record.
    fn owners(bus: &TestBus) -> Vec<Option<NodeName>> {
        (0..bus.partitions).map(|partition| bus.record(partition).owner.map(|owner| owner.node)).collect()
    }

    #[test]
    fn a_node_that_joins_moves_its_share_alone_and_one_that_leaves_gives_all_of_its_own() {
        let terms = Terms { partitions: 16, ..terms() };
        let mut bus = TestBus::of(16);
        let [mut a, mut b, mut c] = ["a", "b", "c"].map(|name| node_of(name, 1, terms));
        let beat = |bus: &mut TestBus, n: u64| bus.batch("e", n, 100 + n, 10.0 * (n as f64 + 1.0));
        beat(&mut bus, 0);
        beat(&mut bus, 1);
        bus.run(&mut [&mut a, &mut b], 20.0, 39.0);
        assert_eq!([a.owned().count(), b.owned().count()], [8, 8]);
        let before = owners(&bus);
        (2..4).for_each(|n| beat(&mut bus, n));
        bus.run(&mut [&mut a, &mut b, &mut c], 39.0, 59.0);
        let after = owners(&bus);
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        assert!(moved == c.owned().count() && (5..=6).contains(&moved), "{moved} moved");
        // It seals to the last moment, and leaves nothing.
        (4..6).for_each(|n| beat(&mut bus, n));
        bus.run(&mut [&mut a, &mut b, &mut c], 59.0, 61.0);
        b.leave();
        bus.run(&mut [&mut a, &mut b, &mut c], 61.0, 67.0);
        assert_eq!((b.owned().count(), a.owned().count() + c.owned().count()), (0, 16));
        // Nobody else's has moved.
        for (before, now) in after.iter().zip(owners(&bus)) {
            assert!(*before == now || before.as_ref().is_some_and(|node| node.as_str() == "b"));
        }
    }

    #[test]
    fn nothing_is_emitted_before_the_record_that_seals_it_holds() {
        let (mut bus, mut node) = (TestBus::default(), node("a", 1));
        bus.batch("e", 1, 100, 10.0);
        bus.run(&mut [&mut node], 0.0, 10.5);
        bus.allows = |command| !matches!(command, Command::WriteRecord { .. });
        bus.run(&mut [&mut node], 10.5, 14.0);
        assert_eq!((bus.emitted.len(), bus.record(0).sealed), (0, 0));
        bus.allows = |_| true;
        bus.run(&mut [&mut node], 14.0, 18.0);
        assert_eq!((bus.emitted.len(), bus.record(0).sealed), (2, 100));
    }

    #[test]
    fn who_was_paused_is_fenced_by_the_record_of_who_took_over() {
        let (mut bus, mut first, mut second) = (TestBus::default(), node("a", 1), node("b", 1));
        bus.batch("e", 1, 100, 10.0);
        bus.run(&mut [&mut first], 0.0, 12.0);
        assert_eq!((first.owned().count(), bus.record(0).sealed), (2, 100));
        bus.batch("e", 2, 101, 20.0);
        bus.run(&mut [&mut second], 12.0, 24.0);
        assert_eq!((second.owned().count(), bus.record(0).sealed), (2, 101));
        bus.batch("e", 3, 102, 30.0);
        // It believes itself the owner, and is trusted again.
        assert_eq!(first.owned().count(), 2);
        bus.run(&mut [&mut first], 31.0, 33.0);
        assert!(first.is_trusted(33.0) && first.owned().count() == 0);
        assert_eq!((bus.record(0).sealed, owners(&bus)), (101, vec![Some("b".parse().expect("a name")); 2]));
        let mut emitted: Vec<_> = bus.emitted.iter().map(|one| (one.interval, one.owner.node.as_str())).collect();
        emitted.dedup();
        // That the first one was taken by the sinks was not written yet.
        assert_eq!(emitted, [(100, "a"), (100, "b"), (101, "b")]);
    }

    #[test]
    fn a_log_without_its_beginning_is_told_and_sealing_goes_on() {
        let (mut bus, mut first, mut second) = (TestBus::default(), node("a", 1), node("b", 1));
        (1..=3).for_each(|n| bus.batch("e", n, 99 + n, 10.0 * n as f64));
        bus.run(&mut [&mut first], 10.0, 22.0);
        assert_eq!((bus.record(0).sealed, first.log_lost().count()), (101, 0));
        // While nobody reads, batch 3 and a fourth one come and go.
        bus.batch("e", 4, 103, 40.0);
        bus.first = 9;
        (5..=6).for_each(|n| bus.batch("e", n, 99 + n, 10.0 * n as f64));
        bus.run(&mut [&mut second], 60.0, 80.0);
        assert_eq!(second.log_lost().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(bus.record(0).sealed, 106);
        assert!(is_lost(&bus, 4), "{:?}", bus.emitted);
    }

    #[test]
    fn a_log_without_its_end_is_told_and_its_new_batches_belong_to_what_comes() {
        let (mut bus, mut node) = (TestBus::default(), node("a", 1));
        (1..=3).for_each(|n| bus.batch("e", n, 99 + n, 10.0 * n as f64));
        bus.run(&mut [&mut node], 10.0, 32.0);
        let sealed = bus.record(0);
        assert_eq!((sealed.sealed, sealed.cuts[&102]), (102, 5));
        // The last batch is gone, and so may be the last answer of a server that lags.
        bus.lose_end(2);
        bus.run(&mut [&mut node], 32.0, 41.0);
        assert_eq!((bus.record(0).losses, node.log_lost().count()), (0, 0));
        bus.run(&mut [&mut node], 41.0, 43.5);
        assert_eq!((bus.record(0).losses, bus.record(0).cuts[&102]), (1, 4));
        // The fourth one has the place of the third.
        bus.batch("e", 4, 103, 44.0);
        bus.run(&mut [&mut node], 43.5, 60.0);
        let last = bus.emitted.iter().rev().find(|emission| emission.interval == 103).expect("it was emitted");
        assert_eq!(last.merged, [b"e 4"]);
        assert!(is_lost(&bus, 3));
    }

    #[test]
    fn an_edge_whose_clock_is_far_behind_does_not_say_where_sealing_begins() {
        let (mut bus, mut node) = (TestBus::default(), node_of("a", 1, Terms { forget_secs: 60.0, ..terms() }));
        bus.batch("old", 1, 2, 5.0);
        bus.batch("e", 1, 100, 10.0);
        bus.run(&mut [&mut node], 10.0, 40.0);
        assert_eq!((bus.record(0).base, bus.emitted[0].interval), (99, 100));
        let late = &bus.emitted[0].account.as_ref().expect("an account").late;
        assert_eq!(late.iter().map(|late| late.interval).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_checkpoint_may_take_longer_than_it_is_waited_for() {
        let (mut bus, mut first, mut second) = (TestBus::default(), node("a", 1), node("b", 1));
        bus.checkpoint_secs = 4.0;
        (1..=9).for_each(|n| bus.batch("e", n, 99 + n, 10.0 * n as f64));
        bus.run(&mut [&mut first], 10.0, 92.0);
        let record = bus.record(0);
        assert_eq!((record.sealed, record.base, bus.checkpoints.len()), (108, 105, 6));
        bus.batch("e", 10, 109, 100.0);
        bus.run(&mut [&mut second], 100.0, 112.0);
        assert_eq!((bus.record(0).sealed, second.log_lost().count()), (109, 0));
    }

    #[test]
    fn who_owned_a_partition_goes_on_with_it_when_its_records_are_lost() {
        // All but the first ones, all, and soon after the start, so that the new ones are as many.
        for (kept, intervals) in [(1, 6), (0, 6), (0, 2)] {
            let (mut bus, mut a, mut b) = (TestBus::of(16), owner_of_16("a"), owner_of_16("b"));
            let until = |n: u64| 10.0 * n as f64 + 4.0;
            let beat = |bus: &mut TestBus, n: u64| bus.batch("e", n, 99 + n, 10.0 * n as f64);
            beat(&mut bus, 1);
            bus.run(&mut [&mut a, &mut b], 10.0, until(1));
            for n in 2..=intervals {
                beat(&mut bus, n);
                bus.run(&mut [&mut a, &mut b], until(n - 1), until(n));
            }
            let before = owners(&bus);
            bus.lose_records(kept);
            for n in intervals + 1..=intervals + 6 {
                beat(&mut bus, n);
                bus.run(&mut [&mut a, &mut b], until(n - 1), until(n));
                if n == intervals + 2 {
                    // Nobody else has taken what somebody owns who lives.
                    assert_eq!(owners(&bus), before, "{kept} {intervals}");
                    assert!((0..16).all(|partition| is_owned_once(&[&a, &b], partition)));
                }
            }
            assert_eq!(owners(&bus), before);
            for partition in 0..16 {
                assert!(is_owned_once(&[&a, &b], partition));
                let own = bus.emitted.iter().filter(|emission| emission.partition == partition);
                let emitted: Vec<_> = own.map(|emission| (emission.interval, emission.merged.len())).collect();
                assert_eq!(emitted, (100..106 + intervals).map(|interval| (interval, 1)).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_record_that_follows_one_of_a_stream_that_is_gone_does_not_hold() {
        let (mut bus, mut a, mut b) = (TestBus::default(), node("a", 1), node("b", 1));
        bus.batch("e", 1, 100, 10.0);
        bus.run(&mut [&mut a, &mut b], 0.0, 14.0);
        // Its owner is gone, and the claim of another node is on its way
        let of_a = (0..2).find(|partition| a.owned().any(|owned| owned == *partition)).expect("it owns one");
        bus.allows = |command| !matches!(command, Command::WriteRecord { .. });
        bus.run(&mut [&mut b], 14.0, 24.0);
        // when there is a new stream that is as long.
        bus.replace_records(24.0);
        bus.allows = |_| true;
        bus.run(&mut [&mut b], 24.0, 40.0);
        assert!(b.owned().count() == 2 && bus.record(of_a).owner.as_ref() == Some(b.id()));
    }

    fn owner_of_16(name: &str) -> Node<Bodies> {
        node_of(name, 1, Terms { partitions: 16, ..terms() })
    }

    fn is_owned_once(nodes: &[&Node<Bodies>], partition: u16) -> bool {
        nodes.iter().filter(|node| node.owned().any(|owned| owned == partition)).count() == 1
    }

    /// An edge `e` holds back what it has of intervals from 101 on, up to a time; another one sends.
    fn hold_back(bus: &mut TestBus, node: &mut Node<Bodies>, (from, to): (u64, u64)) {
        for now in (from..to).step_by(2) {
            bus.session("e", now, true, now as f64);
            if now % 10 == 0 {
                bus.batch("f", now / 10, 99 + now / 10, now as f64);
            }
            bus.run(&mut [node], now as f64, now as f64 + 2.0);
        }
    }

    #[test]
    fn what_an_edge_holds_back_as_the_bus_refuses_it_is_waited_for() {
        let (mut bus, mut node) = (TestBus::default(), node("a", 1));
        bus.batch("e", 1, 100, 10.0);
        hold_back(&mut bus, &mut node, (10, 100));
        assert!(bus.record(0).sealed == 100 && node.partitions(100.0)[0].catching_up);
        bus.session("e", 100, false, 100.0);
        (2..=10).for_each(|n| bus.batch("e", n, 99 + n, 100.0));
        bus.batch("f", 10, 109, 100.0);
        bus.run(&mut [&mut node], 100.0, 104.0);
        assert!(bus.record(0).sealed == 109 && !node.partitions(104.0)[0].catching_up);
        let accounts = bus.emitted.iter().filter_map(|emission| emission.account.as_ref());
        assert!(accounts.into_iter().all(|account| account.late.is_empty() && account.missing.is_empty()));

        // It is for a quarter of an hour at most, and for as long as it lives.
        let (mut bus, mut node) = (TestBus::default(), node_of("a", 1, terms()));
        bus.batch("e", 1, 100, 10.0);
        hold_back(&mut bus, &mut node, (10, 928));
        assert_eq!(bus.record(0).sealed, 100);
        hold_back(&mut bus, &mut node, (928, 946));
        assert_eq!(bus.record(0).sealed, 102);
        for now in (946..980).step_by(10) {
            bus.batch("f", now / 10, 99 + now / 10, now as f64);
            bus.run(&mut [&mut node], now as f64, now as f64 + 10.0);
        }
        assert!(bus.record(0).sealed > 190, "{}", bus.record(0).sealed);
    }

    #[test]
    fn intervals_of_which_the_log_has_nothing_are_skipped_if_they_are_many() {
        for others in [0, 1] {
            let (mut bus, mut first, mut second) = (TestBus::default(), node("a", 1), node("b", 1));
            (0..=others).for_each(|n| bus.batch(["e", "f"][n], 1, 100, 10.0));
            bus.batch("e", 2, 101, 20.0);
            bus.run(&mut [&mut first], 10.0, 32.0);
            let emitted = bus.emitted.len();
            // All are away, and an edge comes back.
            let back = BatchHeader { boot: 2, clean_before: false, ..header("e", 3, 1098) };
            bus.store(&back, 9990.0);
            bus.store(&BatchHeader { n: 4, interval: 1099, ..back }, 10_000.0);
            bus.run(&mut [&mut second], 9999.0, 10_018.0);
            assert_eq!(bus.record(0).sealed, 1099);
            let own = bus.emitted[emitted..].iter().filter(|emission| emission.partition == 0);
            let intervals: Vec<_> = own.clone().map(|emission| emission.interval).collect();
            assert_eq!(intervals[intervals.len() - 3..], [1097, 1098, 1099]);
            assert!(intervals.len() < 20, "{intervals:?}");
            let accounts = own.filter_map(|emission| emission.account.as_ref());
            let restarts = accounts.flat_map(|account| &account.findings);
            assert_eq!(restarts.filter(|finding| matches!(finding, Finding::Restart { .. })).count(), 1);
        }
    }

    #[test]
    fn a_node_of_another_interval_takes_no_partitions_and_says_so() {
        let (mut bus, mut first) = (TestBus::default(), node("a", 1));
        bus.batch("e", 1, 100, 10.0);
        bus.run(&mut [&mut first], 10.0, 12.0);
        let mut other = node_of("b", 1, Terms { interval_secs: 5.0, ..terms() });
        bus.run(&mut [&mut other], 20.0, 40.0);
        assert_eq!((other.owned().count(), other.other_interval()), (0, Some(10.0)));
        let mut same = node("c", 1);
        bus.run(&mut [&mut same, &mut other], 40.0, 50.0);
        assert_eq!((same.owned().count(), same.other_interval()), (2, None));
    }

    #[test]
    fn a_last_record_that_can_not_be_read_stops_nobody() {
        let (mut bus, mut first, mut second) = (TestBus::default(), node("a", 1), node("b", 1));
        (1..=4).for_each(|n| bus.batch("e", n, 99 + n, 10.0 * n as f64));
        bus.run(&mut [&mut first], 10.0, 42.0);
        let sealed = bus.record(0).sealed;
        assert_eq!(sealed, 103);
        // Only the last three are kept.
        bus.store_record(0, b"junk");
        bus.keep_records(0, 3);
        bus.batch("e", 5, 104, 50.0);
        bus.run(&mut [&mut second], 50.0, 66.0);
        assert_eq!(second.owned().collect::<Vec<_>>(), [0, 1]);
        let last = bus.all_records().last().expect("there is one");
        assert_eq!((last.sealed, last.owner), (104, Some(second.id().clone())));
    }

    /// Whether some account counts a batch of the edge lost.
    fn is_lost(bus: &TestBus, n: u64) -> bool {
        let accounts = bus.emitted.iter().filter_map(|emission| emission.account.as_ref());
        let mut findings = accounts.flat_map(|account| &account.findings);
        findings.any(|finding| matches!(finding, Finding::Lost { from, to, .. } if (*from..=*to).contains(&n)))
    }
}
