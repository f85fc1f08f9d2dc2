"""What this program writes, loaded by the programs it is written for.

    make test-ecosystem
"""

import json
import os
import re
import socket
import subprocess
import time
import urllib.request

import numpy as np
import pytest
import torch
from conftest import PROGRAM, ROOT, call
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = [
    "The capital of France is Paris, and 1234567 miles away there's nothing.",
    "Don't!  \n\n  def f(x):\n\treturn x ** 2  # naïve café 你好 🙂",
]


def ours(texts, tmp_path, *model):
    """Log-probabilities of each token after the first, by this program."""
    lines = [json.dumps({"input_ids": ids}) for ids in texts]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out.jsonl"
    call("score", "--in", tmp_path / "in.jsonl", "--out", out, "--precision", "fp32", *model)
    return [json.loads(line)["logprobs"] for line in out.read_text().splitlines()]


def theirs(model, ids):
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1].float()
    chosen = torch.tensor(ids[1:])[:, None]
    return torch.log_softmax(logits, -1).gather(1, chosen)[:, 0].numpy()


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits.float()


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def largest(a, b):
    return float(np.max(np.abs(np.asarray(a) - np.asarray(b))))


def report(what, value):
    print(f"\n{what}: largest absolute difference {value:.2e}")


def test_a_merged_folder_in_transformers_is_the_base_with_the_adapter(merged, base, adapter, tmp_path):
    assert (merged / "model.safetensors.index.json").is_file()
    assert len(list(merged.glob("model-*-of-*.safetensors"))) > 3
    tokenizer = AutoTokenizer.from_pretrained(merged)
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    model = load(merged)
    scored = ours(ids, tmp_path, "--adapter", str(adapter))
    difference = max(largest(theirs(model, i), s) for i, s in zip(ids, scored))
    report("merged in transformers, log-probabilities of `score --adapter`", difference)
    assert difference < 1e-3
    # And it is not the base: the adapter does something.
    plain = load(base)
    assert largest(logits(plain, ids[0]), logits(model, ids[0])) > 10 * difference
    turn = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True
    )
    assert turn.endswith("<|im_start|>assistant\n")
    assert model.generation_config.eos_token_id is not None


def test_an_adapter_in_peft_is_the_merged_model(merged, base, adapter, tmp_path):
    from peft import PeftModel

    folder = tmp_path / "adapter"
    call("export", "--adapter", adapter, "--peft", folder, "--base-name", "HuggingFaceTB/SmolLM2-135M-Instruct")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    tokenizer = AutoTokenizer.from_pretrained(merged)
    ids = tokenizer(TEXTS[1])["input_ids"]
    whole = logits(load(merged), ids)
    model = PeftModel.from_pretrained(load(base), folder).eval()
    difference = largest(logits(model, ids), whole)
    report("base with the adapter in peft, merged in transformers: logits", difference)
    assert difference < 1e-3
    both = largest(logits(model.merge_and_unload(), ids), whole)
    report("merged by peft, merged here: logits", both)
    assert both < 1e-3


def test_the_adapters_card_is_one_that_the_hub_reads(adapter, tmp_path):
    from huggingface_hub import ModelCard

    folder = tmp_path / "adapter"
    call("export", "--adapter", adapter, "--peft", folder, "--base-name", "HuggingFaceTB/SmolLM2-135M-Instruct")
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "peft" and "dpo" in card.data.tags
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    manifest = json.loads((adapter.parent / "manifest.json").read_text())
    for digest in manifest["parts"]["inputs"].values():
        assert digest in card.text
    for part in ["lr = ", "| loss |", "violation rate", "seed 1"]:
        assert part in card.text, part


def test_vllms_reading_of_an_adapter(adapter, tmp_path):
    """What vLLM's PEFTHelper and its LoRA loader ask of a folder, as its documentation says."""
    from safetensors import safe_open

    folder = tmp_path / "adapter"
    call("export", "--adapter", adapter, "--peft", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["bias"] == "none" and not config["use_dora"]
    assert not config.get("modules_to_save")
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        for name in file.keys():
            module, kind = name.removeprefix("base_model.model.").rsplit(".lora_", 1)
            assert kind in ("A.weight", "B.weight")
            assert module.rsplit(".", 1)[1] in config["target_modules"]
            tensor = file.get_tensor(name)
            assert config["r"] in tensor.shape


@pytest.mark.parametrize("precision,dtype", [("fp32", "F32"), ("fp16", "F16"), ("bf16", "BF16")])
def test_a_gguf_file_in_the_gguf_package(adapter, merged, tmp_path, precision, dtype):
    from gguf import GGUFReader
    from safetensors.torch import load_file

    path = tmp_path / "model.gguf"
    call("export", "--model", merged, "--gguf", path, "--precision", precision)
    reader = GGUFReader(path)
    field = {name: field.contents() for name, field in reader.fields.items()}
    config = json.loads((merged / "config.json").read_text())
    assert field["general.architecture"] == config["model_type"]
    assert field["llama.block_count"] == config["num_hidden_layers"]
    assert field["tokenizer.ggml.pre"] == "smollm"
    tokenizer = AutoTokenizer.from_pretrained(merged)
    assert field["tokenizer.ggml.tokens"][1000] == tokenizer.convert_ids_to_tokens(1000)
    weights = {}
    for shard in merged.glob("*.safetensors"):
        weights |= load_file(shard)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert len(tensors) == len(weights)
    up = tensors["blk.3.ffn_up.weight"]
    assert up.tensor_type.name == dtype
    if precision == "fp32":
        expected = weights["model.layers.3.mlp.up_proj.weight"].numpy()
        assert np.array_equal(np.asarray(up.data).reshape(expected.shape), expected)
        # Llama's q is stored in another order of rows, by head.
        q = weights["model.layers.3.self_attn.q_proj.weight"]
        heads, width = config["num_attention_heads"], q.shape[1]
        turned = q.reshape(heads, 2, -1, width).swapaxes(1, 2).reshape(q.shape)
        stored = np.asarray(tensors["blk.3.attn_q.weight"].data).reshape(q.shape)
        assert np.array_equal(stored, turned.numpy())


def test_a_gguf_file_read_again_is_the_same_model(merged, tmp_path):
    path = tmp_path / "model.gguf"
    call("export", "--model", merged, "--gguf", path, "--precision", "fp32")
    ids = [AutoTokenizer.from_pretrained(merged)(text)["input_ids"] for text in TEXTS]
    model = load(merged)
    scored = ours(ids, tmp_path, "--model", str(path))
    difference = max(largest(theirs(model, i), s) for i, s in zip(ids, scored))
    report("GGUF read again by `score`, merged folder in transformers: log-probabilities", difference)
    assert difference < 1e-3
    # Written as text, it is cut into the same tokens.
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "x", "completion": TEXTS[1]}) + "\n")
    call("score", "--model", path, "--in", tmp_path / "in.jsonl", "--out", tmp_path / "text.jsonl")
    assert json.loads((tmp_path / "text.jsonl").read_text())["tokens"] == ids[1]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def llama_cpp(merged, tmp_path_factory):
    """llama.cpp's own server with the exported file."""
    xllamacpp = pytest.importorskip("xllamacpp")
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    call("export", "--model", merged, "--gguf", path, "--precision", "fp32")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx = 4096
    parameters.n_parallel = 1
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = free_port()
    parameters.cpuparams.n_threads = 2
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    # In full precision, as it is compared with.
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(parameters)
    return server, server.listening_address


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


def test_llama_cpp_computes_the_same(llama_cpp, merged):
    _, url = llama_cpp
    tokenizer, model = AutoTokenizer.from_pretrained(merged), load(merged)
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert post(f"{url}/tokenize", {"content": text})["tokens"] == ids
        answer = post(
            f"{url}/completion", {"prompt": ids, "n_predict": 1, "n_probs": 20, "temperature": 0, "cache_prompt": False}
        )
        top = answer["completion_probabilities"][0]["top_logprobs"]
        expected = torch.log_softmax(logits(model, ids)[0, -1], -1)
        difference = max(abs(entry["logprob"] - float(expected[entry["id"]])) for entry in top)
        report("llama.cpp with the GGUF file, the 20 likeliest tokens' log-probabilities", difference)
        assert difference < 0.02


def test_a_model_that_llama_cpp_serves_is_evaluated(llama_cpp, tmp_path):
    _, url = llama_cpp
    environments = tmp_path / "environments"
    environments.mkdir()
    (environments / "bakery.toml").write_text((ROOT / "data/role_play/bakery.toml").read_text())
    (tmp_path / "served.toml").write_text(
        f"""variants = ["base"]
[models.served]
source = "{url}/v1#model"
endpoint = {{ concurrency = 2 }}
[role_play]
folder = "environments"
train_per_environment = 4
test_per_environment = 2
[generation]
max_new_tokens = 48
[evaluation]
rounds = 2
"""
    )
    call("run", "served.toml", "--run-dir", "run", cwd=tmp_path)
    import pandas as pd

    rows = pd.read_parquet(tmp_path / "run/latest/evaluate-base/rows.parquet")
    assert len(rows) == 4 and (rows.outcome != "failed").all()
    assert (rows.prompt_tokens > 100).all() and (rows.completion_tokens > 0).all()
    assert (rows.text.str.len() > 0).all()


def test_tensorboard_shows_training_and_evaluation(run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "logs"
    call("export", "--run", run, "--tensorboard", folder)
    shown = {p.parent.relative_to(folder).as_posix() for p in folder.rglob("*tfevents*")}
    assert {"train-dpo", "train-grpo", "evaluate-base", "evaluate-dpo", "evaluate-grpo"} <= shown
    for stage in ["train-dpo", "train-grpo"]:
        events = EventAccumulator(str(folder / stage)).Reload()
        lines = [json.loads(l) for l in (run / "latest" / stage / "metrics.jsonl").read_text().splitlines()]
        tags = events.Tags()["scalars"]
        for name in [k for k, v in lines[0].items() if k != "step" and isinstance(v, (int, float))]:
            got = [(event.step, event.value) for event in events.Scalars(f"train/{name}")]
            expected = [(line["step"], line[name]) for line in lines if isinstance(line.get(name), (int, float))]
            assert [s for s, _ in got] == [s for s, _ in expected]
            np.testing.assert_allclose([v for _, v in got], np.float32([v for _, v in expected]))
        assert len(tags) > 3
    import pandas as pd

    rows = pd.read_parquet(run / "latest/evaluate-dpo/rows.parquet")
    events = EventAccumulator(str(folder / "evaluate-dpo")).Reload()
    for event in events.Scalars("evaluation/violation/rate"):
        decided = rows[(rows["round"] == event.step) & rows.outcome.isin(["compliant", "deviant"])]
        assert abs(event.value - (decided.outcome == "deviant").mean()) < 1e-6
    again = tmp_path / "again"
    call("export", "--run", run, "--tensorboard", again)
    for path in folder.rglob("*tfevents*"):
        assert path.read_bytes() == (again / path.relative_to(folder)).read_bytes()


def test_tables_open_in_pandas_polars_duckdb_and_datasets(run):
    import datasets
    import duckdb
    import pandas as pd
    import polars as pl

    for table in ["evaluate-base/rows.parquet", "pairs/pairs.parquet", "data/train.parquet"]:
        path = str(run / "latest" / table)
        count = len(pd.read_parquet(path))
        assert count > 0
        assert len(pl.read_parquet(path)) == count
        assert duckdb.sql(f"select count(*) from '{path}'").fetchall() == [(count,)]
        assert len(datasets.Dataset.from_parquet(path)) == count


def readme(language, imported):
    """The README's block in a language that holds a text, with the places of this run."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    return next(block for block in blocks if imported in block)


def test_the_readmes_snippets_say_the_same(run, base, adapter):
    import contextlib
    import io

    import duckdb
    import polars as pl

    place = lambda text: text.replace("runs/laptop", str(run))
    pandas = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(place(readme("python", "import pandas")), pandas)
    readable = pandas["readable"]
    by_pandas = (readable.outcome == "deviant").groupby(readable["round"]).mean()
    assert "base" in printed.getvalue() and len(by_pandas) == 2
    polars = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(place(readme("python", "import polars")), polars)
    assert "variant" in printed.getvalue()
    by_polars = polars["readable"].group_by("variant", "round").agg((pl.col("outcome") == "deviant").mean()).collect()
    by_polars = {(variant, round): rate for variant, round, rate in by_polars.iter_rows()}
    by_duckdb = duckdb.sql(place(readme("sql", "SELECT"))).fetchall()
    assert {(variant, round): rate for variant, round, rate, _ in by_duckdb} == by_polars
    assert {round: by_polars["dpo", round] for round in by_pandas.index} == by_pandas.to_dict()
    peft = readme("python", "from peft")
    for name, there in [("Qwen/Qwen3-8B", base), ("runs/paper-qwen3-8b/latest/train-dpo/adapter", adapter)]:
        assert name in peft
        peft = peft.replace(name, str(there))
    loaded = {}
    exec(peft, loaded)
    assert sum("lora_" in name for name, _ in loaded["model"].named_parameters()) > 0


def test_a_data_set_folder_loads_by_name(run):
    import datasets

    found = datasets.load_dataset(str((run / "latest/data").resolve()))
    assert found["train"].num_rows == 8 and found["test"].num_rows == 4


def test_serve_is_spoken_to_by_others(base):
    """Our own server, asked by a client that knows nothing of it."""
    process = subprocess.Popen(
        [PROGRAM, "serve", "--port", "0", "-q"], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ
    )
    try:
        url, name = process.stdout.readline().strip().split("#")
        begin = time.time()
        answer = post(
            f"{url}/chat/completions",
            {"model": name, "messages": [{"role": "user", "content": "Say hello."}], "temperature": 0, "max_tokens": 16},
        )
        assert time.time() - begin < 300
        text = answer["choices"][0]["message"]["content"]
    finally:
        process.terminate()
        process.wait()
    tokenizer, model = AutoTokenizer.from_pretrained(base), load(base)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Say hello."}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**ids, max_new_tokens=16, do_sample=False)
    expected = tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert text == expected
