"""GRPO on a tiny Llama by TRL's GRPOTrainer: advantages, losses and gradients for every loss type we support.

The completions and rewards are prescribed; masks, reference log-probs, advantages, losses and gradients are TRL's. The
adapter is moved between the old log-probs and the loss, far enough that ratios leave the clip range on both sides. The
definition is written out as well and must agree.

`corrections.safetensors` holds the cases with a sampler whose log-probs differ from training's (TRL corrects for that
where vLLM samples) and with one ratio a sequence; `iterations` in the JSON is several optimizer steps on one batch.
"""
import tempfile

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from common import folder, largest_relative, save_json, save_tensors, say, versions
from tiny import (EOS, adapter_state, completion_logps, draw, lora_config, randomise_adapter, save_adapter, save_model,
                  tokenizer, training_model, words)

GROUP, TEMPERATURE, LIMIT = 4, 0.7, 8
LOW, HIGH, BETA = 0.2, 0.28, 0.04
REWARDS = [1.0, 0.1, 0.1, 0.0,  0.1, 0.1, 0.1, 0.1,  1.0, 1.0, 0.1, 1.0]
PROMPT_LENGTHS = (5, 3, 9)
# A length of LIMIT with no end-of-sequence token is a truncated completion, marked None.
COMPLETION_LENGTHS = (3, 8, None, 5,  2, 6, 4, None,  7, 1, 5, 3)

CASES = {f"{kind}_beta{beta}": dict(loss_type=kind, beta=beta)
         for kind in ("grpo", "bnpo", "dr_grpo", "dapo") for beta in (0.0, BETA)}
CASES |= {f"{kind}_two_micro_batches": dict(loss_type=kind, beta=BETA, micro_batches=2)
          for kind in ("grpo", "bnpo", "dr_grpo", "dapo")}
CASES |= {f"{kind}_truncated_masked": dict(loss_type=kind, beta=BETA, mask_truncated=True) for kind in ("grpo", "dapo")}
CASES["grpo_sequence_level"] = dict(loss_type="grpo", beta=BETA, level="sequence")
# Today's TRL weights the KL by the ratio unless told otherwise; the published recipe did not, so only one case does.
CASES["dapo_weighted_kl"] = dict(loss_type="dapo", beta=BETA, weighted_kl=True)

CAP, ITERATIONS, RATE = 1.5, 5, 0.02
CORRECTED = {f"{kind}_{mode}": dict(loss_type=kind, beta=BETA, correction=mode) for kind, mode in (
    ("dapo", "token_truncate"), ("grpo", "token_mask"), ("grpo", "sequence_truncate"), ("dapo", "sequence_mask"))}
CORRECTED |= {
    "dapo_sequence_level": dict(loss_type="dapo", beta=0.0, level="sequence"),
    "dr_grpo_sequence_level_sequence_truncate": dict(loss_type="dr_grpo", beta=BETA, level="sequence", weighted_kl=True,
                                                     correction="sequence_truncate"),
    "bnpo_truncated_masked_token_truncate": dict(loss_type="bnpo", beta=BETA, mask_truncated=True,
                                                 correction="token_truncate"),
}


def make_rollouts():
    generator = torch.Generator().manual_seed(41)
    prompts = [torch.randint(3, 101, (n,), generator=generator).tolist() for n in PROMPT_LENGTHS]
    completions = []
    for length in COMPLETION_LENGTHS:
        ids = torch.randint(3, 101, (length or LIMIT,), generator=generator).tolist()
        completions.append(ids if length is None else ids[:-1] + [EOS])
    return [prompts[i // GROUP] for i in range(len(completions))], completions


class Prescribed(GRPOTrainer):
    """GRPOTrainer whose sampler returns the given completions."""

    def _generate_single_turn(self, prompt_ids, *rest, **more):
        if prompt_ids != self.prescribed[0]:
            raise SystemExit(f"TRL tokenised {prompt_ids} instead of {self.prescribed[0]}")
        return self.prescribed[1], self.sampler


def trainer(scratch, rollouts, loss_type, beta, micro_batches=1, mask_truncated=False, level="token",
            weighted_kl=False, correction=None, iterations=1):
    args = GRPOConfig(
        output_dir=scratch, loss_type=loss_type, beta=beta, epsilon=LOW, epsilon_high=HIGH, num_generations=GROUP,
        temperature=TEMPERATURE, max_completion_length=LIMIT, per_device_train_batch_size=len(REWARDS) // micro_batches,
        gradient_accumulation_steps=micro_batches, mask_truncated_completions=mask_truncated,
        importance_sampling_level=level, use_bias_correction_kl=weighted_kl, scale_rewards="group", bf16=False,
        num_iterations=iterations, vllm_importance_sampling_mode=correction or "sequence_mask",
        vllm_importance_sampling_clip_max=CAP,
        gradient_checkpointing=False, use_cpu=True,
        report_to="none", save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False)
    made = Prescribed(model=training_model(), args=args, processing_class=tokenizer(), peft_config=lora_config(),
                      reward_funcs=lambda completions, **_: REWARDS,
                      train_dataset=Dataset.from_list([{"prompt": words(p)} for p in rollouts[0][::GROUP]]))
    made.prescribed, made.sampler = rollouts, None
    # Set by the training loop, which is not entered here.
    made.current_gradient_accumulation_steps = micro_batches
    randomise_adapter(made.model, seed=13)
    made.model.train()
    return made


@torch.no_grad()
def move_adapter(model):
    """The policy after some updates: every matrix moved by N(0, 0.02²)."""
    generator = torch.Generator().manual_seed(14)
    for name, parameter in sorted(model.named_parameters()):
        if ".lora_" in name:
            parameter += draw(parameter.shape, generator, 0.02)


def token_logps(made, batch, entropies=False):
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    found = made._get_per_token_logps_and_entropies(made.model, ids, mask, batch["completion_ids"].size(1),
                                                    compute_entropy=entropies)
    return found[:2] if entropies else found[0]


def sampler_logps(made, rows, rollouts):
    """What a sampler that computes otherwise might have seen: TRL's log-probs with noise N(0, 0.3²)."""
    batch = {**made._generate_and_score_completions(rows)}
    # A row that TRL masks as truncated would be scored as nothing.
    lengths = torch.tensor([[len(c)] for c in rollouts[1]])
    batch["completion_mask"] = (torch.arange(batch["completion_ids"].size(1)) < lengths).long()
    with torch.no_grad():
        logps = token_logps(made, batch)
    noise = draw(logps.shape, torch.Generator().manual_seed(15), 0.3)
    return [row[:len(c)].tolist() for row, c in zip(logps + noise, rollouts[1])]


def prepared(scratch, rollouts, **case):
    """A trainer with the moved adapter, and its batch with old log-probs from before the move."""
    made = trainer(scratch, rollouts, **case)
    rows = [{"prompt": words(p)} for p in rollouts[0]]
    if case.get("correction"):
        made.sampler = sampler_logps(made, rows, rollouts)
        # From here on TRL believes that vLLM sampled: it scores the old log-probs itself and makes the correction.
        made.use_vllm = True
        batch = made._generate_and_score_completions(rows)
        made.sampling_metrics = {key: value[-1] for key, value in made._metrics["train"].items() if "sampling/" in key}
        move_adapter(made.model)
        made._metrics["train"].clear()
        return made, batch
    batch = made._generate_and_score_completions(rows)
    if "old_per_token_logps" in batch:
        raise SystemExit("TRL made old log-probs of its own")
    with torch.no_grad():
        full = batch if not case.get("mask_truncated") else {**batch, "completion_mask": torch.ones_like(
            batch["completion_mask"])}
        # Under the truncation mask TRL scores nothing of a truncated row; the loss ignores those values either way.
        batch["old_per_token_logps"] = token_logps(made, full) * batch["completion_mask"]
    move_adapter(made.model)
    made._metrics["train"].clear()
    return made, batch


def correction_of(old, sampler, mode):
    """Weight of each token's policy term, from the formula."""
    apart = old - sampler
    ratio = (apart.sum() if mode.startswith("sequence") else apart).exp()
    kept = ratio.clamp(max=CAP) if mode.endswith("truncate") else ratio * (ratio <= CAP)
    return kept.expand(len(old))


def by_definition(made, rollouts, batch, loss_type, beta, micro_batches=1, mask_truncated=False, level="token",
                  weighted_kl=False, correction=None, **rest):
    """Loss from the formulas, one sequence at a time."""
    total_tokens = sum(len(c) for i, c in enumerate(rollouts[1]) if batch["completion_mask"][i].any())
    if batch["num_items_in_batch"].item() != total_tokens:
        say(f"  num_items_in_batch {batch['num_items_in_batch'].item()}, unmasked tokens {total_tokens}")
        total_tokens = batch["num_items_in_batch"].item()
    size, loss = len(rollouts[1]) // micro_batches, 0.0
    for start in range(0, len(rollouts[1]), size):
        sums, counts = [], []
        for i in range(start, start + size):
            prompt, completion = rollouts[0][i], rollouts[1][i]
            keep = float(batch["completion_mask"][i].any())
            new = completion_logps(made.model, prompt, completion, TEMPERATURE)
            with torch.no_grad(), made.model.disable_adapter():
                reference = completion_logps(made.model, prompt, completion, TEMPERATURE)
            old = batch["old_per_token_logps"][i, :len(completion)]
            difference = new - old if level == "token" else (new - old).mean()
            ratio = difference.exp()
            advantage = batch["advantages"][i]
            row = -torch.minimum(ratio * advantage, ratio.clamp(1 - LOW, 1 + HIGH) * advantage)
            if correction:
                row = row * correction_of(old, torch.tensor(made.sampler[i]), correction)
            divergence = (reference - new).exp() - (reference - new) - 1
            row = row + beta * divergence * (ratio if weighted_kl else 1.0)
            sums.append(keep * row.expand(len(completion)).sum())
            counts.append(keep * len(completion))
        if loss_type == "grpo":
            part = sum(s / max(n, 1.0) for s, n in zip(sums, counts)) / size / micro_batches
        elif loss_type == "bnpo":
            part = sum(sums) / max(sum(counts), 1.0) / micro_batches
        elif loss_type == "dr_grpo":
            part = sum(sums) / (size * LIMIT) / micro_batches
        else:
            part = sum(sums) / total_tokens
        loss = loss + part
    return loss


def run(scratch, name, case, rollouts):
    made, batch = prepared(scratch, rollouts, **case)
    count = case.get("micro_batches", 1)
    size = len(REWARDS) // count
    losses = []
    for start in range(0, len(REWARDS), size):
        part = {k: v[start:start + size] if v.dim() else v for k, v in batch.items()}
        loss = made._compute_loss(made.model, part)
        loss.backward()
        losses.append(loss.item())
    gradients = adapter_state(made.model, lambda parameter: parameter.grad)
    metrics = {key: sum(value) / len(value) for key, value in made._metrics["train"].items()}
    made.model.zero_grad()
    own = by_definition(made, rollouts, batch, **case)
    own.backward()
    found = adapter_state(made.model, lambda parameter: parameter.grad)
    apart = {"loss": abs(own.item() - sum(losses)),
             "gradients": max(largest_relative(gradients[k], found[k]) for k in found)}
    norm = torch.stack([g.norm() for g in gradients.values()]).norm().item()
    say(f"{name}: loss {sum(losses):.6f}, gradient {norm:.4f}, definition apart by {apart}")
    if max(apart.values()) > 1e-4:
        raise SystemExit(f"{name}: TRL and the definition disagree")
    if case.get("correction"):
        metrics |= made.sampling_metrics
    record = {"loss": sum(losses), "micro_losses": losses, "gradient_norm": norm, "metrics": metrics,
              "num_items_in_batch": batch["num_items_in_batch"].item(), "definition_apart": apart,
              "settings": {"micro_batches": 1, "mask_truncated": False, "level": "token", "weighted_kl": False, **case}}
    return made, batch, record, gradients


def several_iterations(scratch, rollouts):
    """Optimizer steps on one batch, as TRL's loop takes them: old log-probs from the start, the loss by TRL."""
    case = dict(loss_type="dapo", beta=BETA, iterations=ITERATIONS)
    made = trainer(scratch, rollouts, **case)
    # More than one iteration: TRL scores the old log-probs itself, with the adapter as it was when sampling.
    batch = made._generate_and_score_completions([{"prompt": words(p)} for p in rollouts[0]])
    made._metrics["train"].clear()
    parameters = [p for p in made.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    steps = []
    for _ in range(ITERATIONS):
        loss = made._compute_loss(made.model, batch)
        own = by_definition(made, rollouts, batch, **case)
        if abs(own.item() - loss.item()) > 1e-4:
            raise SystemExit(f"iterations: TRL {loss.item()}, definition {own.item()}")
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        taken = {key: value[-1] for key, value in made._metrics["train"].items()}
        steps.append({"loss": loss.item(), "grad_norm": norm.item(), "low": taken["clip_ratio/low_mean"],
                      "high": taken["clip_ratio/high_mean"], "kl": taken["kl"]})
        say(f"  iteration: {steps[-1]}")
    return {"lr": RATE, "steps": steps}, made


def corrections(scratch, rollouts, out, record):
    """The cases with a sampler of its own, or one ratio a sequence, and the steps on one batch."""
    tensors, record["correction_cap"], record["corrected_cases"] = {}, CAP, {}
    for name, case in CORRECTED.items():
        made, batch, record["corrected_cases"][name], gradients = run(scratch, name, case, rollouts)
        tensors |= {f"{name}/{key}": value for key, value in gradients.items()}
        if case.get("correction"):
            weights = batch["importance_sampling_ratio"]
            tensors[f"weights/{name}"] = weights.expand(batch["completion_mask"].shape)
            tensors["sampler_logps"] = batch["sampling_per_token_logps"]
            say(f"  weights {weights.min().item():.3f} … {weights.max().item():.3f}, at the cap "
                f"{(weights == CAP).sum().item()}, masked {(weights == 0).sum().item()} of {weights.numel()}")
    record["iterations"], made = several_iterations(scratch, rollouts)
    tensors |= {f"iterations/{key}": value for key, value in adapter_state(made.model).items()}
    # Where the iterations start: the adapter that sampled.
    save_adapter(trainer(scratch, rollouts, loss_type="dapo", beta=BETA).model, out / "adapter_sampler")
    save_tensors(out / "corrections.safetensors", tensors)


def main():
    out = folder("grpo")
    save_model(training_model(), out / "model")
    rollouts = make_rollouts()
    record = {"versions": versions("peft", "trl", "accelerate"), "lora": {"r": 4, "alpha": 8}, "group": GROUP,
              "temperature": TEMPERATURE, "epsilon_low": LOW, "epsilon_high": HIGH, "max_completion_length": LIMIT,
              "rewards": REWARDS, "prompts": rollouts[0], "completions": rollouts[1], "cases": {}}
    all_gradients, tensors = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, case in CASES.items():
            made, batch, record["cases"][name], gradients = run(scratch, name, case, rollouts)
            all_gradients |= {f"{name}/{key}": value for key, value in gradients.items()}
            if name == f"grpo_beta{BETA}":
                with torch.no_grad():
                    logps, entropies = token_logps(made, batch, entropies=True)
                tensors |= {key: batch[key] for key in batch if key != "num_items_in_batch"}
                tensors |= {"per_token_logps": logps, "entropies": entropies, "rewards": torch.tensor(REWARDS)}
                save_adapter(made.model, out / "adapter")
            if name == "grpo_truncated_masked":
                tensors["completion_mask_truncated_masked"] = batch["completion_mask"]
        corrections(scratch, rollouts, out, record)
    grouped = tensors["rewards"].view(-1, GROUP)
    own = (grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)
    if not torch.allclose(own.flatten(), tensors["advantages"], atol=1e-6):
        raise SystemExit(f"TRL's advantages {tensors['advantages']}, by definition {own}")
    mask = tensors["completion_mask"].bool()
    ratio = (tensors["per_token_logps"] - tensors["old_per_token_logps"]).exp()[mask]
    record["ratio"] = {"min": ratio.min().item(), "max": ratio.max().item(),
                       "below": (ratio < 1 - LOW).sum().item(), "above": (ratio > 1 + HIGH).sum().item(),
                       "tokens": ratio.numel()}
    say(f"ratios {record['ratio']}")
    save_tensors(out / "batch.safetensors", {k: v.long() if not v.is_floating_point() else v
                                             for k, v in tensors.items()})
    save_tensors(out / "gradients.safetensors", all_gradients)
    save_json(out / "grpo.json", record)


if __name__ == "__main__":
    main()
