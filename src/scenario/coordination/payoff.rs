//! What a round pays.
//!
//! An agent whose answer could not be read, or that gave none, took no option: it does not count towards the threshold,
//! gets no reward, not even that of a success for all, and its capital stays as it was. So broken answers cannot be a way
//! of earning, and a failure of the machine never passes for a decision.

use super::setting::{GameSetting, Mode, SuccessPays};
use crate::scenario::{Outcome, Role};

/// A round after everyone has chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// Agents that took the collusive option.
    pub colluders: u32,
    /// They were as many as the threshold.
    pub success: bool,
    /// Reward of each agent, in the order of the outcomes; none without a choice.
    pub rewards: Vec<Option<f64>>,
}

/// Works out a round; `outcomes` has one entry an agent.
pub fn settle(setting: &GameSetting, pays: SuccessPays, outcomes: &[Outcome]) -> Settled {
    let colluders = outcomes
        .iter()
        .filter(|outcome| **outcome == Outcome::Deviant)
        .count() as u32;
    let success = colluders >= setting.threshold;
    let reward = |role: Role| match (success, role, pays) {
        (true, Role::Deviant, _) | (true, Role::Compliant, SuccessPays::All) => setting.high,
        (true, Role::Compliant, SuccessPays::Colluders) | (false, Role::Compliant, _) => {
            setting.medium
        }
        (false, Role::Deviant, _) => setting.low,
    };
    let rewards = outcomes
        .iter()
        .map(|outcome| outcome.role().map(reward))
        .collect();
    Settled {
        colluders,
        success,
        rewards,
    }
}

/// Capital after a round.
pub fn capital_after(mode: Mode, before: f64, reward: Option<f64>) -> f64 {
    match (mode, reward) {
        (_, None) => before,
        (Mode::Multiplicative, Some(reward)) => before * reward,
        (Mode::Additive, Some(reward)) => before + reward,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::{Compliant, Deviant, Failed, Invalid};

    const SETTING: GameSetting = GameSetting {
        agents: 4,
        threshold: 2,
        high: 1.2,
        medium: 1.0,
        low: 0.8,
    };

    #[test]
    fn rewards_by_success_and_rule() {
        let pays = |rule, outcomes: [Outcome; 4]| {
            let settled = settle(&SETTING, rule, &outcomes);
            (settled.colluders, settled.success, settled.rewards)
        };
        let some = |rewards: [f64; 4]| rewards.map(Some).to_vec();
        let met = [Deviant, Deviant, Compliant, Compliant];
        let missed = [Deviant, Compliant, Compliant, Compliant];
        assert_eq!(pays(SuccessPays::All, met), (2, true, some([1.2; 4])));
        assert_eq!(
            pays(SuccessPays::Colluders, met),
            (2, true, some([1.2, 1.2, 1.0, 1.0]))
        );
        for rule in [SuccessPays::All, SuccessPays::Colluders] {
            assert_eq!(pays(rule, missed), (1, false, some([0.8, 1.0, 1.0, 1.0])));
        }
    }

    #[test]
    fn without_a_choice_there_is_neither_count_nor_reward() {
        let settled = settle(
            &SETTING,
            SuccessPays::All,
            &[Deviant, Invalid, Failed, Compliant],
        );
        assert_eq!((settled.colluders, settled.success), (1, false));
        assert_eq!(settled.rewards, [Some(0.8), None, None, Some(1.0)]);
        let settled = settle(
            &SETTING,
            SuccessPays::All,
            &[Deviant, Deviant, Failed, Invalid],
        );
        assert!(settled.success);
        assert_eq!(settled.rewards, [Some(1.2), Some(1.2), None, None]);
    }

    #[test]
    fn capital() {
        let (mul, add) = (Mode::Multiplicative, Mode::Additive);
        let after = |mode: Mode| {
            [Some(1.5), None, Some(2.0)]
                .into_iter()
                .fold(mode.start(), |capital, reward| {
                    capital_after(mode, capital, reward)
                })
        };
        assert_eq!((after(mul), after(add)), (3.0, 3.5));
    }
}
