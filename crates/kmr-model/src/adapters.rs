//! Low-rank adapters that a graph keeps beside its layers ("LoRA", arXiv 2106.09685), by the names of their tensors.
//!
//! A layer `name` with an adapter adds scaling · B A x to its output. A is the initializer `name.lora_A.weight`, rank ×
//! inputs (of a convolution: rank × channels × kernel); B is `name.lora_B.weight`, outputs × rank (outputs × rank × 1 ×
//! 1); the scaling is the scalar `name.lora_scaling`, 1 where there is none.

mod merge;

use crate::{DType, ErrorKind, Graph, ModelError, Tensor};

pub use merge::merge;

/// What follows a layer's name in that of its A.
pub const A: &str = ".lora_A.weight";
/// What follows a layer's name in that of its B.
pub const B: &str = ".lora_B.weight";
/// What follows a layer's name in that of its scaling.
pub const SCALING: &str = ".lora_scaling";

/// The adapter of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// The layer's name.
    pub layer: String,
    /// What is between A and B.
    pub rank: usize,
    /// The factor of the product.
    pub scaling: f32,
    /// rank × inputs, or rank × channels × kernel.
    pub a: Tensor,
    /// outputs × rank, with as many sizes of 1 as the kernel has axes behind.
    pub b: Tensor,
}

impl Adapter {
    /// The adapter of `layer`, checked.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] if A and B are no float32 tensors that fit each other, or the scaling is not finite.
    pub fn new(layer: &str, a: Tensor, b: Tensor, scaling: f32) -> Result<Self, ModelError> {
        let refuse = |suffix: &str, message: String| {
            Err(ModelError::new(
                ErrorKind::Shape,
                format!("tensor `{layer}{suffix}`"),
                message,
            ))
        };
        for (suffix, tensor) in [(A, &a), (B, &b)] {
            if tensor.dtype() != DType::FLOAT {
                return refuse(suffix, format!("is {}; an adapter is float32", tensor.dtype()));
            }
        }
        let (rank, fits) = match (a.shape(), b.shape()) {
            ([rank, _, kernel @ ..], [_, columns, ones @ ..]) => (
                *rank,
                rank == columns && kernel.len() == ones.len() && ones.iter().all(|&size| size == 1),
            ),
            _ => (0, false),
        };
        if !fits || rank == 0 {
            let message = format!(
                "has shape {:?} where A has {:?}; they are outputs × rank (× 1 …) and rank × inputs (× kernel)",
                b.shape(),
                a.shape()
            );
            return refuse(B, message);
        }
        if !scaling.is_finite() {
            return refuse(SCALING, format!("is {scaling}; it has to be finite"));
        }
        Ok(Self {
            layer: layer.to_owned(),
            rank,
            scaling,
            a,
            b,
        })
    }

    /// Elements of A and B: the parameters that fine-tuning trains.
    pub fn parameters(&self) -> usize {
        self.a.len() + self.b.len()
    }
}

/// Whether an initializer of this name is an adapter's A or B.
pub fn is_adapter(tensor: &str) -> bool {
    tensor.ends_with(A) || tensor.ends_with(B)
}

/// What training code calls the layer of a weight that `node` reads, `node` being what people call it. Exporters name a
/// weight after its module, or, where they change it, the node by the module's path: `/encoder/layer.0/query/MatMul`.
pub fn layer_name(weight: &str, node: &str) -> String {
    if let Some(module) = weight.strip_suffix(".weight").filter(|module| !module.is_empty()) {
        return module.to_owned();
    }
    let mut path: Vec<&str> = node.split('/').filter(|part| !part.is_empty()).collect();
    if path.len() > 1 {
        path.pop();
    }
    if path.is_empty() {
        weight.to_owned()
    } else {
        path.join(".")
    }
}

/// The adapters of a graph, in the order of its initializers.
///
/// # Errors
/// [`ErrorKind::Name`] for an A without its B or the other way round; as [`Adapter::new`].
pub fn adapters(graph: &Graph) -> Result<Vec<Adapter>, ModelError> {
    let mut found = Vec::new();
    for name in graph.initializers.keys() {
        let (layer, other) = match (name.strip_suffix(A), name.strip_suffix(B)) {
            (Some(layer), _) => (layer, B),
            (_, Some(layer)) => (layer, A),
            _ => continue,
        };
        let tensor = |suffix: &str| graph.tensor(&format!("{layer}{suffix}"));
        if tensor(other).is_none() {
            return Err(ModelError::new(
                ErrorKind::Name,
                format!("tensor `{name}`"),
                format!("is half of an adapter: there is no `{layer}{other}`"),
            ));
        }
        if let (B, Some(a), Some(b)) = (other, tensor(A), tensor(B)) {
            let scaling = match tensor(SCALING) {
                Some(scaling) => scaling.to_f32()?.first().copied().unwrap_or(1.0),
                None => 1.0,
            };
            found.push(Adapter::new(layer, (**a).clone(), (**b).clone(), scaling)?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(tensors: &[(&str, &[usize])]) -> Graph {
        let mut graph = Graph::new("test");
        for (name, shape) in tensors {
            let tensor = Tensor::from_vec(shape.to_vec(), vec![0.5_f32; shape.iter().product()]);
            graph.initializers.insert((*name).into(), tensor.into());
        }
        graph
    }

    #[test]
    fn adapters_are_found_by_name() {
        let found = adapters(&graph(&[
            ("conv.lora_B.weight", &[8, 2, 1, 1]),
            ("other", &[3]),
            ("conv.lora_A.weight", &[2, 4, 3, 3]),
            ("fc.lora_A.weight", &[3, 5]),
            ("fc.lora_scaling", &[]),
            ("fc.lora_B.weight", &[7, 3]),
        ]));
        let found = found.unwrap();
        let told: Vec<_> = found
            .iter()
            .map(|a| (a.layer.as_str(), a.rank, a.scaling, a.parameters()))
            .collect();
        assert_eq!(told, [("conv", 2, 1.0, 72 + 16), ("fc", 3, 0.5, 15 + 21)]);
        assert!(is_adapter("fc.lora_A.weight") && !is_adapter("fc.lora_scaling"));
    }

    #[test]
    fn names_come_from_weights_or_paths() {
        assert_eq!(layer_name("layer1.0.conv1.weight", "/x/Conv"), "layer1.0.conv1");
        assert_eq!(
            layer_name("onnx::MatMul_7", "/encoder/layer.0/query/MatMul"),
            "encoder.layer.0.query"
        );
        assert_eq!(layer_name("w", "product"), "product");
        assert_eq!(layer_name("w", "/"), "w");
    }

    #[test]
    fn halves_and_misfits_are_refused() {
        let refused = |tensors| adapters(&graph(tensors)).unwrap_err().to_string();
        assert_eq!(
            refused(&[("fc.lora_B.weight", &[7, 3])]),
            "tensor `fc.lora_B.weight`: is half of an adapter: there is no `fc.lora_A.weight`"
        );
        let misfit = refused(&[("fc.lora_A.weight", &[3, 5]), ("fc.lora_B.weight", &[7, 2])]);
        assert!(
            misfit.starts_with("tensor `fc.lora_B.weight`: has shape [7, 2] where A has [3, 5]"),
            "{misfit}"
        );
        let integers = Tensor::from_vec(vec![1, 1], vec![1_i64]);
        let floats = Tensor::from_vec(vec![1, 1], vec![1.0_f32]);
        let wrong = Adapter::new("fc", integers, floats.clone(), 1.0).unwrap_err();
        assert!(wrong.to_string().contains("is int64; an adapter is float32"), "{wrong}");
        let wrong = Adapter::new("fc", floats.clone(), floats, f32::NAN).unwrap_err();
        assert!(wrong.to_string().contains("`fc.lora_scaling`: is NaN"), "{wrong}");
    }
}
