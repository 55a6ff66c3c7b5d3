//! Escapes text from the wire for terminals, logs, pages and JSON. Nothing that came in a datagram is ever interpreted:
//! no escape sequences, no markup, no reordering of text.

use std::fmt::{self, Write};

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
/// assert_eq!(systole::untrusted::Escaped("a\u{1b}[2Jb").to_string(), "a\\u{1b}[2Jb");
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
/// assert_eq!(systole::untrusted::Html("<b>\u{202e}").to_string(), "&lt;b&gt;\\u{202e}");
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
/// Percent-encodes text as part of a URL.
pub fn in_url(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Decodes a percent-encoded part of a URL: the inverse of [`in_url`].
///
/// # Errors
/// What is wrong.
pub fn from_url(text: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        rest = more;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = more.get(..2).and_then(|digits| str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
            return Err("a `%` is written `%25` in a URL".into());
        };
        bytes.push(byte);
        rest = &more[2..];
    }
    String::from_utf8(bytes).map_err(|_| "what follows `%` is no UTF-8".into())
}
