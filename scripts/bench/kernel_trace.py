#!/usr/bin/env python3
"""Where a step's time on a GPU goes: kernels by name, and the gaps between them.

    python3 scripts/bench/kernel_trace.py [--mark NAME] [--steps N] -- PROGRAM ARGUMENT…

Runs the program with `kernel_trace.cpp` injected (CUPTI, from CUDA's toolkit or the `nvidia-cuda-cupti` wheel that comes
with torch), takes its last N steps, each beginning with a kernel whose name has NAME in it, and prints them per step.
`pack_adapter` begins a step of training.
"""

import argparse
import glob
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent


def find(name, roots):
    for root in roots:
        found = sorted(glob.glob(f"{root}/**/{name}", recursive=True))
        if found:
            return Path(found[0])
    sys.exit(f"{name} not found in {', '.join(map(str, roots))}; pip install nvidia-cuda-cupti nvidia-cuda-runtime nvidia-cuda-crt, or install CUDA's toolkit")


def build(folder):
    roots = [f"{path}/nvidia" for path in sys.path if path] + ["/usr/local/cuda/extras/CUPTI", "/usr/local/cuda"]
    cupti, cuda, library = find("cupti.h", roots), find("cuda.h", roots), find("libcupti.so*", roots)
    # A part of the headers that torch's wheels do not bring.
    crt = find("crt/host_defines.h", roots).parent.parent
    out = Path(folder) / "libtrace.so"
    subprocess.run(
        ["g++", "-O2", "-shared", "-fPIC", f"-I{cupti.parent}", f"-I{cuda.parent}", f"-I{crt}", str(HERE / "kernel_trace.cpp")]
        + ["-o", str(out), str(library), f"-Wl,-rpath,{library.parent}"],
        check=True,
    )
    return out


def short(name):
    """C++'s own names down to what tells kernels apart."""
    return re.sub(r"^void |at::native::|\(anonymous namespace\)::", "", name)[:70]


def summarise(path, mark, steps):
    rows = []
    for line in open(path):
        start, end, name = line.rstrip("\n").split(" ", 2)
        rows.append((int(start), int(end), name))
    rows.sort()
    begins = [i for i, row in enumerate(rows) if mark in row[2]]
    if len(begins) <= steps:
        sys.exit(f"{len(begins)} kernels named *{mark}*: too few for {steps} whole steps")
    first, last = begins[-1 - steps], begins[-1]
    part = rows[first:last]
    sums, counts = Counter(), Counter()
    for start, end, name in part:
        sums[short(name)] += end - start
        counts[short(name)] += 1
    each = 1e3 * steps  # ns of all steps to µs of one
    span, busy = (rows[last][0] - part[0][0]) / each, sum(sums.values()) / each
    print(f"a step: {span:.0f} µs, kernels {busy:.0f} µs in {len(part) / steps:.0f} launches")
    print(f"{'µs a step':>10} {'count':>7} {'µs each':>9}  kernel")
    for name, total in sums.most_common():
        print(f"{total / each:10.1f} {counts[name] / steps:7.1f} {total / counts[name] / 1e3:9.2f}  {name}")
    gaps, end = [], part[0][1]
    for before, after in zip(part, part[1:] + [rows[last]]):
        end = max(end, before[1])
        gaps.append((max(after[0] - end, 0), short(before[2]), short(after[2])))
    print(f"between them {sum(gap[0] for gap in gaps) / each:.0f} µs; the longest:")
    for gap, before, after in sorted(gaps, reverse=True)[:10]:
        print(f"{gap / 1e3:10.1f}  {before}  →  {after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mark", default="pack_adapter", help="part of the name of the kernel that begins a step")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("program", nargs="+")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace"
        environment = os.environ | {"CUDA_INJECTION64_PATH": str(build(folder)), "TRACE_OUT": str(trace)}
        subprocess.run(options.program, env=environment, check=True)
        if not trace.exists():
            sys.exit("no trace was written: the program used no GPU")
        summarise(trace, options.mark, options.steps)


if __name__ == "__main__":
    main()
