//! Matrices: determinants and powers.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{Drawn, Family, complex, drawn, listed, python_list};

/// Determinants of 4 by 4 matrices, traces of powers of 2 by 2 matrices.
pub(super) fn families() -> Vec<Family> {
    vec![
        complex(
            "determinant",
            DETERMINANT_TRAIN,
            DETERMINANT_TEST,
            determinant,
        ),
        complex("matrix-power", MATRIX_TRAIN, MATRIX_TEST, matrix_power),
    ]
}

const DETERMINANT_TRAIN: &[&str] = &[
    "Compute the determinant of the 4×4 matrix with rows {rows}.",
    "A square matrix has the rows {rows}, from top to bottom. What is its determinant?",
    "Let A be the matrix whose rows are {rows}. Find det(A).",
];
const DETERMINANT_TEST: &[&str] = &[
    "Evaluate det M, where the four rows of M are, in this order, {rows}.",
    "What value does the determinant formed by the row vectors {rows} (first to last) take?",
];

/// Fraction-free elimination (Bareiss).
pub(super) fn bareiss(mut a: Vec<Vec<i128>>) -> i128 {
    let n = a.len();
    let (mut sign, mut previous) = (1, 1);
    for k in 0..n {
        let Some(pivot) = (k..n).find(|i| a[*i][k] != 0) else {
            return 0;
        };
        if pivot != k {
            a.swap(pivot, k);
            sign = -sign;
        }
        for i in k + 1..n {
            for j in k + 1..n {
                a[i][j] = (a[i][j] * a[k][k] - a[i][k] * a[k][j]) / previous;
            }
        }
        previous = a[k][k];
    }
    sign * previous
}

/// Expansion along the first row.
fn laplace(a: &[Vec<i128>]) -> i128 {
    let Some((first, rest)) = a.split_first() else {
        return 1;
    };
    let mut sum = 0;
    for (column, value) in first.iter().enumerate() {
        let minor: Vec<Vec<i128>> = rest
            .iter()
            .map(|row| [&row[..column], &row[column + 1..]].concat())
            .collect();
        let term = value * laplace(&minor);
        sum += if column % 2 == 0 { term } else { -term };
    }
    sum
}

fn determinant(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let rows: Vec<Vec<i64>> = (0..4)
        .map(|_| (0..4).map(|_| rng.random_range(-7..=9)).collect())
        .collect();
    let wide: Vec<Vec<i128>> = rows
        .iter()
        .map(|row| row.iter().map(|x| i128::from(*x)).collect())
        .collect();
    let texts: Vec<String> = rows
        .iter()
        .map(|row| {
            let items: Vec<String> = row.iter().map(i64::to_string).collect();
            format!("({})", items.join(", "))
        })
        .collect();
    let lists: Vec<String> = rows.iter().map(|row| python_list(row)).collect();
    let program = format!(
        "def det(m):\n    if not m:\n        return 1\n    return sum((-1) ** j * m[0][j] * det([r[:j] + r[j + 1:] for r in m[1:]]) for j in range(len(m)))\n\nprint(det([{}]))\n",
        lists.join(", ")
    );
    Some(drawn(
        &rows.concat(),
        vec![("rows", listed(&texts))],
        [bareiss(wide.clone()), laplace(&wide)],
        program,
    ))
}

const MATRIX_TRAIN: &[&str] = &[
    "Let A be the 2×2 matrix with rows ({a}, {b}) and ({c}, {d}). What is the trace of A^{n} modulo {m}?",
    "The matrix with rows ({a}, {b}) and ({c}, {d}) is raised to the power {n}. Find the remainder of the sum of its diagonal entries on division by {m}.",
    "Compute tr(A^{n}) mod {m} for the matrix A with first row ({a}, {b}) and second row ({c}, {d}).",
];
const MATRIX_TEST: &[&str] = &[
    "Multiply {n} copies of the matrix with rows ({a}, {b}) and ({c}, {d}). What remainder do the two diagonal entries of the product, added together, leave modulo {m}?",
    "If λ and μ are the eigenvalues of the matrix with rows ({a}, {b}) and ({c}, {d}), then λ^{n} + μ^{n} is an integer. Determine it modulo {m}.",
];

fn matrix_power(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let mut entry = || rng.random_range(1..=9_i64);
    let (a, b, c, d) = (entry(), entry(), entry(), entry());
    let (n, m) = (
        rng.random_range(20..=200_i64),
        rng.random_range(1000..=9999_i64),
    );
    let (mut w, mut x, mut y, mut z) = (1, 0, 0, 1);
    for _ in 0..n {
        (w, x, y, z) = (
            (w * a + x * c) % m,
            (w * b + x * d) % m,
            (y * a + z * c) % m,
            (y * b + z * d) % m,
        );
    }
    let first = (w + z) % m;
    // Power sums of the eigenvalues: t(n) = trace·t(n-1) - det·t(n-2).
    let (trace, det) = (a + d, a * d - b * c);
    let (mut before, mut now) = (2, trace);
    for _ in 1..n {
        (before, now) = (now, (trace * now - det * before).rem_euclid(m));
    }
    let second = now.rem_euclid(m);
    let slots = [("a", a), ("b", b), ("c", c), ("d", d), ("n", n), ("m", m)];
    let program = format!(
        "def times(p, q):\n    return [[sum(p[i][k] * q[k][j] for k in range(2)) for j in range(2)] for i in range(2)]\n\nA = [[{a}, {b}], [{c}, {d}]]\nP = [[1, 0], [0, 1]]\nfor _ in range({n}):\n    P = times(P, A)\nprint((P[0][0] + P[1][1]) % {m})\n"
    );
    Some(drawn(
        &[a, b, c, d, n, m],
        slots.map(|(name, value)| (name, value.to_string())).into(),
        [first.into(), second.into()],
        program,
    ))
}
