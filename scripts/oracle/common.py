"""What every fixture script shares: where fixtures lie, how they are written, how agreement is measured.

All computation is fp32 on the CPU with fixed seeds; the versions that made a fixture are written beside it.
"""
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

# Stopping the hub look-ups before transformers is imported: everything the fixtures need is local.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TQDM_DISABLE", "1")

import datasets  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

datasets.disable_progress_bars()
ROOT = Path(__file__).resolve().parent.parent.parent
FIXTURES = Path(os.environ.get("ATP_FIXTURES") or ROOT / "tests" / "fixtures" / "oracle")
DEPS = Path(os.environ.get("ATP_DEPS") or ROOT / ".deps").resolve()
GGUF_DIR = DEPS / "smollm2-135m-instruct"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MAX_BYTES = 300_000


def say(text):
    print(text, file=sys.stderr, flush=True)


def folder(name):
    path = FIXTURES / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def versions(*packages):
    """The packages that took part, for the record in the fixture's JSON."""
    return {name: version(name) for name in ("torch", "transformers", "safetensors", *packages)}


def save_tensors(path, tensors):
    """Write contiguous CPU copies (own storage each) in name order."""
    save_file({key: tensors[key].detach().cpu().contiguous().clone() for key in sorted(tensors)}, str(path))
    check_size(path)


def save_json(path, value):
    Path(path).write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")
    check_size(path)


def check_size(path):
    os.chmod(path, 0o644)
    size = Path(path).stat().st_size
    if size > MAX_BYTES:
        raise SystemExit(f"{path}: {size} bytes, fixtures are kept under {MAX_BYTES}")
    say(f"  {Path(path).relative_to(FIXTURES)}  {size}")


def largest_relative(got, want):
    """max |got − want| / max |want|, the measure the comparisons use."""
    return ((got.double() - want.double()).abs().max() / want.double().abs().max()).item()
