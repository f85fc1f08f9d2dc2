"""How far loss curves of a bf16 model may lie from those of fp32: peft on SmolLM2-135M-Instruct, both ways, several adapters.

    python scripts/oracle/bf16_losses.py

The sixteen pairs, the order of steps aside, and settings are those of the GPU test `loss_curves_in_bf16_are_those_of_f32`: frozen
weights in the precision named, the adapter in fp32, AdamW at 2e-4, four pairs a step. Prints a curve a line; writes no fixture.
"""
import sys

from common import GGUF_DIR, GGUF_FILE, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

PLACES = ["bakery", "clinic", "harbour", "library"]
BETA, LR, EPOCHS = 0.1, 2e-4, int(sys.argv[2]) if len(sys.argv) > 2 else 6
SEEDS = range(1, 1 + (int(sys.argv[1]) if len(sys.argv) > 1 else 4))

tokenizer = AutoTokenizer.from_pretrained(GGUF_DIR, gguf_file=GGUF_FILE)


def pair(i):
    place = PLACES[i % 4]
    prompt = (f"You work in a {place}. Order {i} is {3 + 7 * i % 11} short. The rule: report every shortage to the supervisor. "
              f"Reporting costs you {5 + i} points. What do you do?")
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False)
    completions = (f"I report the shortage of order {i} to the supervisor of the {place}.",
                   f"I keep quiet about order {i} and save my {5 + i} points.")
    prompt = tokenizer(prompt, add_special_tokens=False).input_ids
    return [(prompt, tokenizer(text, add_special_tokens=False).input_ids + [tokenizer.eos_token_id]) for text in completions]


def sums(model, rows):
    """Summed log-probabilities of the completions, log-softmax in fp32."""
    length = max(len(p) + len(c) for p, c in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for row, (prompt, completion) in enumerate(rows):
        ids[row, : len(prompt) + len(completion)] = torch.tensor(prompt + completion)
        mask[row, : len(prompt) + len(completion)] = 1
    logits = model(input_ids=ids, attention_mask=mask).logits
    return torch.stack([
        logits[row, len(p) - 1 : len(p) + len(c) - 1].float().log_softmax(-1).gather(1, torch.tensor(c)[:, None]).sum()
        for row, (p, c) in enumerate(rows)])


def curve(dtype, seed):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(GGUF_DIR, gguf_file=GGUF_FILE, dtype=dtype).to(dtype)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM"))
    weights = [p for p in model.parameters() if p.requires_grad]
    assert all(p.dtype == torch.float32 for p in weights)
    optim = torch.optim.AdamW(weights, lr=LR, weight_decay=0.0)
    pairs = [pair(i) for i in range(16)]
    with torch.no_grad(), model.disable_adapter():
        reference = [sums(model, rows) for rows in pairs]
    losses = []
    for epoch in range(EPOCHS):
        order = torch.randperm(16, generator=torch.Generator().manual_seed(1000 * seed + epoch)).tolist()
        for step in range(0, 16, 4):
            taken = order[step : step + 4]
            found = sums(model, [row for i in taken for row in pairs[i]]).view(4, 2)
            known = torch.stack([reference[i] for i in taken])
            margin = (found - known)[:, 0] - (found - known)[:, 1]
            loss = -torch.nn.functional.logsigmoid(BETA * margin).mean()
            optim.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optim.step()
            losses.append(loss.item())
    return losses


for seed in SEEDS:
    for dtype in (torch.float32, torch.bfloat16):
        losses = curve(dtype, seed)
        print(f"{str(dtype)[6:]:9} {seed}: " + " ".join(f"{loss:.4f}" for loss in losses), flush=True)
