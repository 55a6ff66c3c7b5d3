//! The first series of each prefix, for people who want to see that something new has come.

use std::collections::HashSet;

use rapidhash::v3::rapidhash_v3;

use crate::series::Series;

/// Most prefixes that are known; what comes after them is not looked at.
const MOST_PREFIXES: usize = 1000;

/// Most series of an interval that are kept; the others are counted.
const MOST_FRESH: usize = 20;

/// Prefixes: the part of a name before its first dot.
#[derive(Debug, Default)]
pub(super) struct Prefixes {
    known: HashSet<u64>,
    fresh: Vec<Series>,
    more: u64,
}

impl Prefixes {
    /// Looks at a new series.
    pub(super) fn see(&mut self, series: &Series) {
        if self.known.len() >= MOST_PREFIXES {
            return;
        }
        let name = series.name();
        let prefix = name.split_once('.').map_or(name, |(prefix, _)| prefix);
        if !self.known.insert(rapidhash_v3(prefix.as_bytes())) {
            return;
        }
        if self.fresh.len() < MOST_FRESH {
            self.fresh.push(series.clone());
        } else {
            self.more += 1;
        }
    }

    /// The hashes of those that are known.
    pub(super) fn known(&self) -> Vec<u64> {
        self.known.iter().copied().collect()
    }

    /// Knows these, too.
    pub(super) fn know(&mut self, prefixes: Vec<u64>) {
        self.known.extend(prefixes.into_iter().take(MOST_PREFIXES));
    }

    /// The first series of new prefixes since the last call, and how many more there are.
    pub(super) fn take(&mut self) -> (Vec<Series>, u64) {
        (std::mem::take(&mut self.fresh), std::mem::take(&mut self.more))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Kind;

    #[test]
    fn a_prefix_is_new_once() {
        let mut prefixes = Prefixes::default();
        let mut see = |names: &[&str]| {
            names.iter().for_each(|name| prefixes.see(&Series::new(Kind::Gauge, name, &[])));
            let (fresh, more) = prefixes.take();
            (fresh.iter().map(|series| series.name().to_string()).collect::<Vec<_>>(), more)
        };
        assert_eq!(see(&["a.x", "a.y", "b", "a"]), (vec!["a.x".into(), "b".into()], 0));
        assert_eq!(see(&["b.c", "c.d"]), (vec!["c.d".into()], 0));
        let many: Vec<String> = (0..2 * MOST_PREFIXES).map(|n| format!("p{n}.x")).collect();
        let (fresh, more) = see(&many.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(fresh.len() as u64 + more, MOST_PREFIXES as u64 - 3);
        assert_eq!(fresh.len(), MOST_FRESH);
    }
}
