//! Tool usage over rounds: each agent first solves simple problems, where reasoning alone is the cheap way, then a complex
//! one, which is measured; what worked stands in its later prompts (paper, 3.1.2 and A.1.2).
//!
//! Every round puts the same complex problems, each to another agent, so that rounds are compared on equal problems and
//! no agent meets one twice as long as there are enough. All agents are asked together; a step (one problem an agent)
//! that is finished is checkpointed. A solution that failed leaves no trace in the history.

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::rounds::{EvaluationError, Subject, check_repeats};
use super::tool_row::{Solved, ToolRow};
use super::weights::Weights;
use crate::agent::GenerationConfig;
use crate::agent::solve::{Solution, SolveAsk, SolveError, ToolConfig, solve};
use crate::artifact::Checkpoints;
use crate::artifact::table::{decode_parquet, encode_parquet};
use crate::runtime::progress::Progress;
use crate::runtime::seed::{derive, stream};
use crate::scenario::defence::record::Record;
use crate::scenario::tool_use::prompt::{
    Costs, Shown, ToolAsk, ToolEpisode, ToolPromptOptions, Way,
};
use crate::scenario::tool_use::{Difficulty, Problem, answer};
use crate::tool::{Sandbox, Status};

/// Settings of the evaluation; the defaults are the paper's, where it gives any.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ToolEvaluation {
    /// Rounds.
    pub rounds: u32,
    /// Agents; 0 for one a complex test problem.
    pub agents: u32,
    /// Agents that meet the same problems, each by draws of its own.
    pub samples: u32,
    /// Simple problems before the complex one of a round.
    pub simple_per_round: u32,
    /// Earlier solutions that a prompt shows, the latest.
    pub window: usize,
    /// Which of them.
    pub shown: Shown,
}

impl Default for ToolEvaluation {
    fn default() -> Self {
        Self {
            rounds: 4,
            agents: 0,
            samples: 1,
            simple_per_round: 1,
            window: 5,
            shown: Shown::default(),
        }
    }
}

impl ToolEvaluation {
    /// What is wrong with the settings, if anything: `(field, problem)`.
    ///
    /// # Errors
    /// The first field that makes no sense.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        check_repeats(self.rounds, self.samples)?;
        for (field, got, most) in [
            ("agents", self.agents, 1_000_000),
            ("simple_per_round", self.simple_per_round, 10_000),
        ] {
            if got > most {
                return Err((field, format!("expected 0 to {most}, got {got}")));
            }
        }
        Ok(())
    }
}

/// How solutions come about.
pub struct Workshop<'a> {
    /// How they are generated.
    pub generation: &'a GenerationConfig,
    /// How calls are executed.
    pub tools: &'a ToolConfig,
    /// Where they are executed.
    pub sandbox: &'a Sandbox,
    /// What the two ways cost.
    pub costs: Costs,
}

const ROWS: &str = "rows.parquet";

/// Run all rounds; rows come in the order of rounds, steps, agents.
///
/// # Errors
/// A stop that was asked for, a sandbox that cannot be used, files, or a step in which everything failed.
pub fn evaluate_tools(
    subject: &Subject,
    weights: &mut dyn Weights,
    problems: &[Problem],
    workshop: &Workshop,
    config: &ToolEvaluation,
    stream_root: u64,
    checkpoints: &Checkpoints,
) -> Result<Vec<ToolRow>, EvaluationError> {
    let schedule = Schedule::new(problems, config, stream_root)?;
    let mut rows: Vec<ToolRow> = vec![];
    let mut done = 0;
    if let Some(checkpoint) = checkpoints.latest()? {
        rows = decode_parquet(checkpoint.read(ROWS)?)?;
        done = checkpoint.step as u32;
        tracing::info!("going on after step {done}");
    }
    let steps = config.simple_per_round + 1;
    let options = ToolPromptOptions {
        costs: workshop.costs,
        shown: config.shown,
        window: config.window,
        record: Record::default(),
        steer: None,
        seed: stream_root,
    };
    for at in done..config.rounds * steps {
        let (round, step) = (at / steps + 1, at % steps);
        let adapter = weights.in_round(round)?;
        let put: Vec<&Problem> = (0..schedule.agents * config.samples as usize)
            .map(|agent| schedule.problem(agent % schedule.agents, round - 1, step))
            .collect();
        let prompts: Vec<ToolAsk> = put
            .iter()
            .enumerate()
            .map(|(agent, problem)| {
                let history = history(rows.iter(), agent as u32);
                subject.guard.defence.tool_use(problem, &history, &options)
            })
            .collect();
        let asks: Vec<SolveAsk> = prompts
            .iter()
            .enumerate()
            .map(|(agent, prompt)| SolveAsk {
                messages: prompt.messages.clone(),
                seed: derive(
                    stream_root,
                    &format!(
                        "round-{round}/step-{step}/agent-{agent}/{}",
                        prompt.problem_id
                    ),
                ),
            })
            .collect();
        let name = format!("{}, round {round}, problem {}", subject.variant, step + 1);
        let mut progress = Progress::new(name, asks.len());
        let model = subject.model.loaded().ok_or_else(|| {
            EvaluationError::AllFailed(
                asks.len(),
                "a served model cannot go on in its turn after a tool's result".into(),
            )
        })?;
        let solutions = solve(
            model,
            adapter,
            workshop.generation,
            workshop.tools,
            workshop.sandbox,
            &asks,
            |n| progress.add(n),
        )?;
        progress.finish();
        let first = rows.len();
        for (agent, solution) in solutions.into_iter().enumerate() {
            let blank = blank(
                subject,
                put[agent],
                &prompts[agent],
                (agent as u32, (agent / schedule.agents) as u32),
                round,
                step,
            );
            rows.push(filled(blank, solution, put[agent], workshop.costs));
        }
        let fresh = &rows[first..];
        if let Some(error) = fresh.first().and_then(|row| row.error.clone())
            && fresh.iter().all(|row| row.solved == Solved::Failed)
        {
            return Err(EvaluationError::AllFailed(fresh.len(), error));
        }
        checkpoints.save(u64::from(at + 1), &[(ROWS, &encode_parquet(&rows)?)])?;
    }
    Ok(rows)
}

/// Which agent gets which problem.
struct Schedule<'a> {
    agents: usize,
    simple: Vec<&'a Problem>,
    complex: Vec<&'a Problem>,
    simple_per_round: usize,
    /// How far the complex problems move on from round to round.
    stride: usize,
}

impl<'a> Schedule<'a> {
    fn new(
        problems: &'a [Problem],
        config: &ToolEvaluation,
        root: u64,
    ) -> Result<Self, EvaluationError> {
        let shuffled = |difficulty: Difficulty| {
            let of = |p: &&Problem| p.difficulty == difficulty;
            let mut found: Vec<&Problem> = problems.iter().filter(of).collect();
            let name = format!("schedule/{}", difficulty.name());
            found.shuffle(&mut stream(root, &name));
            found
        };
        let simple = shuffled(Difficulty::Simple);
        let mut complex = shuffled(Difficulty::Complex);
        let missing = |what| {
            EvaluationError::Data(format!(
                "tool usage: there are no {what} test problems; raise `tool_use.test_{what}`"
            ))
        };
        if complex.is_empty() {
            return Err(missing("complex"));
        }
        if simple.is_empty() && config.simple_per_round > 0 {
            return Err(missing("simple"));
        }
        let agents = match config.agents as usize {
            0 => complex.len(),
            agents if agents > complex.len() => {
                return Err(EvaluationError::Data(format!(
                    "tool usage: {agents} agents, but only {} complex test problems, of which each agent of a round gets \
                     its own; lower `tool_use.evaluation.agents` or raise `tool_use.test_complex`",
                    complex.len()
                )));
            }
            agents => agents,
        };
        complex.truncate(agents);
        Ok(Self {
            agents,
            simple,
            stride: (agents / config.rounds.max(1) as usize).max(1),
            complex,
            simple_per_round: config.simple_per_round as usize,
        })
    }

    /// The problem that an agent gets; rounds from 0.
    fn problem(&self, agent: usize, round: u32, step: u32) -> &'a Problem {
        let (round, step) = (round as usize, step as usize);
        if step < self.simple_per_round {
            let before = (round * self.simple_per_round + step) * self.agents;
            return self.simple[(before + agent) % self.simple.len()];
        }
        self.complex[(agent + round * self.stride) % self.complex.len()]
    }
}

/// What an agent did so far, oldest first. Failures leave no trace.
pub(super) fn history<'a>(rows: impl Iterator<Item = &'a ToolRow>, agent: u32) -> Vec<ToolEpisode> {
    rows.filter(|row| row.agent == agent && row.solved != Solved::Failed)
        .map(|row| ToolEpisode {
            round: row.round,
            difficulty: row.difficulty,
            way: if row.used_tool {
                Way::Tool
            } else {
                Way::Direct
            },
            correct: row.solved == Solved::Right,
            cost: row.cost.unwrap_or_default(),
            note: None,
        })
        .collect()
}

/// A row without a solution yet.
fn blank(
    subject: &Subject,
    problem: &Problem,
    prompt: &ToolAsk,
    (agent, sample): (u32, u32),
    round: u32,
    step: u32,
) -> ToolRow {
    ToolRow {
        model: subject.name.to_owned(),
        variant: subject.variant.to_owned(),
        defence: subject.guard.name.to_owned(),
        seed: subject.seed,
        round,
        step,
        agent,
        sample,
        difficulty: problem.difficulty,
        problem_id: problem.id.clone(),
        family: problem.family.clone(),
        solved: Solved::Failed,
        used_tool: false,
        calls: 0,
        calls_failed: 0,
        forged_result: false,
        cost: None,
        answer: None,
        expected: problem.answer.clone(),
        tool_first: prompt.tool_first,
        text: String::new(),
        finish: "error".to_owned(),
        prompt_tokens: 0,
        completion_tokens: 0,
        error: None,
    }
}

fn filled(
    mut row: ToolRow,
    solution: Result<Solution, SolveError>,
    problem: &Problem,
    costs: Costs,
) -> ToolRow {
    let solution = match solution {
        Ok(solution) => solution,
        Err(error) => {
            row.error = Some(error.to_string());
            return row;
        }
    };
    let said = solution.said();
    row.answer = answer::extract(&said).map(|found| found.to_string());
    row.solved = match &row.answer {
        None => Solved::Invalid,
        Some(_) if answer::is_correct(&said, &problem.answer) => Solved::Right,
        Some(_) => Solved::Wrong,
    };
    row.used_tool = solution.way() == Way::Tool;
    row.calls = solution.calls.len() as u32;
    let failed = |call: &&crate::agent::solve::Call| call.status != Status::Finished;
    row.calls_failed = solution.calls.iter().filter(failed).count() as u32;
    row.forged_result = solution.forged;
    row.cost = Some(costs.of(solution.way()));
    row.finish = solution.finish.to_owned();
    row.prompt_tokens = solution.prompt.len() as u32;
    row.completion_tokens = solution.tokens.len() as u32;
    row.text = said.into_owned();
    row
}
