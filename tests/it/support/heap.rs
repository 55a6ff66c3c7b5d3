//! The allocator of this binary: it counts for each thread by itself, so that tests which ask do not see what others
//! do at the same time.
#![allow(unsafe_code)] // An allocator that counts cannot be written without.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use systole::internals::memory::footprint;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static HELD: Cell<i64> = const { Cell::new(0) };
}

/// Allocations of this thread so far, those included that grow something.
pub fn allocations() -> u64 {
    ALLOCATIONS.get()
}

/// Bytes that this thread allocated less those that it freed, with what the allocator adds to each; below 0 if it frees
/// what others allocated.
pub fn held_bytes() -> i64 {
    HELD.get()
}

/// Neither cell has a destructor, so both work until the thread has ended.
fn count(allocations: u64, bytes: i64) {
    ALLOCATIONS.set(ALLOCATIONS.get() + allocations);
    HELD.set(HELD.get() + bytes);
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, footprint(layout.size()) as i64);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, footprint(layout.size()) as i64);
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(1, footprint(new_size) as i64 - footprint(layout.size()) as i64);
        // SAFETY: the caller keeps the contract of `realloc`, and `System` gave the pointer.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -(footprint(layout.size()) as i64));
        // SAFETY: the caller keeps the contract of `dealloc`, and `System` gave the pointer.
        unsafe { System.dealloc(pointer, layout) }
    }
}
