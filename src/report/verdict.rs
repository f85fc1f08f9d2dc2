//! Does a number of this run agree with the paper's? The definition, and nothing else.
//!
//! The paper gives rates without intervals. A rate of n trials has Wilson's interval, which takes the trials for
//! independent; ours has its interval by cluster. The interval of the difference follows from both (Newcombe's hybrid).
//!
//! - **differs**: the interval of the difference excludes zero;
//! - **agrees**: it includes zero and lies wholly within ±20 points, so that a larger difference is excluded;
//! - **cannot tell**: anything else. At the paper's n of 64 that is common: its own interval is 24 points wide.
//!
//! Where the paper gives a range without n ("mostly 75 to 100 %"), a number agrees if its interval lies wholly inside,
//! differs if wholly outside, and else cannot be told.

use crate::evaluation::statistics::{Estimate, difference_of, wilson};

/// Differences this large must be excluded for two numbers to agree.
pub const MARGIN: f64 = 0.20;

/// The definition as a reader needs it.
pub(super) const DEFINITION: &str = "The paper gives no intervals; its rates get Wilson’s interval for their n. “differs”: the \
    95 % interval of the difference, made from both intervals, excludes zero. “agrees”: it includes zero and excludes any \
    difference of 20 points or more. “cannot tell”: everything else, which at these n is common.";

/// What can be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A difference of [`MARGIN`] is excluded, and none is not.
    Agrees,
    /// No difference is excluded.
    Differs,
    /// Neither.
    CannotTell,
}

impl Verdict {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agrees => "agrees",
            Self::Differs => "differs",
            Self::CannotTell => "cannot tell",
        }
    }
}

/// The paper's rate of `n` trials with Wilson's interval; none for a share that is not between 0 and 1.
pub fn of_paper(percent: f64, n: usize) -> Option<Estimate> {
    wilson(percent / 100.0, n)
}

/// Ours minus the paper's, and what that says.
pub fn compare(ours: &Estimate, paper: &Estimate) -> (Estimate, Verdict) {
    let difference = difference_of(ours, paper);
    let verdict = if difference.excludes_zero() {
        Verdict::Differs
    } else if difference.low > -MARGIN && difference.high < MARGIN {
        Verdict::Agrees
    } else {
        Verdict::CannotTell
    };
    (difference, verdict)
}

/// What a range without n says about ours.
pub fn within(ours: &Estimate, low: f64, high: f64) -> Verdict {
    if ours.low >= low && ours.high <= high {
        Verdict::Agrees
    } else if ours.high < low || ours.low > high {
        Verdict::Differs
    } else {
        Verdict::CannotTell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_follow_the_interval_of_the_difference() {
        let paper = of_paper(50.0, 64).unwrap();
        let ours = |percent: f64, n: usize| of_paper(percent, n).unwrap();
        let verdict = |o: Estimate| compare(&o, &paper).1;
        assert_eq!(verdict(ours(50.0, 640)), Verdict::Agrees);
        assert_eq!(verdict(ours(80.0, 64)), Verdict::Differs);
        assert_eq!(verdict(ours(58.0, 64)), Verdict::CannotTell);
        assert_eq!(verdict(ours(50.0, 4)), Verdict::CannotTell);
        // Less than the margin, but surely not nothing.
        let (difference, verdict) =
            compare(&ours(64.0, 100_000), &of_paper(50.0, 100_000).unwrap());
        assert!(difference.high < MARGIN);
        assert_eq!(verdict, Verdict::Differs);
    }

    #[test]
    fn a_range_is_met_missed_or_neither() {
        let of = |low, high| Estimate {
            value: (low + high) / 2.0,
            low,
            high,
            n: 9,
        };
        assert_eq!(within(&of(0.8, 0.95), 0.75, 1.0), Verdict::Agrees);
        assert_eq!(within(&of(0.2, 0.6), 0.75, 1.0), Verdict::Differs);
        assert_eq!(within(&of(0.6, 0.9), 0.75, 1.0), Verdict::CannotTell);
    }
}
