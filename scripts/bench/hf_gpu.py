"""The GPU baseline to race against: transformers and peft on an 8B shape with random weights, bf16, eager PyTorch.

    python scripts/bench/hf_gpu.py dpo-step [--shape llama-3.1-8b] [--sequences 8] [--length 512] [--checkpointing]
    python scripts/bench/hf_gpu.py grpo-step [--sequences 32] [--group 4] [--prompt 300] [--new 512]
    python scripts/bench/hf_gpu.py generate [--batch 64] [--prompt 256] [--new 128]

One JSON line on standard output per run; needs torch, transformers, for a step peft, for GRPO trl. The twins of `bench train`
and `bench generate`. Beside the DPO step's own work the baseline computes its reference with the adapter disabled, without
gradients, as TRL does; adapters are kept in fp32 under autocast, AdamW is fused, logits are those of all positions, as DPO's
trainers ask for. GRPO's step is TRL's own trainer, generating with transformers, in micro-batches of 8 with checkpointing, β 0.04
(last seen to run: trl 1.16 with datasets 4.4, pyarrow 21, dill 0.3.8).
"""
import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
import transformers

SHAPES = {
    "qwen3-8b": lambda: transformers.Qwen3Config(
        vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=40960, tie_word_embeddings=False),
    "llama-3.1-8b": lambda: transformers.LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=131072, rope_theta=5e5, tie_word_embeddings=False),
}


def model_of(shape):
    config = SHAPES[shape]()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    torch.set_default_dtype(torch.float32)
    return model


def timed(work, repeat):
    work()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeat):
        begin = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def tell(**numbers):
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    memory = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    print(json.dumps({"gpu": torch.cuda.get_device_name(), **numbers, "most_memory_gb": memory, **versions}), flush=True)


def dpo_step(args):
    import peft

    lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", lora_dropout=0.0)
    model = peft.get_peft_model(model_of(args.shape), lora)
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    optimiser = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    model.train()
    if args.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    # The first half are the chosen ones.
    ids = torch.randint(100, 100_000, (args.sequences, args.length), device="cuda")

    def sums():
        logits = model(ids, use_cache=False).logits[:, :-1].float()
        return F.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[..., 0].sum(-1)

    def step():
        with torch.autocast("cuda", dtype=torch.bfloat16):
            with torch.no_grad(), model.disable_adapter():
                reference = sums()
            chosen, rejected = (sums() - reference).chunk(2)
        (-F.logsigmoid(0.1 * (chosen - rejected)).mean()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    seconds = timed(step, args.repeat)
    tell(what="dpo-step", shape=args.shape, sequences=args.sequences, length=args.length,
         checkpointing=args.checkpointing, seconds=round(seconds, 4),
         tokens_per_second=round(args.sequences * args.length / seconds), peft=peft.__version__)


def grpo_step(args):
    import datasets
    import peft
    import tokenizers
    import trl

    # Every byte is a token and one id of 151 936 ends a text, so nearly all completions are as long as they may be.
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    bytes_ = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    bytes_.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = tokenizers.decoders.ByteLevel()
    codec = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bytes_, eos_token="<eos>", pad_token="<pad>", padding_side="left")
    model = model_of(args.shape)
    model.config.eos_token_id, model.config.pad_token_id = codec.eos_token_id, codec.pad_token_id
    steps, seconds = 1 + args.repeat, []

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *_, **__):
            torch.cuda.synchronize()
            self.begin = time.perf_counter()

        def on_step_end(self, *_, **__):
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - self.begin)

    prompts = [f"{i:04} ".ljust(args.prompt, "a") for i in range(args.sequences * steps)]
    micro = 8
    config = trl.GRPOConfig(
        output_dir="/tmp/hf_gpu", per_device_train_batch_size=micro,
        gradient_accumulation_steps=args.sequences * args.group // micro, num_generations=args.group,
        max_completion_length=args.new, beta=0.04, learning_rate=5e-6, bf16=True, gradient_checkpointing=True,
        max_steps=steps, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True)
    trl.GRPOTrainer(
        model=model, reward_funcs=lambda completions, **_: [float(len(c) % 7) for c in completions], args=config,
        train_dataset=datasets.Dataset.from_dict({"prompt": prompts}), processing_class=codec, callbacks=[Clock()],
        peft_config=peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    ).train()
    # The first warms up.
    warm = statistics.median(seconds[1:])
    tell(what="grpo-step", shape=args.shape, sequences=args.sequences, group=args.group, prompt=args.prompt, new=args.new,
         seconds=round(warm, 2), completion_tokens_per_second=round(args.sequences * args.group * args.new / warm),
         trl=trl.__version__, peft=peft.__version__)


def generate(args):
    model = model_of(args.shape).eval()
    ids = torch.randint(100, 100_000, (args.batch, args.prompt), device="cuda")
    mask = torch.ones_like(ids)

    def work():
        with torch.no_grad():
            model.generate(ids, attention_mask=mask, do_sample=True, max_new_tokens=args.new, min_new_tokens=args.new,
                           eos_token_id=None, pad_token_id=0)

    seconds = timed(work, args.repeat)
    tell(what="generate", shape=args.shape, batch=args.batch, prompt=args.prompt, new=args.new, seconds=round(seconds, 3),
         tokens_per_second=round(args.batch * args.new / seconds))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["dpo-step", "grpo-step", "generate"])
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-8b")
    parser.add_argument("--sequences", type=int)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--prompt", type=int)
    parser.add_argument("--new", type=int)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    work, sequences, prompt, new = {
        "dpo-step": (dpo_step, 8, None, None),
        "grpo-step": (grpo_step, 32, 300, 512),
        "generate": (generate, None, 256, 128),
    }[args.what]
    for name, default in [("sequences", sequences), ("prompt", prompt), ("new", new)]:
        if getattr(args, name) is None:
            setattr(args, name, default)
    work(args)


if __name__ == "__main__":
    main()
