//! The manifest of a finished stage: what it was made from and what it left, each output with its digest.
//!
//! It is written last, so a folder with a manifest is a finished stage. A folder whose files no longer have the
//! digests written there is damaged and counts as not done.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::digest::{Digest, digest_file};
use super::file::{check_relative, create_folder, list_files, sync_file, write_atomic};
use super::{ArtifactError, time};

/// File name of a manifest in its stage's folder.
pub const MANIFEST: &str = "manifest.json";

/// Version of the manifest's own layout.
pub const FORMAT: u32 = 1;

/// Digest and size of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// SHA-256 of the content.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// Files by their path relative to one folder, with `/`.
pub type Entries = BTreeMap<String, Entry>;

/// Why a folder is not what its manifest or digest list says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A listed file is gone.
    #[error("`{file}` is missing")]
    Missing {
        /// Relative path.
        file: String,
    },
    /// A listed file has another size.
    #[error("`{file}` is damaged: expected {expected} bytes, got {got}")]
    Size {
        /// Relative path.
        file: String,
        /// Bytes when it was written.
        expected: u64,
        /// Bytes now.
        got: u64,
    },
    /// A listed file has another content.
    #[error("`{file}` is damaged: expected SHA-256 {}…, got {}…", expected.short(), got.short())]
    Altered {
        /// Relative path.
        file: String,
        /// Digest when it was written.
        expected: Digest,
        /// Digest now.
        got: Digest,
    },
    /// A listed file cannot be read.
    #[error("`{file}` cannot be read: {reason}")]
    Unreadable {
        /// Relative path.
        file: String,
        /// The reason.
        reason: String,
    },
}

/// Digest, size and fsync every listed file of a folder.
pub(crate) fn seal(folder: &Path, files: &[String]) -> Result<Entries, ArtifactError> {
    let mut entries = Entries::new();
    for file in files {
        let path = folder.join(file);
        sync_file(&path)?;
        let digest = digest_file(&path)?;
        let size = fs::metadata(&path)
            .map_err(ArtifactError::io("examine", &path))?
            .len();
        entries.insert(file.clone(), Entry { digest, size });
    }
    Ok(entries)
}

/// Compare a folder with a list of digests; the first difference in the order of names is returned.
pub(crate) fn verify(folder: &Path, entries: &Entries) -> Result<(), Damage> {
    for (file, entry) in entries {
        let file = file.clone();
        let path = folder.join(&file);
        if let Err(error) = check_relative(folder, &file) {
            let reason = error.to_string();
            return Err(Damage::Unreadable { file, reason });
        }
        let got = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Damage::Missing { file });
            }
            Err(error) => {
                let reason = error.to_string();
                return Err(Damage::Unreadable { file, reason });
            }
        };
        let expected = entry.size;
        if got != expected {
            return Err(Damage::Size {
                file,
                expected,
                got,
            });
        }
        match digest_file(&path) {
            Ok(got) if got == entry.digest => {}
            Ok(got) => {
                let expected = entry.digest;
                return Err(Damage::Altered {
                    file,
                    expected,
                    got,
                });
            }
            Err(error) => {
                let reason = error.to_string();
                return Err(Damage::Unreadable { file, reason });
            }
        }
    }
    Ok(())
}

/// What a finished stage leaves beside its outputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Layout of this file: [`FORMAT`].
    pub format: u32,
    /// Name of the stage in its recipe.
    pub stage: String,
    /// The stage's key.
    pub key: Digest,
    /// What the key was made of, so that a later run can say which part changed.
    pub parts: serde_json::Value,
    /// Where each input was read from when the stage ran, by input name, and where the model was from (`model`); for the
    /// reader, not for the key.
    pub inputs: BTreeMap<String, String>,
    /// Every file the stage left.
    pub outputs: Entries,
    /// Wall time of the stage, over all its attempts, in seconds.
    pub seconds: f64,
    /// Name and version of the program that wrote it.
    pub program: String,
    /// When it was finished: RFC 3339, UTC.
    pub finished: String,
}

impl Manifest {
    /// Digest the files below `folder`, except the top-level names in `skip`, and write the manifest as the last one.
    pub fn write(
        folder: &Path,
        stage: &str,
        (key, parts): (Digest, serde_json::Value),
        inputs: BTreeMap<String, String>,
        seconds: f64,
        skip: &[&str],
    ) -> Result<Self, ArtifactError> {
        create_folder(folder)?;
        let skip: Vec<&str> = skip.iter().copied().chain([MANIFEST]).collect();
        let outputs = seal(folder, &list_files(folder, &skip)?)?;
        let manifest = Self {
            format: FORMAT,
            stage: stage.to_string(),
            key,
            parts,
            inputs,
            outputs,
            seconds,
            program: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_string(),
            finished: time::now(),
        };
        let path = folder.join(MANIFEST);
        write_atomic(&path, &to_json(&manifest, &path)?)?;
        Ok(manifest)
    }

    /// The manifest of a folder; `None` where the stage was not finished.
    pub fn load(folder: &Path) -> Result<Option<Self>, ArtifactError> {
        let path = folder.join(MANIFEST);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ArtifactError::io("read", &path)(error)),
        };
        let manifest: Self = serde_json::from_slice(&bytes)
            .map_err(|error| ArtifactError::damaged(&path, error.to_string()))?;
        if manifest.format != FORMAT {
            let reason = format!("expected format {FORMAT}, got {}", manifest.format);
            return Err(ArtifactError::damaged(&path, reason));
        }
        Ok(Some(manifest))
    }

    /// Whether every output in `folder` is there and has the digest it was finished with.
    pub fn verify(&self, folder: &Path) -> Result<(), Damage> {
        verify(folder, &self.outputs)
    }
}

/// Indented JSON with a final newline.
pub(crate) fn to_json<T: Serialize>(value: &T, path: &Path) -> Result<Vec<u8>, ArtifactError> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| ArtifactError::io("encode", path)(io::Error::other(error)))?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::digest_bytes;

    fn finished() -> (tempfile::TempDir, Manifest) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir_all(path.join("adapter")).unwrap();
        fs::create_dir_all(path.join("checkpoints/step-1")).unwrap();
        fs::write(path.join("adapter/weights"), [1, 2, 3]).unwrap();
        fs::write(path.join("metrics.jsonl"), "{}\n").unwrap();
        fs::write(path.join("checkpoints/step-1/x"), "x").unwrap();
        let key = (digest_bytes(b"k"), serde_json::json!({"seed": 1}));
        let manifest =
            Manifest::write(path, "train", key, BTreeMap::new(), 1.5, &["checkpoints"]).unwrap();
        (folder, manifest)
    }

    #[test]
    fn it_lists_the_outputs_and_comes_back() {
        let (folder, manifest) = finished();
        let names: Vec<_> = manifest.outputs.keys().collect();
        assert_eq!(names, ["adapter/weights", "metrics.jsonl"]);
        let entry = manifest.outputs["adapter/weights"];
        assert_eq!((entry.size, entry.digest), (3, digest_bytes(&[1, 2, 3])));
        let loaded = Manifest::load(folder.path()).unwrap().unwrap();
        assert_eq!(loaded, manifest);
        loaded.verify(folder.path()).unwrap();
        assert!(
            Manifest::load(&folder.path().join("adapter"))
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn damage_names_the_file() {
        let (folder, manifest) = finished();
        let weights = folder.path().join("adapter/weights");
        fs::write(&weights, [1, 2, 7]).unwrap();
        let damage = manifest.verify(folder.path()).unwrap_err();
        assert!(matches!(&damage, Damage::Altered { file, .. } if file == "adapter/weights"));
        fs::write(&weights, [1, 2]).unwrap();
        let damage = manifest.verify(folder.path()).unwrap_err();
        assert!(matches!(
            damage,
            Damage::Size {
                expected: 3,
                got: 2,
                ..
            }
        ));
        fs::remove_file(&weights).unwrap();
        let damage = manifest.verify(folder.path()).unwrap_err();
        assert_eq!(damage.to_string(), "`adapter/weights` is missing");
    }

    #[test]
    fn a_torn_or_foreign_manifest_is_damage() {
        let (folder, _) = finished();
        let path = folder.path().join(MANIFEST);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        let error = Manifest::load(folder.path()).unwrap_err();
        assert!(error.to_string().contains("manifest.json"), "{error}");
        fs::write(&path, text.replace("\"format\": 1", "\"format\": 9")).unwrap();
        let error = Manifest::load(folder.path()).unwrap_err();
        assert!(
            error.to_string().contains("expected format 1, got 9"),
            "{error}"
        );
    }
}
