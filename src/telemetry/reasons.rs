//! Counts by reason: of an enum, as an array that costs the receive path an addition, or of any words, as a map.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::marker::PhantomData;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::protocol::Reason;

/// An enum whose variants have names.
pub trait Named: Copy + 'static {
    /// Every variant, in the order of its number.
    const ALL: &'static [Self];

    /// The name in the ledger.
    fn name(self) -> &'static str;

    /// The number, below the length of `ALL`.
    fn number(self) -> usize;
}

impl Named for Reason {
    const ALL: &'static [Reason] = &Reason::ALL;

    fn name(self) -> &'static str {
        Reason::name(self)
    }

    fn number(self) -> usize {
        self as usize
    }
}

/// A bound that made values be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `kv` values of one series and interval.
    KvValues,
    /// Values with a time of their own of one interval.
    Timestamped,
    /// `max_memory`.
    Memory,
}

impl Named for Limit {
    const ALL: &'static [Limit] = &[Limit::KvValues, Limit::Timestamped, Limit::Memory];

    fn name(self) -> &'static str {
        match self {
            Limit::KvValues => "kv_values",
            Limit::Timestamped => "timestamped",
            Limit::Memory => "memory",
        }
    }

    fn number(self) -> usize {
        self as usize
    }
}

/// Why a connection was refused, or closed before its request was answered; one of lines, before its client closed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `max_connections` was reached: the connection that was longest without a complete request or line, or else the new one.
    Full,
    /// The same of `max_connections_per_address`.
    PerAddress,
    /// Its handshake failed, or it showed no certificate that is good.
    Tls,
    /// A handshake, a request or the reading of an answer took too long, or no whole line came for too long.
    Timeout,
    /// It is not in `allow`.
    NotAllowed,
    /// Connections have more than their share of the memory: the one with the longest unfinished line or request, or else the
    /// new one.
    Memory,
}

impl Named for Refusal {
    const ALL: &'static [Refusal] =
        &[Refusal::Full, Refusal::PerAddress, Refusal::Tls, Refusal::Timeout, Refusal::NotAllowed, Refusal::Memory];

    fn name(self) -> &'static str {
        match self {
            Refusal::Full => "full",
            Refusal::PerAddress => "per_address",
            Refusal::Tls => "tls",
            Refusal::Timeout => "timeout",
            Refusal::NotAllowed => "not_allowed",
            Refusal::Memory => "memory",
        }
    }

    fn number(self) -> usize {
        self as usize
    }
}

/// What a part of the daemon does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartState {
    /// It works.
    #[default]
    Running,
    /// It failed, and is started again or has to prove itself.
    Restarting,
    /// It ended, and nobody starts it again.
    Failed,
}

impl PartState {
    /// Its name in the status.
    pub fn name(self) -> &'static str {
        match self {
            PartState::Running => "running",
            PartState::Restarting => "restarting",
            PartState::Failed => "failed",
        }
    }
}

/// A count for each of the `N` variants of an enum. As JSON it is an object without those that did not occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts<K, const N: usize>([u64; N], PhantomData<K>);

impl<K, const N: usize> Default for Counts<K, N> {
    fn default() -> Self {
        Counts([0; N], PhantomData)
    }
}

impl<K: Named, const N: usize> Counts<K, N> {
    /// Counts more of a kind.
    #[inline]
    pub fn count(&mut self, kind: K, more: u64) {
        self.0[kind.number()] += more;
    }

    /// How many there are of a kind.
    pub fn of(&self, kind: K) -> u64 {
        self.0[kind.number()]
    }

    /// All of them together.
    pub fn total(&self) -> u64 {
        self.0.iter().copied().fold(0, u64::saturating_add)
    }

    /// Those that occurred, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        K::ALL.iter().zip(self.0).filter(|(_, count)| *count > 0).map(|(kind, count)| (kind.name(), count))
    }

    /// Those that occurred, such as `bad_timestamp=2 nul=1`.
    pub fn text(&self) -> String {
        self.iter().map(|(name, count)| format!("{name}={count}")).collect::<Vec<_>>().join(" ")
    }

    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(ours, theirs)| *ours = ours.saturating_add(theirs));
    }

    /// Takes earlier ones away.
    pub fn subtract(&mut self, earlier: &Self) {
        self.0.iter_mut().zip(earlier.0).for_each(|(ours, theirs)| *ours = ours.saturating_sub(theirs));
    }
}

impl<K: Named, const N: usize> FromIterator<(K, u64)> for Counts<K, N> {
    fn from_iter<I: IntoIterator<Item = (K, u64)>>(pairs: I) -> Self {
        let mut all = Counts::default();
        pairs.into_iter().for_each(|(kind, count)| all.count(kind, count));
        all
    }
}

impl<K: Named, const N: usize> Serialize for Counts<K, N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.iter().collect::<BTreeMap<_, _>>().serialize(serializer)
    }
}

impl<'de, K: Named, const N: usize> Deserialize<'de> for Counts<K, N> {
    /// Names that this version does not have are left out: an interval that a later version spooled is worth more than they.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = BTreeMap::<Cow<'_, str>, u64>::deserialize(deserializer)?;
        let known = map
            .iter()
            .filter_map(|(name, count)| K::ALL.iter().find(|kind| kind.name() == name).map(|kind| (*kind, *count)));
        Ok(known.collect())
    }
}

/// Counts by any word; those that did not occur are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reasons(BTreeMap<Cow<'static, str>, u64>);

impl Reasons {
    /// Counts more for a reason.
    pub fn count(&mut self, reason: impl Into<Cow<'static, str>>, more: u64) {
        if more > 0 {
            let count = self.0.entry(reason.into()).or_default();
            *count = count.saturating_add(more);
        }
    }

    /// How many there are for a reason.
    pub fn of(&self, reason: &str) -> u64 {
        self.0.get(reason).copied().unwrap_or(0)
    }

    /// All of them together.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Those that are a loss: a format that has no form for a kind of record (`unsupported`) never takes it, and nothing is
    /// wrong then.
    pub fn lost(&self) -> u64 {
        self.total() - self.of("unsupported")
    }

    /// Forgets a reason.
    pub fn clear(&mut self, reason: &str) {
        self.0.remove(reason);
    }

    /// Whether none occurred.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// By word.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(reason, &count)| (&**reason, count))
    }

    /// Those that occurred, such as `memory 3, queue_full 12`.
    pub fn text(&self) -> String {
        self.iter().map(|(reason, n)| format!("{reason} {n}")).collect::<Vec<_>>().join(", ")
    }

    /// What was added since earlier ones.
    #[must_use]
    pub fn since(&self, earlier: &Reasons) -> Reasons {
        let mut fresh = self.clone();
        fresh.subtract(earlier);
        fresh
    }

    /// Adds others.
    pub fn add(&mut self, other: &Reasons) {
        other.0.iter().for_each(|(reason, &count)| self.count(reason.clone(), count));
    }

    /// Takes earlier ones away; what has not grown is left out.
    pub fn subtract(&mut self, earlier: &Reasons) {
        self.0.retain(|reason, count| {
            *count = count.saturating_sub(earlier.of(reason));
            *count > 0
        });
    }
}

impl<W: Into<Cow<'static, str>>> FromIterator<(W, u64)> for Reasons {
    fn from_iter<I: IntoIterator<Item = (W, u64)>>(pairs: I) -> Reasons {
        let mut all = Reasons::default();
        pairs.into_iter().for_each(|(reason, count)| all.count(reason, count));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Limited = Counts<Limit, { Limit::ALL.len() }>;

    #[test]
    fn variants_are_in_the_order_of_their_numbers() {
        Limit::ALL.iter().enumerate().for_each(|(n, limit)| assert_eq!(limit.number(), n));
        Refusal::ALL.iter().enumerate().for_each(|(n, refusal)| assert_eq!(refusal.number(), n));
        <Reason as Named>::ALL.iter().enumerate().for_each(|(n, reason)| assert_eq!(reason.number(), n));
    }

    #[test]
    fn counts_come_back_from_json_without_what_is_unknown() {
        let mut counts = Limited::default();
        counts.count(Limit::Timestamped, 3);
        assert_eq!(serde_json::to_string(&counts).expect("JSON"), "{\"timestamped\":3}");
        let read = serde_json::from_str::<Limited>("{\"timestamped\":3,\"of_tomorrow\":1}").expect("counts");
        assert_eq!(read, counts);
    }
}
