//! The original's `config.js` (statsd/statsd, `exampleConfig.js`), and that of its proxy (`exampleProxyConfig.js`).

use serde_json::Value as Json;
use toml::{Table, Value};

use super::literal::{Member, members};
use super::{Import, table};

/// What says where a server listens.
const OF_SERVER: [&str; 6] = ["server", "address", "address_ipv6", "port", "socket", "socket_mod"];

/// Where settings stand whose values are code.
const UNKNOWN: &str = "write_by_hand";

pub(super) fn read(text: &str) -> Result<Import, String> {
    let mut import = Import::default();
    let mut settings = Settings::default();
    flatten(members(text)?, "", &mut settings, &mut import);
    import.set("profile", "etsy");
    if let Some(nodes) = settings.take("nodes") {
        proxy(&nodes, &mut settings, &mut import);
        rest(settings, &mut import);
        return Ok(import);
    }
    listeners(&mut settings, &mut import);
    management(&mut settings, &mut import);
    flush(&mut settings, &mut import);
    names(&mut settings, &mut import);
    sinks(&mut settings, &mut import);
    others(&mut settings, &mut import);
    rest(settings, &mut import);
    Ok(import)
}

fn rest(settings: Settings, import: &mut Import) {
    for (key, _) in settings.literals {
        import.leave(&key, "no setting of the original; a module of somebody else may read it");
    }
    for (key, code) in &settings.code {
        import.leave(key, format!("`{code}` is code, which is not executed; write its value"));
    }
    let unknown: Vec<Value> = settings.unknown.iter().map(|(key, code)| format!("{key}: {code}").into()).collect();
    if !unknown.is_empty() {
        // No setting: `check` refuses what does not say all that the original does.
        import.set(UNKNOWN, unknown);
    }
    for (key, code) in settings.unknown {
        import.leave(
            &key,
            format!("`{code}` is code, which is not executed; write its value, and take it out of `{UNKNOWN}`"),
        );
    }
}

/// The original's proxy is a relay that sends each name to one server, and aggregates nothing.
fn proxy(nodes: &Json, settings: &mut Settings, import: &mut Import) {
    let workers = settings.number("forkCount").filter(|workers| *workers >= 1.0);
    // What `address` is for the server is `host` for the proxy.
    if let Some(host) = settings.take("host") {
        settings.literals.push(("address".into(), host));
    }
    let is_v6 = settings.text("udp_version").as_deref() == Some("udp6");
    if is_v6 {
        settings.literals.push(("address_ipv6".into(), Json::Bool(true)));
    }
    listeners(settings, import);
    if let (Some(workers), Some(listen)) = (workers, import.entries.iter_mut().find(|entry| entry.array == "listen")) {
        listen.table.insert("workers".into(), number(workers));
    }
    management(settings, import);
    let nodes = nodes.as_array().cloned().unwrap_or_default();
    let target = |node: &Json| {
        let host = as_text(node.get("host")?);
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        Some(Value::from(format!("{host}:{}", node.get("port").and_then(as_number)?)))
    };
    let mut relay = table([("mode", "spread".into())]);
    relay.insert("targets".into(), Value::Array(nodes.iter().filter_map(target).collect()));
    let ports: Vec<f64> = nodes.iter().filter_map(|node| node.get("adminport").and_then(as_number)).collect();
    if let Some(first) = ports.first() {
        if ports.iter().any(|port| port != first) {
            import.leave("nodes.adminport", "the management ports of all servers must be one; see `health_port`");
        } else {
            relay.insert("health_port".into(), number(*first));
        }
    }
    if let Some(ms) = settings.number("checkInterval") {
        relay.insert("health_every".into(), format!("{}ms", ms as u64).into());
    }
    import.push_from("relay", relay, "nodes");
    let drop = table([("match", "*".into()), ("drop", true.into())]);
    import.push_from("rule", drop, "a proxy aggregates nothing");
    import.set("self_metrics", false);
    import.note("names go to servers by another hash than the original's ring: each moves once, and no more when a server is added or removed");
    settings.take("cacheSize");
    if settings.flag("debug") == Some(true) {
        import.set_in("log", "level", "debug");
    }
}

/// Literals by their path, such as `graphite.globalPrefix`; code is reported as not carried over.
fn flatten(all: Vec<(String, Member)>, path: &str, settings: &mut Settings, import: &mut Import) {
    for (key, member) in all {
        let key = if path.is_empty() { key } else { format!("{path}.{key}") };
        match member {
            Member::Literal(Json::Object(inner)) => {
                let inner = inner.into_iter().map(|(key, value)| (key, Member::Literal(value))).collect();
                flatten(inner, &key, settings, import);
            }
            Member::Literal(value) => settings.literals.push((key, value)),
            Member::Object(inner) => flatten(inner, &key, settings, import),
            Member::Code(code) => match or_else(&code) {
                Some((first, value)) => {
                    import
                        .note(format!("{key} is `{value}`; the original asks `{first}` first, which is not executed"));
                    flatten(vec![(key, Member::Literal(value))], "", settings, import);
                }
                None => settings.code.push((key, code)),
            },
        }
    }
}

/// What code takes first, and the literal that it takes where there is none of that: `process.env.HOST || "127.0.0.1"`.
fn or_else(code: &str) -> Option<(&str, Json)> {
    let at = code.rfind("||").or_else(|| code.rfind("??"))?;
    let value = json5::from_str(code[at + 2..].trim()).ok()?;
    Some((code[..at].trim(), value))
}

/// Settings that have not been read yet.
#[derive(Default)]
struct Settings {
    literals: Vec<(String, Json)>,
    /// Those whose values are code.
    code: Vec<(String, String)>,
    /// The same, of those that were asked for: what they say is not known.
    unknown: Vec<(String, String)>,
}

impl Settings {
    fn take(&mut self, key: &str) -> Option<Json> {
        if let Some(at) = self.code.iter().position(|(known, _)| known == key) {
            self.unknown.push(self.code.remove(at));
        }
        let at = self.literals.iter().position(|(known, _)| known == key)?;
        Some(self.literals.remove(at).1).filter(|value| !value.is_null())
    }

    /// Takes what is carried over in no case; whether it was there.
    fn leave_out(&mut self, key: &str) -> bool {
        let all = self.literals.len() + self.code.len();
        self.literals.retain(|(known, _)| known != key);
        self.code.retain(|(known, _)| known != key);
        self.literals.len() + self.code.len() < all
    }

    /// Whether it was asked for, and is code.
    fn is_unknown(&self, key: &str) -> bool {
        self.unknown.iter().any(|(known, _)| known == key)
    }

    fn text(&mut self, key: &str) -> Option<String> {
        self.take(key).map(|value| as_text(&value))
    }

    fn number(&mut self, key: &str) -> Option<f64> {
        self.take(key).as_ref().and_then(as_number)
    }

    /// A boolean as JavaScript converts it.
    fn flag(&mut self, key: &str) -> Option<bool> {
        self.take(key).map(|value| match value {
            Json::Bool(flag) => flag,
            Json::Number(number) => number.as_f64() != Some(0.0),
            Json::String(text) => !text.is_empty(),
            _ => true,
        })
    }
}

fn as_text(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

fn as_number(value: &Json) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// An integer without a decimal point.
pub(super) fn number(value: f64) -> Value {
    if value == value.trunc() && value.abs() < 1e15 { Value::from(value as i64) } else { Value::from(value) }
}

fn listeners(settings: &mut Settings, import: &mut Import) {
    let servers = match settings.take("servers") {
        Some(Json::Array(servers)) => {
            for key in OF_SERVER {
                if settings.leave_out(key) {
                    import.leave(key, "with `servers` each of these has its own, and the original does not look here");
                }
            }
            servers
        }
        _ => {
            let mut server = serde_json::Map::new();
            for key in OF_SERVER {
                if let Some(value) = settings.take(key) {
                    server.insert(key.into(), value);
                }
            }
            vec![Json::Object(server)]
        }
    };
    for (n, server) in servers.iter().enumerate() {
        let text = |key: &str| server.get(key).map(as_text);
        let kind = text("server").unwrap_or_else(|| "./servers/udp".into());
        let scheme = match kind.trim_end_matches(".js").rsplit('/').next() {
            Some("udp") => "udp",
            Some("tcp") => "tcp",
            _ => {
                import.leave(&format!("servers[{n}].server"), format!("`{kind}` is a module of its own"));
                continue;
            }
        };
        let mut listen = Table::new();
        if let Some(path) = text("socket").filter(|_| scheme == "tcp") {
            listen.insert("url".into(), format!("unix://{path}").into());
            if let Some(mode) = server.get("socket_mod").and_then(as_number) {
                listen.insert("mode".into(), format!("{:04o}", mode as u32 & 0o777).into());
            }
        } else {
            let is_v6 = server.get("address_ipv6").is_some_and(|flag| flag != &Json::Bool(false));
            let address = text("address").unwrap_or_else(|| if is_v6 { "::" } else { "0.0.0.0" }.into());
            let address = if address.contains(':') { format!("[{address}]") } else { address };
            let port = server.get("port").and_then(as_number).unwrap_or(8125.0);
            listen.insert("url".into(), format!("{scheme}://{address}:{port}").into());
        }
        import.push("listen", listen);
    }
}

fn management(settings: &mut Settings, import: &mut Import) {
    let port = settings.number("mgmt_port").unwrap_or(8126.0);
    let address = settings.text("mgmt_address");
    let shown = match &address {
        Some(address) if address.contains(':') => format!("[{address}]:{port}"),
        Some(address) => format!("{address}:{port}"),
        None => format!("127.0.0.1:{port}"),
    };
    let is_local = ["127.", "[::1]", "localhost"].iter().any(|start| shown.starts_with(start));
    import.set_in("management", "address", shown);
    if address.is_none() {
        import.note(format!(
            "the management port {port} listens on 127.0.0.1 alone; the original's is open to everybody, and whoever may \
             connect may delete series"
        ));
    } else if !is_local {
        import.set_in("management", "allow", vec![Value::from("127.0.0.0/8")]);
        import.note("`management.allow` must name the networks that may use the management port");
    }
    if let Some(health) = settings.text("healthStatus") {
        import.set_in("management", "health", if health == "down" { "down" } else { "up" });
    }
}

fn flush(settings: &mut Settings, import: &mut Import) {
    if let Some(ms) = settings.number("flushInterval") {
        import.set("interval", format!("{}ms", ms as u64));
    }
    if let Some(percentiles) = settings.take("percentThreshold") {
        let all = percentiles.as_array().cloned().unwrap_or_else(|| vec![percentiles.clone()]);
        let all: Vec<Value> = all.iter().filter_map(as_number).map(number).collect();
        import.set("percentiles", all);
    }
    if let Some(sanitize) = settings.flag("keyNameSanitize") {
        import.set_in("protocol", "sanitize", sanitize);
    }
    for (theirs, ours) in [
        ("flush_counts", "flush_counts"),
        ("deleteIdleStats", "delete_idle_stats"),
        ("deleteCounters", "delete_counters"),
        ("deleteTimers", "delete_timers"),
        ("deleteGauges", "delete_gauges"),
        ("deleteSets", "delete_sets"),
    ] {
        if let Some(flag) = settings.flag(theirs) {
            import.set_in("etsy", ours, flag);
        }
    }
    if let Some(flushes) = settings.number("gaugesMaxTTL") {
        import.set_in("etsy", "gauges_max_ttl", number(flushes.max(1.0)));
    }
    if let Some(Json::Array(wanted)) = settings.take("calculatedTimerMetrics") {
        let wanted: Vec<Value> = wanted.iter().map(|name| Value::from(as_text(name))).collect();
        import.set_in("etsy", "calculated_timer_metrics", wanted);
    }
    if let Some(Json::Array(histograms)) = settings.take("histogram") {
        let all = histograms.iter().map(|histogram| {
            let limit = |limit: &Json| as_number(limit).filter(|n| n.is_finite()).map_or_else(|| "inf".into(), number);
            let bins = histogram.get("bins").and_then(Json::as_array).map(|bins| bins.iter().map(limit).collect());
            let metric = histogram.get("metric").map(as_text).unwrap_or_default();
            Value::Table(table([("metric", metric.into()), ("bins", Value::Array(bins.unwrap_or_default()))]))
        });
        import.set_in("etsy", "histogram", all.collect::<Vec<Value>>());
    }
}

fn names(settings: &mut Settings, import: &mut Import) {
    for (theirs, ours) in [
        ("prefixStats", "prefix_stats"),
        ("graphite.globalPrefix", "global_prefix"),
        ("graphite.globalSuffix", "global_suffix"),
        ("graphite.prefixCounter", "prefix_counter"),
        ("graphite.prefixTimer", "prefix_timer"),
        ("graphite.prefixGauge", "prefix_gauge"),
        ("graphite.prefixSet", "prefix_set"),
    ] {
        if let Some(text) = settings.text(theirs) {
            import.set_in("etsy", ours, text);
        }
    }
    if let Some(flag) = settings.flag("graphite.legacyNamespace") {
        import.set_in("etsy", "legacy_namespace", flag);
    }
}

fn sinks(settings: &mut Settings, import: &mut Import) {
    let host = settings.text("graphiteHost");
    let (port, pickle_port) = (settings.number("graphitePort"), settings.number("graphitePicklePort"));
    let is_pickle = settings.text("graphiteProtocol").as_deref() == Some("pickle");
    let backends = match settings.take("backends") {
        Some(Json::Array(backends)) => backends.iter().map(as_text).collect(),
        _ => vec!["./backends/graphite".to_string()],
    };
    let mut has_repeater = false;
    for backend in &backends {
        match backend.trim_end_matches(".js").rsplit('/').next().unwrap_or("") {
            "graphite" => match &host {
                Some(host) => {
                    let port = if is_pickle { pickle_port.unwrap_or(2004.0) } else { port.unwrap_or(2003.0) };
                    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                    let mut sink = table([("type", "graphite".into()), ("address", format!("{host}:{port}").into())]);
                    if is_pickle {
                        sink.insert("protocol".into(), "pickle".into());
                    }
                    import.push("sink", sink);
                }
                None if settings.is_unknown("graphiteHost") => {}
                None => import.note("without graphiteHost the original sends nothing to Graphite; nor does this"),
            },
            "console" => import.push("sink", table([("type", "console".into())])),
            "repeater" => has_repeater = true,
            _ => import.leave("backends", format!("`{backend}` is a module of its own")),
        }
    }
    repeater(settings, import, has_repeater);
}

/// The original's repeater is a relay that mirrors.
fn repeater(settings: &mut Settings, import: &mut Import, is_asked_for: bool) {
    let targets = settings.take("repeater");
    if let Some(protocol) = settings.text("repeaterProtocol").filter(|protocol| !protocol.starts_with("udp")) {
        import.leave("repeaterProtocol", format!("relays send datagrams, not `{protocol}`"));
    }
    let Some(Json::Array(all)) = targets else { return };
    if !is_asked_for {
        return import.leave("repeater", "`./backends/repeater` is not among `backends`, so that nothing is repeated");
    }
    let address = |target: &Json| {
        let host = as_text(target.get("host")?);
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        Some(format!("{host}:{}", target.get("port").and_then(as_number)?))
    };
    let addresses: Vec<String> = all.iter().filter_map(address).collect();
    if addresses.len() < all.len() {
        import.leave("repeater", "a server without `host` or `port`");
    }
    if !addresses.is_empty() {
        let addresses: Vec<Value> = addresses.into_iter().map(Value::from).collect();
        import.push("relay", table([("targets", Value::Array(addresses))]));
    }
}

fn others(settings: &mut Settings, import: &mut Import) {
    if settings.flag("debug") == Some(true) {
        import.set_in("log", "level", "debug");
    }
    for (key, why) in [
        ("dumpMessages", "`systole run --capture FILE` records what comes in"),
        ("keyFlush.interval", "the page and `systole top` show the most frequent names"),
        ("keyFlush.percent", "the page and `systole top` show the most frequent names"),
        ("keyFlush.log", "the page and `systole top` show the most frequent names"),
        ("title", "the process is called systole"),
        ("console.prettyprint", "the console shows a table on a terminal and records otherwise"),
        ("log.backend", "the log goes to standard error, for whoever started it"),
        ("log.application", "the log goes to standard error, for whoever started it"),
        ("log.level", "the level of syslog; here it is that of `[log]`"),
        (
            "automaticConfigReload",
            "`systole reload` or SIGHUP reads the configuration again, a change of the file alone does not",
        ),
    ] {
        if settings.leave_out(key) {
            import.leave(key, why);
        }
    }
}
