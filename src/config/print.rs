//! The effective configuration as TOML that reads back as the same configuration, secrets masked.

use std::fmt::Write;

use ipnet::IpNet;
use toml::Value;

use crate::protocol::{GaugeSign, Options};
use crate::untrusted::Escaped;

use super::schema::{Config, Framing, Lifetime, Listen, LogFormat, Workers};
use super::value::{show_duration, show_size};

/// What stands in place of a secret.
pub(super) const MASK: &str = "********";

/// The configuration as TOML.
pub fn print(config: &Config) -> String {
    let mut out = Out::default();
    out.set("interval", show_duration(config.interval));
    out.set("profile", config.profile.name());
    out.set("percentiles", Value::Array(config.percentiles.iter().map(|&p| number(p)).collect()));
    out.set("exact_samples", config.exact_samples as i64);
    out.set("digits", i64::from(config.digits));
    out.set("gauge_ttl", lifetime(config.gauge_ttl));
    out.set("series_ttl", lifetime(config.series_ttl));
    out.set("max_series", config.max_series as i64);
    out.set("timestamp_past", show_duration(config.timestamp_past));
    out.set("timestamp_future", show_duration(config.timestamp_future));
    out.set("max_tags", i64::from(config.protocol.max_tags));
    out.set("prefix", config.prefix.as_str());
    let tags = config.tags.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect();
    out.set("tags", Value::Table(tags));
    out.set("self_metrics", config.self_metrics);
    out.set("shutdown_grace", show_duration(config.shutdown_grace));
    for listen in &config.listen {
        listener(&mut out, listen);
    }
    out.head("[protocol]");
    protocol(&mut out, &config.protocol);
    out.head("[idle]");
    let word = |zero| if zero { "zero" } else { "drop" };
    out.set("counters", word(config.idle.counters_zero));
    out.set("timers", word(config.idle.timers_zero));
    out.set("sets", word(config.idle.sets_zero));
    config.rules.all().iter().for_each(|rule| super::rule::print(&mut out, rule));
    for one in &config.sinks {
        super::sink::print(&mut out, one, config.profile);
    }
    config.relays.iter().for_each(|relay| super::relay::print(&mut out, relay));
    etsy(&mut out, config);
    out.head("[dogstatsd]");
    out.set("aggregates", Value::Array(config.aggregates.iter().map(|name| Value::from(name.as_str())).collect()));
    super::presence::print(&mut out, &config.presence);
    out.head("[management]");
    out.set("address", config.management.address.map_or("off".into(), |address| address.to_string()));
    out.set("health", if config.management.healthy { "up" } else { "down" });
    if let Some(networks) = &config.management.allow {
        out.set("allow", self::networks(networks));
    }
    out.head("[http]");
    out.set("address", config.http.address.map_or("off".into(), |address| address.to_string()));
    if config.http.token.is_some() {
        out.set("token", MASK);
    }
    out.set("hosts", strings(&config.http.hosts));
    out.head("[log]");
    out.set("level", config.log.level.as_str());
    out.set(
        "format",
        match config.log.format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        },
    );
    out.text
}

/// Texts as an array.
pub(super) fn strings(all: &[String]) -> Value {
    Value::Array(all.iter().map(|item| Value::from(item.as_str())).collect())
}

pub(super) fn networks(networks: &[IpNet]) -> Value {
    Value::Array(networks.iter().map(|network| Value::from(network.to_string())).collect())
}

/// The configuration as lines `key: value` and `section > key: value`, deeper ones likewise.
pub fn flat(config: &Config) -> String {
    fn tell(out: &mut String, path: &str, value: &Value) {
        let inner = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path} > {key}") };
        // Writing to memory cannot fail.
        let _ = match value {
            Value::Table(table) => return table.iter().for_each(|(key, value)| tell(out, &inner(key), value)),
            Value::Array(all) => {
                return all.iter().enumerate().for_each(|(n, value)| tell(out, &inner(&n.to_string()), value));
            }
            Value::String(text) => writeln!(out, "{path}: {}", Escaped(text)),
            other => writeln!(out, "{path}: {other}"),
        };
    }
    let mut out = String::new();
    // What is printed reads back.
    if let Ok(table) = print(config).parse() {
        tell(&mut out, "", &Value::Table(table));
    }
    out
}

fn listener(out: &mut Out, listen: &Listen) {
    out.head("[[listen]]");
    out.set("url", listen.url.to_string());
    out.set(
        "workers",
        match listen.workers {
            Workers::Auto => Value::from("auto"),
            Workers::Count(count) => Value::from(count as i64),
        },
    );
    out.set("receive_buffer", show_size(listen.receive_buffer));
    out.set("receive_buffer_force", listen.receive_buffer_force);
    out.set("max_datagram", show_size(listen.max_datagram as u64));
    out.set("cores", Value::Array(listen.cores.iter().map(|&core| Value::from(core as i64)).collect()));
    out.set("busy_poll", show_duration(listen.busy_poll));
    out.set("realtime", listen.realtime);
    if let Some(networks) = &listen.allow {
        out.set("allow", self::networks(networks));
    }
    out.set("max_connections", listen.max_connections as i64);
    out.set("idle_timeout", show_duration(listen.idle_timeout));
    out.set("framing", if listen.framing == Framing::Length { "length" } else { "newline" });
    out.set("mode", format!("{:04o}", listen.mode));
    out.head("[listen.protocol]");
    protocol(out, &listen.protocol);
}

fn protocol(out: &mut Out, options: &Options) {
    out.set("name_tags", Value::Array(options.name_tags.names().into_iter().map(Value::from).collect()));
    out.set("sanitize", options.sanitize);
    out.set(
        "gauge_sign",
        match options.gauge_sign {
            GaugeSign::Delta => "delta",
            GaugeSign::Absolute => "absolute",
        },
    );
    out.set("abbreviated_meter", options.abbreviated_meter);
    out.set("absolute_counters", options.absolute_counters);
    out.set("binary", options.binary);
    out.set("max_name", options.max_name as i64);
}

fn etsy(out: &mut Out, config: &Config) {
    let etsy = &config.etsy;
    out.head("[etsy]");
    out.set("legacy_namespace", etsy.names.legacy_namespace);
    out.set("global_prefix", etsy.names.global_prefix.as_str());
    out.set("global_suffix", etsy.names.global_suffix.as_str());
    out.set("prefix_counter", etsy.names.prefix_counter.as_str());
    out.set("prefix_timer", etsy.names.prefix_timer.as_str());
    out.set("prefix_gauge", etsy.names.prefix_gauge.as_str());
    out.set("prefix_set", etsy.names.prefix_set.as_str());
    out.set("prefix_stats", etsy.names.prefix_stats.as_str());
    out.set("flush_counts", etsy.names.flush_counts);
    let wanted = etsy.names.calculated_timer_metrics.iter().map(|name| Value::from(name.as_str()));
    out.set("calculated_timer_metrics", Value::Array(wanted.collect()));
    out.set("delete_counters", etsy.delete_counters);
    out.set("delete_timers", etsy.delete_timers);
    out.set("delete_gauges", etsy.delete_gauges);
    out.set("delete_sets", etsy.delete_sets);
    out.set("gauges_max_ttl", i64::from(etsy.gauges_max_ttl));
    for histogram in &etsy.histogram {
        out.head("[[etsy.histogram]]");
        out.set("metric", histogram.metric.as_str());
        let limits = histogram.limits.iter().map(|limit| limit.map_or(Value::from("inf"), number));
        out.set("bins", Value::Array(limits.collect()));
    }
}

fn lifetime(lifetime: Lifetime) -> String {
    lifetime.map_or("forever".into(), show_duration)
}

/// A whole number without its point.
pub(super) fn number(value: f64) -> Value {
    if value == value.trunc() && value.abs() < 1e15 { Value::from(value as i64) } else { Value::from(value) }
}

/// TOML, line by line.
#[derive(Default)]
pub(super) struct Out {
    text: String,
    /// What stands before keys: `table.` inside a table that is written with dots.
    prefix: String,
}

impl Out {
    pub(super) fn head(&mut self, head: &str) {
        let _ = writeln!(self.text, "\n{head}");
    }

    pub(super) fn set(&mut self, key: &str, value: impl Into<Value>) {
        let _ = writeln!(self.text, "{}{key} = {}", self.prefix, value.into());
    }

    /// Writes keys of a table inside this one.
    pub(super) fn inner(&mut self, key: &str, write: impl FnOnce(&mut Out)) {
        let outer = self.prefix.clone();
        self.prefix = format!("{outer}{key}.");
        write(self);
        self.prefix = outer;
    }
}
