//! HTTP where lines are expected. A web page can make a browser send a POST to any port of this machine, with StatsD
//! lines in its body. The first line is `METHOD TARGET HTTP/1.1`; readers of connections stop at such a line (the attack
//! is known as cross-protocol scripting; RFC 9112, 3, defines the request line).

/// Longest method, in bytes.
const MAX_METHOD: usize = 24;

/// Whether a line, with or without its newline, is an HTTP request line: three words, the first an upper-case method,
/// the last a version.
pub fn is_request_line(line: &[u8]) -> bool {
    let Some(rest) = after_method(line.trim_ascii_end()) else { return false };
    let Some(end) = memchr::memchr(b' ', rest) else { return false };
    let (target, version) = (&rest[..end], &rest[end + 1..]);
    let is_version = version.strip_prefix(b"HTTP/").is_some_and(|number| {
        (1..=3).contains(&number.len()) && number.iter().all(|&b| b.is_ascii_digit() || b == b'.')
    });
    !target.is_empty() && is_version
}

/// Whether an incomplete line can become a request line of a browser: a method, and a target that begins with `/`, `*`
/// or a scheme.
pub fn may_be_request_line(start: &[u8]) -> bool {
    is_request_line(start)
        || after_method(start)
            .is_some_and(|target| [&b"/"[..], b"*", b"http:", b"https:"].iter().any(|word| target.starts_with(word)))
}

/// What follows an upper-case word and a blank.
fn after_method(line: &[u8]) -> Option<&[u8]> {
    let end = line.iter().take(MAX_METHOD + 1).position(|&b| b == b' ').filter(|&end| end > 0)?;
    line[..end].iter().all(|&b| b.is_ascii_uppercase() || b == b'-').then_some(&line[end + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines_are_told_from_lines_of_metrics() {
        for line in [
            "GET / HTTP/1.1\r\n",
            "POST /x?y=z HTTP/1.0\n",
            "OPTIONS * HTTP/1.1",
            "PRI * HTTP/2.0\r",
            "M-SEARCH * HTTP/1.1",
            "CONNECT a:443 HTTP/1.1",
            // It would also be a sample with a tag.
            "POST /a:1|c|#x HTTP/1.1",
        ] {
            assert!(is_request_line(line.as_bytes()), "{line}");
            assert!(may_be_request_line(line.as_bytes()), "{line}");
        }
        for line in [
            "",
            "\n",
            " ",
            "a:1|c",
            "GET /users:12|ms",
            "GET /users HTTP/1.1:12|ms",
            "get / HTTP/1.1",
            "HTTP/1.1 200 OK",
            "GET  HTTP/1.1",
            "GET / HTTP/",
            "GET / x HTTP/1.1",
            "counters",
            "delcounters A B",
            "THISMETHODISFARTOOLONGFORONE / HTTP/1.1",
        ] {
            assert!(!is_request_line(line.as_bytes()), "{line}");
        }
        for (start, may) in [("POST /aaaa", true), ("GET http://x", true), ("POST", false), ("HELP me", false)] {
            assert_eq!(may_be_request_line(start.as_bytes()), may, "{start}");
        }
    }
}
