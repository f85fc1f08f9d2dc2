//! The sets that ship, and sets broken on purpose.

use std::path::Path;

use super::*;
use crate::scenario::disjoint::NEAR_PHRASING;
use crate::scenario::environment::load_environments;

fn shipped() -> Vec<Environment> {
    load_environments(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data/role_play")).unwrap()
}

/// How many questions each cell of the design has: (first, label A).
fn count<'a>(questions: impl Iterator<Item = &'a Question>) -> BTreeMap<(bool, bool), usize> {
    let mut counts = BTreeMap::new();
    for q in questions {
        *counts
            .entry((q.compliant_first, q.compliant_label == "A"))
            .or_default() += 1;
    }
    counts
}

#[test]
fn the_real_sets_have_their_sizes_and_are_disjoint() {
    let envs = shipped();
    for seed in [0, 1, 7, 42] {
        let set = generate(&envs, &QuestionSpec::default(), seed).unwrap();
        assert_eq!((set.train.len(), set.test.len()), (160, 64));
        // The proof again, by another way: plain comparison of texts.
        let known: BTreeSet<&str> = set.train.iter().map(|q| q.situation.as_str()).collect();
        assert_eq!(known.len(), 160);
        let held_out: BTreeSet<&str> = set.test.iter().map(|q| q.situation.as_str()).collect();
        assert_eq!(held_out.len(), 64);
        assert!(known.is_disjoint(&held_out));
        assert_eq!(
            set.disjointness,
            check_disjoint(&set.train, &set.test).unwrap()
        );
        for q in set.train.iter().chain(&set.test) {
            assert!(
                q.detected_pay < q.compliant_pay && q.compliant_pay < q.deviant_pay,
                "{}",
                q.id
            );
            assert!(!q.situation.contains(['{', '}']), "{}", q.id);
            assert!(!q.supervised_text.contains(['{', '}']), "{}", q.id);
        }
    }
}

#[test]
fn texts_written_apart_stay_below_the_thresholds_by_a_margin() {
    let envs = shipped();
    for seed in 0..5 {
        let found = generate(&envs, &QuestionSpec::default(), seed)
            .unwrap()
            .disjointness;
        assert!(found.situations.index <= NEAR_SITUATION / 2.0, "{found:?}");
        assert!(found.phrasings.index <= NEAR_PHRASING * 0.7, "{found:?}");
    }
}

#[test]
fn every_environment_is_counterbalanced() {
    let envs = shipped();
    let set = generate(&envs, &QuestionSpec::default(), 5).unwrap();
    for env in &envs {
        let train = count(set.train.iter().filter(|q| q.environment == env.id));
        assert_eq!(train.len(), 4);
        assert!(
            train.values().all(|n| (2..=3).contains(n)),
            "{}: {train:?}",
            env.id
        );
        let first: usize = train
            .iter()
            .filter(|(cell, _)| cell.0)
            .map(|(_, n)| n)
            .sum();
        let label: usize = train
            .iter()
            .filter(|(cell, _)| cell.1)
            .map(|(_, n)| n)
            .sum();
        assert_eq!((first, label), (5, 5), "{}", env.id);
        let test = count(set.test.iter().filter(|q| q.environment == env.id));
        assert_eq!(
            test.values().copied().collect::<Vec<_>>(),
            [1, 1, 1, 1],
            "{}",
            env.id
        );
    }
    assert_eq!(
        count(set.train.iter()).into_values().collect::<Vec<_>>(),
        [40; 4]
    );
    assert_eq!(
        count(set.test.iter()).into_values().collect::<Vec<_>>(),
        [16; 4]
    );
    assert!(
        set.train
            .iter()
            .chain(&set.test)
            .all(|q| q.compliant_label != q.deviant_label)
    );
}

#[test]
fn all_situation_texts_are_used() {
    let set = generate(&shipped(), &QuestionSpec::default(), 5).unwrap();
    let used = |set: &[Question], env: &str| {
        set.iter()
            .filter(|q| q.environment == env)
            .map(|q| q.phrasing)
            .collect::<BTreeSet<_>>()
            .len()
    };
    assert_eq!(used(&set.train, "bakery"), 6);
    assert_eq!(used(&set.test, "bakery"), 4);
}

#[test]
fn sets_depend_on_the_seed_and_environments_on_themselves() {
    let envs = shipped();
    let spec = QuestionSpec::default();
    let set = generate(&envs, &spec, 9).unwrap();
    assert_eq!(set, generate(&envs, &spec, 9).unwrap());
    assert_ne!(set.train, generate(&envs, &spec, 10).unwrap().train);
    let fewer = generate(&envs[..4], &spec, 9).unwrap();
    assert_eq!(fewer.train, set.train[..40]);
}

#[test]
fn other_counts_are_balanced_as_far_as_they_can_be() {
    let envs = shipped();
    let spec = QuestionSpec {
        train_per_environment: 7,
        test_per_environment: 1,
        answer: AnswerForm::Name,
    };
    let set = generate(&envs, &spec, 2).unwrap();
    assert_eq!((set.train.len(), set.test.len()), (112, 16));
    for env in &envs {
        let train = count(set.train.iter().filter(|q| q.environment == env.id));
        assert!(train.values().all(|n| (1..=2).contains(n)), "{train:?}");
    }
    assert!(set.test.iter().all(|q| q.answer == AnswerForm::Name));
}

#[test]
fn a_training_phrasing_in_the_test_is_refused_whatever_its_values() {
    let mut envs = shipped();
    // One word exchanged, and values of its own: hardly a run of five words is left in common.
    let copied = envs[3].train.situations[0].replacen("your", "the", 1);
    assert_ne!(copied, envs[3].train.situations[0]);
    envs[3].test.situations[0] = copied;
    let error = generate(&envs, &QuestionSpec::default(), 1).unwrap_err();
    let RolePlayError::Overlap(OverlapError::Near {
        what: "phrasing",
        ref test,
        ..
    }) = error
    else {
        panic!("{error}");
    };
    assert!(
        test.starts_with(&format!("test/{}/", envs[3].id)),
        "{error}"
    );
}

#[test]
fn a_draw_near_a_training_situation_is_refused() {
    let mut envs = shipped();
    let known = generate(&envs, &QuestionSpec::default(), 1).unwrap().train;
    // Training is drawn first and by streams of its own, so the same situations come again.
    let copied = format!(
        "Now {}",
        known
            .iter()
            .find(|q| q.environment == envs[3].id)
            .unwrap()
            .situation
    );
    envs[3].test.situations = vec!["{whole}".to_owned()];
    envs[3].test.values = BTreeMap::from([("whole".to_owned(), vec![copied])]);
    let error = generate(&envs, &QuestionSpec::default(), 1).unwrap_err();
    assert!(
        matches!(
            &error,
            RolePlayError::Exhausted {
                split: Split::Test,
                index: 1,
                ..
            }
        ),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("near a training situation") && text.contains(&envs[3].id),
        "{text}"
    );
}

#[test]
fn overlap_in_finished_sets_is_found() {
    let set = generate(&shipped(), &QuestionSpec::default(), 1).unwrap();
    let broken = |change: &dyn Fn(&mut Question, &Question)| {
        let mut test = set.test.clone();
        change(&mut test[5], &set.train[12]);
        check_disjoint(&set.train, &test).unwrap_err()
    };
    let same = broken(&|q, known| q.situation = known.situation.to_uppercase() + "!");
    assert!(matches!(same, OverlapError::Same { .. }), "{same}");
    let near = broken(&|q, known| q.situation = format!("Today, {}", known.situation));
    assert!(
        matches!(near, OverlapError::Near { index, .. } if index > 0.8),
        "{near}"
    );
    let shared = broken(&|q, known| q.deviant_description = known.deviant_description.clone());
    assert!(matches!(shared, OverlapError::Shared { .. }), "{shared}");
    let pays = broken(&|q, known| {
        q.environment = known.environment.clone();
        (q.compliant_pay, q.deviant_pay) = (known.compliant_pay, known.deviant_pay);
    });
    assert!(
        matches!(
            pays,
            OverlapError::Shared {
                what: "pair of pays",
                ..
            }
        ),
        "{pays}"
    );
    let repeated = [set.test.clone(), vec![set.test[0].clone()]].concat();
    assert!(matches!(
        check_disjoint(&set.train, &repeated),
        Err(OverlapError::Same { .. })
    ));
    assert!(matches!(
        check_disjoint(&set.test, &[]),
        Err(OverlapError::WrongSplit { .. })
    ));
}

#[test]
fn impossible_requests_are_errors() {
    let envs = shipped();
    let with = |train, test| QuestionSpec {
        train_per_environment: train,
        test_per_environment: test,
        ..QuestionSpec::default()
    };
    assert!(matches!(
        generate(&envs, &with(0, 4), 1),
        Err(RolePlayError::Count { .. })
    ));
    assert!(matches!(
        generate(&envs, &with(10, 10_001), 1),
        Err(RolePlayError::Count { .. })
    ));
    assert!(matches!(
        generate(&[], &with(10, 4), 1),
        Err(RolePlayError::Environments(_))
    ));
    let twice = [envs[0].clone(), envs[0].clone()];
    assert!(matches!(
        generate(&twice, &with(10, 4), 1),
        Err(RolePlayError::Environments(_))
    ));
    let error = generate(&envs[..1], &with(5000, 4), 1).unwrap_err();
    assert!(
        matches!(
            error,
            RolePlayError::Exhausted {
                split: Split::Train,
                ..
            }
        ),
        "{error}"
    );
    let mut one = envs[0].clone();
    (one.pay.compliant, one.pay.bonus) = ([5, 5], [1, 1]);
    assert!(matches!(
        generate(&[one], &with(10, 4), 1),
        Err(RolePlayError::OnePay(_))
    ));
}

#[test]
fn the_spec_reads_strictly() {
    let spec: QuestionSpec =
        toml::from_str("answer = \"name\"\ntrain_per_environment = 3").unwrap();
    assert_eq!(
        (spec.train_per_environment, spec.test_per_environment),
        (3, 4)
    );
    assert_eq!(spec.answer, AnswerForm::Name);
    assert!(toml::from_str::<QuestionSpec>("answer = \"number\"").is_err());
    assert!(toml::from_str::<QuestionSpec>("tests = 3").is_err());
}
