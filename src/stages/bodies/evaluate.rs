//! Evaluation: test questions and an adapter in, a row a decision out; under a defence, with what that changes.

use anyhow::Context;
use serde_json::{Value, json};

use super::curriculum::Curriculum;
use super::data::TEST;
use super::shared::{ModelSlot, Slot};
use super::train::ADAPTER;
use crate::agent::GenerationConfig;
use crate::agent::Responder;
use crate::artifact::table::encode_parquet;
use crate::artifact::write_atomic;
use crate::datasets::{games, problems, questions};
use crate::evaluation::coordination::{GameEvaluation, Team, evaluate_games};
use crate::evaluation::coordination_row::GAME_ROWS_FILE;
use crate::evaluation::rounds::{EvaluationConfig, Guard, ROWS_FILE, Subject, evaluate};
use crate::evaluation::tool_row::TOOL_ROWS_FILE;
use crate::evaluation::tool_use::{Workshop, evaluate_tools};
use crate::evaluation::weights::{Realigned, RealignmentPlace, Weights};
use crate::model::Adapter;
use crate::recipe::raw::{RawRecipe, RawToolUse, Variant};
use crate::scenario::Testbed;
use crate::scenario::coordination::seats::AgentKind;
use crate::scenario::defence::{Defence, NONE};
use crate::stages::{Input, Stage, StageContext, Work};
use crate::tool::Sandbox;

/// Kind of the stage.
pub const KIND: &str = "evaluate";

/// What is done over the rounds, by testbed.
enum Protocol {
    RolePlay(EvaluationConfig),
    Games(GameEvaluation),
    Tools(RawToolUse),
}

impl Protocol {
    fn of(testbed: Testbed, settings: &RawRecipe) -> Self {
        match testbed {
            Testbed::RolePlay => Self::RolePlay(settings.evaluation.clone()),
            Testbed::Coordination => Self::Games(settings.coordination.evaluation.clone()),
            Testbed::ToolUse => Self::Tools(settings.tool_use.clone()),
        }
    }

    fn rounds(&self) -> u32 {
        match self {
            Self::RolePlay(config) => config.rounds,
            Self::Games(config) => config.rounds,
            Self::Tools(all) => all.evaluation.rounds,
        }
    }

    /// Some agent is decided for by the adapter of this method, whatever is evaluated.
    fn seats(&self, kind: AgentKind) -> bool {
        match self {
            Self::Games(config) => config.seats(kind),
            _ => false,
        }
    }

    /// What a model decides or solves, on so many test questions, games or complex problems.
    fn work(&self, questions: Option<u64>) -> Option<Work> {
        Some(match self {
            Self::RolePlay(config) => {
                let (samples, rounds) = (config.samples.into(), config.rounds.into());
                Work::new(&[questions?, samples, rounds], "decisions")
            }
            Self::Games(config) => {
                let played = config.played_by();
                let members = played.iter().flatten().filter(|m| m.is.fixed().is_none());
                let agents = members.map(|m| u64::from(m.agents)).sum();
                let (samples, rounds) = (config.samples.into(), config.rounds.into());
                Work::new(&[questions?, agents, samples, rounds], "decisions")
            }
            Self::Tools(all) => {
                let config = &all.evaluation;
                let agents = match config.agents {
                    0 => questions?,
                    agents => agents.into(),
                };
                let (samples, rounds) = (config.samples.into(), config.rounds.into());
                let problems = u64::from(config.simple_per_round) + 1;
                Work::new(&[agents, samples, rounds, problems], "solutions")
            }
        })
    }

    fn config(&self) -> Value {
        match self {
            Self::RolePlay(config) => json!(config),
            Self::Games(config) => json!(config),
            Self::Tools(all) => json!({
                "rounds": all.evaluation,
                "costs": all.costs,
                "tools": all.tools,
                "sandbox": all.sandbox,
            }),
        }
    }
}

/// Names of other agents' adapters among the inputs.
const DPO_ADAPTER: &str = "adapter-dpo";
const GRPO_ADAPTER: &str = "adapter-grpo";
/// Folder of what realignment leaves.
const REALIGNMENT: &str = "realignment";

/// File of a testbed's evaluation rows.
pub fn rows_file(testbed: Testbed) -> &'static str {
    match testbed {
        Testbed::RolePlay => ROWS_FILE,
        Testbed::Coordination => GAME_ROWS_FILE,
        Testbed::ToolUse => TOOL_ROWS_FILE,
    }
}

/// Who is evaluated, and under what.
pub struct Evaluated {
    /// By which method it was trained, if any.
    pub variant: Variant,
    /// The stage that trained its adapter.
    pub trained: Option<String>,
    /// Name of the defence.
    pub name: String,
    /// The defence.
    pub defence: Defence,
    /// What it is trained on between rounds, if the defence has it so.
    pub curriculum: Option<Curriculum>,
}

/// Evaluates one variant of one model under one defence.
pub struct EvaluateStage {
    name: String,
    data: String,
    who: Evaluated,
    /// Stages that trained adapters of others who play with it: of DPO, of GRPO.
    others: [Option<String>; 2],
    testbed: Testbed,
    model: ModelSlot,
    generation: GenerationConfig,
    protocol: Protocol,
    /// Test questions, games or complex problems, if their number is known.
    questions: Option<u64>,
    seed: u64,
}

impl EvaluateStage {
    /// `data` makes the questions; `trained` are the stages of DPO and of GRPO without defence, where the recipe has them.
    pub fn new(
        name: String,
        data: &str,
        who: Evaluated,
        trained: &[Option<String>; 2],
        slot: &Slot,
    ) -> Self {
        let settings = slot.settings();
        let protocol = Protocol::of(slot.testbed, settings);
        let other = |kind, stage: &Option<String>| stage.clone().filter(|_| protocol.seats(kind));
        Self {
            name,
            data: data.into(),
            who,
            others: [
                other(AgentKind::Dpo, &trained[0]),
                other(AgentKind::Grpo, &trained[1]),
            ],
            testbed: slot.testbed,
            model: slot.model.clone(),
            generation: settings
                .stage_generation
                .evaluation
                .over(&settings.generation),
            protocol,
            questions: slot.sizes.map(|sizes| sizes.test),
            seed: slot.seed,
        }
    }
}

impl Stage for EvaluateStage {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn kind(&self) -> &'static str {
        KIND
    }

    fn format(&self) -> u32 {
        4
    }

    fn config(&self) -> Value {
        let mut config = json!({
            "testbed": self.testbed,
            "evaluation": self.protocol.config(),
            "generation": self.generation,
            "model": self.model.name,
            "variant": self.who.variant,
        });
        if self.who.name != NONE {
            config["defence"] = json!({ "name": self.who.name, "measures": self.who.defence });
        }
        if let Some(curriculum) = &self.who.curriculum {
            config["curriculum"] = curriculum.config();
        }
        config
    }

    fn model_identity(&self) -> Option<String> {
        Some(self.model.identity())
    }

    fn model_origin(&self) -> Option<String> {
        Some(self.model.origin())
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn is_shared(&self) -> bool {
        // A server is asked once, by one.
        !self.model.spec.is_served()
    }

    fn work(&self) -> Option<Work> {
        let work = self.protocol.work(self.questions)?;
        Some(work.writing(self.generation.new_tokens()))
    }

    fn inputs(&self) -> Vec<Input> {
        let mut inputs = vec![Input::output("questions", &self.data, TEST)];
        let [dpo, grpo] = &self.others;
        let adapters = [
            ("adapter", &self.who.trained),
            (DPO_ADAPTER, dpo),
            (GRPO_ADAPTER, grpo),
        ];
        inputs.extend(
            adapters
                .iter()
                .filter_map(|(name, stage)| Some(Input::output(*name, stage.as_ref()?, ADAPTER))),
        );
        inputs.extend(self.who.curriculum.iter().flat_map(Curriculum::inputs));
        inputs
    }

    fn run(&self, context: &StageContext) -> anyhow::Result<()> {
        if let Some(endpoint) = self.model.served()? {
            let model = Responder::Served(&endpoint);
            return self.evaluate(context, model, &mut None, &[None, None]);
        }
        let model = self.model.load()?;
        let asked = Responder::Loaded(&model);
        let adapter = |name: &str, stage: &Option<String>| -> anyhow::Result<Option<Adapter>> {
            let config = model.decoder.config();
            Ok(match stage {
                None => None,
                Some(_) => Some(Adapter::load(
                    context.input(name)?,
                    config,
                    model.decoder.device(),
                )?),
            })
        };
        let own = adapter("adapter", &self.who.trained)?;
        let others = [
            adapter(DPO_ADAPTER, &self.others[0])?,
            adapter(GRPO_ADAPTER, &self.others[1])?,
        ];
        let (Some(plan), Some(curriculum)) = (self.who.defence.realignment, &self.who.curriculum)
        else {
            return self.evaluate(context, asked, &mut own.as_ref(), &others);
        };
        let mut own = Some(own.context("realignment begins with a trained agent")?);
        let render = curriculum.generation().render_options();
        let place = RealignmentPlace {
            model: &model,
            base: &self.model.spec.source,
            render: &render,
            seed: context.seed,
            out: &context.output(REALIGNMENT),
            checkpoints: context.checkpoints.directory(),
        };
        curriculum.with_lessons(context, |_| Ok(()), &mut |lessons| {
            let start = own.take().context("lessons are given once")?;
            let rounds = self.protocol.rounds();
            let mut weights = Realigned::new(plan, rounds, lessons, place, start);
            self.evaluate(context, asked, &mut weights, &others)
        })
    }
}

impl EvaluateStage {
    /// Run the rounds and write the rows.
    fn evaluate(
        &self,
        context: &StageContext,
        model: Responder,
        weights: &mut dyn Weights,
        others: &[Option<Adapter>; 2],
    ) -> anyhow::Result<()> {
        let data = context.input("questions")?;
        let subject = Subject {
            name: &self.model.name,
            variant: self.who.variant.name(),
            seed: self.seed,
            model,
            guard: Guard {
                name: &self.who.name,
                defence: &self.who.defence,
            },
        };
        // The stream's root is the same for every variant and defence: they are compared on common random numbers.
        let (root, checkpoints) = (context.seed, &context.checkpoints);
        let generation = &self.generation;
        let bytes = match &self.protocol {
            Protocol::RolePlay(config) => {
                let questions = questions::read(data)?;
                encode_parquet(&evaluate(
                    &subject,
                    weights,
                    &questions,
                    generation,
                    config,
                    root,
                    checkpoints,
                )?)?
            }
            Protocol::Games(config) => {
                let games = games::read(data)?;
                let team = Team {
                    subject: weights,
                    dpo: others[0].as_ref(),
                    grpo: others[1].as_ref(),
                };
                encode_parquet(&evaluate_games(
                    &subject,
                    team,
                    &games,
                    generation,
                    config,
                    root,
                    checkpoints,
                )?)?
            }
            Protocol::Tools(all) => {
                let problems = problems::read(data)?;
                let workshop = Workshop {
                    generation,
                    tools: &all.tools,
                    sandbox: &Sandbox::new(&all.sandbox)?,
                    costs: all.costs,
                };
                encode_parquet(&evaluate_tools(
                    &subject,
                    weights,
                    &problems,
                    &workshop,
                    &all.evaluation,
                    root,
                    checkpoints,
                )?)?
            }
        };
        write_atomic(&context.output(rows_file(self.testbed)), &bytes)?;
        Ok(())
    }
}
