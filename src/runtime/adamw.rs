//! libtorch's AdamW in one pass over a parameter, its gradient and its moments.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::null_mut;

use tch::{TchError, Tensor};

use super::native::{address, message};

unsafe extern "C" {
    fn atp_adamw(
        parameter: *const c_void,
        gradient: *const c_void,
        first: *const c_void,
        second: *const c_void,
        step: *const c_void,
        divisor: *const c_void,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        error: *mut *mut c_char,
    ) -> c_int;
}

/// Factors of one step.
#[derive(Debug, Clone, Copy)]
pub struct Factors {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first and of the second moment.
    pub betas: (f64, f64),
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
}

/// Take step number `step`, which counts from one, on the gradient divided by `divisor`, which the gradient is afterwards;
/// both are f32 of one number, on the device of the rest. All else has one size, in f32.
///
/// # Errors
/// libtorch refuses: kinds, sizes or devices differ.
pub fn step(
    parameter: &mut Tensor,
    gradient: &mut Tensor,
    moments: (&mut Tensor, &mut Tensor),
    (step, divisor): (&Tensor, &Tensor),
    factors: Factors,
) -> Result<(), TchError> {
    let mut error = null_mut();
    // SAFETY: all are live tensors; those that are written are borrowed for that. A failure sets `error`.
    let failed = unsafe {
        atp_adamw(
            address(parameter),
            address(gradient),
            address(moments.0),
            address(moments.1),
            address(step),
            address(divisor),
            factors.lr,
            factors.betas.0,
            factors.betas.1,
            factors.weight_decay,
            factors.eps,
            &mut error,
        )
    };
    match failed {
        0 => Ok(()),
        _ => Err(TchError::Torch(message(error))),
    }
}
