//! Waiting for what happens. Each wait has a deadline that only a broken program reaches, however busy the machine is.

use std::fmt::Debug;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often is asked.
const STEP: Duration = Duration::from_millis(15);

/// Asks until there is an answer. The last that was found instead is part of the panic if there never is one.
pub fn poll<T, E: Debug>(what: &str, mut ask: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(found) => assert!(Instant::now() < deadline, "never {what}: {found:?}"),
        }
        std::thread::sleep(STEP);
    }
}

/// Asks until it is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    poll(what, || if is_so() { Ok(()) } else { Err(()) });
}

/// How a process ends, if it does in time.
pub fn exit_within(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        let status = child.try_wait().expect("a child of ours");
        if status.is_some() || Instant::now() >= deadline {
            return status;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The first of up to three measurements that is within its limit, else the least. Another process may take a core for a
/// moment; a program at fault is beyond its limit each time.
pub fn least_of_three(limit: f64, mut measure: impl FnMut() -> f64) -> f64 {
    let mut least = f64::INFINITY;
    for _ in 0..3 {
        least = least.min(measure());
        if least <= limit {
            break;
        }
    }
    least
}

/// A pause of a sender or a reader, or a time for which something goes on: part of what is tested. Nothing may rest on it
/// being long enough for something to happen; that is what [`poll`] is for.
pub fn pause(length: Duration) {
    std::thread::sleep(length);
}

/// [`pause`] in milliseconds.
pub fn pause_ms(length: u64) {
    pause(Duration::from_millis(length));
}
