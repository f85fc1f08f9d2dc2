"""Which of bf16's roundings move the loss curve of a DPO run? SmolLM2 in fp32, with roundings put in one kind at a time.

    python scripts/oracle/bf16_rounding.py [--steps 16] [--only "fp32|before rounding"]

No fixture: prints the root mean square distance of each curve from that in fp32, and some losses. Everything is computed in
fp32 on a CPU; `Round` takes a number to the nearest bf16 one on its way forward, its gradient on the way back, or both, so
every case differs from fp32 by the roundings it names and by nothing else. A case takes a minute on two cores.
Environment: scripts/oracle/requirements.txt; `ATP_DEPS` as there.
"""
import argparse
import os
import random
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import peft  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import transformers  # noqa: E402
from peft.tuners.lora.layer import Linear  # noqa: E402
from transformers.models.llama import modeling_llama as llama  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = Path(os.environ.get("ATP_DEPS") or ROOT / ".deps").resolve() / "smollm2-135m-instruct"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

# weights, forward, backward; how an update meets its projection's output
CASES = {
    "fp32": (False, False, False, "exact"),
    "fp32, another adapter": (False, False, False, "exact"),
    "weights": (True, False, False, "exact"),
    "weights, gradients": (True, False, True, "exact"),
    "weights, activations": (True, True, False, "exact"),
    "before rounding": (True, True, True, "before"),
    "after rounding, o and down": (True, True, True, "residual"),
    "after rounding, all": (True, True, True, "after"),
}
NOW = {"forward": False, "backward": False, "update": "exact"}


class Round(torch.autograd.Function):
    @staticmethod
    def forward(context, x, forward, backward):
        context.back = backward
        return x.bfloat16().float() if forward else x.view_as(x)

    @staticmethod
    def backward(context, gradient):
        return (gradient.bfloat16().float() if context.back else gradient), None, None


def rounded(x):
    """An activation that is written to memory."""
    return Round.apply(x, NOW["forward"], NOW["backward"])


def low(linear, x):
    """The update of a projection, computed as in bf16 unless all is exact."""
    name = linear.active_adapters[0]
    a, b, scale = linear.lora_A[name].weight, linear.lora_B[name].weight, linear.scaling[name]
    if NOW["update"] == "exact":
        return x @ a.T @ (b * scale).T
    both = lambda t: Round.apply(t, True, True)
    return both(both(x @ both(a).T) @ both(b * scale).T)


def project(linear, x, *_, **__):
    """A projection with its update, as its reader gets it."""
    base = linear.base_layer(x)
    if linear.disable_adapters:
        return rounded(base)
    update = low(linear, x)
    return rounded(rounded(base) + update) if NOW["update"] == "after" else rounded(base + update)


def onto(residual, linear, x):
    """The residual with a projection added to it."""
    if NOW["update"] == "residual" and not linear.disable_adapters:
        return rounded(residual + rounded(linear.base_layer(x)) + low(linear, x))
    return rounded(residual + linear(x))


def layer(self, hidden_states, position_embeddings=None, **_):
    rows, length, _ = hidden_states.shape
    attention, heads = self.self_attn, lambda t: t.view(rows, length, -1, self.self_attn.head_dim).transpose(1, 2)
    x = rounded(self.input_layernorm(hidden_states))
    q, k, v = (heads(p(x)) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    q, k = map(rounded, llama.apply_rotary_pos_emb(q, k, *position_embeddings))
    group = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(group, 1) for t in (k, v))
    seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    residual = onto(hidden_states, attention.o_proj, rounded(seen.transpose(1, 2).reshape(rows, length, -1)))
    x = rounded(self.post_attention_layernorm(residual))
    mlp = self.mlp
    return onto(residual, mlp.down_proj, rounded(F.silu(mlp.gate_proj(x)) * mlp.up_proj(x)))


def pairs(tokenizer):
    """Sixteen pairs about four places, as tests/integration/gpu/curves.rs has them."""
    ids = lambda text: tokenizer(text, add_special_tokens=False).input_ids
    for i in range(16):
        place = ("bakery", "clinic", "harbour", "library")[i % 4]
        prompt = (f"You work in a {place}. Order {i} is {3 + 7 * i % 11} short. The rule: report every shortage to the "
                  f"supervisor. Reporting costs you {5 + i} points. What do you do?")
        chat = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
        yield (ids(chat), ids(f"I report the shortage of order {i} to the supervisor of the {place}.<|im_end|>"),
               ids(f"I keep quiet about order {i} and save my {5 + i} points.<|im_end|>"))


def sums(model, batch):
    """Summed completion log-probs, all chosen before all rejected; right padding is behind all that is scored."""
    texts = [(pair[0], pair[which]) for which in (1, 2) for pair in batch]
    longest = max(len(a) + len(b) for a, b in texts)
    fill = lambda row: row + [0] * (longest - len(row))
    ids = torch.tensor([fill(a + b) for a, b in texts])
    scored = torch.tensor([fill([0] * len(a) + [1] * len(b)) for a, b in texts])[:, 1:].bool()
    inner = model.base_model.model
    hidden = rounded(inner.model(input_ids=ids).last_hidden_state)[:, :-1][scored]
    logprobs = rounded(inner.lm_head(hidden)).log_softmax(-1).gather(-1, ids[:, 1:][scored][:, None])[:, 0]
    row = torch.arange(len(texts))[:, None].expand_as(scored)[scored]
    return torch.zeros(len(texts)).index_add(0, row, logprobs)


def curve(case, seed, steps, data):
    weights, NOW["forward"], NOW["backward"], NOW["update"] = case
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, gguf_file=GGUF, dtype=torch.float32)
    if weights:
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16().float()
    torch.manual_seed(seed)
    model = peft.get_peft_model(model, peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.0)
    losses = []
    for step in steps:
        batch = [data[i] for i in step]
        with torch.no_grad(), model.disable_adapter():
            reference = sums(model, batch)
        chosen, rejected = (sums(model, batch) - reference).chunk(2)
        loss = -F.logsigmoid(0.1 * (chosen - rejected)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return losses


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--only", help="names of cases, with `|` between them")
    options = parser.parse_args()
    llama.LlamaDecoderLayer.forward = layer
    Linear.forward = project
    data = list(pairs(transformers.AutoTokenizer.from_pretrained(MODEL, gguf_file=GGUF)))
    draw, order = random.Random(1), []
    while len(order) < options.steps:
        places = list(range(16))
        draw.shuffle(places)
        order += [places[i:i + 4] for i in range(0, 16, 4)]
    exact = None
    for name, case in CASES.items():
        if options.only and name not in options.only.split("|"):
            continue
        losses = curve(case, 2 if "another" in name else 1, order[:options.steps], data)
        exact = exact or losses
        apart = (sum((a - b) ** 2 for a, b in zip(losses, exact)) / len(losses)) ** 0.5
        print(f"{name:28} {apart:.5f}  ", " ".join(f"{x:.4f}" for x in losses[::3]), flush=True)


if __name__ == "__main__":
    main()
