"""Logits far into a context by transformers in fp32: tiny models at 4000 positions, SmolLM2 on a text of 3000 tokens.

The tiny models are those of `tiny_models.py` with a longer `max_position_embeddings`; one has llama3 rope scaling, one
rope theta 1e6. Kept are rows every STEP positions and the last. For SmolLM2 a row is kept as its log-sum-exp, its likeliest
token and the logits of some columns. `fp64_relative` as elsewhere; rope angles are fp32 in transformers even then.

The long text is the prose of this repository's environments without digits, because transformers' GGUF tokenizer lacks
this model's digit splitting; its ids are in the fixture.
"""
import re

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from common import FIXTURES, GGUF_DIR, GGUF_FILE, ROOT, folder, largest_relative, save_json, save_tensors, say, versions
from tiny import VOCAB

TINY = {"llama_gqa4_llama3": 71, "qwen3_gqa2_tied_headdim": 72}
TINY_LENGTH, LENGTH, STEP, COLUMNS, LAST_COLUMNS = 4000, 3000, 100, 24, 2000


def tiny(out, name, seed):
    path = FIXTURES / "tiny_models" / name
    config = AutoConfig.from_pretrained(path)
    config.max_position_embeddings = TINY_LENGTH
    model = AutoModelForCausalLM.from_pretrained(path, config=config, dtype=torch.float32).eval()
    ids = torch.randint(3, VOCAB, (TINY_LENGTH,), generator=torch.Generator().manual_seed(seed))
    rows = torch.arange(STEP - 1, TINY_LENGTH, STEP)
    logits = model(ids[None]).logits[0][rows]
    exact = model.double()(ids[None]).logits[0][rows]
    save_tensors(out / f"{name}.safetensors", {"ids": ids, "rows": rows, "logits": logits})
    return {"fp64_relative": largest_relative(logits, exact)}


def text():
    """Strings of the environments, in file order, digits taken out."""
    found = []
    for file in sorted((ROOT / "data" / "role_play").glob("*.toml")):
        found += re.findall(r'"([^"\n]{20,})"', file.read_text())
    return re.sub(r"\d+", "", "\n".join(found))


def smollm2(out):
    tokenizer = AutoTokenizer.from_pretrained(GGUF_DIR, gguf_file=GGUF_FILE)
    ids = tokenizer(text(), add_special_tokens=False, return_tensors="pt").input_ids[:, :LENGTH]
    if ids.size(1) != LENGTH:
        raise SystemExit(f"the text has {ids.size(1)} tokens only")
    model = AutoModelForCausalLM.from_pretrained(GGUF_DIR, gguf_file=GGUF_FILE, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(73)
    vocab = model.config.vocab_size
    columns, last = (torch.randperm(vocab, generator=generator)[:n].sort().values for n in (COLUMNS, LAST_COLUMNS))
    rows = torch.arange(STEP - 1, LENGTH, STEP)

    def logits():
        return model.lm_head(model.model(ids).last_hidden_state[0][rows])

    got = logits()
    model = model.double()
    apart = largest_relative(got, logits())
    top = got.topk(2, dim=-1)
    save_tensors(out / "smollm2.safetensors", {
        "ids": ids[0], "rows": rows, "columns": columns, "last_columns": last, "column_logits": got[:, columns],
        "last_logits": got[-1][last], "logsumexp": got.double().logsumexp(-1).float(), "argmax": top.indices[:, 0]})
    return {"fp64_relative": apart, "smallest_argmax_gap": (top.values[:, 0] - top.values[:, 1]).min().item(),
            "max_position": model.config.max_position_embeddings}


@torch.no_grad()
def main():
    out = folder("long_positions")
    record = {"versions": versions("gguf", "tokenizers"), "tiny": {}}
    for name, seed in TINY.items():
        record["tiny"][name] = tiny(out, name, seed)
        say(f"{name}: {record['tiny'][name]}")
    record["smollm2"] = smollm2(out)
    say(f"smollm2: {record['smollm2']}")
    save_json(out / "long_positions.json", record)


if __name__ == "__main__":
    main()
