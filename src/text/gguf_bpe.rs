//! The byte-level BPE tokenizer that a GGUF file describes, as the `tokenizers` crate has it.
//!
//! A GGUF file has the vocabulary and the merges but only the name of the rule that cuts text into words before merging
//! (`tokenizer.ggml.pre`). The rules known here are those of the models' own `tokenizer.json`.

use std::collections::BTreeSet;

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, ModelWrapper, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential,
    OffsetType, PreTokenizedString, PreTokenizer, PreTokenizerWrapper, SplitDelimiterBehavior,
};

use super::TextError;
use crate::formats::gguf::GgufFile;

/// Token types of `tokenizer.ggml.token_type` that are recognised whole in text.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// How text is cut before merging.
struct Rule {
    /// Unicode normalisation first.
    nfc: bool,
    /// Every digit on its own.
    digits: bool,
    /// A pattern of words; without one, that of GPT-2.
    pattern: Option<&'static str>,
    /// A word that is a token needs no merges.
    ignore_merges: bool,
}

const LLAMA_3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN_2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// Names of the rules, as GGUF files have them.
const RULES: [&str; 4] = ["gpt-2", "smollm", "llama-bpe", "qwen2"];

/// What the rules cut in different places.
const PROBE: &str =
    "Don't CAN'T  we'll\n\n  go 1234567 miles\t(№ 3½),\r\n你好!! e\u{301}\u{a0}x_y  ";

/// The name of the rule by which a tokenizer cuts text, as GGUF files have it; none if it is none of those known.
pub(super) fn rule_of(tokenizer: &tokenizers::Tokenizer) -> Option<&'static str> {
    let cut = |normaliser: Option<&NormalizerWrapper>, cutter: &PreTokenizerWrapper| {
        let mut text = NormalizedString::from(PROBE);
        if let Some(normaliser) = normaliser {
            normaliser.normalize(&mut text).ok()?;
        }
        let mut pieces = PreTokenizedString::from(text);
        cutter.pre_tokenize(&mut pieces).ok()?;
        let pieces = pieces.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
        Some(
            pieces
                .into_iter()
                .map(|(piece, ..)| piece.to_owned())
                .collect::<Vec<_>>(),
        )
    };
    let ModelWrapper::BPE(bpe) = tokenizer.get_model() else {
        return None;
    };
    let own = cut(tokenizer.get_normalizer(), tokenizer.get_pre_tokenizer()?)?;
    RULES.into_iter().find(|name| {
        let Some(rule) = Rule::named(name).filter(|rule| rule.ignore_merges == bpe.ignore_merges)
        else {
            return false;
        };
        let normaliser = rule.nfc.then(|| NormalizerWrapper::from(NFC));
        let cutter = rule.pre_tokenizer().map(PreTokenizerWrapper::from);
        cutter.is_ok_and(|cutter| cut(normaliser.as_ref(), &cutter).as_ref() == Some(&own))
    })
}

impl Rule {
    fn named(name: &str) -> Option<Self> {
        let gpt_2 = Rule {
            nfc: false,
            digits: false,
            pattern: None,
            ignore_merges: false,
        };
        Some(match name {
            "gpt-2" => gpt_2,
            "smollm" => Rule {
                digits: true,
                ..gpt_2
            },
            "llama-bpe" | "llama3" | "llama-v3" => Rule {
                pattern: Some(LLAMA_3),
                ignore_merges: true,
                ..gpt_2
            },
            "qwen2" => Rule {
                nfc: true,
                pattern: Some(QWEN_2),
                ..gpt_2
            },
            _ => return None,
        })
    }

    fn pre_tokenizer(&self) -> tokenizers::Result<Sequence> {
        let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
        if self.digits {
            steps.push(Digits::new(true).into());
        }
        if let Some(pattern) = self.pattern {
            let pattern = SplitPattern::Regex(pattern.into());
            steps.push(Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into());
        }
        steps.push(ByteLevel::new(false, true, self.pattern.is_none()).into());
        Ok(Sequence::new(steps))
    }
}

/// The tokenizer of the file.
pub(super) fn build(file: &GgufFile) -> Result<tokenizers::Tokenizer, TextError> {
    let wrong = |reason: String| TextError::file(file.path(), reason);
    let model: &str = file.get("tokenizer.ggml.model")?;
    if model != "gpt2" {
        return Err(wrong(format!(
            "`tokenizer.ggml.model` is `{model}`; only byte-level BPE (`gpt2`) is read from GGUF: use the model's \
             directory with tokenizer.json instead"
        )));
    }
    let pre: &str = file.get("tokenizer.ggml.pre")?;
    let rule = Rule::named(pre).ok_or_else(|| {
        wrong(format!(
            "`tokenizer.ggml.pre` is `{pre}`; known are gpt-2, smollm, llama-bpe, qwen2: use the model's directory with \
             tokenizer.json instead"
        ))
    })?;
    let tokens: &[String] = file.get("tokenizer.ggml.tokens")?;
    let types: Vec<i64> = file.get("tokenizer.ggml.token_type")?;
    if tokens.is_empty() || tokens.len() != types.len() {
        return Err(wrong(format!(
            "`tokenizer.ggml.token_type`: expected one for each of the {} tokens, got {}",
            tokens.len(),
            types.len()
        )));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = tokens.iter().find(|token| !seen.insert(token.as_str())) {
        return Err(wrong(format!(
            "`tokenizer.ggml.tokens` has `{twice}` twice"
        )));
    }
    let vocab: Vocab = tokens.iter().cloned().zip(0..).collect();
    let bpe = BPE::builder()
        .vocab_and_merges(vocab, merges(file)?)
        .ignore_merges(rule.ignore_merges)
        .build()
        .map_err(|e| wrong(format!("`tokenizer.ggml.merges`: {e}")))?;

    let mut tokenizer = tokenizers::Tokenizer::new(bpe);
    tokenizer.with_normalizer(rule.nfc.then_some(NFC));
    let pre_tokenizer = rule.pre_tokenizer();
    let pre_tokenizer = pre_tokenizer.map_err(|e| wrong(format!("the rule `{pre}`: {e}")))?;
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let added: Vec<AddedToken> = tokens
        .iter()
        .zip(&types)
        .filter(|(_, kind)| matches!(**kind, UNKNOWN | CONTROL | USER_DEFINED))
        .map(|(token, kind)| AddedToken::from(token, *kind != USER_DEFINED).normalized(false))
        .collect();
    tokenizer.add_tokens(&added);
    Ok(tokenizer)
}

fn merges(file: &GgufFile) -> Result<Merges, TextError> {
    let lines: &[String] = file.get("tokenizer.ggml.merges")?;
    let pairs = lines.iter().enumerate().map(|(rank, line)| {
        let pair = line
            .split_once(' ')
            .filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '));
        let (left, right) = pair.ok_or_else(|| {
            TextError::file(
                file.path(),
                format!("`tokenizer.ggml.merges`[{rank}]: expected two tokens, got `{line}`"),
            )
        })?;
        Ok((left.to_string(), right.to_string()))
    });
    pairs.collect()
}
