//! Causal attention over packed sequences of different lengths and its backward, by libtorch's flash kernels (GPU only).

use std::ffi::{c_char, c_int, c_void};
use std::ptr::null_mut;

use tch::{TchError, Tensor};

use super::native::{address, message};

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
        out: *mut *mut c_void,
        error: *mut *mut c_char,
    ) -> c_int;
    fn atp_flash_attention_backward(
        d_out: *const c_void,
        q: *const c_void,
        k: *const c_void,
        v: *const c_void,
        out: *const c_void,
        saved: *const *const c_void,
        starts_q: *const c_void,
        starts_k: *const c_void,
        longest_q: i64,
        longest_k: i64,
        scale: f64,
        gradients: *mut *mut c_void,
        error: *mut *mut c_char,
    ) -> c_int;
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
    queries: (&Tensor, Rows),
    keys: (&Tensor, &Tensor, Rows),
    scale: f64,
) -> Result<Tensor, TchError> {
    let [out, ..] = forward(queries, keys, scale)?;
    Ok(out)
}

/// As [`flash_attention`]: the result, and three tensors that [`backward`] needs.
pub fn forward(
    (q, queries): (&Tensor, Rows),
    (k, v, keys): (&Tensor, &Tensor, Rows),
    scale: f64,
) -> Result<[Tensor; 4], TchError> {
    let (mut error, mut out) = (null_mut(), [null_mut(); 4]);
    // SAFETY: all are live tensors, which the callee reads only; it gives four new ones or sets `error`.
    let failed = unsafe {
        atp_flash_attention(
            address(q),
            address(k),
            address(v),
            address(queries.starts),
            address(keys.starts),
            queries.longest,
            keys.longest,
            scale,
            out.as_mut_ptr(),
            &mut error,
        )
    };
    made(failed, out, error)
}

/// Gradients of `q`, `k` and `v` from that of the result, with the same bits every time.
pub fn backward(
    d_out: &Tensor,
    (q, queries): (&Tensor, Rows),
    (k, v, keys): (&Tensor, &Tensor, Rows),
    out: &Tensor,
    saved: &[Tensor; 3],
    scale: f64,
) -> Result<[Tensor; 3], TchError> {
    let (mut error, mut gradients) = (null_mut(), [null_mut(); 3]);
    let saved = saved.each_ref().map(address);
    // SAFETY: as above; three new tensors.
    let failed = unsafe {
        atp_flash_attention_backward(
            address(d_out),
            address(q),
            address(k),
            address(v),
            address(out),
            saved.as_ptr(),
            address(queries.starts),
            address(keys.starts),
            queries.longest,
            keys.longest,
            scale,
            gradients.as_mut_ptr(),
            &mut error,
        )
    };
    made(failed, gradients, error)
}

/// Take what a call made, or its message.
fn made<const N: usize>(
    failed: c_int,
    tensors: [*mut c_void; N],
    error: *mut c_char,
) -> Result<[Tensor; N], TchError> {
    if failed == 0 {
        // SAFETY: new tensors, owned from here on.
        return Ok(tensors.map(|t| unsafe { Tensor::from_ptr(t.cast()) }));
    }
    Err(TchError::Torch(message(error)))
}
