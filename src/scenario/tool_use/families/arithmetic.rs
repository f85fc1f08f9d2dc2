//! Number theory: powers, congruences, divisors, residues.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::math::{gcd, is_prime, lcm, power_mod};
use super::{Drawn, Family, complex, distinct, drawn, listed_numbers, pick, python_list};

/// Modular exponentiation, simultaneous congruences, totients, multiples, residues.
pub(super) fn families() -> Vec<Family> {
    vec![
        complex("modular-power", POWER_TRAIN, POWER_TEST, modular_power),
        complex("congruences", CRT_TRAIN, CRT_TEST, congruences),
        complex("totient-sum", TOTIENT_TRAIN, TOTIENT_TEST, totient_sum),
        complex("divisor-sum", DIVISOR_TRAIN, DIVISOR_TEST, divisor_sum),
        complex("multiples", MULTIPLES_TRAIN, MULTIPLES_TEST, multiples),
        complex(
            "quadratic-residues",
            RESIDUE_TRAIN,
            RESIDUE_TEST,
            quadratic_residues,
        ),
    ]
}

const POWER_TRAIN: &[&str] = &[
    "What is the remainder when {a}^{b} + {c}^{d} is divided by {m}?",
    "Compute ({a}^{b} + {c}^{d}) mod {m}.",
    "Let N be the sum of {a} to the power {b} and {c} to the power {d}. Find N modulo {m}.",
];
const POWER_TEST: &[&str] = &[
    "Dividing {a}^{b} + {c}^{d} by {m} leaves which remainder?",
    "Determine the least non-negative integer congruent to {a}^{b} + {c}^{d} modulo {m}.",
];

fn modular_power(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let mut draw = || (rng.random_range(3..=97), rng.random_range(50..=900));
    let ((a, b), (c, d)): ((i64, i64), (i64, i64)) = (draw(), draw());
    let m = rng.random_range(1000..=9999);
    if a >= c {
        return None;
    }
    let first = (power_mod(a, b, m) + power_mod(c, d, m)) % m;
    // Multiplying step by step.
    let slow = |base: i64, exponent: i64| (0..exponent).fold(1, |value, _| value * base % m);
    let second = (slow(a, b) + slow(c, d)) % m;
    let slots = [("a", a), ("b", b), ("c", c), ("d", d), ("m", m)];
    let program = format!("print((pow({a}, {b}, {m}) + pow({c}, {d}, {m})) % {m})\n");
    Some(drawn(
        &[a, b, c, d, m],
        slots.map(|(name, value)| (name, value.to_string())).into(),
        [first.into(), second.into()],
        program,
    ))
}

const CRT_TRAIN: &[&str] = &[
    "Find the smallest positive integer that leaves remainder {r} when divided by {m}, remainder {s} when divided by {n}, and remainder {t} when divided by {k}.",
    "What is the least positive solution x of x ≡ {r} (mod {m}), x ≡ {s} (mod {n}), x ≡ {t} (mod {k})?",
    "Counting a pile of coins by {m} leaves {r} over, by {n} leaves {s}, and by {k} leaves {t}. What is the smallest possible positive number of coins?",
];
const CRT_TEST: &[&str] = &[
    "A positive integer is {r} modulo {m}, {s} modulo {n} and {t} modulo {k}. Determine the smallest one.",
    "Soldiers in rows of {m} have {r} without a row; in rows of {n} it is {s}; in rows of {k} it is {t}. At least how many soldiers are there, if there is at least one?",
];

fn congruences(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let moduli = distinct(rng, 3, 7, 43);
    let [m, n, k] = moduli[..] else { return None };
    if gcd(m, n) != 1 || gcd(m, k) != 1 || gcd(n, k) != 1 {
        return None;
    }
    let (r, s, t) = (
        rng.random_range(1..m),
        rng.random_range(1..n),
        rng.random_range(1..k),
    );
    // Sieving through the largest modulus.
    let first = (t..m * n * k)
        .step_by(k as usize)
        .find(|x| x % m == r && x % n == s)?;
    // The constructive theorem, inverses by Euler's.
    let product = m * n * k;
    let inverse = |a: i64, m: i64| (1..m).find(|x| a % m * x % m == 1);
    let mut second = 0;
    for (rest, modulus) in [(r, m), (s, n), (t, k)] {
        let others = product / modulus;
        second += rest * others * inverse(others, modulus)?;
    }
    let second = second % product;
    let slots = [("r", r), ("m", m), ("s", s), ("n", n), ("t", t), ("k", k)];
    let program = format!(
        "from math import prod\nmoduli = [{m}, {n}, {k}]\nrests = [{r}, {s}, {t}]\nM = prod(moduli)\nx = sum(r * (M // m) * pow(M // m, -1, m) for r, m in zip(rests, moduli)) % M\nprint(x)\n"
    );
    Some(drawn(
        &[m, n, k, r, s, t],
        slots.map(|(name, value)| (name, value.to_string())).into(),
        [first.into(), second.into()],
        program,
    ))
}

const TOTIENT_TRAIN: &[&str] = &[
    "Let φ denote Euler's totient function. Compute φ({a}) + φ({b}) + … + φ({c}), the sum over all integers from {a} to {c}.",
    "For each integer n from {a} to {c} count the integers from 1 to n that are coprime to n. What is the sum of these counts?",
    "How many pairs (x, n) of integers with {a} ≤ n ≤ {c} and 1 ≤ x ≤ n have greatest common divisor 1?",
];
const TOTIENT_TEST: &[&str] = &[
    "Determine the sum of Euler's φ(n) over all n with {a} ≤ n ≤ {c}.",
    "Of the fractions x/n in which n runs through {a}, …, {c} and x through 1, …, n, how many are in lowest terms?",
];

fn totient_sum(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let a: i64 = rng.random_range(20..=150);
    let c = a + rng.random_range(15..=60);
    let first: i64 = (a..=c)
        .map(|n| (1..=n).filter(|x| gcd(*x, n) == 1).count() as i64)
        .sum();
    // Euler's product, prime by prime.
    let totient = |n: i64| {
        (2..=n)
            .filter(|p| n % p == 0 && is_prime(*p))
            .fold(n, |value, p| value / p * (p - 1))
    };
    let second: i64 = (a..=c).map(totient).sum();
    let slots = [("a", a), ("b", a + 1), ("c", c)];
    let program = format!(
        "from math import gcd\nprint(sum(1 for n in range({a}, {c} + 1) for x in range(1, n + 1) if gcd(x, n) == 1))\n"
    );
    Some(drawn(
        &[a, c],
        slots.map(|(name, value)| (name, value.to_string())).into(),
        [first.into(), second.into()],
        program,
    ))
}

const DIVISOR_TRAIN: &[&str] = &[
    "For every integer n from {a} to {b}, let σ(n) be the sum of the positive divisors of n. What is the sum of all these σ(n)?",
    "Add up all positive divisors of each of the integers {a} to {b} (a divisor counts once for each integer that it divides). What is the total?",
    "Compute the sum over n = {a}, …, {b} of the sum of the divisors of n, with 1 and n included.",
];
const DIVISOR_TEST: &[&str] = &[
    "Write σ(n) for the sum of divisors of n. Evaluate σ summed over the integers n with {a} ≤ n ≤ {b}.",
    "List the positive divisors of {a}, then those of the next integer, and so on up to {b}. What is the sum of all numbers listed?",
];

fn divisor_sum(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let a: i64 = rng.random_range(30..=400);
    let b = a + rng.random_range(8..=40);
    let first: i64 = (a..=b)
        .map(|n| (1..=n).filter(|d| n % d == 0).sum::<i64>())
        .sum();
    // A divisor d counts as often as it has multiples in the range.
    let second: i64 = (1..=b).map(|d| d * (b / d - (a - 1) / d)).sum();
    let slots = vec![("a", a.to_string()), ("b", b.to_string())];
    let program = format!(
        "total = 0\nfor n in range({a}, {b} + 1):\n    total += sum(d for d in range(1, n + 1) if n % d == 0)\nprint(total)\n"
    );
    Some(drawn(
        &[a, b],
        slots,
        [first.into(), second.into()],
        program,
    ))
}

const MULTIPLES_TRAIN: &[&str] = &[
    "How many integers from 1 to {n} are divisible by at least one of {list}, but not by {d}?",
    "Count the positive integers up to {n} that are multiples of one or more of the numbers {list} and are not multiples of {d}.",
    "From the numbers 1 to {n}, all that no number of {list} divides are crossed out, and so are all multiples of {d}. How many remain?",
];
const MULTIPLES_TEST: &[&str] = &[
    "An integer between 1 and {n} (both allowed) is called good if {d} does not divide it while at least one of {list} does. Find the number of good integers.",
    "Let S be the set of all k with 1 ≤ k ≤ {n} such that k has a divisor among {list}. After removing the multiples of {d} from S, how many elements are left?",
];

fn multiples(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let n = rng.random_range(800..=9000);
    let of = distinct(rng, 3, 3, 19);
    let d = pick(rng, &[2, 4, 5, 7, 9, 11, 13]);
    let dull = of.iter().any(|x| d % x == 0 || x % d == 0)
        || of.iter().any(|x| of.iter().any(|y| x != y && y % x == 0));
    if dull {
        return None;
    }
    let first = (1..=n)
        .filter(|k| k % d != 0 && of.iter().any(|x| k % x == 0))
        .count();
    // Inclusion and exclusion over the least common multiples.
    let mut second = 0;
    for mask in 1..1 << of.len() {
        let chosen = of.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1);
        let (size, multiple) = chosen.fold((0, 1), |(size, all), (_, x)| (size + 1, lcm(all, *x)));
        let count = n / multiple - n / lcm(multiple, d);
        second += if size % 2 == 1 { count } else { -count };
    }
    let slots = vec![
        ("n", n.to_string()),
        ("list", listed_numbers(&of)),
        ("d", d.to_string()),
    ];
    let program = format!(
        "of = {}\nprint(sum(1 for k in range(1, {n} + 1) if k % {d} and any(k % x == 0 for x in of)))\n",
        python_list(&of)
    );
    let mut parameters = vec![n, d];
    parameters.extend(&of);
    Some(drawn(
        &parameters,
        slots,
        [first as i128, second.into()],
        program,
    ))
}

const RESIDUE_TRAIN: &[&str] = &[
    "Let p = {p}, a prime. What is the sum of all integers a with {low} ≤ a < p for which x^2 ≡ a (mod p) has a solution?",
    "An integer a is a quadratic residue modulo the prime {p} if a is congruent to a square modulo {p}. Add up all quadratic residues a with {low} ≤ a ≤ {top}. What is the sum?",
    "Among the integers {low}, …, {top}, consider those that are remainders of perfect squares on division by {p}. Find their sum.",
];
const RESIDUE_TEST: &[&str] = &[
    "Squares of integers are divided by the prime {p}. What is the sum of all different remainders of size {low} or more?",
    "Compute the sum of the a from {low} to {top} whose Legendre symbol (a/{p}) equals 1.",
];

fn quadratic_residues(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let p: i64 = rng.random_range(60..=600);
    let low = rng.random_range(2..=p / 2);
    if !is_prime(p) {
        return None;
    }
    let squares: std::collections::BTreeSet<i64> = (1..p).map(|x| x * x % p).collect();
    let first: i64 = squares.range(low..).sum();
    // Euler's criterion.
    let second: i64 = (low..p)
        .filter(|a| power_mod(*a, (p - 1) / 2, p) == 1)
        .sum();
    let slots = [("p", p), ("low", low), ("top", p - 1)];
    let program =
        format!("print(sum(a for a in {{x * x % {p} for x in range(1, {p})}} if a >= {low}))\n");
    Some(drawn(
        &[p, low],
        slots.map(|(name, value)| (name, value.to_string())).into(),
        [first.into(), second.into()],
        program,
    ))
}
