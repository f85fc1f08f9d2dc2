//! Variances that respect clusters without resampling: sandwich estimators (Liang and Zeger, Biometrika 73, 1986) with
//! the usual small-sample factor, G/(G − 1)·(N − 1)/(N − K) over G clusters, N observations and K coefficients, and a t
//! distribution with G − 1 degrees of freedom (Cameron and Miller, Journal of Human Resources 50, 2015).

use super::student::{t_quantile, t_two_sided};
use super::{Cluster, Estimate};

/// A value with its cluster-robust standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Robust {
    /// The value.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
    /// Degrees of freedom: clusters minus one, or fewer.
    pub freedom: f64,
    /// Observations.
    pub n: usize,
}

impl Robust {
    /// The 95 % interval, value ± t·error.
    pub fn estimate(&self) -> Estimate {
        let half = t_quantile(0.975, self.freedom) * self.error;
        Estimate {
            value: self.value,
            low: self.value - half,
            high: self.value + half,
            n: self.n,
        }
    }

    /// Two-sided p-value of the hypothesis that the value is zero; 1 where nothing varies around zero.
    pub fn p_value(&self) -> f64 {
        if self.value == 0.0 {
            1.0
        } else {
            t_two_sided(self.value / self.error, self.freedom)
        }
    }
}

/// Σ sum / Σ weight over clusters, with the error of its linearisation. None with fewer than two clusters that have
/// weight.
pub fn ratio(clusters: &[Cluster]) -> Option<Robust> {
    let used: Vec<&Cluster> = clusters.iter().filter(|c| c.weight > 0.0).collect();
    let weight: f64 = used.iter().map(|c| c.weight).sum();
    let value = used.iter().map(|c| c.sum).sum::<f64>() / weight;
    let g = used.len() as f64;
    if used.len() < 2 {
        return None;
    }
    let squares: f64 = used
        .iter()
        .map(|c| (c.sum - value * c.weight).powi(2))
        .sum();
    Some(Robust {
        value,
        error: (g / (g - 1.0) * squares).sqrt() / weight,
        freedom: g - 1.0,
        n: weight.round() as usize,
    })
}

/// One observation of a regression on one variable.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Datum {
    /// Number of its cluster.
    pub cluster: usize,
    /// What explains.
    pub x: f64,
    /// What is explained; 0 or 1 for [`logistic`].
    pub y: f64,
}

/// A straight line, or a logistic one on the scale of log odds, with the robust covariance of its coefficients.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LineFit {
    /// Value at x = 0.
    pub intercept: f64,
    /// Change by one unit of x.
    pub slope: f64,
    /// Covariance: of the intercept, of both, of the slope.
    pub covariance: [f64; 3],
    /// Degrees of freedom.
    pub freedom: f64,
    /// Observations.
    pub n: usize,
}

impl LineFit {
    /// The slope with its error.
    pub fn slope(&self) -> Robust {
        Robust {
            value: self.slope,
            error: self.covariance[2].max(0.0).sqrt(),
            freedom: self.freedom,
            n: self.n,
        }
    }
}

/// Ordinary least squares of y on x. None with fewer than two clusters, or where x does not vary.
pub fn linear(data: &[Datum]) -> Option<LineFit> {
    let (bread, right) = data.iter().fold(([0.0; 3], [0.0; 2]), |(b, r), d| {
        (
            [b[0] + 1.0, b[1] + d.x, b[2] + d.x * d.x],
            [r[0] + d.y, r[1] + d.x * d.y],
        )
    });
    let inverse = invert(bread)?;
    let [intercept, slope] = times(inverse, right);
    let residuals = data.iter().map(|d| (*d, d.y - intercept - slope * d.x));
    sandwich(inverse, residuals, data.len(), intercept, slope)
}

/// Most Newton steps of [`logistic`]; a fit that has not settled by then has no finite maximum.
const STEPS: usize = 50;

/// Logistic regression of y (0 or 1) on x by Newton's method. None with fewer than two clusters, where x does not
/// vary, or where the two outcomes are separated by x, so that no finite fit exists.
pub fn logistic(data: &[Datum]) -> Option<LineFit> {
    let (mut intercept, mut slope) = (0.0_f64, 0.0_f64);
    let spread = data
        .iter()
        .fold(0.0_f64, |a, d| a.max(d.x.abs()))
        .max(1e-12);
    for _ in 0..STEPS {
        let (mut bread, mut score) = ([0.0; 3], [0.0; 2]);
        for d in data {
            let p = inverse_logit(intercept + slope * d.x);
            let w = p * (1.0 - p);
            bread = [bread[0] + w, bread[1] + w * d.x, bread[2] + w * d.x * d.x];
            score = [score[0] + d.y - p, score[1] + (d.y - p) * d.x];
        }
        let inverse = invert(bread)?;
        let step = times(inverse, score);
        (intercept, slope) = (intercept + step[0], slope + step[1]);
        // Beyond these odds (e^30) the likelihood is flat: the outcomes are separated.
        if !(intercept.abs() < 30.0 && (slope * spread).abs() < 60.0) {
            return None;
        }
        if step[0].abs() < 1e-10 && (step[1] * spread).abs() < 1e-10 {
            let residuals = data
                .iter()
                .map(|d| (*d, d.y - inverse_logit(intercept + slope * d.x)));
            return sandwich(inverse, residuals, data.len(), intercept, slope);
        }
    }
    None
}

/// 1 / (1 + e^−x).
pub fn inverse_logit(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Inverse of a symmetric 2 × 2 matrix, given as [a, b, c] for [[a, b], [b, c]].
fn invert([a, b, c]: [f64; 3]) -> Option<[f64; 3]> {
    let determinant = a * c - b * b;
    (determinant > 1e-12 * (a * c).abs())
        .then(|| [c / determinant, -b / determinant, a / determinant])
}

fn times([a, b, c]: [f64; 3], [x, y]: [f64; 2]) -> [f64; 2] {
    [a * x + b * y, b * x + c * y]
}

/// The fit with its covariance: inverse · Σ (cluster's score)(cluster's score)ᵀ · inverse, times the small-sample factor.
fn sandwich(
    inverse: [f64; 3],
    residuals: impl Iterator<Item = (Datum, f64)>,
    n: usize,
    intercept: f64,
    slope: f64,
) -> Option<LineFit> {
    let mut scores: std::collections::BTreeMap<usize, [f64; 2]> = Default::default();
    for (datum, residual) in residuals {
        let score = scores.entry(datum.cluster).or_default();
        score[0] += residual;
        score[1] += residual * datum.x;
    }
    let g = scores.len() as f64;
    if scores.len() < 2 || n < 3 {
        return None;
    }
    let factor = g / (g - 1.0) * (n as f64 - 1.0) / (n as f64 - 2.0);
    let mut covariance = [0.0; 3];
    for score in scores.values() {
        let [a, b] = times(inverse, *score);
        covariance[0] += factor * a * a;
        covariance[1] += factor * a * b;
        covariance[2] += factor * b * b;
    }
    Some(LineFit {
        intercept,
        slope,
        covariance,
        freedom: g - 1.0,
        n,
    })
}

#[cfg(test)]
mod tests;
