//! What the device could do at most, measured: bytes copied and bf16 products, the yardsticks of the other figures.

use std::time::Instant;

use tch::{Cuda, Device, Kind, Tensor};

/// Bytes a second (read and written) and operations a second.
#[derive(Debug, Clone, Copy)]
pub struct Peak {
    /// Bytes a second of a large copy.
    pub bytes: f64,
    /// Floating-point operations a second of a product of 8192 × 8192 bf16 matrices.
    pub operations: f64,
}

/// Measure a GPU; `None` on a CPU, where neither figure says much.
pub fn peak(device: Device) -> Result<Option<Peak>, tch::TchError> {
    let Device::Cuda(index) = device else {
        return Ok(None);
    };
    let wait = || Cuda::synchronize(index as i64);
    let time = |body: &dyn Fn() -> Result<(), tch::TchError>| -> Result<f64, tch::TchError> {
        for _ in 0..3 {
            body()?;
        }
        wait();
        let started = Instant::now();
        for _ in 0..10 {
            body()?;
        }
        wait();
        Ok(started.elapsed().as_secs_f64() / 10.0)
    };
    let size = 1i64 << 30;
    let from = Tensor::f_zeros([size], (Kind::Uint8, device))?;
    let to = Tensor::f_zeros([size], (Kind::Uint8, device))?;
    let copied = time(&|| to.shallow_clone().f_copy_(&from).map(|_| ()))?;
    drop((from, to));
    let n = 8192i64;
    let square = || Tensor::f_randn([n, n], (Kind::BFloat16, device));
    let (a, b) = (square()?, square()?);
    let multiplied = time(&|| a.f_matmul(&b).map(|_| ()))?;
    crate::runtime::memory::empty_cache();
    Ok(Some(Peak {
        bytes: 2.0 * size as f64 / copied,
        operations: 2.0 * (n * n * n) as f64 / multiplied,
    }))
}
