"""What `atp-pipeline data export` writes is loaded by the tools it is written for, and is still what the Parquet holds.

    python export_formats.py PROGRAM RUN_DIRECTORY

RUN_DIRECTORY holds finished stages `data` and `pairs`. The exports go to a temporary folder. Checked there:

- the folders of the stages load by their cards (`datasets.load_dataset` on a folder, splits and all);
- pairs as JSONL and Parquet go through TRL's DPOTrainer: every prompt and answer is found again in the ids it trains on,
  and one step is taken on a tiny random model;
- questions go through TRL's GRPOTrainer for a step, with a reward function that reads the answer columns;
- pairs load by LLaMA-Factory's own parser and loader from the folder with dataset_info.json, and its pairwise processor
  makes ids that hold prompt and answers. Its package must be importable (`pip install --no-deps llamafactory torchaudio`
  is enough for that); without it this part is named as left out.

Its last line is JSON: the versions and what was checked. It exits with an error at the first disagreement.
"""
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import common  # sets the environment before transformers is imported
import pyarrow.parquet as parquet
from datasets import load_dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainingArguments
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer
from trl.data_utils import is_conversational

TEMPLATE = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def byte_tokenizer():
    """A byte is a token, so that ids decode to exactly what was encoded; ChatML turns."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|im_start|>", "<|im_end|>", "<|pad|>"]
    inner = Tokenizer(models.BPE({token: i for i, token in enumerate(special + alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|pad|>",
                                        additional_special_tokens=["<|im_start|>"])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_model(tokenizer):
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=4096,
                         eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return LlamaForCausalLM(config)


def expect(got, want, what):
    if got != want:
        raise SystemExit(f"{what}: expected {want!r}, got {got!r}")


def rendered(row):
    turns = "".join(f"<|im_start|>{role}\n{row[role]}<|im_end|>\n" for role in ("system", "user"))
    return turns + "<|im_start|>assistant\n"


def export(program, source, target, layout, *more):
    command = [program, "data", "export", str(source), "--format", layout, "--out", str(target), *more]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def check_cards(run):
    for stage, splits in [("data", ("train", "test")), ("pairs", ("train",))]:
        loaded = load_dataset(str(run / "latest" / stage))
        expect(sorted(loaded), sorted(splits), f"splits of {stage}")
        for split in splits:
            name = "pairs" if stage == "pairs" else split
            rows = parquet.read_table(run / "latest" / stage / f"{name}.parquet").to_pylist()
            expect(loaded[split].to_list(), rows, f"{stage}/{split} by its card")


def check_dpo(file, kind, pairs, folder):
    data = load_dataset(kind, data_files=str(file), split="train")
    expect(len(data), len(pairs), f"{file.name}: rows")
    expect(is_conversational(data[0]), True, f"{file.name}: conversational")
    tokenizer = byte_tokenizer()
    config = DPOConfig(output_dir=str(folder), max_steps=1, per_device_train_batch_size=2, report_to=[], bf16=False,
                       use_cpu=True, save_strategy="no", logging_strategy="no", max_length=None)
    trainer = DPOTrainer(tiny_model(tokenizer), ref_model=tiny_model(tokenizer), args=config, train_dataset=data,
                         processing_class=tokenizer)
    for row, seen in zip(pairs, trainer.train_dataset, strict=True):
        expect(tokenizer.decode(seen["prompt_ids"]), rendered(row), f"{file.name}: prompt of {row['id']}")
        for side in ("chosen", "rejected"):
            want = row[side] + "<|im_end|>\n"
            expect(tokenizer.decode(seen[f"{side}_ids"]), want, f"{file.name}: {side} of {row['id']}")
    trainer.train()


def check_grpo(file, kind, questions, folder):
    data = load_dataset(kind, data_files=str(file), split="train")
    expect([row["id"] for row in data], [q["id"] for q in questions], f"{file.name}: ids")
    for row, question in zip(data, questions, strict=True):
        for role in ("compliant", "deviant"):
            value = question[f"{role}_{'name' if question['answer'] == 'name' else 'label'}"]
            expect(json.loads(row[f"{role}_answer"]), {"choice": value}, f"{file.name}: {role} of {row['id']}")
            expect(row[f"{role}_answer"] in row["prompt"][1]["content"], True, f"{file.name}: answer in the prompt")
    asked = []

    def reward(completions, compliant_answer, **_):
        asked.extend(compliant_answer)
        return [float(answer in c[0]["content"]) for c, answer in zip(completions, compliant_answer, strict=True)]

    tokenizer = byte_tokenizer()
    config = GRPOConfig(output_dir=str(folder), max_steps=1, per_device_train_batch_size=2, num_generations=2,
                        max_completion_length=4, report_to=[], bf16=False, use_cpu=True, save_strategy="no",
                        logging_strategy="no")
    trainer = GRPOTrainer(tiny_model(tokenizer), reward_funcs=reward, args=config, train_dataset=data,
                          processing_class=tokenizer)
    trainer.train()
    expect(len(asked) > 0 and set(asked) <= {row["compliant_answer"] for row in data}, True, "rewards asked")


def check_llama_factory(folder, names, pairs):
    os.environ["DISABLE_VERSION_CHECK"] = "1"
    from llamafactory.data.loader import _load_single_dataset
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.data.processor import PairwiseDatasetProcessor
    from llamafactory.data.template import TEMPLATES

    data_args = SimpleNamespace(dataset_dir=str(folder), streaming=False, max_samples=None, media_dir=str(folder),
                                preprocessing_num_workers=None, overwrite_cache=True, cutoff_len=4096)
    model_args = SimpleNamespace(cache_dir=None, hf_hub_token=None)
    for name, attributes in zip(names, get_dataset_list(names, str(folder)), strict=True):
        expect(attributes.ranking, True, f"{name}: ranking")
        args = TrainingArguments(output_dir=str(folder / "out"), report_to=[], use_cpu=True)
        data = _load_single_dataset(attributes, model_args, data_args, args)
        expect(len(data), len(pairs), f"{name}: rows")
        for row, seen in zip(pairs, data, strict=True):
            expect(seen["_prompt"], [{"role": "user", "content": row["user"]}], f"{name}: prompt")
            expect(seen["_system"], row["system"], f"{name}: system")
            answers = [{"role": "assistant", "content": row[side]} for side in ("chosen", "rejected")]
            expect(seen["_response"], answers, f"{name}: answers")
        tokenizer = byte_tokenizer()
        processor = PairwiseDatasetProcessor(template=TEMPLATES["chatml"], tokenizer=tokenizer, processor=None,
                                             data_args=data_args)
        made = processor.preprocess_dataset(data.to_dict())
        for i, row in enumerate(pairs):
            for side in ("chosen", "rejected"):
                text = tokenizer.decode(made[f"{side}_input_ids"][i])
                expect(text.startswith(rendered(row) + row[side] + "<|im_end|>"), True, f"{name}: ids of {side} {i}")


def main(program, run):
    program, run = str(Path(program).resolve()), Path(run).resolve()
    pairs_file, questions_file = run / "latest/pairs/pairs.parquet", run / "latest/data/train.parquet"
    pairs, questions = (parquet.read_table(f).to_pylist() for f in (pairs_file, questions_file))
    checked = ["cards", "trl-dpo", "trl-grpo"]
    packages = ["datasets", "trl", "transformers", "pyarrow"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        check_cards(run)
        for ending, kind in [("jsonl", "json"), ("parquet", "parquet")]:
            export(program, pairs_file, folder / f"pairs.{ending}", "trl")
            check_dpo(folder / f"pairs.{ending}", kind, pairs, folder / "out")
            export(program, questions_file, folder / f"prompts.{ending}", "trl", "--style", "direct")
            check_grpo(folder / f"prompts.{ending}", kind, questions, folder / "out")
        for ending in ("json", "jsonl"):
            export(program, pairs_file, folder / f"factory-{ending}.{ending}", "llama-factory")
        try:
            packages.append("llamafactory")
            version("llamafactory")
            check_llama_factory(folder, ["factory-json", "factory-jsonl"], pairs)
            checked.append("llama-factory")
        except PackageNotFoundError:
            packages.pop()
            common.say("llamafactory is not installed: its loader was left out")
        export(program, pairs_file, folder / "rows.jsonl", "jsonl")
        rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
        expect(rows, pairs, "rows as JSON lines")
    versions = {name: version(name) for name in packages}
    print(json.dumps({"checked": checked, "pairs": len(pairs), "questions": len(questions), "versions": versions}))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
