//! The slots of a stream listener's connections: how many there may be, in all and for each address, and which connection
//! gives way to a new one when there is none left.
//!
//! Those that never sent a whole line go first, in the order of their coming; then those that have been longest without
//! one. So connections that say nothing, however many and however slowly they drip, keep nobody out, and drive away no
//! client that has proven to be one. Whoever has sent a whole line within [`ACTIVE`] stays, and so does who came within
//! [`YOUNG`].
//!
//! Time is an argument.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::ports::machine;
use crate::sys::{Descriptors, Permit};
use crate::telemetry::Refusal;

/// A connection with a whole line within this time does not give way.
const ACTIVE: Duration = Duration::from_secs(1);

/// A connection that is so young may be about to send its first line, or has sent it and nobody has looked.
pub(super) const YOUNG: Duration = Duration::from_millis(20);

/// The slots of a listener. Clones are the same.
#[derive(Clone)]
pub(super) struct Slots(Rc<Limits>);

struct Limits {
    in_all: usize,
    per_address: usize,
    descriptors: Descriptors,
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
    /// Those without a whole line that were not asked, in the order of their coming.
    silent: BTreeMap<u64, Rc<Slot>>,
}

/// What is known of a connection.
struct Slot {
    machine: Option<IpAddr>,
    /// When it sent a whole line last; before the first, when it was accepted.
    last_line: Cell<Instant>,
    has_lines: Cell<bool>,
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

    /// Which connection is to give way, of an address or of all, unless one is about to.
    fn victim(&self, machine: Option<IpAddr>) -> Option<(u64, Rc<Slot>)> {
        let group = machine.map_or(Some(&self.all), |machine| self.by_machine.get(&machine))?;
        if group.leaving > 0 {
            return None;
        }
        let longest = || {
            let those = self.taken.iter().filter(|(_, slot)| machine.is_none() || slot.machine == machine);
            those.min_by_key(|(_, slot)| slot.last_line.get())
        };
        group.silent.first_key_value().or_else(longest).map(|(number, slot)| (*number, Rc::clone(slot)))
    }
}

impl Slots {
    pub(super) fn new(in_all: usize, per_address: usize, descriptors: Descriptors) -> Slots {
        Slots(Rc::new(Limits { in_all, per_address, descriptors, table: RefCell::default() }))
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
        if of_machine >= limits.per_address {
            return Err(Refusal::PerAddress);
        }
        if table.all.held >= limits.in_all {
            return Err(Refusal::Full);
        }
        let permit = limits.descriptors.try_take().ok_or(Refusal::Full)?;
        let slot = Rc::new(Slot {
            machine,
            last_line: Cell::new(now),
            has_lines: Cell::new(false),
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
        Ok(HeldSlot { limits: Rc::clone(&self.0), number, slot, _permit: permit })
    }

    /// Asks a connection to leave, because there was no slot for one from this address, unless one is about to.
    pub(super) fn make_room(&self, why: Refusal, from: Option<IpAddr>, now: Instant) {
        let of = if why == Refusal::PerAddress { from.map(machine) } else { None };
        let mut table = self.0.table.borrow_mut();
        let Some((number, victim)) = table.victim(of) else { return };
        let stays = if victim.has_lines.get() { ACTIVE } else { YOUNG };
        if now.saturating_duration_since(victim.last_line.get()) >= stays {
            victim.asked.set(Some(why));
            victim.wake.notify_one();
            table.of(victim.machine, |group| {
                group.leaving += 1;
                group.silent.remove(&number);
            });
        }
    }
}

/// The slot of a connection, which is free again when this is dropped.
pub(super) struct HeldSlot {
    limits: Rc<Limits>,
    number: u64,
    slot: Rc<Slot>,
    _permit: Permit,
}

impl HeldSlot {
    /// A whole line has come.
    pub(super) fn note_line(&self, now: Instant) {
        self.slot.last_line.set(now);
        if !self.slot.has_lines.replace(true) {
            let mut table = self.limits.table.borrow_mut();
            table.of(self.slot.machine, |group| drop(group.silent.remove(&self.number)));
        }
    }

    /// When it sent a whole line last; before the first, when it was accepted.
    pub(super) fn last_line(&self) -> Instant {
        self.slot.last_line.get()
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
        let (slots, start) = (Slots::new(4, 4, Descriptors::for_port()), Instant::now());
        let at = |n: u64| start + secs(n);
        let take = |n: u64| slots.take(from("192.0.2.1"), at(n)).expect("a slot");
        let (client, silent, other, late) = (take(0), take(1), take(2), take(3));
        client.note_line(at(4));
        other.note_line(at(5));
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
        let (slots, start) = (Slots::new(1, 1, Descriptors::for_port()), Instant::now());
        let client = slots.take(None, start).expect("a slot");
        slots.make_room(Refusal::Full, None, start + YOUNG / 2);
        assert_eq!(client.asked(), None);
        client.note_line(start + secs(9));
        slots.make_room(Refusal::Full, None, start + secs(9));
        assert_eq!(client.asked(), None);
        slots.make_room(Refusal::Full, None, start + secs(10));
        assert_eq!(client.asked(), Some(Refusal::Full));
    }

    #[test]
    fn an_address_that_has_its_share_makes_room_of_its_own() {
        let (slots, now) = (Slots::new(9, 2, Descriptors::for_port()), Instant::now());
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
}
