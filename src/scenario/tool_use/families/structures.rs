//! Permutations with forbidden places, and divisions of a set into piles.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::math::{binomial, factorial};
use super::{Drawn, Family, complex, drawn, listed};

/// Assignments with forbidden pairs, set partitions with a least size.
pub(super) fn families() -> Vec<Family> {
    vec![
        complex(
            "restricted-permutations",
            ASSIGN_TRAIN,
            ASSIGN_TEST,
            restricted_permutations,
        ),
        complex("set-partitions", PILES_TRAIN, PILES_TEST, set_partitions),
    ]
}

const ASSIGN_TRAIN: &[&str] = &[
    "Workers 1 to {n} each get exactly one of the tasks 1 to {n}, no task going to two workers. How many assignments are there if {list}?",
    "In how many ways can {n} tasks be distributed one to each of {n} workers (tasks and workers are numbered 1 to {n}) under these conditions: {list}?",
    "There are {n} workers and {n} tasks, both numbered from 1. Every worker does one task and every task is done. Count the possible plans in which {list}.",
];
const ASSIGN_TEST: &[&str] = &[
    "{n} numbered workers choose {n} numbered tasks so that everyone has one and none is left over. It is known that {list}. What is the number of possible choices?",
    "Find how many one-to-one matchings of workers 1, …, {n} with tasks 1, …, {n} respect all of the following: {list}.",
];

fn restricted_permutations(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let n: i64 = rng.random_range(6..=8);
    let mut forbidden = std::collections::BTreeSet::new();
    let wanted = rng.random_range(4..=7);
    while forbidden.len() < wanted {
        forbidden.insert((rng.random_range(1..=n), rng.random_range(1..=n)));
    }
    // Worker by worker over sets of taken tasks.
    let mut ways = vec![0_i128; 1 << n];
    ways[0] = 1;
    for set in 0..1_usize << n {
        let worker = i64::from(set.count_ones()) + 1;
        for task in 1..=n {
            let bit = 1 << (task - 1);
            if worker <= n && set & bit == 0 && !forbidden.contains(&(worker, task)) {
                ways[set | bit] += ways[set];
            }
        }
    }
    // Rook polynomial of the forbidden places.
    let places: Vec<(i64, i64)> = forbidden.iter().copied().collect();
    let mut second = 0;
    for mask in 0_u32..1 << places.len() {
        let chosen: Vec<(i64, i64)> = (0..places.len())
            .filter(|i| mask >> i & 1 == 1)
            .map(|i| places[i])
            .collect();
        let attack = chosen
            .iter()
            .enumerate()
            .any(|(i, a)| chosen[..i].iter().any(|b| a.0 == b.0 || a.1 == b.1));
        let size = chosen.len() as i64;
        if !attack && size <= n {
            let sign = if size % 2 == 0 { 1 } else { -1 };
            second += sign * factorial(n - size);
        }
    }
    let mut rules = Vec::new();
    for worker in 1..=n {
        let tasks: Vec<String> = places
            .iter()
            .filter(|(w, _)| *w == worker)
            .map(|(_, t)| t.to_string())
            .collect();
        match tasks.len() {
            0 => {}
            1 => rules.push(format!("worker {worker} cannot do task {}", tasks[0])),
            _ => rules.push(format!(
                "worker {worker} cannot do any of the tasks {}",
                listed(&tasks)
            )),
        }
    }
    let slots = vec![("n", n.to_string()), ("list", rules.join("; "))];
    let pairs: Vec<String> = places
        .iter()
        .map(|(w, t)| format!("({}, {})", w - 1, t - 1))
        .collect();
    let program = format!(
        "from itertools import permutations\nbad = [{}]\nprint(sum(all(p[w] != t for w, t in bad) for p in permutations(range({n}))))\n",
        pairs.join(", ")
    );
    let mut parameters = vec![n];
    parameters.extend(places.iter().flat_map(|(w, t)| [*w, *t]));
    let full = ways[(1 << n) - 1];
    Some(drawn(&parameters, slots, [full, second], program))
}

const PILES_TRAIN: &[&str] = &[
    "In how many ways can {n} different books be divided into {k} piles with at least {m} {books} in every pile, if neither the order of the piles nor the order within a pile matters?",
    "How many partitions of a set with {n} elements into {k} blocks are there in which each block has {m} or more elements?",
    "{n} people form {k} discussion groups. A group has at least {m} {people}, and the groups have no names. How many ways are there to form them?",
];
const PILES_TEST: &[&str] = &[
    "Count the ways to split {n} distinguishable stones among {k} identical bags when a bag must contain no fewer than {m} of them.",
    "{n} students are to be arranged in {k} unlabelled teams, no team having fewer than {m} {members}. Find the number of arrangements.",
];

fn set_partitions(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let (n, k, m): (i64, i64, i64) = (
        rng.random_range(6..=20),
        rng.random_range(2..=7),
        rng.random_range(1..=3),
    );
    if k * m > n {
        return None;
    }
    // By the block of the last element: it joins one that is large enough, or completes one of the least size.
    let mut table = vec![vec![0_i128; k as usize + 1]; n as usize + 1];
    table[0][0] = 1;
    for i in 1..=n {
        for j in 1..=k {
            let (a, b) = (i as usize, j as usize);
            let joins = i128::from(j) * table[a - 1][b];
            let completes = if i >= m {
                binomial(i - 1, m - 1) * table[a - m as usize][b - 1]
            } else {
                0
            };
            table[a][b] = joins + completes;
        }
    }
    // By the sizes of the blocks, as integer partitions: n! / (sizes! · multiplicities!).
    let mut second = 0;
    sizes(n, k, m, &mut Vec::new(), &mut |sizes| {
        let mut ways = factorial(n);
        for size in sizes {
            ways /= factorial(*size);
        }
        let mut run = 0;
        for (i, size) in sizes.iter().enumerate() {
            run = if i > 0 && sizes[i - 1] == *size {
                run + 1
            } else {
                1
            };
            ways /= i128::from(run);
        }
        second += ways;
    });
    let plural = |one: &str, many: &str| {
        if m == 1 {
            one.to_owned()
        } else {
            many.to_owned()
        }
    };
    let slots = vec![
        ("n", n.to_string()),
        ("k", k.to_string()),
        ("m", m.to_string()),
        ("books", plural("book", "books")),
        ("people", plural("person", "people")),
        ("members", plural("member", "members")),
    ];
    let program = format!(
        "from math import comb\n\ndef ways(n, k):\n    if k == 0:\n        return int(n == 0)\n    return sum(comb(n - 1, s - 1) * ways(n - s, k - 1) for s in range({m}, n + 1))\n\nprint(ways({n}, {k}))\n"
    );
    Some(drawn(
        &[n, k, m],
        slots,
        [table[n as usize][k as usize], second],
        program,
    ))
}

/// All ways to write `total` as `count` ascending sizes of at least `least`.
fn sizes(total: i64, count: i64, least: i64, begun: &mut Vec<i64>, found: &mut impl FnMut(&[i64])) {
    if count == 0 {
        if total == 0 {
            found(begun);
        }
        return;
    }
    for size in least..=total / count {
        begun.push(size);
        sizes(total - size, count - 1, size, begun, found);
        begun.pop();
    }
}
