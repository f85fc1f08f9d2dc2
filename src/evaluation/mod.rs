//! Self-evolution rounds and what is counted in them.

pub mod coordination;
pub mod coordination_row;
pub mod coordination_summary;
pub mod inspect;
pub mod rounds;
pub mod row;
pub mod statistics;
pub mod summary;
