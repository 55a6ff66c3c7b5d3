//! The allocator of the daemon: the system's, with a counter of the bytes that live.
//!
//! The counter is striped: a thread adds to a stripe of its own, so that threads do not contend for a line of the
//! cache, and readers add the stripes up. A program that embeds the library keeps its own allocator; then nothing is
//! counted here, and [`super::live_bytes`] falls back to what the kernel says.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::memory::footprint;

/// Stripes of the counter. With more threads than that some share one, which is slower but right.
const STRIPES: usize = 32;

/// As large as what a processor fetches at once: two lines of 64 bytes.
#[repr(align(128))]
struct Stripe(AtomicUsize);

static LIVE: [Stripe; STRIPES] = [const { Stripe(AtomicUsize::new(0)) }; STRIPES];

/// Threads that have a stripe.
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The stripe of this thread; `STRIPES` until it has one. Without a destructor, so that it works until the thread has
    /// ended, and set up without an allocation.
    static OWN: Cell<usize> = const { Cell::new(STRIPES) };
}

/// The system's allocator, counting.
#[derive(Debug)]
pub struct CountingAllocator;

#[cold]
fn choose() -> usize {
    let own = THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES;
    OWN.set(own);
    own
}

/// Adds to the thread's stripe. What a thread frees may be another's, so a stripe wraps; the sum does not.
#[inline]
fn count(bytes: usize) {
    let own = OWN.get();
    let own = if own == STRIPES { choose() } else { own };
    LIVE[own].0.fetch_add(bytes, Ordering::Relaxed);
}

/// Bytes that live, with what the allocator adds to each allocation; 0 if another allocator is installed.
pub(super) fn counted_bytes() -> u64 {
    let sum = LIVE.iter().fold(0_usize, |sum, stripe| sum.wrapping_add(stripe.0.load(Ordering::Relaxed)));
    // A thread that frees what another has allocated may be seen before it.
    u64::try_from(isize::try_from(sum).unwrap_or(0)).unwrap_or(0)
}

// SAFETY: every call goes to the system's allocator unchanged, and its result comes back unchanged. Counting allocates
// nothing and cannot panic.
unsafe impl GlobalAlloc for CountingAllocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc`.
        let pointer = unsafe { System.alloc(layout) };
        if !pointer.is_null() {
            count(footprint(layout.size()));
        }
        pointer
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        let pointer = unsafe { System.alloc_zeroed(layout) };
        if !pointer.is_null() {
            count(footprint(layout.size()));
        }
        pointer
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `realloc`, and `System` gave the pointer.
        let moved = unsafe { System.realloc(pointer, layout, new_size) };
        if !moved.is_null() {
            count(footprint(new_size).wrapping_sub(footprint(layout.size())));
        }
        moved
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0_usize.wrapping_sub(footprint(layout.size())));
        // SAFETY: the caller keeps the contract of `dealloc`, and `System` gave the pointer.
        unsafe { System.dealloc(pointer, layout) }
    }
}
