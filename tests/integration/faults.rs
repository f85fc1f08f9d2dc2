//! Faults of the world around a run: kills at every write, full and read-only disks, damaged files, moved folders, clocks
//! that go back, two processes at once. Whatever happens, nothing half-written is taken for whole, what went wrong is
//! said, and the run that is gone on with ends with the bytes of one that nothing happened to.
//!
//! All on the program itself, with a model of two layers and random weights, so that a whole run takes about a second.

mod damage;
pub mod disk;
mod kills;
mod places;
mod room;
