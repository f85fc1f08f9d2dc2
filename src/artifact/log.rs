//! A metrics file, one JSON object a line, that a resumed stage cuts back to what its checkpoint saw.
//!
//! A checkpoint stores the [`LogMark`] that [`MetricsLog::sync`] returns: length and digest. After a kill the file may
//! hold lines of steps that will be done again; opening it at the stored mark removes them, so that no step stands in it
//! twice. What lies before the mark must be what the checkpoint saw, byte for byte.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ArtifactError;
use super::digest::{Digest, Hasher};

/// How much of a log a checkpoint saw; the default is the empty beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogMark {
    /// Bytes from the beginning.
    pub bytes: u64,
    /// SHA-256 of these.
    pub digest: Digest,
}

impl Default for LogMark {
    fn default() -> Self {
        Self {
            bytes: 0,
            digest: Hasher::default().digest(),
        }
    }
}

impl LogMark {
    /// Whether the log at `path` begins with what this mark saw.
    pub fn check(&self, path: &Path) -> Result<(), ArtifactError> {
        if self.bytes == 0 {
            return Ok(());
        }
        let file = File::open(path).map_err(ArtifactError::io("open", path))?;
        self.hash(&file, path).map(|_| ())
    }

    /// Read the marked part of a log; the hash stands at its end.
    fn hash(&self, mut file: &File, path: &Path) -> Result<Hasher, ArtifactError> {
        let mut hasher = Hasher::default();
        let mut piece = vec![0; 1 << 16];
        let mut left = self.bytes;
        file.rewind().map_err(ArtifactError::io("read", path))?;
        while left > 0 {
            let wanted = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match file.read(&mut piece[..wanted]) {
                Ok(0) => {
                    let (expected, got) = (self.bytes, self.bytes - left);
                    let reason = format!("expected at least {expected} bytes, got {got}");
                    return Err(ArtifactError::damaged(path, reason));
                }
                Ok(read) => {
                    hasher.update(&piece[..read]);
                    left -= read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ArtifactError::io("read", path)(error)),
            }
        }
        let got = hasher.digest();
        if got != self.digest {
            let (bytes, expected) = (self.bytes, self.digest);
            let reason = format!(
                "expected SHA-256 {}… of its first {bytes} bytes, got {}…",
                expected.short(),
                got.short()
            );
            return Err(ArtifactError::damaged(path, reason));
        }
        Ok(hasher)
    }
}

/// An open metrics file.
#[derive(Debug)]
pub struct MetricsLog {
    writer: BufWriter<File>,
    path: PathBuf,
    position: u64,
    hasher: Hasher,
}

impl MetricsLog {
    /// Open `path`, creating it if need be, and cut it to what `mark` saw (the default to begin anew).
    ///
    /// A file that does not begin with what the mark saw is an error, and is left as it is.
    pub fn open(path: &Path, mark: &LogMark) -> Result<Self, ArtifactError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(ArtifactError::io("open", path))?;
        let hasher = mark.hash(&file, path)?;
        file.set_len(mark.bytes)
            .and_then(|()| file.seek(SeekFrom::Start(mark.bytes)))
            .map_err(ArtifactError::io("cut", path))?;
        Ok(Self {
            writer: BufWriter::new(file),
            path: path.to_path_buf(),
            position: mark.bytes,
            hasher,
        })
    }

    /// Add one line. A float that is no number becomes `null`.
    pub fn append(&mut self, record: &impl Serialize) -> Result<(), ArtifactError> {
        let mut line = serde_json::to_vec(record)
            .map_err(|error| ArtifactError::io("encode a line for", &self.path)(error.into()))?;
        line.push(b'\n');
        self.writer
            .write_all(&line)
            .map_err(ArtifactError::io("write", &self.path))?;
        self.hasher.update(&line);
        self.position += line.len() as u64;
        Ok(())
    }

    /// Bytes up to the end of the last line, written out or not.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Hand all lines to the system, for someone who follows the file.
    pub fn flush(&mut self) -> Result<(), ArtifactError> {
        self.writer
            .flush()
            .map_err(ArtifactError::io("write", &self.path))
    }

    /// Make all lines durable and return the mark to store in a checkpoint.
    pub fn sync(&mut self) -> Result<LogMark, ArtifactError> {
        self.flush()?;
        self.writer
            .get_ref()
            .sync_data()
            .map_err(ArtifactError::io("sync", &self.path))?;
        Ok(LogMark {
            bytes: self.position,
            digest: self.hasher.digest(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Line {
        step: u64,
        loss: f64,
    }

    fn line(step: u64) -> Line {
        let loss = 0.5;
        Line { step, loss }
    }

    #[test]
    fn a_resumed_log_equals_an_uninterrupted_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut log = MetricsLog::open(&path, &LogMark::default()).unwrap();
        log.append(&line(1)).unwrap();
        let saved = log.sync().unwrap();
        log.append(&line(2)).unwrap();
        log.writer.write_all(b"{\"step\": 3, \"lo").unwrap();
        drop(log);
        let mut log = MetricsLog::open(&path, &saved).unwrap();
        assert_eq!(log.position(), saved.bytes);
        log.append(&line(2)).unwrap();
        log.flush().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "{\"step\":1,\"loss\":0.5}\n{\"step\":2,\"loss\":0.5}\n"
        );
        assert_eq!(log.position(), text.len() as u64);
        MetricsLog::open(&path, &LogMark::default()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    }

    #[test]
    fn a_log_that_the_checkpoint_did_not_see_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut log = MetricsLog::open(&path, &LogMark::default()).unwrap();
        log.append(&line(1)).unwrap();
        log.append(&line(2)).unwrap();
        let mark = log.sync().unwrap();
        drop(log);
        mark.check(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[9] ^= 1;
        for (damaged, said) in [
            (&whole[..6], "got 6"),
            (&flipped[..], "SHA-256"),
            (&[], "got 0"),
        ] {
            std::fs::write(&path, damaged).unwrap();
            assert!(mark.check(&path).is_err());
            let error = MetricsLog::open(&path, &mark).unwrap_err().to_string();
            assert!(
                error.contains("metrics.jsonl") && error.contains(said),
                "{error}"
            );
            assert_eq!(std::fs::read(&path).unwrap(), damaged, "left as it is");
        }
    }

    #[test]
    fn a_mark_after_a_resumption_is_that_of_an_uninterrupted_log() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| folder.path().join(name));
        let marks = paths.map(|path| {
            let mut log = MetricsLog::open(&path, &LogMark::default()).unwrap();
            log.append(&line(1)).unwrap();
            if path.ends_with("b") {
                let mark = log.sync().unwrap();
                log = MetricsLog::open(&path, &mark).unwrap();
            }
            log.append(&line(2)).unwrap();
            log.sync().unwrap()
        });
        assert_eq!(marks[0], marks[1]);
    }
}
