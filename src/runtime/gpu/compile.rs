//! Compiling kernels for the GPU that is there, once: the result is kept under the user's cache folder, named by the
//! digest of source, target and compiler.

use std::ffi::{CStr, c_void};
use std::path::{Path, PathBuf};

use cudarc::driver::result as driver;
use cudarc::nvrtc::{result as nvrtc, sys};
use sha2::{Digest, Sha256};

use super::{Gpu, GpuError, Kernel, c_string};

/// Compiled kernels, loaded; dropping it unloads them, so whoever has its kernels keeps it.
#[derive(Debug)]
pub struct Module(cudarc::driver::sys::CUmodule);

impl Drop for Module {
    fn drop(&mut self) {
        // What is under way may be one of its kernels. Where the driver is gone already, there is nothing to unload.
        // SAFETY: it was loaded by us and is unloaded once, after all that runs.
        unsafe {
            if cudarc::driver::sys::cuCtxSynchronize().result().is_ok() {
                let _ = driver::module::unload(self.0);
            }
        }
    }
}

impl Module {
    /// Compile CUDA C++ for this GPU, or take what an earlier run has compiled.
    pub fn compile(gpu: &Gpu, source: &str) -> Result<Self, GpuError> {
        let (major, minor) = gpu.capability()?;
        // The letter opens what only this very architecture has: wgmma.
        let letter = if major == 9 { "a" } else { "" };
        let target = format!("sm_{major}{minor}{letter}");
        open_compiler()?;
        let version = compiler_version()?;
        let digest = Sha256::digest(format!("{version}\n{target}\n{source}"));
        let name: String = digest.iter().take(16).map(|b| format!("{b:02x}")).collect();
        let file = cache_folder().map(|folder| folder.join(format!("{name}.cubin")));
        let kept = file.as_deref().and_then(|file| std::fs::read(file).ok());
        if let Some(code) = kept
            && let Ok(module) = Self::load(&code)
        {
            return Ok(module);
        }
        tracing::info!("compiling the GPU's kernels for this model, once");
        let code = compile(source, &target)?;
        if let Some(file) = file {
            keep(&file, &code);
        }
        Self::load(&code)
    }

    fn load(code: &[u8]) -> Result<Self, GpuError> {
        // SAFETY: an ELF image; the driver checks it.
        let module = unsafe { driver::module::load_data(code.as_ptr().cast::<c_void>())? };
        Ok(Self(module))
    }

    /// A kernel by its name.
    pub fn kernel(&self, name: &str) -> Result<Kernel, GpuError> {
        // SAFETY: the module is loaded.
        Ok(Kernel(unsafe {
            driver::module::get_function(self.0, c_string(name))?
        }))
    }
}

fn compile(source: &str, target: &str) -> Result<Vec<u8>, GpuError> {
    let source = c_string(source);
    let error = |what: &str, e: nvrtc::NvrtcError| GpuError::Compile(format!("{what}: {e}"));
    let program = nvrtc::create_program(&source, Some(c"atp.cu"))
        .map_err(|e| error("creating the program", e))?;
    let options = [format!("--gpu-architecture={target}"), "--std=c++17".into()];
    // SAFETY: the program was just made and is destroyed below, once.
    unsafe {
        let done = nvrtc::compile_program(program, &options);
        let code = match done {
            Ok(()) => {
                let mut size = 0;
                let asked = sys::nvrtcGetCUBINSize(program, &mut size).result();
                let mut code = vec![0u8; size];
                asked
                    .and_then(|()| sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()).result())
                    .map(|()| code)
                    .map_err(|e| error("taking the code", e))
            }
            Err(e) => {
                let log = nvrtc::get_program_log(program).unwrap_or_default();
                let log: Vec<u8> = log
                    .iter()
                    .map(|&c| c as u8)
                    .take_while(|&c| c != 0)
                    .collect();
                Err(error(&String::from_utf8_lossy(&log), e))
            }
        };
        let _ = nvrtc::destroy_program(program);
        code
    }
}

fn compiler_version() -> Result<String, GpuError> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: two numbers to be written.
    unsafe { sys::nvrtcVersion(&mut major, &mut minor) }
        .result()
        .map_err(|e| GpuError::Compile(e.to_string()))?;
    Ok(format!("{major}.{minor}"))
}

/// Load the run-time compiler that came with libtorch's CUDA libraries, so that it is found by its name afterwards.
fn open_compiler() -> Result<(), GpuError> {
    const NAME: &str = "libnvrtc.so.13";
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let beside = maps
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .find(|path| path.ends_with("libtorch_cuda.so"))
        .map(Path::new)
        .and_then(Path::parent);
    let mut tried: Vec<PathBuf> = Vec::new();
    if let Some(folder) = beside {
        tried.push(folder.join(NAME));
        tried.push(folder.join("../../nvidia/cu13/lib").join(NAME));
        tried.push(folder.join("../../nvidia/cuda_nvrtc/lib").join(NAME));
    }
    tried.push(PathBuf::from(NAME));
    let open = |path: &Path| {
        let name = c_string(&path.to_string_lossy());
        // SAFETY: a plain dlopen; the library stays for the life of the process.
        !unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) }.is_null()
    };
    for path in &tried {
        // The compiler looks for its other half by name, and does not look in its own folder.
        for half in builtins(path.parent()) {
            open(&half);
        }
        if open(path) {
            return Ok(());
        }
    }
    // SAFETY: dlerror gives null or a string that lives until the next dl call of this thread.
    let why = unsafe {
        let text = libc::dlerror();
        if text.is_null() {
            "unknown".into()
        } else {
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    };
    Err(GpuError::Compile(format!(
        "{NAME} is not there ({why}); it comes with PyTorch as the package nvidia-cuda-nvrtc"
    )))
}

/// The compiler's other half, by whatever version it has in its name; by itself where there is no folder to look in.
fn builtins(folder: Option<&Path>) -> Vec<PathBuf> {
    const NAME: &str = "libnvrtc-builtins.so.13";
    let Some(folder) = folder.filter(|f| !f.as_os_str().is_empty()) else {
        return vec![PathBuf::from(format!("{NAME}.0"))];
    };
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with(NAME))
        })
        .collect();
    found.sort();
    found
}

fn cache_folder() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|p| p.is_absolute())
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    Some(base.join("atp-pipeline/kernels"))
}

/// Keep compiled code for the next run; where that fails, the next run compiles again.
fn keep(file: &Path, code: &[u8]) {
    let Some(folder) = file.parent() else { return };
    let whole = file.with_extension(format!("{}.part", std::process::id()));
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&whole, code))
        .and_then(|()| std::fs::rename(&whole, file));
    if let Err(e) = written {
        tracing::debug!("kernels are not kept: {}: {e}", file.display());
    }
}
