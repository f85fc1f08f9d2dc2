//! Where tensors live: the CPU, or a GPU whose libraries are loaded when they are there.
//!
//! The binary is built and linked against the CPU library alone. `libtorch_cuda.so` of the same version registers
//! itself when it is opened, so one binary serves both.

use std::ffi::{CStr, CString, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use tch::{Cuda, Device};

use super::deps;

/// Which device is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU if its libraries are found and it answers, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// This GPU.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            other => other
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| format!("expected auto, cpu, cuda or cuda:N, got `{other}`")),
        }
    }
}

/// A GPU was asked for and cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("device cuda:{index}: {problem}; use `--device cpu`, or run `atp-pipeline doctor`")]
pub struct DeviceError {
    index: usize,
    problem: String,
}

/// What was found of the CUDA side of libtorch.
#[derive(Debug, Clone)]
pub struct CudaLibraries {
    /// The library, where one was found.
    pub library: Option<PathBuf>,
    /// How it was found, or where it was looked for.
    pub origin: String,
    /// Why it could not be opened.
    pub error: Option<String>,
}

/// The device, its libraries opened.
pub fn open(choice: DeviceChoice) -> Result<Device, DeviceError> {
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Auto if !gpu_present() => Ok(Device::Cpu),
        DeviceChoice::Auto => {
            let found = open_cuda();
            if Cuda::is_available() {
                make_current(0)?;
                return Ok(Device::Cuda(0));
            }
            let why = found.error.unwrap_or(found.origin);
            tracing::warn!(
                "a GPU is there but libtorch's CUDA libraries are not ({why}); using the CPU"
            );
            Ok(Device::Cpu)
        }
        DeviceChoice::Cuda(index) => {
            let found = open_cuda();
            let count = if Cuda::is_available() {
                Cuda::device_count() as usize
            } else {
                0
            };
            if index < count {
                make_current(index)?;
                return Ok(Device::Cuda(index));
            }
            let problem = match (&found.error, &found.library) {
                // Libraries would not help.
                _ if !gpu_present() => "this machine shows no NVIDIA driver".to_owned(),
                (Some(error), _) => error.clone(),
                (None, None) => found.origin,
                (None, Some(_)) => format!("{count} GPUs answer"),
            };
            Err(DeviceError { index, problem })
        }
    }
}

/// Have this GPU be the thread's own: libtorch goes back to it after each of its operations, and our kernels and streams
/// are in its context.
fn make_current(index: usize) -> Result<(), DeviceError> {
    let name = c"cudaSetDevice";
    // SAFETY: a plain look-up among the libraries that are loaded; the CUDA runtime is libtorch's.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    let fail = |problem: String| DeviceError { index, problem };
    if found.is_null() {
        return match index {
            // The first one is current anyway.
            0 => Ok(()),
            _ => Err(fail(
                "`cudaSetDevice` is not there: the CUDA runtime was not loaded".into(),
            )),
        };
    }
    // SAFETY: the function as the CUDA runtime declares it.
    let code = unsafe {
        let set: unsafe extern "C" fn(c_int) -> c_int = std::mem::transmute(found);
        set(index as c_int)
    };
    match code {
        0 => Ok(()),
        code => Err(fail(format!("the CUDA runtime refuses it (error {code})"))),
    }
}

/// The GPU of one of several ranks on this machine. A launcher may show each rank one GPU of its own; where all see
/// several, each takes its own of them.
///
/// # Errors
/// Fewer GPUs than ranks.
pub fn of_rank(choice: DeviceChoice, local_rank: usize) -> Result<DeviceChoice, DeviceError> {
    let wanted = match choice {
        DeviceChoice::Auto => gpu_present(),
        DeviceChoice::Cuda(0) => true,
        DeviceChoice::Cpu | DeviceChoice::Cuda(_) => false,
    };
    if !wanted {
        return Ok(choice);
    }
    open_cuda();
    let count = match Cuda::is_available() {
        true => Cuda::device_count() as usize,
        false => 0,
    };
    match count {
        // `open` says what is wrong with none.
        0 | 1 => Ok(choice),
        _ if local_rank < count => Ok(DeviceChoice::Cuda(local_rank)),
        _ => Err(DeviceError {
            index: local_rank,
            problem: format!("{count} GPUs are there, and a rank needs one of its own"),
        }),
    }
}

/// Whether the NVIDIA driver shows a device, without loading anything.
pub fn gpu_present() -> bool {
    Path::new("/dev/nvidiactl").exists() || Path::new("/proc/driver/nvidia/version").exists()
}

/// Open `libtorch_cuda.so` where one is found.
pub fn open_cuda() -> CudaLibraries {
    let (library, origin) = find_cuda();
    let error = library
        .as_deref()
        .and_then(|library| load_globally(library).err());
    CudaLibraries {
        library,
        origin,
        error,
    }
}

fn find_cuda() -> (Option<PathBuf>, String) {
    const NAME: &str = "libtorch_cuda.so";
    if let Some(place) = std::env::var_os("ATP_LIBTORCH_CUDA").map(PathBuf::from) {
        let file = if place.is_dir() {
            place.join(NAME)
        } else {
            place
        };
        return match file.is_file() {
            true => (Some(file), "ATP_LIBTORCH_CUDA".into()),
            false => (
                None,
                format!(
                    "ATP_LIBTORCH_CUDA names {}, which is not there",
                    file.display()
                ),
            ),
        };
    }
    if let Some(own) = deps::find(&format!("libtorch-cuda/lib/{NAME}")) {
        return (Some(own), "the set-up script's folder".into());
    }
    let code = "import importlib.util as u, os; s = u.find_spec('torch'); \
                print(os.path.join(os.path.dirname(s.origin), 'lib')) if s else None";
    let asked = Command::new("python3").args(["-c", code]).output();
    if let Ok(output) = asked
        && let Ok(folder) = String::from_utf8(output.stdout)
        && !folder.trim().is_empty()
    {
        let file = Path::new(folder.trim()).join(NAME);
        if file.is_file() {
            return (Some(file), "python3's torch package".into());
        }
    }
    let tried = "no libtorch_cuda.so: looked in ATP_LIBTORCH_CUDA, .deps/libtorch-cuda and python3's torch package; \
                 fetch it with `python3 scripts/setup.py libtorch-cuda`";
    (None, tried.into())
}

/// Have libtorch take the same steps in the same order every time, on a GPU too. Call it before any device is opened.
///
/// Operations then use algorithms that sum in a fixed order: no atomic additions in gradients of gathers and of
/// attention, a fixed workspace for cuBLAS, no choice of cuDNN kernels by timing. One that has no such algorithm fails
/// by name instead of giving other results. On a CPU nothing changes: there the order is fixed anyway.
pub fn make_deterministic() -> Result<(), String> {
    const WORKSPACE: &str = "CUBLAS_WORKSPACE_CONFIG";
    match std::env::var(WORKSPACE) {
        Ok(given) if [":4096:8", ":16:8"].contains(&given.as_str()) => {}
        Ok(given) => {
            return Err(format!(
                "{WORKSPACE} is `{given}`; the deterministic mode needs `:4096:8` or `:16:8`: unset it"
            ));
        }
        // SAFETY: called from the main thread before any other thread of the program or of libtorch is made.
        Err(_) => unsafe { std::env::set_var(WORKSPACE, ":4096:8") },
    }
    // SAFETY: `at::globalContext()` takes nothing and gives a reference to a static, which is a pointer by the C++ ABI.
    let context: unsafe extern "C" fn() -> *mut c_void =
        unsafe { std::mem::transmute(torch_function(c"_ZN2at13globalContextEv")?) };
    // SAFETY: as declared above.
    let context = unsafe { context() };
    for (name, value) in [
        // Attention by cuDNN has no deterministic gradient.
        (c"_ZN2at7Context14setSDPUseCuDNNEb", false),
        (c"_ZN2at7Context17setBenchmarkCuDNNEb", false),
        (c"_ZN2at7Context21setDeterministicCuDNNEb", true),
    ] {
        // SAFETY: a member function `void f(bool)` takes the object first by the C++ ABI.
        let set: unsafe extern "C" fn(*mut c_void, bool) =
            unsafe { std::mem::transmute(torch_function(name)?) };
        // SAFETY: the object is libtorch's own and lives as long as the process.
        unsafe { set(context, value) };
    }
    let name = c"_ZN2at7Context26setDeterministicAlgorithmsEbb";
    // SAFETY: a member function `void f(bool, bool)`, as above; the second says to warn only.
    let set: unsafe extern "C" fn(*mut c_void, bool, bool) =
        unsafe { std::mem::transmute(torch_function(name)?) };
    // SAFETY: as above.
    unsafe { set(context, true, false) };
    match is_deterministic() {
        true => Ok(()),
        false => Err("libtorch did not take the setting".into()),
    }
}

/// Whether [`make_deterministic`] is in force, asked of libtorch itself.
pub fn is_deterministic() -> bool {
    let asked = || -> Result<bool, String> {
        // SAFETY: as in `make_deterministic`.
        let context: unsafe extern "C" fn() -> *mut c_void =
            unsafe { std::mem::transmute(torch_function(c"_ZN2at13globalContextEv")?) };
        let name = c"_ZNK2at7Context23deterministicAlgorithmsEv";
        // SAFETY: a member function `bool f() const` takes the object alone.
        let ask: unsafe extern "C" fn(*mut c_void) -> bool =
            unsafe { std::mem::transmute(torch_function(name)?) };
        // SAFETY: both are libtorch's own, as declared.
        Ok(unsafe { ask(context()) })
    };
    asked().unwrap_or(false)
}

/// A C++ function of libtorch by its mangled name. The `tch` crate has no binding for these, and they are looked up
/// rather than linked, so that another libtorch gives a message and not a program that does not start.
fn torch_function(name: &CStr) -> Result<*mut c_void, String> {
    // SAFETY: a plain look-up among the libraries that are loaded.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if found.is_null() {
        return Err(format!(
            "this libtorch has no `{}`; use the version that the program is built for",
            name.to_string_lossy()
        ));
    }
    Ok(found)
}

fn load_globally(library: &Path) -> Result<(), String> {
    let name = CString::new(library.as_os_str().as_encoded_bytes()).map_err(|e| e.to_string())?;
    // SAFETY: a plain dlopen of a library that registers its kernels; the handle is kept for the life of the process.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: dlerror gives null or a string that lives until the next dl call of this thread.
    let error = unsafe {
        let text = libc::dlerror();
        if text.is_null() {
            "unknown".into()
        } else {
            std::ffi::CStr::from_ptr(text)
                .to_string_lossy()
                .into_owned()
        }
    };
    Err(format!("{}: {error}", library.display()))
}

/// Use this many threads for tensors and for everything else; 0 takes all cores.
pub fn set_threads(threads: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = if threads == 0 { cores } else { threads };
    tch::set_num_threads(threads as i32);
    // Fails only where the pool is already made, which is then of the right size.
    let _ = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global();
    threads
}

/// What the bytes of a result computed on a CPU depend on, in words: processor and number of threads.
pub fn processor() -> String {
    let described = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = described
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == "model name")
        .map_or("unknown processor", |(_, name)| name.trim());
    format!("{model}, {}", threads())
}

/// The number of threads in words.
pub fn threads() -> String {
    match tch::get_num_threads() {
        1 => "1 thread".to_owned(),
        many => format!("{many} threads"),
    }
}

/// The device in words, for reports.
pub fn describe(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("GPU {index} (CUDA)"),
        _ => format!("CPU, {}", threads()),
    }
}
