//! Choices between options as actions of GRPO, against a direct computation by autograd over separate sequences.

use atp_pipeline::model::{Adapter, Decoder, Packed};
use atp_pipeline::training::grpo::{GrpoLoss, SamplingCorrection};
use atp_pipeline::training::grpo_trainer::GrpoConfig;
use atp_pipeline::training::rollout::{Choice, Rollout, plan_group};
use tch::{Device, Kind, Tensor};

use crate::grpo::{EOS, GRADIENT, LOGPROB, LOSS, close, floats, policy, sampled, score, update};
use crate::support::relative_error;

/// Log-probabilities of a whole sequence's tokens from the second on at a temperature, by plain operations with their
/// autograd graph: `(len − 1)`.
fn direct(model: &Decoder, adapter: Option<&Adapter>, tokens: &[u32], temperature: f64) -> Tensor {
    let mut batch = Packed::new();
    batch.root(tokens);
    let logits = model
        .hidden(&batch, adapter)
        .matmul(&model.head().transpose(0, 1));
    let logprobs = (logits / temperature).log_softmax(-1, Kind::Float);
    let next: Vec<i64> = tokens[1..].iter().map(|&t| i64::from(t)).collect();
    logprobs
        .narrow(0, 0, next.len() as i64)
        .gather(1, &Tensor::from_slice(&next).unsqueeze(1), false)
        .squeeze_dim(1)
}

/// Log-probabilities of a rollout's actions from sequences computed one at a time.
fn direct_actions(
    model: &Decoder,
    adapter: Option<&Adapter>,
    prompt: &[u32],
    rollout: &Rollout,
) -> Tensor {
    let temperature = rollout.temperature;
    let tail = |lead: &[u32], tokens: &[u32], temperature: f64| {
        let all = direct(model, adapter, &[lead, tokens].concat(), temperature);
        all.narrow(0, lead.len() as i64 - 1, tokens.len() as i64)
    };
    let mut actions = vec![];
    if !rollout.sampled.is_empty() {
        actions.push(tail(prompt, &rollout.sampled, temperature));
    }
    if let Some(choice) = &rollout.choice {
        let reasoning = &rollout.sampled[..rollout.reasoning];
        let lead = [prompt, reasoning, &rollout.bridge].concat();
        let sums: Vec<Tensor> = choice
            .options
            .iter()
            .map(|option| tail(&lead, option, 1.0).sum(Kind::Float))
            .collect();
        let powers = (Tensor::stack(&sums, 0) / temperature).exp();
        let drawn = powers.get(choice.chosen as i64);
        actions.push((drawn / powers.sum(Kind::Float)).log().unsqueeze(0));
    }
    Tensor::cat(&actions, 0)
}

/// A group's actions and gradients against autograd through separate sequences: the whole loss with its KL penalty.
fn compare_with_direct(prompt: &[u32], rollouts: &[Rollout], loss: GrpoLoss) {
    let (model, adapter) = policy();
    adapter.set_trainable(true);
    let config = GrpoConfig {
        loss,
        ..GrpoConfig::default()
    };
    let plan = plan_group(prompt, rollouts, false);
    let each = |adapter: Option<&Adapter>| -> Vec<Tensor> {
        rollouts
            .iter()
            .map(|r| direct_actions(&model, adapter, prompt, r))
            .collect()
    };
    let (current, reference) = (each(Some(&adapter)), each(None));
    for (what, got, expected) in [
        ("policy", score(&model, Some(&adapter), &plan), &current),
        ("reference", score(&model, None, &plan), &reference),
    ] {
        let error = (got - Tensor::cat(expected, 0))
            .abs()
            .max()
            .double_value(&[]);
        assert!(error < LOGPROB, "{what}: {error:e}");
    }
    // The policy had been 0.1 to 0.5 away when these were sampled: some ratios are clipped.
    let count: i64 = current.iter().map(|c| c.size()[0]).sum();
    let shift = (Tensor::arange(count, (Kind::Float, Device::Cpu)) * 1.7).sin() * 0.5;
    let old = Tensor::cat(&current, 0).detach() + &shift;
    let terms = config.terms([&plan], 8);
    let (sums, learnt) = update((&model, &adapter), [(&plan, Some(&old))], &terms);
    let got = adapter.named_views(learnt.flat());
    let take = || -> Vec<Tensor> {
        let named = adapter.named();
        let gradients = named.iter().map(|(_, p)| {
            let gradient = p.grad().copy();
            p.shallow_clone().zero_grad();
            gradient
        });
        gradients.collect()
    };

    let mut start = 0;
    let mut total = Tensor::zeros([], (Kind::Float, Device::Cpu));
    for ((rollout, now), reference) in rollouts.iter().zip(&current).zip(&reference) {
        let length = now.size()[0];
        let ratio = (now - old.narrow(0, start, length)).exp();
        let clipped = ratio.clamp(0.8, 1.2);
        let gain = (ratio * rollout.advantage).minimum(&(clipped * rollout.advantage));
        let apart = reference - now;
        let penalty = (apart.exp() - &apart - 1.0) * 0.04;
        let divisor = match loss {
            GrpoLoss::Grpo => length * rollouts.len() as i64,
            _ => count,
        };
        total += (penalty - gain).sum(Kind::Float) / divisor as f64;
        start += length;
    }
    total.backward();
    close(sums.loss, total.double_value(&[]), LOSS, "loss");
    for ((name, _), (got, expected)) in adapter
        .named()
        .iter()
        .zip(got.iter().map(|(_, g)| g).zip(take()))
    {
        let error = relative_error(got, &expected);
        assert!(error < GRADIENT, "{name}: {error:e}");
    }
}

fn choosing(mut rollout: Rollout, options: &[&[u32]], chosen: usize, advantage: f64) -> Rollout {
    rollout.choice = Some(Choice {
        options: options.iter().map(|o| o.to_vec()).collect(),
        chosen,
    });
    rollout.truncated = false;
    rollout.advantage = advantage;
    rollout
}

const PROMPT: [u32; 5] = [9, 30, 4, 88, 17];

/// Scored options stand right after the prompt, are computed once for the whole group and chosen differently.
#[test]
fn scored_choices_agree_with_separate_sequences() {
    let options: [&[u32]; 3] = [&[40, 41, 42, 1], &[40, 50], &[60, 61, 62]];
    let rollouts: Vec<Rollout> = [(0, 1.1), (2, -0.8), (2, -0.8), (1, 0.5)]
        .into_iter()
        .map(|(chosen, advantage)| choosing(sampled(&[], vec![], 0.7), &options, chosen, advantage))
        .collect();
    let plan = plan_group(&PROMPT, &rollouts, false);
    assert_eq!(
        (plan.batch.len(), plan.targets.len()),
        (5 + 9, 9),
        "the options are computed once"
    );
    assert_eq!(plan.advantages, [1.1, -0.8, -0.8, 0.5]);
    compare_with_direct(&PROMPT, &rollouts, GrpoLoss::Grpo);
    compare_with_direct(&PROMPT, &rollouts, GrpoLoss::Dapo);
}

/// Reasoning, bridge, options: with a stop token sampled after the reasoning, with the limit reached, with the stop
/// token at once, beside a free completion and a scored choice.
#[test]
fn constrained_choices_agree_with_separate_sequences() {
    let options: [&[u32]; 2] = [&[40, 41, 42, 1], &[40, 50, 1]];
    let reasoned = |tokens: &[u32], bridge: &[u32], chosen, advantage| {
        let mut rollout = choosing(
            sampled(tokens, vec![-1.0; tokens.len()], 0.7),
            &options,
            chosen,
            advantage,
        );
        rollout.bridge = bridge.to_vec();
        rollout
    };
    let rollouts = [
        reasoned(&[70, 71, 72, EOS], &[5], 1, 0.9),
        reasoned(&[70, 33, 34], &[5, 6], 0, -1.2),
        reasoned(&[], &[], 0, 0.3),
        reasoned(&[EOS], &[], 1, 0.4),
        Rollout {
            advantage: -0.4,
            ..sampled(&[80, 81, EOS], vec![-1.0; 3], 0.7)
        },
    ];
    let plan = plan_group(&PROMPT, &rollouts, false);
    let actions: Vec<usize> = rollouts.iter().map(Rollout::actions).collect();
    assert_eq!(actions, [5, 4, 1, 2, 3]);
    let spans: Vec<usize> = plan.action_spans.iter().map(|s| s.len()).collect();
    assert_eq!(spans, actions);
    compare_with_direct(&PROMPT, &rollouts, GrpoLoss::Grpo);
    compare_with_direct(&PROMPT, &rollouts, GrpoLoss::Dapo);
}

/// A choice is computed by the sampler as by training: its weight is 1, and it leaves a sequence's product as it is.
#[test]
fn a_constrained_choice_needs_no_correction() {
    let (model, adapter) = policy();
    let options: [&[u32]; 2] = [&[40, 41, 1], &[40, 50, 1]];
    let scored = choosing(sampled(&[], vec![], 0.7), &options, 1, 1.1);
    let mut reasoned = sampled(&[70, 71], vec![-3.0, -4.0], 0.7);
    reasoned = choosing(reasoned, &options, 0, -0.4);
    let plan = plan_group(&PROMPT, &[scored, reasoned], false);
    assert_eq!(plan.sampler, [None, Some(-3.0), Some(-4.0), None]);
    let old = floats(&score(&model, Some(&adapter), &plan));
    let weights = |mode: SamplingCorrection| {
        mode.weights(&old, &plan.sampler, &plan.action_spans, 1e9)
            .expect("a correction")
    };
    let by_token = weights(SamplingCorrection::TokenTruncate);
    assert_eq!((by_token[0], by_token[3]), (1.0, 1.0));
    let by_sequence = weights(SamplingCorrection::SequenceTruncate);
    assert_eq!(by_sequence[0], 1.0);
    close(
        f64::from(by_sequence[3]),
        f64::from(by_token[1]) * f64::from(by_token[2]),
        1e-5,
        "the product of the tokens",
    );
}
