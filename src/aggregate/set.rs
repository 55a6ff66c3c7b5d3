//! Sets: the number of distinct members in an interval. Exact up to [`EXACT_MEMBERS`], then a HyperLogLog.
//!
//! A member is kept as the 64-bit rapidhash (v3, default seed) of its text: the same on every node, so that
//! sets merge. Up to the bound the chance that two members share a hash is below one in 10^12.
//! Beyond it: a HyperLogLog of 2^14 registers (16 KiB, [`crate::hyperloglog`]), standard error 0.81 %.

use hashbrown::HashTable;
use rapidhash::v3::rapidhash_v3;
use serde::{Deserialize, Serialize};

use crate::hyperloglog::{self, estimate, observe};
use crate::memory::footprint;

/// Most members counted exactly: beyond it the hashes would take more memory than the registers.
pub const EXACT_MEMBERS: usize = 2048;

const REGISTERS: usize = 1 << 14;

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
                    table.iter().for_each(|&known| _ = observe(&mut registers, known));
                    observe(&mut registers, hash);
                    self.0 = Inner::Estimated(registers);
                    return;
                }
                table.insert_unique(hash, hash, |&known| known);
            }
            Inner::Estimated(registers) => _ = observe(registers, hash),
        }
    }

    /// Merges another set. The members are exact if there are no more of them in all parts together than the bound, and no
    /// part has an estimate: in any order and any groups.
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
                    Inner::Exact(table) => table.iter().for_each(|&hash| _ = observe(&mut merged, hash)),
                    Inner::Estimated(ours) => hyperloglog::merge(&mut merged, ours),
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

/// The serialised form: equal sets have equal bytes.
#[derive(Serialize, Deserialize)]
enum Flat {
    Exact(Vec<u64>),
    Estimated(Vec<u8>),
}

impl From<Members> for Flat {
    fn from(members: Members) -> Flat {
        match members.0 {
            Inner::Exact(table) => {
                let mut hashes: Vec<u64> = table.into_iter().collect();
                hashes.sort_unstable();
                Flat::Exact(hashes)
            }
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

    #[test]
    fn merged_sets_are_the_same_bytes_in_any_order_and_groups() {
        let bytes = |set: &Members| postcard::to_stdvec(set).expect("memory");
        for parts in [[0..10, 5..20, 900..905], [0..1000, 500..1500, 1400..1600], [0..1500, 800..2100, 0..5]] {
            let [a, b, c] = parts.clone().map(members);
            let merged = |parts: &[&Members]| {
                let mut all = Members::default();
                parts.iter().for_each(|part| all.merge(part));
                all
            };
            let expected = bytes(&merged(&[&a, &b, &c]));
            let (ab, bc, ca) = (merged(&[&a, &b]), merged(&[&c, &b]), merged(&[&c, &a]));
            for other in [merged(&[&c, &b, &a]), merged(&[&ab, &c]), merged(&[&a, &bc]), merged(&[&b, &ca])] {
                assert!(bytes(&other) == expected, "{parts:?}");
            }
        }
    }
}
