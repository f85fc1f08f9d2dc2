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
    /// Have the line of memory at this address brought into the first cache; nothing happens where it is none.
    ///
    /// # Safety
    /// The processor must have the instruction set.
    unsafe fn prefetch(from: *const u8);
    /// The same, into the second cache, which can wait for more lines at once.
    ///
    /// # Safety
    /// The processor must have the instruction set.
    unsafe fn prefetch_second(from: *const u8);
    /// Sixteen rows of sixteen numbers, `stride` from one row to the next, turned over into rows `to_stride` apart.
    ///
    /// # Safety
    /// The processor must have the instruction set; the rows must be readable and writable there, and not overlap.
    #[inline(always)]
    unsafe fn turn_over(from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
        for row in 0..LANES {
            for column in 0..LANES {
                // SAFETY: as the caller promises.
                unsafe { *to.add(column * to_stride + row) = *from.add(row * stride + column) };
            }
        }
    }
    /// The even and the odd ones of 32 bf16 numbers.
    ///
    /// # Safety
    /// The processor must have the instruction set, and 32 numbers must be readable there.
    unsafe fn load_pairs(from: *const u16) -> (Self, Self);
    /// Sixteen numbers of eight bits.
    ///
    /// # Safety
    /// The processor must have the instruction set, and sixteen numbers must be readable there.
    unsafe fn load_bytes(from: *const i8) -> Self;
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
    unsafe fn prefetch_second(_from: *const u8) {}

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
    unsafe fn load_bytes(from: *const i8) -> Self {
        // SAFETY: sixteen numbers are readable, as the caller promises.
        let bytes = unsafe { from.cast::<[i8; LANES]>().read_unaligned() };
        Self(bytes.map(f32::from))
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
        const ROWS: usize = 12;

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
        unsafe fn prefetch_second(from: *const u8) {
            // SAFETY: a hint, which faults at no address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) };
        }

        #[inline(always)]
        #[allow(clippy::needless_range_loop)] // registers by number, as the instructions pair them
        unsafe fn turn_over(from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
            // SAFETY: the caller promises the instruction set and the memory.
            unsafe {
                let zero = _mm512_setzero_ps();
                let (mut rows, mut twos, mut fours) = ([zero; 16], [zero; 16], [zero; 16]);
                for row in 0..16 {
                    rows[row] = _mm512_loadu_ps(from.add(row * stride));
                }
                // Pairs of rows, number beside number.
                for pair in (0..16).step_by(2) {
                    twos[pair] = _mm512_unpacklo_ps(rows[pair], rows[pair + 1]);
                    twos[pair + 1] = _mm512_unpackhi_ps(rows[pair], rows[pair + 1]);
                }
                // Columns j, 4 + j, 8 + j and 12 + j of four rows.
                for first in (0..16).step_by(4) {
                    for half in 0..2 {
                        let low = _mm512_castps_pd(twos[first + half]);
                        let high = _mm512_castps_pd(twos[first + half + 2]);
                        let (a, b) = (_mm512_unpacklo_pd(low, high), _mm512_unpackhi_pd(low, high));
                        fours[first + 2 * half] = _mm512_castpd_ps(a);
                        fours[first + 2 * half + 1] = _mm512_castpd_ps(b);
                    }
                }
                for j in 0..4 {
                    let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
                    let (early, late) = (
                        [
                            _mm512_shuffle_f32x4::<0x44>(a, b),
                            _mm512_shuffle_f32x4::<0x44>(c, d),
                        ],
                        [
                            _mm512_shuffle_f32x4::<0xee>(a, b),
                            _mm512_shuffle_f32x4::<0xee>(c, d),
                        ],
                    );
                    for (column, [a, b]) in [(j, early), (j + 8, late)] {
                        let first = _mm512_shuffle_f32x4::<0x88>(a, b);
                        let second = _mm512_shuffle_f32x4::<0xdd>(a, b);
                        _mm512_storeu_ps(to.add(column * to_stride), first);
                        _mm512_storeu_ps(to.add((column + 4) * to_stride), second);
                    }
                }
            }
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
        unsafe fn load_bytes(from: *const i8) -> Self {
            // SAFETY: the caller promises the instruction set and the memory.
            unsafe {
                let bytes = _mm_loadu_si128(from.cast());
                Self(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)))
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
        unsafe fn prefetch_second(from: *const u8) {
            // SAFETY: a hint, which faults at no address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) };
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
        unsafe fn load_bytes(from: *const i8) -> Self {
            // SAFETY: the caller promises the instruction set and the memory.
            unsafe {
                let widened = |from: *const i8| {
                    let bytes = _mm_loadl_epi64(from.cast());
                    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
                };
                Self(widened(from), widened(from.add(8)))
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
