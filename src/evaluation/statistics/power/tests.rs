//! Detectable differences against scipy's t distribution.

use super::*;
use crate::evaluation::statistics::tests::tipping_fixture;

#[test]
fn detectable_differences_and_clusters_agree_with_scipy() {
    for case in tipping_fixture("detectable").as_array().unwrap() {
        let number = |field: &str| case[field].as_f64().unwrap();
        let found = power(&Robust {
            value: 0.0,
            error: number("error"),
            freedom: number("clusters") - 1.0,
            n: number("n") as usize,
        });
        assert!(
            (found.detectable - number("detectable")).abs() < 1e-9,
            "{case}"
        );
        assert_eq!(found.clusters, Some(number("needed") as usize), "{case}");
        let pairs = number("needed") * number("n") / number("clusters");
        assert_eq!(found.pairs, Some(pairs.ceil() as usize));
    }
}

#[test]
fn the_design_effect_is_one_for_independent_and_the_size_for_equal_decisions() {
    let cluster = |sum: f64| Cluster { sum, weight: 4.0 };
    // Clusters that are all events or none: four decisions are worth one.
    let equal: Vec<Cluster> = (0..100)
        .map(|i| cluster(if i % 2 == 0 { 4.0 } else { 0.0 }))
        .collect();
    assert!((design_effect(&equal).unwrap() - 4.0 * 100.0 / 99.0).abs() < 1e-9);
    // As many events in each cluster: less varied than chance.
    assert!(design_effect(&[cluster(2.0); 16]).unwrap() < 1e-9);
    assert_eq!(design_effect(&[cluster(0.0); 16]), None);
}
