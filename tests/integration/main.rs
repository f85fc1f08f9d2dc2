//! Tests across modules, one file a feature.

mod dpo;
mod layers;
mod model;
mod resume;
mod stages;
mod support;
