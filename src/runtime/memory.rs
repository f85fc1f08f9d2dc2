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
