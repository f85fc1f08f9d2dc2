//! All integration tests, one target: a file a feature.

mod dpo;
mod model;
mod support;
mod tmpbench;
