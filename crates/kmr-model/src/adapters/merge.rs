//! Adapters that go into the weights of a model.

use super::{Adapter, layer_name};
use crate::{Edit, ErrorKind, Graph, ModelError, Patch, weights::weights};

/// The graph with W + scaling · B A in place of each weight W that an adapter names, added up in float64 and stored
/// in the type of W.
///
/// # Errors
/// [`ErrorKind::Name`] for an adapter of a layer that the graph does not have with a weight of real numbers,
/// [`ErrorKind::Shape`] if it does not fit the weight: the layer and the shapes are named.
pub fn merge(graph: &Graph, adapters: &[Adapter]) -> Result<Graph, ModelError> {
    let weights = weights(graph);
    let mut patch = Patch::new();
    for adapter in adapters {
        let place = || format!("layer `{}`", adapter.layer);
        let weight = weights
            .iter()
            .find(|weight| layer_name(&weight.tensor, weight.label()) == adapter.layer);
        let weight = weight.ok_or_else(|| {
            let error = ModelError::new(
                ErrorKind::Name,
                place(),
                "has an adapter, and the model has no such weight",
            );
            let names: Vec<String> = weights
                .iter()
                .map(|weight| layer_name(&weight.tensor, weight.label()))
                .collect();
            error.with_help(match names.is_empty() {
                true => "the model has no weights of real numbers; merge before it is quantized".into(),
                false => format!("its layers are {}", names.join(", ")),
            })
        })?;
        let stored = graph.tensor(&weight.tensor).filter(|stored| stored.dtype().is_float());
        let stored =
            stored.ok_or_else(|| ModelError::new(ErrorKind::Shape, place(), "has no weight of real numbers"))?;
        let grouped = weight.readers.iter().any(|reader| reader.groups > 1);
        let turned = weight.output_axis != 0;
        let (a, b) = (adapter.a.shape(), adapter.b.shape());
        let expected = match (turned, weight.shape.as_slice()) {
            (true, [inputs, outputs]) => Some(vec![*outputs, *inputs]),
            (false, shape) => Some(shape.to_vec()),
            _ => None,
        };
        let fits = expected
            .as_deref()
            .is_some_and(|shape| shape[0] == b[0] && shape[1..] == a[1..]);
        if !fits || grouped {
            let given = [&b[..1], &a[1..]].concat();
            let message = format!(
                "has an adapter for a weight of shape {given:?}; the weight `{}` has {:?}{}",
                weight.tensor,
                expected.unwrap_or_else(|| weight.shape.clone()),
                if grouped { " in groups" } else { "" }
            );
            return Err(ModelError::new(ErrorKind::Shape, place(), message)
                .with_help("take the adapters of this model, or the model of these adapters"));
        }
        let product = product(adapter, b[0])?;
        let (rows, columns) = (b[0], product.len() / b[0].max(1));
        let place_of = |at: usize| if turned { at % rows * columns + at / rows } else { at };
        let values = stored.to_f32()?;
        let sums = values
            .iter()
            .enumerate()
            .map(|(at, &value)| (f64::from(value) + product[place_of(at)]) as f32);
        patch.push(Edit::StoreTensor {
            name: weight.tensor.clone(),
            tensor: stored.with_f32(sums.collect())?,
        });
    }
    patch.apply(graph)
}

/// scaling · B A, rows × columns.
fn product(adapter: &Adapter, rows: usize) -> Result<Vec<f64>, ModelError> {
    let (a, b) = (adapter.a.to_f32()?, adapter.b.to_f32()?);
    let columns = a.len() / adapter.rank.max(1);
    let mut product = vec![0.0; rows * columns];
    for (sums, factors) in product.chunks_mut(columns.max(1)).zip(b.chunks(adapter.rank.max(1))) {
        for (&factor, row) in factors.iter().zip(a.chunks(columns.max(1))) {
            let factor = f64::from(factor) * f64::from(adapter.scaling);
            sums.iter_mut()
                .zip(row)
                .for_each(|(sum, &value)| *sum += factor * f64::from(value));
        }
    }
    Ok(product)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{DType, Dimension, Node, Tensor, ValueInfo};

    fn graph() -> Graph {
        let mut graph = Graph::new("test");
        graph.inputs = vec![ValueInfo::tensor(
            "x",
            DType::FLOAT,
            &[Dimension::Unknown, Dimension::Fixed(2)],
        )];
        graph.outputs = vec![ValueInfo::untyped("y")];
        for (name, shape) in [("fc.weight", [3, 2]), ("matrix", [3, 2])] {
            graph
                .initializers
                .insert(name.into(), Tensor::from_vec(shape.to_vec(), vec![1.0_f32; 6]).into());
        }
        graph.nodes = vec![
            Arc::new(Node::new("Gemm", "", &["x", "fc.weight"], &["h"]).with_int("transB", 1)),
            Arc::new(Node::new("MatMul", "/out/MatMul", &["h", "matrix"], &["y"])),
        ];
        graph
    }

    fn adapter(layer: &str, inputs: usize, outputs: usize) -> Adapter {
        let values = |count: usize| (0..count).map(|at| at as f32).collect();
        let a = Tensor::from_vec(vec![1, inputs], values(inputs));
        let b = Tensor::from_vec(vec![outputs, 1], values(outputs));
        Adapter::new(layer, a, b, 0.5).unwrap()
    }

    #[test]
    fn weights_lie_either_way() {
        let merged = merge(&graph(), &[adapter("fc", 2, 3), adapter("out", 3, 2)]).unwrap();
        let values = |name: &str| merged.tensor(name).unwrap().to_f32().unwrap().into_owned();
        assert_eq!(values("fc.weight"), [1.0, 1.0, 1.0, 1.5, 1.0, 2.0]);
        assert_eq!(values("matrix"), [1.0, 1.0, 1.0, 1.5, 1.0, 2.0]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let error = merge(&graph(), &[adapter("fc", 4, 3)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "layer `fc`: has an adapter for a weight of shape [3, 4]; the weight `fc.weight` has [3, 2]"
        );
        let error = merge(&graph(), &[adapter("fd", 2, 3)]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("layer `fd`: has an adapter, and the model has no such weight")
        );
        assert_eq!(error.help(), Some("its layers are fc, out"));
    }

    #[test]
    fn a_weight_of_16_bits_stays_one() {
        let mut graph = graph();
        let half = Tensor::from_f32(DType::BFLOAT16, vec![3, 2], vec![1.0; 6]).unwrap();
        graph.initializers.insert("fc.weight".into(), half.into());
        let adapter = Adapter {
            layer: "fc".into(),
            rank: 1,
            a: Tensor::from_vec(vec![1, 2], vec![1.0_f32; 2]),
            b: Tensor::from_vec(vec![3, 1], vec![1.0_f32; 3]),
            scaling: 0.5,
        };
        let merged = merge(&graph, &[adapter]).unwrap();
        let tensor = merged.tensor("fc.weight").unwrap();
        assert_eq!(tensor.dtype(), DType::BFLOAT16);
        assert_eq!(*tensor.to_f32().unwrap(), [1.5_f32; 6]);
    }
}
