//! A whole model as a GGUF file: matrices in F32, F16 or BF16, vectors in F32, as llama.cpp's converter writes them.

use std::io;
use std::path::Path;

use serde_json::Value as Json;
use tch::Kind;

use super::merged::bytes_of;
use super::{ExportError, Precision, Source};
use crate::artifact::write_atomic_with;
use crate::formats::gguf::write::{NewTensor, write};
use crate::formats::gguf::{Array, GgufFile, Value};
use crate::formats::kind::TensorKind;
use crate::model::config::{Family, RopeScaling};
use crate::model::gguf_names::{ROPE_FREQS, gguf_name, permute};
use crate::model::rope::inverse_frequencies;
use crate::model::weights::expected_tensors;
use crate::runtime::interrupt::check;
use crate::runtime::progress::Progress;

/// Types of `tokenizer.ggml.token_type`.
const NORMAL: i64 = 1;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;

/// Write the model to a file.
///
/// # Errors
/// A tokenizer that the format cannot say, files that cannot be read or written.
pub fn write_gguf(source: &Source, file: &Path, precision: Precision) -> Result<(), ExportError> {
    let kind = source.kind(precision)?;
    let stored = match kind {
        Kind::BFloat16 => TensorKind::BF16,
        Kind::Half => TensorKind::F16,
        _ => TensorKind::F32,
    };
    let mut metadata = described(source, stored)?;
    match source.weights().gguf() {
        Some(own) => metadata.extend(taken_over(own)),
        None => metadata.extend(tokenizer(source)?),
    }
    let mut tensors = vec![];
    let mut names = vec![];
    for (name, shape) in expected_tensors(source.config()) {
        let unknown = || ExportError::Problem(format!("tensor `{name}` has no name in GGUF"));
        tensors.push(NewTensor {
            name: gguf_name(&name).ok_or_else(unknown)?,
            kind: if shape.len() == 1 {
                TensorKind::F32
            } else {
                stored
            },
            shape: shape.iter().map(|n| *n as usize).collect(),
        });
        names.push(name);
    }
    let divisors = match &source.config().rope_scaling {
        RopeScaling::None => None,
        RopeScaling::Factors(factors) => Some(factors.clone()),
        RopeScaling::Llama3 { .. } => {
            let mut plain = source.config().clone();
            plain.rope_scaling = RopeScaling::None;
            let scaled = inverse_frequencies(source.config());
            let pairs = inverse_frequencies(&plain).into_iter().zip(scaled);
            Some(
                pairs
                    .map(|(plain, scaled)| plain / scaled)
                    .collect::<Vec<f32>>(),
            )
        }
    };
    if let Some(factors) = &divisors {
        tensors.push(NewTensor {
            name: ROPE_FREQS.into(),
            shape: vec![factors.len()],
            kind: TensorKind::F32,
        });
    }
    let mut progress = Progress::new("tensors written", tensors.len());
    let mut next = names.iter();
    // What went wrong within, since the writer knows errors of writing alone.
    let mut inner = None;
    let written = write_atomic_with(file, |out| {
        write(out, &metadata, &tensors, &mut |tensor| {
            let bytes = match next.next() {
                Some(name) => one(source, name, tensor, kind),
                None => Ok(divisors
                    .iter()
                    .flatten()
                    .flat_map(|x| x.to_le_bytes())
                    .collect()),
            };
            progress.add(1);
            bytes.map_err(|error| {
                let text = error.to_string();
                inner = Some(error);
                io::Error::other(text)
            })
        })
    });
    progress.finish();
    match (inner, written) {
        (Some(error), _) => Err(error),
        (None, written) => Ok(written?),
    }
}

/// The bytes of one tensor, rows of Llama's q and k in the order that GGUF has them in.
fn one(
    source: &Source,
    name: &str,
    tensor: &NewTensor,
    kind: Kind,
) -> Result<Vec<u8>, ExportError> {
    check()?;
    let mut values = source.tensor(name)?;
    if let Some(heads) = source.weights().permuted_heads(name) {
        let size = values.size();
        let (outputs, inputs) = (size[0] as usize, size.get(1).map_or(1, |n| *n as usize));
        let flat = Vec::<f32>::try_from(values.flatten(0, -1))
            .map_err(|e| ExportError::Problem(format!("tensor `{name}`: {e}")))?;
        let ordered = permute(&flat, heads, outputs, inputs);
        values = tch::Tensor::from_slice(&ordered).view(size.as_slice());
    }
    let kind = if tensor.kind == TensorKind::F32 {
        Kind::Float
    } else {
        kind
    };
    Ok(bytes_of(name, &values, kind)?.1)
}

type Entry = (String, Value);

fn described(source: &Source, stored: TensorKind) -> Result<Vec<Entry>, ExportError> {
    let shape = source.config();
    let family = match shape.family {
        Family::Llama => "llama",
        Family::Qwen3 => "qwen3",
    };
    let name = source.origin.split('@').next().unwrap_or(&source.origin);
    let name = name.rsplit('/').next().unwrap_or(name);
    let text = |key: &str, value: &str| (key.to_owned(), Value::String(value.to_owned()));
    let count = |key: &str, n: i64| (format!("{family}.{key}"), Value::Unsigned(n as u64));
    let number = |key: &str, x: f64| (format!("{family}.{key}"), Value::Float(x));
    // `general.file_type`: ALL_F32, MOSTLY_F16, MOSTLY_BF16.
    let file_type = match stored {
        TensorKind::F16 => 1,
        TensorKind::BF16 => 32,
        _ => 0,
    };
    Ok(vec![
        text("general.architecture", family),
        text("general.type", "model"),
        text("general.name", name),
        ("general.file_type".into(), Value::Unsigned(file_type)),
        ("general.quantization_version".into(), Value::Unsigned(2)),
        count("block_count", shape.layers),
        count("context_length", shape.max_position),
        count("embedding_length", shape.hidden_size),
        count("feed_forward_length", shape.intermediate_size),
        count("attention.head_count", shape.heads),
        count("attention.head_count_kv", shape.kv_heads),
        count("attention.key_length", shape.head_dim),
        count("attention.value_length", shape.head_dim),
        count("rope.dimension_count", shape.head_dim),
        count("vocab_size", shape.vocab_size),
        number("attention.layer_norm_rms_epsilon", shape.rms_norm_eps),
        number("rope.freq_base", shape.rope_theta),
    ])
}

/// The tokenizer of another GGUF file.
fn taken_over(file: &GgufFile) -> Vec<Entry> {
    let keys = file.keys().filter(|key| key.starts_with("tokenizer."));
    keys.filter_map(|key| Some((key.to_owned(), file.metadata(key)?.clone())))
        .collect()
}

/// The tokenizer of a folder: byte-level BPE by one of the rules that have a name in GGUF.
fn tokenizer(source: &Source) -> Result<Vec<Entry>, ExportError> {
    let own = source.codec.tokenizer();
    let wrong = |what: &str| {
        ExportError::Problem(format!(
            "{}: its tokenizer {what}; only byte-level BPE that cuts words as GPT-2, SmolLM, Llama 3 or Qwen 2 do can be written \
             as GGUF here: use llama.cpp's convert_hf_to_gguf.py on a merged folder",
            source.path.display()
        ))
    };
    let rule = own
        .gguf_rule()
        .ok_or_else(|| wrong("cuts words by another rule"))?;
    let json = own.to_json()?;
    let vocabulary = json["model"]["vocab"].as_object();
    let vocabulary = vocabulary.ok_or_else(|| wrong("has no vocabulary"))?;
    let rows = source.config().vocab_size as usize;
    // Rows of the embedding that are no tokens still need a name.
    let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
    let mut types = vec![UNUSED; rows];
    let mut put = |id: Option<u64>, token: &str, kind: i64| {
        let id = id
            .and_then(|id| usize::try_from(id).ok())
            .filter(|id| *id < rows);
        let id = id.ok_or_else(|| wrong(&format!("has `{token}` outside the embedding")))?;
        (tokens[id], types[id]) = (token.to_owned(), kind);
        Ok::<_, ExportError>(())
    };
    for (token, id) in vocabulary {
        put(id.as_u64(), token, NORMAL)?;
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let kind = match added["special"].as_bool() {
            Some(true) => CONTROL,
            _ => USER_DEFINED,
        };
        put(
            added["id"].as_u64(),
            added["content"].as_str().unwrap_or_default(),
            kind,
        )?;
    }
    let merges = json["model"]["merges"].as_array();
    let merge = |pair: &Json| match pair {
        Json::String(text) => Some(text.clone()),
        pair => Some(format!("{} {}", pair[0].as_str()?, pair[1].as_str()?)),
    };
    let merges: Option<Vec<String>> = merges.into_iter().flatten().map(merge).collect();
    let merges = merges.ok_or_else(|| wrong("has merges that are no pairs"))?;
    let entry = |key: &str, value| (format!("tokenizer.{key}"), value);
    let mut entries = vec![
        entry("ggml.model", Value::String("gpt2".into())),
        entry("ggml.pre", Value::String(rule.into())),
        entry("ggml.tokens", Value::Array(Array::String(tokens))),
        entry("ggml.token_type", Value::Array(Array::Signed(types))),
        entry("ggml.merges", Value::Array(Array::String(merges))),
        // A chat template writes all that a prompt needs.
        entry("ggml.add_bos_token", Value::Bool(false)),
        entry(
            "chat_template",
            Value::String(source.codec.template_source().into()),
        ),
    ];
    // Programs stop at this token, so it is the one that ends a turn.
    let stops = source.codec.stop_ids();
    let eos = own.eos().or(stops.first().copied());
    let turn = stops.iter().copied().find(|id| Some(*id) != own.eos());
    for (key, id) in [("bos", own.bos()), ("eos", eos), ("eot", turn)] {
        if let Some(id) = id {
            entries.push(entry(
                &format!("ggml.{key}_token_id"),
                Value::Unsigned(id.into()),
            ));
        }
    }
    Ok(entries)
}
