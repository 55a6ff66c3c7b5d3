//! What operators have done, here or elsewhere: announced maintenance, and had somebody forgotten. Of two acts about the same
//! the later one holds, on all nodes.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::memory::map_footprint;
use crate::presence::engine::Engine;
use crate::presence::evidence::Act;
use crate::presence::text_bytes;
use crate::presence::time::EngineTime;

use super::digest::ActRow;

/// Most acts that are remembered, and for how many seconds.
const MOST_ACTS: usize = 1_000;
const ACTS_SECS: f64 = 86_400.0;

/// The same that was announced to two nodes within so many seconds is one act.
const ONE_ACT_SECS: f64 = 1.0;

/// Which act it is. Two of one start of a node have an order, whatever their ages seem to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActId {
    /// The node where it happened.
    pub node: CompactString,
    /// Which start of that node it was.
    pub start: u64,
    /// Its place among the acts of that start.
    pub number: u64,
}

/// What an act is about: whether it is a maintenance, a service, and one of its instances or all of it.
type About = (bool, CompactString, Option<CompactString>);

/// An act that is known.
#[derive(Debug)]
struct Known {
    id: ActId,
    act: Act,
    /// It is about somebody who is not known here yet.
    is_due: bool,
}

impl Known {
    /// Whether it holds against another one about the same, whose time is up to `margin` seconds later than it seems.
    fn holds_against(&self, id: &ActId, act: &Act, margin: f64) -> bool {
        let start = |id: &ActId| (id.node.clone(), id.start);
        if start(&self.id) == start(id) {
            return self.id.number >= id.number;
        }
        // The start is a time of the node's clock, which may have been set back since.
        let later_by = act.at - self.act.at;
        if self.act.maintenance == act.maintenance && later_by.abs() <= ONE_ACT_SECS + margin {
            return true;
        }
        // If nobody can tell which was first, all nodes choose the same.
        if later_by.abs() <= margin { start(&self.id) > start(id) } else { later_by < 0.0 }
    }
}

/// All acts of late.
#[derive(Debug)]
pub(super) struct Acts {
    node: CompactString,
    start: u64,
    /// Acts of this start.
    count: u64,
    /// By the number of the change, and that by what they are about.
    all: BTreeMap<u64, Known>,
    changes: HashMap<About, u64>,
}

impl Acts {
    /// Those of a node in one of its starts.
    pub(super) fn new(node: &str, start: u64) -> Acts {
        Acts { node: node.into(), start, count: 0, all: BTreeMap::new(), changes: HashMap::new() }
    }

    /// Remembers what an operator has done here.
    pub(super) fn note_own(&mut self, act: Act, last_change: &mut u64) {
        self.count += 1;
        let id = ActId { node: self.node.clone(), start: self.start, number: self.count };
        self.note(id, act, false, last_change);
    }

    fn note(&mut self, id: ActId, act: Act, is_due: bool, last_change: &mut u64) {
        *last_change += 1;
        let at = act.at;
        if let Some(before) = self.changes.insert(about(&act), *last_change) {
            self.all.remove(&before);
        }
        self.all.insert(*last_change, Known { id, act, is_due });
        while let Some(oldest) = self.all.first_entry() {
            if at - oldest.get().act.at < ACTS_SECS && self.changes.len() <= MOST_ACTS {
                break;
            }
            self.changes.remove(&about(&oldest.remove().act));
        }
    }

    /// The last act of a kind about somebody.
    fn of(&self, about: &About) -> Option<&Known> {
        self.all.get(self.changes.get(about)?)
    }

    /// Takes what a peer tells, which was asked for at `asked` and has been answered by now, unless a later act holds.
    pub(super) fn take(&mut self, row: ActRow, engine: &mut Engine, asked: EngineTime, last_change: &mut u64) {
        let ActRow { id, service, instance, age, maintenance, announced } = row;
        let act = Act { at: asked - age, service, instance, maintenance, announced };
        let margin = (engine.now() - asked).max(0.0);
        let is_ours = id.node == self.node && id.start == self.start;
        if is_ours || self.of(&about(&act)).is_some_and(|known| known.holds_against(&id, &act, margin)) {
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
        for known in self.all.values_mut().filter(|known| known.is_due) {
            known.is_due = !maintain(&known.act, engine);
        }
    }

    /// Whether an instance, or a service, was forgotten at a time or later.
    pub(super) fn is_forgotten(&self, service: &str, instance: Option<&str>, at: EngineTime) -> bool {
        if self.all.is_empty() {
            return false;
        }
        let is_gone = |instance: Option<&str>| {
            let last = self.of(&(false, service.into(), instance.map(CompactString::from)));
            last.is_some_and(|known| known.act.at >= at)
        };
        is_gone(None) || instance.is_some() && is_gone(instance)
    }

    /// What was done after a change, as it is told to a peer, with the numbers of the changes.
    pub(super) fn rows(&self, after: u64, now: EngineTime) -> impl Iterator<Item = (u64, ActRow)> {
        self.all.range((Bound::Excluded(after), Bound::Unbounded)).map(move |(&change, Known { id, act, .. })| {
            let row = ActRow {
                id: id.clone(),
                service: act.service.clone(),
                instance: act.instance.clone(),
                age: (now - act.at).max(0.0),
                maintenance: act.maintenance,
                announced: act.announced.clone(),
            };
            (change, row)
        })
    }

    /// Bytes that it takes.
    pub(super) fn heap_bytes(&self) -> usize {
        let all = self.all.values();
        let names = all.flat_map(|Known { id, act, .. }| [Some(&act.service), act.instance.as_ref(), Some(&id.node)]);
        map_footprint::<About, u64>(self.changes.capacity())
            + self.all.len() * size_of::<(u64, Known)>() * 3 / 2
            + 2 * names.flatten().map(text_bytes).sum::<usize>()
            + self.all.values().map(|known| known.act.announced.heap_bytes()).sum::<usize>()
    }
}

fn about(act: &Act) -> About {
    (act.maintenance.is_some(), act.service.clone(), act.instance.clone())
}

/// Announces what is left of a maintenance; `false` if it is about somebody who is not known.
fn maintain(act: &Act, engine: &mut Engine) -> bool {
    let left = act.at + act.maintenance.unwrap_or(0.0) - engine.now();
    // The end of one is over at once, and so is what nobody was there for.
    let is_over = left <= 0.0;
    let said = act.announced.clone();
    engine.maintain(&act.service, act.instance.as_deref(), left.max(0.0), said).is_some() || is_over
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::Announced;

    fn act(n: usize, at: f64, maintenance: Option<f64>) -> Act {
        let instance = (!n.is_multiple_of(2)).then(|| n.to_string().into());
        let (service, announced) = (format!("s{}", n / 2).into(), Announced::default());
        Act { at: EngineTime::from_secs(at), service, instance, maintenance, announced }
    }

    #[test]
    fn the_last_act_about_each_is_kept_and_the_oldest_give_way() {
        let (mut acts, mut change) = (Acts::new("a", 1), 0);
        for n in 0..MOST_ACTS + 10 {
            acts.note_own(act(n, n as f64, None), &mut change);
        }
        acts.note_own(act(MOST_ACTS, 2_000.0, None), &mut change);
        assert_eq!((acts.all.len(), acts.changes.len()), (MOST_ACTS, MOST_ACTS));
        let changes: Vec<u64> = acts.rows(change - 2, EngineTime::default()).map(|(change, _)| change).collect();
        assert_eq!(changes, [change - 1, change]);
        acts.note_own(act(3, 200_000.0, Some(60.0)), &mut change);
        assert_eq!((acts.all.len(), acts.changes.len()), (1, 1));
    }

    #[test]
    fn the_later_act_holds_though_the_clock_of_its_node_was_set_back() {
        let known = |start, at, maintenance| {
            let id = ActId { node: "b".into(), start, number: 1 };
            Known { id, act: act(1, at, maintenance), is_due: false }
        };
        let (before, after) = (known(2_000, 100.0, Some(3600.0)), known(1_000, 160.0, Some(0.0)));
        assert!(!before.holds_against(&after.id, &after.act, 0.5));
        assert!(after.holds_against(&before.id, &before.act, 0.5));
        // Within one start the number decides, whatever the ages seem to be; and if nobody can tell, all choose the same.
        let second = Known { id: ActId { number: 2, ..before.id.clone() }, ..known(0, 99.0, Some(0.0)) };
        assert!(
            second.holds_against(&before.id, &before.act, 0.5) && !before.holds_against(&second.id, &second.act, 0.5)
        );
        let near = known(1_000, 100.2, Some(0.0));
        assert!(before.holds_against(&near.id, &near.act, 0.5) && !near.holds_against(&before.id, &before.act, 0.5));
    }

    #[test]
    fn who_was_forgotten_was_seen_before() {
        let (mut acts, mut change) = (Acts::new("a", 1), 0);
        let at = EngineTime::from_secs;
        for (n, maintenance) in [(2, None), (5, None), (7, Some(60.0))] {
            acts.note_own(act(n, 10.0, maintenance), &mut change);
        }
        assert!(acts.is_forgotten("s1", Some("any"), at(10.0)) && !acts.is_forgotten("s1", Some("any"), at(10.1)));
        assert!(acts.is_forgotten("s2", Some("5"), at(9.0)) && !acts.is_forgotten("s2", Some("6"), at(9.0)));
        assert!(!acts.is_forgotten("s2", None, at(9.0)) && !acts.is_forgotten("s3", Some("7"), at(9.0)));
    }
}
