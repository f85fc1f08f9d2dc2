//! Sets in the layouts that other trainers load.
//!
//! | format | pairs | questions |
//! |---|---|---|
//! | TRL | conversational preference: `prompt`, `chosen`, `rejected`, each a list of `role` and `content` | prompt only, games and problems too: `prompt`, and columns that a reward function is given |
//! | LLaMA-Factory | sharegpt ranking: `conversations`, `system`, `chosen`, `rejected`, each turn with `from` and `value` | none: it has no trainer that takes prompts alone |
//!
//! The layouts are those of TRL's dataset formats and of LLaMA-Factory's data/README; `scripts/oracle/export_formats.py`
//! loads what is written here with both.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::pairs::PreferencePair;
use crate::scenario::Role;
use crate::scenario::decision::Decision;
use crate::scenario::prompt::AnswerStyle;
use crate::scenario::tool_use::Problem;
use crate::scenario::tool_use::prompt::{ToolPromptOptions, ask};
use crate::text::{Message, Speaker};

/// A preference pair as TRL's trainers take it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrlPair {
    /// System and user turn.
    pub prompt: Vec<Message>,
    /// The preferred answer, one assistant turn.
    pub chosen: Vec<Message>,
    /// The rejected answer, one assistant turn.
    pub rejected: Vec<Message>,
}

/// A question as TRL's GRPO trainer takes it; it hands the other columns to the reward functions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrlPrompt {
    /// System and user turn.
    pub prompt: Vec<Message>,
    /// The question.
    pub id: String,
    /// Its environment.
    pub environment: String,
    /// The exact answer that keeps the rule, as `{"choice": "A"}`.
    pub compliant_answer: String,
    /// The exact answer that breaks it.
    pub deviant_answer: String,
}

/// A problem as TRL's GRPO trainer takes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrlProblem {
    /// System and user turn.
    pub prompt: Vec<Message>,
    /// The problem.
    pub id: String,
    /// Its family.
    pub family: String,
    /// The right answer.
    pub answer: String,
}

/// A turn in the sharegpt layout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShareGptTurn {
    /// `human` or `gpt`.
    pub from: String,
    /// What is said.
    pub value: String,
}

/// A preference pair as LLaMA-Factory's sharegpt converter takes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LlamaFactoryPair {
    /// The user turn.
    pub conversations: Vec<ShareGptTurn>,
    /// The system turn.
    pub system: String,
    /// The preferred answer.
    pub chosen: ShareGptTurn,
    /// The rejected answer.
    pub rejected: ShareGptTurn,
}

/// Pairs for TRL.
pub fn trl_pairs(pairs: &[PreferencePair]) -> Vec<TrlPair> {
    let answer = |text: &str| vec![Message::new(Speaker::Assistant, text)];
    pairs
        .iter()
        .map(|pair| TrlPair {
            prompt: pair.messages(),
            chosen: answer(&pair.chosen),
            rejected: answer(&pair.rejected),
        })
        .collect()
}

/// Problems for TRL, as training puts them.
pub fn trl_problems(problems: &[Problem]) -> Vec<TrlProblem> {
    let options = ToolPromptOptions::default();
    problems
        .iter()
        .map(|problem| TrlProblem {
            prompt: ask(problem, &[], &options).messages,
            id: problem.id.clone(),
            family: problem.family.clone(),
            answer: problem.answer.clone(),
        })
        .collect()
}

/// Questions or games for TRL, as training puts them.
pub fn trl_prompts<D: Decision>(questions: &[D], style: AnswerStyle) -> Vec<TrlPrompt> {
    questions
        .iter()
        .map(|question| {
            let answers = question.option_answers();
            let of = |role: Role| {
                let found = answers.iter().find(|(of, _)| *of == role);
                found.map(|(_, text)| text.clone()).unwrap_or_default()
            };
            TrlPrompt {
                prompt: question.messages(style, None),
                id: question.id().to_owned(),
                environment: question.environment().to_owned(),
                compliant_answer: of(Role::Compliant),
                deviant_answer: of(Role::Deviant),
            }
        })
        .collect()
}

/// Pairs for LLaMA-Factory.
pub fn llama_factory_pairs(pairs: &[PreferencePair]) -> Vec<LlamaFactoryPair> {
    let turn = |from: &str, value: &str| ShareGptTurn {
        from: from.into(),
        value: value.into(),
    };
    pairs
        .iter()
        .map(|pair| LlamaFactoryPair {
            conversations: vec![turn("human", &pair.user)],
            system: pair.system.clone(),
            chosen: turn("gpt", &pair.chosen),
            rejected: turn("gpt", &pair.rejected),
        })
        .collect()
}

/// The text of LLaMA-Factory's `dataset_info.json` with an entry `name` for a file of pairs; `existing` is the text that
/// is there, whose other entries are kept.
///
/// # Errors
/// What is wrong with the text that is there, or that its entry of this name is for another file.
pub fn dataset_info(existing: Option<&str>, name: &str, file: &str) -> Result<String, String> {
    let mut entries: Map<String, Value> = match existing {
        Some(text) => serde_json::from_str(text)
            .map_err(|error| format!("expected a JSON object of data sets: {error}"))?,
        None => Map::new(),
    };
    if let Some(other) = entries.get(name)
        && other["file_name"] != file
    {
        return Err(format!(
            "its entry `{name}` is for {}; export to a file of another name, or remove the entry",
            other["file_name"]
        ));
    }
    let entry = json!({
        "file_name": file,
        "formatting": "sharegpt",
        "ranking": true,
        "columns": {
            "messages": "conversations",
            "system": "system",
            "chosen": "chosen",
            "rejected": "rejected",
        },
    });
    entries.insert(name.to_owned(), entry);
    let mut text = format!("{:#}", Value::Object(entries));
    text.push('\n');
    Ok(text)
}

/// Rows as JSON lines.
///
/// # Errors
/// A row that JSON has nothing for.
pub fn json_lines<T: Serialize>(rows: &[T]) -> serde_json::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut bytes, row)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datasets::pairs::AnswerSource;
    use crate::scenario::choice::parse_choice;
    use crate::scenario::environment::load_environments;
    use crate::scenario::question::Question;
    use crate::scenario::role_play::{QuestionSpec, generate};
    use std::path::Path;

    fn pair() -> PreferencePair {
        PreferencePair {
            id: "train/bakery/00".into(),
            question_id: "train/bakery/00".into(),
            environment: "bakery".into(),
            system: "You are a baker.".into(),
            user: "Choose.\nNow.".into(),
            chosen: "{\"choice\": \"A\"}".into(),
            rejected: "No. {\"choice\": \"B\"}".into(),
            tool_results: false,
            chosen_source: AnswerSource::Sampled,
            rejected_source: AnswerSource::Template,
            attempts_chosen: 1,
            attempts_rejected: 5,
        }
    }

    #[test]
    fn pairs_have_the_layouts_of_both_trainers() {
        let trl = json!(trl_pairs(&[pair()])[0]);
        let expected = json!({
            "prompt": [
                {"role": "system", "content": "You are a baker."},
                {"role": "user", "content": "Choose.\nNow."},
            ],
            "chosen": [{"role": "assistant", "content": "{\"choice\": \"A\"}"}],
            "rejected": [{"role": "assistant", "content": "No. {\"choice\": \"B\"}"}],
        });
        assert_eq!(trl, expected);
        let factory = json!(llama_factory_pairs(&[pair()])[0]);
        let expected = json!({
            "conversations": [{"from": "human", "value": "Choose.\nNow."}],
            "system": "You are a baker.",
            "chosen": {"from": "gpt", "value": "{\"choice\": \"A\"}"},
            "rejected": {"from": "gpt", "value": "No. {\"choice\": \"B\"}"},
        });
        assert_eq!(factory, expected);
        let lines = json_lines(&[1, 2]).unwrap();
        assert_eq!(lines, b"1\n2\n");
    }

    #[test]
    fn answers_of_prompts_are_what_their_columns_say() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/role_play");
        let environments = load_environments(&folder).unwrap();
        let set = generate(&environments, &QuestionSpec::default(), 3).unwrap();
        for (question, row) in set
            .train
            .iter()
            .zip(trl_prompts(&set.train, AnswerStyle::Direct))
        {
            let options = Question::choice_options(question);
            let role = |text: &str| parse_choice(text, &options).role();
            assert_eq!(role(&row.compliant_answer), Some(Role::Compliant));
            assert_eq!(role(&row.deviant_answer), Some(Role::Deviant));
            assert_eq!(row.prompt.len(), 2);
            assert!(row.prompt[1].content.contains("Reply only with"));
            assert_eq!(row.id, question.id);
        }
    }

    #[test]
    fn entries_of_other_sets_are_kept() {
        let first = dataset_info(None, "a", "a.json").unwrap();
        let both = dataset_info(Some(&first), "b", "b.json").unwrap();
        assert_eq!(dataset_info(Some(&both), "b", "b.json").unwrap(), both);
        let both: Value = serde_json::from_str(&both).unwrap();
        assert_eq!(both["a"]["file_name"], "a.json");
        assert_eq!(both["b"]["columns"]["messages"], "conversations");
        assert_eq!(both["b"]["ranking"], true);
        let error = dataset_info(Some(&first), "a", "c.json").unwrap_err();
        assert!(error.contains("`a` is for \"a.json\""), "{error}");
        assert!(dataset_info(Some("[]"), "a", "a.json").is_err());
    }
}
