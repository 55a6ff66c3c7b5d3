//! What a rule matches names by: a pattern whose stars take any text, one whose stars take a part of a dotted name, or a regular
//! expression. A name is matched in time linear in its length.

use std::fmt;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use crate::glob;

/// Most bytes that a compiled regular expression takes.
const MOST_REGEX_BYTES: usize = 1 << 20;

/// The form of a pattern.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PatternKind {
    /// `*` is any text, `?` any character.
    #[default]
    Text,
    /// The same, but neither takes a dot.
    Parts,
    /// A regular expression, found anywhere in a name.
    Regex,
}

impl PatternKind {
    /// Every form.
    pub const ALL: [PatternKind; 3] = [PatternKind::Text, PatternKind::Parts, PatternKind::Regex];

    /// The key of the configuration.
    pub const fn key(self) -> &'static str {
        match self {
            PatternKind::Text => "match",
            PatternKind::Parts => "match_parts",
            PatternKind::Regex => "match_regex",
        }
    }
}

/// A pattern of names.
#[derive(Clone, Debug, Default)]
pub struct Pattern {
    form: PatternKind,
    text: String,
    /// That of [`PatternKind::Regex`].
    regex: Option<Arc<Regex>>,
}

/// Two are the same if they are written the same.
impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        (self.form, &self.text) == (other.form, &other.text)
    }
}

impl From<&str> for Pattern {
    fn from(text: &str) -> Pattern {
        Pattern::from(text.to_string())
    }
}

impl From<String> for Pattern {
    fn from(text: String) -> Pattern {
        Pattern { form: PatternKind::Text, text, regex: None }
    }
}

/// As it is written.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Pattern {
    /// A pattern of a form.
    ///
    /// # Errors
    /// What is wrong with a regular expression.
    pub fn new(form: PatternKind, text: String) -> Result<Pattern, String> {
        let regex = match form {
            PatternKind::Regex => Some(Arc::new(compile(&text)?)),
            PatternKind::Text | PatternKind::Parts => None,
        };
        Ok(Pattern { form, text, regex })
    }

    /// Its form.
    pub fn form(&self) -> PatternKind {
        self.form
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// By which it is found again: its text, and before it the form of those that are no plain patterns.
    pub(super) fn identity(&self) -> String {
        match self.form {
            PatternKind::Text => self.text.clone(),
            PatternKind::Parts | PatternKind::Regex => format!("{}\0{}", self.form.key(), self.text),
        }
    }

    /// What every name that it matches begins with.
    pub(super) fn head(&self) -> &str {
        match self.form {
            PatternKind::Text | PatternKind::Parts => self.text.split(['*', '?']).next().unwrap_or(""),
            PatternKind::Regex => "",
        }
    }

    /// The highest number of what templates may refer to: its stars, or its groups.
    pub fn groups(&self) -> usize {
        match &self.regex {
            Some(regex) => regex.captures_len() - 1,
            None => self.text.matches('*').count(),
        }
    }

    /// The number of a named group.
    pub fn group(&self, name: &str) -> Option<usize> {
        self.regex.as_ref()?.capture_names().position(|known| known == Some(name))
    }

    /// Whether every name that it matches is this one, or begins with it and a dot, as far as that is written plainly.
    pub fn is_within(&self, folder: &str) -> bool {
        let is_regex = self.form == PatternKind::Regex;
        let text = if is_regex { self.text.strip_prefix('^').unwrap_or("") } else { self.text.as_str() };
        let Some(rest) = text.strip_prefix(folder) else { return false };
        match self.form {
            PatternKind::Regex => (rest == "$" || rest.starts_with(r"\.")) && !rest.contains('|'),
            PatternKind::Text | PatternKind::Parts => rest.is_empty() || rest.starts_with('.'),
        }
    }

    /// Whether it matches a name.
    pub fn matches(&self, name: &str) -> bool {
        match (&self.regex, self.form) {
            (Some(regex), _) => regex.is_match(name),
            (None, PatternKind::Parts) => self.pairs(name).all(|(pattern, part)| {
                matches!((pattern, part), (Some(pattern), Some(part)) if glob::matches(pattern, part))
            }),
            (None, PatternKind::Text | PatternKind::Regex) => glob::matches(&self.text, name),
        }
    }

    /// Whether it matches whatever another one does, as far as that can be seen.
    pub(super) fn covers(&self, other: &Pattern) -> bool {
        match (self.form, other.form) {
            // Stars of parts take less than those of texts.
            (PatternKind::Text, PatternKind::Text | PatternKind::Parts) => glob::covers(&self.text, &other.text),
            (PatternKind::Text, PatternKind::Regex) => {
                !self.text.is_empty() && self.text.bytes().all(|byte| byte == b'*')
            }
            (PatternKind::Parts, PatternKind::Parts) => self.pairs(&other.text).all(
                |(pattern, part)| matches!((pattern, part), (Some(pattern), Some(part)) if glob::covers(pattern, part)),
            ),
            (PatternKind::Regex, PatternKind::Regex) => self == other,
            (PatternKind::Parts | PatternKind::Regex, _) => {
                !other.text.contains(['*', '?']) && other.form == PatternKind::Text && self.matches(&other.text)
            }
        }
    }

    /// What templates may refer to, by number; 0 is all that a regular expression found.
    pub(super) fn captures<'n>(&self, name: &'n str) -> Vec<&'n str> {
        fn stars<'n>(pattern: &str, text: &'n str) -> impl Iterator<Item = &'n str> + use<'n> {
            glob::captures(pattern, text).unwrap_or_default().into_iter().map(move |range| &text[range])
        }
        let mut all = vec![""];
        match (&self.regex, self.form) {
            (Some(regex), _) => {
                let groups = regex.captures(name);
                let texts =
                    groups.iter().flat_map(|groups| groups.iter().map(|one| one.map_or("", |one| one.as_str())));
                all = texts.collect();
            }
            (None, PatternKind::Parts) => {
                for (pattern, part) in self.pairs(name) {
                    all.extend(stars(pattern.unwrap_or(""), part.unwrap_or("")));
                }
            }
            (None, PatternKind::Text | PatternKind::Regex) => all.extend(stars(&self.text, name)),
        }
        all
    }

    /// Its parts beside those of a name, as far as either has any.
    fn pairs<'p, 'n>(&'p self, name: &'n str) -> impl Iterator<Item = (Option<&'p str>, Option<&'n str>)> {
        let (mut patterns, mut parts) = (self.text.split('.'), name.split('.'));
        std::iter::from_fn(move || {
            let pair = (patterns.next(), parts.next());
            (pair != (None, None)).then_some(pair)
        })
    }
}

fn compile(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(&as_re2(text)).size_limit(MOST_REGEX_BYTES).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => format!("it takes more than {MOST_REGEX_BYTES} bytes"),
        other => {
            // The text and the place stand on lines of their own before it.
            let all = other.to_string();
            all.lines().last().unwrap_or_default().trim_start_matches("error: ").to_string()
        }
    })
}

/// The same expression as RE2 reads it, which is what others have: `\d`, `\s`, `\w` and `\b` know ASCII only, and a class holds
/// neither further classes in brackets nor operators.
fn as_re2(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    let (mut is_class, mut is_first) = (false, false);
    while let Some(c) = chars.next() {
        let was_first = std::mem::take(&mut is_first);
        match c {
            '\\' => match chars.next() {
                Some('d') => out.push_str("[0-9]"),
                Some('D') => out.push_str("[^0-9]"),
                Some('w') => out.push_str("[0-9A-Za-z_]"),
                Some('W') => out.push_str("[^0-9A-Za-z_]"),
                Some('s') => out.push_str("[\\t\\n\\f\\r ]"),
                Some('S') => out.push_str("[^\\t\\n\\f\\r ]"),
                Some(bound @ ('b' | 'B')) if !is_class => {
                    // A place that is no bound of ASCII letters may lie within a character, where nothing is found.
                    out.push_str(if bound == 'b' { "(?-u:\\b)" } else { "\\B" });
                }
                Some(other) => out.extend(['\\', other]),
                None => out.push('\\'),
            },
            '[' if !is_class => {
                (is_class, is_first) = (true, true);
                out.push('[');
                if chars.peek() == Some(&'^') {
                    out.extend(chars.next());
                }
            }
            '[' if chars.peek() == Some(&':') => {
                // A named class, up to its bracket.
                out.push('[');
                for inside in chars.by_ref() {
                    out.push(inside);
                    if inside == ']' {
                        break;
                    }
                }
            }
            '[' => out.push_str("\\["),
            // One that comes first is a character.
            ']' if is_class && was_first => out.push_str("\\]"),
            ']' => {
                is_class = false;
                out.push(']');
            }
            '&' | '~' if is_class => out.extend(['\\', c]),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(form: PatternKind, text: &str) -> Pattern {
        Pattern::new(form, text.into()).expect("a pattern")
    }

    #[test]
    fn a_star_takes_one_part_where_that_is_asked_for() {
        let parts = of(PatternKind::Parts, "api.*.x*.time");
        assert_eq!(parts.captures("api.users.x7.time"), ["", "users", "7"]);
        assert_eq!((parts.head(), parts.groups()), ("api.", 2));
        for (name, expected) in [
            ("api.users.x7.time", true),
            ("api..x.time", true),
            ("api.users.more.x7.time", false),
            ("api.users.x7", false),
            ("api.users.x7.time.more", false),
        ] {
            assert_eq!(parts.matches(name), expected, "{name}");
        }
        assert!(of(PatternKind::Parts, "*").matches("") && !of(PatternKind::Parts, "*").matches("a.b"));
        assert!(of(PatternKind::Text, "*").matches("a.b"));
    }

    #[test]
    fn a_pattern_covers_those_that_match_less() {
        let all = [
            (PatternKind::Text, "a.*", PatternKind::Text, "a.b.*", true),
            (PatternKind::Text, "a.*", PatternKind::Parts, "a.*.c", true),
            (PatternKind::Text, "**", PatternKind::Regex, "x", true),
            (PatternKind::Text, "a*", PatternKind::Regex, "^a", false),
            (PatternKind::Parts, "a.*", PatternKind::Parts, "a.b", true),
            (PatternKind::Parts, "a.*", PatternKind::Parts, "a.b.c", false),
            (PatternKind::Parts, "a.*", PatternKind::Text, "a.*", false),
            (PatternKind::Parts, "a.*", PatternKind::Text, "a.b", true),
            (PatternKind::Regex, "^a", PatternKind::Text, "ab", true),
            (PatternKind::Regex, "^a", PatternKind::Text, "a?", false),
            (PatternKind::Regex, "^a", PatternKind::Regex, "^a", true),
        ];
        for (form, text, other_form, other, expected) in all {
            assert_eq!(of(form, text).covers(&of(other_form, other)), expected, "{text} {other}");
        }
    }

    #[test]
    fn a_regular_expression_is_found_anywhere_and_reads_as_re2_does() {
        let regex = of(PatternKind::Regex, r"(\w+)\.(?P<code>\d+)$");
        assert_eq!(regex.captures("web.http.200"), ["http.200", "http", "200"]);
        assert_eq!((regex.groups(), regex.head()), (2, ""));
        assert!(!regex.matches("web.http.٣") && !regex.matches("web.http.x"));
        for (text, name) in [
            (r"^[[.]x", "[x"),
            (r"[]a]b", "]b"),
            (r"a[&&b]c", "a&c"),
            (r"[\w.]+é[^\W]", "a.éb"),
            (r"\bx", "é x"),
            (r"^[\w-]+$", "a-b"),
            (r"^[\w.-]+$", "a.b-c"),
            (r"^[^\s-]$", "x"),
        ] {
            assert!(of(PatternKind::Regex, text).matches(name), "{text} {name}");
        }
        assert!(of(PatternKind::Regex, "[[:digit:]]x").matches("7x"));
        assert_eq!(
            Pattern::new(PatternKind::Regex, "*a".into()).expect_err("no expression"),
            "repetition operator missing expression"
        );
        assert!(Pattern::new(PatternKind::Regex, "(a{1000}){1000}".into()).expect_err("too large").contains("bytes"));
    }
}
