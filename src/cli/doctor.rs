//! `doctor`: what this machine has, what is missing, and the command that mends it.

use std::path::Path;

use clap::Args;
use serde::Serialize;

use crate::agent::ModelSpec;
use crate::agent::model::{EMBEDDED, describe};
use crate::model::ModelConfig;
use crate::model::footprint::Footprint;
use crate::runtime::{device, memory};
use crate::tool::{Capabilities, Sandbox, SandboxConfig, Status};

/// Options of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Good,
    Note,
    Fault,
}

/// One line of the examination.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    level: Level,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl DoctorArgs {
    /// Examine; exits with an error if something that every run needs is missing.
    pub fn execute(self) -> anyhow::Result<()> {
        let findings = [
            libtorch(),
            gpu(),
            host_memory(),
            disk(),
            embedded_model(),
            sandbox(),
        ];
        if self.json {
            println!("{}", serde_json::to_string_pretty(&findings)?);
        } else {
            for finding in &findings {
                let mark = match finding.level {
                    Level::Good => "ok   ",
                    Level::Note => "note ",
                    Level::Fault => "FAULT",
                };
                println!("{mark}  {:9} {}", finding.what, finding.text);
                if let Some(mend) = &finding.mend {
                    println!("                 {mend}");
                }
            }
        }
        let faults = findings.iter().filter(|f| f.level == Level::Fault).count();
        if faults > 0 {
            anyhow::bail!("{faults} of {} checks failed", findings.len());
        }
        Ok(())
    }
}

fn libtorch() -> Finding {
    let sum = tch::Tensor::from_slice(&[1f32, 2.0])
        .sum(tch::Kind::Float)
        .double_value(&[]);
    let text = format!(
        "2.11.0, {} threads, MKL {}, oneDNN {}",
        tch::get_num_threads(),
        if tch::utils::has_mkl() { "yes" } else { "no" },
        if tch::utils::has_mkldnn() {
            "yes"
        } else {
            "no"
        }
    );
    let level = if sum == 3.0 {
        Level::Good
    } else {
        Level::Fault
    };
    Finding {
        what: "libtorch",
        level,
        text,
        mend: None,
    }
}

fn gpu() -> Finding {
    let what = "GPU";
    if !device::gpu_present() {
        return Finding {
            what,
            level: Level::Note,
            text: "no NVIDIA driver; everything runs on the CPU".into(),
            mend: None,
        };
    }
    let found = device::open_cuda();
    if tch::Cuda::is_available() {
        let library = found
            .library
            .map(|l| l.display().to_string())
            .unwrap_or_default();
        let mut text = format!(
            "{} GPUs, libraries from {} ({library})",
            tch::Cuda::device_count(),
            found.origin
        );
        if let Some((free, total)) = memory::free_and_total(tch::Device::Cuda(0)) {
            let shape = ModelConfig::qwen3_8b();
            text += &format!(
                "; {:.1} of {:.1} GiB free on the first; of these Qwen3-8B takes: {}",
                memory::gib(free),
                memory::gib(total),
                Footprint::of(&shape, tch::Kind::BFloat16).describe(free)
            );
        }
        return Finding {
            what,
            level: Level::Good,
            text,
            mend: None,
        };
    }
    Finding {
        what,
        level: Level::Note,
        text: format!("a driver is there, but: {}", found.error.unwrap_or(found.origin)),
        mend: Some("python3 scripts/setup.py libtorch-cuda, or set ATP_LIBTORCH_CUDA to a folder with libtorch 2.11.0".into()),
    }
}

fn host_memory() -> Finding {
    let available = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
    let Some(kilobytes) = available else {
        return Finding {
            what: "memory",
            level: Level::Note,
            text: "not known".into(),
            mend: None,
        };
    };
    let gib = kilobytes as f64 / (1 << 20) as f64;
    let text = format!("{gib:.1} GiB available; the laptop recipe needs about 3");
    let level = if gib < 3.0 { Level::Fault } else { Level::Good };
    Finding {
        what: "memory",
        level,
        text,
        mend: (gib < 3.0).then(|| "close other programs".into()),
    }
}

fn disk() -> Finding {
    let mut stats = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path is a C string and the struct is ours to fill.
    let answered = unsafe { libc::statvfs(c".".as_ptr(), stats.as_mut_ptr()) } == 0;
    if !answered {
        return Finding {
            what: "disk",
            level: Level::Note,
            text: "not known".into(),
            mend: None,
        };
    }
    // SAFETY: statvfs answered, so the struct is filled; it was zeroed before in any case.
    let stats = unsafe { stats.assume_init() };
    let gib = stats.f_bavail as f64 * stats.f_frsize as f64 / f64::from(1 << 30);
    let level = if gib < 1.0 { Level::Fault } else { Level::Good };
    let mend = (gib < 1.0).then(|| "free some space, or run with --run-dir elsewhere".into());
    Finding {
        what: "disk",
        level,
        text: format!("{gib:.1} GiB free here"),
        mend,
    }
}

fn embedded_model() -> Finding {
    let what = "model";
    let found = ModelSpec::new(EMBEDDED)
        .resolve(Path::new("."), true)
        .and_then(|path| Ok((describe(&path)?, path)));
    match found {
        Ok((config, path)) => {
            let text = format!(
                "{EMBEDDED}: {:.0}M parameters, {}",
                config.parameters() as f64 / 1e6,
                path.display()
            );
            Finding {
                what,
                level: Level::Good,
                text,
                mend: None,
            }
        }
        Err(error) => {
            let mend = Some("python3 scripts/setup.py model".into());
            Finding {
                what,
                level: Level::Fault,
                text: error.to_string(),
                mend,
            }
        }
    }
}

/// Only tool use runs programs, so nothing here is a fault.
fn sandbox() -> Finding {
    let what = "sandbox";
    let note = |text: String, mend: Option<&str>| Finding {
        what,
        level: Level::Note,
        text,
        mend: mend.map(str::to_owned),
    };
    let config = SandboxConfig {
        workers: 1,
        ..SandboxConfig::default()
    };
    let sandbox = match Sandbox::new(&config) {
        Ok(sandbox) => sandbox,
        Err(error) => {
            let kernel = Capabilities::of_kernel();
            return note(format!("{kernel}, but: {error}"), None);
        }
    };
    let found = sandbox.capabilities();
    let trial = sandbox.run(&["print(6 * 7)"]).remove(0);
    if trial.status != Status::Finished || trial.stdout != "42\n" {
        let text = format!(
            "{found}, but a trial failed: {:?} {}",
            trial.status, trial.stderr
        );
        return note(text, None);
    }
    let text = format!("{found}; {:.0} ms a program", trial.seconds * 1e3);
    if found.packages.len() < 4 {
        let mend = "python3 scripts/setup.py python, for numpy, sympy and mpmath in programs";
        return note(text, Some(mend));
    }
    Finding {
        what,
        level: Level::Good,
        text,
        mend: None,
    }
}
