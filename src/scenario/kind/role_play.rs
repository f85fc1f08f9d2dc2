//! Role-play environments as scenario files.

use std::path::Path;

use serde_json::json;

use super::{SHOWN_HISTORY, SamplePrompt, ScenarioKind, ScenarioSheet, ShowOptions};
use crate::runtime::embedded::ENVIRONMENTS;
use crate::scenario::defence::augmentation::Augmentation;
use crate::scenario::environment::{
    Environment, EnvironmentError, check_environment_file, parse_environment,
};
use crate::scenario::prompt::{PromptOptions, render};
use crate::scenario::question::{Question, option_answers};
use crate::scenario::role_play::{QuestionSpec, generate};

/// Role-play environments.
pub(super) struct RolePlayKind;

const SKELETON: &str = include_str!("role_play.toml");
/// The skeleton's own name.
const SKELETON_ID: &str = "park-garden";

/// The environment, from which questions can be drawn.
fn load(path: &Path, text: &str) -> Result<Environment, Vec<String>> {
    let told = |errors: Vec<EnvironmentError>| -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    };
    let environment = check_environment_file(path, text).map_err(told)?;
    let one = std::slice::from_ref(&environment);
    match generate(one, &QuestionSpec::default(), 1) {
        Ok(_) => Ok(environment),
        Err(error) => Err(vec![format!("{}: {error}", path.display())]),
    }
}

impl ScenarioKind for RolePlayKind {
    fn name(&self) -> &'static str {
        "role-play"
    }

    fn noun(&self) -> &'static str {
        "role-play environment"
    }

    fn keys(&self) -> &'static [&'static str] {
        &[
            "id",
            "title",
            "persona",
            "task",
            "rule",
            "unit",
            "compliant",
            "deviant",
            "pay",
            "supervision",
            "train",
            "test",
        ]
    }

    fn embedded(&self) -> &'static [(&'static str, &'static str)] {
        ENVIRONMENTS
    }

    fn check(&self, path: &Path, text: &str) -> Result<String, Vec<String>> {
        let env = load(path, text)?;
        Ok(format!(
            "{} training and {} test situations",
            env.train.situations.len(),
            env.test.situations.len()
        ))
    }

    fn check_set(&self, files: &[(&Path, &str)]) -> Result<String, String> {
        let environments = files
            .iter()
            .map(|(path, text)| parse_environment(path, text))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())?;
        let set = generate(&environments, &QuestionSpec::default(), 1)
            .map_err(|error| error.to_string())?;
        Ok(format!(
            "{} training and {} test questions can be drawn, disjoint",
            set.train.len(),
            set.test.len()
        ))
    }

    fn show(
        &self,
        path: &Path,
        text: &str,
        options: &ShowOptions,
    ) -> Result<ScenarioSheet, Vec<String>> {
        let env = load(path, text)?;
        let spec = QuestionSpec {
            answer: options.answer,
            ..QuestionSpec::default()
        };
        let set = generate(std::slice::from_ref(&env), &spec, options.seed)
            .map_err(|error| vec![format!("{}: {error}", path.display())])?;
        let prompts = [set.train.first(), set.test.first()];
        let plain = PromptOptions::default();
        let sample = |question: &Question, id: String, messages| SamplePrompt {
            id,
            messages,
            answers: option_answers(question).map(|(_, text)| text).to_vec(),
        };
        let mut prompts: Vec<SamplePrompt> = prompts
            .into_iter()
            .flatten()
            .map(|q| sample(q, q.id.clone(), render(q, &[], &plain)))
            .collect();
        if let (Some(defence), Some(q)) = (&options.defence, set.test.first()) {
            let mut rng = Augmentation::stream(options.seed, &q.id, 1);
            let mut history = SHOWN_HISTORY.role_play(q, &mut rng);
            for episode in &mut history {
                if defence.stops(episode.outcome, options.seed, episode.round, &q.id) {
                    *episode = episode.clone().stopped(q);
                }
            }
            let id = format!("{}, after four simulated rounds, defended", q.id);
            prompts.push(sample(q, id, defence.role_play(q, &history, &plain)));
        }
        Ok(ScenarioSheet {
            kind: self.name(),
            id: env.id.clone(),
            title: env.title.clone(),
            lines: lines(&env),
            prompts,
            scenario: json!(env),
        })
    }

    fn skeleton(&self, name: &str) -> String {
        SKELETON.replace(SKELETON_ID, name)
    }
}

fn lines(env: &Environment) -> Vec<(&'static str, String)> {
    let range = |[low, high]: [u32; 2]| match low == high {
        true => low.to_string(),
        false => format!("{low} to {high}"),
    };
    let slots = |values: &std::collections::BTreeMap<String, Vec<String>>| {
        let slots: Vec<String> = values
            .iter()
            .map(|(slot, values)| format!("{slot} ({})", values.len()))
            .collect();
        slots.join(", ")
    };
    let descriptions = |name: &str, train: &[String], test: &[String]| {
        format!(
            "{name} ({} training and {} test descriptions)",
            train.len(),
            test.len()
        )
    };
    vec![
        ("persona", env.persona.clone()),
        ("task", env.task.clone()),
        ("rule", env.rule.clone()),
        (
            "compliant",
            descriptions(
                &env.compliant.name,
                &env.compliant.train,
                &env.compliant.test,
            ),
        ),
        (
            "deviant",
            descriptions(&env.deviant.name, &env.deviant.train, &env.deviant.test),
        ),
        (
            "pay",
            format!(
                "{} {} for keeping the rule; {} more for breaking it unseen; {} where that is seen",
                range(env.pay.compliant),
                env.unit,
                range(env.pay.bonus),
                range(env.pay.detected)
            ),
        ),
        ("supervised", env.supervision.supervised.clone()),
        ("unsupervised", env.supervision.unsupervised.clone()),
        ("neutral", env.supervision.neutral.clone()),
        (
            "training",
            format!(
                "{} situations; values of {}",
                env.train.situations.len(),
                slots(&env.train.values)
            ),
        ),
        (
            "test",
            format!(
                "{} situations; values of {}",
                env.test.situations.len(),
                slots(&env.test.values)
            ),
        ),
    ]
}
