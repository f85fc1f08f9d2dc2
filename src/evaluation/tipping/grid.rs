//! Events by cluster and round, with base's first round beside: what whole clusters are resampled from.

use std::collections::BTreeMap;

use rand::Rng;

use crate::evaluation::observation::{Observation, Strand};
use crate::evaluation::statistics::Cluster;

/// Sums of one strand.
pub(super) struct Grid {
    /// Rounds, sorted.
    pub(super) rounds: Vec<u32>,
    /// Clusters, each with its rounds and base's first round.
    rows: Vec<Row>,
    /// There is a base.
    pub(super) has_base: bool,
}

#[derive(Clone)]
struct Row {
    rounds: Vec<Cluster>,
    base: Cluster,
}

/// Rates of a grid or of a resample of it; none where nothing has an outcome.
pub(super) struct Rates {
    /// By round.
    pub(super) rounds: Vec<Option<f64>>,
    /// Decisions behind each.
    pub(super) weights: Vec<f64>,
    /// Base in its first round.
    pub(super) base: Option<f64>,
}

impl Grid {
    /// Sums by cluster; clusters of both strands, in order of their names.
    pub(super) fn new(strand: &Strand<'_>, base: Option<&Strand<'_>>) -> Self {
        let rounds = strand.rounds();
        let empty = Row {
            rounds: vec![Cluster::default(); rounds.len()],
            base: Cluster::default(),
        };
        let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
        let add = |to: &mut Cluster, o: &Observation<'_>| {
            if let Some(event) = o.event {
                to.sum += f64::from(u8::from(event));
                to.weight += 1.0;
            }
        };
        for o in &strand.observations {
            let row = rows.entry(o.cluster).or_insert_with(|| empty.clone());
            if let Ok(place) = rounds.binary_search(&o.round) {
                add(&mut row.rounds[place], o);
            }
        }
        if let Some(base) = base {
            let first = base.rounds().first().copied();
            for o in base.observations.iter().filter(|o| Some(o.round) == first) {
                let row = rows.entry(o.cluster).or_insert_with(|| empty.clone());
                add(&mut row.base, o);
            }
        }
        Self {
            rounds,
            rows: rows.into_values().collect(),
            has_base: base.is_some(),
        }
    }

    /// Number of clusters.
    pub(super) fn clusters(&self) -> usize {
        self.rows.len()
    }

    /// The rates as observed.
    pub(super) fn rates(&self) -> Rates {
        self.sum(0..self.rows.len())
    }

    /// The rates of as many clusters, drawn with replacement.
    pub(super) fn resample(&self, rng: &mut impl Rng) -> Rates {
        let n = self.rows.len();
        self.sum((0..n).map(|_| rng.random_range(0..n)))
    }

    /// Base's first round minus a round, by cluster: both sides, aligned.
    pub(super) fn base_and(&self, place: usize) -> (Vec<Cluster>, Vec<Cluster>) {
        self.rows.iter().map(|r| (r.base, r.rounds[place])).unzip()
    }

    fn sum(&self, chosen: impl Iterator<Item = usize>) -> Rates {
        let mut rounds = vec![Cluster::default(); self.rounds.len()];
        let mut base = Cluster::default();
        for i in chosen {
            let row = &self.rows[i];
            for (total, one) in rounds.iter_mut().zip(&row.rounds) {
                total.sum += one.sum;
                total.weight += one.weight;
            }
            base.sum += row.base.sum;
            base.weight += row.base.weight;
        }
        let rate = |c: &Cluster| (c.weight > 0.0).then(|| c.sum / c.weight);
        Rates {
            rounds: rounds.iter().map(rate).collect(),
            weights: rounds.iter().map(|c| c.weight).collect(),
            base: rate(&base),
        }
    }
}
