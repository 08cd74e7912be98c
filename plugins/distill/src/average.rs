//! A moving average of the weights, which is often better than the weights it averages ("Averaging Weights Leads to
//! Wider Optima and Better Generalization", arXiv 1803.05407; exponential as in "Mean Teachers", arXiv 1703.01780).

use kmr_sdk::{
    Result, Session,
    model::{Graph, Tensor},
};

/// Tensors of a session, averaged over its steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Average {
    decay: f64,
    tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
}

impl Average {
    /// Begins with the tensors `names` as `session` has them.
    ///
    /// # Errors
    /// If the session has no such float32 tensor.
    pub fn new(session: &Session<'_>, names: impl IntoIterator<Item = String>, decay: f64) -> Result<Self> {
        let read = |name: String| {
            let tensor = session.parameter(&name)?;
            let values = tensor.values::<f32>()?.into_owned();
            Ok((name, tensor.shape().to_vec(), values))
        };
        Ok(Self {
            decay,
            tensors: names.into_iter().map(read).collect::<Result<_>>()?,
        })
    }

    /// Moves the average towards the session's tensors after `steps` steps. The decay grows from 2 / 11 to what was
    /// asked for, so that the beginning is soon forgotten.
    ///
    /// # Errors
    /// If the session's tensors cannot be read.
    pub fn update(&mut self, session: &Session<'_>, steps: usize) -> Result<()> {
        let steps = steps as f64;
        let decay = self.decay.min((1.0 + steps) / (10.0 + steps));
        for (name, _, average) in &mut self.tensors {
            let tensor = session.parameter(name)?;
            for (average, &value) in average.iter_mut().zip(tensor.values::<f32>()?.iter()) {
                *average = (decay * f64::from(*average) + (1.0 - decay) * f64::from(value)) as f32;
            }
        }
        Ok(())
    }

    /// Gives the session the average for its tensors.
    ///
    /// # Errors
    /// If the session does not take them.
    pub fn finish(self, session: &mut Session<'_>) -> Result<()> {
        for (name, shape, values) in self.tensors {
            session.assign(&name, &Tensor::from_vec(shape, values))?;
        }
        Ok(())
    }

    /// Its numbers, bit by bit, for a checkpoint's note.
    pub fn bits(&self) -> Vec<u32> {
        self.tensors
            .iter()
            .flat_map(|(_, _, values)| values.iter().map(|value| value.to_bits()))
            .collect()
    }

    /// Takes numbers from a checkpoint's note; as they were, if there are others than expected.
    pub fn recall(&mut self, bits: &[u32]) {
        let count: usize = self.tensors.iter().map(|(_, _, values)| values.len()).sum();
        if count == bits.len() {
            let values = self.tensors.iter_mut().flat_map(|(_, _, values)| values);
            values
                .zip(bits)
                .for_each(|(value, &bits)| *value = f32::from_bits(bits));
        }
    }
}

/// The means and variances of batch normalizations, which training with batch statistics moves.
pub fn running_statistics(graph: &Graph) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for node in graph.nodes.iter().filter(|node| node.is("BatchNormalization")) {
        for name in [3, 4].into_iter().filter_map(|slot| node.input(slot)) {
            if graph.tensor(name).is_some() && !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
    }
    names
}
