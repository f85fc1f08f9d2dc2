"""DPO on a tiny Llama by TRL's DPOTrainer: one batch with its gradients, then 50 optimizer steps.

Everything recorded is TRL's own (its collator, its loss, its trainer). The definition, −log σ(β[(π_c − ref_c) −
(π_r − ref_r)]) with summed completion log-probs, is written out as well and must agree; so must a plain loop of AdamW,
clip_grad_norm_ and the cosine schedule. How far they are apart is recorded as the noise of the fixture.
"""
import tempfile

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback, get_scheduler
from trl import DPOConfig, DPOTrainer

from common import folder, largest_relative, save_json, save_tensors, say, versions
from tiny import (EOS, adapter_state, completion_logps, lora_config, randomise_adapter, save_adapter, save_model,
                  tokenizer, training_model, words)

BETA = 0.1
SETTINGS = dict(learning_rate=5e-3, lr_scheduler_type="cosine", warmup_steps=5, max_grad_norm=1.0,
                per_device_train_batch_size=1, gradient_accumulation_steps=2, num_train_epochs=5, weight_decay=0.0,
                adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8)
STEPS = 50
# prompt, chosen, rejected lengths (the end-of-sequence token included in the completions)
BATCH = ((5, 4, 6), (8, 7, 2), (3, 1, 5))

# Further losses on the batch with its first pair turned round, so that a margin is positive: TRL's name, beta, label
# smoothing. Conservative DPO is TRL's `aot` on one pair at a time, where sorting has nothing to do.
LOSSES = {"sigmoid_smoothed": ("aot", 0.5, 0.2), "hinge": ("hinge", 2.0, 0.0), "ipo": ("ipo", 0.1, 0.0),
          "ipo_strong": ("ipo", 1.0, 0.0)}


def pair(lengths, generator):
    """Random ids 3 … 100; both completions end in EOS."""
    prompt, chosen, rejected = (torch.randint(3, 101, (n,), generator=generator).tolist() for n in lengths)
    return {"prompt": prompt, "chosen": chosen[:-1] + [EOS], "rejected": rejected[:-1] + [EOS]}


def make_data():
    generator = torch.Generator().manual_seed(31)
    batch = [pair(lengths, generator) for lengths in BATCH]
    lengths = torch.randint(2, 10, (20, 3), generator=generator).tolist()
    return batch, [pair(row, generator) for row in lengths]


def dataset(pairs):
    """The same pairs as text for TRL, which adds the end-of-sequence token by itself."""
    return Dataset.from_list([{"prompt": words(p["prompt"]), "chosen": " " + words(p["chosen"][:-1]),
                               "rejected": " " + words(p["rejected"][:-1])} for p in pairs])


class Recorder(DPOTrainer):
    """DPOTrainer that keeps each micro-batch's loss before it is divided by the accumulation."""

    def _compute_loss(self, model, inputs, return_outputs):
        loss = super()._compute_loss(model, inputs, return_outputs)
        if model.training:
            self.losses.append(loss.item())
            self.order.append(inputs["input_ids"][0].tolist())
        return loss


class Rates(TrainerCallback):
    """The learning rate each optimizer step used."""

    def __init__(self):
        self.used = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.used.append(optimizer.param_groups[0]["lr"])


def trainer(pairs, scratch, rates=None, **changes):
    args = DPOConfig(output_dir=scratch, bf16=False, gradient_checkpointing=False,
                     use_cpu=True, report_to="none", save_strategy="no", logging_steps=1, max_length=None,
                     optim="adamw_torch", train_sampling_strategy="sequential", disable_tqdm=True,
                     dataloader_pin_memory=False,
                     **{"beta": BETA, "loss_type": ["sigmoid"], **SETTINGS, **changes})
    made = Recorder(model=training_model(), args=args, train_dataset=dataset(pairs), processing_class=tokenizer(),
                    peft_config=lora_config(), callbacks=[rates] if rates else None)
    made.remove_callback(PrinterCallback)
    made.losses, made.order = [], []
    # With a peft_config the reference is the model with its adapter off, so B may be random from the start.
    randomise_adapter(made.model, seed=12)
    for row, p in zip(made.train_dataset, pairs):
        if (row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) != (p["prompt"], p["chosen"], p["rejected"]):
            raise SystemExit(f"TRL tokenised {row} instead of {p}")
    return made


def by_definition(model, pairs):
    """Loss of each pair and its summed log-probs, from the formula."""
    rows = []
    for p in pairs:
        policy = [completion_logps(model, p["prompt"], p[side]).sum() for side in ("chosen", "rejected")]
        with torch.no_grad(), model.disable_adapter():
            reference = [completion_logps(model, p["prompt"], p[side]).sum() for side in ("chosen", "rejected")]
        margin = BETA * ((policy[0] - reference[0]) - (policy[1] - reference[1]))
        rows.append((-torch.nn.functional.logsigmoid(margin), *policy, *reference))
    return [torch.stack(column) for column in zip(*rows)]


def one_batch(pairs, scratch, out):
    made = trainer(pairs, scratch, per_device_train_batch_size=3)
    model = made.model.train()
    # Every pair alone first: TRL logs means only, so a batch of one gives its own values.
    record = {"pairs": pairs, "losses": [], "chosen_logps": [], "rejected_logps": [], "ref_chosen_logps": [],
              "ref_rejected_logps": [], "chosen_rewards": [], "rejected_rewards": []}
    for row in made.train_dataset:
        inputs = made.data_collator([row])
        made._metrics["train"].clear()
        record["losses"].append(made._compute_loss(model, inputs, False).item())
        for key, name in (("chosen_logps", "logps/chosen"), ("rejected_logps", "logps/rejected"),
                          ("chosen_rewards", "rewards/chosen"), ("rejected_rewards", "rewards/rejected")):
            record[key].append(made._metrics["train"][name][0])
        chosen, rejected = made.compute_ref_log_probs(model, inputs)
        record["ref_chosen_logps"].append(chosen.item())
        record["ref_rejected_logps"].append(rejected.item())
    made._metrics["train"].clear()
    loss = made._compute_loss(model, made.data_collator(list(made.train_dataset)), False)
    record["metrics"] = {key: value[0] for key, value in made._metrics["train"].items()}
    model.zero_grad()
    loss.backward()
    record["loss"] = loss.item()
    gradients = adapter_state(model, lambda parameter: parameter.grad)
    record["gradient_norm"] = torch.stack([g.norm() for g in gradients.values()]).norm().item()
    save_tensors(out / "batch_gradients.safetensors", gradients)
    save_adapter(model, out / "adapter_initial")

    model.zero_grad()
    losses, *sums = by_definition(model, pairs)
    losses.mean().backward()
    own = adapter_state(model, lambda parameter: parameter.grad)
    apart = {"loss": abs(losses.mean().item() - record["loss"]),
             "gradients": max(largest_relative(gradients[k], own[k]) for k in own)}
    for key, found in zip(("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps"), sums):
        apart[key] = (torch.tensor(record[key]) - found.detach()).abs().max().item()
    say(f"batch: loss {record['loss']:.6f}, definition apart by {apart}")
    if max(apart.values()) > 1e-4:
        raise SystemExit("TRL and the definition disagree")
    record["definition_apart"] = apart
    return record


def other_losses(pairs, scratch, out):
    """Mean loss and gradients under the other losses, one pair a backward pass."""
    first = pairs[0]
    pairs = [{"prompt": first["prompt"], "chosen": first["rejected"], "rejected": first["chosen"]}, *pairs[1:]]
    record, tensors = {"pairs": pairs, "cases": {}}, {}
    for name, (loss_type, beta, smoothing) in LOSSES.items():
        made = trainer(pairs, scratch, loss_type=[loss_type], beta=beta, label_smoothing=smoothing)
        model = made.model.train()
        losses = []
        for row in made.train_dataset:
            loss = made._compute_loss(model, made.data_collator([row]), False)
            (loss / len(pairs)).backward()
            losses.append(loss.item())
        gradients = adapter_state(model, lambda parameter: parameter.grad)
        model.zero_grad()
        own = []
        for p in pairs:
            chosen, rejected = (completion_logps(model, p["prompt"], p[side]) for side in ("chosen", "rejected"))
            with torch.no_grad(), model.disable_adapter():
                reference = [completion_logps(model, p["prompt"], p[side]) for side in ("chosen", "rejected")]
            chosen, rejected = chosen - reference[0], rejected - reference[1]
            margin = chosen.sum() - rejected.sum()
            log_sigmoid = torch.nn.functional.logsigmoid
            own.append({
                "aot": -(1 - smoothing) * log_sigmoid(beta * margin) - smoothing * log_sigmoid(-beta * margin),
                "hinge": torch.relu(1 - beta * margin),
                "ipo": (chosen.mean() - rejected.mean() - 1 / (2 * beta)) ** 2}[loss_type])
        torch.stack(own).mean().backward()
        found = adapter_state(model, lambda parameter: parameter.grad)
        apart = {"loss": max(abs(a.item() - b) for a, b in zip(own, losses)),
                 "gradients": max(largest_relative(gradients[k], found[k]) for k in found)}
        say(f"{name}: losses {losses}, definition apart by {apart}")
        if max(apart.values()) > 1e-4:
            raise SystemExit(f"{name}: TRL and the definition disagree")
        record["cases"][name] = {"loss_type": loss_type, "beta": beta, "label_smoothing": smoothing, "losses": losses,
                                 "definition_apart": apart}
        tensors |= {f"{name}/{key}": value for key, value in gradients.items()}
    save_tensors(out / "loss_gradients.safetensors", tensors)
    return record


def training(pairs, scratch, out):
    rates = Rates()
    made = trainer(pairs, scratch, rates)
    initial = adapter_state(made.model)
    made.train()
    history = [row for row in made.state.log_history if "grad_norm" in row]
    accumulation = SETTINGS["gradient_accumulation_steps"]
    if not len(history) == len(rates.used) == STEPS == len(made.losses) // accumulation:
        raise SystemExit(f"{len(history)} logged steps, {len(rates.used)} optimizer steps, {len(made.losses)} losses")
    chosen = [p["prompt"] + p["chosen"] for p in pairs]
    order = [next(i for i, ids in enumerate(chosen) if row[:len(ids)] == ids) for row in made.order]
    steps = [{"lr": rates.used[i], "micro_losses": made.losses[accumulation * i:accumulation * (i + 1)],
              "loss": sum(made.losses[accumulation * i:accumulation * (i + 1)]) / accumulation,
              "logged_loss": history[i]["loss"], "grad_norm": history[i]["grad_norm"],
              "pairs": order[accumulation * i:accumulation * (i + 1)]} for i in range(STEPS)]
    final = adapter_state(made.model)
    save_adapter(made.model, out / "adapter_final")

    # The same by hand, from the same start.
    plain = trainer(pairs, scratch).model.train()
    parameters = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=SETTINGS["learning_rate"], betas=(0.9, 0.999), eps=1e-8,
                                  weight_decay=0.0)
    schedule = get_scheduler("cosine", optimizer, SETTINGS["warmup_steps"], STEPS)
    worst = {"loss": 0.0, "grad_norm": 0.0, "lr": 0.0}
    if any(not torch.equal(initial[k], v) for k, v in adapter_state(plain).items()):
        raise SystemExit("the two runs did not start alike")
    for step in steps:
        loss = by_definition(plain, [pairs[i] for i in step["pairs"]])[0].mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, SETTINGS["max_grad_norm"])
        for key, found in (("loss", loss.detach()), ("grad_norm", norm), ("lr", schedule.get_last_lr()[0])):
            worst[key] = max(worst[key], abs(float(found) - step[key]))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    worst["final_adapter"] = max(largest_relative(v, final[k]) for k, v in adapter_state(plain).items())
    moved = max(largest_relative(initial[k], final[k]) for k in final)
    say(f"training: loss {steps[0]['loss']:.4f} → {steps[-1]['loss']:.4f}, clipped in "
        f"{sum(s['grad_norm'] > 1 for s in steps)} of {STEPS} steps, by hand apart by {worst}, moved {moved:.3f}")
    if max(worst.values()) > 1e-3:
        raise SystemExit("TRL's training and the plain loop disagree")
    return {"settings": {**SETTINGS, "steps": STEPS}, "dataset": pairs, "steps": steps, "by_hand_apart": worst}


def main():
    out = folder("dpo")
    save_model(training_model(), out / "model")
    batch, pairs = make_data()
    with tempfile.TemporaryDirectory() as scratch:
        record = {"versions": versions("peft", "trl", "accelerate"), "beta": BETA, "lora": {"r": 4, "alpha": 8},
                  "batch": one_batch(batch, scratch, out), "losses": other_losses(batch, scratch, out),
                  "training": training(pairs, scratch, out)}
    save_json(out / "dpo.json", record)


if __name__ == "__main__":
    main()
