//! Generators: each family draws parameters, computes the answer by two independent ways, and writes the Python that is
//! a third.

mod algebra;
mod arithmetic;
mod counting;
mod graphs;
mod math;
mod sequences;
mod simple;
mod structures;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::number::Numeric;
use super::problem::Difficulty;

/// A kind of problem.
pub(super) struct Family {
    /// Its name, as in the family column.
    pub name: &'static str,
    pub difficulty: Difficulty,
    /// Computation steps.
    pub steps: u32,
    /// Texts with slots for training, and others for the test.
    pub train: &'static [&'static str],
    pub test: &'static [&'static str],
    /// Draws one instance, or refuses the parameters drawn.
    pub draw: fn(&mut ChaCha8Rng) -> Option<Drawn>,
}

/// One instance of a family.
pub(super) struct Drawn {
    /// What is computed, canonical: equal tuples are the same computation.
    pub parameters: String,
    /// Values of the slots.
    pub slots: Vec<(&'static str, String)>,
    /// The answer, computed by two ways that share no code but elementary arithmetic.
    pub answers: [Numeric; 2],
    /// Python that prints it.
    pub program: String,
}

/// All families, the simple ones first, in a fixed order.
pub(super) fn all() -> Vec<Family> {
    let mut families = simple::families();
    families.extend(arithmetic::families());
    families.extend(sequences::families());
    families.extend(counting::families());
    families.extend(structures::families());
    families.extend(algebra::families());
    families.extend(graphs::families());
    families
}

/// A complex family; its draw is refused where the answer could be guessed.
fn complex(
    name: &'static str,
    train: &'static [&'static str],
    test: &'static [&'static str],
    draw: fn(&mut ChaCha8Rng) -> Option<Drawn>,
) -> Family {
    Family {
        name,
        difficulty: Difficulty::Complex,
        steps: 4,
        train,
        test,
        draw,
    }
}

/// An instance with an integer answer.
fn drawn(
    parameters: &[i64],
    slots: Vec<(&'static str, String)>,
    answers: [i128; 2],
    program: String,
) -> Drawn {
    Drawn {
        parameters: parameters
            .iter()
            .map(i64::to_string)
            .collect::<Vec<_>>()
            .join(","),
        slots,
        answers: answers.map(Numeric::integer),
        program,
    }
}

/// One of a list.
fn pick<T: Copy>(rng: &mut ChaCha8Rng, from: &[T]) -> T {
    from[rng.random_range(0..from.len())]
}

/// `a, b and c`.
fn listed(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [head @ .., last] => format!("{} and {last}", head.join(", ")),
    }
}

/// Numbers as `a, b and c`.
fn listed_numbers(items: &[i64]) -> String {
    listed(&items.iter().map(i64::to_string).collect::<Vec<_>>())
}

/// A Python list of integers.
fn python_list(items: &[i64]) -> String {
    let items: Vec<String> = items.iter().map(i64::to_string).collect();
    format!("[{}]", items.join(", "))
}

/// Ascending, distinct, from a range.
fn distinct(rng: &mut ChaCha8Rng, count: usize, low: i64, high: i64) -> Vec<i64> {
    let mut found = std::collections::BTreeSet::new();
    while found.len() < count {
        found.insert(rng.random_range(low..=high));
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests;
