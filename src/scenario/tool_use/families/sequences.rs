//! Sequences, digits, sums of binomial coefficients.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::math::binomial;
use super::{Drawn, Family, complex, drawn};

/// Linear recurrences, digit sums, binomial sums, binary strings.
pub(super) fn families() -> Vec<Family> {
    vec![
        complex("recurrence", RECURRENCE_TRAIN, RECURRENCE_TEST, recurrence),
        complex("digit-sum", DIGITS_TRAIN, DIGITS_TEST, digit_sum),
        complex("binomial-sum", BINOMIAL_TRAIN, BINOMIAL_TEST, binomial_sum),
        complex(
            "binary-strings",
            STRINGS_TRAIN,
            STRINGS_TEST,
            binary_strings,
        ),
    ]
}

const RECURRENCE_TRAIN: &[&str] = &[
    "A sequence has x_0 = {u}, x_1 = {v} and x_n = {p}·x_(n-1) + {q}·x_(n-2) for n ≥ 2. What is the remainder of x_{n} on division by {m}?",
    "Let x_0 = {u} and x_1 = {v}. Every later term is {p} times the term before it plus {q} times the term before that one. Find x_{n} modulo {m}.",
    "The integers x_0, x_1, x_2, … satisfy x_(k+2) = {p}·x_(k+1) + {q}·x_k with x_0 = {u}, x_1 = {v}. Compute x_{n} mod {m}.",
];
const RECURRENCE_TEST: &[&str] = &[
    "Starting from {u} (term number 0) and {v} (term number 1), each new term equals {p} times its predecessor plus {q} times the predecessor of that. What remainder does term number {n} leave modulo {m}?",
    "Define a(0) = {u}, a(1) = {v}, a(i) = {p}·a(i-1) + {q}·a(i-2). Determine a({n}) reduced modulo {m}.",
];

fn recurrence(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let (p, q): (i64, i64) = (rng.random_range(1..=9), rng.random_range(2..=9));
    let (u, v): (i64, i64) = (rng.random_range(0..=9), rng.random_range(1..=9));
    let (n, m): (i64, i64) = (rng.random_range(40..=400), rng.random_range(1000..=9999));
    let (mut x, mut y) = (u, v);
    for _ in 1..n {
        (x, y) = (y, (p * y + q * x) % m);
    }
    let first = y;
    // Powers of the companion matrix.
    let times = |a: [i64; 4], b: [i64; 4]| {
        [
            (a[0] * b[0] + a[1] * b[2]) % m,
            (a[0] * b[1] + a[1] * b[3]) % m,
            (a[2] * b[0] + a[3] * b[2]) % m,
            (a[2] * b[1] + a[3] * b[3]) % m,
        ]
    };
    let (mut result, mut base, mut rest) = ([1, 0, 0, 1], [p, q, 1, 0], n);
    while rest > 0 {
        if rest & 1 == 1 {
            result = times(result, base);
        }
        base = times(base, base);
        rest >>= 1;
    }
    let second = (result[2] * v + result[3] * u) % m;
    let slots = [("u", u), ("v", v), ("p", p), ("q", q), ("n", n), ("m", m)];
    let program = format!(
        "x, y = {u}, {v}\nfor _ in range({n}):\n    x, y = y, {p} * y + {q} * x\nprint(x % {m})\n"
    );
    Some(drawn(
        &[u, v, p, q, n, m],
        slots.map(|(name, value)| (name, value.to_string())).into(),
        [first.into(), second.into()],
        program,
    ))
}

const DIGITS_TRAIN: &[&str] = &[
    "How many integers from 1 to {n} have digits that add up to {s}?",
    "The digit sum of an integer is the sum of its decimal digits. Count the positive integers up to {n} with digit sum {s}.",
    "Someone writes down every integer k with 1 ≤ k ≤ {n} whose decimal digits total {s}. How many integers are written down?",
];
const DIGITS_TEST: &[&str] = &[
    "Among the positive integers not exceeding {n}, how many have a sum of digits equal to {s}?",
    "A counter runs from 1 to {n}. For what number of its readings is the total of all digits shown {s}?",
];

fn digit_sum(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let (n, s): (i64, i64) = (rng.random_range(4000..=30_000), rng.random_range(10..=26));
    let sum = |mut k: i64| {
        let mut sum = 0;
        while k > 0 {
            sum += k % 10;
            k /= 10;
        }
        sum
    };
    let first = (1..=n).filter(|k| sum(*k) == s).count();
    // Digit by digit: a prefix of n, a smaller digit, then anything.
    let digits: Vec<i64> = n.to_string().bytes().map(|b| i64::from(b - b'0')).collect();
    // ways[length][sum] of free digits
    let mut ways = vec![vec![0_i64; s as usize + 1]];
    ways[0][0] = 1;
    for length in 1..=digits.len() {
        let row = (0..=s)
            .map(|t| {
                (0..=9.min(t))
                    .map(|d| ways[length - 1][(t - d) as usize])
                    .sum()
            })
            .collect();
        ways.push(row);
    }
    let (mut second, mut left) = (0, s);
    for (i, digit) in digits.iter().enumerate() {
        for smaller in 0..*digit {
            if smaller <= left {
                second += ways[digits.len() - i - 1][(left - smaller) as usize];
            }
        }
        left -= digit;
        if left < 0 {
            break;
        }
    }
    second += i64::from(left == 0);
    let slots = vec![("n", n.to_string()), ("s", s.to_string())];
    let program =
        format!("print(sum(1 for k in range(1, {n} + 1) if sum(map(int, str(k))) == {s}))\n");
    Some(drawn(
        &[n, s],
        slots,
        [first as i128, second.into()],
        program,
    ))
}

const BINOMIAL_TRAIN: &[&str] = &[
    "Let C(n, k) denote the binomial coefficient. Compute the sum of C({n}, k)·{a}^k over all k from 0 to {n} with k ≡ {r} (mod {d}).",
    "Evaluate the sum of the terms C({n}, k)·{a}^k in which 0 ≤ k ≤ {n} and k leaves remainder {r} when divided by {d}, where C({n}, k) is {n} choose k.",
    "In the expansion of (1 + {a}x)^{n}, add the coefficients of all x^k with k ≡ {r} (mod {d}). What is the result?",
];
const BINOMIAL_TEST: &[&str] = &[
    "The polynomial (1 + {a}x)^{n} is multiplied out. What is the sum of the coefficients at those powers x^k whose exponent k gives remainder {r} on division by {d}?",
    "Words of length {n} are written over an alphabet of {b} letters, one of which is Z. How many of them contain a number of letters other than Z that leaves remainder {r} when divided by {d}?",
];

fn binomial_sum(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let (n, a, d): (i64, i64, i64) = (
        rng.random_range(9..=18),
        rng.random_range(2..=4),
        rng.random_range(3..=6),
    );
    let r = rng.random_range(0..d);
    let first: i128 = (0..=n)
        .filter(|k| k % d == r)
        .map(|k| binomial(n, k) * i128::from(a).pow(k as u32))
        .sum();
    // One factor 1 + ax at a time, exponents kept modulo d.
    let mut counts = vec![0_i128; d as usize];
    counts[0] = 1;
    for _ in 0..n {
        let shifted = |k: usize| counts[(k + d as usize - 1) % d as usize];
        counts = (0..d as usize)
            .map(|k| counts[k] + i128::from(a) * shifted(k))
            .collect();
    }
    let slots = [("n", n), ("a", a), ("b", a + 1), ("r", r), ("d", d)];
    let program = format!(
        "from math import comb\nprint(sum(comb({n}, k) * {a} ** k for k in range({n} + 1) if k % {d} == {r}))\n"
    );
    Some(drawn(
        &[n, a, d, r],
        slots.map(|(name, value)| (name, value.to_string())).into(),
        [first, counts[r as usize]],
        program,
    ))
}

const STRINGS_TRAIN: &[&str] = &[
    "How many binary strings of length {n} contain exactly {k} ones such that any two neighbouring ones have at least {g} {zeros} between them?",
    "In a row of {n} chairs, {k} people sit down so that between any two neighbours at least {g} {chairs} free. In how many ways can the {k} occupied chairs be chosen?",
    "From the integers 1 to {n}, how many ways are there to choose {k} so that any two chosen integers differ by more than {g}?",
];
const STRINGS_TEST: &[&str] = &[
    "A street has {n} lamps in a line. {k} of them are lit, and any two lit lamps have {g} or more dark lamps between them. How many such patterns exist?",
    "Find the number of {k}-element subsets of the numbers 1, 2, …, {n} in which the difference of any two elements is at least {h}.",
];

fn binary_strings(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let (n, k, g): (i64, i64, i64) = (
        rng.random_range(14..=36),
        rng.random_range(3..=8),
        rng.random_range(1..=4),
    );
    let first = binomial(n - (k - 1) * g, k);
    // Position by position: ways[ones] for strings of each length.
    let mut ways: Vec<Vec<i128>> = Vec::new();
    for length in 0..=n {
        let mut row = vec![0; k as usize + 1];
        for ones in 0..=k as usize {
            let zero_last = if length == 0 {
                i128::from(ones == 0)
            } else {
                ways[length as usize - 1][ones]
            };
            let one_last = if ones == 0 || length == 0 {
                0
            } else {
                // The one and the zeros before it, as far as there is room.
                let before = (length - 1 - g).max(0) as usize;
                if length - 1 - g >= 0 || ones == 1 {
                    ways[before][ones - 1]
                } else {
                    0
                }
            };
            row[ones] = zero_last + one_last;
        }
        ways.push(row);
    }
    let second = ways[n as usize][k as usize];
    let mut slots: Vec<(&'static str, String)> = [("n", n), ("k", k), ("g", g), ("h", g + 1)]
        .map(|(name, value)| (name, value.to_string()))
        .into();
    let plural = |one: &str, many: &str| {
        if g == 1 {
            one.to_owned()
        } else {
            many.to_owned()
        }
    };
    slots.push(("zeros", plural("zero", "zeros")));
    slots.push(("chairs", plural("chair stays", "chairs stay")));
    let program = format!(
        "from functools import lru_cache\n\n@lru_cache(None)\ndef ways(free, ones):\n    if ones == 0:\n        return 1\n    if free <= 0:\n        return 0\n    return ways(free - 1, ones) + ways(free - 1 - {g}, ones - 1)\n\nprint(ways({n}, {k}))\n"
    );
    Some(drawn(&[n, k, g], slots, [first, second], program))
}
