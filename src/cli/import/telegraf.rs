//! Telegraf's statsd input (influxdata/telegraf, `plugins/inputs/statsd/README.md`). Its outputs are not converted: a sink
//! must be chosen.

use toml::{Table, Value};

use super::{Import, table};

pub(super) fn read(text: &str) -> Result<Import, String> {
    let file: Table = text.parse().map_err(|error: toml::de::Error| error.to_string().trim().replace('\n', ", "))?;
    let inputs = file.get("inputs").and_then(|inputs| inputs.get("statsd")).and_then(Value::as_array);
    let mut import = Import::default();
    if let Some(interval) = file.get("agent").and_then(|agent| agent.get("flush_interval").or(agent.get("interval"))) {
        import.set("interval", interval.clone());
    }
    let several = inputs.map_or(0, Vec::len) > 1;
    for (n, input) in inputs.into_iter().flatten().enumerate() {
        let Some(input) = input.as_table() else { continue };
        let place = if several { format!("inputs.statsd[{n}]") } else { "inputs.statsd".to_string() };
        self::input(&place, input.clone(), &mut import);
    }
    for kind in file.get("outputs").and_then(Value::as_table).into_iter().flat_map(Table::keys) {
        import.leave(&format!("outputs.{kind}"), "outputs are not read; choose a [[sink]]");
    }
    Ok(import)
}

fn input(place: &str, mut keys: Table, import: &mut Import) {
    let text = |keys: &mut Table, key: &str| keys.remove(key).and_then(|value| value.as_str().map(str::to_string));
    let protocol = text(&mut keys, "protocol").unwrap_or_else(|| "udp".into());
    let address = text(&mut keys, "service_address").unwrap_or_else(|| ":8125".into());
    let host = match address.rsplit_once(':') {
        Some(("", port)) => format!("[::]:{port}"),
        _ => address,
    };
    let scheme = if protocol.starts_with("tcp") { "tcp" } else { "udp" };
    let mut listen = table([("url", format!("{scheme}://{host}").into())]);
    let most = keys.remove("max_tcp_connections");
    if let Some(most) = most.filter(|_| scheme == "tcp") {
        listen.insert("max_connections".into(), most);
    }
    if let Some(size) = keys.remove("read_buffer_size") {
        listen.insert("receive_buffer".into(), size);
    }
    import.push("listen", listen);
    if let Some(percentiles) = keys.remove("percentiles") {
        import.set("percentiles", percentiles);
    }
    if let Some(limit) = keys.remove("percentile_limit") {
        import.set("exact_samples", limit);
        import.note("beyond `exact_samples` a histogram takes over; telegraf keeps a random sample");
    }
    if let Some(ttl) = keys.remove("max_ttl") {
        import.set("series_ttl", ttl.clone());
        import.set("gauge_ttl", ttl);
    }
    let deletes = |keys: &mut Table, key: &str| keys.remove(key).and_then(|value| value.as_bool()).unwrap_or(true);
    for (key, kind) in [("delete_counters", "counters"), ("delete_timings", "timers"), ("delete_sets", "sets")] {
        if !deletes(&mut keys, key) {
            import.set_in("idle", kind, "zero");
            if kind == "counters" {
                import.note("telegraf's counters and sets go on from interval to interval without delete_…; here each has its own");
            }
        }
    }
    let deletes_gauges = deletes(&mut keys, "delete_gauges");
    if !deletes_gauges && !import.root.contains_key("gauge_ttl") {
        import.set("gauge_ttl", "forever");
    }
    if keys.remove("datadog_distributions").is_some() {
        import.note("distributions are always read");
    }
    for known in ["datadog_extensions", "parse_data_dog_tags", "sanitize_name_method", "datadog_keep_container_tag"] {
        let value = keys.remove(known);
        if known == "sanitize_name_method" && value.as_ref().and_then(Value::as_str) == Some("upstream") {
            import.set_in("protocol", "sanitize", true);
        }
    }
    let separator = text(&mut keys, "metric_separator").unwrap_or_else(|| "_".into());
    for template in keys.remove("templates").as_ref().and_then(Value::as_array).into_iter().flatten() {
        let Some(template) = template.as_str() else { continue };
        match rule(template, &separator) {
            Some(rule) => {
                import.push("rule", rule);
                import.note("`*` stands for one part of a name in a template, for any text in a rule");
            }
            None => import.leave(&format!("{place}.templates"), format!("`{template}` has no rule that does the same")),
        }
    }
    for (key, value) in keys {
        if key == "tags"
            && let Value::Table(tags) = value
        {
            import.set("tags", tags);
            continue;
        }
        import.leave(&format!("{place}.{key}"), "nothing here corresponds to it");
    }
}

/// `[filter] template [tag=value,…]`: parts of a name by their position. `None` if a rule cannot express it.
fn rule(text: &str, separator: &str) -> Option<Table> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (filter, template, tags) = match words[..] {
        [template] => (None, template, None),
        [one, two] if two.contains('=') => (None, one, Some(two)),
        [filter, template] => (Some(filter), template, None),
        [filter, template, tags] => (Some(filter), template, Some(tags)),
        _ => return None,
    };
    let parts: Vec<&str> = template.split('.').collect();
    let filters: Vec<&str> = filter.map(|filter| filter.split('.').collect()).unwrap_or_default();
    let is_greedy = parts.last().is_some_and(|last| last.ends_with('*'));
    let (mut pattern, mut name, mut added) = (Vec::new(), Vec::new(), Table::new());
    let mut star = 0;
    for (n, part) in parts.iter().enumerate() {
        let known = filters.get(n).filter(|filter| **filter != "*");
        if known.is_some_and(|known| known.contains('*')) {
            return None;
        }
        let value = match known {
            Some(known) => known.to_string(),
            None => {
                star += 1;
                format!("${star}")
            }
        };
        pattern.push(known.map_or("*", |known| known).to_string());
        match part.trim_end_matches('*') {
            "measurement" => name.push(value),
            "" => {}
            // A rule has one value for each series.
            "field" => return None,
            tag if added.contains_key(tag) => return None,
            tag => {
                added.insert(tag.to_string(), value.into());
            }
        }
    }
    if (filters.len() > parts.len() && !is_greedy) || name.is_empty() {
        return None;
    }
    for pair in tags.into_iter().flat_map(|tags| tags.split(',')) {
        let (key, value) = pair.split_once('=')?;
        added.insert(key.to_string(), value.into());
    }
    let mut rule = table([("match", pattern.join(".").into()), ("rename", name.join(separator).into())]);
    if !added.is_empty() {
        rule.insert("add_tags".into(), added.into());
    }
    Some(rule)
}
