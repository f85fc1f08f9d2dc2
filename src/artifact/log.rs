//! A metrics file, one JSON object a line, that a resumed stage cuts back to what its checkpoint saw.
//!
//! A checkpoint stores the position that [`MetricsLog::sync`] returns. After a kill the file may hold lines of steps
//! that will be done again; opening it at the stored position removes them, so that no step stands in it twice.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::ArtifactError;

/// An open metrics file.
#[derive(Debug)]
pub struct MetricsLog {
    writer: BufWriter<File>,
    path: PathBuf,
    position: u64,
}

impl MetricsLog {
    /// Open `path`, creating it if need be, and cut it to its first `resume_at` bytes (0 to begin anew).
    ///
    /// A file shorter than that, or one that does not end a line there, is an error: it is not the one that the
    /// checkpoint saw.
    pub fn open(path: &Path, resume_at: u64) -> Result<Self, ArtifactError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(ArtifactError::io("open", path))?;
        if resume_at > 0 {
            let size = file
                .metadata()
                .map_err(ArtifactError::io("examine", path))?
                .len();
            if size < resume_at {
                let reason = format!("expected at least {resume_at} bytes, got {size}");
                return Err(ArtifactError::damaged(path, reason));
            }
            let mut last = [0];
            file.seek(SeekFrom::Start(resume_at - 1))
                .and_then(|_| file.read_exact(&mut last))
                .map_err(ArtifactError::io("read", path))?;
            if last != [b'\n'] {
                let reason = format!("expected a line to end at byte {resume_at}");
                return Err(ArtifactError::damaged(path, reason));
            }
        }
        file.set_len(resume_at)
            .and_then(|()| file.seek(SeekFrom::Start(resume_at)))
            .map_err(ArtifactError::io("cut", path))?;
        Ok(Self {
            writer: BufWriter::new(file),
            path: path.to_path_buf(),
            position: resume_at,
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

    /// Make all lines durable and return the position to store in a checkpoint.
    pub fn sync(&mut self) -> Result<u64, ArtifactError> {
        self.flush()?;
        self.writer
            .get_ref()
            .sync_data()
            .map_err(ArtifactError::io("sync", &self.path))?;
        Ok(self.position)
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
        let mut log = MetricsLog::open(&path, 0).unwrap();
        log.append(&line(1)).unwrap();
        let saved = log.sync().unwrap();
        log.append(&line(2)).unwrap();
        log.writer.write_all(b"{\"step\": 3, \"lo").unwrap();
        drop(log);
        let mut log = MetricsLog::open(&path, saved).unwrap();
        assert_eq!(log.position(), saved);
        log.append(&line(2)).unwrap();
        log.flush().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "{\"step\":1,\"loss\":0.5}\n{\"step\":2,\"loss\":0.5}\n"
        );
        assert_eq!(log.position(), text.len() as u64);
        MetricsLog::open(&path, 0).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    }

    #[test]
    fn a_log_that_the_checkpoint_did_not_see_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, "{}\n{}\n").unwrap();
        assert!(MetricsLog::open(&path, 4).is_err(), "inside a line");
        let error = MetricsLog::open(&path, 60).unwrap_err().to_string();
        assert!(
            error.contains("metrics.jsonl") && error.contains("got 6"),
            "{error}"
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{}\n{}\n");
    }
}
