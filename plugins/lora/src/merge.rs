//! Adapters that go into the weights.

use kmr_sdk::{
    Result,
    model::{Edit, Graph, GraphIndex, Tensor, adapters::Adapter, stored::initializer_of},
};

use crate::{
    adapter::added,
    compression::finite,
    integers::Integers,
    layers::{Layer, Stored},
};

/// Refuses a weight that an adapter cannot be merged into.
///
/// # Errors
/// Names the tensor and the way out.
pub fn check(graph: &Graph, index: &GraphIndex<'_>, layer: &Layer) -> Result<()> {
    match real(graph, index, layer) {
        Some(_) => Ok(()),
        None => Integers::of(graph, layer).map(|_| ()),
    }
}

/// The initializer of real numbers that the weight is: of float32, or of 16 bits that one Cast alone reads.
fn real<'g>(graph: &'g Graph, index: &GraphIndex<'_>, layer: &Layer) -> Option<(&'g str, &'g Tensor)> {
    let (name, tensor) = initializer_of(graph, index, &layer.weight)?;
    let own = match layer.stored {
        Stored::Float => true,
        Stored::Made { .. } => index.sole_consumer(name).is_some(),
    };
    own.then_some((name, tensor))
}

/// A weight with its adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// The initializer that changes.
    pub name: String,
    /// What it becomes.
    pub tensor: Tensor,
    /// Of a weight stored as integers: how many of its codes are others now.
    pub changed: Option<usize>,
}

impl Merged {
    /// The edit that stores it.
    pub fn edit(self) -> Edit {
        Edit::StoreTensor {
            name: self.name,
            tensor: self.tensor,
        }
    }
}

/// Adds scaling · B A to a weight: to W itself where it is stored as real numbers, rounded to their type; else the sum's
/// nearest codes on the same grid are taken.
///
/// # Errors
/// As [`check`]; if a number is not finite.
pub fn merged(graph: &Graph, index: &GraphIndex<'_>, layer: &Layer, adapter: &Adapter) -> Result<Merged> {
    let added = added(layer, adapter)?;
    let sum = |values: &[f32]| -> Vec<f32> { values.iter().zip(&added).map(|(value, added)| value + added).collect() };
    if let Some((name, tensor)) = real(graph, index, layer) {
        let tensor = tensor.with_f32(sum(&finite(tensor, name)?))?;
        finite(&tensor, name)?;
        return Ok(Merged {
            name: name.to_owned(),
            tensor,
            changed: None,
        });
    }
    let integers = Integers::of(graph, layer)?;
    let (tensor, changed) = integers.rounded(&sum(&integers.values()), &layer.shape)?;
    Ok(Merged {
        name: integers.tensor,
        tensor,
        changed: Some(changed),
    })
}

#[cfg(test)]
mod tests {
    use kmr_sdk::model::{DType, Model, Patch};
    use kmr_testkit::halved;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        adapter::{Scaling, of_factors},
        layers::layers,
        nodes::Adding,
        testing::{convolutions, evaluate, feeds, noise, packed, perceptron, quantized},
    };
    use kmr_methods::low_rank::Factors;

    fn adapters(model: &Model, rank: usize, scaling: Scaling, seed: u64) -> Vec<(Layer, Adapter)> {
        let found = layers(model).unwrap().into_iter().enumerate();
        let adapters = found.map(|(at, layer)| {
            let seed = seed.wrapping_add(at as u64);
            let factors = Factors {
                rank,
                left: noise(layer.rows() * rank, seed),
                right: noise(rank * layer.columns(), seed ^ 77),
            };
            let adapter = of_factors(&layer, factors, scaling).unwrap();
            (layer, adapter)
        });
        adapters.collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn merged_weights_and_nodes_give_the_same(
            rank in 1_usize..5, seed: u64, alpha in prop::option::of(0.5_f64..32.0), stabilized: bool, images: bool,
        ) {
            let model = if images { convolutions() } else { perceptron() };
            let adapters = adapters(&model, rank, Scaling { alpha, stabilized }, seed);
            let index = model.graph.index();
            let mut adding = Adding::to(&model.graph);
            let mut patch = Patch::new();
            for (layer, adapter) in &adapters {
                adding.adapter(layer, adapter).unwrap();
                patch.push(merged(&model.graph, &index, layer, adapter).unwrap().edit());
            }
            let with_nodes = adding.finish().apply(&model.graph).unwrap();
            let in_weights = patch.apply(&model.graph).unwrap();
            let feeds = feeds(&model, 3, seed ^ 5);
            let outputs: Vec<&str> = model.graph.outputs.iter().map(|output| output.name()).collect();
            let before = evaluate(&model.graph, &feeds, &outputs);
            let nodes = evaluate(&with_nodes, &feeds, &outputs);
            let merged = evaluate(&in_weights, &feeds, &outputs);
            for ((nodes, merged), before) in nodes.iter().zip(&merged).zip(&before) {
                prop_assert_eq!(&nodes.shape, &before.shape);
                let size = nodes.values.iter().fold(1.0_f64, |most, value| most.max(value.abs()));
                for (nodes, merged) in nodes.values.iter().zip(&merged.values) {
                    prop_assert!((nodes - merged).abs() < 1e-4 * size, "{} {}", nodes, merged);
                }
                prop_assert!(nodes.values != before.values);
            }
        }
    }

    #[test]
    fn weights_of_16_bits_stay_so() {
        let model = perceptron();
        let model = model.with_graph(halved(&model.graph, |name| name == "matrix"));
        let (layer, adapter) = adapters(&model, 2, Scaling::default(), 5).remove(1);
        assert_eq!(layer.weight, "matrix");
        check(&model.graph, &model.graph.index(), &layer).unwrap();
        let merged = merged(&model.graph, &model.graph.index(), &layer, &adapter).unwrap();
        assert_eq!(
            (&*merged.name, merged.tensor.dtype()),
            ("matrix_stored", DType::BFLOAT16)
        );
        let before = model
            .graph
            .tensor("matrix_stored")
            .unwrap()
            .to_f32()
            .unwrap()
            .into_owned();
        let wanted = before
            .iter()
            .zip(added(&layer, &adapter).unwrap())
            .map(|(value, added)| value + added);
        for (wanted, made) in wanted.zip(merged.tensor.to_f32().unwrap().iter()) {
            assert!((wanted - made).abs() <= wanted.abs() / 256.0, "{wanted} is not {made}");
        }
        // Another Cast of it would see the adapter, too.
        let mut shared = model.graph.clone();
        let other = kmr_sdk::model::Node::new("Cast", "", &["matrix_stored"], &["other"]).with_int("to", 1);
        shared.nodes.insert(0, other.into());
        assert!(check(&shared, &shared.index(), &layer).is_err());
    }

    #[test]
    fn integers_are_rounded_to_their_grid() {
        let model = quantized(&perceptron(), &["matrix"], 8);
        let (layer, adapter) = adapters(
            &model,
            1,
            Scaling {
                alpha: Some(0.05),
                stabilized: false,
            },
            3,
        )
        .remove(1);
        let graph = {
            let mut patch = Patch::new();
            let merged = merged(&model.graph, &model.graph.index(), &layer, &adapter).unwrap();
            assert!(merged.changed.is_some_and(|changed| changed > 0));
            patch.push(merged.edit());
            patch.apply(&model.graph).unwrap()
        };
        let value = |graph: &Graph| evaluate(graph, &[], &["matrix"]).remove(0).values;
        let scales = model
            .graph
            .tensor("matrix_scale")
            .unwrap()
            .to_f32()
            .unwrap()
            .into_owned();
        let wanted = value(&model.graph).into_iter().zip(added(&layer, &adapter).unwrap());
        for (at, ((before, added), after)) in wanted.zip(value(&graph)).enumerate() {
            let step = f64::from(scales[at % 4]);
            let off = (before + f64::from(added) - after).abs();
            assert!(
                off <= 0.501 * step || after.abs() >= 126.9 * step,
                "{before} + {added} is not {after}"
            );
        }
    }

    #[test]
    fn a_weight_of_another_form_is_refused_by_name() {
        let model = packed(&perceptron(), "matrix");
        let layer = layers(&model).unwrap().remove(1);
        let error = check(&model.graph, &model.graph.index(), &layer)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(
                "tensor `matrix`: is made by a Mul and not by a DequantizeLinear, so an adapter cannot be"
            ) && error.contains("keep = \"nodes\""),
            "{error}"
        );
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        let model = perceptron();
        let (layer, mut adapter) = adapters(&model, 1, Scaling::default(), 3).remove(0);
        adapter.a = Tensor::from_vec(adapter.a.shape().to_vec(), vec![f32::INFINITY; adapter.a.len()]);
        let error = merged(&model.graph, &model.graph.index(), &layer, &adapter)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("adapter of `first`: has grown beyond all numbers"),
            "{error}"
        );
    }
}
