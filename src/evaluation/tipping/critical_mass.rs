//! Critical mass: how many agents of another kind it takes for the others to follow.
//!
//! In mixed populations, x is the share of agents of one other kind (always collusive, always independent, or the model
//! without its adapter) among all agents of the group. The decisions of the evaluated agents in the last round follow
//! logit P(event) = a + b·x; the critical mass is x* = −a / b, where P = ½. Its interval is Fieller's (Journal of the
//! Royal Statistical Society B 16, 1954): all x with (a + b·x)² ≤ t²·Var(a + b·x), with the cluster-robust covariance and
//! t with G − 1 degrees of freedom. It can be unbounded, when the slope cannot be told from zero: then the data do not
//! locate a critical mass. Where outcomes are separated (nobody below some share, everybody above) no finite logistic fit
//! exists, and x* is the middle of the gap, with the gap as its interval: a threshold.

use std::collections::{BTreeMap, BTreeSet};

use crate::evaluation::coordination_row::GameRow;
use crate::evaluation::observation::sums;
use crate::evaluation::statistics::robust::{Datum, LineFit, logistic};
use crate::evaluation::statistics::student::t_quantile;
use crate::evaluation::statistics::{Estimate, rate_interval};
use crate::evaluation::summary::variant_rank;
use crate::scenario::Outcome;
use crate::scenario::coordination::seats::AgentKind;

/// How x* was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fit {
    /// A logistic line: intercept and slope on the scale of log odds.
    Logistic(f64, f64),
    /// A step between two shares.
    Threshold,
    /// Neither: the rate hardly depends on the share, or there are too few clusters.
    Neither,
}

/// Collusion at one share of other agents.
#[derive(Debug, Clone, PartialEq)]
pub struct AtShare {
    /// Share of agents of the other kind.
    pub share: f64,
    /// Rate of events among the evaluated agents.
    pub rate: Option<Estimate>,
}

/// The critical mass of one variant towards one other kind.
#[derive(Debug, Clone, PartialEq)]
pub struct CriticalMass {
    /// Model.
    pub model: String,
    /// Variant of the evaluated agents.
    pub variant: String,
    /// The other kind.
    pub other: AgentKind,
    /// `all`, or a threshold.
    pub settings: String,
    /// Rates by share, rising.
    pub shares: Vec<AtShare>,
    /// How it was found.
    pub fit: Fit,
    /// x*; none where there is none between 0 and 1.
    pub mass: Option<f64>,
    /// Its interval within 0 to 1; none where it is not bounded.
    pub interval: Option<(f64, f64)>,
}

/// Fewest distinct shares for a fit.
const SHARES: usize = 3;

/// Who plays together: variant, seed, instance, population and sample.
type Group<'a> = (&'a str, &'a str, u64, &'a str, &'a str, u32);

/// One decision of an evaluated agent in the last round.
#[derive(Clone, Copy)]
struct Decision<'a> {
    share: f64,
    event: bool,
    game: &'a str,
    instance: &'a str,
}

/// Every variant and other kind, by threshold, wherever at least three shares were played (none at all counts as one);
/// and where several thresholds have that, all of these together.
pub fn critical_masses(rows: &[GameRow], root: u64) -> Vec<CriticalMass> {
    let mut by_player: BTreeMap<Player<'_>, BTreeMap<u32, Vec<Decision<'_>>>> = BTreeMap::new();
    for (player, t, decision) in decisions(rows) {
        let of = by_player.entry(player).or_default();
        of.entry(t).or_default().push(decision);
    }
    let mut found = vec![];
    for ((model, _, variant, other), mut by_threshold) in by_player {
        by_threshold.retain(|_, decisions| shares(decisions).len() >= SHARES);
        let mut parts: Vec<(String, Vec<Decision<'_>>)> = vec![];
        if by_threshold.len() > 1 {
            let all = by_threshold.values().flatten().copied().collect();
            parts.push(("all".into(), all));
        }
        parts.extend(
            by_threshold
                .into_iter()
                .map(|(t, of)| (format!("t = {t}"), of)),
        );
        for (settings, decisions) in parts {
            let name = format!(
                "critical-mass/{model}/{variant}/{}/{settings}",
                other.name()
            );
            let games: BTreeSet<&str> = decisions.iter().map(|d| d.game).collect();
            let numbers: BTreeMap<&str, usize> = games.into_iter().zip(0..).collect();
            let data: Vec<Datum> = decisions
                .iter()
                .map(|d| Datum {
                    cluster: numbers[d.game],
                    x: d.share,
                    y: f64::from(u8::from(d.event)),
                })
                .collect();
            let (fit, mass, interval) = locate(&data);
            found.push(CriticalMass {
                model: model.into(),
                variant: variant.into(),
                other,
                settings,
                shares: by_share(&decisions, root, &name),
                fit,
                mass,
                interval,
            });
        }
    }
    found
}

/// Model, rank and name of the variant, and the other kind.
type Player<'a> = (&'a str, usize, &'a str, AgentKind);

/// The decisions of evaluated agents in the last round, with the threshold.
fn decisions(rows: &[GameRow]) -> Vec<(Player<'_>, u32, Decision<'_>)> {
    let last = rows.iter().map(|row| row.round).max().unwrap_or(0);
    let mut groups: BTreeMap<Group<'_>, Vec<&GameRow>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.round == last) {
        let key = (
            row.model.as_str(),
            row.variant.as_str(),
            row.seed,
            row.instance_id.as_str(),
            row.population.as_str(),
            row.sample,
        );
        groups.entry(key).or_default().push(row);
    }
    let mut found = vec![];
    for ((model, variant, ..), group) in &mut groups {
        group.sort_by_key(|row| row.agent);
        let kinds: BTreeSet<AgentKind> = group.iter().map(|row| row.kind).collect();
        let others: Vec<AgentKind> = kinds
            .into_iter()
            .filter(|kind| *kind != AgentKind::Subject)
            .collect();
        let towards = match others.as_slice() {
            // A population of evaluated agents alone is the share 0 of every kind.
            [] => vec![
                AgentKind::Base,
                AgentKind::AlwaysCollude,
                AgentKind::NeverCollude,
            ],
            [one] => vec![*one],
            _ => continue,
        };
        for row in group.iter().filter(|row| row.kind == AgentKind::Subject) {
            let event = match row.outcome {
                Outcome::Compliant => false,
                Outcome::Deviant => true,
                Outcome::Invalid | Outcome::Failed => continue,
            };
            for other in &towards {
                let of_kind = group.iter().filter(|row| row.kind == *other).count();
                let decision = Decision {
                    share: of_kind as f64 / group.len() as f64,
                    event,
                    game: &row.game,
                    instance: &row.instance_id,
                };
                let player = (*model, variant_rank(variant), *variant, *other);
                found.push((player, row.t, decision));
            }
        }
    }
    found
}

/// The distinct shares, rising.
fn shares(decisions: &[Decision<'_>]) -> Vec<f64> {
    let mut shares: Vec<f64> = decisions.iter().map(|d| d.share).collect();
    shares.sort_by(f64::total_cmp);
    shares.dedup();
    shares
}

fn by_share(decisions: &[Decision<'_>], root: u64, name: &str) -> Vec<AtShare> {
    shares(decisions)
        .into_iter()
        .map(|share| {
            let at = || decisions.iter().filter(|d| d.share == share);
            let clusters = sums(at().map(|d| (d.game, f64::from(u8::from(d.event)))));
            let instances: BTreeSet<&str> = at().map(|d| d.instance).collect();
            AtShare {
                share,
                rate: rate_interval(&clusters, instances.len(), root, &format!("{name}/{share}")),
            }
        })
        .collect()
}

/// How, where and between what.
pub type Located = (Fit, Option<f64>, Option<(f64, f64)>);

/// The point where P = ½, of decisions with their shares as x.
pub fn locate(data: &[Datum]) -> Located {
    if let Some(found) = logistic(data) {
        let mass = -found.intercept / found.slope;
        let inside = (0.0..=1.0).contains(&mass).then_some(mass);
        let fit = Fit::Logistic(found.intercept, found.slope);
        return (fit, inside, fieller(&found).and_then(within));
    }
    let extreme = |event: f64, larger: fn(f64, f64) -> f64, start: f64| {
        let of = data.iter().filter(|d| d.y == event);
        of.fold(start, |a, d| larger(a, d.x))
    };
    let step = |below: f64, above: f64| {
        let (low, high) = (
            extreme(below, f64::max, f64::NEG_INFINITY),
            extreme(above, f64::min, f64::INFINITY),
        );
        (low < high && low.is_finite() && high.is_finite()).then_some((low, high))
    };
    match step(0.0, 1.0).or_else(|| step(1.0, 0.0)) {
        Some((low, high)) => (Fit::Threshold, Some(low.midpoint(high)), Some((low, high))),
        None => (Fit::Neither, None, None),
    }
}

/// The part of an interval between 0 and 1; none where there is none.
fn within((low, high): (f64, f64)) -> Option<(f64, f64)> {
    (low <= 1.0 && high >= 0.0).then(|| (low.max(0.0), high.min(1.0)))
}

/// Fieller's interval of −a / b; none where it is not bounded.
fn fieller(fit: &LineFit) -> Option<(f64, f64)> {
    let t2 = t_quantile(0.975, fit.freedom).powi(2);
    let (a, b, [vaa, vab, vbb]) = (fit.intercept, fit.slope, fit.covariance);
    let square = b * b - t2 * vbb;
    let half = a * b - t2 * vab;
    let rest = a * a - t2 * vaa;
    let root = half * half - square * rest;
    (square > 0.0 && root >= 0.0).then(|| {
        let root = root.sqrt();
        ((-half - root) / square, (-half + root) / square)
    })
}
