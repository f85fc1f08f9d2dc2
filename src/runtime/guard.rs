//! Calls into libraries that panic on some malformed input.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static GUARDED: Cell<u32> = const { Cell::new(0) };
}

/// Makes a panic of `call` an error that says what it said.
pub fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    GUARDED.set(GUARDED.get() + 1);
    // What `call` may leave half done is dropped with it: all callers build or fill a value of their own.
    let called = catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(GUARDED.get() - 1);
    called.map_err(|payload| {
        let said = payload.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| payload.downcast_ref::<&str>().copied());
        format!(
            "it makes the reader fail: {}",
            said.unwrap_or("no reason given")
        )
    })
}

/// Whether a panic of this thread would be caught and told as an error: then nobody else needs to hear of it.
pub fn is_guarded() -> bool {
    GUARDED.try_with(Cell::get).is_ok_and(|depth| depth > 0)
}
