//! The arrival window: the last gaps between beats of an instance, from which its interval is learned.

use serde::{Deserialize, Serialize};

/// Gaps that are remembered.
const ROOM: usize = 16;

/// Gaps of which the median is taken where an interval is declared.
const RECENT: usize = 8;

/// The last gaps, oldest first, in seconds. Single precision holds a gap of ten seconds to a microsecond.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct ArrivalWindow {
    seconds: [f32; ROOM],
    len: u8,
}

impl ArrivalWindow {
    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Remembers a gap; the oldest gives way.
    pub(super) fn push(&mut self, gap: f64) {
        if self.len() == ROOM {
            self.seconds.copy_within(1.., 0);
            self.len -= 1;
        }
        self.seconds[self.len()] = gap as f32;
        self.len += 1;
    }

    fn all(&self) -> &[f32] {
        &self.seconds[..self.len()]
    }

    /// The middle of all gaps.
    pub(super) fn median(&self) -> f64 {
        median(self.all().iter().map(|&gap| f64::from(gap)))
    }

    /// The middle of the newest gaps.
    pub(super) fn recent_median(&self) -> f64 {
        median(self.all()[self.len().saturating_sub(RECENT)..].iter().map(|&gap| f64::from(gap)))
    }

    /// The median of the distances from the median: robust against a few odd gaps.
    pub(super) fn median_deviation(&self) -> f64 {
        let middle = self.median();
        median(self.all().iter().map(|&gap| (f64::from(gap) - middle).abs()))
    }

    pub(super) fn longest(&self) -> f64 {
        f64::from(self.all().iter().copied().fold(0.0, f32::max))
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted = [0.0; ROOM];
    let mut n = 0;
    for (place, value) in sorted.iter_mut().zip(values) {
        *place = value;
        n += 1;
    }
    let sorted = &mut sorted[..n];
    sorted.sort_unstable_by(f64::total_cmp);
    match n {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => 0.5 * (sorted[n / 2 - 1] + sorted[n / 2]),
    }
}

impl Serialize for ArrivalWindow {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.all().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ArrivalWindow {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<ArrivalWindow, D::Error> {
        let mut window = ArrivalWindow::default();
        Vec::<f32>::deserialize(deserializer)?.into_iter().for_each(|gap| window.push(f64::from(gap)));
        Ok(window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_the_newest() {
        let mut window = ArrivalWindow::default();
        assert_eq!((window.median(), window.len()), (0.0, 0));
        (1..=20).for_each(|gap| window.push(f64::from(gap)));
        // 5 to 20 are left.
        assert_eq!((window.len(), window.median(), window.recent_median(), window.longest()), (16, 12.5, 16.5, 20.0));
        assert_eq!(window.median_deviation(), 4.0);
        let text = serde_json::to_string(&window).expect("JSON");
        assert_eq!(serde_json::from_str::<ArrivalWindow>(&text).expect("the same"), window);
    }
}
