//! Files that people write: read whole, up to a bound, and only where that ends.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Longest configuration, and longest file of a secret, bytes.
const MOST_TEXT: u64 = 16 << 20;

/// A regular file, of at most `most` bytes. Nothing else is opened to be read: a pipe would be waited for until somebody writes, and
/// a device may have no end.
///
/// # Errors
/// Those of the kernel, and that it is something else, or longer.
pub fn read_regular(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    read_up_to(file, most)
}

/// The same as text.
///
/// # Errors
/// Those of [`read_regular`], and that it is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    as_text(read_regular(path, MOST_TEXT)?)
}

/// The same; it may also be a pipe, such as the standard input.
///
/// # Errors
/// Those of [`read_text`].
pub fn read_text_or_pipe(path: &Path) -> io::Result<String> {
    if path.metadata()?.file_type().is_fifo() {
        return as_text(read_up_to(File::open(path)?, MOST_TEXT)?);
    }
    read_text(path)
}

fn as_text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

fn read_up_to(file: File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("it has more than {} MiB", most >> 20)));
    }
    Ok(bytes)
}
