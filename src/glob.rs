//! Patterns of whole texts: `*` is any text, `?` any character, everything else itself.

use std::ops::Range;

/// Whether a pattern matches a whole text.
pub fn matches(pattern: &str, text: &str) -> bool {
    captures(pattern, text).is_some()
}

/// What each `*` of a pattern stands for in a text that it matches, as byte ranges: each as short as it can be, but for
/// the last.
pub fn captures(pattern: &str, text: &str) -> Option<Vec<Range<usize>>> {
    let (p_bytes, t_bytes) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut stars: Vec<Range<usize>> = Vec::new();
    // What stands behind the last star in the pattern. An earlier one need never take more: what it could take, the last
    // one can skip (the greedy match of wildcards, R. Cox, "Glob Matching Can Be Simple And Fast Too").
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
                // A character may be several bytes.
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
        // The last star takes one more character, and what stands behind it is tried again.
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

#[cfg(test)]
mod tests {
    use super::*;

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
