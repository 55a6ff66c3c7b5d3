//! Templates of statsd_exporter as those of rules: what it makes of a reference that refers to nothing, and how far a reference
//! goes, is its own.

use regex::Regex;

use crate::aggregate::pattern::Pattern;

/// A template of a glob with so many stars (`pkg/mapper/fsm/formatter.go`): a reference goes on as long as letters, digits, `_`
/// and `$` do, and one that is no number of a star is nothing. Each is put in wherever its text stands, the first one first.
pub(super) fn of_glob(template: &str, stars: usize) -> String {
    const PLACE: char = '\u{1}';
    let Ok(references) = Regex::new(r"\$\{?([a-zA-Z0-9_$]+)\}?") else { return escaped(template) };
    let (mut text, mut numbers) = (template.to_string(), Vec::new());
    for reference in references.captures_iter(template) {
        let number = reference[1].parse().ok().filter(|number: &usize| (1..=stars).contains(number));
        let place = number.map_or(String::new(), |_| PLACE.to_string());
        text = text.replace(&reference[0], &place);
        numbers.extend(number);
    }
    let mut numbers = numbers.into_iter();
    let mut pieces = text.split(PLACE);
    let mut out = escaped(pieces.next().unwrap_or_default());
    for piece in pieces {
        out.push_str(&numbers.next().map_or(String::new(), |number| reference(number, piece)));
        out.push_str(&escaped(piece));
    }
    out
}

/// A template of a regular expression (Go's `Regexp.Expand`): a reference without braces goes on as long as letters, digits and `_`
/// do; it is the number or the name of a group, or nothing.
pub(super) fn of_regex(template: &str, pattern: &Pattern) -> String {
    let Ok(references) = Regex::new(r"\$(?:\$|\{(\w+)\}|(\w+))") else { return escaped(template) };
    let (mut out, mut end) = (String::new(), 0);
    for found in references.captures_iter(template) {
        let Some(whole) = found.get(0) else { continue };
        out.push_str(&escaped(&template[end..whole.start()]));
        end = whole.end();
        match found.get(1).or(found.get(2)) {
            None => out.push_str("$$"),
            Some(group) => {
                let number = group.as_str().parse().ok().or_else(|| pattern.group(group.as_str()));
                let number = number.filter(|number| *number <= pattern.groups());
                out.push_str(&number.map_or(String::new(), |number| reference(number, &template[end..])));
            }
        }
    }
    out + &escaped(&template[end..])
}

/// A reference before such a text.
fn reference(number: usize, after: &str) -> String {
    if after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
        return format!("${{{number}}}");
    }
    format!("${number}")
}

fn escaped(text: &str) -> String {
    text.replace('$', "$$")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::pattern::PatternKind;

    #[test]
    fn references_go_as_far_as_they_do_there() {
        for (template, expected) in [
            ("$1-$2", "$1-$2"),
            ("${1}_foo", "${1}_foo"),
            ("$1_foo", ""),
            ("$3 $name $$1 100$", "   100$$"),
            ("${12}x", "x"),
            ("$2.$1.$2", "$2.$1.$2"),
            ("plain", "plain"),
        ] {
            assert_eq!(of_glob(template, 2), expected, "{template}");
        }
        let pattern = Pattern::new(PatternKind::Regex, r"(\w+)\.(?P<code>\d+)".into()).expect("an expression");
        for (template, expected) in [
            ("$0:$1", "$0:$1"),
            ("$1_foo|${1}_foo", "|${1}_foo"),
            ("$code ${code}x $$ $3 $other $", "$2 ${2}x $$   $$"),
        ] {
            assert_eq!(of_regex(template, &pattern), expected, "{template}");
        }
    }
}
