"""PEFT's logits with an adapter that this project's program trained and wrote.

The adapter is made by the Rust side, `cargo test --test integration write_our_adapter -- --ignored`: fifty steps of DPO
on the tiny model of `dpo/`. It lies in `our_adapter/adapter`; this script only reads it.
"""
import json

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from common import FIXTURES, folder, largest_relative, save_json, save_tensors, say, versions
from tiny import VOCAB


@torch.no_grad()
def main():
    out = folder("our_adapter")
    base = AutoModelForCausalLM.from_pretrained(FIXTURES / "dpo" / "model", dtype=torch.float32).eval()
    ids = torch.randint(3, VOCAB, (1, 24), generator=torch.Generator().manual_seed(81))
    off = base(ids).logits[0]
    model = PeftModel.from_pretrained(base, out / "adapter").eval()
    # PEFT only warns of missing keys, so what it holds is compared with the file.
    held, written = get_peft_model_state_dict(model), load_file(out / "adapter" / "adapter_model.safetensors")
    if held.keys() != written.keys() or any(not torch.equal(held[k], written[k]) for k in held):
        raise SystemExit("PEFT does not hold what the file says")
    on = model(ids).logits[0]
    merged = model.merge_and_unload()(ids).logits[0]
    save_tensors(out / "expected.safetensors", {"ids": ids[0], "logits_on": on, "logits_merged": merged})
    settings = json.loads((out / "adapter" / "adapter_config.json").read_text())
    record = {"versions": versions("peft"), "on_against_off": largest_relative(on, off),
              "merged_against_on": largest_relative(merged, on), "r": settings["r"], "alpha": settings["lora_alpha"]}
    say(record)
    if record["on_against_off"] < 0.05:
        raise SystemExit("the adapter hardly does anything")
    save_json(out / "our_adapter.json", record)


if __name__ == "__main__":
    main()
