//! Edges, nodes and sinks of the simulation, what happens to them, and the network between.

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use systole::internals::cluster::{
    Account, BatchId, Command, Edge, EdgeOptions, Emission, Event, Heard, Interval, Late, Node, NodeOptions, Position,
    SavedEdge, Sequence, SessionId, Terms,
};

use crate::support::{Random, mix};

use super::bus::Bus;
use super::content::{Line, Points, Received, SimContent, points_of, published};

/// Unix time at the start, in whole intervals.
pub const EPOCH: f64 = 1_000_000.0;

pub const INTERVAL: f64 = 10.0;
pub const LATENESS: f64 = 10.0;

/// How long lines come in a run with a long outage, in seconds.
const LONG_SECS: f64 = 480.0;

/// How long lines come in a run in which edges are forgotten, and after how many seconds they are.
const FORGETFUL_SECS: f64 = 260.0;
const FORGET: f64 = 45.0;

/// The interval of the start.
pub const FIRST: Interval = (EPOCH / INTERVAL) as Interval;

/// The series, with the partition of each by their number.
const SERIES: [&str; 6] = ["c0", "c1", "t0", "s0", "g0", "g1"];

pub type Act = Rc<dyn Fn(&mut World)>;

pub fn act(act: impl Fn(&mut World) + 'static) -> Act {
    Rc::new(act)
}

/// Something to be done at a time, in the order in which it was said.
struct Due(f64, u64, Act);

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> Ordering {
        other.0.total_cmp(&self.0).then(other.1.cmp(&self.1))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Edge(usize),
    Node(usize),
}

/// Messages between two ends: delay, loss, duplication, reordering, cuts.
pub struct Net {
    pub loss: f64,
    duplication: f64,
    mean: f64,
    pub tail: f64,
    cuts: BTreeMap<End, f64>,
}

pub struct SimEdge {
    pub name: String,
    pub skew: f64,
    pub wild: bool,
    pub config: u64,
    keeps_spool: bool,
    spool_bytes: usize,
    edge: Option<Edge>,
    saved: SavedEdge,
    boot: u64,
    inc: u64,
    interval: Interval,
    /// Whether it has yet to seal its first interval.
    is_first: bool,
    open: Vec<Vec<Line>>,
    numbers: Vec<u64>,
    left: bool,
}

struct SimNode {
    node: Option<Node<SimContent>>,
    inc: u64,
    paused_until: f64,
    /// Its monotonic clock against the virtual time.
    offset: f64,
}

/// A batch that an edge sealed, hellos left out.
#[derive(Clone, Debug)]
pub struct SealedBatch {
    pub partition: u16,
    pub id: BatchId,
    pub interval: Interval,
    pub first: bool,
    pub more: bool,
    pub lines: Vec<Line>,
}

/// What a sink got.
#[derive(Clone, Debug)]
pub struct Packet {
    pub partition: u16,
    pub interval: Interval,
    pub version: u32,
    pub cut: Sequence,
    pub points: Points,
    pub account: Option<Account>,
    pub batches: Vec<BatchId>,
}

pub struct World {
    pub now: f64,
    pub rng: Random,
    pub calm: bool,
    pub only_outage: bool,
    pub terms: Terms,
    pub stop_lines: f64,
    pub net: Net,
    pub bus: Bus,
    pub edges: Vec<SimEdge>,
    nodes: Vec<SimNode>,
    heap: BinaryHeap<Due>,
    said: u64,
    sink_down_until: f64,
    /// Times at which something was wrong, and whether it was an outage.
    pub bad: Vec<(f64, f64, bool)>,
    pub sealed: Vec<SealedBatch>,
    /// Lines of which were lost by a crash: edge, interval, partition, and which start of the edge.
    pub open_lost: BTreeSet<(String, Interval, u16, u64)>,
    pub emits: Vec<Packet>,
    pub claims: u64,
    /// Whether the log loses batches that it has acknowledged, and how many it lost at its end.
    pub loses_log: bool,
    pub gone: u64,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut rng = Random(mix(seed));
        let calm = rng.u() < 0.15;
        let only_outage = !calm && rng.u() < 0.1;
        let quiet = calm || only_outage;
        let mut pick = |wild: &[f64]| *rng.pick(wild);
        let net = Net {
            loss: if quiet { 0.0 } else { pick(&[0.0, 0.0, 0.02, 0.1]) },
            duplication: if quiet { 0.0 } else { pick(&[0.0, 0.02, 0.1]) },
            mean: pick(&[0.002, 0.01, 0.05]),
            tail: if quiet { 0.0 } else { pick(&[0.0, 0.02, 0.05]) },
            cuts: BTreeMap::new(),
        };
        let partitions = *rng.pick(&[1, 2, 2, 3]);
        let late = if quiet || rng.u() < 0.7 { Late::Drop } else { Late::Amend };
        let bus = Bus::new(partitions, *rng.pick(&[4, 30, 200]));
        // An outage so long that more intervals are open than are kept in memory.
        let is_long = only_outage && rng.u() < 0.15;
        // Edges are away for so long that they are forgotten.
        let is_forgetful = !quiet && mix(seed ^ 0xf0f0).is_multiple_of(8);
        let mut stop_lines = if is_long { LONG_SECS } else { *rng.pick(&[60.0, 80.0, 110.0]) };
        if is_forgetful {
            stop_lines = FORGETFUL_SECS;
        }
        let mut world = World {
            now: 0.0,
            calm,
            only_outage,
            terms: Terms {
                partitions,
                interval_secs: INTERVAL,
                lateness_secs: LATENESS,
                late,
                forget_secs: if is_forgetful { FORGET } else { 7200.0 },
                config: 0,
            },
            stop_lines,
            net,
            bus,
            rng,
            edges: Vec::new(),
            nodes: Vec::new(),
            heap: BinaryHeap::new(),
            said: 0,
            sink_down_until: 0.0,
            bad: Vec::new(),
            sealed: Vec::new(),
            open_lost: BTreeSet::new(),
            emits: Vec::new(),
            claims: 0,
            loses_log: false,
            gone: 0,
        };
        world.people(quiet);
        world.schedule_lines();
        world.schedule_faults();
        if is_forgetful {
            world.schedule_absences(&mut Random(mix(seed ^ 0xf1f1)));
        }
        if !quiet && mix(seed ^ 0x10c0).is_multiple_of(8) {
            world.schedule_losses(&mut Random(mix(seed ^ 0x10c1)));
        }
        // Who is started again knows of nothing before them; then the log has to be whole.
        if !quiet && !world.loses_log && mix(seed ^ 0x4ec0).is_multiple_of(8) {
            world.schedule_lost_records(&mut Random(mix(seed ^ 0x4ec1)));
        }
        if mix(seed ^ 0xc0c0).is_multiple_of(8) {
            world.edges[0].config = 1;
        }
        world
    }

    /// Edges and nodes, with their clocks.
    fn people(&mut self, quiet: bool) {
        let (edges, nodes) = (*self.rng.pick(&[2, 3, 4]), *self.rng.pick(&[2, 2, 3]));
        let mut most_skew = if self.rng.u() < 0.5 { 0.3 } else { 4.0 };
        if self.calm {
            most_skew = *self.rng.pick(&[0.3, 0.9]);
        }
        let wild = if quiet || self.rng.u() > 0.15 { None } else { Some(self.rng.below(edges) as usize) };
        let spool_bytes = if quiet || self.rng.u() < 0.8 { 1 << 20 } else { 300 };
        for n in 0..edges as usize {
            let mut skew = (self.rng.u() * 2.0 - 1.0) * most_skew;
            if wild == Some(n) {
                skew = *self.rng.pick(&[3600.0, 47.0, -47.0]);
            }
            let starts = if n < 2 || self.only_outage { 0.5 + self.rng.u() * 2.5 } else { 0.5 + self.rng.u() * 44.5 };
            let partitions = self.terms.partitions as usize;
            self.edges.push(SimEdge {
                name: format!("e{n}"),
                skew,
                wild: wild == Some(n),
                config: 0,
                keeps_spool: quiet || self.rng.u() < 0.7,
                spool_bytes,
                edge: None,
                saved: SavedEdge { is_clean: true, ..SavedEdge::default() },
                boot: 0,
                inc: 0,
                interval: 0,
                is_first: true,
                open: vec![Vec::new(); partitions],
                numbers: vec![0; partitions],
                left: false,
            });
            self.at(starts, act(move |world| world.start_edge(n)));
        }
        for n in 0..nodes {
            self.nodes.push(SimNode { node: None, inc: 0, paused_until: 0.0, offset: 0.0 });
            let starts = self.rng.u() * 0.5;
            self.at(starts, act(move |world| world.start_node(n)));
        }
    }

    fn schedule_lines(&mut self) {
        for n in 0..self.edges.len() {
            let rate = if self.rng.u() < 0.5 { *self.rng.pick(&[0.0, 0.3, 1.0]) } else { 0.6 };
            let mut at = 0.0;
            while rate > 0.0 && at < self.stop_lines {
                at += self.rng.exp(1.0 / rate);
                let series = self.rng.below(SERIES.len() as u64) as usize;
                let value = match series {
                    0 | 1 => Received::Count((1 + self.rng.below(98)) as f64 * 0.1),
                    2 => Received::Sample((1 + self.rng.below(9998)) as f64 * 0.01),
                    3 => Received::Member(self.rng.below(30) as u32),
                    _ if self.rng.u() < 0.5 => Received::Set(self.rng.below(100) as f64 * 0.1),
                    _ => Received::Adjust(self.rng.below(100) as f64 * 0.1 - 5.0),
                };
                self.at(at, act(move |world| world.receive(n, series, value)));
            }
        }
    }

    fn schedule_faults(&mut self) {
        if self.calm {
            return;
        }
        if self.only_outage {
            let most = if self.stop_lines < LONG_SECS { 45.0 } else { LONG_SECS - 80.0 };
            let (at, secs) = (15.0 + self.rng.u() * 25.0, 25.0 + self.rng.u() * most);
            self.at(at, act(move |world| world.fail_over(secs)));
            self.bad.push((at, at + secs, true));
            return;
        }
        for _ in 0..*self.rng.pick(&[1, 2, 3, 4, 6]) {
            let at = 3.0 + self.rng.u() * (self.stop_lines - 3.0);
            let (edge, node) = (self.rng.below(self.edges.len() as u64), self.rng.below(self.nodes.len() as u64));
            let (edge, node) = (edge as usize, node as usize);
            let (secs, what): (f64, Act) = match self.rng.below(12) {
                0 => {
                    let back = *self.rng.pick(&[0.5, 3.0, 12.0, 25.0]);
                    (0.0, act(move |world| world.crash_edge(edge, back)))
                }
                1 => {
                    let back = *self.rng.pick(&[1.0, 5.0, 15.0]);
                    (0.0, act(move |world| world.restart_edge(edge, back)))
                }
                2 | 3 => {
                    let back = *self.rng.pick(&[1.0, 5.0, 15.0]);
                    (back, act(move |world| world.crash_node(node, back)))
                }
                4 => {
                    let back = *self.rng.pick(&[6.0, 20.0]);
                    (back, act(move |world| world.drain_node(node, back)))
                }
                5..=7 => {
                    let secs = *self.rng.pick(&[1.0, 4.0, 7.0, 9.0, 14.0, 22.0]);
                    let pause = move |world: &mut World| {
                        let node = &mut world.nodes[node];
                        node.paused_until = node.paused_until.max(world.now + secs);
                    };
                    (secs, act(pause))
                }
                kind @ (8 | 9) => {
                    let secs = *self.rng.pick(&[2.0, 8.0, 15.0, 40.0]);
                    let end = if kind == 8 { End::Edge(edge) } else { End::Node(node) };
                    (secs, act(move |world| _ = world.net.cuts.insert(end, world.now + secs)))
                }
                10 => {
                    let is_long = self.rng.u() < 0.5;
                    let secs = if is_long { 15.0 + self.rng.u() * 35.0 } else { 0.5 + self.rng.u() * 5.5 };
                    self.bad.push((at, at + secs, is_long));
                    (0.0, act(move |world| world.fail_over(secs)))
                }
                _ => {
                    let secs = 2.0 + self.rng.u() * 28.0;
                    (secs, act(move |world| world.sink_down_until = world.now + secs))
                }
            };
            if secs > 0.0 {
                self.bad.push((at, at + secs, false));
            }
            self.at(at, what);
        }
    }

    /// Has edges be away for so long that they are forgotten.
    fn schedule_absences(&mut self, rng: &mut Random) {
        for _ in 0..2 {
            let (at, secs) = (10.0 + rng.u() * 90.0, 60.0 + rng.u() * 90.0);
            let edge = rng.below(self.edges.len() as u64) as usize;
            let what = match rng.below(3) {
                0 => act(move |world| world.crash_edge(edge, secs)),
                1 => act(move |world| world.restart_edge(edge, secs)),
                _ => {
                    self.bad.push((at, at + secs, false));
                    act(move |world| _ = world.net.cuts.insert(End::Edge(edge), world.now + secs))
                }
            };
            self.at(at, what);
        }
    }

    /// Has the log lose its beginning while no node runs, or its end in an outage.
    fn schedule_losses(&mut self, rng: &mut Random) {
        self.loses_log = true;
        let at = 15.0 + rng.u() * (self.stop_lines - 30.0);
        if rng.u() < 0.5 {
            let secs = 30.0 + rng.u() * 30.0;
            self.bus.max_age = Some(25.0);
            self.bad.push((at, at + secs, true));
            let crash = move |world: &mut World| {
                for n in 0..world.nodes.len() {
                    world.crash_node(n, secs);
                }
            };
            self.at(at, act(crash));
        } else {
            let (secs, batches) = (1.0 + rng.u() * 8.0, 25 + rng.below(40));
            self.bad.push((at, at + secs, true));
            let lose = move |world: &mut World| {
                world.fail_over(secs);
                world.lose_end(batches);
            };
            self.at(at, act(lose));
        }
    }

    /// Has records and checkpoints be lost.
    fn schedule_lost_records(&mut self, rng: &mut Random) {
        self.loses_log = true;
        let (at, secs) = (10.0 + rng.u() * (self.stop_lines - 20.0), 0.5 + rng.u() * 15.0);
        // It takes so long until it is sure that they are gone.
        self.bad.push((at, at + secs + 10.0, true));
        let lose = move |world: &mut World| {
            world.fail_over(secs);
            world.lose_records();
        };
        self.at(at, act(lose));
    }

    pub fn at(&mut self, when: f64, what: Act) {
        self.said += 1;
        self.heap.push(Due(when.max(self.now), self.said, what));
    }

    /// Sends something to or from an end.
    pub fn send(&mut self, end: End, what: Act) {
        let is_cut = self.net.cuts.get(&end).is_some_and(|until| *until > self.now);
        if is_cut || self.rng.u() < self.net.loss {
            return;
        }
        for _ in 0..if self.rng.u() < self.net.duplication { 2 } else { 1 } {
            let mut delay = self.rng.exp(self.net.mean);
            if self.rng.u() < self.net.tail {
                delay += self.rng.u() * 4.0;
            }
            self.at(self.now + delay, what.clone());
        }
    }

    /// Runs until everything is quiet, 150 s after the last line at the latest.
    pub fn run(&mut self) {
        let mut quiet_since = None;
        let mut look_at = self.stop_lines + 25.0;
        while let Some(Due(when, _, what)) = self.heap.pop() {
            if when > self.stop_lines + 150.0 {
                break;
            }
            self.now = when;
            what(self);
            if self.now >= look_at {
                look_at += 1.0;
                let since = self.is_quiet().then(|| quiet_since.unwrap_or(self.now));
                quiet_since = since;
                if since.is_some_and(|since| self.now - since > 15.0) {
                    break;
                }
            }
        }
        let claims: u64 = self.nodes.iter().filter_map(|node| Some(node.node.as_ref()?.claims())).sum();
        self.claims += claims;
    }

    /// Whether all edges have left, all intervals with lines were emitted, and so was the account of all that is in the log.
    fn is_quiet(&self) -> bool {
        let has_left = |edge: &SimEdge| edge.left && edge.edge.as_ref().is_some_and(Edge::is_drained);
        let last = self.last_interval();
        let is_emitted = |partition| {
            let own = self.emits.iter().filter(move |packet| packet.partition == partition);
            let end = self.bus.log[partition as usize].last().map_or(0, |batch| batch.sequence);
            let (mut has_last, mut tells_all) = (false, false);
            for packet in own {
                has_last |= packet.interval == last;
                tells_all |= packet.cut >= end;
            }
            has_last && tells_all
        };
        self.edges.iter().all(has_left) && (0..self.terms.partitions).all(is_emitted)
    }

    /// The last interval that is judged.
    pub fn last_interval(&self) -> Interval {
        FIRST + (self.stop_lines / INTERVAL) as Interval
    }

    // Edges.

    fn start_edge(&mut self, n: usize) {
        let (now, partitions) = (self.now, self.terms.partitions);
        let seed = self.rng.next();
        let edge = &mut self.edges[n];
        if edge.edge.is_some() {
            return;
        }
        edge.inc += 1;
        edge.boot += 1;
        edge.is_first = true;
        edge.interval = ((EPOCH + now + edge.skew) / INTERVAL) as Interval;
        let name = edge.name.parse().expect("a name");
        let (boot, config, spool_bytes) = (edge.boot, edge.config, edge.spool_bytes);
        let options = EdgeOptions { name, boot, partitions, config, spool_bytes, seed };
        edge.edge = Some(Edge::start(options, std::mem::take(&mut edge.saved), edge.interval, now));
        edge.numbers.iter_mut().for_each(|number| *number += 1);
        self.pump(n);
        self.schedule_edge_tick(n);
    }

    fn schedule_edge_tick(&mut self, n: usize) {
        let late = self.rng.u() * 0.02;
        let edge = &self.edges[n];
        let (inc, at) = (edge.inc, (edge.interval + 1) as f64 * INTERVAL - EPOCH - edge.skew + late);
        self.at(at, act(move |world| world.edge_tick(n, inc)));
    }

    fn edge_tick(&mut self, n: usize, inc: u64) {
        if self.edges[n].edge.is_none() || self.edges[n].inc != inc || self.edges[n].left {
            return;
        }
        self.seal(n, false);
        self.edges[n].interval += 1;
        if self.now < self.stop_lines + 2.0 * INTERVAL {
            self.schedule_edge_tick(n);
        } else {
            self.seal(n, true);
        }
        self.pump(n);
    }

    /// Has an edge seal what it has received.
    fn seal(&mut self, n: usize, last: bool) {
        let splits = self.rng.u() < 0.1;
        let edge = &mut self.edges[n];
        let Some(machine) = &mut edge.edge else { return };
        let mut all = Vec::new();
        for (partition, lines) in (0_u16..).zip(&mut edge.open) {
            let lines = std::mem::take(lines);
            // Each series is in one batch.
            let first = lines.first().map(|line| line.series);
            let (one, other) = lines.into_iter().partition(|line| Some(line.series) == first);
            let parts: [Vec<Line>; 2] = if splits { [one, other] } else { [[one, other].concat(), Vec::new()] };
            let count = if splits && !parts[1].is_empty() { 2 } else { 1 };
            let mut bodies = Vec::new();
            for (at, lines) in parts.into_iter().enumerate().take(count) {
                let points = points_of(&lines);
                let body = if points.is_empty() { Vec::new() } else { postcard::to_stdvec(&points).expect("encoded") };
                bodies.push(Bytes::from(body));
                edge.numbers[partition as usize] += 1;
                let id = BatchId {
                    edge: edge.name.parse().expect("a name"),
                    boot: edge.boot,
                    n: edge.numbers[partition as usize],
                };
                let (interval, first, more) = (edge.interval, edge.is_first, at + 1 < count);
                self.sealed.push(SealedBatch { partition, id, interval, first, more, lines });
            }
            all.push(bodies);
        }
        let heard = Heard { interval: edge.interval, length: INTERVAL, bodies: &all, account: None };
        if last {
            machine.leave(&heard);
            edge.left = true;
        } else {
            machine.seal(&heard);
            edge.is_first = false;
        }
    }

    /// Sends what is due, and comes back when something is.
    fn pump(&mut self, n: usize) {
        let now = self.now;
        let Some(edge) = &mut self.edges[n].edge else { return };
        let (due, inc) = (edge.due(now), self.edges[n].inc);
        let sent = EPOCH + now + self.edges[n].skew;
        for publish in due {
            let (partition, boot, number) = (publish.partition, publish.boot, publish.n);
            let reply = move |world: &mut World| {
                world.send(End::Edge(n), act(move |world| world.edge_hears(n, inc, (partition, boot, number))));
            };
            let arrive = move |world: &mut World| world.publish(partition, sent, publish.payload.clone(), reply);
            self.send(End::Edge(n), act(arrive));
        }
        if let Some(at) = self.edges[n].edge.as_ref().and_then(Edge::next_due) {
            let wake = move |world: &mut World| {
                let due = world.edges[n].edge.as_ref().and_then(Edge::next_due);
                if world.edges[n].inc == inc && due.is_some_and(|due| due <= world.now) {
                    world.pump(n);
                }
            };
            self.at(at, act(wake));
        }
    }

    fn edge_hears(&mut self, n: usize, inc: u64, (partition, boot, number): (u16, u64, u64)) {
        if self.edges[n].inc == inc
            && let Some(edge) = &mut self.edges[n].edge
        {
            edge.acknowledged(partition, boot, number);
            self.pump(n);
        }
    }

    fn receive(&mut self, n: usize, series: usize, value: Received) {
        let time = EPOCH + self.now + self.edges[n].skew;
        let edge = &mut self.edges[n];
        if edge.edge.is_some() && !edge.left {
            let partitions = edge.open.len();
            edge.open[series % partitions].push(Line { time, series: SERIES[series], value });
        }
    }

    fn stop_edge(&mut self, n: usize, back: f64) {
        let edge = &mut self.edges[n];
        let Some(machine) = edge.edge.take() else { return };
        edge.saved = machine.saved();
        if !edge.keeps_spool {
            edge.saved.spool.clear();
        }
        edge.inc += 1;
        edge.left = false;
        self.at(self.now + back, act(move |world| world.start_edge(n)));
    }

    fn crash_edge(&mut self, n: usize, back: f64) {
        let edge = &mut self.edges[n];
        if edge.edge.is_none() || edge.left {
            return;
        }
        for (partition, lines) in (0_u16..).zip(&mut edge.open) {
            if !std::mem::take(lines).is_empty() {
                self.open_lost.insert((edge.name.clone(), edge.interval, partition, edge.boot));
            }
        }
        self.stop_edge(n, back);
    }

    /// Stops an edge in order, with a grace of 3 s.
    fn restart_edge(&mut self, n: usize, back: f64) {
        if self.edges[n].edge.is_none() || self.edges[n].left {
            return;
        }
        self.seal(n, true);
        self.pump(n);
        let inc = self.edges[n].inc;
        let end = move |world: &mut World| {
            if world.edges[n].inc == inc {
                world.stop_edge(n, back);
            }
        };
        self.at(self.now + 3.0, act(end));
    }

    // Nodes.

    /// Does something as a node: not if it was started again, and later if it is paused.
    fn as_node(&mut self, n: usize, inc: u64, what: Act) {
        if self.nodes[n].inc != inc || self.nodes[n].node.is_none() {
            return;
        }
        if self.nodes[n].paused_until > self.now {
            let at = self.nodes[n].paused_until + self.rng.u() * 0.01;
            return self.at(at, act(move |world| world.as_node(n, inc, what.clone())));
        }
        what(self);
    }

    fn start_node(&mut self, n: usize) {
        if self.nodes[n].node.is_some() {
            return;
        }
        let (seed, offset) = (self.rng.next(), self.rng.u() * 1e5);
        let node = &mut self.nodes[n];
        node.inc += 1;
        let id = SessionId { node: format!("g{n}").parse().expect("a name"), start: node.inc };
        node.node = Some(Node::new(NodeOptions { id, terms: self.terms, seed }, Arc::new(SimContent)));
        node.offset = offset;
        self.node_tick(n, self.nodes[n].inc);
    }

    fn node_tick(&mut self, n: usize, inc: u64) {
        let now = self.now + self.nodes[n].offset;
        if let Some(node) = &mut self.nodes[n].node {
            node.tick(now);
        }
        self.obey(n, inc);
        let again = act(move |world| world.node_tick(n, inc));
        let secs = Node::<SimContent>::tick_secs();
        self.at(self.now + secs, act(move |world| world.as_node(n, inc, again.clone())));
    }

    pub fn node_hears(&mut self, n: usize, inc: u64, event: Event) {
        let hear = move |world: &mut World| {
            let now = world.now + world.nodes[n].offset;
            if let Some(node) = &mut world.nodes[n].node {
                node.take(event.clone(), now);
            }
            world.obey(n, inc);
        };
        self.as_node(n, inc, act(hear));
    }

    /// Does what a node wants. It may be paused between its decision and that.
    fn obey(&mut self, n: usize, inc: u64) {
        let Some(node) = &mut self.nodes[n].node else { return };
        for command in node.commands() {
            let is_slow = self.rng.u() < 0.02;
            let later = if is_slow { self.rng.u() * 0.5 } else { 0.0 };
            let what = if let Command::Emit { at, emission } = command {
                let is_done = Rc::new(Cell::new(false));
                let emission = Rc::new(emission);
                act(move |world: &mut World| world.emit(n, inc, at, emission.clone(), is_done.clone()))
            } else {
                let command = Rc::new(command);
                act(move |world: &mut World| {
                    let command = command.clone();
                    world.send(End::Node(n), act(move |world| world.bus_takes(n, inc, &command)));
                })
            };
            self.at(self.now + later, act(move |world| world.as_node(n, inc, what.clone())));
        }
    }

    /// Hands an interval to the sink until it has it.
    fn emit(&mut self, n: usize, inc: u64, at: Position, emission: Rc<Emission<SimContent>>, is_done: Rc<Cell<bool>>) {
        if is_done.get() {
            return;
        }
        let (packet, done) = (emission.clone(), is_done.clone());
        let arrive = move |world: &mut World| {
            if world.now < world.sink_down_until {
                return;
            }
            world.sink_takes(&packet);
            let done = done.clone();
            let answer = move |world: &mut World| {
                done.set(true);
                world.node_hears(n, inc, Event::Emitted { at });
            };
            world.send(End::Node(n), act(answer));
        };
        self.send(End::Node(n), act(arrive));
        let again = act(move |world| world.emit(n, inc, at, emission.clone(), is_done.clone()));
        self.at(self.now + 1.0, act(move |world| world.as_node(n, inc, again.clone())));
    }

    fn sink_takes(&mut self, emission: &Emission<SimContent>) {
        self.emits.push(Packet {
            partition: emission.partition,
            interval: emission.interval,
            version: emission.version,
            cut: emission.cut,
            points: published(&emission.merged, &emission.standing),
            account: emission.account.clone(),
            batches: emission.batches.clone(),
        });
    }

    fn crash_node(&mut self, n: usize, back: f64) {
        if let Some(node) = self.nodes[n].node.take() {
            self.claims += node.claims();
            self.at(self.now + back, act(move |world| world.start_node(n)));
        }
    }

    /// Stops a node in order: it gives its partitions up, and is gone 5 s later.
    fn drain_node(&mut self, n: usize, back: f64) {
        let inc = self.nodes[n].inc;
        if let Some(node) = &mut self.nodes[n].node {
            node.leave();
        }
        let end = move |world: &mut World| {
            if world.nodes[n].inc == inc {
                world.crash_node(n, back - 5.0);
            }
        };
        self.at(self.now + 5.0, act(end));
    }
}
