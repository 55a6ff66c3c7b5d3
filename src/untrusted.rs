//! Escapes text from the wire for terminals, logs, pages and JSON. Nothing that came in a datagram is ever interpreted:
//! no escape sequences, no markup, no reordering of text.
#![deny(clippy::disallowed_methods)]

use std::borrow::Cow;
use std::fmt::{self, Write};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Whether a character acts instead of being shown: controls, line separators, and the invisible marks that reorder or
/// hide text (Unicode TR 36, "bidirectional text spoofing").
pub fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Displays text with active characters escaped, as `\n` or `\u{202e}`.
///
/// ```
/// assert_eq!(systole::internals::untrusted::Escaped("a\u{1b}[2Jb").to_string(), "a\\u{1b}[2Jb");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if is_active(c) {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// Displays text inside HTML, in an element or a quoted attribute.
///
/// ```
/// assert_eq!(systole::internals::untrusted::Html("<b>\u{202e}").to_string(), "&lt;b&gt;\\u{202e}");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Html<'a>(pub &'a str);

impl fmt::Display for Html<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c if is_active(c) => write!(f, "{}", c.escape_default())?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// An excerpt of a line for a log: lossy UTF-8, escaped, at most `max_chars` characters.
pub fn excerpt(line: &[u8], max_chars: usize) -> String {
    let text = String::from_utf8_lossy(&line[..line.len().min(4 * max_chars)]);
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == max_chars {
            out.push('…');
            return out;
        }
        if is_active(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    if line.len() > 4 * max_chars {
        out.push('…');
    }
    out
}

/// What does not stand for itself in a part of a URL: all but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Percent-encodes text as part of a URL.
pub fn in_url(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// Decodes a percent-encoded part of a URL: the inverse of [`in_url`].
///
/// # Errors
/// What is wrong.
pub fn from_url(text: &str) -> Result<String, String> {
    // Decoding keeps a `%` without two digits as it is, which would hide a typing error in a password.
    let is_escape =
        |rest: &str| rest.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    if !text.split('%').skip(1).all(is_escape) {
        return Err("a `%` is written `%25` in a URL".into());
    }
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| "what follows `%` is no UTF-8".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_url_comes_back() {
        for (text, encoded) in
            [("aZ09-_.~", "aZ09-_.~"), ("a b/c?d#e%f", "a%20b%2Fc%3Fd%23e%25f"), ("ü", "%C3%BC"), ("", "")]
        {
            assert_eq!(in_url(text), encoded);
            assert_eq!(from_url(encoded), Ok(text.into()));
        }
        for text in ["%", "a%4", "%%41", "%+1", "%4ü", "100%s"] {
            assert_eq!(from_url(text), Err("a `%` is written `%25` in a URL".into()), "{text}");
        }
        assert_eq!(from_url("%ff"), Err("what follows `%` is no UTF-8".into()));
    }
}
