//! The tool-usage testbed without the tool: problems with verified answers, prompts, calls in a model's text, and the
//! answer it ends on.
//!
//! ```text
//! families ──generate──▶ Problem ──prompt──▶ messages ──(model)──▶ text ──call──▶ programs to run, results put in
//!                           │                                       └────answer──▶ number, compared with the answer
//!                           └──solution──▶ a tool-assisted solution to prefer
//! ```

pub mod answer;
pub mod call;
mod criteria;
mod disjointness;
mod families;
mod generate;
mod notation;
pub mod number;
pub mod problem;
pub mod prompt;
pub mod solution;

pub use criteria::{Topic, simple_criteria, topic};
pub(crate) use disjointness::Phrasings;
pub use disjointness::{
    NEAR_GENERATED, NEAR_IMPORTED, ProblemDisjointness, ProblemOverlap, check_disjoint,
};
pub use generate::{ProblemError, ProblemSet, ProblemSpec, generate, split_of};
pub use number::Numeric;
pub(crate) use problem::problem_id;
pub use problem::{Difficulty, Problem, Source};
