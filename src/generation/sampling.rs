//! From next-token logits to a token.
//!
//! Filters apply in the usual order — temperature, top-k, top-p, min-p — and each keeps at least one token. The draw
//! of a request's n-th token comes from a stream named by the request's seed and n, so it depends on nothing else.

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::runtime::seed::stream;

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f64,
    /// Keep the k likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f64,
    /// Keep tokens at least this fraction as likely as the likeliest; 0 keeps all.
    pub min_p: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
        }
    }
}

impl Sampling {
    /// What is wrong with the settings, if anything: `(field, problem)`.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let expect = |ok: bool, field, range: &str, got: f64| {
            if ok {
                Ok(())
            } else {
                Err((field, format!("expected {range}, got {got}")))
            }
        };
        expect(
            (0.0..=100.0).contains(&self.temperature),
            "temperature",
            "0 to 100",
            self.temperature,
        )?;
        expect(
            self.top_p > 0.0 && self.top_p <= 1.0,
            "top_p",
            "above 0 and at most 1",
            self.top_p,
        )?;
        expect(
            (0.0..=1.0).contains(&self.min_p),
            "min_p",
            "0 to 1",
            self.min_p,
        )
    }
}

/// A drawn token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// Its id.
    pub token: u32,
    /// Its log-probability at the sampling temperature over the whole vocabulary, before the filters: what the
    /// training losses call the old log-probability. At temperature 0, at temperature 1.
    pub logprob: f32,
}

/// Logits that are no numbers: the model's weights or its input are broken.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the model gave no finite logits; its weights are damaged or overflow in this precision")]
pub struct NotFinite;

/// Draw the `index`-th token of the request with this seed.
pub fn draw(
    logits: &[f32],
    sampling: &Sampling,
    seed: u64,
    index: usize,
) -> Result<Drawn, NotFinite> {
    let (best, top) = likeliest(logits).ok_or(NotFinite)?;
    let temperature = if sampling.temperature > 0.0 {
        sampling.temperature
    } else {
        1.0
    };
    // Unnormalised probabilities relative to the likeliest token.
    let weights = weights(logits, top, temperature);
    let total: f64 = weights.iter().sum();
    let logprob = |token: usize| (f64::from(logits[token] - top) / temperature - total.ln()) as f32;
    if sampling.temperature == 0.0 {
        return Ok(Drawn {
            token: best as u32,
            logprob: logprob(best),
        });
    }
    let uniform: f64 = stream(seed, &format!("token/{index}")).random();
    let token = if sampling.top_k == 0 && sampling.top_p >= 1.0 {
        let floor = sampling.min_p;
        let kept = weights.iter().map(|&w| if w >= floor { w } else { 0.0 });
        let kept_total: f64 = if floor > 0.0 {
            kept.clone().sum()
        } else {
            total
        };
        pick(kept, uniform * kept_total).unwrap_or(best)
    } else {
        let candidates = filter(&weights, sampling);
        let kept_total: f64 = candidates.iter().map(|(_, w)| w).sum();
        let place = pick(candidates.iter().map(|(_, w)| *w), uniform * kept_total);
        place.map_or(best, |place| candidates[place].0)
    };
    Ok(Drawn {
        token: token as u32,
        logprob: logprob(token),
    })
}

/// Draw one of several alternatives from their log-probabilities, renormalised over them; temperature 0 takes the
/// likeliest, the first of equals. Also gives the renormalised probabilities at temperature 1.
pub fn draw_option(
    logprobs: &[f64],
    temperature: f64,
    seed: u64,
) -> Result<(usize, Vec<f64>), NotFinite> {
    let top = logprobs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !top.is_finite() || logprobs.iter().any(|l| l.is_nan()) {
        return Err(NotFinite);
    }
    let normalised = |temperature: f64| {
        let weights: Vec<f64> = logprobs
            .iter()
            .map(|l| ((l - top) / temperature).exp())
            .collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|w| w / total).collect::<Vec<_>>()
    };
    let best = logprobs.iter().position(|l| *l == top).unwrap_or(0);
    let chosen = if temperature == 0.0 {
        best
    } else {
        let uniform: f64 = stream(seed, "option").random();
        pick(normalised(temperature).into_iter(), uniform).unwrap_or(best)
    };
    Ok((chosen, normalised(1.0)))
}

/// Probability of each token over that of the likeliest, whose logit is `top`.
fn weights(logits: &[f32], top: f32, temperature: f64) -> Vec<f64> {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn avx512(logits: &[f32], top: f32, temperature: f64) -> Vec<f64> {
            weights_body(logits, top, temperature)
        }
        #[target_feature(enable = "avx2")]
        fn avx2(logits: &[f32], top: f32, temperature: f64) -> Vec<f64> {
            weights_body(logits, top, temperature)
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature was detected on this processor.
            return unsafe { avx512(logits, top, temperature) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was detected on this processor.
            return unsafe { avx2(logits, top, temperature) };
        }
    }
    weights_body(logits, top, temperature)
}

#[inline(always)]
fn weights_body(logits: &[f32], top: f32, temperature: f64) -> Vec<f64> {
    let mut weights = vec![0.0; logits.len()];
    for (weight, logit) in weights.iter_mut().zip(logits) {
        *weight = exp(f64::from(logit - top) / temperature);
    }
    weights
}

/// e^x for x ≤ 0 within two units in the last place, 0 where it is below 1e-307. Without branches and without fused
/// products, so that loops over it become vectors and give the same bits on every processor. The quotient is Cephes'.
#[inline(always)]
fn exp(x: f64) -> f64 {
    /// ln 2 in two parts, the first short enough that its products with whole numbers are exact.
    const LN2: [f64; 2] = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10];
    /// 1.5 · 2⁵²: adding it rounds to a whole number, which then stands in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    const LEAST: f64 = -707.0;
    let bounded = if x > LEAST { x } else { LEAST };
    let shifted = bounded * std::f64::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let r = (bounded - whole * LN2[0]) - whole * LN2[1];
    let square = r * r;
    let p = r * ((1.261_771_930_748_105_9e-4 * square + 3.029_944_077_074_419_6e-2) * square + 1.0);
    let q = ((3.001_985_051_386_644_5e-6 * square + 2.524_483_403_496_841e-3) * square
        + 2.272_655_482_081_550_3e-1)
        * square
        + 2.0;
    let value = 1.0 + 2.0 * p / (q - p);
    let power = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    if x > LEAST { value * power } else { 0.0 }
}

fn likeliest(logits: &[f32]) -> Option<(usize, f32)> {
    let mut best: Option<(usize, f32)> = None;
    for (token, &logit) in logits.iter().enumerate() {
        if logit.is_nan() || logit == f32::INFINITY {
            return None;
        }
        if best.is_none_or(|(_, top)| logit > top) {
            best = Some((token, logit));
        }
    }
    best.filter(|(_, top)| top.is_finite())
}

/// First index at which the running sum of weights passes `target`.
fn pick(weights: impl Iterator<Item = f64>, target: f64) -> Option<usize> {
    let (mut sum, mut last) = (0.0, None);
    for (index, weight) in weights.enumerate() {
        sum += weight;
        if weight > 0.0 {
            // Rounding may leave the target beyond the last sum: the last token with weight takes it.
            last = Some(index);
            if target < sum {
                return Some(index);
            }
        }
    }
    last
}

/// Tokens that pass top-k, top-p and min-p with their unnormalised weights, by id: the order in which the draw goes
/// through them, here as on a GPU.
fn filter(weights: &[f64], sampling: &Sampling) -> Vec<(usize, f64)> {
    let mut candidates: Vec<(usize, f64)> = weights.iter().copied().enumerate().collect();
    let by_weight = |a: &(usize, f64), b: &(usize, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if sampling.top_k > 0 && sampling.top_k < candidates.len() {
        candidates.select_nth_unstable_by(sampling.top_k - 1, by_weight);
        candidates.truncate(sampling.top_k);
    }
    candidates.sort_unstable_by(by_weight);
    let total: f64 = candidates.iter().map(|(_, w)| w).sum();
    let mut reached = 0.0;
    let keep = candidates.iter().take_while(|(_, w)| {
        let inside = reached < sampling.top_p * total;
        reached += w;
        inside
    });
    let keep = keep.count().max(1);
    candidates.truncate(keep);
    // The likeliest is still first.
    let floor = sampling.min_p * candidates.first().map_or(0.0, |(_, w)| *w);
    candidates.retain(|(_, w)| *w >= floor);
    candidates.sort_unstable_by_key(|(token, _)| *token);
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_that_of_the_library() {
        for step in 0..200_000 {
            let x = -f64::from(step) * 0.003_511;
            let (got, expected) = (exp(x), x.exp());
            assert!(
                (got - expected).abs() <= 5e-16 * expected,
                "{x}: {got:e}, {expected:e}"
            );
        }
        assert_eq!(
            (exp(0.0), exp(-708.0), exp(f64::NEG_INFINITY)),
            (1.0, 0.0, 0.0)
        );
    }

    const LOGITS: [f32; 6] = [0.3, 2.0, -1.0, 1.2, 0.0, 1.9];

    /// Exact probabilities after temperature and filters, written independently of the code above.
    fn exact(sampling: &Sampling) -> Vec<f64> {
        let scaled: Vec<f64> = LOGITS
            .iter()
            .map(|&l| (f64::from(l) / sampling.temperature).exp())
            .collect();
        let total: f64 = scaled.iter().sum();
        let p: Vec<f64> = scaled.iter().map(|s| s / total).collect();
        let mut order: Vec<usize> = (0..p.len()).collect();
        order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
        if sampling.top_k > 0 {
            order.truncate(sampling.top_k);
        }
        let kept: f64 = order.iter().map(|&i| p[i]).sum();
        let mut sum = 0.0;
        let mut nucleus = Vec::new();
        for i in order {
            if sum >= sampling.top_p {
                break;
            }
            sum += p[i] / kept;
            nucleus.push(i);
        }
        let top = p[nucleus[0]];
        nucleus.retain(|&i| p[i] >= sampling.min_p * top);
        let total: f64 = nucleus.iter().map(|&i| p[i]).sum();
        (0..p.len())
            .map(|i| {
                if nucleus.contains(&i) {
                    p[i] / total
                } else {
                    0.0
                }
            })
            .collect()
    }

    #[test]
    fn frequencies_agree_with_exact_probabilities() {
        let plain = Sampling::default();
        for sampling in [
            plain,
            Sampling {
                temperature: 0.7,
                ..plain
            },
            Sampling { top_k: 3, ..plain },
            Sampling {
                top_p: 0.6,
                ..plain
            },
            Sampling {
                min_p: 0.4,
                ..plain
            },
            Sampling {
                temperature: 1.4,
                top_k: 5,
                top_p: 0.9,
                min_p: 0.2,
            },
        ] {
            let expected = exact(&sampling);
            let draws = 20_000usize;
            let mut counts = [0usize; 6];
            for index in 0..draws {
                counts[draw(&LOGITS, &sampling, 11, index).expect("finite").token as usize] += 1;
            }
            let mut chi = 0.0;
            for (count, p) in counts.iter().zip(&expected) {
                let wanted = p * draws as f64;
                if wanted == 0.0 {
                    assert_eq!(*count, 0, "{sampling:?}");
                } else {
                    chi += (*count as f64 - wanted).powi(2) / wanted;
                }
            }
            // 99.9 % quantile of chi-square with 5 degrees of freedom; the seed is fixed, so this is no lottery.
            assert!(chi < 20.5, "{sampling:?}: {chi}");
        }
    }

    #[test]
    fn temperature_zero_is_greedy_and_its_logprob_is_the_models() {
        let drawn = draw(
            &LOGITS,
            &Sampling {
                temperature: 0.0,
                ..Sampling::default()
            },
            1,
            0,
        )
        .expect("finite");
        let total: f32 = LOGITS.iter().map(|l| l.exp()).sum();
        assert_eq!(drawn.token, 1);
        assert!((drawn.logprob - (2.0 - total.ln())).abs() < 1e-6);
    }

    #[test]
    fn broken_logits_are_an_error() {
        for bad in [
            [f32::NAN, 0.0],
            [f32::INFINITY, 0.0],
            [f32::NEG_INFINITY; 2],
        ] {
            assert!(draw(&bad, &Sampling::default(), 1, 0).is_err(), "{bad:?}");
        }
        assert!(draw_option(&[f64::NAN, 0.0], 1.0, 1).is_err());
    }

    #[test]
    fn options_are_drawn_by_their_renormalised_probability() {
        let logprobs = [-4.0, -3.0, -5.5];
        // Renormalised after division by the temperature, each option on its own.
        let exact = |temperature: f64| {
            let of = |l: f64| (l / temperature).exp();
            let total = of(-4.0) + of(-3.0) + of(-5.5);
            logprobs.map(|l| of(l) / total)
        };
        let draws = 20_000u32;
        for temperature in [1.0, 0.5, 2.0] {
            let mut counts = [0u32; 3];
            for seed in 0..draws {
                let drawn = draw_option(&logprobs, temperature, u64::from(seed));
                counts[drawn.expect("finite").0] += 1;
            }
            let terms = counts.iter().zip(exact(temperature)).map(|(count, p)| {
                let wanted = p * f64::from(draws);
                (f64::from(*count) - wanted).powi(2) / wanted
            });
            let chi: f64 = terms.sum();
            // 99.9 % quantile of chi-square with 2 degrees of freedom.
            assert!(chi < 13.8, "temperature {temperature}: {chi}, {counts:?}");
        }
        assert_eq!(draw_option(&logprobs, 0.0, 5).expect("finite").0, 1);
        // What is reported are the model's probabilities, whatever the temperature.
        let reported = draw_option(&logprobs, 0.5, 5).expect("finite").1;
        for (got, expected) in reported.iter().zip(exact(1.0)) {
            assert!((got - expected).abs() < 1e-12);
        }
    }
}
