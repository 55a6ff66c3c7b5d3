//! Points of a line: a Graphite line has one, a record one for each of its numbers.

use serde_json::{Map, Value};

/// Keys of a record that are no numbers of its series.
const NO_NUMBERS: [&str; 6] = ["time", "interval", "type", "name", "tags", "exact"];

/// Types of records that sum up no interval.
const NO_SERIES: [&str; 4] = ["event", "service_check", "presence", "ledger"];

/// Takes a point: its name, its value, and its time in Unix seconds.
pub(super) type Take<'t> = dyn FnMut(&str, f64, f64) + 't;

/// Passes on the points of a line; `false` if it is neither a Graphite line nor a record.
pub(super) fn each(line: &[u8], take: &mut Take<'_>) -> bool {
    let line = line.trim_ascii();
    if line.is_empty() {
        return true;
    }
    if line.first() == Some(&b'{') {
        return of_record(line, take).is_some();
    }
    of_graphite(line, take).is_some()
}

/// `NAME VALUE TIME`.
fn of_graphite(line: &[u8], take: &mut Take<'_>) -> Option<()> {
    let text = std::str::from_utf8(line).ok()?;
    let (rest, time) = text.rsplit_once([' ', '\t'])?;
    let (name, value) = rest.trim_end().rsplit_once([' ', '\t'])?;
    let number = |text: &str| text.parse().ok().filter(|number: &f64| number.is_finite());
    let (name, value, time) = (name.trim_end(), number(value)?, number(time)?);
    if name.is_empty() {
        return None;
    }
    take(name, value, time);
    Some(())
}

/// A record: `TYPE NAME;TAG=VALUE` with the key of each number.
fn of_record(line: &[u8], take: &mut Take<'_>) -> Option<()> {
    let Ok(Value::Object(record)) = serde_json::from_slice(line) else { return None };
    let kind = record.get("type")?.as_str()?;
    if NO_SERIES.contains(&kind) {
        return Some(());
    }
    let (time, name) = (record.get("time")?.as_f64()?, record.get("name")?.as_str()?);
    let mut series = format!("{kind} {name}");
    for (key, value) in record.get("tags").and_then(Value::as_object).into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        series.push_str(&format!(";{key}={value}"));
    }
    numbers(&series, &record, time, take);
    Some(())
}

fn numbers(path: &str, all: &Map<String, Value>, time: f64, take: &mut Take<'_>) {
    for (key, value) in all.iter().filter(|(key, _)| !NO_NUMBERS.contains(&key.as_str())) {
        let path = format!("{path} {key}");
        match value {
            Value::Object(inner) => numbers(&path, inner, time, take),
            value => value.as_f64().into_iter().for_each(|value| take(&path, value, time)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(line: &str) -> Option<Vec<(String, f64, f64)>> {
        let mut all = Vec::new();
        each(line.as_bytes(), &mut |name, value, time| all.push((name.to_string(), value, time))).then_some(all)
    }

    #[test]
    fn graphite_lines_and_records_are_points() {
        let one = |name: &str, value, time| (name.to_string(), value, time);
        assert_eq!(points("a.b;k=v 1.5 100\r\n"), Some(vec![one("a.b;k=v", 1.5, 100.0)]));
        assert_eq!(points("with a blank  2 100"), Some(vec![one("with a blank", 2.0, 100.0)]));
        let timer = r#"{"time":5,"interval":1,"type":"timer","name":"t","tags":{"k":"v"},"count":2,"percentiles":{"90":3},"exact":true}"#;
        let wanted = vec![one("timer t;k=v count", 2.0, 5.0), one("timer t;k=v percentiles 90", 3.0, 5.0)];
        assert_eq!(points(timer), Some(wanted));
        assert_eq!(points(r#"{"time":5,"type":"ledger","completeness":1}"#), Some(Vec::new()));
        for malformed in ["a 1", "a x 100", "a NaN 100", " 1 100", "{", "[1]"] {
            assert_eq!(points(malformed), None, "{malformed}");
        }
    }
}
