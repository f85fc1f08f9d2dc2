//! Self-evolution rounds and what is counted in them.

pub mod row;
pub mod statistics;
pub mod summary;
