//! Which units stay: counts from a sparsity, and the best of a ranking.

use serde::Deserialize;

/// How many channels may be left in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The number of channels kept is a multiple of this, unless all are.
    pub round_to: usize,
    /// At least so many channels are kept.
    pub minimum: usize,
}

/// How many of the `units` of a group are kept at `sparsity`, where each unit is `width` channels.
///
/// The number removed is the one nearest to `sparsity`; limits round it down. At least one unit stays.
pub fn kept(units: usize, width: usize, sparsity: f64, limits: Limits) -> usize {
    at_least(units - removed(units, sparsity), units, width, limits)
}

/// The whole number nearest to `sparsity` of `count`, below `count` unless that is zero.
pub fn removed(count: usize, sparsity: f64) -> usize {
    let wanted = (count as f64 * sparsity.clamp(0.0, 1.0)).round() as usize;
    wanted.min(count.saturating_sub(1))
}

/// The fewest units, `wanted` or more, that `limits` allow a group of `units` to keep.
pub fn at_least(wanted: usize, units: usize, width: usize, limits: Limits) -> usize {
    let width = width.max(1);
    let round_to = limits.round_to.max(1);
    // Channels come in whole units: the first multiple of both that is a multiple of `round_to`.
    let step = round_to / greatest_common_divisor(round_to, width);
    let wanted = wanted.max(limits.minimum.div_ceil(width)).max(1);
    wanted.next_multiple_of(step).min(units)
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// The indices of the `count` greatest scores, ascending. Of equal scores the first stay.
pub fn greatest(scores: &[f64], count: usize) -> Vec<usize> {
    let mut kept = ranked(scores);
    kept.truncate(count);
    kept.sort_unstable();
    kept
}

/// All indices from the greatest score to the smallest; equal scores in their order.
fn ranked(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

/// How scores of different layers are made comparable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalize {
    /// By their mean in the layer.
    #[default]
    Mean,
    /// By the greatest in the layer.
    Max,
    /// As they are.
    None,
}

impl Normalize {
    fn divisor(self, scores: &[f64]) -> f64 {
        let divisor = match self {
            Self::Mean => scores.iter().sum::<f64>() / scores.len() as f64,
            Self::Max => scores.iter().copied().fold(0.0, f64::max),
            Self::None => 1.0,
        };
        if divisor > 0.0 { divisor } else { 1.0 }
    }
}

/// A group's part in a ranking across groups.
#[derive(Clone, Copy, Debug)]
pub struct Ranked<'a> {
    /// One score for each unit.
    pub scores: &'a [f64],
    /// Channels in each unit.
    pub width: usize,
}

/// How many units each group keeps when `sparsity` of all units go, the least important of all first.
///
/// More are kept where `limits` ask for it; a greater sparsity never keeps more of any group.
pub fn kept_globally(groups: &[Ranked<'_>], sparsity: f64, normalize: Normalize, limits: Limits) -> Vec<usize> {
    let mut all: Vec<(f64, usize)> = Vec::new();
    for (group, ranked) in groups.iter().enumerate() {
        let divisor = normalize.divisor(ranked.scores);
        all.extend(ranked.scores.iter().map(|score| (score / divisor, group)));
    }
    // Stable: of equal scores, later groups and units go first.
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let total = all.len();
    let mut survivors = vec![0; groups.len()];
    for &(_, group) in &all[..total - removed(total, sparsity)] {
        survivors[group] += 1;
    }
    let groups = groups.iter().zip(survivors);
    groups
        .map(|(ranked, wanted)| at_least(wanted, ranked.scores.len(), ranked.width, limits))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FREE: Limits = Limits {
        round_to: 1,
        minimum: 1,
    };

    #[test]
    fn every_tenth_of_sixteen_channels_is_a_step() {
        let counts: Vec<usize> = (0..10)
            .map(|tenth| kept(16, 1, f64::from(tenth) / 10.0, FREE))
            .collect();
        assert_eq!(counts, [16, 14, 13, 11, 10, 8, 6, 5, 3, 2]);
        assert_eq!(kept(16, 1, 0.95, FREE), 1);
        assert_eq!(kept(1, 1, 0.95, FREE), 1);
    }

    #[test]
    fn of_equal_scores_the_first_stay() {
        assert_eq!(greatest(&[1.0, 2.0, 1.0, 2.0, 1.0], 3), [0, 1, 3]);
    }

    #[test]
    fn a_group_of_weak_units_loses_more_in_a_ranking_across_groups() {
        let (weak, strong) = ([1.0, 1.1, 8.0, 9.9], [5.0, 5.1, 5.2, 5.3]);
        let groups = [&weak, &strong].map(|scores| Ranked { scores, width: 1 });
        assert_eq!(kept_globally(&groups, 0.25, Normalize::None, FREE), [2, 4]);
        let tenfold = weak.map(|score| score * 10.0);
        let groups = [&tenfold, &strong].map(|scores| Ranked { scores, width: 1 });
        assert_eq!(
            kept_globally(&groups, 0.5, Normalize::None, FREE),
            [4, 1],
            "one stays in every group"
        );
        assert_eq!(kept_globally(&groups, 0.25, Normalize::Mean, FREE), [2, 4]);
    }

    fn limits() -> impl Strategy<Value = Limits> {
        (1_usize..20, 1_usize..20).prop_map(|(round_to, minimum)| Limits { round_to, minimum })
    }

    proptest! {
        #[test]
        fn counts_obey_the_limits(units in 1_usize..300, width in 1_usize..9, sparsity in 0.0..=0.95, limits in limits()) {
            let count = kept(units, width, sparsity, limits);
            prop_assert!((1..=units).contains(&count));
            prop_assert!(count == units || (count * width).is_multiple_of(limits.round_to));
            prop_assert!(count == units || count * width >= limits.minimum);
            prop_assert!(count + removed(units, sparsity) >= units);
        }

        #[test]
        fn a_greater_sparsity_keeps_no_more(units in 1_usize..300, a in 0.0..=0.95, b in 0.0..=0.95, limits in limits()) {
            prop_assert!(kept(units, 1, f64::max(a, b), limits) <= kept(units, 1, f64::min(a, b), limits));
        }

        #[test]
        fn the_greatest_are_sorted_and_no_smaller_than_the_rest(
            scores in prop::collection::vec((0_u8..6).prop_map(f64::from), 1..60),
            share in 0.0..=1.0,
        ) {
            let count = ((scores.len() as f64 * share) as usize).max(1);
            let best = greatest(&scores, count);
            prop_assert_eq!(best.len(), count);
            prop_assert!(best.is_sorted_by(|a, b| a < b));
            let worst_kept = best.iter().map(|&index| scores[index]).fold(f64::INFINITY, f64::min);
            let rest = (0..scores.len()).filter(|index| !best.contains(index));
            prop_assert!(rest.map(|index| scores[index]).all(|score| score <= worst_kept));
        }

        #[test]
        fn a_ranking_across_groups_removes_what_is_asked_and_is_nested(
            groups in prop::collection::vec(prop::collection::vec(0.0..9.0, 1..20), 1..8),
            a in 0.0..=0.95, b in 0.0..=0.95,
        ) {
            let ranked: Vec<_> = groups.iter().map(|scores| Ranked { scores, width: 1 }).collect();
            let less = kept_globally(&ranked, f64::min(a, b), Normalize::Mean, FREE);
            let more = kept_globally(&ranked, f64::max(a, b), Normalize::Mean, FREE);
            prop_assert!(more.iter().zip(&less).all(|(more, less)| more <= less));
            let total: usize = groups.iter().map(Vec::len).sum();
            let left: usize = less.iter().sum();
            prop_assert!(left >= total - removed(total, f64::min(a, b)));
            prop_assert!(left <= total - removed(total, f64::min(a, b)) + groups.len());
            prop_assert!(less.iter().all(|&kept| kept >= 1));
        }
    }
}
