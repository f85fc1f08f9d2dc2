"""The program, and a small finished run of it that all tests read."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = pathlib.Path(os.environ.get("ATP_PROGRAM", ROOT / "target/debug/atp-pipeline"))

RECIPE = """
extends = "{smoke}"
[role_play]
folder = "environments"
train_per_environment = 4
test_per_environment = 2
[dpo]
accumulation = 2
[grpo]
prompts_per_step = 2
"""


def call(*arguments, cwd=ROOT):
    """The program's standard output; its errors are the test's."""
    done = subprocess.run([PROGRAM, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished run: two environments, eight training and four test questions, DPO and GRPO, two rounds."""
    kept = os.environ.get("ATP_ECOSYSTEM_RUN")
    if kept:
        return pathlib.Path(kept).resolve()
    place = tmp_path_factory.mktemp("atp")
    environments = place / "environments"
    environments.mkdir()
    for name in ["bakery.toml", "taxi.toml"]:
        (environments / name).write_text((ROOT / "data/role_play" / name).read_text())
    (place / "tiny.toml").write_text(RECIPE.format(smoke=ROOT / "recipes/smoke.toml"))
    call("run", "tiny.toml", "--run-dir", "run", cwd=place)
    return place / "run"


@pytest.fixture(scope="session")
def adapter(run):
    return run / "latest/train-dpo/adapter"


@pytest.fixture(scope="session")
def merged(adapter, tmp_path_factory):
    """Model and adapter as one Hugging Face folder, in several shards."""
    folder = tmp_path_factory.mktemp("merged") / "model"
    call("export", "--adapter", adapter, "--merged", folder, "--precision", "fp32", "--shard", "100")
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """The base model as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("base") / "model"
    call("export", "--model", "smollm2-135m-instruct", "--merged", folder, "--precision", "fp32")
    return folder
