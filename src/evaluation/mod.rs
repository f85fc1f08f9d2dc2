//! Self-evolution rounds and what is counted in them.

pub mod inspect;
pub mod rounds;
pub mod row;
pub mod statistics;
pub mod summary;
