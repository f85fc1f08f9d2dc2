//! The GPU below libtorch: kernels of our own, launched alone or as a captured graph, beside libtorch's.
//!
//! libtorch works on the legacy default stream. Ours is an ordinary (blocking) stream, so that the two wait for each
//! other without being told. Memory is always a tensor's: nothing here allocates on the device.
//!
//! Kernels are compiled at run time ([`compile`]), for the GPU that is there and the model's shape.

pub mod compile;

use std::ffi::{CString, c_void};
use std::ptr::null_mut;

use cudarc::driver::{result, sys};
use tch::{Device, Tensor};

pub use compile::Module;

/// Something that the driver, the compiler or libtorch refused.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// The driver's word for it.
    #[error("the GPU's driver reports {0}")]
    Driver(#[from] result::DriverError),
    /// Kernels did not compile.
    #[error("the GPU's kernels cannot be compiled: {0}")]
    Compile(String),
    /// libtorch's word for it; out of memory comes so.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
    /// This GPU or this model is not served.
    #[error("{0}")]
    Unsupported(String),
}

impl GpuError {
    /// Whether memory ran out.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::Driver(e) => e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY,
            Self::Torch(e) => {
                let told = e.to_string();
                // On a GPU, and on a CPU.
                told.contains("out of memory") || told.contains("can't allocate memory")
            }
            _ => false,
        }
    }
}

/// One GPU and the stream that graphs run on.
#[derive(Debug)]
pub struct Gpu {
    device: sys::CUdevice,
    stream: sys::CUstream,
}

impl Gpu {
    /// The GPU that this tensor device names; libtorch must have been at work there.
    pub fn open(device: Device) -> Result<Self, GpuError> {
        let Device::Cuda(index) = device else {
            return Err(GpuError::Unsupported("the device is no NVIDIA GPU".into()));
        };
        result::init()?;
        let device = result::device::get(index as i32)?;
        // SAFETY: libtorch uses the primary context too; it lives as long as the process.
        unsafe { result::ctx::set_current(result::primary_ctx::retain(device)?)? };
        Ok(Self {
            device,
            stream: result::stream::create(result::stream::StreamKind::Default)?,
        })
    }

    fn attribute(&self, which: sys::CUdevice_attribute) -> Result<i32, GpuError> {
        // SAFETY: the device came from the driver.
        Ok(unsafe { result::device::get_attribute(self.device, which)? })
    }

    /// Compute capability, major and minor.
    pub fn capability(&self) -> Result<(i32, i32), GpuError> {
        use sys::CUdevice_attribute as A;
        Ok((
            self.attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            self.attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ))
    }

    /// Number of multiprocessors.
    pub fn multiprocessors(&self) -> Result<u32, GpuError> {
        let which = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        Ok(self.attribute(which)? as u32)
    }

    /// Bytes free, and in all. What libtorch keeps for itself counts as taken.
    pub fn memory(&self) -> Result<(usize, usize), GpuError> {
        Ok(result::mem_get_info()?)
    }

    /// The stream of graphs.
    pub fn stream(&self) -> Stream {
        Stream(self.stream)
    }

    /// Record what `body` launches on the stream, to be replayed as one.
    pub fn capture(
        &self,
        body: impl FnOnce(Stream) -> Result<(), GpuError>,
    ) -> Result<Graph, GpuError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is ours; whatever `body` does, the capture is ended below.
        unsafe { result::stream::begin_capture(self.stream, mode)? };
        let done = body(Stream(self.stream));
        // SAFETY: as above.
        let graph = unsafe { result::stream::end_capture(self.stream) };
        done?;
        let graph = graph?;
        let mut executable = null_mut();
        // SAFETY: the graph was just made; the executable one is a copy, so the graph can go.
        unsafe {
            let made = sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0).result();
            result::graph::destroy(graph)?;
            made?;
        }
        Ok(Graph(executable))
    }

    /// Wait for everything on the stream.
    pub fn synchronise(&self) -> Result<(), GpuError> {
        // SAFETY: the stream is ours.
        unsafe { result::stream::synchronize(self.stream)? };
        Ok(())
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: the stream is ours and nothing uses it any more.
        let _ = unsafe { result::stream::destroy(self.stream) };
    }
}

/// A place in the order of work.
#[derive(Debug, Clone, Copy)]
pub struct Stream(sys::CUstream);

impl Stream {
    /// Where libtorch's operations run.
    pub fn of_libtorch() -> Self {
        Self(null_mut())
    }

    /// Copy numbers to the start of a tensor; they may change as soon as this returns.
    pub fn upload<T: Copy>(self, to: &Tensor, numbers: &[T]) -> Result<(), GpuError> {
        self.upload_at(to, 0, numbers)
    }

    /// Copy numbers to a tensor from this byte on.
    pub fn upload_at<T: Copy>(self, to: &Tensor, at: usize, numbers: &[T]) -> Result<(), GpuError> {
        let bytes = std::mem::size_of_val(numbers);
        let room = to.numel() * to.kind().elt_size_in_bytes();
        assert!(at + bytes <= room, "{at} + {bytes} bytes into {room}");
        if bytes > 0 {
            // SAFETY: the room was checked; the driver stages pageable memory before it returns.
            unsafe { result::memcpy_htod_async(pointer(to) + at as u64, numbers, self.0)? };
        }
        Ok(())
    }

    /// Copy the start of a tensor into pinned memory, which is valid once an event recorded after this has passed.
    ///
    /// # Safety
    /// Nothing may read or write `to` until then.
    pub unsafe fn download<T: Copy>(self, from: &Tensor, to: &mut [T]) -> Result<(), GpuError> {
        let bytes = std::mem::size_of_val(to);
        assert!(bytes <= from.numel() * from.kind().elt_size_in_bytes());
        // SAFETY: the size was checked; the caller keeps its hands off.
        unsafe { result::memcpy_dtoh_async(to, pointer(from), self.0)? };
        Ok(())
    }
}

/// Address of a tensor's memory on the device.
pub fn pointer(tensor: &Tensor) -> u64 {
    tensor.data_ptr() as u64
}

/// Addresses of several.
pub fn addresses<const N: usize>(tensors: [&Tensor; N]) -> [u64; N] {
    tensors.map(pointer)
}

/// A recorded sequence of kernels.
#[derive(Debug)]
pub struct Graph(sys::CUgraphExec);

impl Graph {
    /// Run it.
    ///
    /// # Safety
    /// Every tensor that its kernels were given must still be there.
    pub unsafe fn launch(&self, stream: Stream) -> Result<(), GpuError> {
        // SAFETY: the caller's promise.
        unsafe { result::graph::launch(self.0, stream.0)? };
        Ok(())
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: it was made by us and is destroyed once.
        let _ = unsafe { result::graph::exec_destroy(self.0) };
    }
}

/// A point in a stream that the host can wait for.
#[derive(Debug)]
pub struct Event(sys::CUevent);

impl Event {
    /// A new one.
    pub fn new() -> Result<Self, GpuError> {
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
        Ok(Self(result::event::create(flags)?))
    }

    /// Set it behind all that the stream has to do.
    pub fn record(&self, stream: Stream) -> Result<(), GpuError> {
        // SAFETY: both are ours.
        unsafe { result::event::record(self.0, stream.0)? };
        Ok(())
    }

    /// Wait until the stream has passed it.
    pub fn wait(&self) -> Result<(), GpuError> {
        // SAFETY: it is ours.
        unsafe { result::event::synchronize(self.0)? };
        Ok(())
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: it was made by us and is destroyed once.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

/// Host memory that the device can write without the host's help.
#[derive(Debug)]
pub struct Pinned<T> {
    start: *mut T,
    length: usize,
}

impl<T: Copy + Default> Pinned<T> {
    /// So many numbers.
    pub fn new(length: usize) -> Result<Self, GpuError> {
        // SAFETY: memory of this size, freed in `drop`.
        let start = unsafe { result::malloc_host(length * size_of::<T>(), 0)? }.cast::<T>();
        for at in 0..length {
            // SAFETY: inside what was just allocated.
            unsafe { start.add(at).write(T::default()) };
        }
        Ok(Self { start, length })
    }

    /// The numbers. They change while a download is under way.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: allocated with this length and initialised in `new`.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }

    /// The numbers, after the download has passed.
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        // SAFETY: it came from `malloc_host`.
        let _ = unsafe { result::free_host(self.start.cast()) };
    }
}

/// One kernel of a [`Module`].
#[derive(Debug, Clone, Copy)]
pub struct Kernel(sys::CUfunction);

/// How a kernel is launched.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Blocks along x and y.
    pub grid: (u32, u32),
    /// Threads a block.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Blocks a cluster.
    pub cluster: u32,
    /// The kernel may start before the one ahead of it has ended; it waits itself where it must.
    pub overlap: bool,
}

impl Shape {
    fn attributes(&self) -> Vec<sys::CUlaunchAttribute> {
        use sys::CUlaunchAttributeID_enum as Id;
        let attribute = |id, value| sys::CUlaunchAttribute {
            id,
            pad: [0; 4],
            value,
        };
        let mut attributes = Vec::with_capacity(2);
        if self.overlap {
            attributes.push(attribute(
                Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                sys::CUlaunchAttributeValue {
                    programmaticStreamSerializationAllowed: 1,
                },
            ));
        }
        if self.cluster > 1 {
            let dimensions = sys::CUlaunchAttributeValue_union__bindgen_ty_1 {
                x: self.cluster,
                y: 1,
                z: 1,
            };
            attributes.push(attribute(
                Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
                sys::CUlaunchAttributeValue {
                    clusterDim: dimensions,
                },
            ));
        }
        attributes
    }

    /// As the driver takes it; it points to the attributes.
    fn config(
        &self,
        stream: Stream,
        attributes: &mut [sys::CUlaunchAttribute],
    ) -> sys::CUlaunchConfig {
        sys::CUlaunchConfig {
            gridDimX: self.grid.0,
            gridDimY: self.grid.1,
            gridDimZ: 1,
            blockDimX: self.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared,
            hStream: stream.0,
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        }
    }

    /// A plain launch.
    pub fn new(grid: (u32, u32), block: u32) -> Self {
        Self {
            grid,
            block,
            shared: 0,
            cluster: 1,
            overlap: false,
        }
    }
}

impl Kernel {
    /// Allow more dynamic shared memory than the 48 KiB that every kernel may use.
    pub fn allow_shared(self, bytes: u32) -> Result<Self, GpuError> {
        let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function belongs to a module that is never unloaded.
        unsafe { result::function::set_function_attribute(self.0, which, bytes as i32)? };
        Ok(self)
    }

    /// Clusters of this shape that the GPU runs at a time.
    pub fn clusters_at_once(self, shape: Shape) -> Result<u32, GpuError> {
        let mut attributes = shape.attributes();
        let config = shape.config(Stream::of_libtorch(), &mut attributes);
        let mut count = 0;
        // SAFETY: a number to be written; the configuration is valid for the length of the call.
        unsafe { sys::cuOccupancyMaxActiveClusters(&mut count, self.0, &config) }.result()?;
        Ok(count as u32)
    }

    /// Put it on a stream.
    ///
    /// # Safety
    /// `arguments` point to what the kernel's parameters are, in number, order and type, and what it is told to read
    /// and write is there until it has run.
    pub unsafe fn launch(
        self,
        shape: Shape,
        stream: Stream,
        arguments: &mut [*mut c_void],
    ) -> Result<(), GpuError> {
        let mut attributes = shape.attributes();
        let config = shape.config(stream, &mut attributes);
        // SAFETY: the caller's promise; the configuration is valid for the length of the call.
        unsafe {
            sys::cuLaunchKernelEx(&config, self.0, arguments.as_mut_ptr(), null_mut()).result()?;
        }
        Ok(())
    }
}

/// A bf16 matrix as the tensor memory accelerator reads it: in boxes of rows by 64 columns, swizzled by 128 bytes.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct TensorMap(#[allow(dead_code)] sys::CUtensorMap); // read by the device

impl TensorMap {
    /// Of a `(rows, columns)` matrix whose rows are contiguous; what is beyond its ends reads as zeros.
    pub fn new(matrix: &Tensor, box_rows: u32) -> Result<Self, GpuError> {
        let (rows, columns) = matrix.size2()?;
        let dimensions = [columns as u64, rows as u64];
        let strides = [matrix.stride()[0] as u64 * 2];
        let (within, steps) = ([64u32, box_rows], [1u32, 1]);
        let mut map = std::mem::MaybeUninit::<sys::CUtensorMap>::uninit();
        // SAFETY: the arrays have the lengths that a matrix of two dimensions needs; the map is written on success.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                sys::CUtensorMapDataType_enum::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                2,
                pointer(matrix) as *mut c_void,
                dimensions.as_ptr(),
                strides.as_ptr(),
                within.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle_enum::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
            .result()?;
            Ok(Self(map.assume_init()))
        }
    }
}

/// Pointers to the arguments of a kernel, which must be named variables.
#[macro_export]
macro_rules! kernel_arguments {
    ($($argument:expr),* $(,)?) => {
        &mut [$(std::ptr::from_ref(&$argument).cast_mut().cast::<std::ffi::c_void>()),*]
    };
}

fn c_string(text: &str) -> CString {
    CString::new(text).expect("names and sources hold no NUL")
}
