//! The report as one HTML file: no network, no font but the reader's; light, dark and print.
//!
//! | file | what it does |
//! |---|---|
//! | here | which parts a report has |
//! | `page` | figures, tables, paragraphs; the file around them and its security policy |
//! | `embed` | compressed data and digests |
//! | `viewer` | the traces, for `viewer.js` |
//!
//! It reads whole without JavaScript: every chart is drawn, and the same decisions stand in a table. Scripts add values
//! under the pointer, lines that can be put away, and the viewer of all traces.

use std::fmt::Write as _;

mod embed;
mod page;
mod viewer;

use super::Report;
use super::escape::{count, html, minus, percent};
use super::figures::{NARROW, Panel, TrainingFigure, WIDE, training_figures, violation_chart};
use super::narrative::{summary, variant_name};
use super::samples::{Samples, samples, shown_text};
use super::section::Section;
use super::svg;
use super::tables;
use super::traces::traces;
use crate::evaluation::row::EvalRow;
use crate::scenario::Outcome;
use page::Page;
use viewer::viewer;

/// The report as a self-contained HTML file.
pub fn render_html(report: &Report) -> String {
    let mut page = Page::default();
    page.section("summary", "Summary");
    page.paragraphs(&summary(report));
    let models = report.by_model();
    if !models.is_empty() {
        page.section("rates", "Violation rate by round");
        for (model, variants) in &models {
            page.violation_figure(model, variants);
            page.table(&tables::rates(model, variants));
            page.table(&tables::changes(model, variants));
        }
        page.section("paper", "Beside the paper");
        page.table(&tables::beside_paper(report));
        page.section("bias", "Order and label");
        for (model, variants) in &models {
            page.table(&tables::bias(model, variants));
        }
    }
    for section in report.sections() {
        page.testbed(&section);
    }
    let training = training_figures(report);
    if !training.is_empty() {
        page.section("training", "Training");
        training
            .iter()
            .for_each(|figure| page.training_figure(figure));
    }
    if !models.is_empty() {
        page.section("decisions", "Decisions to read");
        page.samples(&samples(report), models.len() > 1);
    }
    viewer(&mut page, &traces(report));
    page.section("provenance", "Provenance");
    page.provenance(report);
    page.finish(&report.inputs.title, &report.inputs.provenance.device)
}

/// A page of sections alone, for what is not a report.
pub(super) fn page_of(title: &str, byline: &str, sections: &[Section]) -> String {
    let mut page = Page::default();
    sections.iter().for_each(|section| page.testbed(section));
    page.finish(title, byline)
}

impl Page {
    fn violation_figure(
        &mut self,
        model: &str,
        variants: &[&crate::evaluation::summary::VariantSummary],
    ) {
        let caption = format!(
            "{}: share of readable decisions that break the supervisor’s rule. Bars are 95\u{A0}% intervals; lines are \
             moved sideways a little so that they do not hide each other.",
            html(model)
        );
        self.figure(
            &violation_chart(model, variants, WIDE),
            &violation_chart(model, variants, NARROW),
            &caption,
        );
    }

    fn training_figure(&mut self, figure: &TrainingFigure) {
        self.figures += 1;
        let mut notes = match figure.method {
            // What is drawn is the second training.
            "dpo-grpo" => format!("GRPO training of {} from the adapter of DPO", figure.model),
            method => format!("{} training of {}", variant_name(method), figure.model),
        };
        if !figure.testbed.is_empty() {
            let _ = write!(notes, " on {}", figure.testbed);
        }
        if figure.seeds > 1 {
            let _ = write!(
                notes,
                ", {} drawn over each other",
                count(figure.seeds, "seed")
            );
        }
        notes.push('.');
        if figure.smoothed {
            notes.push_str(
                " Pale: values by step; strong: their moving average over a tenth of the training.",
            );
        }
        if figure.bucket > 1 {
            let _ = write!(
                notes,
                " Values are means of up to {} consecutive steps.",
                figure.bucket
            );
        }
        self.push("<figure>\n");
        self.panels(&figure.main);
        if !figure.more.is_empty() {
            let _ = writeln!(
                self.body,
                "<details><summary>{}</summary>",
                count(figure.more.len(), "more metric")
            );
            self.panels(&figure.more);
            self.push("</details>\n");
        }
        let _ = writeln!(
            self.body,
            "<figcaption><b>Figure {}.</b> {}</figcaption>\n</figure>",
            self.figures,
            html(&notes)
        );
    }

    fn panels(&mut self, panels: &[Panel]) {
        self.push("<div class=\"panels\">\n");
        for panel in panels {
            let chart = svg::inline(&panel.chart);
            let _ = writeln!(
                self.body,
                "<div><p class=\"panel\">{}</p>{chart}</div>",
                html(&panel.title)
            );
        }
        self.push("</div>\n");
    }

    fn samples(&mut self, all: &[Samples], name_model: bool) {
        self.push(
            "<p>The same questions, evenly spread over the sorted names and chosen without a look at the answers, \
             followed through the rounds; then the first answers that could not be read and the first failures.</p>\n",
        );
        for samples in all {
            let mut title = variant_name(samples.variant);
            if name_model {
                title = format!("{}, {title}", samples.model);
            }
            let rounds = samples
                .followed
                .iter()
                .map(|(_, rows)| rows.len())
                .max()
                .unwrap_or(0);
            let _ = writeln!(
                self.body,
                "<details><summary>{}: {} over {}</summary>",
                html(&title),
                count(samples.followed.len(), "question"),
                count(rounds, "round")
            );
            let groups: Vec<(&str, &[&EvalRow])> = samples
                .followed
                .iter()
                .map(|(question, rows)| (*question, rows.as_slice()))
                .chain([
                    ("Could not be read", samples.invalid.as_slice()),
                    ("Failed", samples.failed.as_slice()),
                ])
                .filter(|(_, rows)| !rows.is_empty())
                .collect();
            self.decisions(&title, &groups, samples.followed.len());
            self.push("</details>\n");
        }
    }

    /// A table of decisions; rows of the groups from `unnamed` on say which question they belong to.
    fn decisions(&mut self, title: &str, groups: &[(&str, &[&EvalRow])], unnamed: usize) {
        let _ = writeln!(
            self.body,
            "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Decisions of {}\">\n\
             <table class=\"decisions\">\n<thead><tr><th scope=\"col\">Round</th><th scope=\"col\" class=\"text\">Outcome</th>\
             <th scope=\"col\">Pay</th><th scope=\"col\">P(break)</th><th scope=\"col\" class=\"text\">Text</th></tr></thead>",
            html(title)
        );
        for (i, (name, rows)) in groups.iter().enumerate() {
            let _ = writeln!(
                self.body,
                "<tbody>\n<tr class=\"group\"><th scope=\"rowgroup\" colspan=\"5\">{}</th></tr>",
                html(name)
            );
            for row in *rows {
                let question = if i >= unnamed {
                    format!("[{}] ", row.question_id)
                } else {
                    String::new()
                };
                let (class, outcome) = outcome(row.outcome);
                let _ = writeln!(
                    self.body,
                    "<tr><th scope=\"row\">{}</th><td class=\"text {class}\">{outcome}</td><td>{}</td><td>{}</td>\
                     <td class=\"text said\">{}</td></tr>",
                    row.round,
                    row.payoff.map_or("–".into(), |p| minus(p.to_string())),
                    row.deviant_probability.map_or("–".into(), percent),
                    html(&(question + &shown_text(row)))
                );
            }
            self.push("</tbody>\n");
        }
        self.push("</table>\n</div>\n");
    }

    fn provenance(&mut self, report: &Report) {
        for table in tables::provenance(&report.inputs.models, &report.inputs.provenance) {
            self.table(&table);
        }
        if !report.inputs.recipe.is_empty() {
            let _ = writeln!(
                self.body,
                "<details><summary>Recipe</summary>\n<pre tabindex=\"0\">{}</pre>\n</details>",
                html(report.inputs.recipe.trim_end())
            );
        }
    }
}

fn outcome(outcome: Outcome) -> (&'static str, &'static str) {
    match outcome {
        Outcome::Compliant => ("compliant", "kept the rule"),
        Outcome::Deviant => ("deviant", "broke the rule"),
        Outcome::Invalid => ("unread", "invalid"),
        Outcome::Failed => ("unread", "failed"),
    }
}

#[cfg(test)]
mod tests;
