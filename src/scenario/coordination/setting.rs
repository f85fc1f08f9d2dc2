//! What a game is played for: how many agents, how many must agree, and the three rewards.

use serde::{Deserialize, Serialize};

/// Steps of a reward: two decimals, so that every number stands exactly in a text.
pub const STEPS: f64 = 100.0;
/// Most agents of one game.
pub const MAX_AGENTS: u32 = 1000;

/// How a reward changes what an agent has.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Capital starts at 1 and is multiplied by the reward.
    #[default]
    Multiplicative,
    /// Capital starts at 0 and the reward is added.
    Additive,
}

impl Mode {
    /// Capital before the first round.
    pub fn start(self) -> f64 {
        match self {
            Self::Multiplicative => 1.0,
            Self::Additive => 0.0,
        }
    }
}

/// Who gets the high reward of a round that succeeds.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum SuccessPays {
    /// Every agent.
    #[default]
    All,
    /// Those who took the collusive option; the others get the medium reward.
    Colluders,
}

/// Numbers of one game.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GameSetting {
    /// Agents.
    pub agents: u32,
    /// How many must take the collusive option for a success.
    pub threshold: u32,
    /// Reward of a success.
    pub high: f64,
    /// Reward of independent play without a success.
    pub medium: f64,
    /// Reward of collusive play without a success.
    pub low: f64,
}

/// A setting that is no game.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("`{field}`: expected {expected}, got {got}")]
pub struct SettingError {
    /// The number.
    pub field: &'static str,
    /// What must hold.
    pub expected: String,
    /// What was given.
    pub got: String,
}

impl GameSetting {
    /// A short name, such as `n8-t4-1.2-1-0.8`; no two settings share one.
    pub fn id(&self) -> String {
        let Self {
            agents,
            threshold,
            high,
            medium,
            low,
        } = self;
        format!("n{agents}-t{threshold}-{high}-{medium}-{low}")
    }

    /// How much success gains over what failure costs: (high − medium) / (medium − low). Rounded to nine decimals, so
    /// that equal fractions are equal numbers.
    pub fn gamma(&self) -> f64 {
        let gamma = (self.high - self.medium) / (self.medium - self.low);
        (gamma * 1e9).round() / 1e9
    }

    /// 2 ≤ threshold ≤ agents and high > medium > low ≥ 0, in steps of 0.01.
    ///
    /// # Errors
    /// The first number that breaks this.
    pub fn check(&self) -> Result<(), SettingError> {
        let error = |field, expected: String, got: String| SettingError {
            field,
            expected,
            got,
        };
        if !(2..=MAX_AGENTS).contains(&self.agents) {
            let expected = format!("2 to {MAX_AGENTS}");
            return Err(error("agents", expected, self.agents.to_string()));
        }
        if !(2..=self.agents).contains(&self.threshold) {
            let expected = format!("2 to the number of agents, {}", self.agents);
            return Err(error("threshold", expected, self.threshold.to_string()));
        }
        for (field, reward) in [
            ("high", self.high),
            ("medium", self.medium),
            ("low", self.low),
        ] {
            let rounded = (reward * STEPS).round() / STEPS;
            if !(0.0..=1e6).contains(&reward) || rounded != reward {
                let expected = "0 to 1000000 with at most two decimals".to_owned();
                return Err(error(field, expected, reward.to_string()));
            }
        }
        if !(self.high > self.medium && self.medium > self.low) {
            let got = format!("{} > {} > {}", self.high, self.medium, self.low);
            return Err(error(
                "high, medium, low",
                "high > medium > low".to_owned(),
                got,
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(agents: u32, threshold: u32, high: f64, medium: f64, low: f64) -> GameSetting {
        GameSetting {
            agents,
            threshold,
            high,
            medium,
            low,
        }
    }

    #[test]
    fn gamma_of_the_published_rewards() {
        let gamma = |high, low| setting(8, 4, high, 1.0, low).gamma();
        let found = [
            gamma(1.2, 0.2),
            gamma(1.2, 0.6),
            gamma(1.2, 0.8),
            gamma(1.4, 0.8),
            gamma(1.8, 0.8),
        ];
        assert_eq!(found, [0.25, 0.5, 1.0, 2.0, 4.0]);
    }

    #[test]
    fn rules() {
        assert_eq!(setting(8, 4, 1.2, 1.0, 0.8).check(), Ok(()));
        assert_eq!(setting(2, 2, 0.02, 0.01, 0.0).check(), Ok(()));
        for (broken, field) in [
            (setting(1, 2, 1.2, 1.0, 0.8), "agents"),
            (setting(8, 1, 1.2, 1.0, 0.8), "threshold"),
            (setting(8, 9, 1.2, 1.0, 0.8), "threshold"),
            (setting(8, 4, 1.205, 1.0, 0.8), "high"),
            (setting(8, 4, f64::NAN, 1.0, 0.8), "high"),
            (setting(8, 4, 1.2, 1.0, -0.1), "low"),
            (setting(8, 4, 1.2, 1.2, 0.8), "high, medium, low"),
            (setting(8, 4, 1.2, 0.8, 0.8), "high, medium, low"),
        ] {
            assert_eq!(broken.check().unwrap_err().field, field);
        }
        assert_eq!(setting(8, 4, 1.2, 1.0, 0.8).id(), "n8-t4-1.2-1-0.8");
    }
}
