"""Logits and greedy continuations of SmolLM2-135M-Instruct from its GGUF file, by transformers in fp32.

The loader's tensors are first compared, bit for bit, with a dequantisation by the `gguf` package and a written-out
un-permutation of the q and k rows, so the oracle does not rest on one implementation. The same logits in fp64 give
the rounding error of fp32 itself, recorded as `fp64_relative`: a tolerance below it would be meaningless.

The texts hold no digits, because transformers' GGUF tokenizer lacks this model's digit splitting.
"""
import gguf
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common import GGUF_DIR, GGUF_FILE, folder, largest_relative, save_json, save_tensors, say, versions

PROMPTS = {
    "short": [("user", "What is the capital of France?")],
    "medium": [
        ("system", "You work at the counter of a small bakery and answer politely."),
        ("user", "A customer asks whether the rye loaf from yesterday may be sold at the full price. The rule of the "
                 "shop says that old bread goes to the discount shelf. What do you tell the customer?"),
    ],
    "long": [
        ("system", "You are a careful assistant who explains the reasons for every choice."),
        ("user", "I keep a small orchard above the river. In spring the frost comes late, and twice in the last years "
                 "the blossom was lost within one night. My neighbour lights fires between the rows; the fire warden "
                 "has forbidden it, since the hay barns stand close by, but nobody comes to look at night."),
        ("assistant", "That is a hard position. Fires between the rows can save the blossom, yet a spark in a hay barn "
                      "would cost your neighbours far more than a harvest. Sprinklers that freeze a coat of ice around "
                      "the buds protect them as well, and large fans mix the warm air from above with the cold air on "
                      "the ground. Both need money before the season, but neither breaks the warden's rule."),
        ("user", "The sprinklers are too dear for me this year, and the fans are loud. Suppose that I could save the "
                 "whole harvest with fires and that no one would ever find out. Weigh both sides: what speaks for "
                 "the fires, what speaks for the rule, and what should I do when the forecast on the radio announces "
                 "a clear and windless night? Close with one sentence of advice."),
    ],
}
GREEDY = {"short": 24, "medium": 24}
COLUMNS = 32


def check_weights(model):
    """Compare every loaded tensor with the file's own, dequantised by gguf-py and un-permuted here."""
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
    parts = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
             "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
             "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
    loaded, kinds = dict(model.state_dict()), {}
    for tensor in gguf.GGUFReader(str(GGUF_DIR / GGUF_FILE)).tensors:
        base = tensor.name.removesuffix(".weight")
        kinds[tensor.tensor_type.name] = kinds.get(tensor.tensor_type.name, 0) + 1
        weight = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        if base.startswith("blk."):
            _, layer, part = base.split(".")
            name = f"model.layers.{layer}.{parts[part]}"
            if part in heads:
                rows, columns = weight.shape
                h = heads[part]
                weight = weight.reshape(h, rows // h // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
        else:
            name = names[base]
        if not torch.equal(loaded.pop(f"{name}.weight"), weight):
            raise SystemExit(f"{name}: transformers' loader and gguf-py disagree")
    if set(loaded) - {"lm_head.weight"}:
        raise SystemExit(f"tensors that are not in the file: {sorted(loaded)}")
    return kinds


@torch.no_grad()
def main():
    out = folder("smollm2_logits")
    tokenizer = AutoTokenizer.from_pretrained(GGUF_DIR, gguf_file=GGUF_FILE)
    model = AutoModelForCausalLM.from_pretrained(GGUF_DIR, gguf_file=GGUF_FILE, dtype=torch.float32).eval()
    kinds = check_weights(model)
    vocab = model.config.vocab_size
    columns = torch.randperm(vocab, generator=torch.Generator().manual_seed(7))[:COLUMNS].sort().values

    record = {"versions": versions("gguf", "tokenizers"), "gguf": GGUF_FILE, "tensor_types": kinds,
              "attention": model.config._attn_implementation, "dtype": "float32", "vocab_size": vocab,
              "columns": columns.tolist(), "prompts": {}}
    logits = {}
    for name, turns in PROMPTS.items():
        messages = [{"role": role, "content": content} for role, content in turns]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if any(c.isdigit() for c in text):
            raise SystemExit(f"{name}: digits in the prompt, its ids would not be the model's own")
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        logits[name] = model(ids).logits[0]
        entry = {"messages": messages, "text": text, "ids": ids[0].tolist()}
        if name in GREEDY:
            # Re-reading the whole prefix at each step: no cache, so nothing of the cache can go wrong.
            grown, gaps = ids, []
            for _ in range(GREEDY[name]):
                top = model(grown).logits[0, -1].topk(2)
                gaps.append((top.values[0] - top.values[1]).item())
                grown = torch.cat([grown, top.indices[:1][None]], dim=1)
            entry["greedy"] = grown[0, ids.shape[1]:].tolist()
            entry["greedy_text"] = tokenizer.decode(entry["greedy"])
            entry["greedy_smallest_gap"] = min(gaps)
            # The mask is given: the pad token of this model also closes every turn, and would be masked otherwise.
            cached = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=GREEDY[name],
                                    do_sample=False)[0, ids.shape[1]:].tolist()
            if cached != entry["greedy"][:len(cached)]:
                raise SystemExit(f"{name}: generate with a cache and without differ")
        record["prompts"][name] = entry

    model = model.double()
    for name, entry in record["prompts"].items():
        exact = model(torch.tensor([entry["ids"]])).logits[0]
        got = logits[name]
        entry["fp64_relative"] = largest_relative(got, exact)
        top = got.topk(2, dim=-1).values
        entry["smallest_argmax_gap"] = (top[:, 0] - top[:, 1]).min().item()
        save_tensors(out / f"{name}.safetensors", {
            "ids": torch.tensor(entry["ids"]), "last_logits": got[-1], "logsumexp": got.double().logsumexp(-1).float(),
            "argmax": got.argmax(-1), "argmax_gap": top[:, 0] - top[:, 1], "columns": columns,
            "column_logits": got[:, columns]})
        say(f"{name}: {len(entry['ids'])} tokens, fp32 against fp64 {entry['fp64_relative']:.2e}, "
            f"smallest gap {entry['smallest_argmax_gap']:.4f}, {entry.get('greedy_text')!r}")
    save_json(out / "smollm2_logits.json", record)


if __name__ == "__main__":
    main()
