//! Sums over GPUs by NCCL.
//!
//! libtorch's own class for it, `ProcessGroupNCCL`, is in `libtorch_cuda`, which this program opens at run time and is not
//! built against; it has no factory that could be looked up there, and its header wants CUDA's and NCCL's. It also ends
//! the process in its own way when a rank is lost. The library below it is loaded together with libtorch's, and its C
//! interface is stable: six functions, looked up by name.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::time::Duration;

use cudarc::driver::{result, sys};
use tch::{Device, Kind, Tensor};

use super::RankError;

const SUM: c_int = 0;
const FLOAT32: c_int = 7;
const SUCCESS: c_int = 0;
const IN_PROGRESS: c_int = 7;

/// What the ranks of a communicator have in common.
#[repr(C)]
#[derive(Clone, Copy)]
struct UniqueId([c_char; 128]);

type GetUniqueId = unsafe extern "C" fn(*mut UniqueId) -> c_int;
type CommInitRank = unsafe extern "C" fn(*mut *mut c_void, c_int, UniqueId, c_int) -> c_int;
type AllReduce = unsafe extern "C" fn(
    *const c_void,
    *mut c_void,
    usize,
    c_int,
    c_int,
    *mut c_void,
    *mut c_void,
) -> c_int;
type CommGetAsyncError = unsafe extern "C" fn(*mut c_void, *mut c_int) -> c_int;
type CommAbort = unsafe extern "C" fn(*mut c_void) -> c_int;
type GetErrorString = unsafe extern "C" fn(c_int) -> *const c_char;

/// A function of NCCL.
fn function(name: &CStr) -> Result<*mut c_void, String> {
    // SAFETY: a plain look-up among the libraries that are loaded.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    match found.is_null() {
        true => Err(format!(
            "`{}` is not there: libtorch's CUDA library was loaded without libnccl.so.2",
            name.to_string_lossy()
        )),
        false => Ok(found),
    }
}

fn told(what: &str, code: c_int) -> String {
    let text = function(c"ncclGetErrorString").map_or_else(
        |problem| problem,
        |found| {
            // SAFETY: the function as NCCL declares it; it gives a static string.
            unsafe {
                let text: GetErrorString = std::mem::transmute(found);
                CStr::from_ptr(text(code)).to_string_lossy().into_owned()
            }
        },
    );
    format!("NCCL: {what}: {text}")
}

/// All ranks' GPUs, connected.
pub struct Nccl {
    communicator: *mut c_void,
    all_reduce: AllReduce,
    async_error: CommGetAsyncError,
    abort: CommAbort,
    done: sys::CUevent,
}

impl Nccl {
    /// What all ranks need to find each other, made by one.
    pub fn id() -> Result<Vec<u8>, RankError> {
        let mut id = UniqueId([0; 128]);
        let mut make = || {
            // SAFETY: the function as NCCL declares it; it fills the id.
            let code = unsafe {
                let make: GetUniqueId = std::mem::transmute(function(c"ncclGetUniqueId")?);
                make(&mut id)
            };
            (code == SUCCESS)
                .then_some(())
                .ok_or_else(|| told("making an id", code))
        };
        make().map_err(RankError::Communication)?;
        Ok(id.0.iter().map(|&byte| byte as u8).collect())
    }

    /// Connect this rank's GPU to the others', which all must call it.
    pub fn connect(id: &[u8], rank: usize, size: usize, device: Device) -> Result<Self, RankError> {
        Self::open(id, rank, size, device).map_err(RankError::Communication)
    }

    fn open(bytes: &[u8], rank: usize, size: usize, device: Device) -> Result<Self, String> {
        let Device::Cuda(index) = device else {
            return Err("NCCL is for NVIDIA GPUs".into());
        };
        let mut id = UniqueId([0; 128]);
        if bytes.len() != id.0.len() {
            return Err(format!(
                "an id of NCCL has 128 bytes, this one {}",
                bytes.len()
            ));
        }
        for (to, from) in id.0.iter_mut().zip(bytes) {
            *to = *from as c_char;
        }
        let driver = |e: result::DriverError| format!("the GPU's driver reports {e}");
        result::init().map_err(driver)?;
        let device = result::device::get(index as i32).map_err(driver)?;
        let mut communicator = std::ptr::null_mut();
        // SAFETY: libtorch uses the primary context too, and keeps it; functions are as NCCL declares them.
        unsafe {
            let context = result::primary_ctx::retain(device).map_err(driver)?;
            result::ctx::set_current(context).map_err(driver)?;
            let connect: CommInitRank = std::mem::transmute(function(c"ncclCommInitRank")?);
            let code = connect(&mut communicator, size as c_int, id, rank as c_int);
            if code != SUCCESS {
                return Err(told("connecting the GPUs", code));
            }
            Ok(Self {
                communicator,
                all_reduce: std::mem::transmute::<*mut c_void, AllReduce>(function(
                    c"ncclAllReduce",
                )?),
                async_error: std::mem::transmute::<*mut c_void, CommGetAsyncError>(function(
                    c"ncclCommGetAsyncError",
                )?),
                abort: std::mem::transmute::<*mut c_void, CommAbort>(function(c"ncclCommAbort")?),
                done: result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
                    .map_err(driver)?,
            })
        }
    }

    /// Sum a contiguous f32 tensor over all ranks, in place, and wait for it; `lost` is asked meanwhile whether a rank is
    /// gone.
    pub fn sum(&self, tensor: &Tensor, lost: impl Fn() -> bool) -> Result<(), String> {
        if tensor.kind() != Kind::Float || !tensor.is_contiguous() {
            return Err("only contiguous tensors of f32 are summed over GPUs".into());
        }
        let driver = |e: result::DriverError| format!("the GPU's driver reports {e}");
        // libtorch works on the legacy default stream, and so does this: the two are in order.
        let stream = std::ptr::null_mut::<c_void>();
        let memory = tensor.data_ptr();
        // SAFETY: the tensor's memory lives until the event below has passed, or the communicator is given up.
        let code = unsafe {
            let count = tensor.numel();
            (self.all_reduce)(
                memory,
                memory,
                count,
                FLOAT32,
                SUM,
                self.communicator,
                stream,
            )
        };
        if code != SUCCESS {
            return Err(told("summing", code));
        }
        // SAFETY: event and stream live.
        unsafe { result::event::record(self.done, stream.cast()).map_err(driver)? };
        loop {
            // SAFETY: as above.
            match unsafe { result::event::query(self.done) } {
                Ok(()) => return Ok(()),
                Err(e) if e.0 == sys::CUresult::CUDA_ERROR_NOT_READY => {}
                Err(e) => return Err(driver(e)),
            }
            let mut state = SUCCESS;
            // SAFETY: the communicator lives; the call writes one number.
            unsafe { (self.async_error)(self.communicator, &mut state) };
            if ![SUCCESS, IN_PROGRESS].contains(&state) || lost() {
                // SAFETY: given up here, and not used again: the run ends.
                unsafe { (self.abort)(self.communicator) };
                return Err(told("summing", state));
            }
            std::thread::sleep(Duration::from_micros(20));
        }
    }
}
