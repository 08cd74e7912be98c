//! The threshold whose quantized distribution tells most of the observed one.

/// What empty bins are raised to, at the cost of the others.
const SMOOTHING: f64 = 1e-4;

/// How many bins of `counts`, magnitudes from 0 on, to keep when they are quantized to `levels`.
pub(super) fn threshold(mut counts: Vec<u64>, levels: usize) -> usize {
    if counts.len() <= levels {
        return counts.len();
    }
    // Zeros are exact under any threshold; after a rectifier they would drown everything else.
    counts[0] = counts[1];
    let mut outliers: u64 = counts[levels..].iter().sum();
    let mut best = (f64::INFINITY, counts.len());
    for kept in levels..=counts.len() {
        let mut observed = counts[..kept].to_vec();
        observed[kept - 1] += outliers;
        let divergence = divergence(&observed, &quantized(&counts[..kept], &observed, levels));
        if divergence < best.0 {
            best = (divergence, kept);
        }
        outliers -= counts.get(kept).copied().unwrap_or(0);
    }
    best.1
}

/// `counts` merged into levels, and each level spread again over the bins where `observed` has any.
fn quantized(counts: &[u64], observed: &[u64], levels: usize) -> Vec<f64> {
    let mut spread = vec![0.0; counts.len()];
    for level in 0..levels {
        let bins = level * counts.len() / levels..(level + 1) * counts.len() / levels;
        let occupied = observed[bins.clone()].iter().filter(|&&count| count > 0).count();
        let share = counts[bins.clone()].iter().sum::<u64>() as f64 / occupied.max(1) as f64;
        for bin in bins.filter(|&bin| observed[bin] > 0) {
            spread[bin] = share;
        }
    }
    spread
}

/// The Kullback–Leibler divergence of `quantized` from `observed`, both smoothed and normalized.
fn divergence(observed: &[u64], quantized: &[f64]) -> f64 {
    let observed: Vec<f64> = observed.iter().map(|&count| count as f64).collect();
    let (Some(observed), Some(quantized)) = (smoothed(&observed), smoothed(quantized)) else {
        return f64::INFINITY;
    };
    observed.iter().zip(&quantized).map(|(p, q)| p * (p / q).ln()).sum()
}

/// Probabilities without zeros; none if too few bins have a count for that.
fn smoothed(counts: &[f64]) -> Option<Vec<f64>> {
    let total: f64 = counts.iter().sum();
    if total == 0.0 {
        return None;
    }
    let empty = counts.iter().filter(|&&count| count == 0.0).count();
    let cost = SMOOTHING * empty as f64 / (counts.len() - empty) as f64;
    counts
        .iter()
        .map(|&count| if count == 0.0 { SMOOTHING } else { count - cost })
        .map(|count| (count > 0.0).then_some(count / total))
        .collect()
}
