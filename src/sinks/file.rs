//! Records in a file, one a line. An interval is written whole or not at all: after a failure, what was
//! written of it is truncated. Rotation by size and age keeps `path.1` (the newest) to `path.N`.
//!
//! A file that was moved or deleted is replaced before the next interval.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::codec::Records;
use crate::snapshot::Snapshot;

use super::blocking::{Blocking, Writer};
use super::spec::bare;
use super::{Delivery, LONG, Opt, OptionVisitor, Receipt, Sink, SinkContext, SinkError, Spec};

/// `file` in the configuration: where and how records are filed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpec {
    /// The file.
    pub path: PathBuf,
    /// Rotate before it outgrows so many bytes.
    pub max_size: Option<u64>,
    /// Rotate when it is so old.
    pub max_age: Option<Duration>,
    /// Rotated files kept.
    pub keep: u64,
}

impl Default for FileSpec {
    fn default() -> FileSpec {
        FileSpec { path: PathBuf::new(), max_size: None, max_age: None, keep: 7 }
    }
}

impl FileSpec {
    /// Shows every option to a visitor, with an example of a path.
    pub(super) fn options_with(&mut self, path: &str, visitor: &mut dyn OptionVisitor) {
        visitor.field("path", "The file.", Opt::Path(&mut self.path));
        visitor.require_one("path", !self.path.as_os_str().is_empty(), path);
        visitor.field(
            "max_size",
            "A new file is started when this one would exceed it.",
            Opt::MaybeSize(&mut self.max_size, 1..=1 << 50),
        );
        visitor.example("max_size", "\"1GiB\"");
        visitor.field(
            "max_age",
            "A new file is started when this one is so old.",
            Opt::MaybeDuration(&mut self.max_age, Duration::from_secs(1)..=LONG),
        );
        visitor.example("max_age", "\"1day\"");
        visitor.field("keep", "Finished files that are kept.", Opt::Whole(&mut self.keep, 1..=10_000));
    }
}

impl Spec for FileSpec {
    fn options(&mut self, visitor: &mut dyn OptionVisitor) {
        self.options_with("\"/var/log/systole/records.jsonl\"", visitor);
    }

    fn set_from_url(&mut self, place: &str) -> Result<(), String> {
        if bare(place).is_empty() {
            return Err("no path; `file:///var/log/systole/records.jsonl` is right".into());
        }
        self.path = place.strip_prefix("//").unwrap_or(place).into();
        Ok(())
    }

    fn file(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn accepts_out_of_order(&self) -> bool {
        true
    }

    fn probe(&self) -> Result<String, String> {
        let there = self.path.exists();
        let opened = OpenOptions::new().append(true).create(true).open(&self.path);
        if opened.is_ok() && !there {
            // A check leaves nothing behind.
            let _ = std::fs::remove_file(&self.path);
        }
        let path = self.path.display();
        opened.map(|_| format!("{path} can be written")).map_err(|error| format!("cannot write {path}: {error}"))
    }

    fn open(&self, _: &SinkContext) -> Result<Box<dyn Sink>, String> {
        Ok(Box::new(FileSink::open(self.clone()).map_err(|error| self.cannot_write(&error))?))
    }
}

impl FileSpec {
    /// Why the sink cannot be made, and what would be right.
    pub(super) fn cannot_write(&self, error: &io::Error) -> String {
        let path = self.path.display();
        format!("cannot write {path}: {error}; make the folder, or choose a path that can be written")
    }
}

/// A file of records.
pub struct FileSink(Blocking<FileWriter>);

impl FileSink {
    /// Opens the file for appending, made if it is not there.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(options: FileSpec) -> io::Result<FileSink> {
        Ok(FileSink(Blocking::new(FileWriter::open(options)?)))
    }
}

impl Sink for FileSink {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(self.0.deliver(snapshot))
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// A file that whole intervals are appended to, and that is rotated.
pub(super) struct FileWriter {
    options: FileSpec,
    file: File,
    size: u64,
    since: SystemTime,
}

impl FileWriter {
    pub(super) fn open(options: FileSpec) -> io::Result<FileWriter> {
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(&options.path)?;
        let metadata = file.metadata()?;
        let mut size = if metadata.is_file() { metadata.len() } else { 0 };
        if size > 0 {
            // A daemon that was killed may have left half a record.
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                size += 1;
            }
        }
        let since = metadata.created().unwrap_or_else(|_| SystemTime::now());
        Ok(FileWriter { options, file, size, since })
    }

    fn is_due(&self, coming: u64) -> bool {
        let too_large = self.options.max_size.is_some_and(|max| self.size > 0 && self.size + coming > max);
        let too_old = self.options.max_age.is_some_and(|max| self.since.elapsed().is_ok_and(|age| age >= max));
        too_large || (too_old && self.size > 0)
    }

    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |n: u64| -> PathBuf {
            let mut path = self.options.path.clone().into_os_string();
            path.push(format!(".{n}"));
            path.into()
        };
        let move_if_there = |from: &Path, to: &Path| match std::fs::rename(from, to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        for n in (1..self.options.keep).rev() {
            move_if_there(&numbered(n), &numbered(n + 1))?;
        }
        move_if_there(&self.options.path, &numbered(1))?;
        let fresh = FileWriter::open(self.options.clone())?;
        (self.file, self.size, self.since) = (fresh.file, fresh.size, SystemTime::now());
        Ok(())
    }
}

/// What a path names: device and inode.
pub(super) type FileId = (u64, u64);

fn id_of(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// The file that a path names; `None` if there is none.
pub(super) fn file_id(path: &Path) -> io::Result<Option<FileId>> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(id_of(&metadata))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl FileWriter {
    /// Opens the file anew if the path names another one by now, or none.
    fn follow_path(&mut self) -> io::Result<()> {
        let metadata = self.file.metadata()?;
        if file_id(&self.options.path)? == Some(id_of(&metadata)) {
            // Log rotation may also cut a file where it is.
            if metadata.is_file() && metadata.len() < self.size {
                tracing::info!(path = %self.options.path.display(), "the file was cut; it continues at its new end");
                self.size = metadata.len();
            }
            return Ok(());
        }
        let fresh = FileWriter::open(self.options.clone())?;
        (self.file, self.size, self.since) = (fresh.file, fresh.size, fresh.since);
        tracing::info!(path = %self.options.path.display(), "the file was moved or deleted; writing to a new one");
        Ok(())
    }

    /// Whether the file was deleted, so that what is written to it is lost. If that cannot be found out, it is taken to be there.
    fn is_deleted(&self) -> bool {
        let Ok(metadata) = self.file.metadata() else { return false };
        metadata.nlink() == 0 && file_id(&self.options.path).is_ok_and(|named| named != Some(id_of(&metadata)))
    }

    /// Appends bytes whole or not at all, below `head` where the file is new.
    pub(super) fn append(&mut self, head: &str, bytes: &[u8]) -> io::Result<()> {
        self.follow_path()?;
        if self.is_due(bytes.len() as u64) {
            self.rotate()?;
        }
        let head = if self.size == 0 { head.as_bytes() } else { b"" };
        let outcome = self.file.write_all(&[head, bytes].concat());
        self.end_append(outcome, (head.len() + bytes.len()) as u64)
    }

    /// Ends an append of so many bytes: what failed is taken out again.
    fn end_append(&mut self, outcome: io::Result<()>, more: u64) -> io::Result<()> {
        match outcome {
            Ok(()) if self.is_deleted() => Err(io::Error::other("the file was deleted while it was written")),
            Ok(()) => {
                self.size += more;
                Ok(())
            }
            Err(error) => {
                // A pipe cannot be truncated; a file can.
                let _ = self.file.set_len(self.size);
                Err(error)
            }
        }
    }
}

impl Writer for FileWriter {
    fn write(&mut self, snapshot: &Snapshot) -> io::Result<Receipt> {
        self.follow_path()?;
        let mut length = 0;
        if self.options.max_size.is_some() {
            // Whether it still fits is known before it is written.
            Records::ALL.write_parts(snapshot, |part| {
                length += part.len() as u64;
                Ok(())
            })?;
        }
        if self.is_due(length) {
            self.rotate()?;
        }
        let (file, mut more) = (&mut self.file, 0);
        let outcome = Records::ALL.write_parts(snapshot, |part| {
            more += part.len() as u64;
            file.write_all(part)
        });
        self.end_append(outcome, more).map(|()| Receipt::default())
    }
}
