//! Weights near the processor: a model's files copied once a machine from a shared file system into a folder of its own.
//!
//! `ATP_LOCAL_CACHE` names the folder. Of all processes of the machine one copies, under a lock, and the others wait. What
//! a killed one left is gone on with; a file counts once it has the source's size and digest. Only where weights are read
//! from changes: identity and origin of a model, and with them keys and manifests, stay those of its source.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::model::{file_digests, identity_of, remember_digest, remembered_digest};
use crate::artifact::file::{create_folder, parent, sync_file, sync_folder};
use crate::artifact::{ArtifactError, Digest, free_space};
use crate::runtime::http::wait;
use crate::runtime::interrupt::{Interrupted, check};

/// Names the folder.
pub const VARIABLE: &str = "ATP_LOCAL_CACHE";
/// Seconds to wait for another process that copies, without a byte more.
const PATIENCE: &str = "ATP_LOCAL_CACHE_TIMEOUT";
/// Bytes between two looks at whether to stop.
const PIECE: usize = 4 << 20;
/// Ending of a file that is not whole yet.
const PART: &str = "part";

/// A copy that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The folder has not the room.
    #[error(
        "the copy of model {model} in `{}` needs {needed} bytes more, and {free} are free there; make room, name another \
         folder by {VARIABLE}, or unset it to read from where the model is",
        folder.display()
    )]
    Room {
        /// The source.
        model: String,
        /// The copy's.
        folder: PathBuf,
        /// Bytes that are still to come.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Another process copies, and does not get on.
    #[error(
        "another process copies model {model} into `{}`, and no byte came for {seconds} s; look after it, or set {PATIENCE} \
         higher",
        folder.display()
    )]
    Waited {
        /// The source.
        model: String,
        /// The copy's.
        folder: PathBuf,
        /// How long.
        seconds: u64,
    },
    /// The copy has another content.
    #[error("`{}` came out with another content than `{}` twice; one of the two disks or the way between is at fault", copy.display(), source_file.display())]
    Differs {
        /// What was made.
        copy: PathBuf,
        /// From what.
        source_file: PathBuf,
    },
    /// A stop was asked for; what was copied stays.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
}

/// Where to read this model from: its copy in the machine's own folder, made now if need be, or the model itself where no
/// such folder is named.
///
/// # Errors
/// See [`LocalError`].
pub fn near(model: &Path) -> Result<PathBuf, LocalError> {
    let Some(cache) = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()) else {
        return Ok(model.to_owned());
    };
    let patience = std::env::var(PATIENCE).ok();
    let patience = patience.and_then(|text| text.parse().ok());
    near_in(
        model,
        Path::new(&cache),
        Duration::from_secs(patience.unwrap_or(300).max(1)),
    )
}

/// A file of the model and its copy.
struct Piece {
    from: PathBuf,
    to: PathBuf,
    size: u64,
    digest: Digest,
}

impl Piece {
    fn part(&self) -> PathBuf {
        let mut name = self.to.file_name().unwrap_or_default().to_owned();
        name.push(".");
        name.push(PART);
        self.to.with_file_name(name)
    }

    /// The copy is there in size and digest; the digest of an untouched file is remembered.
    fn is_whole(&self) -> bool {
        fs::metadata(&self.to).is_ok_and(|found| found.len() == self.size)
            && remembered_digest(&self.to).is_ok_and(|found| found == self.digest)
    }

    /// Bytes that are there of one that is not whole.
    fn begun(&self) -> u64 {
        fs::metadata(self.part()).map_or(0, |part| part.len().min(self.size))
    }
}

fn near_in(model: &Path, cache: &Path, patience: Duration) -> Result<PathBuf, LocalError> {
    let inside = fs::canonicalize(model)
        .is_ok_and(|path| fs::canonicalize(cache).is_ok_and(|cache| path.starts_with(cache)));
    if inside {
        return Ok(model.to_owned());
    }
    let files = file_digests(model)?;
    // Equal files have one copy, wherever they lie.
    let folder = cache.join(identity_of(&files).short());
    let mut pieces = vec![];
    for (from, digest) in files {
        let size = fs::metadata(&from).map_err(ArtifactError::io("look at", &from))?;
        let to = folder.join(name_of(&from));
        let size = size.len();
        pieces.push(Piece {
            from,
            to,
            size,
            digest,
        });
    }
    let copy = match (model.is_dir(), pieces.first()) {
        (false, Some(file)) => file.to.clone(),
        _ => folder.clone(),
    };
    if !pieces.iter().all(Piece::is_whole) {
        create_folder(&folder)?;
        let _lock = lock(model, &folder, patience, &pieces)?;
        fill(model, &folder, &pieces)?;
    }
    tracing::info!("reading {} from `{}`", model.display(), copy.display());
    Ok(copy)
}

fn name_of(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The right to copy. The system frees it however its holder ends; the wait is as long as something comes.
fn lock(
    model: &Path,
    folder: &Path,
    patience: Duration,
    pieces: &[Piece],
) -> Result<File, LocalError> {
    let path = folder.join("copy.lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(ArtifactError::io("open the lock", &path))?;
    let there = || -> u64 {
        let of = |piece: &Piece| fs::metadata(&piece.to).map_or(piece.begun(), |to| to.len());
        pieces.iter().map(of).sum()
    };
    let (mut seen, mut since) = (None, Instant::now());
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => {
                return Err(ArtifactError::io("lock", &path)(error).into());
            }
            Err(TryLockError::WouldBlock) => {}
        }
        let now = there();
        match seen {
            None => tracing::info!("waiting: another process copies {}", model.display()),
            Some(before) if before == now => {}
            Some(_) => since = Instant::now(),
        }
        seen = Some(now);
        if since.elapsed() > patience {
            return Err(LocalError::Waited {
                model: model.display().to_string(),
                folder: folder.to_owned(),
                seconds: since.elapsed().as_secs(),
            });
        }
        wait(Duration::from_millis(100))?;
    }
}

/// Copy what is not there yet, under the lock.
fn fill(model: &Path, folder: &Path, pieces: &[Piece]) -> Result<(), LocalError> {
    // Another process may have done it by now.
    let missing: Vec<&Piece> = pieces.iter().filter(|piece| !piece.is_whole()).collect();
    let needed = missing.iter().map(|piece| piece.size - piece.begun()).sum();
    let free = free_space(folder).unwrap_or(u64::MAX);
    if needed > free {
        return Err(LocalError::Room {
            model: model.display().to_string(),
            folder: folder.to_owned(),
            needed,
            free,
        });
    }
    for piece in missing {
        let begun = piece.begun();
        tracing::info!(
            "copying `{}` into `{}`: {begun} of {} bytes are there",
            piece.from.display(),
            folder.display(),
            piece.size
        );
        append(piece, begun)?;
        if !put(piece)? {
            // What was there from before was not of this file.
            tracing::warn!(
                "`{}` is not what it should be; copying it again",
                piece.to.display()
            );
            append(piece, 0)?;
            if !put(piece)? {
                let _ = fs::remove_file(piece.part());
                return Err(LocalError::Differs {
                    copy: piece.to.clone(),
                    source_file: piece.from.clone(),
                });
            }
        }
    }
    Ok(())
}

/// Bring the part to its end, from this byte on.
fn append(piece: &Piece, begun: u64) -> Result<(), LocalError> {
    let part = piece.part();
    let reading = |error| LocalError::from(ArtifactError::io("read", &piece.from)(error));
    let writing = |error: io::Error| {
        let error = ArtifactError::io("write", &part)(error);
        LocalError::from(error.for_bytes(piece.size - begun))
    };
    let mut from = File::open(&piece.from).map_err(reading)?;
    from.seek(SeekFrom::Start(begun)).map_err(reading)?;
    let options = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&part);
    let mut to = options.map_err(writing)?;
    to.set_len(begun).map_err(writing)?;
    to.seek(SeekFrom::Start(begun)).map_err(writing)?;
    let mut bytes = vec![0; PIECE];
    loop {
        check()?;
        match from.read(&mut bytes).map_err(reading)? {
            0 => break,
            read => to.write_all(&bytes[..read]).map_err(writing)?,
        }
    }
    drop(to);
    Ok(sync_file(&part)?)
}

/// Give a part that has the source's content its name; false where it has another.
fn put(piece: &Piece) -> Result<bool, LocalError> {
    let part = piece.part();
    if crate::artifact::digest_file(&part)? != piece.digest {
        return Ok(false);
    }
    fs::rename(&part, &piece.to).map_err(ArtifactError::io("rename into place", &piece.to))?;
    sync_folder(parent(&piece.to))?;
    remember_digest(&piece.to, &piece.digest)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::digest_bytes;

    /// A model folder of some bytes, and a cache beside it.
    fn model() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (model, cache) = (folder.path().join("model"), folder.path().join("near"));
        fs::create_dir(&model).unwrap();
        let bytes: Vec<u8> = (0..9_000_000_u32).map(|i| (i % 251) as u8).collect();
        fs::write(model.join("model.safetensors"), bytes).unwrap();
        fs::write(model.join("config.json"), "{}").unwrap();
        fs::write(model.join("notes.txt"), "no part of the model").unwrap();
        (folder, model, cache)
    }

    const LONG: Duration = Duration::from_secs(60);

    fn same(copy: &Path, model: &Path) {
        for name in ["model.safetensors", "config.json"] {
            assert!(fs::read(copy.join(name)).unwrap() == fs::read(model.join(name)).unwrap());
        }
        let part = copy.join("model.safetensors.part");
        assert!(!copy.join("notes.txt").exists() && !part.exists());
    }

    #[test]
    fn a_copy_is_made_once_and_one_that_was_altered_again() {
        let (_folder, model, cache) = model();
        let copy = near_in(&model, &cache, LONG).unwrap();
        assert!(copy.starts_with(&cache));
        same(&copy, &model);
        let file = copy.join("model.safetensors");
        let made = fs::metadata(&file).unwrap().modified().unwrap();
        assert_eq!(near_in(&model, &cache, LONG).unwrap(), copy);
        assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), made);
        // Of one size, another content.
        let mut bytes = fs::read(&file).unwrap();
        bytes[4_000_000] ^= 1;
        fs::write(&file, bytes).unwrap();
        near_in(&model, &cache, LONG).unwrap();
        same(&copy, &model);
        // A model in the cache itself is read there.
        assert_eq!(near_in(&copy, &cache, LONG).unwrap(), copy);
        // Another content has a copy of its own.
        fs::write(model.join("config.json"), "[]").unwrap();
        assert_ne!(near_in(&model, &cache, LONG).unwrap(), copy);
    }

    #[test]
    fn a_part_is_gone_on_with_and_a_foreign_one_is_not_believed() {
        let (_folder, model, cache) = model();
        let copy = near_in(&model, &cache, LONG).unwrap();
        let file = copy.join("model.safetensors");
        let bytes = fs::read(&file).unwrap();
        for part in [&bytes[..5_000_000], &[7; 5_000_000][..], &[]] {
            fs::remove_file(&file).unwrap();
            fs::write(copy.join("model.safetensors.part"), part).unwrap();
            near_in(&model, &cache, LONG).unwrap();
            same(&copy, &model);
        }
        // What is there of a part is not read again.
        fs::remove_file(&file).unwrap();
        let part = copy.join("model.safetensors.part");
        fs::write(&part, &bytes[..5_000_000]).unwrap();
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        let before = inode(&part);
        near_in(&model, &cache, LONG).unwrap();
        assert_eq!(inode(&file), before);
    }

    #[test]
    fn without_the_room_nothing_is_begun() {
        let (_folder, model, cache) = model();
        let copy = near_in(&model, &cache, LONG).unwrap();
        let to = copy.join("huge.safetensors");
        let huge = Piece {
            from: model.join("model.safetensors"),
            to: to.clone(),
            size: 1 << 60,
            digest: digest_bytes(b""),
        };
        let error = fill(&model, &copy, &[huge]).unwrap_err().to_string();
        for said in [
            model.to_str().unwrap(),
            "needs 1152921504606846976 bytes more",
            "free there",
            VARIABLE,
        ] {
            assert!(error.contains(said), "{error}");
        }
        assert!(!to.exists() && !to.with_extension("safetensors.part").exists());
    }

    #[test]
    fn one_copies_and_the_others_wait_but_not_for_ever() {
        let (_folder, model, cache) = model();
        let all: Vec<_> = (0..4)
            .map(|_| {
                let (model, cache) = (model.clone(), cache.clone());
                std::thread::spawn(move || near_in(&model, &cache, LONG).unwrap())
            })
            .collect();
        let copies: Vec<PathBuf> = all.into_iter().map(|one| one.join().unwrap()).collect();
        assert!(copies.windows(2).all(|pair| pair[0] == pair[1]));
        same(&copies[0], &model);
        let held = File::open(copies[0].join("copy.lock")).unwrap();
        held.lock().unwrap();
        fs::remove_file(copies[0].join("config.json")).unwrap();
        let error = near_in(&model, &cache, Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, LocalError::Waited { .. }), "{error}");
    }
}
