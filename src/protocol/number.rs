//! Decimal numbers: `DEC = ["+"|"-"] (DIGIT+ ["." DIGIT*] | "." DIGIT+) [("e"|"E") ["+"|"-"] DIGIT+]`, finite after
//! conversion to a double. `nan`, `inf`, hexadecimal, `_` and `,` are not accepted. `-0` is 0.

/// This many digits fit a `u64` and a double's 53 bits without rounding.
const EXACT_DIGITS: usize = 15;

/// Parses a whole text as a finite decimal number.
///
/// ```
/// use systole::internals::protocol::decimal;
/// assert_eq!(decimal(b"-1.5e3"), Some(-1500.0));
/// assert_eq!(decimal(b"inf"), None);
/// ```
#[inline]
pub fn decimal(text: &[u8]) -> Option<f64> {
    if text.len() <= EXACT_DIGITS {
        let mut whole: u64 = 0;
        let mut digits = true;
        for &byte in text {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                digits = false;
                break;
            }
            whole = whole * 10 + u64::from(digit);
        }
        if digits && !text.is_empty() {
            return Some(whole as f64);
        }
    }
    general(text)
}

fn general(text: &[u8]) -> Option<f64> {
    let (negative, unsigned) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    // The library also accepts `inf` and `nan`, so the first byte is checked.
    if !matches!(unsigned.first(), Some(b'0'..=b'9' | b'.')) {
        return None;
    }
    let magnitude: f64 = fast_float2::parse(unsigned).ok()?;
    // Not `-magnitude`: that would make a negative zero of `-0`.
    magnitude.is_finite().then_some(if negative { 0.0 - magnitude } else { magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_has_digits_on_at_least_one_side_of_the_point() {
        for (text, expected) in [
            ("0", 0.0),
            ("5", 5.0),
            ("+5", 5.0),
            ("-5", -5.0),
            ("5.", 5.0),
            (".5", 0.5),
            ("-.5e1", -5.0),
            ("1e-05", 1e-5),
            ("1E+16", 1e16),
            ("999999999999999", 999_999_999_999_999.0),
            ("9007199254740993", 9_007_199_254_740_992.0),
            ("1e-400", 0.0),
            ("0.1", 0.1),
        ] {
            assert_eq!(decimal(text.as_bytes()), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_negative_zero_is_zero() {
        for text in ["-0", "-0.0", "-.0", "-0e5", "-1e-400", "-00000000000000000000"] {
            assert_eq!(decimal(text.as_bytes()).map(f64::to_bits), Some(0.0_f64.to_bits()), "{text}");
        }
    }

    #[test]
    fn what_is_no_finite_decimal_is_refused() {
        for text in [
            "", ".", "+", "-", "--5", "+-5", "e5", "1e", "1e+", "nan", "NaN", "inf", "-inf", "Infinity", "0x10",
            "1_000", "1,5", "1 2", "1e400", "5a", "∞", "1.2.3", ".e1", "1e5.5",
        ] {
            assert_eq!(decimal(text.as_bytes()), None, "{text}");
        }
    }
}
