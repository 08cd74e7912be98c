//! Factors that move range between a layer's input channels and what produces them.

use crate::{MethodError, error::check_length};

/// The factors sᵢ = √(producerᵢ / consumerᵢ) of cross-layer equalization (Nagel et al., ICCV 2019):
/// output channel i of the producer, and its bias, are divided by sᵢ, and the consumer's input channel
/// i is multiplied by it; then both have the range √(producerᵢ × consumerᵢ). What is between them must
/// be positively homogeneous (a rectifier, pooling).
///
/// `producer` holds the largest magnitude of each output row, `consumer` of each input channel. A
/// channel without range on either side, or of an extreme one, keeps the factor 1.
///
/// # Errors
/// If the lengths differ.
pub fn cross_layer(producer: &[f32], consumer: &[f32]) -> Result<Vec<f32>, MethodError> {
    check_length("the ranges of the consumer", producer.len(), consumer.len())?;
    Ok(producer
        .iter()
        .zip(consumer)
        .map(|(&first, &second)| balance(first, second, 0.5))
        .collect())
}

/// The factors sⱼ = activationⱼ^α / weightⱼ^(1−α) of SmoothQuant (Xiao et al., ICML 2023): activations
/// are divided by sⱼ (in the layer that makes them), and the weights' input channel j is multiplied by
/// it.
///
/// `activation` and `weight` hold the largest magnitudes of each input channel; `alpha`, in [0, 1], is
/// how much of the difficulty moves to the weights. A channel without range on either side, or of an
/// extreme one, keeps the factor 1.
///
/// # Errors
/// If the lengths differ, or `alpha` is outside its domain.
pub fn smooth(activation: &[f32], weight: &[f32], alpha: f64) -> Result<Vec<f32>, MethodError> {
    check_length("the ranges of the weights", activation.len(), weight.len())?;
    if !(0.0..=1.0).contains(&alpha) {
        let (what, domain) = ("alpha", "from 0 to 1");
        return Err(MethodError::Domain {
            what,
            domain,
            value: alpha,
        });
    }
    Ok(activation
        .iter()
        .zip(weight)
        .map(|(&first, &second)| balance(first, second, alpha))
        .collect())
}

/// first^alpha / second^(1 − alpha), or 1 where that is no use.
fn balance(first: f32, second: f32, alpha: f64) -> f32 {
    let usable = |value: f32| value.is_normal() && value > 0.0;
    let factor = (f64::from(first).powf(alpha) / f64::from(second).powf(1.0 - alpha)) as f32;
    if usable(first) && usable(second) && usable(factor) {
        factor
    } else {
        1.0
    }
}
