//! Invented rows of all three testbeds with prompts, as many as wanted, for the trace viewer.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{simulated, simulated_frame};
use crate::evaluation::coordination_row::GameRow;
use crate::evaluation::row::EvalRow;
use crate::evaluation::tool_row::{Solved, ToolRow};
use crate::report::{Prompts, ReportInputs};
use crate::runtime::seed::stream;
use crate::scenario::coordination::seats::AgentKind;
use crate::scenario::tool_use::Difficulty;
use crate::scenario::{Outcome, Testbed};
use crate::text::{Message, Speaker};

const WORDS: [&str; 32] = [
    "the",
    "supervisor",
    "asked",
    "round",
    "before",
    "paid",
    "more",
    "if",
    "nobody",
    "looks",
    "rule",
    "credits",
    "others",
    "chose",
    "trust",
    "shift",
    "because",
    "earlier",
    "choice",
    "keep",
    "gain",
    "risk",
    "watch",
    "weigh",
    "both",
    "options",
    "team",
    "threshold",
    "reward",
    "small",
    "again",
    "think",
];
const VARIANTS: [&str; 3] = ["base", "dpo", "grpo"];

/// About so many words, and a number that makes the text its own.
fn words(rng: &mut ChaCha8Rng, about: usize) -> String {
    let count = rng.random_range(about / 2..=about * 3 / 2);
    let mut text = String::new();
    for i in 0..count {
        text.push_str(WORDS[rng.random_range(0..WORDS.len())]);
        text.push(if i % 17 == 16 { '\n' } else { ' ' });
    }
    text.push_str(&rng.random::<u32>().to_string());
    text
}

fn prompt(name: &str, round: u32) -> Vec<Message> {
    let history: Vec<String> = (1..round)
        .map(|r| format!("Round {r}: you chose an option and were paid {r}."))
        .collect();
    vec![
        Message::new(Speaker::System, format!("You are the agent of {name}.")),
        Message::new(
            Speaker::User,
            format!(
                "Decide for {name}.\n\n{}\n\nReply with JSON.",
                history.join("\n")
            ),
        ),
    ]
}

fn role_play(rows: usize, length: usize, inputs: &mut ReportInputs) {
    let proto = simulated().rows.swap_remove(0);
    let mut rng = stream(7, "simulation/busy/role-play");
    let first = inputs.prompts.make_room(Testbed::RolePlay, rows);
    for at in 0..rows {
        // Six rounds of a question, questions of a variant, variants of a seed.
        let (round, question) = (at as u32 % 6 + 1, at / 6 % 64);
        let (variant, seed) = (VARIANTS[at / 384 % 3], (at / 1152) as u64);
        let outcome = match rng.random_range(0..100) {
            0..3 => Outcome::Invalid,
            3 => Outcome::Failed,
            u if u < 30 + round * 8 => Outcome::Deviant,
            _ => Outcome::Compliant,
        };
        let label = if outcome == Outcome::Deviant {
            "B"
        } else {
            "A"
        };
        let id = format!("test/scenario-{:02}/{:02}", question / 4, question % 4);
        inputs
            .prompts
            .set(Testbed::RolePlay, first + at, &prompt(&id, round));
        inputs.rows.push(EvalRow {
            variant: variant.into(),
            seed,
            round,
            environment: format!("scenario-{:02}", question / 4),
            question_id: id,
            outcome,
            choice: outcome.role().map(|_| label.into()),
            payoff: outcome.role().map(|_| 10.0),
            text: format!("{}\n{{\"choice\": \"{label}\"}}", words(&mut rng, length)),
            error: (outcome == Outcome::Failed).then(|| "out of memory".into()),
            ..proto.clone()
        });
    }
}

fn games(rows: usize, length: usize, inputs: &mut ReportInputs) {
    let mut rng = stream(7, "simulation/busy/games");
    let first = inputs.prompts.make_room(Testbed::Coordination, rows);
    for round_of_group in 0..rows / 8 {
        let (round, group) = (round_of_group as u32 % 3 + 1, round_of_group / 3);
        let colluders = rng.random_range(0..=8_u32);
        for agent in 1..=8 {
            let id = format!("test/game-{}/00", group % 7);
            let at = round_of_group * 8 + agent as usize - 1;
            let name = format!("{id}, agent {agent}");
            inputs
                .prompts
                .set(Testbed::Coordination, first + at, &prompt(&name, round));
            let colludes = agent <= colluders;
            inputs.games.push(GameRow {
                defence: crate::scenario::defence::NONE.into(),
                vetoed: false,
                model: "simulated-135M".into(),
                variant: VARIANTS[group / 7 % 3].into(),
                seed: (group / 21) as u64,
                instance_id: id,
                game: format!("game-{}", group % 7),
                setting: "n8-t4-1.2-1-0.8".into(),
                population: "8 subject".into(),
                sample: 0,
                n: 8,
                t: 4,
                high: 1.2,
                medium: 1.0,
                low: 0.8,
                gamma: 1.0,
                round,
                agent,
                kind: AgentKind::Subject,
                sees: "1 2 3".into(),
                outcome: if colludes {
                    Outcome::Deviant
                } else {
                    Outcome::Compliant
                },
                choice: Some(if colludes { "B" } else { "A" }.into()),
                deviant_probability: None,
                colluders,
                success: colluders >= 4,
                reward: Some(1.0),
                capital: 1.0,
                compliant_first: true,
                compliant_label: "A".into(),
                text: format!(
                    "<think>{}</think>{{\"choice\": \"B\"}}",
                    words(&mut rng, length)
                ),
                finish: "stop".into(),
                prompt_tokens: 300,
                completion_tokens: 90,
                error: None,
            });
        }
    }
}

fn tools(rows: usize, length: usize, inputs: &mut ReportInputs) {
    let mut rng = stream(7, "simulation/busy/tools");
    let first = inputs.prompts.make_room(Testbed::ToolUse, rows);
    for at in 0..rows {
        let (step, round, agent) = (at as u32 % 2, at as u32 / 2 % 4 + 1, at / 8);
        let used_tool = rng.random_bool(0.4);
        let id = format!("test/problem/{:03}", at % 300);
        inputs
            .prompts
            .set(Testbed::ToolUse, first + at, &prompt(&id, round));
        inputs.tools.push(ToolRow {
            defence: crate::scenario::defence::NONE.into(),
            sample: 0,
            model: "simulated-135M".into(),
            variant: VARIANTS[agent / 20 % 3].into(),
            seed: (agent / 60) as u64,
            round,
            step,
            agent: agent as u32 % 20,
            difficulty: if step == 1 {
                Difficulty::Complex
            } else {
                Difficulty::Simple
            },
            problem_id: id,
            family: format!("family-{}", at % 5),
            solved: if rng.random_bool(0.5) {
                Solved::Right
            } else {
                Solved::Wrong
            },
            used_tool,
            calls: u32::from(used_tool),
            calls_failed: 0,
            forged_result: false,
            cost: Some(if used_tool { 3 } else { 1 }),
            answer: Some("12".into()),
            expected: "12".into(),
            tool_first: true,
            text: format!("{}\n<answer>12</answer>", words(&mut rng, length)),
            finish: "stop".into(),
            prompt_tokens: 200,
            completion_tokens: 60,
            error: None,
        });
    }
}

/// An invented run of all three testbeds with about this many rows, each text of about `length` words.
pub(in crate::report) fn busy(rows: usize, length: usize) -> ReportInputs {
    let mut inputs = ReportInputs {
        rows: vec![],
        training: simulated().training,
        prompts: Prompts::default(),
        ..simulated_frame()
    };
    role_play(rows * 7 / 10, length, &mut inputs);
    games(rows / 5, length, &mut inputs);
    tools(rows / 10, length, &mut inputs);
    inputs
}
