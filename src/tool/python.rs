//! Which Python runs the programs, and what of the disk it needs to read.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{SandboxConfig, SandboxError};
use crate::runtime::deps;

const PROBE: &str = include_str!("probe.py");
/// A package counts as there if its folder is.
const PACKAGES: [&str; 3] = ["numpy", "mpmath", "sympy"];

/// A Python and what it reads.
#[derive(Debug, Clone)]
pub(super) struct Python {
    /// The interpreter itself, links and launchers resolved.
    pub executable: PathBuf,
    /// `PYTHONHOME`.
    pub home: OsString,
    /// The import path: standard library, then packages.
    pub path: Vec<PathBuf>,
    /// Folders and files it may read.
    pub readable: Vec<PathBuf>,
    /// The dynamic loader, which `execve` opens besides the interpreter.
    pub loader: Option<PathBuf>,
}

impl Python {
    /// Ask the Python of the settings.
    pub(super) fn find(config: &SandboxConfig) -> Result<Self, SandboxError> {
        let python = config.python.clone().unwrap_or_else(|| "python3".into());
        let fault = |problem: String| SandboxError::Python {
            python: python.clone(),
            problem,
        };
        let output = Command::new(&python)
            .args(["-I", "-c", PROBE])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| fault(error.to_string()))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let last = text.lines().last().unwrap_or("it said nothing");
            return Err(fault(format!("{}: {last}", output.status)));
        }
        let lines: Vec<(&[u8], &[u8])> = output
            .stdout
            .split(|&byte| byte == b'\n')
            .filter_map(|line| {
                let tab = line.iter().position(|&byte| byte == b'\t')?;
                Some((&line[..tab], &line[tab + 1..]))
            })
            .collect();
        let all = |key: &str| -> Vec<PathBuf> {
            let values = lines.iter().filter(|(k, _)| *k == key.as_bytes());
            values
                .map(|(_, v)| PathBuf::from(OsString::from_vec(v.to_vec())))
                .collect()
        };
        let one = |key: &str| all(key).pop();
        let (Some(executable), Some(home), Some(version), Some(implementation)) = (
            one("executable"),
            one("home"),
            one("version"),
            one("implementation"),
        ) else {
            return Err(fault("its answer was not understood".into()));
        };
        let version = version.to_string_lossy().into_owned();
        let minor = version.strip_prefix("3.").and_then(|m| m.parse().ok());
        if implementation.as_os_str() != "cpython" || minor.is_none_or(|m: u32| m < 10) {
            return Err(fault(format!(
                "it is {} {version}, CPython 3.10 or later is needed",
                implementation.display()
            )));
        }

        let standard = all("standard");
        let libraries = all("library");
        let packages = packages(config, &version, &all("site"))?;
        let mut readable = standard.clone();
        readable.extend(packages.iter().cloned());
        readable.extend(library_folders(&libraries));
        readable.extend(["/etc/ld.so.cache", "/usr/share/zoneinfo"].map(PathBuf::from));
        let loader = libraries.into_iter().find(|library| {
            let name = library.file_name().unwrap_or_default();
            name.as_encoded_bytes().starts_with(b"ld")
        });
        Ok(Self {
            executable,
            home: home.into_os_string(),
            path: standard.into_iter().chain(packages).collect(),
            readable,
            loader,
        })
    }
}

/// Folders that hold packages: the configured one, the fetched one, or those of this Python that have one of them.
fn packages(
    config: &SandboxConfig,
    version: &str,
    site: &[PathBuf],
) -> Result<Vec<PathBuf>, SandboxError> {
    if let Some(path) = &config.packages {
        return match path.canonicalize() {
            Ok(path) if path.is_dir() => Ok(vec![path]),
            _ => Err(SandboxError::Packages { path: path.clone() }),
        };
    }
    let fetched = deps::places()
        .filter_map(|deps| deps.join(format!("python{version}")).canonicalize().ok())
        .find(|folder| folder.join(".stamp").is_file());
    if let Some(folder) = fetched {
        return Ok(vec![folder]);
    }
    let mut folders = Vec::new();
    for name in PACKAGES {
        if let Some(folder) = site.iter().find(|folder| folder.join(name).is_dir())
            && !folders.contains(folder)
        {
            folders.push(folder.clone());
        }
    }
    Ok(folders)
}

/// Folders of shared libraries; where a folder is too wide to be let in, its mapped files only.
fn library_folders(libraries: &[PathBuf]) -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let mut readable: Vec<PathBuf> = libraries
        .iter()
        .filter_map(|library| {
            let folder = library.parent()?;
            let too_wide = folder.components().count() < 3
                || home.as_ref().is_some_and(|home| home.starts_with(folder))
                || std::env::temp_dir().starts_with(folder);
            Some(if too_wide { library } else { folder }.to_path_buf())
        })
        .collect();
    readable.sort();
    readable.dedup();
    readable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_python_that_is_none_is_named() {
        let config = SandboxConfig {
            python: Some("/nonexistent/python".into()),
            ..SandboxConfig::default()
        };
        let error = Python::find(&config).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/python"), "{error}");
        let config = SandboxConfig {
            python: Some("/bin/false".into()),
            ..SandboxConfig::default()
        };
        assert!(Python::find(&config).is_err());
    }

    #[test]
    fn a_wide_folder_is_not_let_in_for_a_library() {
        let home = PathBuf::from(std::env::var_os("HOME").unwrap());
        let in_home = home.join("libpython.so");
        let in_root = PathBuf::from("/libx.so");
        let usual = PathBuf::from("/usr/lib/somewhere/libc.so");
        let found = library_folders(&[in_home.clone(), in_root.clone(), usual]);
        assert!(found.contains(&in_home) && found.contains(&in_root));
        assert!(found.contains(&PathBuf::from("/usr/lib/somewhere")));
        assert!(!found.contains(&home));
    }
}
