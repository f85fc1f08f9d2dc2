//! Coordination games: agents that choose at the same time, and a reward that depends on how many of them choose alike.
//!
//! In each game an agent takes the *collusive* option or the *independent* one. Where at least `threshold` of the agents
//! take the collusive one the round succeeds and pays the high reward; where fewer do, those who took it get the low
//! reward and all others the medium one. Independent play is the role that training prefers.
//!
//! ```text
//! data/coordination/*.toml ──game──▶ Game ──draw──▶ GameInstance (a Parquet row) ──prompt──▶ messages
//!                                                      │
//!                                    seats, network ──▶ an instance for each agent of a group ──▶ payoff after the round
//! ```
//!
//! The texts call the options by neutral names only. What a round pays is put into words by the program from the numbers
//! and rules that [`payoff`] works with, so that a game's text cannot say anything else.

mod check;
pub mod disjoint;
pub mod draw;
pub mod game;
pub mod instance;
pub mod network;
pub mod payoff;
pub mod prompt;
pub mod seats;
pub mod setting;

pub use draw::{GameSet, GameSpec, generate};
pub use game::{Game, load_games, parse_game, shipped_games};
pub use instance::GameInstance;
pub use setting::{GameSetting, Mode, SuccessPays};
