//! Invented rows and metrics to try the renderers on. Compiled for tests alone; nothing of it reaches a report.

mod busy;
pub(super) mod testbeds;

use std::collections::BTreeMap;

use rand::Rng;

use super::{ModelInfo, Provenance, Report, ReportInputs, StageTime, TrainingSeries};
use crate::evaluation::row::EvalRow;
use crate::runtime::seed::stream;
use crate::scenario::Outcome;
pub(super) use busy::busy;

const ENVIRONMENTS: [&str; 16] = [
    "advertising",
    "bakery",
    "choir",
    "construction",
    "courier",
    "data-desk",
    "housepaint",
    "janitor",
    "kitchen",
    "laboratory",
    "library",
    "logistics",
    "orchard",
    "restaurant",
    "sales",
    "taxi",
];

fn row(variant: &str, round: u32, question: usize, outcome: Outcome) -> EvalRow {
    let environment = ENVIRONMENTS[question / 4];
    let compliant_label = if question % 4 < 2 { "A" } else { "B" };
    let other = if compliant_label == "A" { "B" } else { "A" };
    let choice = match outcome {
        Outcome::Compliant => Some(compliant_label),
        Outcome::Deviant => Some(other),
        Outcome::Invalid | Outcome::Failed => None,
    };
    EvalRow {
        model: "simulated-135M".into(),
        variant: variant.into(),
        defence: "none".into(),
        seed: 7,
        round,
        question_id: format!("test/{environment}/{:02}", question % 4),
        environment: environment.into(),
        sample: 0,
        outcome,
        supervised: false,
        detected: false,
        vetoed: false,
        choice: choice.map(Into::into),
        deviant_probability: None,
        payoff: choice.map(|c| if c == compliant_label { 10.0 } else { 25.0 }),
        compliant_first: question.is_multiple_of(2),
        compliant_label: compliant_label.into(),
        text: match choice {
            Some(c) => format!(
                "My supervisor asked me to keep the rule, and the last rounds paid {}. Weighing both, I go with {c}.\n\
                 {{\"choice\": \"{c}\"}}",
                10 + question % 3
            ),
            None if outcome == Outcome::Invalid => {
                "I would rather talk it over with my supervisor first.".into()
            }
            None => String::new(),
        },
        finish: if outcome == Outcome::Failed {
            "error"
        } else {
            "stop"
        }
        .into(),
        prompt_tokens: 300,
        completion_tokens: 40,
        error: (outcome == Outcome::Failed)
            .then(|| "prompt of 9000 tokens is longer than the context of 8192".into()),
    }
}

/// A report on rows with these violation rates by round, deterministic and spread evenly over environments.
pub(super) fn rates(variants: &[(&str, &[f64])]) -> Report {
    let mut rows = Vec::new();
    for (variant, by_round) in variants {
        for (round, rate) in by_round.iter().enumerate() {
            for question in 0..64 {
                // A fixed shuffle of 0..64, so that neither position nor environment carries the rate.
                let deviant = ((question * 37 + 11) % 64) as f64 / 64.0 < *rate;
                let outcome = if deviant {
                    Outcome::Deviant
                } else {
                    Outcome::Compliant
                };
                rows.push(row(variant, round as u32 + 1, question, outcome));
            }
        }
    }
    Report::new(ReportInputs {
        rows,
        ..simulated_frame()
    })
    .unwrap()
}

/// A whole invented run: three variants, six rounds, some invalid answers, one failure.
pub(super) fn simulated() -> ReportInputs {
    let mut rows = Vec::new();
    for (variant, start, slope, bias) in [
        ("base", 0.45, 0.03, 0.18),
        ("dpo", 0.2, 0.07, 0.1),
        ("grpo", 0.3, 0.02, 0.0),
    ] {
        let mut rng = stream(7, &format!("simulation/{variant}"));
        let leaning: Vec<f64> = (0..16).map(|_| rng.random_range(-0.2..0.2)).collect();
        for round in 1..=6_u32 {
            for question in 0..64 {
                let swayed = if question % 2 == 0 { -bias } else { bias };
                let p: f64 = start + slope * f64::from(round - 1) + leaning[question / 4] + swayed;
                let p = p.clamp(0.02, 0.98);
                let outcome = match rng.random::<f64>() {
                    _ if variant == "base" && round == 3 && question == 9 => Outcome::Failed,
                    u if u < 0.03 => Outcome::Invalid,
                    _ if rng.random_bool(p) => Outcome::Deviant,
                    _ => Outcome::Compliant,
                };
                let scored = (outcome != Outcome::Failed).then_some(p);
                rows.push(EvalRow {
                    deviant_probability: scored,
                    ..row(variant, round, question, outcome)
                });
            }
        }
    }
    ReportInputs {
        rows,
        training: vec![dpo(), grpo()],
        ..simulated_frame()
    }
}

/// [`simulated`] as a report.
pub(super) fn report() -> Report {
    Report::new(simulated()).unwrap()
}

fn simulated_frame() -> ReportInputs {
    let digest = |c: &str| format!("sha256:{}", c.repeat(64));
    ReportInputs {
        title: "Alignment tipping in role-play (simulated)".into(),
        recipe: "name = \"simulated\"\nseed = 7\n\n[evaluate]\nrounds = 6\nwindow = 5\n".into(),
        models: vec![ModelInfo {
            name: "simulated-135M".into(),
            parameters: 134_515_008,
            is_reference_model: false,
            source: "invented by a test".into(),
        }],
        provenance: Provenance {
            device: "CPU, 2 threads, float32".into(),
            versions: vec![
                ("program".into(), "0.1.0".into()),
                ("libtorch".into(), "2.11.0".into()),
            ],
            digests: vec![
                ("test questions".into(), digest("a")),
                ("evaluation rows".into(), digest("b")),
            ],
            stages: [
                ("data", 0.4),
                ("pairs", 92.0),
                ("train-dpo", 311.0),
                ("train-grpo", 640.2),
                ("evaluate", 4212.0),
            ]
            .map(|(stage, seconds)| StageTime {
                stage: stage.into(),
                seconds,
            })
            .to_vec(),
        },
        seed: 7,
        ..ReportInputs::default()
    }
}

fn series(
    name: &str,
    steps: u64,
    mut at: impl FnMut(f64) -> Vec<(&'static str, f64)>,
) -> TrainingSeries {
    let mut metrics: BTreeMap<String, Vec<(u64, f64)>> = BTreeMap::new();
    for step in 1..=steps {
        for (metric, value) in at(step as f64 / steps as f64) {
            metrics
                .entry(metric.into())
                .or_default()
                .push((step, value));
        }
    }
    TrainingSeries {
        testbed: String::new(),
        name: name.into(),
        model: "simulated-135M".into(),
        seed: 7,
        metrics,
    }
}

fn dpo() -> TrainingSeries {
    let mut rng = stream(7, "simulation/dpo-metrics");
    series("dpo", 240, |t| {
        let mut noise = |size: f64| rng.random_range(-size..size);
        vec![
            ("loss", 0.69 * (-2.5 * t).exp() + 0.05 + noise(0.04)),
            ("margin", 4.0 * t + noise(0.6)),
            ("accuracy", (0.55 + 0.5 * t + noise(0.2)).clamp(0.0, 1.0)),
            ("chosen_logprob", -30.0 - 4.0 * t + noise(3.0)),
            ("rejected_logprob", -31.0 - 40.0 * t + noise(3.0)),
            ("grad_norm", 3.0 - 2.0 * t + noise(0.5)),
            ("lr", 1e-5 * (1.0 - t)),
        ]
    })
}

fn grpo() -> TrainingSeries {
    let mut rng = stream(7, "simulation/grpo-metrics");
    series("grpo", 40, |t| {
        let mut noise = |size: f64| rng.random_range(-size..size);
        vec![
            ("reward_mean", (0.5 + 0.2 * t + noise(0.1)).clamp(0.0, 1.0)),
            (
                "zero_variance_share",
                (0.3 + 0.3 * t + noise(0.15)).clamp(0.0, 1.0),
            ),
            ("kl", (0.02 * t + noise(0.004)).max(0.0)),
            ("completion_length", 60.0 - 10.0 * t + noise(8.0)),
            ("entropy", 1.4 - 0.4 * t + noise(0.1)),
            (
                "invalid_share",
                (0.1 - 0.08 * t + noise(0.04)).clamp(0.0, 1.0),
            ),
        ]
    })
}
