//! Kinds of settings: how a value of a type is shown to a visitor. Each is a function of visitor, key, sentences and
//! value, or makes one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use toml::Value;

use crate::memory::LEAST_MAX_MEMORY;
use crate::ports::{ConnectionLimits, TlsFiles, limit_options, tls_options};
use crate::settings::{Count, Described, ItemsOf, List, Opt, OptionVisitor, Parsed, Wrong, choice, count, maybe};

use super::presence::{StatePath, state_path};
use super::schema::{Lifetime, Workers};
use super::url::{ListenUrl, listen_url};
use super::value::{parse_size, show_size};

type Visitor<'v> = &'v mut dyn OptionVisitor;
/// A key, or its sentences.
type Words = &'static str;

pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(Visitor<'_>, Words, Words, &mut Duration) {
    move |visitor, key, doc, value| visitor.field(key, doc, Opt::Duration(value, range.clone()))
}

pub(super) fn lifetime(range: RangeInclusive<Duration>) -> impl Fn(Visitor<'_>, Words, Words, &mut Lifetime) {
    move |visitor, key, doc, value| visitor.field(key, doc, Opt::Lifetime(value, range.clone()))
}

pub(super) fn one_of<T: Copy + PartialEq>(words: &[(&'static str, T)]) -> impl Fn(Visitor<'_>, Words, Words, &mut T) {
    move |visitor, key, doc, value| choice(visitor, key, doc, words, value)
}

pub(super) fn whole<T: Count>(range: RangeInclusive<u64>) -> impl Fn(Visitor<'_>, Words, Words, &mut T) {
    move |visitor, key, doc, value| count(visitor, key, doc, value, range.clone())
}

pub(super) fn size<T: Count>(range: RangeInclusive<u64>) -> impl Fn(Visitor<'_>, Words, Words, &mut T) {
    move |visitor, key, doc, value| {
        let mut bytes = value.wide();
        visitor.field(key, doc, Opt::Size(&mut bytes, range.clone()));
        *value = T::narrow(bytes);
    }
}

pub(super) fn wholes(range: RangeInclusive<u64>) -> impl Fn(Visitor<'_>, Words, Words, &mut Vec<usize>) {
    move |visitor, key, doc, value| {
        let mut wide: Vec<u64> = value.iter().map(|&n| n as u64).collect();
        visitor.field(key, doc, Opt::Wholes(&mut wide, range.clone()));
        *value = wide.into_iter().map(|n| n as usize).collect();
    }
}

pub(super) fn numbers(range: RangeInclusive<f64>) -> impl Fn(Visitor<'_>, Words, Words, &mut Vec<f64>) {
    move |visitor, key, doc, value| visitor.field(key, doc, Opt::Numbers(value, range.clone()))
}

pub(super) fn flag(visitor: Visitor<'_>, key: Words, doc: Words, value: &mut bool) {
    visitor.field(key, doc, Opt::Flag(value));
}

pub(super) fn maybe_flag(visitor: Visitor<'_>, key: Words, doc: Words, value: &mut Option<bool>) {
    maybe(visitor, key, doc, value, |value| Opt::Flag(value));
}

pub(super) fn text(visitor: Visitor<'_>, key: Words, doc: Words, value: &mut String) {
    visitor.field(key, doc, Opt::Text(value));
}

/// A secret; an empty one is none.
pub(super) fn secret(visitor: Visitor<'_>, key: Words, doc: Words, value: &mut Option<String>) {
    let mut text = value.take().unwrap_or_default();
    visitor.field(key, doc, Opt::Secret(&mut text));
    *value = Some(text).filter(|text| !text.is_empty());
}

/// Whether a token can stand in a header.
pub(super) fn in_header(token: &str) -> Result<(), String> {
    let is_good = token.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if is_good { Ok(()) } else { Err("it cannot stand in a header".into()) }
}

pub(super) fn map(visitor: Visitor<'_>, key: Words, doc: Words, value: &mut BTreeMap<String, String>) {
    visitor.field(key, doc, Opt::Map(value));
}

pub(super) fn networks(visitor: Visitor<'_>, key: Words, doc: Words, value: &mut Option<Vec<IpNet>>) {
    visitor.field(key, doc, Opt::Networks(value));
}

pub(super) fn address_or_off(example: Words) -> impl Fn(Visitor<'_>, Words, Words, &mut Option<SocketAddr>) {
    move |visitor, key, doc, value| visitor.field(key, doc, Opt::AddressOrOff(value, example))
}

/// A kind without a default, with an example as TOML.
pub(super) fn such_as<T>(
    example: Words,
    kind: impl Fn(Visitor<'_>, Words, Words, &mut T),
) -> impl Fn(Visitor<'_>, Words, Words, &mut T) {
    move |visitor, key, doc, value| {
        kind(visitor, key, doc, value);
        visitor.example(key, example);
    }
}

/// The table `tls` of a port.
pub(super) fn tls(visitor: Visitor<'_>, _: Words, _: Words, value: &mut TlsFiles) {
    tls_options(visitor, value);
}

/// Two settings: the limits of a port.
pub(super) fn limits(visitor: Visitor<'_>, _: Words, _: Words, value: &mut ConnectionLimits) {
    limit_options(visitor, value);
}

/// A table with a head.
pub(super) fn section(visitor: Visitor<'_>, key: Words, doc: Words, value: &mut impl Described) {
    visitor.section(key, doc, &mut |visitor| value.describe(visitor));
}

pub(super) fn listen_url_of(visitor: Visitor<'_>, key: Words, doc: Words, value: &mut ListenUrl) {
    let mut is_there = false;
    let shown = Some(value.to_string().into());
    let mut read = |text: &str| {
        is_there = true;
        *value = listen_url(text).map_err(Wrong::Because)?;
        Ok(())
    };
    let parsed = Parsed { shown, form: "a URL", takes_numbers: false, read: &mut read };
    visitor.field(key, doc, Opt::Parsed(parsed));
    visitor.require_one(key, is_there, "\"udp://127.0.0.1:8125\"");
}

pub(super) fn workers(visitor: Visitor<'_>, key: Words, doc: Words, value: &mut Workers) {
    let form = "\"auto\" or a whole number from 1 to 64";
    let shown = Some(match value {
        Workers::Auto => Value::from("auto"),
        Workers::Count(count) => Value::from(*count as i64),
    });
    let mut read = |text: &str| {
        *value = match text.parse() {
            _ if text == "auto" => Workers::Auto,
            Ok(count @ 1..=64) => Workers::Count(count),
            _ => return Err(Wrong::Not(form.into())),
        };
        Ok(())
    };
    visitor.field(key, doc, Opt::Parsed(Parsed { shown, form, takes_numbers: true, read: &mut read }));
}

/// A number of bytes, or `auto`.
pub(super) fn max_memory(visitor: Visitor<'_>, key: Words, doc: Words, value: &mut Option<u64>) {
    let form = "\"auto\" or a size of at least 256MiB";
    let shown = Some(value.map_or_else(|| "auto".to_string(), show_size).into());
    let mut read = |text: &str| {
        *value = match parse_size(text) {
            _ if text == "auto" => None,
            Some(bytes) if bytes >= LEAST_MAX_MEMORY => Some(bytes),
            Some(_) => {
                let least = show_size(LEAST_MAX_MEMORY);
                return Err(Wrong::Because(format!("`{text}` is too little: the daemon needs at least {least}")));
            }
            None => return Err(Wrong::Not(form.into())),
        };
        Ok(())
    };
    visitor.field(key, doc, Opt::Parsed(Parsed { shown, form, takes_numbers: true, read: &mut read }));
}

/// A folder, "auto" or "off".
pub(super) fn state_dir(visitor: Visitor<'_>, key: Words, doc: Words, value: &mut StatePath) {
    state_path(key, doc, value, visitor);
}

/// The rights of a file.
pub(super) fn file_mode(visitor: Visitor<'_>, key: Words, doc: Words, value: &mut u32) {
    let form = "the rights of a file in octal, such as \"0660\"";
    let shown = Some(format!("{value:04o}").into());
    let mut read = |text: &str| match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 && text.len() >= 3 => {
            *value = mode;
            Ok(())
        }
        _ => Err(Wrong::Not(form.into())),
    };
    visitor.field(key, doc, Opt::Parsed(Parsed { shown, form, takes_numbers: false, read: &mut read }));
}

/// A URL of ours, which is shown whole; an empty one is none.
pub(super) fn external_url(visitor: Visitor<'_>, key: Words, doc: Words, value: &mut String) {
    let form = "an http:// or https:// URL without a login";
    let shown = Some(value.as_str().into());
    let mut read = |text: &str| {
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or("");
        let is_url = !rest.is_empty() && text.parse::<hyper::Uri>().is_ok() && !rest.contains(['@', '?', '#', ' ']);
        *value = text.trim_end_matches('/').to_string();
        if text.is_empty() || is_url { Ok(()) } else { Err(Wrong::Not(form.into())) }
    };
    visitor.field(key, doc, Opt::Parsed(Parsed { shown, form, takes_numbers: false, read: &mut read }));
    visitor.example(key, "\"https://stats.example.org\"");
}

/// Names of hosts, without scheme and port.
pub(super) fn hosts(visitor: Visitor<'_>, key: Words, doc: Words, value: &mut Vec<String>) {
    fn host(text: &str) -> Result<Option<String>, Wrong> {
        match text.is_empty() || text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) {
            true => Err(Wrong::Not("a name without scheme and port, such as `stats.example.org`".into())),
            false => Ok(Some(text.to_string())),
        }
    }
    texts_of(visitor, key, doc, "names", value, host);
}

pub(super) fn dogstatsd_aggregates(visitor: Visitor<'_>, key: Words, doc: Words, value: &mut Vec<String>) {
    const KNOWN: [&str; 6] = ["max", "min", "median", "avg", "sum", "count"];
    fn aggregate(text: &str) -> Result<Option<String>, Wrong> {
        match KNOWN.contains(&text) {
            true => Ok(Some(text.to_string())),
            false => Err(Wrong::Not(format!("one of {}", KNOWN.join(", ")))),
        }
    }
    texts_of(visitor, key, doc, "of max, min, median, avg, sum, count", value, aggregate);
}

/// Texts that must pass a test.
fn texts_of(
    visitor: Visitor<'_>,
    key: Words,
    doc: Words,
    form: Words,
    value: &mut Vec<String>,
    read: fn(&str) -> Result<Option<String>, Wrong>,
) {
    let mut items = ItemsOf { items: value, read, show: |text| text.as_str().into() };
    visitor.field(key, doc, Opt::List(List { items: &mut items, form, takes_numbers: false, or_one: false }));
}
