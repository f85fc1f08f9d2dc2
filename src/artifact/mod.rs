//! What a run leaves on disk, and how it is kept whole.
//!
//! | file | what it guarantees |
//! |---|---|
//! | `file` | a file is either its old or its new content, never half of one |
//! | `digest` | SHA-256 of bytes and files |
//! | `manifest` | a stage is done, and its outputs are what they were when it ended |
//! | `checkpoint` | a stage can go on where it stopped; a damaged checkpoint is never loaded |
//! | `log` | a metrics file can be cut back to what a checkpoint saw |
//! | `lock` | one run directory has one writer |

pub mod checkpoint;
pub mod digest;
mod error;
pub mod file;
pub mod lock;
pub mod log;
pub mod manifest;
pub mod table;
pub mod time;

pub use checkpoint::{Checkpoint, Checkpoints};
pub use digest::{Digest, digest_bytes, digest_file};
pub use error::{ArtifactError, free_space};
pub use file::{remove_stale_temporaries, write_atomic, write_atomic_with};
pub use lock::RunLock;
pub use log::{LogMark, MetricsLog};
pub use manifest::{Damage, Manifest};
