//! Deflate (RFC 1951) with a bound on what is inflated.

use std::io::Write;

use flate2::write::DeflateEncoder;
use flate2::{Compression, Decompress, FlushDecompress, Status};

/// Compresses some bytes.
pub(super) fn deflate(plain: &[u8]) -> Vec<u8> {
    let mut packed = DeflateEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(plain).and_then(|()| packed.finish()).expect("a vector takes all bytes")
}

/// Inflates some bytes, to `most` at most. What it allocates is no more than twice what is inflated, which is no more
/// than 1,032 times the bytes.
pub(super) fn inflate(packed: &[u8], most: usize) -> Result<Vec<u8>, String> {
    let mut inflater = Decompress::new(false);
    let mut plain = Vec::with_capacity((4 * packed.len()).clamp(64, most));
    loop {
        let (read, written) = (inflater.total_in() as usize, plain.len());
        let status = inflater
            .decompress_vec(&packed[read..], &mut plain, FlushDecompress::None)
            .map_err(|error| format!("{error} after byte {read}"))?;
        if plain.len() > most {
            return Err(format!("it has more than {most} bytes"));
        }
        if status == Status::StreamEnd {
            break;
        }
        if plain.len() == plain.capacity() {
            plain.reserve(plain.len().min(most));
        } else if inflater.total_in() as usize == read && plain.len() == written {
            return Err(format!("it ends in the middle, at byte {read}"));
        }
    }
    match packed.len() - inflater.total_in() as usize {
        0 => Ok(plain),
        rest => Err(format!("{rest} bytes follow its end")),
    }
}
