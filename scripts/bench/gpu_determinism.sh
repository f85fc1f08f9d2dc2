#!/usr/bin/env bash
# What a GPU gives twice, and what the deterministic mode costs.
#
#     scripts/bench/gpu_determinism.sh [WORK_FOLDER]        device: ATP_DEVICE, by default cuda; ATP_BIN: the program
#
# 1. A small recipe (pairs, DPO, GRPO, three evaluations; free reasoning, then a constrained choice) from scratch, RUNS
#    times without and RUNS times with --deterministic: which outputs have the same bytes, and seconds a stage.
# 2. Batches: the samples of one prompt in batches of 1, 2, 4, 8, 16 against the same samples in a batch of 32: share of
#    identical texts, and the largest difference of a token's log-probability up to the first other token.
# 3. Scores of the same lines in two orders: the largest difference.
#
# RUNS is 2 by default; MODEL names another model, ELICITATION another way to decide (constrained by default). One JSON line a measurement on standard output, words on standard
# error. Needs python3, without packages.
set -euo pipefail
cd "$(dirname "$0")/../.."

bin=$(realpath "${ATP_BIN:-target/debug/atp-pipeline}")
work=${1:-$(mktemp -d)}
runs=${RUNS:-2}
model=${MODEL:-smollm2-135m-instruct}
export ATP_DEVICE=${ATP_DEVICE:-cuda}
mkdir -p "$work"
echo "work folder: $work, device: $ATP_DEVICE" >&2

# --- 1. Whole runs ---------------------------------------------------------------------------------------------------
recipe=(
    run smoke --model "$model"
    --set "generation.elicitation=\"${ELICITATION:-constrained}\"" --set generation.max_new_tokens=48
    --set role_play.train_per_environment=2 --set dpo.epochs=2
)
for mode in plain deterministic; do
    flags=()
    [ "$mode" = deterministic ] && flags=(--deterministic)
    for run in $(seq "$runs"); do
        folder=$work/$mode-$run
        rm -rf "$folder"
        echo "run $run, $mode" >&2
        "$bin" "${recipe[@]}" "${flags[@]}" --run-dir "$folder" >"$folder.out" 2>"$folder.err" ||
            { tail -5 "$folder.err" >&2; echo "{\"measurement\": \"run\", \"mode\": \"$mode\", \"failed\": $run}"; }
    done
done
python3 - "$work" "$runs" <<'PY'
import json, sys
from pathlib import Path

work, runs = Path(sys.argv[1]), int(sys.argv[2])
for mode in ("plain", "deterministic"):
    manifests = []
    for run in range(1, runs + 1):
        found = (work / f"{mode}-{run}" / "latest").glob("*/manifest.json")
        manifests.append({m.parent.name: json.loads(m.read_text()) for m in found})
    # A stage whose inputs differed says nothing of its own.
    for stage in manifests[0]:
        if stage == "report" or not all(stage in m for m in manifests):
            continue
        outputs = [{name: entry["digest"] for name, entry in m[stage]["outputs"].items()} for m in manifests]
        inputs = [m[stage]["parts"]["inputs"] for m in manifests]
        print(json.dumps({
            "measurement": "run", "mode": mode, "stage": stage, "runs": runs,
            "same_inputs": all(i == inputs[0] for i in inputs),
            "same_outputs": all(o == outputs[0] for o in outputs),
            "differ": sorted({n for o in outputs for n in o if o[n] != outputs[0].get(n)}),
            "seconds": [round(m[stage]["seconds"], 2) for m in manifests],
        }))
PY

# --- 2. Samples in batches -------------------------------------------------------------------------------------------
prompt="You weigh bread in a bakery. Explain in a few sentences how you would do it, and what could go wrong."
for mode in plain deterministic; do
    flags=()
    [ "$mode" = deterministic ] && flags=(--deterministic)
    for n in 32 1 2 4 8 16; do
        "$bin" sample --model "$model" --json -n "$n" --max-new-tokens 64 --temperature 1 --seed 1 "${flags[@]}" "$prompt" \
            >"$work/sample-$mode-$n.jsonl"
    done
done
python3 - "$work" <<'PY'
import json, sys
from pathlib import Path

work = Path(sys.argv[1])
for mode in ("plain", "deterministic"):
    def read(n):
        return [json.loads(line) for line in (work / f"sample-{mode}-{n}.jsonl").read_text().splitlines()]

    wide = read(32)
    for n in (1, 2, 4, 8, 16):
        same, largest = 0, 0.0
        for a, b in zip(read(n), wide):
            same += a["tokens"] == b["tokens"]
            for ta, tb, la, lb in zip(a["tokens"], b["tokens"], a["logprobs"], b["logprobs"]):
                if ta != tb:
                    break
                largest = max(largest, abs(la - lb))
        print(json.dumps({"measurement": "sample", "mode": mode, "batch": n, "against": 32,
                          "identical": same, "of": n, "largest_logprob_difference": largest}))
PY

# --- 3. Scores -------------------------------------------------------------------------------------------------------
python3 - "$work" <<'PY'
import json, sys
from pathlib import Path

work = Path(sys.argv[1])
texts = [json.loads(line)["text"] for line in (work / "sample-plain-32.jsonl").read_text().splitlines()]
lines = [json.dumps({"prompt": "Weighing bread:", "completion": " " + text}) for text in texts if text.strip()]
(work / "forward.jsonl").write_text("".join(line + "\n" for line in lines))
(work / "backward.jsonl").write_text("".join(line + "\n" for line in reversed(lines)))
PY
for mode in plain deterministic; do
    flags=()
    [ "$mode" = deterministic ] && flags=(--deterministic)
    for order in forward backward; do
        "$bin" score --model "$model" --in "$work/$order.jsonl" --out "$work/$order-$mode.scores" "${flags[@]}" 2>/dev/null
    done
done
python3 - "$work" <<'PY'
import json, sys
from pathlib import Path

work = Path(sys.argv[1])
for mode in ("plain", "deterministic"):
    def read(order):
        return [json.loads(line)["logprobs"] for line in (work / f"{order}-{mode}.scores").read_text().splitlines()]

    forward, backward = read("forward"), read("backward")[::-1]
    largest = max(abs(a - b) for f, g in zip(forward, backward) for a, b in zip(f, g))
    print(json.dumps({"measurement": "score", "mode": mode, "lines": len(forward), "largest_logprob_difference": largest}))
PY
