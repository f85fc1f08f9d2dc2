//! What every layer stands on: seeded random streams, devices, signals and progress lines.

pub mod device;
pub mod embedded;
pub mod interrupt;
pub mod progress;
pub mod seed;
