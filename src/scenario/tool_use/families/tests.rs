use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use super::*;
use crate::scenario::question::Split;
use crate::scenario::tool_use::{Problem, ProblemSpec, generate};

/// Runs every program in one Python process; each line that does not equal its answer comes back.
const HARNESS: &str = r#"
import contextlib, io, json, sys
wrong = []
for name, program, answer in json.load(sys.stdin):
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            exec(compile(program, name, "exec"), {"__name__": "__main__"})
        got = out.getvalue()
    except Exception as error:
        got = repr(error)
    if got != answer + "\n":
        wrong.append(f"{name}: expected {answer!r}, got {got!r}\n{program}")
print("\n".join(wrong))
"#;

/// What Python disagrees with.
fn disagreements(problems: &[&Problem]) -> String {
    let programs: Vec<(&str, &str, &str)> = problems
        .iter()
        .map(|p| {
            (
                p.id.as_str(),
                p.program
                    .as_deref()
                    .expect("generated problems have programs"),
                p.answer.as_str(),
            )
        })
        .collect();
    let mut child = Command::new("python3")
        .args(["-I", "-c", HARNESS])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let input = serde_json::to_vec(&programs).unwrap();
    child.stdin.take().unwrap().write_all(&input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn there_are_enough_families_and_phrasings() {
    let families = all();
    let names: BTreeSet<&str> = families.iter().map(|f| f.name).collect();
    assert_eq!(names.len(), families.len());
    let count = |difficulty| {
        families
            .iter()
            .filter(|f| f.difficulty == difficulty)
            .count()
    };
    assert!(count(Difficulty::Simple) >= 10 && count(Difficulty::Complex) >= 12);
    for family in &families {
        let texts: BTreeSet<&str> = family.train.iter().chain(family.test).copied().collect();
        assert_eq!(
            texts.len(),
            family.train.len() + family.test.len(),
            "{}",
            family.name
        );
        let least = if family.difficulty == Difficulty::Simple {
            6
        } else {
            5
        };
        assert!(texts.len() >= least, "{}", family.name);
    }
}

#[test]
fn python_agrees_on_some_of_every_family() {
    let spec = ProblemSpec {
        train_simple: 26,
        train_complex: 40,
        test_simple: 13,
        test_complex: 20,
    };
    let set = generate(&spec, 11).unwrap();
    let mut of_family: BTreeMap<&str, usize> = BTreeMap::new();
    let problems: Vec<&Problem> = set.train.iter().chain(&set.test).collect();
    for problem in &problems {
        *of_family.entry(&problem.family).or_default() += 1;
    }
    assert_eq!(of_family.len(), all().len());
    assert!(of_family.values().all(|count| *count >= 3), "{of_family:?}");
    assert_eq!(disagreements(&problems), "");
}

#[test]
fn python_agrees_on_all_default_problems() {
    let set = generate(&ProblemSpec::default(), 0).unwrap();
    let problems: Vec<&Problem> = set.train.iter().chain(&set.test).collect();
    assert_eq!(problems.len(), 2800);
    let start = std::time::Instant::now();
    assert_eq!(disagreements(&problems), "");
    println!("2800 programs in {:.1?}", start.elapsed());
}

#[test]
fn python_would_notice_a_wrong_answer() {
    let spec = ProblemSpec {
        train_simple: 1,
        train_complex: 1,
        test_simple: 0,
        test_complex: 0,
    };
    let mut set = generate(&spec, 11).unwrap();
    set.train[1].answer.push('0');
    let problems: Vec<&Problem> = set.train.iter().collect();
    let found = disagreements(&problems);
    assert!(found.starts_with("train/complex/0000: expected"), "{found}");
}

#[test]
fn complex_answers_are_large_and_varied() {
    let set = generate(&ProblemSpec::default(), 5).unwrap();
    let complex: Vec<&Problem> = set
        .train
        .iter()
        .chain(&set.test)
        .filter(|p| p.difficulty == Difficulty::Complex)
        .collect();
    for problem in &complex {
        let value: i128 = problem.answer.parse().unwrap();
        assert!(value.abs() >= 100, "{}: {value}", problem.id);
    }
    // No constant guess is right for more than a few.
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for problem in &complex {
        *counts.entry(&problem.answer).or_default() += 1;
    }
    let most = counts.values().max().copied().unwrap_or(0);
    assert!(
        most * 100 <= complex.len(),
        "one answer fits {most} of {}",
        complex.len()
    );
    assert!(set.test.iter().all(|p| p.split == Split::Test));
}
