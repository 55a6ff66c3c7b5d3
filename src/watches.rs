//! Watches: which metrics are heartbeats without a word about it, and of whom.
//!
//! ```text
//! match    = "queue.*.done"          the first watch whose pattern matches a metric's name takes it
//! service  = "queue-{1}"             {1} is what the first star matched
//! instance = "{host}"                tag `host`, else the line's host, else the source address
//! ```
//! A name may also hold `{source}`, the source address, and `{KEY}`, the value of a tag. A text that holds something a line
//! does not have is `-` as an instance; as a service it means nobody.
#![deny(clippy::disallowed_methods)]

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use compact_str::{CompactString, ToCompactString};

use crate::glob::{captures, covers};
use crate::named::named_enum;
use crate::protocol::{is_instance_name, is_service_name};

/// Most watches: their numbers are 16 bits wide.
pub const MAX_WATCHES: usize = 1000;

/// The instance of a line that has not what its name is made of.
const NOBODY: &str = "-";

named_enum! {
    /// Which lines of a watched metric show that its sender lives.
    pub enum Evidence {
        /// All.
        Any = "any",
        /// Those whose value is not that of the last.
        Change = "change",
        /// Those whose value is not 0.
        Nonzero = "nonzero",
    }
}

impl Evidence {
    /// Whether a line with a value shows it; `last` is the value of the last one that did.
    pub fn is_in(self, value: f64, last: Option<f64>) -> bool {
        match self {
            Evidence::Any => true,
            Evidence::Change => last != Some(value),
            Evidence::Nonzero => value != 0.0,
        }
    }
}

/// A text with places that a line fills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// What a star matched, from 0.
    Star(usize),
    Tag(String),
    Host,
    Source,
}

impl Template {
    /// Reads one for a pattern with so many stars.
    ///
    /// # Errors
    /// A place that nothing can fill, with what would be right.
    pub fn parse(text: &str, stars: usize) -> Result<Template, String> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, behind)) = rest.split_once('{') {
            let (name, after) = behind.split_once('}').ok_or(format!("`{{` without `}}` in `{text}`"))?;
            if !before.is_empty() {
                parts.push(Part::Text(before.into()));
            }
            parts.push(part(name, stars)?);
            rest = after;
        }
        if rest.contains('}') {
            return Err(format!("`}}` without `{{` in `{text}`"));
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        if parts.is_empty() {
            return Err("a name has 1 to 128 bytes".into());
        }
        Ok(Template { text: text.into(), parts })
    }

    fn has(&self, part: &Part) -> bool {
        self.parts.contains(part)
    }

    /// The text for a line, with `unknown` as the address of a sender that is not; `None` if the line has not what it is made of.
    fn fill(&self, line: &WatchedLine<'_>, unknown: &str) -> Option<CompactString> {
        let mut out = CompactString::default();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Star(n) => out.push_str(line.name.get(line.stars.get(*n)?.clone())?),
                Part::Tag(key) => out.push_str((line.tag)(key)?),
                Part::Host => match line.host() {
                    Some(host) => out.push_str(host),
                    None => out.push_str(&line.source_or(unknown)),
                },
                Part::Source => out.push_str(&line.source_or(unknown)),
            }
        }
        Some(out)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What stands between the braces.
fn part(name: &str, stars: usize) -> Result<Part, String> {
    if let Ok(number) = name.parse::<usize>() {
        return match (number, stars) {
            (_, 0) => Err(format!("`{{{name}}}` is what a star matched, and `match` has none")),
            (1.., _) if number <= stars => Ok(Part::Star(number - 1)),
            (_, 1) => Err(format!("`match` has one star: `{{1}}` is right, not `{{{name}}}`")),
            _ => Err(format!("`match` has {stars} stars: `{{1}}` to `{{{stars}}}` are right, not `{{{name}}}`")),
        };
    }
    match name {
        "host" => Ok(Part::Host),
        "source" => Ok(Part::Source),
        // A key with other characters is no key that a client sends, but most likely a slip.
        _ if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-/".contains(&b)) => {
            Ok(Part::Tag(name.into()))
        }
        _ => Err(format!(
            "unknown placeholder `{{{name}}}`: `{{1}}` is what the first star matched, `{{host}}` and `{{source}}` are \
             the sender, `{{KEY}}` is the value of a tag"
        )),
    }
}

/// What of a line fills templates.
pub struct WatchedLine<'a> {
    /// The metric's name.
    pub name: &'a str,
    /// What each star of the pattern matched.
    pub stars: &'a [Range<usize>],
    /// The value of a tag.
    pub tag: &'a dyn Fn(&str) -> Option<&'a str>,
    /// Who sent it.
    pub source: Option<IpAddr>,
}

impl<'a> WatchedLine<'a> {
    fn host(&self) -> Option<&'a str> {
        (self.tag)("host").filter(|host| !host.is_empty())
    }

    fn source_or(&self, unknown: &str) -> CompactString {
        self.source.map_or(unknown.into(), |source| source.to_compact_string())
    }
}

/// One watch.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricWatch {
    /// Of metrics' names: `*` is any text, `?` any character.
    pub pattern: String,
    /// Which service.
    pub service: Template,
    /// Which of its instances.
    pub instance: Template,
    /// The declared interval, in seconds; without it the interval is learned.
    pub interval: Option<f64>,
    /// Which lines count.
    pub evidence: Evidence,
    /// Fewer lines a minute are too few.
    pub floor: Option<u32>,
    /// Most instances of a service.
    pub max_instances: usize,
}

impl MetricWatch {
    /// Whether the address of a line's sender is part of its names, as the line has a host or not.
    fn needs_source(&self, has_host: bool) -> bool {
        [&self.service, &self.instance]
            .into_iter()
            .any(|name| name.has(&Part::Source) || (!has_host && name.has(&Part::Host)))
    }

    /// Whether lines without a tag `host` have their sender's address in their names, so that it must be known.
    pub fn may_need_source(&self) -> bool {
        self.needs_source(false)
    }

    /// Whether a line of such a series must be looked at itself: the registry knows neither its sender nor how many there are.
    pub fn looks_at_lines(&self, line: &WatchedLine<'_>) -> bool {
        self.floor.is_some() || self.needs_source(line.host().is_some())
    }

    /// Whether the name of the service or the instance of a line has its sender's address in it.
    pub fn is_named_by_source(&self, line: &WatchedLine<'_>) -> bool {
        self.needs_source(line.host().is_some())
    }

    /// The service and the instance of a line; `None` if they cannot be called so.
    pub fn who(&self, line: &WatchedLine<'_>) -> Option<(CompactString, CompactString)> {
        self.named(line, NOBODY)
    }

    /// The same of a line whose sender is still to come: `{source}` stands for it.
    pub fn who_of_any(&self, line: &WatchedLine<'_>) -> Option<(CompactString, CompactString)> {
        self.named(line, "{source}")
    }

    fn named(&self, line: &WatchedLine<'_>, unknown: &str) -> Option<(CompactString, CompactString)> {
        let (service, instance) =
            (self.service.fill(line, unknown)?, self.instance.fill(line, unknown).unwrap_or(NOBODY.into()));
        let instance = if instance.is_empty() { NOBODY.into() } else { instance };
        (is_service_name(&service) && is_instance_name(&instance)).then_some((service, instance))
    }
}

/// All watches, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Watches(Vec<MetricWatch>);

impl Watches {
    /// Watches in their order; at most [`MAX_WATCHES`].
    pub fn new(all: Vec<MetricWatch>) -> Watches {
        Watches(all)
    }

    /// All, in their order.
    pub fn all(&self) -> &[MetricWatch] {
        &self.0
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The watch of a number.
    pub fn get(&self, number: u16) -> Option<&MetricWatch> {
        self.0.get(usize::from(number))
    }

    /// The watch that takes a metric, its number, and what its stars match.
    pub fn find(&self, name: &str) -> Option<(u16, &MetricWatch, Vec<Range<usize>>)> {
        (0..).zip(&self.0).find_map(|(number, watch)| Some((number, watch, captures(&watch.pattern, name)?)))
    }

    /// Pairs of watches, the second of which takes nothing, because the first takes all that it could.
    pub fn hidden(&self) -> Vec<(&MetricWatch, &MetricWatch)> {
        let hides =
            |n: usize, watch: &&MetricWatch| self.0[..n].iter().find(|before| covers(&before.pattern, &watch.pattern));
        self.0.iter().enumerate().filter_map(|(n, watch)| Some((hides(n, &watch)?, watch))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(pattern: &str, service: &str, instance: &str) -> MetricWatch {
        let stars = pattern.matches('*').count();
        MetricWatch {
            pattern: pattern.into(),
            service: Template::parse(service, stars).expect("a template"),
            instance: Template::parse(instance, stars).expect("a template"),
            interval: None,
            evidence: Evidence::Any,
            floor: None,
            max_instances: 1000,
        }
    }

    fn who(
        watches: &Watches,
        name: &str,
        tags: &[(&'static str, &'static str)],
        source: Option<&str>,
    ) -> Option<String> {
        let (number, watch, stars) = watches.find(name)?;
        let tag = |key: &str| tags.iter().find(|(known, _)| *known == key).map(|(_, value)| *value);
        let source = source.map(|source| source.parse().expect("an address"));
        let (service, instance) = watch.who(&WatchedLine { name, stars: &stars, tag: &tag, source })?;
        Some(format!("{number} {service}/{instance}"))
    }

    #[test]
    fn the_first_watch_that_matches_names_the_service_and_the_instance() {
        let watches = Watches::new(vec![
            watch("airflow.scheduler_heartbeat", "airflow", "{host}"),
            watch("queue.*.done", "queue-{1}", "all"),
            watch("*.*.up", "{2}.{1}", "{az}-{rack}"),
            watch("node.*", "node", "{source}"),
            watch("named.by.tag", "{app}", "{host}"),
        ]);
        let host = [("host", "a")];
        for (name, tags, source, expected) in [
            ("airflow.scheduler_heartbeat", &host[..], Some("10.0.0.1"), Some("0 airflow/a")),
            ("airflow.scheduler_heartbeat", &[], Some("10.0.0.1"), Some("0 airflow/10.0.0.1")),
            ("airflow.scheduler_heartbeat", &[], None, Some("0 airflow/-")),
            ("queue.mail.done", &[], None, Some("1 queue-mail/all")),
            ("a.b.up", &[("az", "x"), ("rack", "7")], None, Some("2 b.a/x-7")),
            ("a.b.up", &[("az", "x")], None, Some("2 b.a/-")),
            ("node.load", &[], Some("2001:db8::1"), Some("3 node/2001:db8::1")),
            ("named.by.tag", &[("app", "events")], None, None),
            ("named.by.tag", &host, None, None),
            ("other", &[], None, None),
        ] {
            assert_eq!(who(&watches, name, tags, source).as_deref(), expected, "{name} {tags:?}");
        }
    }

    #[test]
    fn a_placeholder_that_nothing_fills_is_an_error_that_says_what_would_be_right() {
        for (text, stars, problem) in [
            ("{1}", 0, "`{1}` is what a star matched, and `match` has none"),
            ("{2}", 1, "`match` has one star: `{1}` is right, not `{2}`"),
            ("{0}", 2, "`match` has 2 stars: `{1}` to `{2}` are right, not `{0}`"),
            ("a-{host", 0, "`{` without `}` in `a-{host`"),
            ("host}", 0, "`}` without `{` in `host}`"),
            ("", 0, "a name has 1 to 128 bytes"),
        ] {
            assert_eq!(Template::parse(text, stars), Err(problem.to_string()), "{text}");
        }
        let problem = Template::parse("{not a tag}", 0).expect_err("no key");
        assert!(
            problem.starts_with("unknown placeholder `{not a tag}`: `{1}` is what the first star matched"),
            "{problem}"
        );
    }

    #[test]
    fn a_watch_behind_a_wider_one_takes_nothing() {
        let all = ["a.*", "a.b", "a.b.*", "b.?", "b.*", "b.x", "*", "c"];
        let watches = Watches::new(all.iter().map(|pattern| watch(pattern, "s", "i")).collect());
        let hidden: Vec<String> =
            watches.hidden().into_iter().map(|(by, watch)| format!("{} by {}", watch.pattern, by.pattern)).collect();
        assert_eq!(hidden, ["a.b by a.*", "a.b.* by a.*", "b.x by b.?", "c by *"]);
    }

    #[test]
    fn what_counts_as_evidence_depends_on_the_value_and_the_last() {
        for (evidence, value, last, expected) in [
            (Evidence::Any, 0.0, Some(0.0), true),
            (Evidence::Change, 5.0, Some(5.0), false),
            (Evidence::Change, 5.0, Some(4.0), true),
            (Evidence::Change, 5.0, None, true),
            (Evidence::Nonzero, 0.0, None, false),
            (Evidence::Nonzero, -1.0, Some(-1.0), true),
        ] {
            assert_eq!(evidence.is_in(value, last), expected, "{evidence} {value} {last:?}");
        }
    }
}
