//! The aggregation vectors of profile `etsy`, through `systole replay --as graphite`: every line that is
//! expected, with its value to 1e-9, and no other.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::support::{close_to, systole, text};

const VECTORS: usize = 44;

fn vectors() -> Vec<Value> {
    let path = format!("{}/tests/corpus/aggregate/vectors.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("the corpus is part of the project");
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a vector"));
    all.filter(|vector| vector["config"]["profile"] == "etsy").collect()
}

/// A vector's configuration as ours.
fn toml_of(config: &Value) -> String {
    let (mut top, mut protocol, mut etsy) = (String::from("profile = \"etsy\"\n"), String::new(), String::new());
    for (key, value) in config.as_object().expect("an object") {
        match key.as_str() {
            "profile" => {}
            "flush_interval_s" => {
                writeln!(top, "interval = \"{}ms\"", value.as_f64().expect("a number") * 1e3).expect("text")
            }
            "percentiles" => writeln!(top, "percentiles = {value}").expect("text"),
            "sanitize" | "gauge_sign" => writeln!(protocol, "{key} = {value}").expect("text"),
            "histogram" => {
                for one in value.as_array().expect("a list") {
                    writeln!(etsy, "[[etsy.histogram]]\nmetric = {}\nbins = {}", one["metric"], one["bins"])
                        .expect("text");
                }
            }
            _ => etsy.insert_str(0, &format!("{key} = {value}\n")),
        }
    }
    format!("{top}[protocol]\n{protocol}[etsy]\n{etsy}")
}

/// What the original's Graphite backend writes for a flush: name to values.
struct Names<'a> {
    config: &'a Value,
    lines: BTreeMap<String, Vec<f64>>,
}

impl Names<'_> {
    fn is_on(&self, key: &str, default: bool) -> bool {
        self.config.get(key).map_or(default, |value| value == &json!(true))
    }

    fn put(&mut self, prefix: &str, key: &str, suffix: &str, value: &Value) {
        let (name, tags) = key.split_once(';').map_or((key, String::new()), |(name, tags)| (name, format!(";{tags}")));
        let name = name.replace(' ', "_").replace('/', "-").replace('+', "");
        let global =
            self.config.get("global_suffix").map_or(String::new(), |s| format!(".{}", s.as_str().expect("text")));
        let value = value.as_f64().expect("a number");
        self.lines.entry(format!("{prefix}{name}{suffix}{global}{tags}")).or_default().push(value);
    }

    fn counter(&mut self, key: &str, count: &Value, rate: &Value) {
        let legacy = self.is_on("legacy_namespace", true);
        let counts = self.is_on("flush_counts", true);
        if legacy {
            self.put("stats.", key, "", rate);
        } else {
            self.put("stats.counters.", key, ".rate", rate);
        }
        if counts && legacy {
            self.put("stats_counts.", key, "", count);
        } else if counts {
            self.put("stats.counters.", key, ".count", count);
        }
    }

    fn flush(&mut self, expected: &Value) {
        let interval = self.config["flush_interval_s"].as_f64().expect("a number");
        let section = |name: &str| expected.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
        for (key, count) in section("counters") {
            let rate = json!(count.as_f64().expect("a number") / interval);
            let stated = section("rates").get(&key).cloned();
            assert!(
                stated.is_none_or(|stated| close_to(
                    stated.as_f64().expect("a number"),
                    rate.as_f64().expect("a number")
                ))
            );
            self.counter(&key, &count, &rate);
        }
        for (key, count) in section("internal") {
            let prefix = self.config.get("prefix_stats").and_then(Value::as_str).unwrap_or("statsd").to_string();
            let rate = json!(count.as_f64().expect("a number") / interval);
            self.counter(&format!("{prefix}.{key}"), &count, &rate);
        }
        for (key, outputs) in section("timers") {
            for (aggregate, value) in outputs.as_object().expect("an object") {
                match value.as_object() {
                    Some(bins) => bins.iter().for_each(|(bin, value)| {
                        self.put("stats.timers.", &key, &format!(".{aggregate}.{bin}"), value);
                    }),
                    None => self.put("stats.timers.", &key, &format!(".{aggregate}"), value),
                }
            }
        }
        section("gauges").iter().for_each(|(key, value)| self.put("stats.gauges.", key, "", value));
        section("sets").iter().for_each(|(key, value)| self.put("stats.sets.", key, ".count", value));
    }
}

/// The original's own series: in every flush, but only checked where a vector tells their values.
fn is_own(name: &str, vector: &Value) -> bool {
    let prefix = vector["config"].get("prefix_stats").and_then(Value::as_str).unwrap_or("statsd");
    let prefix = format!("{prefix}.");
    name.contains(&prefix)
        && ["bad_lines_seen", "packets_received", "metrics_received", "numStats"].iter().any(|own| name.contains(own))
}

#[test]
fn every_vector_of_profile_etsy_flushes_the_names_and_values_of_the_original() {
    let dir = tempfile::tempdir().expect("a folder");
    let vectors = vectors();
    assert_eq!(vectors.len(), VECTORS);
    let mut wrong = Vec::new();
    for vector in &vectors {
        let config = &vector["config"];
        let interval = config["flush_interval_s"].as_f64().expect("a number");
        let steps = vector.get("steps").map_or_else(|| vec![vector.clone()], |s| s.as_array().expect("a list").clone());
        let mut capture = String::from("{\"format\":\"systole-capture/1\"}\n");
        for (n, step) in steps.iter().enumerate() {
            for packet in step["packets"].as_array().expect("packets") {
                writeln!(capture, "{}", json!({"t": (n as f64 + 0.5) * interval, "data": packet})).expect("text");
            }
        }
        let (toml, rows) = (dir.path().join("c.toml"), dir.path().join("rows.jsonl"));
        std::fs::write(&toml, toml_of(config)).expect("written");
        std::fs::write(&rows, capture).expect("written");
        let until = (steps.len() as f64 * interval).to_string();
        let (toml, rows) = (toml.to_str().expect("plain"), rows.to_str().expect("plain"));
        let output = systole(&["replay", rows, "-c", toml, "--as", "graphite", "--until", &until], b"");
        assert!(output.status.success(), "{}: {}", vector["id"], text(&output.stderr));

        let mut flushes: Vec<Names<'_>> = Vec::new();
        for line in text(&output.stdout).lines() {
            let parts: Vec<&str> = line.split(' ').collect();
            let [name, value, time] = parts[..] else { panic!("{line}") };
            let flush = (time.parse::<f64>().expect("a time") / interval).round().max(1.0) as usize;
            // Intervals under a second share a time; those vectors have one flush.
            let flush = if interval < 1.0 { 1 } else { flush };
            while flushes.len() < flush {
                flushes.push(Names { config, lines: BTreeMap::new() });
            }
            flushes[flush - 1].lines.entry(name.into()).or_default().push(value.parse().expect("a number"));
        }
        if flushes.len() != steps.len() {
            wrong.push(format!("{}: {} flushes instead of {}", vector["id"], flushes.len(), steps.len()));
            continue;
        }
        for (step, found) in steps.iter().zip(&mut flushes) {
            let mut expected = Names { config, lines: BTreeMap::new() };
            expected.flush(&step["expect_flush"]);
            for (name, value) in step.get("expect_graphite").and_then(Value::as_object).into_iter().flatten() {
                expected.lines.entry(name.clone()).or_insert_with(|| vec![value.as_f64().expect("a number")]);
            }
            found.lines.retain(|name, _| expected.lines.contains_key(name) || !is_own(name, vector));
            found.lines.values_mut().for_each(|values| values.sort_by(f64::total_cmp));
            expected.lines.values_mut().for_each(|values| values.sort_by(f64::total_cmp));
            let same = found.lines.len() == expected.lines.len()
                && found.lines.iter().all(|(name, values)| {
                    expected.lines.get(name).is_some_and(|expected| {
                        values.len() == expected.len() && values.iter().zip(expected).all(|(a, b)| close_to(*a, *b))
                    })
                });
            if !same {
                wrong
                    .push(format!("{}\n   expected {:?}\n   found    {:?}", vector["id"], expected.lines, found.lines));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {VECTORS} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// The vectors of profile dogstatsd, as records and as Graphite lines.
#[test]
fn every_vector_of_profile_dogstatsd_is_as_the_agent_has_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = format!("{}/tests/corpus/aggregate/vectors.jsonl", env!("CARGO_MANIFEST_DIR"));
    let all = std::fs::read_to_string(path).expect("the corpus is part of the project");
    let vectors: Vec<Value> = all
        .lines()
        .map(|line| serde_json::from_str(line).expect("a vector"))
        .filter(|vector: &Value| vector["config"]["profile"] == "dogstatsd")
        .collect();
    assert_eq!(vectors.len(), 4);
    for vector in &vectors {
        let config = &vector["config"];
        let mut toml = String::from("profile = \"dogstatsd\"\ninterval = \"10s\"\n");
        if let Some(percentiles) = config.get("percentiles") {
            writeln!(toml, "percentiles = {percentiles}").expect("text");
        }
        if let Some(aggregates) = config.get("aggregates") {
            writeln!(toml, "[dogstatsd]\naggregates = {aggregates}").expect("text");
        }
        let (file, rows) = (dir.path().join("c.toml"), dir.path().join("rows.jsonl"));
        std::fs::write(&file, toml).expect("written");
        let packets = vector["packets"].as_array().expect("packets");
        let capture: String = packets.iter().map(|packet| format!("{}\n", json!({"t": 0.5, "data": packet}))).collect();
        std::fs::write(&rows, capture).expect("written");
        let replay = |kind: &str| {
            let (rows, file) = (rows.to_str().expect("plain"), file.to_str().expect("plain"));
            let output = systole(&["replay", rows, "-c", file, "--as", kind, "--until", "10"], b"");
            assert!(output.status.success(), "{}", text(&output.stderr));
            text(&output.stdout)
        };
        let lines: BTreeMap<String, f64> = replay("graphite")
            .lines()
            .map(|line| {
                let mut parts = line.split(' ');
                let name = parts.next().expect("a name").to_string();
                (name, parts.next().and_then(|value| value.parse().ok()).expect("a number"))
            })
            .collect();
        let records: Vec<Value> =
            replay("json").lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
        let record = |name: &str| records.iter().find(|r| r["name"] == name).unwrap_or_else(|| panic!("no {name}"));
        let mut known = 0;
        let mut check = |name: String, found: f64, expected: &Value| {
            assert!(close_to(found, expected.as_f64().expect("a number")), "{}: {name} is {found}", vector["id"]);
            known += 1;
        };
        let expected = &vector["expect_flush"];
        for (section, suffix, field) in
            [("counters", ".count", "value"), ("rates", "", "rate"), ("gauges", "", "value"), ("sets", "", "value")]
        {
            for (name, value) in expected.get(section).and_then(Value::as_object).into_iter().flatten() {
                check(name.clone(), lines[&format!("{name}{suffix}")], value);
                check(name.clone(), record(name)[field].as_f64().expect("a number"), value);
            }
        }
        for (name, outputs) in expected.get("histograms").and_then(Value::as_object).into_iter().flatten() {
            for (output, value) in outputs.as_object().expect("an object") {
                check(name.clone(), lines[&format!("{name}.{output}")], value);
                let field = match output.as_str() {
                    "avg" => "mean",
                    // The agent sends it as a rate.
                    "count" => "rate",
                    other => other,
                };
                let own = match output.strip_suffix("percentile") {
                    Some(p) => &record(name)["percentiles"][p],
                    None => &record(name)[field],
                };
                check(name.clone(), own.as_f64().expect("a number"), value);
            }
            assert_eq!(lines.len(), outputs.as_object().expect("an object").len(), "{lines:?}");
        }
        assert!(known > 0);
    }
}
