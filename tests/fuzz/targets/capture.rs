//! A row of a capture: no panic, and what is wrong is told.
#![no_main]

use libfuzzer_sys::fuzz_target;
use systole::internals::capture::reader::row;

fuzz_target!(|text: &str| {
    for line in text.lines() {
        for absolute in [false, true] {
            if let Err(problem) = row(line, absolute) {
                assert!(!problem.is_empty());
            }
        }
    }
});
