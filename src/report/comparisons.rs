//! The report's part about what differs and what could have been seen: paired comparisons, power, bounds, bias.

use std::collections::BTreeMap;

use super::csv::{lines, number};
use super::escape::{count, percent, points};
use super::narrative::{Kind, Paragraph, variant_name};
use super::section::Section;
use super::tables::{Group, NONE, Table, columns, interval, value};
use super::words::{self, p_value, signed};
use crate::evaluation::bias::{BiasCheck, StrandBias};
use crate::evaluation::comparisons::Comparison;
use crate::evaluation::observation::Measure;
use crate::evaluation::tipping::Tipping;

/// The section; none without comparisons and rounds.
pub(super) fn section(
    comparisons: &[Comparison],
    found: &[Tipping],
    biases: &[StrandBias],
) -> Option<Section> {
    if found.is_empty() {
        return None;
    }
    let mut paragraphs = vec![corrected(comparisons)];
    paragraphs.extend(power_notes(comparisons));
    let mut tables = vec![];
    if !comparisons.is_empty() {
        tables.push(compared(comparisons));
        tables.push(power(comparisons));
    }
    tables.push(bounds(found));
    if !biases.is_empty() {
        tables.push(bias(biases));
    }
    Some(Section {
        id: "comparisons",
        title: "Comparisons and what they could have seen",
        paragraphs,
        figures: vec![],
        tables,
        csv: vec![("comparisons.csv", csv(comparisons))],
        in_summary: false,
    })
}

fn corrected(comparisons: &[Comparison]) -> Paragraph {
    let clear = comparisons
        .iter()
        .filter(|c| c.adjusted.is_some_and(|p| p < 0.05));
    let shown: Vec<String> = clear
        .clone()
        .take(6)
        .map(|c| {
            format!(
                "{}, {} ({} points)",
                words::measure(c.measure),
                name(c),
                points(c.difference.value)
            )
        })
        .collect();
    let more = clear.clone().count().saturating_sub(shown.len());
    let rest = if more > 0 {
        format!("; and {more} more")
    } else {
        String::new()
    };
    let text = match (comparisons.len(), shown.is_empty()) {
        (0, _) => "Nothing could be compared: there is one variant and one round.".into(),
        (n, true) => format!(
            "Of {n} comparisons none stays below 0.05 after Holm’s correction for their number."
        ),
        (n, false) => format!(
            "Of {n} comparisons these stay below 0.05 after Holm’s correction for their number: {}{rest}.",
            shown.join("; ")
        ),
    };
    Paragraph {
        kind: Kind::Plain,
        lead: String::new(),
        text,
    }
}

/// No rate can change by more.
const LARGEST: f64 = 1.0;

/// The comparison of a variant's first and last round, for each variant: what a reader asks about most.
fn power_notes(comparisons: &[Comparison]) -> Vec<Paragraph> {
    let mut largest: BTreeMap<(Measure, &str), (f64, &Comparison)> = BTreeMap::new();
    let over_rounds = |c: &&Comparison| c.first.variant == c.second.variant && c.who.is_empty();
    for c in comparisons.iter().filter(over_rounds) {
        let Some(power) = c.power else { continue };
        let place = largest.entry((c.measure, &c.model)).or_insert((0.0, c));
        if power.detectable > place.0 {
            *place = (power.detectable, c);
        }
    }
    largest
        .into_values()
        .filter_map(|(detectable, c)| {
            let power = c.power?;
            let needed = match (power.clusters, power.pairs) {
                (Some(clusters), Some(pairs)) => {
                    format!("10 points would need about {pairs} pairs in {}", words::clusters(clusters, c.measure))
                }
                _ => "10 points are out of reach".into(),
            };
            let pairs = count(c.difference.n, "pair");
            let found = if detectable > LARGEST {
                "this run could have found no change of a rate between two rounds in 80 of 100 cases: it would have to be \
                 larger than 100 points"
                    .to_owned()
            } else {
                format!(
                    "this run finds a change between two rounds of {} points in 80 of 100 cases, and smaller ones less often",
                    percent(detectable)
                )
            };
            Some(Paragraph {
                kind: Kind::Finding,
                lead: format!("{}, {}:", words::measure(c.measure), c.model),
                text: format!("with {pairs}, {found}; {needed}."),
            })
        })
        .collect()
}

fn name(c: &Comparison) -> String {
    let who = |variant: &str| words::who(variant, &c.who, "all");
    if c.first.variant == c.second.variant {
        format!(
            "{}, round {} to {}",
            who(&c.second.variant),
            c.first.round,
            c.second.round
        )
    } else {
        format!(
            "{} against {}, round {}",
            who(&c.second.variant),
            variant_name(&c.first.variant),
            c.second.round
        )
    }
}

fn grouped<'a, T>(
    items: &'a [T],
    heading: impl Fn(&T) -> String,
    row: impl Fn(&'a T) -> Vec<Vec<String>>,
) -> Vec<Group> {
    let mut groups: Vec<Group> = vec![];
    for item in items {
        let name = heading(item);
        let rows = row(item);
        match groups.last_mut() {
            Some(group) if group.name == name => group.rows.extend(rows),
            _ => groups.push(Group { name, rows }),
        }
    }
    groups.retain(|group| !group.rows.is_empty());
    groups
}

fn heading(c: &Comparison) -> String {
    format!("{}: {}", words::measure(c.measure), c.model)
}

fn compared(comparisons: &[Comparison]) -> Table {
    let seeds = comparisons.iter().any(|c| c.over_seeds.is_some());
    let groups = grouped(comparisons, heading, |c| {
        let [difference, range] = signed(Some(&c.difference));
        let mut row = vec![
            name(c),
            difference,
            range,
            c.pairs.gained.to_string(),
            c.pairs.lost.to_string(),
            c.pairs.same.to_string(),
            c.dropped.to_string(),
            p_value(Some(c.exact)),
            p_value(c.p),
            p_value(c.adjusted),
        ];
        if seeds {
            let [_, range] = signed(c.over_seeds.as_ref());
            row.push(range);
        }
        vec![row]
    });
    let mut names = vec![
        "Comparison",
        "Points",
        "95 % interval",
        "Gained",
        "Lost",
        "Same",
        "Left out",
        "McNemar",
        "p",
        "Holm",
    ];
    let mut note = "";
    if seeds {
        names.push("Over seeds");
        note = " Over seeds: the interval if seeds are drawn anew as well.";
    }
    Table {
        caption: format!(
            "Paired comparisons of event rates, in points, second minus first. Gained, lost, same: pairs with an event in the \
             second alone, the first alone, both or neither. McNemar: exact p-value that takes pairs for independent. p: by \
             cluster, the one to read. Holm: p corrected for the number of comparisons under the same heading.{note}"
        ),
        columns: columns(&names),
        text_columns: 1,
        groups,
    }
}

fn power(comparisons: &[Comparison]) -> Table {
    let groups = grouped(comparisons, heading, |c| {
        let Some(power) = &c.power else { return vec![] };
        let whole = |n: Option<usize>| n.map_or("over 100 000".into(), |n| n.to_string());
        vec![vec![
            name(c),
            match power.detectable {
                points if points > LARGEST => "> 100".into(),
                points => percent(points),
            },
            c.difference.n.to_string(),
            whole(power.pairs),
            whole(power.clusters),
        ]]
    });
    Table {
        caption: "What each comparison could have seen. Detectable: the smallest true difference, in points, that it finds in \
                  80 of 100 runs at the 5 % level, with the clustering it has; > 100: none, as no rate changes by \
                  more. Then what it would take to find 10 points so, with clusters (environments, games, families) of the \
                  same size; more questions in the same clusters help less."
            .into(),
        columns: columns(&[
            "Comparison",
            "Detectable",
            "Pairs",
            "Pairs for 10",
            "Clusters for 10",
        ]),
        text_columns: 1,
        groups,
    }
}

fn bounds(found: &[Tipping]) -> Table {
    let whole: Vec<&Tipping> = found.iter().filter(|t| t.settings == "all").collect();
    let groups = grouped(
        &whole,
        |t| format!("{}: {}", words::measure(t.measure), t.model),
        |t| {
            let name = words::who(&t.variant, &t.who, &t.settings);
            t.levels
                .iter()
                .map(|level| {
                    let both = level.bounds.as_ref();
                    let effect = level.design_effect;
                    vec![
                        name.clone(),
                        level.round.to_string(),
                        level.read.to_string(),
                        level.invalid.to_string(),
                        level.failed.to_string(),
                        value(both.map(|b| &b.best)),
                        value(both.map(|b| &b.worst)),
                        both.map_or(NONE.into(), |b| words::range(b.range())),
                        effect.map_or(NONE.into(), |e| format!("{e:.1}")),
                        effect.map_or(NONE.into(), |e| {
                            format!("{:.0}", level.read as f64 / e.max(1.0))
                        }),
                    ]
                })
                .collect()
        },
    );
    Table {
        caption: "What is known if nothing is assumed about answers without an outcome (Invalid: could not be read; Failed: did \
                  not come about). Best and worst: the rate of events, in percent, if none of them were an event, and if all \
                  were; then from the lower end of the best case’s 95 % interval to the upper end of the worst’s. Effect: \
                  design effect, how many decisions of a cluster are worth one independent one; Worth: independent decisions \
                  that those read are worth."
            .into(),
        columns: columns(&[
            "Variant", "Round", "Read", "Invalid", "Failed", "Best", "Worst", "Both intervals", "Effect", "Worth",
        ]),
        text_columns: 1,
        groups,
    }
}

fn bias(biases: &[StrandBias]) -> Table {
    let groups = biases.iter().map(|of| {
        let rows = |check: &BiasCheck, what: &str| -> Vec<Vec<String>> {
            let mut rows: Vec<Vec<String>> = check
                .levels
                .iter()
                .map(|level| {
                    let rate = level.rate.as_ref();
                    let n = rate.map_or("0".into(), |e| e.n.to_string());
                    vec![
                        format!("{what} {}", level.level),
                        value(rate),
                        interval(rate),
                        n,
                    ]
                })
                .collect();
            if let (Some(d), [a, b]) = (&check.difference, check.levels.as_slice()) {
                let [points, range] = signed(Some(d));
                let name = format!("difference, {} − {}", a.level, b.level);
                rows.push(vec![name, points, range, d.n.to_string()]);
            }
            rows
        };
        let place = match of.measure {
            Measure::WithoutTool | Measure::Unsolved => "tool described",
            Measure::Violation | Measure::Collusion => "independent option",
        };
        let mut all = rows(&of.position, place);
        all.extend(rows(&of.label, "independent option labelled"));
        Group {
            name: format!("{}, {}", of.model, words::who(&of.variant, &of.who, "all")),
            rows: all,
        }
    });
    let lettered = biases.iter().any(|of| !of.label.levels.is_empty());
    let (letters, both) = if lettered {
        (" and how the independent option was labelled", "Both are")
    } else {
        ("", "It is")
    };
    Table {
        caption: format!(
            "Games and tools: rate of events in percent, all rounds, by what stood first in the prompt{letters}. {both} \
             counterbalanced; an agent that reads shows no difference."
        ),
        columns: columns(&["Prompts with", "Events", "95 % interval", "Read"]),
        text_columns: 1,
        groups: groups.filter(|group| !group.rows.is_empty()).collect(),
    }
}

fn csv(comparisons: &[Comparison]) -> String {
    let header = "model,measure,agents,first_variant,first_round,second_variant,second_round,pairs,gained,lost,same,left_out,\
                  difference,low,high,p_mcnemar,p,p_holm,low_over_seeds,high_over_seeds,detectable,pairs_for_10_points";
    lines(
        header,
        comparisons.iter().map(|c| {
            vec![
                c.model.clone(),
                c.measure.name().into(),
                c.who.clone(),
                c.first.variant.clone(),
                c.first.round.to_string(),
                c.second.variant.clone(),
                c.second.round.to_string(),
                c.difference.n.to_string(),
                c.pairs.gained.to_string(),
                c.pairs.lost.to_string(),
                c.pairs.same.to_string(),
                c.dropped.to_string(),
                c.difference.value.to_string(),
                c.difference.low.to_string(),
                c.difference.high.to_string(),
                c.exact.to_string(),
                number(c.p),
                number(c.adjusted),
                number(c.over_seeds.map(|e| e.low)),
                number(c.over_seeds.map(|e| e.high)),
                number(c.power.map(|p| p.detectable)),
                c.power
                    .and_then(|p| p.pairs)
                    .map_or(String::new(), |n| n.to_string()),
            ]
        }),
    )
}

#[cfg(test)]
mod tests;
