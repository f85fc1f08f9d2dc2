//! Text on its way to and from token ids: messages, chat templates, tokenizers.
//!
//! ```text
//! [Message] ──ChatTemplate──▶ prompt text ──Tokenizer──▶ ids     (TextCodec holds both, and the ids that end a turn)
//! ```

use serde::{Deserialize, Serialize};

mod codec;
mod error;
mod gguf_bpe;
mod template;
mod tokenizer;

pub use codec::TextCodec;
pub use error::TextError;
pub use template::{ChatTemplate, Date, Limits, RenderOptions};
pub use tokenizer::{Specials, Tokenizer};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Speaker {
    /// Instructions that stand above the conversation.
    System,
    /// The person or the environment.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Speaker,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn.
    pub fn new(role: Speaker, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
        }
    }
}
