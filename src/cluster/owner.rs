//! One partition: seal, emit, mark.
//!
//! 1. **Seal**: write into the record that the interval ends at this position of the log. From then on it is decided what
//!    the interval has, whoever goes on.
//! 2. **Emit**: merge its batches up to that position, and hand them to the sinks.
//! 3. **Mark**: when all sinks took it, say so in the next record. Who takes over in between emits it again, the same.
//!
//! An owner does nothing by itself: [`Node`](super::Node) gives it what was read, tells it when its record holds, and
//! takes it away when another record does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::away::{Away, MOST_SECS};
use super::bus::{Command, Position, Sequence, StoredBatch};
use super::content::{Content, Emission};
use super::gauges::HeldGauges;
use super::record::{Amendment, Record};
use super::replay::Replay;
use super::roster::MOST_LAG_SECS;
use super::session::SessionId;
use super::view::{PartitionView, edges};
use super::{Interval, NodeName};

/// No interval is sealed earlier than so many seconds after its end.
const LEAST_WAIT_SECS: f64 = 1.0;

/// An edge that was silent for longer is not waited for.
const MOST_SILENCE_SECS: f64 = 30.0;

/// Most sealed intervals that wait for the sinks.
const MOST_UNEMITTED: u64 = 6;

/// A checkpoint is written after so many intervals.
const CHECKPOINT_INTERVALS: u64 = 6;

/// So many emitted intervals can be amended.
const AMENDABLE_INTERVALS: u64 = 3;

/// When an edge holds nothing back any more, what it held back is read after so many seconds at the latest.
const HELD_BACK_SECS: f64 = 3.0;

/// So many intervals or more of which the log has nothing are skipped together.
const LEAST_SKIPPED: u64 = 60;

/// What was not answered in so many seconds is asked for again, and later at half of the time for which it was waited.
const ANSWER_SECS: f64 = 1.5;

/// What was not answered in so many seconds is asked for again, however often it was asked for.
const MOST_ANSWER_SECS: f64 = 30.0;

/// The log is asked again after so many seconds, so that an answer that is lost makes no gap in our reading.
const READ_AGAIN_SECS: f64 = 0.5;

/// Reads of the log that are waited for at once.
const MOST_READS: usize = 8;

/// The log is shorter than what was sealed when all answers of so many seconds said so: a server that lags does not.
const SHORT_SECS: f64 = 10.0;

/// Who has read to the end of the log at most so many seconds ago has missed nothing: batches stay for longer.
const LEVEL_SECS: f64 = 60.0;

/// What becomes of late batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// They are counted.
    Drop,
    /// The last intervals are emitted again with them, for sinks that overwrite.
    Amend,
}

/// What all owners have to agree about.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Partitions, the same for the life of the streams.
    pub partitions: u16,
    /// Length of an interval, in seconds.
    pub interval_secs: f64,
    /// A missing batch is waited for until so many seconds after the end of the interval.
    pub lateness_secs: f64,
    /// What becomes of late batches.
    pub late: Late,
    /// An edge that was not heard for so many seconds is forgotten: at least as long as the log keeps batches.
    pub forget_secs: f64,
    /// A hash of the settings that shape records. Edges with another one are named.
    pub config: u64,
}

impl Terms {
    /// When an interval ends, by the clock of the bus.
    pub(super) fn end(&self, interval: Interval) -> f64 {
        (interval + 1) as f64 * self.interval_secs
    }
}

/// What an owner is told with every step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step<'a> {
    pub(super) now: f64,
    /// What to add to our clock for that of the bus; `None` if it is not known yet.
    pub(super) offset: Option<f64>,
    /// Edges that live and hold batches back.
    pub(super) holding_back: &'a BTreeSet<NodeName>,
    /// A record is on its way.
    pub(super) is_writing: bool,
    /// Somebody else should have the partition.
    pub(super) release: bool,
}

/// Something that was asked for and is waited for. The answer may take longer than we wait until we ask again: any is taken.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// The tickets of the first time and of the last one. Nothing of the same kind was asked for in between.
    first: u64,
    ticket: u64,
    /// When it was asked for first, and last.
    since: f64,
    at: f64,
}

impl Asked {
    fn new(ticket: u64, at: f64) -> Asked {
        Asked { first: ticket, ticket, since: at, at }
    }

    /// The same asked for again.
    fn again(self, ticket: u64, at: f64) -> Asked {
        Asked { ticket, at, ..self }
    }

    fn is_stale(self, now: f64) -> bool {
        now - self.at >= ((self.at - self.since) / 2.0).clamp(ANSWER_SECS, MOST_ANSWER_SECS)
    }

    fn is_answered_by(self, ticket: u64) -> bool {
        (self.first..=self.ticket).contains(&ticket)
    }
}

/// A checkpoint that no record names yet.
#[derive(Debug)]
struct NewCheckpoint<S> {
    base: Interval,
    standing: S,
    payload: Bytes,
    asked: Asked,
    sequence: Option<Sequence>,
}

/// An owner's partition.
pub(super) struct Owner<C: Content> {
    content: Arc<C>,
    partition: u16,
    me: SessionId,
    terms: Terms,
    record: Record,
    replay: Replay,
    away: Away,
    /// When an edge that was waited for beyond the deadline held batches back last.
    held_back_at: Option<f64>,
    /// `None` until the checkpoint is read.
    standing: Option<HeldGauges<C>>,
    /// What was marked since the record, too.
    emitted: Interval,
    amended: BTreeMap<Interval, u32>,
    reading: VecDeque<Asked>,
    /// When the last read began that came to the end of the log.
    level_at: Option<f64>,
    reading_checkpoint: Option<Asked>,
    reading_bodies: Option<(Asked, Vec<Sequence>)>,
    emitting: Option<(u64, Interval, u32)>,
    new_checkpoint: Option<NewCheckpoint<C::Gauges>>,
    /// The log lacks what the record needs.
    log_lost: bool,
    /// The record's mark, until it was looked for.
    mark: Option<(Sequence, f64)>,
    /// The log is another one than that of which was told, and no record says so yet.
    tells_all: bool,
    /// Since when the log is shorter than what was sealed or read, and its last sequence.
    short: Option<(f64, Sequence)>,
}

impl<C: Content> Owner<C> {
    /// Takes a partition over, whose record says that it is ours.
    pub(super) fn new(
        content: Arc<C>,
        partition: u16,
        (terms, me): (Terms, SessionId),
        record: Record,
        now: f64,
    ) -> Owner<C> {
        let standing = record.checkpoint.is_none().then(|| HeldGauges::new(C::Gauges::default()));
        Owner {
            content,
            partition,
            me,
            terms,
            replay: Replay::new(&record, terms),
            away: Away::new(now),
            held_back_at: None,
            standing,
            emitted: record.emitted,
            amended: record.amends.iter().map(|(interval, one)| (*interval, one.emitted)).collect(),
            reading: VecDeque::new(),
            level_at: None,
            reading_checkpoint: None,
            reading_bodies: None,
            emitting: None,
            new_checkpoint: None,
            log_lost: false,
            mark: Some(record.mark).filter(|(at, _)| *at > 0 && *at >= record.resume),
            tells_all: false,
            short: None,
            record,
        }
    }

    pub(super) fn log_lost(&self) -> bool {
        self.log_lost
    }

    /// What it tells of the partition.
    pub(super) fn view(&self) -> PartitionView {
        PartitionView {
            is_ours: true,
            emitted: self.emitted,
            unemitted: self.record.unemitted(self.emitted),
            catching_up: self.is_catching_up(),
            log_lost: self.log_lost,
            next: self.replay.next(),
            edges: edges(self.replay.roster()),
            ..PartitionView::of_record(self.partition, &self.record)
        }
    }

    /// Whether missing batches are waited for beyond their deadline. It is not given up meanwhile: the next owner would begin
    /// to wait anew.
    pub(super) fn is_catching_up(&self) -> bool {
        let has_any = self.record.sealed > 0 || self.replay.first_open().is_some();
        has_any && (self.away.is_catching_up() || self.held_back_at.is_some())
    }

    /// Asks for what is to be read, and again for what was not answered.
    pub(super) fn read(&mut self, now: f64, ticket: &mut impl FnMut() -> u64, out: &mut Vec<Command<Emission<C>>>) {
        let partition = self.partition;
        let at = |asked: Asked| Position { partition, ticket: asked.ticket };
        if self.reading.back().is_none_or(|asked| now - asked.at >= READ_AGAIN_SECS) {
            let asked = Asked::new(ticket(), now);
            self.reading.push_back(asked);
            if self.reading.len() > MOST_READS {
                self.reading.pop_front();
            }
            out.push(Command::ReadBatches { at: at(asked), from: self.replay.next() });
        }
        if let (None, Some(sequence)) = (&self.standing, self.record.checkpoint)
            && self.reading_checkpoint.is_none_or(|asked| asked.is_stale(now))
        {
            let ticket = ticket();
            let asked = self.reading_checkpoint.map_or(Asked::new(ticket, now), |asked| asked.again(ticket, now));
            self.reading_checkpoint = Some(asked);
            out.push(Command::ReadCheckpoint { at: at(asked), sequence });
        }
        if let Some((asked, sequences)) = &mut self.reading_bodies
            && asked.is_stale(now)
        {
            *asked = asked.again(ticket(), now);
            out.push(Command::ReadBodies { at: at(*asked), sequences: sequences.clone() });
        }
        if let Some(new) = &mut self.new_checkpoint
            && new.sequence.is_none()
            && new.asked.is_stale(now)
        {
            new.asked = new.asked.again(ticket(), now);
            out.push(Command::WriteCheckpoint { at: at(new.asked), payload: new.payload.clone() });
        }
    }

    /// Batches were read. An answer to a read that is not waited for is thrown away.
    pub(super) fn take_batches(
        &mut self,
        ticket: u64,
        batches: &[StoredBatch],
        is_end: bool,
        (first, last): (Sequence, Sequence),
        now: f64,
    ) {
        let Some(place) = self.reading.iter().position(|asked| asked.ticket == ticket) else { return };
        let Some(asked) = self.reading.drain(..=place).next_back() else { return };
        self.away.answered(now);
        let cut = self.record.cuts.values().max().copied().unwrap_or(0);
        self.compare((is_end, first, last), cut, asked.at, now);
        let mut is_other = false;
        for batch in batches {
            let mark = self.mark.take_if(|(at, _)| batch.sequence >= *at);
            is_other |= mark.is_some_and(|mark| mark != (batch.sequence, batch.stored));
            if self.replay.take(batch) {
                self.away.overdue_batch(now);
            }
        }
        if is_end && self.short.is_none() {
            // The position of a cut may be another partition's.
            self.replay.skip_to(cut + 1);
            is_other |= self.mark.take().is_some();
        }
        self.log_lost |= is_other;
        self.tells_all |= is_other;
        self.level_at = is_end.then_some(asked.at);
    }

    /// Finds out whether the log has lost its beginning, because nobody has read it for so long, or its end, because its
    /// servers lost power. What it has lost is counted by the jumps in the numbers of the edges.
    fn compare(&mut self, (is_end, first, last): (bool, Sequence, Sequence), cut: Sequence, asked_at: f64, now: f64) {
        if self.replay.next().max(1) < first {
            let was_level = self.level_at.is_some_and(|at| asked_at - at <= LEVEL_SECS);
            let Record { resume, sealed, roster, .. } = &self.record;
            let needs_any = if *resume == 0 { *sealed > 0 } else { !roster.is_empty() };
            let is_lost = needs_any && !was_level;
            self.log_lost |= is_lost;
            self.tells_all |= is_lost;
            self.replay.skip_to(first);
        }
        if !is_end || last + 1 >= self.replay.next().max(cut + 1) {
            self.short = None;
        } else {
            self.short = Some((self.short.map_or(now, |(since, _)| since), last));
        }
    }

    pub(super) fn take_bodies(&mut self, ticket: u64, batches: &[StoredBatch]) {
        if let Some((_, asked)) = self.reading_bodies.take_if(|(asked, _)| asked.is_answered_by(ticket)) {
            self.replay.take_bodies(&asked, batches);
        }
    }

    pub(super) fn take_checkpoint(&mut self, ticket: u64, payload: Option<&[u8]>) {
        if self.reading_checkpoint.take_if(|asked| asked.is_answered_by(ticket)).is_none() {
            return;
        }
        let standing = payload.and_then(|bytes| HeldGauges::decode(bytes, self.record.base));
        self.log_lost |= standing.is_none();
        self.standing = Some(standing.unwrap_or_else(|| HeldGauges::new(C::Gauges::default())));
    }

    pub(super) fn checkpoint_stored(&mut self, ticket: u64, sequence: Sequence) {
        if let Some(new) = self.new_checkpoint.as_mut().filter(|new| new.asked.is_answered_by(ticket)) {
            new.sequence = Some(sequence);
        }
    }

    /// All sinks took an interval.
    pub(super) fn mark(&mut self, ticket: u64) {
        let Some((_, interval, version)) = self.emitting.take_if(|(own, ..)| *own == ticket) else { return };
        if version == 0 {
            self.emitted = self.emitted.max(interval);
        } else {
            let amended = self.amended.entry(interval).or_default();
            *amended = (*amended).max(version);
        }
    }

    /// Our record holds.
    pub(super) fn won(&mut self, record: Record) {
        if let Some(new) = self.new_checkpoint.take_if(|new| new.base == record.base)
            && let Some(standing) = &mut self.standing
        {
            standing.rebase(new.standing);
        }
        if record.losses > self.record.losses {
            // It goes on as somebody does who has only read what there is now.
            self.replay = Replay::new(&record, self.terms);
            (self.level_at, self.reading_bodies, self.short) = (None, None, None);
            self.reading.clear();
            self.standing.iter_mut().for_each(HeldGauges::forget_last);
            (self.log_lost, self.tells_all) = (true, true);
        } else if record.retold != self.record.retold {
            self.tells_all = false;
        }
        self.replay.begin_at(&record);
        self.amended.retain(|interval, _| *interval > record.base);
        self.record = record;
    }

    /// Does what can be done now; gives the next record if one is to be written.
    pub(super) fn step(
        &mut self,
        step: Step<'_>,
        ticket: &mut impl FnMut() -> u64,
        out: &mut Vec<Command<Emission<C>>>,
    ) -> Option<Record> {
        let (Some(level_at), Some(offset), true) = (self.level_at, step.offset, self.standing.is_some()) else {
            return None;
        };
        if self.emitting.is_none() {
            self.emit_next(step.now, ticket, out);
        }
        if step.is_writing {
            return None;
        }
        if let Some((since, last)) = self.short {
            return (step.now - since >= SHORT_SECS).then(|| self.shortened(last));
        }
        self.begin_checkpoint(step, ticket, out);
        if step.release && self.emitting.is_none() && self.next_emission().is_none() && self.new_checkpoint_is_stored()
        {
            return Some(Record { owner: None, ..self.settled() });
        }
        // What was stored before the read began was read, so that is the time at which we judge.
        self.seal(level_at + offset, step).or_else(|| self.amend())
    }

    /// The first interval that waits for the sinks, with its version and its cut.
    fn next_emission(&self) -> Option<(Interval, u32, Sequence)> {
        let sealed = self.record.cuts.range(self.emitted + 1..).next();
        let sealed = sealed.map(|(interval, cut)| (*interval, 0, *cut));
        sealed.or_else(|| {
            let mut amends = self.record.amends.iter();
            let (interval, one) = amends.find(|(interval, one)| one.version > self.amended(**interval))?;
            Some((*interval, one.version, one.cut))
        })
    }

    /// The last version of an interval that was emitted.
    fn amended(&self, interval: Interval) -> u32 {
        self.amended.get(&interval).copied().unwrap_or(0)
    }

    fn emit_next(&mut self, now: f64, ticket: &mut impl FnMut() -> u64, out: &mut Vec<Command<Emission<C>>>) {
        let Some((interval, version, cut)) = self.next_emission() else { return };
        if self.replay.next() <= cut || self.reading_bodies.is_some() {
            return;
        }
        let replay = &self.replay;
        let between = self.record.cuts.range(self.record.base + 1..=interval);
        let mut sequences: Vec<Sequence> = between.flat_map(|(k, cut)| replay.put_away(*k, *cut)).collect();
        sequences.extend(replay.put_away(interval, cut));
        let at = Position { partition: self.partition, ticket: ticket() };
        if !sequences.is_empty() {
            out.push(Command::ReadBodies { at, sequences: sequences.clone() });
            self.reading_bodies = Some((Asked::new(at.ticket, now), sequences));
            return;
        }
        let Some(standing) = &mut self.standing else { return };
        let (content, known) = (&*self.content, (&self.record, replay));
        let merged = content.merge(replay.bodies(interval, cut));
        let mut stands = standing.at_end(content, interval - 1, known);
        content.follow(&mut stands, interval, &merged);
        if version == 0 {
            standing.keep(interval, &stands);
        }
        let is_retold = self.record.retold == Some(interval);
        let before = if is_retold { 0 } else { self.record.cut_before(interval) };
        let emission = Emission {
            partition: self.partition,
            interval,
            version,
            cut,
            owner: self.me.clone(),
            merged,
            standing: stands,
            account: (version == 0).then(|| replay.account(&self.record, interval, before, cut)),
            batches: replay.ids(interval, cut),
        };
        self.emitting = Some((at.ticket, interval, version));
        out.push(Command::Emit { at, emission });
    }

    /// The last interval that nobody has to read again, if all that is marked were in the record.
    fn next_base(&self) -> Interval {
        let kept = match self.terms.late {
            Late::Drop => 0,
            Late::Amend => AMENDABLE_INTERVALS,
        };
        let base = self.emitted.saturating_sub(kept);
        let mut amends = self.record.amends.iter();
        let waiting = amends.find(|(interval, one)| one.version > self.amended(**interval));
        waiting.map_or(base, |(interval, _)| base.min(interval - 1)).max(self.record.base)
    }

    /// Writes a checkpoint if it is time; a record with a later base needs one.
    fn begin_checkpoint(
        &mut self,
        step: Step<'_>,
        ticket: &mut impl FnMut() -> u64,
        out: &mut Vec<Command<Emission<C>>>,
    ) {
        let (base, step_intervals) = (self.next_base(), if step.release { 1 } else { CHECKPOINT_INTERVALS });
        // What is to be told again is read again by whoever goes on.
        if self.tells_all || self.new_checkpoint.is_some() || base < self.record.base + step_intervals {
            return;
        }
        let between = self.record.cuts.range(self.record.base + 1..=base);
        if between.into_iter().any(|(k, cut)| self.replay.put_away(*k, *cut).next().is_some()) {
            return;
        }
        let Some(standing) = &mut self.standing else { return };
        let (standing, payload) = standing.checkpoint(&self.content, base, (&self.record, &self.replay));
        let at = Position { partition: self.partition, ticket: ticket() };
        out.push(Command::WriteCheckpoint { at, payload: payload.clone() });
        let asked = Asked::new(at.ticket, step.now);
        self.new_checkpoint = Some(NewCheckpoint { base, standing, payload, asked, sequence: None });
    }

    fn new_checkpoint_is_stored(&self) -> bool {
        self.new_checkpoint.as_ref().is_none_or(|new| new.sequence.is_some())
    }

    /// The next record with nothing new but what was marked, and with a later base if there is a checkpoint of it.
    pub(super) fn settled(&self) -> Record {
        let mut record = self.record.clone();
        record.emitted = self.emitted;
        for (interval, one) in &mut record.amends {
            one.emitted = one.emitted.max(self.amended(*interval));
        }
        let Some((base, sequence)) = self.new_checkpoint.as_ref().and_then(|new| Some((new.base, new.sequence?)))
        else {
            return record;
        };
        let cut = self.record.cuts.get(&base).copied().unwrap_or(0);
        record.base = base;
        record.checkpoint = Some(sequence);
        record.cuts.retain(|interval, _| *interval >= base);
        record.amends.retain(|interval, _| *interval > base);
        record.resume = self.replay.resume_after(base, cut).max(self.record.resume);
        record.roster = self.replay.roster_before(&self.record, record.resume);
        record.roster.forget(base, &self.terms, |edge| self.replay.has_read_of(edge, record.resume));
        record
    }

    /// The next record when the log ends at `last`, before what was sealed or read. New batches will have the positions of
    /// those that are gone, and belong to none of the sealed intervals.
    fn shortened(&self, last: Sequence) -> Record {
        let mut record = self.settled();
        record.cuts.values_mut().for_each(|cut| *cut = last.min(*cut));
        record.amends.values_mut().for_each(|one| one.cut = last.min(one.cut));
        record.resume = record.resume.min(last + 1);
        record.losses += 1;
        record
    }

    /// Seals the next interval if it is complete or overdue; `bus` is the time of the bus.
    fn seal(&mut self, bus: f64, step: Step<'_>) -> Option<Record> {
        let (is_first, now) = (self.record.sealed == 0, step.now);
        if self.record.unemitted(self.emitted) >= MOST_UNEMITTED {
            return None;
        }
        let interval = if is_first {
            // What an edge whose clock is far behind has sent is late.
            let oldest = (bus - self.terms.forget_secs) / self.terms.interval_secs;
            self.replay.first_open_from(oldest.max(0.0) as Interval)?
        } else {
            self.record.sealed + 1
        };
        let end = self.terms.end(interval);
        let deadline = end + self.terms.lateness_secs;
        let is_over = self.away.is_due(deadline, self.terms.interval_secs, bus, now);
        if !is_over {
            self.held_back_at = None;
        }
        let is_due = is_over && !self.is_held_back(interval, (deadline, bus), step);
        let is_ready = bus >= end + LEAST_WAIT_SECS && self.is_complete(interval, bus, step);
        if !is_due && !is_ready {
            return None;
        }
        let interval = self.skipped(interval, is_due, bus, step);
        if is_first {
            // Nothing before it was ever asked for.
            self.emitted = interval - 1;
            self.record.base = interval - 1;
        }
        let mut record = self.settled();
        record.sealed = interval;
        record.mark = self.replay.last();
        record.retold = if self.tells_all { Some(interval) } else { record.retold };
        let cut = self.replay.next().saturating_sub(1);
        record.cuts.insert(interval, cut.max(self.record.cut_before(interval)));
        Some(record)
    }

    /// Whether an edge that has not delivered an interval holds batches back, as the bus has refused some: it is waited for as
    /// while the bus is away.
    fn is_held_back(&mut self, interval: Interval, (deadline, bus): (f64, f64), step: Step<'_>) -> bool {
        let mut all = self.replay.roster().members();
        let is_held = all.any(|(edge, member)| {
            let is_expected = member.first <= interval && !member.left && member.lag <= MOST_LAG_SECS;
            is_expected && member.last < interval && step.holding_back.contains(edge)
        });
        if is_held {
            self.held_back_at = Some(step.now);
        }
        // What the log is about to lose is not waited for.
        let most = MOST_SECS.min(self.terms.forget_secs / 2.0);
        self.held_back_at.take_if(|at| step.now - *at >= HELD_BACK_SECS || bus - deadline >= most);
        self.held_back_at.is_some()
    }

    /// The last interval before the first of which the log has something, if the next one can be sealed and is so far before that
    /// that those between are not sealed one by one: nobody was there. Nothing is emitted of them.
    fn skipped(&self, next: Interval, is_due: bool, bus: f64, step: Step<'_>) -> Interval {
        let Some(last) = self.replay.first_open_from(next).map(|open| open.saturating_sub(1)) else { return next };
        if last < next + LEAST_SKIPPED {
            return next;
        }
        let end = self.terms.end(last);
        let is_due = is_due && bus >= end + self.terms.lateness_secs;
        let is_ready = || bus >= end + LEAST_WAIT_SECS && self.is_complete(last, bus, step);
        if is_due || is_ready() { last } else { next }
    }

    /// Whether every edge that is waited for has delivered an interval.
    fn is_complete(&self, interval: Interval, bus: f64, step: Step<'_>) -> bool {
        // Silence begins anew after an outage.
        let back_at = self.away.back_for(step.now).map_or(f64::MIN, |secs| bus - secs);
        let mut waited = self.replay.roster().members().filter(|(edge, member)| {
            let is_silent = bus - member.heard.max(back_at) > MOST_SILENCE_SECS && !step.holding_back.contains(edge);
            member.first <= interval && !member.left && !is_silent && member.lag <= MOST_LAG_SECS
        });
        let mut any = false;
        waited.all(|(_, member)| {
            any = true;
            member.last >= interval
        }) && any
    }

    /// Amends the first of the last emitted intervals of which something has come since.
    fn amend(&self) -> Option<Record> {
        if self.terms.late == Late::Drop {
            return None;
        }
        let first = (self.emitted + 1).saturating_sub(AMENDABLE_INTERVALS).max(self.record.base + 1);
        for interval in first..=self.emitted {
            let Some(&cut) = self.record.cuts.get(&interval) else { continue };
            let known = self.record.amends.get(&interval);
            let known = known.copied().unwrap_or(Amendment { version: 0, cut, emitted: 0 });
            if self.replay.has_more(interval, known.cut) && self.amended(interval) == known.version {
                let mut record = self.settled();
                let cut = self.replay.next() - 1;
                let amendment = Amendment { version: known.version + 1, cut, emitted: known.version };
                // A checkpoint that is ready may have moved the base past it.
                if interval > record.base {
                    record.amends.insert(interval, amendment);
                    return Some(record);
                }
            }
        }
        None
    }
}
