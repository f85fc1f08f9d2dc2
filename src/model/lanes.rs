//! Sixteen floats side by side, in whatever registers the processor has.
//!
//! Sums are kept in sixteen lanes on every instruction set, so kernels written on them give the same bits wherever
//! fused multiply-add exists.

/// Which instruction set kernels run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Simd {
    /// AVX-512.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Any.
    Portable,
}

impl Simd {
    /// The best that this processor has.
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }
}

/// Call `body::<L>(arguments)` compiled for the instruction set of `simd`.
macro_rules! dispatch {
    ($simd:expr, $body:ident($($name:ident: $kind:ty),* $(,)?)) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f")]
        fn avx512($($name: $kind),*) {
            // SAFETY: this function has the feature.
            unsafe { $body::<$crate::model::lanes::Avx512>($($name),*) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        fn avx2($($name: $kind),*) {
            // SAFETY: this function has the features.
            unsafe { $body::<$crate::model::lanes::Avx2>($($name),*) }
        }
        match $simd {
            #[cfg(target_arch = "x86_64")]
            $crate::model::lanes::Simd::Avx512 => {
                // SAFETY: the feature was detected on this processor.
                unsafe { avx512($($name),*) }
            }
            #[cfg(target_arch = "x86_64")]
            $crate::model::lanes::Simd::Avx2 => {
                // SAFETY: the features were detected on this processor.
                unsafe { avx2($($name),*) }
            }
            $crate::model::lanes::Simd::Portable => {
                // SAFETY: portable lanes need no feature.
                unsafe { $body::<$crate::model::lanes::Portable>($($name),*) }
            }
        }
    }};
}
pub(in crate::model) use dispatch;

/// Partial sums of one dot product.
pub const LANES: usize = 16;

/// Sixteen f32 values.
///
/// The methods are unsafe where the processor may lack the instruction set; callers run inside functions that enable
/// it.
pub trait Lanes: Copy {
    /// Rows of a product that are computed at once: as many as there are registers for.
    const ROWS: usize;
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
    /// The same number sixteen times.
    ///
    /// # Safety
    /// The processor must have the instruction set.
    unsafe fn splat(number: f32) -> Self;
    /// Write sixteen numbers to memory, of any alignment.
    ///
    /// # Safety
    /// The processor must have the instruction set, and sixteen numbers must be writable there.
    unsafe fn store(self, to: *mut f32);
    /// Have the line of memory at this address brought near; nothing happens where it is none.
    ///
    /// # Safety
    /// The processor must have the instruction set.
    unsafe fn prefetch(from: *const u8);
    /// The even and the odd ones of 32 bf16 numbers.
    ///
    /// # Safety
    /// The processor must have the instruction set, and 32 numbers must be readable there.
    unsafe fn load_pairs(from: *const u16) -> (Self, Self);
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
    const ROWS: usize = 1;

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
    unsafe fn splat(number: f32) -> Self {
        Self([number; LANES])
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: sixteen numbers are writable, as the caller promises.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn prefetch(_from: *const u8) {}

    #[inline(always)]
    unsafe fn load_pairs(from: *const u16) -> (Self, Self) {
        // SAFETY: 32 numbers are readable, as the caller promises.
        let pairs = unsafe { from.cast::<[[u16; 2]; LANES]>().read_unaligned() };
        let widen = |half: u16| f32::from_bits(u32::from(half) << 16);
        (
            Self(std::array::from_fn(|l| widen(pairs[l][0]))),
            Self(std::array::from_fn(|l| widen(pairs[l][1]))),
        )
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
        const ROWS: usize = 8;

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
        unsafe fn splat(number: f32) -> Self {
            // SAFETY: the caller promises the instruction set.
            Self(unsafe { _mm512_set1_ps(number) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller promises the instruction set and the memory.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn prefetch(from: *const u8) {
            // SAFETY: a hint, which faults at no address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) };
        }

        #[inline(always)]
        unsafe fn load_pairs(from: *const u16) -> (Self, Self) {
            // SAFETY: the caller promises the instruction set and the memory.
            unsafe {
                let pairs = _mm512_loadu_si512(from.cast());
                let high = _mm512_set1_epi32(0xffff_0000u32 as i32);
                (
                    Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs))),
                    Self(_mm512_castsi512_ps(_mm512_and_si512(pairs, high))),
                )
            }
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
        const ROWS: usize = 2;

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
        unsafe fn splat(number: f32) -> Self {
            // SAFETY: the caller promises the instruction set.
            unsafe { Self(_mm256_set1_ps(number), _mm256_set1_ps(number)) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller promises the instruction set and the memory.
            unsafe {
                _mm256_storeu_ps(to, self.0);
                _mm256_storeu_ps(to.add(8), self.1);
            }
        }

        #[inline(always)]
        unsafe fn prefetch(from: *const u8) {
            // SAFETY: a hint, which faults at no address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) };
        }

        #[inline(always)]
        unsafe fn load_pairs(from: *const u16) -> (Self, Self) {
            // SAFETY: the caller promises the instruction set and the memory.
            unsafe {
                let (first, second) = (
                    _mm256_loadu_si256(from.cast()),
                    _mm256_loadu_si256(from.add(16).cast()),
                );
                let high = _mm256_set1_epi32(0xffff_0000u32 as i32);
                (
                    Self(
                        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(first)),
                        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(second)),
                    ),
                    Self(
                        _mm256_castsi256_ps(_mm256_and_si256(first, high)),
                        _mm256_castsi256_ps(_mm256_and_si256(second, high)),
                    ),
                )
            }
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
