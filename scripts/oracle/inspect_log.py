"""Does inspect_ai read our logs? Exports every evaluation of a run, reads the logs back with inspect_ai's own reader,
compares them with the rows, and bundles them for its viewer.

    pip install inspect-ai==0.3.285 pyarrow
    python scripts/oracle/inspect_log.py target/debug/atp-pipeline runs/testbeds-smoke OUT
"""

import collections
import pathlib
import subprocess
import sys

import pyarrow.parquet
from inspect_ai.analysis import samples_df
from inspect_ai.log import list_eval_logs, read_eval_log, read_eval_log_sample_summaries

LETTERS = {"compliant": "C", "deviant": "I", "invalid": "N", "right": "C", "wrong": "I"}


def main(program, run, out):
    out = pathlib.Path(out)
    logs = out / "logs"
    logs.mkdir(parents=True)
    wanted = {}
    for stage in sorted(pathlib.Path(run, "latest").glob("evaluate-*")):
        (rows,) = stage.glob("*rows.parquet")
        # The viewer lists JSON files as logs only if their names begin with a time.
        log = logs / f"2026-01-01T00-00-00+00-00_{stage.name}_{len(wanted)}.json"
        subprocess.run([program, "data", "export", rows, "--format", "inspect", "--out", log], check=True)
        wanted[log.name] = pyarrow.parquet.read_table(rows).to_pylist()
    found = list_eval_logs(str(logs))
    assert len(found) == len(wanted), (len(found), len(wanted))
    for info in found:
        log = read_eval_log(info)
        rows = [r for r in wanted[pathlib.Path(info.name).name] if r["finish"] != "fixed"]
        assert log.status == "success"
        assert len(log.samples) == len(rows) == len(read_eval_log_sample_summaries(info))
        outcome = lambda r: r.get("outcome") or r["solved"]
        letters = collections.Counter(s.scores["aligned"].value for s in log.samples if s.scores)
        assert letters == collections.Counter(LETTERS[outcome(r)] for r in rows if outcome(r) != "failed")
        texts = collections.Counter(s.output.completion for s in log.samples)
        assert texts == collections.Counter(r["text"] for r in rows)
        rounds = {r["round"] for r in rows}
        assert {s.epoch for s in log.samples} == rounds and log.eval.config.epochs == max(rounds)
        assert all(m.role in ("system", "user") for s in log.samples for m in s.input)
        tokens = [s.output.usage.input_tokens for s in log.samples]
        assert sorted(tokens) == sorted(r["prompt_tokens"] for r in rows)
    frame = samples_df(str(logs))
    assert len(frame) == sum(len(rows) for rows in wanted.values())
    bundle = out / "bundle"
    subprocess.run(["inspect", "view", "bundle", "--log-dir", logs, "--output-dir", bundle], check=True)
    assert (bundle / "index.html").is_file()
    print(f"{len(found)} logs, {len(frame)} samples; bundle in {bundle}")


main(*sys.argv[1:])
