//! What the paper (arXiv 2510.04860) reports: Table 1, role-play, violation rate by round; Table 2, tool usage; Figures 3
//! to 5, coordination games, where its text gives values.

/// One row of the paper's Table 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PaperRow {
    /// Model.
    pub model: &'static str,
    /// `base`, `dpo` or `grpo`, as in our rows.
    pub variant: &'static str,
    /// Violation rate in percent, rounds 1 to 6; one sample of 64 prompts a round, no intervals given.
    pub rates: [f64; 6],
}

/// Prompts behind each rate of [`TABLE_1`].
pub const PROMPTS: usize = 64;

/// Table 1.
pub const TABLE_1: [PaperRow; 6] = [
    PaperRow {
        model: "Qwen3-8B",
        variant: "base",
        rates: [42.2, 46.9, 51.6, 53.1, 56.3, 57.8],
    },
    PaperRow {
        model: "Qwen3-8B",
        variant: "dpo",
        rates: [29.7, 28.1, 34.4, 37.5, 40.6, 43.8],
    },
    PaperRow {
        model: "Qwen3-8B",
        variant: "grpo",
        rates: [23.4, 40.6, 42.2, 43.8, 46.9, 46.9],
    },
    PaperRow {
        model: "Llama-3.1-8B",
        variant: "base",
        rates: [50.0, 64.1, 65.6, 70.3, 70.3, 73.4],
    },
    PaperRow {
        model: "Llama-3.1-8B",
        variant: "dpo",
        rates: [18.8, 35.9, 37.5, 40.6, 42.2, 45.3],
    },
    PaperRow {
        model: "Llama-3.1-8B",
        variant: "grpo",
        rates: [7.8, 15.6, 12.5, 18.8, 18.8, 20.3],
    },
];

/// One row of the paper's Table 2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ToolPaperRow {
    /// Model.
    pub model: &'static str,
    /// `base`, `dpo` or `grpo`, as in our rows.
    pub variant: &'static str,
    /// Tool usage and accuracy on complex problems in percent, rounds 1 to 4.
    pub rounds: [(u32, u32); 4],
}

/// Table 2.
pub const TABLE_2: [ToolPaperRow; 3] = [
    ToolPaperRow {
        model: "Qwen3-8B",
        variant: "base",
        rounds: [(8, 33), (5, 38), (3, 25), (2, 21)],
    },
    ToolPaperRow {
        model: "Qwen3-8B",
        variant: "dpo",
        rounds: [(8, 63), (5, 58), (2, 42), (0, 38)],
    },
    ToolPaperRow {
        model: "Qwen3-8B",
        variant: "grpo",
        rounds: [(8, 83), (6, 92), (2, 71), (0, 54)],
    },
];

/// Complex problems behind the accuracies of [`TABLE_2`]. The paper gives no number; this is the smallest of which all
/// its accuracies are whole counts, so that its intervals are rather too wide than too narrow.
pub const SOLVED_OF: usize = 24;

/// The same for tool usage.
pub const USED_OF: usize = 62;

/// Figure 3: the highest collusion rate of round 1 over thresholds, as a count of [`DECISIONS`].
pub const HIGHEST_COLLUSION: [(&str, usize); 3] = [("base", 43), ("dpo", 32), ("grpo", 20)];

/// Decisions a round behind each rate of Figure 3: seven games of eight agents.
pub const DECISIONS: usize = 56;

/// Figure 4: the share that colludes in round 2 after a success in round 1, "mostly" in this range; no counts given.
pub const AFTER_SUCCESS: (f64, f64) = (0.75, 1.0);

/// Figure 5: agents of eight that collude in rounds 1 to 3 of one game.
pub const TRACE: [u32; 3] = [5, 7, 8];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rate_is_a_count_of_64() {
        // A typing error would hardly land on a multiple of 1/64 again.
        for row in TABLE_1 {
            for rate in row.rates {
                let count = (rate / 100.0 * PROMPTS as f64).round();
                let exact = count / PROMPTS as f64 * 100.0;
                assert!(
                    (exact - rate).abs() <= 0.0500001,
                    "{} {}: {rate} is no count of 64",
                    row.model,
                    row.variant
                );
            }
        }
    }

    /// The fewest trials of which each of these rounded percentages is a whole count.
    fn fewest(percentages: &[u32]) -> usize {
        let is_count = |n: usize, percent: u32| {
            (0..=n).any(|k| (k as f64 / n as f64 * 100.0).round() as u32 == percent)
        };
        (1..1000)
            .find(|&n| percentages.iter().all(|&p| is_count(n, p)))
            .unwrap()
    }

    #[test]
    fn the_trials_of_table_2_are_the_fewest_that_give_its_percentages() {
        let column = |f: fn(&(u32, u32)) -> u32| -> Vec<u32> {
            TABLE_2
                .iter()
                .flat_map(|row| row.rounds.iter().map(f))
                .collect()
        };
        assert_eq!(fewest(&column(|r| r.1)), SOLVED_OF);
        assert_eq!(fewest(&column(|r| r.0)), USED_OF);
    }
}
