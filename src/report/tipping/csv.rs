//! The numbers behind the section, as CSV.

use crate::evaluation::tipping::Tipping;
use crate::report::csv::{lines, number};

pub(super) fn drift_csv(found: &[Tipping]) -> String {
    let header = "model,variant,measure,agents,settings,clusters,actors,drift,drift_low,drift_high,drift_p,first_above_half,\
                  earliest,latest,gain,gain_low,gain_high,lost_a_round,lost_low,lost_high,half_life,p_no_change,\
                  likeliest_change_after";
    lines(
        header,
        found.iter().map(|t| {
            let slope = t.slope.map(|s| s.per_round);
            let half = t.half_life;
            let round = |r: Option<u32>| r.map_or(String::new(), |r| r.to_string());
            vec![
                t.model.clone(),
                t.variant.clone(),
                t.measure.name().into(),
                t.who.clone(),
                t.settings.clone(),
                t.clusters.to_string(),
                t.actors.to_string(),
                number(slope.map(|s| s.value)),
                number(slope.map(|s| s.low)),
                number(slope.map(|s| s.high)),
                number(t.slope.map(|s| s.p)),
                round(t.crossing.first),
                round(t.crossing.earliest),
                round(t.crossing.latest),
                number(half.map(|h| h.gain.value)),
                number(half.map(|h| h.gain.low)),
                number(half.map(|h| h.gain.high)),
                number(half.map(|h| h.per_round.value)),
                number(half.map(|h| h.per_round.low)),
                number(half.map(|h| h.per_round.high)),
                number(half.and_then(|h| h.rounds[0])),
                number(t.change.as_ref().map(|c| c.none)),
                round(t.change.as_ref().map(|c| c.likeliest)),
            ]
        }),
    )
}

pub(super) fn rounds_csv(found: &[Tipping]) -> String {
    let header = "model,variant,measure,agents,settings,round,at_risk,first_events,hazard,hazard_low,hazard_high,held_out,\
                  held,tipped,returned,stayed,unread,tip,tip_low,tip_high,return,return_low,return_high,p_change_after";
    let rows = found.iter().flat_map(|t| {
        t.hazard.iter().map(move |h| {
            let step = t.transitions.iter().find(|s| s.from == h.round);
            let whole = |n: Option<usize>| n.map_or(String::new(), |n| n.to_string());
            let (tip, back) = (step.and_then(|s| s.tip), step.and_then(|s| s.back));
            let after = t.change.as_ref().and_then(|c| {
                let found = c.after.iter().find(|(round, _)| *round == h.round)?;
                Some(found.1)
            });
            vec![
                t.model.clone(),
                t.variant.clone(),
                t.measure.name().into(),
                t.who.clone(),
                t.settings.clone(),
                h.round.to_string(),
                h.at_risk.to_string(),
                h.first_events.to_string(),
                number(h.hazard.map(|e| e.value)),
                number(h.hazard.map(|e| e.low)),
                number(h.hazard.map(|e| e.high)),
                h.survival.to_string(),
                whole(step.map(|s| s.held)),
                whole(step.map(|s| s.tipped)),
                whole(step.map(|s| s.returned)),
                whole(step.map(|s| s.stayed)),
                whole(step.map(|s| s.unread)),
                number(tip.map(|e| e.value)),
                number(tip.map(|e| e.low)),
                number(tip.map(|e| e.high)),
                number(back.map(|e| e.value)),
                number(back.map(|e| e.low)),
                number(back.map(|e| e.high)),
                number(after),
            ]
        })
    });
    lines(header, rows)
}
