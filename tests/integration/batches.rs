//! On a CPU what is computed for a request, a prompt or a decision does not depend on what else is computed beside it:
//! not in one bit, for batches drawn at random.

use std::fs;
use std::path::Path;

use atp_pipeline::agent::elicitation::{Answer, Ask, ask};
use atp_pipeline::agent::model::Precision;
use atp_pipeline::agent::{Elicitation, GenerationConfig, LoadedModel};
use atp_pipeline::generation::{Completion, Engine, Request, Sampling};
use atp_pipeline::model::weights::Weights;
use atp_pipeline::model::{Adapter, Decoder, LoraConfig};
use atp_pipeline::runtime::seed::stream;
use atp_pipeline::text::{Message, Speaker};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tch::{Device, Kind};

use crate::faults::disk;
use crate::support::{call, fixture, ids, smollm2, tensors};

/// An adapter that changes something: a fresh one has B = 0.
fn adapter(model: &Decoder, seed: u64) -> Adapter {
    let adapter = Adapter::new(&LoraConfig::default(), model.config(), seed, Device::Cpu);
    let mut random = stream(seed, "batches/adapter");
    for (name, mut tensor) in adapter
        .named()
        .into_iter()
        .map(|(n, t)| (n, t.shallow_clone()))
    {
        if name.contains("lora_B") {
            let numbers: Vec<f32> = (0..tensor.numel())
                .map(|_| random.random_range(-0.05..0.05))
                .collect();
            let values = tch::Tensor::from_slice(&numbers).reshape(tensor.size());
            tch::no_grad(|| tensor.copy_(&values));
        }
    }
    adapter
}

/// A batch: prompts of all lengths, some more than once, sampled in all ways.
fn requests(random: &mut ChaCha8Rng, words: &[u32], longest: usize, new: usize) -> Vec<Request> {
    let count = random.random_range(2..14);
    let mut requests: Vec<Request> = Vec::new();
    for _ in 0..count {
        let again = requests.choose(random).map(|r| r.prompt.clone());
        let prompt = match again.filter(|_| random.random_bool(0.3)) {
            Some(prompt) => prompt,
            None => (0..random.random_range(1..longest))
                .map(|_| *words.choose(random).expect("words"))
                .collect(),
        };
        requests.push(Request {
            halt: None,
            prompt,
            max_new_tokens: random.random_range(1..new),
            sampling: Sampling {
                temperature: *[0.0, 0.7, 1.0, 1.3].choose(random).expect("some"),
                top_k: *[0, 0, 5].choose(random).expect("some"),
                top_p: *[1.0, 1.0, 0.9].choose(random).expect("some"),
                min_p: *[0.0, 0.0, 0.05].choose(random).expect("some"),
            },
            stop: vec![*words.choose(random).expect("words")],
            seed: random.random_range(0..1_000_000),
        });
    }
    requests
}

fn generate(
    model: &Decoder,
    adapter: Option<&Adapter>,
    requests: &[Request],
    slots: usize,
) -> Vec<Completion> {
    let engine = Engine::new(model, adapter).with_slots(slots);
    let completions = engine.generate(requests, |_| ()).expect("not interrupted");
    let whole = completions.into_iter();
    whole.map(|c| c.expect("a completion")).collect()
}

/// Tokens and the bits of their log-probabilities.
fn bits(completion: &Completion) -> (Vec<u32>, Vec<u32>) {
    let logprobs = completion.logprobs.iter().map(|l| l.to_bits());
    (completion.tokens.clone(), logprobs.collect())
}

/// Each request alone, all together, and a part of them in another order.
fn compare(
    model: &Decoder,
    adapter: Option<&Adapter>,
    requests: &[Request],
    random: &mut ChaCha8Rng,
    name: &str,
) {
    let alone: Vec<_> = requests
        .iter()
        .map(|r| bits(&generate(model, adapter, std::slice::from_ref(r), 1)[0]))
        .collect();
    let slots = random.random_range(2..requests.len() + 2);
    let together = generate(model, adapter, requests, slots);
    for (i, completion) in together.iter().enumerate() {
        assert_eq!(
            bits(completion),
            alone[i],
            "{name}: request {i} of {} in {slots} slots",
            requests.len()
        );
    }
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.shuffle(random);
    order.truncate(random.random_range(1..=requests.len()));
    let part: Vec<Request> = order.iter().map(|&i| requests[i].clone()).collect();
    let slots = random.random_range(1..4);
    for (&i, completion) in order.iter().zip(&generate(model, adapter, &part, slots)) {
        assert_eq!(
            bits(completion),
            alone[i],
            "{name}: request {i} among {order:?} in {slots} slots"
        );
    }
}

#[test]
fn texts_of_tiny_models_do_not_depend_on_their_batch() {
    let mut seen = 0;
    for entry in fs::read_dir(fixture("oracle/tiny_models")).expect("fixtures") {
        let folder = entry.expect("an entry").path();
        if !folder.is_dir() {
            continue;
        }
        let name = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let weights = Weights::open(&folder).expect("a model folder");
        let model = Decoder::load(&weights, Kind::Float, Device::Cpu).expect("a loadable model");
        let words: Vec<u32> = (0..model.config().vocab_size as u32).collect();
        for turn in 0..6 {
            let mut random = stream(turn, &format!("batches/{name}"));
            let requests = requests(&mut random, &words, 40, 20);
            let adapter = (turn % 2 == 1).then(|| adapter(&model, turn));
            compare(
                &model,
                adapter.as_ref(),
                &requests,
                &mut random,
                &format!("{name}, turn {turn}"),
            );
        }
        seen += 1;
    }
    assert!(seen >= 8, "{seen} models");
}

#[test]
fn texts_of_a_real_model_do_not_depend_on_their_batch() {
    let words = ids(&tensors("oracle/smollm2_logits/medium.safetensors")["ids"]);
    for turn in 0..2 {
        let mut random = stream(turn, "batches/smollm2");
        let requests = requests(&mut random, &words, 50, 5);
        let adapter = (turn == 1).then(|| adapter(smollm2(), turn));
        compare(
            smollm2(),
            adapter.as_ref(),
            &requests,
            &mut random,
            &format!("turn {turn}"),
        );
    }
}

/// The lines that `score` writes for these.
fn score(folder: &Path, model: &str, lines: &[Value]) -> Vec<String> {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(folder.join("in.jsonl"), text).expect("a file");
    let ended = call(
        folder,
        &[
            "score",
            "--model",
            model,
            "--in",
            "in.jsonl",
            "--out",
            "out.jsonl",
        ],
    );
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let text = fs::read_to_string(folder.join("out.jsonl")).expect("scores");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn scores_do_not_depend_on_their_neighbours() {
    let folder = disk::workplace();
    let words = ids(&tensors("oracle/smollm2_logits/medium.safetensors")["ids"]);
    for (model, vocabulary, longest) in [
        ("model", (0..480).collect::<Vec<u32>>(), 300),
        ("smollm2-135m-instruct", words, 60),
    ] {
        let mut random = stream(1, &format!("batches/score/{model}"));
        let mut lines: Vec<Value> = (0..5)
            .map(|_| {
                let length = random.random_range(2..longest);
                let ids: Vec<u32> = (0..length)
                    .map(|_| *vocabulary.choose(&mut random).expect("words"))
                    .collect();
                json!({ "input_ids": ids })
            })
            .collect();
        lines.push(json!({"prompt": "The rule says to weigh", "completion": " every piece."}));
        lines.push(json!({"prompt": "The rule says to weigh", "completion": " nothing."}));
        let all = score(folder.path(), model, &lines);
        assert_eq!(all.len(), lines.len());
        for turn in 0..4 {
            let mut order: Vec<usize> = (0..lines.len()).collect();
            order.shuffle(&mut random);
            // Two of them, the short ones alone, then all with some more than once.
            match turn {
                0 => order.truncate(2),
                1 => order = vec![lines.len() - 2],
                2 => order = vec![lines.len() - 1],
                _ => order.extend([0, 0, lines.len() - 1]),
            }
            let some: Vec<Value> = order.iter().map(|&i| lines[i].clone()).collect();
            for (&i, line) in order.iter().zip(score(folder.path(), model, &some)) {
                assert_eq!(line, all[i], "{model}: line {i} among {order:?}");
            }
        }
    }
}

/// An answer, every number by its bits.
fn answer_bits(answer: &Answer) -> (Vec<u32>, Vec<u32>, String, Vec<u64>) {
    let choice = answer.choice.iter().flat_map(|c| &c.probabilities);
    (
        answer.sampled.clone(),
        answer.logprobs.iter().map(|l| l.to_bits()).collect(),
        answer.text.clone(),
        choice.map(|p| p.to_bits()).collect(),
    )
}

#[test]
fn decisions_do_not_depend_on_what_else_is_asked() {
    let folder = disk::workplace();
    let model = LoadedModel::load(&folder.path().join("model"), Precision::Fp32, Device::Cpu)
        .expect("a loadable model");
    let adapter = adapter(&model.decoder, 3);
    for elicitation in [
        Elicitation::Free,
        Elicitation::Constrained,
        Elicitation::Score,
    ] {
        // Options of one token and a few: fewer rows than the head's own product takes.
        let short = ["yes", "no"].map(str::to_owned).to_vec();
        let config = GenerationConfig {
            elicitation,
            max_new_tokens: 12,
            ..GenerationConfig::default()
        };
        let mut random = stream(1, &format!("batches/{elicitation:?}"));
        let asks: Vec<Ask> = (0..9)
            .map(|i| {
                // Some prompts are those of the ask before: a group.
                let text = format!("Order {} arrives. ", i / 2).repeat(random.random_range(1..6));
                Ask {
                    messages: vec![Message::new(
                        Speaker::User,
                        if i % 2 == 0 {
                            text.as_str()
                        } else {
                            "Weigh it?"
                        },
                    )],
                    options: match i % 3 {
                        0 => short.clone(),
                        _ => ["weigh", "guess"]
                            .map(|o| format!("{{\"choice\": \"{o}\"}}"))
                            .to_vec(),
                    },
                    seed: i,
                }
            })
            .collect();
        let answers = |asks: &[Ask]| -> Vec<_> {
            let answers =
                ask(&model, Some(&adapter), &config, asks, |_| ()).expect("not interrupted");
            answers
                .into_iter()
                .map(|a| answer_bits(&a.expect("an answer")))
                .collect()
        };
        let together = answers(&asks);
        for (i, one) in asks.iter().enumerate() {
            assert_eq!(
                answers(std::slice::from_ref(one))[0],
                together[i],
                "{elicitation:?}, decision {i}"
            );
        }
        let reversed: Vec<Ask> = asks.iter().rev().cloned().collect();
        let mut back = answers(&reversed);
        back.reverse();
        assert_eq!(back, together, "{elicitation:?}");
    }
}

/// A template that begins the thought in the prompt: options are scored behind its end, and a text that is cut inside it is no
/// answer.
#[test]
fn a_thought_that_the_prompt_begins_is_closed_before_options() {
    let folder = disk::workplace();
    let template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}<|assistant|>\n<think>\n";
    fs::write(folder.path().join("model/chat_template.jinja"), template).expect("a template");
    let model = LoadedModel::load(&folder.path().join("model"), Precision::Fp32, Device::Cpu)
        .expect("a loadable model");
    let asks = [Ask {
        messages: vec![Message::new(Speaker::User, "Weigh it?")],
        options: vec![
            "{\"choice\": \"weigh\"}".into(),
            "{\"choice\": \"guess\"}".into(),
        ],
        seed: 1,
    }];
    for (elicitation, ends) in [
        (Elicitation::Free, false),
        (Elicitation::Constrained, true),
        (Elicitation::Score, true),
    ] {
        let config = GenerationConfig {
            elicitation,
            max_new_tokens: 4,
            ..GenerationConfig::default()
        };
        let mut answers = ask(&model, None, &config, &asks, |_| ()).expect("not interrupted");
        let answer = answers.remove(0).expect("an answer");
        let said = answer.said();
        assert!(answer.thinking && said.starts_with("<think>"), "{said}");
        assert_eq!(said.contains("</think>"), ends, "{elicitation:?}: {said}");
        assert_eq!(answer.choice.is_some(), ends);
        if ends {
            assert!(
                said.trim_end().ends_with("\"}") && !answer.bridge.is_empty(),
                "{said}"
            );
        }
    }
}
