//! What the table says of a counter, and what every account can do because of it.

use std::collections::BTreeMap;

use super::reasons::{Counts, Named, PartState, Reasons};

/// What a field of an account is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// It only grows; accounts of several workers and intervals are added.
    Counter,
    /// A level: a later one replaces it.
    Gauge,
    /// No number, such as a name or an error: a later one replaces it.
    Detail,
    /// Accounts inside this one, with entries of their own.
    Accounts,
}

/// A field's place in the equation of its account: the whole is the sum of the parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// It is in no equation.
    None,
    /// The left side.
    Whole,
    /// A term of the right side.
    Part,
}

/// A metric of `/metrics` that several fields share, told apart by a label.
#[derive(Debug)]
pub struct Family {
    /// Its name, without `_total`.
    pub name: &'static str,
    /// The text of `# HELP`.
    pub help: &'static str,
    /// What tells the fields apart.
    pub label: &'static str,
}

/// One entry of the table: a field of an account and where it is published.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The field in the ledger.
    pub field: &'static str,
    /// What it is.
    pub kind: EntryKind,
    /// Its place in the equation.
    pub term: Term,
    /// Its series, without `systole.` in front.
    pub series: Option<&'static str>,
    /// A tag that its series always has.
    pub tag: Option<(&'static str, &'static str)>,
    /// Its own metric of `/metrics`, without `_total`.
    pub metric: Option<&'static str>,
    /// The metric that it shares, and its value of the label there.
    pub family: Option<(&'static Family, &'static str)>,
    /// The tag and label for the reasons by which it is counted.
    pub by: Option<&'static str>,
    /// Its series has the sum of all reasons.
    pub is_summed: bool,
    /// Its series is left out of intervals in which it is 0.
    pub is_rare: bool,
    help: &'static str,
}

impl Entry {
    /// A field that is not published anywhere but in the ledger.
    pub(super) const fn new(field: &'static str, kind: EntryKind, help: &'static str) -> Entry {
        Entry {
            field,
            kind,
            term: Term::None,
            series: None,
            tag: None,
            metric: None,
            family: None,
            by: None,
            is_summed: false,
            is_rare: false,
            help,
        }
    }

    /// What it counts, in a sentence: the comment of the field.
    pub fn help(&self) -> &'static str {
        self.help.trim()
    }

    pub(super) const fn whole(self) -> Entry {
        Entry { term: Term::Whole, ..self }
    }

    pub(super) const fn part(self) -> Entry {
        Entry { term: Term::Part, ..self }
    }

    pub(super) const fn series(self, name: &'static str) -> Entry {
        Entry { series: Some(name), ..self }
    }

    pub(super) const fn tagged(self, key: &'static str, value: &'static str) -> Entry {
        Entry { tag: Some((key, value)), ..self }
    }

    pub(super) const fn metric(self, name: &'static str) -> Entry {
        Entry { metric: Some(name), ..self }
    }

    pub(super) const fn within(self, family: &'static Family, label: &'static str) -> Entry {
        Entry { family: Some((family, label)), ..self }
    }

    pub(super) const fn by(self, key: &'static str) -> Entry {
        Entry { by: Some(key), ..self }
    }

    pub(super) const fn summed(self) -> Entry {
        Entry { is_summed: true, ..self }
    }

    pub(super) const fn rare(self) -> Entry {
        Entry { is_rare: true, ..self }
    }
}

/// The value of a field.
pub trait Value {
    /// The count, all reasons together; 0 for what is no number.
    fn count(&self) -> u64;

    /// The number that is published.
    fn number(&self) -> f64 {
        self.count() as f64
    }

    /// The reasons that occurred with their counts.
    fn each(&self, _visit: &mut dyn FnMut(&str, f64)) {}

    /// Adds a later interval's, or another worker's.
    fn add(&mut self, later: &Self)
    where
        Self: Sized;

    /// Takes an earlier reading away.
    fn subtract(&mut self, earlier: &Self)
    where
        Self: Sized;
}

impl Value for u64 {
    fn count(&self) -> u64 {
        *self
    }

    fn add(&mut self, later: &u64) {
        *self = self.saturating_add(*later);
    }

    fn subtract(&mut self, earlier: &u64) {
        *self = self.saturating_sub(*earlier);
    }
}

impl<K: Named, const N: usize> Value for Counts<K, N> {
    fn count(&self) -> u64 {
        self.total()
    }

    fn each(&self, visit: &mut dyn FnMut(&str, f64)) {
        self.iter().for_each(|(name, count)| visit(name, count as f64));
    }

    fn add(&mut self, later: &Self) {
        Counts::add(self, later);
    }

    fn subtract(&mut self, earlier: &Self) {
        Counts::subtract(self, earlier);
    }
}

impl Value for Reasons {
    fn count(&self) -> u64 {
        self.total()
    }

    fn each(&self, visit: &mut dyn FnMut(&str, f64)) {
        self.iter().for_each(|(name, count)| visit(name, count as f64));
    }

    fn add(&mut self, later: &Self) {
        Reasons::add(self, later);
    }

    fn subtract(&mut self, earlier: &Self) {
        Reasons::subtract(self, earlier);
    }
}

/// Levels and details are replaced, never added.
macro_rules! replaced {
    ($($type:ty, $number:expr);+ $(;)?) => {
        $(impl Value for $type {
            fn count(&self) -> u64 {
                0
            }

            fn number(&self) -> f64 {
                let number: fn(&$type) -> f64 = $number;
                number(self)
            }

            fn add(&mut self, later: &Self) {
                self.clone_from(later);
            }

            fn subtract(&mut self, _earlier: &Self) {}
        })+
    };
}

replaced! {
    f64, |number| *number;
    bool, |flag| f64::from(u8::from(*flag));
    String, |_| 0.0;
    Option<String>, |_| 0.0;
    Vec<String>, |_| 0.0;
    Option<f64>, |_| 0.0;
    PartState, |_| 0.0;
}

/// Accounts inside an account, by name.
impl<A: Account> Value for BTreeMap<String, A> {
    fn count(&self) -> u64 {
        0
    }

    fn add(&mut self, later: &Self) {
        later.iter().for_each(|(name, account)| self.entry(name.clone()).or_default().add(account));
    }

    fn subtract(&mut self, earlier: &Self) {
        for (name, account) in self {
            if let Some(earlier) = earlier.get(name) {
                *account = account.since(earlier);
            }
        }
    }
}

/// Calls with every entry of an account and its value.
pub type Visit<'a> = dyn FnMut(&'static Entry, &dyn Value) + 'a;

/// Fields that are counted together. The table makes them.
pub trait Account: Clone + Default {
    /// Where it stands in the ledger.
    const PART: &'static str;

    /// What it is one of: tags and labels of everything in it.
    const LABELS: &'static [&'static str];

    /// Its entries, in the order of its fields.
    const ENTRIES: &'static [Entry];

    /// Shows every field.
    fn each(&self, visit: &mut Visit<'_>);

    /// Adds a later interval's, or another worker's; levels and details are replaced.
    fn add(&mut self, later: &Self);

    /// What was added since an earlier reading; levels and details are those of now.
    #[must_use]
    fn since(&self, earlier: &Self) -> Self;

    /// Whether the whole is the sum of the parts, where there is such an equation.
    ///
    /// # Errors
    /// What the whole is, and what the parts are.
    fn check(&self) -> Result<(), (&'static str, u64, u64)> {
        let (mut whole, mut parts) = (None, 0);
        self.each(&mut |entry, value| match entry.term {
            Term::Whole => whole = Some((entry.field, value.count())),
            Term::Part => parts = value.count().saturating_add(parts),
            Term::None => {}
        });
        match whole {
            Some((field, whole)) if whole != parts => Err((field, whole, parts)),
            Some(_) | None => Ok(()),
        }
    }
}

/// Makes the accounts and their entries of the table.
macro_rules! accounts {
    ($(
        $(#[doc = $about:literal])+
        $account:ident, $part:literal, [$($label:literal),*] {
            $(
                $(#[doc = $help:literal])+
                $([$($attribute:tt)*])?
                $kind:ident $field:ident: $type:ty $(, $method:ident($($argument:expr),*))*;
            )+
        }
    )+) => {
        $(
            $(#[doc = $about])+
            #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
            #[serde(default)]
            pub struct $account {
                $(
                    $(#[doc = $help])+
                    $(#[$($attribute)*])?
                    pub $field: $type,
                )+
            }

            impl Account for $account {
                const PART: &'static str = $part;
                const LABELS: &'static [&'static str] = &[$($label),*];
                const ENTRIES: &'static [Entry] = &[$(
                    Entry::new(stringify!($field), EntryKind::$kind, concat!($($help),+)) $(.$method($($argument),*))*,
                )+];

                fn each(&self, visit: &mut Visit<'_>) {
                    let mut entries = Self::ENTRIES.iter();
                    $(
                        if let Some(entry) = entries.next() {
                            visit(entry, &self.$field);
                        }
                    )+
                }

                fn add(&mut self, later: &Self) {
                    $(match EntryKind::$kind {
                        EntryKind::Counter | EntryKind::Accounts => Value::add(&mut self.$field, &later.$field),
                        EntryKind::Gauge | EntryKind::Detail => self.$field.clone_from(&later.$field),
                    })+
                }

                fn since(&self, earlier: &Self) -> Self {
                    let mut fresh = self.clone();
                    $(match EntryKind::$kind {
                        EntryKind::Counter | EntryKind::Accounts => Value::subtract(&mut fresh.$field, &earlier.$field),
                        EntryKind::Gauge | EntryKind::Detail => {}
                    })+
                    fresh
                }
            }
        )+
    };
}

pub(super) use accounts;
