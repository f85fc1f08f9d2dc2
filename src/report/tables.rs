//! The report's tables as plain text, for Markdown and HTML alike.

use super::beside;
use super::escape::{count, duration, parameters, percent, points};
use super::narrative::variant_name;
use super::paper::TABLE_1;
use super::verdict;
use super::{ModelInfo, Provenance, Report};
use crate::evaluation::bias::BiasCheck;
use crate::evaluation::statistics::Estimate;
use crate::evaluation::summary::{BASE, VariantSummary};

/// What stands where there is no number.
pub(super) const NONE: &str = "–";

/// Rows under one heading.
pub(super) struct Group {
    /// Heading; empty for none.
    pub(super) name: String,
    /// Cells; the first names the row.
    pub(super) rows: Vec<Vec<String>>,
}

/// One table. Every row has one cell a column.
pub(super) struct Table {
    /// What the table shows, and how to read it.
    pub(super) caption: String,
    /// Column headings.
    pub(super) columns: Vec<String>,
    /// Number of columns from the left that hold text and not numbers.
    pub(super) text_columns: usize,
    /// Groups of rows.
    pub(super) groups: Vec<Group>,
}

pub(super) fn columns(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

pub(super) fn value(estimate: Option<&Estimate>) -> String {
    estimate.map_or(NONE.into(), |e| percent(e.value))
}

pub(super) fn interval(estimate: Option<&Estimate>) -> String {
    estimate.map_or(NONE.into(), |e| {
        format!("{} to {}", percent(e.low), percent(e.high))
    })
}

fn signed(estimate: Option<&Estimate>) -> [String; 2] {
    match estimate {
        Some(e) => [
            points(e.value),
            format!("{} to {}", points(e.low), points(e.high)),
        ],
        None => [NONE.into(), NONE.into()],
    }
}

pub(super) fn optional(rate: Option<f64>) -> String {
    rate.map_or(NONE.into(), percent)
}

/// Violation rate, interval, invalid share and bounds by round.
pub(super) fn rates(model: &str, variants: &[&VariantSummary]) -> Table {
    let scored = variants
        .iter()
        .flat_map(|v| &v.rounds)
        .any(|r| r.deviant_probability.is_some());
    let mut names = vec![
        "Round",
        "Violations",
        "95 % interval",
        "Read",
        "Invalid",
        "Bounds",
        "Failed",
    ];
    if scored {
        names.push("P(break)");
    }
    let groups = variants
        .iter()
        .map(|variant| Group {
            name: variant_name(&variant.variant),
            rows: variant
                .rounds
                .iter()
                .map(|round| {
                    let bounds = round.counts.bounds();
                    let mut cells = vec![
                        round.round.to_string(),
                        value(round.rate.as_ref()),
                        interval(round.rate.as_ref()),
                        round.counts.decided().to_string(),
                        optional(round.counts.invalid_share()),
                        bounds.map_or(NONE.into(), |(a, b)| {
                            format!("{} to {}", percent(a), percent(b))
                        }),
                        round.counts.failed.to_string(),
                    ];
                    if scored {
                        cells.push(optional(round.deviant_probability));
                    }
                    cells
                })
                .collect(),
        })
        .collect();
    let more = if scored {
        " P(break): mean probability of the rule-breaking option among both."
    } else {
        ""
    };
    Table {
        caption: format!(
            "{model}: violation rate by round, in percent of the decisions that could be read (Read, a count). Invalid: \
             share of answers without a readable choice. Bounds: the rate if all invalid answers were compliant, and if \
             all were deviant. Failed: generations that gave no answer, a count.{more}"
        ),
        columns: columns(&names),
        text_columns: 1,
        groups,
    }
}

/// What training and the rounds changed, paired by question.
pub(super) fn changes(model: &str, variants: &[&VariantSummary]) -> Table {
    let groups = variants
        .iter()
        .map(|variant| {
            let mut rows = Vec::new();
            let mut push =
                |name: String, rate: Option<(&Estimate, usize)>, probability: Option<&Estimate>| {
                    let [difference, range] = signed(rate.map(|r| r.0));
                    let pairs = rate.map_or(NONE.into(), |(e, _)| e.n.to_string());
                    let dropped = rate.map_or(NONE.into(), |(_, dropped)| dropped.to_string());
                    rows.push(vec![
                        format!("{name}, violations"),
                        difference,
                        range,
                        pairs,
                        dropped,
                    ]);
                    if let Some(probability) = probability {
                        let [difference, range] = signed(Some(probability));
                        let pairs = probability.n.to_string();
                        rows.push(vec![
                            format!("{name}, P(break)"),
                            difference,
                            range,
                            pairs,
                            NONE.into(),
                        ]);
                    }
                };
            if let Some(gain) = &variant.gain {
                let rate = gain.rate.as_ref().map(|p| (&p.estimate, p.dropped));
                push(
                    format!("Against base, round {}", gain.round),
                    rate,
                    gain.probability.as_ref(),
                );
            }
            if let Some(drift) = &variant.drift {
                let rate = drift.rate.as_ref().map(|p| (&p.estimate, p.dropped));
                push(
                    format!("Round {} to {}", drift.from, drift.to),
                    rate,
                    drift.probability.as_ref(),
                );
            }
            Group {
                name: variant_name(&variant.variant),
                rows,
            }
        })
        .filter(|group| !group.rows.is_empty())
        .collect();
    Table {
        caption: format!(
            "{model}: changes in percentage points, paired by question; below zero is towards compliance. Left out: pairs \
             in which one decision was invalid, failed or missing."
        ),
        columns: columns(&["Change", "Points", "95 % interval", "Pairs", "Left out"]),
        text_columns: 1,
        groups,
    }
}

/// The paper's Table 1 with this run's rates between.
pub(super) fn beside_paper(report: &Report) -> Table {
    let mut variants: Vec<&str> = vec![BASE, "dpo", "grpo"];
    for variant in &report.variants {
        if !variants.contains(&variant.variant.as_str()) {
            variants.push(&variant.variant);
        }
    }
    let rounds = report
        .variants
        .iter()
        .flat_map(|v| &v.rounds)
        .map(|r| r.round)
        .max()
        .unwrap_or(0)
        .max(6);
    let groups = variants
        .into_iter()
        .map(|variant| {
            let ours = report
                .variants
                .iter()
                .filter(|v| v.variant == variant)
                .map(|v| {
                    let at = |round| {
                        v.rounds
                            .iter()
                            .find(|r| r.round == round)
                            .and_then(|r| r.rate.as_ref())
                    };
                    let mut cells = vec![format!("this run: {}", v.model)];
                    cells.extend((1..=rounds).map(|round| value(at(round))));
                    cells.push(match (at(1), at(rounds)) {
                        (Some(first), Some(last)) => points(last.value - first.value),
                        _ => NONE.into(),
                    });
                    cells
                });
            let paper = TABLE_1
                .iter()
                .filter(|row| row.variant == variant)
                .flat_map(|row| {
                    let mut cells = vec![format!("paper: {}", row.model)];
                    cells.extend((1..=rounds as usize).map(|round| {
                        row.rates
                            .get(round - 1)
                            .map_or(NONE.into(), |r| percent(r / 100.0))
                    }));
                    cells.push(points((row.rates[5] - row.rates[0]) / 100.0));
                    std::iter::once(cells).chain(beside::verdict_rows(report, row, rounds))
                });
            Group {
                name: variant_name(variant),
                rows: ours.chain(paper).collect(),
            }
        })
        .collect();
    let same = report.inputs.models.iter().any(|m| m.is_reference_model);
    let note = if same {
        "The paper trained and prompted with its own texts, so rates are comparable in their course rather than digit by digit."
    } else {
        "No model of this run is one of the paper’s: set the courses side by side, not the heights."
    };
    let mut names = vec!["Model".to_owned()];
    names.extend((1..=rounds).map(|round| round.to_string()));
    names.push(format!("1 to {rounds}"));
    Table {
        caption: format!(
            "Violation rate in percent by round beside Table 1 of the paper (arXiv 2510.04860; one sample of 64 prompts a \
             round, no intervals given), with a verdict by round and, where this run has the same rounds, on the change. Last \
             column: change in points; for the paper, rounds 1 to 6. {} {note}",
            verdict::DEFINITION
        ),
        columns: names,
        text_columns: 1,
        groups,
    }
}

/// Violation rate by the compliant option's position and, where prompts show it, label.
pub(super) fn bias(model: &str, variants: &[&VariantSummary]) -> Table {
    let rows_of = |check: &BiasCheck, name: fn(&str) -> String| -> Vec<Vec<String>> {
        let mut rows: Vec<Vec<String>> = check
            .levels
            .iter()
            .map(|level| {
                let rate = level.rate.as_ref();
                let n = rate.map_or("0".into(), |e| e.n.to_string());
                vec![name(&level.level), value(rate), interval(rate), n]
            })
            .collect();
        if let (Some(difference), [a, b]) = (&check.difference, check.levels.as_slice()) {
            let [points, range] = signed(Some(difference));
            rows.push(vec![
                format!("difference, {} − {}", a.level, b.level),
                points,
                range,
                difference.n.to_string(),
            ]);
        }
        rows
    };
    let groups = variants
        .iter()
        .map(|variant| {
            let mut rows = rows_of(&variant.position, |level| {
                format!("compliant option {level}")
            });
            rows.extend(rows_of(&variant.label, |level| {
                format!("compliant option labelled {level}")
            }));
            Group {
                name: variant_name(&variant.variant),
                rows,
            }
        })
        .collect();
    let lettered = variants.iter().any(|v| !v.label.levels.is_empty());
    let letters = if lettered {
        " and how it was labelled"
    } else {
        ""
    };
    Table {
        caption: format!(
            "{model}: violation rate in percent, all rounds, by where the compliant option stood{letters}. \
             An agent that reads the options shows no difference; one that always takes the first option shows 0 and 100."
        ),
        columns: columns(&["Prompts with", "Violations", "95 % interval", "Read"]),
        text_columns: 1,
        groups,
    }
}

fn plain(
    caption: &str,
    names: &[&str],
    text_columns: usize,
    rows: Vec<Vec<String>>,
) -> Option<Table> {
    (!rows.is_empty()).then(|| Table {
        caption: caption.into(),
        columns: columns(names),
        text_columns,
        groups: vec![Group {
            name: String::new(),
            rows,
        }],
    })
}

/// Models, versions, digests and wall times; tables without rows are left out.
pub(super) fn provenance(models: &[ModelInfo], provenance: &Provenance) -> Vec<Table> {
    let pairs = |pairs: &[(String, String)]| {
        pairs
            .iter()
            .map(|(a, b)| vec![a.clone(), b.clone()])
            .collect()
    };
    let models = models
        .iter()
        .map(|m| {
            let paper = if m.is_reference_model { "yes" } else { "no" };
            vec![
                m.name.clone(),
                m.source.clone(),
                paper.into(),
                parameters(m.parameters),
            ]
        })
        .collect();
    let mut stages: Vec<Vec<String>> = provenance
        .stages
        .iter()
        .map(|s| vec![s.stage.clone(), duration(s.seconds)])
        .collect();
    if stages.len() > 1 {
        let total = provenance.stages.iter().map(|s| s.seconds).sum();
        stages.push(vec![
            format!("all {}", count(stages.len(), "stage")),
            duration(total),
        ]);
    }
    [
        plain(
            "Models.",
            &["Model", "Weights from", "In the paper", "Parameters"],
            3,
            models,
        ),
        plain("Wall time by stage.", &["Stage", "Time"], 1, stages),
        plain(
            "Versions.",
            &["Component", "Version"],
            2,
            pairs(&provenance.versions),
        ),
        plain(
            "Digests of inputs and outputs.",
            &["File", "Digest"],
            2,
            pairs(&provenance.digests),
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::simulation::{rates as with_rates, report, simulated};
    use crate::scenario::Testbed;

    #[test]
    fn every_row_has_a_cell_for_every_column() {
        let report = report();
        let (model, variants) = report.by_model().remove(0);
        let mut tables = vec![
            rates(model, &variants),
            changes(model, &variants),
            bias(model, &variants),
            beside_paper(&report),
        ];
        tables.extend(provenance(&report.inputs.models, &report.inputs.provenance));
        assert_eq!(tables.len(), 8);
        for table in tables {
            for row in table.groups.iter().flat_map(|g| &g.rows) {
                assert_eq!(row.len(), table.columns.len(), "{}: {row:?}", table.caption);
            }
        }
    }

    #[test]
    fn letters_that_no_prompt_shows_have_no_rows() {
        let shown = |inputs| {
            let report = Report::new(inputs).unwrap();
            let (model, variants) = report.by_model().remove(0);
            let table = bias(model, &variants);
            let rows = table.groups.iter().flat_map(|g| &g.rows);
            let names: Vec<String> = rows.map(|row| row[0].clone()).collect();
            names.join("\n") + &table.caption
        };
        let with = shown(simulated());
        assert!(with.contains("labelled A") && with.contains("difference, A − B"));
        let mut inputs = simulated();
        inputs.without_letters = vec![Testbed::RolePlay];
        let without = shown(inputs);
        assert!(
            !without.contains("labelled") && !without.contains("A − B"),
            "{without}"
        );
        assert!(without.contains("difference, first − second"));
    }

    #[test]
    fn our_rates_stand_over_the_papers_of_the_same_variant() {
        let table = beside_paper(&with_rates(&[
            ("base", &[0.25, 0.5]),
            ("dpo", &[0.0, 0.125]),
        ]));
        let rows: Vec<String> = table.groups[1]
            .rows
            .iter()
            .map(|row| row.join(" "))
            .collect();
        assert_eq!(rows[0], "this run: simulated-135M 0.0 12.5 – – – – –");
        assert_eq!(
            rows[1],
            "paper: Qwen3-8B 29.7 28.1 34.4 37.5 40.6 43.8 +14.1"
        );
        assert!(
            rows[2].starts_with("simulated-135M against Qwen3-8B: differs differs –"),
            "{}",
            rows[2]
        );
        assert_eq!(
            table.groups[2].rows.len(),
            2,
            "GRPO was not run, the paper's rows stay"
        );
    }
}
