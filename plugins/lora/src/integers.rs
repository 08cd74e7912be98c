//! Weights that a DequantizeLinear makes from integers of eight or four bits, and new numbers on the same grid.

use kmr_sdk::{
    Error, Result,
    model::{DType, Graph, Node, Tensor},
};

use crate::layers::Layer;

/// The stored form of a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Integers {
    /// The initializer of the codes.
    pub tensor: String,
    dtype: DType,
    codes: Vec<i32>,
    /// The scale and the zero point of every element.
    grid: Vec<(f32, i32)>,
}

impl Integers {
    /// The codes and grid of a layer's weight.
    ///
    /// # Errors
    /// If the weight is made in another way; the weight and the way out are named.
    pub fn of(graph: &Graph, layer: &Layer) -> Result<Self> {
        let place = || format!("tensor `{}`", layer.weight);
        let refuse = |what: &str| {
            let message = format!(
                "{what}, so an adapter cannot be merged into it; write keep = \"nodes\", quantize with \
                 `weight_kernels = true` and bits of 8 or 4, or name the layer in `config.ignore`"
            );
            Error::unsupported(message).at(place())
        };
        let node = graph.node(&layer.weight);
        let node = node.ok_or_else(|| Error::not_found("does not exist").at(place()))?;
        if !node.is("DequantizeLinear") {
            return Err(refuse(&format!(
                "is made by a {} and not by a DequantizeLinear",
                node.op_type()
            )));
        }
        let stored = Self::stored(graph, node);
        let (tensor, codes) = stored.ok_or_else(|| refuse("is decoded from what is no initializer"))?;
        let dtype = codes.dtype();
        if !matches!(dtype, DType::INT8 | DType::UINT8 | DType::INT4 | DType::UINT4) {
            return Err(refuse(&format!("is stored as {dtype} and not in 8 or 4 bits")));
        }
        let index = graph.index();
        if index.sole_consumer(&tensor).is_none() {
            return Err(refuse(&format!("shares its codes `{tensor}` with another value")));
        }
        let codes = integers(&codes);
        let grid = grid(graph, node, &layer.shape).ok_or_else(|| refuse("has scales that do not fit its shape"))?;
        if codes.len() != grid.len() {
            return Err(refuse("has codes that do not fit its shape"));
        }
        Ok(Self {
            tensor,
            dtype,
            codes,
            grid,
        })
    }

    /// The initializer behind the first input, through a Cast between integers.
    fn stored(graph: &Graph, node: &Node) -> Option<(String, Tensor)> {
        let mut name = node.input(0)?;
        if let Some(cast) = graph.node(name).filter(|cast| cast.is("Cast")) {
            let (value, index) = (name, graph.index());
            index.sole_consumer(value)?;
            name = cast.input(0)?;
        }
        Some((name.to_owned(), (**graph.tensor(name)?).clone()))
    }

    /// What the codes are worth, as DequantizeLinear has it.
    pub fn values(&self) -> Vec<f32> {
        let values = self.codes.iter().zip(&self.grid);
        values
            .map(|(code, (scale, zero))| (code - zero) as f32 * scale)
            .collect()
    }

    /// The codes nearest to `values`, none beyond those that are there now, as a tensor to be stored, and how many of
    /// them are others.
    ///
    /// # Errors
    /// If the codes cannot be stored.
    pub fn rounded(&self, values: &[f32], shape: &[usize]) -> Result<(Tensor, usize)> {
        let low = self.codes.iter().copied().min().unwrap_or(0);
        let high = self.codes.iter().copied().max().unwrap_or(0);
        let codes = values.iter().zip(&self.grid).map(|(value, &(scale, zero))| {
            let level = (value / scale).round_ties_even();
            // Saturates, and takes what is no number for 0.
            (level as i32).saturating_add(zero).clamp(low, high)
        });
        let codes: Vec<i32> = codes.collect();
        let changed = codes.iter().zip(&self.codes).filter(|(new, old)| new != old).count();
        let codes = codes.into_iter();
        let codes: Vec<u8> = codes.map(|code| code as u8).collect();
        let bytes = if self.dtype.bits() == Some(4) {
            codes
                .chunks(2)
                .map(|pair| pair[0] & 15 | pair.get(1).map_or(0, |second| second << 4))
                .collect()
        } else {
            codes
        };
        let tensor = Tensor::new(self.dtype, shape.to_vec(), bytes.into())
            .map_err(|error| Error::from(error).at(format!("tensor `{}`", self.tensor)))?;
        Ok((tensor, changed))
    }
}

/// The elements of a tensor of eight or four bits.
fn integers(tensor: &Tensor) -> Vec<i32> {
    let bytes = tensor.bytes();
    let nibbles = || bytes.iter().flat_map(|byte| [byte & 15, byte >> 4]).take(tensor.len());
    match tensor.dtype() {
        DType::INT8 => bytes.iter().map(|&byte| (byte as i8).into()).collect(),
        DType::INT4 => nibbles().map(|nibble| ((nibble << 4) as i8 >> 4).into()).collect(),
        DType::UINT4 => nibbles().map(i32::from).collect(),
        _ => bytes.iter().map(|&byte| byte.into()).collect(),
    }
}

/// The scale and zero point of every element: one for all, for each position on an axis, or for each block along it.
fn grid(graph: &Graph, node: &Node, shape: &[usize]) -> Option<Vec<(f32, i32)>> {
    let scale = graph.tensor(node.input(1)?)?;
    let scales = scale.to_f32().ok()?;
    let zeros = match node.input(2) {
        Some(name) => Some(integers(graph.tensor(name)?)),
        None => None,
    };
    if zeros.as_ref().is_some_and(|zeros| zeros.len() != scales.len()) {
        return None;
    }
    let rank = shape.len() as i64;
    let axis = node.int("axis").unwrap_or(1);
    let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok()?;
    let block = usize::try_from(node.int("block_size").unwrap_or(0)).ok()?;
    let inner = |axis: usize| -> usize { shape[axis + 1..].iter().product() };
    let place = |element: usize| -> Option<usize> {
        if scale.shape().is_empty() || scales.len() == 1 && block == 0 {
            return Some(0);
        }
        let size = *shape.get(axis)?;
        let position = element / inner(axis) % size;
        match block {
            0 if scale.shape() == [size] => Some(position),
            0 => None,
            block => {
                let blocks = size.div_ceil(block);
                let whole = scale.shape().len() == shape.len() && scale.shape()[axis] == blocks;
                let outer = element / (inner(axis) * size);
                whole.then(|| (outer * blocks + position / block) * inner(axis) + element % inner(axis))
            }
        }
    };
    let elements = 0..shape.iter().product::<usize>();
    elements
        .map(|element| {
            let at = place(element)?;
            let zero = zeros.as_ref().map_or(Some(0), |zeros| zeros.get(at).copied());
            Some((*scales.get(at)?, zero?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        layers::layers,
        testing::{evaluate, perceptron, quantized},
    };

    #[test]
    fn codes_are_worth_what_the_node_makes_of_them() {
        for bits in [4, 8] {
            let model = quantized(&perceptron(), &["first.weight", "matrix"], bits);
            for layer in &layers(&model).unwrap()[..2] {
                let integers = Integers::of(&model.graph, layer).unwrap();
                let made = evaluate(&model.graph, &[], &[&layer.weight]).remove(0);
                let values = integers.values();
                assert!(
                    made.values
                        .iter()
                        .zip(&values)
                        .all(|(a, b)| (a - f64::from(*b)).abs() < 1e-6)
                );
                let (same, changed) = integers.rounded(&values, &layer.shape).unwrap();
                assert_eq!(changed, 0);
                assert_eq!(&same, &**model.graph.tensor(&integers.tensor).unwrap());
            }
        }
    }

    #[test]
    fn numbers_off_the_grid_go_to_its_ends() {
        let model = quantized(&perceptron(), &["matrix"], 4);
        let layer = &layers(&model).unwrap()[1];
        let integers = Integers::of(&model.graph, layer).unwrap();
        let (far, _) = integers.rounded(&[1e30; 24], &layer.shape).unwrap();
        let most = integers.codes.iter().max().unwrap();
        assert!(super::integers(&far).iter().all(|code| code == most));
        assert!(integers.rounded(&[f32::NAN; 24], &layer.shape).is_ok());
    }
}
