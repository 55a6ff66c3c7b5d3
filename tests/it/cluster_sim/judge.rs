//! What must hold in the end.
//!
//! | | |
//! |---|---|
//! | I1 | what the sink has last of an interval is what one node would have said, or each missing batch is counted by name, and never both |
//! | I2 | one content for each partition, interval and version |
//! | I3 | a cut never changes, and sealed never goes back |
//! | I4 | all is sealed and emitted in time |
//! | I5 | gauges, as I1 |
//! | I7 | missing is only who is missing |
//! | I8 | late is only what was late |
//! | I9 | without a fault, or with an outage of the bus alone, nothing is late or lost |
//!
//! I6 is about presence.

use std::collections::{BTreeMap, BTreeSet};

use systole::internals::cluster::batch::BatchHeader;
use systole::internals::cluster::{BatchId, Finding, Interval, Late, Record, Sequence, Stored, StoredBatch};

use super::bus::Timed;
use super::content::{Line, Points, Received, Value};
use super::world::{EPOCH, FIRST, INTERVAL, LATENESS, Packet, SealedBatch, World};

/// An edge that was silent for longer is not waited for.
const SILENCE: f64 = 30.0;

/// Numbers of floating point are as one node's, but for the order in which they were added.
const TOLERANCE: f64 = 1e-9;

pub type Figures = BTreeMap<&'static str, u64>;

/// A partition and an interval.
type At = (u16, Interval);

struct Judge<'a> {
    world: &'a World,
    violations: Vec<String>,
    figures: Figures,
    /// When each interval was sealed, in virtual time, and where.
    seals: BTreeMap<At, (f64, Sequence)>,
    /// The last one that the sink has.
    newest: BTreeMap<At, &'a Packet>,
    /// The first one that was emitted of each version.
    versions: BTreeMap<(u16, Interval, u32), &'a Packet>,
    log: BTreeMap<(u16, BatchId), &'a StoredBatch>,
    told: Told,
}

/// What the accounts say.
#[derive(Default)]
struct Told {
    late: BTreeSet<(u16, BatchId)>,
    /// Edge, partition, number.
    lost: BTreeSet<(String, u16, u64)>,
    skewed: BTreeSet<(u16, BatchId)>,
    missing: BTreeSet<(String, Interval, u16)>,
    partial: BTreeSet<(String, Interval, u16)>,
    restarts: BTreeSet<(String, u16)>,
    /// Edge, partition, and the number before which nothing is known.
    unknown: BTreeSet<(String, u16, u64)>,
}

pub fn judge(world: &World) -> (Vec<String>, Figures) {
    let mut log = BTreeMap::new();
    for (partition, all) in (0_u16..).zip(&world.bus.log) {
        for batch in all {
            let header = header(batch);
            log.entry((partition, BatchId { edge: header.edge, boot: header.boot, n: header.n })).or_insert(batch);
        }
    }
    let mut judge = Judge {
        world,
        violations: Vec::new(),
        figures: Figures::new(),
        seals: BTreeMap::new(),
        newest: BTreeMap::new(),
        versions: BTreeMap::new(),
        log,
        told: Told::default(),
    };
    judge.records();
    judge.emissions();
    judge.accounts();
    judge.times();
    judge.contents();
    judge.lost_lines();
    judge.quiet();
    let told = &judge.told;
    let repeated = world.emits.len() - judge.versions.len();
    let counts = [
        ("claims", world.claims),
        ("emitted again", repeated as u64),
        ("late", told.late.len() as u64),
        ("lost", told.lost.len() as u64),
        ("skewed", told.skewed.len() as u64),
        ("unknown", told.unknown.len() as u64),
        ("races", world.bus.races),
        ("amended", judge.versions.keys().filter(|(.., version)| *version > 0).count() as u64),
    ];
    judge.figures.extend(counts);
    (judge.violations, judge.figures)
}

impl<'a> Judge<'a> {
    fn wrong(&mut self, what: String) {
        self.violations.push(what);
    }

    /// I3, along the valid records: of those with one predecessor the first.
    fn records(&mut self) {
        let bus = &self.world.bus;
        let streams = bus.lost_records.iter().chain([&bus.records]);
        let all = streams.flat_map(|records| (0_u16..).zip(records));
        let mut lasts: BTreeMap<u16, Record> = BTreeMap::new();
        for (partition, all) in all {
            let (mut valid, mut before) = (0, Record::genesis());
            if let Some((first, last)) = Some(partition).and_then(|of| Some((first_valid(all)?, lasts.get(&of)?))) {
                *self.figures.entry("begun anew").or_default() += 1;
                *self.figures.entry("went back").or_default() += u64::from(first.sealed < last.sealed);
            }
            for (at, stored) in all {
                let record = Record::decode(&stored.payload).expect("all records can be read");
                if (record.prev, record.follows) != (valid, before.token) {
                    continue;
                }
                if record.losses > before.losses && self.world.gone > 0 {
                    // Positions are those of the log as it is now.
                    for (interval, cut) in &record.cuts {
                        if let Some(known) = self.seals.get_mut(&(partition, *interval)) {
                            known.1 = known.1.min(*cut);
                        }
                    }
                }
                if record.sealed < before.sealed || record.emitted < before.emitted || record.base < before.base {
                    self.wrong(format!("I3 partition {partition} went back: {before:?} to {record:?}"));
                }
                for (interval, cut) in &record.cuts {
                    let known = self.seals.entry((partition, *interval)).or_insert((*at, *cut));
                    if known.1 != *cut && !bus.lost_records.is_empty() {
                        // Who has sealed it may be gone with its record.
                        *known = (*at, *cut);
                    } else if known.1 != *cut {
                        let what = format!("I3 partition {partition} interval {interval}: {} and {cut}", known.1);
                        self.violations.push(what);
                    }
                }
                (valid, before) = (stored.sequence, record);
            }
            lasts.insert(partition, before);
        }
    }

    /// I2; what the sink has in the end.
    fn emissions(&mut self) {
        for packet in &self.world.emits {
            let Packet { partition, interval, version, .. } = *packet;
            let first = *self.versions.entry((partition, interval, version)).or_insert(packet);
            let is_equal =
                first.points == packet.points && first.account == packet.account && first.batches == packet.batches;
            if !is_equal && !self.world.loses_log {
                self.wrong(format!("I2 partition {partition} interval {interval}:\n{first:?}\n{packet:?}"));
            }
            let newest = self.newest.entry((partition, interval)).or_insert(packet);
            if version >= newest.version {
                *newest = packet;
            }
        }
    }

    fn accounts(&mut self) {
        let (told, emits) = (&mut self.told, &self.world.emits);
        for packet in emits {
            let Packet { partition, interval, .. } = *packet;
            let Some(account) = &packet.account else { continue };
            told.late.extend(account.late.iter().map(|late| (partition, late.id.clone())));
            told.missing.extend(account.missing.iter().map(|edge| (edge.to_string(), interval, partition)));
            for finding in account.findings.iter().cloned() {
                match finding {
                    Finding::Lost { edge, from, to } => {
                        told.lost.extend((from..=to).map(|n| (edge.to_string(), partition, n)));
                    }
                    Finding::Skewed { edge, boot, n, .. } | Finding::Ignored { edge, boot, n } => {
                        _ = told.skewed.insert((partition, BatchId { edge, boot, n }))
                    }
                    Finding::Partial { edge, interval } => {
                        _ = told.partial.insert((edge.to_string(), interval, partition))
                    }
                    Finding::Unknown { edge, n } => _ = told.unknown.insert((edge.to_string(), partition, n)),
                    // Compared with the batches of the interval; all batches of the simulation can be read.
                    Finding::OtherConfig { .. } | Finding::Unreadable { .. } => {}
                    Finding::Restart { edge, .. } => _ = told.restarts.insert((edge.to_string(), partition)),
                }
            }
        }
    }

    fn first_sealed(&self, partition: u16) -> Option<Interval> {
        self.seals.range((partition, 0)..).next().map(|(at, _)| at).filter(|at| at.0 == partition).map(|at| at.1)
    }

    /// I4.
    fn times(&mut self) {
        let world = self.world;
        for partition in 0..world.terms.partitions {
            let first = self.first_sealed(partition).unwrap_or(FIRST).max(FIRST);
            for interval in first..=world.last_interval() {
                let at = (partition, interval);
                let (Some(&(sealed, _)), true) = (self.seals.get(&at), self.newest.contains_key(&at)) else {
                    self.wrong(format!("I4 partition {partition} interval {interval} never sealed and emitted"));
                    continue;
                };
                let deadline = (interval + 1) as f64 * INTERVAL - EPOCH + LATENESS;
                let mut from = deadline;
                for &(begin, end, is_outage) in &world.bad {
                    if begin < sealed && end > from - LATENESS - 25.0 {
                        from = from.max(end + if is_outage { 20.0 } else { 0.0 });
                    }
                }
                let mut slack = if world.calm { 1.0 } else { 16.0 };
                slack += if world.net.tail > 0.0 || world.net.loss > 0.0 { 12.0 } else { 0.0 };
                slack += if interval == first { 8.0 } else { 0.0 };
                if sealed > from + slack {
                    let what = format!("sealed {:.1} s after {from:.1}", sealed - from);
                    self.wrong(format!("I4 partition {partition} interval {interval} {what}"));
                }
            }
        }
    }

    /// Whether an edge was unknown, gone, or silent for so long that nobody waited for it when an interval was sealed.
    fn was_silent(&self, edge: &str, at: At) -> bool {
        let Some(&(sealed, cut)) = self.seals.get(&at) else { return true };
        let known = self.world.bus.log[at.0 as usize].iter().take_while(|batch| batch.sequence <= cut);
        let own = known.map(|batch| (batch, header(batch))).filter(|(_, header)| header.edge.as_str() == edge);
        let (mut last, mut lag) = (None::<(&StoredBatch, BatchHeader)>, f64::MAX);
        for (batch, header) in own {
            if last.as_ref().is_none_or(|(_, last)| (header.boot, header.n) > (last.boot, last.n)) {
                lag = (lag + 0.5).min(batch.stored - batch.sent);
                last = Some((batch, header));
            }
        }
        let is_away = |(batch, header): &(&StoredBatch, BatchHeader)| {
            header.flags.last || EPOCH + sealed - batch.stored > SILENCE - 1.0
        };
        // Its first message may have been on its way for so long that its clock seems to be wrong.
        last.is_none_or(|last| is_away(&last) || lag > 6.0)
    }

    /// Whether its clock is so wrong that nothing is promised.
    fn is_wild(&self, edge: &str) -> bool {
        self.world.edges.iter().any(|one| one.name == edge && one.wild)
    }

    /// I1, I5, I7 and I8.
    fn contents(&mut self) {
        let mut all: BTreeMap<At, Vec<&SealedBatch>> = BTreeMap::new();
        for batch in &self.world.sealed {
            all.entry((batch.partition, batch.interval)).or_default().push(batch);
        }
        for partition in 0..self.world.terms.partitions {
            let Some(first) = self.first_sealed(partition) else { continue };
            let mut gauges = BTreeMap::new();
            for interval in first.min(FIRST)..=self.world.last_interval() {
                let at = (partition, interval);
                let batches = all.remove(&at).unwrap_or_default();
                let packet = self.newest.get(&at).copied();
                let mut members: Vec<&SealedBatch> = Vec::new();
                for batch in batches {
                    let is_in = packet.is_some_and(|packet| packet.batches.contains(&batch.id));
                    self.batch(batch, at, is_in);
                    members.extend(is_in.then_some(batch));
                }
                let Some(packet) = packet else { continue };
                if members.len() != packet.batches.len() {
                    self.wrong(format!("I1 {at:?} has batches that nobody sealed"));
                }
                members.sort_by(|a, b| a.id.cmp(&b.id));
                let is_amended = self.world.terms.late == Late::Amend;
                let expected = one_node(&members, &mut gauges);
                // What gauges go on with may be gone.
                if let Some(what) = difference(&packet.points, &expected, is_amended || self.world.loses_log) {
                    self.wrong(format!("I1 partition {partition} interval {interval}: {what}"));
                }
                self.configs(packet);
                for batch in members.iter().filter(|batch| !batch.more) {
                    let edge = batch.id.edge.to_string();
                    if !is_amended
                        && !self.world.loses_log
                        && self.told.missing.contains(&(edge.clone(), interval, partition))
                    {
                        self.wrong(format!("I7 {edge} is missing in interval {interval} and merged"));
                    }
                }
            }
        }
    }

    /// Edges with other settings are named with every interval that has something of them.
    fn configs(&mut self, packet: &Packet) {
        let Some(account) = &packet.account else { return };
        let of = |name: &str| self.world.edges.iter().find(|edge| edge.name == name).map_or(0, |edge| edge.config);
        let expected: BTreeSet<(String, u64)> = packet
            .batches
            .iter()
            .map(|id| (id.edge.to_string(), of(id.edge.as_str())))
            .filter(|(_, config)| *config != 0)
            .collect();
        let told: Vec<(String, u64)> = account
            .findings
            .iter()
            .filter_map(|finding| match finding {
                Finding::OtherConfig { edge, config } => Some((edge.to_string(), *config)),
                _ => None,
            })
            .collect();
        if told.len() != expected.len() || !told.iter().all(|one| expected.contains(one)) {
            self.wrong(format!("other settings have {expected:?} and not {told:?}"));
        }
    }

    /// A batch is merged, or counted.
    fn batch(&mut self, batch: &SealedBatch, at: At, is_in: bool) {
        let (partition, interval) = at;
        let (id, edge) = ((partition, batch.id.clone()), batch.id.edge.to_string());
        let is_lost = self.told.lost.contains(&(edge.clone(), partition, batch.id.n));
        if is_in {
            // What the log has lost, the sink may have.
            if is_lost && !self.world.loses_log {
                self.wrong(format!("I1 {id:?} is lost and merged"));
            }
            return;
        }
        let is_late = self.told.late.contains(&id);
        let is_missing = self.told.missing.contains(&(edge.clone(), interval, partition));
        let unknown = self.told.unknown.range((edge.clone(), partition, batch.id.n)..);
        let is_unknown = unknown.take(1).any(|(of, at, _)| (of, *at) == (&edge, partition));
        let is_told = is_late || is_lost || is_missing || is_unknown || self.told.skewed.contains(&id);
        if !is_told && !batch.lines.is_empty() && self.world.loses_log {
            // Who told it may have seen another log.
            *self.figures.entry("untold").or_default() += 1;
        } else if !is_told && !batch.lines.is_empty() {
            self.wrong(format!("I1 {id:?} of interval {interval} is neither merged nor counted"));
        }
        if is_late
            && !self.world.loses_log
            && !self.is_wild(&edge)
            && self.seals.contains_key(&at)
            && !self.was_silent(&edge, at)
        {
            let after = self.log.get(&id).map_or(0.0, |stored| stored.stored) - (interval + 1) as f64 * INTERVAL;
            if after < LATENESS - 1.0 {
                self.wrong(format!("I8 {id:?} was stored {after:.1} s after interval {interval} and is late"));
            }
        }
    }

    /// I1: what an edge had not sealed when it crashed.
    fn lost_lines(&mut self) {
        for (edge, interval, partition, boot) in &self.world.open_lost {
            let (at, name) = ((*partition, *interval), (edge.clone(), *interval, *partition));
            let is_told = self.told.partial.contains(&name) || self.told.missing.contains(&name);
            // Of the start that crashed, and of those before, nobody may have heard.
            let heard = self.log.keys().filter(|(of, id)| of == partition && id.edge.as_str() == edge);
            let is_unheard = heard.map(|(_, id)| id.boot).all(|heard| heard > *boot);
            let is_restart = self.told.restarts.contains(&(edge.clone(), *partition));
            let is_restart = is_restart && (self.was_silent(edge, at) || is_unheard);
            // What told of the restart may be lost itself, and is counted.
            let of_edge = (edge.clone(), *partition, 0)..=(edge.clone(), *partition, u64::MAX);
            let is_counted = self.told.lost.range(of_edge.clone()).chain(self.told.unknown.range(of_edge)).count() > 0;
            let mut later = self.log.keys().filter(|(of, id)| of == partition && id.edge.as_str() == edge);
            let has_restart = !self.world.loses_log && later.any(|(_, id)| id.boot == boot + 1);
            let is_told = is_told || is_counted && !has_restart;
            let is_judged = *interval <= self.world.last_interval() && self.newest.contains_key(&at);
            if is_judged && !is_told && !is_restart && !self.is_wild(edge) {
                self.wrong(format!("I1 the open interval {interval} of {edge} was lost and nobody says so"));
            }
        }
    }

    /// I9, and I7 without faults.
    fn quiet(&mut self) {
        if !self.world.calm && !self.world.only_outage {
            return;
        }
        let is_first = |id: &(u16, BatchId)| {
            self.world.sealed.iter().any(|one| one.first && (one.partition, &one.id) == (id.0, &id.1))
        };
        let late: Vec<_> = self.told.late.iter().filter(|id| !is_first(id)).cloned().collect();
        if !late.is_empty() || !self.told.lost.is_empty() {
            self.wrong(format!("I9 late or lost without cause: {late:?} {:?}", self.told.lost));
        }
        let judged = FIRST + 6..=self.world.last_interval();
        let missing: Vec<_> = self.told.missing.iter().filter(|(_, at, _)| judged.contains(at)).cloned().collect();
        if self.world.calm && !missing.is_empty() {
            self.wrong(format!("I7 missing without cause: {missing:?}"));
        }
    }
}

/// The first record that follows none.
fn first_valid(all: &[Timed<Stored>]) -> Option<Record> {
    all.iter().filter_map(|(_, stored)| Record::decode(&stored.payload)).find(|record| record.prev == 0)
}

fn header(batch: &StoredBatch) -> BatchHeader {
    BatchHeader::decode(&batch.payload).expect("all batches can be read").0
}

/// What stands of a gauge: whether it was ever set, and its value.
type Gauges<'a> = BTreeMap<&'a str, (bool, f64)>;

/// What one node would have made of the lines of these batches, without any of the code that is tested: of several sides of
/// a gauge the one that was set last counts, with what it added afterwards; the others add what they added without a set.
fn one_node<'a>(members: &[&'a SealedBatch], gauges: &mut Gauges<'a>) -> Points {
    let mut points = Points::new();
    let mut sides: BTreeMap<&str, Vec<Vec<&Line>>> = BTreeMap::new();
    for batch in members {
        let mut own: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
        for line in &batch.lines {
            let point = points.entry(line.series.to_string());
            match line.value {
                Received::Count(by) => {
                    if let Value::Sum(sum) = point.or_insert(Value::Sum(0.0)) {
                        *sum += by;
                    }
                }
                Received::Sample(one) => {
                    if let Value::Samples(all) = point.or_insert(Value::Samples(Vec::new())) {
                        all.push(one);
                    }
                }
                Received::Member(one) => {
                    if let Value::Members(all) = point.or_insert(Value::Members(BTreeSet::new())) {
                        all.insert(one);
                    }
                }
                Received::Set(_) | Received::Adjust(_) => own.entry(line.series).or_default().push(line),
            }
        }
        for (series, lines) in own {
            sides.entry(series).or_default().push(lines);
        }
    }
    for (series, sides) in sides {
        let (mut best, mut loose): (Option<(f64, f64, f64)>, f64) = (None, 0.0);
        for side in sides {
            let adjusted = |lines: &[&Line]| -> f64 {
                lines.iter().map(|line| if let Received::Adjust(by) = line.value { by } else { 0.0 }).sum()
            };
            let set = side.iter().rposition(|line| matches!(line.value, Received::Set(_)));
            match set.map(|at| (at, side[at].value)) {
                Some((at, Received::Set(to))) => {
                    let (time, followed) = (side[at].time, adjusted(&side[at + 1..]));
                    if best.is_none_or(|(when, value, _)| (time, to) > (when, value)) {
                        best = Some((time, to, followed));
                    }
                }
                _ => loose += adjusted(&side),
            }
        }
        let (was_set, before) = gauges.get(series).copied().unwrap_or((false, 0.0));
        let now = match best {
            Some((_, to, followed)) => (true, to + followed + loose),
            None => (was_set, before + loose),
        };
        gauges.insert(series, now);
    }
    points.extend(gauges.iter().map(|(series, (_, value))| (series.to_string(), Value::Number(*value))));
    points
}

/// How what was emitted differs from what is expected. With amendments the gauges of later intervals may.
fn difference(points: &Points, expected: &Points, without_gauges: bool) -> Option<String> {
    let keys: BTreeSet<&String> = points.keys().chain(expected.keys()).collect();
    keys.into_iter().find_map(|series| {
        if without_gauges && series.starts_with('g') {
            return None;
        }
        let near = |a: f64, b: f64| (a - b).abs() <= TOLERANCE;
        let (is, right) = (points.get(series), expected.get(series));
        let is_right = match (is, right) {
            (Some(Value::Sum(a)), Some(Value::Sum(b))) | (Some(Value::Number(a)), Some(Value::Number(b))) => {
                near(*a, *b)
            }
            (Some(Value::Samples(a)), Some(Value::Samples(b))) => {
                let mut b = b.clone();
                b.sort_by(f64::total_cmp);
                *a == b
            }
            (a, b) => a == b,
        };
        (!is_right).then(|| format!("{series} is {is:?} and not {right:?}"))
    })
}
