//! Sixteen floats side by side, in whatever registers the processor has.
//!
//! Sums are kept in sixteen lanes on every instruction set, so kernels written on them give the same bits wherever
//! fused multiply-add exists.

/// Partial sums of one dot product.
pub const LANES: usize = 16;

/// Sixteen f32 values.
///
/// The methods are unsafe where the processor may lack the instruction set; callers run inside functions that enable
/// it.
pub trait Lanes: Copy {
    /// All zero.
    ///
    /// # Safety
    /// The processor must have the instruction set.
    unsafe fn zero() -> Self;
    /// Sixteen numbers from memory, of any alignment.
    ///
    /// # Safety
    /// The processor must have the instruction set, and sixteen numbers must be readable there.
    unsafe fn load(from: *const f32) -> Self;
    /// `self · b + c`, rounded once.
    ///
    /// # Safety
    /// The processor must have the instruction set.
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    /// The values.
    ///
    /// # Safety
    /// The processor must have the instruction set.
    unsafe fn numbers(self) -> [f32; LANES];
    /// `a · b + c` of single numbers, rounded as [`Self::fma`] rounds.
    fn fma_one(a: f32, b: f32, c: f32) -> f32;
}

/// Any processor. Multiplies and adds in two roundings: without the instruction, one would be slow.
#[derive(Clone, Copy)]
pub struct Portable([f32; LANES]);

impl Lanes for Portable {
    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0.0; LANES])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: sixteen numbers are readable, as the caller promises.
        Self(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        Self(std::array::from_fn(|l| self.0[l] * b.0[l] + c.0[l]))
    }

    #[inline(always)]
    unsafe fn numbers(self) -> [f32; LANES] {
        self.0
    }

    #[inline(always)]
    fn fma_one(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{LANES, Lanes};

    /// One 512-bit register.
    #[derive(Clone, Copy)]
    pub struct Avx512(__m512);

    impl Lanes for Avx512 {
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller promises the instruction set.
            Self(unsafe { _mm512_setzero_ps() })
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller promises the instruction set and the memory.
            Self(unsafe { _mm512_loadu_ps(from) })
        }

        #[inline(always)]
        unsafe fn fma(self, b: Self, c: Self) -> Self {
            // SAFETY: the caller promises the instruction set.
            Self(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
        }

        #[inline(always)]
        unsafe fn numbers(self) -> [f32; LANES] {
            let mut numbers = [0.0; LANES];
            // SAFETY: the caller promises the instruction set; the array holds sixteen numbers.
            unsafe { _mm512_storeu_ps(numbers.as_mut_ptr(), self.0) };
            numbers
        }

        #[inline(always)]
        fn fma_one(a: f32, b: f32, c: f32) -> f32 {
            a.mul_add(b, c)
        }
    }

    /// Two 256-bit registers.
    #[derive(Clone, Copy)]
    pub struct Avx2(__m256, __m256);

    impl Lanes for Avx2 {
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller promises the instruction set.
            unsafe { Self(_mm256_setzero_ps(), _mm256_setzero_ps()) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller promises the instruction set and the memory.
            unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
        }

        #[inline(always)]
        unsafe fn fma(self, b: Self, c: Self) -> Self {
            // SAFETY: the caller promises the instruction set.
            unsafe {
                Self(
                    _mm256_fmadd_ps(self.0, b.0, c.0),
                    _mm256_fmadd_ps(self.1, b.1, c.1),
                )
            }
        }

        #[inline(always)]
        unsafe fn numbers(self) -> [f32; LANES] {
            let mut numbers = [0.0; LANES];
            // SAFETY: the caller promises the instruction set; the array holds sixteen numbers.
            unsafe {
                _mm256_storeu_ps(numbers.as_mut_ptr(), self.0);
                _mm256_storeu_ps(numbers.as_mut_ptr().add(8), self.1);
            }
            numbers
        }

        #[inline(always)]
        fn fma_one(a: f32, b: f32, c: f32) -> f32 {
            a.mul_add(b, c)
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};
