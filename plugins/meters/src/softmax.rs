//! The softmax in logarithms.

/// ln Σᵢ exp xᵢ, without overflow: the greatest element is taken out first. NaN if an element is NaN or +∞.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let greatest = f64::from(greatest);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - greatest).exp()).sum();
    greatest + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_logits_neither_overflow_nor_vanish() {
        assert!((log_sum_exp(&[0.0, 0.0]) - 2_f64.ln()).abs() < 1e-15);
        assert!((log_sum_exp(&[3e38, 3e38]) - f64::from(3e38_f32)).abs() < 1e23);
        assert!((log_sum_exp(&[-1000.0, -1000.0]) - (2_f64.ln() - 1000.0)).abs() < 1e-12);
        assert_eq!(log_sum_exp(&[5.0, f32::NEG_INFINITY]), 5.0);
    }

    #[test]
    fn what_is_no_distribution_is_nan() {
        assert!(log_sum_exp(&[1.0, f32::NAN]).is_nan());
        assert!(log_sum_exp(&[1.0, f32::INFINITY]).is_nan());
        assert!(log_sum_exp(&[f32::NEG_INFINITY; 2]).is_nan());
    }
}
