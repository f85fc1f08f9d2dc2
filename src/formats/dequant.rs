//! From GGUF's block formats to `f32`.
//!
//! Arithmetic is in single precision and in the order of the `gguf` Python package, so results are equal bit for bit.
//! Each decoder takes a run of whole blocks; long tensors are cut into runs and decoded in parallel, which cannot change
//! a value because blocks do not depend on each other.

use half::{bf16, f16};
use rayon::prelude::*;

use super::kind::TensorKind;

/// Bytes and element count do not fit together.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{elements} elements of {kind}: expected {}, got {got} bytes", .expected.map_or("whole blocks".to_string(), |b| format!("{b} bytes")))]
pub struct DequantError {
    /// The format.
    pub kind: TensorKind,
    /// Elements asked for.
    pub elements: usize,
    /// Bytes they take; `None` if they do not fill whole blocks.
    pub expected: Option<usize>,
    /// Bytes there are.
    pub got: usize,
}

/// Elements a parallel task decodes: a quarter of a megabyte of `f32`. Every block size divides it.
const ELEMENTS_PER_TASK: usize = 1 << 16;

/// The `elements` values stored in `bytes` as `kind`.
///
/// # Errors
/// If `bytes` is not exactly as long as `elements` elements of `kind`.
pub fn dequantise(
    kind: TensorKind,
    bytes: &[u8],
    elements: usize,
) -> Result<Vec<f32>, DequantError> {
    check(kind, bytes, elements)?;
    let mut out = vec![0.0; elements];
    run(kind, bytes, &mut out);
    Ok(out)
}

/// As [`dequantise`], into memory of the caller: `out.len()` values.
///
/// # Errors
/// If `bytes` is not exactly as long as `out.len()` elements of `kind`.
pub fn dequantise_into(
    kind: TensorKind,
    bytes: &[u8],
    out: &mut [f32],
) -> Result<(), DequantError> {
    check(kind, bytes, out.len())?;
    run(kind, bytes, out);
    Ok(())
}

fn check(kind: TensorKind, bytes: &[u8], elements: usize) -> Result<(), DequantError> {
    let expected = kind.bytes_for(elements);
    if expected == Some(bytes.len()) {
        return Ok(());
    }
    Err(DequantError {
        kind,
        elements,
        expected,
        got: bytes.len(),
    })
}

fn run(kind: TensorKind, bytes: &[u8], out: &mut [f32]) {
    let decode: fn(&[u8], &mut [f32]) = match kind {
        TensorKind::F32 => f32_le,
        TensorKind::F16 => f16_le,
        TensorKind::BF16 => bf16_le,
        TensorKind::Q4_0 => q4_0,
        TensorKind::Q4_1 => q4_1,
        TensorKind::Q5_0 => q5_0,
        TensorKind::Q5_1 => q5_1,
        TensorKind::Q8_0 => q8_0,
        TensorKind::Q2_K => q2_k,
        TensorKind::Q3_K => q3_k,
        TensorKind::Q4_K => q4_k,
        TensorKind::Q5_K => q5_k,
        TensorKind::Q6_K => q6_k,
    };
    if out.len() <= ELEMENTS_PER_TASK {
        return decode(bytes, out);
    }
    let task_bytes = ELEMENTS_PER_TASK / kind.block_elements() * kind.block_bytes();
    out.par_chunks_mut(ELEMENTS_PER_TASK)
        .zip(bytes.par_chunks(task_bytes))
        .for_each(|(out, bytes)| decode(bytes, out));
}

/// The half at `at`.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Calls `decode` with each block of `bytes` and its place in `out`.
fn each(kind: TensorKind, bytes: &[u8], out: &mut [f32], decode: impl Fn(&[u8], &mut [f32])) {
    let blocks = bytes.chunks_exact(kind.block_bytes());
    for (block, values) in blocks.zip(out.chunks_exact_mut(kind.block_elements())) {
        decode(block, values);
    }
}

fn f32_le(bytes: &[u8], out: &mut [f32]) {
    for (b, value) in bytes.chunks_exact(4).zip(out) {
        *value = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    }
}

fn f16_le(bytes: &[u8], out: &mut [f32]) {
    for (b, value) in bytes.chunks_exact(2).zip(out) {
        *value = f16::from_le_bytes([b[0], b[1]]).to_f32();
    }
}

fn bf16_le(bytes: &[u8], out: &mut [f32]) {
    for (b, value) in bytes.chunks_exact(2).zip(out) {
        *value = bf16::from_le_bytes([b[0], b[1]]).to_f32();
    }
}

/// d, 16 bytes; the low nibbles are the first 16 elements.
fn q4_0(bytes: &[u8], out: &mut [f32]) {
    each(TensorKind::Q4_0, bytes, out, |block, out| {
        let d = half_at(block, 0);
        for (i, q) in block[2..].iter().enumerate() {
            out[i] = d * f32::from((q & 15) as i8 - 8);
            out[i + 16] = d * f32::from((q >> 4) as i8 - 8);
        }
    });
}

/// d, m, 16 bytes.
fn q4_1(bytes: &[u8], out: &mut [f32]) {
    each(TensorKind::Q4_1, bytes, out, |block, out| {
        let (d, m) = (half_at(block, 0), half_at(block, 2));
        for (i, q) in block[4..].iter().enumerate() {
            out[i] = d * f32::from(q & 15) + m;
            out[i + 16] = d * f32::from(q >> 4) + m;
        }
    });
}

/// The `i`th pair of 5-bit values of a block: nibbles of byte `i`, fifth bits `i` and `i + 16`.
fn five_bits(high: &[u8], nibbles: &[u8], i: usize) -> (u8, u8) {
    let bit = |i: usize| (high[i / 8] >> (i % 8) & 1) << 4;
    (nibbles[i] & 15 | bit(i), nibbles[i] >> 4 | bit(i + 16))
}

/// d, 4 bytes of fifth bits, 16 bytes.
fn q5_0(bytes: &[u8], out: &mut [f32]) {
    each(TensorKind::Q5_0, bytes, out, |block, out| {
        let d = half_at(block, 0);
        for i in 0..16 {
            let (low, high) = five_bits(&block[2..6], &block[6..], i);
            out[i] = d * f32::from(low as i8 - 16);
            out[i + 16] = d * f32::from(high as i8 - 16);
        }
    });
}

/// d, m, 4 bytes of fifth bits, 16 bytes.
fn q5_1(bytes: &[u8], out: &mut [f32]) {
    each(TensorKind::Q5_1, bytes, out, |block, out| {
        let (d, m) = (half_at(block, 0), half_at(block, 2));
        for i in 0..16 {
            let (low, high) = five_bits(&block[4..8], &block[8..], i);
            out[i] = d * f32::from(low) + m;
            out[i + 16] = d * f32::from(high) + m;
        }
    });
}

/// d, 32 signed bytes.
fn q8_0(bytes: &[u8], out: &mut [f32]) {
    each(TensorKind::Q8_0, bytes, out, |block, out| {
        let d = half_at(block, 0);
        for (value, q) in out.iter_mut().zip(&block[2..]) {
            *value = d * f32::from(*q as i8);
        }
    });
}

/// 16 bytes of scale (low nibble) and offset (high), 64 bytes of four 2-bit values, d, dmin.
fn q2_k(bytes: &[u8], out: &mut [f32]) {
    each(TensorKind::Q2_K, bytes, out, |block, out| {
        let (d, dmin) = (half_at(block, 80), half_at(block, 82));
        for (group, out) in out.chunks_exact_mut(16).enumerate() {
            let scale = block[group];
            let (dl, ml) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
            // A half of 128 takes 32 bytes; the four pairs of groups in it are bits 0-1, 2-3, 4-5, 6-7 of those.
            let (start, shift) = (16 + group / 8 * 32 + group % 2 * 16, group % 8 / 2 * 2);
            for (value, q) in out.iter_mut().zip(&block[start..]) {
                *value = dl * f32::from(q >> shift & 3) - ml;
            }
        }
    });
}

/// 32 bytes of third bits, 64 bytes of four 2-bit values, 12 bytes of 6-bit scales, d.
fn q3_k(bytes: &[u8], out: &mut [f32]) {
    each(TensorKind::Q3_K, bytes, out, |block, out| {
        let (third, low, scales) = (&block[..32], &block[32..96], &block[96..108]);
        let d = half_at(block, 108);
        for (group, out) in out.chunks_exact_mut(16).enumerate() {
            let nibble = scales[group % 8] >> (group / 8 * 4) & 15;
            let upper = scales[8 + group % 4] >> (group / 4 * 2) & 3;
            let dl = d * f32::from((nibble | upper << 4) as i8 - 32);
            let (start, shift) = (group / 8 * 32 + group % 2 * 16, group % 8 / 2 * 2);
            let bit = group / 2;
            for (i, value) in out.iter_mut().enumerate() {
                let q = (low[start + i] >> shift & 3) as i8;
                // The third bit set means that nothing is taken off.
                let off = 4 * (1 - (third[group % 2 * 16 + i] >> bit & 1) as i8);
                *value = dl * f32::from(q - off);
            }
        }
    });
}

/// Scale and offset of sub-block `j` of eight, six bits each, packed in 12 bytes.
fn scale_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (
            packed[j + 4] & 15 | packed[j - 4] >> 6 << 4,
            packed[j + 4] >> 4 | packed[j] >> 6 << 4,
        )
    };
    (f32::from(scale), f32::from(min))
}

/// d, dmin, 12 bytes of scales and offsets, 128 bytes.
fn q4_k(bytes: &[u8], out: &mut [f32]) {
    each(TensorKind::Q4_K, bytes, out, |block, out| {
        let (d, dmin) = (half_at(block, 0), half_at(block, 2));
        for (j, out) in out.chunks_exact_mut(32).enumerate() {
            let (scale, min) = scale_min(&block[4..16], j);
            let (dl, ml) = (d * scale, dmin * min);
            // Two sub-blocks share 32 bytes: low nibbles, then high.
            for (value, q) in out.iter_mut().zip(&block[16 + j / 2 * 32..]) {
                *value = dl * f32::from(q >> (j % 2 * 4) & 15) - ml;
            }
        }
    });
}

/// d, dmin, 12 bytes of scales and offsets, 32 bytes of fifth bits, 128 bytes.
fn q5_k(bytes: &[u8], out: &mut [f32]) {
    each(TensorKind::Q5_K, bytes, out, |block, out| {
        let (d, dmin) = (half_at(block, 0), half_at(block, 2));
        for (j, out) in out.chunks_exact_mut(32).enumerate() {
            let (scale, min) = scale_min(&block[4..16], j);
            let (dl, ml) = (d * scale, dmin * min);
            let nibbles = block[48 + j / 2 * 32..].iter().zip(&block[16..48]);
            for (value, (q, fifth)) in out.iter_mut().zip(nibbles) {
                let q = q >> (j % 2 * 4) & 15 | (fifth >> j & 1) << 4;
                *value = dl * f32::from(q) - ml;
            }
        }
    });
}

/// 128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 signed scales, d.
fn q6_k(bytes: &[u8], out: &mut [f32]) {
    each(TensorKind::Q6_K, bytes, out, |block, out| {
        let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
        let d = half_at(block, 208);
        for (group, out) in out.chunks_exact_mut(16).enumerate() {
            let dl = d * f32::from(scales[group] as i8);
            // A half of 128 takes 64 + 32 bytes; `quarter` is the 32 elements within the half.
            let (half, quarter, odd) = (group / 8, group % 8 / 2, group % 2 * 16);
            let (low_at, high_at) = (half * 64 + quarter % 2 * 32 + odd, half * 32 + odd);
            for (i, value) in out.iter_mut().enumerate() {
                let q = low[low_at + i] >> (quarter / 2 * 4) & 15
                    | (high[high_at + i] >> (quarter * 2) & 3) << 4;
                *value = dl * f32::from(q as i8 - 32);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::gguf::GgufFile;

    /// Blocks and the values the `gguf` package takes out of them: scripts/oracle/gguf_fixtures.py.
    fn fixture() -> GgufFile {
        let path = "tests/fixtures/text/blocks.gguf";
        GgufFile::open(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
    }

    #[test]
    fn every_format_agrees_with_the_gguf_package_bit_for_bit() {
        let file = fixture();
        for kind in TensorKind::all().filter(|kind| *kind != TensorKind::F32) {
            let got = file.values(file.tensor(kind.name()).unwrap()).unwrap();
            let expected = file.tensor(&format!("{kind}.expected")).unwrap();
            let expected = file.values(expected).unwrap();
            assert_eq!(got.len(), expected.len());
            for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                assert_eq!(
                    got.to_bits(),
                    expected.to_bits(),
                    "{kind} [{i}]: {got} against {expected}"
                );
            }
        }
    }

    #[test]
    fn long_tensors_decode_as_their_parts_do() {
        let file = fixture();
        for kind in TensorKind::all().filter(|kind| *kind != TensorKind::F32) {
            let info = file.tensor(kind.name()).unwrap();
            let (bytes, one) = (file.bytes(info), file.values(info).unwrap());
            let times = 3 * ELEMENTS_PER_TASK / one.len() + 1;
            let all = dequantise(kind, &bytes.repeat(times), one.len() * times).unwrap();
            let same = |part: &[f32]| {
                part.iter()
                    .zip(&one)
                    .all(|(a, b)| a.to_bits() == b.to_bits())
            };
            assert!(all.chunks(one.len()).all(same), "{kind}");
        }
    }

    #[test]
    fn a_wrong_length_is_an_error() {
        let error = dequantise(TensorKind::Q4_1, &[0; 39], 64)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("Q4_1") && error.contains("40 bytes") && error.contains("39"),
            "{error}"
        );
        assert!(dequantise(TensorKind::Q4_K, &[0; 144], 255).is_err());
        assert!(dequantise(TensorKind::F32, &[], usize::MAX).is_err());
        assert!(dequantise_into(TensorKind::F32, &[0; 8], &mut [0.0; 3]).is_err());
    }
}
