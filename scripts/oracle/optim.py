"""AdamW, gradient clipping and learning-rate schedules over 200 steps of a quadratic, by torch and transformers.

L = ½ Σ c (x − target)², so the gradient is c (x − target) and no model is needed to repeat it. Two tensors share one
clipping norm. A step is: gradient, clip, AdamW, schedule.
"""
import torch
from transformers import get_scheduler

from common import folder, save_json, save_tensors, say, versions

STEPS, RATE = 200, 0.05
KEPT = (1, 2, 10, 21, 50, 100, 200)
SHAPES = {"a": (5,), "b": (2, 3)}
CASES = {
    "cosine_warmup": dict(schedule="cosine", warmup=20, weight_decay=0.0, max_norm=1.0),
    "linear_warmup": dict(schedule="linear", warmup=20, weight_decay=0.0, max_norm=1.0),
    "linear": dict(schedule="linear", warmup=0, weight_decay=0.0, max_norm=1.0),
    "constant": dict(schedule="constant", warmup=0, weight_decay=0.0, max_norm=1.0),
    "constant_with_warmup": dict(schedule="constant_with_warmup", warmup=20, weight_decay=0.0, max_norm=1.0),
    "cosine_decay": dict(schedule="cosine", warmup=0, weight_decay=0.1, max_norm=0.0),
}


def main():
    out = folder("optim")
    generator = torch.Generator().manual_seed(61)
    start = {k: torch.randn(s, generator=generator) for k, s in SHAPES.items()}
    target = {k: torch.randn(s, generator=generator) for k, s in SHAPES.items()}
    curvature = {k: 10 ** (2 * torch.rand(s, generator=generator) - 1) for k, s in SHAPES.items()}
    tensors = {f"{group}/{k}": v for group, values in (("start", start), ("target", target), ("curvature", curvature))
               for k, v in values.items()}
    record = {"versions": versions(), "steps": STEPS, "learning_rate": RATE, "betas": [0.9, 0.999], "eps": 1e-8,
              "kept_steps": list(KEPT), "cases": {}}
    for name, case in CASES.items():
        x = {k: torch.nn.Parameter(v.clone()) for k, v in start.items()}
        optimizer = torch.optim.AdamW(x.values(), lr=RATE, betas=(0.9, 0.999), eps=1e-8,
                                      weight_decay=case["weight_decay"])
        schedule = get_scheduler(case["schedule"], optimizer, case["warmup"], STEPS)
        rates, norms = [], []
        for step in range(1, STEPS + 1):
            optimizer.zero_grad()
            sum((0.5 * curvature[k] * (x[k] - target[k]) ** 2).sum() for k in x).backward()
            limit = case["max_norm"] or float("inf")
            norms.append(torch.nn.utils.clip_grad_norm_(x.values(), limit).item())
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
            if step in KEPT:
                tensors |= {f"{name}/step_{step:03}/{k}": v.detach().clone() for k, v in x.items()}
        clipped = sum(norm > limit for norm in norms)
        record["cases"][name] = {**case, "lr": rates, "grad_norm": norms, "clipped_steps": clipped}
        say(f"{name}: norm {norms[0]:.3f} → {norms[-1]:.3e}, clipped in {clipped} steps, lr {rates[0]} … {rates[-1]}")
    save_tensors(out / "optim.safetensors", tensors)
    save_json(out / "optim.json", record)


if __name__ == "__main__":
    main()
