//! Self-evolution rounds and what is counted in them.

pub mod coordination;
pub mod coordination_row;
pub mod coordination_summary;
pub mod inspect;
pub mod replay;
pub mod rounds;
pub mod row;
pub mod statistics;
pub mod summary;
pub mod tool_row;
pub mod tool_summary;
pub mod tool_use;
