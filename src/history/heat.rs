//! Coarse histograms of a timer that somebody looks at, for heat maps: four buckets for each doubling of the value, those of an
//! answer at most 64.

use std::collections::VecDeque;

use serde::Serialize;

use crate::memory::{footprint, vec_footprint};

/// A timer that nobody has asked about for so many seconds has no histograms any more.
pub(super) const FORGOTTEN_SECS: f64 = 300.0;

/// Most buckets of an answer.
const MOST: usize = 64;

/// Buckets of a doubling.
const FINENESS: f64 = 4.0;

/// Buckets of the smallest and the largest numbers of single precision.
const LOWEST: f64 = -126.0 * FINENESS;
const HIGHEST: f64 = 128.0 * FINENESS;

/// The bucket of what is not above 0.
const BELOW: i16 = i16::MIN;

fn bucket(value: f64) -> i16 {
    if value > 0.0 { (value.log2() * FINENESS).ceil().clamp(LOWEST, HIGHEST) as i16 } else { BELOW }
}

fn bound(bucket: i16) -> f32 {
    if bucket == BELOW { 0.0 } else { super::codec::kept((f64::from(bucket) / FINENESS).exp2()) }
}

/// Buckets of an interval with the events in them, at most [`MOST`].
type Row = Box<[(i16, f32)]>;

/// The bucket that holds one, among those that are so many wide.
fn widened(bucket: i16, width: i16) -> i16 {
    if bucket == BELOW { BELOW } else { -(-bucket).div_euclid(width) * width }
}

/// The same events in buckets that are so many wide.
fn coarser(row: &[(i16, f32)], width: i16) -> Vec<(i16, f32)> {
    let mut out: Vec<(i16, f32)> = Vec::new();
    for (own, count) in row {
        let own = widened(*own, width);
        match out.last_mut().filter(|(last, _)| *last == own) {
            Some((_, known)) => *known += count,
            None => out.push((own, *count)),
        }
    }
    out
}

/// The histograms of a series.
#[derive(Debug, Default)]
pub(super) struct Heat {
    /// By number of the interval, oldest first.
    rows: VecDeque<(u64, Row)>,
}

/// Histograms of a series over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct HeatMap {
    /// The upper bound of each bucket, ascending; the first has all below it, too.
    pub bounds: Vec<f32>,
    /// Events in each bucket, at each time; `null` where there is no histogram.
    pub counts: Vec<Option<Vec<f32>>>,
}

impl Heat {
    /// Adds an interval by its values, ascending, each with its count; `oldest` is the first interval that is kept.
    pub(super) fn push(&mut self, interval: u64, values: &[(f64, f64)], oldest: u64) {
        while self.rows.front().is_some_and(|(number, _)| *number < oldest) {
            self.rows.pop_front();
        }
        let mut row: Vec<(i16, f32)> = Vec::new();
        for (value, count) in values {
            let (own, count) = (bucket(*value), super::codec::kept(*count));
            match row.last_mut().filter(|(last, _)| *last == own) {
                Some((_, known)) => *known += count,
                None => row.push((own, count)),
            }
        }
        let mut width = 1;
        while row.len() > MOST {
            width *= 2;
            row = coarser(&row, width);
        }
        self.rows.push_back((interval, row.into_boxed_slice()));
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let rows = self.rows.iter().map(|(_, row)| footprint(size_of_val(&**row))).sum::<usize>();
        footprint(size_of::<Heat>()) + vec_footprint::<(u64, Row)>(self.rows.capacity()) + rows
    }

    /// The histograms at so many times; `place` is the time of an interval.
    pub(super) fn map(&self, times: usize, place: impl Fn(u64) -> Option<usize>) -> HeatMap {
        let placed = || self.rows.iter().filter_map(|(number, row)| Some((place(*number)?, row)));
        let above = || placed().flat_map(|(_, row)| row.iter().map(|(bucket, _)| *bucket)).filter(|own| *own != BELOW);
        let has_below = placed().any(|(_, row)| row.first().is_some_and(|(bucket, _)| *bucket == BELOW));
        let mut bounds = Vec::new();
        if has_below {
            bounds.push(BELOW);
        }
        if let (Some(least), Some(largest)) = (above().min(), above().max()) {
            // As wide as the widest of a row, or wider, and cut where those are.
            let mut width = 1;
            while (widened(largest, width) - widened(least, width)) / width >= MOST as i16 - 1 {
                width *= 2;
            }
            bounds.extend((widened(least, width)..=widened(largest, width)).step_by(width as usize));
        }
        let mut counts: Vec<Option<Vec<f32>>> = vec![None; times];
        for (place, row) in placed() {
            let own = counts[place].get_or_insert_with(|| vec![0.0; bounds.len()]);
            for (bucket, count) in row {
                let at = bounds.partition_point(|bound| bound < bucket);
                own[at] += count;
            }
        }
        debug_assert!(bounds.len() <= MOST);
        HeatMap { bounds: bounds.into_iter().map(bound).collect(), counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_in_the_bucket_of_its_value() {
        let mut heat = Heat::default();
        heat.push(4, &[(1.0, 9.0)], 0);
        heat.push(5, &[(-3.0, 1.0), (0.5, 2.0), (1.0, 1.0), (1.01, 1.0), (700.0, 4.0)], 5);
        heat.push(7, &[(1e-300, 1.0), (1e300, 1.0)], 5);
        let map = heat.map(2, |number| (5..7).contains(&number).then(|| number as usize - 5));
        assert_eq!(map.counts[1], None);
        let counts = map.counts[0].as_ref().expect("a histogram");
        assert_eq!((map.bounds.len(), counts.iter().sum::<f32>()), (counts.len(), 9.0));
        for (value, count) in [(-3.0, 1.0), (0.5, 2.0), (1.0, 1.0), (1.01, 1.0), (700.0, 4.0)] {
            let at = map.bounds.iter().position(|bound| value <= *bound).expect("a bucket");
            assert_eq!(counts[at], count, "{value} {:?}", map.bounds);
        }
        let wide = heat.map(1, |number| (number == 7).then_some(0));
        assert!(wide.bounds.len() <= MOST, "{}", wide.bounds.len());
        assert!(wide.bounds.windows(2).all(|two| two[0] < two[1] || two[1] == f32::MAX));
        assert_eq!(wide.counts[0].as_ref().map(|counts| counts.iter().sum()), Some(2.0));
    }

    #[test]
    fn values_of_every_size_take_no_more_room_than_an_answer() {
        let mut heat = Heat::default();
        let values: Vec<(f64, f64)> =
            (-1000..1000).map(|n| (f64::from(n).signum() * (f64::from(n) / 9.0).exp2(), 1.0)).collect();
        heat.push(0, &values, 0);
        assert!(heat.heap_bytes() < 1000, "{}", heat.heap_bytes());
        let map = heat.map(1, |_| Some(0));
        let counts = map.counts[0].as_ref().expect("a histogram");
        let below = |bound: f32| values.iter().filter(|(value, _)| *value <= f64::from(bound)).count() as f32;
        for (n, bound) in map.bounds.iter().enumerate().filter(|(n, _)| counts[*n] > 0.0) {
            let events: f32 = counts[..=n].iter().sum();
            assert!((events - below(*bound)).abs() <= 1.0, "{events} up to {bound}, and not {}", below(*bound));
        }
        assert_eq!(counts.iter().sum::<f32>(), 2000.0);
    }
}
