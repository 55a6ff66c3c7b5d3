//! Durations, sizes and addresses as people write them.

use std::time::Duration;

/// Reads `10s`, `1m 30s`, `100ms`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

/// Shows a duration so that [`parse_duration`] reads it back.
pub fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

const UNITS: [(&str, u64); 8] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Reads `64KiB`, `10 MB`, `4096`.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, factor) = UNITS
        .iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit).map(|number| (number.trim_end(), *factor)))
        .unwrap_or((text, 1));
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Shows a size so that [`parse_size`] reads it back.
pub fn show_size(bytes: u64) -> String {
    let whole = UNITS.iter().take(3).find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    whole.map_or_else(|| bytes.to_string(), |(unit, factor)| format!("{}{unit}", bytes / factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_back_as_shown() {
        for (text, bytes) in [("64KiB", 65536), ("16MiB", 16 << 20), ("1GiB", 1 << 30), ("1500", 1500)] {
            assert_eq!((parse_size(text), show_size(bytes)), (Some(bytes), text.to_string()));
        }
        assert_eq!(
            (parse_size("10 MB"), parse_size("x"), parse_size("-1"), parse_size("")),
            (Some(10_000_000), None, None, None)
        );
    }
}
