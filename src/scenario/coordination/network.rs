//! Who sees whose choices: an undirected graph over the agents of a group, without loops.

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::runtime::seed::stream;

/// A rule that gives each group its graph.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Network {
    /// Everyone sees everyone, as in the paper.
    #[default]
    All,
    /// In a circle in the order of the agents' numbers, each sees its nearest `neighbours`, half of them on each side.
    Ring {
        /// How many are seen in all: even, and fewer than there are agents.
        neighbours: u32,
    },
    /// Each pair sees each other with probability `p` (Erdős–Rényi), drawn anew for each group.
    Random {
        /// Probability of an edge.
        p: f64,
    },
    /// These pairs see each other.
    Edges(
        /// Pairs of agents' numbers, from 1.
        Vec<[u32; 2]>,
    ),
}

/// A network that does not fit its agents.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("expected {expected}, got {got}")]
pub struct NetworkError {
    /// What must hold.
    pub expected: String,
    /// What was given.
    pub got: String,
}

impl Network {
    /// Whether the rule fits this number of agents.
    ///
    /// # Errors
    /// An odd or too large ring, a probability outside 0 to 1, an edge that is a loop, leads out or stands there twice.
    pub fn check(&self, agents: u32) -> Result<(), NetworkError> {
        let error = |expected: String, got: String| Err(NetworkError { expected, got });
        match self {
            Self::All => Ok(()),
            Self::Ring { neighbours } => {
                let fits = neighbours % 2 == 0 && *neighbours < agents;
                if fits {
                    return Ok(());
                }
                let expected = format!("`ring.neighbours` even and below {agents}");
                error(expected, neighbours.to_string())
            }
            Self::Random { p } if (0.0..=1.0).contains(p) => Ok(()),
            Self::Random { p } => error("`random.p` from 0 to 1".into(), p.to_string()),
            Self::Edges(edges) => {
                let mut seen = std::collections::BTreeSet::new();
                for [a, b] in edges {
                    let inside = |x: &u32| (1..=agents).contains(x);
                    let new = seen.insert((a.min(b), a.max(b)));
                    if a == b || !inside(a) || !inside(b) || !new {
                        let expected = format!(
                            "`edges` of two different agents from 1 to {agents}, each once"
                        );
                        return error(expected, format!("[{a}, {b}]"));
                    }
                }
                Ok(())
            }
        }
    }

    /// Neighbours of each agent, as places from 0, in rising order. A random graph comes from the stream `name` of
    /// `root`. The rule must fit ([`check`](Self::check)); edges that lead out are left out.
    pub fn neighbours(&self, agents: u32, root: u64, name: &str) -> Vec<Vec<u32>> {
        let mut seen = vec![Vec::new(); agents as usize];
        let mut join = |a: u32, b: u32| {
            if a != b && a < agents && b < agents {
                seen[a as usize].push(b);
                seen[b as usize].push(a);
            }
        };
        match self {
            Self::All => pairs(agents).for_each(|(a, b)| join(a, b)),
            Self::Ring { neighbours } => pairs(agents)
                .filter(|(a, b)| (b - a).min(agents - (b - a)) <= neighbours / 2)
                .for_each(|(a, b)| join(a, b)),
            Self::Random { p } => {
                let mut rng = stream(root, name);
                pairs(agents).for_each(|(a, b)| {
                    if rng.random::<f64>() < *p {
                        join(a, b);
                    }
                });
            }
            Self::Edges(edges) => edges
                .iter()
                .for_each(|[a, b]| join(a.wrapping_sub(1), b.wrapping_sub(1))),
        }
        for neighbours in &mut seen {
            neighbours.sort_unstable();
            neighbours.dedup();
        }
        seen
    }
}

/// All pairs a < b.
fn pairs(agents: u32) -> impl Iterator<Item = (u32, u32)> {
    (0..agents).flat_map(move |a| (a + 1..agents).map(move |b| (a, b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(network: &Network, agents: u32, seed: u64) -> Vec<Vec<u32>> {
        network.check(agents).unwrap();
        let graph = network.neighbours(agents, seed, "test");
        for (a, neighbours) in graph.iter().enumerate() {
            assert!(neighbours.is_sorted_by(|x, y| x < y));
            for b in neighbours {
                assert_ne!(*b as usize, a);
                assert!(graph[*b as usize].contains(&(a as u32)));
            }
        }
        graph
    }

    #[test]
    fn fixed_graphs() {
        assert_eq!(
            graph(&Network::All, 4, 0),
            [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
        );
        let ring = |neighbours, agents| graph(&Network::Ring { neighbours }, agents, 0);
        assert_eq!(ring(2, 5), [[1, 4], [0, 2], [1, 3], [2, 4], [0, 3]]);
        assert_eq!(ring(4, 7)[0], [1, 2, 5, 6]);
        assert!(ring(4, 9).iter().all(|n| n.len() == 4));
        assert!(ring(0, 3).iter().all(Vec::is_empty));
        let edges = Network::Edges(vec![[1, 3], [3, 2]]);
        assert_eq!(graph(&edges, 4, 0), [vec![2], vec![2], vec![0, 1], vec![]]);
    }

    #[test]
    fn random_graphs_follow_seed_and_probability() {
        let random = |p, seed| graph(&Network::Random { p }, 30, seed);
        assert_eq!(random(0.3, 1), random(0.3, 1));
        assert_ne!(random(0.3, 1), random(0.3, 2));
        assert!(random(0.0, 1).iter().all(Vec::is_empty));
        assert!(random(1.0, 1).iter().all(|n| n.len() == 29));
        let ends: usize = (0..40)
            .map(|seed| random(0.3, seed).iter().map(Vec::len).sum::<usize>())
            .sum();
        let share = ends as f64 / (40.0 * 30.0 * 29.0);
        assert!((share - 0.3).abs() < 0.015, "{share}");
    }

    #[test]
    fn misfits() {
        for network in [
            Network::Ring { neighbours: 3 },
            Network::Ring { neighbours: 8 },
            Network::Random { p: 1.5 },
            Network::Random { p: f64::NAN },
            Network::Edges(vec![[1, 1]]),
            Network::Edges(vec![[0, 2]]),
            Network::Edges(vec![[2, 9]]),
            Network::Edges(vec![[1, 2], [2, 1]]),
        ] {
            assert!(network.check(8).is_err(), "{network:?}");
        }
    }

    #[test]
    fn as_recipes_write_them() {
        #[derive(Deserialize)]
        struct Holder {
            network: Network,
        }
        let read = |text: &str| toml::from_str::<Holder>(text).map(|h| h.network);
        assert_eq!(read("network = \"all\"").unwrap(), Network::All);
        let ring = Network::Ring { neighbours: 2 };
        assert_eq!(
            read("network = { ring = { neighbours = 2 } }").unwrap(),
            ring
        );
        let random = Network::Random { p: 0.25 };
        assert_eq!(read("network = { random = { p = 0.25 } }").unwrap(), random);
        assert_eq!(
            read("network = { edges = [[1, 2]] }").unwrap(),
            Network::Edges(vec![[1, 2]])
        );
        assert!(read("network = { ring = { neighbors = 2 } }").is_err());
        assert!(read("network = { ring = { neighbours = 2, p = 1 } }").is_err());
        assert!(read("network = \"star\"").is_err());
    }
}
