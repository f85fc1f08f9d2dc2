#!/usr/bin/env python3
"""Writes tests/fixtures/text/blocks.gguf: blocks of every format that is read, beside the f32 values that the `gguf`
package takes out of them (`<kind>` and `<kind>.expected`), and metadata of every type.

    pip install numpy==2.* gguf==0.19.0
    python scripts/oracle/gguf_fixtures.py
"""
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

OUT = Path(__file__).parents[2] / "tests/fixtures/text/blocks.gguf"
# Byte positions of the half-precision scales in a block; every other byte may hold anything.
SCALES = {
    Kind.Q4_0: [0], Kind.Q4_1: [0, 2], Kind.Q5_0: [0], Kind.Q5_1: [0, 2], Kind.Q8_0: [0],
    Kind.Q2_K: [80, 82], Kind.Q3_K: [108], Kind.Q4_K: [0, 2], Kind.Q5_K: [0, 2], Kind.Q6_K: [208],
}


def blocks(kind: Kind, rng: np.random.Generator) -> np.ndarray:
    """Random bytes with finite scales: two rows of blocks."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    per_row = 1 if elements == 256 else 3
    raw = rng.integers(0, 256, (2 * per_row, size), dtype=np.uint8)
    for at in SCALES[kind]:
        scale = rng.normal(0, 0.05, len(raw)).astype(np.float16)
        raw[:, at:at + 2] = scale.view(np.uint8).reshape(-1, 2)
    return raw.reshape(2, per_row * size)


def main() -> None:
    rng = np.random.default_rng(20251004)
    writer = gguf.GGUFWriter(OUT, "fixture")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -100)
    writer.add_uint16("u16", 60000)
    writer.add_int16("i16", -30000)
    writer.add_uint32("u32", 4_000_000_000)
    writer.add_int32("i32", -2_000_000_000)
    writer.add_uint64("u64", 2**63 + 1)
    writer.add_int64("i64", -2**62)
    writer.add_float32("f32", 0.1)
    writer.add_float64("f64", 0.1)
    writer.add_bool("bool", True)
    writer.add_string("string", "naïve → 日本")
    writer.add_array("strings", ["a", "", "ç"])
    writer.add_array("ints", [-1, 0, 1])
    writer.add_array("floats", [0.5, -2.0])
    writer.add_array("nested", [[1, 2], [3]])
    for kind in SCALES:
        raw = blocks(kind, rng)
        writer.add_tensor(kind.name, raw, raw_dtype=kind)
        writer.add_tensor(f"{kind.name}.expected", gguf.quants.dequantize(raw, kind).astype(np.float32))
    for kind, exponent in ((Kind.F16, 0x7C00), (Kind.BF16, 0x7F80)):
        # Finite, subnormal, zero of either sign, infinite; no NaN, whose payload need not survive.
        bits = rng.integers(0, 2**16, 58, dtype=np.uint16)
        bits = np.where(bits & exponent == exponent, bits & 0x8000, bits)
        bits = np.concatenate([bits, np.array([0, 0x8000, 1, 0x8001, exponent, exponent | 0x8000], np.uint16)])
        raw = bits.reshape(2, 32).view(np.uint8)
        values = bits.view(np.float16) if kind == Kind.F16 else gguf.quants.dequantize(raw, kind)
        writer.add_tensor(kind.name, raw, raw_dtype=kind)
        writer.add_tensor(f"{kind.name}.expected", values.reshape(2, 32).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(OUT, OUT.stat().st_size)


if __name__ == "__main__":
    main()
