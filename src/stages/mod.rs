//! The pipeline: an ordered list of stages, each a step from files to files, of which only the changed ones run.
//!
//! ```text
//! RUN/run.lock                         one writer
//! RUN/stages/<name>-<12 hex of key>/   one folder for each key a stage ever had: its outputs and
//!     manifest.json                    … written last: the stage is finished
//!     started.json, checkpoints/       … only while it is not
//! RUN/latest/<name>                    link to the folder that the last run used
//! ```
//!
//! A key is made of the stage's own configuration, its model, its seed, its format version and the *digests* of its
//! inputs. Two things follow. A stage whose inputs were made again but came out the same stays a hit; and since each
//! key has its own folder, going back to an earlier value of the recipe is a hit, too. The links are for people and
//! for the next run's "what changed"; that a stage is done is read from its folder alone.

pub mod bodies;
pub mod evaluations;
mod key;
mod layout;
mod plan;
mod reason;
mod runner;
pub mod slurm;
mod stage;
mod status;
mod summary;
mod together;

pub use key::{StageKey, canonical_json};
pub use plan::{PlanError, select};
pub use reason::Reason;
pub use runner::{Outcome, Run, RunOptions, is_interrupt, run};
pub use stage::{Input, Source, Stage, StageContext, Work};
pub use status::{Progress, StageStatus, Status, is_begun, no_stages, status};
pub use summary::{Needs, RunSummary, StageReport, State};
