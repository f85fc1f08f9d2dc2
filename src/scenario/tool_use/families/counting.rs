//! Counting sums and paths: partitions, change, Diophantine equations, lattice paths.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::math::binomial;
use super::{Drawn, Family, complex, distinct, drawn, listed, listed_numbers, python_list};

/// Restricted partitions, coin change, solutions in positive integers, lattice paths around obstacles.
pub(super) fn families() -> Vec<Family> {
    vec![
        complex("partitions", PARTITIONS_TRAIN, PARTITIONS_TEST, partitions),
        complex("coin-change", COINS_TRAIN, COINS_TEST, coin_change),
        complex(
            "diophantine",
            DIOPHANTINE_TRAIN,
            DIOPHANTINE_TEST,
            diophantine,
        ),
        complex("lattice-paths", PATHS_TRAIN, PATHS_TEST, lattice_paths),
    ]
}

const PARTITIONS_TRAIN: &[&str] = &[
    "In how many ways can {n} be written as a sum of exactly {k} positive integers, none larger than {m}, if the order of the summands does not matter?",
    "How many partitions of {n} have exactly {k} parts, with every part at most {m}?",
    "{n} identical balls are put into {k} identical boxes so that no box is empty and none holds more than {m} balls. In how many ways is this possible?",
];
const PARTITIONS_TEST: &[&str] = &[
    "Count the multisets of {k} numbers chosen from 1, 2, …, {m} (repetition allowed) whose total is {n}.",
    "How many non-increasing sequences of length {k} with terms between 1 and {m} have sum {n}?",
];

fn partitions(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let (n, k, m): (i64, i64, i64) = (
        rng.random_range(28..=64),
        rng.random_range(5..=10),
        rng.random_range(9..=20),
    );
    // Part by part: table[count][sum].
    let (sums, counts) = (n as usize, k as usize);
    let mut table = vec![vec![0_i128; sums + 1]; counts + 1];
    table[0][0] = 1;
    for part in 1..=m as usize {
        for count in 1..=counts {
            for sum in part..=sums {
                table[count][sum] += table[count - 1][sum - part];
            }
        }
    }
    // The coefficient of q^(n-k) in the Gaussian binomial coefficient (m-1+k choose k): a product of factors
    // 1 - q^(m-1+i), divided by a product of factors 1 - q^i.
    let degree = usize::try_from(n - k).ok()?;
    let mut series = vec![0_i128; degree + 1];
    series[0] = 1;
    for i in 1..=k {
        let step = (m - 1 + i) as usize;
        for at in (step..=degree).rev() {
            series[at] -= series[at - step];
        }
        let step = i as usize;
        for at in step..=degree {
            series[at] += series[at - step];
        }
    }
    let slots = [("n", n), ("k", k), ("m", m)];
    let program = format!(
        "from functools import lru_cache\n\n@lru_cache(None)\ndef count(total, parts, largest):\n    if parts == 0:\n        return int(total == 0)\n    return sum(count(total - p, parts - 1, p) for p in range(1, min(largest, total) + 1))\n\nprint(count({n}, {k}, {m}))\n"
    );
    Some(drawn(
        &[n, k, m],
        slots.map(|(name, value)| (name, value.to_string())).into(),
        [table[counts][sums], series[degree]],
        program,
    ))
}

const COINS_TRAIN: &[&str] = &[
    "In how many ways can an amount of {n} be paid with coins of values {list}, if there are plenty of each and order does not matter?",
    "A country has coins worth {list} units only. How many different collections of coins are worth exactly {n} units?",
    "Stamps come in the values {list}. How many combinations of stamps, any number of each value, give a postage of exactly {n}?",
];
const COINS_TEST: &[&str] = &[
    "A cashier has unlimited supplies of coins with denominations {list}. Count the ways to make change for {n}, where only the number of coins of each kind counts.",
    "Weights of {list} grams are available without limit. How many selections of them weigh {n} grams in total?",
];

fn coin_change(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let coins = distinct(rng, 4, 2, 25);
    let n = rng.random_range(90..=260);
    let mut ways = vec![0_i128; n as usize + 1];
    ways[0] = 1;
    for coin in &coins {
        for sum in *coin as usize..=n as usize {
            ways[sum] += ways[sum - *coin as usize];
        }
    }
    // All numbers of the three larger coins; the smallest fills up.
    let [a, b, c, d] = coins[..] else { return None };
    let mut second = 0_i128;
    for x in 0..=n / d {
        for y in 0..=(n - d * x) / c {
            let left = n - d * x - c * y;
            second += (0..=left / b).filter(|z| (left - b * z) % a == 0).count() as i128;
        }
    }
    let slots = vec![("n", n.to_string()), ("list", listed_numbers(&coins))];
    let program = format!(
        "ways = [1] + [0] * {n}\nfor coin in {}:\n    for s in range(coin, {n} + 1):\n        ways[s] += ways[s - coin]\nprint(ways[{n}])\n",
        python_list(&coins)
    );
    let mut parameters = vec![n];
    parameters.extend(&coins);
    Some(drawn(
        &parameters,
        slots,
        [ways[n as usize], second],
        program,
    ))
}

const DIOPHANTINE_TRAIN: &[&str] = &[
    "How many triples (x, y, z) of positive integers satisfy {a}x + {b}y + {c}z = {n}?",
    "Find the number of solutions of {a}x + {b}y + {c}z = {n} in positive integers x, y and z.",
    "Tickets cost {a}, {b} and {c} dollars. Exactly {n} dollars are spent, with at least one ticket of every kind. How many combinations of ticket numbers are possible?",
];
const DIOPHANTINE_TEST: &[&str] = &[
    "Let x, y, z be integers of at least 1. For how many choices of (x, y, z) does {a}x + {b}y + {c}z equal {n}?",
    "A beam of length {n} is made of pieces with lengths {a}, {b} and {c}, at least one of each. How many different choices of the three numbers of pieces are there?",
];

fn diophantine(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let factors = distinct(rng, 3, 2, 19);
    let [a, b, c] = factors[..] else { return None };
    let n: i64 = rng.random_range(180..=700);
    let mut first = 0_i128;
    for x in 1..=n / a {
        for y in 1..=(n - a * x).max(0) / b {
            let left = n - a * x - b * y;
            first += i128::from(left > 0 && left % c == 0);
        }
    }
    // Series of 1/((1-q^a)(1-q^b)(1-q^c)) at n - a - b - c.
    let degree = usize::try_from(n - a - b - c).ok()?;
    let mut series = vec![0_i128; degree + 1];
    series[0] = 1;
    for step in &factors {
        for at in *step as usize..=degree {
            series[at] += series[at - *step as usize];
        }
    }
    let slots = [("a", a), ("b", b), ("c", c), ("n", n)];
    let program = format!(
        "count = 0\nfor x in range(1, {n} // {a} + 1):\n    for y in range(1, ({n} - {a} * x) // {b} + 1):\n        rest = {n} - {a} * x - {b} * y\n        if rest > 0 and rest % {c} == 0:\n            count += 1\nprint(count)\n"
    );
    Some(drawn(
        &[a, b, c, n],
        slots.map(|(name, value)| (name, value.to_string())).into(),
        [first, series[degree]],
        program,
    ))
}

const PATHS_TRAIN: &[&str] = &[
    "A path leads from (0, 0) to ({w}, {h}) in steps of one unit to the right or one unit up. How many such paths avoid the points {list}?",
    "On a grid a robot goes from (0, 0) to ({w}, {h}), each move adding 1 to exactly one coordinate. The points {list} are blocked. How many routes does it have?",
    "Count the shortest lattice routes between (0, 0) and ({w}, {h}) that pass through none of {list}.",
];
const PATHS_TEST: &[&str] = &[
    "Streets form a grid, and the crossings {list} are closed. How many ways of walking from crossing (0, 0) to crossing ({w}, {h}) are left, if one only walks east (first coordinate + 1) or north (second coordinate + 1)?",
    "An ant starts at (0, 0). With every step either its x or its y grows by 1. In how many ways can it reach ({w}, {h}) without ever standing on {list}?",
];

fn lattice_paths(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let (w, h): (i64, i64) = (rng.random_range(6..=11), rng.random_range(5..=10));
    let mut blocked = std::collections::BTreeSet::new();
    let wanted = rng.random_range(2..=4);
    while blocked.len() < wanted {
        let point = (rng.random_range(0..=w), rng.random_range(0..=h));
        if point != (0, 0) && point != (w, h) {
            blocked.insert(point);
        }
    }
    let mut ways = vec![vec![0_i128; h as usize + 1]; w as usize + 1];
    for x in 0..=w {
        for y in 0..=h {
            let (i, j) = (x as usize, y as usize);
            ways[i][j] = if blocked.contains(&(x, y)) {
                0
            } else if (x, y) == (0, 0) {
                1
            } else {
                let left = if x > 0 { ways[i - 1][j] } else { 0 };
                left + if y > 0 { ways[i][j - 1] } else { 0 }
            };
        }
    }
    // By the first blocked point on the way: paths to it through none before.
    let between = |(a, b): (i64, i64), (x, y): (i64, i64)| {
        if x < a || y < b {
            0
        } else {
            binomial(x - a + y - b, x - a)
        }
    };
    let mut stops: Vec<(i64, i64)> = blocked.iter().copied().collect();
    stops.push((w, h));
    let mut clear: Vec<i128> = Vec::new();
    for (i, point) in stops.iter().enumerate() {
        // Sorted by x, then y: whatever can come before stands before.
        let through: i128 = (0..i).map(|j| clear[j] * between(stops[j], *point)).sum();
        clear.push(between((0, 0), *point) - through);
    }
    let points: Vec<String> = blocked.iter().map(|(x, y)| format!("({x}, {y})")).collect();
    let slots = vec![
        ("w", w.to_string()),
        ("h", h.to_string()),
        ("list", listed(&points)),
    ];
    let program = format!(
        "blocked = {{{}}}\nways = {{}}\nfor x in range({w} + 1):\n    for y in range({h} + 1):\n        if (x, y) in blocked:\n            ways[x, y] = 0\n        elif (x, y) == (0, 0):\n            ways[x, y] = 1\n        else:\n            ways[x, y] = ways.get((x - 1, y), 0) + ways.get((x, y - 1), 0)\nprint(ways[{w}, {h}])\n",
        points.join(", ")
    );
    let mut parameters = vec![w, h];
    parameters.extend(blocked.iter().flat_map(|(x, y)| [*x, *y]));
    Some(drawn(
        &parameters,
        slots,
        [ways[w as usize][h as usize], clear[clear.len() - 1]],
        program,
    ))
}
