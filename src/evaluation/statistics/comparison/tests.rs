//! Tests against statsmodels.

use super::*;
use crate::evaluation::statistics::tests::{numbers, tipping_fixture};

#[test]
fn mcnemar_agrees_with_statsmodels() {
    for case in tipping_fixture("mcnemar").as_array().unwrap() {
        let count = |field: &str| case[field].as_u64().unwrap() as usize;
        let pairs = Discordant {
            gained: count("gained"),
            lost: count("lost"),
            same: 7,
        };
        let want = case["p"].as_f64().unwrap();
        assert!(
            (mcnemar(&pairs) - want).abs() <= 1e-10,
            "{} for {case}",
            mcnemar(&pairs)
        );
    }
}

#[test]
fn holm_agrees_with_statsmodels() {
    for case in tipping_fixture("holm").as_array().unwrap() {
        let adjusted = holm(&numbers(&case["p"]));
        for (got, want) in adjusted.iter().zip(numbers(&case["adjusted"])) {
            assert!((got - want).abs() <= 1e-12, "{adjusted:?} for {case}");
        }
    }
    assert!(holm(&[]).is_empty());
}

#[test]
fn pairs_that_never_differ_are_no_certainty() {
    let none = [Cluster {
        sum: 0.0,
        weight: 4.0,
    }; 16];
    let found = paired_error(&none, &[0.0; 64]).unwrap();
    assert!(found.error > 0.01, "{found:?}");
    assert_eq!(found.p_value(), 1.0);
    assert_eq!(paired_error(&none[..1], &[0.0; 4]), None);
}
