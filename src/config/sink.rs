//! `[[sink]]`: what every sink has; each kind describes its own options. And sinks by a URL.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::http_client::without_login;
use crate::settings::{Opt, OptionVisitor, Parsed, TablesOf, Wrong, choice, count, maybe, pairs, suggestion};
use crate::sinks::{LONG, Order, SinkKind};
use crate::untrusted::from_url;

use super::load::Reader;
use super::reader::{Section, Source};
use super::schema::{Config, Sink};
use super::value::show_duration;

const ORDERS: [(&str, Order); 2] = [("strict", Order::Strict), ("interleave", Order::Interleave)];
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);
const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(86_400);

pub(super) fn describe(visitor: &mut dyn OptionVisitor, _: &str, doc: &'static str, sinks: &mut Vec<Sink>) {
    let new = |_| Sink::new("console", SinkKind::Console(Default::default()));
    visitor.sections("sink", doc, &mut TablesOf { tables: sinks, new, describe: one });
}

fn one(sink: &mut Sink, v: &mut dyn OptionVisitor) {
    let mut is_known = !v.is_reader();
    let shown = Some(sink.kind.name().into());
    let mut read = |word: &str| {
        sink.kind = kind(word).map_err(Wrong::Because)?;
        sink.name = sink.kind.name().to_string();
        is_known = true;
        Ok(())
    };
    let parsed = Parsed { shown, form: "a kind of sink", takes_numbers: false, read: &mut read };
    v.field("type", "What it is: docs/sinks.md.", Opt::Parsed(parsed));
    v.require_one("type", is_known, "\"graphite\"");
    if is_known {
        options(sink, v);
    } else {
        // Nothing shall be said of two unknown ones of one name.
        sink.name.clear();
        v.give_up();
    }
}

/// What is said of a sink of a kind.
fn options(sink: &mut Sink, v: &mut dyn OptionVisitor) {
    let shown = Some(sink.name.as_str().into());
    let mut read = |text: &str| {
        sink.name = text.to_string();
        if text.is_empty() { Err(Wrong::Not("a name".into())) } else { Ok(()) }
    };
    let doc = "Label in status and ledger; its type by default.";
    v.field("name", doc, Opt::Parsed(Parsed { shown, form: "a name", takes_numbers: false, read: &mut read }));
    sink.kind.spec_mut().options(v);
    let doc = "Intervals kept in memory while the receiver is slow or down.";
    count(v, "queue", doc, &mut sink.queue, 1..=10_000);
    v.field("timeout", "Longest delivery.", Opt::Duration(&mut sink.timeout, TIMEOUT));
    let doc = "Patterns of names: only these series.";
    maybe(v, "include", doc, &mut sink.filter.include, |include| Opt::Texts(include));
    v.example("include", "[\"api.*\", \"db.*\"]");
    v.field("exclude", "Of those, all but these.", Opt::Texts(&mut sink.filter.exclude));
    v.field("prefix", "Put before every name for this sink.", Opt::Text(&mut sink.filter.prefix));
    pairs(v, "tags", "Added for this sink to series that do not have them.", &mut sink.filter.tags);
    let doc = "How often it gets intervals, a multiple of the daemon's interval, which is the default.";
    v.field("interval", doc, Opt::MaybeDuration(&mut sink.interval, INTERVAL));
    v.example("interval", "\"1m\"");
    v.require("interval", is_multiple(sink.interval, v.interval()));
    spool(sink, v);
}

fn is_multiple(own: Option<Duration>, base: Duration) -> Result<(), String> {
    match own {
        Some(own) if base.is_zero() || own.as_nanos() % base.as_nanos() != 0 => {
            Err(format!("`{}` is no multiple of the daemon's interval, {}", show_duration(own), show_duration(base)))
        }
        Some(_) | None => Ok(()),
    }
}

fn spool(sink: &mut Sink, v: &mut dyn OptionVisitor) {
    let is_there = sink.spool.is_some();
    let mut spool = sink.spool.take().unwrap_or_default();
    let is_there = v.in_optional_table("spool", is_there, &mut |v, is_there| {
        let doc = "Folder of its own, in which intervals wait while the receiver is down; they outlive the daemon.";
        v.field("path", doc, Opt::Path(&mut spool.path));
        let example = "\"/var/lib/systole/spool/graphite\"";
        v.require_one("path", !is_there || !spool.path.as_os_str().is_empty(), example);
        v.example("path", example);
        let doc = "Most bytes on disk; the oldest intervals make room.";
        v.field("max", doc, Opt::Size(&mut spool.max_bytes, 64 << 10..=1 << 50));
        let doc = "Older intervals are dropped.";
        v.field("max_age", doc, Opt::Duration(&mut spool.max_age, Duration::from_secs(1)..=LONG));
        let doc =
            "With \"interleave\" new intervals do not wait behind old ones: for receivers that accept old points.";
        choice(v, "order", doc, &ORDERS, &mut spool.order);
        let doc = "Most intervals a second that are delivered from there; 0 is as fast as they are taken.";
        v.field("rate", doc, Opt::Whole(&mut spool.rate, 0..=1_000_000));
    });
    let is_odd = is_there && spool.order == Order::Interleave && !sink.kind.spec().accepts_out_of_order();
    let problem = || format!("`interleave` is not for `{}`: it takes no interval after a later one", sink.kind.name());
    v.require("spool.order", if is_odd { Err(problem()) } else { Ok(()) });
    sink.spool = is_there.then_some(spool);
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

/// Puts sinks by their URLs, said with a flag or a variable, in place of the configured ones.
pub(super) fn replace(config: &mut Config, s: &mut Source<'_>, urls: &[String], from: &'static str) {
    if urls.is_empty() {
        return;
    }
    let mut sinks: Vec<Sink> = Vec::new();
    for url in urls {
        match of_url(url, config, from) {
            Ok((mut sink, has_name)) => {
                // Two of a kind are told apart by number.
                let same = sinks.iter().filter(|other| other.kind.name() == sink.kind.name()).count();
                if same > 0 && !has_name {
                    sink.name = format!("{}{}", sink.name, same + 1);
                }
                sinks.push(sink);
            }
            Err(problems) => problems.into_iter().for_each(|problem| s.problem(from.into(), "", problem)),
        }
    }
    config.sinks = sinks;
}

/// A sink by its URL, and whether that gives it a name. Its query holds options; what is none belongs to the receiver's URL, if it
/// is reached by one.
fn of_url(url: &str, config: &Config, from: &'static str) -> Result<(Sink, bool), Vec<String>> {
    let (scheme, rest) = url.split_once(':').unwrap_or((url, ""));
    let mut kind = kind(scheme).map_err(|problem| {
        let right = "`console:`, `file:///path`, `graphite://host:2003` or `prometheus://127.0.0.1:9125` is right";
        vec![format!("unknown sink: {problem}; {right}")]
    })?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let shown = without_login(&format!("{scheme}:{place}"));
    let fail = |problem: String| format!("`{shown}`: {problem}");
    let read = |kind: SinkKind, place: &str, source: &mut Source<'_>| {
        let mut sink = Sink::new(kind.name(), kind);
        let mut section = Section::empty();
        options(&mut sink, &mut Reader::new(&mut section, source, place, config));
        section.finish(source);
        sink
    };

    // What the options say of it in a file holds here, too.
    let env = BTreeMap::new();
    let mut source = Source::new("", "", &env);
    source.known = Some(BTreeSet::new());
    read(kind.clone(), "", &mut source);
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
    let mut source = Source::of_query(from, said, &env);
    let sink = read(kind, from, &mut source);
    problems.extend(source.problems.iter().map(|problem| fail(format!("{}: {}", problem.key, problem.message))));
    problems.extend(source.unused_query().map(|key| fail(format!("{key}: unknown option"))));
    if problems.is_empty() { Ok((sink, has_name)) } else { Err(problems) }
}
