//! Memory: libtorch's on a GPU, and what is left of this machine's.

use std::ffi::c_int;

use tch::Device;

unsafe extern "C" {
    fn atp_empty_cache() -> c_int;
    fn atp_memory_stats(
        index: c_int,
        now: *mut i64,
        most: *mut i64,
        held: *mut i64,
        reset: c_int,
    ) -> c_int;
}

/// Bytes of a device as libtorch counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// In tensors.
    pub now: i64,
    /// In tensors, at most since the last reset.
    pub most: i64,
    /// Taken from the driver.
    pub held: i64,
}

/// Bytes free and in all of a GPU, as its driver counts them; `None` on a CPU or where there is no driver.
pub fn free_and_total(device: Device) -> Option<(usize, usize)> {
    if !device.is_cuda() || !tch::Cuda::is_available() {
        return None;
    }
    empty_cache();
    // A tensor makes libtorch open the device, which the question is about.
    let _opened = tch::Tensor::f_zeros([1], (tch::Kind::Uint8, device)).ok()?;
    cudarc::driver::result::mem_get_info().ok()
}

/// Bytes that programs can still take on this machine; `None` where it does not say.
pub fn available_on_host() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    let kilobytes: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes << 10)
}

/// While it lives, memory that is freed on the host is kept for what is allocated next. A training step frees and takes
/// the same gigabyte again and again, and every page that goes to the system and comes back costs a fault: a twentieth of a
/// step on a CPU.
#[derive(Debug)]
pub struct Keeping(());

impl Keeping {
    /// For work on this device; nothing on a GPU.
    pub fn on(device: Device) -> Option<Self> {
        (device == Device::Cpu).then(|| {
            thresholds(1 << 30, c_int::MAX);
            Self(())
        })
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        // What the allocator comes to by itself at most.
        thresholds(32 << 20, 64 << 20);
        // SAFETY: takes a number.
        #[cfg(target_env = "gnu")]
        unsafe {
            libc::malloc_trim(0);
        }
    }
}

/// From which size on memory comes from the system for itself alone, and how much of what is free the allocator keeps.
fn thresholds(alone: c_int, kept: c_int) {
    // SAFETY: takes numbers; an allocator that does not know them says so, and nothing is lost.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, alone);
        libc::mallopt(libc::M_TRIM_THRESHOLD, kept);
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = (alone, kept);
}

/// In GiB.
pub fn gib(bytes: usize) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}

/// Have libtorch give back what it holds for later; without a GPU, nothing happens.
pub fn empty_cache() {
    // SAFETY: no arguments; errors stay inside.
    unsafe { atp_empty_cache() };
}

/// What libtorch counts on a GPU, and where asked, the maximum starts anew; `None` on a CPU.
pub fn stats(device: Device, reset: bool) -> Option<Memory> {
    let Device::Cuda(index) = device else {
        return None;
    };
    let mut memory = Memory::default();
    // SAFETY: three numbers to be written.
    let known = unsafe {
        atp_memory_stats(
            index as c_int,
            &mut memory.now,
            &mut memory.most,
            &mut memory.held,
            c_int::from(reset),
        )
    };
    (known != 0).then_some(memory)
}
