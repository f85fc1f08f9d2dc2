//! The scheduler on a card that computes nothing but a digest of what its pages hold: whatever is admitted, shared,
//! preempted and readmitted, parked and answered, each text is the one that its own tokens lead to, and no page is lost.

mod paper;

use std::collections::BTreeSet;

use proptest::prelude::*;
use rand::Rng;

use super::generate;
use crate::generation::engine::{Completion, Finish, Halt, Request};
use crate::generation::outside::Beyond;
use crate::generation::sampling::Sampling;
use crate::generation::script::{Answer, Script, after, in_turns};
use crate::model::fused::PAGE;
use crate::runtime::seed::stream;
use paper::{Paper, WORDS, next};

/// A text alone, token by token, without pages.
fn alone(request: &Request) -> Completion {
    let mut text = request.prompt.clone();
    let mut tokens = vec![];
    let finish = loop {
        let draw = || stream(request.seed, &format!("token/{}", tokens.len())).random();
        let token = next(&text, (request.sampling.temperature > 0.0).then(draw));
        tokens.push(token);
        text.push(token);
        if request.stop.contains(&token) {
            break Finish::Stop;
        } else if request.halt.as_ref().is_some_and(|h| h.ends(&tokens)) {
            break Finish::Halt;
        } else if tokens.len() >= request.max_new_tokens {
            break Finish::Length;
        }
    };
    Completion {
        logprobs: vec![0.0; tokens.len()],
        tokens,
        finish,
    }
}

fn request() -> impl Strategy<Value = Request> {
    let prompt = (0u32..3, 0usize..5, prop::collection::vec(0..WORDS, 1..40));
    // Many texts begin alike, as a group or the rounds of an agent do.
    let prompt = prompt.prop_map(|(kind, shared, own)| {
        let mut all: Vec<u32> = (0..shared * PAGE / 2)
            .map(|at| (at as u32 * 7 + kind) % WORDS)
            .collect();
        all.extend(own);
        all
    });
    (
        prompt,
        1usize..70,
        prop::collection::vec(0..WORDS, 0..2),
        any::<bool>(),
        any::<bool>(),
        any::<u64>(),
    )
        .prop_map(
            |(prompt, max_new_tokens, stop, halts, greedy, seed)| Request {
                prompt,
                max_new_tokens,
                sampling: sampling(greedy),
                stop,
                halt: halts.then(|| Halt::new(|tokens| tokens.ends_with(&[3, 4]))),
                seed,
            },
        )
}

fn sampling(greedy: bool) -> Sampling {
    Sampling {
        temperature: if greedy { 0.0 } else { 1.0 },
        ..Sampling::default()
    }
}

/// A request that halts, or not, and what it is answered.
fn asking() -> impl Strategy<Value = (Request, Vec<Answer>)> {
    let halts = || prop::option::weighted(0.8, 1usize..12);
    let answer = (
        prop::collection::vec(0..WORDS, 0..40),
        halts(),
        any::<u64>(),
    );
    let answer = answer.prop_map(|(inserted, halts_after, seed)| Answer {
        inserted,
        halts_after,
        seed,
    });
    (request(), halts(), prop::collection::vec(answer, 0..4)).prop_map(
        |(request, halts_after, answers)| {
            let halt = halts_after.map(after);
            (Request { halt, ..request }, answers)
        },
    )
}

/// All requests on a card; every text is the one it would be alone. Gives how many gave way.
fn hold(card: &mut Paper, slots: usize, requests: &[Request]) -> Result<usize, TestCaseError> {
    let beyond = Beyond::new(None, WORDS);
    let expected: Vec<Completion> = requests.iter().map(alone).collect();
    compare(card, slots, requests, beyond, &expected)
}

/// The same of requests that are answered when they halt.
fn hold_answered(
    card: &mut Paper,
    slots: usize,
    requests: &[Request],
    answers: &[Vec<Answer>],
    looks: &[usize],
) -> Result<usize, TestCaseError> {
    let expected = in_turns(requests, answers, |part| part.iter().map(alone).collect());
    let mut script = Script::new(answers, looks);
    let beyond = Beyond::new(Some(&mut script), WORDS);
    let preempted = compare(card, slots, requests, beyond, &expected)?;
    for (index, halted) in &script.told {
        let text = &expected[*index].tokens;
        prop_assert!(text.starts_with(&halted.tokens), "told of another text");
        prop_assert_eq!(halted.tokens.len(), halted.logprobs.len());
    }
    Ok(preempted)
}

fn compare(
    card: &mut Paper,
    slots: usize,
    requests: &[Request],
    beyond: Beyond,
    expected: &[Completion],
) -> Result<usize, TestCaseError> {
    let mut done = 0;
    let open = requests.iter().map(|_| None).collect();
    let (results, stats) = generate(card, None, slots, requests, open, beyond, |n| done += n)
        .map_err(|e| TestCaseError::fail(e.to_string()))?;
    let mut refused = 0;
    for ((request, expected), result) in requests.iter().zip(expected).zip(results) {
        match result {
            Ok(completion) => prop_assert_eq!(&completion, expected),
            Err(error) => {
                // Only what could never have all its pages.
                let needed = (request.prompt.len() + request.max_new_tokens - 1).div_ceil(PAGE);
                prop_assert!(needed > card.limit, "{}", error);
                refused += 1;
            }
        }
    }
    prop_assert_eq!(done + refused, requests.len());
    let memory = card.memory.borrow();
    prop_assert!(
        memory.slots.iter().all(|slot| !slot.active),
        "a slot is left at work"
    );
    if let Some(pool) = &card.pool {
        prop_assert_eq!(pool.free(), pool.len(), "a page is lost");
    }
    Ok(stats.preempted)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_is_scheduled_each_text_is_its_own(
        calls in prop::collection::vec(prop::collection::vec(request(), 1..24), 1..3),
        slots in 1usize..9,
        limit in 4usize..60,
    ) {
        // One card for several calls: pages of the first are found by the second.
        let mut card = Paper::new(limit);
        for requests in calls {
            hold(&mut card, slots, &requests)?;
        }
    }

    #[test]
    fn whenever_answers_come_each_text_is_its_own(
        calls in prop::collection::vec(prop::collection::vec(asking(), 1..24), 1..3),
        looks in prop::collection::vec(0usize..30, 1..20),
        slots in 1usize..9,
        limit in 4usize..60,
    ) {
        let mut card = Paper::new(limit);
        for asked in calls {
            let (requests, answers): (Vec<Request>, Vec<Vec<Answer>>) = asked.into_iter().unzip();
            hold_answered(&mut card, slots, &requests, &answers, &looks)?;
        }
    }
}

#[test]
fn texts_give_way_where_pages_run_out() {
    let texts: Vec<Request> = (0..6)
        .map(|i| Request {
            prompt: vec![i; 20],
            max_new_tokens: 60,
            sampling: sampling(true),
            stop: vec![],
            halt: None,
            seed: 1,
        })
        .collect();
    // Each needs five pages in the end, and begins with two.
    let preempted = hold(&mut Paper::new(12), 6, &texts).expect("all as they would be alone");
    assert!(preempted > 0);
    let distinct: BTreeSet<Vec<u32>> = texts.iter().map(|t| alone(t).tokens).collect();
    assert_eq!(
        distinct.len(),
        texts.len(),
        "the language tells texts apart"
    );
}

/// Texts of 20 tokens, one drawn, 40 put in, ten drawn: five pages each in the end.
fn answered(count: u32) -> (Vec<Request>, Vec<Vec<Answer>>) {
    let one = |i: u32| {
        let request = Request {
            prompt: vec![i; 20],
            max_new_tokens: 51,
            sampling: sampling(i.is_multiple_of(2)),
            stop: vec![],
            halt: Some(after(1)),
            seed: u64::from(i),
        };
        let answer = Answer {
            inserted: (0..40).map(|at| (at + i) % WORDS).collect(),
            halts_after: None,
            seed: 7,
        };
        (request, vec![answer])
    };
    (0..count).map(one).unzip()
}

#[test]
fn texts_give_way_in_the_midst_of_what_was_put_in() {
    let (requests, answers) = answered(6);
    let mut card = Paper::new(12);
    hold_answered(&mut card, 6, &requests, &answers, &[0]).expect("all as they would be alone");
    let midst = card.memory.borrow().in_the_midst;
    assert!(midst > 0, "none gave way there");
}

#[test]
fn what_was_put_in_and_never_read_is_nobodys_beginning() {
    let (mut requests, answers) = answered(2);
    // What is put in reaches the limit of the first text.
    requests[0].max_new_tokens = 41;
    let texts = in_turns(&requests, &answers, |part| part.iter().map(alone).collect());
    assert_eq!(texts[0].finish, Finish::Length);
    let mut card = Paper::new(40);
    // A long text first, so that there are pages for all that follow, and none is made anew.
    let long = Request {
        max_new_tokens: 600,
        halt: None,
        ..requests[1].clone()
    };
    hold(&mut card, 1, &[long]).expect("as it would be alone");
    hold_answered(&mut card, 2, &requests, &answers, &[0]).expect("all as they would be alone");
    // Both texts again, each as the beginning of a prompt.
    let later: Vec<Request> = (requests.iter().zip(&texts))
        .map(|(request, text)| Request {
            prompt: [&request.prompt[..], &text.tokens, &[1, 2]].concat(),
            halt: None,
            ..request.clone()
        })
        .collect();
    hold(&mut card, 2, &later).expect("all as they would be alone");
}

#[test]
fn one_that_finds_no_page_beside_parked_texts_waits_for_them() {
    let (mut requests, mut answers) = answered(4);
    // The first never halts, and needs a page in the end that parked texts hold.
    requests[0].halt = None;
    answers[0].clear();
    let mut card = Paper::new(6);
    let gave_way = hold_answered(&mut card, 4, &requests, &answers, &[200])
        .expect("all as they would be alone");
    assert!(gave_way > 0, "pages sufficed");
}
