//! A feed-forward network's numbers.

use kmr_sdk::{
    Error, Result,
    model::{
        DType, Graph, GraphIndex, Tensor,
        experts::{Activation, FeedForward, Linear},
        stored::initializer_of,
    },
};
use rayon::prelude::*;

use crate::samples::Rows;

/// A matrix of outputs × inputs, and what is added.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// Rows.
    pub outputs: usize,
    /// Columns.
    pub inputs: usize,
    /// Row by row.
    pub matrix: Vec<f32>,
    /// One for each output, where there is a bias.
    pub bias: Option<Vec<f32>>,
    /// What the matrix was stored as: float32, or 16 bits that are cast.
    pub dtype: DType,
}

/// Partial sums of a product.
const LANES: usize = 8;

impl Weights {
    /// Those of `linear`; nothing if they are neither float32 nor cast to it from 16 bits, as those of a
    /// quantized layer.
    ///
    /// # Errors
    /// If a number is not finite: the tensor is named.
    pub fn of(graph: &Graph, index: &GraphIndex<'_>, linear: &Linear) -> Result<Option<Self>> {
        let Some((outputs, inputs)) = linear.shape(graph, index) else {
            return Ok(None);
        };
        let Some((dtype, stored)) = numbers(graph, index, &linear.weight)? else {
            return Ok(None);
        };
        let bias = match &linear.bias {
            Some(bias) => match numbers(graph, index, bias)? {
                Some((_, bias)) if bias.len() == outputs => Some(bias),
                // One number for all outputs.
                Some((_, bias)) if bias.len() == 1 => Some(vec![bias[0]; outputs]),
                _ => return Ok(None),
            },
            None => None,
        };
        let matrix = if linear.outputs_first {
            stored
        } else {
            turned(&stored, inputs, outputs)
        };
        Ok(Some(Self {
            outputs,
            inputs,
            matrix,
            bias,
            dtype,
        }))
    }

    /// The matrix, stored as `dtype`.
    ///
    /// # Errors
    /// If that is no type of floating-point numbers.
    pub fn stored(&self, outputs_first: bool, dtype: DType) -> Result<Tensor> {
        let (shape, matrix) = match outputs_first {
            true => (vec![self.outputs, self.inputs], self.matrix.clone()),
            false => (
                vec![self.inputs, self.outputs],
                turned(&self.matrix, self.outputs, self.inputs),
            ),
        };
        Ok(Tensor::from_f32(dtype, shape, matrix)?)
    }

    /// One output's numbers.
    pub fn row(&self, output: usize) -> &[f32] {
        &self.matrix[output * self.inputs..][..self.inputs]
    }

    /// These outputs alone.
    #[must_use]
    pub fn only_outputs(&self, outputs: &[usize]) -> Self {
        Self {
            outputs: outputs.len(),
            inputs: self.inputs,
            matrix: outputs
                .iter()
                .flat_map(|&output| self.row(output).iter().copied())
                .collect(),
            bias: self
                .bias
                .as_ref()
                .map(|bias| outputs.iter().map(|&output| bias[output]).collect()),
            ..*self
        }
    }

    /// These inputs alone.
    #[must_use]
    pub fn only_inputs(&self, inputs: &[usize]) -> Self {
        let row = |output| inputs.iter().map(move |&input| self.row(output)[input]);
        Self {
            inputs: inputs.len(),
            matrix: (0..self.outputs).flat_map(row).collect(),
            ..self.clone()
        }
    }

    /// What it makes of each row.
    pub fn apply(&self, rows: &Rows) -> Rows {
        let mut values = vec![0.0; rows.count() * self.outputs];
        let made = values.par_chunks_mut(self.outputs.max(1));
        made.zip(rows.values.par_chunks(self.inputs.max(1)))
            .for_each(|(made, row)| {
                for (output, value) in made.iter_mut().enumerate() {
                    *value = product(self.row(output), row) + self.bias.as_ref().map_or(0.0, |bias| bias[output]);
                }
            });
        Rows {
            width: self.outputs,
            values,
        }
    }
}

/// The sum of products, in partial sums that the length alone decides.
fn product(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (left, right) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = left.remainder().iter().zip(right.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in left.zip(right) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// rows × columns, turned.
fn turned(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns)
        .map(|at| values[at % rows * columns + at / rows])
        .collect()
}

/// The numbers that `value` is as float32, and what they are stored as.
fn numbers(graph: &Graph, index: &GraphIndex<'_>, value: &str) -> Result<Option<(DType, Vec<f32>)>> {
    let Some((name, tensor)) = initializer_of(graph, index, value) else {
        return Ok(None);
    };
    if name == value && tensor.dtype() != DType::FLOAT {
        return Ok(None);
    }
    let values = tensor.to_f32()?;
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(
            Error::unsupported(format!("holds {value}; only finite weights can be routed"))
                .at(format!("tensor `{name}`")),
        ),
        None => Ok(Some((tensor.dtype(), values.into_owned()))),
    }
}

/// A feed-forward network.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// What the activation is applied to, where there is one beside `up`.
    pub gate: Option<Weights>,
    /// From inputs to neurons.
    pub up: Weights,
    /// From neurons to outputs.
    pub down: Weights,
    /// The activation.
    pub activation: Activation,
}

impl Network {
    /// The numbers of `network`; nothing if they are not all there, or do not fit.
    ///
    /// # Errors
    /// If a number is not finite.
    pub fn of(graph: &Graph, index: &GraphIndex<'_>, network: &FeedForward) -> Result<Option<Self>> {
        let gate = match &network.gate {
            Some(gate) => match Weights::of(graph, index, gate)? {
                Some(gate) => Some(gate),
                None => return Ok(None),
            },
            None => None,
        };
        let down = Weights::of(graph, index, &network.down)?;
        let (Some(up), Some(down)) = (Weights::of(graph, index, &network.up)?, down) else {
            return Ok(None);
        };
        let fits = down.inputs == up.outputs
            && gate
                .as_ref()
                .is_none_or(|gate| (gate.outputs, gate.inputs) == (up.outputs, up.inputs));
        Ok(fits.then_some(Self {
            gate,
            up,
            down,
            activation: network.activation,
        }))
    }

    /// How many neurons it has.
    pub fn neurons(&self) -> usize {
        self.up.outputs
    }

    /// The neurons after activation, row by row.
    pub fn hidden(&self, rows: &Rows) -> Rows {
        let mut hidden = self.up.apply(rows);
        let activate = |value: f32| self.activation.at(f64::from(value)) as f32;
        match &self.gate {
            Some(gate) => {
                let gates = gate.apply(rows);
                let pairs = hidden.values.par_iter_mut().zip(&gates.values);
                pairs.for_each(|(value, &gate)| *value *= activate(gate));
            }
            None => hidden.values.par_iter_mut().for_each(|value| *value = activate(*value)),
        }
        hidden
    }

    /// What it makes of each row.
    pub fn apply(&self, rows: &Rows) -> Rows {
        self.down.apply(&self.hidden(rows))
    }

    /// These neurons alone, without what is added to the outputs.
    #[must_use]
    pub fn only(&self, neurons: &[usize]) -> Self {
        let mut down = self.down.only_inputs(neurons);
        down.bias = None;
        Self {
            gate: self.gate.as_ref().map(|gate| gate.only_outputs(neurons)),
            up: self.up.only_outputs(neurons),
            down,
            activation: self.activation,
        }
    }
}
