//! Words that are read back where the house has constants: each is kept once, for ever, and there are not many.

use std::collections::{BTreeMap, HashSet};
use std::sync::{LazyLock, Mutex, PoisonError};

use serde::de::{Deserialize, Deserializer, Error};

/// A word that is kept. (With the type written out, serde would want to borrow it.)
pub type Word = &'static str;

/// Most words kept: states, reasons and codes are some dozens.
const MOST: usize = 1024;

fn keep<E: Error>(word: &str) -> Result<&'static str, E> {
    static KEPT: LazyLock<Mutex<HashSet<&'static str>>> = LazyLock::new(Mutex::default);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = kept.get(word) {
        return Ok(known);
    }
    if kept.len() >= MOST {
        return Err(E::custom(format!("`{word}` is one unknown word too many")));
    }
    let known: &'static str = Box::leak(word.into());
    kept.insert(known);
    Ok(known)
}

/// Reads a word.
///
/// # Errors
/// If it is no text, or more than 1,024 different words were read.
pub fn lasting<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'static str, D::Error> {
    keep(&String::deserialize(deserializer)?)
}

/// Reads a word, or none.
///
/// # Errors
/// As [`lasting`].
pub fn lasting_maybe<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'static str>, D::Error> {
    Option::<String>::deserialize(deserializer)?.map(|word| keep(&word)).transpose()
}

/// Reads numbers by words.
///
/// # Errors
/// As [`lasting`].
pub fn lasting_keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<&'static str, u64>, D::Error> {
    let map = BTreeMap::<String, u64>::deserialize(deserializer)?;
    map.into_iter().map(|(word, number)| Ok((keep(&word)?, number))).collect()
}
