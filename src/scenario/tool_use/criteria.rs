//! The published selection criteria, and the topics of complex problems.

use super::notation::{normalise, numbers};
use super::number::Numeric;

/// Most computation steps of a simple problem.
pub const MOST_STEPS: u32 = 3;
/// Largest number in a simple problem and in its answer.
pub const LARGEST: f64 = 1000.0;
/// Most words of a simple problem.
pub const MOST_WORDS: usize = 50;

/// Whether a problem counts as simple: at most three steps, no number above 1000, at most 50 words.
///
/// # Errors
/// The criterion that it fails, in words.
pub fn simple_criteria(text: &str, steps: u32, answer: &str) -> Result<(), &'static str> {
    if !(1..=MOST_STEPS).contains(&steps) {
        return Err("1 to 3 computation steps");
    }
    if text.split_whitespace().count() > MOST_WORDS {
        return Err("at most 50 words");
    }
    let answer = Numeric::parse(answer).ok_or("a numeric answer")?;
    let text = normalise(text);
    let mut all = numbers(&text).map(|(number, ..)| number).chain([answer]);
    if all.any(|number| number.to_f64().abs() > LARGEST) {
        return Err("numbers of at most 1000");
    }
    Ok(())
}

/// What a complex problem is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Counting arrangements, choices, paths.
    Combinatorics,
    /// Polynomials, matrices, systems, logarithms.
    AdvancedAlgebra,
    /// A procedure of many steps: remainders, digits, sequences, recursion.
    Algorithmic,
}

impl Topic {
    /// As it stands in the family column.
    pub fn name(self) -> &'static str {
        match self {
            Self::Combinatorics => "combinatorics",
            Self::AdvancedAlgebra => "advanced-algebra",
            Self::Algorithmic => "algorithmic",
        }
    }
}

const KEYWORDS: [(Topic, &[&str]); 3] = [
    (
        Topic::Combinatorics,
        &[
            "how many ways",
            "in how many",
            "number of ways",
            "permutation",
            "combination",
            "arrangement",
            "arranged",
            "subset",
            "how many different",
            "how many distinct",
            "how many paths",
            "number of paths",
            "tiling",
            "colorings",
            "colourings",
            "derangement",
            "partition",
            "binomial",
            "committee",
            "lattice path",
            "inclusion-exclusion",
        ],
    ),
    (
        Topic::AdvancedAlgebra,
        &[
            "polynomial",
            "matrix",
            "matrices",
            "determinant",
            "eigenvalue",
            "system of equations",
            "complex number",
            "logarithm",
            "\\log",
            "functional equation",
            "roots of",
            "real roots",
            "quadratic",
            "cubic",
            "vieta",
            "f(x)",
            "for all real numbers",
        ],
    ),
    (
        Topic::Algorithmic,
        &[
            "sequence",
            "recursive",
            "recursion",
            "recurrence",
            "remainder",
            "modulo",
            "\\pmod",
            "\\bmod",
            "divisible",
            "digits",
            "digit sum",
            "divisors",
            "algorithm",
            "operation",
            "step",
            "prime",
            "greatest common",
            "least common",
            "iterat",
            "base ",
        ],
    ),
];

/// The topic of a problem by its keywords: the one with the most of them, of equals the first in the order of the
/// paper's rarest kind (combinatorics, advanced algebra, multi-step algorithmic); `None` without any.
pub fn topic(text: &str) -> Option<Topic> {
    let text = text.to_lowercase();
    let count = |words: &[&str]| words.iter().filter(|word| text.contains(*word)).count();
    let mut best: Option<(Topic, usize)> = None;
    for (topic, words) in KEYWORDS {
        let found = count(words);
        if found > best.map_or(0, |(_, most)| most) {
            best = Some((topic, found));
        }
    }
    best.map(|(topic, _)| topic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_problems_are_short_and_small() {
        let text = "Ann has 3 bags of 12 nuts. How many nuts are there?";
        assert_eq!(simple_criteria(text, 1, "36"), Ok(()));
        assert!(simple_criteria(text, 4, "36").is_err());
        assert!(simple_criteria(text, 0, "36").is_err());
        assert!(simple_criteria(text, 1, "1001").is_err());
        assert!(simple_criteria(text, 1, "many").is_err());
        assert!(simple_criteria("It costs $1,200. What is half?", 1, "600").is_err());
        assert!(simple_criteria("It costs $1,000. What is half?", 1, "500").is_ok());
        let words = |n: usize| "word ".repeat(n);
        assert!(simple_criteria(&words(50), 1, "1").is_ok());
        assert!(simple_criteria(&words(51), 1, "1").is_err());
    }

    #[test]
    fn topics_by_keywords() {
        assert_eq!(
            topic("In how many ways can 5 people be arranged?"),
            Some(Topic::Combinatorics)
        );
        assert_eq!(
            topic("Find the determinant of the matrix"),
            Some(Topic::AdvancedAlgebra)
        );
        assert_eq!(
            topic("What is the remainder modulo 7?"),
            Some(Topic::Algorithmic)
        );
        assert_eq!(topic("A train leaves the station"), None);
    }
}
