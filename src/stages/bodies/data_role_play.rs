//! Role-play data: environments in, training and test questions out.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::data::{CARD, DataSource, TEST, TRAIN, toml_files, with_files, write_proof};
use super::shared::Sizes;
use crate::artifact::table::any::columns_of;
use crate::artifact::{digest_bytes, write_atomic};
use crate::datasets::card::{Card, CardFile};
use crate::datasets::questions;
use crate::recipe::Recipe;
use crate::recipe::raw::RawRolePlay;
use crate::runtime::embedded::ENVIRONMENTS;
use crate::scenario::environment::{Environment, load_environments, parse_environment};
use crate::scenario::question::Question;
use crate::scenario::role_play::{QuestionSet, QuestionSpec, generate};
use crate::stages::StageContext;

/// Draws role-play questions.
pub struct RolePlayData {
    spec: QuestionSpec,
    environments: Vec<Environment>,
    /// Files of the environments, or none where they are a part of the program.
    files: Vec<PathBuf>,
}

impl RolePlayData {
    /// From the recipe's folder, or the program's own environments.
    pub fn new(recipe: &Recipe, settings: &RawRolePlay) -> anyhow::Result<Self> {
        let (environments, files) = match &settings.folder {
            Some(folder) => {
                let folder = recipe.base.join(folder);
                let files = toml_files(recipe, "role_play.folder", &folder)?;
                (load_environments(&folder)?, files)
            }
            None => {
                let parse = |(name, text): &(&str, &str)| {
                    parse_environment(&PathBuf::from(format!("data/role_play/{name}.toml")), text)
                };
                let environments = ENVIRONMENTS.iter().map(parse).collect::<Result<_, _>>()?;
                (environments, vec![])
            }
        };
        Ok(Self {
            spec: settings.spec(),
            environments,
            files,
        })
    }

    fn card(&self, set: &QuestionSet, seed: u64) -> anyhow::Result<String> {
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
            seed,
            settings: &with_files(self.config(), "environments", &self.files)?,
        };
        Ok(card.to_markdown())
    }
}

impl DataSource for RolePlayData {
    fn config(&self) -> Value {
        let mut config = json!({ "questions": self.spec });
        if self.files.is_empty() {
            config["environments"] = json!(embedded_digest(ENVIRONMENTS));
        }
        config
    }

    fn files(&self) -> &[PathBuf] {
        &self.files
    }

    fn sizes(&self) -> Option<Sizes> {
        let environments = self.environments.len() as u64;
        Some(Sizes {
            train: environments.saturating_mul(self.spec.train_per_environment.into()),
            test: environments.saturating_mul(self.spec.test_per_environment.into()),
        })
    }

    fn write(&self, context: &StageContext, seed: u64) -> anyhow::Result<()> {
        let set = generate(&self.environments, &self.spec, context.seed)?;
        write_atomic(&context.output(TRAIN), &questions::encode(&set.train)?)?;
        write_atomic(&context.output(TEST), &questions::encode(&set.test)?)?;
        let sizes = (set.train.len(), set.test.len());
        write_proof(context, sizes, &set.disjointness)?;
        write_atomic(&context.output(CARD), self.card(&set, seed)?.as_bytes())?;
        tracing::info!(
            "{} training and {} test questions, disjoint",
            set.train.len(),
            set.test.len()
        );
        Ok(())
    }
}

/// Digest of texts that are part of the program.
pub(super) fn embedded_digest(texts: &[(&str, &str)]) -> String {
    let all: String = texts
        .iter()
        .map(|(name, text)| format!("{name}\n{text}"))
        .collect();
    digest_bytes(all.as_bytes()).to_string()
}
