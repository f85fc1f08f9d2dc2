//! From one round to the next: who stays, who tips, who returns.
//!
//! Of the actors that held in round r, the share with an event in r + 1 tips; of those with an event, the share without
//! one returns. Pairs in which one of the two decisions has no outcome are counted apart.

use super::hazard::histories;
use super::share;
use crate::evaluation::observation::{Observation, Strand};
use crate::evaluation::statistics::Estimate;

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// Round before.
    pub from: u32,
    /// Round after.
    pub to: u32,
    /// No event in either.
    pub held: usize,
    /// An event in the second alone.
    pub tipped: usize,
    /// An event in the first alone.
    pub returned: usize,
    /// Events in both.
    pub stayed: usize,
    /// One of the two has no outcome.
    pub unread: usize,
    /// Share that tips among those that held before; none where nobody did.
    pub tip: Option<Estimate>,
    /// Share that returns among those with an event before; none where nobody had one.
    pub back: Option<Estimate>,
}

/// By step, over rounds that follow each other.
pub(super) fn transitions(strand: &Strand<'_>, root: u64, name: &str) -> Vec<Transition> {
    let histories = histories(strand);
    let rounds = strand.rounds();
    rounds
        .windows(2)
        .map(|step| {
            let (from, to) = (step[0], step[1]);
            let pairs: Vec<(&Observation<'_>, &Observation<'_>)> = histories
                .values()
                .filter_map(|history| Some((*history.get(&from)?, *history.get(&to)?)))
                .collect();
            let after = |before: bool| {
                pairs
                    .iter()
                    .filter(move |(a, _)| a.event == Some(before))
                    .filter_map(|(_, b)| Some((*b, b.event?)))
            };
            let count =
                |before: bool, event: bool| after(before).filter(|(_, e)| *e == event).count();
            let (held, tipped) = (count(false, false), count(false, true));
            let (returned, stayed) = (count(true, false), count(true, true));
            Transition {
                from,
                to,
                held,
                tipped,
                returned,
                stayed,
                unread: pairs.len() - held - tipped - returned - stayed,
                tip: share(after(false), root, &format!("{name}/tip-{from}")),
                back: share(
                    after(true).map(|(o, event)| (o, !event)),
                    root,
                    &format!("{name}/return-{from}"),
                ),
            }
        })
        .collect()
}
