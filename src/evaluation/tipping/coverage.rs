//! Do 95 % intervals hold the truth in 95 % of worlds? Simulation with known truth and clustered data.
//!
//! Each test invents worlds: 16 environments (or 7 games) that differ around a known mean, questions in them, and
//! decisions. It counts how often the interval holds the truth; 93 to 97 % is asked for. Worlds are seeded, so the share
//! is the same in every run. `ATP_COVERAGE_WORLDS` asks for more of them than the default, which is chosen so that all
//! tests together take seconds.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::change_point::change_point;
use super::grid::Grid;
use super::{critical_mass, crossing, drift, half_life, hazard, transitions};
use crate::evaluation::observation::tests::{decision, strand};
use crate::evaluation::observation::{Observation, Strand};
use crate::evaluation::statistics::crossed::{Cell, crossed};
use crate::evaluation::statistics::power::power;
use crate::evaluation::statistics::robust::{Datum, inverse_logit, ratio};
use crate::evaluation::statistics::{
    Cluster, Estimate, cluster_bootstrap, cluster_contrast, difference_of, paired_interval,
    rate_interval,
};
use crate::runtime::seed::stream;

/// Worlds a test; three times the share's standard error is then about two points.
const WORLDS: usize = 1000;

fn worlds() -> usize {
    let asked = std::env::var("ATP_COVERAGE_WORLDS").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(WORLDS)
}

/// Share of worlds in which the interval holds the truth, leaving out worlds without an interval.
fn coverage(
    name: &str,
    mut world: impl FnMut(&mut ChaCha8Rng, &str) -> Option<(f64, f64, f64)>,
) -> f64 {
    let mut rng = stream(11, name);
    let (mut held, mut all) = (0, 0);
    for i in 0..worlds() {
        if let Some((low, truth, high)) = world(&mut rng, &format!("{name}-{i}")) {
            all += 1;
            held += usize::from(low <= truth && truth <= high);
        }
    }
    assert!(
        all * 10 > worlds() * 9,
        "{name}: only {all} worlds have an interval"
    );
    let share = held as f64 / all as f64;
    eprintln!("coverage {name}: {:.1} % of {all} worlds", share * 100.0);
    share
}

#[track_caller]
fn covers(name: &str, world: impl FnMut(&mut ChaCha8Rng, &str) -> Option<(f64, f64, f64)>) {
    let share = coverage(name, world);
    assert!((0.93..=0.97).contains(&share), "{name} covers {share}");
}

fn interval(found: Estimate, truth: f64) -> Option<(f64, f64, f64)> {
    Some((found.low, truth, found.high))
}

fn shift(rng: &mut impl Rng, reach: f64) -> f64 {
    rng.random_range(-reach..reach)
}

/// Events in environments whose own rates are spread evenly around `mean`.
fn environments(
    rng: &mut impl Rng,
    count: usize,
    size: usize,
    mean: f64,
    reach: f64,
) -> Vec<Cluster> {
    (0..count)
        .map(|_| {
            let p = mean + shift(rng, reach);
            Cluster {
                sum: (0..size).filter(|_| rng.random_bool(p)).count() as f64,
                weight: size as f64,
            }
        })
        .collect()
}

#[test]
fn rates() {
    covers("rate, 16 environments of 4", |rng, name| {
        let clusters = environments(rng, 16, 4, 0.4, 0.38);
        interval(rate_interval(&clusters, 64, 11, name)?, 0.4)
    });
    covers("rate, 7 games of 4 groups of 6 agents", |rng, name| {
        // Agents of a group mostly do the same, so a group is little more than one decision.
        let clusters: Vec<Cluster> = (0..7)
            .map(|_| {
                let p = 0.45 + shift(rng, 0.4);
                let mut cluster = Cluster::default();
                for _ in 0..4 {
                    let group = rng.random_bool(p);
                    for _ in 0..6 {
                        let follows = rng.random_bool(0.8);
                        let event = if follows { group } else { rng.random_bool(p) };
                        cluster.sum += f64::from(u8::from(event));
                        cluster.weight += 1.0;
                    }
                }
                cluster
            })
            .collect();
        interval(rate_interval(&clusters, 28, 11, name)?, 0.45)
    });
    covers("bootstrap of unequal environments", |rng, name| {
        let clusters: Vec<Cluster> = (0..16)
            .flat_map(|i| environments(rng, 1, 3 + i % 4, 0.5, 0.4))
            .collect();
        interval(cluster_bootstrap(&clusters, (0.0, 1.0), 11, name)?, 0.5)
    });
    covers("sandwich of a mean", |rng, _| {
        interval(ratio(&environments(rng, 16, 6, 0.4, 0.35))?.estimate(), 0.4)
    });
}

/// Paired differences: an environment's own change is spread around `mean`; a question changes by −1, 0 or 1.
fn pairs(rng: &mut impl Rng, count: usize, size: usize, mean: f64) -> (Vec<Cluster>, Vec<f64>) {
    let mut questions = vec![];
    let clusters = (0..count).map(|_| {
        let own = (mean + shift(rng, 0.18)) / 2.0;
        let mut cluster = Cluster::default();
        for _ in 0..size {
            let change = match rng.random::<f64>() {
                u if u < 0.3 + own => 1.0,
                u if u < 0.6 => -1.0,
                _ => 0.0,
            };
            questions.push(change);
            cluster.sum += change;
            cluster.weight += 1.0;
        }
        cluster
    });
    (clusters.collect(), questions)
}

#[test]
fn differences() {
    covers("paired difference", |rng, name| {
        let (clusters, questions) = pairs(rng, 16, 6, 0.15);
        interval(paired_interval(&clusters, &questions, 11, name)?, 0.15)
    });
    covers("contrast within environments", |rng, name| {
        let sides: Vec<(Cluster, Cluster)> = (0..16)
            .map(|_| {
                let own = shift(rng, 0.25);
                let side = |rng: &mut ChaCha8Rng, mean: f64| {
                    let p = mean + own + shift(rng, 0.15);
                    Cluster {
                        sum: (0..4).filter(|_| rng.random_bool(p)).count() as f64,
                        weight: 4.0,
                    }
                };
                (side(rng, 0.55), side(rng, 0.45))
            })
            .collect();
        let (a, b): (Vec<_>, Vec<_>) = sides.into_iter().unzip();
        interval(cluster_contrast(&a, &b, 11, name)?, 0.1)
    });
    covers("difference of two runs", |rng, name| {
        let rate = |rng: &mut ChaCha8Rng, mean: f64, name: &str| {
            rate_interval(&environments(rng, 16, 4, mean, 0.3), 64, 11, name)
        };
        let (a, b) = (
            rate(rng, 0.6, name)?,
            rate(rng, 0.35, &format!("{name}-b"))?,
        );
        interval(difference_of(&a, &b), 0.25)
    });
}

#[test]
fn seeds_that_are_crossed_with_environments() {
    covers("environments and seeds", |rng, _| {
        let columns: Vec<f64> = (0..5).map(|_| shift(rng, 0.2)).collect();
        let cells: Vec<Cell> = (0..16)
            .flat_map(|row| {
                let own = shift(rng, 0.2);
                columns
                    .iter()
                    .enumerate()
                    .map(|(column, seed)| {
                        let p = 0.5 + own + seed;
                        Cell {
                            row,
                            column,
                            sum: (0..4).filter(|_| rng.random_bool(p)).count() as f64,
                            weight: 4.0,
                        }
                    })
                    .collect::<Vec<_>>()
            })
            .collect();
        interval(crossed(&cells)?.estimate(), 0.5)
    });
}

/// Histories of 16 environments of `size`: the chance of an event by round, given the one before, moved by the
/// environment.
fn histories(
    rng: &mut impl Rng,
    variant: &'static str,
    size: usize,
    rounds: u32,
    own: &[f64],
    chance: impl Fn(u32, Option<bool>) -> f64,
) -> Strand<'static> {
    let mut decisions: Vec<Observation<'static>> = vec![];
    for (cluster, own) in own.iter().enumerate() {
        for unit in 0..size {
            let mut before = None;
            for round in 1..=rounds {
                let event = rng.random_bool((chance(round, before) + own).clamp(0.0, 1.0));
                decisions.push(decision(cluster, cluster * size + unit, round, Some(event)));
                before = Some(event);
            }
        }
    }
    strand(variant, decisions)
}

fn own(rng: &mut impl Rng, reach: f64) -> Vec<f64> {
    (0..16).map(|_| shift(rng, reach)).collect()
}

#[test]
fn slopes() {
    covers("drift slope", |rng, _| {
        // Environments differ in where they start and in how they drift.
        let (start, drift) = (own(rng, 0.2), own(rng, 0.03));
        let mut decisions = vec![];
        for cluster in 0..16 {
            for unit in 0..4 {
                for round in 1..=6 {
                    let p = 0.3 + start[cluster] + (0.05 + drift[cluster]) * f64::from(round - 1);
                    let event = rng.random_bool(p.clamp(0.0, 1.0));
                    decisions.push(decision(cluster, cluster * 4 + unit, round, Some(event)));
                }
            }
        }
        let found = drift::slope(&strand("dpo", decisions))?;
        interval(found.per_round, 0.05)
    });
}

#[test]
fn hazards_and_transitions() {
    let reach = 0.15;
    let mut by_measure: [Vec<(f64, f64, f64)>; 4] = Default::default();
    let mut rng = stream(11, "histories");
    for i in 0..worlds() {
        // The first round depends on nothing; afterwards those who held tip at 0.3 and those who broke return at 0.6.
        let own = own(&mut rng, reach);
        let strand = histories(&mut rng, "dpo", 12, 2, &own, |_, before| match before {
            None => 0.4,
            Some(false) => 0.3,
            Some(true) => 0.4,
        });
        let name = format!("histories-{i}");
        let hazards = hazard::hazard(&strand, 11, &name);
        let steps = transitions::transitions(&strand, 11, &name);
        // Who is left at risk, held or broke comes from environments with another mean: E[(1 − p)q] / E[1 − p].
        let variance = reach * reach / 3.0;
        let truths = [
            0.4,
            0.3 - variance / 0.6,
            0.3 - variance / 0.6,
            0.6 - variance / 0.4,
        ];
        let estimates = [
            hazards[0].hazard,
            hazards[1].hazard,
            steps[0].tip,
            steps[0].back,
        ];
        for ((list, estimate), truth) in by_measure.iter_mut().zip(estimates).zip(truths) {
            list.extend(estimate.map(|e| (e.low, truth, e.high)));
        }
    }
    let names = ["hazard in round 1", "hazard in round 2", "tip", "return"];
    for (name, list) in names.iter().zip(by_measure) {
        let mut list = list.into_iter();
        covers(name, |_, _| list.next());
    }
}

#[test]
fn shares_of_the_gain_lost() {
    let rho: f64 = 0.8;
    covers("share of the gain lost a round", |rng, name| {
        let (both, alone) = (own(rng, 0.1), own(rng, 0.05));
        let base = histories(rng, "base", 12, 1, &both, |_, _| 0.75);
        let mixed: Vec<f64> = both.iter().zip(&alone).map(|(a, b)| a + b).collect();
        let dpo = histories(rng, "dpo", 12, 5, &mixed, |round, _| {
            0.75 - 0.55 * rho.powi(round as i32 - 1)
        });
        let found = half_life::half_life(&Grid::new(&dpo, Some(&base)), 11, name)?;
        interval(found.per_round, 1.0 - rho)
    });
}

#[test]
fn first_rounds_above_a_threshold() {
    // Rates 0.35, 0.43, 0.51, 0.59, 0.67: round 3 is the first above one half. Rounds are whole, so the interval may hold
    // it more often than asked.
    let share = coverage("first round above one half", |rng, name| {
        let own = own(rng, 0.25);
        let strand = histories(rng, "dpo", 6, 5, &own, |round, _| {
            0.27 + 0.08 * f64::from(round)
        });
        let found = crossing::crossing(&Grid::new(&strand, None), 0.5, 11, name);
        let number = |round: Option<u32>| round.map_or(f64::INFINITY, f64::from);
        Some((number(found.earliest), 3.0, number(found.latest)))
    });
    assert!(share >= 0.93, "{share}");
}

#[test]
fn critical_masses() {
    covers("critical mass", |rng, _| {
        let mut data = vec![];
        for cluster in 0..7 {
            let own = shift(rng, 1.5);
            for share in 0..9 {
                let x = f64::from(share) / 8.0;
                for _ in 0..8 {
                    let p = inverse_logit(5.0 * (x - 0.5) + own);
                    let y = f64::from(u8::from(rng.random_bool(p)));
                    data.push(Datum { cluster, x, y });
                }
            }
        }
        let (low, high) = critical_mass::locate(&data).2?;
        Some((low, 0.5, high))
    });
}

#[test]
fn posteriors_of_a_change() {
    // Worlds from the prior: the posterior of "no change" must be right as often as it says.
    let mut rng = stream(11, "change");
    let (mut said, mut was, mut wrong) = (0.0, 0.0, 0);
    let all = worlds();
    for _ in 0..all {
        let change = rng.random_bool(0.5).then(|| rng.random_range(1..6));
        let (before, after) = (rng.random::<f64>(), rng.random::<f64>());
        let counts: Vec<(u32, f64, f64)> = (1..=6)
            .map(|round| {
                let p = if change.is_some_and(|c| round > c) {
                    after
                } else {
                    before
                };
                let events = (0..40).filter(|_| rng.random_bool(p)).count();
                (round, events as f64, 40.0)
            })
            .collect();
        let found = change_point(&counts, 1.0).expect("six rounds");
        said += found.none;
        was += f64::from(u8::from(change.is_none()));
        // The smallest set of answers that holds 95 %.
        let mut answers: Vec<(f64, Option<u32>)> = vec![(found.none, None)];
        answers.extend(found.after.iter().map(|(round, p)| (*p, Some(*round))));
        answers.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut sum = 0.0;
        let held = answers
            .iter()
            .take_while(|(p, _)| {
                let open = sum < 0.95;
                sum += p;
                open
            })
            .any(|(_, answer)| *answer == change);
        wrong += usize::from(!held);
    }
    let n = all as f64;
    eprintln!(
        "change: said {:.3}, was {:.3}, missed {:.3}",
        said / n,
        was / n,
        wrong as f64 / n
    );
    assert!(
        (said - was).abs() / n < 0.03,
        "said {said}, was {was} of {n}"
    );
    assert!((wrong as f64) / n < 0.06, "{wrong} of {n} missed");
}

#[test]
fn a_difference_as_large_as_the_power_note_says_is_found_in_eighty_of_a_hundred_worlds() {
    let mut rng = stream(11, "power");
    // The detectable difference, as worlds without a difference state it in the mean.
    let runs = worlds();
    let stated = |mean: f64, rng: &mut ChaCha8Rng| {
        let (clusters, _) = pairs(rng, 16, 6, mean);
        ratio(&clusters).map(|found| (power(&found).detectable, found.p_value()))
    };
    let detectable: Vec<f64> = (0..runs)
        .filter_map(|_| Some(stated(0.15, &mut rng)?.0))
        .collect();
    let mean = detectable.iter().sum::<f64>() / detectable.len() as f64;
    let found = (0..runs)
        .filter(|_| stated(mean, &mut rng).is_some_and(|(_, p)| p < 0.05))
        .count() as f64
        / runs as f64;
    let false_alarms = (0..runs)
        .filter(|_| stated(0.0, &mut rng).is_some_and(|(_, p)| p < 0.05))
        .count() as f64
        / runs as f64;
    eprintln!("power: {mean:.3} found in {found:.3}, nothing found in {false_alarms:.3}");
    assert!((0.75..=0.85).contains(&found), "found in {found}");
    assert!(
        (0.03..=0.07).contains(&false_alarms),
        "false alarms in {false_alarms}"
    );
}
