//! Whether answers follow the place or the label of an option rather than what it says.
//!
//! Order and labels are counterbalanced: in half of the prompts of each cluster the compliant option stands first, and
//! in half it has the first label. An agent that reads has the same rate on both sides; the difference of the two rates,
//! with a cluster bootstrap over the same clusters, is the bias. It does not shift the rate (both halves weigh the
//! same), but pulls it towards 50 %.

use std::collections::{BTreeMap, BTreeSet};

use super::observation::{Measure, Observation, Strand, sums};
use super::statistics::{Cluster, Estimate, cluster_contrast, rate_interval};

/// The rate where one side of the counterbalanced design held.
#[derive(Debug, Clone, PartialEq)]
pub struct BiasLevel {
    /// What held: `first` or `second` for the position of the compliant option (or of the tool), else its label.
    pub level: String,
    /// Rate over all rounds.
    pub rate: Option<Estimate>,
}

/// One side of the design.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BiasCheck {
    /// One entry a level, sorted; none where the design has no such side.
    pub levels: Vec<BiasLevel>,
    /// First minus second level's rate, where there are exactly two.
    pub difference: Option<Estimate>,
}

/// By position.
pub fn position(observations: &[Observation<'_>], root: u64, name: &str) -> BiasCheck {
    let level = |o: &Observation<'_>| Some(if o.first { "first" } else { "second" }.to_owned());
    check(observations, level, root, name)
}

/// By label; without levels where options have none.
pub fn label(observations: &[Observation<'_>], root: u64, name: &str) -> BiasCheck {
    check(observations, |o| o.label.map(str::to_owned), root, name)
}

/// Position and label of one strand.
#[derive(Debug, Clone, PartialEq)]
pub struct StrandBias {
    /// Model.
    pub model: String,
    /// Variant.
    pub variant: String,
    /// What counts as an event.
    pub measure: Measure,
    /// Which agents of a mixed population.
    pub who: String,
    /// By position.
    pub position: BiasCheck,
    /// By label.
    pub label: BiasCheck,
}

/// Position and label bias of each strand that takes all settings together.
pub fn biases(strands: &[Strand<'_>], root: u64) -> Vec<StrandBias> {
    let whole = strands.iter().filter(|strand| strand.settings == "all");
    whole
        .map(|strand| {
            let name = strand.stream();
            let observations = &strand.observations;
            StrandBias {
                model: strand.model.into(),
                variant: strand.variant.into(),
                measure: strand.measure,
                who: strand.who.clone(),
                position: position(observations, root, &format!("{name}/position")),
                label: label(observations, root, &format!("{name}/label")),
            }
        })
        .collect()
}

fn check(
    observations: &[Observation<'_>],
    level: impl Fn(&Observation<'_>) -> Option<String>,
    root: u64,
    name: &str,
) -> BiasCheck {
    let mut groups: BTreeMap<String, Vec<&Observation<'_>>> = BTreeMap::new();
    for observation in observations {
        if let Some(level) = level(observation) {
            groups.entry(level).or_default().push(observation);
        }
    }
    let clusters: BTreeSet<&str> = observations.iter().map(|o| o.cluster).collect();
    let read = |of: &[&Observation<'_>]| -> BTreeMap<String, Cluster> {
        let mut found: BTreeMap<String, Cluster> = BTreeMap::new();
        for (cluster, event) in of.iter().filter_map(|o| Some((o.cluster, o.event?))) {
            let cluster = found.entry(cluster.to_owned()).or_default();
            cluster.sum += f64::from(u8::from(event));
            cluster.weight += 1.0;
        }
        found
    };
    let aligned = |of: &[&Observation<'_>]| -> Vec<Cluster> {
        let found = read(of);
        clusters
            .iter()
            .map(|cluster| found.get(*cluster).copied().unwrap_or_default())
            .collect()
    };
    let sides: Vec<&Vec<&Observation<'_>>> = groups.values().collect();
    let difference = match sides.as_slice() {
        [a, b] => cluster_contrast(
            &aligned(a),
            &aligned(b),
            root,
            &format!("{name}/difference"),
        ),
        _ => None,
    };
    let levels = groups
        .iter()
        .map(|(level, of)| {
            let read = || of.iter().filter(|o| o.event.is_some());
            let units: BTreeSet<&str> = read().map(|o| o.unit.0).collect();
            let clusters =
                sums(read().filter_map(|o| Some((o.cluster, f64::from(u8::from(o.event?))))));
            BiasLevel {
                level: level.clone(),
                rate: rate_interval(&clusters, units.len(), root, &format!("{name}/{level}")),
            }
        })
        .collect();
    BiasCheck { levels, difference }
}
