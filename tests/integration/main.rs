//! All integration tests, one target: a file a feature.

mod model;
mod support;
