"""Compare `atp-pipeline score --adapter` with PEFT, token by token: does an adapter trained here mean the same there?

    atp-pipeline score --model MODEL --adapter ADAPTER --precision fp32 --in lines.jsonl --out scores.jsonl
    python scripts/oracle/check_adapter.py --model MODEL --adapter ADAPTER --in lines.jsonl --scores scores.jsonl

MODEL is a Hugging Face folder or a GGUF file. The lines are `{"input_ids": […]}`, so that no tokenizer takes part. PEFT
computes in fp32 on the CPU. Exit code 1 if a log-probability is further apart than `--tolerance`, or if the adapter
changes nothing.
"""
import argparse
import json
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from common import versions


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("model", "adapter", "in", "scores"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-3, help="absolute, in nats")
    return parser.parse_args()


def logprobs(model, ids):
    rows = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return rows.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


@torch.no_grad()
def main():
    given = arguments()
    where = dict(pretrained_model_name_or_path=given.model)
    if given.model.suffix == ".gguf":
        where = dict(pretrained_model_name_or_path=given.model.parent, gguf_file=given.model.name)
    base = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    model = PeftModel.from_pretrained(base, given.adapter).eval()
    held, written = get_peft_model_state_dict(model), load_file(given.adapter / "adapter_model.safetensors")
    if held.keys() != written.keys():
        raise SystemExit(f"PEFT took other tensors than the file has: {sorted(held.keys() ^ written.keys())[:4]} …")
    lines = [json.loads(line) for line in getattr(given, "in").read_text().splitlines() if line.strip()]
    scores = [json.loads(line) for line in given.scores.read_text().splitlines()]
    if len(lines) != len(scores):
        raise SystemExit(f"{len(lines)} lines, {len(scores)} scores")
    worst, worst_sum, moved, tokens = 0.0, 0.0, 0.0, 0
    for line, score in zip(lines, scores):
        ids, got = line["input_ids"], torch.tensor(score["logprobs"])
        if score["tokens"] != ids[1:]:
            raise SystemExit(f"scores of {score['tokens'][:4]} …, expected {ids[1:5]} …")
        on = logprobs(model, ids)
        with model.disable_adapter():
            moved = max(moved, (logprobs(model, ids) - on).abs().max().item())
        worst = max(worst, (got - on).abs().max().item())
        worst_sum = max(worst_sum, abs(score["sum"] - on.double().sum().item()))
        tokens += len(on)
    print(json.dumps({"versions": versions("peft"), "adapter_tensors": len(held), "tokens": tokens,
                      "largest_difference": worst, "largest_difference_of_sums": worst_sum,
                      "largest_effect_of_the_adapter": moved}, indent=1))
    if worst > given.tolerance or moved < 10 * given.tolerance:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
