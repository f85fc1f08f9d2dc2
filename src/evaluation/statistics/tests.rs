//! Intervals against scipy and statsmodels, and their coverage where the truth is known.

use super::*;
use serde_json::Value;

fn fixture(part: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!(
        "../../../tests/fixtures/statistics/intervals.json"
    ))
    .unwrap();
    all[part].clone()
}

/// A part of the fixture by statsmodels and scipy for tests, robust fits and tipping.
pub(crate) fn tipping_fixture(part: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!(
        "../../../tests/fixtures/statistics/tipping.json"
    ))
    .unwrap();
    assert!(!all[part].is_null(), "no part {part}");
    all[part].clone()
}

pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect()
}

#[track_caller]
fn near(got: &Estimate, want: &Value, tolerance: f64) {
    for (name, got) in [("low", got.low), ("high", got.high)] {
        let want_value = want[name].as_f64().unwrap();
        assert!(
            (got - want_value).abs() <= tolerance,
            "{name}: got {got}, expected {want_value} in {want}"
        );
    }
}

#[test]
fn wilson_agrees_with_statsmodels() {
    for case in fixture("wilson").as_array().unwrap() {
        let (count, n) = (
            case["count"].as_f64().unwrap(),
            case["nobs"].as_u64().unwrap() as usize,
        );
        near(&wilson(count / n as f64, n).unwrap(), case, 1e-12);
    }
    assert_eq!(wilson(0.5, 0), None);
    assert_eq!(wilson(f64::NAN, 4), None);
}

#[test]
fn bonett_price_agrees_with_numpy() {
    for case in fixture("bonett_price").as_array().unwrap() {
        near(
            &bonett_price(&numbers(&case["differences"])).unwrap(),
            case,
            1e-12,
        );
    }
    assert_eq!(bonett_price(&[]), None);
}

#[test]
fn cluster_bootstraps_agree_with_scipy() {
    let rate = fixture("cluster_rate");
    let clusters: Vec<Cluster> = numbers(&rate["events"])
        .into_iter()
        .zip(numbers(&rate["trials"]))
        .map(|(sum, weight)| Cluster { sum, weight })
        .collect();
    let paired = fixture("cluster_difference");
    let differences: Vec<Cluster> = paired["clusters"]
        .as_array()
        .unwrap()
        .iter()
        .map(numbers)
        .map(|d| Cluster {
            sum: d.iter().sum(),
            weight: d.len() as f64,
        })
        .collect();
    for (clusters, want) in [(clusters, rate), (differences, paired)] {
        let many = resampled_ratio(
            &clusters,
            (-1.0, 1.0),
            100_000,
            Some(0.025),
            &mut stream(1, "test"),
        )
        .unwrap();
        near(&many, &want, 2e-3);
        assert!((many.value - want["value"].as_f64().unwrap()).abs() < 1e-12);
        near(
            &cluster_bootstrap(&clusters, (-1.0, 1.0), 1, "test").unwrap(),
            &want["expanded"],
            1.5e-2,
        );
    }
}

#[test]
fn a_difference_of_two_rates_agrees_with_statsmodels() {
    for case in tipping_fixture("newcombe").as_array().unwrap() {
        let counts = numbers(&case["counts"]);
        let side = |k: f64, n: f64| wilson(k / n, n as usize).unwrap();
        let found = difference_of(&side(counts[0], counts[1]), &side(counts[2], counts[3]));
        near(&found, case, 1e-9);
    }
}

#[test]
fn t_quantiles_tails_and_moved_percentiles_agree_with_scipy() {
    use student::t_two_sided;
    let want = tipping_fixture("student");
    let close = |got: f64, case: &Value| {
        let want = case["value"].as_f64().unwrap();
        assert!(
            (got - want).abs() <= 1e-8 * want.abs().max(1e-3),
            "got {got}: {case}"
        );
    };
    let cases = |part: &str| want[part].as_array().unwrap().clone();
    let number = |case: &Value, field: &str| case[field].as_f64().unwrap();
    for case in cases("quantiles") {
        close(t_quantile(number(&case, "p"), number(&case, "df")), &case);
    }
    for case in cases("tails") {
        close(t_two_sided(number(&case, "t"), number(&case, "df")), &case);
    }
    for case in cases("expanded") {
        close(expanded_tail(number(&case, "g") as usize), &case);
    }
}

/// Events in `clusters` environments of `size` questions, whose own rates differ widely around one half.
fn clustered_world(clusters: usize, size: usize, rng: &mut impl Rng) -> Vec<Cluster> {
    (0..clusters)
        .map(|_| {
            let rate = if rng.random_bool(0.5) { 0.2 } else { 0.8 };
            let sum = (0..size).filter(|_| rng.random_bool(rate)).count() as f64;
            Cluster {
                sum,
                weight: size as f64,
            }
        })
        .collect()
}

#[test]
fn wilson_alone_fails_where_environments_differ() {
    let mut rng = stream(5, "coverage");
    let worlds = 300;
    let holds = |e: &Estimate| u32::from(e.low <= 0.5 && 0.5 <= e.high);
    let (mut by_wilson, mut combined) = (0, 0);
    for world in 0..worlds {
        let clusters = clustered_world(16, 8, &mut rng);
        let rate = rate_interval(&clusters, 128, 5, &format!("world-{world}")).unwrap();
        by_wilson += holds(&wilson(rate.value, rate.n).unwrap());
        combined += holds(&rate);
    }
    let share = |count: u32| f64::from(count) / f64::from(worlds);
    assert!(
        share(by_wilson) < 0.85,
        "Wilson covers {}",
        share(by_wilson)
    );
    assert!(share(combined) > 0.92, "both cover {}", share(combined));
}

#[test]
fn no_events_and_no_changes_keep_a_width() {
    let none = vec![
        Cluster {
            sum: 0.0,
            weight: 4.0
        };
        16
    ];
    let bare = cluster_bootstrap(&none, (0.0, 1.0), 1, "none").unwrap();
    assert_eq!(
        (bare.value, bare.low, bare.high, bare.n),
        (0.0, 0.0, 0.0, 64)
    );
    let rate = rate_interval(&none, 64, 1, "none").unwrap();
    assert_eq!((rate.value, rate.low), (0.0, 0.0));
    assert_eq!(rate.high, wilson(0.0, 64).unwrap().high);
    let same = paired_interval(&none, &[0.0; 64], 1, "none").unwrap();
    assert!(
        same.low < -0.01 && same.high > 0.01 && !same.excludes_zero(),
        "{same:?}"
    );
}

#[test]
fn one_environment_says_nothing_and_none_gives_none() {
    let one = [
        Cluster {
            sum: 2.0,
            weight: 4.0,
        },
        Cluster::default(),
    ];
    let found = rate_interval(&one, 4, 1, "one").unwrap();
    assert_eq!(
        (found.value, found.low, found.high, found.n),
        (0.5, 0.0, 1.0, 4)
    );
    assert_eq!(rate_interval(&[Cluster::default()], 0, 1, "empty"), None);
    assert_eq!(
        cluster_contrast(&one, &[Cluster::default(); 2], 1, "one side"),
        None
    );
}

#[test]
fn a_contrast_sees_a_difference_between_two_sides() {
    let first = vec![
        Cluster {
            sum: 0.0,
            weight: 2.0
        };
        16
    ];
    let second = vec![
        Cluster {
            sum: 2.0,
            weight: 2.0
        };
        16
    ];
    let found = cluster_contrast(&first, &second, 1, "sides").unwrap();
    assert_eq!((found.value, found.high, found.n), (-1.0, -1.0, 64));
    let same = clustered_world(16, 8, &mut stream(9, "contrast"));
    assert!(
        !cluster_contrast(&same, &same, 1, "same")
            .unwrap()
            .excludes_zero()
    );
}

#[test]
fn a_name_fixes_the_interval() {
    let clusters = clustered_world(16, 4, &mut stream(3, "world"));
    let interval = |name| cluster_bootstrap(&clusters, (0.0, 1.0), 3, name).unwrap();
    assert_eq!(interval("a"), interval("a"));
}
