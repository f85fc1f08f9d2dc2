//! Model folders and adapters that cannot be used.

use std::fs;
use std::path::Path;

use atp_pipeline::model::tensors::{encode_safetensors, read_safetensors};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use super::{Row, row, typed};
use crate::support::fixture;

/// The model `model` of the workplace is asked for a word.
pub fn asked(_: &Path) -> Vec<String> {
    typed(&[
        "sample",
        "--model",
        "model",
        "--max-new-tokens",
        "4",
        "hello",
    ])
}

/// Change a JSON file of the model.
fn edit(folder: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let path = folder.join("model").join(file);
    let text = fs::read_to_string(&path).expect("a file");
    let mut value = serde_json::from_str(&text).expect("JSON");
    change(&mut value);
    fs::write(path, value.to_string()).expect("a file");
}

/// Change the weights of the model.
fn weights(folder: &Path, change: impl FnOnce(&mut Vec<(String, Tensor)>)) {
    let path = folder.join("model/model.safetensors");
    let mut tensors: Vec<_> = read_safetensors(&path)
        .expect("weights")
        .into_iter()
        .collect();
    change(&mut tensors);
    fs::write(path, encode_safetensors(&tensors).expect("bytes")).expect("a file");
}

/// The place of a tensor in the list.
fn find<'a>(tensors: &'a mut [(String, Tensor)], name: &str) -> &'a mut Tensor {
    let found = tensors.iter_mut().find(|(other, _)| other.ends_with(name));
    &mut found.expect("a tensor").1
}

macro_rules! config {
    ($input:literal, $field:literal: $value:tt, $says:expr) => {
        row(
            $input,
            |folder| {
                edit(folder, "config.json", |config| {
                    config[$field] = json!($value)
                });
                asked(folder)
            },
            &$says,
        )
    };
}

/// The rows.
pub fn rows() -> Vec<Row> {
    vec![
        row(
            "folder that is not there",
            |_| typed(&["sample", "--model", "./nothing", "hello"]),
            &["model `./nothing`: ./nothing is not there", "owner/name"],
        ),
        row(
            "folder without config.json",
            |folder| {
                fs::remove_file(folder.join("model/config.json")).expect("a file");
                asked(folder)
            },
            &[
                "model `model`: model has no config.json",
                "name a model folder",
            ],
        ),
        row(
            "config.json that is cut",
            |folder| {
                fs::write(folder.join("model/config.json"), "{\"model_type\": ").expect("a file");
                asked(folder)
            },
            &["model/config.json: ", "expected JSON"],
        ),
        config!("another architecture", "model_type": "gpt2", [
            "model/config.json: field `model_type`: expected `llama` or `qwen3`, got `gpt2`"
        ]),
        config!("more layers than any model", "num_hidden_layers": 268435456, [
            "model/config.json: field `num_hidden_layers`: expected 1 to 1024, got 268435456"
        ]),
        config!("context that no memory holds", "max_position_embeddings": 268435456, [
            "model/config.json: field `max_position_embeddings`: expected 1 to 16777216 positions, got 268435456"
        ]),
        config!("heads that do not divide", "num_key_value_heads": 3, [
            "model/config.json: field `num_key_value_heads`: expected a divisor of 4 query heads, got 3"
        ]),
        config!("size as a text", "hidden_size": "32", [
            "model/config.json: field `hidden_size`: expected a positive whole number", "got \"32\""
        ]),
        config!("another size than the weights", "intermediate_size": 128, [
            "model: tensor `model.layers.0.mlp.down_proj.weight`: expected [32, 128], got [32, 64]"
        ]),
        config!("norm's ε of zero", "rms_norm_eps": 0.0, [
            "model/config.json: field `rms_norm_eps`: expected a positive number, got 0.0"
        ]),
        config!("vocabulary smaller than the tokenizer's", "vocab_size": 300, [
            "model: the tokenizer has 485 tokens, the model's embedding only 300 rows; they do not belong together"
        ]),
        row(
            "weights that are not there",
            |folder| {
                fs::remove_file(folder.join("model/model.safetensors")).expect("a file");
                asked(folder)
            },
            &["model/model.safetensors: No such file"],
        ),
        row(
            "missing shard",
            |folder| {
                let model = folder.join("model");
                let map = json!({"weight_map": {
                    "model.norm.weight": "model-00001-of-00002.safetensors",
                    "model.embed_tokens.weight": "model-00002-of-00002.safetensors"}});
                fs::rename(
                    model.join("model.safetensors"),
                    model.join("model-00001-of-00002.safetensors"),
                )
                .expect("a file");
                fs::write(model.join("model.safetensors.index.json"), map.to_string())
                    .expect("a file");
                asked(folder)
            },
            &["model/model-00002-of-00002.safetensors: No such file"],
        ),
        row(
            "index that leads out of the folder",
            |folder| {
                let map = json!({"weight_map": {"model.norm.weight": "../../etc/passwd"}});
                fs::write(
                    folder.join("model/model.safetensors.index.json"),
                    map.to_string(),
                )
                .expect("a file");
                asked(folder)
            },
            &[
                "model.safetensors.index.json: field `weight_map`: expected a file name, got \"../../etc/passwd\"",
            ],
        ),
        row(
            "tensor that is missing",
            |folder| {
                weights(folder, |tensors| {
                    tensors.retain(|(name, _)| name != "model.norm.weight")
                });
                asked(folder)
            },
            &["model: tensor `model.norm.weight`: expected [32], got no such tensor"],
        ),
        row(
            "tensor that is too many",
            |folder| {
                weights(folder, |tensors| {
                    tensors.push((
                        "lm_head.bias".into(),
                        Tensor::zeros([4], (Kind::Float, tch::Device::Cpu)),
                    ))
                });
                asked(folder)
            },
            &["model: tensor `lm_head.bias`: expected no such tensor"],
        ),
        row(
            "tensor of another shape",
            |folder| {
                weights(folder, |tensors| {
                    let tensor = find(tensors, "layers.1.self_attn.k_proj.weight");
                    *tensor = tensor.transpose(0, 1).contiguous();
                });
                asked(folder)
            },
            &[
                "model: tensor `model.layers.1.self_attn.k_proj.weight`: expected [16, 32], got [32, 16]",
            ],
        ),
        row(
            "weights of whole numbers",
            |folder| {
                weights(folder, |tensors| {
                    let tensor = find(tensors, "layers.0.mlp.up_proj.weight");
                    *tensor = tensor.to_kind(Kind::Int64);
                });
                asked(folder)
            },
            &[
                "model: tensor `model.layers.0.mlp.up_proj.weight`: expected F32, F16 or BF16, got Int64",
            ],
        ),
        row(
            "weights that are NaN",
            |folder| {
                weights(folder, |tensors| {
                    let _ = find(tensors, "layers.1.mlp.up_proj.weight")
                        .get(3)
                        .fill_(f64::NAN);
                });
                asked(folder)
            },
            &[
                "model: tensor `model.layers.1.mlp.up_proj.weight`: expected finite numbers, got 32 of 2048 that are not",
                "fetch or make it again",
            ],
        ),
        row(
            "one weight that is infinite",
            |folder| {
                weights(folder, |tensors| {
                    let _ = find(tensors, "embed_tokens.weight")
                        .get(0)
                        .get(0)
                        .fill_(f64::INFINITY);
                });
                asked(folder)
            },
            &["tensor `model.embed_tokens.weight`: expected finite numbers, got 1 of"],
        ),
        row(
            "no tokenizer.json",
            |folder| {
                fs::remove_file(folder.join("model/tokenizer.json")).expect("a file");
                asked(folder)
            },
            &["cannot read `model/tokenizer.json`: No such file"],
        ),
        row(
            "tokenizer.json that is cut",
            |folder| {
                let path = folder.join("model/tokenizer.json");
                let text = fs::read(&path).expect("a file");
                fs::write(path, &text[..text.len() / 2]).expect("a file");
                asked(folder)
            },
            &["`model/tokenizer.json`: not a tokenizer.json that is read: EOF"],
        ),
        row(
            "tokenizer of another kind",
            |folder| {
                edit(folder, "tokenizer.json", |value| {
                    value["model"]["type"] = json!("Telepathy")
                });
                asked(folder)
            },
            &["`model/tokenizer.json`: not a tokenizer.json that is read"],
        ),
        row(
            "tokenizer without a vocabulary",
            |folder| {
                edit(folder, "tokenizer.json", |value| {
                    value["model"]["vocab"] = json!({});
                    value["model"]["merges"] = json!([]);
                    value["added_tokens"] = json!([]);
                });
                asked(folder)
            },
            &["`model/tokenizer.json`: the vocabulary is empty"],
        ),
        row(
            "end token that the tokenizer lacks",
            |folder| {
                edit(folder, "tokenizer_config.json", |value| {
                    value["eos_token"] = json!("<|nowhere|>")
                });
                asked(folder)
            },
            &[
                "`model/tokenizer_config.json`: `eos_token`: expected a token of tokenizer.json, got \"<|nowhere|>\"",
            ],
        ),
        row(
            "no chat template",
            |folder| {
                edit(folder, "tokenizer_config.json", |value| {
                    value["chat_template"] = Value::Null
                });
                asked(folder)
            },
            &[
                "`model`: no chat template: expected chat_template.jinja",
                "is this an instruction-tuned model?",
            ],
        ),
        template(
            "chat template that is torn",
            "{% for m in messages %}{{ m.content }",
            &["chat template: syntax error"],
        ),
        template(
            "chat template that never ends",
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            &["chat template: ", "fuel"],
        ),
        template(
            "chat template that writes without end",
            "{% for i in range(99999) %}{{ 'x' * 999999 }}{% endfor %}",
            &["chat template: it writes more than 16777216 bytes for 1 messages"],
        ),
        template(
            "chat template that doubles a text until memory ends",
            "{% set n = namespace(x='xxxxxxxxxxxxxxxx') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x|length }}",
            &[
                "chat template: it takes more than 1 GiB of memory",
                "take another model",
            ],
        ),
        template(
            "chat template that reads a file",
            "{% include '/etc/passwd' %}",
            &["chat template: ", "/etc/passwd"],
        ),
        template(
            "chat template that reaches for Python",
            "{{ ''.__class__.__mro__ }}",
            &["chat template: "],
        ),
        template(
            "chat template that calls itself",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            &["chat template: ", "recursion"],
        ),
    ]
}

/// A row whose model has this chat template.
fn template(input: &'static str, source: &'static str, says: &'static [&'static str]) -> Row {
    let write = move |folder: &Path| {
        fs::write(folder.join("model/chat_template.jinja"), source).expect("a file");
        asked(folder)
    };
    row(input, write, says)
}

/// A valid adapter of the wanted kind in `adapter`, and a request with it.
fn adapted(folder: &Path, change: impl FnOnce(&Path)) -> Vec<String> {
    let adapter = folder.join("adapter");
    fs::create_dir(&adapter).expect("a folder");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(
            fixture("oracle/lora/all_linear").join(file),
            adapter.join(file),
        )
        .expect("a file");
    }
    change(&adapter);
    [asked(folder), typed(&["--adapter", "adapter"])].concat()
}

fn adapter_config(adapter: &Path, field: &str, value: Value) {
    let path = adapter.join("adapter_config.json");
    let mut config: Value =
        serde_json::from_str(&fs::read_to_string(&path).expect("a file")).expect("JSON");
    config[field] = value;
    fs::write(path, config.to_string()).expect("a file");
}

/// The rows of adapters.
pub fn adapter_rows() -> Vec<Row> {
    vec![
        row(
            "adapter of another model",
            |folder| adapted(folder, |_| ()),
            &[
                "adapter: tensor `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`: expected [4, 32], got [4, 24]",
            ],
        ),
        row(
            "folder without adapter_config.json",
            |folder| {
                adapted(folder, |adapter| {
                    fs::remove_file(adapter.join("adapter_config.json")).expect("a file")
                })
            },
            &[
                "adapter/adapter_config.json: No such file",
                "an adapter is a folder with adapter_config.json",
            ],
        ),
        row(
            "adapter weights that are cut",
            |folder| {
                adapted(folder, |adapter| {
                    let path = adapter.join("adapter_model.safetensors");
                    let bytes = fs::read(&path).expect("a file");
                    fs::write(path, &bytes[..bytes.len() - 4]).expect("a file");
                })
            },
            &[
                "adapter/adapter_model.safetensors: not a whole safetensors file",
                "fetch or make it again",
            ],
        ),
        row(
            "adapter of another method",
            |folder| {
                adapted(folder, |adapter| {
                    adapter_config(adapter, "use_dora", json!(true))
                })
            },
            &["adapter/adapter_config.json: field `use_dora`: expected false, got true"],
        ),
        row(
            "adapter of rank 0",
            |folder| adapted(folder, |adapter| adapter_config(adapter, "r", json!(0))),
            &[
                "adapter/adapter_config.json: field `r`: expected a positive whole number",
                "got 0",
            ],
        ),
    ]
}
