//! A row of OpenThoughts-114k as a complex problem: mathematics on one of the paper's topics, with a numeric answer.

use crate::scenario::disjoint::normalise;
use crate::scenario::tool_use::answer::{last_box, value};
use crate::scenario::tool_use::{Difficulty, Problem, Source, split_of, topic};

/// What the training table puts before a mathematical problem.
const INSTRUCTION: &str = "Return your final response within \\boxed{}.";
/// Complex problems take more steps than simple ones; how many is not recorded.
const LEAST_STEPS: u32 = 4;

/// A row of the metadata table.
///
/// # Errors
/// The criterion that it fails.
pub(super) fn problem(text: &str, solution: &str, domain: &str) -> Result<Problem, &'static str> {
    if domain != "math" {
        return Err("the domain mathematics");
    }
    make(text, solution)
}

/// A row of the training table: the problem is the first turn, the answer stands in the last.
///
/// # Errors
/// The criterion that it fails.
pub(super) fn conversation(turns: &[(&str, &str)]) -> Result<Problem, &'static str> {
    let (Some((_, asked)), Some((_, replied))) = (turns.first(), turns.last()) else {
        return Err("a question and a reply");
    };
    // Only mathematical problems have the instruction.
    let text = asked.trim_start().strip_prefix(INSTRUCTION);
    let text = text.ok_or("the domain mathematics")?;
    let solution = replied.rsplit("<|begin_of_solution|>").next().unwrap_or("");
    make(text, solution)
}

fn make(text: &str, solution: &str) -> Result<Problem, &'static str> {
    let text = text.trim();
    if text.is_empty() {
        return Err("a text");
    }
    if ["[asy]", "![", "http://", "https://"]
        .iter()
        .any(|mark| text.contains(mark))
    {
        return Err("no pictures");
    }
    let topic =
        topic(text).ok_or("a topic of multi-step algorithms, combinatorics or advanced algebra")?;
    let answer = last_box(solution)
        .and_then(value)
        .ok_or("a numeric answer")?;
    let answer = answer.to_string();
    // Percentages and floats beyond exactness have no canonical form.
    if answer.contains(['%', 'e', 'N', 'i']) {
        return Err("a numeric answer");
    }
    Ok(Problem {
        id: String::new(),
        split: split_of("openthoughts", &normalise(text)),
        difficulty: Difficulty::Complex,
        family: topic.name().to_owned(),
        text: text.to_owned(),
        phrasing: text.to_owned(),
        parameters: String::new(),
        answer,
        program: None,
        steps: LEAST_STEPS,
        source: Source::OpenThoughts,
    })
}
