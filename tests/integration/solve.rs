//! The loop in which a model calls a tool: on the real small model, which copies the form of earlier turns.

use atp_pipeline::agent::model::{LoadedModel, Precision};
use atp_pipeline::agent::solve::{SolveAsk, ToolConfig, solve};
use atp_pipeline::agent::{Elicitation, GenerationConfig};
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
