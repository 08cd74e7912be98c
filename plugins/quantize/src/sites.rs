//! Values whose channels can be divided by factors where they are made, and multiplied by them where they are read.

use std::collections::{BTreeMap, HashMap};

use kmr_sdk::{
    Result,
    model::{Graph, GraphIndex, Node, Patch, weights},
};

use crate::values::{finite, inner, own_stored, stored_bits, with_values};

/// A value with channels along its last axis that matrix products alone read.
pub struct Site {
    /// The value.
    pub value: String,
    /// Its channels.
    pub channels: usize,
    /// Tensors that the value is proportional to, channel by channel, with the axis of channels.
    pub makers: Vec<(String, usize)>,
    /// The weights that it is multiplied with.
    pub readers: Vec<weights::Weight>,
}

/// What may make the value of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Makers {
    /// A layer normalization or a root mean square normalization, also as exporters write them: a product with a stored
    /// factor, maybe with a stored shift.
    Normalizations,
    /// These, and products with another value whose rows are those of a layer, as in a gated feed-forward part.
    NormalizationsAndGates,
}

/// The sites of `graph`, in its order.
pub fn sites(graph: &Graph, makers: Makers) -> Vec<Site> {
    let index = graph.index();
    let weights: HashMap<String, weights::Weight> = weights::weights(graph)
        .into_iter()
        .filter(|weight| {
            let real = stored_bits(graph, &index, &weight.tensor).is_some();
            real && weight.shape.len() == 2 && weight.readers.len() == 1
        })
        .map(|weight| (weight.readers[0].node.clone(), weight))
        .collect();
    let finder = Finder { graph, index, weights };
    let nodes = graph.nodes.iter();
    nodes
        .filter_map(|node| {
            let (made_of, channels) = finder.normalization(node).or_else(|| match makers {
                Makers::Normalizations => None,
                Makers::NormalizationsAndGates => finder.gate(node),
            })?;
            let readers = finder.readers(node.id(), channels)?;
            Some(Site {
                value: node.id().to_owned(),
                channels,
                makers: made_of,
                readers,
            })
        })
        .collect()
}

/// Edits that divide the value of each site by its factors and multiply its readers. The model computes the same, but for
/// the rounding of tensors of 16 bits to their type.
///
/// # Errors
/// If a tensor is not finite.
pub fn patch(graph: &Graph, sites: &[(&Site, Vec<f32>)]) -> Result<Patch> {
    // A layer may read one site and make another.
    let mut tensors: BTreeMap<&str, Vec<f32>> = BTreeMap::new();
    for (site, factors) in sites {
        let readers = site
            .readers
            .iter()
            .map(|weight| (weight.tensor.as_str(), weight.input_axis, true));
        let makers = site.makers.iter().map(|(name, axis)| (name.as_str(), *axis, false));
        for (name, axis, multiplied) in makers.chain(readers) {
            let after = inner(graph, name, axis);
            let values = match tensors.remove(name) {
                Some(values) => values,
                None => finite(graph, name)?,
            };
            let scaled = values.iter().enumerate().map(|(at, value)| {
                let factor = factors[at / after % site.channels];
                if multiplied { value * factor } else { value / factor }
            });
            tensors.insert(name, scaled.collect());
        }
    }
    let mut patch = Patch::new();
    for (name, values) in tensors {
        patch.push(with_values(graph, name, values)?);
    }
    Ok(patch)
}

/// What the value is made of, and its channels.
type Made = (Vec<(String, usize)>, usize);

struct Finder<'g> {
    graph: &'g Graph,
    index: GraphIndex<'g>,
    /// Matrices of their own, by the product that reads each.
    weights: HashMap<String, weights::Weight>,
}

impl Finder<'_> {
    /// The vector that `value` is, and its length, if one node alone reads it.
    fn vector(&self, value: &str) -> Option<(String, usize)> {
        let (name, tensor) = own_stored(self.graph, &self.index, value)?;
        (tensor.shape().len() == 1).then(|| (name.to_owned(), tensor.len()))
    }

    /// The vector that `node` has as one of two inputs, and the other input.
    fn operand<'n>(&self, node: &'n Node) -> Option<((String, usize), &'n str)> {
        let (a, b) = (node.input(0)?, node.input(1)?);
        match self.vector(a) {
            Some(vector) => Some((vector, b)),
            None => Some((self.vector(b)?, a)),
        }
    }

    fn normalization(&self, node: &Node) -> Option<Made> {
        if !node.domain().is_empty() {
            return None;
        }
        match node.op_type() {
            "LayerNormalization" | "RMSNormalization" | "SimplifiedLayerNormalization" => {
                let (factor, channels) = self.vector(node.input(1)?)?;
                let shift = match node.input(2) {
                    Some(name) => Some(self.vector(name)?),
                    None => None,
                };
                let shift = shift.into_iter().map(|(name, _)| (name, 0));
                Some(([(factor, 0)].into_iter().chain(shift).collect(), channels))
            }
            "Mul" => {
                let ((factor, channels), _) = self.operand(node)?;
                Some((vec![(factor, 0)], channels))
            }
            "Add" => {
                let ((shift, _), scaled) = self.operand(node)?;
                let scaling = &self.graph.nodes[self.index.producer(scaled)?];
                let alone = self.index.sole_consumer(scaling.id()).is_some();
                let ((factor, channels), _) = self.operand(scaling).filter(|_| scaling.is("Mul") && alone)?;
                Some((vec![(factor, 0), (shift, 0)], channels))
            }
            _ => None,
        }
    }

    /// A product with what a layer makes for this alone.
    fn gate(&self, node: &Node) -> Option<Made> {
        if !node.is("Mul") {
            return None;
        }
        node.inputs().iter().find_map(|operand| {
            self.index.sole_consumer(operand)?;
            let maker = &self.graph.nodes[self.index.producer(operand)?];
            let (product, bias) = match maker.op_type() {
                "Add" => {
                    let (bias, product) = self.operand(maker)?;
                    self.index.sole_consumer(product)?;
                    (&self.graph.nodes[self.index.producer(product)?], Some(bias))
                }
                "Gemm" => match maker.input(2) {
                    Some(bias) => (maker, Some(self.vector(bias)?)),
                    None => (maker, None),
                },
                _ => (maker, None),
            };
            let weight = self.weights.get(product.id())?;
            let channels = weight.shape[weight.output_axis];
            let bias = bias.into_iter().map(|(name, _)| (name, 0));
            let made_of = [(weight.tensor.clone(), weight.output_axis)].into_iter().chain(bias);
            Some((made_of.collect(), channels))
        })
    }

    /// The weights of the products that read `value`, if nobody else does.
    fn readers(&self, value: &str, channels: usize) -> Option<Vec<weights::Weight>> {
        let readers = self.index.consumers(value);
        if readers.is_empty() || !self.index.is_inner(value) {
            return None;
        }
        let weights = readers.iter().map(|&(reader, slot)| {
            let weight = self.weights.get(self.graph.nodes[reader].id())?;
            (slot == 0 && weight.shape[weight.input_axis] == channels).then(|| weight.clone())
        });
        weights.collect()
    }
}

#[cfg(test)]
mod tests {
    use kmr_sdk::model::Tensor;
    use kmr_testkit::halved;

    use super::*;
    use crate::testing::{answer, apart, graph, node, numbers, tensor};

    const WIDTH: usize = 6;
    const INNER: usize = 10;

    /// The gated feed-forward part of a decoder, with a root mean square normalization in single nodes, a product with a
    /// matrix of a row for each output and one with a turned matrix.
    fn gated() -> Graph {
        let positive = |count: usize| numbers(count).iter().map(|value| value.abs() + 0.5).collect();
        let initializers = [
            ("scale", Tensor::from_vec(vec![WIDTH], positive(WIDTH))),
            ("shift", tensor(&[WIDTH])),
            ("gate.weight", tensor(&[INNER, WIDTH])),
            ("up.weight", tensor(&[WIDTH, INNER])),
            ("up.bias", tensor(&[INNER])),
            ("down.weight", tensor(&[INNER, WIDTH])),
        ];
        let nodes = vec![
            node("LayerNormalization", &["x", "scale", "shift"], "norm"),
            node("Gemm", &["norm", "gate.weight"], "gate").with_int("transB", 1),
            node("Sigmoid", &["gate"], "open"),
            node("MatMul", &["norm", "up.weight"], "product"),
            node("Add", &["product", "up.bias"], "up"),
            node("Mul", &["open", "up"], "inside"),
            node("Transpose", &["down.weight"], "turned").with_ints("perm", &[1, 0]),
            node("Transpose", &["turned"], "back").with_ints("perm", &[1, 0]),
            node("MatMul", &["inside", "back"], "y"),
        ];
        graph(&[4, WIDTH], &initializers, nodes)
    }

    #[test]
    fn normalizations_and_gates_are_sites() {
        let graph = gated();
        let told = |makers| -> Vec<(String, usize, usize, usize)> {
            let found = sites(&graph, makers).into_iter();
            found
                .map(|site| (site.value, site.channels, site.makers.len(), site.readers.len()))
                .collect()
        };
        assert_eq!(told(Makers::Normalizations), [("norm".into(), WIDTH, 2, 2)]);
        let both = [("norm".into(), WIDTH, 2, 2), ("inside".into(), INNER, 2, 1)];
        assert_eq!(told(Makers::NormalizationsAndGates), both);
    }

    #[test]
    fn weights_of_16_bits_are_sites_and_stay_so() {
        let graph = halved(&gated(), |_| true);
        let found = sites(&graph, Makers::NormalizationsAndGates);
        let told = found
            .iter()
            .map(|site| (site.value.as_str(), site.channels, site.makers.len()));
        assert_eq!(told.collect::<Vec<_>>(), [("norm", WIDTH, 2), ("inside", INNER, 2)]);
        let moved = |power: fn(f32) -> f32| {
            let factors = |site: &Site| numbers(site.channels).into_iter().map(power).collect::<Vec<f32>>();
            let moved: Vec<(&Site, Vec<f32>)> = found.iter().map(|site| (site, factors(site))).collect();
            let moved = patch(&graph, &moved).unwrap().apply(&graph).unwrap();
            let name = "up.weight_stored";
            let (before, after) = (graph.tensor(name).unwrap(), moved.tensor(name).unwrap());
            assert_eq!((before.dtype(), before.shape()), (after.dtype(), after.shape()));
            assert_ne!(before.bytes(), after.bytes());
            let x = tensor(&[4, WIDTH]);
            apart(&answer(&graph, &x), &answer(&moved, &x))
        };
        // Powers of two change no digit; other factors are rounded as bfloat16 is.
        assert!(moved(|value| (3.0 * value).round().exp2()) < 1e-5);
        assert!(moved(|value| (3.0 * value).exp2()) < 0.05);
    }

    #[test]
    fn factors_change_nothing_but_the_numbers() {
        let graph = gated();
        let found = sites(&graph, Makers::NormalizationsAndGates);
        let factors = found.iter().map(|site| {
            let factors = numbers(site.channels)
                .iter()
                .map(|value| 2.0_f32.powf(3.0 * value))
                .collect();
            (site, factors)
        });
        let moved = patch(&graph, &factors.collect::<Vec<_>>())
            .unwrap()
            .apply(&graph)
            .unwrap();
        assert_ne!(moved.tensor("up.weight"), graph.tensor("up.weight"));
        let x = tensor(&[4, WIDTH]);
        assert!(apart(&answer(&graph, &x), &answer(&moved, &x)) < 1e-5);
    }

    #[test]
    fn what_others_read_too_is_no_site() {
        let mut graph = gated();
        graph.nodes.push(node("Relu", &["norm"], "other").into());
        let found = sites(&graph, Makers::NormalizationsAndGates);
        let values: Vec<&str> = found.iter().map(|site| site.value.as_str()).collect();
        assert_eq!(values, ["inside"]);
    }
}
