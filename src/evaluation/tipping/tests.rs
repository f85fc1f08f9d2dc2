//! Measures against statsmodels and scipy, and hand-made histories.

use super::*;
use crate::evaluation::observation::tests::{decision, strand};
use crate::evaluation::statistics::robust::Datum;
use crate::evaluation::statistics::tests::{numbers, tipping_fixture};

#[test]
fn survival_agrees_with_statsmodels() {
    let fixture = tipping_fixture("survival");
    let histories = fixture["histories"].as_array().unwrap();
    let mut decisions = vec![];
    for (unit, history) in histories.iter().enumerate() {
        for (round, event) in (1..).zip(history.as_array().unwrap()) {
            decisions.push(decision(unit % 8, unit, round, event.as_bool()));
        }
    }
    let found = hazard::hazard(&strand("base", decisions), 1, "test");
    for (got, want) in found.iter().zip(fixture["rounds"].as_array().unwrap()) {
        assert!(
            (got.survival - want["survival"].as_f64().unwrap()).abs() < 1e-12,
            "{want}"
        );
        assert_eq!(got.at_risk as u64, want["at_risk"].as_u64().unwrap());
        assert_eq!(got.first_events as u64, want["events"].as_u64().unwrap());
    }
}

#[test]
fn change_points_agree_with_exact_arithmetic() {
    for case in tipping_fixture("change_point").as_array().unwrap() {
        let counts: Vec<(u32, f64, f64)> = (1..)
            .zip(case["counts"].as_array().unwrap())
            .map(|(round, pair)| (round, numbers(pair)[0], numbers(pair)[1]))
            .collect();
        let found = change_point::change_point(&counts, 1.0).unwrap();
        let all = std::iter::once(found.none).chain(found.after.iter().map(|a| a.1));
        for (got, want) in all.zip(numbers(&case["posterior"])) {
            assert!((got - want).abs() < 1e-9, "{found:?} for {case}");
        }
    }
    assert_eq!(change_point::change_point(&[(1, 3.0, 8.0)], 1.0), None);
}

#[test]
fn clusters_that_all_move_alike_leave_open_what_others_do() {
    let slope_of = |clusters: usize, event: fn(usize, u32) -> bool| {
        let all = (0..clusters).flat_map(|unit| (1..=4).map(move |round| (unit, round)));
        let decisions =
            all.map(|(unit, round)| decision(unit, unit, round, Some(event(unit, round))));
        drift::slope(&strand("base", decisions.collect())).unwrap()
    };
    let slope = |event| slope_of(8, event);
    // None of eight: up to 36.9 % of clusters may be otherwise, and 0.4 a round is the steepest line over four.
    let half = 0.3694 * 0.4;
    for event in [|_, _| false, |_, _| true] as [fn(usize, u32) -> bool; 2] {
        let still = slope(event);
        assert_eq!((still.per_round.value, still.p), (0.0, 1.0));
        assert!((still.per_round.high - half).abs() < 1e-4, "{still:?}");
        assert!((still.per_round.low + half).abs() < 1e-4, "{still:?}");
    }
    let step = slope(|_, round| round > 2);
    assert!((step.per_round.value - 0.4).abs() < 1e-9);
    assert!((step.per_round.low - 0.4 * (1.0 - 2.0 * 0.3694)).abs() < 1e-4);
    assert!((step.p - 1.0 / 128.0).abs() < 1e-12, "{step:?}");
    // Interval and p say the same: five alike are too few, six are not.
    for (clusters, enough) in [(2, false), (5, false), (6, true)] {
        let step = slope_of(clusters, |_, round| round > 2);
        assert_eq!(step.per_round.excludes_zero(), enough, "{step:?}");
        assert_eq!(step.p < 0.05, enough, "{step:?}");
    }
    // One that differs, and the error is that of the clusters again.
    let one = slope(|unit, round| unit == 0 && round > 2);
    assert!(
        one.per_round.high - one.per_round.value > 0.05 && one.p > 0.3,
        "{one:?}"
    );
}

#[test]
fn a_step_is_found_where_it_is_and_clustering_makes_it_less_sure() {
    let counts = [
        (1, 10.0, 64.0),
        (2, 12.0, 64.0),
        (3, 40.0, 64.0),
        (4, 41.0, 64.0),
    ];
    let found = change_point::change_point(&counts, 1.0).unwrap();
    assert_eq!(found.likeliest, 2);
    assert!(
        found.none < 0.01 && (found.rates.0 - 0.177).abs() < 0.01,
        "{found:?}"
    );
    let clustered = change_point::change_point(&counts, 4.0).unwrap();
    assert!(clustered.none > found.none, "{clustered:?}");
    let quarter = counts.map(|(round, events, decisions)| (round, events / 4.0, decisions / 4.0));
    let fewer = change_point::change_point(&quarter, 1.0).unwrap();
    assert_eq!((clustered.none, clustered.after), (fewer.none, fewer.after));
}

#[test]
fn the_critical_mass_interval_agrees_with_a_root_of_the_pivot() {
    let fixture = tipping_fixture("fits");
    let data: Vec<Datum> = fixture["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(numbers)
        // The same data with x from 0 to 1.
        .map(|row| Datum {
            cluster: row[0] as usize,
            x: row[1] / 4.0,
            y: row[2],
        })
        .collect();
    let (_, mass, interval) = critical_mass::locate(&data);
    let want = |name: &str| fixture["fieller"][name].as_f64().unwrap() / 4.0;
    let (low, high) = interval.unwrap();
    for (got, name) in [(mass.unwrap(), "mass"), (low, "low"), (high, "high")] {
        assert!(
            (got - want(name)).abs() < 1e-7,
            "{name}: {got}, expected {}",
            want(name)
        );
    }
}

#[test]
fn separated_outcomes_are_a_threshold_and_chance_is_none() {
    let at = |cluster, x, y| Datum { cluster, x, y };
    let step: Vec<Datum> = (0..4)
        .flat_map(|c| {
            [
                at(c, 0.0, 0.0),
                at(c, 0.25, 0.0),
                at(c, 0.5, 1.0),
                at(c, 1.0, 1.0),
            ]
        })
        .collect();
    assert_eq!(
        critical_mass::locate(&step),
        (
            critical_mass::Fit::Threshold,
            Some(0.375),
            Some((0.25, 0.5))
        )
    );
    let never: Vec<Datum> = step.iter().map(|d| at(d.cluster, d.x, 0.0)).collect();
    assert_eq!(
        critical_mass::locate(&never),
        (critical_mass::Fit::Neither, None, None)
    );
    // Half events at every share: a slope of zero locates nothing.
    let flat: Vec<Datum> = (0..4)
        .flat_map(|c| (0..8).map(move |i| at(c, f64::from(i / 2) / 3.0, f64::from(i % 2))))
        .collect();
    let (_, _, interval) = critical_mass::locate(&flat);
    assert_eq!(interval, None);
}

/// Units over three rounds: one holds, one tips for good, two tip and return; another is never read in round 2.
fn histories() -> Strand<'static> {
    let courses = [
        [Some(false), Some(true), Some(false)],
        [Some(false), Some(false), Some(false)],
        [Some(false), Some(true), Some(true)],
        [Some(false), Some(true), Some(false)],
        [Some(false), None, Some(true)],
    ];
    let decisions = courses.iter().enumerate().flat_map(|(unit, course)| {
        (1..)
            .zip(course)
            .map(move |(round, event)| decision(unit, unit, round, *event))
    });
    strand("dpo", decisions.collect())
}

#[test]
fn transitions_count_staying_tipping_and_returning() {
    let found = transitions::transitions(&histories(), 1, "test");
    let counts: Vec<_> = found
        .iter()
        .map(|t| (t.held, t.tipped, t.returned, t.stayed, t.unread))
        .collect();
    assert_eq!(counts, [(1, 3, 0, 0, 1), (1, 0, 2, 1, 1)]);
    assert_eq!(found[0].tip.unwrap().value, 0.75);
    assert_eq!(found[0].back, None);
    assert!((found[1].back.unwrap().value - 2.0 / 3.0).abs() < 1e-12);
}

#[test]
fn an_unread_decision_ends_the_risk_and_is_no_event() {
    let found = hazard::hazard(&histories(), 1, "test");
    let counts: Vec<_> = found.iter().map(|h| (h.at_risk, h.first_events)).collect();
    assert_eq!(counts, [(5, 0), (4, 3), (1, 0)]);
    assert_eq!(found[2].survival, 0.25);
}

/// Base at 80 %, and a trained variant whose gain of 60 points shrinks by a quarter a round; the same in each cluster.
fn losing() -> Vec<Strand<'static>> {
    let course = |variant, rates: [f64; 4]| {
        let decisions = (0..8).flat_map(move |cluster| {
            (0..40).flat_map(move |unit| {
                (1..).zip(rates).map(move |(round, rate)| {
                    let event = (unit as f64 + 0.5) / 40.0 < rate;
                    decision(cluster, cluster * 40 + unit, round, Some(event))
                })
            })
        });
        strand(variant, decisions.collect())
    };
    vec![
        course("base", [0.8; 4]),
        course("dpo", [0.2, 0.35, 0.4625, 0.55]),
    ]
}

#[test]
fn a_gain_that_shrinks_by_a_quarter_a_round_is_measured_as_such() {
    let found = measure(&losing(), 5);
    assert_eq!(found[0].half_life, None, "base has no gain to lose");
    let dpo = &found[1];
    let half = dpo.half_life.unwrap();
    assert!((half.per_round.value - 0.25).abs() < 0.01, "{half:?}");
    assert!((half.gain.value - 0.6).abs() < 1e-9);
    assert!((half.rounds[0].unwrap() - 0.5_f64.ln() / 0.75_f64.ln()).abs() < 0.1);
    assert_eq!(dpo.crossing.first, Some(4));
    assert_eq!(found[0].crossing.first, Some(1));
    assert!(
        (dpo.slope.unwrap().per_round.value - 0.116).abs() < 2e-3,
        "{:?}",
        dpo.slope
    );
    assert!(dpo.change.as_ref().unwrap().none < 0.01);
    assert!(found[0].change.as_ref().unwrap().none > 0.9);
    assert_eq!(dpo.levels[0].events, 64);
}

#[test]
fn no_gain_has_no_half_life() {
    let mut strands = losing();
    strands.swap(0, 1);
    strands[0].variant = "base";
    strands[1].variant = "dpo";
    assert_eq!(measure(&strands, 5)[1].half_life, None);
    // A gain in one cluster alone is none that could be relied on.
    let mut strands = losing();
    let first = strands[1].observations[0].cluster;
    for o in &mut strands[1].observations {
        if o.cluster != first {
            o.event = Some(o.unit.0.ends_with(['0', '1', '2', '3', '4', '5', '6', '7']));
        }
    }
    assert_eq!(measure(&strands, 5)[1].half_life, None);
}

#[test]
fn missing_answers_widen_the_bounds_and_enter_no_rate() {
    let found = measure(&[histories()], 5);
    let level = &found[0].levels[1];
    assert_eq!(
        (level.events, level.read, level.invalid, level.failed),
        (3, 4, 1, 0)
    );
    let bounds = level.bounds.unwrap();
    assert_eq!((bounds.best.value, bounds.worst.value), (0.6, 0.8));
    assert!(bounds.range().0 <= bounds.best.low && bounds.range().1 >= bounds.worst.high);
}
