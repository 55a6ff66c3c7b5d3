//! Mappings of statsd_exporter (prometheus/statsd_exporter, README.md): names and labels become rules that do the same, and its
//! ports and the names of its metrics stay as they are.
//!
//! What statsd_exporter refuses to start with is refused here, too.

use std::time::Duration;

use regex::Regex;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value as Json};
use serde_saphyr::Spanned;
use toml::{Table, Value};

use crate::aggregate::pattern::{Pattern, PatternKind};
use crate::config::show_duration;

use super::exporter_templates::{of_glob, of_regex};
use super::statsd::number;
use super::{Import, table};

/// Its default quantiles and bounds of buckets.
const QUANTILES: [f64; 3] = [0.5, 0.9, 0.99];
const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Where mappings stand.
#[derive(Deserialize)]
struct Places {
    #[serde(default)]
    mappings: Option<Vec<Spanned<IgnoredAny>>>,
}

pub(super) fn read(text: &str) -> Result<Import, String> {
    let file: Json = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let Json::Object(mut file) = file else { return Err("a mapping with `mappings:` is right".into()) };
    let mut import = Import::default();
    let defaults = match file.remove("defaults") {
        Some(Json::Object(defaults)) => self::defaults(defaults, &mut import)?,
        Some(Json::Null) | None => Defaults::default(),
        Some(_) => return Err("`defaults` must be a mapping".into()),
    };
    let all = match file.remove("mappings") {
        Some(Json::Array(mappings)) => mappings,
        Some(Json::Null) | None => Vec::new(),
        Some(_) => return Err("`mappings` must be a list".into()),
    };
    let places: Option<Places> = serde_saphyr::from_str(text).ok();
    let lines = places.and_then(|places| places.mappings).unwrap_or_default();
    let mut mappings = Vec::new();
    for (n, one) in all.into_iter().enumerate() {
        let line = lines.get(n).map_or(0, |place| place.referenced.line());
        let mut place = format!("mappings[{n}]");
        if line > 0 {
            place.push_str(&format!(", line {line}"));
        }
        let Json::Object(keys) = one else { return Err(format!("{place} must be a mapping")) };
        let read = mapping(place.clone(), keys, &defaults, &mut import);
        mappings.push(read.map_err(|why| format!("{place}: {why}"))?);
    }
    for key in file.keys() {
        import.leave(key, "no such key in a mapping");
    }
    general(&defaults, &mut import);
    shadowed(&mappings, &mut import);
    // A glob goes before every regular expression there.
    let (mut globs, regexes): (Vec<Mapping>, Vec<Mapping>) = mappings.into_iter().partition(|one| !one.is_regex);
    if defaults.is_unordered {
        globs.sort_by_key(|one| one.pattern.split('.').map(|part| part == "*").collect::<Vec<bool>>());
    }
    globs.iter().chain(&regexes).for_each(|one| one.write(&mut import));
    if defaults.is_histogram {
        for (kinds, bounds, unit) in [
            (Value::from("timer"), in_ms(&defaults.bounds), "in milliseconds"),
            (list(["histogram", "distribution"]), numbers(&defaults.bounds), "in the unit that is sent"),
        ] {
            let rule = table([("match", "*".into()), ("type", kinds), ("buckets", bounds)]);
            import.push_from("rule", rule, format!("defaults: what no mapping matches, bounds {unit}"));
        }
    }
    Ok(import)
}

fn list<const N: usize>(texts: [&str; N]) -> Value {
    Value::Array(texts.map(Value::from).to_vec())
}

fn numbers(all: &[f64]) -> Value {
    Value::Array(all.iter().map(|&one| number(one)).collect())
}

/// Bounds of timers, which are sent in milliseconds and are in seconds there.
fn in_ms(bounds: &[f64]) -> Value {
    Value::Array(bounds.iter().map(|bound| number((bound * 1e9).round() / 1e6)).collect())
}

/// What holds for all, and the ports.
fn general(defaults: &Defaults, import: &mut Import) {
    // 0.29 times 100 is not quite 29.
    let percentiles = defaults.quantiles.iter().map(|quantile| (quantile * 1e8).round() / 1e6);
    import.set("percentiles", numbers(&percentiles.collect::<Vec<f64>>()));
    let ttl = defaults.ttl.map(show_duration);
    import.set("gauge_ttl", ttl.clone().unwrap_or_else(|| "forever".into()));
    import.set_in("protocol", "name_tags", list(["influx", "signalfx", "librato"]));
    for scheme in ["udp", "tcp"] {
        import.push_from(
            "listen",
            table([("url", format!("{scheme}://[::]:9125").into())]),
            format!("its default, --statsd.listen-{scheme}"),
        );
    }
    let sink = table([
        ("type", "prometheus".into()),
        ("address", "[::]:9102".into()),
        ("naming", "exporter".into()),
        ("ttl", ttl.unwrap_or_else(|| "1year".into()).into()),
        ("native_histograms", false.into()),
    ]);
    import.push_from("sink", sink, "its default, --web.listen-address");
    import
        .note("a scrape shows the last interval that was closed (`interval`, 10 s); there it shows the present moment");
    import.note(
        "of `ms`, `h` and `d` lines under one name the sink shows the type that comes first, and drops the others (`conflict`); there \
         they are one series",
    );
    import.note("quantiles are those of the last interval with values, exact or within 0.1 %; there of 10 minutes, within `error`");
}

/// Says which globs are never applied there though they match something.
fn shadowed(mappings: &[Mapping], import: &mut Import) {
    let globs: Vec<&Mapping> = mappings.iter().filter(|one| !one.is_regex).collect();
    for (n, one) in globs.iter().enumerate() {
        let head = format!("{}.", one.pattern);
        let is_longer = |other: &&&Mapping| {
            other.pattern.starts_with(&head) && (other.kind.is_none() || one.kind.is_none() || other.kind == one.kind)
        };
        if let Some(longer) = globs[..n].iter().find(is_longer) {
            import.note(format!(
                "{} ({}) is applied here; there it is not, for {} begins with it and comes before",
                one.place, one.pattern, longer.place
            ));
        }
    }
}

struct Defaults {
    is_regex: bool,
    is_unordered: bool,
    is_histogram: bool,
    quantiles: Vec<f64>,
    bounds: Vec<f64>,
    ttl: Option<Duration>,
}

impl Default for Defaults {
    fn default() -> Defaults {
        Defaults {
            is_regex: false,
            is_unordered: false,
            is_histogram: false,
            quantiles: QUANTILES.to_vec(),
            bounds: BOUNDS.to_vec(),
            ttl: None,
        }
    }
}

fn defaults(mut keys: Map<String, Json>, import: &mut Import) -> Result<Defaults, String> {
    let in_defaults = |why: String| format!("defaults: {why}");
    let observed = observations(&mut keys, "defaults", import).map_err(in_defaults)?;
    let some = |all: Option<Vec<f64>>, theirs: &[f64]| all.filter(|all| !all.is_empty()).unwrap_or(theirs.to_vec());
    let found = Defaults {
        is_regex: is_regex(&mut keys).map_err(in_defaults)?.unwrap_or(false),
        is_unordered: keys.remove("glob_disable_ordering") == Some(Json::Bool(true)),
        is_histogram: observed.is_histogram.unwrap_or(false),
        quantiles: some(observed.quantiles, &QUANTILES),
        bounds: some(observed.bounds, &BOUNDS),
        ttl: ttl(&mut keys).map_err(in_defaults)?,
    };
    for key in keys.keys() {
        import.leave(&format!("defaults.{key}"), "no such key there");
    }
    Ok(found)
}

/// One of its mappings.
struct Mapping {
    /// Number and line.
    place: String,
    pattern: String,
    is_regex: bool,
    kind: Option<String>,
    rename: String,
    labels: Table,
    honors: bool,
    drop: bool,
    help: Option<String>,
    scale: Option<f64>,
    ttl: Option<Duration>,
    percentiles: Option<Value>,
    bounds: Option<Vec<f64>>,
}

/// Whether an expression of its own checks is found in a text.
fn is(expression: &str, text: &str) -> bool {
    Regex::new(expression).is_ok_and(|regex| regex.is_match(text))
}

fn mapping(
    place: String,
    mut keys: Map<String, Json>,
    defaults: &Defaults,
    import: &mut Import,
) -> Result<Mapping, String> {
    const REFERENCE: &str = r"\$\{?[0-9]+\}?";
    let pattern = take_text(&mut keys, "match").unwrap_or_default();
    let is_regex = is_regex(&mut keys)?.unwrap_or(defaults.is_regex);
    let name = take_text(&mut keys, "name").filter(|name| !name.is_empty()).ok_or("it has no `name`")?;
    if !is(&format!("^([a-zA-Z_]|{REFERENCE})([a-zA-Z0-9_]|{REFERENCE})*$"), &name) {
        return Err(format!("`{name}` is no name of a metric"));
    }
    if !is_regex && !is(r"^(\*|[a-zA-Z_][a-zA-Z0-9_\-]*)(\.\*|\.[a-zA-Z0-9_][a-zA-Z0-9_\-]*)*$", &pattern) {
        return Err(format!("`{pattern}` is no glob of parts with dots between"));
    }
    let compiled = Pattern::new(if is_regex { PatternKind::Regex } else { PatternKind::Parts }, pattern.clone());
    let compiled = compiled.map_err(|why| format!("`{pattern}` is no regular expression: {why}"))?;
    let template = |text: &str| if is_regex { of_regex(text, &compiled) } else { of_glob(text, compiled.groups()) };
    let mut labels = Table::new();
    match keys.remove("labels") {
        Some(Json::Object(pairs)) => {
            for (key, value) in &pairs {
                if !is("^[a-zA-Z_][a-zA-Z0-9_]+$", key) {
                    return Err(format!(
                        "`{key}` is no name of a label: statsd_exporter wants two characters or more of a-z, A-Z, 0-9 and _, and no \
                         digit first"
                    ));
                }
                labels.insert(key.clone(), template(&as_text(value)).into());
            }
        }
        Some(Json::Null) | None => {}
        Some(_) => return Err("`labels` must be a mapping".into()),
    }
    let shown = format!("{place} ({pattern})");
    let observed = observations(&mut keys, &shown, import)?;
    let is_histogram = observed.is_histogram.unwrap_or(defaults.is_histogram);
    match (is_histogram, &observed) {
        (true, Observed { quantiles: Some(_), .. }) => return Err("a histogram has no `summary_options`".into()),
        (false, Observed { bounds: Some(_), is_histogram: Some(false), .. }) => {
            return Err("a summary has no `histogram_options`".into());
        }
        _ => {}
    }
    let own = observed.bounds.filter(|bounds| !bounds.is_empty());
    let percentiles = observed.quantiles.filter(|all| !all.is_empty());
    let percentile = |quantile: f64| (quantile * 1e8).round() / 1e6;
    let mapping = Mapping {
        is_regex,
        kind: one_of(&mut keys, "match_metric_type", &["counter", "gauge", "observer"])?,
        rename: template(&name),
        labels,
        honors: keys.remove("honor_labels") == Some(Json::Bool(true)),
        drop: one_of(&mut keys, "action", &["map", "drop"])?.as_deref() == Some("drop"),
        help: take_text(&mut keys, "help").filter(|help| !help.is_empty()),
        scale: scale(&mut keys)?,
        ttl: ttl(&mut keys)?,
        percentiles: percentiles.map(|all| numbers(&all.into_iter().map(percentile).collect::<Vec<f64>>())),
        bounds: is_histogram.then(|| own.unwrap_or_else(|| defaults.bounds.clone())),
        place,
        pattern,
    };
    for key in keys.keys() {
        import.leave(&format!("{shown}.{key}"), "no such key there");
    }
    Ok(mapping)
}

impl Mapping {
    /// Its rules: a timer's bounds are in another unit than those of the other types, so that a histogram has two.
    fn write(&self, import: &mut Import) {
        let origin = format!("{}: {}", self.place, self.pattern);
        let observers = || list(["timer", "histogram", "distribution"]);
        let kind = self.kind.as_deref();
        let bounds = self.bounds.as_ref().filter(|_| !self.drop && !matches!(kind, Some("counter" | "gauge")));
        let Some(bounds) = bounds else {
            let kinds = match kind {
                Some("observer") => Some(observers()),
                other => other.map(Value::from),
            };
            return import.push_from("rule", self.rule(kinds, None), origin);
        };
        let of_timers = self.rule(Some("timer".into()), Some(in_ms(bounds)));
        import.push_from("rule", of_timers, format!("{origin} (timers: bounds in milliseconds)"));
        let others = kind.map(|_| list(["histogram", "distribution"]));
        let of_others = self.rule(others, Some(numbers(bounds)));
        import.push_from("rule", of_others, format!("{origin} (all else: bounds in the unit that is sent)"));
    }

    fn rule(&self, kinds: Option<Value>, buckets: Option<Value>) -> Table {
        let form = match (self.is_regex, self.pattern.contains('*')) {
            (true, _) => PatternKind::Regex,
            (false, true) => PatternKind::Parts,
            (false, false) => PatternKind::Text,
        };
        let mut rule = table([(form.key(), self.pattern.as_str().into())]);
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                rule.insert(key.into(), value);
            }
        };
        set("type", kinds);
        if self.drop {
            set("drop", Some(true.into()));
            return rule;
        }
        set("rename", Some(self.rename.as_str().into()));
        set("help", self.help.as_deref().map(Value::from));
        set("add_tags", Some(self.labels.clone()).filter(|labels| !labels.is_empty()).map(Value::Table));
        set("honor_tags", self.honors.then(|| true.into()));
        set("scale", self.scale.map(number));
        set("percentiles", self.percentiles.clone());
        set("buckets", buckets);
        set("ttl", self.ttl.map(|ttl| show_duration(ttl).into()));
        rule
    }
}

/// What becomes of timers and their like; options that are there, empty or not.
#[derive(Default)]
struct Observed {
    is_histogram: Option<bool>,
    quantiles: Option<Vec<f64>>,
    bounds: Option<Vec<f64>>,
}

fn observations(keys: &mut Map<String, Json>, place: &str, import: &mut Import) -> Result<Observed, String> {
    let old = one_of(keys, "timer_type", &["histogram", "summary"])?;
    let observer = one_of(keys, "observer_type", &["histogram", "summary"])?.or(old);
    let mut options = |name: &str, old: &str, why: &str| -> Result<Option<Json>, String> {
        let old_form = keys.remove(old);
        let Some(Json::Object(mut options)) = keys.remove(name) else { return Ok(old_form) };
        if old_form.is_some() {
            return Err(format!("`{old}` stands beside `{name}`"));
        }
        let wanted = options.remove(old).unwrap_or(Json::Array(Vec::new()));
        for key in options.keys() {
            import.leave(&format!("{place}.{name}.{key}"), why);
        }
        Ok(Some(wanted))
    };
    let why = "a quantile is that of the last interval with values, exact or from a histogram";
    let quantiles = options("summary_options", "quantiles", why)?;
    let why = "the sink has native histograms of schema 6 for all timers, with `native_histograms = true`";
    let bounds = options("histogram_options", "buckets", why)?;
    let numbers = |all: Json, of: &dyn Fn(&Json) -> Option<f64>| -> Result<Vec<f64>, String> {
        let all = all.as_array().cloned().unwrap_or_default();
        all.iter().map(|one| of(one).ok_or_else(|| format!("`{one}` is no number"))).collect()
    };
    let quantile = |one: &Json| one.get("quantile").and_then(Json::as_f64).filter(|one| (0.0..=1.0).contains(one));
    Ok(Observed {
        is_histogram: observer.map(|observer| observer == "histogram"),
        quantiles: quantiles.map(|all| numbers(all, &quantile)).transpose()?,
        bounds: bounds.map(|all| numbers(all, &Json::as_f64)).transpose()?,
    })
}

fn is_regex(keys: &mut Map<String, Json>) -> Result<Option<bool>, String> {
    Ok(one_of(keys, "match_type", &["glob", "regex"])?.map(|kind| kind == "regex"))
}

fn scale(keys: &mut Map<String, Json>) -> Result<Option<f64>, String> {
    let Some(scale) = keys.remove("scale").filter(|scale| !scale.is_null()) else { return Ok(None) };
    // YAML takes `1e-6` for a text where it wants a point.
    let number = scale.as_f64().or_else(|| scale.as_str()?.parse().ok()).filter(|scale: &f64| scale.is_finite());
    number.map(Some).ok_or_else(|| format!("`{scale}` is no number"))
}

/// A lifetime, unless that is for ever.
fn ttl(keys: &mut Map<String, Json>) -> Result<Option<Duration>, String> {
    let Some(ttl) = take_text(keys, "ttl") else { return Ok(None) };
    // A bare number is nanoseconds.
    let secs = ttl.parse().map(|nanos: f64| nanos / 1e9).ok().or_else(|| go_duration(&ttl));
    let secs = secs.filter(|secs| (0.0..=3e9).contains(secs)).ok_or_else(|| format!("`{ttl}` is no duration"))?;
    Ok((secs > 0.0).then(|| Duration::from_secs_f64(secs)))
}

/// A duration as Go has it, such as `1h2m`, `1.5s` or `300ms`, in seconds.
fn go_duration(text: &str) -> Option<f64> {
    let (mut rest, mut secs) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let value: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units = [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        let (unit, length) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        secs += value * length;
        rest = &rest[unit.len()..];
    }
    (!text.is_empty()).then_some(secs)
}

/// One of some words; absent and empty are the same.
fn one_of(keys: &mut Map<String, Json>, key: &str, words: &[&str]) -> Result<Option<String>, String> {
    let Some(word) = take_text(keys, key).filter(|word| !word.is_empty()) else { return Ok(None) };
    // An older word.
    let word = if key == "match_metric_type" && word == "timer" { "observer".to_string() } else { word };
    if words.contains(&word.as_str()) {
        return Ok(Some(word));
    }
    Err(format!("`{key}: {word}` is none of {}", words.join(", ")))
}

fn take_text(keys: &mut Map<String, Json>, key: &str) -> Option<String> {
    keys.remove(key).filter(|value| !value.is_null()).as_ref().map(as_text)
}

fn as_text(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}
