//! Bradley–Terry strengths against scipy's maximum of the same penalised likelihood, and a worked example.

use atp_pipeline::training::bradley_terry::Wins;

use crate::support::json;

fn wins_of(rows: &[Vec<f64>]) -> Wins {
    let mut wins = Wins::new(rows.len());
    for (a, row) in rows.iter().enumerate() {
        for (b, &count) in row.iter().enumerate() {
            wins.add(a, b, count);
        }
    }
    wins
}

/// scipy's maximum is exact to about 1e-13. Here the iteration stops at derivatives of 1e-10; divided by the curvature,
/// which the prior of 0.1 makes as small as 0.01, that is 1e-8 in a strength.
#[test]
fn strengths_agree_with_an_independent_solver() {
    let described = json("oracle/bradley_terry/bradley_terry.json");
    let cases = described["cases"].as_object().expect("cases");
    assert!(cases.len() >= 9);
    let mut worst: f64 = 0.0;
    for (name, case) in cases {
        let rows: Vec<Vec<f64>> = serde_json::from_value(case["wins"].clone()).expect("counts");
        let expected: Vec<f64> =
            serde_json::from_value(case["log_strengths"].clone()).expect("strengths");
        let prior = case["prior"].as_f64().expect("a number");
        let got = wins_of(&rows).log_strengths(prior).expect("an estimate");
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(&expected) {
            worst = worst.max((got - expected).abs());
            assert!(
                (got - expected).abs() < 1e-8,
                "{name}: {got}, scipy has {expected}"
            );
        }
        assert_eq!(got, wins_of(&rows).log_strengths(prior).expect("the same"));
    }
    println!("worst: {worst:e}");
    // The published example gives three digits.
    let rows: Vec<Vec<f64>> =
        serde_json::from_value(cases["worked"]["wins"].clone()).expect("counts");
    let published: Vec<f64> =
        serde_json::from_value(described["worked_strengths"].clone()).expect("strengths");
    let got = wins_of(&rows).log_strengths(0.0).expect("connected");
    for (got, expected) in got.iter().zip(published) {
        assert!(
            (got.exp() - expected).abs() < 6e-4,
            "{}, published {expected}",
            got.exp()
        );
    }
}
