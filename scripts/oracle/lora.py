"""PEFT adapter directories on the tiny models, and the logits with the adapter on, off and merged into the weights.

Needs the directories that `tiny_models.py` wrote. An adapter is read back by PEFT before its logits are taken.
"""
import torch
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

from common import FIXTURES, folder, largest_relative, save_json, save_tensors, say, versions
from tiny import VOCAB, lora_config, randomise_adapter, save_adapter

# name: (base under tiny_models, seed, changes to the LoRA configuration, factor on the update)
VARIANTS = {
    "all_linear": ("llama_gqa2_headdim", 51, dict(), 8 / 4),
    "rslora": ("llama_gqa2_headdim", 52, dict(use_rslora=True), 8 / 4 ** 0.5),
    "subset": ("llama_gqa2_headdim", 53, dict(r=2, lora_alpha=3, target_modules=["q_proj", "v_proj", "down_proj"]),
               3 / 2),
    "qwen3": ("qwen3_gqa2_tied_headdim", 54, dict(r=3, lora_alpha=6), 6 / 3),
    "biased_base": ("llama_gqa2_bias", 55, dict(), 8 / 4),
}


@torch.no_grad()
def main():
    out = folder("lora")
    record = {"versions": versions("peft"), "adapters": {}}
    for name, (base, seed, changes, scale) in VARIANTS.items():
        path = FIXTURES / "tiny_models" / base

        def load():
            return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

        model = get_peft_model(load(), lora_config(**changes))
        randomise_adapter(model, seed)
        save_adapter(model, out / name)
        ids = torch.randint(3, VOCAB, (1, 13), generator=torch.Generator().manual_seed(1000 + seed))
        model = PeftModel.from_pretrained(load(), out / name).eval()
        on = model(ids).logits[0]
        with model.disable_adapter():
            off = model(ids).logits[0]
        if not torch.equal(off, load()(ids).logits[0]):
            raise SystemExit(f"{name}: the disabled adapter changes the logits")
        scales = {m.scaling["default"] for m in model.modules() if isinstance(m, LoraLayer)}
        if scales != {scale}:
            raise SystemExit(f"{name}: PEFT scales by {scales}, expected {scale}")
        merged = model.merge_and_unload()(ids).logits[0]
        save_tensors(out / f"{name}.expected.safetensors",
                     {"ids": ids[0], "logits_on": on, "logits_off": off, "logits_merged": merged})
        record["adapters"][name] = {"base": f"tiny_models/{base}", "scale": scale,
                                    "on_against_off": largest_relative(on, off),
                                    "merged_against_on": largest_relative(merged, on)}
        say(f"{name}: {record['adapters'][name]}")
    save_json(out / "lora.json", record)


if __name__ == "__main__":
    main()
