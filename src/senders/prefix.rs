//! What a name begins with, by which lines are counted.

use super::origin::Text;

/// Longest prefix, in bytes.
pub(super) const PREFIX_BYTES: usize = 48;

/// A prefix that is counted.
pub type Prefix = Text<PREFIX_BYTES>;

/// What a byte is to a prefix.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Other,
    Digit,
    Dot,
    /// The name ends before it.
    End,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Other; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'0'..=b'9' => Class::Digit,
            b'.' => Class::Dot,
            b':' | b';' | b',' | b'#' | b'[' | b'|' | b'{' | b'\r' | b'\n' => Class::End,
            _ => Class::Other,
        };
        byte += 1;
    }
    classes
};

/// The prefix of a name, or of the line that begins with it: up to and including the second dot (`job.step.` of
/// `job.step.parse`), or the first one if nothing follows a second (`checkout.` of `checkout.latency`) or if a digit stands
/// between the two, because that is an identifier most likely (`user.` of `user.4711.clicks`). Of a name without a dot it is
/// what comes before the first digit, or the whole. At most 48 bytes.
#[inline]
pub fn prefix_of(line: &[u8]) -> &[u8] {
    let near = &line[..line.len().min(PREFIX_BYTES)];
    let mut first_digit = None;
    let mut at = 0;
    while let Some(next) = next_of_interest(near, at) {
        match CLASSES[usize::from(near[next])] {
            Class::Other => {}
            Class::Digit => first_digit = first_digit.or(Some(next)),
            Class::Dot => return up_to_second_dot(near, next + 1),
            Class::End => return before_digits(&near[..next], first_digit),
        }
        at = next + 1;
    }
    before_digits(near, first_digit)
}

/// The place of the next byte that is not an ordinary one.
#[inline]
fn next_of_interest(near: &[u8], from: usize) -> Option<usize> {
    let rest = near.get(from..)?;
    rest.iter().position(|&byte| CLASSES[usize::from(byte)] != Class::Other).map(|at| from + at)
}

#[inline]
fn up_to_second_dot(near: &[u8], first: usize) -> &[u8] {
    match next_of_interest(near, first) {
        Some(at) if near[at] == b'.' => &near[..=at],
        Some(_) | None => &near[..first],
    }
}

#[inline]
fn before_digits(name: &[u8], first_digit: Option<usize>) -> &[u8] {
    match first_digit {
        Some(at @ 1..) => &name[..at],
        Some(0) | None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_with_the_second_dot_or_before_an_identifier() {
        for (line, prefix) in [
            ("job.step.parse:1|ms", "job.step."),
            ("job.step.parse.deep:1|ms", "job.step."),
            ("checkout.latency:1|ms|#a:b.c", "checkout."),
            ("user.4711.clicks:1|c", "user."),
            ("web.host-1.cpu:1|g", "web."),
            ("web1.cpu.idle:1|g", "web1.cpu."),
            ("hello:1|c", "hello"),
            ("user_4711:1|c", "user_"),
            ("4711:1|c", "4711"),
            ("api.hits;host=a.b:1|c", "api."),
            ("api.hits[host=a.b]:1|c", "api."),
            ("_e{1,1}:a|b", "_e"),
            ("_sc|web|0", "_sc"),
            ("a..b:1|c", "a.."),
            (".b:1|c", "."),
            ("", ""),
            (":1|c", ""),
        ] {
            assert_eq!(String::from_utf8_lossy(prefix_of(line.as_bytes())), prefix, "{line}");
        }
        let long = "x".repeat(100);
        assert_eq!(prefix_of(long.as_bytes()).len(), PREFIX_BYTES);
        assert_eq!(prefix_of(format!("a.{long}.b").as_bytes()), b"a.");
    }
}
