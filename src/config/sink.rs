//! `[[sink]]`: what every sink has, and by a [`OptionVisitor`] each kind's own options.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::Value;

use crate::http_client::{masked, without_login};
use crate::sinks::{LONG, Opt, OptionVisitor, Order, SinkKind, SpoolOptions};
use crate::untrusted::from_url;

use super::print::{MASK, Out, number, strings};
use super::reader::{Section, Source, suggestion};
use super::schema::{Profile, Sink};
use super::url::{address, host_and_port, http_url};
use super::value::{show_duration, show_size};

const ORDERS: [(&str, Order); 2] = [("strict", Order::Strict), ("interleave", Order::Interleave)];
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);

/// What a sink's options depend on.
#[derive(Clone, Copy)]
pub(super) struct Daemon {
    pub(super) profile: Profile,
    pub(super) interval: Duration,
}

pub(super) fn read_all(root: &mut Section<'_>, s: &mut Source<'_>, daemon: Daemon, urls: &[String]) -> Vec<Sink> {
    let mut sinks: Vec<(Sink, String, String)> = Vec::new();
    for (n, (section, place)) in root.sections(s, "sink").into_iter().enumerate() {
        sinks.extend(read(section, &place, s, daemon).map(|sink| (sink, place, format!("sink[{n}].name"))));
    }
    if !urls.is_empty() {
        sinks.clear();
    }
    for url in urls {
        match of_url(url, daemon) {
            Ok((mut sink, has_name)) => {
                // Two of a kind on the command line are told apart by number.
                let same = sinks.iter().filter(|(other, ..)| other.kind.name() == sink.kind.name()).count();
                if same > 0 && !has_name {
                    sink.name = format!("{}{}", sink.name, same + 1);
                }
                sinks.push((sink, "--sink".into(), String::new()));
            }
            Err(problems) => {
                problems.into_iter().for_each(|problem| s.problem("--sink".into(), "", problem));
            }
        }
    }
    if sinks.is_empty() && s.problems.is_empty() {
        let console = SinkKind::Console(Default::default());
        sinks.push((Sink::new("console", console), String::new(), String::new()));
    }
    for n in 1..sinks.len() {
        if sinks[..n].iter().any(|(other, ..)| other.name == sinks[n].0.name) {
            let (sink, place, key) = &sinks[n];
            s.problem(place.clone(), key, format!("two sinks are called `{}`; give one another `name`", sink.name));
        }
    }
    sinks.into_iter().map(|(sink, ..)| sink).collect()
}

/// The kind of a word.
fn kind(word: &str) -> Result<SinkKind, String> {
    SinkKind::from_name(word).ok_or_else(|| {
        if let Some((name, feature)) = SinkKind::NAMES.iter().find(|(name, _)| *name == word) {
            return format!("type `{name}` is not in this build (feature `{feature}`)");
        }
        let all = SinkKind::NAMES.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let hint = suggestion(word, SinkKind::NAMES.iter().map(|(name, _)| *name));
        format!("`{word}` is none of {all}{hint}")
    })
}

fn read(mut section: Section<'_>, place: &str, s: &mut Source<'_>, daemon: Daemon) -> Option<Sink> {
    let kind = match section.find(s, "type") {
        Some(found) => match self::kind(&found.string(s)?) {
            Ok(kind) => kind,
            Err(problem) => {
                s.problem(found.place, &found.key, problem);
                return None;
            }
        },
        None => {
            section.missing(s, place, "type", "\"graphite\"");
            return None;
        }
    };
    Some(options(kind, section, place, s, daemon))
}

/// What is said of a sink of a kind.
fn options(mut kind: SinkKind, mut section: Section<'_>, place: &str, s: &mut Source<'_>, daemon: Daemon) -> Sink {
    let mut reader = Reader { section: &mut section, source: s, place, profile: daemon.profile };
    kind.spec_mut().options(&mut reader);
    let mut sink = Sink::new(kind.name(), kind);
    if let Some(found) = section.find(s, "name") {
        sink.name = found.string(s).unwrap_or(sink.name);
        if sink.name.is_empty() {
            found.refuse(s, "a name");
        }
    }
    sink.queue = section.integer(s, "queue", 1..=10_000).map_or(sink.queue, |n| n as usize);
    sink.timeout = section.duration(s, "timeout", TIMEOUT).unwrap_or(sink.timeout);
    sink.filter.include = section.strings(s, "include");
    sink.filter.exclude = section.strings(s, "exclude").unwrap_or_default();
    sink.filter.prefix = section.string(s, "prefix").unwrap_or_default();
    sink.filter.tags = section.map(s, "tags").unwrap_or_default().into_iter().collect();
    sink.interval = own_interval(&mut section, s, daemon.interval);
    sink.spool = spool(&mut section, s, place);
    if sink.spool.as_ref().is_some_and(|spool| spool.order == Order::Interleave)
        && !sink.kind.spec().accepts_out_of_order()
    {
        let problem = format!("`interleave` is not for `{}`: it takes no interval after a later one", sink.kind.name());
        s.problem(place.to_string(), &section.full("spool.order"), problem);
    }
    section.finish(s);
    sink
}

/// A multiple of the daemon's interval.
fn own_interval(section: &mut Section<'_>, s: &mut Source<'_>, base: Duration) -> Option<Duration> {
    let own = section.duration(s, "interval", Duration::from_millis(10)..=Duration::from_secs(86_400))?;
    if own.is_zero() || own.as_nanos() % base.as_nanos() != 0 {
        let problem =
            format!("`{}` is no multiple of the daemon's interval, {}", show_duration(own), show_duration(base));
        let found = section.find(s, "interval")?;
        s.problem(found.place, &found.key, problem);
        return None;
    }
    Some(own)
}

fn spool(section: &mut Section<'_>, s: &mut Source<'_>, place: &str) -> Option<SpoolOptions> {
    let is_there = section.has_table(s, "spool");
    let mut inner = section.section(s, "spool");
    let mut spool = SpoolOptions::default();
    spool.path = inner.string(s, "path").map(PathBuf::from).unwrap_or_default();
    spool.max_bytes = inner.size(s, "max", 64 << 10..=1 << 50).unwrap_or(spool.max_bytes);
    spool.max_age = inner.duration(s, "max_age", Duration::from_secs(1)..=LONG).unwrap_or(spool.max_age);
    spool.order = inner.choice(s, "order", &ORDERS).unwrap_or(spool.order);
    spool.rate = inner.integer(s, "rate", 0..=1_000_000).unwrap_or(spool.rate);
    if is_there && spool.path.as_os_str().is_empty() {
        inner.missing(s, place, "path", "\"/var/lib/systole/spool/graphite\"");
    }
    inner.finish(s);
    is_there.then_some(spool)
}

/// A sink by its URL, and whether that gives it a name. Its query holds options; what is none belongs to the receiver's URL, if it
/// is reached by one.
fn of_url(url: &str, daemon: Daemon) -> Result<(Sink, bool), Vec<String>> {
    let (scheme, rest) = url.split_once(':').unwrap_or((url, ""));
    let mut kind = kind(scheme).map_err(|problem| {
        let right = "`console:`, `file:///path`, `graphite://host:2003` or `prometheus://127.0.0.1:9125` is right";
        vec![format!("unknown sink: {problem}; {right}")]
    })?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let shown = without_login(&format!("{scheme}:{place}"));
    let fail = |problem: String| format!("`{shown}`: {problem}");

    // What the options say of it in a file holds here, too.
    let env = BTreeMap::new();
    let mut source = Source::new("", "", &env);
    source.known = Some(BTreeSet::new());
    options(kind.clone(), Section::empty(), "", &mut source, daemon);
    let known = source.known.unwrap_or_default();
    let (mut said, mut own, mut problems) = (BTreeMap::new(), Vec::new(), Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let hint = suggestion(key, known.iter().map(String::as_str));
        if known.contains(key.split('.').next().unwrap_or(key)) {
            match from_url(value) {
                Ok(value) => drop(said.insert(key.to_string(), value)),
                Err(problem) => problems.push(fail(format!("{key}: {problem}"))),
            }
        } else if hint.is_empty() && kind.spec().has_query() {
            own.push(pair);
        } else {
            problems.push(fail(format!("{key}: unknown option{hint}")));
        }
    }
    let place = if own.is_empty() { place.to_string() } else { format!("{place}?{}", own.join("&")) };
    kind.spec_mut().set_from_url(&place).map_err(|problem| vec![fail(problem)])?;
    let has_name = said.contains_key("name");
    let mut source = Source::of_query("--sink", said, &env);
    let sink = options(kind, Section::empty(), "--sink", &mut source, daemon);
    problems.extend(source.problems.iter().map(|problem| fail(format!("{}: {}", problem.key, problem.message))));
    problems.extend(source.unused_query().map(|key| fail(format!("{key}: unknown option"))));
    if problems.is_empty() { Ok((sink, has_name)) } else { Err(problems) }
}

pub(super) fn print(out: &mut Out, sink: &Sink, profile: Profile) {
    out.head("[[sink]]");
    out.set("type", sink.kind.name());
    out.set("name", sink.name.as_str());
    sink.kind.clone().spec_mut().options(&mut Printer { out, profile });
    out.set("queue", sink.queue as i64);
    out.set("timeout", show_duration(sink.timeout));
    if let Some(include) = &sink.filter.include {
        out.set("include", strings(include));
    }
    out.set("exclude", strings(&sink.filter.exclude));
    out.set("prefix", sink.filter.prefix.as_str());
    let tags = sink.filter.tags.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str())));
    out.set("tags", Value::Table(tags.collect()));
    if let Some(interval) = sink.interval {
        out.set("interval", show_duration(interval));
    }
    if let Some(spool) = &sink.spool {
        out.inner("spool", |out| {
            out.set("path", spool.path.to_string_lossy().as_ref());
            out.set("max", show_size(spool.max_bytes));
            out.set("max_age", show_duration(spool.max_age));
            out.set("order", ORDERS.iter().find(|(_, order)| *order == spool.order).map_or("", |(name, _)| name));
            out.set("rate", spool.rate as i64);
        });
    }
}

/// Reads options from a table.
struct Reader<'r, 'a, 's> {
    section: &'r mut Section<'a>,
    source: &'r mut Source<'s>,
    /// Of the table.
    place: &'r str,
    profile: Profile,
}

impl OptionVisitor for Reader<'_, '_, '_> {
    fn field(&mut self, key: &'static str, field: Opt<'_>) {
        fn put<T>(value: &mut T, read: Option<T>) {
            if let Some(read) = read {
                *value = read;
            }
        }
        let (section, s) = (&mut *self.section, &mut *self.source);
        // A text that must pass a test, also where a URL has brought it.
        let place = self.place;
        let mut tested =
            |section: &mut Section<'_>, known: &str, test: fn(&str) -> Result<(), String>, example: &str| {
                let (place, text) = match section.find(s, key) {
                    Some(found) => (found.place.clone(), found.string(s)?),
                    None if known.is_empty() => return None,
                    None => (place.to_string(), known.to_string()),
                };
                match test(&text) {
                    Ok(()) => Some(text),
                    Err(problem) => {
                        s.problem(place, &section.full(key), format!("{problem}{example}"));
                        None
                    }
                }
            };
        match field {
            Opt::HostPort(value) => {
                let found = tested(section, value, host_and_port, "; \"127.0.0.1:2003\" is right");
                put(value, found);
            }
            Opt::Url(value) => {
                let found = tested(section, value, http_url, "");
                put(value, found);
            }
            Opt::Text(value) => put(value, section.string(s, key)),
            Opt::Secret(value) => put(value, section.secret(s, key)),
            Opt::Path(value) => put(value, section.string(s, key).map(PathBuf::from)),
            Opt::Address(value) => {
                if let Some(found) = section.find(s, key) {
                    match address(&found.string(s).unwrap_or_default()) {
                        Ok(good) => *value = Some(good),
                        Err(problem) => {
                            s.problem(found.place, &found.key, format!("{problem}; \"127.0.0.1:9125\" is right"));
                        }
                    }
                }
            }
            Opt::Flag(value) => put(value, section.bool(s, key)),
            Opt::Whole(value, range) => put(value, section.integer(s, key, range)),
            Opt::Duration(value, range) => put(value, section.duration(s, key, range)),
            Opt::MaybeDuration(value, range) => put(value, section.duration(s, key, range).map(Some)),
            Opt::MaybeSize(value, range) => put(value, section.size(s, key, range).map(Some)),
            Opt::Texts(value) => put(value, section.strings(s, key)),
            Opt::Numbers(value, range) => put(value, section.numbers(s, key, range)),
            Opt::Map(value) | Opt::Secrets(value) => put(value, section.map(s, key)),
            Opt::Choice(words, value) => {
                let words: Vec<(&str, usize)> = words.iter().zip(0..).map(|(word, n)| (*word, n)).collect();
                put(value, section.choice(s, key, &words));
            }
        }
    }

    fn in_table(&mut self, key: &'static str, inner: &mut dyn FnMut(&mut dyn OptionVisitor)) {
        let mut section = self.section.section(self.source, key);
        let (profile, place) = (self.profile, self.place);
        inner(&mut Reader { section: &mut section, source: self.source, place, profile });
        section.finish(self.source);
    }

    fn require_one(&mut self, key: &'static str, is_there: bool, example: &str) {
        let full = self.section.full(key);
        // What is there and wrong has been told.
        if !is_there && !self.source.problems.iter().any(|problem| problem.key == full) {
            self.section.missing(self.source, self.place, key, example);
        }
    }

    fn require(&mut self, key: &'static str, verdict: Result<(), String>) {
        if let Err(problem) = verdict {
            let place = self.section.find(self.source, key).map_or(self.place.to_string(), |found| found.place);
            let full = self.section.full(key);
            self.source.problem(place, &full, problem);
        }
    }

    fn profile(&self) -> &'static str {
        self.profile.name()
    }
}

/// Prints options.
struct Printer<'p> {
    out: &'p mut Out,
    profile: Profile,
}

impl OptionVisitor for Printer<'_> {
    fn field(&mut self, key: &'static str, field: Opt<'_>) {
        // What is empty was not said.
        let value: Option<Value> = match field {
            Opt::Text(value) | Opt::HostPort(value) => (!value.is_empty()).then(|| value.as_str().into()),
            Opt::Url(value) => (!value.is_empty()).then(|| masked(value).into()),
            Opt::Secret(value) => (!value.is_empty()).then(|| MASK.into()),
            Opt::Path(value) => (!value.as_os_str().is_empty()).then(|| value.to_string_lossy().as_ref().into()),
            Opt::Address(value) => value.map(|address| address.to_string().into()),
            Opt::Flag(value) => Some((*value).into()),
            Opt::Whole(value, _) => Some((*value as i64).into()),
            Opt::Duration(value, _) => Some(show_duration(*value).into()),
            Opt::MaybeDuration(value, _) => value.map(|value| show_duration(value).into()),
            Opt::MaybeSize(value, _) => value.map(|value| show_size(value).into()),
            Opt::Texts(value) => Some(strings(value)),
            Opt::Numbers(value, _) => Some(Value::Array(value.iter().map(|&value| number(value)).collect())),
            Opt::Map(value) => {
                Some(Value::Table(value.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect()))
            }
            Opt::Secrets(value) => Some(Value::Table(value.keys().map(|key| (key.clone(), MASK.into())).collect())),
            Opt::Choice(words, value) => words.get(*value).map(|word| (*word).into()),
        };
        if let Some(value) = value {
            self.out.set(key, value);
        }
    }

    fn in_table(&mut self, key: &'static str, inner: &mut dyn FnMut(&mut dyn OptionVisitor)) {
        self.out.inner(key, |out| inner(&mut Printer { out, profile: self.profile }));
    }

    fn require_one(&mut self, _: &'static str, _: bool, _: &str) {}

    fn require(&mut self, _: &'static str, _: Result<(), String>) {}

    fn profile(&self) -> &'static str {
        self.profile.name()
    }
}
