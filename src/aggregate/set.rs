//! Sets: the number of distinct members in an interval. Exact up to [`EXACT_MEMBERS`], then a HyperLogLog.
//!
//! A member is kept as the 64-bit rapidhash (v3, default seed) of its text: the same on every node, so that
//! sets merge. Up to the bound the chance that two members share a hash is below one in 10^12.
//! Beyond it: HyperLogLog with 2^14 registers of one byte (16 KiB), standard error 0.81 % (Flajolet et al.
//! 2007), read out with Ertl's improved estimator (O. Ertl, "New cardinality estimation algorithms for
//! HyperLogLog sketches", 2017, algorithm 6), which needs no bias tables.

use hashbrown::HashTable;
use rapidhash::v3::rapidhash_v3;
use serde::{Deserialize, Serialize};

use crate::memory::footprint;

/// Most members counted exactly: beyond it the hashes would take more memory than the registers.
pub const EXACT_MEMBERS: usize = 2048;

const PRECISION: u32 = 14;
const REGISTERS: usize = 1 << PRECISION;
/// The largest rank a register holds: the bits that do not select the register, plus one.
const MAX_RANK: usize = 64 - PRECISION as usize + 1;

/// The members of one set.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "Flat", into = "Flat")]
pub struct Members(Inner);

#[derive(Clone, Debug)]
enum Inner {
    Exact(HashTable<u64>),
    Estimated(Box<[u8; REGISTERS]>),
}

impl Default for Inner {
    fn default() -> Inner {
        Inner::Exact(HashTable::new())
    }
}

impl Members {
    /// Adds a member.
    pub fn insert(&mut self, member: &[u8]) {
        self.insert_hash(Members::hash(member), EXACT_MEMBERS);
    }

    /// What is kept of a member.
    pub(super) fn hash(member: &[u8]) -> u64 {
        rapidhash_v3(member)
    }

    /// Whether adding any member surely takes no more memory than now, below `most` exact ones.
    #[inline]
    pub(super) fn has_room(&self, most: usize) -> bool {
        match &self.0 {
            Inner::Exact(table) => table.len() < table.capacity() && table.len() < most,
            Inner::Estimated(_) => true,
        }
    }

    /// Whether adding a member takes more memory than now.
    pub(super) fn would_grow(&self, hash: u64) -> bool {
        match &self.0 {
            Inner::Exact(table) => {
                table.len() == table.capacity() && table.find(hash, |&known| known == hash).is_none()
            }
            Inner::Estimated(_) => false,
        }
    }

    /// The number of members that are kept exactly.
    pub(super) fn kept(&self) -> usize {
        match &self.0 {
            Inner::Exact(table) => table.len(),
            Inner::Estimated(_) => 0,
        }
    }

    /// Bytes that it takes beside itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        match &self.0 {
            Inner::Exact(table) => footprint(table.allocation_size()),
            Inner::Estimated(_) => footprint(REGISTERS),
        }
    }

    /// Adds a member by its hash; beyond `most` members an estimate takes over.
    pub(super) fn insert_hash(&mut self, hash: u64, most: usize) {
        match &mut self.0 {
            Inner::Exact(table) => {
                if table.find(hash, |&known| known == hash).is_some() {
                    return;
                }
                if table.len() >= most {
                    let mut registers = Box::new([0; REGISTERS]);
                    table.iter().for_each(|&known| observe(&mut registers, known));
                    observe(&mut registers, hash);
                    self.0 = Inner::Estimated(registers);
                    return;
                }
                table.insert_unique(hash, hash, |&known| known);
            }
            Inner::Estimated(registers) => observe(registers, hash),
        }
    }

    /// Merges another set.
    pub fn merge(&mut self, other: &Members) {
        match &other.0 {
            Inner::Exact(table) => {
                // Sorted, so that the memory of the merged table does not depend on the order of insertion.
                let mut hashes: Vec<u64> = table.iter().copied().collect();
                hashes.sort_unstable();
                hashes.into_iter().for_each(|hash| self.insert_hash(hash, EXACT_MEMBERS));
            }
            Inner::Estimated(theirs) => {
                let mut merged = theirs.clone();
                match &self.0 {
                    Inner::Exact(table) => table.iter().for_each(|&hash| observe(&mut merged, hash)),
                    Inner::Estimated(ours) => {
                        merged.iter_mut().zip(ours.iter()).for_each(|(m, &o)| *m = (*m).max(o));
                    }
                }
                self.0 = Inner::Estimated(merged);
            }
        }
    }

    /// The number of members: exact, or an estimate with a standard error of 0.81 %.
    pub fn count(&self) -> f64 {
        match &self.0 {
            Inner::Exact(table) => table.len() as f64,
            Inner::Estimated(registers) => estimate(registers).round(),
        }
    }

    /// The members' hashes in order; `None` if the count is an estimate.
    pub fn hashes(&self) -> Option<Vec<u64>> {
        let Inner::Exact(table) = &self.0 else { return None };
        let mut hashes: Vec<u64> = table.iter().copied().collect();
        hashes.sort_unstable();
        Some(hashes)
    }

    /// Whether the count is exact.
    pub fn is_exact(&self) -> bool {
        matches!(self.0, Inner::Exact(_))
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        matches!(&self.0, Inner::Exact(table) if table.is_empty())
    }
}

/// The serialised form.
#[derive(Serialize, Deserialize)]
enum Flat {
    Exact(Vec<u64>),
    Estimated(Vec<u8>),
}

impl From<Members> for Flat {
    fn from(members: Members) -> Flat {
        match members.0 {
            Inner::Exact(table) => Flat::Exact(table.into_iter().collect()),
            Inner::Estimated(registers) => Flat::Estimated(registers.to_vec()),
        }
    }
}

impl TryFrom<Flat> for Members {
    type Error = &'static str;

    fn try_from(flat: Flat) -> Result<Members, &'static str> {
        match flat {
            Flat::Exact(hashes) => {
                let mut members = Members::default();
                hashes.into_iter().for_each(|hash| members.insert_hash(hash, EXACT_MEMBERS));
                Ok(members)
            }
            Flat::Estimated(registers) => {
                let registers: Box<[u8; REGISTERS]> =
                    registers.into_boxed_slice().try_into().map_err(|_| "a set has another number of registers")?;
                Ok(Members(Inner::Estimated(registers)))
            }
        }
    }
}

fn observe(registers: &mut [u8; REGISTERS], hash: u64) {
    let register = (hash >> (64 - PRECISION)) as usize;
    // A one after the remaining bits bounds the rank.
    let rest = (hash << PRECISION) | (1 << (PRECISION - 1));
    let rank = rest.leading_zeros() as u8 + 1;
    registers[register] = registers[register].max(rank);
}

fn estimate(registers: &[u8; REGISTERS]) -> f64 {
    let mut counts = [0_u32; MAX_RANK + 1];
    for &rank in registers {
        counts[usize::from(rank).min(MAX_RANK)] += 1;
    }
    let m = REGISTERS as f64;
    let mut z = m * tau(1.0 - f64::from(counts[MAX_RANK]) / m);
    for &count in counts[1..MAX_RANK].iter().rev() {
        z = 0.5 * (z + f64::from(count));
    }
    z += m * sigma(f64::from(counts[0]) / m);
    m * m / (2.0 * std::f64::consts::LN_2 * z)
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x).powi(2) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(range: std::ops::Range<u32>) -> Members {
        let mut set = Members::default();
        range.for_each(|n| set.insert(format!("user-{n}").as_bytes()));
        set
    }

    #[test]
    fn a_small_set_is_exact() {
        let mut set = members(0..EXACT_MEMBERS as u32);
        set.insert(b"user-7");
        assert_eq!((set.count(), set.is_exact()), (EXACT_MEMBERS as f64, true));
    }

    #[test]
    fn a_large_set_is_estimated_within_its_stated_error() {
        for n in [EXACT_MEMBERS as u32 + 1, 10_000, 100_000, 1_000_000] {
            let set = members(0..n);
            let error = set.count() / f64::from(n) - 1.0;
            assert!(!set.is_exact() && error.abs() < 3.0 * 0.0081, "{n}: {error}");
        }
    }

    #[test]
    fn a_merged_set_equals_one_that_saw_everything() {
        for (a, b) in [(0..10, 5..20), (0..2000, 1000..3000), (0..9000, 0..10), (0..9000, 4000..12_000)] {
            let whole = members(0..a.end.max(b.end));
            let (mut left, right) = (members(a.clone()), members(b.clone()));
            left.merge(&right);
            assert_eq!((left.count(), left.is_exact()), (whole.count(), whole.is_exact()), "{a:?} {b:?}");
        }
    }
}
