"""Which piece of bf16 training on a GPU makes its loss curve lag? Everything in bf16, one piece at a time in f32. No fixture.

    python scripts/oracle/bf16_pieces.py [STEPS] ["fp32|bf16|attn32"]

DPO of SmolLM2 in PyTorch on the pairs of `bf16_rounding.py`, on a GPU where there is one. Prints each curve's root mean square
distance from that in fp32, and its losses. `bf16` adds an update by `addmm` onto the frozen product; `after` adds two rounded
parts; the others compute in f32 and round once: mm32 products with their sums, attn32 attention, head32 logits, low32 updates
with their sums, res32 the residual stream.
"""
import random
import sys

import bf16_rounding as rounding
import peft
import torch
import torch.nn.functional as F
import transformers

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BF16 = torch.bfloat16
CASES = {"fp32": (torch.float32, None), "bf16": (BF16, None)} | {
    name: (BF16, name) for name in ("after", "mm32", "attn32", "head32", "low32", "res32")
}
NOW = {"piece": None}


def product(x, w, update=None):
    """x wᵀ, and the update added."""
    if NOW["piece"] == "mm32":
        y = x.float() @ w.float().T
        return (y if update is None else y + update.float()).to(x.dtype)
    flat = x.reshape(-1, x.shape[-1])
    y = flat @ w.T if update is None else torch.addmm(update.reshape(-1, w.shape[0]), flat, w.T)
    return y.reshape(*x.shape[:-1], w.shape[0])


def project(linear, x, *_, **__):
    w = linear.base_layer.weight
    if linear.disable_adapters:
        return product(x, w)
    name = linear.active_adapters[0]
    a, b = linear.lora_A[name].weight, linear.lora_B[name].weight * linear.scaling[name]
    if x.dtype == torch.float32:
        return x @ w.T + x @ a.T @ b.T
    if NOW["piece"] == "low32":
        return (x.float() @ w.float().T + x.float() @ a.T @ b.T).to(x.dtype)
    update = x @ a.T.to(x.dtype) @ b.to(x.dtype).T
    return product(x, w) + update if NOW["piece"] == "after" else product(x, w, update)


def layer(self, hidden_states, position_embeddings=None, **_):
    rows, length, _ = hidden_states.shape
    attention, mlp, wide = self.self_attn, self.mlp, NOW["piece"] == "attn32"
    kind = BF16 if NOW["piece"] == "res32" else hidden_states.dtype
    heads = lambda t: t.view(rows, length, -1, attention.head_dim).transpose(1, 2)
    x = self.input_layernorm(hidden_states).to(kind)
    q, k, v = (heads(p(x)) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    q, k = (t.to(kind) for t in rounding.llama.apply_rotary_pos_emb(q, k, *position_embeddings))
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    q, k, v = (t.float() if wide else t for t in (q, k, v))
    seen = F.scaled_dot_product_attention(q, k, v, is_causal=True).to(kind)
    residual = hidden_states + attention.o_proj(seen.transpose(1, 2).reshape(rows, length, -1))
    x = self.post_attention_layernorm(residual).to(kind)
    return residual + mlp.down_proj(F.silu(mlp.gate_proj(x)) * mlp.up_proj(x))


def sums(model, batch):
    """Summed completion log-probs, all chosen before all rejected; right padding is behind all that is scored."""
    texts = [(pair[0], pair[which]) for which in (1, 2) for pair in batch]
    longest = max(len(a) + len(b) for a, b in texts)
    fill = lambda row: row + [0] * (longest - len(row))
    ids = torch.tensor([fill(a + b) for a, b in texts], device=DEVICE)
    scored = torch.tensor([fill([0] * len(a) + [1] * len(b)) for a, b in texts], device=DEVICE)[:, 1:].bool()
    inner = model.base_model.model
    hidden, head = inner.model(input_ids=ids).last_hidden_state[:, :-1][scored], inner.lm_head.weight
    if NOW["piece"] == "head32":
        head = head.float()
    logprobs = (hidden.to(head.dtype) @ head.T).float().log_softmax(-1).gather(-1, ids[:, 1:][scored][:, None])[:, 0]
    row = torch.arange(len(texts), device=DEVICE)[:, None].expand_as(scored)[scored]
    return torch.zeros(len(texts), device=DEVICE).index_add(0, row, logprobs)


def curve(kind, piece, steps, data):
    NOW["piece"] = piece
    model = transformers.AutoModelForCausalLM.from_pretrained(rounding.MODEL, gguf_file=rounding.GGUF, dtype=torch.float32)
    torch.manual_seed(1)
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear")
    model = peft.get_peft_model(model, config).to(DEVICE)
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(kind)
    if piece == "res32":
        table = model.base_model.model.model.embed_tokens
        table.forward = lambda ids: F.embedding(ids, table.weight).float()
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
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    only = sys.argv[2].split("|") if len(sys.argv) > 2 else CASES
    rounding.llama.LlamaDecoderLayer.forward = layer
    rounding.Linear.forward = project
    data = list(rounding.pairs(transformers.AutoTokenizer.from_pretrained(rounding.MODEL, gguf_file=rounding.GGUF)))
    draw, order = random.Random(1), []
    while len(order) < count:
        places = list(range(16))
        draw.shuffle(places)
        order += [places[i:i + 4] for i in range(0, 16, 4)]
    exact = None
    for name in only:
        losses = curve(*CASES[name], order[:count], data)
        exact = exact or losses
        apart = (sum((a - b) ** 2 for a, b in zip(losses, exact)) / len(losses)) ** 0.5
        print(f"{name:8} {apart:.5f}  ", " ".join(f"{x:.4f}" for x in losses), flush=True)


if __name__ == "__main__":
    main()
