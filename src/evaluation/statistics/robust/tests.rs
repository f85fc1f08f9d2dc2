//! Fits and their errors against statsmodels.

use super::*;
use crate::evaluation::statistics::tests::{numbers, tipping_fixture};
use serde_json::Value;

fn data(fixture: &Value) -> Vec<Datum> {
    let rows = fixture["rows"].as_array().unwrap();
    rows.iter()
        .map(|row| {
            let row = numbers(row);
            Datum {
                cluster: row[0] as usize,
                x: row[1],
                y: row[2],
            }
        })
        .collect()
}

#[track_caller]
fn near(got: f64, want: &Value, tolerance: f64) {
    let want = want.as_f64().unwrap();
    assert!(
        (got - want).abs() <= tolerance * want.abs().max(1.0),
        "got {got}, expected {want}"
    );
}

#[test]
fn errors_of_a_mean_and_of_both_lines_agree_with_statsmodels() {
    let fixture = tipping_fixture("fits");
    let data = data(&fixture);
    let mut clusters = vec![Cluster::default(); 11];
    for d in &data {
        clusters[d.cluster].sum += d.y;
        clusters[d.cluster].weight += 1.0;
    }
    let mean = ratio(&clusters).unwrap();
    near(mean.value, &fixture["ratio"]["value"], 1e-12);
    near(mean.error, &fixture["ratio"]["error"], 1e-12);
    near(mean.p_value(), &fixture["ratio"]["p"], 1e-9);
    for (fit, want) in [
        (linear(&data).unwrap(), &fixture["linear"]),
        (logistic(&data).unwrap(), &fixture["logistic"]),
    ] {
        near(fit.intercept, &want["intercept"], 1e-9);
        near(fit.slope, &want["slope"], 1e-9);
        for (got, want) in fit
            .covariance
            .iter()
            .zip(want["covariance"].as_array().unwrap())
        {
            near(*got, want, 1e-8);
        }
    }
    let slope = linear(&data).unwrap().slope();
    near(slope.estimate().low, &fixture["linear"]["low"], 1e-9);
    near(slope.estimate().high, &fixture["linear"]["high"], 1e-9);
    near(slope.p_value(), &fixture["linear"]["p"], 1e-9);
}

#[test]
fn what_cannot_be_fitted_is_not() {
    let at = |cluster, x, y| Datum { cluster, x, y };
    let separated = [
        at(0, 0.0, 0.0),
        at(1, 0.2, 0.0),
        at(0, 0.8, 1.0),
        at(1, 1.0, 1.0),
    ];
    assert_eq!(logistic(&separated), None);
    let constant = [at(0, 1.0, 0.0), at(1, 1.0, 1.0), at(2, 1.0, 0.0)];
    assert_eq!(linear(&constant), None);
    assert_eq!(logistic(&constant), None);
    let alone = [at(0, 0.0, 0.0), at(0, 1.0, 1.0), at(0, 2.0, 1.0)];
    assert_eq!(linear(&alone), None);
    assert_eq!(
        ratio(&[Cluster {
            sum: 1.0,
            weight: 4.0
        }]),
        None
    );
    assert_eq!(ratio(&[]), None);
}
