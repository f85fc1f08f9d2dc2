"""bf16 logits of the tiny models by transformers, and how far they are from its own fp32.

Needs the directories that `tiny_models.py` wrote. Weights are cast to bf16 as transformers does on loading. Two correct
bf16 forwards differ by the order of their roundings, so the distance to fp32 is recorded beside the logits: a second
implementation should be about as far from fp32, and from this one, as this one is from fp32.
"""
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from common import FIXTURES, folder, largest_relative, save_json, save_tensors, say, versions
from tiny import VOCAB

# Models that are also asked at many positions, where angles of the rotation rounded to bf16 would be radians off.
LONG = {"llama_gqa4_llama3": 91, "qwen3_gqa2_tied_headdim": 92}
LENGTH, STEP = 1500, 50
MODELS = ("llama_gqa2_headdim", "llama_gqa4_llama3", "qwen3_gqa2_tied_headdim", "qwen3_gqa4_sharded")


@torch.no_grad()
def main():
    out = folder("bf16_logits")
    record = {"versions": versions(), "models": {}}
    for name in MODELS:
        path = FIXTURES / "tiny_models" / name
        expected = load_file(FIXTURES / "tiny_models" / f"{name}.expected.safetensors")
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
        tensors, apart = {}, []
        for i in range(2):
            logits = model(expected[f"ids_{i}"][None]).logits[0]
            if logits.dtype != torch.bfloat16:
                raise SystemExit(f"{name}: logits are {logits.dtype}")
            tensors[f"logits_{i}"] = logits
            apart.append(largest_relative(logits, expected[f"logits_{i}"]))
        if name in LONG:
            config = AutoConfig.from_pretrained(path)
            config.max_position_embeddings = LENGTH
            ids = torch.randint(3, VOCAB, (LENGTH,), generator=torch.Generator().manual_seed(LONG[name]))
            rows = torch.arange(STEP - 1, LENGTH, STEP)
            tensors |= {"long_ids": ids, "long_rows": rows}
            for key, dtype in (("long_logits", torch.bfloat16), ("long_fp32", torch.float32)):
                long = AutoModelForCausalLM.from_pretrained(path, config=config, dtype=dtype).eval()
                tensors[key] = long(ids[None]).logits[0][rows]
            apart.append(largest_relative(tensors["long_logits"], tensors["long_fp32"]))
        save_tensors(out / f"{name}.safetensors", tensors)
        record["models"][name] = {"fp32_relative": apart}
        say(f"{name}: bf16 against fp32 {apart}")
    save_json(out / "bf16_logits.json", record)


if __name__ == "__main__":
    main()
