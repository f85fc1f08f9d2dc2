//! Memory that kernels read and write: aligned to cache lines, in large pages where the system has them.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use tch::{Device, Kind, Tensor};

const LINE: usize = 64;
const HUGE: usize = 2 << 20;

/// Zeroed numbers of a plain type.
pub struct Buffer<T> {
    start: NonNull<T>,
    len: usize,
}

/// Types of which all bits zero is a value.
pub trait Plain: Copy {}
impl Plain for f32 {}
impl Plain for u16 {}
impl Plain for i8 {}

// SAFETY: the memory is the buffer's own.
unsafe impl<T: Plain + Send> Send for Buffer<T> {}
// SAFETY: shared access reads only.
unsafe impl<T: Plain + Sync> Sync for Buffer<T> {}

impl<T: Plain> Buffer<T> {
    /// So many zeros.
    pub fn new(len: usize) -> Self {
        if len == 0 {
            return Self {
                start: NonNull::dangling(),
                len,
            };
        }
        let layout = Self::layout(len);
        // SAFETY: the size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start.cast::<T>()) else {
            handle_alloc_error(layout)
        };
        if layout.align() == HUGE {
            // Weights are streamed from end to end: fewer translations of addresses. Only advice; a refusal is no loss.
            // SAFETY: the range is the allocation.
            unsafe { libc::madvise(start.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE) };
        }
        Self { start, len }
    }

    fn layout(len: usize) -> Layout {
        let bytes = len * size_of::<T>();
        let align = if bytes >= HUGE { HUGE } else { LINE };
        Layout::from_size_align(bytes, align).expect("a size that fits the address space")
    }

    /// At least so many; what was there is lost where it grows.
    pub fn ensure(&mut self, len: usize) {
        if self.len < len {
            *self = Self::new(len);
        }
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.len > 0 {
            let bytes = self.len * size_of::<T>();
            let align = if bytes >= HUGE { HUGE } else { LINE };
            // SAFETY: allocated with this layout.
            unsafe {
                dealloc(
                    self.start.as_ptr().cast(),
                    Layout::from_size_align_unchecked(bytes, align),
                );
            }
        }
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: the memory is initialised and the buffer's own.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({})", self.len)
    }
}

/// Memory that several threads write at once, each a part of its own.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    start: *mut f32,
    len: usize,
    _borrowed: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: access is by unsafe functions whose callers promise that parts do not overlap.
unsafe impl Send for Parts<'_> {}
// SAFETY: as above.
unsafe impl Sync for Parts<'_> {}

impl<'a> Parts<'a> {
    /// All of it.
    pub fn new(memory: &'a mut [f32]) -> Self {
        Self {
            start: memory.as_mut_ptr(),
            len: memory.len(),
            _borrowed: std::marker::PhantomData,
        }
    }

    /// The memory of a contiguous f32 tensor on the CPU.
    ///
    /// # Safety
    /// Nobody else may use it while parts of it are in use.
    pub unsafe fn of(tensor: &'a Tensor) -> Self {
        assert!(is_whole(tensor));
        Self {
            start: tensor.data_ptr().cast::<f32>(),
            len: tensor.numel(),
            _borrowed: std::marker::PhantomData,
        }
    }

    /// Where a part begins; panics where it is not inside.
    pub fn at(&self, from: usize, len: usize) -> *mut f32 {
        assert!(from <= self.len && len <= self.len - from);
        // SAFETY: inside, or one past the end.
        unsafe { self.start.add(from) }
    }

    /// A part; panics where it is not inside.
    ///
    /// # Safety
    /// No other part in use at the same time may overlap this one, unless both are only read.
    #[allow(clippy::mut_from_ref)] // what the promise is about
    pub unsafe fn part(&self, from: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: inside, and not shared as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.at(from, len), len) }
    }
}

/// Whether a tensor is one of f32 numbers on the CPU.
pub fn is_plain(tensor: &Tensor) -> bool {
    tensor.kind() == Kind::Float && tensor.device() == Device::Cpu
}

/// Whether it is one whose numbers follow each other in memory.
pub fn is_whole(tensor: &Tensor) -> bool {
    is_plain(tensor) && tensor.is_contiguous()
}

/// The memory of a contiguous f32 tensor on the CPU.
///
/// # Safety
/// Nobody may write it while the slice is in use.
pub unsafe fn memory(tensor: &Tensor) -> &[f32] {
    assert!(is_whole(tensor));
    // SAFETY: checked above; borrowed as long as the tensor.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), tensor.numel()) }
}

/// Call `with` on the numbers of a CPU tensor, in f32.
pub fn numbers<R>(tensor: &Tensor, with: impl FnOnce(&[f32]) -> R) -> R {
    let tensor = tensor
        .to_device(Device::Cpu)
        .to_kind(Kind::Float)
        .contiguous();
    // SAFETY: contiguous f32 on the CPU, kept for the length of the call.
    with(unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), tensor.numel()) })
}
