//! Telegraf's outputs, where a sink does the same.

use toml::{Table, Value};

use super::telegraf::variables;
use super::{Import, table};

/// The keys of one output, which are taken one by one.
struct Output<'a> {
    place: &'a str,
    keys: Table,
}

impl Output<'_> {
    fn text(&mut self, key: &str) -> Option<String> {
        self.keys.remove(key)?.as_str().filter(|text| !text.is_empty()).map(variables)
    }

    fn texts(&mut self, key: &str) -> Vec<String> {
        let all = self.keys.remove(key);
        all.as_ref().and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(variables).collect()
    }

    /// The first of several servers, of which telegraf takes any.
    fn first(&mut self, key: &str, default: &str, import: &mut Import) -> String {
        let all = self.texts(key);
        for other in all.iter().skip(1) {
            import.leave(&format!("{}.{key}", self.place), format!("`{other}`: a sink has one receiver"));
        }
        all.into_iter().next().unwrap_or_else(|| default.to_string())
    }

    /// What is called otherwise, or the same.
    fn carry(&mut self, sink: &mut Table, names: &[(&str, &str)]) {
        for (theirs, ours) in names {
            if let Some(text) = self.text(theirs) {
                sink.insert((*ours).to_string(), text.into());
            }
        }
    }

    /// Certificates.
    fn tls(&mut self, sink: &mut Table) {
        let mut tls = Table::new();
        self.carry(&mut tls, &[("tls_ca", "ca"), ("tls_cert", "certificate"), ("tls_key", "key")]);
        if !tls.is_empty() {
            sink.insert("tls".into(), tls.into());
        }
    }

    /// Adds a sink; what is left of the keys is named.
    fn done(mut self, mut sink: Table, import: &mut Import) {
        if let Some(timeout) = self.keys.remove("timeout") {
            sink.insert("timeout".into(), timeout);
        }
        if let Some(prefix) = self.text("name_prefix") {
            sink.insert("prefix".into(), prefix.into());
        }
        for (theirs, ours) in [("namepass", "include"), ("namedrop", "exclude")] {
            let patterns = self.texts(theirs);
            if !patterns.is_empty() {
                sink.insert(ours.into(), Value::Array(patterns.into_iter().map(Value::from).collect()));
            }
        }
        import.push_from("sink", sink, self.place);
        for (key, value) in self.keys {
            import.leave(&format!("{}.{key} = {value}", self.place), "the sink has nothing that corresponds to it");
        }
    }
}

pub(super) fn output(kind: &str, place: &str, keys: Table, import: &mut Import) {
    let mut output = Output { place, keys };
    let sink = |kind: &str| table([("type", kind.into())]);
    match kind {
        "graphite" => {
            let server = output.first("servers", "localhost:2003", import);
            let mut sink = sink("graphite");
            sink.insert("address".into(), server.into());
            if let Some(prefix) = output.text("prefix") {
                sink.insert("prefix".into(), format!("{prefix}.").into());
            }
            import.note("names in Graphite are `name.mean;tag=value`; telegraf's follow its `template`");
            output.done(sink, import);
        }
        "influxdb" | "influxdb_v2" => influx(kind, output, import),
        "prometheus_client" => {
            let listen = output.text("listen").unwrap_or_else(|| ":9273".into());
            let mut sink = sink("prometheus");
            let address = if listen.starts_with(':') { format!("[::]{listen}") } else { listen };
            sink.insert("address".into(), address.into());
            import.note("names in Prometheus end in `_total` and `_seconds`; telegraf's have the field behind them");
            output.done(sink, import);
        }
        "file" => {
            for file in output.texts("files") {
                let mut sink = sink(if file == "stdout" { "console" } else { "file" });
                if file != "stdout" {
                    sink.insert("path".into(), file.into());
                }
                import.push_from("sink", sink, place);
            }
            import.note("files have records in JSON, one a line");
            output.keys.remove("data_format");
            for (key, value) in output.keys {
                import.leave(&format!("{place}.{key} = {value}"), "the sink has nothing that corresponds to it");
            }
        }
        "kafka" | "nats" => {
            let (servers, names): (_, &[(&str, &str)]) = match kind {
                "kafka" => {
                    ("brokers", &[("topic", "topic"), ("sasl_username", "username"), ("sasl_password", "password")])
                }
                _ => (
                    "servers",
                    &[
                        ("subject", "subject"),
                        ("username", "username"),
                        ("password", "password"),
                        ("credentials", "credentials"),
                    ],
                ),
            };
            let mut sink = sink(kind);
            sink.insert(servers.into(), Value::Array(output.texts(servers).into_iter().map(Value::from).collect()));
            output.carry(&mut sink, names);
            output.tls(&mut sink);
            output.keys.remove("data_format");
            import.note(format!(
                "messages of the sink {kind} are records in JSON, and it is in builds with the feature {kind}"
            ));
            output.done(sink, import);
        }
        "postgresql" => {
            let mut sink = sink("postgres");
            output.carry(&mut sink, &[("connection", "url")]);
            import.note("the sink postgres writes records into one table, and is in builds with the feature postgres");
            output.done(sink, import);
        }
        "opentelemetry" => {
            let address = output.text("service_address").unwrap_or_else(|| "localhost:4317".into());
            let mut sink = sink("otlp");
            let http = address.strip_suffix(":4317").map_or_else(|| address.clone(), |host| format!("{host}:4318"));
            sink.insert("url".into(), format!("http://{http}").into());
            output.tls(&mut sink);
            import.note("the sink otlp speaks HTTP, which collectors take on port 4318; telegraf speaks gRPC");
            output.done(sink, import);
        }
        "elasticsearch" => {
            let mut sink = sink("elasticsearch");
            sink.insert("url".into(), output.first("urls", "http://localhost:9200", import).into());
            output.carry(&mut sink, &[("username", "username"), ("password", "password")]);
            output.tls(&mut sink);
            output.done(sink, import);
        }
        "datadog" => {
            let mut sink = sink("datadog");
            output.carry(&mut sink, &[("apikey", "api_key")]);
            output.done(sink, import);
        }
        "discard" => {}
        _ => import.leave(place, "there is no such sink; choose a [[sink]] of docs/sinks.md"),
    }
}

fn influx(kind: &str, mut output: Output<'_>, import: &mut Import) {
    let mut sink = table([("type", "influx".into())]);
    let default = if kind == "influxdb" { "http://127.0.0.1:8086" } else { "http://localhost:8086" };
    let url = match output.text("url") {
        Some(url) => url,
        None => output.first("urls", default, import),
    };
    if url.starts_with("udp://") || url.starts_with("unix://") {
        return import.leave(output.place, format!("`{url}` is no HTTP, which the sink influx speaks"));
    }
    sink.insert("url".into(), url.into());
    if kind == "influxdb" {
        output.carry(
            &mut sink,
            &[
                ("database", "database"),
                ("retention_policy", "retention_policy"),
                ("username", "username"),
                ("password", "password"),
            ],
        );
        sink.entry("database").or_insert_with(|| "telegraf".into());
    } else {
        sink.insert("version".into(), 2.into());
        output.carry(&mut sink, &[("token", "token"), ("organization", "org"), ("bucket", "bucket")]);
    }
    output.tls(&mut sink);
    output.done(sink, import);
}
