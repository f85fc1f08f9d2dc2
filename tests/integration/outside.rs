//! Texts that halt and go on while others are decoded: on a CPU they are in every bit what separate turns give.

use std::fs;

use atp_pipeline::generation::{
    Completion, Engine, Finish, Halt, Onward, Outside, Request, Sampling, Stats,
};
use atp_pipeline::model::weights::Weights;
use atp_pipeline::model::{Adapter, Decoder};
use atp_pipeline::runtime::seed::stream;
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind};

use crate::backprop;
use crate::support::fixture;
use atp_pipeline::model::lora::Target;
use script::{Answer, Script, after, in_turns};

#[path = "../../src/generation/script.rs"]
pub mod script;

/// Tokens of a text, beside its prompt.
const NEW: usize = 60;

/// What texts are answered, and when they halt: many right away, some at the end, some never.
pub fn answers(
    random: &mut ChaCha8Rng,
    requests: &mut [Request],
    vocabulary: u32,
) -> Vec<Vec<Answer>> {
    let halts = |random: &mut ChaCha8Rng| {
        let halts = random.random_bool(0.8);
        halts.then(|| random.random_range(1..16usize))
    };
    let mut answers = vec![];
    for request in requests {
        request.halt = halts(random).map(after);
        let mut answer = || {
            let count = *[0, 1, 3, 15, 16, 24, 40].choose(random).expect("some");
            Answer {
                // Some of it would stop the text if it were drawn.
                inserted: (0..count)
                    .map(|at| match request.stop.get(at) {
                        Some(&stop) => stop,
                        None => random.random_range(0..vocabulary),
                    })
                    .collect(),
                halts_after: halts(random),
                seed: random.random_range(0..1_000_000),
            }
        };
        let mut own: Vec<Answer> = (0..3).map(|_| answer()).collect();
        own.truncate(random.random_range(0..4));
        answers.push(own);
    }
    answers
}

fn requests(random: &mut ChaCha8Rng, vocabulary: u32) -> Vec<Request> {
    let count = random.random_range(2..14);
    let mut requests: Vec<Request> = Vec::new();
    for _ in 0..count {
        let again = requests.choose(random).map(|r| r.prompt.clone());
        let prompt = match again.filter(|_| random.random_bool(0.3)) {
            Some(prompt) => prompt,
            None => (0..random.random_range(1..50))
                .map(|_| random.random_range(0..vocabulary))
                .collect(),
        };
        requests.push(Request {
            halt: None,
            prompt,
            max_new_tokens: random.random_range(1..NEW),
            sampling: Sampling {
                temperature: *[0.0, 0.7, 1.0].choose(random).expect("some"),
                ..Sampling::default()
            },
            stop: vec![random.random_range(0..vocabulary)],
            seed: random.random_range(0..1_000_000),
        });
    }
    requests
}

fn whole(
    done: Vec<Result<Completion, atp_pipeline::generation::GenerationError>>,
) -> Vec<Completion> {
    done.into_iter().map(|text| text.expect("a text")).collect()
}

fn engine<'a>(model: &'a Decoder, adapter: Option<&'a Adapter>, slots: usize) -> Engine<'a> {
    Engine::new(model, adapter).with_slots(slots)
}

/// Tokens, the bits of their log-probabilities, and the end.
fn bits(text: &Completion) -> (Vec<u32>, Vec<u32>, Finish) {
    let logprobs = text.logprobs.iter().map(|l| l.to_bits());
    (text.tokens.clone(), logprobs.collect(), text.finish)
}

#[test]
fn texts_that_go_on_have_the_bits_of_separate_turns() {
    let (mut seen, mut finishes) = (0, std::collections::BTreeSet::new());
    for entry in fs::read_dir(fixture("oracle/tiny_models")).expect("fixtures") {
        let folder = entry.expect("an entry").path();
        if !folder.is_dir() {
            continue;
        }
        let weights = Weights::open(&folder).expect("a model folder");
        for (kind, turns) in [(Kind::Float, 0..4), (Kind::BFloat16, 4..6)] {
            let model = Decoder::load(&weights, kind, Device::Cpu).expect("a loadable model");
            let adapter = backprop::adapter(model.config(), 3, &Target::ALL, Device::Cpu);
            let vocabulary = model.config().vocab_size as u32;
            for turn in turns {
                let adapter = (turn % 2 == 1).then_some(&adapter);
                let mut random = stream(turn, &format!("outside/{seen}"));
                let mut asked = requests(&mut random, vocabulary);
                let answers = answers(&mut random, &mut asked, vocabulary);
                let by_hand = in_turns(&asked, &answers, |part| {
                    let engine = engine(&model, adapter, 4);
                    whole(engine.generate(part, |_| ()).expect("no stop"))
                });
                for slots in [1, 3, 32] {
                    let looks: Vec<usize> = (0..7).map(|_| random.random_range(0..9)).collect();
                    // Pages that turns left behind hold the same bits, but need not be there.
                    if turn % 3 == 0 {
                        model.release_cache();
                    }
                    let mut script = Script::new(&answers, &looks);
                    let mut done = 0;
                    let texts = engine(&model, adapter, slots)
                        .generate_with(&asked, &mut script, |more| done += more)
                        .expect("no stop");
                    assert_eq!(done, asked.len());
                    for (index, (text, expected)) in whole(texts.0).iter().zip(&by_hand).enumerate()
                    {
                        let name = folder.display();
                        assert_eq!(
                            bits(text),
                            bits(expected),
                            "{name} {kind:?}, turn {turn}: text {index} in {slots} slots"
                        );
                        finishes.insert(text.finish.name());
                    }
                }
            }
        }
        seen += 1;
    }
    assert!(seen >= 8, "{seen} models");
    assert_eq!(finishes.len(), 3, "{finishes:?}");
}

/// Answers that come by themselves after so many passes, and how many passes were made while one was out.
struct Slow {
    inserted: Vec<u32>,
    passes: usize,
    out: Option<(usize, usize)>,
    waited: bool,
}

impl Outside for Slow {
    fn halted(&mut self, index: usize, _: &Completion) {
        self.out = Some((index, self.passes));
    }

    fn ready(&mut self, wait: bool) -> Vec<(usize, Onward)> {
        self.waited |= wait;
        let onward = Onward::With {
            inserted: self.inserted.clone(),
            halt: None,
            seed: 5,
        };
        match &mut self.out {
            Some((_, passes)) if !wait && *passes > 0 => {
                *passes -= 1;
                vec![]
            }
            out => out
                .take()
                .map(|(index, _)| (index, onward))
                .into_iter()
                .collect(),
        }
    }
}

fn run(
    model: &Decoder,
    requests: &[Request],
    slow: &mut Slow,
) -> (Vec<Result<Completion, String>>, Stats) {
    let (done, stats) = Engine::new(model, None)
        .generate_with(requests, slow, |_| ())
        .expect("no stop");
    let done = done.into_iter().map(|text| text.map_err(|e| e.to_string()));
    (done.collect(), stats)
}

#[test]
fn nobody_waits_for_one_that_is_out() {
    let weights =
        Weights::open(&fixture("oracle/tiny_models/llama_gqa1_tied")).expect("a model folder");
    let model = Decoder::load(&weights, Kind::Float, Device::Cpu).expect("a loadable model");
    let request = |halt: Option<Halt>, seed: u64| Request {
        prompt: vec![1, 2, 3],
        max_new_tokens: 40,
        sampling: Sampling::default(),
        stop: vec![],
        halt,
        seed,
    };
    let requests = [request(Some(after(5)), 1), request(None, 2)];
    let slow = |passes, inserted| Slow {
        inserted,
        passes,
        out: None,
        waited: false,
    };
    // Both write 5 tokens together, the other one 10 alone; then 3 tokens are put in, and both write to their ends.
    let mut outside = slow(10, vec![4, 5, 6]);
    let (texts, stats) = run(&model, &requests, &mut outside);
    assert!(
        !outside.waited,
        "it was waited for while another text was under way"
    );
    let lengths: Vec<usize> = texts.iter().flatten().map(|t| t.tokens.len()).collect();
    assert_eq!(lengths, [40, 40]);
    // The first text ends last: 4 + 10 steps, then one for each of its 32 tokens that are left.
    assert_eq!((stats.steps, stats.new_tokens), (4 + 10 + 32, 77));
    // With nothing else to do it is waited for.
    let mut outside = slow(1000, vec![4, 5, 6]);
    let (texts, _) = run(&model, &requests, &mut outside);
    assert!(outside.waited && texts.iter().all(Result::is_ok));
    // A token that the model does not have is the text's fault alone.
    let vocabulary = model.config().vocab_size as u32;
    let (texts, _) = run(&model, &requests, &mut slow(0, vec![vocabulary]));
    let message = texts[0].as_ref().expect_err("no such token");
    assert!(message.contains(&vocabulary.to_string()), "{message}");
    assert_eq!(texts[1].as_ref().map(|t| t.tokens.len()), Ok(40));
}
