//! Telegraf's statsd input (influxdata/telegraf, `plugins/inputs/statsd/README.md`), its tags and its outputs.

use toml::{Table, Value};

use super::{Entry, Import, table, telegraf_outputs};

/// Types of fields, which decide what the sink influx writes.
const FLOATS: [&str; 3] = ["float_counters", "float_timings", "float_sets"];

pub(super) fn read(text: &str) -> Result<Import, String> {
    let file: Table = text.parse().map_err(|error: toml::de::Error| error.to_string().trim().replace('\n', ", "))?;
    let inputs = file.get("inputs").and_then(|inputs| inputs.get("statsd")).and_then(Value::as_array);
    let mut import = Import::default();
    agent(&file, &mut import);
    let several = inputs.map_or(0, Vec::len) > 1;
    for (n, input) in inputs.into_iter().flatten().enumerate() {
        let Some(input) = input.as_table() else { continue };
        let place = if several { format!("inputs.statsd[{n}]") } else { "inputs.statsd".to_string() };
        self::input(&place, input.clone(), &mut import);
    }
    for (kind, outputs) in file.get("outputs").and_then(Value::as_table).into_iter().flatten() {
        for (n, output) in outputs.as_array().into_iter().flatten().enumerate() {
            let place = if n == 0 { format!("outputs.{kind}") } else { format!("outputs.{kind}[{n}]") };
            telegraf_outputs::output(kind, &place, output.as_table().cloned().unwrap_or_default(), &mut import);
        }
    }
    database(inputs.map_or(&[], Vec::as_slice), &mut import);
    let inputs = file.get("inputs").and_then(Value::as_table).into_iter().flat_map(Table::keys);
    for kind in inputs.filter(|kind| *kind != "statsd") {
        import.leave(&format!("inputs.{kind}"), "telegraf goes on to collect it");
    }
    for part in ["processors", "aggregators"] {
        for kind in file.get(part).and_then(Value::as_table).into_iter().flat_map(Table::keys) {
            import.leave(
                &format!("{part}.{kind}"),
                "rules change names and tags, and telegraf itself can go on behind a sink",
            );
        }
    }
    Ok(import)
}

/// Lets a database of telegraf's go on under its names and types, where they are those that the sink has.
fn database(inputs: &[Value], import: &mut Import) {
    let is_influx = |entry: &&mut Entry| entry.table.get("type").and_then(Value::as_str) == Some("influx");
    let mut sinks = import.entries.iter_mut().filter(is_influx).peekable();
    if sinks.peek().is_none() {
        return;
    }
    let has_floats = |input: &Value| FLOATS.iter().any(|key| input.get(key).and_then(Value::as_bool) == Some(true));
    let separates = |input: &Value| input.get("metric_separator").and_then(Value::as_str).is_some_and(|by| by != "_");
    if inputs.iter().any(|input| has_floats(input) || separates(input)) {
        return import.note(
            "fields of a timer are `min`, `max` and `p90` in place of `lower`, `upper` and `90_percentile`, and all numbers are floats: \
             use a new database where telegraf has written integers, because InfluxDB refuses what changes the type of a field; \
             `naming = \"telegraf\"` of the sink has `_` for dots and integers for counters, sets and counts",
        );
    }
    sinks.for_each(|sink| drop(sink.table.insert("naming".into(), "telegraf".into())));
    import.note(
        "the sink influx has telegraf's names and types (`naming`), so that its database may go on; while both run, give one of them \
         another database, or each point is written twice",
    );
}

/// The tags of all, and the interval.
fn agent(file: &Table, import: &mut Import) {
    let agent = file.get("agent").and_then(Value::as_table).cloned().unwrap_or_default();
    for (key, value) in &agent {
        let why = match key.as_str() {
            "interval" | "flush_interval" | "hostname" | "omit_hostname" => continue,
            "metric_batch_size" => "a sink sends an interval at a time",
            "metric_buffer_limit" => "a sink keeps `queue` intervals, and on disk what its `spool` holds",
            // What does nothing.
            "round_interval" if value.as_bool() == Some(true) => continue,
            _ if value.as_bool() == Some(false) || matches!(value.as_str(), Some("" | "0s")) => continue,
            _ => "it is of telegraf's own running",
        };
        import.leave(&format!("agent.{key} = {value}"), why);
    }
    if let Some(interval) = agent.get("interval") {
        import.set("interval", interval.clone());
    }
    if agent.get("flush_interval").is_some_and(|flush| Some(flush) != agent.get("interval")) {
        import.note("what an interval has is delivered at its end: `flush_interval` is `interval`");
    }
    let mut tags = Table::new();
    // Every metric there has the machine's name.
    if agent.get("omit_hostname").and_then(Value::as_bool) != Some(true) {
        let host = agent.get("hostname").and_then(Value::as_str).filter(|host| !host.is_empty());
        tags.insert("host".into(), host.map_or_else(|| "${HOSTNAME}".to_string(), variables).into());
    }
    for (key, value) in file.get("global_tags").and_then(Value::as_table).into_iter().flatten() {
        tags.insert(key.clone(), value.as_str().map_or_else(|| value.to_string(), variables).into());
    }
    if !tags.is_empty() {
        import.set("tags", tags);
    }
}

/// A text whose variables are `$NAME` there, and `${NAME}` here.
pub(super) fn variables(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let name = &rest[at + 1..];
        let length = name.len() - name.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_').len();
        out.push_str(&rest[..at]);
        if length == 0 {
            out.push('$');
        } else {
            out.push_str(&format!("${{{}}}", &name[..length]));
        }
        rest = &name[length..];
    }
    out + rest
}

/// How names end up.
struct Names {
    over: Option<String>,
    suffix: String,
    separator: String,
}

impl Names {
    fn finish(&self, name: &str) -> String {
        format!("{}{}", self.over.as_deref().unwrap_or(name), self.suffix)
    }
}

fn input(place: &str, mut keys: Table, import: &mut Import) {
    listener(&mut keys, import);
    if let Some(interval) = keys.remove("interval") {
        import.set("interval", interval);
    }
    if let Some(percentiles) = keys.remove("percentiles") {
        import.set("percentiles", percentiles);
    }
    if let Some(limit) = keys.remove("percentile_limit") {
        import.set("exact_samples", limit);
        import.note("beyond `exact_samples` a histogram takes over; telegraf keeps a random sample");
    }
    lifetimes(&mut keys, import);
    formats(&mut keys, import);
    names(place, &mut keys, import);
    if let Some(Value::Table(tags)) = keys.remove("tags") {
        let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), variables);
        for (key, value) in &tags {
            import.set_in("tags", key, shown(value));
        }
    }
    for (key, value) in keys {
        let why = match key.as_str() {
            "allowed_pending_messages" | "number_workers_threads" => {
                "what waits is bounded by `receive_buffer` and `max_memory`"
            }
            "tcp_keep_alive" | "tcp_keep_alive_period" => {
                "connections that are silent are closed when others want their place"
            }
            "tagpass" | "tagdrop" | "taginclude" | "tagexclude" | "namepass" | "fieldpass" | "fielddrop"
            | "fieldinclude" | "fieldexclude" | "metricpass" => {
                "rules decide what stays, with `tags`, `drop`, `drop_tags` and `keep_tags`"
            }
            _ => "nothing here corresponds to it",
        };
        import.leave(&format!("{place}.{key} = {value}"), why);
    }
}

fn listener(keys: &mut Table, import: &mut Import) {
    let text = |keys: &mut Table, key: &str| keys.remove(key).and_then(|value| value.as_str().map(str::to_string));
    let protocol = text(keys, "protocol").unwrap_or_else(|| "udp".into());
    let address = text(keys, "service_address").unwrap_or_else(|| ":8125".into());
    let scheme = if protocol.starts_with("tcp") { "tcp" } else { "udp" };
    let host = match address.rsplit_once(':') {
        Some(("", port)) if protocol.ends_with('4') => format!("0.0.0.0:{port}"),
        Some(("", port)) => format!("[::]:{port}"),
        _ => address,
    };
    let mut listen = table([("url", format!("{scheme}://{host}").into())]);
    let most = keys.remove("max_tcp_connections");
    if let Some(most) = most.filter(|_| scheme == "tcp") {
        listen.insert("max_connections".into(), most);
    }
    if let Some(size) = keys.remove("read_buffer_size") {
        listen.insert("receive_buffer".into(), size);
    }
    import.push_from("listen", listen, "service_address");
}

fn lifetimes(keys: &mut Table, import: &mut Import) {
    if let Some(ttl) = keys.remove("max_ttl") {
        import.set("series_ttl", ttl.clone());
        import.set("gauge_ttl", ttl);
    }
    let mut stays = Vec::new();
    for (key, kind) in [("delete_counters", "counters"), ("delete_timings", "timers"), ("delete_sets", "sets")] {
        if keys.remove(key).and_then(|value| value.as_bool()) == Some(false) {
            import.set_in("idle", kind, "zero");
            stays.push(key);
        }
    }
    if !stays.is_empty() {
        import.note(format!(
            "with {} = false values go on from interval to interval there; here each interval has its own, and zeros where nothing came",
            stays.join(", ")
        ));
    }
    if keys.remove("delete_gauges").and_then(|value| value.as_bool()) == Some(false) {
        if !import.root.contains_key("gauge_ttl") {
            import.set("gauge_ttl", "forever");
        }
    } else {
        import.note("a gauge is repeated until `gauge_ttl`; with delete_gauges, the default there, it is sent for intervals that set it");
    }
}

/// How lines are read: all of it is read here without being asked for.
fn formats(keys: &mut Table, import: &mut Import) {
    if keys.remove("datadog_distributions").and_then(|value| value.as_bool()) == Some(false) {
        import.note("distributions are always read");
    }
    let sanitize = keys.remove("sanitize_name_method");
    if sanitize.as_ref().and_then(Value::as_str) == Some("upstream") {
        import.set_in("protocol", "sanitize", true);
    }
    let has_datadog = ["datadog_extensions", "parse_data_dog_tags"]
        .map(|key| keys.remove(key).and_then(|value| value.as_bool()) == Some(true))
        .contains(&true);
    if !has_datadog {
        import.note("tags as DogStatsD writes them are read; there only with datadog_extensions");
    }
    if keys.remove("datadog_keep_container_tag").and_then(|value| value.as_bool()) == Some(true) {
        import.leave("datadog_keep_container_tag", "the container tells senders apart, and is no tag");
    }
    for key in FLOATS {
        keys.remove(key);
    }
    if keys.remove("convert_names").and_then(|value| value.as_bool()) == Some(true) {
        import.leave("convert_names", "names keep dots and dashes");
    }
}

/// Names: templates and what is put before, behind, or in place of them.
fn names(place: &str, keys: &mut Table, import: &mut Import) {
    let text = |keys: &mut Table, key: &str| keys.remove(key).and_then(|value| value.as_str().map(str::to_string));
    if let Some(prefix) = text(keys, "name_prefix") {
        import.set("prefix", prefix);
        import.note("`prefix` stands before the daemon's own series, too");
    }
    let names = Names {
        over: text(keys, "name_override"),
        suffix: text(keys, "name_suffix").unwrap_or_default(),
        separator: text(keys, "metric_separator").unwrap_or_else(|| "_".into()),
    };
    for pattern in keys.remove("namedrop").as_ref().and_then(Value::as_array).into_iter().flatten() {
        let pattern = pattern.as_str().unwrap_or("");
        if pattern.contains(['[', '{']) {
            import.leave(
                &format!("{place}.namedrop"),
                format!("`{pattern}` has more than stars; `match_regex` can do it"),
            );
            continue;
        }
        let rule = table([("match", pattern.into()), ("drop", true.into())]);
        import.push_from("rule", rule, format!("namedrop: {pattern}"));
    }
    let templates = keys.remove("templates");
    let mut all = Vec::new();
    for (n, text) in templates.as_ref().and_then(Value::as_array).into_iter().flatten().enumerate() {
        let Some(text) = text.as_str() else { continue };
        match Template::read(text) {
            Ok(template) => all.push((n, text, template)),
            Err(why) => import.leave(&format!("{place}.templates"), format!("`{text}` {why}")),
        }
    }
    // The one whose filter says most is taken, and one without a filter last.
    all.sort_by_key(|(_, _, template)| template.rank());
    for (n, text, template) in &all {
        for (pattern, rule) in template.rules(&names) {
            import.push_from("rule", rule, format!("templates[{n}], names of {pattern}: {text}"));
        }
    }
    if names.over.is_some() || !names.suffix.is_empty() {
        let rule = table([("match", "*".into()), ("rename", names.finish("$1").into())]);
        import.push_from("rule", rule, "name_override, name_suffix: all other names");
    }
    if names.separator != "." {
        let separator = &names.separator;
        import.note(format!("names that no template takes, and the rest behind `measurement*`, keep their dots, but for those in a sink with `naming = \"telegraf\"`; there `{separator}` stands for them"));
    }
}

/// `[filter] template [tag=value,…]`: parts of a name by their position.
struct Template<'t> {
    /// Of the filter.
    known: Vec<&'t str>,
    parts: Vec<&'t str>,
    tags: Vec<(&'t str, &'t str)>,
}

impl<'t> Template<'t> {
    fn read(text: &'t str) -> Result<Template<'t>, &'static str> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (filter, template, tags) = match words[..] {
            [template] => ("", template, ""),
            [one, two] if two.contains('=') => ("", one, two),
            [filter, template] => (filter, template, ""),
            [filter, template, tags] => (filter, template, tags),
            _ => return Err("is no template"),
        };
        let parts: Vec<&str> = template.split('.').collect();
        let known: Vec<&str> = filter.split('.').filter(|part| !part.is_empty()).collect();
        if known.iter().any(|part| part.len() > 1 && part.contains('*')) {
            return Err("has a filter with a star inside of a part, which is a character there");
        }
        if parts.iter().any(|part| part.trim_end_matches('*') == "field") {
            return Err("has a `field`, and a series has one value here");
        }
        if !parts.iter().any(|part| part.trim_end_matches('*') == "measurement") {
            return Err("has no `measurement`");
        }
        let pairs = tags.split(',').filter(|pair| !pair.is_empty());
        let tags: Option<Vec<(&str, &str)>> = pairs.map(|pair| pair.split_once('=')).collect();
        Ok(Template { known, parts, tags: tags.ok_or("has tags that are not key=value")? })
    }

    /// By which it comes before others: literal parts before stars, and either before no part.
    fn rank(&self) -> Vec<u8> {
        self.known.iter().map(|part| u8::from(*part == "*")).chain([2]).collect()
    }

    /// Its rules, the one for the longest names first, each with its pattern: what a name does not have cannot be named.
    fn rules(&self, names: &Names) -> Vec<(String, Table)> {
        let mut longest = self.known.len().max(self.parts.len());
        let is_greedy = self.parts.last().is_some_and(|part| part.ends_with('*'));
        if is_greedy && self.known.get(longest - 1).is_some_and(|part| *part != "*") {
            longest += 1;
        }
        let shortest = self.known.len().max(1);
        // A name that has more is taken whole by the last part, or loses the rest.
        let long = self.rule(if is_greedy { longest } else { longest + 1 }, true, names);
        let exact = (shortest..=longest).rev().filter(|length| !is_greedy || *length < longest);
        long.into_iter().chain(exact.filter_map(|length| self.rule(length, false, names))).collect()
    }

    /// The rule for names of so many parts; for longer ones as well where the last star takes the rest.
    fn rule(&self, length: usize, takes_rest: bool, names: &Names) -> Option<(String, Table)> {
        let last = self.parts.last().filter(|part| part.ends_with('*'));
        let mut star = 0;
        let (mut pattern, mut name) = (Vec::new(), Vec::new());
        let mut tags: Vec<(&str, Vec<String>)> = Vec::new();
        for n in 0..length {
            let known = self.known.get(n).filter(|part| **part != "*");
            pattern.push(known.map_or("*", |known| known));
            let value = known.map_or_else(
                || {
                    star += 1;
                    format!("${{{star}}}")
                },
                |known| known.to_string(),
            );
            match self.parts.get(n).or(last).map_or("", |part| part.trim_end_matches('*')) {
                "" => {}
                "measurement" => name.push(value),
                tag => match tags.iter_mut().find(|(known, _)| *known == tag) {
                    Some((_, values)) => values.push(value),
                    None => tags.push((tag, vec![value])),
                },
            }
        }
        if name.is_empty() {
            return None;
        }
        let first_star = pattern.iter().position(|part| *part == "*").unwrap_or(pattern.len());
        let (key, pattern) = match takes_rest {
            false => ("match_parts", pattern.join(".")),
            // Stars before the last one take as little as they can, one part, unless a part behind them must be met.
            true if pattern[first_star..].iter().all(|part| *part == "*") => ("match", pattern.join(".")),
            true => {
                let groups =
                    pattern.iter().map(|part| if *part == "*" { "([^.]*)".to_string() } else { regex::escape(part) });
                let mut groups: Vec<String> = groups.collect();
                groups.pop();
                groups.push("(.*)".into());
                ("match_regex", format!("^{}$", groups.join(r"\.")))
            }
        };
        let mut rule =
            table([(key, pattern.as_str().into()), ("rename", names.finish(&name.join(&names.separator)).into())]);
        let added: Table = tags
            .into_iter()
            .map(|(tag, values)| (tag.to_string(), Value::from(values.join(&names.separator))))
            .chain(self.tags.iter().map(|(key, value)| (key.to_string(), Value::from(*value))))
            .collect();
        if !added.is_empty() {
            rule.insert("add_tags".into(), added.into());
        }
        Some((pattern, rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_have_braces() {
        assert_eq!(variables("$HOST-${DC}, 5$ $$X"), "${HOST}-${DC}, 5$ $${X}");
    }
}
