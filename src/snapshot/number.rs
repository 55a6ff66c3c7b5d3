//! Numbers as text: the shortest form that parses as the same double, integers without a decimal point.

/// Integers below this print as digits; from here on an exponent is shorter.
const PLAIN_BELOW: f64 = 1e15;

/// Appends a finite number.
///
/// ```
/// let mut out = Vec::new();
/// systole::internals::snapshot::write_number(&mut out, 3.0);
/// assert_eq!(out, b"3");
/// ```
pub fn write_number(out: &mut Vec<u8>, value: f64) {
    if value == value.trunc() && value.abs() < PLAIN_BELOW {
        out.extend_from_slice(itoa::Buffer::new().format(value as i64).as_bytes());
    } else {
        out.extend_from_slice(zmij::Buffer::new().format(value).as_bytes());
    }
}

/// A number as text.
pub fn number(value: f64) -> String {
    let mut out = Vec::new();
    write_number(&mut out, value);
    out.into_iter().map(char::from).collect()
}

/// A number as text for people: digits in groups of three, such as `184,232`.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number as text for people: at most six digits, unless it is an integer.
///
/// ```
/// assert_eq!(systole::internals::snapshot::short_number(1.0 / 3.0), "0.333333");
/// ```
pub fn short_number(value: f64) -> String {
    if value == value.trunc() && value.abs() < PLAIN_BELOW {
        return number(value);
    }
    let digits = 5 - (value.abs().log10().floor() as i32).clamp(-6, 5);
    let factor = 10_f64.powi(digits);
    number((value * factor).round() / factor)
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_read_back_as_themselves() {
        for (value, text) in [(0.0, "0"), (-0.0, "0"), (42.0, "42"), (-1.5, "-1.5"), (0.1, "0.1"), (99.9, "99.9")] {
            assert_eq!(super::number(value), text);
        }
        for value in [1e-9, 1e15, 1.5e300, f64::MAX, f64::MIN_POSITIVE, 1.0 / 3.0] {
            assert_eq!(super::number(value).parse(), Ok(value));
        }
    }
}
