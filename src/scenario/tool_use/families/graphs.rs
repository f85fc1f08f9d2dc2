//! Graphs given by their edges: spanning trees and colourings.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::algebra::bareiss;
use super::{Drawn, Family, complex, drawn, listed};

/// Spanning trees, proper colourings.
pub(super) fn families() -> Vec<Family> {
    vec![
        complex("spanning-trees", TREES_TRAIN, TREES_TEST, spanning_trees),
        complex("colourings", COLOURS_TRAIN, COLOURS_TEST, colourings),
    ]
}

const TREES_TRAIN: &[&str] = &[
    "A graph has the vertices 1 to {n} and the edges {list}. How many spanning trees does it have?",
    "Consider the graph on vertices 1, …, {n} in which exactly the pairs {list} are joined. Find the number of its spanning trees.",
    "{n} towns, numbered 1 to {n}, are linked by the roads {list}. In how many ways can {f} of these roads be chosen so that all towns stay connected?",
];
const TREES_TEST: &[&str] = &[
    "Between {n} islands run the ferry lines {list} (islands are numbered from 1). How many sets of {f} lines allow a trip from every island to every other?",
    "Count the connected subgraphs without cycles that contain all {n} vertices of the graph with edge list {list}.",
];

/// Vertices and edges, each edge once, smaller vertex first.
fn graph(rng: &mut ChaCha8Rng, vertices: i64, edges: usize) -> Vec<(i64, i64)> {
    let mut found = std::collections::BTreeSet::new();
    while found.len() < edges {
        let (a, b) = (
            rng.random_range(1..=vertices),
            rng.random_range(1..=vertices),
        );
        if a < b {
            found.insert((a, b));
        }
    }
    found.into_iter().collect()
}

/// Connected components of a subgraph.
fn components(vertices: i64, edges: impl Iterator<Item = (i64, i64)>) -> usize {
    let mut of: Vec<usize> = (0..=vertices as usize).collect();
    let mut count = vertices as usize;
    for (a, b) in edges {
        let (a, b) = (of[a as usize], of[b as usize]);
        if a != b {
            of.iter_mut().filter(|c| **c == b).for_each(|c| *c = a);
            count -= 1;
        }
    }
    count
}

/// The edges whose bit is set.
fn subset(edges: &[(i64, i64)], mask: u32) -> impl Iterator<Item = (i64, i64)> + '_ {
    edges
        .iter()
        .enumerate()
        .filter(move |(i, _)| mask >> i & 1 == 1)
        .map(|(_, edge)| *edge)
}

/// `1-2, 1-3 and 2-3`.
fn edge_list(edges: &[(i64, i64)]) -> String {
    listed(
        &edges
            .iter()
            .map(|(a, b)| format!("{a}-{b}"))
            .collect::<Vec<_>>(),
    )
}

fn python_edges(edges: &[(i64, i64)]) -> String {
    let items: Vec<String> = edges
        .iter()
        .map(|(a, b)| format!("({}, {})", a - 1, b - 1))
        .collect();
    format!("[{}]", items.join(", "))
}

fn parameters(of: &[i64], edges: &[(i64, i64)]) -> Vec<i64> {
    let mut all = of.to_vec();
    all.extend(edges.iter().flat_map(|(a, b)| [*a, *b]));
    all
}

fn spanning_trees(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let n: i64 = rng.random_range(6..=7);
    let count = rng.random_range(11..=13);
    let edges = graph(rng, n, count);
    if components(n, edges.iter().copied()) > 1 {
        return None;
    }
    // Kirchhoff: a minor of the Laplacian.
    let size = n as usize - 1;
    let mut laplacian = vec![vec![0_i128; size]; size];
    for (a, b) in &edges {
        let (a, b) = (*a as usize - 1, *b as usize - 1);
        for vertex in [a, b] {
            if vertex < size {
                laplacian[vertex][vertex] += 1;
            }
        }
        if a < size && b < size {
            laplacian[a][b] -= 1;
            laplacian[b][a] -= 1;
        }
    }
    // All choices of n - 1 edges.
    let second = (0_u32..1 << edges.len())
        .filter(|mask| mask.count_ones() as usize == size)
        .filter(|mask| components(n, subset(&edges, *mask)) == 1)
        .count();
    let slots = vec![
        ("n", n.to_string()),
        ("f", size.to_string()),
        ("list", edge_list(&edges)),
    ];
    let program = format!(
        "from itertools import combinations\n\ndef connected(edges):\n    seen, todo = {{0}}, [0]\n    while todo:\n        v = todo.pop()\n        for a, b in edges:\n            for x, y in ((a, b), (b, a)):\n                if x == v and y not in seen:\n                    seen.add(y)\n                    todo.append(y)\n    return len(seen) == {n}\n\nedges = {}\nprint(sum(connected(c) for c in combinations(edges, {size})))\n",
        python_edges(&edges)
    );
    Some(drawn(
        &parameters(&[n], &edges),
        slots,
        [bareiss(laplacian), second as i128],
        program,
    ))
}

const COLOURS_TRAIN: &[&str] = &[
    "The vertices 1 to {n} of a graph with the edges {list} are coloured with {k} colours so that the ends of every edge differ. How many colourings are there?",
    "Let P be the chromatic polynomial of the graph with vertices 1 to {n} and edges {list}. Compute P({k}).",
    "Each of {n} countries gets one of {k} colours. These pairs are neighbours and must differ: {list}. How many ways are there to colour the map?",
];
const COLOURS_TEST: &[&str] = &[
    "{n} radio stations choose among {k} frequencies. Stations that disturb each other, namely {list}, may not choose the same one. Count all admissible choices.",
    "Exams 1 to {n} are put into {k} time slots; a slot may hold any number of exams, but not two that share a student. The pairs sharing a student are {list}. How many timetables are possible?",
];

fn colourings(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let n = 6_i64;
    let k: i64 = rng.random_range(4..=6);
    let count = rng.random_range(7..=11);
    let edges = graph(rng, n, count);
    if components(n, edges.iter().copied()) > 1 {
        return None;
    }
    // Whitney: by the components of all sets of edges.
    let first: i128 = (0_u32..1 << edges.len())
        .map(|mask| {
            let ways = i128::from(k).pow(components(n, subset(&edges, mask)) as u32);
            if mask.count_ones() % 2 == 0 {
                ways
            } else {
                -ways
            }
        })
        .sum();
    let second = count_colourings(n, k, &edges, &mut Vec::new());
    let slots = vec![
        ("n", n.to_string()),
        ("k", k.to_string()),
        ("list", edge_list(&edges)),
    ];
    let program = format!(
        "from itertools import product\nedges = {}\nprint(sum(all(c[a] != c[b] for a, b in edges) for c in product(range({k}), repeat={n})))\n",
        python_edges(&edges)
    );
    Some(drawn(
        &parameters(&[n, k], &edges),
        slots,
        [first, second],
        program,
    ))
}

/// Vertex by vertex, trying all colours.
fn count_colourings(n: i64, k: i64, edges: &[(i64, i64)], begun: &mut Vec<i64>) -> i128 {
    let vertex = begun.len() as i64 + 1;
    if vertex > n {
        return 1;
    }
    let mut sum = 0;
    for colour in 0..k {
        let clash = edges
            .iter()
            .any(|(a, b)| *b == vertex && begun[*a as usize - 1] == colour);
        if !clash {
            begun.push(colour);
            sum += count_colourings(n, k, edges, begun);
            begun.pop();
        }
    }
    sum
}
