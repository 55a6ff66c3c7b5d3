//! Patterns for whole texts: `*` matches any text, `?` any character, everything else itself.
#![deny(clippy::disallowed_methods)]

use std::cell::Cell;
use std::ops::Range;

/// Whether a pattern matches a whole text.
pub fn matches(pattern: &str, text: &str) -> bool {
    walk(pattern, text, &mut u64::MAX.clone(), &mut |_| {})
}

/// Whether one pattern matches all that another does. Stars may be nothing, and longer than what a `?` matches.
pub fn covers(pattern: &str, other: &str) -> bool {
    matches(pattern, &other.replace('*', "")) && matches(pattern, &other.replace('*', "\u{1}\u{2}\u{1}"))
}

/// What each `*` of a pattern matches in a text, as byte ranges: each as short as possible, except for the last. `None`
/// if the pattern does not match.
pub fn captures(pattern: &str, text: &str) -> Option<Vec<Range<usize>>> {
    let mut stars: Vec<Range<usize>> = Vec::new();
    let is_match = walk(pattern, text, &mut u64::MAX.clone(), &mut |star| match star {
        Star::First(at) => stars.push(at..at),
        Star::Longer(end) => {
            if let Some(last) = stars.last_mut() {
                last.end = end;
            }
        }
    });
    is_match.then_some(stars)
}

/// The work that patterns of somebody who asks may take. A pattern can be made to take as many steps as its length times that of
/// the text.
#[derive(Clone, Debug)]
pub struct Budget(Cell<u64>);

impl Budget {
    /// So many steps: a character of a text that is compared is one.
    pub fn new(steps: u64) -> Budget {
        Budget(Cell::new(steps))
    }

    /// Whether nothing is left: what was said since cannot be relied on.
    pub fn is_spent(&self) -> bool {
        self.0.get() == 0
    }

    /// Whether a pattern matches a whole text; `false` when the steps are spent.
    pub fn matches(&self, pattern: &str, text: &str) -> bool {
        let mut left = self.0.get();
        let is_match = walk(pattern, text, &mut left, &mut |_| {});
        self.0.set(left);
        is_match
    }
}

/// What a star takes.
enum Star {
    /// A further star begins here.
    First(usize),
    /// The last one ends here.
    Longer(usize),
}

/// Whether a pattern matches a whole text in so many steps.
fn walk(pattern: &str, text: &str, steps: &mut u64, stars: &mut impl FnMut(Star)) -> bool {
    let (p_bytes, t_bytes) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // The position after the last star in the pattern, and the end of what it takes. Backtracking to an earlier star is never
    // needed: what it could match in addition, the last one can skip (greedy matching; R. Cox, "Glob Matching Can Be Simple And
    // Fast Too").
    let mut last: Option<(usize, usize)> = None;
    while t < t_bytes.len() {
        *steps = steps.saturating_sub(1);
        if *steps == 0 {
            return false;
        }
        match p_bytes.get(p) {
            Some(b'*') => {
                stars(Star::First(t));
                p += 1;
                last = Some((p, t));
                continue;
            }
            Some(b'?') => {
                // A character may have several bytes.
                let length = text[t..].chars().next().map_or(1, char::len_utf8);
                (p, t) = (p + 1, t + length);
                continue;
            }
            Some(&b) if b == t_bytes[t] => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            _ => {}
        }
        // Backtrack: the last star matches one more character.
        let Some((behind, end)) = &mut last else { return false };
        *end += text[*end..].chars().next().map_or(1, char::len_utf8);
        stars(Star::Longer(*end));
        (p, t) = (*behind, *end);
    }
    while p_bytes.get(p) == Some(&b'*') {
        stars(Star::First(t));
        p += 1;
    }
    p == p_bytes.len()
}

/// A set of prefixes; checking a text is one binary search.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prefixes {
    /// Sorted; none is a prefix of another.
    all: Vec<String>,
}

impl Prefixes {
    /// A set of these prefixes.
    pub fn new<'a>(prefixes: impl IntoIterator<Item = &'a str>) -> Prefixes {
        let mut sorted: Vec<&str> = prefixes.into_iter().collect();
        sorted.sort_unstable();
        let mut all: Vec<String> = Vec::new();
        for prefix in sorted {
            if all.last().is_none_or(|shorter| !prefix.starts_with(shorter.as_str())) {
                all.push(prefix.to_string());
            }
        }
        Prefixes { all }
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether a text begins with one of the prefixes.
    pub fn begin(&self, text: &str) -> bool {
        // It is the greatest prefix not after the text: anything between the two begins with it, and is not in the set.
        let after = self.all.partition_point(|prefix| prefix.as_str() <= text);
        self.all[..after].last().is_some_and(|prefix| text.starts_with(prefix.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_text_begins_with_one_of_many(
            prefixes in proptest::collection::vec("[ab.]{0,4}", 0..8),
            text in "[ab.]{0,6}",
        ) {
            let expected = prefixes.iter().any(|prefix| text.starts_with(prefix.as_str()));
            prop_assert_eq!(Prefixes::new(prefixes.iter().map(String::as_str)).begin(&text), expected, "{:?}", prefixes);
        }
    }

    fn parts(pattern: &str, text: &str) -> Option<Vec<String>> {
        captures(pattern, text).map(|all| all.into_iter().map(|range| text[range].to_string()).collect())
    }

    #[test]
    fn patterns_match_whole_texts() {
        for (pattern, text, expected) in [
            ("worker*", "worker-1", true),
            ("worker*", "my-worker", false),
            ("*", "", true),
            ("a*b*c", "aXbYbZc", true),
            ("a?c", "abc", true),
            ("a?c", "aäc", true),
            ("a?c", "ac", false),
            ("abc", "abcd", false),
            ("abcd", "abc", false),
            ("*ab", "aab", true),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_budget_ends_what_would_take_too_long() {
        let (pattern, text) = (format!("*{}?b", "a".repeat(490)), "a".repeat(900));
        let budget = Budget::new(1_000_000);
        assert!(budget.matches("*a?c", "xaxc") && !budget.matches(&pattern, &text) && !budget.is_spent());
        assert!((0..10).all(|_| !budget.matches(&pattern, &text)) && budget.is_spent());
        assert!(!budget.matches("*", "a"));
    }

    #[test]
    fn stars_take_as_little_as_they_can() {
        let expected = |all: &[&str]| Some(all.iter().map(|part| part.to_string()).collect::<Vec<_>>());
        assert_eq!(parts("api.*.*.time", "api.a.b.c.time"), expected(&["a", "b.c"]));
        assert_eq!(parts("*.*", "a.b.c"), expected(&["a", "b.c"]));
        assert_eq!(parts("a*", "a"), expected(&[""]));
        assert_eq!(parts("a**", "abc"), expected(&["", "bc"]));
        assert_eq!(parts("x*y", "xäöy"), expected(&["äö"]));
    }
}
