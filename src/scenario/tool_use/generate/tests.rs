use std::collections::BTreeMap;

use super::*;
use crate::scenario::tool_use::families::all;

#[test]
fn the_default_counts_are_the_papers() {
    let start = std::time::Instant::now();
    let set = generate(&ProblemSpec::default(), 0).unwrap();
    println!(
        "2800 problems in {:.2?}; {:?}",
        start.elapsed(),
        set.disjointness
    );
    assert_eq!((set.train.len(), set.test.len()), (2000, 800));
    let count = |problems: &[Problem], difficulty| {
        problems
            .iter()
            .filter(|p| p.difficulty == difficulty)
            .count()
    };
    assert_eq!(count(&set.train, Difficulty::Simple), 1250);
    assert_eq!(count(&set.train, Difficulty::Complex), 750);
    assert_eq!(count(&set.test, Difficulty::Simple), 500);
    assert_eq!(count(&set.test, Difficulty::Complex), 300);
    assert_eq!(set.train[0].id, "train/simple/0000");
    assert_eq!(set.test[799].id, "test/complex/0299");
    assert_eq!(set.disjointness.texts, 2800);
    assert_eq!(set.disjointness.computations, 2800);
}

#[test]
fn families_and_phrasings_are_balanced() {
    let set = generate(&ProblemSpec::default(), 1).unwrap();
    for problems in [&set.train, &set.test] {
        for difficulty in Difficulty::BOTH {
            let mut families: BTreeMap<&str, usize> = BTreeMap::new();
            let mut phrasings: BTreeMap<(&str, &str), usize> = BTreeMap::new();
            for p in problems.iter().filter(|p| p.difficulty == difficulty) {
                *families.entry(&p.family).or_default() += 1;
                *phrasings.entry((&p.family, &p.phrasing)).or_default() += 1;
            }
            let spread =
                |counts: Vec<usize>| counts.iter().max().unwrap() - counts.iter().min().unwrap();
            assert!(
                spread(families.values().copied().collect()) <= 1,
                "{families:?}"
            );
            for family in families.keys() {
                let of = phrasings
                    .iter()
                    .filter(|((f, _), _)| f == family)
                    .map(|(_, n)| *n);
                assert!(spread(of.collect()) <= 1, "{family}");
            }
        }
    }
}

#[test]
fn sets_depend_on_the_seed_alone_and_never_leak() {
    let spec = ProblemSpec {
        train_simple: 130,
        train_complex: 100,
        test_simple: 65,
        test_complex: 60,
    };
    let one = generate(&spec, 1).unwrap();
    assert_eq!(one, generate(&spec, 1).unwrap());
    let two = generate(&spec, 2).unwrap();
    assert_ne!(one.train, two.train);
    // What one seed tests, no other seed trains on.
    assert!(check_disjoint(&one.train, &two.test).is_ok());
    for problem in one.train.iter().chain(&one.test) {
        assert_eq!(
            split_of(&problem.family, &problem.parameters),
            problem.split
        );
    }
}

#[test]
fn a_smaller_set_is_the_beginning_of_a_larger_one() {
    let small = ProblemSpec {
        train_simple: 13,
        train_complex: 20,
        test_simple: 13,
        test_complex: 20,
    };
    let large = ProblemSpec {
        train_simple: 26,
        train_complex: 40,
        ..small.clone()
    };
    let (small, large) = (generate(&small, 4).unwrap(), generate(&large, 4).unwrap());
    assert_eq!(small.train[..13], large.train[..13]);
    assert_eq!(small.train[13..], large.train[26..46]);
}

#[test]
fn simple_problems_meet_the_published_criteria() {
    let set = generate(&ProblemSpec::default(), 2).unwrap();
    let simple = set
        .train
        .iter()
        .chain(&set.test)
        .filter(|p| p.difficulty == Difficulty::Simple);
    let mut decimals = 0;
    for p in simple {
        assert_eq!(
            simple_criteria(&p.text, p.steps, &p.answer),
            Ok(()),
            "{}",
            p.text
        );
        assert!(!p.text.contains(['{', '}']));
        decimals += usize::from(p.answer.contains('.'));
        // As many statements that compute as steps are claimed.
        let program = p.program.as_deref().unwrap();
        let operations =
            program.matches(['*', '+', '-', '%']).count() + program.matches("//").count();
        assert!(operations >= p.steps as usize, "{program}");
    }
    assert!(decimals > 50);
}

#[test]
fn impossible_wishes_are_refused() {
    let many = ProblemSpec {
        train_complex: 9000,
        ..ProblemSpec::default()
    };
    let error = generate(&many, 0).unwrap_err().to_string();
    assert!(error.contains("ask for fewer problems"), "{error}");
    let absurd = ProblemSpec {
        test_simple: 10_000,
        ..ProblemSpec::default()
    };
    let error = generate(&absurd, 0).unwrap_err().to_string();
    assert!(
        error.contains("`test_simple`: expected at most 9999, got 10000"),
        "{error}"
    );
    let nothing = ProblemSpec {
        train_simple: 0,
        train_complex: 0,
        test_simple: 0,
        test_complex: 0,
    };
    assert!(matches!(generate(&nothing, 0), Err(ProblemError::Nothing)));
}

#[test]
fn a_family_whose_ways_differ_is_caught() {
    let mut family = all().remove(0);
    family.draw = |_| {
        Some(Drawn {
            parameters: "1".into(),
            slots: Vec::new(),
            answers: [1, 2].map(crate::scenario::tool_use::Numeric::integer),
            program: String::new(),
        })
    };
    let error = draw_family(&family, Split::Train, 1, 0).unwrap_err();
    assert!(
        matches!(error, ProblemError::Disagreement { .. }),
        "{error}"
    );
}

#[test]
fn unknown_keys_are_refused() {
    assert!(serde_json::from_str::<ProblemSpec>(r#"{"train_simple": 5}"#).is_ok());
    assert!(serde_json::from_str::<ProblemSpec>(r#"{"train_easy": 5}"#).is_err());
}

#[test]
fn dealing_alternates_each_family() {
    for families in [13, 20] {
        let order = deal(families, 10 * families);
        for family in 0..families {
            let places: Vec<usize> = (0..order.len()).filter(|i| order[*i] == family).collect();
            assert_eq!(places.len(), 10);
            assert!(
                places.windows(2).all(|w| w[0] % 2 != w[1] % 2),
                "{families} {family}"
            );
        }
    }
}
