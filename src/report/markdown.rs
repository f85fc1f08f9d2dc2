//! The report as Markdown: summary, charts by link, tables, recipe. Decisions to browse are in the HTML alone.

use std::fmt::Write as _;

use super::Report;
use super::escape::{markdown, minus};
use super::figures::{file_name, training_figures};
use super::narrative::{Kind, Paragraph, summary, variant_name};
use super::section::Section;
use super::tables::{self, Table};

/// The report as Markdown. It links the charts of [`super::render_figures`] as files beside it.
pub fn render_markdown(report: &Report) -> String {
    let mut out = format!("# {}\n\n", markdown(&report.inputs.title));
    paragraphs(&mut out, &summary(report));
    let models = report.by_model();
    if !models.is_empty() {
        out.push_str("## Violation rate by round\n\n");
        for (i, (model, variants)) in models.iter().enumerate() {
            let _ = writeln!(
                out,
                "![Violation rate of {} by round, with 95 % intervals]({})\n",
                markdown(model),
                file_name(i, models.len())
            );
            table(&mut out, &tables::rates(model, variants));
            table(&mut out, &tables::changes(model, variants));
        }
        out.push_str("## Beside the paper\n\n");
        table(&mut out, &tables::beside_paper(report));
        out.push_str("## Order and label\n\n");
        for (model, variants) in &models {
            table(&mut out, &tables::bias(model, variants));
        }
    }
    for section in report.sections() {
        testbed(&mut out, &section);
    }
    training(&mut out, report);
    out.push_str("## Provenance\n\n");
    let provenance = &report.inputs.provenance;
    if !provenance.device.is_empty() {
        let _ = writeln!(out, "Device: {}.\n", markdown(&provenance.device));
    }
    for found in tables::provenance(&report.inputs.models, provenance) {
        table(&mut out, &found);
    }
    if !report.inputs.recipe.is_empty() {
        // A fence longer than any run of backticks inside cannot be closed from within.
        let fence = "`".repeat(longest_run(&report.inputs.recipe, '`').max(2) + 1);
        let _ = writeln!(
            out,
            "Recipe:\n\n{fence}toml\n{}\n{fence}",
            report.inputs.recipe.trim_end()
        );
    }
    out
}

fn longest_run(text: &str, wanted: char) -> usize {
    text.split(|c| c != wanted)
        .map(|run| run.chars().count())
        .max()
        .unwrap_or(0)
}

/// Paragraphs, findings as a list.
fn paragraphs(out: &mut String, paragraphs: &[Paragraph]) {
    for (i, paragraph) in paragraphs.iter().enumerate() {
        let text = markdown(&paragraph.text);
        let _ = match paragraph.kind {
            Kind::Plain => writeln!(out, "{text}\n"),
            Kind::Caveat => writeln!(out, "> {text}\n"),
            Kind::Finding => {
                let next = paragraphs
                    .get(i + 1)
                    .is_some_and(|next| next.kind == Kind::Finding);
                let end = if next { "" } else { "\n" };
                writeln!(out, "- **{}** {text}{end}", markdown(&paragraph.lead))
            }
        };
    }
}

/// One testbed's part.
fn testbed(out: &mut String, section: &Section) {
    let _ = writeln!(out, "## {}\n", section.title);
    paragraphs(out, &section.paragraphs);
    for figure in &section.figures {
        let _ = writeln!(out, "![{}]({})\n", markdown(&figure.caption), figure.file);
    }
    for one in &section.tables {
        table(out, one);
    }
}

/// First and last value of each training metric.
fn training(out: &mut String, report: &Report) {
    if training_figures(report).is_empty() {
        return;
    }
    let number = |value: f64| {
        let text = if value != 0.0 && value.abs() < 1e-3 {
            format!("{value:.2e}")
        } else {
            format!("{value:.4}")
        };
        minus(text)
    };
    let groups = report
        .inputs
        .training
        .iter()
        .map(|series| tables::Group {
            name: format!(
                "{}{}, {}, seed {}",
                if series.testbed.is_empty() {
                    String::new()
                } else {
                    format!("{}, ", series.testbed)
                },
                series.model,
                variant_name(&series.name),
                series.seed
            ),
            rows: series
                .metrics
                .iter()
                .filter_map(|(metric, values)| {
                    let (first, last) = (values.first()?, values.last()?);
                    Some(vec![
                        metric.clone(),
                        last.0.to_string(),
                        number(first.1),
                        number(last.1),
                    ])
                })
                .collect(),
        })
        .collect();
    out.push_str("## Training\n\n");
    let columns = ["Metric", "Steps", "First", "Last"]
        .map(str::to_owned)
        .to_vec();
    let caption =
        "Training metrics at their first and last step; their courses are in the HTML report."
            .into();
    table(
        out,
        &Table {
            caption,
            columns,
            text_columns: 1,
            groups,
        },
    );
}

fn table(out: &mut String, table: &Table) {
    let grouped = table.groups.iter().any(|group| !group.name.is_empty());
    let mut columns: Vec<String> = table.columns.iter().map(|c| markdown(c)).collect();
    let mut rules: Vec<&str> = (0..columns.len())
        .map(|i| if i < table.text_columns { ":--" } else { "--:" })
        .collect();
    if grouped {
        columns.insert(0, String::new());
        rules.insert(0, ":--");
    }
    let _ = writeln!(
        out,
        "{}\n\n| {} |\n|{}|",
        markdown(&table.caption),
        columns.join(" | "),
        rules.join("|")
    );
    for group in &table.groups {
        for (i, row) in group.rows.iter().enumerate() {
            let mut cells: Vec<String> = row.iter().map(|cell| markdown(cell)).collect();
            if grouped {
                cells.insert(
                    0,
                    if i == 0 {
                        format!("**{}**", markdown(&group.name))
                    } else {
                        String::new()
                    },
                );
            }
            let _ = writeln!(out, "| {} |", cells.join(" | "));
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::simulation::{report, simulated};

    #[test]
    fn every_part_is_there_and_tables_have_equal_cells() {
        let text = render_markdown(&report());
        for part in [
            "no finding about alignment",
            "](violation-rate.svg)",
            "paper: Llama-3.1-8B",
            "compliant option first",
            "zero\\_variance\\_share",
            "sha256:aaaa",
            "train-grpo",
            "window = 5",
        ] {
            assert!(text.contains(part), "{part} is missing");
        }
        let mut expected = None;
        for line in text.lines() {
            let cells = line.replace("\\|", "").matches('|').count();
            expected = line.starts_with('|').then(|| expected.unwrap_or(cells));
            assert_eq!(expected.unwrap_or(cells), cells, "{line}");
        }
    }

    #[test]
    fn a_hostile_name_or_recipe_breaks_no_structure() {
        let mut inputs = simulated();
        inputs
            .rows
            .iter_mut()
            .for_each(|row| row.model = "x | <script>\n# y".into());
        inputs.recipe = "a\n```\n<script>b".into();
        let text = render_markdown(&Report::new(inputs).unwrap());
        let recipe = text.find("````toml").unwrap();
        assert!(!text[..recipe].contains("<script>"));
        assert!(text.trim_end().ends_with("<script>b\n````"));
        assert!(!text.lines().any(|line| line.starts_with("# y")));
    }
}
