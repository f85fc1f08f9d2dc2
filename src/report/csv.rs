//! Rates by model, variant and round as CSV (RFC 4180), full precision, for further analysis.

use super::Report;

const HEADER: &str = "model,variant,round,questions,environments,seeds,compliant,deviant,invalid,failed,violation_rate,low,\
                      high,rate_if_invalid_compliant,rate_if_invalid_deviant,mean_deviant_probability";

/// The tables of the report as CSV: file name and text, those of parts that have rows.
pub fn render_tables(report: &Report) -> Vec<(String, String)> {
    let role_play =
        (!report.variants().is_empty()).then(|| ("rates.csv".to_owned(), render_csv(report)));
    let others = report
        .sections()
        .into_iter()
        .flat_map(|section| section.csv)
        .map(|(name, text)| (name.to_owned(), text));
    role_play.into_iter().chain(others).collect()
}

/// One line a model, variant and round. Rates are shares between 0 and 1; an empty field is a rate without decisions.
fn render_csv(report: &Report) -> String {
    let mut out = format!("{HEADER}\n");
    for variant in report.variants() {
        for round in &variant.rounds {
            let counts = round.counts;
            let bounds = counts.bounds();
            let number = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
            let whole = [
                variant.questions,
                variant.environments,
                variant.seeds.len(),
                counts.compliant,
                counts.deviant,
                counts.invalid,
                counts.failed,
            ];
            let mut fields = vec![
                field(&variant.model),
                field(&variant.variant),
                round.round.to_string(),
            ];
            fields.extend(whole.iter().map(usize::to_string));
            fields.extend([
                number(round.rate.map(|e| e.value)),
                number(round.rate.map(|e| e.low)),
                number(round.rate.map(|e| e.high)),
                number(bounds.map(|b| b.0)),
                number(bounds.map(|b| b.1)),
                number(round.deviant_probability),
            ]);
            out.push_str(&fields.join(","));
            out.push('\n');
        }
    }
    out
}

/// Lines of fields under a header; each field is quoted where it must be.
pub(super) fn lines(header: &str, rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut out = format!("{header}\n");
    for row in rows {
        let fields: Vec<String> = row.iter().map(|text| field(text)).collect();
        out.push_str(&fields.join(","));
        out.push('\n');
    }
    out
}

/// A number, or nothing where there is none.
pub(super) fn number(value: Option<f64>) -> String {
    value.map_or(String::new(), |v| v.to_string())
}

/// A field, quoted where it must be.
pub(super) fn field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::simulation::{rates, simulated};

    #[test]
    fn rates_and_bounds_by_round() {
        let csv = render_csv(&rates(&[("base", &[0.25, 0.5])]));
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[2].starts_with("simulated-135M,base,2,64,16,1,32,32,0,0,0.5,"),
            "{}",
            lines[2]
        );
        assert!(lines.iter().all(|line| line.split(',').count() == 16));
    }

    #[test]
    fn a_name_with_commas_and_quotes_stays_one_field() {
        let mut inputs = simulated();
        inputs
            .rows
            .iter_mut()
            .for_each(|row| row.model = "a \"b\", c".into());
        let csv = render_csv(&Report::new(inputs).unwrap());
        assert!(
            csv.lines()
                .nth(1)
                .unwrap()
                .starts_with("\"a \"\"b\"\", c\",base,1,")
        );
    }
}
