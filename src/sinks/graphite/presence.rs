//! Presence as paths: `presence.SERVICE.INSTANCE.up`, whatever the naming, with dots inside names as `_`. What counts
//! ends in `.count` and is the number of the interval.

use crate::presence::SERIES;
use crate::series::Series;
use crate::snapshot::Point;
use crate::untrusted::is_active;

use super::Writer;

/// Tags that are parts of the path, in order; what follows the last of the first two stands behind the name.
const BEFORE: [&str; 2] = ["service", "instance"];
const BEHIND: [&str; 5] = ["state", "to", "cause", "reason", "result"];

/// Writes a series of presence; `false` if it is another.
pub(super) fn write(point: Point<'_>, out: &mut Writer) -> bool {
    let Some(path) = path(point.series()) else { return false };
    match point {
        Point::Gauge(point) => out.line(&[&path], point.gauge.value()),
        Point::Counter(point) => out.line(&[&path, ".count"], point.sum.value()),
        _ => return false,
    }
    true
}

/// The path of a series of presence.
pub(super) fn path(series: &Series) -> Option<String> {
    let name = series.name();
    let at = name.rfind("presence_")?;
    let (before, own) = name.split_at(at);
    // A prefix of ours stands before it.
    if !SERIES.contains(&own) || !(before.is_empty() || before.ends_with(['.', '_', '-'])) {
        return None;
    }
    let mut path = format!("{before}presence");
    let value = |key: &str| series.tags().find(|(known, _)| *known == key).and_then(|(_, value)| value);
    let mut add = |part: &str| {
        path.push('.');
        path.extend(part.chars().map(|c| if c.is_whitespace() || is_active(c) || ".;/".contains(c) { '_' } else { c }));
    };
    BEFORE.into_iter().filter_map(value).for_each(&mut add);
    add(&own["presence_".len()..]);
    BEHIND.into_iter().filter_map(value).for_each(&mut add);
    for (key, value) in series.tags().filter(|(key, _)| !BEFORE.contains(key) && !BEHIND.contains(key)) {
        let clean = |text: &str| text.replace(|c: char| c.is_whitespace() || is_active(c) || ";~=".contains(c), "_");
        path.push_str(&format!(";{}={}", clean(key), clean(value.filter(|value| !value.is_empty()).unwrap_or("_"))));
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Kind;

    #[test]
    fn presence_is_a_path() {
        let path = |name: &str, tags: &[(&str, Option<&str>)]| path(&Series::new(Kind::Gauge, name, tags));
        let who = [("instance", Some("web-1.example.org")), ("service", Some("check out"))];
        assert_eq!(path("presence_up", &who).as_deref(), Some("presence.check_out.web-1_example_org.up"));
        let state = [("service", Some("a")), ("state", Some("down"))];
        assert_eq!(path("presence_service_instances", &state).as_deref(), Some("presence.a.service_instances.down"));
        let ours = [("host", Some("h")), ("service", Some("a"))];
        assert_eq!(path("prod.presence_service_up", &ours).as_deref(), Some("prod.presence.a.service_up;host=h"));
        assert_eq!(path("presence_mass_silence", &[]).as_deref(), Some("presence.mass_silence"));
        assert_eq!(path("presence_of_mind", &who), None);
        assert_eq!(path("api.hits", &who), None);
    }
}
