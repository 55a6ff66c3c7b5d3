//! Patterns for whole texts: `*` matches any text, `?` any character, everything else itself.
#![deny(clippy::disallowed_methods)]

use std::ops::Range;

/// Whether a pattern matches a whole text.
pub fn matches(pattern: &str, text: &str) -> bool {
    captures(pattern, text).is_some()
}

/// What each `*` of a pattern matches in a text, as byte ranges: each as short as possible, except for the last. `None`
/// if the pattern does not match.
pub fn captures(pattern: &str, text: &str) -> Option<Vec<Range<usize>>> {
    let (p_bytes, t_bytes) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut stars: Vec<Range<usize>> = Vec::new();
    // The position after the last star in the pattern. Backtracking to an earlier star is never needed: what it could match
    // in addition, the last one can skip (greedy matching; R. Cox, "Glob Matching Can Be Simple And Fast Too").
    let mut behind = 0;
    while t < t_bytes.len() {
        match p_bytes.get(p) {
            Some(b'*') => {
                stars.push(t..t);
                p += 1;
                behind = p;
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
        let last = stars.last_mut()?;
        last.end += text[last.end..].chars().next().map_or(1, char::len_utf8);
        (p, t) = (behind, last.end);
    }
    while p_bytes.get(p) == Some(&b'*') {
        stars.push(t..t);
        p += 1;
    }
    (p == p_bytes.len()).then_some(stars)
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
    fn stars_take_as_little_as_they_can() {
        let expected = |all: &[&str]| Some(all.iter().map(|part| part.to_string()).collect::<Vec<_>>());
        assert_eq!(parts("api.*.*.time", "api.a.b.c.time"), expected(&["a", "b.c"]));
        assert_eq!(parts("*.*", "a.b.c"), expected(&["a", "b.c"]));
        assert_eq!(parts("a*", "a"), expected(&[""]));
        assert_eq!(parts("a**", "abc"), expected(&["", "bc"]));
        assert_eq!(parts("x*y", "xäöy"), expected(&["äö"]));
    }
}
