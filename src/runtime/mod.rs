//! What every layer stands on: seeded random streams, devices, signals, messages, HTTP, progress lines, and the ranks of a run.

pub mod adamw;
pub mod budget;
pub mod deps;
pub mod device;
pub mod embedded;
pub mod flash;
pub mod gpu;
pub mod guard;
pub mod http;
pub mod interrupt;
pub mod memory;
pub mod message;
mod native;
pub mod progress;
pub mod ranks;
pub mod seed;
pub mod team;
