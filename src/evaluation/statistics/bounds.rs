//! What is known of a rate when some answers could not be read.
//!
//! A rate among readable decisions stands for all of them only if unreadable ones would have split the same way. Without
//! that assumption the rate lies between two extremes: none of the missing would have been an event, or all would
//! (Manski, Partial Identification of Probability Distributions, 2003). Each extreme is a rate with an interval of its
//! own; the union of both intervals holds whatever the missing were (Horowitz and Manski, JASA 95, 2000).

use super::{Cluster, Estimate, rate_interval};

/// Decisions of one cluster, with those that have no outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Partial {
    /// Events.
    pub events: f64,
    /// Decisions that were read.
    pub read: f64,
    /// Decisions without an outcome: invalid or failed.
    pub missing: f64,
}

/// A rate's two extremes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// The rate if no missing decision were an event.
    pub best: Estimate,
    /// The rate if every one were.
    pub worst: Estimate,
}

impl Bounds {
    /// From the lower end of the best case to the upper end of the worst.
    pub fn range(&self) -> (f64, f64) {
        (self.best.low, self.worst.high)
    }
}

/// Both extremes over the same clusters, in their order; `questions` as for [`rate_interval`]. None without decisions.
pub fn bounds(clusters: &[Partial], questions: usize, root: u64, name: &str) -> Option<Bounds> {
    let case = |missing: f64, suffix: &str| {
        let filled: Vec<Cluster> = clusters
            .iter()
            .map(|c| Cluster {
                sum: c.events + missing * c.missing,
                weight: c.read + c.missing,
            })
            .collect();
        rate_interval(&filled, questions, root, &format!("{name}/{suffix}"))
    };
    Some(Bounds {
        best: case(0.0, "best")?,
        worst: case(1.0, "worst")?,
    })
}
