//! Self-evolution rounds and what is counted in them.

pub mod bias;
pub mod comparisons;
pub mod coordination;
pub mod coordination_row;
pub mod coordination_summary;
pub mod defence_summary;
pub mod inspect;
pub mod inspect_ai;
pub mod observation;
pub mod replay;
pub mod rounds;
pub mod row;
pub mod statistics;
pub mod summary;
pub mod tipping;
pub mod tool_row;
pub mod tool_summary;
pub mod tool_use;
pub mod weights;
