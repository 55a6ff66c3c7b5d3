//! Bytes as hex digits, for datagrams that are not UTF-8.

use std::fmt::Write;

/// Two lower-case digits a byte.
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut digits, byte| {
        // Writing to memory cannot fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// The bytes of digits, with white space around them.
///
/// # Errors
/// Which character is not a hex digit, or has no second one.
pub fn decode(digits: &[u8]) -> Result<Vec<u8>, String> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = digits.trim_ascii().chunks(2).enumerate();
    pairs
        .map(|(n, pair)| {
            match pair {
                [high, low] => digit(*high).zip(digit(*low)).map(|(h, l)| (h * 16 + l) as u8),
                _ => None,
            }
            .ok_or_else(|| format!("character {}: two hex digits a byte are right", 2 * n + 1))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_from_their_digits() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(encode(&bytes).as_bytes()), Ok(bytes));
        assert_eq!(encode(b"a:\xff"), "613aff");
        assert_eq!(decode(b" 61FF\n"), Ok(b"a\xff".to_vec()));
        for (digits, wrong) in [("6", 1), ("613", 3), ("61x1", 3), ("6g", 1)] {
            assert!(decode(digits.as_bytes()).is_err_and(|error| error.starts_with(&format!("character {wrong}:"))));
        }
    }
}
