//! The loop in which a model calls a tool: on the real small model, which copies the form of earlier turns.

use atp_pipeline::agent::model::{LoadedModel, Precision};
use atp_pipeline::agent::solve::{SolveAsk, ToolConfig, solve};
use atp_pipeline::agent::{Elicitation, GenerationConfig};
use atp_pipeline::generation::{Engine, Request};
use atp_pipeline::runtime::seed::derive;
use atp_pipeline::scenario::tool_use::prompt::Way;
use atp_pipeline::text::{Message, Speaker, Specials};
use atp_pipeline::tool::{Sandbox, SandboxConfig, Status};
use tch::Device;

use crate::support::{heavy, smollm2_path};

#[test]
fn a_call_is_run_and_its_result_is_put_in() {
    let _turn = heavy();
    let model = LoadedModel::load(&smollm2_path(), Precision::Fp32, Device::Cpu).expect("a model");
    let sandbox = Sandbox::new(&SandboxConfig::default()).expect("a sandbox");
    let mut messages = vec![];
    for (a, b) in [(5, 8), (11, 2), (20, 7), (3, 9)] {
        messages.push(Message::new(Speaker::User, format!("{a} + {b}")));
        let call = format!("<tool>print({a} + {b})</tool>");
        messages.push(Message::new(Speaker::Assistant, call));
    }
    messages.push(Message::new(Speaker::User, "40 + 2"));
    let generation = GenerationConfig {
        elicitation: Elicitation::Free,
        temperature: 0.0,
        max_new_tokens: 64,
        ..GenerationConfig::default()
    };
    let tools = ToolConfig {
        max_calls: 1,
        ..ToolConfig::default()
    };
    let ask = SolveAsk { messages, seed: 1 };
    // Twice in one batch: nothing of one gets into the other.
    let asks = [ask.clone(), ask];
    let mut done = 0;
    let solutions = solve(&model, None, &generation, &tools, &sandbox, &asks, |n| {
        done += n
    })
    .expect("no stop");
    assert_eq!(done, 2);
    let [Ok(first), Ok(second)] = &solutions[..] else {
        panic!("{solutions:?}")
    };
    assert_eq!(first, second);
    assert_eq!(first.way(), Way::Tool);
    assert_eq!(first.calls.len(), 1, "{}", first.text);
    assert_eq!(first.calls[0].code, "print(40 + 2)\n");
    assert_eq!(first.calls[0].status, Status::Finished);
    let block = "\n<result>\n42\n</result>\n";
    assert!(
        first
            .text
            .starts_with(&format!("<tool>print(40 + 2)</tool>{block}")),
        "{}",
        first.text
    );
    // What was put in is marked, to the token; the rest has the sampler's log-probabilities.
    let [inserted] = &first.inserted[..] else {
        panic!("{:?}", first.inserted)
    };
    let ids = &first.tokens[inserted.clone()];
    let text = model.codec.tokenizer().decode(ids, Specials::Keep);
    assert_eq!(text.expect("text"), block);
    assert_eq!(first.tokens.len(), first.logprobs.len());
    for (place, logprob) in first.logprobs.iter().enumerate() {
        assert_eq!(
            *logprob == 0.0,
            inserted.contains(&place),
            "{place}: {logprob}"
        );
    }
    assert!(first.tokens.len() > inserted.end, "it writes on");
}

/// Each turn of a text is, in every bit, what a request of its own gives: of the whole text before it, with the turn's seed.
/// Programs take different times, so texts go on in another order than they halted in.
#[test]
fn turns_are_those_of_separate_requests() {
    let _turn = heavy();
    let model = LoadedModel::load(&smollm2_path(), Precision::Fp32, Device::Cpu).expect("a model");
    let sandbox = Sandbox::new(&SandboxConfig::default()).expect("a sandbox");
    let asks: Vec<SolveAsk> = [0.6, 0.0, 0.3]
        .into_iter()
        .enumerate()
        .map(|(i, seconds)| {
            let mut messages = vec![];
            for (a, b) in [(5, 8), (11, 2), (20, 7), (3, 9)] {
                messages.push(Message::new(Speaker::User, format!("{a} + {b}")));
                let call = format!(
                    "<tool>import time; time.sleep({seconds}); print({a} + {b})</tool>\nSo {}.",
                    a + b
                );
                messages.push(Message::new(Speaker::Assistant, call));
            }
            messages.push(Message::new(Speaker::User, format!("4{i} + 2")));
            let seed = 10 + i as u64;
            SolveAsk { messages, seed }
        })
        .collect();
    let generation = GenerationConfig {
        elicitation: Elicitation::Free,
        temperature: 0.4,
        max_new_tokens: 90,
        ..GenerationConfig::default()
    };
    let tools = ToolConfig {
        max_calls: 2,
        ..ToolConfig::default()
    };
    let solutions = solve(&model, None, &generation, &tools, &sandbox, &asks, |_| ());
    let mut turns = 0;
    for (ask, solution) in asks.iter().zip(solutions.expect("no stop")) {
        let solution = solution.expect("a solution");
        println!("{}\n", solution.text);
        let ends = solution.inserted.iter().map(|range| range.end);
        let halts = solution.inserted.iter().map(|range| range.start);
        let starts = std::iter::once(0).chain(ends);
        for (turn, (start, end)) in starts.zip(halts.chain([solution.tokens.len()])).enumerate() {
            let request = Request {
                prompt: [&solution.prompt[..], &solution.tokens[..start]].concat(),
                // It is not halted here, so it writes past the call; it is compared up to there.
                max_new_tokens: (end - start).max(1),
                sampling: generation.sampling(),
                stop: model.codec.stop_ids().to_vec(),
                halt: None,
                seed: derive(ask.seed, &format!("text/turn-{turn}")),
            };
            let engine = Engine::new(&model.decoder, None);
            let mut parts = engine.generate(&[request], |_| ()).expect("no stop");
            let part = parts.remove(0).expect("a text");
            assert_eq!(part.tokens[..end - start], solution.tokens[start..end]);
            assert_eq!(part.logprobs[..end - start], solution.logprobs[start..end]);
        }
        turns += solution.inserted.len();
    }
    assert!(turns > 0, "no call was made");
}
