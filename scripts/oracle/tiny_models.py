"""Tiny random Llama and Qwen3 checkpoints in Hugging Face directories, and their logits by transformers in fp32.

Each directory is read back before its logits are taken, so what is compared is what is on disk. `*_legacy` hold the
same weights under a config.json as older releases wrote it (`rope_theta`, `rope_scaling` at the top level).
"""
import json
import shutil

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from common import folder, largest_relative, save_json, save_tensors, say, versions
from tiny import EOS, PAD, VOCAB, fill

DEFAULT = {"rope_type": "default", "rope_theta": 10000.0}
LARGE = {"rope_type": "default", "rope_theta": 1000000.0}
# With head_dim 16 the wavelengths 6.3, 19.9, 63, … fall one below 32/4, one between, the rest above 32/1: every branch.
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
LENGTHS = (48, 11)

# name: (family, seed, config, shard size)
MODELS = {
    "llama_gqa1_tied": ("llama", 21, dict(hidden_size=32, num_attention_heads=4, num_key_value_heads=4, head_dim=8,
                                          tie_word_embeddings=True, rope_parameters=DEFAULT), None),
    "llama_gqa2_headdim": ("llama", 22, dict(hidden_size=24, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                                             tie_word_embeddings=False, rope_parameters=LARGE), None),
    "llama_gqa4_llama3": ("llama", 23, dict(hidden_size=32, num_attention_heads=4, num_key_value_heads=1, head_dim=16,
                                            tie_word_embeddings=False, rope_parameters=LLAMA3), None),
    "llama_gqa2_bias": ("llama", 24, dict(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                                          tie_word_embeddings=True, attention_bias=True, rope_parameters=DEFAULT),
                        None),
    "qwen3_gqa1_untied": ("qwen3", 25, dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=2, head_dim=16,
                                            tie_word_embeddings=False, rope_parameters=DEFAULT), None),
    "qwen3_gqa2_tied_headdim": ("qwen3", 26, dict(hidden_size=24, num_attention_heads=4, num_key_value_heads=2,
                                                  head_dim=16, tie_word_embeddings=True, rope_parameters=LARGE), None),
    "qwen3_gqa4_sharded": ("qwen3", 27, dict(hidden_size=32, num_attention_heads=4, num_key_value_heads=1, head_dim=8,
                                             tie_word_embeddings=False, rope_parameters=LARGE), "20KB"),
}
LEGACY = ("llama_gqa4_llama3", "qwen3_gqa2_tied_headdim")
FAMILIES = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}


def as_older_releases(config):
    """config.json in the older style: rope settings at the top level, torch_dtype for dtype."""
    config = dict(config)
    rope = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.51.0"
    return config


@torch.no_grad()
def logits_of(path, ids):
    """fp32 logits of each sequence alone, and how far fp32 is from fp64."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    found = [model(row[None]).logits[0] for row in ids]
    model = model.double()
    return found, max(largest_relative(got, model(row[None]).logits[0]) for got, row in zip(found, ids))


def main():
    out = folder("tiny_models")
    record = {"versions": versions(), "vocab_size": VOCAB, "lengths": list(LENGTHS), "models": {}}
    for name, (family, seed, settings, shard) in MODELS.items():
        config_class, model_class = FAMILIES[family]
        eps = 1e-5 if family == "llama" else 1e-6
        config = config_class(vocab_size=VOCAB, intermediate_size=40, num_hidden_layers=2, max_position_embeddings=128,
                              rms_norm_eps=eps, bos_token_id=0, eos_token_id=EOS, pad_token_id=PAD, **settings)
        model = fill(model_class(config), seed)
        path = out / name
        shutil.rmtree(path, ignore_errors=True)
        model.save_pretrained(path, **({"max_shard_size": shard} if shard else {}))
        for file in path.iterdir():
            file.chmod(0o644)
        generator = torch.Generator().manual_seed(1000 + seed)
        ids = [torch.randint(3, VOCAB, (length,), generator=generator) for length in LENGTHS]
        logits, rounding = logits_of(path, ids)
        directories = [name]
        if name in LEGACY:
            legacy = out / f"{name}_legacy"
            shutil.rmtree(legacy, ignore_errors=True)
            shutil.copytree(path, legacy)
            save_json(legacy / "config.json", as_older_releases(json.loads((path / "config.json").read_text())))
            again, _ = logits_of(legacy, ids)
            if not all(torch.equal(a, b) for a, b in zip(logits, again)):
                raise SystemExit(f"{name}: the older config style gives other logits")
            directories.append(legacy.name)
        save_tensors(out / f"{name}.expected.safetensors", {
            "ids_0": ids[0], "ids_1": ids[1], "logits_0": logits[0], "logits_1": logits[1]})
        record["models"][name] = {
            "family": family, "directories": directories, "fp64_relative": rounding,
            "files": sorted(file.name for file in path.iterdir()),
            "parameters": sum(p.numel() for p in model.parameters()), "logits_std": logits[0].std().item()}
        say(f"{name}: {record['models'][name]}")
    save_json(out / "tiny_models.json", record)


if __name__ == "__main__":
    main()
