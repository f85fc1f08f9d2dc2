//! A comparison as a page of its own, made of the same parts as a report.

use super::text::title;
use super::{Comparison, Line};
use crate::evaluation::statistics::Estimate;
use crate::report::figures::{NARROW, WIDE, rate_chart, rate_points};
use crate::report::html::page_of;
use crate::report::section::{Figure, Section};
use crate::report::svg::{self, Chart};
use crate::scenario::Testbed;

impl Comparison {
    /// The comparison as a self-contained HTML file.
    pub fn html(&self) -> String {
        let mut sections = vec![Section {
            id: "summary",
            title: "Summary",
            paragraphs: self.paragraphs(),
            figures: vec![],
            tables: vec![],
            csv: vec![],
            in_summary: false,
        }];
        let mut tables = self.tables().into_iter();
        for (testbed, id) in [
            (Testbed::RolePlay, "role-play"),
            (Testbed::Coordination, "games"),
            (Testbed::ToolUse, "tools"),
        ] {
            let figures = self.figures(testbed);
            if !self.lines.iter().any(|line| line.testbed() == testbed) {
                continue;
            }
            sections.push(Section {
                id,
                title: title(testbed),
                paragraphs: vec![],
                figures,
                tables: tables.next().into_iter().collect(),
                csv: vec![],
                in_summary: false,
            });
        }
        page_of(&format!("{} beside {}", self.a, self.b), "", &sections)
    }

    /// One chart a model, variant and measure: both runs by round.
    fn figures(&self, testbed: Testbed) -> Vec<Figure> {
        let mut names: Vec<String> = vec![];
        let of = self.lines.iter().filter(|line| line.testbed() == testbed);
        for name in of.map(Line::name) {
            if names.last() != Some(&name) {
                names.push(name);
            }
        }
        let figure = |name: &String| Figure {
            file: String::new(),
            caption: format!("{name}: A and B by round. Bars are 95 % intervals."),
            wide: self.chart(name, WIDE),
            narrow: self.chart(name, NARROW),
        };
        names.iter().map(figure).collect()
    }

    fn chart(&self, name: &str, size: (f64, f64)) -> Chart {
        let lines: Vec<&Line> = self.lines.iter().filter(|l| l.name() == name).collect();
        let drawn = |label: &str, style, side: fn(&Line) -> Option<Estimate>| {
            let points = lines.iter().filter_map(|l| Some((l.round?, side(l))));
            svg::Line {
                label: label.into(),
                style,
                markers: true,
                points: rate_points(points),
                ..svg::Line::default()
            }
        };
        let rounds = lines.iter().filter_map(|l| l.round);
        let both = vec![drawn("A", 0, |l| l.a), drawn("B", 1, |l| l.b)];
        let unit = lines.first().map_or("", |l| l.measure.rate_name());
        let mut label = format!("{unit}, %");
        if let Some(first) = label.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        rate_chart(
            format!("{name}, in percent by round, run A and run B."),
            &label,
            both,
            rounds,
            size,
        )
    }
}
