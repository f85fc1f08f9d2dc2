//! 95 % intervals for rates and for differences of rates.
//!
//! Questions of one environment share a persona, a rule and a pay, so their outcomes are not independent. Intervals
//! therefore come from a cluster bootstrap: whole environments are drawn with replacement and the 2.5 and 97.5
//! percentiles of the resampled value are taken. That bootstrap has two weak spots, and both are covered:
//!
//! - where few or no events were seen it collapses (0 of 64 would give the interval 0 to 0). [`rate_interval`] and
//!   [`paired_interval`] therefore never report less than the classic interval for independent questions: Wilson's for
//!   a rate, Bonett and Price's for a paired difference. At each end the wider of the two is taken.
//! - one environment alone says nothing about how environments differ: its interval is the whole range.

use rand::Rng;

use crate::runtime::seed::stream;

/// Resamples of every bootstrap.
pub const RESAMPLES: usize = 2000;

/// The 97.5 % point of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// A value and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The observed rate (0 to 1) or difference of rates (−1 to 1).
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Observations behind the value: answers for a rate, pairs for a paired difference.
    pub n: usize,
}

impl Estimate {
    /// The interval lies wholly on one side of zero.
    pub fn excludes_zero(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// What one environment adds to a ratio: its value is the sum of `sum` over the sum of `weight`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cluster {
    /// Events (for a rate) or summed differences (for a paired difference).
    pub sum: f64,
    /// Trials or pairs.
    pub weight: f64,
}

/// Wilson's score interval of an observed rate over `n` independent trials; none without trials or for a rate that is
/// not between 0 and 1.
pub fn wilson(rate: f64, n: usize) -> Option<Estimate> {
    if n == 0 || !(0.0..=1.0).contains(&rate) {
        return None;
    }
    let trials = n as f64;
    let z2 = Z * Z / trials;
    let centre = (rate + z2 / 2.0) / (1.0 + z2);
    let half = Z / (1.0 + z2) * (rate * (1.0 - rate) / trials + z2 / (4.0 * trials)).sqrt();
    // At the ends the bound equals the rate in exact arithmetic; rounding must not leave it beside.
    let low = if rate == 0.0 {
        0.0
    } else {
        (centre - half).max(0.0)
    };
    let high = if rate == 1.0 {
        1.0
    } else {
        (centre + half).min(1.0)
    };
    Some(Estimate {
        value: rate,
        low,
        high,
        n,
    })
}

/// Bonett and Price's interval of a mean paired difference: the Wald interval of the data with one +1 and one −1 added,
/// which keeps its width where no pair differs. Each difference lies between −1 and 1.
pub fn bonett_price(differences: &[f64]) -> Option<Estimate> {
    if differences.is_empty() {
        return None;
    }
    let n = differences.len() as f64;
    let sum: f64 = differences.iter().sum();
    let squares: f64 = differences.iter().map(|d| d * d).sum();
    let centre = sum / (n + 2.0);
    let variance = ((squares + 2.0) / (n + 2.0) - centre * centre).max(0.0);
    let half = Z * (variance / (n + 2.0)).sqrt();
    Some(Estimate {
        value: sum / n,
        low: (centre - half).max(-1.0),
        high: (centre + half).min(1.0),
        n: differences.len(),
    })
}

/// Percentile cluster bootstrap of Σ sum / Σ weight over environments, with [`RESAMPLES`] resamples from the stream
/// `name` of `root`. `range` is what the value can be at all, and the interval where fewer than two environments have
/// weight. None where none has.
pub fn cluster_bootstrap(
    clusters: &[Cluster],
    range: (f64, f64),
    root: u64,
    name: &str,
) -> Option<Estimate> {
    resampled_ratio(clusters, range, RESAMPLES, &mut stream(root, name))
}

fn resampled_ratio(
    clusters: &[Cluster],
    range: (f64, f64),
    resamples: usize,
    rng: &mut impl Rng,
) -> Option<Estimate> {
    // Environments without weight cannot change a ratio; without them every resample has a denominator.
    let used: Vec<Cluster> = clusters
        .iter()
        .copied()
        .filter(|c| c.weight > 0.0)
        .collect();
    let total = |chosen: &mut dyn Iterator<Item = Cluster>| {
        chosen.fold(Cluster::default(), |a, c| Cluster {
            sum: a.sum + c.sum,
            weight: a.weight + c.weight,
        })
    };
    let all = total(&mut used.iter().copied());
    if used.is_empty() {
        return None;
    }
    let (low, high) = if used.len() < 2 {
        range
    } else {
        let mut values: Vec<f64> = (0..resamples)
            .map(|_| {
                let drawn =
                    total(&mut (0..used.len()).map(|_| used[rng.random_range(0..used.len())]));
                drawn.sum / drawn.weight
            })
            .collect();
        values.sort_by(f64::total_cmp);
        (percentile(&values, 0.025), percentile(&values, 0.975))
    };
    Some(Estimate {
        value: all.sum / all.weight,
        low,
        high,
        n: all.weight.round() as usize,
    })
}

/// Cluster bootstrap of the difference of two rates measured on different questions of the same environments:
/// `a`'s rate minus `b`'s, the clusters of both in the same order. None where one side has no trials.
pub fn cluster_contrast(a: &[Cluster], b: &[Cluster], root: u64, name: &str) -> Option<Estimate> {
    let pairs: Vec<(Cluster, Cluster)> = a
        .iter()
        .copied()
        .zip(b.iter().copied())
        .filter(|(a, b)| a.weight + b.weight > 0.0)
        .collect();
    let difference = |chosen: &[(Cluster, Cluster)]| {
        let sum = |f: fn(&(Cluster, Cluster)) -> f64| chosen.iter().map(f).sum::<f64>();
        let (wa, wb) = (sum(|p| p.0.weight), sum(|p| p.1.weight));
        (wa > 0.0 && wb > 0.0).then(|| sum(|p| p.0.sum) / wa - sum(|p| p.1.sum) / wb)
    };
    let value = difference(&pairs)?;
    let n = pairs
        .iter()
        .map(|(a, b)| a.weight + b.weight)
        .sum::<f64>()
        .round() as usize;
    if pairs.len() < 2 {
        return Some(Estimate {
            value,
            low: -1.0,
            high: 1.0,
            n,
        });
    }
    let mut rng = stream(root, name);
    let mut drawn = Vec::with_capacity(pairs.len());
    // A resample in which one side has no trials has no difference; it is left out.
    let mut values: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            drawn.clear();
            drawn.extend((0..pairs.len()).map(|_| pairs[rng.random_range(0..pairs.len())]));
            difference(&drawn)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = if values.is_empty() {
        (-1.0, 1.0)
    } else {
        (percentile(&values, 0.025), percentile(&values, 0.975))
    };
    Some(Estimate {
        value,
        low,
        high,
        n,
    })
}

/// The interval of a rate: at each end the wider of the cluster bootstrap over environments and Wilson's interval over
/// `questions` distinct questions. Several samples of one question are not several questions, so `questions` may be
/// smaller than the number of answers. None without answers.
pub fn rate_interval(
    clusters: &[Cluster],
    questions: usize,
    root: u64,
    name: &str,
) -> Option<Estimate> {
    let found = cluster_bootstrap(clusters, (0.0, 1.0), root, name)?;
    Some(match wilson(found.value.clamp(0.0, 1.0), questions) {
        Some(floor) => Estimate {
            low: found.low.min(floor.low),
            high: found.high.max(floor.high),
            ..found
        },
        None => found,
    })
}

/// The interval of a paired difference of rates: at each end the wider of the paired cluster bootstrap and Bonett and
/// Price's interval over `questions`, the mean difference of each distinct question. None without pairs.
pub fn paired_interval(
    clusters: &[Cluster],
    questions: &[f64],
    root: u64,
    name: &str,
) -> Option<Estimate> {
    let found = cluster_bootstrap(clusters, (-1.0, 1.0), root, name)?;
    Some(match bonett_price(questions) {
        Some(floor) => Estimate {
            low: found.low.min(floor.low),
            high: found.high.max(floor.high),
            ..found
        },
        None => found,
    })
}

/// The `q` quantile of sorted values, linear between neighbours (numpy's default). `sorted` is not empty.
fn percentile(sorted: &[f64], q: f64) -> f64 {
    let place = q * (sorted.len() - 1) as f64;
    let (below, part) = (place.floor() as usize, place.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + part * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn fixture(part: &str) -> Value {
        let all: Value = serde_json::from_str(include_str!(
            "../../tests/fixtures/statistics/intervals.json"
        ))
        .unwrap();
        all[part].clone()
    }

    fn numbers(value: &Value) -> Vec<f64> {
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
            let many =
                resampled_ratio(&clusters, (-1.0, 1.0), 100_000, &mut stream(1, "test")).unwrap();
            near(&many, &want, 2e-3);
            assert!((many.value - want["value"].as_f64().unwrap()).abs() < 1e-12);
            near(
                &cluster_bootstrap(&clusters, (-1.0, 1.0), 1, "test").unwrap(),
                &want,
                1.5e-2,
            );
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
    fn the_bootstrap_covers_where_environments_differ_and_wilson_does_not() {
        let mut rng = stream(5, "coverage");
        let worlds = 300;
        let (mut covered, mut by_wilson, mut combined) = (0, 0, 0);
        for world in 0..worlds {
            let clusters = clustered_world(16, 8, &mut rng);
            let holds = |e: &Estimate| u32::from(e.low <= 0.5 && 0.5 <= e.high);
            let name = format!("world-{world}");
            let boot = cluster_bootstrap(&clusters, (0.0, 1.0), 5, &name).unwrap();
            covered += holds(&boot);
            by_wilson += holds(&wilson(boot.value, boot.n).unwrap());
            combined += holds(&rate_interval(&clusters, boot.n, 5, &name).unwrap());
        }
        let share = |count: u32| f64::from(count) / f64::from(worlds);
        assert!(
            (0.88..=0.985).contains(&share(covered)),
            "bootstrap covers {}",
            share(covered)
        );
        assert!(
            share(by_wilson) < 0.85,
            "Wilson covers {}",
            share(by_wilson)
        );
        assert!(combined >= covered);
    }

    #[test]
    fn paired_intervals_cover_a_small_true_difference() {
        let mut rng = stream(6, "paired-coverage");
        let worlds = 300;
        let mut covered = 0;
        for world in 0..worlds {
            // Up with 0.12, down with 0.04: a true difference of 0.08.
            let questions: Vec<f64> = (0..64)
                .map(|_| match rng.random::<f64>() {
                    u if u < 0.12 => 1.0,
                    u if u < 0.16 => -1.0,
                    _ => 0.0,
                })
                .collect();
            let clusters: Vec<Cluster> = questions
                .chunks(4)
                .map(|c| Cluster {
                    sum: c.iter().sum(),
                    weight: 4.0,
                })
                .collect();
            let found =
                paired_interval(&clusters, &questions, 6, &format!("world-{world}")).unwrap();
            covered += u32::from(found.low <= 0.08 && 0.08 <= found.high);
        }
        let share = f64::from(covered) / f64::from(worlds);
        assert!((0.92..=0.995).contains(&share), "covers {share}");
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
}
