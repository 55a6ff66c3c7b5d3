//! The values of one series: rows of the open block as they came, sealed blocks of intervals, and minutes, likewise.
//!
//! A row is what an interval has of a series: a number, or several of a timer. Intervals without it have no row, which a mask
//! says. A minute's row is made of those of its intervals when these leave ([`Fold`]).
//!
//! ```text
//! block    number u16, modulo 2^16 | flags u8 | [mask u32] | [which were updated u32] | columns
//! minutes  the same, where the number is that of 30 minutes since 1970
//! ```

use crate::memory::{footprint, vec_footprint};

use super::axis::{Axis, BLOCK};
use super::codec;

const FULL: u32 = (1 << BLOCK) - 1;

const IS_FULL: u8 = 1;
const ALL_UPDATED: u8 = 2;

/// Numbers of the row of a minute that are no timer's: how many, their sum, the smallest and the largest.
pub(super) const PLAIN: usize = 4;

/// Numbers of a timer that are no percentiles: count, sum, smallest, largest, median.
pub(super) const MOMENTS: usize = 5;

/// What the rows of a series consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Numbers of a row, 1 or those of a timer.
    pub(super) width: usize,
}

impl Shape {
    pub(super) fn is_timer(self) -> bool {
        self.width > 1
    }

    /// Numbers of a minute's row.
    fn minute_width(self) -> usize {
        if self.is_timer() { self.width } else { PLAIN }
    }
}

/// Several rows as one.
#[derive(Clone, Debug)]
pub(super) struct Fold {
    shape: Shape,
    /// As in a minute's row; of a timer's median and percentiles the sum weighted by the count.
    sums: Vec<f64>,
    /// The weights of those.
    weights: Vec<f64>,
    is_empty: bool,
}

impl Fold {
    pub(super) fn new(shape: Shape) -> Fold {
        let width = shape.minute_width();
        Fold { shape, sums: vec![0.0; width], weights: vec![0.0; width], is_empty: true }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.is_empty
    }

    fn clear(&mut self) {
        self.sums.fill(0.0);
        self.weights.fill(0.0);
        self.is_empty = true;
    }

    /// Adds the row of an interval.
    pub(super) fn add(&mut self, row: &[f32]) {
        match row {
            [value] if !self.shape.is_timer() => self.add_plain(1.0, *value, *value, *value),
            row => self.add_timer(row),
        }
    }

    /// Adds the row of a minute.
    pub(super) fn add_minute(&mut self, row: &[f32]) {
        match row {
            [count, sum, least, largest] if !self.shape.is_timer() => {
                self.add_plain(f64::from(*count), *sum, *least, *largest);
            }
            row => self.add_timer(row),
        }
    }

    fn add_plain(&mut self, count: f64, sum: f32, least: f32, largest: f32) {
        self.extremes(2, least, largest);
        self.sums[0] += count;
        self.sums[1] += f64::from(sum);
    }

    fn add_timer(&mut self, row: &[f32]) {
        let [count, sum, least, largest, rest @ ..] = row else { return };
        self.extremes(2, *least, *largest);
        self.sums[0] += f64::from(*count);
        self.sums[1] += f64::from(*sum);
        // A timer without a count has a weight all the same.
        let weight = f64::from(*count).max(1e-9);
        for (n, value) in rest.iter().enumerate().filter(|(_, value)| !value.is_nan()) {
            self.sums[PLAIN + n] += weight * f64::from(*value);
            self.weights[PLAIN + n] += weight;
        }
    }

    fn extremes(&mut self, at: usize, least: f32, largest: f32) {
        let (least, largest) = (f64::from(least), f64::from(largest));
        let is_first = std::mem::replace(&mut self.is_empty, false);
        self.sums[at] = if is_first { least } else { self.sums[at].min(least) };
        self.sums[at + 1] = if is_first { largest } else { self.sums[at + 1].max(largest) };
    }

    /// The row of all that was added; not a number where there is none.
    pub(super) fn row(&self, out: &mut Vec<f32>) {
        out.clear();
        out.extend(self.sums[..PLAIN].iter().map(|sum| codec::kept(*sum)));
        let means = self.sums[PLAIN..].iter().zip(&self.weights[PLAIN..]);
        out.extend(means.map(|(sum, weight)| if *weight > 0.0 { codec::kept(sum / weight) } else { f32::NAN }));
    }
}

/// Rows that are not sealed yet.
#[derive(Clone, Debug, Default)]
struct Head {
    block: u32,
    mask: u32,
    rows: Vec<f32>,
}

impl Head {
    /// Puts a row at a place of its block, which comes after those before.
    fn push(&mut self, block: u32, place: u32, row: &[f32]) {
        let bit = 1 << place;
        if self.mask & bit != 0 {
            let at = self.rows.len() - row.len();
            self.rows[at..].copy_from_slice(row);
            return;
        }
        self.block = block;
        self.mask |= bit;
        if self.rows.len() + row.len() > self.rows.capacity() {
            let rows = match self.rows.len() / row.len() {
                0..6 => 6,
                6..14 => 14,
                _ => BLOCK as usize,
            };
            self.rows.reserve_exact(rows * row.len() - self.rows.len());
        }
        self.rows.extend_from_slice(row);
    }

    /// Writes the rows as a block and forgets them.
    fn seal(&mut self, width: usize, updated: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.block as u16).to_le_bytes());
        let is_full = self.mask == FULL;
        let all = updated == self.mask;
        out.push((u8::from(is_full) * IS_FULL) | (u8::from(all) * ALL_UPDATED));
        if !is_full {
            out.extend_from_slice(&self.mask.to_le_bytes());
        }
        if !all {
            out.extend_from_slice(&updated.to_le_bytes());
        }
        let mut column = [0.0; codec::MOST];
        let count = self.rows.len() / width;
        for n in 0..width {
            column.iter_mut().zip(self.rows[n..].iter().step_by(width)).for_each(|(value, own)| *value = *own);
            codec::encode(&column[..count], out);
        }
        self.forget();
    }

    fn forget(&mut self) {
        self.mask = 0;
        self.rows = Vec::new();
    }
}

/// A sealed block.
#[derive(Clone, Copy, Debug)]
struct Sealed<'a> {
    number: u32,
    mask: u32,
    updated: u32,
    columns: &'a [u8],
    /// Its first byte.
    start: usize,
}

/// Sealed blocks, oldest first; `newest` is a number not below any of theirs.
fn blocks(bytes: &[u8], width: usize, newest: u32) -> impl Iterator<Item = Sealed<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let start = bytes.len() - rest.len();
        let (head, after) = rest.split_first_chunk::<3>()?;
        rest = after;
        let four = |rest: &mut &[u8]| {
            let (four, after) = rest.split_first_chunk::<4>()?;
            *rest = after;
            Some(u32::from_le_bytes(*four))
        };
        let mask = if head[2] & IS_FULL != 0 { FULL } else { four(&mut rest)? };
        let updated = if head[2] & ALL_UPDATED != 0 { mask } else { four(&mut rest)? };
        let back = (newest as u16).wrapping_sub(u16::from_le_bytes([head[0], head[1]]));
        let number = newest.wrapping_sub(u32::from(back));
        let columns = rest;
        (0..width).for_each(|_| codec::skip(&mut rest, mask.count_ones() as usize));
        let columns = &columns[..columns.len() - rest.len()];
        Some(Sealed { number, mask, updated, columns, start })
    })
}

/// Places of a mask, in order.
fn places(mut mask: u32) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let place = (mask != 0).then(|| mask.trailing_zeros())?;
        mask &= mask - 1;
        Some(place)
    })
}

impl Sealed<'_> {
    /// Shows each row with its place: those of its numbers that are wanted, bit by bit; others are not a number.
    fn rows(&self, width: usize, wanted: u64, scratch: &mut Vec<f32>, mut visit: impl FnMut(u32, &[f32])) {
        let count = self.mask.count_ones() as usize;
        scratch.clear();
        scratch.resize((count + 1) * width, f32::NAN);
        let mut column = [0.0; codec::MOST];
        let mut bytes = self.columns;
        for n in 0..width {
            if wanted >> n.min(63) & 1 == 0 {
                codec::skip(&mut bytes, count);
                continue;
            }
            codec::decode(&mut bytes, &mut column[..count]);
            let own = scratch[n..].iter_mut().step_by(width);
            own.zip(&column[..count]).for_each(|(own, value)| *own = *value);
        }
        for (n, place) in places(self.mask).enumerate() {
            visit(place, &scratch[n * width..(n + 1) * width]);
        }
    }
}

/// A row that was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read<'a> {
    pub(super) row: &'a [f32],
    /// Whether a gauge was updated then, and not repeated.
    pub(super) is_updated: bool,
}

/// What a sweep keeps of a track.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    /// Not even what is not sealed stays.
    pub(super) drops_head: bool,
    /// Heads of earlier blocks are sealed.
    pub(super) open_block: u32,
    /// Blocks before this one have left the axis: minutes are made of them.
    pub(super) first_block: u32,
    /// The first block that may stay, not before that one.
    pub(super) own_block: u32,
    /// The first minute that may stay, and the first that would if memory were enough.
    pub(super) first_minute: u32,
    pub(super) all_minutes: u32,
}

/// The values of a series.
#[derive(Clone, Debug, Default)]
pub(super) struct Track {
    head: Head,
    /// Which rows of the head are updates.
    updated: u32,
    minute_head: Head,
    sealed: Box<[u8]>,
    minutes: Box<[u8]>,
}

/// Room that a sweep works in.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    values: Vec<f32>,
    row: Vec<f32>,
    bytes: Vec<u8>,
}

impl Track {
    /// Adds the row of an interval.
    pub(super) fn push(&mut self, block: u32, place: u32, row: &[f32], is_updated: bool) {
        if self.head.mask != 0 && self.head.block != block {
            // Sweeps seal heads in time; this is for a track that missed one.
            let mut bytes = std::mem::take(&mut self.sealed).into_vec();
            self.head.seal(row.len(), self.updated, &mut bytes);
            self.sealed = bytes.into_boxed_slice();
        }
        if self.head.mask == 0 {
            self.updated = 0;
        }
        self.head.push(block, place, row);
        self.updated |= u32::from(is_updated) << place;
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.head.mask == 0 && self.minute_head.mask == 0 && self.sealed.is_empty() && self.minutes.is_empty()
    }

    /// Bytes that it takes beside itself.
    pub(super) fn heap_bytes(&self) -> usize {
        footprint(self.sealed.len())
            + footprint(self.minutes.len())
            + vec_footprint::<f32>(self.head.rows.capacity())
            + vec_footprint::<f32>(self.minute_head.rows.capacity())
    }

    /// Seals what is whole, makes minutes of intervals that have left, and lets go what is too old. `true` if something went
    /// that the axis still has.
    pub(super) fn sweep(&mut self, shape: Shape, axis: &Axis, keep: &Keep, scratch: &mut Scratch) -> bool {
        let wants_seal = self.head.mask != 0 && self.head.block < keep.open_block;
        let mut has_given_up = false;
        let first = keep.first_block.max(keep.own_block);
        let mut kept_from = self.sealed.len();
        let sealed = std::mem::take(&mut self.sealed);
        let mut fold = Fold::new(shape);
        let mut minute = 0;
        for block in blocks(&sealed, shape.width, keep.open_block) {
            if block.number >= first {
                kept_from = block.start;
                break;
            }
            if block.number >= keep.first_block {
                has_given_up = true;
                continue;
            }
            self.fold_block(block, shape, axis, keep, (&mut fold, &mut minute), scratch);
        }
        self.end_minute(&mut fold, minute, shape, keep, scratch);
        self.sealed = sealed;
        if kept_from > 0 || wants_seal {
            scratch.bytes.clear();
            scratch.bytes.extend_from_slice(&self.sealed[kept_from..]);
            if wants_seal && self.head.block >= first {
                self.head.seal(shape.width, self.updated, &mut scratch.bytes);
            } else if wants_seal {
                self.head.forget();
                has_given_up = true;
            }
            self.sealed = scratch.bytes.as_slice().into();
        }
        if keep.drops_head && self.head.mask != 0 {
            self.head.forget();
            has_given_up = true;
        }
        has_given_up | self.expire_minutes(shape, axis.last_minute() / BLOCK, keep)
    }

    /// Makes minutes of a block that leaves.
    fn fold_block(
        &mut self,
        block: Sealed<'_>,
        shape: Shape,
        axis: &Axis,
        keep: &Keep,
        (fold, minute): (&mut Fold, &mut u32),
        scratch: &mut Scratch,
    ) {
        let Some(known) = axis.block(block.number) else { return };
        let mut values = std::mem::take(&mut scratch.values);
        block.rows(shape.width, u64::MAX, &mut values, |place, row| {
            let Some(interval) = axis.interval(known.first + u64::from(place)) else { return };
            let own = interval.minute();
            if own != *minute {
                self.end_minute(fold, *minute, shape, keep, scratch);
                *minute = own;
            }
            fold.add(row);
        });
        scratch.values = values;
    }

    fn end_minute(&mut self, fold: &mut Fold, minute: u32, shape: Shape, keep: &Keep, scratch: &mut Scratch) {
        if fold.is_empty() {
            return;
        }
        if minute >= keep.first_minute {
            fold.row(&mut scratch.row);
            self.push_minute(minute, shape, &scratch.row);
        }
        fold.clear();
    }

    fn push_minute(&mut self, minute: u32, shape: Shape, row: &[f32]) {
        let (block, place) = (minute / BLOCK, minute % BLOCK);
        let head = &mut self.minute_head;
        if head.mask != 0 && head.block != block {
            if block < head.block {
                // The clock was set back: these minutes are there already.
                return;
            }
            let mut bytes = std::mem::take(&mut self.minutes).into_vec();
            bytes.reserve_exact(4 * head.rows.len() + 16 + row.len());
            let all = head.mask;
            head.seal(shape.minute_width(), all, &mut bytes);
            self.minutes = bytes.into_boxed_slice();
        }
        // A minute that comes before one that is there is one of a clock that was set back.
        if head.mask >> place <= 1 {
            head.push(block, place, row);
        }
    }

    fn expire_minutes(&mut self, shape: Shape, newest: u32, keep: &Keep) -> bool {
        let is_before = |block: u32, minute: u32| (u64::from(block) + 1) * u64::from(BLOCK) <= u64::from(minute);
        let is_old = |block: u32| is_before(block, keep.first_minute);
        let is_kept = |block: u32| !is_before(block, keep.all_minutes);
        let mut has_given_up = false;
        if self.minute_head.mask != 0 && is_old(self.minute_head.block) {
            has_given_up |= is_kept(self.minute_head.block);
            self.minute_head.forget();
        }
        let mut kept_from = 0;
        for block in blocks(&self.minutes, shape.minute_width(), newest.max(self.minute_head.block)) {
            if !is_old(block.number) {
                break;
            }
            has_given_up |= is_kept(block.number);
            kept_from = block.start + block.length();
        }
        if kept_from > 0 {
            self.minutes = self.minutes[kept_from..].into();
        }
        has_given_up
    }

    /// Shows the row of each interval that is here, oldest first, with the number of the interval: those of its numbers that
    /// are wanted, bit by bit.
    pub(super) fn intervals(&self, shape: Shape, axis: &Axis, wanted: u64, mut visit: impl FnMut(u64, Read<'_>)) {
        let newest = axis.open_block().number.max(self.head.block);
        let mut scratch = Vec::new();
        for block in blocks(&self.sealed, shape.width, newest) {
            let Some(known) = axis.block(block.number) else { continue };
            block.rows(shape.width, wanted, &mut scratch, |place, row| {
                visit(known.first + u64::from(place), Read { row, is_updated: block.updated >> place & 1 == 1 });
            });
        }
        let Some(known) = axis.block(self.head.block).filter(|_| self.head.mask != 0) else { return };
        for (place, row) in places(self.head.mask).zip(self.head.rows.chunks_exact(shape.width)) {
            visit(known.first + u64::from(place), Read { row, is_updated: self.updated >> place & 1 == 1 });
        }
    }

    /// Shows the row of each minute that is here, oldest first, with its number.
    pub(super) fn minutes(&self, shape: Shape, axis: &Axis, wanted: u64, mut visit: impl FnMut(u32, &[f32])) {
        let width = shape.minute_width();
        let newest = (axis.last_minute() / BLOCK).max(self.minute_head.block);
        let mut scratch = Vec::new();
        for block in blocks(&self.minutes, width, newest) {
            block.rows(width, wanted, &mut scratch, |place, row| visit(block.number * BLOCK + place, row));
        }
        for (place, row) in places(self.minute_head.mask).zip(self.minute_head.rows.chunks_exact(width)) {
            visit(self.minute_head.block * BLOCK + place, row);
        }
    }
}

/// Appends a number of bytes, and the bytes.
pub(super) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Takes bytes off the front that [`put_bytes`] has written.
pub(super) fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (bytes, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *rest = after;
    Some(bytes)
}

fn take_number(rest: &mut &[u8]) -> Option<u32> {
    let (four, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(u32::from_le_bytes(*four))
}

impl Head {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.block.to_le_bytes());
        out.extend_from_slice(&self.mask.to_le_bytes());
        self.rows.iter().for_each(|value| out.extend_from_slice(&value.to_bits().to_le_bytes()));
    }

    fn read(rest: &mut &[u8], width: usize, newest: u32) -> Option<Head> {
        let (block, mask) = (take_number(rest)?, take_number(rest)?);
        let rows = (0..mask.count_ones() as usize * width).map(|_| take_number(rest).map(f32::from_bits));
        let head = Head { block, mask, rows: rows.collect::<Option<_>>()? };
        (mask == 0 || (block <= newest && mask <= FULL)).then_some(head)
    }
}

/// Whether these bytes are whole blocks.
fn are_blocks(bytes: &[u8], width: usize) -> bool {
    let mut whole = 0;
    for block in blocks(bytes, width, 0) {
        let mut columns = block.columns;
        let length = block.mask.count_ones() as usize;
        if length == 0 || block.mask > FULL || !(0..width).all(|_| codec::is_there(&mut columns, length)) {
            return false;
        }
        whole = block.start + block.length();
    }
    whole == bytes.len()
}

/// As it is saved.
impl Track {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        self.head.write(out);
        out.extend_from_slice(&self.updated.to_le_bytes());
        self.minute_head.write(out);
        put_bytes(&self.sealed, out);
        put_bytes(&self.minutes, out);
    }

    /// Takes a track off the front; `None` if it is none.
    pub(super) fn read(rest: &mut &[u8], shape: Shape, axis: &Axis) -> Option<Track> {
        let track = Track {
            head: Head::read(rest, shape.width, axis.open_block().number)?,
            updated: take_number(rest)?,
            minute_head: Head::read(rest, shape.minute_width(), axis.last_minute() / BLOCK)?,
            sealed: take_bytes(rest)?.into(),
            minutes: take_bytes(rest)?.into(),
        };
        let are_whole = are_blocks(&track.sealed, shape.width) && are_blocks(&track.minutes, shape.minute_width());
        are_whole.then_some(track)
    }
}

impl Sealed<'_> {
    /// Bytes that it takes.
    fn length(&self) -> usize {
        let masks = 4 * (usize::from(self.mask != FULL) + usize::from(self.updated != self.mask));
        3 + masks + self.columns.len()
    }
}
