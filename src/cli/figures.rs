//! Numbers, times and signs for people at a terminal: one width, one wording, and ASCII where the terminal has no UTF-8.

use crate::presence::rfc3339;
pub(super) use crate::snapshot::grouped;

/// A rate or a level: whole from 1,000 to 10,000, three significant digits elsewhere, with a unit of thousands: `18.4 k`.
#[cfg(feature = "top")]
pub(super) fn short(value: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(1e12, " T"), (1e9, " G"), (1e6, " M"), (1e4, " k")];
    if !value.is_finite() {
        return value.to_string();
    }
    let size = value.abs();
    match UNITS.into_iter().find(|(from, _)| size >= *from) {
        // Beyond what anybody reads as a number.
        Some(_) if size >= 1e16 => format!("{value:.2e}"),
        Some((from, unit)) => format!("{}{unit}", significant(value / if unit == " k" { 1e3 } else { from })),
        None if size >= 1e3 => {
            let sign = if value < 0.0 { "-" } else { "" };
            format!("{sign}{}", grouped(size.round() as u64))
        }
        None if size > 0.0 && size < 0.001 => format!("{value:.1e}"),
        None => significant(value),
    }
}

/// Three significant digits, without zeros at the end.
fn significant(value: f64) -> String {
    let size = value.abs();
    let decimals = match size {
        _ if value == value.trunc() || size >= 99.95 => 0,
        _ if size >= 9.995 => 1,
        _ if size >= 0.9995 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

/// A length of time with two units: `6 d 04:11`, `4 h 02 min`, `7 min 30 s`, `42 s`.
pub(super) fn up_for(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    match s {
        86_400.. => format!("{} d {:02}:{:02}", s / 86_400, s / 3600 % 24, s / 60 % 60),
        3600.. => format!("{} h {:02} min", s / 3600, s / 60 % 60),
        60.. => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{s} s"),
    }
}

/// A short length of time from milliseconds on: `0.4 ms`, `41 ms`, `1.2 s`.
pub(super) fn delay(seconds: f64) -> String {
    if seconds.abs() < 1.0 {
        format!("{} ms", significant(seconds * 1e3))
    } else {
        format!("{} s", significant(seconds))
    }
}

/// A configured length of time: `10 s`, `500 ms`.
pub(super) fn interval(seconds: f64) -> String {
    if seconds < 1.0 { format!("{} ms", significant(seconds * 1e3)) } else { format!("{} s", significant(seconds)) }
}

/// Bytes: `512 B`, `3.1 MiB`.
pub(super) fn bytes(n: f64) -> String {
    const UNITS: [(f64, &str); 3] =
        [((1u64 << 30) as f64, "GiB"), ((1u64 << 20) as f64, "MiB"), ((1u64 << 10) as f64, "KiB")];
    match UNITS.into_iter().find(|(size, _)| n >= *size) {
        Some((size, unit)) => format!("{} {unit}", significant(n / size)),
        None => format!("{n:.0} B"),
    }
}

/// A share of one as percent, never rounded up to 100 or down to 0: `100 %`, `97.9 %`, `< 0.1 %`.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        p if p <= 0.0 => "0 %".into(),
        p if p < 0.1 => "< 0.1 %".into(),
        p if p >= 100.0 => "100 %".into(),
        p if p > 99.9 => "> 99.9 %".into(),
        p if p >= 99.95 || p == p.trunc() => format!("{p:.0} %"),
        p => format!("{p:.1} %"),
    }
}

/// The time of day of a Unix time, in UTC: `02:31:46`.
pub(super) fn clock(unix: f64) -> String {
    rfc3339(unix)[11..19].to_string()
}

/// Whether the environment says that the terminal shows UTF-8 (POSIX: the first of these that is set decides).
pub(super) fn is_utf8() -> bool {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// How good something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Grade {
    /// There is nothing to say yet.
    Waiting,
    /// As it should be.
    Fine,
    /// Not whole, but nothing is lost.
    Warning,
    /// Something is lost, or does not work.
    Bad,
}

impl Grade {
    /// The sign of a state, one column wide.
    pub(super) fn sign(self, utf8: bool) -> char {
        match (self, utf8) {
            (Grade::Waiting, true) => '…',
            (Grade::Waiting, false) => '.',
            (Grade::Fine, true) => '✓',
            (Grade::Fine, false) => '+',
            (Grade::Warning, true) => '▲',
            (Grade::Warning, false) => '!',
            (Grade::Bad, true) => '✕',
            (Grade::Bad, false) => 'x',
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_never_say_more_than_is_so() {
        #[cfg(feature = "top")]
        for (value, expected) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (0.1234, "0.123"),
            (0.00002, "2.0e-5"),
            (7.0, "7"),
            (12.34, "12.3"),
            (999.9, "1000"),
            (4100.0, "4,100"),
            (-1234.5, "-1,235"),
            (18_422.0, "18.4 k"),
            (184_232.0, "184 k"),
            (1_842_317.0, "1.84 M"),
            (-2.5e10, "-25 G"),
            (1e20, "1.00e20"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(short(value), expected);
        }
        for (n, expected) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_842_317, "1,842,317")] {
            assert_eq!(grouped(n), expected);
        }
        for (share, expected) in
            [(1.0, "100 %"), (0.99999, "> 99.9 %"), (0.979, "97.9 %"), (0.5, "50 %"), (0.0001, "< 0.1 %"), (0.0, "0 %")]
        {
            assert_eq!(percent(share), expected);
        }
    }

    #[test]
    fn times_and_sizes_have_units() {
        for (seconds, expected) in
            [(5.0, "5 s"), (450.0, "7 min 30 s"), (14_520.0, "4 h 02 min"), (533_460.0, "6 d 04:11")]
        {
            assert_eq!(up_for(seconds), expected);
        }
        assert_eq!(
            (delay(0.0414).as_str(), delay(0.0004).as_str(), delay(1.25).as_str()),
            ("41.4 ms", "0.4 ms", "1.25 s")
        );
        assert_eq!((interval(10.0).as_str(), interval(0.5).as_str()), ("10 s", "500 ms"));
        assert_eq!((bytes(512.0).as_str(), bytes(3_250_586.0).as_str()), ("512 B", "3.1 MiB"));
        assert_eq!((clock(1_700_000_010.0).as_str(), clock(f64::MAX).len()), ("22:13:30", 8));
    }
}
