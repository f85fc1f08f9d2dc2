//! Choices of a real model: frequencies against the exact probabilities of the options' texts.

use atp_pipeline::agent::model::Precision;
use atp_pipeline::agent::{Ask, Elicitation, GenerationConfig, LoadedModel, ask};
use atp_pipeline::model::Packed;
use atp_pipeline::text::{Message, Speaker};
use tch::{Device, Kind, Tensor};

use crate::support::smollm2_path;

/// Log-probability of `tokens` after `prefix`, from one sequence and plain operations.
fn logprob(model: &LoadedModel, prefix: &[u32], tokens: &[u32]) -> f64 {
    let mut batch = Packed::new();
    batch.root(&[prefix, tokens].concat());
    let logits = tch::no_grad(|| {
        let hidden = model.decoder.hidden(&batch, None);
        hidden.matmul(&model.decoder.head().transpose(0, 1))
    });
    let rows = logits
        .narrow(0, prefix.len() as i64 - 1, tokens.len() as i64)
        .log_softmax(-1, Kind::Float);
    let wanted: Vec<i64> = tokens.iter().map(|&t| i64::from(t)).collect();
    rows.gather(1, &Tensor::from_slice(&wanted).unsqueeze(1), false)
        .sum(Kind::Double)
        .double_value(&[])
}

/// An option's probability is that of its whole text, renormalised over the options: the draws follow it, and so does
/// what is reported. Options of different lengths in tokens, one of them unlikely.
#[test]
fn constrained_choices_follow_renormalised_probabilities() {
    let model = LoadedModel::load(&smollm2_path(), Precision::Fp32, Device::Cpu).expect("a model");
    let options = ["Paris", "The city of Lyon", "London"].map(String::from);
    let temperature = 2.0;
    let config = GenerationConfig {
        elicitation: Elicitation::Score,
        temperature,
        ..GenerationConfig::default()
    };
    let draws = 3000u64;
    let asks: Vec<Ask> = (0..draws)
        .map(|seed| Ask {
            messages: vec![Message::new(Speaker::User, "Name a city.")],
            options: options.to_vec(),
            seed,
        })
        .collect();
    let answers = ask(&model, None, &config, &asks, |_| ()).expect("not interrupted");
    let mut counts = [0u32; 3];
    let mut reported = vec![];
    for answer in answers {
        let choice = answer.expect("an answer").choice.expect("a choice");
        counts[choice.chosen] += 1;
        reported = choice.probabilities;
    }
    let render = config.render_options();
    let prompt = model.codec.encode_chat(&asks[0].messages, &render);
    let prompt = prompt.expect("a prompt");
    let logprobs: Vec<f64> = options
        .iter()
        .map(|text| {
            let tokens = model.codec.tokenizer().encode(text).expect("ids");
            logprob(&model, &prompt, &tokens)
        })
        .collect();
    let normalised = |temperature: f64| {
        let powers: Vec<f64> = logprobs.iter().map(|l| (l / temperature).exp()).collect();
        let total: f64 = powers.iter().sum();
        powers.into_iter().map(move |p| p / total)
    };
    for (got, expected) in reported.iter().zip(normalised(1.0)) {
        // f32 sums of some ten log-probabilities, two ways.
        assert!((got - expected).abs() < 1e-4, "{got}, expected {expected}");
    }
    let mut chi = 0.0;
    for (count, p) in counts.iter().zip(normalised(temperature)) {
        let wanted = p * draws as f64;
        assert!(wanted > 5.0, "too unlikely for this test: {logprobs:?}");
        chi += (f64::from(*count) - wanted).powi(2) / wanted;
    }
    // 99.9 % quantile of chi-square with 2 degrees of freedom; the seeds are fixed.
    assert!(chi < 13.8, "{chi}: {counts:?}, {logprobs:?}");
}
