"""The CPU baseline to race against: transformers and peft on SmolLM2-135M-Instruct, the weights of the same GGUF file.

    python scripts/bench/hf_cpu.py generate --batch 8 --prompt 200 --new 64
    python scripts/bench/hf_cpu.py dpo-step --dtype bfloat16

One JSON line on standard output per run. Environment: scripts/oracle/requirements.txt; `ATP_DEPS` as there.

The baseline is not held back: `generate` keeps its cache and never stops early; the DPO step asks for the logits of the
completion only, and computes the reference with the adapter disabled, without gradients, at every step, as TRL does.
"""
import argparse
import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TQDM_DISABLE", "1")

import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = Path(os.environ.get("ATP_DEPS") or ROOT / ".deps").resolve() / "smollm2-135m-instruct"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def load(dtype):
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, gguf_file=GGUF, dtype=dtype)
    return model.to(dtype)


def random_ids(rows, length, seed):
    """Ordinary tokens (no special ones): the time of a step does not depend on which."""
    return torch.randint(100, 49000, (rows, length), generator=torch.Generator().manual_seed(seed))


class Clock(transformers.StoppingCriteria):
    """The time after each sampled token; never stops."""

    def __init__(self):
        self.times = []

    def __call__(self, input_ids, scores, **kwargs):
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def generate(options, model):
    model.eval()
    model.generation_config.eos_token_id = None
    ids = random_ids(options.batch, options.prompt, 1)
    runs = []
    for turn in range(options.repeat + 1):
        clock = Clock()
        torch.manual_seed(turn)
        began = time.perf_counter()
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=options.new, do_sample=True,
                             temperature=0.8, top_k=0, top_p=1.0, stopping_criteria=[clock])
        ended = time.perf_counter()
        if out.shape[1] != options.prompt + options.new or len(clock.times) != options.new:
            sys.exit(f"generated {out.shape[1] - options.prompt} tokens, wanted {options.new}")
        runs.append((ended - began, clock.times[0] - began, clock.times[-1] - clock.times[0]))
    runs = sorted(runs[1:])
    # One run's own three figures, the median by total time (the lower one of an even number).
    total, prefill, decode = runs[(len(runs) - 1) // 2]
    return {"batch": options.batch, "prompt": options.prompt, "new": options.new, "repeat": options.repeat,
            "total_s": total, "prefill_s": prefill, "decode_s": decode,
            "total_tok_s": options.batch * options.new / total,
            "decode_tok_s": options.batch * (options.new - 1) / decode,
            "fastest_s": runs[0][0], "slowest_s": runs[-1][0]}


def completion_sums(model, ids, prompt):
    """Summed completion log-probs of each row, log-softmax in fp32."""
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=ids.shape[1] - prompt + 1).logits[:, :-1].float()
    return logits.log_softmax(-1).gather(-1, ids[:, prompt:, None])[..., 0].sum(-1)


def dpo_step(options, model):
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0)
    length = options.prompt + options.new
    times, losses = [], []
    for turn in range(options.repeat + 1):
        ids = random_ids(2, length, 10 + turn)
        ids[1, :options.prompt] = ids[0, :options.prompt]
        began = time.perf_counter()
        chosen, rejected = completion_sums(model, ids, options.prompt)
        with torch.no_grad(), model.disable_adapter():
            reference_chosen, reference_rejected = completion_sums(model, ids, options.prompt)
        margin = 0.1 * ((chosen - reference_chosen) - (rejected - reference_rejected))
        loss = -torch.nn.functional.logsigmoid(margin)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - began)
        losses.append(loss.item())
    return {"prompt": options.prompt, "completion": options.new, "sequences": 2, "repeat": options.repeat,
            "trainable": sum(p.numel() for p in parameters), "first_loss": losses[0],
            "step_s": statistics.median(times[1:]), "fastest_s": min(times[1:]), "slowest_s": max(times[1:])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("generate", "dpo-step"))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=int, default=8, help="sequences at once (generate)")
    parser.add_argument("--prompt", type=int, help="prompt tokens (generate 200, dpo-step 100)")
    parser.add_argument("--new", type=int, help="new tokens (generate 64) or completion tokens (dpo-step 100)")
    parser.add_argument("--repeat", type=int, help="runs after one warm-up (generate 3, dpo-step 5)")
    parser.add_argument("--threads", type=int, help="compute threads (default: torch's own choice)")
    options = parser.parse_args()
    generating = options.what == "generate"
    for key, value in (("prompt", 200 if generating else 100), ("new", 64 if generating else 100),
                       ("repeat", 3 if generating else 5)):
        if getattr(options, key) is None:
            setattr(options, key, value)
        if getattr(options, key) < 1:
            parser.error(f"--{key} must be at least 1, got {getattr(options, key)}")
    if generating and options.new < 2:
        parser.error("--new must be at least 2: the decoding rate is taken between tokens")
    if options.threads:
        torch.set_num_threads(options.threads)
    load_before = os.getloadavg()[0]
    model = load(getattr(torch, options.dtype))
    result = generate(options, model) if generating else dpo_step(options, model)
    print(json.dumps({"bench": options.what, "dtype": options.dtype, "threads": torch.get_num_threads(), **result,
                      "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                      "load_before": load_before, "torch": torch.__version__,
                      "transformers": transformers.__version__, "peft": peft.__version__}))


if __name__ == "__main__":
    main()
