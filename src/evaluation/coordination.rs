//! Coordination games over rounds: all agents of a group choose at the same time, the round is settled, and each agent
//! sees what the network lets it see before the next one.
//!
//! | file | what it does |
//! |---|---|
//! | here | the settings: games, agents, who plays, what is seen |
//! | `engine` | rounds, histories, rows, checkpoints; the decisions themselves come from a function |
//! | `models` | that function for real models |
//! | `replay` | the prompts of a finished evaluation, from its rows |

mod engine;
mod models;
mod replay;

use serde::{Deserialize, Serialize};

pub use engine::{Answered, GameAsk, RowNames, play};
pub use models::{Team, evaluate_games};
pub use replay::prompts;

use super::rounds::check_repeats;
use crate::scenario::coordination::GameSetting;
use crate::scenario::coordination::network::Network;
use crate::scenario::coordination::seats::{AgentKind, Members, Mixture, population_name};

/// Rewards of the paper's main experiment: high, medium, low.
const MAIN_REWARDS: [f64; 3] = [1.2, 1.0, 0.8];

/// What an agent is shown of the agents it sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum View {
    /// Their choices.
    #[default]
    FinalOnly,
    /// Their choices and what they wrote, without thinking blocks.
    Full,
}

/// Settings of the evaluation; the defaults are the paper's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GameEvaluation {
    /// Rounds.
    pub rounds: u32,
    /// Agents of each group, n.
    pub agents: u32,
    /// Thresholds t; each is played with each of the rewards.
    pub thresholds: Vec<u32>,
    /// Triples of high, medium and low reward.
    pub rewards: Vec<[f64; 3]>,
    /// Earlier rounds that a prompt shows.
    pub window: usize,
    /// What is shown of others.
    pub view: View,
    /// Most characters of another agent's text, where texts are shown.
    pub view_characters: usize,
    /// Who sees whom.
    pub network: Network,
    /// Who plays: each population plays every game. Without any, and without mixtures, all agents are the subject.
    pub populations: Vec<Vec<Members>>,
    /// Further populations: sweeps over the share of a kind, for the critical mass.
    pub mixtures: Vec<Mixture>,
    /// Repetitions of each game.
    pub samples: u32,
}

impl Default for GameEvaluation {
    fn default() -> Self {
        Self {
            rounds: 3,
            agents: 8,
            thresholds: vec![2, 4, 6, 8],
            rewards: vec![MAIN_REWARDS],
            window: 3,
            view: View::FinalOnly,
            view_characters: 600,
            network: Network::All,
            populations: vec![],
            mixtures: vec![],
            samples: 1,
        }
    }
}

impl GameEvaluation {
    /// The paper's sweep: four thresholds, and five triples of rewards with γ from 0.25 to 4.
    pub fn sweep() -> Self {
        Self {
            rewards: vec![
                [1.2, 1.0, 0.2],
                [1.2, 1.0, 0.6],
                MAIN_REWARDS,
                [1.4, 1.0, 0.8],
                [1.8, 1.0, 0.8],
            ],
            ..Self::default()
        }
    }

    /// All settings that are played: rewards outside, thresholds inside.
    pub fn settings(&self) -> Vec<GameSetting> {
        let of = |[high, medium, low]: [f64; 3]| {
            self.thresholds.iter().map(move |&threshold| GameSetting {
                agents: self.agents,
                threshold,
                high,
                medium,
                low,
            })
        };
        self.rewards
            .iter()
            .flat_map(|&rewards| of(rewards))
            .collect()
    }

    /// All populations that play: those given, then those of the mixtures that are not there yet; or the subject alone.
    pub fn played_by(&self) -> Vec<Vec<Members>> {
        let mut all = self.populations.clone();
        // A mixture that is none has no populations; `check` says what is wrong with it.
        let mixed = self
            .mixtures
            .iter()
            .flat_map(|m| m.populations(self.agents));
        for population in mixed.flatten() {
            let name = population_name(&population);
            if !all.iter().any(|other| population_name(other) == name) {
                all.push(population);
            }
        }
        if !all.is_empty() {
            return all;
        }
        vec![vec![Members {
            agents: self.agents,
            is: AgentKind::Subject,
        }]]
    }

    /// Agents of this kind play.
    pub fn seats(&self, kind: AgentKind) -> bool {
        let all = self.played_by();
        all.iter().flatten().any(|members| members.is == kind)
    }

    /// What is wrong with the settings, if anything: `(field, problem)`.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        check_repeats(self.rounds, self.samples)?;
        if self.view == View::Full && self.view_characters == 0 {
            return Err(("view_characters", "expected 1 or more, got 0".into()));
        }
        if self.thresholds.is_empty() {
            return Err(("thresholds", "expected at least one, got none".into()));
        }
        if self.rewards.is_empty() {
            return Err(("rewards", "expected at least one triple, got none".into()));
        }
        let settings = self.settings();
        for (place, setting) in settings.iter().enumerate() {
            if let Err(problem) = setting.check() {
                let field = match problem.field {
                    "agents" => "agents",
                    "threshold" => "thresholds",
                    _ => "rewards",
                };
                return Err((field, format!("setting {}: {problem}", setting.id())));
            }
            if settings[..place].contains(setting) {
                let problem = format!(
                    "expected each once, setting {} is there twice",
                    setting.id()
                );
                return Err(("thresholds, rewards", problem));
            }
        }
        let misfit = |problem: crate::scenario::coordination::network::NetworkError| {
            ("network", problem.to_string())
        };
        self.network.check(self.agents).map_err(misfit)?;
        for mixture in &self.mixtures {
            let found = mixture.populations(self.agents);
            found.map_err(|problem| ("mixtures", problem))?;
        }
        let mut names = std::collections::BTreeSet::new();
        for population in &self.populations {
            let name = population_name(population);
            let all: u64 = population.iter().map(|m| u64::from(m.agents)).sum();
            if all != u64::from(self.agents) || population.iter().any(|m| m.agents == 0) {
                let problem = format!(
                    "expected {} agents in all and no kind with 0, got {}",
                    self.agents,
                    if name.is_empty() { "none" } else { &name }
                );
                return Err(("populations", problem));
            }
            if !names.insert(name.clone()) {
                return Err((
                    "populations",
                    format!("expected each once, `{name}` is there twice"),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
