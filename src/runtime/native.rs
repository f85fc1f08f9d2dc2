//! What calls of the C++ beside this file share: how they are given tensors, and how they say what went wrong.

use std::ffi::{CStr, c_char, c_void};

use tch::Tensor;

/// A tensor as C++ takes it; it is only lent.
pub(super) fn address(tensor: &Tensor) -> *const c_void {
    tensor.as_ptr().cast()
}

/// The message that a call left in `error`, which is freed.
pub(super) fn message(error: *mut c_char) -> String {
    if error.is_null() {
        return "no reason was given".into();
    }
    // SAFETY: set by `strdup` in `guarded.h`, read and freed once.
    unsafe {
        let text = CStr::from_ptr(error).to_string_lossy().into_owned();
        libc::free(error.cast());
        text
    }
}
