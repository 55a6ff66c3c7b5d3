//! Mappings of statsd_exporter (prometheus/statsd_exporter, README.md): names and labels become rules.

use serde_json::{Map, Value as Json};
use toml::{Table, Value};

use super::Import;
use super::statsd::number;

pub(super) fn read(text: &str) -> Result<Import, String> {
    let file: Json = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let Json::Object(mut file) = file else { return Err("a mapping with `mappings:` is right".into()) };
    let mut import = Import::default();
    import.note("`*` stands for one part of a name there, for any text here; the first mapping that matches decides");
    let defaults = match file.remove("defaults") {
        Some(Json::Object(defaults)) => self::defaults(defaults, &mut import),
        _ => Defaults::default(),
    };
    let mappings = match file.remove("mappings") {
        Some(Json::Array(mappings)) => mappings,
        Some(Json::Null) | None => Vec::new(),
        Some(_) => return Err("`mappings` must be a list".into()),
    };
    for (n, mapping) in mappings.into_iter().enumerate() {
        let Json::Object(mapping) = mapping else { return Err(format!("mappings[{n}] must be a mapping")) };
        rule(n, mapping, &defaults, &mut import);
    }
    if let Some(buckets) = &defaults.buckets {
        let mut rule = super::table([("match", "*".into()), ("buckets", buckets.clone())]);
        rule.insert("type".into(), observers());
        import.push("rule", rule);
    }
    for key in file.keys() {
        import.leave(key, "no such key in a mapping");
    }
    Ok(import)
}

#[derive(Default)]
struct Defaults {
    is_regex: bool,
    buckets: Option<Value>,
}

fn observers() -> Value {
    Value::Array(["timer", "histogram", "distribution"].map(Value::from).to_vec())
}

fn defaults(mut keys: Map<String, Json>, import: &mut Import) -> Defaults {
    let mut found = Defaults::default();
    let observer = take_text(&mut keys, &["observer_type", "timer_type"]);
    let observed = observations(&mut keys, "defaults", import);
    if let Some(percentiles) = observed.percentiles {
        import.set("percentiles", percentiles);
    }
    if observer.as_deref() == Some("histogram") {
        found.buckets = observed.buckets;
    }
    found.is_regex = take_text(&mut keys, &["match_type"]).as_deref() == Some("regex");
    if let Some(ttl) = ttl(&mut keys) {
        import.set("gauge_ttl", ttl.clone());
        import.set("series_ttl", ttl);
    }
    // Order always matters here.
    keys.remove("glob_disable_ordering");
    for key in keys.keys() {
        import.leave(&format!("defaults.{key}"), "nothing here corresponds to it");
    }
    found
}

fn rule(n: usize, mut keys: Map<String, Json>, defaults: &Defaults, import: &mut Import) {
    let place = format!("mappings[{n}]");
    let Some(pattern) = take_text(&mut keys, &["match"]) else {
        return import.leave(&place, "it has no `match`");
    };
    let is_regex = take_text(&mut keys, &["match_type"]).map_or(defaults.is_regex, |kind| kind == "regex");
    if is_regex {
        return import
            .leave(&format!("{place} ({pattern})"), "regular expressions are not matched; write a pattern with `*`");
    }
    let mut rule = super::table([("match", pattern.as_str().into())]);
    if let Some(kind) = take_text(&mut keys, &["match_metric_type"]) {
        let kind = if kind == "observer" || kind == "timer" { observers() } else { kind.into() };
        rule.insert("type".into(), kind);
    }
    let name = take_text(&mut keys, &["name"]);
    if take_text(&mut keys, &["action"]).as_deref() == Some("drop") {
        rule.insert("drop".into(), true.into());
    } else if let Some(name) = name {
        rule.insert("rename".into(), name.into());
    }
    if let Some(Json::Object(labels)) = keys.remove("labels") {
        let labels: Table = labels.iter().map(|(key, value)| (key.clone(), Value::from(as_text(value)))).collect();
        rule.insert("add_tags".into(), labels.into());
    }
    let observer = take_text(&mut keys, &["observer_type", "timer_type"]);
    let observed = observations(&mut keys, &place, import);
    if let Some(percentiles) = observed.percentiles {
        rule.insert("percentiles".into(), percentiles);
    }
    let own = observed.buckets.filter(|_| observer.as_deref() != Some("summary"));
    let buckets = own.or_else(|| defaults.buckets.clone().filter(|_| observer.as_deref() != Some("summary")));
    if let (Some(buckets), None) = (buckets, rule.get("drop")) {
        rule.insert("buckets".into(), buckets);
    }
    if let Some(ttl) = ttl(&mut keys) {
        rule.insert("ttl".into(), ttl);
    }
    // The text that Prometheus shows.
    keys.remove("help");
    for key in keys.keys() {
        import.leave(&format!("{place}.{key} ({pattern})"), "nothing here corresponds to it");
    }
    import.push("rule", rule);
}

/// Percentiles and buckets.
#[derive(Default)]
struct Observed {
    percentiles: Option<Value>,
    buckets: Option<Value>,
}

fn observations(keys: &mut Map<String, Json>, place: &str, import: &mut Import) -> Observed {
    let mut observed = Observed::default();
    let mut options = |name: &str, old: &str, inner: &str| -> Option<Json> {
        let old = keys.remove(old);
        let Some(Json::Object(mut options)) = keys.remove(name) else { return old };
        let wanted = options.remove(inner).or(old);
        for key in options.keys() {
            import.leave(&format!("{place}.{name}.{key}"), "nothing here corresponds to it");
        }
        wanted
    };
    if let Some(Json::Array(quantiles)) = options("summary_options", "quantiles", "quantiles") {
        let percentile = |quantile: &Json| quantile.get("quantile").and_then(Json::as_f64);
        // 0.29 times 100 is not quite 29.
        let all = quantiles.iter().filter_map(percentile).map(|quantile| number((quantile * 1e8).round() / 1e6));
        observed.percentiles = Some(Value::Array(all.collect()));
    }
    if let Some(Json::Array(bounds)) = options("histogram_options", "buckets", "buckets") {
        let all = bounds.iter().filter_map(Json::as_f64).map(|bound| number((bound * 1e9).round() / 1e6));
        observed.buckets = Some(Value::Array(all.collect()));
        import.note("buckets are in milliseconds, as timers are sent; there they are in seconds");
    }
    observed
}

fn ttl(keys: &mut Map<String, Json>) -> Option<Value> {
    let ttl = take_text(keys, &["ttl"])?;
    let is_never = ["0", "0s"].contains(&ttl.as_str());
    Some(Value::from(if is_never { "forever".to_string() } else { ttl }))
}

fn take_text(keys: &mut Map<String, Json>, names: &[&str]) -> Option<String> {
    let found: Vec<Json> = names.iter().filter_map(|name| keys.remove(*name)).collect();
    found.first().map(as_text)
}

fn as_text(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}
