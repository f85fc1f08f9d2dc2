//! (to come)

pub mod table;
