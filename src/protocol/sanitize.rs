//! The original's cleaning of names (`keyNameSanitize` of statsd/statsd, `stats.js`), in its order: a run of white space
//! becomes one `_`, `/` becomes `-`, everything outside `[a-zA-Z_\-0-9.;=]` is removed.

/// White space as JavaScript's `\s` defines it.
fn is_js_space(c: char) -> bool {
    matches!(
        c,
        '\t' | '\n' | '\u{b}' | '\u{c}' | '\r' | ' ' | '\u{a0}' | '\u{1680}' | '\u{2000}'
            ..='\u{200a}' | '\u{2028}' | '\u{2029}' | '\u{202f}' | '\u{205f}' | '\u{3000}' | '\u{feff}'
    )
}

fn is_kept(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ';' | '=')
}

/// Whether a byte is a character that cleaning keeps.
pub(super) fn is_clean(byte: u8) -> bool {
    byte.is_ascii() && is_kept(char::from(byte))
}

/// Whether cleaning leaves anything of a character.
pub(super) fn leaves_something(c: char) -> bool {
    is_kept(c) || c == '/' || is_js_space(c)
}

/// Appends the cleaned text.
pub(super) fn write_clean(text: impl Iterator<Item = char>, out: &mut Vec<u8>) {
    let mut in_space = false;
    for c in text {
        let space = is_js_space(c);
        if space {
            if !in_space {
                out.push(b'_');
            }
        } else if c == '/' {
            out.push(b'-');
        } else if is_kept(c) {
            out.push(c as u8);
        }
        in_space = space;
    }
}

/// The cleaned text.
///
/// ```
/// assert_eq!(systole::internals::protocol::sanitize("a  b/c+d"), "a_b-cd");
/// ```
pub fn sanitize(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    write_clean(text.chars(), &mut out);
    out.into_iter().map(char::from).collect()
}
