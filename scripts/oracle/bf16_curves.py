"""peft's loss curves in bf16 and fp32 beside ours: the same model, adapters, pairs and order. Needs a GPU; no fixture.

    ATP_CURVES=/tmp/curves make test-gpu                      # leaves pairs, adapters and our curves
    atp-pipeline export --model smollm2-135m-instruct --merged /tmp/base --precision fp32
    python scripts/oracle/bf16_curves.py /tmp/curves /tmp/base

Answers whether the distance of our bf16 curve from the fp32 one is bf16's, or ours: peft's own distance stands beside it.
"""
import json
import sys
from pathlib import Path

import peft
import torch
import torch.nn.functional as F
import transformers


def rms(a, b):
    return (sum((x - y) ** 2 for x, y in zip(a, b)) / len(a)) ** 0.5


def mean(curves):
    return [sum(step) / len(step) for step in zip(*curves)]


def padded(rows):
    longest = max(map(len, rows))
    return torch.tensor([r + [0] * (longest - len(r)) for r in rows], device="cuda")


def sums(model, pairs):
    """Summed completion log-probs, all chosen before all rejected, log-softmax in fp32; right padding is masked."""
    rows = [(p["prompt"], p[which]) for which in ("chosen", "rejected") for p in pairs]
    ids = padded([prompt + completion for prompt, completion in rows])
    mask = padded([[1] * (len(p) + len(c)) for p, c in rows])
    learnt = padded([[0] * len(p) + [1] * len(c) for p, c in rows])[:, 1:]
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
    return (logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0] * learnt).sum(-1)


def curve(base, dtype, adapter, told):
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype).cuda()
    model = peft.PeftModel.from_pretrained(model, adapter, is_trainable=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert all(p.dtype == torch.float32 for p in parameters)
    optimizer = torch.optim.AdamW(parameters, lr=told["lr"], weight_decay=0.0)
    losses = []
    for step in told["steps"]:
        pairs = [told["pairs"][place] for place in step]
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            with torch.no_grad(), model.disable_adapter():
                reference = sums(model, pairs)
            policy = sums(model, pairs)
        chosen, rejected = (policy - reference).chunk(2)
        loss = -F.logsigmoid(told["beta"] * (chosen - rejected)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, told["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def main():
    folder, base = Path(sys.argv[1]), sys.argv[2]
    torch.backends.cuda.matmul.allow_tf32 = False
    told = json.loads((folder / "curves.json").read_text())
    curves = {"ours": {d: list(c.values()) for d, c in told["ours"].items()}, "peft": {}}
    seeds = list(told["ours"]["float32"])[:2]
    curves["ours"] = {d: c[:len(seeds)] for d, c in curves["ours"].items()}
    for dtype in ("float32", "bfloat16"):
        curves["peft"][dtype] = [curve(base, getattr(torch, dtype), folder / f"adapter-{s}", told) for s in seeds]
    for who, by in curves.items():
        for dtype, found in by.items():
            print(f"{who:5} {dtype:9}", " ".join(f"{x:.4f}" for x in mean(found)[::3]))
    result = {"same precision, ours to peft, float32": [rms(a, b) for a, b in zip(curves["ours"]["float32"], curves["peft"]["float32"])],
              "same precision, ours to peft, bfloat16": [rms(a, b) for a, b in zip(curves["ours"]["bfloat16"], curves["peft"]["bfloat16"])]}
    for who, by in curves.items():
        result[f"{who}: bfloat16 to float32"] = [rms(a, b) for a, b in zip(by["bfloat16"], by["float32"])]
        result[f"{who}: means, bfloat16 to float32"] = rms(mean(by["bfloat16"]), mean(by["float32"]))
        centre = mean(by["float32"])
        result[f"{who}: float32 to its own mean"] = [rms(c, centre) for c in by["float32"]]
    print(json.dumps(result, indent=1))
    (folder / "result.json").write_text(json.dumps({"curves": curves, **result}))


if __name__ == "__main__":
    main()
