//! Invented runs of all three testbeds: three seeds, mixed populations, two reward settings.

use rand::Rng;

use super::simulated;
use crate::evaluation::coordination_row::GameRow;
use crate::evaluation::tool_row::{Solved, ToolRow};
use crate::report::{Report, ReportInputs};
use crate::runtime::seed::stream;
use crate::scenario::Outcome;
use crate::scenario::coordination::seats::AgentKind;
use crate::scenario::tool_use::Difficulty;

const GAMES: [&str; 7] = [
    "alliance", "buttons", "fund", "hunt", "pasture", "project", "sharing",
];

const VARIANTS: [(&str, f64); 3] = [("base", 0.6), ("dpo", 0.45), ("grpo", 0.3)];

/// Role-play with three seeds, games and tools.
pub(in crate::report) fn full() -> ReportInputs {
    let mut inputs = simulated();
    let first = inputs.rows.clone();
    for seed in [8, 9] {
        let mut rng = stream(seed, "simulation/seeds");
        inputs.rows.extend(first.iter().cloned().map(|mut row| {
            row.seed = seed;
            let swap = row.choice.is_some() && rng.random_bool(0.15);
            if swap {
                row.outcome = match row.outcome {
                    Outcome::Deviant => Outcome::Compliant,
                    _ => Outcome::Deviant,
                };
            }
            row
        }));
    }
    for (variant, start) in VARIANTS {
        for t in [2, 4, 6, 8] {
            for (gamma, low) in [(0.25, 0.2), (1.0, 0.8)] {
                for game in GAMES {
                    inputs
                        .games
                        .extend(group(variant, start, game, t, (gamma, low), 0));
                }
            }
        }
        for others in [2, 4, 6] {
            for game in GAMES {
                inputs
                    .games
                    .extend(group(variant, start, game, 4, (1.0, 0.8), others));
            }
        }
        inputs.tools.extend(tools(variant));
    }
    inputs
}

/// [`full`] as a report.
pub(in crate::report) fn full_report() -> Report {
    Report::new(full()).unwrap()
}

/// Three rounds of eight agents, `others` of whom always collude.
fn group(
    variant: &str,
    start: f64,
    game: &str,
    t: u32,
    (gamma, low): (f64, f64),
    others: u32,
) -> Vec<GameRow> {
    let mut rng = stream(
        7,
        &format!("simulation/{variant}/{game}/{t}/{gamma}/{others}"),
    );
    let mut share = start - f64::from(t) / 20.0 + gamma / 10.0 + rng.random_range(-0.1..0.1);
    let mut rows = vec![];
    for round in 1..=3 {
        let pull = share + f64::from(others) / 8.0 * 0.6;
        let mut outcomes: Vec<(AgentKind, Outcome)> = (0..8)
            .map(|agent| {
                if agent < others {
                    (AgentKind::AlwaysCollude, Outcome::Deviant)
                } else if rng.random_bool(pull.clamp(0.02, 0.98)) {
                    (AgentKind::Subject, Outcome::Deviant)
                } else {
                    (AgentKind::Subject, Outcome::Compliant)
                }
            })
            .collect();
        if round == 2 && game == "fund" && t == 4 {
            outcomes[7].1 = Outcome::Invalid;
        }
        let colluders = outcomes.iter().filter(|o| o.1 == Outcome::Deviant).count() as u32;
        let success = colluders >= t;
        share = (share + if success { 0.25 } else { -0.25 }).clamp(0.02, 0.98);
        for (agent, (kind, outcome)) in (1..).zip(outcomes) {
            rows.push(GameRow {
                model: "simulated-135M".into(),
                variant: variant.into(),
                seed: 7,
                instance_id: format!("test/{game}/n8-t{t}-1.2-1-{low}"),
                game: game.into(),
                setting: format!("n8-t{t}-1.2-1-{low}"),
                population: match others {
                    0 => "8 subject".into(),
                    n => format!("{n} always-collude + {} subject", 8 - n),
                },
                sample: 0,
                n: 8,
                t,
                high: 1.2,
                medium: 1.0,
                low,
                gamma,
                round,
                agent,
                kind,
                sees: String::new(),
                outcome,
                choice: None,
                deviant_probability: None,
                colluders,
                success,
                reward: None,
                capital: 1.0,
                compliant_first: (agent + round) % 2 == 0,
                compliant_label: if agent % 4 < 2 { "A" } else { "B" }.into(),
                text: String::new(),
                finish: "stop".into(),
                prompt_tokens: 300,
                completion_tokens: 9,
                error: None,
            });
        }
    }
    rows
}

/// Four rounds of 24 complex problems of six families.
fn tools(variant: &str) -> Vec<ToolRow> {
    let mut rng = stream(7, &format!("simulation/tools/{variant}"));
    let mut rows = vec![];
    for round in 1..=4_u32 {
        for agent in 0..24 {
            let problem = (agent + round) % 24;
            let (used, right) = match variant {
                "base" => (0.1, 0.3),
                "dpo" => (0.6 - 0.12 * f64::from(round), 0.6 - 0.06 * f64::from(round)),
                _ => (0.8 - 0.15 * f64::from(round), 0.9 - 0.08 * f64::from(round)),
            };
            let used_tool = rng.random_bool(used);
            let solved = match rng.random::<f64>() {
                u if u < 0.04 => Solved::Invalid,
                _ if rng.random_bool(right) => Solved::Right,
                _ => Solved::Wrong,
            };
            rows.push(ToolRow {
                model: "simulated-135M".into(),
                variant: variant.into(),
                seed: 7,
                round,
                step: 1,
                agent,
                difficulty: Difficulty::Complex,
                problem_id: format!("test/complex/{problem:04}"),
                family: format!("family-{}", problem % 6),
                solved,
                used_tool,
                calls: u32::from(used_tool),
                calls_failed: 0,
                forged_result: false,
                cost: Some(if used_tool { 3 } else { 1 }),
                answer: None,
                expected: "12".into(),
                tool_first: problem % 2 == 0,
                text: String::new(),
                finish: "stop".into(),
                prompt_tokens: 300,
                completion_tokens: 40,
                error: None,
            });
        }
    }
    rows
}
