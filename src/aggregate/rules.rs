//! Rules: the name of a series, its tags, and whether it is kept at all. The first rule that matches decides. Rules are
//! evaluated when a key is new; after that they cost nothing.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::glob::{captures, covers, matches};
use crate::memory::footprint;
use crate::protocol::Kind;
use crate::series::Series;

use super::key_cache::CACHED_KEYS_PER_SERIES;
use super::overrides::SeriesOverrides;

/// A rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// Pattern of names; what its stars match is `$1`, `$2` and so on in the templates below.
    pub pattern: String,
    /// Required tags with patterns of their values (a tag without a value has an empty one).
    pub tags: Vec<(String, String)>,
    /// Only series of these kinds; empty for all.
    pub kinds: Vec<Kind>,
    /// The new name.
    pub rename: Option<String>,
    /// Whether its samples are dropped, and counted.
    pub drop: bool,
    /// Patterns of keys of tags to drop.
    pub drop_tags: Vec<String>,
    /// Patterns of keys of the only tags to keep.
    pub keep_tags: Option<Vec<String>>,
    /// Tags to add or replace.
    pub add_tags: Vec<(String, String)>,
    /// Further settings of its series.
    pub overrides: SeriesOverrides,
}

/// What a rule applies to, by which it is found again among others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RuleScope {
    pattern: String,
    tags: Vec<(String, String)>,
    /// Numbers of kinds.
    kinds: Vec<u8>,
}

impl Rule {
    /// What it applies to.
    fn scope(&self) -> RuleScope {
        let kinds = self.kinds.iter().map(|kind| *kind as u8).collect();
        RuleScope { pattern: self.pattern.clone(), tags: self.tags.clone(), kinds }
    }

    /// Whether it applies to all that another one does.
    fn covers(&self, other: &Rule) -> bool {
        let has_kinds = self.kinds.is_empty()
            || (!other.kinds.is_empty() && other.kinds.iter().all(|kind| self.kinds.contains(kind)));
        let is_asked = |(key, pattern): &(String, String)| {
            other.tags.iter().any(|(known, narrower)| known == key && covers(pattern, narrower))
        };
        has_kinds && covers(&self.pattern, &other.pattern) && self.tags.iter().all(is_asked)
    }

    fn matches(&self, series: &Series) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&series.kind()))
            && matches(&self.pattern, series.name())
            && self.tags.iter().all(|(key, pattern)| {
                series.tags().any(|(known, value)| known == key && matches(pattern, value.unwrap_or("")))
            })
    }
}

/// The number for series that no rule applies to.
pub const NO_RULE: u32 = u32::MAX;

/// What the rules make of a series.
#[derive(Clone, Debug, PartialEq)]
pub enum RuleOutcome {
    /// No rule changes it.
    Same,
    /// It is dropped.
    Dropped,
    /// It becomes this one.
    Is(Series),
}

/// All rules, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    rules: Vec<Rule>,
    /// Numbers of rules, in order, by the prefix of their patterns before the first star.
    by_head: HashMap<Box<str>, Vec<u32>>,
    /// The lengths of those prefixes in bytes, each once.
    lengths: Vec<usize>,
}

impl Rules {
    /// Compiles rules.
    pub fn new(rules: Vec<Rule>) -> Rules {
        let mut by_head: HashMap<Box<str>, Vec<u32>> = HashMap::new();
        for (n, rule) in (0..).zip(&rules) {
            let head = rule.pattern.split(['*', '?']).next().unwrap_or("");
            by_head.entry(head.into()).or_default().push(n);
        }
        let mut lengths: Vec<usize> = by_head.keys().map(|head| head.len()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        Rules { rules, by_head, lengths }
    }

    /// Overrides only, by their numbers; they match nothing.
    pub fn of_overrides(overrides: Vec<SeriesOverrides>) -> Rules {
        let rules = overrides.into_iter().map(|overrides| Rule { overrides, ..Rule::default() }).collect();
        Rules { rules, ..Rules::default() }
    }

    /// The same, and after them overrides only, which match nothing.
    #[must_use]
    pub fn followed_by(mut self, overrides: Vec<SeriesOverrides>) -> Rules {
        self.rules.extend(overrides.into_iter().map(|overrides| Rule { overrides, ..Rule::default() }));
        self
    }

    /// The first rule that matches a series, with its number from 0.
    pub fn find(&self, series: &Series) -> Option<(usize, &Rule)> {
        let heads = self.lengths.iter().map_while(|&length| (length <= series.name().len()).then_some(length));
        let mut first: Option<u32> = None;
        for alike in heads.filter_map(|length| self.by_head.get(series.name().get(..length)?)) {
            let earlier = alike.iter().take_while(|&&n| first.is_none_or(|first| n < first));
            first = earlier.copied().find(|&n| self.rules[n as usize].matches(series)).or(first);
        }
        first.map(|n| (n as usize, &self.rules[n as usize]))
    }

    /// The outcome for a series, and the number of the rule that applies ([`NO_RULE`] for none).
    pub fn verdict(&self, series: &Series) -> (RuleOutcome, u32) {
        let Some((n, rule)) = self.find(series) else { return (RuleOutcome::Same, NO_RULE) };
        let number = if rule.overrides == SeriesOverrides::default() { NO_RULE } else { n as u32 };
        (Self::outcome(rule, series), number)
    }

    /// The overrides of a rule, by its number.
    pub fn overrides(&self, rule: u32) -> Option<&SeriesOverrides> {
        self.rules.get(rule as usize).map(|rule| &rule.overrides)
    }

    /// What each rule applies to, in order.
    pub fn scopes(&self) -> Vec<RuleScope> {
        self.rules.iter().map(Rule::scope).collect()
    }

    /// The first rule that applies to this: its number, [`NO_RULE`] if it changes names alone, and whether it drops its series.
    pub fn of_scope(&self, scope: &RuleScope) -> Option<(u32, bool)> {
        let (n, rule) = (0..).zip(&self.rules).find(|(_, rule)| rule.scope() == *scope)?;
        Some((if rule.overrides == SeriesOverrides::default() { NO_RULE } else { n }, rule.drop))
    }

    /// All rules, in order.
    pub fn all(&self) -> &[Rule] {
        &self.rules
    }

    /// Pairs of rules by their numbers, the second of which is never met, because the first applies to all that it could.
    pub fn hidden(&self) -> Vec<(usize, usize)> {
        let by = |n: usize| (0..n).find(|&before| self.rules[before].covers(&self.rules[n]));
        (0..self.rules.len()).filter_map(|n| Some((by(n)?, n))).collect()
    }

    /// The overrides of every rule, in order.
    pub fn all_overrides(&self) -> impl Iterator<Item = &SeriesOverrides> {
        self.rules.iter().map(|rule| &rule.overrides)
    }

    /// The outcome of a rule that matches.
    pub fn outcome(rule: &Rule, series: &Series) -> RuleOutcome {
        if rule.drop {
            return RuleOutcome::Dropped;
        }
        let name = series.name();
        let parts: Vec<&str> =
            captures(&rule.pattern, name).unwrap_or_default().into_iter().map(|range| &name[range]).collect();
        let renamed = rule.rename.as_ref().map(|to| fill(to, &parts)).filter(|to| !to.is_empty());
        let added: HashMap<&str, String> =
            rule.add_tags.iter().map(|(key, value)| (key.as_str(), fill(value, &parts))).collect();
        let is_kept = |key: &str| {
            !added.contains_key(key)
                && !rule.drop_tags.iter().any(|pattern| matches(pattern, key))
                && rule.keep_tags.as_ref().is_none_or(|kept| kept.iter().any(|pattern| matches(pattern, key)))
        };
        let own = series.tags().filter(|(key, _)| is_kept(key));
        let added = added.iter().map(|(key, value)| (*key, Some(value.as_str())));
        let tags: Vec<(&str, Option<&str>)> = own.chain(added).collect();
        let mapped = Series::new(series.kind(), renamed.as_deref().unwrap_or(name), &tags);
        if mapped == *series { RuleOutcome::Same } else { RuleOutcome::Is(mapped) }
    }
}

/// Expands a template: `$1` or `${1}` is what the first star matched, and so on; `$$` is a dollar.
fn fill(template: &str, parts: &[&str]) -> String {
    let mut out = String::new();
    let rest = references(template, |text, number| {
        out.push_str(text);
        if let Some(number) = number {
            out.push_str(number.checked_sub(1).and_then(|at| parts.get(at)).unwrap_or(&""));
        }
    });
    out + rest
}

/// Passes every piece of a template to `visit`: a text, and the number of the star after it, if there is one. Returns
/// the text after the last one.
fn references(template: &str, mut visit: impl FnMut(&str, Option<usize>)) -> &str {
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        let after = &rest[at + 1..];
        let (digits, end) = match after.strip_prefix('{').and_then(|inside| Some((inside, inside.find('}')?))) {
            Some((inside, end)) => (&inside[..end], end + 2),
            None => {
                let end = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
                (&after[..end], end)
            }
        };
        rest = match digits.parse() {
            Ok(number) => {
                visit(&rest[..at], Some(number));
                &after[end..]
            }
            Err(_) => {
                visit(&rest[..=at], None);
                after.strip_prefix('$').unwrap_or(after)
            }
        };
    }
    rest
}

/// The number of stars in a pattern, which templates may refer to.
pub fn stars(pattern: &str) -> usize {
    pattern.matches('*').count()
}

/// The highest number that a template refers to.
pub fn highest_reference(template: &str) -> usize {
    let mut highest = 0;
    references(template, |_, number| highest = highest.max(number.unwrap_or(0)));
    highest
}

/// Caches the outcome of keys, so that rules are evaluated once.
#[derive(Debug, Default)]
pub(super) struct RuleOutcomes {
    known: HashMap<Box<[u8]>, (RuleOutcome, u32)>,
    /// Size of the keys in bytes.
    bytes: usize,
}

/// Cached keys in addition to those of the series held.
const SPARE_CACHED_KEYS: usize = 65_536;

/// Cached keys where caches give way.
const SHORT_CACHED_KEYS: usize = 1024;

/// Bytes of cached keys; a key of a series held counts 256.
const SPARE_BYTES: usize = 32 << 20;

impl RuleOutcomes {
    /// The outcome of a key, and the rule that applies; the cache of a shard that holds `series` series is larger by those.
    /// Where caches give way (`is_short`), it holds few.
    pub(super) fn of(&mut self, key: &[u8], rules: &Rules, series: usize, is_short: bool) -> &(RuleOutcome, u32) {
        if !self.known.contains_key(key) {
            let keys = CACHED_KEYS_PER_SERIES * series;
            let is_full = self.known.len() >= keys + SPARE_CACHED_KEYS || self.bytes >= 256 * keys + SPARE_BYTES;
            if is_full || (is_short && self.known.len() >= SHORT_CACHED_KEYS) {
                self.known.clear();
                self.bytes = 0;
                if is_short {
                    self.known.shrink_to(SHORT_CACHED_KEYS);
                }
            }
            self.bytes += footprint(key.len());
            self.known.insert(key.into(), rules.verdict(&Series::from_key(key)));
        }
        &self.known[key]
    }

    /// Bytes that it takes.
    #[inline]
    pub(super) fn heap_bytes(&self) -> usize {
        // The standard table fills seven eighths of its slots, and has a byte beside each.
        let slot = size_of::<(Box<[u8]>, (RuleOutcome, u32))>() + 1;
        self.bytes + footprint(self.known.capacity() / 7 * 8 * slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Kind;

    fn series(name: &str, tags: &[(&str, Option<&str>)]) -> Series {
        Series::new(Kind::Counter, name, tags)
    }

    fn rules(all: &[Rule]) -> Rules {
        Rules::new(all.to_vec())
    }

    fn text(outcome: RuleOutcome) -> String {
        match outcome {
            RuleOutcome::Same => "same".into(),
            RuleOutcome::Dropped => "dropped".into(),
            RuleOutcome::Is(series) => series.to_string(),
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = rules(&[
            Rule { pattern: "debug.*".into(), drop: true, ..Rule::default() },
            Rule {
                pattern: "api.*.*.time".into(),
                rename: Some("api.time".into()),
                add_tags: vec![("route".into(), "$1".into()), ("verb".into(), "${2}!".into())],
                ..Rule::default()
            },
            Rule {
                pattern: "*".into(),
                tags: vec![("env".into(), "prod*".into())],
                drop_tags: vec!["request_*".into()],
                ..Rule::default()
            },
            Rule { pattern: "x".into(), keep_tags: Some(vec!["a*".into()]), ..Rule::default() },
            Rule {
                pattern: "*".into(),
                rename: Some("never.$0$$${word}$1".into()),
                tags: vec![("no".into(), "?".into())],
                ..Rule::default()
            },
        ]);
        for (name, tags, expected) in [
            ("debug.a", &[][..], "dropped"),
            ("debug", &[], "same"),
            ("api.users.get.time", &[], "api.time;route=users;verb=get!"),
            ("y", &[("env", Some("prod-1")), ("request_id", Some("7"))], "y;env=prod-1"),
            ("y", &[("env", Some("test")), ("request_id", Some("7"))], "same"),
            ("x", &[("a1", None), ("b", Some("1"))], "x;a1"),
            ("z", &[("no", Some("1"))], "never.$${word}z;no=1"),
        ] {
            assert_eq!(text(rules.verdict(&series(name, tags)).0), expected, "{name} {tags:?}");
        }
        assert_eq!((stars("a.*.b*"), highest_reference("$1.${12}")), (2, 12));
    }
}
