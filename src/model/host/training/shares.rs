//! Distributions out of scores: attention over keys, and tokens out of logits.

use tch::{TchError, Tensor};

use super::{by_rows, empty, shape};
use crate::model::host::attention::soften;
use crate::model::host::buffer::{Parts, memory};
use crate::model::host::rows::{exp, tree_sum};
use crate::model::lanes::{LANES, Lanes, Simd, dispatch};

/// Numbers of a row that are summed in f32 before their sum is added to others in f64.
const PART: usize = 64 * LANES;

/// Probabilities out of scores `(…, T, S)`, in their place: softmax of `scale · scores`, query i of T seeing the keys up to
/// S − T + i.
///
/// # Errors
/// None as yet; as its sisters.
pub fn softened(scores: Tensor, queries: usize, scale: f64) -> Result<Tensor, TchError> {
    let (rows, keys) = shape(&scores);
    assert!(queries <= keys && rows.is_multiple_of(queries));
    // SAFETY: the scores are the caller's to give.
    let inout = unsafe { Parts::of(&scores) };
    let simd = Simd::best();
    by_rows(rows, |rows| {
        for row in rows {
            // SAFETY: a task has its own rows.
            let scores = unsafe { inout.part(row * keys, keys) };
            let (seen, unseen) = scores.split_at_mut(keys - queries + row % queries + 1);
            softmax(simd, seen, scale as f32);
            unseen.fill(0.0);
        }
    });
    Ok(scores)
}

fn softmax(simd: Simd, scores: &mut [f32], scale: f32) {
    dispatch!(simd, softmax_body(scores: &mut [f32], scale: f32));
}

/// # Safety
/// The processor must have the instruction set of `L`.
#[inline(always)]
unsafe fn softmax_body<L: Lanes>(scores: &mut [f32], scale: f32) {
    soften::<L>(scores, scale);
}

/// Gradient of the scores from that of the probabilities `p`, in its place.
///
/// # Errors
/// None as yet; as its sisters.
pub fn softened_backward(p: &Tensor, d_p: Tensor, scale: f64) -> Result<Tensor, TchError> {
    let (rows, keys) = shape(p);
    assert_eq!(p.size(), d_p.size(), "a gradient for each probability");
    // SAFETY: the gradient is the caller's to give, the probabilities are not written.
    let (p, inout) = unsafe { (memory(p), Parts::of(&d_p)) };
    let simd = Simd::best();
    by_rows(rows, |rows| {
        for row in rows {
            // SAFETY: a task has its own rows.
            let d_p = unsafe { inout.part(row * keys, keys) };
            soft_back(simd, &p[row * keys..(row + 1) * keys], d_p, scale as f32);
        }
    });
    Ok(d_p)
}

fn soft_back(simd: Simd, p: &[f32], d_p: &mut [f32], scale: f32) {
    dispatch!(simd, soft_back_body(p: &[f32], d_p: &mut [f32], scale: f32));
}

/// p ∘ (dp − Σ p ∘ dp) · scale.
///
/// # Safety
/// The processor must have the instruction set of `L`.
#[inline(always)]
unsafe fn soft_back_body<L: Lanes>(p: &[f32], d_p: &mut [f32], scale: f32) {
    let mut lanes = [0f32; LANES];
    for (p, d_p) in p.chunks(LANES).zip(d_p.chunks(LANES)) {
        for ((lane, p), d_p) in lanes.iter_mut().zip(p).zip(d_p) {
            *lane = L::fma_one(*p, *d_p, *lane);
        }
    }
    let shared = tree_sum(lanes);
    for (p, d_p) in p.iter().zip(d_p) {
        *d_p = p * (*d_p - shared) * scale;
    }
}

/// Log-probability of a token, entropy and logarithm of the sum of each row of logits, `(C)` each, the logits divided by
/// `temperatures` where there are some. All three are NaN where a logit is not finite.
///
/// # Errors
/// No memory.
pub fn score(
    logits: &Tensor,
    tokens: &Tensor,
    temperatures: Option<&Tensor>,
) -> Result<[Tensor; 3], TchError> {
    let (rows, width) = shape(logits);
    let out = [0; 3].map(|_| empty(&[rows as i64]));
    let [logprobs, entropies, sums] = out;
    let out = [logprobs?, entropies?, sums?];
    let tokens = ids(tokens, rows, width);
    // SAFETY: the results are new, the others are not written.
    let (logits, temperatures, [logprobs, entropies, sums]) = unsafe {
        (
            memory(logits),
            temperatures.map(|t| memory(t)),
            [Parts::of(&out[0]), Parts::of(&out[1]), Parts::of(&out[2])],
        )
    };
    let simd = Simd::best();
    by_rows(rows, |rows| {
        for row in rows {
            let temperature = temperatures.map_or(1.0, |t| t[row]);
            let mut scores = [f32::NAN; 3];
            let logits = &logits[row * width..(row + 1) * width];
            score_row(simd, logits, tokens[row], temperature, &mut scores);
            for (to, score) in [logprobs, entropies, sums].iter().zip(scores) {
                // SAFETY: a task has its own rows.
                unsafe { to.part(row, 1)[0] = score };
            }
        }
    });
    Ok(out)
}

/// Tokens of all rows, checked.
fn ids(tokens: &Tensor, rows: usize, width: usize) -> Vec<usize> {
    let ids = Vec::<i64>::try_from(tokens).expect("whole numbers");
    assert!(ids.len() == rows && ids.iter().all(|&id| (0..width as i64).contains(&id)));
    ids.into_iter().map(|id| id as usize).collect()
}

fn score_row(simd: Simd, logits: &[f32], token: usize, temperature: f32, scores: &mut [f32; 3]) {
    dispatch!(simd, score_body(logits: &[f32], token: usize, temperature: f32, scores: &mut [f32; 3]));
}

/// # Safety
/// The processor must have the instruction set of `L`.
#[inline(always)]
unsafe fn score_body<L: Lanes>(
    logits: &[f32],
    token: usize,
    temperature: f32,
    scores: &mut [f32; 3],
) {
    let mut tops = [f32::NEG_INFINITY; LANES];
    // Stays 0 while all are finite.
    let mut finite = [0f32; LANES];
    for part in logits.chunks(LANES) {
        for ((top, finite), logit) in tops.iter_mut().zip(&mut finite).zip(part) {
            *top = if *logit > *top { *logit } else { *top };
            *finite = L::fma_one(*logit, 0.0, *finite);
        }
    }
    if tree_sum(finite) != 0.0 {
        *scores = [f32::NAN; 3];
        return;
    }
    let top = tops.iter().copied().fold(f32::NEG_INFINITY, f32::max) / temperature;
    let (mut sum, mut dot) = (0f64, 0f64);
    for part in logits.chunks(PART) {
        let (mut sums, mut dots) = ([0f32; LANES], [0f32; LANES]);
        for part in part.chunks(LANES) {
            for ((sum, dot), logit) in sums.iter_mut().zip(&mut dots).zip(part) {
                let below = *logit / temperature - top;
                let share = exp::<L>(below);
                *sum += share;
                *dot = L::fma_one(share, below, *dot);
            }
        }
        sum += f64::from(tree_sum(sums));
        dot += f64::from(tree_sum(dots));
    }
    // With x the logits less the largest: H = ln Σ e^x − Σ e^x x / Σ e^x.
    let own = f64::from(logits[token] / temperature) - f64::from(top);
    *scores = [
        (own - sum.ln()) as f32,
        (sum.ln() - dot / sum) as f32,
        (f64::from(top) + sum.ln()) as f32,
    ];
}

/// Gradient of the logits from that of the log-probabilities, `(C)`, in the logits' place.
///
/// # Errors
/// None as yet; as its sisters.
pub fn score_backward(
    logits: Tensor,
    tokens: &Tensor,
    temperatures: Option<&Tensor>,
    sums: &Tensor,
    gradient: &Tensor,
) -> Result<Tensor, TchError> {
    let (rows, width) = shape(&logits);
    let tokens = ids(tokens, rows, width);
    let gradient = gradient.f_contiguous()?;
    // SAFETY: the logits are the caller's to give, the others are not written.
    let (inout, temperatures, sums, gradient) = unsafe {
        (
            Parts::of(&logits),
            temperatures.map(|t| memory(t)),
            memory(sums),
            memory(&gradient),
        )
    };
    let simd = Simd::best();
    by_rows(rows, |rows| {
        for row in rows {
            // SAFETY: a task has its own rows.
            let logits = unsafe { inout.part(row * width, width) };
            let temperature = temperatures.map_or(1.0, |t| t[row]);
            let slope = gradient[row] / temperature;
            score_back(simd, logits, temperature, sums[row], slope);
            logits[tokens[row]] += slope;
        }
    });
    Ok(logits)
}

fn score_back(simd: Simd, logits: &mut [f32], temperature: f32, sum: f32, slope: f32) {
    dispatch!(simd, score_back_body(logits: &mut [f32], temperature: f32, sum: f32, slope: f32));
}

/// `− slope · softmax`.
///
/// # Safety
/// The processor must have the instruction set of `L`.
#[inline(always)]
unsafe fn score_back_body<L: Lanes>(logits: &mut [f32], temperature: f32, sum: f32, slope: f32) {
    for logit in logits {
        *logit = exp::<L>(*logit / temperature - sum) * -slope;
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::super::tests::{leaf, near, random};
    use super::*;

    #[test]
    fn probabilities_and_their_gradients_are_those_of_autograd_in_f64() {
        tch::manual_seed(4);
        for (heads, queries, keys) in [(1, 1, 5), (3, 7, 7), (2, 20, 53)] {
            let (scores, d_p) = (
                random(&[heads, queries, keys]) * 4.0,
                random(&[heads, queries, keys]),
            );
            let exact = leaf(&scores);
            let unseen =
                Tensor::ones([queries, keys], (Kind::Bool, Device::Cpu)).triu(keys - queries + 1);
            let p = (&exact * 0.3)
                .masked_fill(&unseen, f64::NEG_INFINITY)
                .softmax(-1, Kind::Double);
            (&p * d_p.to_kind(Kind::Double))
                .sum(Kind::Double)
                .backward();
            let got = softened(scores, queries as usize, 0.3).expect("memory");
            near(&got, &p, 3e-6, "probabilities");
            let d_s = softened_backward(&got, d_p, 0.3).expect("memory");
            near(&d_s, &exact.grad(), 1e-5, "gradient of scores");
        }
    }

    #[test]
    fn scores_and_their_gradients_are_those_of_autograd_in_f64() {
        tch::manual_seed(3);
        for (rows, width) in [(1, 7), (5, 3000), (33, 1024)] {
            let logits = random(&[rows, width]) * 6.0;
            let tokens = Tensor::randint(width, [rows], (Kind::Int64, Device::Cpu));
            let slope = random(&[rows]);
            let warm = Tensor::rand([rows], (Kind::Float, Device::Cpu)) + 0.3;
            for temperatures in [None, Some(&warm)] {
                let exact = leaf(&logits);
                let scaled = match temperatures {
                    Some(t) => &exact / t.to_kind(Kind::Double).unsqueeze(1),
                    None => exact.shallow_clone(),
                };
                let all = scaled.log_softmax(-1, Kind::Double);
                let own = all.gather(1, &tokens.unsqueeze(1), false).squeeze_dim(1);
                (&own * slope.to_kind(Kind::Double))
                    .sum(Kind::Double)
                    .backward();
                let entropy = -(all.exp() * &all).sum_dim_intlist(-1, false, Kind::Double);
                let [logprobs, entropies, sums] =
                    score(&logits, &tokens, temperatures).expect("memory");
                near(&logprobs, &own, 1e-5, "log-probabilities");
                near(&entropies, &entropy, 1e-5, "entropies");
                near(&sums, &scaled.logsumexp([-1i64], false), 1e-5, "sums");
                let again = logits.copy();
                let d =
                    score_backward(again, &tokens, temperatures, &sums, &slope).expect("memory");
                near(&d, &exact.grad(), 3e-5, "gradient of logits");
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_seen() {
        let tokens = Tensor::from_slice(&[1i64]);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut row = vec![0.5f32; 40];
            row[37] = bad;
            let logits = Tensor::from_slice(&row).view([1, 40]);
            let scores = score(&logits, &tokens, None).expect("memory");
            for score in scores {
                assert!(score.double_value(&[0]).is_nan(), "{bad}");
            }
        }
    }
}
