//! A row of a capture: no panic, and what is wrong is told.
#![no_main]

use libfuzzer_sys::fuzz_target;
use systole::cli::capture::row;

fuzz_target!(|text: &str| {
    for line in text.lines() {
        if let Err(problem) = row(line) {
            assert!(!problem.is_empty());
        }
    }
});
