//! The key of a service: a secret that its heartbeats carry in the tag `key`. Only presence sees it: no series, event,
//! record or log line contains it.
//!
//! Under a heartbeat's name, and under `maintenance`, the tag `key` is always removed. Elsewhere, where clients put their
//! constant tags on everything, it is removed if its value is one of the configured keys, so that a tag of that name may
//! mean something else. A capture and a relay have the bytes of the wire: whoever replays or forwards them needs the key.

use super::heartbeat::{Heartbeats, MAINTENANCE};

/// Replaces a key in text.
const MASK: &[u8] = b"***";

impl Heartbeats {
    /// Whether a tag `key` of a metric or a check of this name is always a secret.
    pub fn hides_key(&self, name: &[u8], value: Option<&[u8]>) -> bool {
        let is_secret = |value: &[u8]| self.secrets.iter().any(|secret| secret.as_bytes() == value);
        value.is_some_and(is_secret) || self.names().any(|own| begins(name, own, |next| next == b'.'))
    }

    fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.names.iter().map(|name| name.as_bytes()).chain([MAINTENANCE.as_bytes()])
    }

    /// Lines safe to show: configured keys are masked, and in lines for presence every tag `key`.
    pub fn masked(&self, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len());
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            let start = line.trim_ascii_start();
            let start = start.strip_prefix(b"_sc|").unwrap_or(start);
            let ends_name = |next: u8| !next.is_ascii_alphanumeric() && !matches!(next, b'_' | b'-');
            if self.names().any(|own| begins(start, own, ends_name)) {
                out.extend(mask_key(line));
            } else {
                out.extend_from_slice(line);
            }
        }
        for secret in &self.secrets {
            out = replaced(&out, secret.as_bytes());
        }
        out
    }
}

/// Whether a text is a name, or begins with it followed by a separator.
fn begins(text: &[u8], name: &[u8], may_follow: impl Fn(u8) -> bool) -> bool {
    text.strip_prefix(name).is_some_and(|rest| rest.first().is_none_or(|&next| may_follow(next)))
}

/// The line with the value of every tag `key` masked, whatever else is wrong with it.
pub fn mask_key(line: &[u8]) -> Vec<u8> {
    const KEY: &[u8] = b"key";
    let mut out = Vec::with_capacity(line.len());
    let mut at = 0;
    while let Some(found) = memchr::memmem::find(&line[at..], KEY) {
        let end = at + found + KEY.len();
        out.extend_from_slice(&line[at..end]);
        let begins_tag = end == KEY.len() || b"#,;[| ".contains(&line[end - KEY.len() - 1]);
        at = end;
        let ends: &[u8] = match line.get(end) {
            Some(b':') => b",|\r\n",
            // In a name.
            Some(b'=') => b",;]|:\r\n",
            _ => continue,
        };
        if begins_tag {
            out.extend_from_slice(&line[end..=end]);
            out.extend_from_slice(MASK);
            let value = &line[end + 1..];
            at = end + 1 + value.iter().position(|byte| ends.contains(byte)).unwrap_or(value.len());
        }
    }
    out.extend_from_slice(&line[at..]);
    out
}

fn replaced(text: &[u8], secret: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(found) = memchr::memmem::find(&text[at..], secret).filter(|_| !secret.is_empty()) {
        out.extend_from_slice(&text[at..at + found]);
        out.extend_from_slice(MASK);
        at += found + secret.len();
    }
    out.extend_from_slice(&text[at..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_masked_where_they_may_be_shown() {
        let heartbeats = Heartbeats { secrets: vec!["sesame".into()], ..Heartbeats::default() };
        for (text, expected) in [
            ("heartbeat.a:1O|g|#x:1,key:old,y", "heartbeat.a:1O|g|#x:1,key:***,y"),
            ("heartbeat,service=a,key=old:10|q", "heartbeat,service=a,key=***:10|q"),
            ("heartbeat[key=old,a=b].x:10|q", "heartbeat[key=***,a=b].x:10|q"),
            ("_sc|heartbeat|9|#key:a:b|m:key:c", "_sc|heartbeat|9|#key:***|m:key:c"),
            ("maintenance.a:x|g|#key:old\nx:1|c|#key:old", "maintenance.a:x|g|#key:***\nx:1|c|#key:old"),
            ("x:1|c|#key:sesame,monkey:old\n", "x:1|c|#key:***,monkey:old\n"),
            ("heartbeats:1|c|#key:old", "heartbeats:1|c|#key:old"),
            ("sesamesesame", "******"),
            ("", ""),
        ] {
            assert_eq!(String::from_utf8_lossy(&heartbeats.masked(text.as_bytes())), expected, "{text}");
        }
        assert_eq!(mask_key(b"key:a,monkey:b|#key:c\n#key"), b"key:***,monkey:b|#key:***\n#key");
    }

    #[test]
    fn a_tag_of_the_same_name_may_mean_something_else() {
        let heartbeats = Heartbeats { secrets: vec!["sesame".into()], ..Heartbeats::default() };
        for (name, value, hides) in [
            ("heartbeat", Some("x"), true),
            ("heartbeat.a.b", None, true),
            ("maintenance.a", Some("x"), true),
            ("heartbeats", Some("x"), false),
            ("requests", Some("sesame"), true),
            ("requests", Some("sesam"), false),
            ("requests", None, false),
        ] {
            assert_eq!(heartbeats.hides_key(name.as_bytes(), value.map(str::as_bytes)), hides, "{name} {value:?}");
        }
    }
}
