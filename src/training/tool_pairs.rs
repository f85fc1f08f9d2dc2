//! Preference pairs for tool usage: a verified solution with the tool, against the model's own sample.
//!
//! Chosen is a solution that calls the tool and ends on the right answer: written around the problem's own program,
//! which is run in the sandbox first, or sampled from the model with a line that asks it to use the tool. Rejected is
//! what the model writes unasked. Where that is itself a right solution with the tool there is nothing to prefer, and it
//! is sampled again; what was not obtained is counted.

use serde::{Deserialize, Serialize};

use super::TrainError;
use super::pairs::PairsConfig;
use super::tool_rollout::outcome;
use crate::agent::elicitation::before_answer;
use crate::agent::solve::{Solution, SolveAsk, SolveError, ToolConfig, solve};
use crate::agent::{GenerationConfig, LoadedModel};
use crate::artifact::Checkpoints;
use crate::datasets::pairs::{AnswerSource, PreferencePair};
use crate::runtime::progress::Progress;
use crate::runtime::seed::derive;
use crate::scenario::Outcome;
use crate::scenario::tool_use::prompt::{Costs, ToolPromptOptions, Way, ask};
use crate::scenario::tool_use::solution::solution_with_tool;
use crate::scenario::tool_use::{Problem, answer};
use crate::tool::{Sandbox, Status};

/// Where chosen solutions come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChosenFrom {
    /// The problem's own program, run and written out as a solution.
    #[default]
    Program,
    /// The model, asked to use the tool.
    Sampled,
    /// The model; the program where no sample was right.
    SampledThenProgram,
}

/// What sampling gave.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolPairsReport {
    /// Problems.
    pub problems: usize,
    /// Pairs kept.
    pub pairs: usize,
    /// Problems without a right solution that uses the tool.
    pub missing_chosen: usize,
    /// Problems whose every sample was itself a right solution with the tool.
    pub missing_rejected: usize,
    /// Programs whose result was not the answer, or that did not run.
    pub programs_failed: usize,
    /// Samples drawn.
    pub samples: usize,
    /// Own samples with the right answer.
    pub rejected_right: usize,
    /// Own samples that called the tool.
    pub rejected_with_tool: usize,
    /// Samples without a readable answer.
    pub invalid: usize,
    /// Samples that failed to come about.
    pub failed: usize,
}

/// What pairs are made from.
pub struct ToolPairs<'a> {
    /// Training problems.
    pub problems: &'a [Problem],
    /// How the model's own solutions are generated.
    pub generation: &'a GenerationConfig,
    /// Attempts.
    pub config: &'a PairsConfig,
    /// Where chosen solutions come from.
    pub chosen: ChosenFrom,
    /// How calls are executed.
    pub tools: &'a ToolConfig,
    /// Where they are executed.
    pub sandbox: &'a Sandbox,
    /// What the two ways cost.
    pub costs: Costs,
}

/// One side of a pair: its text, and samples drawn for it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Side {
    text: Option<String>,
    attempts: u32,
    template: bool,
}

/// What a checkpoint holds.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    sides: Vec<[Side; 2]>,
    report: ToolPairsReport,
}

const STATE: &str = "tool-pairs.json";
const CHOSEN: usize = 0;
const REJECTED: usize = 1;
/// Problems whose samples are drawn between two checkpoints.
const BATCH: usize = 128;

impl ToolPairs<'_> {
    /// Sample the pairs of these problems with the untrained model.
    ///
    /// # Errors
    /// A stop that was asked for, a sandbox that cannot be used, a file that cannot be written.
    pub fn sample(
        &self,
        model: &LoadedModel,
        seed: u64,
        checkpoints: &Checkpoints,
    ) -> Result<(Vec<PreferencePair>, ToolPairsReport), TrainError> {
        let mut state = Saved {
            sides: vec![Default::default(); self.problems.len()],
            report: ToolPairsReport::default(),
        };
        let mut step = 0;
        if let Some(checkpoint) = checkpoints.latest()? {
            state = serde_json::from_slice(&checkpoint.read(STATE)?).map_err(|e| {
                TrainError::Checkpoint {
                    path: checkpoint.folder.clone(),
                    problem: e.to_string(),
                }
            })?;
            step = checkpoint.step;
        }
        let batches = self.problems.len().div_ceil(BATCH) as u64;
        let mut progress = Progress::new("tool pairs", self.problems.len());
        progress.skip((step as usize * BATCH).min(self.problems.len()));
        while step < batches {
            let first = step as usize * BATCH;
            let last = self.problems.len().min(first + BATCH);
            for side in [CHOSEN, REJECTED] {
                self.fill(model, seed, first..last, side, &mut state, &mut progress)?;
            }
            if self.chosen != ChosenFrom::Sampled {
                self.run_programs(first..last, &mut state)?;
            }
            step += 1;
            let bytes = serde_json::to_vec(&state).expect("JSON of plain values");
            checkpoints.save(step, &[(STATE, &bytes)])?;
        }
        progress.finish();
        let first = self.problems.first();
        let first = first.map(|problem| ask(problem, &[], &self.options(seed)).messages);
        let before = before_answer(model, self.generation, first)?;
        Ok(self.assemble(state, seed, before))
    }

    /// The training prompt's.
    fn options(&self, seed: u64) -> ToolPromptOptions {
        ToolPromptOptions {
            costs: self.costs,
            seed,
            ..ToolPromptOptions::default()
        }
    }

    /// Sample one side of these problems until it is there or the attempts are used up.
    fn fill(
        &self,
        model: &LoadedModel,
        seed: u64,
        places: std::ops::Range<usize>,
        side: usize,
        state: &mut Saved,
        progress: &mut Progress,
    ) -> Result<(), TrainError> {
        if side == CHOSEN && self.chosen == ChosenFrom::Program {
            return Ok(());
        }
        for attempt in 0..self.config.attempts {
            let open: Vec<usize> = places
                .clone()
                .filter(|&i| state.sides[i][side].text.is_none())
                .collect();
            let asks: Vec<SolveAsk> = open
                .iter()
                .map(|&i| {
                    let problem = &self.problems[i];
                    let options = ToolPromptOptions {
                        steer: (side == CHOSEN).then_some(Way::Tool),
                        ..self.options(seed)
                    };
                    let name = ["chosen", "rejected"][side];
                    SolveAsk {
                        messages: ask(problem, &[], &options).messages,
                        seed: derive(
                            seed,
                            &format!("tool-pairs/{}/{name}/attempt-{attempt}", problem.id),
                        ),
                    }
                })
                .collect();
            let solutions = solve(
                model,
                None,
                self.generation,
                self.tools,
                self.sandbox,
                &asks,
                // Later attempts are for few problems and are not counted.
                |n| {
                    if side == REJECTED && attempt == 0 {
                        progress.add(n);
                    }
                },
            )?;
            for (&place, solution) in open.iter().zip(solutions) {
                let report = &mut state.report;
                state.sides[place][side].attempts = attempt + 1;
                report.samples += 1;
                if let Some(text) = judge(&self.problems[place], solution, side, report) {
                    state.sides[place][side].text = Some(text);
                }
            }
        }
        Ok(())
    }

    /// Write out the programs of problems that have no chosen solution yet, each run first.
    fn run_programs(
        &self,
        places: std::ops::Range<usize>,
        state: &mut Saved,
    ) -> Result<(), TrainError> {
        let open: Vec<(usize, &str)> = places
            .filter(|&i| state.sides[i][CHOSEN].text.is_none())
            .filter_map(|i| Some((i, self.problems[i].program.as_deref()?)))
            .collect();
        let programs: Vec<&str> = open.iter().map(|(_, program)| *program).collect();
        let executions = self.sandbox.run(&programs);
        for ((place, _), execution) in open.into_iter().zip(executions) {
            let problem = &self.problems[place];
            // It is not the program that failed.
            if execution.status == Status::Broken {
                let what = format!("the sandbox failed: {}", execution.stderr);
                return Err(TrainError::Broken(what));
            }
            let written = (execution.status == Status::Finished)
                .then(|| solution_with_tool(problem, &execution.stdout))
                .flatten()
                .filter(|text| answer::is_correct(text, &problem.answer));
            match written {
                Some(text) => {
                    let side = &mut state.sides[place][CHOSEN];
                    side.text = Some(text);
                    side.template = true;
                }
                None => {
                    tracing::debug!("{}: program: {}", problem.id, execution.stderr);
                    state.report.programs_failed += 1;
                }
            }
        }
        Ok(())
    }

    fn assemble(
        &self,
        state: Saved,
        seed: u64,
        before: &str,
    ) -> (Vec<PreferencePair>, ToolPairsReport) {
        let mut report = state.report;
        report.problems = self.problems.len();
        let options = self.options(seed);
        let mut pairs = vec![];
        for (problem, [chosen, rejected]) in self.problems.iter().zip(state.sides) {
            report.missing_chosen += usize::from(chosen.text.is_none());
            report.missing_rejected += usize::from(rejected.text.is_none());
            let (Some(text), Some(own)) = (chosen.text, rejected.text) else {
                continue;
            };
            let messages = ask(problem, &[], &options).messages;
            let turn = |i: usize| {
                messages
                    .get(i)
                    .map(|m| m.content.clone())
                    .unwrap_or_default()
            };
            pairs.push(PreferencePair {
                id: problem.id.clone(),
                question_id: problem.id.clone(),
                environment: problem.family.clone(),
                system: turn(0),
                user: turn(1),
                chosen: match chosen.template {
                    true => format!("{before}{text}"),
                    false => text,
                },
                rejected: own,
                tool_results: true,
                chosen_source: if chosen.template {
                    AnswerSource::Template
                } else {
                    AnswerSource::Sampled
                },
                rejected_source: AnswerSource::Sampled,
                attempts_chosen: chosen.attempts,
                attempts_rejected: rejected.attempts,
            });
        }
        report.pairs = pairs.len();
        (pairs, report)
    }
}

/// The text of a sample that serves as this side of a pair; the rest is counted.
fn judge(
    problem: &Problem,
    solution: Result<Solution, SolveError>,
    side: usize,
    report: &mut ToolPairsReport,
) -> Option<String> {
    let solution = match solution {
        Ok(solution) => solution,
        Err(error) => {
            tracing::debug!("{}: {error}", problem.id);
            report.failed += 1;
            return None;
        }
    };
    let outcome = outcome(&solution, problem);
    let (right, with_tool) = (outcome == Outcome::Compliant, solution.way() == Way::Tool);
    report.invalid += usize::from(outcome == Outcome::Invalid);
    let wanted = right && with_tool;
    if side == CHOSEN {
        return wanted.then_some(solution.text);
    }
    report.rejected_right += usize::from(right);
    report.rejected_with_tool += usize::from(with_tool);
    (!wanted && !solution.text.trim().is_empty()).then_some(solution.text)
}
