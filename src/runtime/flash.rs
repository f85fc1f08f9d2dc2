//! Causal attention over packed sequences of different lengths, by libtorch's flash kernels (GPU only).

use std::ffi::{CStr, c_char, c_void};

use tch::{TchError, Tensor};

unsafe extern "C" {
    fn atp_flash_attention(
        q: *const c_void,
        k: *const c_void,
        v: *const c_void,
        starts_q: *const c_void,
        starts_k: *const c_void,
        longest_q: i64,
        longest_k: i64,
        scale: f64,
        error: *mut *mut c_char,
    ) -> *mut c_void;
}

/// Sequences packed one behind the other, in rows from `starts[i]` to `starts[i + 1]`.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// `(sequences + 1)`, i32, on the device.
    pub starts: &'a Tensor,
    /// Length of the longest.
    pub longest: i64,
}

/// `q` is `(T, heads, D)`, `k` and `v` are `(S, kv_heads, D)`; the result is `(T, heads, D)`. A sequence's queries are
/// its last positions: query `i` of `n` sees the keys up to `keys − n + i`.
pub fn flash_attention(
    (q, queries): (&Tensor, Rows),
    (k, v, keys): (&Tensor, &Tensor, Rows),
    scale: f64,
) -> Result<Tensor, TchError> {
    let mut error = std::ptr::null_mut();
    // SAFETY: all are live tensors, which the callee reads only; it gives a new tensor or sets `error`.
    let made = unsafe {
        atp_flash_attention(
            q.as_ptr().cast(),
            k.as_ptr().cast(),
            v.as_ptr().cast(),
            queries.starts.as_ptr().cast(),
            keys.starts.as_ptr().cast(),
            queries.longest,
            keys.longest,
            scale,
            &mut error,
        )
    };
    if !made.is_null() {
        // SAFETY: a new tensor, owned from here on.
        return Ok(unsafe { Tensor::from_ptr(made.cast()) });
    }
    // SAFETY: set by `strdup`, freed once.
    let message = unsafe {
        let text = CStr::from_ptr(error).to_string_lossy().into_owned();
        libc::free(error.cast());
        text
    };
    Err(TchError::Torch(message))
}
