//! Evaluation rows as a log of inspect_ai (version 2 of its format, JSON), so that its viewer and its data frames can be
//! used on them. A sample of the log is an agent in front of a question, an epoch is a round.
//!
//! Scores are inspect_ai's own letters: C where the rule was kept, the choice independent or the answer right; I where
//! not; N where no choice or answer could be read. The target of a choice is the label of the option to be taken, also
//! where the question showed no labels and was answered by name. A generation that failed is a sample with an error and no score, as
//! inspect_ai has it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::coordination_row::GameRow;
use super::row::EvalRow;
use super::tool_row::{Solved, ToolRow};
use crate::scenario::Outcome;
use crate::text::Message;

/// What a log says about the evaluation as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogHead {
    /// Name of the stage.
    pub task: String,
    /// Tells this evaluation from all others: the key of its stage.
    pub id: String,
    /// When it was finished: RFC 3339, UTC.
    pub created: String,
    /// Model and variant, such as `smollm2/dpo`.
    pub model: String,
    /// Name and version of the program that evaluated.
    pub program: (String, String),
    /// Digest of the test set.
    pub test_set: String,
    /// Seed.
    pub seed: u64,
}

/// One decision as a log knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct LogSample {
    /// Agent and question, the same in all rounds.
    id: String,
    round: u32,
    target: String,
    text: String,
    /// C, I or N; none where nothing came about.
    letter: Option<&'static str>,
    answer: Option<String>,
    finish: String,
    tokens: (u32, u32),
    error: Option<String>,
    metadata: Value,
}

fn letter(outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Compliant => Some("C"),
        Outcome::Deviant => Some("I"),
        Outcome::Invalid => Some("N"),
        Outcome::Failed => None,
    }
}

impl From<&EvalRow> for LogSample {
    fn from(row: &EvalRow) -> Self {
        Self {
            id: format!("{}/{}", row.question_id, row.sample),
            round: row.round,
            target: row.compliant_label.clone(),
            text: row.text.clone(),
            letter: letter(row.outcome),
            answer: row.choice.clone(),
            finish: row.finish.clone(),
            tokens: (row.prompt_tokens, row.completion_tokens),
            error: row.error.clone(),
            metadata: json!({
                "environment": row.environment, "supervised": row.supervised, "detected": row.detected,
                "deviant_probability": row.deviant_probability, "payoff": row.payoff,
                "compliant_first": row.compliant_first,
            }),
        }
    }
}

impl From<&GameRow> for LogSample {
    fn from(row: &GameRow) -> Self {
        Self {
            id: format!(
                "{}/{}/{}/agent-{}",
                row.instance_id, row.population, row.sample, row.agent
            ),
            round: row.round,
            target: row.compliant_label.clone(),
            text: row.text.clone(),
            letter: letter(row.outcome),
            answer: row.choice.clone(),
            finish: row.finish.clone(),
            tokens: (row.prompt_tokens, row.completion_tokens),
            error: row.error.clone(),
            metadata: json!({
                "game": row.game, "setting": row.setting, "threshold": row.t, "agents": row.n, "kind": row.kind.name(),
                "colluders": row.colluders, "success": row.success, "reward": row.reward, "capital": row.capital,
                "deviant_probability": row.deviant_probability, "compliant_first": row.compliant_first,
            }),
        }
    }
}

impl From<&ToolRow> for LogSample {
    fn from(row: &ToolRow) -> Self {
        Self {
            id: format!("agent-{}/problem-{}", row.agent + 1, row.step + 1),
            round: row.round,
            target: row.expected.clone(),
            text: row.text.clone(),
            letter: match row.solved {
                Solved::Right => Some("C"),
                Solved::Wrong => Some("I"),
                Solved::Invalid => Some("N"),
                Solved::Failed => None,
            },
            answer: row.answer.clone(),
            finish: row.finish.clone(),
            tokens: (row.prompt_tokens, row.completion_tokens),
            error: row.error.clone(),
            metadata: json!({
                "problem": row.problem_id, "family": row.family, "difficulty": row.difficulty.name(),
                "used_tool": row.used_tool, "calls": row.calls, "calls_failed": row.calls_failed, "cost": row.cost,
                "forged_result": row.forged_result, "tool_first": row.tool_first,
            }),
        }
    }
}

impl LogSample {
    fn json(&self, model: &str, prompt: &[Message]) -> Value {
        let input: Vec<Value> = prompt
            .iter()
            .map(|message| json!({ "role": message.role, "content": message.content }))
            .collect();
        let reply = json!({ "role": "assistant", "content": self.text, "source": "generate", "model": model });
        let stop = match self.finish.as_str() {
            "length" => "max_tokens",
            "stop" => "stop",
            _ => "unknown",
        };
        let usage = json!({
            "input_tokens": self.tokens.0, "output_tokens": self.tokens.1,
            "total_tokens": self.tokens.0 + self.tokens.1,
        });
        let messages = [&input[..], std::slice::from_ref(&reply)].concat();
        let mut sample = json!({
            "id": self.id, "epoch": self.round, "input": input, "target": self.target, "messages": messages,
            "output": {
                "model": model, "choices": [{ "message": reply, "stop_reason": stop }], "usage": usage,
            },
            "metadata": self.metadata, "store": {}, "events": [], "model_usage": { (model): usage }, "attachments": {},
        });
        if let Some(letter) = self.letter {
            sample["scores"] = json!({ "aligned": { "value": letter, "answer": self.answer } });
        }
        if self.letter.is_none() {
            let message = self.error.as_deref().unwrap_or("no text came about");
            sample["error"] = json!({ "message": message, "traceback": "", "traceback_ansi": "" });
        }
        sample
    }
}

/// A whole log: `samples` with the prompt of each. Agents without a model are left out by the caller.
pub fn log(head: &LogHead, samples: &[(LogSample, Vec<Message>)]) -> Value {
    let ids: BTreeSet<&str> = samples.iter().map(|(s, _)| s.id.as_str()).collect();
    let rounds = samples.iter().map(|(s, _)| s.round).max().unwrap_or(0);
    let of = |letter| {
        samples
            .iter()
            .filter(|(s, _)| s.letter == Some(letter))
            .count()
    };
    let (kept, broke) = (of("C"), of("I"));
    let read = kept + broke;
    let accuracy = (read > 0).then(|| kept as f64 / read as f64);
    let metric = |name: &str, value: Value| json!({ "name": name, "value": value, "params": {} });
    let mut metrics = json!({ "read": metric("read", read.into()) });
    if let Some(accuracy) = accuracy {
        metrics["share_aligned"] = metric("share_aligned", accuracy.into());
    }
    let failed = samples.iter().filter(|(s, _)| s.letter.is_none()).count();
    json!({
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": head.id, "run_id": head.id, "created": head.created, "task": head.task, "task_id": head.task,
            "task_version": 0,
            "dataset": { "name": head.test_set, "samples": ids.len(), "sample_ids": ids, "shuffled": false },
            "model": head.model, "model_args": {}, "config": { "epochs": rounds },
            "packages": { (head.program.0.clone()): head.program.1 },
            "metadata": { "seed": head.seed, "test_set": head.test_set, "epochs_are": "rounds" },
        },
        "plan": { "name": "plan", "steps": [], "config": {} },
        "results": {
            "total_samples": samples.len(), "completed_samples": samples.len() - failed,
            "scores": [{
                "name": "aligned", "scorer": "aligned", "params": {}, "metrics": metrics,
                "scored_samples": samples.len() - failed, "unscored_samples": failed,
            }],
        },
        "stats": { "started_at": head.created, "completed_at": head.created, "model_usage": {} },
        "samples": samples.iter().map(|(sample, prompt)| sample.json(&head.model, prompt)).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Speaker;

    #[test]
    fn outcomes_become_letters_and_a_failure_none() {
        let letters = [
            Outcome::Compliant,
            Outcome::Deviant,
            Outcome::Invalid,
            Outcome::Failed,
        ]
        .map(letter);
        assert_eq!(letters, [Some("C"), Some("I"), Some("N"), None]);
    }

    #[test]
    fn a_round_is_an_epoch_and_failures_are_no_scores() {
        let sample = |round, letter, error: Option<&str>| LogSample {
            id: "test/x/00/0".into(),
            round,
            target: "A".into(),
            text: "A.".into(),
            letter,
            answer: Some("A".into()),
            finish: "length".into(),
            tokens: (10, 2),
            error: error.map(Into::into),
            metadata: json!({}),
        };
        let head = LogHead {
            task: "evaluate-dpo".into(),
            id: "k".into(),
            created: "2026-01-01T00:00:00Z".into(),
            model: "m/dpo".into(),
            program: ("p".into(), "1".into()),
            test_set: "d".into(),
            seed: 1,
        };
        let asked = vec![Message::new(Speaker::User, "Choose.")];
        let samples = [
            (sample(1, Some("C"), None), asked.clone()),
            (sample(2, Some("I"), None), asked.clone()),
            (sample(3, None, Some("out of memory")), asked),
        ];
        let log = log(&head, &samples);
        assert_eq!(log["eval"]["config"]["epochs"], 3);
        assert_eq!(log["eval"]["dataset"]["samples"], 1);
        assert_eq!(
            log["results"]["scores"][0]["metrics"]["share_aligned"]["value"],
            0.5
        );
        assert_eq!(log["results"]["completed_samples"], 2);
        let [first, _, failed] = log["samples"].as_array().unwrap().as_slice() else {
            panic!("three samples");
        };
        assert_eq!(first["scores"]["aligned"]["value"], "C");
        assert_eq!(first["messages"][1]["content"], "A.");
        assert_eq!(first["output"]["choices"][0]["stop_reason"], "max_tokens");
        assert!(first.get("error").is_none() && failed.get("scores").is_none());
        assert_eq!(failed["error"]["message"], "out of memory");
    }
}
