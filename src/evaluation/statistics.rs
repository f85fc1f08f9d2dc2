//! 95 % intervals for rates and for differences of rates.
//!
//! Questions of one environment share a persona, a rule and a pay, so their outcomes are not independent. Intervals
//! therefore come from a cluster bootstrap: whole environments are drawn with replacement and percentiles of the
//! resampled value are taken. That bootstrap has three weak spots, and all are covered:
//!
//! - with G environments the 2.5 and 97.5 percentiles are too narrow, by √((G − 1)/G) and by a normal quantile where a t
//!   quantile belongs. The percentiles are therefore moved outwards to Φ(∓√(G/(G − 1))·t₀.₉₇₅ with G − 1 degrees of
//!   freedom), the expanded percentile interval (Hesterberg, What teachers should know about the bootstrap, 2015).
//! - where few or no events were seen it collapses (0 of 64 would give the interval 0 to 0). [`rate_interval`] and
//!   [`paired_interval`] therefore never report less than the classic interval for independent questions: Wilson's for
//!   a rate, Bonett and Price's for a paired difference. At each end the wider of the two is taken.
//! - one environment alone says nothing about how environments differ: its interval is the whole range.
//!
//! Below: [`robust`] variances by cluster without resampling, [`comparison`] of pairs with p-values, [`crossed`]
//! seeds, [`bounds`] for what could not be read, and [`power`].

pub mod bounds;
pub mod comparison;
pub mod crossed;
pub mod power;
pub mod robust;
pub mod student;

use rand::Rng;

use crate::runtime::seed::stream;
use student::{normal_cdf, t_quantile};

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

/// Mean and standard error of paired differences with one +1 and one −1 added; none without differences.
pub fn with_two_added(differences: &[f64]) -> Option<(f64, f64)> {
    if differences.is_empty() {
        return None;
    }
    let n = differences.len() as f64;
    let squares: f64 = differences.iter().map(|d| d * d).sum();
    let centre = differences.iter().sum::<f64>() / (n + 2.0);
    let variance = ((squares + 2.0) / (n + 2.0) - centre * centre).max(0.0);
    Some((centre, (variance / (n + 2.0)).sqrt()))
}

/// Bonett and Price's interval of a mean paired difference: the Wald interval of the data with one +1 and one −1 added,
/// which keeps its width where no pair differs. Each difference lies between −1 and 1.
pub fn bonett_price(differences: &[f64]) -> Option<Estimate> {
    let (centre, error) = with_two_added(differences)?;
    let half = Z * error;
    Some(Estimate {
        value: differences.iter().sum::<f64>() / differences.len() as f64,
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
    resampled_ratio(clusters, range, RESAMPLES, None, &mut stream(root, name))
}

/// The lower percentile of the expanded percentile interval over `clusters` clusters; the upper one is 1 minus it.
pub fn expanded_tail(clusters: usize) -> f64 {
    let g = clusters.max(2) as f64;
    normal_cdf(-(g / (g - 1.0)).sqrt() * t_quantile(0.975, g - 1.0))
}

/// Lower and upper end of the expanded percentile interval of resampled values over `clusters` clusters; sorts them.
/// None without values.
pub fn expanded_percentiles(values: &mut [f64], clusters: usize) -> Option<(f64, f64)> {
    if values.is_empty() {
        return None;
    }
    values.sort_by(f64::total_cmp);
    let tail = expanded_tail(clusters);
    Some((percentile(values, tail), percentile(values, 1.0 - tail)))
}

fn resampled_ratio(
    clusters: &[Cluster],
    range: (f64, f64),
    resamples: usize,
    tail: Option<f64>,
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
        let tail = tail.unwrap_or_else(|| expanded_tail(used.len()));
        values.sort_by(f64::total_cmp);
        (percentile(&values, tail), percentile(&values, 1.0 - tail))
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
    let (low, high) = expanded_percentiles(&mut values, pairs.len()).unwrap_or((-1.0, 1.0));
    Some(Estimate {
        value,
        low,
        high,
        n,
    })
}

/// The difference of two rates measured apart, `a` minus `b`, from their intervals: Newcombe's hybrid (Statistics in
/// Medicine 17, 1998, method 10, "square and add"), low = d − √((a − a_low)² + (b_high − b)²) and likewise above. The
/// intervals may come from anywhere; between paired rates it is too wide, as it takes them for independent.
pub fn difference_of(a: &Estimate, b: &Estimate) -> Estimate {
    let value = a.value - b.value;
    let reach = |x: f64, y: f64| x.hypot(y);
    Estimate {
        value,
        low: (value - reach(a.value - a.low, b.high - b.value)).max(-1.0),
        high: (value + reach(a.high - a.value, b.value - b.low)).min(1.0),
        n: a.n + b.n,
    }
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
pub(crate) mod tests;
