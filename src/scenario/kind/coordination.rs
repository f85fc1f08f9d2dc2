//! Coordination games as scenario files.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use super::{SHOWN_HISTORY, SamplePrompt, ScenarioKind, ScenarioSheet, ShowOptions};
use crate::runtime::embedded::GAMES;
use crate::scenario::coordination::game::check_game_file;
use crate::scenario::coordination::prompt::GamePrompt;
use crate::scenario::coordination::{
    Game, GameInstance, GameSetting, GameSpec, generate, parse_game,
};
use crate::scenario::decision::Decision;
use crate::scenario::defence::augmentation::Augmentation;
use crate::scenario::environment::EnvironmentError;
use crate::scenario::prompt::AnswerStyle;

/// Coordination games.
pub(super) struct CoordinationKind;

const SKELETON: &str = include_str!("coordination.toml");
/// The skeleton's own name.
const SKELETON_ID: &str = "street-lights";
/// The setting of sample prompts: the paper's.
const SETTING: GameSetting = GameSetting {
    agents: 8,
    threshold: 4,
    high: 1.2,
    medium: 1.0,
    low: 0.8,
};

/// The game, from which instances can be drawn.
fn load(path: &Path, text: &str) -> Result<Game, Vec<String>> {
    let told = |errors: Vec<EnvironmentError>| -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    };
    let game = check_game_file(path, text).map_err(told)?;
    let one = std::slice::from_ref(&game);
    match generate(one, &GameSpec::default(), &[SETTING], 1) {
        Ok(_) => Ok(game),
        Err(error) => Err(vec![format!("{}: {error}", path.display())]),
    }
}

impl ScenarioKind for CoordinationKind {
    fn name(&self) -> &'static str {
        "coordination"
    }

    fn noun(&self) -> &'static str {
        "coordination game"
    }

    fn keys(&self) -> &'static [&'static str] {
        &[
            "id",
            "title",
            "persona",
            "task",
            "agent",
            "agents",
            "stock",
            "mode",
            "success",
            "collusive",
            "independent",
            "history",
            "train",
            "test",
        ]
    }

    fn embedded(&self) -> &'static [(&'static str, &'static str)] {
        GAMES
    }

    fn check(&self, path: &Path, text: &str) -> Result<String, Vec<String>> {
        let game = load(path, text)?;
        Ok(format!(
            "{} training and {} test situations",
            game.train.situations.len(),
            game.test.situations.len()
        ))
    }

    fn check_set(&self, files: &[(&Path, &str)]) -> Result<String, String> {
        let games = files
            .iter()
            .map(|(path, text)| parse_game(path, text))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())?;
        let set = generate(&games, &GameSpec::default(), &[SETTING], 1)
            .map_err(|error| error.to_string())?;
        Ok(format!(
            "{} training instances can be drawn, and {} test instance{} a setting, disjoint",
            set.train.len(),
            set.test.len(),
            if set.test.len() == 1 { "" } else { "s" },
        ))
    }

    fn show(
        &self,
        path: &Path,
        text: &str,
        options: &ShowOptions,
    ) -> Result<ScenarioSheet, Vec<String>> {
        let game = load(path, text)?;
        let spec = GameSpec {
            answer: options.answer,
            ..GameSpec::default()
        };
        let one = std::slice::from_ref(&game);
        let set = generate(one, &spec, &[SETTING], options.seed)
            .map_err(|error| vec![format!("{}: {error}", path.display())])?;
        let prompts = [set.train.first(), set.test.first()];
        let sample = |instance: &GameInstance, id: String, messages| SamplePrompt {
            id,
            messages,
            answers: instance.option_answers().map(|(_, text)| text).to_vec(),
        };
        let mut prompts: Vec<SamplePrompt> = prompts
            .into_iter()
            .flatten()
            .map(|g| sample(g, g.id.clone(), g.messages(AnswerStyle::Reasoned, None)))
            .collect();
        if let (Some(defence), Some(g)) = (&options.defence, set.test.first()) {
            let mut rng = Augmentation::stream(options.seed, &g.id, 1);
            let stops = |outcome, round| defence.stops(outcome, options.seed, round, &g.id);
            let history = SHOWN_HISTORY.game(g, &mut rng, stops);
            let id = format!("{}, after four simulated rounds, defended", g.id);
            prompts.push(sample(
                g,
                id,
                defence.game(g, &history, &GamePrompt::default()),
            ));
        }
        Ok(ScenarioSheet {
            kind: self.name(),
            id: game.id.clone(),
            title: game.title.clone(),
            lines: lines(&game),
            prompts,
            scenario: json!(game),
        })
    }

    fn skeleton(&self, name: &str) -> String {
        SKELETON.replace(SKELETON_ID, name)
    }
}

fn lines(game: &Game) -> Vec<(&'static str, String)> {
    let slots = |values: &BTreeMap<String, Vec<String>>| {
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
    let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let (collusive, independent) = (&game.collusive, &game.independent);
    vec![
        ("persona", game.persona.clone()),
        ("task", game.task.clone()),
        (
            "agents",
            format!("{}, {}; stock: {}", game.agent, game.agents, game.stock),
        ),
        (
            "reward",
            format!(
                "{}; a success pays {}",
                word(json!(game.mode)),
                word(json!(game.success))
            ),
        ),
        (
            "collusive",
            descriptions(&collusive.name, &collusive.train, &collusive.test),
        ),
        (
            "independent",
            descriptions(&independent.name, &independent.train, &independent.test),
        ),
        ("success", game.history.success.clone()),
        ("failure", game.history.failure.clone()),
        ("peer", game.history.peer.clone()),
        (
            "training",
            format!(
                "{} situations; values of {}",
                game.train.situations.len(),
                slots(&game.train.values)
            ),
        ),
        (
            "test",
            format!(
                "{} situations; values of {}",
                game.test.situations.len(),
                slots(&game.test.values)
            ),
        ),
    ]
}
