//! The hazard of the first event: among those who have held out so far, the share that gives way in this round.
//!
//! An actor is at risk in round r if every decision before r has an outcome and none was an event. h_r is the share of
//! those at risk, with an outcome in r, for whom r is the first event; S_r, the share that has still held out after r,
//! is the product of 1 − h over the rounds up to r (Kaplan and Meier, JASA 53, 1958). An actor whose decision has no
//! outcome leaves at that round, neither counted as an event nor as holding out (censored).

use std::collections::BTreeMap;

use super::share;
use crate::evaluation::observation::{Key, Observation, Strand};
use crate::evaluation::statistics::Estimate;

/// One round.
#[derive(Debug, Clone, PartialEq)]
pub struct Hazard {
    /// Round, from 1.
    pub round: u32,
    /// Actors at risk with an outcome in this round.
    pub at_risk: usize,
    /// Those for whom it is the first event.
    pub first_events: usize,
    /// The hazard; none where nobody is at risk.
    pub hazard: Option<Estimate>,
    /// Share that has held out up to and with this round.
    pub survival: f64,
}

/// By round.
pub(super) fn hazard(strand: &Strand<'_>, root: u64, name: &str) -> Vec<Hazard> {
    let rounds = strand.rounds();
    let mut at_risk: Vec<Vec<(&Observation<'_>, bool)>> = vec![vec![]; rounds.len()];
    for history in histories(strand).values() {
        for (place, round) in rounds.iter().enumerate() {
            let Some((o, event)) = history.get(round).and_then(|o| Some((*o, o.event?))) else {
                break;
            };
            at_risk[place].push((o, event));
            if event {
                break;
            }
        }
    }
    let mut survival = 1.0;
    rounds
        .iter()
        .zip(&at_risk)
        .map(|(&round, found)| {
            let first_events = found.iter().filter(|(_, event)| *event).count();
            if !found.is_empty() {
                survival *= 1.0 - first_events as f64 / found.len() as f64;
            }
            Hazard {
                round,
                at_risk: found.len(),
                first_events,
                hazard: share(
                    found.iter().copied(),
                    root,
                    &format!("{name}/hazard-{round}"),
                ),
                survival,
            }
        })
        .collect()
}

/// The decisions of each actor by round.
pub(super) fn histories<'a, 'b>(
    strand: &'b Strand<'a>,
) -> BTreeMap<(u64, Key<'a>), BTreeMap<u32, &'b Observation<'a>>> {
    let mut found: BTreeMap<_, BTreeMap<u32, &Observation<'_>>> = BTreeMap::new();
    for o in &strand.observations {
        found
            .entry((o.seed, o.actor))
            .or_default()
            .insert(o.round, o);
    }
    found
}
