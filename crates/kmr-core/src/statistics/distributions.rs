//! Tails of the normal and of Student's distribution, after the NIST Digital Library of
//! Mathematical Functions (DLMF).

use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// P(Z > x) for a standard normal Z.
pub(super) fn normal_upper_tail(x: f64) -> f64 {
    if x.is_nan() {
        return f64::NAN;
    }
    let z = x.abs() * FRAC_1_SQRT_2;
    let tail = if z < 3.0 {
        0.5 - 0.5 * erf_series(z)
    } else {
        0.5 * erfc_fraction(z)
    };
    if x < 0.0 { 1.0 - tail } else { tail }
}

/// DLMF 7.6.2: all terms positive, so nothing cancels.
fn erf_series(z: f64) -> f64 {
    let mut term = z;
    let mut sum = z;
    let mut odd = 1.0;
    while term > sum * f64::EPSILON {
        odd += 2.0;
        term *= 2.0 * z * z / odd;
        sum += term;
    }
    2.0 / PI.sqrt() * (-z * z).exp() * sum
}

/// DLMF 7.9.1, evaluated from its tail; for z ≥ 3.
fn erfc_fraction(z: f64) -> f64 {
    let fraction = (1..=60).rev().fold(z, |below, at| z + f64::from(at) / 2.0 / below);
    (-z * z).exp() / PI.sqrt() / fraction
}

/// P(T > t) for Student's T with `degrees` > 0 of freedom: half of DLMF 8.17's I_x(ν/2, 1/2) with
/// x = ν/(ν + t²).
pub(super) fn student_upper_tail(t: f64, degrees: f64) -> f64 {
    if t.is_nan() {
        return f64::NAN;
    }
    let square = t * t;
    let (x, complement) = if square.is_finite() {
        (degrees / (degrees + square), square / (degrees + square))
    } else {
        (0.0, 1.0)
    };
    let tail = 0.5 * incomplete_beta(degrees / 2.0, 0.5, x, complement);
    if t < 0.0 { 1.0 - tail } else { tail }
}

/// I_x(a, b) with `complement` = 1 − x.
fn incomplete_beta(a: f64, b: f64, x: f64, complement: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if complement <= 0.0 {
        return 1.0;
    }
    let log_front = a * x.ln() + b * complement.ln() + log_gamma(a + b) - log_gamma(a) - log_gamma(b);
    let front = log_front.exp();
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(a, b, x) / a
    } else {
        1.0 - front * beta_fraction(b, a, complement) / b
    }
}

/// The continued fraction of DLMF 8.17.22, evaluated by Lentz's method.
fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let away_from_zero = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut numerator = 1.0;
    let mut denominator = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut result = denominator;
    for step in 1..=10_000 {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut factor = 1.0;
        for coefficient in [even, odd] {
            denominator = 1.0 / away_from_zero(1.0 + coefficient * denominator);
            numerator = away_from_zero(1.0 + coefficient / numerator);
            factor = numerator * denominator;
            result *= factor;
        }
        if (factor - 1.0).abs() < 1e-15 {
            break;
        }
    }
    result
}

/// ln Γ(x) for x > 0: Stirling's series (DLMF 5.11.1) after raising x by Γ(x + 1) = x Γ(x).
fn log_gamma(x: f64) -> f64 {
    let mut raised = x;
    let mut product = 1.0;
    while raised < 10.0 {
        product *= raised;
        raised += 1.0;
    }
    let inverse = 1.0 / (raised * raised);
    // B₂ₖ / (2k (2k − 1)) for k = 1…6
    let series = [
        1.0 / 12.0,
        -1.0 / 360.0,
        1.0 / 1260.0,
        -1.0 / 1680.0,
        1.0 / 1188.0,
        -691.0 / 360_360.0,
    ];
    let correction = series.iter().rev().fold(0.0, |sum, term| sum * inverse + term) / raised;
    (raised - 0.5) * raised.ln() - raised + 0.5 * (2.0 * PI).ln() + correction - product.ln()
}

/// The x at which a falling tail equals `probability`.
pub(super) fn quantile(probability: f64, tail: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (-1.0, 1.0);
    while tail(low) < probability && low > -1e300 {
        low *= 2.0;
    }
    while tail(high) > probability && high < 1e300 {
        high *= 2.0;
    }
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if tail(middle) > probability {
            low = middle
        } else {
            high = middle
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(actual: f64, expected: f64) {
        assert!((actual / expected - 1.0).abs() < 1e-9, "{actual} is not {expected}");
    }

    #[test]
    fn normal_tails_match_the_tables() {
        assert_close(normal_upper_tail(0.0), 0.5);
        assert_close(normal_upper_tail(1.0), 0.158_655_253_931_457);
        assert_close(normal_upper_tail(-1.0), 0.841_344_746_068_543);
        assert_close(normal_upper_tail(5.0), 2.866_515_718_791_94e-7);
        assert_close(quantile(0.05, normal_upper_tail), 1.644_853_626_951_47);
    }

    /// One and two degrees of freedom have closed forms; many approach the normal.
    #[test]
    fn student_tails_match_their_closed_forms() {
        for t in [-3.0_f64, -0.2, 0.0, 0.7, 2.5, 40.0] {
            assert_close(student_upper_tail(t, 1.0), 0.5 - t.atan() / PI);
            let root = (2.0 + t * t).sqrt();
            // 1/2 − t / (2 √(2 + t²)), without its cancellation
            assert_close(student_upper_tail(t, 2.0), 1.0 / (root * (root + t)));
        }
        assert_close(quantile(0.05, |t| student_upper_tail(t, 10.0)), 1.812_461_122_811_68);
        let nearly_normal = student_upper_tail(1.5, 1e7);
        assert!((nearly_normal - normal_upper_tail(1.5)).abs() < 1e-7);
    }

    #[test]
    fn gamma_matches_factorials() {
        assert_close(log_gamma(0.5), PI.sqrt().ln());
        assert_close(log_gamma(11.0), 3_628_800_f64.ln());
        assert_close(log_gamma(171.0), 706.573_062_245_787);
    }
}
