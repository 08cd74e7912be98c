//! How gradients move tensors.

use std::collections::BTreeMap;

use kmr_model::Tensor;

/// The method of an optimizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// Stochastic gradient descent with momentum: `v = momentum · v + g`, then `w -= rate · v`, or
    /// `w -= rate · (g + momentum · v)` after Nesterov ("On the importance of initialization and momentum in deep
    /// learning", ICML 2013).
    Sgd {
        /// The share of the last movement that goes on.
        momentum: f64,
        /// Whether the gradient is looked up ahead.
        nesterov: bool,
    },
    /// Adam ("Adam: A Method for Stochastic Optimization", arXiv 1412.6980) with decoupled weight decay (arXiv
    /// 1711.05101).
    AdamW {
        /// Decay of the mean of gradients.
        beta1: f64,
        /// Decay of the mean of their squares.
        beta2: f64,
        /// What is added to the root of the squares.
        epsilon: f64,
    },
}

/// An optimizer, with what it remembers from step to step.
#[derive(Clone, Debug)]
pub struct Optimizer {
    method: Method,
    weight_decay: f64,
    clip_norm: Option<f64>,
    state: OptimizerState,
}

/// What an optimizer remembers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptimizerState {
    /// Steps taken.
    pub steps: u64,
    /// Velocities, or means of gradients, by tensor.
    pub first: BTreeMap<String, Vec<f32>>,
    /// Means of squares, by tensor.
    pub second: BTreeMap<String, Vec<f32>>,
}

/// A gradient that is not finite, by the name of its tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gradient of `{0}` is not finite")]
pub struct NotFinite(pub String);

impl Optimizer {
    /// An optimizer that has not moved anything. `weight_decay` shrinks tensors of two or more axes alone; a gradient
    /// whose norm over all tensors is above `clip_norm` is scaled down to it.
    pub fn new(method: Method, weight_decay: f64, clip_norm: Option<f64>) -> Self {
        Self {
            method,
            weight_decay,
            clip_norm,
            state: OptimizerState::default(),
        }
    }

    /// What it remembers.
    pub fn state(&self) -> &OptimizerState {
        &self.state
    }

    /// Goes on from what another one remembered.
    pub fn set_state(&mut self, state: OptimizerState) {
        self.state = state;
    }

    /// Moves float32 `tensors` along `gradients`, by name and of the same shapes. Gives the norm of the whole gradient
    /// before it was clipped.
    ///
    /// # Errors
    /// If a gradient is not finite; then nothing has moved.
    pub fn step(
        &mut self,
        tensors: &mut BTreeMap<String, Tensor>,
        gradients: &BTreeMap<String, Vec<f32>>,
        rate: f64,
    ) -> Result<f64, NotFinite> {
        let mut squares = 0.0;
        for (name, gradient) in gradients {
            let sum: f64 = gradient.iter().map(|slope| f64::from(*slope).powi(2)).sum();
            if !sum.is_finite() {
                return Err(NotFinite(name.clone()));
            }
            squares += sum;
        }
        let norm = squares.sqrt();
        let factor = match self.clip_norm {
            Some(most) if norm > most => most / norm,
            _ => 1.0,
        };
        self.state.steps += 1;
        for (name, gradient) in gradients {
            let Some(tensor) = tensors.get_mut(name) else { continue };
            let Ok(values) = tensor.values::<f32>() else { continue };
            let mut values = values.into_owned();
            let decay = if tensor.shape().len() >= 2 {
                self.weight_decay
            } else {
                0.0
            };
            self.state
                .moved(self.method, name, &mut values, gradient, [rate, decay, factor]);
            *tensor = Tensor::from_vec(tensor.shape().to_vec(), values);
        }
        Ok(norm)
    }
}

impl OptimizerState {
    fn moved(
        &mut self,
        method: Method,
        name: &str,
        values: &mut [f32],
        gradient: &[f32],
        [rate, decay, factor]: [f64; 3],
    ) {
        let zeros = || vec![0.0; gradient.len()];
        let elements = values.iter_mut().zip(gradient);
        match method {
            Method::Sgd { momentum, nesterov } => {
                let velocities = self.first.entry(name.to_owned()).or_insert_with(zeros);
                for ((value, slope), velocity) in elements.zip(velocities) {
                    let slope = f64::from(*slope) * factor + decay * f64::from(*value);
                    let moved = momentum * f64::from(*velocity) + slope;
                    *velocity = moved as f32;
                    let step = if nesterov { slope + momentum * moved } else { moved };
                    *value = (f64::from(*value) - rate * step) as f32;
                }
            }
            Method::AdamW { beta1, beta2, epsilon } => {
                let steps = self.steps as f64;
                let (whole1, whole2) = (1.0 - beta1.powf(steps), 1.0 - beta2.powf(steps));
                let means = self.first.entry(name.to_owned()).or_insert_with(zeros);
                let squares = self.second.entry(name.to_owned()).or_insert_with(zeros);
                for (((value, slope), mean), square) in elements.zip(means).zip(squares) {
                    let slope = f64::from(*slope) * factor;
                    let first = beta1 * f64::from(*mean) + (1.0 - beta1) * slope;
                    let second = beta2 * f64::from(*square) + (1.0 - beta2) * slope * slope;
                    (*mean, *square) = (first as f32, second as f32);
                    let step = (first / whole1) / ((second / whole2).sqrt() + epsilon);
                    *value = (f64::from(*value) * (1.0 - rate * decay) - rate * step) as f32;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(method: Method, weight_decay: f64, clip_norm: Option<f64>, gradients: &[[f32; 2]]) -> Vec<f32> {
        let mut optimizer = Optimizer::new(method, weight_decay, clip_norm);
        let mut tensors = BTreeMap::from([("w".to_owned(), Tensor::from_vec(vec![1, 2], vec![1.0_f32, -2.0]))]);
        for gradient in gradients {
            let gradient = BTreeMap::from([("w".to_owned(), gradient.to_vec())]);
            optimizer.step(&mut tensors, &gradient, 0.1).unwrap();
        }
        tensors["w"].values::<f32>().unwrap().into_owned()
    }

    /// The expected numbers are those of PyTorch, see tests/fixtures/optimizers.py.
    #[track_caller]
    fn close(found: &[f32], expected: [f32; 2]) {
        let apart = found.iter().zip(expected).any(|(f, e)| (f - e).abs() > 1e-6);
        assert!(!apart, "{found:?} {expected:?}");
    }

    const GRADIENTS: [[f32; 2]; 3] = [[0.5, -1.0], [0.25, 2.0], [-1.0, 0.125]];

    #[test]
    fn gradient_descent_as_pytorch() {
        let sgd = |momentum, nesterov| Method::Sgd { momentum, nesterov };
        close(&run(sgd(0.0, false), 0.0, None, &GRADIENTS), [1.025, -2.1125]);
        close(&run(sgd(0.9, false), 0.01, None, &GRADIENTS), SGD_MOMENTUM);
        close(&run(sgd(0.9, true), 0.01, None, &GRADIENTS), SGD_NESTEROV);
    }

    #[test]
    fn adam_as_pytorch() {
        let adam = Method::AdamW {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
        };
        close(&run(adam, 0.0, None, &GRADIENTS), ADAM);
        close(&run(adam, 0.1, None, &GRADIENTS), ADAM_DECAY);
    }

    #[test]
    fn a_long_gradient_is_scaled_down_whole() {
        let sgd = Method::Sgd {
            momentum: 0.0,
            nesterov: false,
        };
        close(&run(sgd, 0.0, Some(1.0), &[[3.0, 4.0]]), [0.94, -2.08]);
    }

    #[test]
    fn what_is_not_finite_moves_nothing() {
        let sgd = Method::Sgd {
            momentum: 0.9,
            nesterov: true,
        };
        let mut optimizer = Optimizer::new(sgd, 0.0, None);
        let mut tensors = BTreeMap::from([("w".to_owned(), Tensor::from_vec(vec![1], vec![1.0_f32]))]);
        let before = tensors.clone();
        let gradient = BTreeMap::from([("w".to_owned(), vec![f32::NAN])]);
        let error = optimizer.step(&mut tensors, &gradient, 0.1).unwrap_err();
        assert_eq!(error.to_string(), "the gradient of `w` is not finite");
        assert_eq!(tensors, before);
        assert_eq!(optimizer.state(), &OptimizerState::default());
    }

    const SGD_MOMENTUM: [f32; 2] = [0.911_609_77, -2.110_469_6];
    const SGD_NESTEROV: [f32; 2] = [0.942_869_7, -2.206_086_9];
    const ADAM: [f32; 2] = [0.827_417_8, -1.968_433_7];
    const ADAM_DECAY: [f32; 2] = [0.800_639, -1.910_655_6];
}
