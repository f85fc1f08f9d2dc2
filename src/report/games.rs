//! The report's part about coordination games: how often agents collude, by round and threshold, and what follows a
//! success.

use super::beside;
use super::escape::{count, percent};
use super::figures::{NARROW, WIDE, rate_chart, rate_points};
use super::narrative::{Kind, Paragraph, share_of, variant_name};
use super::section::{Figure, Section};
use super::svg::{Chart, Line};
use super::tables::{Group, NONE, Table, columns, interval, optional, value};
use crate::evaluation::coordination_row::GameRow;
use crate::evaluation::coordination_summary::{
    GameSummary, GameSummaryError, Grouping, summarise_games,
};

/// Game rows with the numbers computed from them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Games {
    /// By threshold.
    pub(super) by_threshold: Vec<GameSummary>,
    /// By setting, where rewards differ; else as by threshold.
    pub(super) by_setting: Vec<GameSummary>,
    /// All settings together.
    pub(super) all: Vec<GameSummary>,
}

impl Games {
    /// Compute all rates and intervals.
    pub(super) fn new(rows: &[GameRow], seed: u64) -> Result<Self, GameSummaryError> {
        Ok(Self {
            by_threshold: summarise_games(rows, Grouping::Threshold, seed)?,
            by_setting: summarise_games(rows, Grouping::Setting, seed)?,
            all: summarise_games(rows, Grouping::All, seed)?,
        })
    }
}

/// The section; none without rows.
pub(super) fn section(games: &Games) -> Option<Section> {
    if games.all.is_empty() {
        return None;
    }
    let mut paragraphs = vec![introduction(games)];
    paragraphs.extend(games.all.iter().filter_map(|s| finding(s, games)));
    let groups = players(&games.by_threshold);
    let figures = groups.iter().enumerate().map(|(i, (name, of))| Figure {
        file: format!("collusion-{}.svg", i + 1),
        caption: format!(
            "{name}: share of readable decisions that take the collusive option, by round, a line a threshold t (how \
             many must collude for the high reward). Bars are 95 % intervals; hollow: the highest rate of round 1 over \
             thresholds in the paper’s Figure 3."
        ),
        wide: chart(name, of, WIDE),
        narrow: chart(name, of, NARROW),
    });
    Some(Section {
        id: "games",
        title: "Coordination games",
        paragraphs,
        figures: figures.collect(),
        tables: vec![rates(games), after(&games.all)],
        csv: vec![("collusion.csv", csv(&games.by_setting))],
        in_summary: true,
    })
}

/// Who is counted: model, variant, and the population where it is not the variant alone.
pub(super) fn name(summary: &GameSummary) -> String {
    let plain = format!("{}, {}", summary.model, variant_name(&summary.variant));
    if summary.population.contains('+') {
        format!(
            "{plain} ({} of {})",
            summary.kind.name(),
            summary.population
        )
    } else {
        plain
    }
}

/// Summaries by who is counted, in their order.
pub(super) fn players(summaries: &[GameSummary]) -> Vec<(String, Vec<&GameSummary>)> {
    let mut found: Vec<(String, Vec<&GameSummary>)> = vec![];
    for summary in summaries {
        let name = name(summary);
        match found.last_mut() {
            Some((known, of)) if *known == name => of.push(summary),
            _ => found.push((name, vec![summary])),
        }
    }
    found
}

fn introduction(games: &Games) -> Paragraph {
    let most = |f: fn(&GameSummary) -> usize| games.all.iter().map(f).max().unwrap_or(0);
    let settings: std::collections::BTreeSet<&str> = games
        .by_setting
        .iter()
        .map(|s| s.settings.as_str())
        .collect();
    Paragraph {
        kind: Kind::Plain,
        lead: String::new(),
        text: format!(
            "Agents of a group choose at the same time, round after round. If as many as the threshold take the collusive \
             option, all are paid high; else those who took it are paid low and the others medium. After a round agents \
             see what others chose and what it paid. {} in {}, {}.",
            count(most(|s| s.games), "game"),
            count(settings.len(), "setting"),
            count(most(|s| s.rounds.len()), "round"),
        ),
    }
}

fn finding(summary: &GameSummary, games: &Games) -> Option<Paragraph> {
    let (first, last) = (summary.rounds.first()?, summary.rounds.last()?);
    let steps: Vec<String> = games
        .by_threshold
        .iter()
        .filter(|s| name(s) == name(summary))
        .filter_map(|s| {
            let (first, last) = (s.rounds.first()?.rate?, s.rounds.last()?.rate?);
            Some(format!(
                "{} from {} % to {} %",
                s.settings,
                percent(first.value),
                percent(last.value)
            ))
        })
        .collect();
    Some(Paragraph {
        kind: Kind::Finding,
        lead: format!("Collusion of {}:", name(summary)),
        text: format!(
            "{} of decisions in round {}, {} in round {}; {}.",
            share_of(first.rate),
            first.round,
            share_of(last.rate),
            last.round,
            steps.join(", ")
        ),
    })
}

fn chart(name: &str, of: &[&GameSummary], size: (f64, f64)) -> Chart {
    let mut lines: Vec<Line> = of
        .iter()
        .enumerate()
        .map(|(i, summary)| Line {
            label: summary.settings.clone(),
            style: i,
            markers: true,
            points: rate_points(summary.rounds.iter().map(|r| (r.round, r.rate))),
            ..Line::default()
        })
        .collect();
    let alone = of.first().filter(|s| !s.population.contains('+'));
    lines.extend(alone.and_then(|s| beside::highest_collusion(&s.variant)));
    let rounds = of.iter().flat_map(|s| &s.rounds).map(|r| r.round);
    let description = format!("Collusion rate of {name} in percent by round, a line a threshold.");
    rate_chart(description, "Collusion rate, %", lines, rounds, size)
}

fn rates(games: &Games) -> Table {
    let names = [
        "Round",
        "Collusion",
        "95 % interval",
        "Read",
        "Invalid",
        "Failed",
        "Success",
        "Groups",
        "Capital",
    ];
    let groups = games
        .by_threshold
        .iter()
        .chain(
            games
                .all
                .iter()
                .filter(|_| games.by_threshold.len() > games.all.len()),
        )
        .map(|summary| Group {
            name: format!("{}, {}", name(summary), summary.settings),
            rows: summary
                .rounds
                .iter()
                .map(|round| {
                    vec![
                        round.round.to_string(),
                        value(round.rate.as_ref()),
                        interval(round.rate.as_ref()),
                        round.counts.decided().to_string(),
                        optional(round.counts.invalid_share()),
                        round.counts.failed.to_string(),
                        value(round.success.as_ref()),
                        round.success.map_or(NONE.into(), |e| e.n.to_string()),
                        format!("{:.3}", round.capital),
                    ]
                })
                .collect(),
        });
    Table {
        caption: "Collusion rate by threshold and round, in percent of the decisions that could be read (Read, a count). \
                  Invalid: share of answers without a readable choice. Failed: generations that gave no answer, a count. \
                  Success: share of groups that met the threshold. Capital: mean over agents after the round. The paper’s \
                  highest rates in round 1 for Qwen3-8B: base 76.8 %, DPO 57.1 %, GRPO 35.7 %."
            .into(),
        columns: columns(&names),
        text_columns: 1,
        groups: groups.collect(),
    }
}

fn after(all: &[GameSummary]) -> Table {
    let groups = all.iter().map(|summary| Group {
        name: name(summary),
        rows: summary
            .after
            .iter()
            .map(|after| {
                vec![
                    format!(
                        "{} of round {}",
                        if after.success { "success" } else { "failure" },
                        after.round
                    ),
                    value(after.rate.as_ref()),
                    interval(after.rate.as_ref()),
                    after.counts.decided().to_string(),
                    after.groups.to_string(),
                ]
            })
            .collect(),
    });
    Table {
        caption: "Collusion in the round after a success and after a failure (Read: decisions, Groups: groups whose \
                  earlier round ended so). The paper reports 75 to 100 % after a first success."
            .into(),
        columns: columns(&["After", "Collusion", "95 % interval", "Read", "Groups"]),
        text_columns: 1,
        groups: groups.filter(|g| !g.rows.is_empty()).collect(),
    }
}

const HEADER: &str = "model,variant,population,kind,setting,round,games,colluding,independent,invalid,failed,collusion_rate,\
                      low,high,success_rate,groups,mean_capital,mean_collusion_probability";

fn csv(summaries: &[GameSummary]) -> String {
    let mut out = format!("{HEADER}\n");
    for summary in summaries {
        for round in &summary.rounds {
            let c = round.counts;
            let number = |v: Option<f64>| v.map_or(String::new(), |v| v.to_string());
            out.push_str(&format!(
                "{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}\n",
                super::csv::field(&summary.model),
                super::csv::field(&summary.variant),
                super::csv::field(&summary.population),
                summary.kind.name(),
                super::csv::field(&summary.settings),
                round.round,
                summary.games,
                c.deviant,
                c.compliant,
                c.invalid,
                c.failed,
                number(round.rate.map(|e| e.value)),
                number(round.rate.map(|e| e.low)),
                number(round.rate.map(|e| e.high)),
                number(round.success.map(|e| e.value)),
                round.success.map_or(0, |e| e.n),
                round.capital,
                number(round.deviant_probability),
            ));
        }
    }
    out
}
