//! A whole model as a Hugging Face folder.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use super::{ExportError, Precision, Source, card, new_folder, read_json, write, write_json};
use crate::artifact::ArtifactError;
use crate::model::config::{Family, RopeScaling};
use crate::model::weights::expected_tensors;
use crate::runtime::interrupt::check;
use crate::runtime::progress::Progress;

/// Files of a model's folder that are taken over as they are.
const COPIED: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
];

/// Write the model to a new folder, its weights in files of at most `shard` bytes (a larger tensor has a file alone).
///
/// # Errors
/// A folder that is taken, a shape that the format cannot say, files that cannot be read or written.
pub fn write_merged(
    source: &Source,
    folder: &Path,
    precision: Precision,
    shard: u64,
) -> Result<(), ExportError> {
    let kind = source.kind(precision)?;
    let described = config(source, kind)?;
    new_folder(folder, |place| {
        write_json(place, "config.json", &described)?;
        match source.weights().gguf() {
            None => copy_text(source, place)?,
            Some(_) => write_text(source, place)?,
        }
        write_weights(source, place, kind, shard)?;
        write(place, "README.md", card::merged(source).as_bytes())
    })
}

/// Names of the tensors of each file.
fn shards(source: &Source, kind: Kind, most: u64) -> Vec<Vec<String>> {
    let width = kind.elt_size_in_bytes() as u64;
    let (mut files, mut bytes) = (vec![vec![]], 0);
    for (name, shape) in expected_tensors(source.config()) {
        let size = shape.iter().product::<i64>() as u64 * width;
        if bytes > 0 && bytes + size > most {
            files.push(vec![]);
            bytes = 0;
        }
        bytes += size;
        if let Some(file) = files.last_mut() {
            file.push(name);
        }
    }
    files
}

fn write_weights(source: &Source, folder: &Path, kind: Kind, most: u64) -> Result<(), ExportError> {
    let files = shards(source, kind, most);
    let (count, mut map, mut total) = (files.len(), BTreeMap::new(), 0u64);
    let tensors = files.iter().map(Vec::len).sum();
    let mut progress = Progress::new("tensors written", tensors);
    for (number, names) in files.into_iter().enumerate() {
        let file = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
        let mut parts = vec![];
        for name in names {
            check()?;
            let (shape, bytes) = bytes_of(&name, &source.tensor(&name)?, kind)?;
            total += bytes.len() as u64;
            map.insert(name.clone(), file.clone());
            parts.push((name, shape, bytes));
            progress.add(1);
        }
        write(folder, &file, &encode(&parts, kind)?)?;
    }
    progress.finish();
    if count > 1 {
        let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
        write_json(folder, "model.safetensors.index.json", &index)?;
    }
    Ok(())
}

type Part = (String, Vec<usize>, Vec<u8>);

/// A tensor's shape and bytes; numbers that are none, or that the format cannot hold, are refused.
pub(super) fn bytes_of(
    name: &str,
    tensor: &Tensor,
    kind: Kind,
) -> Result<(Vec<usize>, Vec<u8>), ExportError> {
    let fail = |e: tch::TchError| ExportError::Problem(format!("tensor `{name}`: {e}"));
    let tensor = tensor.f_to_kind(kind).map_err(fail)?.contiguous();
    if tensor
        .f_isfinite()
        .and_then(|t| t.f_all())
        .map_err(fail)?
        .int64_value(&[])
        == 0
    {
        return Err(ExportError::Problem(format!(
            "tensor `{name}`: some numbers are not finite in {kind:?}; write it in another precision, or look at the weights"
        )));
    }
    let mut bytes = vec![0u8; tensor.numel() * kind.elt_size_in_bytes()];
    tensor
        .f_copy_data_u8(&mut bytes, tensor.numel())
        .map_err(fail)?;
    Ok((tensor.size().iter().map(|n| *n as usize).collect(), bytes))
}

fn encode(parts: &[Part], kind: Kind) -> Result<Vec<u8>, ExportError> {
    let dtype = match kind {
        Kind::BFloat16 => Dtype::BF16,
        Kind::Half => Dtype::F16,
        _ => Dtype::F32,
    };
    let fail = |e: safetensors::SafeTensorError| ExportError::Problem(e.to_string());
    let views: Result<Vec<_>, _> = parts
        .iter()
        .map(|(name, shape, bytes)| {
            let view = TensorView::new(dtype, shape.clone(), bytes)?;
            Ok((name.as_str(), view))
        })
        .collect();
    // Transformers asks which framework's tensors these are.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views.map_err(fail)?, Some(metadata)).map_err(fail)
}

/// `config.json`: the model's own, or one that says the same as its GGUF file.
fn config(source: &Source, kind: Kind) -> Result<Value, ExportError> {
    let dtype = match kind {
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        _ => "float32",
    };
    let mut described = match source.weights().gguf() {
        None => read_json(&source.path.join("config.json"))?,
        Some(_) => from_gguf(source)?,
    };
    // Versions before 5 read the one, later ones the other.
    described["torch_dtype"] = json!(dtype);
    if described.get("dtype").is_some() {
        described["dtype"] = json!(dtype);
    }
    Ok(described)
}

fn from_gguf(source: &Source) -> Result<Value, ExportError> {
    let shape = source.config();
    let (architecture, family) = match shape.family {
        Family::Llama => ("LlamaForCausalLM", "llama"),
        Family::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
    };
    let scaling = match &shape.rope_scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position,
        } => json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor, "original_max_position_embeddings": original_max_position,
        }),
        RopeScaling::Factors(_) => {
            return Err(ExportError::Problem(format!(
                "{}: it has one rotary divisor a frequency, which config.json cannot say; export from the model's own folder, \
                 or as GGUF",
                source.path.display()
            )));
        }
    };
    let tokenizer = source.codec.tokenizer();
    Ok(json!({
        "architectures": [architecture], "model_type": family, "hidden_act": "silu",
        "vocab_size": shape.vocab_size, "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim,
        "rms_norm_eps": single(shape.rms_norm_eps), "rope_theta": single(shape.rope_theta), "rope_scaling": scaling,
        "max_position_embeddings": shape.max_position, "tie_word_embeddings": shape.tied_embeddings,
        "attention_bias": shape.attention_bias, "mlp_bias": shape.mlp_bias,
        "bos_token_id": tokenizer.bos(), "eos_token_id": tokenizer.eos(), "use_cache": true,
    }))
}

/// A number of a GGUF file as it was meant: the shortest decimal that is the same single.
fn single(x: f64) -> f64 {
    (x as f32).to_string().parse().unwrap_or(x)
}

fn copy_text(source: &Source, folder: &Path) -> Result<(), ExportError> {
    for name in COPIED {
        let from = source.path.join(name);
        match std::fs::read(&from) {
            Ok(bytes) => write(folder, name, &bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(ArtifactError::io("read", &from)(error).into()),
        }
    }
    Ok(())
}

/// Tokenizer, template and end tokens of a GGUF file.
fn write_text(source: &Source, folder: &Path) -> Result<(), ExportError> {
    let codec = &source.codec;
    let tokenizer = codec.tokenizer();
    let spelt = |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id));
    write_json(folder, "tokenizer.json", &tokenizer.to_json()?)?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false,
        "bos_token": spelt(tokenizer.bos()), "eos_token": spelt(tokenizer.eos()),
        "model_max_length": source.config().max_position,
    });
    write_json(folder, "tokenizer_config.json", &config)?;
    write(
        folder,
        "chat_template.jinja",
        codec.template_source().as_bytes(),
    )?;
    let generation = json!({ "bos_token_id": tokenizer.bos(), "eos_token_id": codec.stop_ids() });
    write_json(folder, "generation_config.json", &generation)
}
