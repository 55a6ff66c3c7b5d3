//! Failures on purpose, for the tests of supervision: a panic when a named place is passed for the nth time. Without the
//! feature `internals` there is nothing of it, and [`pass`] is empty.
#![deny(clippy::disallowed_methods)]

#[cfg(feature = "internals")]
pub use armed::{VARIABLE, arm, pass};

/// A place where a test may want a failure.
#[cfg(not(feature = "internals"))]
#[inline(always)]
pub fn pass(_place: &str) {}

#[cfg(feature = "internals")]
mod armed {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// The environment variable that arms places when the daemon starts.
    pub const VARIABLE: &str = "SYSTOLE_TEST_FAULT";

    static IS_ARMED: AtomicBool = AtomicBool::new(false);
    static FAULTS: Mutex<Vec<Fault>> = Mutex::new(Vec::new());

    struct Fault {
        place: String,
        /// Fails when it is passed for this time, from 1, and until it has failed so often.
        first: u64,
        times: u64,
        passed: u64,
    }

    fn faults() -> MutexGuard<'static, Vec<Fault>> {
        FAULTS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Arms places: `PLACE@N` fails at the Nth passage, `PLACE@N*M` at that one and those after it, M in all. Several have
    /// commas between them.
    ///
    /// # Errors
    /// If the text is not of that form.
    pub fn arm(text: &str) -> Result<(), String> {
        for one in text.split(',').filter(|one| !one.is_empty()) {
            let wrong = || format!("{VARIABLE}: `{one}` is not PLACE@N or PLACE@N*M");
            let (place, when) = one.rsplit_once('@').ok_or_else(wrong)?;
            let (first, times) = when.split_once('*').unwrap_or((when, "1"));
            let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
            let (first, times) = (number(first)?, number(times)?);
            faults().push(Fault { place: place.to_string(), first, times, passed: 0 });
        }
        IS_ARMED.store(true, Ordering::Release);
        Ok(())
    }

    /// A place where a test may want a failure.
    ///
    /// # Panics
    /// If it was armed, and is passed for the armed time.
    #[inline(always)]
    pub fn pass(place: &str) {
        if IS_ARMED.load(Ordering::Relaxed) {
            pass_armed(place);
        }
    }

    #[cold]
    fn pass_armed(place: &str) {
        let mut is_due = false;
        for fault in faults().iter_mut().filter(|fault| fault.place == place) {
            fault.passed += 1;
            is_due |= (fault.first..fault.first.saturating_add(fault.times)).contains(&fault.passed);
        }
        assert!(!is_due, "a test wants a failure at `{place}`");
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn an_armed_place_fails_when_it_is_passed_for_that_time() {
            arm("here:1@2*2,there@1").expect("well-formed");
            let passes = |place: &'static str| std::panic::catch_unwind(|| pass(place)).is_ok();
            assert_eq!([(); 5].map(|()| passes("here:1")), [true, false, false, true, true]);
            assert_eq!((passes("there"), passes("there"), passes("elsewhere")), (false, true, true));
            assert!(arm("here").is_err() && arm("here@x").is_err());
        }
    }
}
