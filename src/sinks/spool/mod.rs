//! Intervals on disk while their receiver is away: append-only segments of checksummed frames, bounded in size and age.
//!
//! A folder holds `NNNNNNNNNNNNNNNN.segment` files, named by the position of their first frame, a `cursor` and a `lock`. A
//! frame is, in little-endian order:
//!
//! ```text
//! body bytes u32 | CRC-32 of the 32 bytes that follow u32 | position u64 | end f64 | records before u64 | records u32 | CRC-32 of the body u32 | body
//! ```
//! Positions count frames, `records before` counts records, over the life of the folder: what is missing between two frames is
//! known to the record. The body is an encoded snapshot. A frame counts as held when it is on disk (fsync). The cursor says
//! which frame is the next to deliver; it is two slots, written in turn, of `position u64 | records before u64 | CRC-32 u32`.
//! It is not synced: after a crash of the whole machine an interval may be delivered again, never lost.
//!
//! A frame that was cut short, or whose body has another checksum, is skipped and its records are counted; what follows it is
//! not touched. A head with one wrong bit is corrected by its checksum. One with more is searched past: the next head of the
//! segment that fits says how many records are missing.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::disk::{Disk, DiskFile, DiskHandle, Opened};
use crate::snapshot::Snapshot;

const HEAD: usize = 40;
/// Its names in the folder.
const LOCK: &str = "lock";
const CURSOR: &str = "cursor";
/// Bytes from which on a new segment is begun.
const SEGMENT_BYTES: u64 = 8 << 20;
/// Bytes that are searched for a head at once.
const SEARCH_BYTES: usize = 64 << 10;
/// Segments that a full spool has at least, so that making room costs no more than one of them.
const LEAST_SEGMENTS: u64 = 8;

/// In which order a sink gets what waited and what is new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As it happened.
    #[default]
    Strict,
    /// What is new first, what waited in between: for receivers that take old points.
    Interleave,
}

/// Where and how much is spooled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolOptions {
    /// A folder of its own.
    pub path: PathBuf,
    /// Most bytes on disk; the oldest intervals make room.
    pub max_bytes: u64,
    /// What is older is dropped.
    pub max_age: Duration,
    /// Who comes first.
    pub order: Order,
    /// Most intervals per second that are taken from it; 0 is as fast as they are taken.
    pub rate: u64,
    /// What the folder lies on.
    pub disk: DiskHandle,
}

impl Default for SpoolOptions {
    fn default() -> SpoolOptions {
        let path = PathBuf::new();
        SpoolOptions {
            path,
            max_bytes: 1 << 30,
            max_age: Duration::from_secs(7 * 86_400),
            order: Order::Strict,
            rate: 10,
            disk: DiskHandle::default(),
        }
    }
}

/// Records that are gone, and why.
pub(super) type Lost = Vec<(&'static str, u64)>;

/// What the account of a sink does not have yet of its spool.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    /// Records that were written.
    pub(super) appended: u64,
    pub(super) lost: Lost,
}

/// A frame that was not cut short.
#[derive(Clone, Copy, Debug)]
struct Head {
    body_bytes: u32,
    position: u64,
    end: f64,
    before: u64,
    records: u32,
    body_crc: u32,
}

impl Head {
    fn to_bytes(self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..4].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.position.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.end.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.before.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.records.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = head_crc(&bytes);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; HEAD]) -> Option<Head> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let end = f64::from_bits(long(16));
        (word(4) == head_crc(bytes) && end.is_finite()).then(|| Head {
            body_bytes: word(0),
            position: long(8),
            end,
            before: long(24),
            records: word(32),
            body_crc: word(36),
        })
    }
}

/// Where a segment has been read up to: the position of the next frame, and the records before it.
type Due = (u64, u64);

impl Head {
    /// The head in these bytes if it may come next in a segment of which `room` bytes are left.
    fn next(bytes: &[u8; HEAD], due: Due, room: u64) -> Option<Head> {
        // Every frame in between takes the room of a head at least.
        let positions = due.0..=due.0.saturating_add(room / HEAD as u64);
        let position = u64::from_le_bytes(bytes[8..16].try_into().ok()?);
        let head = positions.contains(&position).then(|| Head::from_bytes(bytes))??;
        (head.before >= due.1).then_some(head)
    }

    /// The head in these bytes if one bit of them is wrong. The checksum finds every change of up to four bits in so few bytes
    /// (Koopman and Chakravarty, "Cyclic redundancy code polynomial selection"), so that no other head is that near.
    fn corrected(bytes: &[u8; HEAD], due: Due, room: u64) -> Option<Head> {
        (0..HEAD * 8).find_map(|bit| {
            let mut bytes = *bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            Head::next(&bytes, due, room)
        })
    }
}

fn head_crc(bytes: &[u8; HEAD]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..4]);
    crc.update(&bytes[8..]);
    crc.finalize()
}

/// A frame and where its body lies.
#[derive(Clone, Copy, Debug)]
struct Frame {
    head: Head,
    offset: u64,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    bytes: u64,
    /// Those that are still to be delivered.
    frames: VecDeque<Frame>,
}

/// The spool of one sink. Everything here may block.
#[derive(Debug)]
pub(super) struct Spool {
    options: SpoolOptions,
    segments: VecDeque<Segment>,
    /// The segment that is written, the last one.
    writer: Option<Box<dyn DiskFile>>,
    /// Position of the next frame, and records before it.
    next: (u64, u64),
    cursor: Box<dyn DiskFile>,
    cursor_slot: u64,
    /// Delivered out of turn.
    removed: BTreeSet<u64>,
    /// Being delivered.
    busy: Option<u64>,
    /// Records of the one being delivered if it had to make room meanwhile. What becomes of them is open.
    evicted: Option<u64>,
    /// With those of `evicted`.
    records: u64,
    /// What happened since it was last asked for.
    changes: Changes,
    /// Holds the folder for us.
    _lock: Box<dyn DiskFile>,
}

/// Bytes of intervals that wait in a folder, whoever spools there.
///
/// # Errors
/// If it cannot be read.
pub fn spooled_bytes(folder: &Path) -> io::Result<u64> {
    let disk = DiskHandle::default();
    segments(&*disk, folder)?.iter().map(|(_, path)| Ok(disk.facts(path)?.bytes)).sum()
}

/// Whether a sink, of this process or another one, spools to a folder.
///
/// # Errors
/// `NotFound` if nobody has spooled there, and what the disk says.
pub fn is_spool_held(folder: &Path) -> io::Result<bool> {
    let lock = DiskHandle::default().open(&folder.join(LOCK), Opened::ToRead)?;
    lock.try_lock().map(|is_ours| !is_ours)
}

/// The segments in a folder, in order, each with the position of its first frame.
fn segments(disk: &dyn Disk, folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for path in disk.list(folder)? {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
        let is_ours = stem.len() == 16 && stem.bytes().all(|b| b.is_ascii_hexdigit());
        if let Ok(first) = u64::from_str_radix(stem, 16)
            && is_ours
            && path.extension().is_some_and(|extension| extension == "segment")
        {
            found.push((first, path));
        }
    }
    found.sort();
    Ok(found)
}

impl Spool {
    /// Opens a folder, made if it is not there, with what it holds from before; what of it is lost.
    ///
    /// # Errors
    /// If the folder cannot be used, or another process uses it.
    pub(super) fn open(options: SpoolOptions) -> io::Result<(Spool, Lost)> {
        let (lock, cursor) = Spool::claim(&options)?;
        let start = read_cursor(&*cursor);
        let mut spool = Spool {
            options,
            segments: VecDeque::new(),
            writer: None,
            next: start.unwrap_or((0, 0)),
            cursor,
            cursor_slot: 0,
            removed: BTreeSet::new(),
            busy: None,
            evicted: None,
            records: 0,
            changes: Changes::default(),
            _lock: lock,
        };
        let damaged = spool.scan(start)?;
        if start.is_none() {
            spool.write_cursor();
        }
        Ok((spool, if damaged > 0 { vec![("spool_damaged", damaged)] } else { Vec::new() }))
    }

    /// Makes sure that a folder can be opened; what it holds stays as it is.
    ///
    /// # Errors
    /// As of [`Spool::open`].
    pub(super) fn check(options: &SpoolOptions) -> io::Result<()> {
        Spool::claim(options).map(drop)
    }

    /// The same of a folder that another process has until it hands over to this one.
    ///
    /// # Errors
    /// As of [`Spool::open`], but that it is used.
    pub(super) fn check_held(options: &SpoolOptions) -> io::Result<()> {
        let disk = &options.disk;
        disk.make_folder(&options.path, false)?;
        for name in [LOCK, CURSOR] {
            disk.open(&options.path.join(name), Opened::Made)?;
        }
        let segments = segments(&**disk, &options.path)?;
        segments.iter().try_for_each(|(_, path)| match disk.open(path, Opened::ToRead) {
            // It was delivered meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            opened => opened.map(drop),
        })
    }

    /// Makes the folder if it is not there, and takes it for one spool: its lock, and its cursor.
    fn claim(options: &SpoolOptions) -> io::Result<(Box<dyn DiskFile>, Box<dyn DiskFile>)> {
        let disk = &options.disk;
        disk.make_folder(&options.path, false)?;
        let lock = disk.open(&options.path.join(LOCK), Opened::Made)?;
        if !lock.try_lock()? {
            return Err(io::Error::other("another process or sink uses it"));
        }
        Ok((lock, disk.open(&options.path.join(CURSOR), Opened::Made)?))
    }

    /// Finds the frames that are to be delivered; how many records are missing between them.
    fn scan(&mut self, start: Option<(u64, u64)>) -> io::Result<u64> {
        let paths = segments(&*self.options.disk, &self.options.path)?;
        let mut damaged = 0;
        // Records that should stand before the next frame.
        let mut due: Option<u64> = start.map(|(_, before)| before);
        for (first, path) in paths {
            let (heads, bytes) = scan_segment(&*self.options.disk, &path, first)?;
            let mut frames = VecDeque::new();
            for Frame { head, offset } in heads {
                if start.is_some_and(|(position, _)| head.position < position) {
                    continue;
                }
                damaged += head.before.saturating_sub(due.unwrap_or(head.before));
                due = Some(head.before + u64::from(head.records));
                self.next = (head.position + 1, head.before + u64::from(head.records));
                if offset + u64::from(head.body_bytes) > bytes {
                    // It was cut short.
                    damaged += u64::from(head.records);
                    continue;
                }
                self.records += u64::from(head.records);
                frames.push_back(Frame { head, offset });
            }
            if frames.is_empty() {
                self.options.disk.remove(&path)?;
            } else {
                self.segments.push_back(Segment { path, bytes, frames });
            }
        }
        Ok(damaged)
    }

    /// Writes a snapshot to disk, and waits until it is there; the position that it has. What had to make room for it is among
    /// the changes, also if it is not written.
    ///
    /// # Errors
    /// If the disk does not take it: then nothing of it is left.
    pub(super) fn append(&mut self, snapshot: &Snapshot) -> io::Result<u64> {
        let body = snapshot.encode()?;
        let too_large = || io::Error::other("the interval is larger than a spool takes");
        let (position, before) = self.next;
        let head = Head {
            body_bytes: u32::try_from(body.len()).map_err(|_| too_large())?,
            position,
            end: snapshot.end,
            before,
            records: u32::try_from(snapshot.len()).map_err(|_| too_large())?,
            body_crc: crc32fast::hash(&body),
        };
        let bytes = (HEAD + body.len()) as u64;
        if bytes > self.options.max_bytes {
            return Err(too_large());
        }
        self.make_room(bytes)?;
        let limit = SEGMENT_BYTES.min(self.options.max_bytes / LEAST_SEGMENTS);
        if self.writer.is_none() || self.segments.back().is_none_or(|last| last.bytes + bytes > limit) {
            self.begin_segment()?;
        }
        let (Some(file), Some(segment)) = (self.writer.as_mut(), self.segments.back_mut()) else {
            return Err(io::Error::other("there is no segment"));
        };
        let mut frame = head.to_bytes().to_vec();
        frame.extend_from_slice(&body);
        let written = file.write_at(&frame, segment.bytes).and_then(|()| file.sync());
        if let Err(error) = written {
            // What was written of it is taken back, if that is possible; the next goes to another segment.
            let _ = file.cut(segment.bytes);
            self.writer = None;
            return Err(error);
        }
        segment.frames.push_back(Frame { head, offset: segment.bytes + HEAD as u64 });
        segment.bytes += bytes;
        self.records += u64::from(head.records);
        self.changes.appended += u64::from(head.records);
        self.next = (position + 1, before + u64::from(head.records));
        Ok(position)
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        self.writer = None;
        // One that nothing could be written to is used again.
        if self.segments.back().is_some_and(|last| last.bytes == 0) {
            self.segments.pop_back();
        }
        let path = self.options.path.join(format!("{:016x}.segment", self.next.0));
        let file = self.options.disk.open(&path, Opened::Emptied)?;
        self.options.disk.sync_folder(&self.options.path)?;
        self.segments.push_back(Segment { path, bytes: 0, frames: VecDeque::new() });
        self.writer = Some(file);
        Ok(())
    }

    /// Drops the oldest segments until so many bytes have room.
    fn make_room(&mut self, bytes: u64) -> io::Result<()> {
        while self.bytes() + bytes > self.options.max_bytes {
            let Some(path) = self.segments.front().map(|oldest| &oldest.path) else { break };
            // One that cannot be removed keeps its room, and nothing of it is lost.
            match self.options.disk.remove(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let Some(oldest) = self.segments.pop_front() else { break };
            let records = self.forget(&oldest.frames);
            self.lose("spool_full", records);
            if self.segments.is_empty() {
                self.writer = None;
            }
            self.write_cursor();
        }
        Ok(())
    }

    fn lose(&mut self, reason: &'static str, records: u64) {
        if records > 0 {
            self.changes.lost.push((reason, records));
        }
    }

    /// What happened since this was last asked for.
    pub(super) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Takes frames out of the count, without one that is being delivered; how many records of them are lost.
    fn forget(&mut self, frames: &VecDeque<Frame>) -> u64 {
        let mut lost = 0;
        for frame in frames {
            if self.removed.remove(&frame.head.position) {
                continue;
            }
            let records = u64::from(frame.head.records);
            if self.busy == Some(frame.head.position) {
                self.evicted = Some(records);
            } else {
                lost += records;
            }
        }
        self.records -= lost;
        lost
    }

    /// The oldest snapshot, with its position; it stays until it is removed.
    pub(super) fn front(&mut self, now: f64) -> Option<(u64, Snapshot)> {
        let (mut damaged, mut expired) = (0, 0);
        let oldest = now - self.options.max_age.as_secs_f64();
        let found = loop {
            let Some((path, frame)) = self.segments.iter().find_map(|s| Some((&s.path, *s.frames.front()?))) else {
                break None;
            };
            let records = u64::from(frame.head.records);
            if frame.head.end < oldest {
                expired += records;
                self.remove(frame.head.position);
                continue;
            }
            match read_body(&*self.options.disk, path, frame).and_then(|body| Snapshot::decode(&body)) {
                Ok(snapshot) => break Some((frame.head.position, snapshot)),
                Err(error) => {
                    tracing::warn!(segment = %path.display(), %error, records, "a spooled interval cannot be read; it is skipped");
                    damaged += records;
                    self.remove(frame.head.position);
                }
            }
        };
        self.busy = found.as_ref().map(|(position, _)| *position);
        self.lose("spool_damaged", damaged);
        self.lose("spool_expired", expired);
        found
    }

    /// Marks the snapshot at a position as being delivered.
    pub(super) fn mark_busy(&mut self, position: u64) {
        self.busy = Some(position);
    }

    /// Says that the snapshot at a position is not being delivered any more. It is lost if it had to make room meanwhile.
    pub(super) fn put_off(&mut self, position: u64) {
        let evicted = self.end_delivery(position);
        self.lose("spool_full", evicted);
    }

    /// Ends the delivery of the snapshot at a position; records of it that had to make room.
    fn end_delivery(&mut self, position: u64) -> u64 {
        if self.busy != Some(position) {
            return 0;
        }
        self.busy = None;
        let evicted = self.evicted.take().unwrap_or(0);
        self.records -= evicted;
        evicted
    }

    /// Lets the snapshot at a position go: it was delivered.
    pub(super) fn remove(&mut self, position: u64) {
        self.end_delivery(position);
        let Some(frame) = self.segments.iter().flat_map(|s| &s.frames).find(|f| f.head.position == position) else {
            return;
        };
        self.records -= u64::from(frame.head.records);
        self.removed.insert(position);
        // Those at the front go, in whatever order they were delivered.
        while let Some(segment) = self.segments.front_mut() {
            while let Some(first) = segment.frames.front()
                && self.removed.remove(&first.head.position)
            {
                segment.frames.pop_front();
            }
            if !segment.frames.is_empty() {
                break;
            }
            let path = segment.path.clone();
            self.segments.pop_front();
            if self.segments.is_empty() {
                self.writer = None;
            }
            self.write_cursor();
            if let Err(error) = self.options.disk.remove(&path) {
                tracing::warn!(segment = %path.display(), %error, "a segment that was delivered cannot be removed");
            }
        }
        self.write_cursor();
    }

    fn write_cursor(&mut self) {
        let first = self.segments.iter().find_map(|segment| segment.frames.front());
        let (position, before) = first.map_or(self.next, |frame| (frame.head.position, frame.head.before));
        let mut slot = [0; 20];
        slot[..8].copy_from_slice(&position.to_le_bytes());
        slot[8..16].copy_from_slice(&before.to_le_bytes());
        let crc = crc32fast::hash(&slot[..16]);
        slot[16..].copy_from_slice(&crc.to_le_bytes());
        self.cursor_slot = 1 - self.cursor_slot;
        if let Err(error) = self.cursor.write_at(&slot, self.cursor_slot * slot.len() as u64) {
            tracing::warn!(%error, "the spool's cursor cannot be written; after a restart intervals may be delivered again");
        }
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Records that are held, with those in delivery that had to make room.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// Records in delivery that had to make room: they are not on disk any more.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted.unwrap_or(0)
    }

    /// Intervals that are held.
    pub(super) fn intervals(&self) -> usize {
        let frames: usize = self.segments.iter().map(|segment| segment.frames.len()).sum();
        frames - self.removed.len()
    }

    /// Nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.segments.iter().all(|segment| segment.frames.is_empty())
    }

    /// End of the oldest interval, Unix seconds.
    pub(super) fn oldest(&self) -> Option<f64> {
        self.segments.iter().find_map(|segment| segment.frames.front()).map(|frame| frame.head.end)
    }

    /// Is used in another way from now on; its folder is the same.
    pub(super) fn set_options(&mut self, options: SpoolOptions) {
        self.options = options;
    }

    /// How it is used.
    pub(super) fn options(&self) -> &SpoolOptions {
        &self.options
    }
}

/// The heads in a segment whose first frame has the position `first`, with the places of their bodies; and how long the segment
/// is. Where a head is damaged, the next one that fits is searched.
fn scan_segment(disk: &dyn Disk, path: &Path, first: u64) -> io::Result<(Vec<Frame>, u64)> {
    let file = disk.open(path, Opened::ToRead)?;
    let bytes = file.bytes()?;
    let mut frames = Vec::new();
    let (mut offset, mut due) = (0, (first, 0));
    while offset + HEAD as u64 <= bytes {
        let mut head = [0; HEAD];
        file.read_at(&mut head, offset)?;
        let room = bytes - offset;
        let found = match Head::next(&head, due, room) {
            Some(head) => Some((offset, head)),
            None => {
                let corrected = Head::corrected(&head, due, room).map(|head| (offset, head));
                let found = match corrected {
                    Some(found) => Some(found),
                    None => find_head(&*file, offset + 1, due, room)?,
                };
                let skipped = found.map_or(bytes, |(at, _)| at) - offset;
                tracing::warn!(segment = %path.display(), at = offset, skipped, "a frame of the spool is damaged");
                found
            }
        };
        let Some((at, head)) = found else { return Ok((frames, bytes)) };
        offset = at + HEAD as u64;
        frames.push(Frame { head, offset });
        offset += u64::from(head.body_bytes);
        due = (head.position + 1, head.before + u64::from(head.records));
    }
    if offset != bytes {
        tracing::warn!(segment = %path.display(), at = offset, bytes, "a segment of the spool was cut short");
    }
    Ok((frames, bytes))
}

/// The first head at or after an offset that may come next, and where it is.
fn find_head(file: &dyn DiskFile, from: u64, due: Due, room: u64) -> io::Result<Option<(u64, Head)>> {
    let bytes = file.bytes()?;
    let mut block = vec![0; SEARCH_BYTES + HEAD - 1];
    let mut start = from;
    while start + HEAD as u64 <= bytes {
        let length = block.len().min((bytes - start) as usize);
        file.read_at(&mut block[..length], start)?;
        let found = block[..length]
            .array_windows::<HEAD>()
            .zip(start..)
            .find_map(|(window, at)| Head::next(window, due, room).map(|head| (at, head)));
        if found.is_some() {
            return Ok(found);
        }
        start += SEARCH_BYTES as u64;
    }
    Ok(None)
}

fn read_body(disk: &dyn Disk, path: &Path, frame: Frame) -> io::Result<Vec<u8>> {
    let mut body = vec![0; frame.head.body_bytes as usize];
    disk.open(path, Opened::ToRead)?.read_at(&mut body, frame.offset)?;
    if crc32fast::hash(&body) != frame.head.body_crc {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its checksum is wrong"));
    }
    Ok(body)
}

/// The later of the two slots.
fn read_cursor(file: &dyn DiskFile) -> Option<(u64, u64)> {
    let slot = |n: u64| {
        let mut slot = [0; 20];
        file.read_at(&mut slot, n * 20).ok()?;
        let (value, crc) = slot.split_at(16);
        let is_whole = crc32fast::hash(value).to_le_bytes() == crc;
        let long = |at: usize| value[at..at + 8].iter().rev().fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte));
        is_whole.then(|| (long(0), long(8)))
    };
    slot(0).max(slot(1))
}

#[cfg(test)]
mod tests;
