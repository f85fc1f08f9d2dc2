//! Tests across modules, one file a feature.

mod layers;
mod resume;
mod stages;
