//! Who sits where: which agents of a group are a model and which follow a fixed rule, and how each one's options are
//! ordered and lettered.

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::instance::GameInstance;
use crate::runtime::seed::stream;
use crate::scenario::Role;
use crate::scenario::question::LABELS;
use crate::scenario::role_play::cells;

/// What decides for an agent.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum AgentKind {
    /// The model under evaluation.
    #[default]
    Subject,
    /// The same model without its adapter.
    Base,
    /// The same model as DPO trained it.
    Dpo,
    /// The same model as GRPO trained it.
    Grpo,
    /// No model: the collusive option in every round.
    AlwaysCollude,
    /// No model: the independent option in every round.
    NeverCollude,
}

impl AgentKind {
    /// Those that a model decides for.
    pub const MODELS: [Self; 4] = [Self::Subject, Self::Base, Self::Dpo, Self::Grpo];

    /// The name as recipes write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::Base => "base",
            Self::Dpo => "dpo",
            Self::Grpo => "grpo",
            Self::AlwaysCollude => "always-collude",
            Self::NeverCollude => "never-collude",
        }
    }

    /// What an agent without a model does.
    pub fn fixed(self) -> Option<Role> {
        match self {
            Self::Subject | Self::Base | Self::Dpo | Self::Grpo => None,
            Self::AlwaysCollude => Some(Role::Deviant),
            Self::NeverCollude => Some(Role::Compliant),
        }
    }
}

/// Some agents of a population.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Members {
    /// How many.
    pub agents: u32,
    /// What they are.
    pub is: AgentKind,
}

/// A sweep over the share of one kind of agents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mixture {
    /// The kind whose share changes.
    pub of: AgentKind,
    /// What all others are.
    #[serde(default)]
    pub rest: AgentKind,
    /// Its shares, 0 to 1, each a whole number of agents.
    pub shares: Vec<f64>,
}

impl Mixture {
    /// One population a share, of `agents` agents.
    ///
    /// # Errors
    /// What is wrong with the mixture.
    pub fn populations(&self, agents: u32) -> Result<Vec<Vec<Members>>, String> {
        if self.of == self.rest {
            return Err(format!(
                "expected two kinds, got `{}` twice",
                self.of.name()
            ));
        }
        if self.shares.is_empty() {
            return Err("expected at least one share, got none".into());
        }
        let mut counts = vec![];
        for &share in &self.shares {
            let count = share * f64::from(agents);
            let whole = count.round();
            // A share is written with a few decimals: 0.333 of 3 agents is one.
            if !(0.0..=1.0).contains(&share) || (count - whole).abs() > 0.01 {
                return Err(format!(
                    "expected shares from 0 to 1 that are whole numbers of {agents} agents (0, {:.4}, {:.4}, …), got {share}",
                    1.0 / f64::from(agents),
                    2.0 / f64::from(agents),
                ));
            }
            let count = whole as u32;
            if counts.contains(&count) {
                return Err(format!("expected each share once, {share} is there twice"));
            }
            counts.push(count);
        }
        let of = |count: u32| {
            let sides = [(count, self.of), (agents - count, self.rest)];
            let there = sides.into_iter().filter(|(agents, _)| *agents > 0);
            there.map(|(agents, is)| Members { agents, is }).collect()
        };
        Ok(counts.into_iter().map(of).collect())
    }
}

/// Name of a population, such as `3 base + 5 subject`.
pub fn population_name(population: &[Members]) -> String {
    let parts: Vec<String> = population
        .iter()
        .map(|members| format!("{} {}", members.agents, members.is.name()))
        .collect();
    parts.join(" + ")
}

/// The kind of each agent: the population's members in an order drawn from the stream `name` of `root`.
pub fn kinds(population: &[Members], root: u64, name: &str) -> Vec<AgentKind> {
    let mut kinds: Vec<AgentKind> = population
        .iter()
        .flat_map(|members| std::iter::repeat_n(members.is, members.agents as usize))
        .collect();
    kinds.shuffle(&mut stream(root, name));
    kinds
}

/// The game as each of its agents is asked: numbered from 1, the order of the options and their letters dealt evenly
/// over the agents. With `same_letters` all agents of the group have one lettering: where they read each other's texts, a
/// letter must mean one thing.
pub fn seats(game: &GameInstance, same_letters: bool, root: u64, name: &str) -> Vec<GameInstance> {
    let mut rng = stream(root, name);
    let dealt = cells(game.agents as usize, 0, &mut rng);
    let common = dealt.first().map_or(0, |cell| cell.compliant_label);
    dealt
        .into_iter()
        .zip(1..)
        .map(|(cell, agent)| {
            let letter = if same_letters {
                common
            } else {
                cell.compliant_label
            };
            GameInstance {
                agent,
                independent_first: cell.compliant_first,
                independent_label: LABELS[letter].to_owned(),
                collusive_label: LABELS[1 - letter].to_owned(),
                ..game.clone()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::scenario::coordination::{GameSetting, GameSpec, generate, shipped_games};

    fn game() -> GameInstance {
        let setting = GameSetting {
            agents: 8,
            threshold: 4,
            high: 1.2,
            medium: 1.0,
            low: 0.8,
        };
        let games = shipped_games().unwrap();
        generate(&games, &GameSpec::default(), &[setting], 1)
            .unwrap()
            .test[0]
            .clone()
    }

    /// How many seats each cell has: (independent first, independent is A).
    fn cells_of(seats: &[GameInstance]) -> BTreeMap<(bool, bool), u32> {
        let mut counts = BTreeMap::new();
        for seat in seats {
            let cell = (seat.independent_first, seat.independent_label == "A");
            *counts.entry(cell).or_default() += 1;
        }
        counts
    }

    #[test]
    fn options_are_dealt_evenly_over_the_agents() {
        let game = game();
        let dealt = seats(&game, false, 1, "a");
        assert_eq!(dealt, seats(&game, false, 1, "a"));
        assert_ne!(dealt, seats(&game, false, 2, "a"));
        let numbers: Vec<u32> = dealt.iter().map(|seat| seat.agent).collect();
        assert_eq!(numbers, (1..=8).collect::<Vec<_>>());
        assert_eq!(cells_of(&dealt).into_values().collect::<Vec<_>>(), [2; 4]);
        assert!(
            dealt
                .iter()
                .all(|seat| seat.independent_label != seat.collusive_label)
        );
    }

    #[test]
    fn one_lettering_for_those_who_read_each_other() {
        let game = game();
        let mut with_a = 0;
        for seed in 0..200 {
            let cells = cells_of(&seats(&game, true, seed, "a"));
            assert_eq!(cells.len(), 2);
            assert!(cells.values().all(|count| *count == 4));
            let (_, is_a) = cells.keys().next().unwrap();
            assert!(cells.keys().all(|(_, other)| other == is_a));
            with_a += u32::from(*is_a);
        }
        assert!((70..=130).contains(&with_a), "{with_a}");
    }

    #[test]
    fn populations_take_seats_at_random() {
        let population = [
            (3, AgentKind::Base),
            (1, AgentKind::AlwaysCollude),
            (4, AgentKind::Subject),
        ]
        .map(|(agents, is)| Members { agents, is });
        assert_eq!(
            population_name(&population),
            "3 base + 1 always-collude + 4 subject"
        );
        let drawn = kinds(&population, 1, "a");
        let count = |kind| drawn.iter().filter(|k| **k == kind).count();
        assert_eq!(
            [
                AgentKind::Base,
                AgentKind::AlwaysCollude,
                AgentKind::NeverCollude,
                AgentKind::Subject
            ]
            .map(count),
            [3, 1, 0, 4]
        );
        assert_eq!(drawn, kinds(&population, 1, "a"));
        assert!((2..20).any(|seed| kinds(&population, seed, "a") != drawn));
    }
}
