//! A stream, cut anywhere into what is read at once: the same lines and frames come out as from the whole, and no byte is
//! lost or held twice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use systole::internals::net::Framing;
use systole::internals::net::framing::{Chunk, Cutter};

const MAX: usize = 64;

/// Everything that comes out: lines put together, for where they are cut does not matter.
fn cut<'a>(framing: Framing, binary: bool, parts: impl Iterator<Item = &'a [u8]>) -> Vec<(char, Vec<u8>)> {
    let mut cutter = Cutter::new(framing, binary, MAX);
    let mut out: Vec<(char, Vec<u8>)> = Vec::new();
    for part in parts {
        cutter.extend(part);
        while let Some(chunk) = cutter.take() {
            let (kind, bytes) = match chunk {
                Chunk::Lines(bytes) => {
                    assert_eq!(bytes.last(), Some(&b'\n'));
                    ('l', bytes)
                }
                Chunk::Frame(bytes) => ('f', bytes),
                Chunk::TooLong(bytes) => {
                    assert!(bytes.len() >= MAX);
                    // How much of it is shown goes by what was read.
                    ('t', bytes.into_iter().take(MAX).collect())
                }
                Chunk::Http(line) => {
                    out.push(('h', line.to_vec()));
                    return out;
                }
                // Nothing after it is read.
                Chunk::Broken(_) => {
                    out.push(('b', Vec::new()));
                    return out;
                }
            };
            match out.last_mut() {
                Some((last, known)) if *last == kind && (kind == 'l' || (kind == 'f' && binary)) => known.extend(&bytes),
                _ => out.push((kind, bytes.to_vec())),
            }
        }
        cutter.rest_easy();
    }
    match cutter.rest() {
        Some(Chunk::Http(rest)) => out.push(('h', rest.to_vec())),
        Some(Chunk::Lines(rest) | Chunk::Broken(rest)) => out.push(('r', rest.to_vec())),
        Some(Chunk::Frame(rest) | Chunk::TooLong(rest)) => panic!("no rest: {rest:?}"),
        None => {}
    }
    out
}

fuzz_target!(|data: &[u8]| {
    let Some((&[way, size], stream)) = data.split_first_chunk::<2>() else { return };
    let (framing, binary) = match way % 3 {
        0 => (Framing::Newline, false),
        1 => (Framing::Newline, true),
        _ => (Framing::Length, false),
    };
    let size = usize::from(size).max(1);
    assert_eq!(cut(framing, binary, stream.chunks(size)), cut(framing, binary, stream.chunks(1)));
});
