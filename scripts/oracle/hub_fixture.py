"""A Parquet file as the hub serves them: written by pyarrow with its default compression (Snappy), GSM8K's columns.

    python3 scripts/oracle/hub_fixture.py

Needs pyarrow. The texts are made up here.
"""

import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = [
    ("Ola has 6 boxes with 7 nails each. How many nails are there?", "6 boxes hold 6*7 = <<6*7=42>>42 nails.\n#### 42"),
    ("Ivo reads 12 pages a day. How many pages does Ivo read in 5 days?", "He reads 12*5 = <<12*5=60>>60 pages.\n#### 60"),
]

folder = pathlib.Path(__file__).parents[2] / "tests" / "fixtures" / "hub"
folder.mkdir(parents=True, exist_ok=True)
table = pa.table({"question": [q for q, _ in ROWS], "answer": [a for _, a in ROWS]})
pq.write_table(table, folder / "gsm8k.parquet")
