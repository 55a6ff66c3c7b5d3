//! A configuration: no panic, every mistake has a place, and what is accepted reads back as it is printed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use systole::internals::config::{self, Sources, load};

/// Names of machines would be looked up.
fn looks_names_up(text: &str) -> bool {
    let after = |word: &str| {
        text.match_indices(word).any(|(at, _)| {
            let rest = text[at + word.len()..].lines().next().unwrap_or("");
            rest.bytes().any(|b| b.is_ascii_alphabetic() || b >= 0x80 || b == b'\\')
        })
    };
    after("://") || after("address")
}

fuzz_target!(|text: &str| {
    if looks_names_up(text) {
        return;
    }
    let read = |text: &str| load(&Sources { file: Some(("f".into(), text.into())), ..Sources::default() });
    match read(text) {
        Ok(config) => {
            let printed = config::print(&config);
            let again = read(&printed).unwrap_or_else(|problems| panic!("{problems:?}\n{printed}"));
            assert_eq!(config::print(&again), printed);
            let _ = config::flat(&config);
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            problems.iter().for_each(|problem| assert!(!problem.place.is_empty() && !problem.message.is_empty()));
        }
    }
});
