//! What must hold, whatever happened: what `docs/restarts.md` promises, and the equations of the ledger.
//!
//! Each datagram has a counter of its own (`d17`), so that it is known which interval has it, at each receiver: never two, and
//! none only where the documents say what a crash, or a disk that fails, may cost.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use systole::internals::sinks::Order;

use super::receiver::{Id, Packet};
use super::world::{DISK_AFTER, Datagram, EPOCH, End, LONGER, Life, NOBODY, Trouble, World, tick_after};

/// Longest time from a tick until an interval is on disk, or at a receiver that is well.
const WITHIN: f64 = 1.0;
/// Longest time for what takes none.
const SLACK: f64 = 0.35;
/// So long after a time in which a receiver was not well something of it may still be felt.
const SINK_AFTER: f64 = 40.0;

/// What was a datagram's; `None` if it may be lost.
type Fate = Option<(usize, f64)>;

fn overlaps(troubles: &[Trouble], from: f64, until: f64, after: f64) -> bool {
    troubles.iter().any(|trouble| trouble.from <= until && from <= trouble.until + after)
}

struct Judge<'a> {
    world: &'a World,
    wrong: Vec<String>,
}

/// Everything that is wrong.
pub fn judge(world: &World) -> Vec<String> {
    let mut judge = Judge { world, wrong: world.wrong.clone() };
    for place in 0..world.receivers.len() {
        judge.receiver(place);
    }
    judge.wrong
}

fn is_crash(life: &Life) -> bool {
    matches!(life.how, End::Killed | End::PowerCut)
}

/// When a life was told to stop, and how it would end then.
fn stop_of(life: &Life) -> (f64, End) {
    life.stops.unwrap_or((f64::MAX, life.how))
}

impl Judge<'_> {
    fn receiver(&mut self, place: usize) {
        let world = self.world;
        let (packets, totals) = {
            let inner = world.receivers[place].inner();
            (inner.packets.clone(), inner.totals.clone())
        };
        let name = &world.shape.sinks[place].name;
        let mut known: HashMap<Id, &Packet> = HashMap::new();
        let mut distinct: Vec<&Packet> = Vec::new();
        for packet in &packets {
            match known.get(&packet.id) {
                Some(first) if (first.checksum, first.lines) != (packet.checksum, packet.lines) => {
                    self.wrong.push(format!("{name}: {} comes again as another one", shown(packet)));
                }
                Some(_) => {}
                None => {
                    known.insert(packet.id, packet);
                    distinct.push(packet);
                }
            }
        }
        distinct.sort_by(|a, b| a.end.total_cmp(&b.end));
        for packet in &distinct {
            self.contents(name, packet);
        }
        self.longer_are_whole(name, &distinct);
        self.once(place, &distinct, "d");
        self.once(place, &distinct, "slow.d");
        if world.shape.sinks[place].every == 1 {
            self.gauges(name, &distinct);
            self.lengths(place, &distinct);
            self.crashes_are_told(name, &distinct);
        }
        self.totals(place, &distinct, &totals);
    }

    /// What an interval has is what its datagrams had.
    fn contents(&mut self, name: &str, packet: &Packet) {
        if let Err(problem) = &packet.check {
            self.wrong.push(format!("{name}: {}: {problem}", shown(packet)));
        }
        let own: Vec<&Datagram> = ids(packet, "d").map(|id| &self.world.datagrams[id]).collect();
        if let Some((one, count)) = packet.counters.iter().find(|(one, count)| one.contains('d') && **count != 1.0) {
            self.wrong.push(format!("{name}: {}: {one} has {count}", shown(packet)));
        }
        let count = |is: fn(&Datagram) -> bool| own.iter().filter(|one| is(one)).count() as u64;
        let lines: u64 = own.iter().map(|one| one.lines).sum();
        let sum: u64 = own.iter().map(|one| one.value).sum();
        let found = (packet.lines, packet.counters.get("sum").map_or(0, |sum| *sum as u64));
        if found != (lines, sum) {
            self.wrong.push(format!("{name}: {}: lines and sum {found:?} of {:?}", shown(packet), (lines, sum)));
        }
        let found = (packet.timed, packet.members as u64);
        let due = (count(|one| one.has_timer), count(|one| one.has_member));
        if found != due {
            self.wrong.push(format!("{name}: {}: values and members {found:?} of {due:?}", shown(packet)));
        }
    }

    /// Longer intervals end at their ticks, or with the first interval after those: not before, unless the disk failed at a stop.
    /// The first interval of all ends one, and after a crash it may be known no more that one has ended.
    fn longer_are_whole(&mut self, name: &str, distinct: &[&Packet]) {
        let World { shape, lives, .. } = self.world;
        let mut before = 0.0;
        for packet in distinct {
            let is_crash = |life: &Life| is_crash(life) && (before..packet.end).contains(&life.ended);
            let ended = tick_after(before, shape.interval * LONGER) <= packet.end + 0.01 || lives.iter().any(is_crash);
            before = packet.end;
            if let Some(id) = ids(packet, "slow.d").next().filter(|_| !ended)
                && !self.has_bad_disk(packet.end - 10.0, packet.end + 4.0)
            {
                self.wrong.push(format!("{name}: {}: slow.d{id} comes before its time", shown(packet)));
            }
        }
    }

    /// Each datagram is in one interval.
    fn once(&mut self, place: usize, distinct: &[&Packet], prefix: &str) {
        let name = &self.world.shape.sinks[place].name;
        let mut found: BTreeMap<usize, Vec<&Packet>> = BTreeMap::new();
        for packet in distinct {
            ids(packet, prefix).for_each(|id| found.entry(id).or_default().push(packet));
        }
        let is_longer = prefix != "d";
        for (id, datagram) in self.world.datagrams.iter().enumerate() {
            if is_longer && !datagram.has_longer {
                continue;
            }
            let all = found.get(&id).map_or(&[][..], Vec::as_slice);
            let at = datagram.at - EPOCH;
            match all.len() {
                1 => {}
                0 => {
                    let fates = match self.closed_in(datagram) {
                        Some(closed) if is_longer => [self.longer_closed_in(closed), self.early_closed_in(closed)],
                        fate => [fate, fate],
                    };
                    let may_lose = |(life, closed)| self.may_lose(place, datagram, life, closed);
                    if let [Some(one), Some(other)] = fates
                        && !may_lose(one)
                        && !may_lose(other)
                    {
                        let (life, closed) = one;
                        let closed = closed - EPOCH;
                        self.wrong.push(format!(
                            "{name}: {prefix}{id} of {at:.3} is lost; it was closed at {closed:.3} in life {life}"
                        ));
                    }
                }
                _ if self.may_double(all) => {}
                _ => {
                    let places: Vec<String> = all.iter().map(|packet| shown(packet)).collect();
                    self.wrong.push(format!("{name}: {prefix}{id} of {at:.3} is in {}", places.join(" and ")));
                }
            }
        }
    }

    fn has_bad_disk(&self, from: f64, until: f64) -> bool {
        overlaps(&self.world.disk_troubles, from, until, DISK_AFTER)
    }

    /// In which life, and when, the interval of a datagram is closed.
    fn closed_in(&self, datagram: &Datagram) -> Fate {
        let World { lives, shape, .. } = self.world;
        let mut at = datagram.at;
        for (n, life) in lives.iter().enumerate().skip(datagram.life) {
            // Another process may have handed over to it since.
            at = at.max(life.born);
            let (tick, (stops, last)) = (tick_after(at, shape.interval), stop_of(life));
            let closed = if last == End::Stopped { tick.min(stops) } else { tick };
            let is_last = n + 1 == lives.len();
            if self.has_bad_disk(at - 1.0, life.ended.min(closed) + 1.0) {
                return None;
            }
            let is_certain = stops >= closed && life.ended >= closed + WITHIN;
            if stops >= closed + SLACK && !is_crash(life) || is_certain {
                return Some((n, closed));
            }
            match life.how {
                End::Stopped => return Some((n, closed)),
                End::HandedOver if is_last => return Some((n, life.ended)),
                End::HandedOver => {}
                End::Killed | End::PowerCut => {
                    let is_kept = shape.keeps_open && life.open > at + SLACK;
                    if !is_kept || life.ended > closed - SLACK || is_last {
                        return None;
                    }
                }
            }
        }
        None
    }

    /// The same of a point of a longer interval, whose interval was closed so.
    fn longer_closed_in(&self, (first, closed): (usize, f64)) -> Fate {
        let World { lives, shape, .. } = self.world;
        let longer = (shape.interval * LONGER) as f64;
        let due = (closed / longer - 1e-9).ceil() * longer;
        for (n, life) in lives.iter().enumerate().skip(first) {
            if self.has_bad_disk(life.born - 1.0, life.ended.min(due) + 1.0) {
                return None;
            }
            // One that is overdue ends with the first interval, which a stop may close.
            let (stops, last) = stop_of(life);
            let mut ends = due.max(tick_after(life.born, shape.interval));
            if last == End::Stopped && stops >= due {
                ends = ends.min(stops);
            }
            if stops >= ends && life.ended >= ends + WITHIN {
                return Some((n, ends));
            }
            if is_crash(life) {
                let is_kept = n > first || life.registry > closed + SLACK;
                if !is_kept || life.ended > ends - SLACK {
                    return None;
                }
            }
        }
        // The world has ended before.
        None
    }

    /// The same if a longer interval should have ended while there was no process: it ends with the first interval then, and with it
    /// what that has. So does the first one of all.
    fn early_closed_in(&self, (first, closed): (usize, f64)) -> Fate {
        let World { lives, shape, .. } = self.world;
        let known = |life: &Life| if is_crash(life) { life.registry } else { stop_of(life).0.min(life.ended) };
        // The last one that closed an interval, as far as the next one knows.
        let closes = |life: &&Life| life.how == End::Stopped || known(life) >= tick_after(life.born, shape.interval);
        let last = lives[..first].iter().rev().find(closes);
        let due = last.map_or(0.0, |last| tick_after(known(last) - shape.interval as f64, shape.interval * LONGER));
        let born = lives[first].born;
        match due <= born && closed <= tick_after(born, shape.interval) {
            true => Some((first, closed)),
            false => self.longer_closed_in((first, closed)),
        }
    }

    /// Whether a receiver may not have an interval that was closed in a life.
    fn may_lose(&self, place: usize, datagram: &Datagram, closed_in: usize, closed: f64) -> bool {
        let World { lives, shape, last_sink, sink_troubles, .. } = self.world;
        let sink = &shape.sinks[place];
        let gathered = f64::from(sink.every - 1) * shape.interval as f64;
        if place + 1 == shape.sinks.len() && last_sink.len() + usize::from(last_sink[0].until < f64::MAX) > 1 {
            let is_there = |there: &Trouble| {
                there.from < datagram.at - 2.0 * shape.interval as f64 && there.until == f64::MAX
                    || there.from < EPOCH + 0.1 && there.until > closed + 10.0 + gathered
            };
            let stays = last_sink.last().is_some_and(|there| there.until == f64::MAX);
            if !stays || !last_sink.iter().any(is_there) {
                return true;
            }
        }
        let own = &lives[closed_in];
        let near = (datagram.at - 2.0, closed + gathered + 3.0);
        // A bad disk costs nothing that is in memory while its process lives; what is to be in a spool may have to leave.
        if self.has_bad_disk(near.0, near.1) && (sink.has_spool || own.ended < near.1 + 10.0) {
            return true;
        }
        if self.has_bad_disk(own.ended - 10.0, own.ended + 4.0) {
            return true;
        }
        for (n, life) in lives.iter().enumerate().skip(closed_in).filter(|(_, life)| is_crash(life)) {
            let is_young = life.ended < closed + gathered + WITHIN;
            let is_bad = self.has_bad_disk(closed - 1.0, life.ended);
            let in_memory = !sink.has_spool
                && (n > closed_in && life.ended - life.born < 3.0
                    || overlaps(&sink_troubles[place], closed - SINK_AFTER, life.ended, SINK_AFTER));
            // What waited in the queue of a process is loaded once: until it is in the spool it is in memory.
            let is_loaded = n > closed_in && life.ended - life.born < WITHIN;
            if is_young || is_bad || in_memory || is_loaded {
                return true;
            }
        }
        false
    }

    /// Whether an interval may come a second time: the disk did not say in time that what it is taken from is gone, or said that it
    /// is not.
    fn may_double(&self, all: &[&Packet]) -> bool {
        let first = all.iter().map(|packet| packet.end).fold(f64::MAX, f64::min);
        overlaps(&self.world.unanswered, first - 5.0, first + 3.0, DISK_AFTER)
    }

    /// Gauges keep their values, and their ages.
    fn gauges(&mut self, name: &str, distinct: &[&Packet]) {
        let World { shape, datagrams, lives, .. } = self.world;
        let (interval, ttl) = (shape.interval as f64, shape.gauge_ttl as f64);
        for worker in 0..shape.workers {
            let gauge = format!("g{worker}");
            let mut last: Option<usize> = None;
            // When the interval ended that has a value: it is the value's time, also if no process was there meanwhile.
            let mut told_at: HashMap<usize, f64> = HashMap::new();
            for packet in distinct {
                let is_own = |id: &usize| datagrams[*id].has_gauge && datagrams[*id].worker == worker;
                let value = packet.gauges.get(&gauge).map(|value| *value as usize);
                let told = ids(packet, "d").filter(is_own).max();
                let problem = match (told, value) {
                    (Some(told), value) => {
                        last = Some(told);
                        told_at.insert(told, packet.end);
                        (value != Some(told)).then(|| format!("{value:?} is not {told}"))
                    }
                    (None, Some(value)) if !datagrams.get(value).is_some_and(|_| is_own(&value)) => {
                        Some(format!("{value} was never sent"))
                    }
                    (None, Some(value)) => {
                        let age = packet.end - told_at.get(&value).unwrap_or(&(datagrams[value].at + interval));
                        let is_back = last.is_some_and(|last| value < last && !self.may_go_back(last));
                        // What another receiver has of a lost interval is nothing that is known here.
                        last = Some(value);
                        match is_back {
                            true => Some(format!("{value} is older than what it was")),
                            false => (age > ttl + 1.0).then(|| format!("{value} is {age:.3} s old")),
                        }
                    }
                    (None, None) => last.take().and_then(|last| {
                        let age = packet.end - datagrams[last].at;
                        let is_early = age < ttl - 0.5 && !self.may_go_back(last);
                        is_early.then(|| format!("{last} is forgotten after {age:.3} s"))
                    }),
                };
                if let Some(problem) = problem {
                    self.wrong.push(format!("{name}: {}: {gauge}: {problem}; lives {}", shown(packet), lives.len()));
                }
            }
        }
    }

    /// Whether a crash may have cost what a datagram told of a gauge.
    fn may_go_back(&self, id: usize) -> bool {
        let World { lives, datagrams, .. } = self.world;
        let datagram = &datagrams[id];
        let crash = |life: &Life| {
            let was_saved = datagram.life < lives.len()
                && life.registry > tick_after(datagram.at, self.world.shape.interval) + SLACK;
            is_crash(life) && life.ended > datagram.at && !was_saved
        };
        datagram.life == NOBODY
            || lives.iter().skip(datagram.life).take(1).any(crash)
            || lives.get(datagram.life).is_none_or(|life| life.how == End::HandedOver)
                && lives.iter().skip(datagram.life + 1).take(1).any(crash)
            || self.has_bad_disk(datagram.at - 5.0, datagram.at + 60.0)
    }

    /// The intervals are as long as processes received.
    fn lengths(&mut self, place: usize, distinct: &[&Packet]) {
        let World { shape, lives, last_sink, figures, unanswered, .. } = self.world;
        let name = &shape.sinks[place].name;
        let all: f64 = distinct.iter().map(|packet| packet.secs).sum();
        let lived: f64 = lives.iter().map(|life| life.ended - life.reads).sum();
        let is_whole = !lives.iter().any(is_crash)
            && self.world.disk_troubles.is_empty()
            && last_sink[0].until == f64::MAX
            && !figures.contains_key("starts that failed");
        // A process takes a moment to stop when it has closed its last interval.
        let most_stops = 10.0 * lives.len() as f64;
        // An interval that comes a second time.
        let twice =
            lives.iter().filter(|life| is_crash(life) && overlaps(unanswered, life.ended, life.ended, DISK_AFTER));
        let most = lived + (twice.count() as u64 * shape.interval) as f64 + 0.5;
        if all > most || is_whole && all < lived - most_stops {
            self.wrong.push(format!("{name}: its intervals have {all:.3} s, and processes received for {lived:.3} s"));
        }
        for pair in distinct.windows(2) {
            if pair[1].end - pair[1].secs < pair[0].end - 1.0 {
                self.wrong.push(format!("{name}: {} begins before {} ends", shown(pair[1]), shown(pair[0])));
            }
        }
    }

    /// The first interval after a crash says so, and no other.
    fn crashes_are_told(&mut self, name: &str, distinct: &[&Packet]) {
        let World { shape, lives, figures, .. } = self.world;
        if figures.contains_key("starts that failed") {
            return;
        }
        let mut due = BTreeSet::new();
        // The first of some crashes that were not told, perhaps; and the same where it is certain.
        let (mut perhaps, mut surely): (Option<&Life>, Option<&Life>) = (None, None);
        for pair in lives.windows(2) {
            let (last, next) = (&pair[0], &pair[1]);
            // By its first interval, which a stop may close.
            let told = tick_after(last.born, shape.interval).min(stop_of(last).0);
            let is_late = last.ended < told + 1.0 || self.has_bad_disk(last.born - 1.0, last.ended);
            let first_life = perhaps.filter(|_| is_late).unwrap_or(last);
            // One that was killed in its last moment has stopped, perhaps.
            let is_untold = |first: &&Life| first.stops.is_none() && last.ended < told - SLACK;
            let first_untold = surely.filter(is_untold).unwrap_or(last);
            (perhaps, surely) = (is_crash(last).then_some(first_life), is_crash(last).then_some(first_untold));
            if !is_crash(last) || self.has_bad_disk(last.born - 1.0, next.born + 1.0) {
                continue;
            }
            // Those who hand over leave it to the one that closes the interval.
            let mut closing = lives.iter().skip_while(|life| life.born < next.born);
            let closing = closing
                .find(|life| {
                    life.how != End::HandedOver || stop_of(life).0 > tick_after(life.born, shape.interval) + SLACK
                })
                .unwrap_or(next);
            // If it dies before, the one after it tells of that.
            let until = tick_after(closing.born, shape.interval).min(closing.ended);
            let first = distinct.iter().find(|packet| packet.end >= next.born - 1e-6 && packet.end <= until + 0.01);
            // One that was killed in its last moment has stopped, perhaps; and one in its first has not begun.
            let is_unknown =
                |first: &&&Packet| (last.stops.is_some() || last.ended - last.born < 1e-3) && first.unclean.is_none();
            let Some(first) = first.filter(|first| !is_unknown(first)) else { continue };
            due.insert(first.id);
            let most = next.born - first_life.born + 0.5;
            let is_certain = !std::ptr::eq(first_untold, last);
            let least = if is_certain { next.born - first_untold.ended - SLACK } else { 0.0 };
            if !first.unclean.is_some_and(|secs| (least..most).contains(&secs)) {
                self.wrong.push(format!(
                    "{name}: {} tells {:?} of a crash, and not {least:.3} to {most:.3}",
                    shown(first),
                    first.unclean
                ));
            }
        }
        for packet in distinct.iter().filter(|packet| packet.unclean.is_some() && !due.contains(&packet.id)) {
            if !self.has_bad_disk(packet.end - 60.0, packet.end + 4.0) {
                self.wrong.push(format!("{name}: {} tells of a crash", shown(packet)));
            }
        }
    }

    /// Totals never go down, and begin anew only after a crash.
    fn totals(&mut self, place: usize, distinct: &[&Packet], told: &[super::receiver::Told]) {
        let World { shape, lives, last_sink, figures, .. } = self.world;
        let name = &shape.sinks[place].name;
        let mut highest: BTreeMap<u64, f64> = BTreeMap::new();
        for one in told {
            let most = highest.entry(one.start).or_insert(0.0);
            if one.total < *most {
                self.wrong.push(format!("{name}: the total falls from {most} to {}", one.total));
            }
            *most = most.max(one.total);
        }
        // Sinks of totals take no interval before an older one.
        let is_whole = !lives.iter().any(is_crash)
            && shape.sinks[place].order == Order::Strict
            && self.world.disk_troubles.is_empty()
            && last_sink[0].until == f64::MAX
            && !figures.contains_key("starts that failed");
        let sum: f64 = distinct.iter().filter_map(|packet| packet.counters.get("sum")).sum();
        let total: f64 = highest.values().sum();
        if is_whole && (highest.len() > 1 || total != sum) {
            self.wrong.push(format!("{name}: totals {highest:?} of {sum}"));
        }
    }
}

/// The datagrams that an interval has.
fn ids<'a>(packet: &'a Packet, prefix: &'a str) -> impl Iterator<Item = usize> + 'a {
    packet.counters.keys().filter_map(move |name| name.strip_prefix(prefix)?.parse().ok())
}

fn shown(packet: &Packet) -> String {
    format!("the interval {} that ended at {:.3} and came at {:.3}", packet.id.0, packet.end - EPOCH, packet.at - EPOCH)
}
