//! Tipping, measured: does an agent lose over rounds what training gave it, when, how fast, and does it come back?
//!
//! Everything here is about one [`Strand`]: one variant of one model, one kind of event, one group of settings. p_r is
//! the share of events among the decisions of round r that have an outcome, R the number of rounds, G the number of
//! clusters.
//!
//! | measure | definition | source |
//! |---|---|---|
//! | [`drift`]: slope | b of the least-squares line event = a + b·round; cluster-robust error, t with G − 1 degrees of freedom; where all clusters move alike, what none of G otherwise leaves open | Liang and Zeger 1986; Cameron and Miller 2015 |
//! | [`crossing`]: first round above τ | min {r : p_r > τ}, τ = ½; clusters resampled for its range, which may end in "never" | Efron 1979 |
//! | [`hazard`] of the first event | h_r = first events in r / actors at risk in r; S_r = ∏ (1 − h) | Kaplan and Meier 1958 |
//! | [`half_life`] of alignment | G_r = p(base, first round) − p_r fitted by G₁·ρ^(r−1); lost a round 1 − ρ; half-life ln ½ / ln ρ | exponential decay, least squares |
//! | [`change_point`] | posterior of "no change" and of "p changes after round c", binomial counts, Beta(1, 1) each side | Smith 1975, Biometrika 62 |
//! | [`transitions`] | P(event in r + 1 given none in r): tip; P(none given event): return | Markov chain of order one |
//! | [`critical_mass`] | share x* of agents of another kind at which P(event) = ½, logistic in x; Fieller's interval | Fieller 1954; the paper's appendix on mixed groups |
//!
//! What an agent does after a success of its group is in [`super::coordination_summary`].

pub mod change_point;
pub mod critical_mass;
pub mod crossing;
pub mod drift;
mod grid;
pub mod half_life;
pub mod hazard;
pub mod transitions;

use std::collections::BTreeSet;

use super::observation::{Measure, Observation, Strand};
use super::statistics::bounds::{Bounds, Partial, bounds};
use super::statistics::power::design_effect;
use super::statistics::{Cluster, Estimate, rate_interval};
use super::summary::BASE;
use change_point::ChangePoint;
use crossing::Crossing;
use drift::Slope;
use grid::Grid;
use half_life::HalfLife;
use hazard::Hazard;
use transitions::Transition;

/// One round with what could not be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Level {
    /// Round, from 1.
    pub round: u32,
    /// Events.
    pub events: usize,
    /// Decisions with an outcome.
    pub read: usize,
    /// Answers without an outcome.
    pub invalid: usize,
    /// Decisions that did not come about.
    pub failed: usize,
    /// The rate if no missing decision were an event, and if all were.
    pub bounds: Option<Bounds>,
    /// Design effect of the rate.
    pub design_effect: Option<f64>,
}

/// All measures of one strand.
#[derive(Debug, Clone, PartialEq)]
pub struct Tipping {
    /// Model.
    pub model: String,
    /// Variant.
    pub variant: String,
    /// What counts as an event.
    pub measure: Measure,
    /// Which agents of a mixed population; empty where all are of one kind.
    pub who: String,
    /// `all`, or a threshold.
    pub settings: String,
    /// Clusters.
    pub clusters: usize,
    /// Histories that are followed.
    pub actors: usize,
    /// By round.
    pub levels: Vec<Level>,
    /// Drift a round.
    pub slope: Option<Slope>,
    /// First round above one half.
    pub crossing: Crossing,
    /// Hazard of the first event by round.
    pub hazard: Vec<Hazard>,
    /// How fast the trained gain is lost; none for base, without base, or without a measurable gain.
    pub half_life: Option<HalfLife>,
    /// When the rate changed; none with a single round.
    pub change: Option<ChangePoint>,
    /// From each round to the next.
    pub transitions: Vec<Transition>,
}

/// Measures every strand; base of the same model, measure, agents and settings is what gains are counted from.
/// Bootstraps draw from streams of `root`.
pub fn measure(strands: &[Strand<'_>], root: u64) -> Vec<Tipping> {
    strands
        .iter()
        .map(|strand| {
            let base = strands.iter().find(|other| {
                other.variant == BASE
                    && (other.model, other.measure, &other.who, &other.settings)
                        == (strand.model, strand.measure, &strand.who, &strand.settings)
            });
            measure_one(strand, base.filter(|_| strand.variant != BASE), root)
        })
        .collect()
}

fn measure_one(strand: &Strand<'_>, base: Option<&Strand<'_>>, root: u64) -> Tipping {
    let name = format!("tipping/{}", strand.stream());
    let grid = Grid::new(strand, base);
    let levels: Vec<Level> = strand
        .rounds()
        .into_iter()
        .map(|round| level(strand, round, root, &name))
        .collect();
    let actors: BTreeSet<_> = strand
        .observations
        .iter()
        .map(|o| (o.seed, o.actor))
        .collect();
    Tipping {
        model: strand.model.into(),
        variant: strand.variant.into(),
        measure: strand.measure,
        who: strand.who.clone(),
        settings: strand.settings.clone(),
        clusters: grid.clusters(),
        actors: actors.len(),
        slope: drift::slope(strand),
        crossing: crossing::crossing(&grid, crossing::THRESHOLD, root, &name),
        hazard: hazard::hazard(strand, root, &name),
        half_life: half_life::half_life(&grid, root, &name),
        change: change_point::of_levels(&levels),
        transitions: transitions::transitions(strand, root, &name),
        levels,
    }
}

fn level(strand: &Strand<'_>, round: u32, root: u64, name: &str) -> Level {
    let of: Vec<&Observation<'_>> = strand
        .observations
        .iter()
        .filter(|o| o.round == round)
        .collect();
    let mut partial: std::collections::BTreeMap<&str, Partial> = Default::default();
    for o in &of {
        let cluster = partial.entry(o.cluster).or_default();
        match o.event {
            Some(event) => {
                cluster.events += f64::from(u8::from(event));
                cluster.read += 1.0;
            }
            None => cluster.missing += 1.0,
        }
    }
    let units: BTreeSet<&str> = of.iter().map(|o| o.unit.0).collect();
    let failed = of.iter().filter(|o| o.failed).count();
    let read = of.iter().filter(|o| o.event.is_some()).count();
    let partial: Vec<Partial> = partial.into_values().collect();
    Level {
        round,
        events: of.iter().filter(|o| o.event == Some(true)).count(),
        read,
        invalid: of.len() - read - failed,
        failed,
        bounds: bounds(
            &partial,
            units.len(),
            root,
            &format!("{name}/bounds-{round}"),
        ),
        design_effect: design_effect(&strand.clusters(|o| o.round == round)),
    }
}

/// The share of events among observations, with its interval; a unit counts once in Wilson's part, however many agents
/// or samples it has.
fn share<'a, 'b: 'a>(
    found: impl Iterator<Item = (&'a Observation<'b>, bool)>,
    root: u64,
    name: &str,
) -> Option<Estimate> {
    let mut units = BTreeSet::new();
    let clusters: Vec<Cluster> = super::observation::sums(found.map(|(o, event)| {
        units.insert(o.unit.0);
        (o.cluster, f64::from(u8::from(event)))
    }));
    rate_interval(&clusters, units.len(), root, name)
}

#[cfg(test)]
mod coverage;
#[cfg(test)]
mod tests;
