//! The paper's tables and figures with this run beside them, and a verdict on each number that has a counterpart.
//!
//! A model of the run that is one of the paper's is compared with itself alone, any other with both.

use std::collections::BTreeMap;

use super::csv::{lines, number};
use super::escape::percent;
use super::exhibits;
use super::narrative::{Kind, Paragraph, variant_name};
use super::paper::{
    AFTER_SUCCESS, DECISIONS, HIGHEST_COLLUSION, PROMPTS, PaperRow, SOLVED_OF, TABLE_1, TABLE_2,
    ToolPaperRow, USED_OF,
};
use super::section::Section;
use super::svg::{Line, Point};
use super::tables::{Group, Table, columns, interval, value};
use super::verdict::{self, DEFINITION, Verdict, compare, of_paper, within};
use super::words;
use super::{Report, figures};
use crate::evaluation::statistics::{Estimate, difference_of};
use crate::evaluation::summary::VariantSummary;
use crate::evaluation::tool_summary::ToolRound;
use crate::scenario::tool_use::Difficulty;

/// What the paper says of a quantity.
#[derive(Clone, Copy)]
pub(super) enum Stated {
    /// A rate, or a change of one, with the interval its n gives.
    Rate(Estimate),
    /// A range without n.
    Range(f64, f64),
    /// The sign of a drift, in words alone: it rises (or else falls).
    Course(bool),
}

/// One number of the paper and its counterpart.
pub(super) struct Beside {
    /// Table or figure of the paper.
    pub(super) exhibit: &'static str,
    /// What is measured.
    pub(super) quantity: String,
    /// The paper's model; empty where it gives none.
    pub(super) paper_model: &'static str,
    /// Our model.
    pub(super) model: String,
    /// Variant of both.
    pub(super) variant: String,
    /// The paper's.
    pub(super) paper: Stated,
    /// Ours.
    pub(super) ours: Estimate,
    /// What can be said.
    pub(super) verdict: Verdict,
}

impl Beside {
    fn difference(&self) -> Option<Estimate> {
        match self.paper {
            Stated::Rate(paper) => Some(difference_of(&self.ours, &paper)),
            Stated::Range(..) | Stated::Course(_) => None,
        }
    }
}

/// Whether a model of the run is to be set beside a model of the paper.
fn comparable(report: &Report, model: &str, paper_model: &str) -> bool {
    match report.info(model) {
        Some(info) if info.is_reference_model => info.source.contains(paper_model),
        _ => true,
    }
}

/// The paper's rate in a round of Table 1.
pub(super) fn table_1_rate(row: &PaperRow, round: u32) -> Option<Estimate> {
    let rate = row.rates.get((round as usize).checked_sub(1)?)?;
    of_paper(*rate, PROMPTS)
}

/// The change of a row of Table 1, rounds taken for independent: the paper does not say which prompts changed.
fn table_1_change(row: &PaperRow) -> Option<Estimate> {
    Some(difference_of(
        &table_1_rate(row, 6)?,
        &table_1_rate(row, 1)?,
    ))
}

fn our_rate(variant: &VariantSummary, round: u32) -> Option<Estimate> {
    let found = variant.rounds.iter().find(|r| r.round == round)?;
    found.rate
}

/// The change over the paper's rounds; none where the run has others, since another span is another quantity.
fn our_change(variant: &VariantSummary) -> Option<Estimate> {
    let drift = variant.drift.as_ref();
    let drift = drift.filter(|d| (d.from, d.to) == (1, 6))?;
    Some(drift.rate.as_ref()?.estimate)
}

/// Verdicts on a row of Table 1 as rows of its table, one for each comparable model of the run.
pub(super) fn verdict_rows(report: &Report, row: &PaperRow, rounds: u32) -> Vec<Vec<String>> {
    let ours = report
        .variants
        .iter()
        .filter(|v| v.variant == row.variant && comparable(report, &v.model, row.model));
    ours.map(|v| {
        let word = |ours: Option<Estimate>, paper: Option<Estimate>| {
            let both = ours.zip(paper);
            both.map_or(super::tables::NONE.into(), |(ours, paper)| {
                compare(&ours, &paper).1.name().to_owned()
            })
        };
        let mut cells = vec![format!("{} against {}:", v.model, row.model)];
        cells.extend((1..=rounds).map(|r| word(our_rate(v, r), table_1_rate(row, r))));
        cells.push(word(our_change(v), table_1_change(row)));
        cells
    })
    .collect()
}

/// The paper's usage and accuracy in a round of Table 2.
pub(super) fn table_2_rates(row: &ToolPaperRow, round: u32) -> Option<(Estimate, Estimate)> {
    let (used, solved) = row.rounds.get((round as usize).checked_sub(1)?)?;
    Some((
        of_paper(f64::from(*used), USED_OF)?,
        of_paper(f64::from(*solved), SOLVED_OF)?,
    ))
}

/// Verdicts on usage and accuracy of one round.
pub(super) fn tool_verdicts(ours: &ToolRound, paper: &ToolPaperRow) -> Option<(Verdict, Verdict)> {
    let (used, solved) = table_2_rates(paper, ours.round)?;
    Some((
        compare(&ours.usage?, &used).1,
        compare(&ours.accuracy?, &solved).1,
    ))
}

/// The paper's highest collusion rate in round 1, as a mark to draw.
pub(super) fn highest_collusion(variant: &str) -> Option<Line> {
    let (_, count) = HIGHEST_COLLUSION.iter().find(|(v, _)| *v == variant)?;
    let rate = of_paper(*count as f64 / DECISIONS as f64 * 100.0, DECISIONS)?;
    Some(Line {
        label: String::new(),
        style: figures::style(variant, &mut { figures::OTHERS }),
        points: vec![Point {
            x: 1.0,
            y: rate.value * 100.0,
            interval: Some((rate.low * 100.0, rate.high * 100.0)),
        }],
        markers: true,
        dashed: true,
        ..Line::default()
    })
}

/// All numbers of the paper that this run has a counterpart for.
pub(super) fn beside(report: &Report) -> Vec<Beside> {
    let mut found = vec![];
    for row in &TABLE_1 {
        let ours = report.variants.iter().filter(|v| v.variant == row.variant);
        for v in ours.filter(|v| comparable(report, &v.model, row.model)) {
            let mut push = |quantity: String, ours: Option<Estimate>, paper: Option<Estimate>| {
                if let Some((ours, paper)) = ours.zip(paper) {
                    found.push(Beside {
                        exhibit: "Table 1",
                        quantity,
                        paper_model: row.model,
                        model: v.model.clone(),
                        variant: v.variant.clone(),
                        paper: Stated::Rate(paper),
                        ours,
                        verdict: compare(&ours, &paper).1,
                    });
                }
            };
            for round in 1..=6 {
                push(
                    format!("violation rate, round {round}"),
                    our_rate(v, round),
                    table_1_rate(row, round),
                );
            }
            push(
                "change, round 1 to 6".into(),
                our_change(v),
                table_1_change(row),
            );
        }
    }
    for row in &TABLE_2 {
        let ours = report
            .tools
            .iter()
            .filter(|s| s.variant == row.variant && s.difficulty == Difficulty::Complex);
        for s in ours.filter(|s| comparable(report, &s.model, row.model)) {
            for round in &s.rounds {
                let Some((used, solved)) = table_2_rates(row, round.round) else {
                    continue;
                };
                for (what, ours, paper) in [
                    ("tool called", round.usage, used),
                    ("right answers", round.accuracy, solved),
                ] {
                    let Some(ours) = ours else { continue };
                    found.push(Beside {
                        exhibit: "Table 2",
                        quantity: format!("{what}, round {}", round.round),
                        paper_model: row.model,
                        model: s.model.clone(),
                        variant: s.variant.clone(),
                        paper: Stated::Rate(paper),
                        ours,
                        verdict: compare(&ours, &paper).1,
                    });
                }
            }
        }
    }
    found.extend(games(report));
    found.extend(courses(report));
    found.sort_by_key(|b| b.exhibit);
    found
}

/// Figures 3 and 4: the highest rate of round 1 over thresholds, and what follows a success.
fn games(report: &Report) -> Vec<Beside> {
    let mut found = vec![];
    let mut highest: BTreeMap<(&str, &str), Estimate> = BTreeMap::new();
    for s in &report.games.by_threshold {
        if s.population.contains('+') {
            continue;
        }
        let first = s.rounds.iter().find(|r| r.round == 1).and_then(|r| r.rate);
        if let Some(rate) = first {
            let best = highest.entry((&s.model, &s.variant)).or_insert(rate);
            if rate.value > best.value {
                *best = rate;
            }
        }
    }
    for ((model, variant), ours) in highest {
        let Some((_, count)) = HIGHEST_COLLUSION.iter().find(|(v, _)| *v == variant) else {
            continue;
        };
        let Some(paper) = of_paper(*count as f64 / DECISIONS as f64 * 100.0, DECISIONS) else {
            continue;
        };
        found.push(Beside {
            exhibit: "Figure 3",
            quantity: "highest collusion rate of a threshold, round 1".into(),
            paper_model: "",
            model: model.into(),
            variant: variant.into(),
            paper: Stated::Rate(paper),
            ours,
            verdict: compare(&ours, &paper).1,
        });
    }
    for s in report
        .games
        .all
        .iter()
        .filter(|s| !s.population.contains('+'))
    {
        let after = s.after.iter().find(|a| a.round == 1 && a.success);
        let Some(ours) = after.and_then(|a| a.rate) else {
            continue;
        };
        let (low, high) = AFTER_SUCCESS;
        found.push(Beside {
            exhibit: "Figure 4",
            quantity: "collusion in round 2 after a success in round 1".into(),
            paper_model: "",
            model: s.model.clone(),
            variant: s.variant.clone(),
            paper: Stated::Range(low, high),
            ours,
            verdict: within(&ours, low, high),
        });
    }
    found
}

/// Figure 3 in words: easy thresholds climb, hard ones collapse. The lowest and the highest threshold by their drift.
fn courses(report: &Report) -> Vec<Beside> {
    let mut by_player: BTreeMap<(&str, &str), BTreeMap<u32, Estimate>> = BTreeMap::new();
    for t in report.tipping.iter().filter(|t| t.who.is_empty()) {
        let threshold = t.settings.strip_prefix("t = ").and_then(|t| t.parse().ok());
        if let Some((threshold, slope)) = threshold.zip(t.slope) {
            let of = by_player.entry((&t.model, &t.variant)).or_default();
            of.insert(threshold, slope.per_round);
        }
    }
    let ends = by_player.into_iter().flat_map(|((model, variant), of)| {
        let ends = [
            of.first_key_value().map(|(t, s)| (*t, *s, true)),
            of.last_key_value().map(|(t, s)| (*t, *s, false)),
        ];
        ends.into_iter()
            .flatten()
            .map(move |end| (model, variant, end))
    });
    ends.map(|(model, variant, (t, ours, rises))| Beside {
        exhibit: "Figure 3",
        quantity: format!("drift at t = {t}, points a round"),
        paper_model: "",
        model: model.into(),
        variant: variant.into(),
        paper: Stated::Course(rises),
        ours,
        verdict: match (ours.excludes_zero(), (ours.value > 0.0) == rises) {
            (false, _) => Verdict::CannotTell,
            (true, true) => Verdict::Agrees,
            (true, false) => Verdict::Differs,
        },
    })
    .collect()
}

/// The section; none where nothing of the paper has a counterpart.
pub(super) fn section(report: &Report) -> Option<Section> {
    let found = beside(report);
    let figures = exhibits::figures(report);
    if found.is_empty() && figures.is_empty() {
        return None;
    }
    let of = |verdict| found.iter().filter(|b| b.verdict == verdict).count();
    let mut paragraphs = vec![Paragraph {
        kind: Kind::Plain,
        lead: String::new(),
        text: format!(
            "{} numbers of the paper have a counterpart in this run: {} agree, {} differ, and of {} it cannot be told at this \
             n. {DEFINITION} A range that the paper gives without n is met if our interval lies inside it, and missed if \
             outside; a course that it gives in words is met if our drift has its sign and excludes zero.",
            found.len(),
            of(Verdict::Agrees),
            of(Verdict::Differs),
            of(Verdict::CannotTell),
        ),
    }];
    if !report.inputs.models.iter().any(|m| m.is_reference_model) {
        paragraphs.push(Paragraph {
            kind: Kind::Caveat,
            lead: String::new(),
            text: "No model of this run is one of the paper’s. A verdict here says whether the numbers are alike, not whether \
                   the paper is right."
                .into(),
        });
    }
    paragraphs.extend(exhibits::trace_note(report));
    let tables = if found.is_empty() {
        vec![]
    } else {
        vec![summary(&found)]
    };
    Some(Section {
        id: "paper-exhibits",
        title: "The paper’s tables and figures",
        paragraphs,
        figures,
        tables,
        csv: vec![("paper.csv", csv(&found))],
        in_summary: false,
    })
}

fn stated(paper: &Stated) -> [String; 2] {
    match paper {
        Stated::Rate(e) => [value(Some(e)), interval(Some(e))],
        Stated::Range(low, high) => [words::range((*low, *high)), super::tables::NONE.into()],
        Stated::Course(rises) => {
            let word = if *rises { "climbs" } else { "falls" };
            [word.into(), super::tables::NONE.into()]
        }
    }
}

fn summary(found: &[Beside]) -> Table {
    let mut groups: Vec<Group> = vec![];
    for b in found {
        let name = match b.paper_model {
            "" => format!("{}: {}", b.exhibit, b.model),
            paper => format!("{}: {} against {paper}", b.exhibit, b.model),
        };
        let [paper, paper_interval] = stated(&b.paper);
        let [difference, difference_interval] = words::signed(b.difference().as_ref());
        let row = vec![
            format!("{}, {}", variant_name(&b.variant), b.quantity),
            paper,
            paper_interval,
            percent(b.ours.value),
            interval(Some(&b.ours)),
            difference,
            difference_interval,
            b.verdict.name().into(),
        ];
        match groups.iter_mut().find(|group| group.name == name) {
            Some(group) => group.rows.push(row),
            None => groups.push(Group {
                name,
                rows: vec![row],
            }),
        }
    }
    Table {
        caption: format!(
            "Every number of the paper that has a counterpart, in percent and points; differences are this run minus the paper. \
             The verdict excludes or allows {} points. Of Figure 3 the paper’s text gives the highest rate over thresholds and \
             that easy thresholds climb and hard ones collapse, of Figure 4 a range; of Figures 5 and 6 no rates.",
            percent(verdict::MARGIN)
        ),
        columns: columns(&[
            "Quantity",
            "Paper",
            "95 % interval",
            "This run",
            "95 % interval",
            "Difference",
            "95 % interval",
            "Verdict",
        ]),
        text_columns: 1,
        groups,
    }
}

fn csv(found: &[Beside]) -> String {
    let header = "exhibit,quantity,variant,paper_model,model,paper,paper_low,paper_high,this_run,low,high,n,difference,\
                  difference_low,difference_high,verdict";
    lines(
        header,
        found.iter().map(|b| {
            let (paper, low, high) = match b.paper {
                Stated::Rate(e) => (Some(e.value), Some(e.low), Some(e.high)),
                Stated::Range(low, high) => (None, Some(low), Some(high)),
                Stated::Course(_) => (None, None, None),
            };
            let difference = b.difference();
            vec![
                b.exhibit.into(),
                b.quantity.clone(),
                b.variant.clone(),
                b.paper_model.into(),
                b.model.clone(),
                number(paper),
                number(low),
                number(high),
                b.ours.value.to_string(),
                b.ours.low.to_string(),
                b.ours.high.to_string(),
                b.ours.n.to_string(),
                number(difference.map(|d| d.value)),
                number(difference.map(|d| d.low)),
                number(difference.map(|d| d.high)),
                b.verdict.name().into(),
            ]
        }),
    )
}

#[cfg(test)]
mod tests;
