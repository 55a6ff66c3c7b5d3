//! Hints: what comes near to what was meant, with the setting that would help. There is one of each [`NearMiss`] since the start:
//! one line of the log, and one entry of the status.
//!
//! Nothing is looked for where lines are read: series are looked at when the flusher hears that they are new, at most
//! [`MOST_LOOKED_AT`] an interval, frames where a line is malformed, and scrapes where the page answers them. What was said is not
//! looked for any more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::aggregate::{Class, Partial};
use crate::named::named_enum;
use crate::telemetry::PortAccount;
use crate::untrusted::excerpt;

/// Most new series of a worker and an interval that are looked at.
const MOST_LOOKED_AT: usize = 10_000;

/// Scrapes of the page before the first of a sink, after which they are taken for a mistake.
const SCRAPES: u64 = 3;

/// Most characters of a name that is shown.
const NAME_CHARS: usize = 100;

named_enum! {
    /// What comes near.
    pub enum NearMiss {
        /// A heartbeat behind a prefix that a client puts before every name.
        PrefixedHeartbeat = "prefixed_heartbeat",
        /// Frames with their lengths before them, at a listener that reads lines.
        FramedLines = "framed_lines",
        /// Tags in a form that is not read.
        TagsInName = "tags_in_name",
        /// The page is scraped in place of a sink.
        ScrapedPage = "scraped_page",
    }
}

/// Who can be scraped for the metrics that people send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scraped {
    /// A sink.
    Sink,
    /// Nobody, and the metrics go nowhere but to the console.
    Nobody,
    /// Nobody, for the metrics go elsewhere.
    #[default]
    Elsewhere,
}

/// What hints hang on.
#[derive(Clone, Debug, Default)]
pub struct HintOptions {
    /// Names of metrics that are heartbeats; none if presence is off.
    pub heartbeats: Vec<String>,
    /// Patterns of metrics that are watched.
    pub watched: Vec<String>,
    /// Who can be scraped.
    pub scraped: Scraped,
}

#[derive(Debug, Default)]
struct Inner {
    options: HintOptions,
    given: BTreeMap<NearMiss, String>,
    scrapes: u64,
}

/// What was found. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Hints(Arc<Mutex<Inner>>);

impl Hints {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Texts are whole whoever has panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What holds from now on.
    pub fn set_options(&self, options: HintOptions) {
        self.lock().options = options;
    }

    /// All that were given since the start, as sentences.
    pub fn all(&self) -> Vec<String> {
        self.lock().given.values().cloned().collect()
    }

    /// Looks at what the workers of a listener have collected.
    pub fn look_at(&self, listener: &str, partials: &[Partial]) {
        let mut inner = self.lock();
        if partials.iter().any(|partial| partial.is_framed) {
            inner.give(NearMiss::FramedLines, || {
                format!(
                    "{listener} reads lines, and a client puts the length before each, as DogStatsD clients do on streams: \
                     `framing = \"length\"` of that [[listen]] reads them"
                )
            });
        }
        for partial in partials {
            for class in [Class::Counter, Class::Gauge, Class::Timer, Class::Set] {
                let new = partial.created[class as usize].iter().take(MOST_LOOKED_AT);
                new.for_each(|created| inner.look_at_name(class, created.series.name()));
            }
        }
    }

    /// Notes that the page is scraped; `ports` are the other ones that can be.
    pub fn note_scrape<'a>(&self, mut ports: impl Iterator<Item = &'a PortAccount>) {
        let mut inner = self.lock();
        inner.scrapes += 1;
        let right = match inner.options.scraped {
            _ if inner.scrapes < SCRAPES => return,
            Scraped::Elsewhere => return,
            Scraped::Sink if ports.any(|port| port.requests > 0) => return,
            Scraped::Sink => "the address of the sink `prometheus`, which nobody has scraped",
            Scraped::Nobody => "a `[[sink]]` with `type = \"prometheus\"` and an address of its own",
        };
        inner.give(NearMiss::ScrapedPage, || {
            format!(
                "/metrics of the page has the daemon's own numbers alone; for the metrics that are sent, scrape {right}"
            )
        });
    }
}

impl Inner {
    fn give(&mut self, what: NearMiss, text: impl FnOnce() -> String) {
        if self.given.contains_key(&what) {
            return;
        }
        let text = text();
        tracing::info!(hint = %what, "{text}");
        self.given.insert(what, text);
    }

    fn look_at_name(&mut self, class: Class, name: &str) {
        let may_beat = matches!(class, Class::Counter | Class::Gauge);
        if may_beat && !self.given.contains_key(&NearMiss::PrefixedHeartbeat) {
            self.look_for_heartbeat(name);
        }
        if name.contains('=') && !self.given.contains_key(&NearMiss::TagsInName) {
            let dialect = [(';', "graphite"), ('[', "signalfx"), ('#', "librato"), (',', "influx")]
                .into_iter()
                .find(|(mark, _)| name.split('=').next().is_some_and(|before| before.contains(*mark)));
            let right = match dialect {
                Some((_, dialect)) => format!("`protocol.name_tags` with \"{dialect}\" in it reads them as tags"),
                None => "`protocol.name_tags` says in which forms tags of a name are read".to_string(),
            };
            let name = excerpt(name.as_bytes(), NAME_CHARS);
            self.give(NearMiss::TagsInName, || format!("the name `{name}` seems to have tags in it: {right}"));
        }
    }

    fn look_for_heartbeat(&mut self, name: &str) {
        let found = self.options.heartbeats.iter().find_map(|reserved| {
            let at = name.find(&**reserved)?;
            let rest = &name[at + reserved.len()..];
            (name[..at].ends_with('.') && (rest.is_empty() || rest.starts_with('.'))).then_some(at + reserved.len())
        });
        let Some(end) = found else { return };
        if self.options.watched.iter().any(|pattern| crate::glob::matches(pattern, name)) {
            return;
        }
        let names: Vec<&str> = self.options.heartbeats.iter().map(String::as_str).chain([&name[..end]]).collect();
        let right = format!("presence.names = {names:?}");
        let (name, right) = (excerpt(name.as_bytes(), NAME_CHARS), excerpt(right.as_bytes(), 2 * NAME_CHARS));
        self.give(NearMiss::PrefixedHeartbeat, || {
            format!("`{name}` looks like a heartbeat behind the prefix of a client, and is a metric: `{right}` makes it a heartbeat")
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::aggregate::Created;
    use crate::protocol::Kind;
    use crate::series::Series;

    use super::*;

    fn look(options: HintOptions, class: Class, names: &[&str]) -> Vec<String> {
        let hints = Hints::default();
        hints.set_options(options);
        let mut partial = Partial::default();
        let new = |(id, name): (u32, &&str)| Created { id, rule: 0, series: Series::new(Kind::Gauge, name, &[]) };
        partial.created[class as usize] = (0..).zip(names).map(new).collect();
        hints.look_at("udp://127.0.0.1:8125", &[partial]);
        hints.all()
    }

    #[test]
    fn a_heartbeat_behind_a_prefix_is_found_and_ordinary_names_are_not() {
        let options = || HintOptions { heartbeats: vec!["heartbeat".into()], ..HintOptions::default() };
        for name in ["myapp.heartbeat.x", "a.b.heartbeat"] {
            let given = look(options(), Class::Gauge, &[name]);
            assert!(given.len() == 1 && given[0].contains(&format!("`{name}` looks like a heartbeat")), "{given:?}");
        }
        let given = look(options(), Class::Counter, &["x", "myapp.heartbeat.x", "other.heartbeat.y"]);
        assert!(
            given.len() == 1 && given[0].contains("presence.names = [\"heartbeat\", \"myapp.heartbeat\"]"),
            "{given:?}"
        );
        for name in ["heartbeats.x", "my.heartbeat_ms", "myheartbeat.x", "x"] {
            assert_eq!(look(options(), Class::Gauge, &[name]), Vec::<String>::new(), "{name}");
        }
        assert!(look(options(), Class::Timer, &["a.heartbeat.x"]).is_empty(), "a time is no heartbeat");
        let watched = HintOptions { watched: vec!["*.heartbeat.*".into()], ..options() };
        assert!(look(watched, Class::Gauge, &["a.heartbeat.x"]).is_empty());
    }

    #[test]
    fn tags_in_a_name_are_found_by_the_form_they_have() {
        for (name, part) in [
            ("a;k=v", "with \"graphite\""),
            ("a,k=v", "with \"influx\""),
            ("a[k=v]b", "with \"signalfx\""),
            ("a#k=v", "with \"librato\""),
            ("ak=v", "says in which forms"),
        ] {
            let given = look(HintOptions::default(), Class::Timer, &[name, name]);
            assert!(given.len() == 1 && given[0].contains(part), "{name}: {given:?}");
        }
        assert!(look(HintOptions::default(), Class::Counter, &["a,b", "a;b"]).is_empty());
    }
}
