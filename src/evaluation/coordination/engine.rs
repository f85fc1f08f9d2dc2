//! The rounds. Nothing here knows a model: the decisions of a round are asked of a function, all at once.
//!
//! Every draw comes from a stream named by game, text, setting, sample, population, round and agent, and the state
//! before a round is worked out from the rows of the rounds before it. A resumed evaluation reads those rows from the
//! newest checkpoint, so it goes on as if it had not stopped.

use std::collections::BTreeSet;

use super::{GameEvaluation, View};
use crate::agent::Ask;
use crate::artifact::table::{decode_parquet, encode_parquet};
use crate::artifact::{ArtifactError, Checkpoints};
use crate::evaluation::coordination_row::{GAME_ROWS_FILE, GameRow};
use crate::evaluation::rounds::{EvaluationError, Guard};
use crate::runtime::seed::derive;
use crate::scenario::choice::parse_choice;
use crate::scenario::coordination::GameInstance;
use crate::scenario::coordination::payoff::{capital_after, settle};
use crate::scenario::coordination::prompt::{GamePrompt, PastRound, Peer};
use crate::scenario::coordination::seats::{AgentKind, Members, kinds, population_name, seats};
use crate::scenario::decision::Decision;
use crate::scenario::defence::monitor::effective;
use crate::scenario::prompt::AnswerStyle;
use crate::scenario::{Outcome, Role};

/// What the rows are marked with.
#[derive(Debug, Clone, Copy)]
pub struct RowNames<'a> {
    /// Name of the model in the recipe.
    pub model: &'a str,
    /// `base`, `dpo`, `grpo` or `dpo-grpo`.
    pub variant: &'a str,
    /// The recipe's seed.
    pub seed: u64,
    /// What is done against tipping, for all agents that a model decides for.
    pub guard: Guard<'a>,
}

/// One decision that a model has to make.
#[derive(Debug, Clone)]
pub struct GameAsk {
    /// Which model.
    pub kind: AgentKind,
    /// What each of `ask.options` stands for.
    pub roles: [Role; 2],
    /// Prompt, options and seed.
    pub ask: Ask,
}

/// One decision that was made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answered {
    /// What the model wrote.
    pub text: String,
    /// Probability of the collusive option, where options were scored.
    pub deviant_probability: Option<f64>,
    /// `stop` or `length`.
    pub finish: String,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens the model wrote.
    pub completion_tokens: u32,
}

/// Agents that play one game together.
pub(super) struct Group<'a> {
    game: &'a GameInstance,
    population: String,
    sample: u32,
    /// Names the group's streams.
    name: String,
    pub(super) seats: Vec<GameInstance>,
    pub(super) kinds: Vec<AgentKind>,
    /// Who is seen, as places from 0.
    sees: Vec<Vec<u32>>,
}

/// Plays all rounds of the test games among `instances` that have one of the configuration's settings. Rows come in the
/// order of rounds, instances, populations, samples, agents. `decide` is given a round and all its decisions, and returns
/// an answer for each, in their order; a failure is told by its reason and is not an answer.
///
/// # Errors
/// Settings or instances that do not fit, checkpoints that cannot be read or written, a round in which every decision of
/// a model failed, and what `decide` returns.
pub fn play<E: From<EvaluationError>>(
    config: &GameEvaluation,
    names: &RowNames,
    instances: &[GameInstance],
    style: AnswerStyle,
    root: u64,
    checkpoints: &Checkpoints,
    mut decide: impl FnMut(u32, &[GameAsk]) -> Result<Vec<Result<Answered, String>>, E>,
) -> Result<Vec<GameRow>, E> {
    let groups = groups(config, instances, root)?;
    let (mut rows, done) = finished(config, &groups, checkpoints)?;
    let prompt = GamePrompt {
        style,
        steer: None,
        window: config.window,
        ..GamePrompt::default()
    };
    for round in done + 1..=config.rounds {
        let mut asks = Vec::new();
        for (place, group) in groups.iter().enumerate() {
            for (agent, seat) in group.seats.iter().enumerate() {
                let kind = group.kinds[agent];
                if kind.fixed().is_some() {
                    continue;
                }
                let history = history(config, &groups, &rows, place, agent);
                let answers = seat.option_answers();
                let name = format!("games/round-{round}/{}/{}", group.name, seat.agent);
                asks.push(GameAsk {
                    kind,
                    roles: seat.listed(),
                    ask: Ask {
                        messages: names.guard.defence.game(seat, &history, &prompt),
                        options: answers.map(|(_, text)| text).to_vec(),
                        seed: derive(root, &name),
                    },
                });
            }
        }
        let answers = if asks.is_empty() {
            Vec::new()
        } else {
            decide(round, &asks)?
        };
        if answers.len() != asks.len() {
            let (wanted, got) = (asks.len(), answers.len());
            let problem = format!("round {round}: expected {wanted} answers, got {got}");
            return Err(EvaluationError::Games(problem).into());
        }
        if let Some(Err(first)) = answers.first()
            && answers.iter().all(Result::is_err)
        {
            return Err(EvaluationError::AllFailed(answers.len(), first.clone()).into());
        }
        let mut answers = answers.into_iter();
        for (place, group) in groups.iter().enumerate() {
            let before: Vec<f64> = (0..group.seats.len())
                .map(|agent| {
                    last_row(&groups, &rows, round, place, agent)
                        .map_or(group.game.mode.start(), |row| row.capital)
                })
                .collect();
            rows.extend(play_round(names, group, round, root, &before, &mut answers));
        }
        let bytes = encode_parquet(&rows).map_err(EvaluationError::from)?;
        checkpoints
            .save(u64::from(round), &[(GAME_ROWS_FILE, &bytes)])
            .map_err(EvaluationError::from)?;
    }
    Ok(rows)
}

/// The groups that play, and what is fixed about each before the first round.
pub(super) fn groups<'a>(
    config: &GameEvaluation,
    instances: &'a [GameInstance],
    root: u64,
) -> Result<Vec<Group<'a>>, EvaluationError> {
    if let Err((field, problem)) = config.check() {
        return Err(EvaluationError::Games(format!("key `{field}`: {problem}")));
    }
    let settings = config.settings();
    let played: Vec<&GameInstance> = instances
        .iter()
        .filter(|game| settings.contains(&game.setting()))
        .collect();
    let games: BTreeSet<&str> = instances.iter().map(|game| game.game.as_str()).collect();
    if games.is_empty() {
        return Err(EvaluationError::Games("there are no test games".into()));
    }
    for setting in &settings {
        for id in &games {
            let there = |game: &&GameInstance| game.game == *id && game.setting() == *setting;
            if !played.iter().any(there) {
                return Err(EvaluationError::Games(format!(
                    "expected a test instance of game `{id}` with setting {}, got none; draw the games with the \
                     settings that are to be played",
                    setting.id()
                )));
            }
        }
    }
    let same_letters = config.view == View::Full;
    let mut groups = Vec::new();
    for game in played {
        for population in &config.played_by() {
            for sample in 0..config.samples {
                groups.push(group(config, game, population, sample, same_letters, root));
            }
        }
    }
    Ok(groups)
}

fn group<'a>(
    config: &GameEvaluation,
    game: &'a GameInstance,
    population: &[Members],
    sample: u32,
    same_letters: bool,
    root: u64,
) -> Group<'a> {
    let setting = game.setting().id();
    let who = population_name(population);
    // Populations share graph and letters, so that they differ in who sits where alone.
    let shared = format!("{}/{}/{setting}/{sample}", game.game, game.phrasing);
    let name = format!("{shared}/{who}");
    let drawn_seats = seats(game, same_letters, root, &format!("games/letters/{shared}"));
    Group {
        game,
        sample,
        kinds: kinds(population, root, &format!("games/seats/{name}")),
        sees: config
            .network
            .neighbours(game.agents, root, &format!("games/network/{shared}")),
        seats: drawn_seats,
        population: who,
        name,
    }
}

/// Rows of the newest checkpoint and how many rounds they hold.
fn finished(
    config: &GameEvaluation,
    groups: &[Group<'_>],
    checkpoints: &Checkpoints,
) -> Result<(Vec<GameRow>, u32), EvaluationError> {
    let Some(checkpoint) = checkpoints.latest()? else {
        return Ok((Vec::new(), 0));
    };
    let rows: Vec<GameRow> = decode_parquet(checkpoint.read(GAME_ROWS_FILE)?)?;
    let done = checkpoint.step as u32;
    let expected = groups.iter().flat_map(|group| {
        group
            .seats
            .iter()
            .map(move |seat| (&group.game.id, &group.population, group.sample, seat.agent))
    });
    let each = groups.len() * config.agents as usize;
    let whole = rows.len() == each * done as usize
        && expected
            .zip(&rows)
            .all(|(seat, row)| seat == (&row.instance_id, &row.population, row.sample, row.agent));
    if !whole {
        let reason =
            "its rows are not those of these games and settings; delete the folder to begin anew";
        return Err(ArtifactError::damaged(&checkpoint.folder, reason).into());
    }
    tracing::info!("going on after round {done}");
    Ok((rows, done))
}

/// Where the row of an agent lies among the rows of its round.
fn offset(groups: &[Group<'_>], place: usize, agent: usize) -> usize {
    // All groups have the configuration's number of agents: their instances have one of its settings.
    place * groups[place].seats.len() + agent
}

/// The agent's rows of all rounds so far.
fn own_rows<'a>(
    groups: &'a [Group<'_>],
    rows: &'a [GameRow],
    place: usize,
    agent: usize,
) -> impl Iterator<Item = &'a GameRow> {
    let each = groups.len() * groups[place].seats.len();
    rows.iter().skip(offset(groups, place, agent)).step_by(each)
}

/// The agent's row of the round before.
fn last_row<'a>(
    groups: &[Group<'_>],
    rows: &'a [GameRow],
    round: u32,
    place: usize,
    agent: usize,
) -> Option<&'a GameRow> {
    let each = groups.len() * groups[place].seats.len();
    let earlier = (round as usize).checked_sub(2)?;
    rows.get(earlier * each + offset(groups, place, agent))
}

/// The rounds so far, as the agent saw them.
pub(super) fn history(
    config: &GameEvaluation,
    groups: &[Group<'_>],
    rows: &[GameRow],
    place: usize,
    agent: usize,
) -> Vec<PastRound> {
    let group = &groups[place];
    let each = groups.len() * group.seats.len();
    own_rows(groups, rows, place, agent)
        .enumerate()
        .map(|(earlier, own)| {
            let peers = group.sees[agent].iter().filter_map(|&other| {
                let row = rows.get(earlier * each + offset(groups, place, other as usize))?;
                Some(Peer {
                    agent: row.agent,
                    outcome: effective(row.outcome, row.vetoed),
                    reply: match config.view {
                        View::FinalOnly => None,
                        View::Full => reply(&row.text, config.view_characters),
                    },
                })
            });
            PastRound {
                round: own.round,
                outcome: own.outcome,
                vetoed: own.vetoed,
                peers: peers.collect(),
                success: own.success,
                reward: own.reward,
                capital: own.capital,
            }
        })
        .collect()
}

/// What others read of an answer: what follows the thinking block, on one line, at most so many characters.
pub(super) fn reply(text: &str, most: usize) -> Option<String> {
    let said = match text.rfind("</think>") {
        Some(at) => &text[at + "</think>".len()..],
        None => text,
    };
    if said.contains("<think>") {
        return None;
    }
    let words: Vec<&str> = said.split_whitespace().collect();
    let line = words.join(" ");
    if line.is_empty() {
        return None;
    }
    match line.char_indices().nth(most) {
        Some((end, _)) => Some(format!("{}…", line[..end].trim_end())),
        None => Some(line),
    }
}

/// The rows of one group in one round, answers taken from the front of `answers`.
fn play_round(
    names: &RowNames,
    group: &Group<'_>,
    round: u32,
    root: u64,
    before: &[f64],
    answers: &mut impl Iterator<Item = Result<Answered, String>>,
) -> Vec<GameRow> {
    let mut rows: Vec<GameRow> = (0..group.seats.len())
        .map(|agent| {
            let mut row = blank(names, group, round, agent);
            match group.kinds[agent].fixed() {
                Some(role) => {
                    row.outcome = role.into();
                    row.finish = "fixed".to_owned();
                }
                None => {
                    fill(&mut row, &group.seats[agent], answers.next());
                    let who = format!("{}/{}", group.name, row.agent);
                    let defence = names.guard.defence;
                    row.vetoed = defence.stops(row.outcome, root, round, &who);
                }
            }
            row
        })
        .collect();
    let outcomes: Vec<Outcome> = rows
        .iter()
        .map(|row| effective(row.outcome, row.vetoed))
        .collect();
    let settled = settle(&group.game.setting(), group.game.success, &outcomes);
    for ((row, reward), before) in rows.iter_mut().zip(settled.rewards).zip(before) {
        row.colluders = settled.colluders;
        row.success = settled.success;
        row.reward = reward;
        row.capital = capital_after(group.game.mode, *before, reward);
    }
    rows
}

/// The row before anything is known of the decision.
fn blank(names: &RowNames, group: &Group<'_>, round: u32, agent: usize) -> GameRow {
    let seat = &group.seats[agent];
    let setting = seat.setting();
    let sees: Vec<String> = group.sees[agent]
        .iter()
        .map(|other| (other + 1).to_string())
        .collect();
    GameRow {
        model: names.model.to_owned(),
        variant: names.variant.to_owned(),
        defence: names.guard.name.to_owned(),
        seed: names.seed,
        instance_id: group.game.id.clone(),
        game: group.game.game.clone(),
        setting: setting.id(),
        population: group.population.clone(),
        sample: group.sample,
        n: setting.agents,
        t: setting.threshold,
        high: setting.high,
        medium: setting.medium,
        low: setting.low,
        gamma: setting.gamma(),
        round,
        agent: seat.agent,
        kind: group.kinds[agent],
        sees: sees.join(" "),
        outcome: Outcome::Failed,
        vetoed: false,
        choice: None,
        deviant_probability: None,
        colluders: 0,
        success: false,
        reward: None,
        capital: 0.0,
        compliant_first: seat.independent_first,
        compliant_label: seat.independent_label.clone(),
        text: String::new(),
        finish: "error".to_owned(),
        prompt_tokens: 0,
        completion_tokens: 0,
        error: None,
    }
}

fn fill(row: &mut GameRow, seat: &GameInstance, answer: Option<Result<Answered, String>>) {
    match answer {
        // Their number was compared before.
        None => row.error = Some("no answer".to_owned()),
        Some(Err(error)) => row.error = Some(error),
        Some(Ok(answer)) => {
            let options = seat.choice_options();
            let parsed = parse_choice(&answer.text, &options);
            row.outcome = parsed.outcome();
            row.choice = parsed.label(&options).map(str::to_owned);
            row.deviant_probability = answer.deviant_probability;
            row.text = answer.text;
            row.finish = answer.finish;
            row.prompt_tokens = answer.prompt_tokens;
            row.completion_tokens = answer.completion_tokens;
        }
    }
}
