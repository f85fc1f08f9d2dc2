//! Coordination data: games in, training and test instances out.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::data::{DataSource, TEST, TRAIN, toml_files};
use super::data_role_play::embedded_digest;
use crate::artifact::write_atomic;
use crate::datasets::games;
use crate::recipe::Recipe;
use crate::recipe::raw::RawCoordination;
use crate::runtime::embedded::GAMES;
use crate::scenario::coordination::game::{Game, load_games, shipped_games};
use crate::scenario::coordination::{GameSetting, GameSpec, generate};
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

    fn write(&self, context: &StageContext) -> anyhow::Result<()> {
        let set = generate(&self.games, &self.spec, &self.settings, context.seed)?;
        write_atomic(&context.output(TRAIN), &games::encode(&set.train)?)?;
        write_atomic(&context.output(TEST), &games::encode(&set.test)?)?;
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
        tracing::info!(
            "{} training and {} test instances, disjoint",
            set.train.len(),
            set.test.len()
        );
        Ok(())
    }
}
