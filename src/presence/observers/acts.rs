//! What operators have done, here or elsewhere: announced maintenance, and had somebody forgotten. Of two acts about the same
//! the later one holds, on all nodes.

use std::collections::VecDeque;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::presence::engine::Engine;
use crate::presence::evidence::Act;
use crate::presence::time::EngineTime;

use super::digest::{ActRow, MOST_ACTS};

/// Acts are remembered for so many seconds.
const ACTS_SECS: f64 = 86_400.0;

/// The same that was announced to two nodes within so many seconds is one act.
const ONE_ACT_SECS: f64 = 1.0;

/// Which act it is. Two of one node have an order, whatever their ages seem to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActId {
    /// The node where it happened.
    pub node: CompactString,
    /// Which start of that node it was.
    pub start: u64,
    /// Its place among the acts of that start.
    pub number: u64,
}

/// An act that is known.
#[derive(Debug)]
struct Known {
    /// Number of the change.
    change: u64,
    id: ActId,
    act: Act,
    /// It is about somebody who is not known here yet.
    is_due: bool,
}

impl Known {
    fn is_about(&self, act: &Act) -> bool {
        let is_of_kind = self.act.maintenance.is_some() == act.maintenance.is_some();
        is_of_kind && self.act.service == act.service && self.act.instance == act.instance
    }

    /// Whether it holds against another one about the same, whose time is up to `margin` seconds later than it seems.
    fn holds_against(&self, id: &ActId, act: &Act, margin: f64) -> bool {
        if self.id.node == id.node {
            return (self.id.start, self.id.number) >= (id.start, id.number);
        }
        let later_by = act.at - self.act.at;
        if self.act.maintenance == act.maintenance && later_by.abs() <= ONE_ACT_SECS + margin {
            return true;
        }
        // If nobody can tell which was first, all nodes choose the same.
        if later_by.abs() <= margin { self.id.node > id.node } else { later_by < 0.0 }
    }
}

/// All acts of late.
#[derive(Debug)]
pub(super) struct Acts {
    node: CompactString,
    start: u64,
    /// Acts of this start.
    count: u64,
    all: VecDeque<Known>,
}

impl Acts {
    /// Those of a node in one of its starts.
    pub(super) fn new(node: &str, start: u64) -> Acts {
        Acts { node: node.into(), start, count: 0, all: VecDeque::new() }
    }

    /// Remembers what an operator has done here.
    pub(super) fn note_own(&mut self, act: Act, last_change: &mut u64) {
        self.count += 1;
        let id = ActId { node: self.node.clone(), start: self.start, number: self.count };
        self.note(id, act, false, last_change);
    }

    fn note(&mut self, id: ActId, act: Act, is_due: bool, last_change: &mut u64) {
        self.all.retain(|known| !known.is_about(&act) && act.at - known.act.at < ACTS_SECS);
        if self.all.len() == MOST_ACTS {
            self.all.pop_front();
        }
        *last_change += 1;
        self.all.push_back(Known { change: *last_change, id, act, is_due });
    }

    /// Takes what a peer tells, which was asked for at `asked` and has been answered by now, unless a later act holds.
    pub(super) fn take(&mut self, row: ActRow, engine: &mut Engine, asked: EngineTime, last_change: &mut u64) {
        let ActRow { id, service, instance, age, maintenance } = row;
        let act = Act { at: asked - age, service, instance, maintenance };
        let margin = (engine.now() - asked).max(0.0);
        let is_ours = id.node == self.node && id.start == self.start;
        let holds = |known: &Known| known.is_about(&act) && known.holds_against(&id, &act, margin);
        if is_ours || self.all.iter().any(holds) {
            return;
        }
        let is_due = match maintenance {
            Some(_) => !maintain(&act, engine),
            None => {
                engine.forget_elsewhere(&act.service, act.instance.as_deref(), act.at);
                false
            }
        };
        self.note(id, act, is_due, last_change);
    }

    /// Lets time pass: what was announced of somebody who was not known here holds as soon as that one is.
    pub(super) fn tick(&mut self, engine: &mut Engine) {
        for known in self.all.iter_mut().filter(|known| known.is_due) {
            known.is_due = !maintain(&known.act, engine);
        }
    }

    /// Whether an instance, or a service, was forgotten at a time or later.
    pub(super) fn is_forgotten(&self, service: &str, instance: Option<&str>, at: EngineTime) -> bool {
        is_forgotten(self.all.iter().map(|known| &known.act), service, instance, at)
    }

    /// What was done between two changes, the second one included, as it is told to a peer.
    pub(super) fn rows(&self, after: u64, until: u64, now: EngineTime) -> Vec<ActRow> {
        let new = self.all.iter().filter(|known| known.change > after && known.change <= until);
        let row = |Known { id, act, .. }: &Known| ActRow {
            id: id.clone(),
            service: act.service.clone(),
            instance: act.instance.clone(),
            age: (now - act.at).max(0.0),
            maintenance: act.maintenance,
        };
        new.map(row).collect()
    }
}

fn is_forgotten<'a>(
    mut acts: impl Iterator<Item = &'a Act>,
    service: &str,
    instance: Option<&str>,
    at: EngineTime,
) -> bool {
    let is_of_it = |act: &Act| act.instance.is_none() || act.instance.as_deref() == instance;
    acts.any(|act| act.maintenance.is_none() && act.service == service && is_of_it(act) && act.at >= at)
}

/// Announces what is left of a maintenance; `false` if it is about somebody who is not known.
fn maintain(act: &Act, engine: &mut Engine) -> bool {
    let left = act.at + act.maintenance.unwrap_or(0.0) - engine.now();
    // The end of one is over at once, and so is what nobody was there for.
    let is_over = left <= 0.0;
    engine.maintain(&act.service, act.instance.as_deref(), left.max(0.0)).is_some() || is_over
}
