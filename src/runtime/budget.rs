//! A bound on the memory that a call takes: for what runs a program that came with a model, such as a chat template.
//!
//! The allocator counts for the thread that set a bound, and costs the others one read of a thread's own cell. Memory of
//! libtorch is not counted; it comes from elsewhere.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// What stands for no bound.
const NONE: usize = usize::MAX;

thread_local! {
    static LEFT: Cell<usize> = const { Cell::new(NONE) };
    static SAID: Cell<&'static str> = const { Cell::new("") };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The system's allocator, with a count.
struct Counting;

/// Call with a bound of `bytes` on what this thread allocates and has not yet freed. Beyond it the process ends with exit
/// code 1 and `message`: an allocation cannot fail in any other way that a library survives. Files are written whole or not
/// at all, so nothing is lost but the call.
pub fn within<T>(bytes: usize, message: &'static str, call: impl FnOnce() -> T) -> T {
    /// Puts back what was there, also where the call panics.
    struct Restore(usize, &'static str);
    impl Drop for Restore {
        fn drop(&mut self) {
            LEFT.set(self.0);
            SAID.set(self.1);
        }
    }
    let _restore = Restore(LEFT.replace(bytes.min(NONE - 1)), SAID.replace(message));
    call()
}

fn charge(bytes: usize) {
    // A thread that is ending has no cells any more.
    let _ = LEFT.try_with(|left| {
        let had = left.get();
        if had == NONE {
            return;
        }
        match had.checked_sub(bytes) {
            Some(rest) => left.set(rest),
            None => give_up(),
        }
    });
}

fn refund(bytes: usize) {
    let _ = LEFT.try_with(|left| {
        let had = left.get();
        if had != NONE {
            left.set(had.saturating_add(bytes).min(NONE - 1));
        }
    });
}

/// Say why and end, without a single allocation.
#[cold]
fn give_up() -> ! {
    let said = SAID.try_with(Cell::get).unwrap_or_default();
    for part in ["error: ", said, "\n"] {
        // SAFETY: the pointer and length are of a live string; a failed write changes nothing.
        unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
    }
    // SAFETY: ends the process at once; nothing runs after it.
    unsafe { libc::_exit(1) }
}

// SAFETY: every call is handed to the system's allocator as it came; counting touches no memory but a thread's own cell
// and neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        charge(layout.size());
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        charge(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match size.checked_sub(layout.size()) {
            Some(more) => charge(more),
            None => refund(layout.size() - size),
        }
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        refund(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_freed_can_be_taken_again_and_bounds_are_put_back() {
        let taken = within(1 << 20, "too much", || {
            let before = LEFT.get();
            for _ in 0..8 {
                // Eight times this is more than the bound.
                let block: Vec<u8> = Vec::with_capacity(1 << 18);
                assert!(before - LEFT.get() >= 1 << 18);
                drop(block);
            }
            before - LEFT.get()
        });
        assert_eq!(taken, 0);
        assert_eq!(LEFT.get(), NONE);
        // A panic's backtrace takes memory too, where one is asked for.
        let _ = std::panic::catch_unwind(|| within(1 << 30, "too much", || panic!("on purpose")));
        assert_eq!(LEFT.get(), NONE);
    }
}
