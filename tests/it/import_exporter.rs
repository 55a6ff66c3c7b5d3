//! statsd_exporter's own test tables through import and Systole: its mappings are imported, its lines go in, a scrape comes out.
//! What differs is listed in the guide with its reason, and nothing else is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{close_to, systole, text};

const TABLES: &str = "tests/corpus/import/exporter_tables.json";
const GUIDE: &str = "docs/guides/from-statsd-exporter.md";

/// Samples by name and labels, without labels that are empty.
type Samples = BTreeMap<String, f64>;

/// Where things go wrong: places in its tests, with what was expected and what came.
type Differing = BTreeMap<String, String>;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A mapping, imported, and what was said; `None` if it was refused.
fn imported(dir: &Path, mapping: &str) -> Option<(PathBuf, String)> {
    let (file, toml) = (dir.join("mapping.yml"), dir.join("systole.toml"));
    // An empty file does not say what it is.
    std::fs::write(&file, if mapping.is_empty() { "mappings:\n" } else { mapping }).expect("written");
    let output = systole(&["import", file.to_str().expect("plain")], b"");
    let said = text(&output.stdout);
    std::fs::write(&toml, &said).expect("written");
    match output.status.code() {
        Some(0) => Some((toml, said)),
        Some(2) => None,
        code => panic!("{code:?}: {}\n{mapping}", text(&output.stderr)),
    }
}

/// What a scrape says after datagrams, each in an interval of its own.
fn scrape<'d>(dir: &Path, toml: &Path, datagrams: impl IntoIterator<Item = &'d str>) -> Samples {
    let mut capture = String::new();
    for (n, datagram) in datagrams.into_iter().enumerate() {
        // What the tables have as bytes are characters below 256.
        let bytes = datagram.chars().flat_map(|c| match u8::try_from(c) {
            Ok(byte) => vec![byte],
            Err(_) => c.to_string().into_bytes(),
        });
        let mut hex = String::new();
        bytes.for_each(|byte| write!(hex, "{byte:02x}").expect("memory"));
        writeln!(capture, "{}", json!({"t": 10 * n, "hex": hex})).expect("memory");
    }
    let file = dir.join("capture.jsonl");
    std::fs::write(&file, capture).expect("written");
    let (toml, file) = (toml.to_str().expect("plain"), file.to_str().expect("plain"));
    let output = systole(&["replay", "--as", "prometheus", "-c", toml, file], b"");
    let body = text(&output.stdout);
    let samples = body.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    samples.map(|(name, value)| (without_empty(name), value.parse().expect("a number"))).collect()
}

fn without_empty(sample: &str) -> String {
    let Some((name, labels)) = sample.split_once('{') else { return sample.to_string() };
    let labels = labels.trim_end_matches('}').split("\",").map(|pair| pair.trim_end_matches('"'));
    let pairs = labels.filter_map(|pair| pair.split_once("=\"")).filter(|(_, value)| !value.is_empty());
    shown(name, pairs.map(|(key, value)| (key.to_string(), value.to_string())))
}

fn shown(name: &str, labels: impl IntoIterator<Item = (String, String)>) -> String {
    let labels: BTreeMap<String, String> = labels.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    if labels.is_empty() {
        return name.to_string();
    }
    let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    format!("{name}{{{}}}", pairs.join(","))
}

/// A name as the exporter escapes it.
fn escaped(name: &str) -> String {
    let mut out = String::new();
    let mut before = ' ';
    for (n, c) in name.chars().enumerate() {
        if n == 0 && c.is_ascii_digit() {
            out.push('_');
        }
        if !(c == '-' && before == '-') {
            out.push(if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' });
        }
        before = c;
    }
    out
}

fn labels_of(one: &Value) -> Vec<(String, String)> {
    let labels = one["labels"].as_object().into_iter().flatten();
    labels.map(|(key, value)| (escaped(key), value.as_str().expect("a text").replace('"', "\\\""))).collect()
}

fn same(expected: &Samples, found: &Samples) -> bool {
    expected.len() == found.len() && expected.iter().zip(found).all(|((a, x), (b, y))| a == b && close_to(*x, *y))
}

/// What its mapper says of a name, by the value 1 of a counter, or of what the table says.
fn check_mapping(dir: &Path, toml: &Path, said: &str, one: &Value) -> Result<(), String> {
    let metric = one["statsdMetric"].as_str().expect("a name");
    let kind = match one["metricType"].as_str() {
        Some("gauge") => "g",
        Some("observer") => "ms",
        _ => "c",
    };
    let found = scrape(dir, toml, [&*format!("{metric}:1|{kind}")]);
    let value = one["scale"].as_f64().unwrap_or(1.0);
    let bare = Samples::from([(escaped(metric), 1.0)]);
    match one["name"].as_str() {
        Some(name) if one["notPresent"] != true => {
            let expected = Samples::from([(shown(name, labels_of(one)), value)]);
            if !same(&expected, &found) {
                return Err(format!("{metric}: {expected:?} is expected, {found:?} came"));
            }
        }
        // It is dropped, or has no mapping.
        _ if found.is_empty() || same(&bare, &found) => {}
        _ => return Err(format!("{metric}: {found:?} came")),
    }
    let numbers = |key: &str, inner: Option<&str>| -> Option<BTreeSet<String>> {
        let all = one[key].as_array()?.iter();
        Some(all.map(|one| inner.map_or(one, |inner| &one[inner]).to_string()).map(plain).collect())
    };
    for (label, expected) in [("quantile", numbers("quantiles", Some("Quantile"))), ("le", numbers("buckets", None))] {
        let Some(expected) = expected else { continue };
        for kind in ["ms", "h"] {
            let found = scrape(dir, toml, [&*format!("{metric}:1|{kind}")]);
            let values = found.keys().filter_map(|sample| sample.split(&format!("{label}=\"")).nth(1));
            let values: BTreeSet<String> =
                values.filter_map(|rest| rest.split('"').next()).filter(|v| *v != "+Inf").map(plain).collect();
            if values != expected {
                return Err(format!("{metric}: {label} {expected:?} is expected, {values:?} came"));
            }
        }
    }
    if let Some(ttl) = one["ttl"].as_u64() {
        let toml = toml.to_str().expect("plain");
        let told = text(&systole(&["explain", "-c", toml, &format!("{metric}:1|c")], b"").stdout);
        let general = format!("gauge_ttl = \"{}\"", humantime::format_duration(std::time::Duration::from_secs(ttl)));
        if !told.contains(&format!("forgotten after {ttl} s")) && !said.contains(&general) {
            return Err(format!("{metric}: it does not go after {ttl} s\n{told}"));
        }
    }
    // What the engine of quantiles there takes is named.
    for (key, option) in [("maxAge", "max_age"), ("ageBuckets", "age_buckets"), ("bufCap", "buf_cap")] {
        if !one[key].is_null() && !said.contains(&format!("summary_options.{option}: ")) {
            return Err(format!("{metric}: {option} is not named"));
        }
    }
    Ok(())
}

/// A number as both sides write it.
fn plain(number: impl AsRef<str>) -> String {
    number.as_ref().parse::<f64>().expect("a number").to_string()
}

fn mapper(tables: &Value, dir: &Path, differing: &mut Differing) {
    for scenario in tables["mapper"].as_array().expect("scenarios") {
        let place = |one: &Value| one["at"].as_str().expect("a place").to_string();
        let is_bad = scenario["bad"] == true;
        let Some((toml, said)) = imported(dir, scenario["config"].as_str().expect("a mapping")) else {
            if !is_bad {
                differing.insert(place(scenario), "it is refused".into());
            }
            continue;
        };
        if is_bad {
            differing.insert(place(scenario), "it is taken".into());
        }
        if let Some(action) = scenario["action"].as_str()
            && (action == "drop") != said.contains("drop = true")
        {
            differing.insert(place(scenario), format!("it does not {action}"));
        }
        for one in scenario["mappings"].as_array().expect("mappings") {
            if let Err(what) = check_mapping(dir, &toml, &said, one) {
                differing.insert(place(one), what);
            }
        }
    }
}

/// What a scrape of the exporter would say after events.
fn after(events: &Value) -> Samples {
    let mut all = Samples::new();
    for event in events.as_array().expect("events") {
        let name = escaped(event["name"].as_str().expect("a name"));
        let value = event["value"].as_f64().expect("a number");
        let mut add = |suffix: &str, value: f64| {
            *all.entry(shown(&format!("{name}{suffix}"), labels_of(event))).or_default() += value
        };
        match event["kind"].as_str() {
            Some("counter") if value < 0.0 => {}
            Some("counter") => add("", value),
            Some("gauge") if event["relative"] == true => add("", value),
            Some("gauge") => drop(all.insert(shown(&name, labels_of(event)), value)),
            _ => {
                add("_sum", value);
                add("_count", 1.0);
            }
        }
    }
    all
}

fn lines(tables: &Value, dir: &Path, differing: &mut Differing) {
    let (toml, said) = imported(dir, "mappings:\n").expect("a mapping of nothing");
    let all_styles = "name_tags = [\"influx\", \"signalfx\", \"librato\"]";
    assert!(said.contains(all_styles), "{said}");
    let mut known: HashMap<String, Samples> = HashMap::new();
    for case in tables["lines"].as_array().expect("lines") {
        // Its flags are none of the mapping's: they are set by hand.
        let word = |style: &Value| match style.as_str() {
            Some("Influxdb") => Some("\"influx\""),
            Some("Librato") => Some("\"librato\""),
            Some("SignalFX") => Some("\"signalfx\""),
            _ => None,
        };
        let styles: Vec<&str> = case["styles"].as_array().expect("styles").iter().filter_map(word).collect();
        let config = said.replace(all_styles, &format!("name_tags = [{}]", styles.join(", ")));
        let line = case["in"].as_str().expect("a line");
        let found = known.entry(format!("{styles:?}{line}")).or_insert_with(|| {
            std::fs::write(&toml, config).expect("written");
            let mut found = scrape(dir, &toml, [line]);
            found.retain(|sample, _| !sample.contains("quantile=\""));
            found
        });
        let expected = after(&case["out"]);
        if !same(&expected, found) {
            let what = format!("{line:?} {styles:?}: {expected:?} is expected, {found:?} came");
            differing.insert(case["at"].as_str().expect("a place").into(), what);
        }
    }
}

fn conflicts(tables: &Value, dir: &Path, differing: &mut Differing) {
    for case in tables["conflicts"].as_array().expect("conflicts") {
        let (toml, _) = imported(dir, case["config"].as_str().expect("a mapping")).expect("it is good");
        let events = case["in"].as_array().expect("events");
        let lines = events.iter().map(|event| {
            let labels: Vec<String> =
                labels_of(event).into_iter().map(|(key, value)| format!("{key}:{value}")).collect();
            let tags = if labels.is_empty() { String::new() } else { format!("|#{}", labels.join(",")) };
            let kind = match event["kind"].as_str() {
                Some("counter") => "c",
                Some("gauge") => "g",
                _ => "h",
            };
            format!("{}:{}|{kind}{tags}", event["name"].as_str().expect("a name"), event["value"])
        });
        let lines: Vec<String> = lines.collect();
        let found = scrape(dir, &toml, lines.iter().map(String::as_str));
        for (event, expected) in events.iter().zip(case["expected"].as_array().expect("numbers")) {
            let suffix = if event["kind"] == "observer" { "_sum" } else { "" };
            let sample = shown(&format!("{}{suffix}", event["name"].as_str().expect("a name")), labels_of(event));
            if found.get(&sample).copied() != expected.as_f64() {
                let what = format!("{lines:?}: {sample} {expected} is expected, {found:?} came");
                differing.insert(case["at"].as_str().expect("a place").into(), what);
            }
        }
    }
}

#[test]
fn its_own_tests_pass_but_for_those_that_the_guide_gives_a_reason_for() {
    let tables: Value = serde_json::from_str(&read(TABLES)).expect("JSON");
    let parts: [fn(&Value, &Path, &mut Differing); 3] = [mapper, lines, conflicts];
    let differing: Differing = std::thread::scope(|scope| {
        let run = |part: fn(&Value, &Path, &mut Differing)| {
            let (dir, mut differing) = (tempfile::tempdir().expect("a folder"), Differing::new());
            part(&tables, dir.path(), &mut differing);
            differing
        };
        let all = parts.map(|part| scope.spawn(move || run(part)));
        all.into_iter().flat_map(|part| part.join().expect("it has run")).collect()
    });
    let guide = read(GUIDE);
    let words = guide.split(|c: char| !(c.is_ascii_alphanumeric() || "_.:".contains(c)));
    let listed: BTreeSet<&str> = words.filter(|word| word.contains("_test.go:")).collect();
    let found: BTreeSet<&str> = differing.keys().map(String::as_str).collect();
    let unlisted: Vec<String> = differing
        .iter()
        .filter(|(at, _)| !listed.contains(at.as_str()))
        .map(|(at, what)| format!("{at} {what}"))
        .collect();
    assert!(unlisted.is_empty(), "{} differ and are not in {GUIDE}:\n{}", unlisted.len(), unlisted.join("\n"));
    let stale: Vec<&&str> = listed.difference(&found).collect();
    assert!(stale.is_empty(), "these do not differ: {stale:?}");
}

/// Twenty mappings with every feature: each does what it does there, and what is not carried over is named.
#[test]
fn of_every_feature_nothing_is_lost_without_a_word() {
    let dir = tempfile::tempdir().expect("a folder");
    let (toml, said) = imported(dir.path(), &read("tests/corpus/import/mapping20.yml")).expect("it is good");
    for (line, expected) in [
        ("shop.main.visits:2|c", &[("shop_visits_total{shop=\"main\"}", 2.0)][..]),
        ("shop.side.orders:3|c", &[("orders_total{job=\"shop-side\",shop=\"side\"}", 3.0)]),
        ("shop.main.orders:4|c", &[("main_orders_total", 4.0)]),
        ("single:1|g", &[("short_single", 1.0)]),
        ("a-b.1c.z:1|c", &[("dashes{rest=\"zx\"}", 1.0)]),
        ("kinds.a:1|c", &[("kinds_total", 1.0)]),
        ("kinds.a:7|g", &[("kinds_now", 7.0)]),
        ("kinds.a:500|ms", &[("kinds_seconds_count", 1.0), ("kinds_seconds_sum", 0.5)]),
        ("kinds.a:500|d", &[("kinds_seconds_count", 1.0), ("kinds_seconds_sum", 500.0)]),
        ("size.kb:2|c", &[("size_bytes", 2048.0)]),
        ("size.kb:+2|g", &[("size_bytes", 2048.0)]),
        ("time.us:3000000|h", &[("time_seconds_count", 1.0), ("time_seconds_sum", 3.0)]),
        ("own.me:1|c|#who:you", &[("own{where=\"here\",who=\"you\"}", 1.0)]),
        ("theirs.me:1|c|#who:you", &[("theirs{who=\"me\"}", 1.0)]),
        ("noise.a.b:1|c", &[]),
        ("cpu.web-12.load:1|g", &[("load_cpu{all=\"cpu.web-12.load\",host=\"web\",number=\"12\",price=\"$5\"}", 1.0)]),
        ("a.uptime:9|g", &[("uptime", 9.0)]),
        ("abc.x1[2:1|c", &[("classes", 1.0)]),
        ("what.ever.else:1|c", &[]),
    ] {
        let mut found = scrape(dir.path(), &toml, [line]);
        found.retain(|sample, _| !sample.contains("quantile=\""));
        let expected: Samples = expected.iter().map(|(sample, value)| (sample.to_string(), *value)).collect();
        assert!(same(&expected, &found), "{line}: {found:?}\n{said}");
    }
    for (line, label, expected) in [
        ("kinds.a:1|ms", "quantile", &["0.5", "0.95"][..]),
        ("summed.a:1|ms", "quantile", &["0.999"]),
        ("histo.a:50|ms", "le", &["+Inf", "0.1", "1"]),
        ("histo2.a:50|h", "le", &["+Inf", "0.005", "0.5"]),
    ] {
        let found = scrape(dir.path(), &toml, [line]);
        let label = format!("{label}=\"");
        let values = found.keys().filter_map(|sample| sample.split(&label).nth(1)?.split('"').next());
        assert_eq!(values.collect::<Vec<&str>>(), expected, "{line}");
    }
    // 50 ms are below 0.1, and 50 of no unit are not.
    let found = scrape(dir.path(), &toml, ["histo.a:50|ms"]);
    assert_eq!(found["histo_bucket{le=\"0.1\",what=\"a\"}"], 1.0, "{found:?}");
    let found = scrape(dir.path(), &toml, ["histo.a:50|h"]);
    assert_eq!(found["histo_bucket{le=\"1\",what=\"a\"}"], 0.0, "{found:?}");
    for expected in ["help = \"Orders \\\"of all\\\" shops\"", "help = 'Orders \"of all\" shops'"] {
        if said.contains(expected) {
            break;
        }
        assert!(expected.contains("\\\""), "{said}");
    }
    for expected in ["gauge_ttl = \"1m 30s\"", "\nttl = \"1m 30s\"\n", "ttl = \"5s\"", "percentiles = [50, 95]"] {
        assert!(said.contains(expected), "{expected}\n{said}");
    }
    let numbers =
        said.lines().filter_map(|line| line.strip_prefix("# mappings[")?.split(']').next()?.parse::<u32>().ok());
    assert_eq!(numbers.collect::<BTreeSet<u32>>(), (0..20).collect(), "{said}");
    let left: Vec<&str> = said
        .lines()
        .skip_while(|line| *line != "# Not carried over:")
        .skip(1)
        .take_while(|line| *line != "#")
        .collect();
    let named: Vec<&str> = left.iter().filter_map(|line| line.rsplit_once(": ")?.0.rsplit('.').next()).collect();
    assert_eq!(
        named,
        ["max_age", "native_histogram_bucket_factor", "native_histogram_max_buckets", "age_buckets", "buf_cap"],
        "{said}"
    );
}
