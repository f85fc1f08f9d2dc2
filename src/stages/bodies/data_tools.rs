//! Tool-use data: a specification in, training and test problems out.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::data::{CARD, DataSource, TEST, TRAIN};
use super::shared::Sizes;
use crate::artifact::table::any::columns_of;
use crate::artifact::write_atomic;
use crate::datasets::card::{Card, CardFile};
use crate::datasets::import::{ImportReport, ImportSpec, import};
use crate::datasets::problems;
use crate::recipe::raw::{ProblemSource, RawToolUse};
use crate::scenario::tool_use::{Difficulty, Problem, ProblemSet, ProblemSpec, generate};
use crate::stages::StageContext;

/// Draws problems, or gets them from the hub.
pub struct ToolData {
    spec: ProblemSpec,
    hub: Option<ImportSpec>,
}

impl ToolData {
    /// As the recipe asks.
    pub fn new(settings: &RawToolUse) -> Self {
        Self {
            spec: settings.problems.clone(),
            hub: (settings.source == ProblemSource::Hub).then(|| settings.hub.clone()),
        }
    }

    fn card(
        &self,
        set: &ProblemSet,
        imported: Option<&ImportReport>,
        seed: u64,
    ) -> anyhow::Result<String> {
        let origin = match imported {
            None => format!(
                "Made by a program: families of problems whose numbers are drawn, every answer computed in two independent \
                 ways, with a Python program that prints it. What is computed decides the split, so training and test \
                 share no computation; their phrasings differ, too: the nearest have a Jaccard index of {:.3}.",
                set.disjointness.phrasings.index
            ),
            Some(report) => {
                let commits: Vec<String> = report
                    .commits
                    .iter()
                    .map(|(repo, commit)| format!("`{repo}` at {commit}"))
                    .collect();
                format!(
                    "Selected from {}: simple problems of at most three computation steps, numbers up to 1000 and fifty \
                     words; complex ones with a numeric answer on algorithms, combinatorics or algebra.",
                    commits.join(" and ")
                )
            }
        };
        let made = [
            "Problems for the study of tool use by language agents: simple ones, where reasoning alone is the cheap way, \
             and complex ones, where a program is worth its price."
                .to_owned(),
            origin,
        ];
        let count = |problems: &[Problem], difficulty| {
            problems
                .iter()
                .filter(|p| p.difficulty == difficulty)
                .count()
        };
        let mut counts = vec![];
        for (split, problems) in [("training", &set.train), ("test", &set.test)] {
            for difficulty in Difficulty::BOTH {
                let what = format!("{} {split} problems", difficulty.name());
                counts.push((what, count(problems, difficulty)));
            }
        }
        let own = imported.is_none();
        let card = Card {
            title: "Tool-use problems",
            licence: own.then_some("apache-2.0"),
            licence_words: match own {
                true => "Apache-2.0, as the program that made them.",
                false => "Those of the data sets they were selected from.",
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
            schema: problems::PROBLEMS_SCHEMA,
            columns: &columns_of::<Problem>()?,
            meanings: problems::PROBLEM_COLUMNS,
            counts: &counts,
            seed,
            settings: &self.config(),
        };
        Ok(card.to_markdown())
    }
}

impl DataSource for ToolData {
    fn config(&self) -> Value {
        json!({ "problems": self.spec, "hub": self.hub })
    }

    fn files(&self) -> &[PathBuf] {
        &[]
    }

    fn sizes(&self) -> Option<Sizes> {
        // How many of the hub's problems meet the criteria is known when they are there.
        self.hub.is_none().then(|| Sizes {
            train: u64::from(self.spec.train_simple) + u64::from(self.spec.train_complex),
            test: self.spec.test_complex.into(),
        })
    }

    fn write(&self, context: &StageContext, seed: u64) -> anyhow::Result<()> {
        let (set, imported) = match &self.hub {
            None => (generate(&self.spec, context.seed)?, None),
            Some(hub) => {
                let (set, report) = import(hub, &self.spec, context.seed)?;
                (set, Some(report))
            }
        };
        write_atomic(&context.output(TRAIN), &problems::encode(&set.train)?)?;
        write_atomic(&context.output(TEST), &problems::encode(&set.test)?)?;
        let pretty = serde_json::to_string_pretty(&set.disjointness)?;
        write_atomic(&context.output("disjointness.json"), pretty.as_bytes())?;
        if let Some(report) = &imported {
            let pretty = serde_json::to_string_pretty(report)?;
            write_atomic(&context.output("import.json"), pretty.as_bytes())?;
        }
        let card = self.card(&set, imported.as_ref(), seed)?;
        write_atomic(&context.output(CARD), card.as_bytes())?;
        tracing::info!(
            "{} training and {} test problems, disjoint",
            set.train.len(),
            set.test.len()
        );
        Ok(())
    }
}
