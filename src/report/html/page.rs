//! A page being written: sections, figures and tables from the report's generic parts, then one file with its styles,
//! scripts and a policy that allows these alone.

use std::fmt::Write as _;

use super::embed::digest;
use crate::report::escape::html;
use crate::report::narrative::{Kind, Paragraph};
use crate::report::section::Section;
use crate::report::svg::{self, Chart};
use crate::report::tables::Table;

const STYLE: &str = include_str!("report.css");
const CHARTS: &str = include_str!("charts.js");

/// A page being written, with the running numbers of its figures and tables.
#[derive(Default)]
pub(super) struct Page {
    pub(super) body: String,
    pub(super) figures: usize,
    tables: usize,
    contents: Vec<(String, String)>,
    scripts: Vec<&'static str>,
}

impl Page {
    pub(super) fn push(&mut self, text: &str) {
        self.body.push_str(text);
    }

    pub(super) fn paragraphs(&mut self, paragraphs: &[Paragraph]) {
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
    pub(super) fn testbed(&mut self, section: &Section) {
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
    pub(super) fn figure(&mut self, wide: &Chart, narrow: &Chart, caption: &str) {
        self.figures += 1;
        let (wide, narrow) = (svg::inline(wide), svg::inline(narrow));
        let _ = writeln!(
            self.body,
            "<figure>\n<div class=\"wide\">{wide}</div>\n<div class=\"narrow\">{narrow}</div>\n\
             <figcaption><b>Figure {}.</b> {caption}</figcaption>\n</figure>",
            self.figures,
        );
    }

    pub(super) fn section(&mut self, id: &str, title: &str) {
        self.contents.push((id.to_owned(), title.to_owned()));
        let _ = writeln!(self.body, "<h2 id=\"{}\">{}</h2>", html(id), html(title));
    }

    pub(super) fn table(&mut self, table: &Table) {
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

    /// A script that the page runs, once.
    pub(super) fn script(&mut self, script: &'static str) {
        self.scripts.push(script);
    }

    /// The whole file. Nothing is loaded, and the only styles and scripts that run are the page's own, known by their
    /// digests: an attribute or element that got through all escaping could still not run.
    pub(super) fn finish(self, title: &str, byline: &str) -> String {
        let style = format!("{STYLE}{}", svg::STYLE);
        let script = [&[CHARTS], self.scripts.as_slice()].concat().join("\n");
        let mut contents = String::new();
        for (id, title) in &self.contents {
            let _ = write!(contents, "<a href=\"#{}\">{}</a> ", html(id), html(title));
        }
        let byline = if byline.is_empty() {
            String::new()
        } else {
            format!("<p class=\"byline\">{}</p>\n", html(byline))
        };
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src '{}'; script-src '{}'; \
             base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n\
             <header>\n<h1>{title}</h1>\n{byline}<nav class=\"contents\" aria-label=\"Contents\">{contents}</nav>\n</header>\n\
             <main>\n{}</main>\n<script>{script}</script>\n</body>\n</html>\n",
            digest(&style),
            digest(&script),
            self.body,
            title = html(title),
        )
    }
}
