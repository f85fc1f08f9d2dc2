//! Template solutions with the tool: what a pair prefers.

use super::call::result_block;
use super::number::Numeric;
use super::problem::Problem;
use crate::runtime::seed::derive;

/// Longest output that a template solution shows, in bytes.
const OUTPUT_LIMIT: usize = 2000;

const OPENINGS: [&str; 6] = [
    "I will compute this with a short program.",
    "Doing this by hand is error-prone, so I let Python do it.",
    "Let me write the computation down as code.",
    "The tool can work this out exactly.",
    "I turn the problem into a few lines of Python.",
    "A direct computation settles this.",
];

const CLOSINGS: [&str; 5] = [
    "The program gives",
    "So the answer is",
    "The result is",
    "Hence the answer:",
    "That makes",
];

/// A tool-assisted solution: an opening, the call with the problem's program, the result as the loop would insert it,
/// and the answer in a box. The wording depends on the problem's id alone.
///
/// `output` is what the program printed when it was run. `None` where the problem has no program, or where the output's
/// last line is not the answer: such a solution would teach a falsehood.
pub fn solution_with_tool(problem: &Problem, output: &str) -> Option<String> {
    let program = problem.program.as_ref()?;
    let printed = Numeric::parse(output.trim_end().lines().last()?.trim())?;
    if !printed.matches(&Numeric::parse(&problem.answer)?) {
        return None;
    }
    let draw = derive(0, &format!("tool-use/solution/{}", problem.id)) as usize;
    let opening = OPENINGS[draw % OPENINGS.len()];
    let closing = CLOSINGS[draw / OPENINGS.len() % CLOSINGS.len()];
    Some(format!(
        "{opening}\n<tool>\n{}\n</tool>{}{closing} \\boxed{{{}}}",
        program.trim_end(),
        result_block(output, OUTPUT_LIMIT),
        problem.answer
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::scenario::tool_use::answer::is_correct;
    use crate::scenario::tool_use::call::{SegmentKind, Strategy, calls, segments, strategy};
    use crate::scenario::tool_use::{ProblemSpec, generate};

    #[test]
    fn a_template_is_read_back_as_what_it_is() {
        let spec = ProblemSpec {
            train_simple: 39,
            train_complex: 60,
            test_simple: 1,
            test_complex: 1,
        };
        let problems = generate(&spec, 3).unwrap().train;
        let mut wordings = BTreeSet::new();
        for problem in &problems {
            let text = solution_with_tool(problem, &format!("{}\n", problem.answer)).unwrap();
            assert_eq!(strategy(&text, false), Strategy::Tool(1), "{text}");
            assert_eq!(Some(&calls(&text, false)[0].code), problem.program.as_ref());
            assert!(is_correct(&text, &problem.answer), "{text}");
            let kinds: Vec<_> = segments(&text, false).iter().map(|s| s.kind).collect();
            assert_eq!(
                kinds,
                [
                    SegmentKind::Written,
                    SegmentKind::Inserted,
                    SegmentKind::Written
                ]
            );
            wordings.insert((
                text.lines().next().map(str::to_owned),
                text.lines()
                    .last()
                    .map(|l| l.split('\\').next().map(str::to_owned)),
            ));
        }
        assert!(wordings.len() > 20, "{}", wordings.len());
    }

    #[test]
    fn no_solution_without_program_or_with_a_wrong_output() {
        let spec = ProblemSpec {
            train_simple: 1,
            train_complex: 0,
            test_simple: 0,
            test_complex: 0,
        };
        let mut problem = generate(&spec, 3).unwrap().train.remove(0);
        assert_eq!(solution_with_tool(&problem, "-1"), None);
        assert_eq!(solution_with_tool(&problem, "Traceback"), None);
        assert_eq!(solution_with_tool(&problem, ""), None);
        assert!(solution_with_tool(&problem, &format!("working\n{}", problem.answer)).is_some());
        problem.program = None;
        assert_eq!(solution_with_tool(&problem, &problem.answer), None);
    }
}
