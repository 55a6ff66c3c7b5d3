//! A part as a file: the bytes of its owner, and a last line of JSON that is written when everything before it is.
//!
//! ```text
//! bytes of the owner
//! {"part":"registry","format":1,"version":"0.1.0","written":1700000000.0,"bytes":123,"crc32":456}
//! ```

use std::ffi::OsStr;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::disk::{Disk, DiskFile, Opened};
use crate::sys::unix_time;

/// What the name of a part's file ends with.
pub(super) const SUFFIX: &str = ".state";

/// What the name of a part ends with that is over, and not gone.
const OVER: &str = "-over";

/// What the name of a file ends with that is being written.
const FRESH: &str = ".new";

/// Most bytes of a trailer with the line break before it.
const MOST_TRAILER_BYTES: u64 = 4096;

/// Why a part was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discarded {
    /// It is too old to say anything.
    Age,
    /// It was cut off or changed, belongs elsewhere, or cannot be read.
    Damaged,
    /// It was written by a version that this one does not understand.
    Format,
    /// It is larger than anything that is written.
    Size,
}

impl Discarded {
    /// The name in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Discarded::Age => "age",
            Discarded::Damaged => "damaged",
            Discarded::Format => "format",
            Discarded::Size => "size",
        }
    }
}

/// Up to where a part is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// The oldest.
    pub age: Duration,
    /// The largest, in bytes.
    pub bytes: u64,
}

impl Default for Limits {
    /// A day, and 2 GiB.
    fn default() -> Limits {
        Limits { age: Duration::from_secs(86_400), bytes: 2 << 30 }
    }
}

/// What was saved of a part.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedPart {
    /// The bytes of its owner.
    pub bytes: Vec<u8>,
    /// Their format.
    pub format: u32,
    /// When it was written, Unix seconds.
    pub written: f64,
    /// Seconds since then; never negative.
    pub age_secs: f64,
}

/// The last line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Trailer {
    pub(super) part: String,
    pub(super) format: u32,
    pub(super) version: String,
    pub(super) written: f64,
    pub(super) bytes: u64,
    pub(super) crc32: u32,
}

impl Trailer {
    /// Seconds since it was written. A clock that was set back makes it no younger than new.
    pub(super) fn age_secs(&self) -> f64 {
        (unix_time() - self.written).max(0.0)
    }
}

/// Where a part is.
pub(super) fn path(folder: &Path, part: &str) -> PathBuf {
    folder.join(format!("{part}{SUFFIX}"))
}

/// The name of a part that is over.
pub(super) fn over(part: &str) -> String {
    format!("{part}{OVER}")
}

/// Where a part is written, by its writer's number.
pub(super) fn fresh(folder: &Path, part: &str, turn: u64) -> PathBuf {
    folder.join(format!("{part}{SUFFIX}.{turn}{FRESH}"))
}

/// Whether a file is one that is, or was, being written.
pub(super) fn is_fresh(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.ends_with(FRESH) && name.contains(&format!("{SUFFIX}.")))
}

/// Writes a file from its begin.
struct Appending {
    file: Box<dyn DiskFile>,
    at: u64,
    /// Number of the first error. Encoders say that they failed, and not why.
    errno: Option<i32>,
}

impl Write for Appending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.file.write_at(bytes, self.at) {
            self.errno = self.errno.or(error.raw_os_error());
            return Err(error);
        }
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A writer that keeps a checksum and counts.
struct Checked<W> {
    inner: W,
    hash: crc32fast::Hasher,
    bytes: u64,
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a part to a new file, and that onto the disk. Returns the bytes of its owner.
pub(super) fn write(
    disk: &dyn Disk,
    fresh: &Path,
    part: &str,
    format: u32,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<u64> {
    let file = match disk.open(fresh, Opened::Fresh) {
        // It is of an earlier process, whose disk did not remove it: only one process writes.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove(fresh)?;
            disk.open(fresh, Opened::Fresh)?
        }
        opened => opened?,
    };
    let file = Appending { file, at: 0, errno: None };
    // Owners write many small pieces.
    let checked = Checked { inner: file, hash: crc32fast::Hasher::new(), bytes: 0 };
    let mut out = BufWriter::with_capacity(1 << 16, checked);
    write(&mut out).map_err(|error| out.get_ref().inner.errno.map_or(error, io::Error::from_raw_os_error))?;
    let Checked { inner, hash, bytes } = out.into_inner()?;
    let mut inner = BufWriter::new(inner);
    let trailer = Trailer {
        part: part.into(),
        format,
        version: env!("CARGO_PKG_VERSION").into(),
        written: unix_time(),
        bytes,
        crc32: hash.finalize(),
    };
    inner.write_all(b"\n")?;
    serde_json::to_writer(&mut inner, &trailer)?;
    inner.write_all(b"\n")?;
    inner.into_inner()?.file.sync()?;
    Ok(bytes)
}

/// The trailer of a file, and where it begins; what is wrong with it, if it has none.
pub(super) fn trailer(file: &dyn DiskFile) -> Result<(Trailer, u64), String> {
    let length = file.bytes().map_err(|error| error.to_string())?;
    let from = length.saturating_sub(MOST_TRAILER_BYTES);
    let mut end = vec![0; (length - from) as usize];
    file.read_at(&mut end, from).map_err(|error| error.to_string())?;
    let cut = "it was cut off";
    let rest = end.strip_suffix(b"\n").ok_or(cut)?;
    let at = memchr::memrchr(b'\n', rest).ok_or(cut)?;
    let trailer: Trailer = serde_json::from_slice(&rest[at..]).map_err(|_| "its last line cannot be read")?;
    let at = from + at as u64;
    if trailer.bytes != at {
        return Err(format!("it has {at} bytes instead of {}", trailer.bytes));
    }
    Ok((trailer, at))
}

/// Reads a part; `None` if there is none.
pub(super) fn read(
    disk: &dyn Disk,
    folder: &Path,
    part: &str,
    newest_format: u32,
    limits: Limits,
) -> Result<Option<SavedPart>, (Discarded, String)> {
    let damaged = |problem: String| (Discarded::Damaged, problem);
    let path = path(folder, part);
    match disk.facts(&path) {
        // A pipe would hold up the start until somebody writes to it.
        Ok(found) if !found.is_regular => return Err(damaged("it is no regular file".into())),
        Ok(_) => {}
        // The folder may be none at all.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(damaged(error.to_string())),
    }
    let file = disk.open(&path, Opened::ToRead).map_err(|error| damaged(error.to_string()))?;
    let (trailer, length) = trailer(&*file).map_err(damaged)?;
    // A sink's name may end so, too.
    if trailer.part != part && Some(&*trailer.part) != part.strip_suffix(OVER) {
        return Err(damaged(format!("it is the part `{}`", trailer.part)));
    }
    if trailer.format > newest_format {
        let (format, version) = (trailer.format, &trailer.version);
        let problem =
            format!("version {version} wrote it in format {format}, and this one reads up to {newest_format}");
        return Err((Discarded::Format, problem));
    }
    let age_secs = trailer.age_secs();
    if age_secs > limits.age.as_secs_f64() {
        return Err((Discarded::Age, format!("it is {:.1} hours old", age_secs / 3600.0)));
    }
    if length > limits.bytes {
        return Err((Discarded::Size, format!("it has {length} bytes, more than {}", limits.bytes)));
    }
    let mut bytes = vec![0; length as usize];
    file.read_at(&mut bytes, 0).map_err(|error| damaged(error.to_string()))?;
    if crc32fast::hash(&bytes) != trailer.crc32 {
        return Err(damaged("its checksum is wrong".into()));
    }
    Ok(Some(SavedPart { bytes, format: trailer.format, written: trailer.written, age_secs }))
}
