//! Draws the games: training instances with drawn numbers, test instances with given ones, and the proof that the two do
//! not overlap.
//!
//! Rewards are drawn in steps of 0.01, so that they stand exactly in the texts and stay strictly ordered. Order and
//! letters of the options are a 2×2 design within each game. All settings of a test game share one text, so that they
//! differ in their numbers alone. Every game and split has a random stream of its own.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::disjoint::{check_disjoint, content};
use super::game::Game;
use super::instance::GameInstance;
use super::setting::{GameSetting, MAX_AGENTS, STEPS, SettingError};
use crate::runtime::seed::stream;
use crate::scenario::disjoint::{Disjointness, OverlapError};
use crate::scenario::environment::Situations;
use crate::scenario::question::{AnswerForm, LABELS, Split};
use crate::scenario::role_play::{Cell, MAX_DRAWS, MAX_PER_ENVIRONMENT, cells, deck};
use crate::scenario::slots::{fill, names, pieces};

/// What to draw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GameSpec {
    /// Training instances of each game.
    pub instances_per_game: u32,
    /// Range of the number of agents in training, both ends included. The threshold is drawn from 2 to that number.
    pub agents: [u32; 2],
    /// Range of the high reward in training. The medium reward is drawn below it, the low one below that.
    pub high: [f64; 2],
    /// Least low reward in training.
    pub floor: f64,
    /// Test texts of each game; every one is played in every setting.
    pub test_phrasings: u32,
    /// What the JSON answer holds.
    pub answer: AnswerForm,
}

impl Default for GameSpec {
    /// The paper's numbers: 50 a game, which makes 350 with 7 games; 5 to 15 agents; high rewards from 1 to 2.
    fn default() -> Self {
        Self {
            instances_per_game: 50,
            agents: [5, 15],
            high: [1.0, 2.0],
            floor: 0.1,
            test_phrasings: 1,
            answer: AnswerForm::default(),
        }
    }
}

/// Both sets, proven disjoint.
#[derive(Debug, Clone, PartialEq)]
pub struct GameSet {
    /// Training games, by game.
    pub train: Vec<GameInstance>,
    /// Test games, by game, then text, then setting.
    pub test: Vec<GameInstance>,
    /// What the proof measured.
    pub disjointness: Disjointness,
}

/// Why no games could be drawn.
#[derive(Debug, thiserror::Error)]
pub enum DrawError {
    /// A number of the specification that makes no sense.
    #[error("games: `{field}`: expected {expected}, got {got}")]
    Spec {
        /// The setting.
        field: &'static str,
        /// What must hold.
        expected: String,
        /// Its value.
        got: String,
    },
    /// A test setting that is no game.
    #[error("games: test setting {index}: {problem}")]
    Setting {
        /// Its place in the list, from 1.
        index: usize,
        /// What is wrong.
        problem: SettingError,
    },
    /// There are no games or settings, or two of one kind.
    #[error("games: {0}")]
    Games(String),
    /// The ranges and texts do not give as many different games as asked.
    #[error(
        "games: game `{game}`: no new instance for number {index} of {wanted} in {MAX_DRAWS} draws; \
         widen `agents`, `high` or `floor`, write more texts, or ask for fewer instances"
    )]
    Exhausted {
        /// The game.
        game: String,
        /// The instance, from 1.
        index: u32,
        /// How many were asked for.
        wanted: u32,
    },
    /// A text whose slots have no values; checked games have none.
    #[error("games: game `{game}`: {problem}")]
    Text {
        /// The game.
        game: String,
        /// What is wrong.
        problem: String,
    },
    /// The sets overlap.
    #[error("games: {0}")]
    Overlap(#[from] OverlapError),
}

impl GameSpec {
    /// Whether the ranges can be drawn from.
    ///
    /// # Errors
    /// The first field that cannot.
    pub fn check(&self) -> Result<(), DrawError> {
        let error = |field, expected: String, got: String| DrawError::Spec {
            field,
            expected,
            got,
        };
        if !(1..=MAX_PER_ENVIRONMENT).contains(&self.instances_per_game) {
            let expected = format!("1 to {MAX_PER_ENVIRONMENT}");
            let got = self.instances_per_game.to_string();
            return Err(error("instances_per_game", expected, got));
        }
        let [fewest, most] = self.agents;
        if fewest < 2 || fewest > most || most > MAX_AGENTS {
            let expected = format!("[fewest, most] with 2 ≤ fewest ≤ most ≤ {MAX_AGENTS}");
            return Err(error("agents", expected, format!("{:?}", self.agents)));
        }
        let bounded = |x: f64| (0.0..=1000.0).contains(&x);
        if !bounded(self.floor) {
            return Err(error("floor", "0 to 1000".into(), self.floor.to_string()));
        }
        let [from, to] = self.high;
        let room = steps(self.floor) + 2 <= steps(from);
        if !(bounded(from) && bounded(to) && from <= to && room) {
            let expected = format!(
                "[from, to] with floor + 0.02 = {:.2} ≤ from ≤ to ≤ 1000",
                { self.floor + 0.02 }
            );
            return Err(error("high", expected, format!("{:?}", self.high)));
        }
        if !(1..=MAX_PER_ENVIRONMENT).contains(&self.test_phrasings) {
            let expected = format!("1 to {MAX_PER_ENVIRONMENT}");
            let got = self.test_phrasings.to_string();
            return Err(error("test_phrasings", expected, got));
        }
        Ok(())
    }
}

/// A reward in steps of 0.01.
fn steps(reward: f64) -> u32 {
    (reward * STEPS).round() as u32
}

/// Draws both sets; test games are played in each of `settings`. They depend on the arguments alone.
///
/// # Errors
/// See [`DrawError`].
pub fn generate(
    games: &[Game],
    spec: &GameSpec,
    settings: &[GameSetting],
    seed: u64,
) -> Result<GameSet, DrawError> {
    spec.check()?;
    for (place, setting) in settings.iter().enumerate() {
        let named = |problem| DrawError::Setting {
            index: place + 1,
            problem,
        };
        setting.check().map_err(named)?;
        if settings[..place].contains(setting) {
            let problem = format!("test setting {} is there twice", setting.id());
            return Err(DrawError::Games(problem));
        }
    }
    if games.is_empty() || settings.is_empty() {
        let missing = if games.is_empty() {
            "games"
        } else {
            "test settings"
        };
        return Err(DrawError::Games(format!("no {missing}")));
    }
    let mut ids = BTreeSet::new();
    if let Some(game) = games.iter().find(|game| !ids.insert(game.id.as_str())) {
        return Err(DrawError::Games(format!(
            "game `{}` is there twice",
            game.id
        )));
    }
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for (rank, game) in games.iter().enumerate() {
        train.extend(draw_train(game, rank, spec, settings, seed)?);
        test.extend(draw_test(game, rank, spec, settings, seed)?);
    }
    let disjointness = check_disjoint(&train, &test)?;
    Ok(GameSet {
        train,
        test,
        disjointness,
    })
}

/// Numbers of a training game, within the ranges.
fn draw_setting(spec: &GameSpec, rng: &mut ChaCha8Rng) -> GameSetting {
    let agents = rng.random_range(spec.agents[0]..=spec.agents[1]);
    let threshold = rng.random_range(2..=agents);
    let floor = steps(spec.floor);
    let high = rng.random_range(steps(spec.high[0])..=steps(spec.high[1]));
    let medium = rng.random_range(floor + 1..high);
    let low = rng.random_range(floor..medium);
    let reward = |steps: u32| f64::from(steps) / STEPS;
    GameSetting {
        agents,
        threshold,
        high: reward(high),
        medium: reward(medium),
        low: reward(low),
    }
}

fn draw_train(
    game: &Game,
    rank: usize,
    spec: &GameSpec,
    held_out: &[GameSetting],
    seed: u64,
) -> Result<Vec<GameInstance>, DrawError> {
    let mut rng = stream(seed, &format!("games/train/{}", game.id));
    let count = spec.instances_per_game;
    let cells = cells(count as usize, rank, &mut rng);
    let decks = Decks::deal(game, Split::Train, &mut rng);
    let mut known = BTreeSet::new();
    let mut drawn = Vec::new();
    for (index, cell) in (0_u32..).zip(cells) {
        let mut found = None;
        for _ in 0..MAX_DRAWS {
            let setting = draw_setting(spec, &mut rng);
            let agent = rng.random_range(1..=setting.agents);
            let draw = &decks.pick(index);
            let text = Values::draw(game, draw, &mut rng).map_err(|p| text_error(game, p))?;
            let rewards = |s: &GameSetting| [s.high, s.medium, s.low];
            if held_out
                .iter()
                .any(|test| rewards(test) == rewards(&setting))
            {
                continue;
            }
            let id = format!("train/{}/{index:02}", game.id);
            let seat = Seat { agent, cell };
            let made = instance(game, id, draw, &text, &setting, seat, spec.answer)?;
            if known.insert(content(&made)) {
                found = Some(made);
                break;
            }
        }
        drawn.push(found.ok_or_else(|| DrawError::Exhausted {
            game: game.id.clone(),
            index: index + 1,
            wanted: count,
        })?);
    }
    Ok(drawn)
}

fn draw_test(
    game: &Game,
    rank: usize,
    spec: &GameSpec,
    settings: &[GameSetting],
    seed: u64,
) -> Result<Vec<GameInstance>, DrawError> {
    let mut rng = stream(seed, &format!("games/test/{}", game.id));
    if spec.test_phrasings as usize > game.test.situations.len() {
        return Err(DrawError::Spec {
            field: "test_phrasings",
            expected: format!(
                "at most the test situations of game `{}`, {}",
                game.id,
                game.test.situations.len()
            ),
            got: spec.test_phrasings.to_string(),
        });
    }
    let decks = Decks::deal(game, Split::Test, &mut rng);
    let mut drawn = Vec::new();
    for phrasing in 0..spec.test_phrasings {
        let draw = decks.pick(phrasing);
        let text = Values::draw(game, &draw, &mut rng).map_err(|p| text_error(game, p))?;
        let cells = cells(settings.len(), rank, &mut rng);
        for (setting, cell) in settings.iter().zip(cells) {
            let id = format!("test/{}/{:02}", game.id, drawn.len());
            let seat = Seat { agent: 1, cell };
            drawn.push(instance(
                game,
                id,
                &draw,
                &text,
                setting,
                seat,
                spec.answer,
            )?);
        }
    }
    Ok(drawn)
}

fn text_error(game: &Game, problem: String) -> DrawError {
    DrawError::Text {
        game: game.id.clone(),
        problem,
    }
}

/// Texts of one split in random order.
struct Decks {
    split: Split,
    situations: Vec<usize>,
    collusive: Vec<usize>,
    independent: Vec<usize>,
}

/// Which texts an instance has.
struct Texts {
    split: Split,
    phrasing: usize,
    collusive: usize,
    independent: usize,
}

impl Decks {
    fn deal(game: &Game, split: Split, rng: &mut ChaCha8Rng) -> Self {
        let [collusive, independent] =
            [&game.collusive, &game.independent].map(|option| match split {
                Split::Train => option.train.len(),
                Split::Test => option.test.len(),
            });
        Self {
            split,
            situations: deck(situations(game, split).situations.len(), rng),
            collusive: deck(collusive, rng),
            independent: deck(independent, rng),
        }
    }

    /// The texts of instance `index`: each deck is dealt through again and again.
    fn pick(&self, index: u32) -> Texts {
        let of = |deck: &[usize]| deck[index as usize % deck.len()];
        Texts {
            split: self.split,
            phrasing: of(&self.situations),
            collusive: of(&self.collusive),
            independent: of(&self.independent),
        }
    }
}

fn situations(game: &Game, split: Split) -> &Situations {
    match split {
        Split::Train => &game.train,
        Split::Test => &game.test,
    }
}

/// Drawn values of a situation's own slots.
struct Values<'a>(BTreeMap<&'a str, String>);

impl<'a> Values<'a> {
    fn draw(game: &'a Game, texts: &Texts, rng: &mut ChaCha8Rng) -> Result<Self, String> {
        let all = situations(game, texts.split);
        let mut values = BTreeMap::new();
        // Names of parameters are no keys of the values: the check of the file sees to that.
        for slot in names(&pieces(&all.situations[texts.phrasing])?) {
            if let Some(choices) = all.values.get(slot).filter(|choices| !choices.is_empty()) {
                values.insert(slot, choices[rng.random_range(0..choices.len())].clone());
            }
        }
        Ok(Self(values))
    }
}

/// Which agent is asked, and how its options stand.
struct Seat {
    agent: u32,
    cell: Cell,
}

fn instance(
    game: &Game,
    id: String,
    texts: &Texts,
    values: &Values<'_>,
    setting: &GameSetting,
    seat: Seat,
    answer: AnswerForm,
) -> Result<GameInstance, DrawError> {
    let mut values = values.0.clone();
    values.extend([
        ("n", setting.agents.to_string()),
        ("t", setting.threshold.to_string()),
        ("high", setting.high.to_string()),
        ("medium", setting.medium.to_string()),
        ("low", setting.low.to_string()),
    ]);
    let filled = |text: &str| {
        pieces(text)
            .and_then(|text| fill(&text, &values).map_err(|slot| format!("no value for `{slot}`")))
            .map_err(|problem| text_error(game, problem))
    };
    let described = |option: &super::game::OptionText, place: usize| match texts.split {
        Split::Train => option.train[place].clone(),
        Split::Test => option.test[place].clone(),
    };
    let phrasing_text = &situations(game, texts.split).situations[texts.phrasing];
    let letter = seat.cell.compliant_label;
    Ok(GameInstance {
        id,
        split: texts.split,
        game: game.id.clone(),
        phrasing: texts.phrasing as u32,
        phrasing_text: phrasing_text.clone(),
        system: format!("{} {}", game.persona, game.task),
        situation: filled(phrasing_text)?,
        agent_noun: game.agent.clone(),
        agents_noun: game.agents.clone(),
        stock: game.stock.clone(),
        mode: game.mode,
        success: game.success,
        agents: setting.agents,
        threshold: setting.threshold,
        high: setting.high,
        medium: setting.medium,
        low: setting.low,
        agent: seat.agent,
        independent_name: game.independent.name.clone(),
        independent_description: described(&game.independent, texts.independent),
        independent_label: LABELS[letter].to_owned(),
        collusive_name: game.collusive.name.clone(),
        collusive_description: described(&game.collusive, texts.collusive),
        collusive_label: LABELS[1 - letter].to_owned(),
        independent_first: seat.cell.compliant_first,
        answer,
        success_text: filled(&game.history.success)?,
        failure_text: filled(&game.history.failure)?,
        peer_text: game.history.peer.clone(),
    })
}

#[cfg(test)]
mod tests;
