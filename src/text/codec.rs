//! What a model needs to be talked to: its tokenizer, its chat template, and the tokens that end its turn.

use std::path::Path;

use serde_json::Value;

use super::{ChatTemplate, Message, RenderOptions, Specials, TextError, Tokenizer};
use crate::formats::gguf::GgufFile;

/// Tokens by which templates end a turn. Some models name only the end of the text as `eos_token`.
const ENDS_OF_TURN: [&str; 6] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
    "<|end|>",
];

/// Tokenizer, chat template and stop tokens of one model.
#[derive(Debug)]
pub struct TextCodec {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    source: String,
    stop_ids: Vec<u32>,
}

impl TextCodec {
    /// Reads a Hugging Face directory: `tokenizer.json`; `chat_template.jinja` or `tokenizer_config.json`'s
    /// `chat_template`; begin and end tokens from `tokenizer_config.json` or `special_tokens_map.json`; more end tokens
    /// from `generation_config.json`.
    ///
    /// # Errors
    /// If the tokenizer, the template or every end token is missing, or a file does not say what it should.
    pub fn from_dir(directory: impl AsRef<Path>) -> Result<Self, TextError> {
        let directory = directory.as_ref();
        let mut tokenizer = Tokenizer::from_file(directory.join("tokenizer.json"))?;
        let configs = [
            JsonFile::read(directory, "tokenizer_config.json")?,
            JsonFile::read(directory, "special_tokens_map.json")?,
        ];
        let mut ids = [None, None];
        for (field, id) in ["bos_token", "eos_token"].into_iter().zip(&mut ids) {
            for config in configs.iter().flatten() {
                if id.is_none() {
                    *id = config.token(field, &tokenizer)?;
                }
            }
        }
        let [bos, eos] = ids;
        tokenizer.set_bos(bos);
        tokenizer.set_eos(eos);
        let mut stop_ids = Vec::from_iter(eos);
        if let Some(generation) = JsonFile::read(directory, "generation_config.json")? {
            stop_ids.extend(generation.ids("eos_token_id", &tokenizer)?);
        }
        let source = dir_template(directory, configs[0].as_ref())?;
        Self::new(tokenizer, &source, stop_ids, directory)
    }

    /// Takes all of it out of a GGUF file.
    ///
    /// # Errors
    /// If the tokenizer cannot be built, or the template or every end token is missing.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, TextError> {
        let tokenizer = Tokenizer::from_gguf(file)?;
        let mut stop_ids = Vec::from_iter(tokenizer.eos());
        stop_ids.extend(file.get_opt::<u32>("tokenizer.ggml.eot_token_id")?);
        let source: Option<&str> = file.get_opt("tokenizer.chat_template")?;
        let source = source.ok_or_else(|| {
            let reason = "no `tokenizer.chat_template`: this is not an instruction-tuned model; take one that is";
            TextError::file(file.path(), reason)
        })?;
        Self::new(tokenizer, source, stop_ids, file.path())
    }

    fn new(
        tokenizer: Tokenizer,
        source: &str,
        mut stop_ids: Vec<u32>,
        path: &Path,
    ) -> Result<Self, TextError> {
        let written = ENDS_OF_TURN
            .into_iter()
            .filter(|token| source.contains(token));
        stop_ids.extend(written.filter_map(|token| tokenizer.token_to_id(token)));
        stop_ids.sort_unstable();
        stop_ids.dedup();
        if stop_ids.is_empty() {
            let reason = "no token that ends a turn: expected `eos_token` in tokenizer_config.json or `eos_token_id` in \
                          generation_config.json";
            return Err(TextError::file(path, reason));
        }
        if let Some(id) = stop_ids
            .iter()
            .find(|id| tokenizer.id_to_token(**id).is_none())
        {
            let reason = format!("the end token {id} is outside the vocabulary");
            return Err(TextError::file(path, reason));
        }
        let spelt = |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id));
        let (bos, eos) = (spelt(tokenizer.bos()), spelt(tokenizer.eos()));
        let template = ChatTemplate::new(source, bos.as_deref(), eos.as_deref());
        let template = template.map_err(|e| TextError::file(path, e.to_string()))?;
        Ok(Self {
            tokenizer,
            template,
            source: source.to_owned(),
            stop_ids,
        })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat template.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// The chat template's source.
    pub fn template_source(&self) -> &str {
        &self.source
    }

    /// The ids after which the model's turn is over, sorted.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// The conversation as the model reads it.
    ///
    /// # Errors
    /// If the template refuses it.
    pub fn render(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<String, TextError> {
        self.template.render(messages, options)
    }

    /// The conversation as ids.
    ///
    /// # Errors
    /// If the template refuses it.
    pub fn encode_chat(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Vec<u32>, TextError> {
        self.tokenizer.encode(&self.render(messages, options)?)
    }

    /// What the model said: the text up to the first stop id, special tokens left out.
    ///
    /// # Errors
    /// If an id is not in the vocabulary.
    pub fn decode_turn(&self, ids: &[u32]) -> Result<String, TextError> {
        let end = ids.iter().position(|id| self.stop_ids.contains(id));
        self.tokenizer
            .decode(&ids[..end.unwrap_or(ids.len())], Specials::Skip)
    }
}

/// The template of a directory.
fn dir_template(directory: &Path, config: Option<&JsonFile>) -> Result<String, TextError> {
    let path = directory.join("chat_template.jinja");
    match std::fs::read_to_string(&path) {
        Ok(source) => return Ok(source),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(TextError::Io { path, source }),
    }
    let none = || {
        let reason = "no chat template: expected chat_template.jinja, or `chat_template` in tokenizer_config.json; is this \
                      an instruction-tuned model?";
        TextError::file(directory, reason)
    };
    let config = config.ok_or_else(none)?;
    match config.field("chat_template").ok_or_else(none)? {
        Value::String(source) => Ok(source.clone()),
        Value::Array(named) => {
            let default = named.iter().find(|entry| entry["name"] == "default");
            let source = default.and_then(|entry| entry["template"].as_str());
            let source = source.ok_or_else(|| {
                config.wrong(
                    "chat_template",
                    "one named `default`",
                    &Value::from(named.clone()),
                )
            })?;
            Ok(source.to_string())
        }
        other => Err(config.wrong("chat_template", "a string or a list", other)),
    }
}

/// A JSON object of the model's directory.
struct JsonFile {
    path: std::path::PathBuf,
    value: Value,
}

impl JsonFile {
    /// The file, or `None` if it is not there.
    fn read(directory: &Path, name: &str) -> Result<Option<Self>, TextError> {
        let path = directory.join(name);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(TextError::Io { path, source }),
        };
        match serde_json::from_str(&text) {
            Ok(value @ Value::Object(_)) => Ok(Some(Self { path, value })),
            Ok(_) => Err(TextError::file(path, "expected a JSON object")),
            Err(e) => Err(TextError::file(path, format!("not JSON: {e}"))),
        }
    }

    /// A field that is there and not null.
    fn field(&self, name: &str) -> Option<&Value> {
        self.value.get(name).filter(|value| !value.is_null())
    }

    fn wrong(&self, field: &str, expected: &str, got: &Value) -> TextError {
        let got: String = got.to_string().chars().take(80).collect();
        TextError::file(
            &self.path,
            format!("`{field}`: expected {expected}, got {got}"),
        )
    }

    /// The id of a token that is given as a string or as an object with `content`.
    fn token(&self, field: &str, tokenizer: &Tokenizer) -> Result<Option<u32>, TextError> {
        let Some(value) = self.field(field) else {
            return Ok(None);
        };
        let text = value.as_str().or_else(|| value["content"].as_str());
        let text =
            text.ok_or_else(|| self.wrong(field, "a string or an object with `content`", value))?;
        let id = tokenizer.token_to_id(text);
        let id = id.ok_or_else(|| self.wrong(field, "a token of tokenizer.json", value))?;
        Ok(Some(id))
    }

    /// Ids that are given as one number or a list.
    fn ids(&self, field: &str, tokenizer: &Tokenizer) -> Result<Vec<u32>, TextError> {
        let Some(value) = self.field(field) else {
            return Ok(Vec::new());
        };
        let one = |value: &Value| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            id.filter(|id| tokenizer.id_to_token(*id).is_some())
        };
        let ids = match value.as_array() {
            Some(list) => list.iter().map(one).collect(),
            None => one(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.wrong(field, "one or several ids of the vocabulary", value))
    }
}

#[cfg(test)]
mod tests;
