//! What a GGUF file calls things: its shape keys and tensor names, translated to those of the checkpoints.

use super::config::{Family, ModelConfig, RopeScaling};
use super::weights::WeightError;
use crate::formats::gguf::GgufFile;

/// Name of the tensor of rotary divisors, which is a part of the configuration.
pub const ROPE_FREQS: &str = "rope_freqs.weight";

/// The checkpoint's name of a GGUF tensor; none for one that is no weight of a served family.
pub fn checkpoint_name(gguf: &str) -> Option<String> {
    match gguf {
        "token_embd.weight" => return Some("model.embed_tokens.weight".into()),
        "output_norm.weight" => return Some("model.norm.weight".into()),
        "output.weight" => return Some("lm_head.weight".into()),
        _ => {}
    }
    let (layer, rest) = gguf.strip_prefix("blk.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (module, leaf) = rest.rsplit_once('.')?;
    let module = MODULES.iter().find(|(name, _)| *name == module)?.1;
    Some(format!("model.layers.{layer}.{module}.{leaf}"))
}

/// GGUF's name of a checkpoint's tensor.
pub fn gguf_name(checkpoint: &str) -> Option<String> {
    match checkpoint {
        "model.embed_tokens.weight" => return Some("token_embd.weight".into()),
        "model.norm.weight" => return Some("output_norm.weight".into()),
        "lm_head.weight" => return Some("output.weight".into()),
        _ => {}
    }
    let (layer, rest) = checkpoint.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, leaf) = rest.rsplit_once('.')?;
    let found = MODULES.iter().find(|(_, name)| *name == module)?.0;
    Some(format!("blk.{layer}.{found}.{leaf}"))
}

/// Modules of a layer: GGUF's names and the checkpoint's.
const MODULES: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The shape of the model in a GGUF file.
pub fn config(file: &GgufFile) -> Result<ModelConfig, WeightError> {
    let invalid = |field: &str, problem: String| WeightError::Invalid {
        path: file.path().into(),
        what: format!("field `{field}`"),
        problem,
    };
    let architecture: &str = file.get("general.architecture")?;
    let family = match architecture {
        "llama" => Family::Llama,
        "qwen3" => Family::Qwen3,
        other => {
            return Err(invalid(
                "general.architecture",
                format!("expected `llama` or `qwen3`, got `{other}`"),
            ));
        }
    };
    let key = |name: &str| format!("{architecture}.{name}");
    let count = |name: &str| -> Result<i64, WeightError> {
        let n: i64 = file.get(&key(name))?;
        let fits = (1..=1 << 28).contains(&n);
        if fits {
            Ok(n)
        } else {
            Err(invalid(&key(name), format!("expected 1 to 2^28, got {n}")))
        }
    };
    let hidden_size = count("embedding_length")?;
    let heads = count("attention.head_count")?;
    let head_dim = match file.get_opt::<i64>(&key("attention.key_length"))? {
        Some(n) if (1..=4096).contains(&n) => n,
        Some(n) => {
            return Err(invalid(
                &key("attention.key_length"),
                format!("expected 1 to 4096, got {n}"),
            ));
        }
        None => hidden_size / heads,
    };
    let has = |name: &str| file.tensor(name).is_ok();
    let rope_scaling = if has(ROPE_FREQS) {
        RopeScaling::Factors(file.values(file.tensor(ROPE_FREQS)?)?)
    } else {
        match file.get_opt::<&str>(&key("rope.scaling.type"))? {
            None | Some("none") => RopeScaling::None,
            Some(other) => {
                return Err(invalid(
                    &key("rope.scaling.type"),
                    format!("expected none, got `{other}`"),
                ));
            }
        }
    };
    let config = ModelConfig {
        family,
        vocab_size: file.tensor("token_embd.weight")?.shape()[0] as i64,
        hidden_size,
        intermediate_size: count("feed_forward_length")?,
        layers: count("block_count")?,
        heads,
        kv_heads: file
            .get_opt(&key("attention.head_count_kv"))?
            .unwrap_or(heads),
        head_dim,
        rms_norm_eps: file.get(&key("attention.layer_norm_rms_epsilon"))?,
        rope_theta: file.get_opt(&key("rope.freq_base"))?.unwrap_or(10_000.0),
        rope_scaling,
        max_position: count("context_length")?,
        tied_embeddings: !has("output.weight"),
        attention_bias: has("blk.0.attn_q.bias"),
        mlp_bias: has("blk.0.ffn_up.bias"),
        qk_norm: family == Family::Qwen3,
    };
    if config.kv_heads < 1 {
        return Err(invalid(
            &key("attention.head_count_kv"),
            format!("expected 1 or more, got {}", config.kv_heads),
        ));
    }
    config
        .check()
        .map_err(|(field, problem)| invalid(field, problem))?;
    Ok(config)
}

/// Rows of a Llama q or k projection as GGUF stores them are interleaved for another rotation; put them back.
///
/// `(heads, D / 2, 2, in)` → `(heads, 2, D / 2, in)`. Without this the model is plausible and wrong.
pub fn unpermute(values: &[f32], heads: usize, outputs: usize, inputs: usize) -> Vec<f32> {
    let dim = outputs / heads;
    let half = dim / 2;
    let mut out = Vec::with_capacity(values.len());
    for head in 0..heads {
        for row in 0..dim {
            let (side, pair) = (row / half, row % half);
            let source = head * dim + pair * 2 + side;
            out.extend_from_slice(&values[source * inputs..(source + 1) * inputs]);
        }
    }
    out
}

/// Put rows of a Llama q or k projection into GGUF's order: the inverse of [`unpermute`].
pub fn permute(values: &[f32], heads: usize, outputs: usize, inputs: usize) -> Vec<f32> {
    let dim = outputs / heads;
    let half = dim / 2;
    let mut out = Vec::with_capacity(values.len());
    for head in 0..heads {
        for row in 0..dim {
            let (pair, side) = (row / 2, row % 2);
            let source = head * dim + side * half + pair;
            out.extend_from_slice(&values[source * inputs..(source + 1) * inputs]);
        }
    }
    out
}
