//! Coordination data: games in, training and test instances out.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::data::{CARD, DataSource, TEST, TRAIN, toml_files, with_files, write_proof};
use super::data_role_play::embedded_digest;
use super::shared::Sizes;
use crate::artifact::table::any::columns_of;
use crate::artifact::write_atomic;
use crate::datasets::card::{Card, CardFile};
use crate::datasets::games;
use crate::recipe::Recipe;
use crate::recipe::raw::RawCoordination;
use crate::runtime::embedded::GAMES;
use crate::scenario::coordination::game::{Game, load_games, shipped_games};
use crate::scenario::coordination::{GameInstance, GameSet, GameSetting, GameSpec, generate};
use crate::stages::StageContext;

/// Draws coordination games.
pub struct GameData {
    spec: GameSpec,
    /// Settings of the test.
    settings: Vec<GameSetting>,
    games: Vec<Game>,
    /// Files of the games, or none where they are a part of the program.
    files: Vec<PathBuf>,
}

impl GameData {
    /// From the recipe's folder, or the program's own games.
    pub fn new(recipe: &Recipe, settings: &RawCoordination) -> anyhow::Result<Self> {
        let (games, files) = match &settings.folder {
            Some(folder) => {
                let folder = recipe.base.join(folder);
                let files = toml_files(recipe, "coordination.folder", &folder)?;
                (load_games(&folder)?, files)
            }
            None => (shipped_games()?, vec![]),
        };
        Ok(Self {
            spec: settings.draw.clone(),
            settings: settings.evaluation.settings(),
            games,
            files,
        })
    }

    fn card(&self, set: &GameSet, seed: u64) -> anyhow::Result<String> {
        let made = [
            "Coordination games for the alignment of language agents. Several agents choose at the same time between a \
             collusive and an independent option; if as many as the threshold collude, the high reward is paid, else \
             colluders get the low one and the others the medium one."
                .to_owned(),
            format!(
                "Drawn from {} games, TOML files with situation texts and slots. Training instances have drawn numbers, \
                 test instances those of the recipe's settings. Training and test share no text and no description; the \
                 nearest test and training situations have a Jaccard index of {:.3} on word 5-grams, the nearest unfilled \
                 texts {:.3} on 3-grams. Which option stands first and which letter it has is counterbalanced.",
                self.games.len(),
                set.disjointness.situations.index,
                set.disjointness.phrasings.index
            ),
        ];
        let own = self.files.is_empty();
        let card = Card {
            title: "Coordination games",
            licence: own.then_some("apache-2.0"),
            licence_words: match own {
                true => "Apache-2.0, as the program's games that the texts come from.",
                false => "That of the game files, which are not the program's own.",
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
            schema: games::GAMES_SCHEMA,
            columns: &columns_of::<GameInstance>()?,
            meanings: games::GAME_COLUMNS,
            counts: &[("games".to_owned(), self.games.len())],
            seed,
            settings: &with_files(self.config(), "games", &self.files)?,
        };
        Ok(card.to_markdown())
    }
}

impl DataSource for GameData {
    fn config(&self) -> Value {
        let mut config = json!({ "draw": self.spec, "settings": self.settings });
        if self.files.is_empty() {
            config["games"] = json!(embedded_digest(GAMES));
        }
        config
    }

    fn files(&self) -> &[PathBuf] {
        &self.files
    }

    fn sizes(&self) -> Option<Sizes> {
        let games = self.games.len() as u64;
        let played = (self.settings.len() as u64).saturating_mul(self.spec.test_phrasings.into());
        Some(Sizes {
            train: games.saturating_mul(self.spec.instances_per_game.into()),
            test: games.saturating_mul(played),
        })
    }

    fn write(&self, context: &StageContext, seed: u64) -> anyhow::Result<()> {
        let set = generate(&self.games, &self.spec, &self.settings, context.seed)?;
        write_atomic(&context.output(TRAIN), &games::encode(&set.train)?)?;
        write_atomic(&context.output(TEST), &games::encode(&set.test)?)?;
        let sizes = (set.train.len(), set.test.len());
        write_proof(context, sizes, &set.disjointness)?;
        write_atomic(&context.output(CARD), self.card(&set, seed)?.as_bytes())?;
        tracing::info!(
            "{} training and {} test instances, disjoint",
            set.train.len(),
            set.test.len()
        );
        Ok(())
    }
}
