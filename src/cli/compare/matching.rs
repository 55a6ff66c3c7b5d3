//! Which points of two streams belong together, and what is different. Time is that of the points.
//!
//! Points of one name belong together if their times are no further apart than half an interval. They are compared as soon as both
//! streams have gone on to a later time, so that both have told all of it. What is kept for a name until then is bounded, and so is
//! the number of names.

use std::collections::{HashMap, VecDeque};

use serde::Serialize;

use crate::glob;

/// Most names that are compared.
pub(super) const MAX_NAMES: usize = 500_000;

/// Points of a name that wait for those of the other stream.
const MAX_WAITING: usize = 64;

/// Intervals in a row over which a value may have moved.
const MAX_MOVED: usize = 8;

/// What is a difference, and what is not.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// How far two values may be apart, as a part of the larger one.
    pub(super) tolerance: f64,
    /// How far the times of points that belong together may be apart, in seconds; `None` is half of the interval that the streams
    /// show.
    pub(super) align: Option<f64>,
    /// Patterns of names that are left out.
    pub(super) ignore: Vec<String>,
    /// Patterns of names whose values may differ.
    pub(super) names_only: Vec<String>,
    /// Whether the first interval of either stream may be cut, so that it is not compared.
    pub(super) begins_cut: bool,
    /// Whether a value that moved to a neighbouring interval is a difference.
    pub(super) strict: bool,
}

/// One of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    A,
    B,
}

impl Side {
    pub(super) const BOTH: [Side; 2] = [Side::A, Side::B];

    pub(super) fn other(self) -> Side {
        if self == Side::A { Side::B } else { Side::A }
    }
}

/// What is known of a stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    pub(super) first: Option<f64>,
    pub(super) last: Option<f64>,
    /// The smallest step between two times of one name.
    step: Option<f64>,
    pub(super) intervals: u64,
    pub(super) values: u64,
    pub(super) malformed: u64,
    /// Seconds from the time of a point until it arrives: their sum, and the largest.
    pub(super) late: (f64, f64),
    pub(super) timed: u64,
}

/// Two values that are not equal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Difference {
    pub(super) time: f64,
    pub(super) a: f64,
    pub(super) b: f64,
}

impl Difference {
    /// How far they are apart, as a part of the larger one.
    pub(super) fn relative(&self) -> f64 {
        (self.a - self.b).abs() / self.a.abs().max(self.b.abs()).max(f64::MIN_POSITIVE)
    }
}

/// What is known of a name.
#[derive(Clone, Debug, Default)]
pub(super) struct Name {
    is_ignored: bool,
    values_differ: bool,
    waiting: [VecDeque<(f64, f64)>; 2],
    last: [Option<f64>; 2],
    /// Differences in a row, as long as they may turn out to have moved.
    open: Vec<Difference>,
    /// Pairs.
    pub(super) compared: u64,
    /// Those that differ.
    pub(super) differing: u64,
    /// Those whose values are in a neighbouring interval.
    pub(super) moved: u64,
    /// Points without one on the other side, of A and of B, and the first of them.
    pub(super) alone: [u64; 2],
    pub(super) first_alone: [Option<f64>; 2],
    pub(super) first: Option<Difference>,
    pub(super) largest: Option<Difference>,
}

/// Two streams, compared.
pub(super) struct Comparison {
    rules: Rules,
    pub(super) streams: [Stream; 2],
    pub(super) names: HashMap<String, Name>,
    /// Points of names beyond [`MAX_NAMES`].
    pub(super) beyond: u64,
    /// Up to which time both have told all.
    settled: f64,
}

impl Comparison {
    pub(super) fn new(rules: Rules) -> Comparison {
        let settled = f64::NEG_INFINITY;
        Comparison { rules, streams: Default::default(), names: HashMap::new(), beyond: 0, settled }
    }

    /// The latest time of a stream.
    pub(super) fn clock(&self, side: Side) -> f64 {
        self.streams[side as usize].last.unwrap_or(f64::NEG_INFINITY)
    }

    pub(super) fn malformed(&mut self, side: Side) {
        self.streams[side as usize].malformed += 1;
    }

    /// Takes a point; `arrived` is when, in Unix seconds, where that says something.
    pub(super) fn point(&mut self, side: Side, name: &str, value: f64, time: f64, arrived: Option<f64>) {
        let stream = &mut self.streams[side as usize];
        stream.values += 1;
        if let Some(arrived) = arrived {
            let late = arrived - time;
            stream.late = (stream.late.0 + late, if stream.timed == 0 { late } else { stream.late.1.max(late) });
            stream.timed += 1;
        }
        stream.first.get_or_insert(time);
        if stream.last.is_none_or(|last| last < time) {
            (stream.last, stream.intervals) = (Some(time), stream.intervals + 1);
            self.compare_whole();
        }
        if !self.names.contains_key(name) {
            if self.names.len() >= MAX_NAMES {
                self.beyond += 1;
                return;
            }
            let is_any = |patterns: &[String]| patterns.iter().any(|pattern| glob::matches(pattern, name));
            let (is_ignored, values_differ) = (is_any(&self.rules.ignore), is_any(&self.rules.names_only));
            self.names.insert(name.to_string(), Name { is_ignored, values_differ, ..Name::default() });
        }
        let Some(known) = self.names.get_mut(name).filter(|known| !known.is_ignored) else { return };
        if let Some(last) = known.last[side as usize].replace(time).filter(|last| *last < time) {
            let stream = &mut self.streams[side as usize];
            stream.step = Some(stream.step.map_or(time - last, |step| step.min(time - last)));
        }
        let waiting = &mut known.waiting[side as usize];
        if waiting.len() >= MAX_WAITING {
            waiting.pop_front();
        }
        waiting.push_back((time, value));
    }

    /// How far apart times may be, once that is known.
    pub(super) fn align(&self) -> Option<f64> {
        let step = || self.streams.iter().filter_map(|stream| stream.step).reduce(f64::min);
        self.rules.align.or_else(|| step().map(|step| step / 2.0))
    }

    /// From when on points are compared.
    fn begin(&self, align: f64) -> Option<f64> {
        let first = self.streams[0].first?.max(self.streams[1].first?);
        Some(if self.rules.begins_cut { first + align } else { first - align })
    }

    /// Compares what both have told.
    fn compare_whole(&mut self) {
        let until = self.clock(Side::A).min(self.clock(Side::B));
        if until > self.settled && self.align().is_some() {
            self.settled = until;
            self.compare(until, f64::INFINITY);
        }
    }

    /// Compares what is left, where nothing follows.
    pub(super) fn finish(&mut self, both_ended: bool) {
        if both_ended {
            let end = self.clock(Side::A).min(self.clock(Side::B));
            // A single interval shows no step: everything in it belongs together.
            self.rules.align = self.align().or(Some(0.5));
            self.compare(f64::INFINITY, end);
        }
        for name in self.names.values_mut() {
            name.close();
        }
    }

    /// Compares the points before a time; `end` is that of the stream which ends first.
    fn compare(&mut self, until: f64, end: f64) {
        let Some(align) = self.align() else { return };
        let Some(begin) = self.begin(align) else { return };
        let rules = &self.rules;
        for name in self.names.values_mut() {
            name.compare(rules, align, until, begin, end + align);
        }
    }
}

impl Name {
    fn compare(&mut self, rules: &Rules, align: f64, until: f64, begin: f64, end: f64) {
        loop {
            let told = |waiting: &VecDeque<(f64, f64)>| {
                waiting.iter().filter(|(time, _)| time + align < until).map(|(time, _)| *time).reduce(f64::min)
            };
            let (a, b) = (told(&self.waiting[0]), told(&self.waiting[1]));
            let Some(next) = a.into_iter().chain(b).reduce(f64::min) else { return };
            // One flush: all points of this name that belong to the earliest.
            let mut both = [Vec::new(), Vec::new()];
            for (taken, waiting) in both.iter_mut().zip(&mut self.waiting) {
                let nearest =
                    waiting.iter().map(|(time, _)| *time).filter(|time| time - next <= align).reduce(f64::min);
                waiting.retain(|(time, value)| {
                    let is_taken = Some(*time) == nearest;
                    taken.extend(is_taken.then_some((*time, *value)));
                    !is_taken
                });
                taken.sort_by(|one, two| one.1.total_cmp(&two.1));
            }
            if next < begin || next > end {
                continue;
            }
            let [a, b] = both;
            for (&(time, a), &(_, b)) in a.iter().zip(&b) {
                self.pair(rules, Difference { time, a, b });
            }
            let pairs = a.len().min(b.len());
            for (side, alone) in [a, b].iter().enumerate() {
                if alone.len() > pairs {
                    self.alone[side] += (alone.len() - pairs) as u64;
                    self.first_alone[side].get_or_insert(next);
                }
            }
        }
    }

    fn pair(&mut self, rules: &Rules, pair: Difference) {
        let is_equal = |a: f64, b: f64| (a - b).abs() <= rules.tolerance * a.abs().max(b.abs());
        self.compared += 1;
        if self.values_differ {
            return;
        }
        if is_equal(pair.a, pair.b) {
            self.close();
            return;
        }
        if self.open.len() >= MAX_MOVED {
            self.close();
        }
        self.open.push(pair);
        let sum = |of: fn(&Difference) -> f64| self.open.iter().map(of).sum::<f64>();
        if !rules.strict && self.open.len() > 1 && is_equal(sum(|one| one.a), sum(|one| one.b)) {
            self.moved += self.open.len() as u64;
            self.open.clear();
        }
    }

    /// What is open is different.
    fn close(&mut self) {
        for one in self.open.drain(..) {
            self.differing += 1;
            self.first.get_or_insert(one);
            if self.largest.is_none_or(|largest| largest.relative() < one.relative()) {
                self.largest = Some(one);
            }
        }
    }

    /// Whether it was on one side alone, and on which.
    pub(super) fn only_on(&self) -> Option<Side> {
        if self.compared > 0 {
            return None;
        }
        match self.alone.map(|points| points > 0) {
            [true, false] => Some(Side::A),
            [false, true] => Some(Side::B),
            [true, true] | [false, false] => None,
        }
    }

    /// Whether both have it, but not at the same times.
    pub(super) fn has_gaps(&self) -> bool {
        self.only_on().is_none() && self.alone != [0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            tolerance: 1e-9,
            align: None,
            ignore: vec!["*.ignored".into()],
            names_only: vec!["*.lag".into()],
            begins_cut: false,
            strict: false,
        }
    }

    fn of(rules: Rules, a: &[(&str, f64, f64)], b: &[(&str, f64, f64)]) -> Comparison {
        let mut all = Comparison::new(rules);
        let mut points: Vec<_> = a.iter().map(|one| (Side::A, one)).chain(b.iter().map(|one| (Side::B, one))).collect();
        points.sort_by(|(_, (_, _, one)), (_, (_, _, two))| one.total_cmp(two));
        points.into_iter().for_each(|(side, (name, value, time))| all.point(side, name, *value, *time, None));
        all.finish(true);
        all
    }

    #[test]
    fn points_near_in_time_belong_together_and_others_are_alone() {
        let a = [("x", 1.0, 10.0), ("x", 2.0, 20.0), ("x", 3.0, 30.0), ("y", 1.0, 20.0), ("p.lag", 1.0, 20.0)];
        let b = [("x", 1.0, 11.0), ("x", 2.5, 21.0), ("x", 3.0, 31.0), ("q.ignored", 1.0, 21.0), ("p.lag", 9.0, 21.0)];
        let all = of(rules(), &a, &b);
        let x = &all.names["x"];
        assert_eq!((x.compared, x.differing, x.moved, x.alone), (3, 1, 0, [0, 0]));
        assert_eq!(x.first, Some(Difference { time: 20.0, a: 2.0, b: 2.5 }));
        assert_eq!(all.names["y"].only_on(), Some(Side::A));
        assert_eq!((all.names["p.lag"].compared, all.names["p.lag"].differing), (1, 0));
        assert_eq!(all.names["q.ignored"].only_on(), None);
    }

    #[test]
    fn what_a_neighbouring_interval_has_instead_has_moved() {
        let at =
            |values: [f64; 4]| values.into_iter().zip(1..).map(|(v, n)| ("x", v, f64::from(n))).collect::<Vec<_>>();
        let (a, b) = (at([5.0, 9.0, 1.0, 5.0]), at([5.0, 8.0, 2.0, 5.0]));
        let x = of(rules(), &a, &b).names.remove("x").expect("there");
        assert_eq!((x.differing, x.moved), (0, 2));
        let x = of(Rules { strict: true, ..rules() }, &a, &b).names.remove("x").expect("there");
        assert_eq!((x.differing, x.moved), (2, 0));
        let x = of(rules(), &a, &at([5.0, 8.0, 1.0, 5.0])).names.remove("x").expect("there");
        assert_eq!((x.differing, x.moved), (1, 0));
    }

    #[test]
    fn values_of_one_name_and_time_are_compared_as_a_bag_and_gaps_are_found() {
        let a = [("x", 1.0, 1.0), ("x", 2.0, 1.0), ("x", 1.0, 2.0), ("x", 1.0, 3.0)];
        let b = [("x", 2.0, 1.0), ("x", 1.0, 1.0), ("y", 1.0, 2.0), ("x", 1.0, 3.0)];
        let all = of(rules(), &a, &b);
        let x = &all.names["x"];
        assert_eq!((x.compared, x.differing, x.alone, x.has_gaps()), (3, 0, [1, 0], true));
    }

    #[test]
    fn what_only_one_stream_was_there_for_is_not_compared() {
        let line = |from: i32, to: i32| (from..to).map(|n| ("x", 1.0, f64::from(n))).collect::<Vec<_>>();
        let all = of(rules(), &line(0, 8), &line(4, 12));
        assert_eq!((all.names["x"].compared, all.names["x"].alone), (4, [0, 0]));
        let all = of(Rules { begins_cut: true, ..rules() }, &line(0, 8), &line(4, 12));
        assert_eq!((all.names["x"].compared, all.names["x"].alone), (3, [0, 0]));
    }
}
