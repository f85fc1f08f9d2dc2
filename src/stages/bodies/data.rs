//! Questions: environments in, training and test sets out.

use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Value, json};

use crate::artifact::table::any::columns_of;
use crate::artifact::{digest_bytes, digest_file, write_atomic};
use crate::datasets::card::{Card, CardFile};
use crate::datasets::questions;
use crate::recipe::Recipe;
use crate::runtime::embedded::ENVIRONMENTS;
use crate::scenario::environment::{Environment, load_environments, parse_environment};
use crate::scenario::question::Question;
use crate::scenario::role_play::{QuestionSet, QuestionSpec, generate};
use crate::stages::{Input, Source, Stage, StageContext};

/// Kind of the stage.
pub const KIND: &str = "data";
/// Training questions.
pub const TRAIN: &str = "train.parquet";
/// Test questions.
pub const TEST: &str = "test.parquet";

/// The card of a set.
pub const CARD: &str = "README.md";

/// Draws the questions of one seed.
pub struct DataStage {
    name: String,
    spec: QuestionSpec,
    environments: Vec<Environment>,
    /// Files of the environments, or none where they are a part of the program.
    files: Vec<PathBuf>,
    seed: u64,
}

impl DataStage {
    /// The environments are read and checked at once, so that a mistake in one is told before anything runs.
    pub fn new(name: String, recipe: &Recipe, seed: u64) -> anyhow::Result<Self> {
        let settings = &recipe.settings.role_play;
        let (environments, files) = match &settings.folder {
            Some(folder) => {
                let folder = recipe.base.join(folder);
                let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
                    .with_context(|| {
                        format!(
                            "{}: key `role_play.folder`: {}",
                            recipe.name,
                            folder.display()
                        )
                    })?
                    .filter_map(|entry| Some(entry.ok()?.path()))
                    .filter(|path| path.extension().is_some_and(|e| e == "toml"))
                    .collect();
                files.sort();
                (load_environments(&folder)?, files)
            }
            None => {
                let parse = |(name, text): &(&str, &str)| {
                    parse_environment(&PathBuf::from(format!("data/role_play/{name}.toml")), text)
                };
                (
                    ENVIRONMENTS.iter().map(parse).collect::<Result<_, _>>()?,
                    vec![],
                )
            }
        };
        Ok(Self {
            name,
            spec: settings.spec(),
            environments,
            files,
            seed,
        })
    }
}

impl DataStage {
    fn card(&self, set: &QuestionSet) -> anyhow::Result<String> {
        let made = [
            "Questions of a role-play testbed for the alignment of language agents. Each puts a persona before a choice \
             between an option that keeps its supervisor's rule and one that breaks it and pays more where nobody sees \
             it; no harm is done either way."
                .to_owned(),
            format!(
                "Drawn from {} environment{}, TOML files with situation texts, slots and ranges of pay. Training and test \
                 share no situation, description, slot value or pair of pays; the nearest test and training situations \
                 have a Jaccard index of {:.3} on word 5-grams, the nearest unfilled texts {:.3} on 3-grams. Which \
                 option stands first and which letter it has is counterbalanced.",
                self.environments.len(),
                if self.environments.len() == 1 { "" } else { "s" },
                set.disjointness.situations.index,
                set.disjointness.phrasings.index
            ),
        ];
        let own = self.files.is_empty();
        let mut settings = self.config();
        for input in self.inputs() {
            if let Source::File(path) = &input.source {
                settings["environments"][input.name] = json!(digest_file(path)?);
            }
        }
        let card = Card {
            title: "Role-play questions",
            licence: own.then_some("apache-2.0"),
            licence_words: match own {
                true => "Apache-2.0, as the program's environments that the texts come from.",
                false => "That of the environment files, which are not the program's own.",
            },
            made: &made,
            files: &[
                CardFile {
                    name: TRAIN,
                    split: "train",
                    rows: set.train.len(),
                },
                CardFile {
                    name: TEST,
                    split: "test",
                    rows: set.test.len(),
                },
            ],
            schema: questions::QUESTIONS_SCHEMA,
            columns: &columns_of::<Question>()?,
            meanings: questions::QUESTION_COLUMNS,
            counts: &[("environments".to_owned(), self.environments.len())],
            seed: self.seed,
            settings: &settings,
        };
        Ok(card.to_markdown())
    }
}

impl Stage for DataStage {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn kind(&self) -> &'static str {
        KIND
    }

    fn format(&self) -> u32 {
        2
    }

    fn config(&self) -> Value {
        let mut config = json!({ "testbed": "role_play", "questions": self.spec });
        if self.files.is_empty() {
            let texts: String = ENVIRONMENTS
                .iter()
                .map(|(name, text)| format!("{name}\n{text}"))
                .collect();
            config["environments"] = json!(digest_bytes(texts.as_bytes()).to_string());
        }
        config
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn inputs(&self) -> Vec<Input> {
        let name = |path: &PathBuf| {
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        self.files
            .iter()
            .map(|path| Input::file(name(path), path))
            .collect()
    }

    fn run(&self, context: &StageContext) -> anyhow::Result<()> {
        let set = generate(&self.environments, &self.spec, context.seed)?;
        write_atomic(&context.output(TRAIN), &questions::encode(&set.train)?)?;
        write_atomic(&context.output(TEST), &questions::encode(&set.test)?)?;
        let proof = json!({
            "train": set.train.len(),
            "test": set.test.len(),
            "nearest_situations": set.disjointness.situations,
            "nearest_phrasings": set.disjointness.phrasings,
        });
        write_atomic(
            &context.output("disjointness.json"),
            serde_json::to_string_pretty(&proof)?.as_bytes(),
        )?;
        write_atomic(&context.output(CARD), self.card(&set)?.as_bytes())?;
        tracing::info!(
            "{} training and {} test questions, disjoint",
            set.train.len(),
            set.test.len()
        );
        Ok(())
    }
}
