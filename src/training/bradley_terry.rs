//! Bradley–Terry strengths from pairwise preferences, for rewards that come from comparing the answers of a group.
//!
//! Model (Bradley & Terry 1952): i beats j with probability σ(λᵢ − λⱼ). The estimate maximises the log-likelihood of the
//! observed wins plus a weak prior: every item also met a virtual opponent of strength λ = 0, with `prior` wins and as
//! many losses. That keeps an item that won everything finite, and ties what the comparisons do not connect. The
//! maximum is found by the MM algorithm (Hunter 2004, Annals of Statistics 32): γᵢ = e^λᵢ,
//!
//! γᵢ ← Wᵢ / Σⱼ nᵢⱼ / (γᵢ + γⱼ), Wᵢ the wins of i, nᵢⱼ the comparisons of i and j, a tie half a win for both;
//!
//! it increases the objective in every step and has no step size. Done once no derivative of the objective, Wᵢ −
//! Σⱼ nᵢⱼ σ(λᵢ − λⱼ), exceeds 1e-10; the sums have a fixed order, so equal input gives equal bits.

use serde::{Deserialize, Serialize};

/// Largest derivative that counts as none.
const TOLERANCE: f64 = 1e-10;
/// Groups of ten take some hundred steps.
const MOST_STEPS: usize = 200_000;

/// How often each item beat each other one; a tie is half a win for both.
#[derive(Debug, Clone, PartialEq)]
pub struct Wins {
    items: usize,
    /// Row-major: wins of the row over the column.
    counts: Vec<f64>,
}

/// Preferences that have no Bradley–Terry estimate.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BradleyTerryError {
    /// The prior is no weight.
    #[error("the prior of Bradley–Terry strengths: expected a number 0 or more, got {0}")]
    Prior(f64),
    /// Some items never lost to, or never met, the others: without a prior their strength is infinite or arbitrary.
    #[error(
        "item {item} and item 0 are not connected by wins both ways, so their strengths are not finite; \
         use a prior above 0"
    )]
    Unconnected {
        /// One of the items, from 0.
        item: usize,
    },
    /// The iteration did not arrive.
    #[error(
        "Bradley–Terry strengths were still {residual:e} from the maximum after {MOST_STEPS} steps; use a larger prior"
    )]
    NotConverged {
        /// The largest derivative left.
        residual: f64,
    },
}

impl Wins {
    /// No comparisons yet.
    pub fn new(items: usize) -> Self {
        Self {
            items,
            counts: vec![0.0; items * items],
        }
    }

    /// Number of items.
    pub fn items(&self) -> usize {
        self.items
    }

    /// Wins of `a` over `b`.
    pub fn of(&self, a: usize, b: usize) -> f64 {
        self.counts[a * self.items + b]
    }

    /// `winner` beat `loser` this many times. Comparing an item with itself says nothing and is left out.
    pub fn add(&mut self, winner: usize, loser: usize, times: f64) {
        if winner != loser {
            self.counts[winner * self.items + loser] += times;
        }
    }

    /// `a` and `b` were equal.
    pub fn tie(&mut self, a: usize, b: usize) {
        self.add(a, b, 0.5);
        self.add(b, a, 0.5);
    }

    /// Items that can be reached from item 0 along wins (`forward`) or along losses.
    fn reached(&self, forward: bool) -> Vec<bool> {
        let mut seen = vec![false; self.items];
        let mut open = vec![0];
        seen[0] = true;
        while let Some(from) = open.pop() {
            for (to, seen) in seen.iter_mut().enumerate() {
                let wins = if forward {
                    self.of(from, to)
                } else {
                    self.of(to, from)
                };
                if wins > 0.0 && !*seen {
                    *seen = true;
                    open.push(to);
                }
            }
        }
        seen
    }

    /// Log-strengths λ with mean 0, one an item.
    ///
    /// `prior` is the number of wins, and of losses, against the virtual opponent; 0 is maximum likelihood, which exists
    /// only where wins lead from every item to every other one.
    pub fn log_strengths(&self, prior: f64) -> Result<Vec<f64>, BradleyTerryError> {
        if !prior.is_finite() || prior < 0.0 {
            return Err(BradleyTerryError::Prior(prior));
        }
        if self.items == 0 {
            return Ok(vec![]);
        }
        if prior == 0.0 {
            let (forward, backward) = (self.reached(true), self.reached(false));
            let missed = (0..self.items).find(|&i| !(forward[i] && backward[i]));
            if let Some(item) = missed {
                return Err(BradleyTerryError::Unconnected { item });
            }
        }
        let mut strengths = vec![1.0; self.items];
        let mut residual = f64::INFINITY;
        for _ in 0..MOST_STEPS {
            let next = self.step(&strengths, prior);
            // next = strength · wins / expected wins, so this is |wins − expected wins|.
            residual = next.residual;
            if residual <= TOLERANCE {
                return Ok(centred(&strengths));
            }
            strengths = next.strengths;
            if prior == 0.0 {
                // Only the prior fixes the scale; without it keep the numbers near 1.
                strengths = centred(&strengths).into_iter().map(f64::exp).collect();
            }
        }
        Err(BradleyTerryError::NotConverged { residual })
    }

    /// One MM step, and the largest derivative where it started.
    fn step(&self, strengths: &[f64], prior: f64) -> Step {
        let mut residual: f64 = 0.0;
        let strengths = (0..self.items)
            .map(|i| {
                let (mut wins, mut sum) = (prior, 2.0 * prior / (strengths[i] + 1.0));
                for j in (0..self.items).filter(|&j| j != i) {
                    let (won, lost) = (self.of(i, j), self.of(j, i));
                    wins += won;
                    sum += (won + lost) / (strengths[i] + strengths[j]);
                }
                residual = residual.max((wins - strengths[i] * sum).abs());
                wins / sum
            })
            .collect();
        Step {
            strengths,
            residual,
        }
    }
}

struct Step {
    strengths: Vec<f64>,
    residual: f64,
}

/// Logarithms, shifted to mean 0.
fn centred(strengths: &[f64]) -> Vec<f64> {
    let logs: Vec<f64> = strengths.iter().map(|s| s.ln()).collect();
    let mean = logs.iter().sum::<f64>() / logs.len() as f64;
    logs.into_iter().map(|l| l - mean).collect()
}

/// An answer to a problem that a tool could help with, as it was judged.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// The result is right.
    pub correct: bool,
    /// The tool was called.
    pub used_tool: bool,
    /// What the way to the answer cost.
    pub cost: f64,
}

/// Which of two correct answers is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolPreference {
    /// The one that used the tool; the cost does not matter.
    #[default]
    ToolUse,
    /// The one that cost less.
    LowerCost,
}

/// Every answer of a group compared with every other: a correct one beats an incorrect one, two correct ones are
/// compared by `preference`, and equals (two incorrect ones too) tie.
pub fn group_preferences(items: &[Judged], preference: ToolPreference) -> Wins {
    let mut wins = Wins::new(items.len());
    for (a, first) in items.iter().enumerate() {
        for (b, second) in items.iter().enumerate().skip(a + 1) {
            match first.against(second, preference) {
                std::cmp::Ordering::Greater => wins.add(a, b, 1.0),
                std::cmp::Ordering::Less => wins.add(b, a, 1.0),
                std::cmp::Ordering::Equal => wins.tie(a, b),
            }
        }
    }
    wins
}

impl Judged {
    /// Greater is preferred.
    fn against(&self, other: &Self, preference: ToolPreference) -> std::cmp::Ordering {
        self.correct.cmp(&other.correct).then_with(|| {
            if !self.correct {
                return std::cmp::Ordering::Equal;
            }
            match preference {
                ToolPreference::ToolUse => self.used_tool.cmp(&other.used_tool),
                ToolPreference::LowerCost => other.cost.total_cmp(&self.cost),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(correct: bool, used_tool: bool) -> Judged {
        Judged {
            correct,
            used_tool,
            cost: if used_tool { 3.0 } else { 1.0 },
        }
    }

    #[test]
    fn two_items_have_a_closed_form() {
        let mut wins = Wins::new(2);
        wins.add(0, 1, 3.0);
        wins.add(1, 0, 1.0);
        // Odds 3 : 1.
        let got = wins.log_strengths(0.0).expect("connected");
        assert!((got[0] - 3f64.ln() / 2.0).abs() < 1e-9, "{got:?}");
        assert!((got[0] + got[1]).abs() < 1e-12);
    }

    #[test]
    fn a_perfect_winner_is_finite_with_a_prior_and_refused_without() {
        let mut wins = Wins::new(3);
        wins.add(0, 1, 1.0);
        wins.add(0, 2, 1.0);
        wins.tie(1, 2);
        let error = wins.log_strengths(0.0).expect_err("infinite");
        assert_eq!(error, BradleyTerryError::Unconnected { item: 1 });
        let got = wins.log_strengths(0.5).expect("finite");
        assert!(got[0] > got[1] && (got[1] - got[2]).abs() < 1e-9, "{got:?}");
        assert!(got.iter().sum::<f64>().abs() < 1e-12);
        assert_eq!(
            wins.log_strengths(-1.0),
            Err(BradleyTerryError::Prior(-1.0))
        );
    }

    #[test]
    fn a_weaker_prior_shrinks_less() {
        let mut wins = Wins::new(2);
        wins.add(0, 1, 1.0);
        let first = |prior| wins.log_strengths(prior).expect("finite")[0];
        assert!(first(0.01) > first(0.1) && first(0.1) > first(1.0));
    }

    #[test]
    fn equals_have_exactly_equal_strengths() {
        let items = [judged(true, true); 8];
        let wins = group_preferences(&items, ToolPreference::ToolUse);
        assert_eq!(wins.log_strengths(0.1), Ok(vec![0.0; 8]));
        assert_eq!(Wins::new(1).log_strengths(0.1), Ok(vec![0.0]));
        assert_eq!(Wins::new(0).log_strengths(0.1), Ok(vec![]));
    }

    #[test]
    fn correct_comes_first_then_the_preference_among_correct_ones() {
        let items = [
            judged(true, true),
            judged(true, false),
            judged(false, true),
            judged(false, false),
        ];
        let by_tool = group_preferences(&items, ToolPreference::ToolUse);
        let by_cost = group_preferences(&items, ToolPreference::LowerCost);
        for wins in [&by_tool, &by_cost] {
            for (right, wrong) in [(0, 2), (0, 3), (1, 2), (1, 3)] {
                assert_eq!((wins.of(right, wrong), wins.of(wrong, right)), (1.0, 0.0));
            }
            assert_eq!((wins.of(2, 3), wins.of(3, 2)), (0.5, 0.5));
        }
        assert_eq!((by_tool.of(0, 1), by_tool.of(1, 0)), (1.0, 0.0));
        assert_eq!((by_cost.of(0, 1), by_cost.of(1, 0)), (0.0, 1.0));
        let got = by_tool.log_strengths(0.1).expect("finite");
        assert!(got[0] > got[1] && got[1] > got[2], "{got:?}");
    }
}
