//! The decoder against transformers, and its own ways of computing the same against each other.

use std::path::Path;

use atp_pipeline::agent::LoadedModel;
use atp_pipeline::agent::model::Precision;
use atp_pipeline::generation::{Engine, Finish, Request, Sampling};
use atp_pipeline::model::weights::Weights;
use atp_pipeline::model::{Decoder, KvCache, Packed};
use tch::{Device, Kind, Tensor};

use crate::support::{
    fixture, ids, json, relative_error, repository, smollm2, smollm2_path, tensors,
};

/// Logits of every position, one sequence.
fn logits(model: &Decoder, tokens: &[u32]) -> Tensor {
    let mut batch = Packed::new();
    batch.root(tokens);
    tch::no_grad(|| {
        model
            .hidden(&batch, None)
            .linear(model.head(), None::<&Tensor>)
    })
}

fn load(folder: &Path) -> Decoder {
    load_in(folder, Kind::Float)
}

fn load_in(folder: &Path, kind: Kind) -> Decoder {
    let weights = Weights::open(folder).expect("a model folder");
    Decoder::load(&weights, kind, Device::Cpu).expect("a loadable model")
}

/// Both sides compute in f32 with other orders of summation; transformers itself is up to 2.2e-6 from f64 here.
const FP32: f64 = 1e-5;
/// Our distance from fp32 over transformers'.
const BF16: f64 = 1.5;

#[test]
fn tiny_models_agree_with_transformers() {
    let described =
        std::fs::read_to_string(fixture("oracle/tiny_models/tiny_models.json")).expect("a fixture");
    let described: serde_json::Value = serde_json::from_str(&described).expect("JSON");
    let mut seen = 0;
    for (name, model) in described["models"].as_object().expect("models") {
        let expected = tensors(&format!("oracle/tiny_models/{name}.expected.safetensors"));
        for folder in model["directories"].as_array().expect("directories") {
            let folder = folder.as_str().expect("a name");
            let model = load(&fixture("oracle/tiny_models").join(folder));
            for sequence in 0..2 {
                let tokens = ids(&expected[&format!("ids_{sequence}")]);
                let error = relative_error(
                    &logits(&model, &tokens),
                    &expected[&format!("logits_{sequence}")],
                );
                assert!(error < FP32, "{folder}, sequence {sequence}: {error:e}");
                // Cached decoding, token by token, gives the same.
                let mut cache =
                    KvCache::new(model.config(), 2, tokens.len(), Kind::Float, Device::Cpu);
                let mut rows = vec![];
                tch::no_grad(|| {
                    rows.push(model.next_token_logits(&model.prefill(
                        &tokens[..3],
                        &mut cache,
                        1,
                        None,
                    )));
                    for token in &tokens[3..] {
                        rows.push(model.next_token_logits(&model.step(
                            &[*token],
                            &[1],
                            &mut cache,
                            None,
                        )));
                    }
                });
                let expected =
                    expected[&format!("logits_{sequence}")].narrow(0, 2, tokens.len() as i64 - 2);
                let error = relative_error(&Tensor::cat(&rows, 0), &expected);
                assert!(
                    error < FP32,
                    "{folder}, sequence {sequence}, cached: {error:e}"
                );
            }
            seen += 1;
        }
    }
    assert!(seen >= 8, "{seen} models");
}

#[test]
fn smollm2_agrees_with_transformers() {
    for name in ["short", "medium", "long"] {
        let expected = tensors(&format!("oracle/smollm2_logits/{name}.safetensors"));
        let tokens = ids(&expected["ids"]);
        let logits = logits(smollm2(), &tokens);
        let last = logits.get(tokens.len() as i64 - 1);
        let columns = logits.index_select(1, &expected["columns"]);
        let sums = logits.logsumexp(-1, false);
        for (what, got) in [
            ("last_logits", last),
            ("column_logits", columns),
            ("logsumexp", sums),
        ] {
            let error = relative_error(&got, &expected[what]);
            assert!(error < 1e-4, "{name}, {what}: {error:e}");
        }
        assert!(
            logits.argmax(-1, false).equal(&expected["argmax"]),
            "{name}: likeliest tokens"
        );
    }
}

/// Root mean square of the difference over that of what is expected.
fn apart(got: &Tensor, expected: &Tensor) -> f64 {
    let expected = expected.to_kind(Kind::Double);
    let difference = got.to_kind(Kind::Double) - &expected;
    (difference.square().mean(Kind::Double) / expected.square().mean(Kind::Double))
        .sqrt()
        .double_value(&[])
}

/// bf16 keeps eight bits, and two correct forwards round at different places: they differ from each other by about as
/// much as each from fp32. So: as near to fp32 as transformers' bf16 is, give or take the chance of roundings, and no
/// further from it than two independent errors add up to. Errors are root mean squares, which one logit cannot move.
#[test]
fn bf16_agrees_with_transformers() {
    let described = json("oracle/bf16_logits/bf16_logits.json");
    let models = described["models"].as_object().expect("models");
    assert_eq!(models.len(), 4);
    for name in models.keys() {
        let theirs = tensors(&format!("oracle/bf16_logits/{name}.safetensors"));
        let exact = tensors(&format!("oracle/tiny_models/{name}.expected.safetensors"));
        let decoder = load_in(&fixture("oracle/tiny_models").join(name), Kind::BFloat16);
        for sequence in 0..2 {
            let key = format!("logits_{sequence}");
            let tokens = ids(&exact[&format!("ids_{sequence}")]);
            let (theirs, exact) = (&theirs[&key], &exact[&key]);
            let bound = apart(theirs, exact);
            let got = logits(&decoder, &tokens);
            assert_eq!(got.kind(), Kind::BFloat16);
            // Cached decoding in bf16, where the row-exact kernels do not apply.
            let mut cache = KvCache::new(
                decoder.config(),
                1,
                tokens.len(),
                Kind::BFloat16,
                Device::Cpu,
            );
            let mut rows = vec![];
            tch::no_grad(|| {
                let first = decoder.prefill(&tokens[..3], &mut cache, 0, None);
                rows.push(decoder.next_token_logits(&first));
                for token in &tokens[3..] {
                    let next = decoder.step(&[*token], &[0], &mut cache, None);
                    rows.push(decoder.next_token_logits(&next));
                }
            });
            let cached = Tensor::cat(&rows, 0);
            let later = |t: &Tensor| t.narrow(0, 2, tokens.len() as i64 - 2);
            for (what, error, limit) in [
                ("from fp32", apart(&got, exact), BF16 * bound),
                ("from transformers", apart(&got, theirs), 2.0 * bound),
                (
                    "cached, from fp32",
                    apart(&cached, &later(exact)),
                    BF16 * bound,
                ),
            ] {
                println!("{name} {sequence} {what}: {error:e}, transformers {bound:e}");
                assert!(
                    error < limit,
                    "{name}, {key}, {what}: {error:e}, limit {limit:e}"
                );
            }
        }
    }
}

/// The same at 1500 positions: only the angles of the rotation are to be in f32, and rounded to bf16 they would be radians
/// off.
#[test]
fn bf16_agrees_with_transformers_at_far_positions() {
    for name in ["llama_gqa4_llama3", "qwen3_gqa2_tied_headdim"] {
        let expected = tensors(&format!("oracle/bf16_logits/{name}.safetensors"));
        let tokens = ids(&expected["long_ids"]);
        let folder = with_context(name, tokens.len());
        let got = logits(&load_in(folder.path(), Kind::BFloat16), &tokens);
        let got = got.index_select(0, &expected["long_rows"]);
        let (theirs, exact) = (&expected["long_logits"], &expected["long_fp32"]);
        let bound = apart(theirs, exact);
        for (error, limit) in [
            (apart(&got, exact), BF16 * bound),
            (apart(&got, theirs), 2.0 * bound),
        ] {
            println!("{name}: {error:e}, transformers {bound:e}");
            assert!(error < limit, "{name}: {error:e}, limit {limit:e}");
        }
    }
}

/// A tiny model's folder with a longer context.
fn with_context(name: &str, length: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let source = fixture("oracle/tiny_models").join(name);
    let weights = "model.safetensors";
    std::fs::copy(source.join(weights), folder.path().join(weights)).expect("a copy");
    let mut config = json(&format!("oracle/tiny_models/{name}/config.json"));
    config["max_position_embeddings"] = length.into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("a config");
    folder
}

/// Far into a context the angles of the rotation are large, and a frequency that is off by its last bit shows.
#[test]
fn far_positions_agree_with_transformers() {
    let described = json("oracle/long_positions/long_positions.json");
    for name in described["tiny"].as_object().expect("models").keys() {
        let expected = tensors(&format!("oracle/long_positions/{name}.safetensors"));
        let tokens = ids(&expected["ids"]);
        assert!(tokens.len() >= 4000);
        let folder = with_context(name, tokens.len());
        let got = logits(&load(folder.path()), &tokens).index_select(0, &expected["rows"]);
        let error = relative_error(&got, &expected["logits"]);
        println!("{name}: {error:e}");
        assert!(error < FP32, "{name}: {error:e}");
    }
}

/// A text of 3000 tokens; one row in a hundred meets the head.
#[test]
fn smollm2_agrees_with_transformers_on_a_long_text() {
    let expected = tensors("oracle/long_positions/smollm2.safetensors");
    let tokens = ids(&expected["ids"]);
    assert!(tokens.len() >= 3000);
    let model = smollm2();
    let mut batch = Packed::new();
    batch.root(&tokens);
    let logits = tch::no_grad(|| {
        let rows = model
            .hidden(&batch, None)
            .index_select(0, &expected["rows"]);
        rows.linear(model.head(), None::<&Tensor>)
    });
    let last = logits.get(logits.size()[0] - 1);
    for (what, got) in [
        (
            "column_logits",
            logits.index_select(1, &expected["columns"]),
        ),
        (
            "last_logits",
            last.index_select(0, &expected["last_columns"]),
        ),
        ("logsumexp", logits.logsumexp(-1, false)),
    ] {
        let error = relative_error(&got, &expected[what]);
        println!("{what}: {error:e}");
        assert!(error < 1e-4, "{what}: {error:e}");
    }
    assert!(logits.argmax(-1, false).equal(&expected["argmax"]));
}

/// Without putting q and k back in order the model is plausible and wrong: it must be seen to differ.
#[test]
fn interleaved_q_and_k_would_be_noticed() {
    use atp_pipeline::formats::gguf::GgufFile;
    let file = GgufFile::open(smollm2_path()).expect("a GGUF file");
    let weights = Weights::open(&smollm2_path()).expect("a model file");
    for (stored, name) in [
        (
            "blk.3.attn_q.weight",
            "model.layers.3.self_attn.q_proj.weight",
        ),
        (
            "blk.3.attn_v.weight",
            "model.layers.3.self_attn.v_proj.weight",
        ),
    ] {
        let raw = file
            .values(file.tensor(stored).expect("a tensor"))
            .expect("values");
        let raw = Tensor::from_slice(&raw);
        let loaded = weights
            .tensor(name, Kind::Float, Device::Cpu)
            .expect("a tensor")
            .flatten(0, -1);
        assert_eq!(raw.equal(&loaded), stored.contains("attn_v"), "{name}");
    }
}

#[test]
fn a_shared_prefix_gives_what_separate_sequences_do() {
    let model = load(&fixture("oracle/tiny_models/qwen3_gqa2_tied_headdim"));
    let (prompt, first, second) = ([5u32, 9, 77, 3, 20, 1], [8u32, 8, 64], [100u32, 2]);
    let mut batch = Packed::new();
    let other = batch.root(&[4, 4, 2]);
    let root = batch.root(&prompt);
    let children = [batch.child(root, &first), batch.child(root, &second)];
    let shared = tch::no_grad(|| model.hidden(&batch, None));
    let rows =
        |range: std::ops::Range<usize>| shared.narrow(0, range.start as i64, range.len() as i64);
    for (child, completion) in children.into_iter().zip([&first[..], &second[..]]) {
        let mut alone = Packed::new();
        alone.root(&[&prompt[..], completion].concat());
        let expected =
            tch::no_grad(|| model.hidden(&alone, None)).narrow(0, 6, completion.len() as i64);
        let error = relative_error(&rows(batch.rows(child)), &expected);
        assert!(error < FP32, "{error:e}");
    }
    let mut alone = Packed::new();
    alone.root(&[4, 4, 2]);
    let error = relative_error(
        &rows(batch.rows(other)),
        &tch::no_grad(|| model.hidden(&alone, None)),
    );
    assert!(error < FP32, "{error:e}");
}

#[test]
fn greedy_text_agrees_with_transformers() {
    let described = std::fs::read_to_string(fixture("oracle/smollm2_logits/smollm2_logits.json"))
        .expect("a fixture");
    let described: serde_json::Value = serde_json::from_str(&described).expect("JSON");
    let mut seen = 0;
    for (name, prompt) in described["prompts"].as_object().expect("prompts") {
        let numbers = |key: &str| -> Option<Vec<u32>> {
            Some(
                prompt
                    .get(key)?
                    .as_array()?
                    .iter()
                    .filter_map(|n| n.as_u64())
                    .map(|n| n as u32)
                    .collect(),
            )
        };
        let (Some(ids), Some(expected)) = (numbers("ids"), numbers("greedy")) else {
            continue;
        };
        let request = Request {
            prompt: ids,
            max_new_tokens: expected.len(),
            sampling: Sampling {
                temperature: 0.0,
                ..Sampling::default()
            },
            stop: vec![],
            halt: None,
            seed: 0,
        };
        let completions = Engine::new(smollm2(), None)
            .generate(&[request], |_| ())
            .expect("not interrupted");
        assert_eq!(
            completions[0].as_ref().expect("a completion").tokens,
            expected,
            "{name}"
        );
        seen += 1;
    }
    assert!(seen >= 2);
}

#[test]
fn a_text_does_not_depend_on_what_else_is_in_the_batch() {
    let base = ids(&tensors("oracle/smollm2_logits/short.safetensors")["ids"]);
    let requests: Vec<Request> = (0..7usize)
        .map(|i| Request {
            prompt: base[i % 3 * 4..].to_vec(),
            max_new_tokens: 12 + i,
            sampling: Sampling {
                temperature: 0.9,
                ..Sampling::default()
            },
            stop: vec![2],
            halt: None,
            seed: i as u64,
        })
        .collect();
    let run = |requests: &[Request], slots| {
        let completions = Engine::new(smollm2(), None)
            .with_slots(slots)
            .generate(requests, |_| ());
        completions
            .expect("not interrupted")
            .into_iter()
            .map(|c| c.expect("a completion"))
            .collect::<Vec<_>>()
    };
    let together = run(&requests, 7);
    let few_slots = run(&requests, 3);
    assert_eq!(together, few_slots);
    for (i, request) in requests.iter().enumerate() {
        assert_eq!(
            run(std::slice::from_ref(request), 1)[0],
            together[i],
            "request {i}"
        );
    }
    assert!(together.iter().any(|c| c.finish == Finish::Length));
}

#[test]
fn a_wrong_tensor_is_named() {
    use atp_pipeline::model::tensors::{encode_safetensors, read_safetensors};
    let source = fixture("oracle/tiny_models/llama_gqa1_tied");
    let tensors = read_safetensors(&source.join("model.safetensors")).expect("weights");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(
        source.join("config.json"),
        folder.path().join("config.json"),
    )
    .expect("a copy");
    let norm = "model.layers.1.input_layernorm.weight";
    type Change = fn(&mut Vec<(String, Tensor)>, &str);
    let changes: [(Change, &str, &str); 3] = [
        (
            |all, name| all.retain(|(n, _)| n != name),
            norm,
            "no such tensor",
        ),
        (
            |all, name| all.push((name.into(), Tensor::from_slice(&[1f32]))),
            "model.extra.weight",
            "expected no such",
        ),
        (
            |all, name| {
                all.iter_mut()
                    .filter(|(n, _)| n == name)
                    .for_each(|(_, t)| *t = Tensor::from_slice(&[1f32]))
            },
            norm,
            "got [1]",
        ),
    ];
    for (change, name, problem) in changes {
        let mut all: Vec<_> = tensors
            .iter()
            .map(|(n, t)| (n.clone(), t.shallow_clone()))
            .collect();
        change(&mut all, name);
        std::fs::write(
            folder.path().join("model.safetensors"),
            encode_safetensors(&all).expect("bytes"),
        )
        .expect("written");
        let weights = Weights::open(folder.path()).expect("a folder that opens");
        let message = Decoder::load(&weights, Kind::Float, Device::Cpu)
            .expect_err("must be refused")
            .to_string();
        assert!(
            message.contains(&format!("`{name}`")) && message.contains(problem),
            "{message}"
        );
    }
    let _ = repository(".");
}

/// Scores in eight bits are those of the weights rounded to them, by torch's own operations; and a GPU does not take them.
#[test]
fn eight_bits_are_what_they_are_said_to_be() {
    let path = smollm2_path();
    let plain = load(&path);
    let rounded = |w: &Tensor| {
        let step = w.abs().amax([1i64].as_slice(), true) / 127.0;
        (w / &step).round().clamp(-127.0, 127.0) * step
    };
    let model = LoadedModel::load(&path, Precision::Int8, Device::Cpu).expect("a model");
    let head = model.decoder.head();
    assert!(relative_error(head, &rounded(plain.head())) < 1e-6);
    let tokens = [504u32, 3575, 282, 4649, 314, 7042];
    let (full, bits) = (logits(&plain, &tokens), logits(&model.decoder, &tokens));
    let apart = relative_error(&bits, &full);
    assert!((1e-4..0.1).contains(&apart), "{apart}");
    let refused = LoadedModel::load(&path, Precision::Int8, Device::Cuda(0)).err();
    let text = refused.expect("a refusal").to_string();
    assert!(text.contains("int8 is for a CPU"), "{text}");
}
