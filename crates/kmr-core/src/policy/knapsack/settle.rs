//! The choice among contenders, by full measurement on the search data.

use super::contenders::Choices;
use super::known::{Answer, Known};
use super::survey::Survey;
use crate::assignment::Assignment;
use crate::frontier::Frontier;
use crate::policy::{Ask, Greedy, Policy};

/// How often a way back to the floor is halved.
const HALVINGS: usize = 8;

/// A named way to the budget.
pub(in crate::policy) type Contender = (&'static str, Choices);

/// The contenders that may be stepped to, best first; of equals the cheaper, then the earlier.
pub(in crate::policy) fn ranked(known: &Known, survey: &Survey, contenders: &[Contender]) -> Answer<Vec<Choices>> {
    let labels: Vec<&str> = contenders.iter().map(|(label, _)| *label).collect();
    let assignments: Vec<Assignment> = contenders
        .iter()
        .map(|(_, choices)| survey.assignment(choices))
        .collect();
    let judged = known.judged(&assignments, &labels)?;
    let costs = known.costs(&assignments)?;
    let mut allowed: Vec<(f64, f64, &Choices)> = Vec::new();
    for (at, (_, choices)) in contenders.iter().enumerate() {
        if let (Some(judged), Some(costs)) = (judged[at], costs[at])
            && !judged.rejected
            && !known.tried(&assignments[at])
        {
            allowed.push((judged.quality, known.load(costs), choices));
        }
    }
    allowed.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.total_cmp(&other.1)));
    Ok(allowed.into_iter().map(|(_, _, choices)| choices.clone()).collect())
}

/// The step to the best contender. When the floor allows none, to the cheapest on the curve that it
/// allows, found by halving; from where that ends, greedily.
pub(in crate::policy) fn settle(
    known: &Known,
    survey: &Survey,
    contenders: &[Contender],
    curve: Option<&Frontier>,
    greedy: &mut Greedy,
) -> Answer<Ask> {
    if let Some(best) = ranked(known, survey, contenders)?.first() {
        return Ok(known.step(&survey.assignment(best)));
    }
    let (mut forbidden, mut allowed) = (0, curve.map_or(0, Frontier::len));
    let mut target = None;
    for _ in 0..HALVINGS {
        let middle = (forbidden + allowed) / 2;
        let on_curve = curve
            .filter(|_| forbidden < allowed)
            .and_then(|curve| curve.solution(middle));
        let Some(retreat) = on_curve else {
            break;
        };
        let assignment = survey.assignment(&retreat.choices);
        match known.judged(std::slice::from_ref(&assignment), &["retreat"])?[0] {
            Some(judged) if judged.rejected => forbidden = middle + 1,
            judged => {
                allowed = middle;
                target = judged.map(|_| assignment).or(target);
            }
        }
    }
    match target.filter(|target| !known.tried(target)) {
        Some(target) => Ok(known.step(&target)),
        None => Ok(greedy.next(known.history).unwrap_or(Ask::Done)),
    }
}
