//! The literal subset of a JavaScript object: members whose values are literals are read (by a parser of JSON5, which is
//! that subset); of all others the text is kept. Nothing is evaluated.

use serde_json::Value;

/// A member's value.
#[derive(Debug, PartialEq)]
pub(super) enum Member {
    /// A literal.
    Literal(Value),
    /// An object that contains something other than literals.
    Object(Vec<(String, Member)>),
    /// Code, verbatim.
    Code(String),
}

/// Deepest nesting of brackets.
const MAX_DEPTH: usize = 64;

/// Whether a text opens an object, after comments.
pub(super) fn begins_with_object(text: &str) -> bool {
    let start = skip_blank(text.as_bytes(), 0);
    let text = text[start..].trim_start_matches("module.exports").trim_start().trim_start_matches('=');
    text.trim_start().trim_start_matches('(').trim_start().starts_with('{')
}

/// The members of the first object of a text.
///
/// # Errors
/// What is wrong, with its line.
pub(super) fn members(text: &str) -> Result<Vec<(String, Member)>, String> {
    let bytes = text.as_bytes();
    let mut at = skip_blank(bytes, 0);
    while at < bytes.len() && bytes[at] != b'{' {
        at = skip_blank(bytes, at + 1);
    }
    let line = |at: usize| bytes[..at.min(bytes.len())].iter().filter(|&&b| b == b'\n').count() + 1;
    let end = skip_value(bytes, at).filter(|&end| end > at && bytes[end - 1] == b'}');
    let Some(end) = end else {
        return Err(format!("line {}: the object is not closed, or nested deeper than {MAX_DEPTH} brackets", line(at)));
    };
    inside(text, at + 1, end - 1, &line)
}

/// Members between two places.
fn inside(
    text: &str,
    mut at: usize,
    end: usize,
    line: &dyn Fn(usize) -> usize,
) -> Result<Vec<(String, Member)>, String> {
    let bytes = text.as_bytes();
    let mut members = Vec::new();
    loop {
        at = skip_blank(bytes, at);
        while at < end && bytes[at] == b',' {
            at = skip_blank(bytes, at + 1);
        }
        if at >= end {
            return Ok(members);
        }
        let key_start = at;
        while at < end && bytes[at] != b':' {
            at = skip_one(bytes, at, 0).unwrap_or(end);
        }
        if at >= end {
            return Err(format!("line {}: `key: value` is right", line(key_start)));
        }
        let key = text[key_start..at].trim();
        let key = json5::from_str::<String>(key).unwrap_or_else(|_| key.to_string());
        let value_start = skip_blank(bytes, at + 1);
        let value_end = skip_value(&bytes[..end], value_start).unwrap_or(end);
        let value = text[value_start..value_end].trim();
        let member = match json5::from_str::<Value>(value) {
            Ok(literal) => Member::Literal(literal),
            Err(_) if value.starts_with('{') && value.ends_with('}') => {
                Member::Object(inside(text, value_start + 1, value_start + value.len() - 1, line)?)
            }
            Err(_) => Member::Code(value.to_string()),
        };
        members.push((key, member));
        at = value_end;
    }
}

/// The position after blanks and comments.
fn skip_blank(bytes: &[u8], mut at: usize) -> usize {
    loop {
        match bytes.get(at..).unwrap_or_default() {
            [b' ' | b'\t' | b'\r' | b'\n', ..] => at += 1,
            // A byte order mark.
            [0xef, 0xbb, 0xbf, ..] => at += 3,
            rest if rest.starts_with(b"//") => {
                at += memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            }
            rest if rest.starts_with(b"/*") => {
                at += memchr::memmem::find(rest, b"*/").map_or(rest.len(), |end| end + 2);
            }
            _ => return at.min(bytes.len()),
        }
    }
}

/// The position after one character, string, comment or bracketed part; `None` if it is not closed, or nested too deeply.
fn skip_one(bytes: &[u8], at: usize, depth: usize) -> Option<usize> {
    let after_blank = skip_blank(bytes, at);
    if after_blank > at {
        return Some(after_blank);
    }
    match *bytes.get(at)? {
        quote @ (b'"' | b'\'' | b'`') => {
            let mut at = at + 1;
            while *bytes.get(at)? != quote {
                at += if bytes[at] == b'\\' { 2 } else { 1 };
            }
            Some(at + 1)
        }
        b'{' | b'[' | b'(' if depth == MAX_DEPTH => None,
        open @ (b'{' | b'[' | b'(') => {
            let close = match open {
                b'{' => b'}',
                b'[' => b']',
                _ => b')',
            };
            let mut at = at + 1;
            loop {
                at = skip_blank(bytes, at);
                if *bytes.get(at)? == close {
                    return Some(at + 1);
                }
                at = skip_one(bytes, at, depth + 1)?;
            }
        }
        _ => Some(at + 1),
    }
}

/// The position of the comma, or the bracket, that ends a value.
fn skip_value(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    while at < bytes.len() && !matches!(bytes[at], b',' | b'}' | b']' | b')') {
        let is_object = at == start && bytes[at] == b'{';
        at = skip_one(bytes, at, 0)?;
        if is_object {
            return Some(at);
        }
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn literals_are_read_and_code_is_kept_as_text() {
        let text = r#"/* { not: "this" } */
        module.exports = ({ // a comment with } and '
          port: 8125
        , 'quoted-key': 'it\'s, {fine}' /* , */
        , list: [1, "a:b", {c: 2,},],
          host: process.env.HOST || "a,b", tail: require('os').hostname().split('.')[0],
          nested: { plain: true, code: f(1, {a: 2}) },
          hex: 0x10, neg: -1.5,
        });"#;
        let found = members(text).expect("an object");
        let expected = [
            ("port", Member::Literal(json!(8125))),
            ("quoted-key", Member::Literal(json!("it's, {fine}"))),
            ("list", Member::Literal(json!([1, "a:b", {"c": 2}]))),
            ("host", Member::Code("process.env.HOST || \"a,b\"".into())),
            ("tail", Member::Code("require('os').hostname().split('.')[0]".into())),
            (
                "nested",
                Member::Object(vec![
                    ("plain".into(), Member::Literal(json!(true))),
                    ("code".into(), Member::Code("f(1, {a: 2})".into())),
                ]),
            ),
            ("hex", Member::Literal(json!(16))),
            ("neg", Member::Literal(json!(-1.5))),
        ];
        assert_eq!(found, expected.map(|(key, member)| (key.to_string(), member)));
        assert!(begins_with_object(text) && !begins_with_object("/* { */ mappings:"));
    }

    #[test]
    fn an_object_that_is_not_closed_is_an_error_with_its_line() {
        for text in ["\n{ a: 1", "\n{ a: 'x }", "\n{ a: [1 }", "\n{ a: `"] {
            let problem = members(text).expect_err(text);
            assert!(problem.starts_with("line 2: "), "{text}: {problem}");
        }
        assert_eq!(members("{ a }"), Err("line 1: `key: value` is right".into()));
        assert_eq!(members("{}"), Ok(vec![]));
    }
}
