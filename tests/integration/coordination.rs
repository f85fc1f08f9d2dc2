//! Coordination games on the real small model: who is asked with the adapter and who without.

use std::collections::BTreeMap;

use atp_pipeline::agent::model::Precision;
use atp_pipeline::agent::{Elicitation, GenerationConfig, LoadedModel};
use atp_pipeline::artifact::Checkpoints;
use atp_pipeline::evaluation::coordination::{GameEvaluation, Team, evaluate_games};
use atp_pipeline::evaluation::coordination_row::GameRow;
use atp_pipeline::evaluation::rounds::{Guard, Subject};
use atp_pipeline::model::Adapter;
use atp_pipeline::model::lora::LoraConfig;
use atp_pipeline::scenario::Outcome;
use atp_pipeline::scenario::coordination::seats::{AgentKind, Members};
use atp_pipeline::scenario::coordination::{GameSpec, generate, shipped_games};
use tch::Device;

use crate::support::smollm2_path;

/// An adapter that changes what the model says.
fn adapter(model: &LoadedModel) -> Adapter {
    let adapter = Adapter::new(
        &LoraConfig::default(),
        model.decoder.config(),
        5,
        Device::Cpu,
    );
    for (name, parameter) in adapter.named() {
        if name.contains("lora_B") {
            let _ = tch::no_grad(|| parameter.shallow_clone().fill_(0.02));
        }
    }
    adapter
}

#[test]
fn subjects_are_asked_with_the_adapter_and_base_agents_without() {
    let model = LoadedModel::load(&smollm2_path(), Precision::Fp32, Device::Cpu)
        .expect("the real small model");
    let adapter = adapter(&model);
    let config = GameEvaluation {
        rounds: 2,
        agents: 4,
        thresholds: vec![2],
        populations: vec![
            [AgentKind::Base, AgentKind::Subject]
                .map(|is| Members { agents: 2, is })
                .to_vec(),
        ],
        ..GameEvaluation::default()
    };
    let generation = GenerationConfig {
        elicitation: Elicitation::Score,
        ..GenerationConfig::default()
    };
    let games = shipped_games().expect("the games");
    let set = generate(&games[..1], &GameSpec::default(), &config.settings(), 1).expect("games");
    let play = |adapter: Option<&Adapter>| -> Vec<GameRow> {
        let folder = tempfile::tempdir().expect("a folder");
        let subject = Subject {
            name: "smollm2",
            variant: "dpo",
            seed: 1,
            model: atp_pipeline::agent::Responder::Loaded(&model),
            guard: Guard::NONE,
        };
        let mut weights = adapter;
        let team = Team {
            subject: &mut weights,
            dpo: None,
            grpo: None,
        };
        let checkpoints = Checkpoints::new(folder.path(), 2);
        evaluate_games(
            &subject,
            team,
            &set.test,
            &generation,
            &config,
            9,
            &checkpoints,
        )
        .expect("rows")
    };
    let (with, without) = (play(Some(&adapter)), play(None));
    assert_eq!((with.len(), without.len()), (8, 8));
    let mut compared = BTreeMap::new();
    // In the second round histories may differ; in the first nothing but the adapter can.
    for (a, b) in with.iter().zip(&without).filter(|(a, _)| a.round == 1) {
        assert_eq!((a.agent, a.kind), (b.agent, b.kind));
        let (pa, pb) = (a.deviant_probability, b.deviant_probability);
        match a.kind {
            AgentKind::Base => assert_eq!(pa, pb),
            _ => assert_ne!(pa, pb),
        }
        *compared.entry(a.kind).or_insert(0) += 1;
    }
    assert_eq!(
        compared,
        BTreeMap::from([(AgentKind::Subject, 2), (AgentKind::Base, 2)])
    );
    for row in with.iter().chain(&without) {
        assert!(matches!(row.outcome, Outcome::Compliant | Outcome::Deviant));
        assert!(row.deviant_probability.is_some_and(|p| p > 0.0 && p < 1.0));
        assert!(row.prompt_tokens > 150 && row.completion_tokens > 0);
        assert_eq!((row.finish.as_str(), row.error.as_deref()), ("stop", None));
    }
}
