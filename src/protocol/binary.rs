//! statsite's binary protocol, all little-endian, keys and members with their NUL (statsite,
//! `src/conn_handler.c`):
//!
//! ```text
//! 0xAA TYPE(1) KEYLEN(2) VALUE(double) KEY 0       TYPE 1 kv, 2 c, 3 ms, 5 g, 6 g by a difference
//! 0xAA 4       KEYLEN(2) SETLEN(2)     KEY 0 MEMBER 0
//! ```
//! After an invalid first byte, type or end there is no way to find the next frame. Newlines between frames are ignored:
//! some clients end each frame like a line.

use super::error::{ParseError, Reason};
use super::metric::{GaugeOp, GaugeSign, Kind, Metric, Name, SampleRate, Values};
use super::parse::Options;
use super::tags::Tags;

/// First byte of every frame. No valid line begins with it: it is not UTF-8.
pub const BINARY_MAGIC: u8 = 0xaa;

const HEADER: usize = 4;
const SET: u8 = 4;

/// What a buffer begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryFrame {
    /// A complete frame of this many bytes.
    Whole(usize),
    /// An incomplete frame.
    Partial,
    /// Not a frame; the next one cannot be found.
    Broken,
}

/// Finds the first frame.
pub fn binary_frame(bytes: &[u8]) -> BinaryFrame {
    let Some(&magic) = bytes.first() else { return BinaryFrame::Partial };
    let kind = bytes.get(1).copied();
    if magic != BINARY_MAGIC || kind.is_some_and(|kind| !(1..=6).contains(&kind)) {
        return BinaryFrame::Broken;
    }
    let Some(&[_, kind, low, high]) = bytes.first_chunk::<HEADER>() else { return BinaryFrame::Partial };
    let key = usize::from(u16::from_le_bytes([low, high]));
    let (before, member) = if kind == SET {
        let Some(&[low, high]) = bytes.get(HEADER..HEADER + 2) else { return BinaryFrame::Partial };
        (HEADER + 2, usize::from(u16::from_le_bytes([low, high])))
    } else {
        (HEADER + 8, 0)
    };
    let ends_with_nul = |length: usize, end: usize| length > 0 && bytes.get(end - 1) == Some(&0);
    let (key_end, end) = (before + key, before + key + member);
    if key == 0 || (kind == SET && member == 0) {
        return BinaryFrame::Broken;
    }
    if bytes.len() < end {
        return BinaryFrame::Partial;
    }
    if !ends_with_nul(key, key_end) || (kind == SET && !ends_with_nul(member, end)) {
        return BinaryFrame::Broken;
    }
    BinaryFrame::Whole(end)
}

/// The number of newlines before the first frame.
pub fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|b| matches!(b, b'\n' | b'\r')).count()
}

/// The frames of a datagram, or of a buffer of whole frames, each with its bytes. Iteration ends after an invalid one.
pub fn binary_frames<'a>(bytes: &'a [u8], options: &Options) -> impl Iterator<Item = (&'a [u8], FrameResult<'a>)> {
    let options = *options;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        rest = &rest[newlines(rest)..];
        if rest.is_empty() {
            return None;
        }
        let BinaryFrame::Whole(length) = binary_frame(rest) else {
            let broken = std::mem::take(&mut rest);
            return Some((broken, Err(ParseError::new(Reason::BadFrame, 0))));
        };
        let frame;
        (frame, rest) = rest.split_at(length);
        Some((frame, read(frame, &options)))
    })
}

type FrameResult<'a> = Result<Metric<'a>, ParseError>;

/// Reads a complete frame.
fn read<'a>(frame: &'a [u8], options: &Options) -> FrameResult<'a> {
    let refuse = |reason, at| Err(ParseError::new(reason, at));
    let kind = frame[1];
    let key_length = usize::from(u16::from_le_bytes([frame[2], frame[3]]));
    let start = if kind == SET { HEADER + 2 } else { HEADER + 8 };
    let key = &frame[start..start + key_length - 1];
    if key.is_empty() {
        return refuse(Reason::EmptyName, start);
    }
    if let Some(at) = memchr::memchr(0, key) {
        return refuse(Reason::Nul, start + at);
    }
    if let Err(error) = std::str::from_utf8(key) {
        return refuse(Reason::NotUtf8, start + error.valid_up_to());
    }
    if key.len() > options.max_name {
        return refuse(Reason::TooLong, start + options.max_name);
    }
    let name = Name { head: key, tail: &[], sanitize: options.sanitize };
    if name.is_empty() {
        return refuse(Reason::EmptyName, start);
    }
    let metric = |kind, values| Metric {
        name,
        tags: Tags::none(options.max_tags),
        kind,
        values,
        rate: SampleRate::ONE,
        timestamp: None,
        skipped: 0,
        fields: &[],
    };
    if kind == SET {
        let member = &frame[start + key_length..frame.len() - 1];
        if member.is_empty() {
            return refuse(Reason::BadMember, start + key_length);
        }
        return Ok(metric(Kind::Set, Values::Member(member)));
    }
    // -0 becomes 0, as everywhere.
    let value = frame[HEADER..].first_chunk::<8>().map_or(f64::NAN, |bytes| f64::from_le_bytes(*bytes)) + 0.0;
    if !value.is_finite() || (kind == 3 && value < 0.0) {
        return refuse(Reason::BadValue, HEADER);
    }
    let gauge = |op, value| Values::Gauge { first: (op, value), packed: None, sign: GaugeSign::Absolute };
    let number = Values::Numbers { first: value, packed: None };
    Ok(match kind {
        1 => metric(Kind::Kv, number),
        2 => metric(Kind::Counter, number),
        3 => metric(Kind::Timer, number),
        5 => metric(Kind::Gauge, gauge(GaugeOp::Set, value)),
        _ if value < 0.0 => metric(Kind::Gauge, gauge(GaugeOp::Decrease, -value)),
        _ => metric(Kind::Gauge, gauge(GaugeOp::Increase, value)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_whole_or_partial_or_broken_at_every_byte() {
        let frame = b"\xaa\x02\x06\0\0\0\0\0\0\0\x69\x40Conns\0";
        for length in 0..frame.len() {
            assert_eq!(binary_frame(&frame[..length]), BinaryFrame::Partial, "{length}");
        }
        assert_eq!(binary_frame(frame), BinaryFrame::Whole(frame.len()));
        assert_eq!(binary_frame(b"\xaa\x07"), BinaryFrame::Broken);
        assert_eq!(binary_frame(b"x"), BinaryFrame::Broken);
        let mut open = frame.to_vec();
        *open.last_mut().expect("a byte") = b'x';
        assert_eq!(binary_frame(&open), BinaryFrame::Broken);
    }

    #[test]
    fn newlines_between_frames_mean_nothing() {
        let frame = b"\xaa\x02\x06\0\0\0\0\0\0\0\x69\x40Conns\0";
        let count = |bytes: &[u8]| {
            let options = Options::default();
            let read: Vec<bool> = binary_frames(bytes, &options).map(|(_, frame)| frame.is_ok()).collect();
            (read.iter().filter(|good| **good).count(), read.len())
        };
        assert_eq!(count(&[&frame[..], b"\n", frame, b"\r\n\n", frame, b"\n"].concat()), (3, 3));
        assert_eq!(count(&[&frame[..], b"\nx", frame].concat()), (1, 2));
        assert_eq!(count(&[&frame[..], b" ", frame].concat()), (1, 2));
    }

    #[test]
    fn values_that_are_none_spoil_their_frame_only() {
        let mut bytes = Vec::new();
        for value in [f64::NAN, 1.0, -1.0, f64::INFINITY] {
            bytes.extend(b"\xaa\x03\x02\0");
            bytes.extend(value.to_le_bytes());
            bytes.extend(b"t\0");
        }
        let read: Vec<bool> = binary_frames(&bytes, &Options::default()).map(|(_, frame)| frame.is_ok()).collect();
        assert_eq!(read, [false, true, false, false]);
    }
}
