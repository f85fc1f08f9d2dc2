//! Text to ids and back, by the `tokenizers` crate.

use std::path::Path;
use std::sync::Arc;

use tokenizers::ModelWrapper;

use super::{TextError, gguf_bpe};
use crate::formats::gguf::GgufFile;
use crate::runtime::guard::guarded;

/// What becomes of special tokens (such as `<|im_end|>`) in decoded text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Specials {
    /// They are written.
    Keep,
    /// They are left out.
    Skip,
}

/// A tokenizer.
///
/// Special tokens written in the text are recognised, none are added: a chat template writes all that a prompt needs.
/// A byte that the vocabulary lacks is dropped, as the models' own tokenizers do (SmolLM2's lacks some control
/// characters).
#[derive(Debug, Clone)]
pub struct Tokenizer {
    /// Shared, so that a clone is cheap.
    inner: Arc<tokenizers::Tokenizer>,
    vocab_size: usize,
    bos: Option<u32>,
    eos: Option<u32>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. It does not say which tokens begin and end a text: [`Self::set_bos`],
    /// [`Self::set_eos`].
    ///
    /// # Errors
    /// If the file cannot be read or is no tokenizer.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TextError> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| TextError::Io {
            path: path.to_path_buf(),
            source,
        })?;
        let wrong =
            |e: String| TextError::file(path, format!("not a tokenizer.json that is read: {e}"));
        // `tokenizers` panics on JSON that is cut, so that is found first.
        serde_json::from_slice::<serde::de::IgnoredAny>(&bytes)
            .map_err(|e| wrong(e.to_string()))?;
        let inner = guarded(|| tokenizers::Tokenizer::from_bytes(&bytes)).map_err(wrong)?;
        let inner = inner.map_err(|e| wrong(e.to_string()))?;
        Self::new(inner, path)
    }

    /// Takes the tokenizer out of a GGUF file, with its begin and end tokens.
    ///
    /// # Errors
    /// If the file has none, has one of another kind than byte-level BPE, or cuts words by an unknown rule.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, TextError> {
        let mut tokenizer = Self::new(gguf_bpe::build(file)?, file.path())?;
        for (key, place) in [
            ("tokenizer.ggml.bos_token_id", &mut tokenizer.bos),
            ("tokenizer.ggml.eos_token_id", &mut tokenizer.eos),
        ] {
            let Some(id) = file.get_opt::<u32>(key)? else {
                continue;
            };
            if tokenizer.inner.id_to_token(id).is_none() {
                let reason = format!("`{key}` is {id}, outside the vocabulary");
                return Err(TextError::file(file.path(), reason));
            }
            *place = Some(id);
        }
        Ok(tokenizer)
    }

    fn new(mut inner: tokenizers::Tokenizer, path: &Path) -> Result<Self, TextError> {
        // A tokenizer.json may carry the lengths of its training; a prompt must never be cut or padded by them.
        inner.with_padding(None);
        let reset = inner.with_truncation(None).map(|_| ());
        reset.map_err(|e| TextError::file(path, e.to_string()))?;
        if let ModelWrapper::BPE(bpe) = inner.get_model()
            && bpe.dropout.is_some_and(|p| p > 0.0)
        {
            let reason = "`model.dropout` is set, so encoding would be random; set it to null";
            return Err(TextError::file(path, reason));
        }
        let largest = inner.get_vocab(true).into_values().max();
        let vocab_size = largest.map_or(0, |id| id as usize + 1);
        if vocab_size == 0 {
            return Err(TextError::file(path, "the vocabulary is empty"));
        }
        Ok(Self {
            inner: Arc::new(inner),
            vocab_size,
            bos: None,
            eos: None,
        })
    }

    /// What a `tokenizer.json` holds.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub fn to_json(&self) -> Result<serde_json::Value, TextError> {
        let text = self.inner.to_string(false);
        let text = text.map_err(|e| TextError::Encode(e.to_string()))?;
        serde_json::from_str(&text).map_err(|e| TextError::Encode(e.to_string()))
    }

    /// The name that GGUF files have for the rule by which text is cut before merging; none if it is none of those known.
    pub fn gguf_rule(&self) -> Option<&'static str> {
        gguf_bpe::rule_of(&self.inner)
    }

    /// The ids of the text.
    ///
    /// # Errors
    /// If the tokenizer refuses it, for example a character unknown to a vocabulary without bytes.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let encoding = self.inner.encode_fast(text, false);
        let encoding = encoding.map_err(|e| TextError::Encode(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of the ids. Bytes that are no UTF-8, as when a character is cut, become U+FFFD.
    ///
    /// # Errors
    /// If an id is not in the vocabulary.
    pub fn decode(&self, ids: &[u32], specials: Specials) -> Result<String, TextError> {
        if let Some(id) = ids.iter().find(|id| self.inner.id_to_token(**id).is_none()) {
            return Err(TextError::Decode(format!(
                "id {id} is not in the vocabulary, which ends at {}; does the tokenizer belong to the model?",
                self.vocab_size - 1
            )));
        }
        let text = self.inner.decode(ids, specials == Specials::Skip);
        text.map_err(|e| TextError::Decode(e.to_string()))
    }

    /// The id of a token as the vocabulary spells it.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// A token as the vocabulary spells it, `Ġ` for a space in byte-level ones.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// One more than the largest id. The model may have more rows than this; they are no tokens.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Whether this token is recognised whole in text and left out by [`Specials::Skip`].
    pub fn is_special(&self, token: &str) -> bool {
        self.inner.get_added_vocabulary().is_special_token(token)
    }

    /// The token that begins a text, if known.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text, if known.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Says which token begins a text.
    pub fn set_bos(&mut self, id: Option<u32>) {
        self.bos = id;
    }

    /// Says which token ends a text.
    pub fn set_eos(&mut self, id: Option<u32>) {
        self.eos = id;
    }
}

#[cfg(test)]
mod tests;
