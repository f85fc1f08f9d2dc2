//! The report as one HTML file: no network, no script, no font but the reader's; light, dark and print.

use std::fmt::Write as _;

use super::Report;
use super::escape::{count, html, minus, percent};
use super::figures::{NARROW, Panel, TrainingFigure, WIDE, training_figures, violation_chart};
use super::narrative::{Kind, Paragraph, summary, variant_name};
use super::samples::{Samples, samples, shown_text};
use super::section::Section;
use super::svg;
use super::tables::{self, Table};
use crate::evaluation::row::EvalRow;
use crate::scenario::Outcome;

const STYLE: &str = include_str!("style.css");

/// A page being written, with the running numbers of its figures and tables.
#[derive(Default)]
struct Page {
    body: String,
    figures: usize,
    tables: usize,
}

/// The report as a self-contained HTML file.
pub fn render_html(report: &Report) -> String {
    let mut page = Page::default();
    page.head(report);
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
    page.section("provenance", "Provenance");
    page.provenance(report);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{}</title>\n<style>\n{STYLE}{}</style>\n</head>\n<body>\n{}</main>\n</body>\n</html>\n",
        html(&report.inputs.title),
        svg::STYLE,
        page.body
    )
}

impl Page {
    fn push(&mut self, text: &str) {
        self.body.push_str(text);
    }

    fn head(&mut self, report: &Report) {
        let _ = write!(
            self.body,
            "<header>\n<h1>{}</h1>\n",
            html(&report.inputs.title)
        );
        let device = &report.inputs.provenance.device;
        if !device.is_empty() {
            let _ = writeln!(self.body, "<p class=\"byline\">{}</p>", html(device));
        }
        self.push("</header>\n<main>\n<section aria-labelledby=\"summary\">\n<h2 id=\"summary\">Summary</h2>\n");
        self.paragraphs(&summary(report));
        self.push("</section>\n");
    }

    fn paragraphs(&mut self, paragraphs: &[Paragraph]) {
        let mut listing = false;
        for paragraph in paragraphs {
            let finding = paragraph.kind == Kind::Finding;
            if finding != listing {
                self.push(if finding {
                    "<ul class=\"findings\">\n"
                } else {
                    "</ul>\n"
                });
                listing = finding;
            }
            let text = html(&paragraph.text);
            let _ = match paragraph.kind {
                Kind::Plain => writeln!(self.body, "<p>{text}</p>"),
                Kind::Caveat => writeln!(self.body, "<p class=\"caveat\">{text}</p>"),
                Kind::Finding => writeln!(
                    self.body,
                    "<li><b>{}</b> {text}</li>",
                    html(&paragraph.lead)
                ),
            };
        }
        if listing {
            self.push("</ul>\n");
        }
    }

    /// One testbed's part.
    fn testbed(&mut self, section: &Section) {
        self.section(section.id, section.title);
        self.paragraphs(&section.paragraphs);
        for figure in &section.figures {
            self.figure(&figure.wide, &figure.narrow, &html(&figure.caption));
        }
        for table in &section.tables {
            self.table(table);
        }
    }

    /// A chart in both sizes; the caption is HTML.
    fn figure(&mut self, wide: &svg::Chart, narrow: &svg::Chart, caption: &str) {
        self.figures += 1;
        let (wide, narrow) = (svg::inline(wide), svg::inline(narrow));
        let _ = writeln!(
            self.body,
            "<figure>\n<div class=\"wide\">{wide}</div>\n<div class=\"narrow\">{narrow}</div>\n\
             <figcaption><b>Figure {}.</b> {caption}</figcaption>\n</figure>",
            self.figures,
        );
    }

    fn section(&mut self, id: &str, title: &str) {
        let _ = writeln!(self.body, "<h2 id=\"{id}\">{}</h2>", html(title));
    }

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
        let method = variant_name(figure.method);
        let mut notes = format!("{method} training of {}", figure.model);
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

    fn table(&mut self, table: &Table) {
        self.tables += 1;
        let number = self.tables;
        // The caption stands outside what scrolls, so that a narrow page shows it whole.
        let _ = writeln!(
            self.body,
            "<p class=\"caption\" id=\"table-{number}\"><b>Table {number}.</b> {}</p>\n\
             <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Table {number}\">\n\
             <table aria-labelledby=\"table-{number}\">\n<thead><tr>",
            html(&table.caption)
        );
        let class = |i: usize| {
            if i < table.text_columns {
                " class=\"text\""
            } else {
                ""
            }
        };
        for (i, column) in table.columns.iter().enumerate() {
            let _ = write!(
                self.body,
                "<th scope=\"col\"{}>{}</th>",
                class(i),
                html(column)
            );
        }
        self.push("</tr></thead>\n");
        let mut names = table
            .groups
            .iter()
            .flat_map(|g| &g.rows)
            .filter_map(|row| row.first());
        let long = if names.any(|name| name.chars().count() > 14) {
            " long"
        } else {
            ""
        };
        for group in &table.groups {
            self.push("<tbody>\n");
            if !group.name.is_empty() {
                let _ = writeln!(
                    self.body,
                    "<tr class=\"group\"><th scope=\"rowgroup\" colspan=\"{}\">{}</th></tr>",
                    table.columns.len(),
                    html(&group.name)
                );
            }
            for row in &group.rows {
                self.push("<tr>");
                for (i, cell) in row.iter().enumerate() {
                    let cell = html(cell);
                    let _ = match i {
                        0 => write!(
                            self.body,
                            "<th scope=\"row\" class=\"text{long}\">{cell}</th>"
                        ),
                        _ => write!(self.body, "<td{}>{cell}</td>", class(i)),
                    };
                }
                self.push("</tr>\n");
            }
            self.push("</tbody>\n");
        }
        self.push("</table>\n</div>\n");
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
