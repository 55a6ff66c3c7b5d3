//! Rules: the name of a series, its tags, and whether it is kept at all. The first rule that matches decides. Rules are
//! evaluated when a key is new; after that they cost nothing.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::glob::{covers, matches};
use crate::memory::footprint;
use crate::protocol::Kind;
use crate::series::Series;

use super::key_cache::CACHED_KEYS_PER_SERIES;
use super::overrides::SeriesOverrides;
use super::pattern::Pattern;

/// A rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Pattern of names; what its stars or groups match is `$1`, `$2` and so on in the templates below.
    pub pattern: Pattern,
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
    /// Whether tags that were sent stay in place of those.
    pub honor_tags: bool,
    /// Every value is multiplied by it.
    pub scale: f64,
    /// What its series are, for those who can say so.
    pub help: Option<String>,
    /// Further settings of its series.
    pub overrides: SeriesOverrides,
}

impl Default for Rule {
    fn default() -> Rule {
        Rule {
            pattern: Pattern::default(),
            tags: Vec::new(),
            kinds: Vec::new(),
            rename: None,
            drop: false,
            drop_tags: Vec::new(),
            keep_tags: None,
            add_tags: Vec::new(),
            honor_tags: false,
            scale: 1.0,
            help: None,
            overrides: SeriesOverrides::default(),
        }
    }
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
        RuleScope { pattern: self.pattern.identity(), tags: self.tags.clone(), kinds }
    }

    /// Whether its series may take another one for it.
    pub(crate) fn is_same_for_series(&self, other: &Rule) -> bool {
        (&self.pattern, &self.overrides, &self.help) == (&other.pattern, &other.overrides, &other.help)
    }

    /// Whether it changes more than names, so that its series must know it.
    fn is_kept(&self) -> bool {
        self.help.is_some() || self.overrides != SeriesOverrides::default()
    }

    /// Whether it applies to all that another one does.
    fn covers(&self, other: &Rule) -> bool {
        let has_kinds = self.kinds.is_empty()
            || (!other.kinds.is_empty() && other.kinds.iter().all(|kind| self.kinds.contains(kind)));
        let is_asked = |(key, pattern): &(String, String)| {
            other.tags.iter().any(|(known, narrower)| known == key && covers(pattern, narrower))
        };
        has_kinds && self.pattern.covers(&other.pattern) && self.tags.iter().all(is_asked)
    }

    fn matches(&self, series: &Series) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&series.kind()))
            && self.pattern.matches(series.name())
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
            by_head.entry(rule.pattern.head().into()).or_default().push(n);
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
        let Verdict { outcome, rule, .. } = self.evaluate(series);
        (outcome, rule)
    }

    fn evaluate(&self, series: &Series) -> Verdict {
        let Some((n, rule)) = self.find(series) else { return Verdict::default() };
        let number = if rule.is_kept() { n as u32 } else { NO_RULE };
        Verdict { outcome: Self::outcome(rule, series), rule: number, scale: rule.scale }
    }

    /// Whether a rule, by its number, concerns those who get intervals.
    pub fn is_seen(&self, rule: u32) -> bool {
        self.rules.get(rule as usize).is_some_and(|rule| rule.help.is_some() || rule.overrides.is_seen())
    }

    /// What the series of a rule are, by its number.
    pub fn help(&self, rule: u32) -> Option<&str> {
        self.rules.get(rule as usize)?.help.as_deref()
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
        Some((if rule.is_kept() { n } else { NO_RULE }, rule.drop))
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
        let parts = rule.pattern.captures(name);
        let renamed = rule.rename.as_ref().map(|to| fill(to, &parts)).filter(|to| !to.is_empty());
        let is_sent =
            |key: &str| series.tags().any(|(known, value)| known == key && value.is_some_and(|v| !v.is_empty()));
        let added = rule.add_tags.iter().filter(|(key, _)| !rule.honor_tags || !is_sent(key));
        let added: HashMap<&str, String> = added.map(|(key, value)| (key.as_str(), fill(value, &parts))).collect();
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

/// Expands a template: `$1` or `${1}` is what the first star or group matched, and so on, `$0` all that a regular expression
/// found; `$$` is a dollar.
fn fill(template: &str, parts: &[&str]) -> String {
    let mut out = String::new();
    let rest = references(template, |text, number| {
        out.push_str(text);
        if let Some(number) = number {
            out.push_str(parts.get(number).unwrap_or(&""));
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

/// The highest number that a template refers to.
pub fn highest_reference(template: &str) -> usize {
    let mut highest = 0;
    references(template, |_, number| highest = highest.max(number.unwrap_or(0)));
    highest
}

/// What the rules say of a series.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) outcome: RuleOutcome,
    /// The rule that applies, or [`NO_RULE`].
    pub(super) rule: u32,
    /// What values are multiplied by.
    pub(super) scale: f64,
}

impl Default for Verdict {
    fn default() -> Verdict {
        Verdict { outcome: RuleOutcome::Same, rule: NO_RULE, scale: 1.0 }
    }
}

/// Caches the outcome of keys, so that rules are evaluated once.
#[derive(Debug, Default)]
pub(super) struct RuleOutcomes {
    known: HashMap<Box<[u8]>, Verdict>,
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
    /// What the rules say of a key; the cache of a shard that holds `series` series is larger by those.
    /// Where caches give way (`is_short`), it holds few.
    pub(super) fn of(&mut self, key: &[u8], rules: &Rules, series: usize, is_short: bool) -> &Verdict {
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
            self.known.insert(key.into(), rules.evaluate(&Series::from_key(key)));
        }
        &self.known[key]
    }

    /// Bytes that it takes.
    #[inline]
    pub(super) fn heap_bytes(&self) -> usize {
        // The standard table fills seven eighths of its slots, and has a byte beside each.
        let slot = size_of::<(Box<[u8]>, Verdict)>() + 1;
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
        assert_eq!((Pattern::from("a.*.b*").groups(), highest_reference("$1.${12}")), (2, 12));
    }

    #[test]
    fn what_was_sent_stays_where_that_is_asked_for() {
        let regex =
            Pattern::new(super::super::pattern::PatternKind::Regex, r"^(\w+)\.(\w+)".into()).expect("an expression");
        let honoring = Rule {
            pattern: regex,
            rename: Some("${2}_$1".into()),
            add_tags: vec![("k".into(), "$0".into()), ("l".into(), "$1$9".into())],
            honor_tags: true,
            ..Rule::default()
        };
        let rules = rules(&[honoring]);
        let shown = |tags: &[(&str, Option<&str>)]| text(rules.verdict(&series("a.b.c", tags)).0);
        assert_eq!(shown(&[("k", Some("own"))]), "b_a;k=own;l=a");
        assert_eq!(shown(&[("k", Some("")), ("m", None)]), "b_a;k=a.b;l=a;m");
    }
}
