//! A few rows side by side, so that one pass over a large matrix serves all of them.

/// How many rows.
pub(crate) const LANES: usize = 16;

/// The same element of each of them.
pub(crate) type Lanes = [f64; LANES];

/// Σ factors[i] × vector[i], lane by lane, in order.
pub(crate) fn dot<G: Copy + Into<f64>>(factors: &[G], vector: &[Lanes]) -> Lanes {
    let mut sums = [0.0; LANES];
    for (&factor, lanes) in factors.iter().zip(vector) {
        let factor = factor.into();
        for (sum, lane) in sums.iter_mut().zip(lanes) {
            *sum += factor * lane;
        }
    }
    sums
}

/// vector[i] −= factors[i] × step, lane by lane.
pub(crate) fn subtract<G: Copy + Into<f64>>(vector: &mut [Lanes], factors: &[G], step: &Lanes) {
    for (&factor, lanes) in factors.iter().zip(vector) {
        let factor = factor.into();
        for (lane, step) in lanes.iter_mut().zip(step) {
            *lane -= factor * step;
        }
    }
}
