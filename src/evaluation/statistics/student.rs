//! Quantiles and tails of the normal and the t distribution, by `statrs`, without ways to fail.

use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// Φ: the standard normal distribution function.
pub fn normal_cdf(z: f64) -> f64 {
    Normal::standard().cdf(z)
}

/// The quantile of Student's t; with no finite, positive degrees of freedom that of the normal distribution.
pub fn t_quantile(p: f64, freedom: f64) -> f64 {
    match StudentsT::new(0.0, 1.0, freedom) {
        Ok(student) if freedom.is_finite() => student.inverse_cdf(p),
        _ => Normal::standard().inverse_cdf(p),
    }
}

/// P(|T| ≥ |t|) under Student's t.
pub fn t_two_sided(t: f64, freedom: f64) -> f64 {
    if !t.is_finite() {
        return if t.is_nan() { 1.0 } else { 0.0 };
    }
    let tail = match StudentsT::new(0.0, 1.0, freedom) {
        Ok(student) if freedom.is_finite() => student.cdf(-t.abs()),
        _ => normal_cdf(-t.abs()),
    };
    (2.0 * tail).min(1.0)
}
