//! What Datadog's agent says of DogStatsD in `datadog.yaml` (DataDog/datadog-agent, `pkg/config/config_template.yaml`): listeners, tags,
//! percentiles, forwarding, and the profiles of its mapper, which become rules that do the same.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value as Json};
use serde_saphyr::Spanned;
use toml::{Table, Value};

use crate::aggregate::pattern::{Pattern, PatternKind};

use super::exporter_templates::of_regex;
use super::statsd::number;
use super::{Import, table};

/// Where mappings stand.
#[derive(Deserialize)]
struct Places {
    #[serde(default)]
    dogstatsd_mapper_profiles: Option<Vec<Profile>>,
}

#[derive(Deserialize)]
struct Profile {
    #[serde(default)]
    mappings: Option<Vec<Spanned<IgnoredAny>>>,
}

pub(super) fn read(text: &str) -> Result<Import, String> {
    let file: Json = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let Json::Object(mut keys) = file else { return Err("a mapping of settings is right".into()) };
    let mut import = Import::default();
    import.set("profile", "dogstatsd");
    listeners(&mut keys, &mut import);
    tags(&mut keys, &mut import);
    aggregates(&mut keys, &mut import);
    blocklist(&mut keys, &mut import);
    let places: Option<Places> = serde_saphyr::from_str(text).ok();
    let places = places.and_then(|places| places.dogstatsd_mapper_profiles).unwrap_or_default();
    profiles(&mut keys, &places, &mut import)?;
    receivers(&mut keys, &mut import);
    rest(keys, &mut import);
    Ok(import)
}

fn take_text(keys: &mut Map<String, Json>, key: &str) -> Option<String> {
    let value = keys.remove(key).filter(|value| !value.is_null())?;
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
    Some(text).filter(|text| !text.is_empty())
}

fn take_list(keys: &mut Map<String, Json>, key: &str) -> Vec<String> {
    let all = keys.remove(key);
    let text = |one: &Json| one.as_str().map_or_else(|| one.to_string(), str::to_string);
    all.as_ref().and_then(Json::as_array).into_iter().flatten().map(text).collect()
}

fn listeners(keys: &mut Map<String, Json>, import: &mut Import) {
    let port = take_text(keys, "dogstatsd_port").unwrap_or_else(|| "8125".into());
    let is_open = keys.remove("dogstatsd_non_local_traffic") == Some(Json::Bool(true));
    let bind = take_text(keys, "bind_host").filter(|_| !is_open);
    if port != "0" {
        let host = if is_open { "[::]".to_string() } else { bind.unwrap_or_else(|| "127.0.0.1".into()) };
        let mut listen = table([("url", format!("udp://{host}:{port}").into())]);
        if let Some(bytes) = take_text(keys, "dogstatsd_so_rcvbuf").and_then(|bytes| bytes.parse::<i64>().ok()) {
            listen.insert("receive_buffer".into(), bytes.into());
        }
        import.push_from("listen", listen, "dogstatsd_port, dogstatsd_non_local_traffic");
    }
    for (key, scheme) in [("dogstatsd_socket", "unixgram"), ("dogstatsd_stream_socket", "unix")] {
        let Some(path) = take_text(keys, key) else { continue };
        let path = path.trim_start_matches("unixgram://").trim_start_matches("unix://");
        // Everybody may write to it there.
        let mut listen = table([("url", format!("{scheme}://{path}").into()), ("mode", "0666".into())]);
        if scheme == "unix" {
            listen.insert("framing".into(), "length".into());
        }
        import.push_from("listen", listen, key);
    }
}

/// Tags of everything, and what stands before names.
fn tags(keys: &mut Map<String, Json>, import: &mut Import) {
    let mut all = Table::new();
    for key in ["tags", "extra_tags", "dogstatsd_tags"] {
        for tag in take_list(keys, key) {
            match tag.split_once(':') {
                Some((key, value)) => drop(all.insert(key.to_string(), value.into())),
                None => import.leave(key, format!("`{tag}` has no value, which a tag of all series needs")),
            }
        }
    }
    if let Some(host) = take_text(keys, "hostname") {
        all.insert("host".into(), host.into());
    }
    if let Some(env) = take_text(keys, "env") {
        all.insert("env".into(), env.into());
    }
    if !all.is_empty() {
        import.set("tags", all);
    }
    if let Some(namespace) = take_text(keys, "statsd_metric_namespace") {
        import.set("prefix", format!("{}.", namespace.trim_end_matches('.')));
        import.note("`prefix` stands before every name; there names of Datadog's own are left without it");
    }
}

fn aggregates(keys: &mut Map<String, Json>, import: &mut Import) {
    if keys.contains_key("histogram_percentiles") {
        let all = take_list(keys, "histogram_percentiles").into_iter().filter_map(|one| one.parse::<f64>().ok());
        // 0.29 times 100 is not quite 29.
        let all: Vec<Value> = all.map(|one| number((one * 1e8).round() / 1e6)).collect();
        import.set("percentiles", all);
    }
    if keys.contains_key("histogram_aggregates") {
        let all = take_list(keys, "histogram_aggregates").into_iter().map(Value::from);
        import.set_in("dogstatsd", "aggregates", all.collect::<Vec<Value>>());
    }
    if let Some(secs) = take_text(keys, "dogstatsd_expiry_seconds").and_then(|secs| secs.parse::<f64>().ok()) {
        import.leave(
            "dogstatsd_expiry_seconds",
            format!("counters are sent as 0 for {secs} s there; `[idle]` and `series_ttl` say how long here"),
        );
    }
}

fn blocklist(keys: &mut Map<String, Json>, import: &mut Import) {
    let by_prefix = keys.remove("statsd_metric_blocklist_match_prefix") == Some(Json::Bool(true));
    for name in take_list(keys, "statsd_metric_blocklist") {
        let pattern = if by_prefix { format!("{name}*") } else { name };
        let rule = table([("match", pattern.into()), ("drop", true.into())]);
        import.push_from("rule", rule, "statsd_metric_blocklist");
    }
}

fn profiles(keys: &mut Map<String, Json>, places: &[Profile], import: &mut Import) -> Result<(), String> {
    let Some(Json::Array(profiles)) = keys.remove("dogstatsd_mapper_profiles") else { return Ok(()) };
    for (n, profile) in profiles.into_iter().enumerate() {
        let Json::Object(mut profile) = profile else {
            return Err(format!("dogstatsd_mapper_profiles[{n}] must be a mapping"));
        };
        let name = take_text(&mut profile, "name").unwrap_or_else(|| n.to_string());
        let prefix = take_text(&mut profile, "prefix").ok_or_else(|| format!("profile `{name}` has no `prefix`"))?;
        let Some(Json::Array(mappings)) = profile.remove("mappings") else {
            return Err(format!("profile `{name}` has no `mappings`"));
        };
        let lines = places.get(n).and_then(|place| place.mappings.as_ref());
        for (m, mapping) in mappings.into_iter().enumerate() {
            let line = lines.and_then(|lines| lines.get(m)).map_or(0, |place| place.referenced.line());
            let place = format!("profile {name}, mapping {}, line {line}", m + 1);
            let Json::Object(mapping) = mapping else { return Err(format!("{place} must be a mapping")) };
            self::mapping(&place, &prefix, mapping, import).map_err(|why| format!("{place}: {why}"))?;
        }
        for key in profile.keys() {
            import.leave(&format!("profile {name}.{key}"), "no such key there");
        }
    }
    Ok(())
}

fn mapping(place: &str, prefix: &str, mut keys: Map<String, Json>, import: &mut Import) -> Result<(), String> {
    let text = take_text(&mut keys, "match").ok_or("it has no `match`")?;
    let name = take_text(&mut keys, "name").ok_or("it has no `name`")?;
    let form = match take_text(&mut keys, "match_type").as_deref() {
        Some("regex") => PatternKind::Regex,
        Some("wildcard") | None => PatternKind::Parts,
        Some(other) => return Err(format!("`match_type: {other}` is neither wildcard nor regex")),
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_*.".contains(c);
    if form == PatternKind::Parts && (text.contains("**") || !text.chars().all(is_plain)) {
        return Err(format!("`{text}` is no wildcard: letters, digits, -, _, . and single stars are right"));
    }
    let pattern = if form == PatternKind::Regex { format!("^{text}$") } else { text.clone() };
    let pattern = Pattern::new(form, pattern).map_err(|why| format!("`{text}` is no regular expression: {why}"))?;
    let head = head(&text, form);
    if prefix != "*" && !head.starts_with(prefix) {
        if prefix.starts_with(&head) {
            import.leave(
                place,
                format!("names that `{text}` matches outside of the profile's prefix `{prefix}` are mapped, too"),
            );
        } else {
            import.leave(place, format!("`{text}` matches nothing with the profile's prefix `{prefix}`"));
            return Ok(());
        }
    }
    let mut rule = table([(form.key(), pattern.text().into()), ("rename", of_regex(&name, &pattern).into())]);
    let mut tags = Table::new();
    match keys.remove("tags") {
        Some(Json::Object(pairs)) => {
            for (key, value) in &pairs {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
                tags.insert(key.clone(), of_regex(&value, &pattern).into());
            }
        }
        Some(Json::Null) | None => {}
        Some(_) => return Err("`tags` must be a mapping".into()),
    }
    if !tags.is_empty() {
        rule.insert("add_tags".into(), tags.into());
    }
    for key in keys.keys() {
        import.leave(&format!("{place}.{key}"), "no such key there");
    }
    import.push_from("rule", rule, format!("{place}: {text}"));
    Ok(())
}

/// What every name that matches begins with.
fn head(text: &str, form: PatternKind) -> String {
    if form == PatternKind::Parts {
        return text.split('*').next().unwrap_or_default().to_string();
    }
    let mut out = String::new();
    let mut chars = text.trim_start_matches('^').chars().peekable();
    while let Some(c) = chars.next() {
        let literal = match c {
            '\\' => chars.next().filter(|next| !next.is_ascii_alphanumeric()),
            c if c.is_ascii_alphanumeric() || "-_:/ ".contains(c) => Some(c),
            // Of an alternative nothing is sure.
            '|' => return String::new(),
            _ => None,
        };
        let Some(literal) = literal.filter(|_| !matches!(chars.peek(), Some('*' | '+' | '?' | '{'))) else { break };
        out.push(literal);
    }
    if text.contains('|') && !text.contains('(') { String::new() } else { out }
}

/// Where metrics go, and where lines go.
fn receivers(keys: &mut Map<String, Json>, import: &mut Import) {
    let host = take_text(keys, "statsd_forward_host");
    let port = take_text(keys, "statsd_forward_port");
    match (host, port) {
        (Some(host), port) => {
            let host = if host.contains(':') { format!("[{host}]") } else { host };
            let target = format!("{host}:{}", port.filter(|port| port != "0").unwrap_or_else(|| "8125".into()));
            let relay = table([("targets", Value::Array(vec![target.into()]))]);
            import.push_from("relay", relay, "statsd_forward_host, statsd_forward_port");
        }
        (None, Some(_)) => import.leave("statsd_forward_port", "without statsd_forward_host nothing is forwarded"),
        (None, None) => {}
    }
    let site = take_text(keys, "site");
    let url = take_text(keys, "dd_url").or_else(|| site.map(|site| format!("https://api.{site}")));
    let key = take_text(keys, "api_key");
    let mut sink = table([("type", "datadog".into())]);
    match key.filter(|key| !key.starts_with("ENC[")) {
        Some(key) => drop(sink.insert("api_key".into(), key.into())),
        None => {
            sink.insert("api_key".into(), "${DD_API_KEY}".into());
            import.leave("api_key", "there is none that can be read; the output takes it from the variable DD_API_KEY");
        }
    }
    if let Some(url) = url {
        sink.insert("url".into(), url.into());
    }
    import.push_from("sink", sink, "api_key, site");
}

/// What is left: settings of DogStatsD one by one, all others in one line.
fn rest(keys: Map<String, Json>, import: &mut Import) {
    let mut others = Vec::new();
    for key in keys.keys() {
        let why = match key.as_str() {
            "use_dogstatsd" => continue,
            "dogstatsd_origin_detection"
            | "dogstatsd_origin_detection_client"
            | "dogstatsd_entity_id_precedence"
            | "dogstatsd_tag_cardinality"
            | "dogstatsd_origin_optout_enabled" => "tags of containers are not looked up; clients send them (DD_TAGS)",
            "dogstatsd_buffer_size"
            | "dogstatsd_packet_buffer_size"
            | "dogstatsd_queue_size"
            | "dogstatsd_pipeline_count"
            | "dogstatsd_workers_count"
            | "dogstatsd_string_interner_size" => {
                "nothing needs that number; `max_datagram`, `workers` and `max_memory` bound what is held"
            }
            "dogstatsd_metrics_stats_enable" => "`systole top`, `systole senders` and the page show what arrives",
            "dogstatsd_mapper_cache_size" => "rules are looked up once for each name",
            "dogstatsd_no_aggregation_pipeline" => "samples with a time of their own are never aggregated",
            key if key.contains("statsd") => "nothing here corresponds to it",
            _ => {
                others.push(key.as_str());
                continue;
            }
        };
        import.leave(key, why);
    }
    if !others.is_empty() {
        import.leave(&others.join(", "), "of the agent, not of DogStatsD");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regular_expression_begins_with_what_is_plain_in_it() {
        for (text, expected) in
            [(r"test\.job\.(.*)", "test.job."), ("^abc?d", "ab"), ("a|b", ""), (r"ab\d", "ab"), ("foo", "foo")]
        {
            assert_eq!(head(text, PatternKind::Regex), expected, "{text}");
        }
        assert_eq!(head("test.*.x", PatternKind::Parts), "test.");
    }
}
