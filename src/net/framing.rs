//! Cuts a stream into lines or frames. Pure: bytes in, whole lines out.

use bytes::{Buf, BytesMut};
use serde::{Deserialize, Serialize};

use crate::memory::footprint;
use crate::protocol::{BINARY_MAGIC, BinaryFrame, binary_frame, is_request_line, may_be_request_line, newlines};

use super::Framing;

/// Size of DogStatsD's length prefix, in bytes.
const LENGTH_BYTES: usize = 4;

/// Cuts a stream, by the framing of its listener and by its first byte.
#[derive(Debug)]
pub struct Cutter {
    way: Way,
    /// Bytes that its buffer has allocated. Lines that were cut off the front are among them: what follows them may keep the
    /// whole.
    allocated: usize,
}

#[derive(Debug)]
enum Way {
    /// Lines, or statsite's binary protocol: nothing was read yet.
    Undecided(LineBuffer),
    Lines(LineBuffer),
    Frames(FrameBuffer),
    Binary(FrameBuffer),
}

/// What has come of a line or frame that is not whole, for whoever cuts the rest of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Something was read before.
    has_begun: bool,
    is_binary: bool,
    is_first: bool,
    is_skipping: bool,
}

impl Cutter {
    /// Nothing was read yet. `binary` allows statsite's protocol in place of lines; `max` is the most bytes of a line or
    /// frame.
    pub fn new(framing: Framing, binary: bool, max: usize) -> Cutter {
        let way = match framing {
            Framing::Length => Way::Frames(FrameBuffer { bytes: BytesMut::new(), max }),
            Framing::Newline if binary => Way::Undecided(LineBuffer::new(max)),
            Framing::Newline => Way::Lines(LineBuffer::new(max)),
        };
        Cutter { way, allocated: 0 }
    }

    /// What another cutter needs to go on.
    pub fn begun(&self) -> Begun {
        match &self.way {
            Way::Undecided(_) => Begun::default(),
            Way::Lines(LineBuffer { bytes, is_first, skipping, .. }) => Begun {
                bytes: bytes.to_vec(),
                has_begun: true,
                is_binary: false,
                is_first: *is_first,
                is_skipping: *skipping,
            },
            Way::Frames(frames) => Begun { bytes: frames.bytes.to_vec(), ..Begun::default() },
            Way::Binary(frames) => {
                Begun { bytes: frames.bytes.to_vec(), has_begun: true, is_binary: true, ..Begun::default() }
            }
        }
    }

    /// Goes on where another cutter was, if it cut in the same way.
    pub fn go_on(&mut self, begun: Begun) {
        let Begun { bytes, has_begun, is_binary, is_first, is_skipping } = begun;
        let bytes = BytesMut::from(&bytes[..]);
        match &mut self.way {
            Way::Frames(frames) => frames.bytes = bytes,
            Way::Undecided(lines) | Way::Lines(lines) if has_begun => {
                let max = lines.max_line;
                self.way = if is_binary {
                    Way::Binary(FrameBuffer { bytes, max })
                } else {
                    Way::Lines(LineBuffer { bytes, max_line: max, is_first, skipping: is_skipping })
                };
            }
            Way::Undecided(_) | Way::Lines(_) | Way::Binary(_) => {}
        }
        self.allocated = self.way.buffer().capacity();
    }

    /// Appends bytes that were read.
    pub fn extend(&mut self, bytes: &[u8]) {
        if let Way::Undecided(lines) = &self.way
            && let Some(&first) = bytes.first()
        {
            let max = lines.max_line;
            self.way = match first {
                BINARY_MAGIC => Way::Binary(FrameBuffer { bytes: BytesMut::new(), max }),
                _ => Way::Lines(LineBuffer::new(max)),
            };
        }
        match &mut self.way {
            Way::Undecided(lines) | Way::Lines(lines) => lines.extend(bytes),
            Way::Frames(frames) | Way::Binary(frames) => frames.bytes.extend_from_slice(bytes),
        }
        self.allocated = self.allocated.max(self.way.buffer().capacity());
    }

    /// Bytes that it takes beside itself.
    pub fn heap_bytes(&self) -> usize {
        footprint(self.allocated)
    }

    /// Gives back what is not needed for the line or frame that is not whole yet.
    pub fn compact(&mut self) {
        let bytes = self.way.buffer();
        *bytes = BytesMut::from(&bytes[..]);
        self.allocated = bytes.capacity();
    }

    /// The next chunk, if there is one.
    pub fn take(&mut self) -> Option<Chunk> {
        match &mut self.way {
            Way::Undecided(lines) | Way::Lines(lines) => lines.take(),
            Way::Frames(frames) => frames.take_frame(),
            Way::Binary(frames) => frames.take_binary(),
        }
    }

    /// Frees memory while nothing is pending: most connections are silent most of the time.
    pub fn shrink(&mut self) {
        let bytes = self.way.buffer();
        if bytes.is_empty() {
            *bytes = BytesMut::new();
            self.allocated = 0;
        }
    }

    /// The rest after the last whole line or frame: `Lines` if the end of the stream completes it.
    pub fn rest(&mut self) -> Option<Chunk> {
        match &mut self.way {
            Way::Undecided(lines) | Way::Lines(lines) => lines.rest(),
            Way::Frames(frames) | Way::Binary(frames) => {
                let rest = frames.bytes.split();
                (!rest.is_empty()).then_some(Chunk::Broken(rest))
            }
        }
    }
}

impl Way {
    fn buffer(&mut self) -> &mut BytesMut {
        match self {
            Way::Undecided(lines) | Way::Lines(lines) => &mut lines.bytes,
            Way::Frames(frames) | Way::Binary(frames) => &mut frames.bytes,
        }
    }
}

/// Buffers a stream until there are whole frames.
#[derive(Debug)]
struct FrameBuffer {
    bytes: BytesMut,
    max: usize,
}

impl FrameBuffer {
    /// A length-prefixed frame, as DogStatsD clients send over unix streams.
    fn take_frame(&mut self) -> Option<Chunk> {
        let length = u32::from_le_bytes(*self.bytes.first_chunk::<LENGTH_BYTES>()?) as usize;
        if length > self.max {
            return Some(Chunk::Broken(self.bytes.split()));
        }
        if self.bytes.len() < LENGTH_BYTES + length {
            return None;
        }
        self.bytes.advance(LENGTH_BYTES);
        Some(Chunk::Frame(self.bytes.split_to(length)))
    }

    /// All whole frames of the binary protocol, up to a newline between two.
    fn take_binary(&mut self) -> Option<Chunk> {
        self.bytes.advance(newlines(&self.bytes));
        let mut whole = 0;
        loop {
            match binary_frame(&self.bytes[whole..]) {
                BinaryFrame::Whole(length) => whole += length,
                BinaryFrame::Partial if whole > 0 => return Some(Chunk::Frame(self.bytes.split_to(whole))),
                BinaryFrame::Partial => return None,
                // A newline is not a frame.
                BinaryFrame::Broken if whole > 0 => return Some(Chunk::Frame(self.bytes.split_to(whole))),
                BinaryFrame::Broken => return Some(Chunk::Broken(self.bytes.split())),
            }
        }
    }
}

/// Buffers a stream until there are whole lines.
#[derive(Debug)]
struct LineBuffer {
    bytes: BytesMut,
    max_line: usize,
    /// Whether no line was returned yet: an HTTP request shows in the first line.
    is_first: bool,
    /// Whether an overlong line is being skipped up to its newline.
    skipping: bool,
}

/// A piece of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Chunk {
    /// One or more whole lines with their newlines.
    Lines(BytesMut),
    /// A whole frame, or several of the binary protocol.
    Frame(BytesMut),
    /// The start of a line that is longer than allowed; its rest is skipped.
    TooLong(BytesMut),
    /// Invalid input: the next frame cannot be found.
    Broken(BytesMut),
    /// An HTTP request line, or its beginning, where lines are expected: nothing after it is a line.
    Http(BytesMut),
}

impl LineBuffer {
    fn new(max_line: usize) -> LineBuffer {
        LineBuffer { bytes: BytesMut::new(), max_line, is_first: true, skipping: false }
    }

    /// Appends bytes that were read.
    fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next chunk, if there is one.
    fn take(&mut self) -> Option<Chunk> {
        if self.is_first {
            let end = memchr::memchr(b'\n', &self.bytes);
            if let Some(request) = self.request(end) {
                return Some(Chunk::Http(request));
            }
            self.is_first = end.is_none() && self.bytes.len() <= self.max_line;
        }
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

    /// The first `length` bytes, which end with a newline, up to the first overlong line, or that line.
    fn whole(&mut self, length: usize) -> Chunk {
        let mut start = 0;
        // No line is longer than its chunk, so most chunks need no scan.
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

    /// The first line, which ends there, or its beginning if it is too long, if it is an HTTP request line.
    fn request(&mut self, end: Option<usize>) -> Option<BytesMut> {
        let (length, is_request) = match end {
            Some(end) if end <= self.max_line => (end, is_request_line(&self.bytes[..end])),
            Some(_) | None if self.bytes.len() > self.max_line => {
                (self.max_line, may_be_request_line(&self.bytes[..self.max_line]))
            }
            Some(_) | None => (0, false),
        };
        is_request.then(|| {
            let mut all = self.bytes.split();
            all.split_to(length)
        })
    }

    /// The text after the last newline, unless it is blank.
    fn rest(&mut self) -> Option<Chunk> {
        let rest = self.bytes.split();
        if self.skipping || rest.trim_ascii().is_empty() {
            return None;
        }
        Some(if self.is_first && is_request_line(&rest) { Chunk::Http(rest) } else { Chunk::Lines(rest) })
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
                    Chunk::Frame(frame) | Chunk::Broken(frame) => panic!("{frame:?}"),
                    Chunk::Http(line) => format!("http: {}", String::from_utf8_lossy(&line)),
                    Chunk::TooLong(start) => {
                        format!("too long: {}", String::from_utf8_lossy(&start))
                    }
                });
            }
        }
        let rest = buffer.rest().map(|rest| match rest {
            Chunk::Lines(rest) => String::from_utf8_lossy(&rest).into_owned(),
            other => format!("{other:?}"),
        });
        (out, rest)
    }

    #[test]
    fn lines_may_come_in_any_pieces() {
        assert_eq!(chunks(&["a:1|c\nb", ":2", "|c\nc:3|c\nd"], 100).0, ["a:1|c\n", "b:2|c\nc:3|c\n"]);
        assert_eq!(chunks(&["a:1|c\nb:2|c"], 100).1.as_deref(), Some("b:2|c"));
        assert_eq!(chunks(&["a:1|c\n \r\n"], 100).1, None);
    }

    #[test]
    fn frames_with_their_length_may_come_in_any_pieces() {
        let mut cutter = Cutter::new(Framing::Length, false, 100);
        let bytes = b"\x05\0\0\0a:1|c\x00\0\0\0\x0b\0\0\0b:2|c\nc:3|c";
        let mut frames = Vec::new();
        for byte in bytes {
            cutter.extend(&[*byte]);
            while let Some(Chunk::Frame(frame)) = cutter.take() {
                frames.push(String::from_utf8_lossy(&frame).into_owned());
            }
        }
        assert_eq!(frames, ["a:1|c", "", "b:2|c\nc:3|c"]);
        assert_eq!(cutter.rest(), None);
        cutter.extend(b"\xff\xff\0\0x");
        assert!(matches!(cutter.take(), Some(Chunk::Broken(_))));
    }

    #[test]
    fn frames_of_the_binary_protocol_may_be_separated_by_newlines_in_any_pieces() {
        let frame = b"\xaa\x02\x02\0\0\0\0\0\0\0\x69\x40a\0";
        let bytes = [&frame[..], b"\n", frame, b"\r\n", frame, frame, b"\n"].concat();
        for piece in 1..bytes.len() {
            let mut cutter = Cutter::new(Framing::Newline, true, 100);
            let mut taken = Vec::new();
            for part in bytes.chunks(piece) {
                cutter.extend(part);
                while let Some(Chunk::Frame(frames)) = cutter.take() {
                    assert_eq!(frames[0], BINARY_MAGIC);
                    taken.extend_from_slice(&frames);
                }
            }
            assert_eq!(taken.iter().filter(|&&b| b == BINARY_MAGIC).count(), 4, "pieces of {piece}");
            assert_eq!(cutter.rest(), None);
        }
    }

    #[test]
    fn nothing_is_read_of_a_connection_that_begins_with_http() {
        let bytes = "POST /x HTTP/1.1\r\nHost: x\r\n\r\nowned:1|c\n";
        for piece in 1..=bytes.len() {
            let parts: Vec<&str> =
                bytes.as_bytes().chunks(piece).map(|p| std::str::from_utf8(p).expect("ASCII")).collect();
            let (out, _) = chunks(&parts, 100);
            assert_eq!(out[0], "http: POST /x HTTP/1.1\r", "pieces of {piece}");
        }
        // An overlong request line, complete or not.
        let long = format!("GET /{}", "x".repeat(200));
        for end in ["", " HTTP/1.1\r\nowned:1|c\n"] {
            let (out, _) = chunks(&[&format!("{long}{end}")], 100);
            assert_eq!(out[0], format!("http: {}", &long[..100]));
        }
        // Only the first line can be a request.
        let (out, _) = chunks(&["a:1|c\nGET / HTTP/1.1\n"], 100);
        assert_eq!(out, ["a:1|c\nGET / HTTP/1.1\n"]);
        assert_eq!(chunks(&["GET / HTTP/1.1"], 100).1.as_deref(), Some("Http(b\"GET / HTTP/1.1\")"));
    }

    /// The chunks of a stream that arrives in pieces: their kinds, and lines and frames joined. After each piece another cutter may
    /// go on.
    fn cut(binary: bool, pieces: std::slice::Chunks<'_, u8>, is_passed_on: bool) -> Vec<(char, Vec<u8>)> {
        let mut cutter = Cutter::new(Framing::Newline, binary, 20);
        let mut out: Vec<(char, Vec<u8>)> = Vec::new();
        for piece in pieces {
            cutter.extend(piece);
            while let Some(chunk) = cutter.take() {
                let (kind, bytes) = match chunk {
                    Chunk::Lines(bytes) => ('l', bytes),
                    Chunk::Frame(bytes) => ('f', bytes),
                    Chunk::TooLong(_) => ('t', BytesMut::new()),
                    Chunk::Broken(_) => return [out, vec![('b', Vec::new())]].concat(),
                    Chunk::Http(line) => return [out, vec![('h', line.to_vec())]].concat(),
                };
                match out.last_mut() {
                    Some((last, known)) if *last == kind && kind != 't' => known.extend_from_slice(&bytes),
                    _ => out.push((kind, bytes.to_vec())),
                }
            }
            cutter.shrink();
            if is_passed_on {
                let begun = cutter.begun();
                cutter = Cutter::new(Framing::Newline, binary, 20);
                cutter.go_on(begun);
            }
        }
        out.extend(cutter.rest().map(|rest| (if matches!(rest, Chunk::Http(_)) { 'h' } else { 'r' }, Vec::new())));
        out
    }

    proptest::proptest! {
        #[test]
        fn pieces_do_not_matter(
            binary: bool,
            words in proptest::collection::vec(proptest::sample::select(vec![
                &b"GET"[..], b"POST", b" ", b"/", b" HTTP/1.1", b"\n", b"\r\n", b"a:1|c", b"x", b"0123456789",
                b"\xaa\x02\x02\0\0\0\0\0\0\0\x69\x40a\0", b"\xaa\x04\x02\0\x03\0s\0me\0", b"\xaa", b"\0",
            ]), 0..12),
            size in 1_usize..40,
        ) {
            let bytes = words.concat();
            let whole = cut(binary, bytes.chunks(size), false);
            proptest::prop_assert_eq!(&whole, &cut(binary, bytes.chunks(1), false));
            proptest::prop_assert_eq!(&whole, &cut(binary, bytes.chunks(size), true));
        }
    }

    #[test]
    fn an_endless_line_is_told_once_and_skipped() {
        let (out, rest) = chunks(&["abcdef", "ghi", "jkl", "m\nx:1|c\ny"], 5);
        assert_eq!((out, rest.as_deref()), (vec!["too long: abcdef".into(), "x:1|c\n".into()], Some("y")));
        let (out, _) = chunks(&["a\nabcdef\nabcde\nb\n"], 5);
        assert_eq!(out, ["a\n", "too long: abcdef\n", "abcde\nb\n"]);
    }
}
