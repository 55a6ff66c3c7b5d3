//! The slots of a stream listener's connections: how many there may be, in all and for each address, and which connection
//! gives way to a new one when there is none left.
//!
//! Those that never sent a good line go first, in the order of their coming; then those that have been longest without
//! one. So connections that say nothing, however many and however slowly they drip, keep nobody out, and drive away no
//! client that has proven to be one: blank and malformed lines prove nothing. Whoever has sent a good line within [`ACTIVE`]
//! stays, and so does who came within [`YOUNG`].
//!
//! When connections have more than their share of the memory, those with the longest unfinished lines go, whatever they
//! have sent before.
//!
//! Time is an argument.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::memory::{Holder, Holding, Memory, footprint};
use crate::ports::machine;
use crate::sys::{Descriptors, Permit};
use crate::telemetry::Refusal;

/// A connection with a good line within this time does not give way.
const ACTIVE: Duration = Duration::from_secs(1);

/// A connection that is so young may be about to send its first line, or has sent it and nobody has looked.
pub(super) const YOUNG: Duration = Duration::from_millis(20);

/// Bytes of a connection beside its task and its buffers: the socket in the runtime, and its slot.
const SLOT_BYTES: usize = 700;

/// A connection that holds less than this beside its task leaves no room when it goes.
const WORTH_BYTES: usize = 4 << 10;

/// The slots of a listener. Clones are the same.
#[derive(Clone)]
pub(super) struct Slots(Rc<Limits>);

struct Limits {
    in_all: Cell<usize>,
    per_address: Cell<usize>,
    descriptors: Descriptors,
    /// What all connections of the listener hold.
    holding: Holding,
    /// Bytes of the task of one.
    task_bytes: Cell<usize>,
    table: RefCell<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    taken: HashMap<u64, Rc<Slot>>,
    /// Those of all addresses.
    all: Group,
    /// Those of each address that has any.
    by_machine: HashMap<IpAddr, Group>,
}

/// Connections among which one gives way. To find it in a flood of them costs no look at all others.
#[derive(Default)]
struct Group {
    held: usize,
    /// Those that were asked to leave and are still here.
    leaving: usize,
    /// Those without a good line that were not asked, in the order of their coming.
    silent: BTreeMap<u64, Rc<Slot>>,
}

/// What is known of a connection.
struct Slot {
    machine: Option<IpAddr>,
    /// When it sent a whole line last; before the first, when it was accepted.
    last_line: Cell<Instant>,
    /// The same of good lines.
    last_good: Cell<Instant>,
    is_proven: Cell<bool>,
    /// Bytes of its buffers.
    buffers: Cell<usize>,
    /// Why it was asked to leave.
    asked: Cell<Option<Refusal>>,
    wake: Notify,
}

impl Table {
    /// Calls with the groups that a connection belongs to.
    fn of(&mut self, machine: Option<IpAddr>, mut change: impl FnMut(&mut Group)) {
        change(&mut self.all);
        if let Some(machine) = machine {
            let group = self.by_machine.entry(machine).or_default();
            change(group);
            if group.held == 0 {
                self.by_machine.remove(&machine);
            }
        }
    }

    /// Asks a connection to leave.
    fn ask(&mut self, number: u64, slot: &Slot, why: Refusal) {
        slot.asked.set(Some(why));
        slot.wake.notify_one();
        self.of(slot.machine, |group| {
            group.leaving += 1;
            group.silent.remove(&number);
        });
    }

    /// Which connection is to give way, of an address or of all, unless one is about to.
    fn victim(&self, machine: Option<IpAddr>) -> Option<(u64, Rc<Slot>)> {
        let group = machine.map_or(Some(&self.all), |machine| self.by_machine.get(&machine))?;
        if group.leaving > 0 {
            return None;
        }
        let longest = || {
            let those = self.taken.iter().filter(|(_, slot)| machine.is_none() || slot.machine == machine);
            those.min_by_key(|(_, slot)| slot.last_good.get())
        };
        group.silent.first_key_value().or_else(longest).map(|(number, slot)| (*number, Rc::clone(slot)))
    }
}

impl Slots {
    pub(super) fn new(in_all: usize, per_address: usize, descriptors: Descriptors, memory: &Memory) -> Slots {
        let (holding, task_bytes) = (memory.holding(Holder::Connections), Cell::new(0));
        let (in_all, per_address) = (Cell::new(in_all), Cell::new(per_address));
        Slots(Rc::new(Limits { in_all, per_address, descriptors, holding, task_bytes, table: RefCell::default() }))
    }

    /// How many there may be from now on; those that are there stay.
    pub(super) fn set_limits(&self, in_all: usize, per_address: usize) {
        self.0.in_all.set(in_all);
        self.0.per_address.set(per_address);
    }

    /// Notes how many bytes the task of a connection has.
    pub(super) fn note_task(&self, bytes: usize) {
        self.0.task_bytes.set(footprint(bytes));
    }

    /// A slot for a connection from this address, if it has one.
    ///
    /// # Errors
    /// Why there is none for now.
    pub(super) fn take(&self, from: Option<IpAddr>, now: Instant) -> Result<HeldSlot, Refusal> {
        let limits = &*self.0;
        let mut table = limits.table.borrow_mut();
        let machine = from.map(machine);
        let of_machine = machine.and_then(|machine| table.by_machine.get(&machine)).map_or(0, |group| group.held);
        if of_machine >= limits.per_address.get() {
            return Err(Refusal::PerAddress);
        }
        if table.all.held >= limits.in_all.get() {
            return Err(Refusal::Full);
        }
        let bytes = limits.slot_bytes();
        if limits.holding.would_exceed(bytes as u64) {
            return Err(Refusal::Memory);
        }
        let permit = limits.descriptors.try_take().ok_or(Refusal::Full)?;
        limits.holding.add(bytes as u64);
        let slot = Rc::new(Slot {
            machine,
            last_line: Cell::new(now),
            last_good: Cell::new(now),
            is_proven: Cell::new(false),
            buffers: Cell::new(0),
            asked: Cell::new(None),
            wake: Notify::new(),
        });
        let number = table.next;
        table.next += 1;
        table.of(machine, |group| {
            group.held += 1;
            group.silent.insert(number, Rc::clone(&slot));
        });
        table.taken.insert(number, Rc::clone(&slot));
        Ok(HeldSlot { limits: Rc::clone(&self.0), number, slot, bytes, _permit: permit })
    }

    /// Asks a connection to leave, because there was no slot for one from this address, unless one is about to. For want of
    /// memory that is the one with the longest unfinished line, if there is a long one.
    pub(super) fn make_room(&self, why: Refusal, from: Option<IpAddr>, now: Instant) {
        if why == Refusal::Memory && self.0.relieve(self.0.slot_bytes()) {
            return;
        }
        let of = if why == Refusal::PerAddress { from.map(machine) } else { None };
        let mut table = self.0.table.borrow_mut();
        let Some((number, victim)) = table.victim(of) else { return };
        let stays = if victim.is_proven.get() { ACTIVE } else { YOUNG };
        if now.saturating_duration_since(victim.last_good.get()) >= stays {
            table.ask(number, &victim, why);
        }
    }

    /// Whether a connection that was asked to leave is still here.
    pub(super) fn is_one_leaving(&self) -> bool {
        self.0.table.borrow().all.leaving > 0
    }
}

impl Limits {
    /// Bytes of a connection beside its buffers.
    fn slot_bytes(&self) -> usize {
        SLOT_BYTES + self.task_bytes.get()
    }

    /// Asks connections to leave as long as all together, with so many bytes more, would still have more than their share,
    /// those with the largest buffers first. Whether that makes the room.
    fn relieve(&self, more: usize) -> bool {
        let mut table = self.table.borrow_mut();
        let is_leaving = |slot: &&Rc<Slot>| slot.asked.get().is_some();
        let mut leaving: usize = table.taken.values().filter(is_leaving).map(|slot| slot.buffers.get()).sum();
        let held = self.holding.memory().bytes(Holder::Connections) + more as u64;
        while held.saturating_sub(leaving as u64) > self.holding.cap() {
            let those = table.taken.iter().filter(|(_, slot)| !is_leaving(slot));
            let largest = those.max_by_key(|(_, slot)| slot.buffers.get());
            let Some((number, slot)) = largest.map(|(number, slot)| (*number, Rc::clone(slot))) else { return false };
            if slot.buffers.get() < WORTH_BYTES {
                return false;
            }
            leaving += slot.buffers.get();
            table.ask(number, &slot, Refusal::Memory);
        }
        true
    }
}

/// The slot of a connection, which is free again when this is dropped.
pub(super) struct HeldSlot {
    limits: Rc<Limits>,
    number: u64,
    slot: Rc<Slot>,
    /// Bytes that were published for it, beside its buffers.
    bytes: usize,
    _permit: Permit,
}

impl HeldSlot {
    /// Whole lines have come, and whether one of them is good.
    pub(super) fn note_line(&self, is_good: bool, now: Instant) {
        self.slot.last_line.set(now);
        if !is_good {
            return;
        }
        self.slot.last_good.set(now);
        if !self.slot.is_proven.replace(true) {
            let mut table = self.limits.table.borrow_mut();
            table.of(self.slot.machine, |group| drop(group.silent.remove(&self.number)));
        }
    }

    /// When it sent a whole line last; before the first, when it was accepted.
    pub(super) fn last_line(&self) -> Instant {
        self.slot.last_line.get()
    }

    /// Publishes how many bytes its buffers have. `false` if all connections have more than their share now, and it has come to
    /// hold more than before.
    pub(super) fn hold(&self, buffers: usize) -> bool {
        let before = self.slot.buffers.replace(buffers);
        if buffers < before {
            self.limits.holding.sub((before - buffers) as u64);
        } else if buffers > before {
            self.limits.holding.add((buffers - before) as u64);
            return !self.limits.holding.is_over();
        }
        true
    }

    /// Asks those with the largest buffers to leave, until there is room.
    pub(super) fn relieve(&self) {
        let _ = self.limits.relieve(0);
    }

    /// Why it was asked to leave, if it was.
    pub(super) fn asked(&self) -> Option<Refusal> {
        self.slot.asked.get()
    }

    /// Waits until it is asked to leave.
    pub(super) async fn wait(&self) {
        while self.slot.asked.get().is_none() {
            self.slot.wake.notified().await;
        }
    }
}

impl Drop for HeldSlot {
    fn drop(&mut self) {
        self.limits.holding.sub((self.bytes + self.slot.buffers.get()) as u64);
        let mut table = self.limits.table.borrow_mut();
        let was_asked = self.slot.asked.get().is_some();
        table.taken.remove(&self.number);
        table.of(self.slot.machine, |group| {
            group.held -= 1;
            group.leaving -= usize::from(was_asked);
            group.silent.remove(&self.number);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn from(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn those_without_a_whole_line_give_way_first_then_those_longest_without_one() {
        let (slots, start) = (Slots::new(4, 4, Descriptors::for_port(), &Memory::unlimited()), Instant::now());
        let at = |n: u64| start + secs(n);
        let take = |n: u64| slots.take(from("192.0.2.1"), at(n)).expect("a slot");
        let (client, silent, other, late) = (take(0), take(1), take(2), take(3));
        client.note_line(true, at(4));
        other.note_line(true, at(5));
        let mut order = Vec::new();
        let mut left = vec![("client", client), ("silent", silent), ("other", other), ("late", late)];
        while !left.is_empty() {
            assert_eq!(
                slots.take(from("192.0.2.2"), at(60)).map(drop),
                if left.len() == 4 { Err(Refusal::Full) } else { Ok(()) }
            );
            slots.make_room(Refusal::Full, from("192.0.2.2"), at(60));
            // One at a time.
            slots.make_room(Refusal::Full, from("192.0.2.2"), at(60));
            assert_eq!(left.iter().filter(|(_, slot)| slot.asked().is_some()).count(), 1);
            let asked = left.iter().position(|(_, slot)| slot.asked() == Some(Refusal::Full)).expect("one");
            order.push(left.remove(asked).0);
        }
        assert_eq!(order, ["silent", "late", "client", "other"]);
        assert!(slots.0.table.borrow().by_machine.is_empty());
    }

    #[test]
    fn whoever_sends_lines_stays_and_so_does_who_came_a_moment_ago() {
        let (slots, start) = (Slots::new(1, 1, Descriptors::for_port(), &Memory::unlimited()), Instant::now());
        let client = slots.take(None, start).expect("a slot");
        slots.make_room(Refusal::Full, None, start + YOUNG / 2);
        assert_eq!(client.asked(), None);
        client.note_line(true, start + secs(9));
        slots.make_room(Refusal::Full, None, start + secs(9));
        assert_eq!(client.asked(), None);
        slots.make_room(Refusal::Full, None, start + secs(10));
        assert_eq!(client.asked(), Some(Refusal::Full));
    }

    #[test]
    fn an_address_that_has_its_share_makes_room_of_its_own() {
        let (slots, now) = (Slots::new(9, 2, Descriptors::for_port(), &Memory::unlimited()), Instant::now());
        let other = slots.take(from("2001:db8:0:1::1"), now).expect("a slot");
        // One machine of IPv6 has a whole network; IPv4 may come in either form.
        let first = slots.take(from("2001:db8::1"), now + secs(1)).expect("a slot");
        let _second = slots.take(from("2001:db8::2"), now + secs(2)).expect("a slot");
        let third = from("2001:db8::3");
        assert_eq!(slots.take(third, now).map(drop), Err(Refusal::PerAddress));
        slots.make_room(Refusal::PerAddress, third, now + secs(3));
        assert_eq!((other.asked(), first.asked()), (None, Some(Refusal::PerAddress)));
        drop(first);
        let _third = slots.take(third, now).expect("its slot");
        let _mapped = slots.take(from("::ffff:192.0.2.1"), now).expect("a slot");
        let _plain = slots.take(from("192.0.2.1"), now).expect("a slot");
        assert_eq!(slots.take(from("192.0.2.1"), now).map(drop), Err(Refusal::PerAddress));
        // Unix sockets have no addresses.
        let _unix: Vec<_> = (0..4).map(|_| slots.take(None, now).expect("a slot")).collect();
        assert_eq!(slots.take(None, now).map(drop), Err(Refusal::Full));
    }

    #[test]
    fn blank_and_malformed_lines_prove_nothing() {
        let (slots, start) = (Slots::new(2, 2, Descriptors::for_port(), &Memory::unlimited()), Instant::now());
        let (client, noisy) = (slots.take(None, start).expect("a slot"), slots.take(None, start).expect("a slot"));
        client.note_line(true, start + secs(1));
        noisy.note_line(false, start + secs(9));
        slots.make_room(Refusal::Full, None, start + secs(9));
        assert_eq!((client.asked(), noisy.asked()), (None, Some(Refusal::Full)));
        // To be idle is another thing.
        assert_eq!(noisy.last_line(), start + secs(9));
    }

    #[test]
    fn the_longest_unfinished_lines_go_when_connections_have_more_than_their_share() {
        let memory = Memory::new(1 << 20);
        let (slots, start) = (Slots::new(99, 99, Descriptors::for_port(), &memory), Instant::now());
        let all: Vec<HeldSlot> = (0..4).map(|_| slots.take(None, start).expect("a slot")).collect();
        let cap = memory.cap(Holder::Connections) as usize;
        // Lines a moment ago are no reason to stay.
        all.iter().for_each(|slot| slot.note_line(true, start));
        assert!(all[0].hold(cap / 10) && all[1].hold(cap / 2) && all[2].hold(100));
        assert!(!all[3].hold(cap / 3 * 2));
        all[3].relieve();
        let asked: Vec<_> = all.iter().map(HeldSlot::asked).collect();
        assert_eq!(asked, [None, None, None, Some(Refusal::Memory)]);
        // What is about to go counts no more, and nobody new gets in before.
        all[2].relieve();
        assert_eq!(all[1].asked(), None);
        assert_eq!(slots.take(None, start).map(drop), Err(Refusal::Memory));
        drop(all);
        assert_eq!(memory.bytes(Holder::Connections), 0);
        assert!(slots.take(None, start).is_ok());
    }

    #[test]
    fn a_long_unfinished_line_gives_way_to_whoever_comes() {
        let memory = Memory::new(1 << 20);
        let (slots, start) = (Slots::new(99, 99, Descriptors::for_port(), &memory), Instant::now());
        let all: Vec<HeldSlot> = (0..3).map(|_| slots.take(None, start).expect("a slot")).collect();
        let cap = memory.cap(Holder::Connections) as usize;
        all.iter().for_each(|slot| slot.note_line(true, start));
        let left = cap - memory.bytes(Holder::Connections) as usize;
        // They have exactly their share: nobody is asked for what is held already.
        assert!(all[0].hold(left / 3) && all[1].hold(left - left / 3));
        all[1].relieve();
        assert_eq!(slots.take(None, start).map(drop), Err(Refusal::Memory));
        slots.make_room(Refusal::Memory, None, start);
        slots.make_room(Refusal::Memory, None, start);
        let asked: Vec<_> = all.iter().map(HeldSlot::asked).collect();
        assert_eq!(asked, [None, Some(Refusal::Memory), None]);
    }
}
