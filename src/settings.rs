//! How a setting is described: once, to an [`OptionVisitor`]. The configuration has visitors that read a setting from
//! a file, print it, and list it for the reference; a room describes its options without knowing them.
//!
//! Structs that belong to the configuration alone are written with [`settings!`], which makes the struct, its
//! defaults and its description from one entry a setting.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use toml::Value;

/// One option's value, to be read or shown.
pub enum Opt<'a> {
    /// Any text.
    Text(&'a mut String),
    /// A text; an empty one is none.
    TextOrNone(&'a mut String),
    /// A text that is never shown, and may be `file:/path`.
    Secret(&'a mut String),
    /// A file or folder; empty if there is none.
    Path(&'a mut PathBuf),
    /// `host:port`, not looked up.
    HostPort(&'a mut String),
    /// An address to listen at; looked up.
    Address(&'a mut Option<SocketAddr>),
    /// The same, or `off`; with an example.
    AddressOrOff(&'a mut Option<SocketAddr>, &'static str),
    /// `http://…` or `https://…`.
    Url(&'a mut String),
    /// The same, or an empty text.
    UrlOrEmpty(&'a mut String),
    /// Several of them.
    Urls(&'a mut Vec<String>),
    /// Yes or no.
    Flag(&'a mut bool),
    /// A whole number.
    Whole(&'a mut u64, RangeInclusive<u64>),
    /// A number.
    Number(&'a mut f64, RangeInclusive<f64>),
    /// A duration.
    Duration(&'a mut Duration, RangeInclusive<Duration>),
    /// A duration, or none.
    MaybeDuration(&'a mut Option<Duration>, RangeInclusive<Duration>),
    /// A duration, or `forever`.
    Lifetime(&'a mut Option<Duration>, RangeInclusive<Duration>),
    /// A number of bytes.
    Size(&'a mut u64, RangeInclusive<u64>),
    /// A number of bytes, or none.
    MaybeSize(&'a mut Option<u64>, RangeInclusive<u64>),
    /// Texts.
    Texts(&'a mut Vec<String>),
    /// A program and its arguments, which are never shown.
    Command(&'a mut Vec<String>),
    /// Numbers.
    Numbers(&'a mut Vec<f64>, RangeInclusive<f64>),
    /// Whole numbers.
    Wholes(&'a mut Vec<u64>, RangeInclusive<u64>),
    /// Networks; absent is every one.
    Networks(&'a mut Option<Vec<IpNet>>),
    /// Texts by key.
    Map(&'a mut BTreeMap<String, String>),
    /// Numbers by key.
    NumbersByKey(&'a mut BTreeMap<String, f64>),
    /// Texts by key, which are never shown.
    Secrets(&'a mut BTreeMap<String, String>),
    /// One of some words: all of them, and the number of the one that holds.
    Choice(&'a [&'static str], &'a mut usize),
    /// A value with a form of its own.
    Parsed(Parsed<'a>),
    /// Items of an own form.
    List(List<'a>),
    /// A value that may be absent: whether it is there, and how it is read and shown.
    Maybe(&'a mut bool, Box<Opt<'a>>),
}

/// Why a text is not taken.
pub enum Wrong {
    /// It is not this.
    Not(String),
    /// In one sentence, with what would be right.
    Because(String),
}

/// A value with a form of its own.
pub struct Parsed<'a> {
    /// As it is printed; `None` prints nothing.
    pub shown: Option<Value>,
    /// What is right, for the reference.
    pub form: &'a str,
    /// Whether a number is taken as its text.
    pub takes_numbers: bool,
    /// Takes a text.
    pub read: &'a mut dyn FnMut(&str) -> Result<(), Wrong>,
}

/// Items of an own form.
pub struct List<'a> {
    /// The items.
    pub items: &'a mut dyn Items,
    /// What is right, for the reference.
    pub form: &'a str,
    /// Whether a number is taken as its text.
    pub takes_numbers: bool,
    /// Whether one item may stand without an array around it.
    pub or_one: bool,
}

/// The items of a [`List`].
pub trait Items {
    /// Begins anew: the setting is there.
    fn clear(&mut self);

    /// Adds an item.
    ///
    /// # Errors
    /// Why it is not taken.
    fn add(&mut self, text: &str) -> Result<(), Wrong>;

    /// As they are printed; `None` prints nothing.
    fn show(&self) -> Option<Vec<Value>>;
}

/// [`Items`] in a vector, by two functions.
pub struct ItemsOf<'a, T> {
    /// The items.
    pub items: &'a mut Vec<T>,
    /// Reads one; `None` leaves it out.
    pub read: fn(&str) -> Result<Option<T>, Wrong>,
    /// Shows one.
    pub show: fn(&T) -> Value,
}

impl<T> Items for ItemsOf<'_, T> {
    fn clear(&mut self) {
        self.items.clear();
    }

    fn add(&mut self, text: &str) -> Result<(), Wrong> {
        self.items.extend((self.read)(text)?);
        Ok(())
    }

    fn show(&self) -> Option<Vec<Value>> {
        Some(self.items.iter().map(self.show).collect())
    }
}

/// Tables of an array, each with its own settings.
pub trait Tables {
    /// How many there are.
    fn count(&self) -> usize;

    /// Begins anew: the file has such tables.
    fn clear(&mut self);

    /// Adds one with its defaults.
    fn add(&mut self);

    /// Describes one.
    fn describe(&mut self, number: usize, visitor: &mut dyn OptionVisitor);
}

/// [`Tables`] in a vector: how one begins, by its number, and how it is described.
pub struct TablesOf<'a, T, New, Describe> {
    /// The tables.
    pub tables: &'a mut Vec<T>,
    /// The defaults of one.
    pub new: New,
    /// Describes one.
    pub describe: Describe,
}

impl<T, New: FnMut(usize) -> T, Describe: FnMut(&mut T, &mut dyn OptionVisitor)> Tables
    for TablesOf<'_, T, New, Describe>
{
    fn count(&self) -> usize {
        self.tables.len()
    }

    fn clear(&mut self) {
        self.tables.clear();
    }

    fn add(&mut self) {
        let number = self.tables.len();
        self.tables.push((self.new)(number));
    }

    fn describe(&mut self, number: usize, visitor: &mut dyn OptionVisitor) {
        if let Some(table) = self.tables.get_mut(number) {
            (self.describe)(table, visitor);
        }
    }
}

/// What settings are shown to. Each has its key and what it means, as sentences for the reference.
pub trait OptionVisitor {
    /// One option.
    fn field(&mut self, key: &'static str, doc: &'static str, field: Opt<'_>);

    /// An example, as TOML, of the option `key`, which has no default.
    fn example(&mut self, key: &'static str, example: &str) {
        let _ = (key, example);
    }

    /// Options of a table inside of one that has more of its own behind it: written with dots.
    fn in_table(&mut self, key: &'static str, inner: &mut dyn FnMut(&mut dyn OptionVisitor));

    /// The same of a table that may be absent, and is left out then unless the visitor says otherwise. `inner` is told whether it
    /// is there, and so is the caller.
    fn in_optional_table(
        &mut self,
        key: &'static str,
        is_there: bool,
        inner: &mut dyn FnMut(&mut dyn OptionVisitor, bool),
    ) -> bool {
        if is_there {
            self.in_table(key, &mut |visitor| inner(visitor, true));
        }
        is_there
    }

    /// Options of a table under a head of its own.
    fn section(&mut self, key: &'static str, doc: &'static str, inner: &mut dyn FnMut(&mut dyn OptionVisitor)) {
        let _ = doc;
        self.in_table(key, inner);
    }

    /// Tables of an array.
    fn sections(&mut self, key: &'static str, doc: &'static str, tables: &mut dyn Tables) {
        let _ = (key, doc, tables);
    }

    /// Says that an option must be there, and gives an example of it as TOML.
    fn require_one(&mut self, key: &'static str, is_there: bool, example: &str);

    /// Says that what was read cannot be: about the option `key`, unless that is right. Without a key it is about the
    /// table, and said only if nothing else is wrong with that.
    fn require(&mut self, key: &'static str, verdict: Result<(), String>);

    /// Which options follow cannot be known: the rest of this table is left alone.
    fn give_up(&mut self) {}

    /// Whether this visitor reads: what it does not find is not there.
    fn is_reader(&self) -> bool {
        false
    }

    /// Whether files that settings name are to be read, too, to say what is wrong with them.
    fn reads_files(&self) -> bool {
        false
    }

    /// The configuration's profile.
    fn profile(&self) -> &'static str;

    /// Time between flushes.
    fn interval(&self) -> Duration {
        Duration::ZERO
    }
}

/// Settings that are described to a visitor.
pub trait Described {
    /// Shows every setting to a visitor.
    fn describe(&mut self, visitor: &mut dyn OptionVisitor);
}

/// A struct of settings: for each its sentences, key, type, default and kind, which is a function of visitor, key,
/// sentences and value.
macro_rules! settings {
    ($(#[$about:meta])+ $name:ident {
        $($(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr, $kind:expr;)*
    } $($checks:ident)?) => {
        $(#[$about])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $($field: $default,)* }
            }
        }

        impl $crate::settings::Described for $name {
            fn describe(&mut self, visitor: &mut dyn $crate::settings::OptionVisitor) {
                $($crate::settings::show(visitor, stringify!($field), concat!($($doc),+), &mut self.$field, $kind);)*
                $(self.$checks(visitor);)?
            }
        }
    };
}
pub(crate) use settings;

/// Shows one setting by its kind.
pub fn show<T>(
    visitor: &mut dyn OptionVisitor,
    key: &'static str,
    doc: &'static str,
    value: &mut T,
    kind: impl Fn(&mut dyn OptionVisitor, &'static str, &'static str, &mut T),
) {
    kind(visitor, key, doc, value);
}

/// Shows one of some values by its word.
pub fn choice<T: Copy + PartialEq>(
    visitor: &mut dyn OptionVisitor,
    key: &'static str,
    doc: &'static str,
    words: &[(&'static str, T)],
    value: &mut T,
) {
    let names: Vec<&'static str> = words.iter().map(|(name, _)| *name).collect();
    let mut number = words.iter().position(|(_, known)| known == value).unwrap_or(0);
    visitor.field(key, doc, Opt::Choice(&names, &mut number));
    if let Some((_, chosen)) = words.get(number) {
        *value = *chosen;
    }
}

/// Shows one of some words that may be absent.
pub fn maybe_choice<T: Copy + PartialEq>(
    visitor: &mut dyn OptionVisitor,
    key: &'static str,
    doc: &'static str,
    words: &[(&'static str, T)],
    value: &mut Option<T>,
) {
    let names: Vec<&'static str> = words.iter().map(|(name, _)| *name).collect();
    let chosen = words.iter().position(|(_, known)| Some(known) == value.as_ref());
    let (mut is_there, mut number) = (chosen.is_some(), chosen.unwrap_or(0));
    visitor.field(key, doc, Opt::Maybe(&mut is_there, Box::new(Opt::Choice(&names, &mut number))));
    *value = words.get(number).map(|(_, word)| *word).filter(|_| is_there);
}

/// Shows a value that may be absent.
pub fn maybe<T: Default>(
    visitor: &mut dyn OptionVisitor,
    key: &'static str,
    doc: &'static str,
    value: &mut Option<T>,
    option: impl for<'x> FnOnce(&'x mut T) -> Opt<'x>,
) {
    let mut is_there = value.is_some();
    let mut inner = value.take().unwrap_or_default();
    visitor.field(key, doc, Opt::Maybe(&mut is_there, Box::new(option(&mut inner))));
    *value = is_there.then_some(inner);
}

/// Shows seconds as a duration.
pub fn seconds(
    visitor: &mut dyn OptionVisitor,
    key: &'static str,
    doc: &'static str,
    value: &mut f64,
    range: RangeInclusive<Duration>,
) {
    let mut duration = Duration::from_secs_f64(*value);
    visitor.field(key, doc, Opt::Duration(&mut duration, range));
    *value = duration.as_secs_f64();
}

/// Shows seconds that may be absent.
pub fn maybe_seconds(
    visitor: &mut dyn OptionVisitor,
    key: &'static str,
    doc: &'static str,
    value: &mut Option<f64>,
    range: RangeInclusive<Duration>,
) {
    let mut duration = value.map(Duration::from_secs_f64);
    visitor.field(key, doc, Opt::MaybeDuration(&mut duration, range));
    *value = duration.map(|duration| duration.as_secs_f64());
}

/// A whole number of any width.
pub trait Count: Copy {
    /// As the widest.
    fn wide(self) -> u64;

    /// Of the widest, which is in the setting's range.
    fn narrow(wide: u64) -> Self;
}

macro_rules! counts {
    ($($type:ty)*) => {$(
        impl Count for $type {
            fn wide(self) -> u64 {
                self as u64
            }

            fn narrow(wide: u64) -> $type {
                wide as $type
            }
        }
    )*};
}
counts!(u8 u16 u32 u64 usize);

/// Shows the variables that a command gets beside those that say where and how programs run.
pub fn environment(visitor: &mut dyn OptionVisitor, env: &mut BTreeMap<String, String>) {
    let doc = "Variables of its environment, beside PATH, HOME, USER, LOGNAME, SHELL, LANG, LANGUAGE, LC_…, TZ and \
               TMPDIR; the values are never shown.";
    visitor.field("env", doc, Opt::Secrets(env));
    visitor.example("env", "{ API_KEY = \"a secret\" }");
    let is_good =
        |(name, value): (&String, &String)| !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
    let bad = env.iter().find(|one| !is_good(*one));
    visitor.require("env", bad.map_or(Ok(()), |(name, _)| Err(format!("`{name}` cannot be a variable"))));
}

/// Shows a whole number of any width.
pub fn count<T: Count>(
    visitor: &mut dyn OptionVisitor,
    key: &'static str,
    doc: &'static str,
    value: &mut T,
    range: RangeInclusive<u64>,
) {
    let mut wide = value.wide();
    visitor.field(key, doc, Opt::Whole(&mut wide, range));
    *value = T::narrow(wide);
}

/// Shows a whole number that may be absent.
pub fn maybe_count<T: Count>(
    visitor: &mut dyn OptionVisitor,
    key: &'static str,
    doc: &'static str,
    value: &mut Option<T>,
    range: RangeInclusive<u64>,
) {
    let mut wide = value.map(Count::wide);
    maybe(visitor, key, doc, &mut wide, |wide| Opt::Whole(wide, range));
    *value = wide.map(T::narrow);
}

/// Shows texts by key, in their order.
pub fn pairs(visitor: &mut dyn OptionVisitor, key: &'static str, doc: &'static str, value: &mut Vec<(String, String)>) {
    let mut map: BTreeMap<String, String> = std::mem::take(value).into_iter().collect();
    visitor.field(key, doc, Opt::Map(&mut map));
    *value = map.into_iter().collect();
}

/// Shows texts by key that are not printed without any.
pub fn maybe_pairs(
    visitor: &mut dyn OptionVisitor,
    key: &'static str,
    doc: &'static str,
    value: &mut Vec<(String, String)>,
) {
    let mut map: BTreeMap<String, String> = std::mem::take(value).into_iter().collect();
    let mut is_there = !map.is_empty();
    visitor.field(key, doc, Opt::Maybe(&mut is_there, Box::new(Opt::Map(&mut map))));
    *value = map.into_iter().collect();
}

/// `` (did you mean `x`?)`` if one of the words is near.
pub fn suggestion<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> String {
    let limit = |candidate: &str| (candidate.len().max(word.len()) / 3).max(1);
    let near = known
        // Words of very different length are far from each other; to compute how far takes the product of both.
        .filter(|candidate| candidate.len().abs_diff(word.len()) <= limit(candidate))
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= limit(candidate))
        .min();
    near.map_or_else(String::new, |(_, candidate)| format!(" (did you mean `{candidate}`?)"))
}
