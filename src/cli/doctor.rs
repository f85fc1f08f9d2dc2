//! `doctor`: what this machine has, what is missing, and the command that mends it.

use std::path::Path;

use clap::Args;
use serde::Serialize;

use crate::agent::ModelSpec;
use crate::agent::model::{EMBEDDED, describe};
use crate::artifact::free_space;
use crate::hub::Settings;
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
            token(),
        ];
        if self.json {
            tell!("{}", serde_json::to_string_pretty(&findings)?);
        } else {
            for finding in &findings {
                let mark = match finding.level {
                    Level::Good => "ok   ",
                    Level::Note => "note ",
                    Level::Fault => "FAULT",
                };
                tell!("{mark}  {:9} {}", finding.what, finding.text);
                if let Some(mend) = &finding.mend {
                    tell!("                 {mend}");
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
        "2.11.0, {}, MKL {}, oneDNN {}",
        device::threads(),
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
        mend: (level == Level::Fault).then(|| {
            "1 + 2 came out wrong: fetch libtorch again with `rm -r .deps/libtorch && python3 scripts/setup.py libtorch`"
                .into()
        }),
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
        let first = tch::Device::Cuda(0);
        if let Some((free, total)) = memory::free_and_total(first) {
            let shape = ModelConfig::qwen3_8b();
            text += &format!(
                "; {:.1} of {:.1} GiB free on the first; of these Qwen3-8B takes: {}",
                memory::gib(free),
                memory::gib(total),
                Footprint::of(&shape, tch::Kind::BFloat16, first).describe(free)
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
    let what = "memory";
    let Some(bytes) = memory::available_on_host() else {
        return Finding {
            what,
            level: Level::Note,
            text: "not known: /proc/meminfo has no MemAvailable".into(),
            mend: None,
        };
    };
    let gib = memory::gib(bytes);
    let enough = gib >= 3.0;
    Finding {
        what,
        level: if enough { Level::Good } else { Level::Fault },
        text: format!("{gib:.1} GiB available; the laptop recipe needs about 3"),
        mend: (!enough).then(|| {
            "close other programs (`ps aux --sort=-rss | head` shows the largest), or add swap"
                .into()
        }),
    }
}

/// Room where results would go, and whether they can be written there.
fn disk() -> Finding {
    let what = "disk";
    let here = Path::new(".");
    let probe = tempfile::Builder::new()
        .prefix(".atp-doctor-")
        .tempfile_in(here);
    if let Err(error) = probe {
        return Finding {
            what,
            level: Level::Fault,
            text: format!("this folder cannot be written to: {error}"),
            mend: Some("change to a folder of yours, or name one with --run-dir".into()),
        };
    }
    let Some(bytes) = free_space(here) else {
        return Finding {
            what,
            level: Level::Note,
            text: "not known: the file system does not say".into(),
            mend: None,
        };
    };
    let gib = bytes as f64 / f64::from(1 << 30);
    let enough = gib >= 1.0;
    Finding {
        what,
        level: if enough { Level::Good } else { Level::Fault },
        text: format!("{gib:.1} GiB free here"),
        mend: (!enough).then(|| {
            "free some space (`du -sh runs/*/stages/*` shows old stages), or name another --run-dir".into()
        }),
    }
}

/// Whether gated models could be fetched; the token itself is not shown, and not tried.
fn token() -> Finding {
    let what = "hub token";
    let settings = Settings::from_env();
    let found = settings.token.is_some().then_some(&settings.token_from);
    match found {
        Some(place) => Finding {
            what,
            level: Level::Good,
            text: format!("from {place}"),
            mend: None,
        },
        None => Finding {
            what,
            level: Level::Note,
            text: "none; gated models, such as Llama, cannot be fetched".into(),
            mend: Some(match settings.token_from.as_str() {
                off @ "HF_HUB_DISABLE_IMPLICIT_TOKEN" => format!("unset {off}"),
                _ => "hf auth login, or set HF_TOKEN".into(),
            }),
        },
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
            let mend = "needed for tool usage alone: it takes a Linux kernel of 5.13 or newer with Landlock and seccomp \
                        (`cat /sys/kernel/security/lsm` names landlock), and python3 on PATH";
            return note(format!("{kernel}, but: {error}"), Some(mend));
        }
    };
    let found = sandbox.capabilities();
    let trial = sandbox.run(&["print(6 * 7)"]).remove(0);
    if trial.status != Status::Finished || trial.stdout != "42\n" {
        let text = format!(
            "{found}, but a trial failed: {:?} {}",
            trial.status, trial.stderr
        );
        let mend =
            "python3 -c 'print(6 * 7)' must work; `python3 scripts/setup.py python` sets one up";
        return note(text, Some(mend));
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
