//! Cutting a stream into lines. Pure: bytes in, whole lines out.

use bytes::{Buf, BytesMut};

/// Collects bytes of a stream until they make whole lines.
#[derive(Debug)]
pub(super) struct LineBuffer {
    bytes: BytesMut,
    max_line: usize,
    /// An overlong line is being skipped up to its newline.
    skipping: bool,
}

/// What [`LineBuffer::take`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// One or more whole lines with their newlines.
    Lines(BytesMut),
    /// The start of a line that is longer than allowed; its rest is skipped.
    TooLong(BytesMut),
}

impl LineBuffer {
    pub(super) fn new(max_line: usize) -> LineBuffer {
        LineBuffer { bytes: BytesMut::new(), max_line, skipping: false }
    }

    /// Adds what was read.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Gives memory back that is not needed while nothing is pending: most connections are silent most of the time.
    pub(super) fn rest_easy(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
        }
    }

    /// The next chunk, if there is one.
    pub(super) fn take(&mut self) -> Option<Chunk> {
        if self.skipping {
            match memchr::memchr(b'\n', &self.bytes) {
                Some(end) => {
                    self.bytes.advance(end + 1);
                    self.skipping = false;
                }
                None => {
                    self.bytes.clear();
                    return None;
                }
            }
        }
        if let Some(end) = memchr::memrchr(b'\n', &self.bytes) {
            return Some(self.whole(end + 1));
        }
        if self.bytes.len() > self.max_line {
            self.skipping = true;
            return Some(Chunk::TooLong(self.bytes.split()));
        }
        None
    }

    /// The first `length` bytes, which end with a newline, up to the first line that is too long, or that line.
    fn whole(&mut self, length: usize) -> Chunk {
        let mut start = 0;
        // No line of a chunk can be longer than the chunk, so most need no closer look.
        while length - start > self.max_line {
            let line = memchr::memchr(b'\n', &self.bytes[start..length]).map_or(length - start, |end| end + 1);
            if line <= self.max_line + 1 {
                start += line;
            } else if start > 0 {
                return Chunk::Lines(self.bytes.split_to(start));
            } else {
                return Chunk::TooLong(self.bytes.split_to(line));
            }
        }
        Chunk::Lines(self.bytes.split_to(length))
    }

    /// What came after the last newline, if anything but blanks.
    pub(super) fn rest(&mut self) -> Option<BytesMut> {
        let rest = self.bytes.split();
        (!self.skipping && !rest.trim_ascii().is_empty()).then_some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(parts: &[&str], max_line: usize) -> (Vec<String>, Option<String>) {
        let mut buffer = LineBuffer::new(max_line);
        let mut out = Vec::new();
        for part in parts {
            buffer.extend(part.as_bytes());
            while let Some(chunk) = buffer.take() {
                out.push(match chunk {
                    Chunk::Lines(lines) => String::from_utf8_lossy(&lines).into_owned(),
                    Chunk::TooLong(start) => {
                        format!("too long: {}", String::from_utf8_lossy(&start))
                    }
                });
            }
        }
        (out, buffer.rest().map(|rest| String::from_utf8_lossy(&rest).into_owned()))
    }

    #[test]
    fn lines_may_come_in_any_pieces() {
        assert_eq!(chunks(&["a:1|c\nb", ":2", "|c\nc:3|c\nd"], 100).0, ["a:1|c\n", "b:2|c\nc:3|c\n"]);
        assert_eq!(chunks(&["a:1|c\nb:2|c"], 100).1.as_deref(), Some("b:2|c"));
        assert_eq!(chunks(&["a:1|c\n \r\n"], 100).1, None);
    }

    #[test]
    fn an_endless_line_is_told_once_and_skipped() {
        let (out, rest) = chunks(&["abcdef", "ghi", "jkl", "m\nx:1|c\ny"], 5);
        assert_eq!((out, rest.as_deref()), (vec!["too long: abcdef".into(), "x:1|c\n".into()], Some("y")));
        let (out, _) = chunks(&["a\nabcdef\nabcde\nb\n"], 5);
        assert_eq!(out, ["a\n", "too long: abcdef\n", "abcde\nb\n"]);
    }
}
