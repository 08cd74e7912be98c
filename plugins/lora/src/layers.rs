//! The layers that can have an adapter: Gemm and MatMul with a constant matrix, Conv without groups.
//!
//! A weight is an initializer of float32, or a float32 value that nodes make from initializers alone, as quantized
//! weights are. It may be read several times in the same way: then its adapter is.

use std::collections::{HashMap, HashSet};

use kmr_sdk::model::{
    DType, Graph, GraphIndex, Model, ModelError, Node,
    adapters::{A, B, layer_name},
    shapes::{self, Shapes},
};

/// How a layer reads its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A Gemm; whether its weight lies outputs × inputs.
    Gemm {
        /// `transB`.
        transposed: bool,
    },
    /// A MatMul, whose weight lies inputs × outputs.
    MatMul,
    /// A Conv.
    Conv,
}

/// Where a weight comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// An initializer of float32.
    Float,
    /// A node, whose id is the weight's name, from initializers.
    Made {
        /// Its operator.
        by: String,
    },
}

/// A layer: one weight with all nodes that read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// What training code calls it: the weight without `.weight`, or the path of the first node.
    pub name: String,
    /// The weight's value, which is the target's id.
    pub weight: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// How it is read.
    pub kind: Kind,
    /// Where it comes from.
    pub stored: Stored,
    /// The ids of the nodes that read it, in the order of the graph.
    pub nodes: Vec<String>,
    /// The values that it multiplies, one for each of the nodes.
    pub inputs: Vec<String>,
}

impl Layer {
    /// Whether the weight lies inputs × outputs.
    pub fn turned(&self) -> bool {
        matches!(self.kind, Kind::MatMul | Kind::Gemm { transposed: false })
    }

    /// Outputs: rows of the matrix.
    pub fn rows(&self) -> usize {
        self.shape[usize::from(self.turned())]
    }

    /// Inputs, of a convolution times the elements of its kernel: columns of the matrix.
    pub fn columns(&self) -> usize {
        self.shape.iter().product::<usize>() / self.rows().max(1)
    }

    /// Inputs, of a convolution its channels.
    pub fn channels(&self) -> usize {
        self.shape[usize::from(!self.turned())]
    }

    /// The axes of a convolution's kernel; empty for a matrix.
    pub fn kernel(&self) -> &[usize] {
        &self.shape[2..]
    }

    /// The greatest rank that means anything.
    pub fn most(&self) -> usize {
        self.rows().min(self.columns())
    }

    /// Parameters of an adapter for each unit of rank.
    pub fn cost(&self) -> usize {
        self.rows() + self.columns()
    }

    /// What it may be called in patterns.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let own = [self.name.as_str(), self.weight.as_str()];
        own.into_iter().chain(self.nodes.iter().map(String::as_str))
    }

    /// Values of the weight as rows × columns, or back.
    pub fn turn(&self, values: &[f32], to_matrix: bool) -> Vec<f32> {
        if !self.turned() {
            return values.to_vec();
        }
        let (rows, columns) = (self.rows(), self.columns());
        let width = if to_matrix { rows } else { columns };
        let height = values.len() / width.max(1);
        let element = |at: usize| values[at % height * width + at / height];
        (0..values.len()).map(element).collect()
    }
}

/// The layers of `model`, in the order in which nodes first read them, and why others have none. Layers that have an
/// adapter already are left out.
///
/// # Errors
/// If shapes contradict each other.
pub fn layers(model: &Model) -> Result<Vec<Layer>, ModelError> {
    let graph = &model.graph;
    let shapes = shapes::infer(model, &shapes::default_feeds(model))?;
    let index = graph.index();
    let made = made(graph);
    let mut found: Vec<Layer> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for node in &graph.nodes {
        let Some(layer) = layer(graph, node, &made, &shapes) else {
            continue;
        };
        let Some(weight) = node.input(1) else { continue };
        match places.get(weight) {
            Some(&place) => {
                let known = &mut found[place];
                if (known.kind, &known.shape) == (layer.kind, &layer.shape) {
                    known.nodes.extend(layer.nodes);
                    known.inputs.extend(layer.inputs);
                }
            }
            None => {
                places.insert(weight, found.len());
                found.push(layer);
            }
        }
    }
    found.retain(|layer| is_whole(graph, &index, layer));
    let mut names: HashSet<String> = HashSet::new();
    for layer in &mut found {
        let mut count = 1;
        let wanted = layer.name.clone();
        while !names.insert(layer.name.clone()) {
            count += 1;
            layer.name = format!("{wanted}_{count}");
        }
    }
    found.retain(|layer| {
        [A, B]
            .iter()
            .all(|suffix| graph.tensor(&format!("{}{suffix}", layer.name)).is_none())
    });
    Ok(found)
}

/// Whether the layer's nodes are all who read its weight.
fn is_whole(graph: &Graph, index: &GraphIndex<'_>, layer: &Layer) -> bool {
    let is_output = graph.outputs.iter().any(|output| output.name() == layer.weight);
    let fed = graph.inputs.iter().any(|input| input.name() == layer.weight);
    index.consumers(&layer.weight).len() == layer.nodes.len()
        && !index.is_captured(&layer.weight)
        && !is_output
        && (!fed || graph.tensor(&layer.weight).is_some())
}

/// The ids of nodes whose outputs depend on initializers alone.
fn made(graph: &Graph) -> HashSet<&str> {
    let mut constant: HashSet<&str> = HashSet::new();
    for node in &graph.nodes {
        let known = |name: &String| name.is_empty() || constant.contains(name.as_str()) || graph.tensor(name).is_some();
        let adapter = node.inputs().iter().any(|name| name.ends_with(A) || name.ends_with(B));
        let constants = node.is("Constant") || !node.inputs().is_empty() && node.inputs().iter().all(known);
        if constants && !adapter && !node.has_subgraph() {
            constant.extend(node.outputs().iter().map(String::as_str));
        }
    }
    constant
}

fn layer(graph: &Graph, node: &Node, made: &HashSet<&str>, shapes: &Shapes) -> Option<Layer> {
    let weight = node.input(1)?;
    let kind = match node.op_type() {
        _ if !node.domain().is_empty() => return None,
        "Conv" if node.int("group").unwrap_or(1) == 1 => Kind::Conv,
        "Gemm" if node.int("transA").unwrap_or(0) == 0 && node.float("alpha").unwrap_or(1.0) == 1.0 => Kind::Gemm {
            transposed: node.int("transB").unwrap_or(0) != 0,
        },
        "MatMul" => Kind::MatMul,
        _ => return None,
    };
    let stored = match graph.tensor(weight) {
        Some(tensor) if tensor.dtype() == DType::FLOAT && !weight.ends_with(A) && !weight.ends_with(B) => Stored::Float,
        Some(_) => return None,
        None if made.contains(weight) && shapes.dtype(weight) == Some(DType::FLOAT) => Stored::Made {
            by: graph.node(weight)?.op_type().to_owned(),
        },
        None => return None,
    };
    let shape = match graph.tensor(weight) {
        Some(tensor) => tensor.shape().to_vec(),
        None => shapes.shape(weight)?.to_vec(),
    };
    let fits = match kind {
        Kind::Conv => shape.len() >= 3,
        _ => shape.len() == 2,
    };
    (fits && !shape.contains(&0)).then(|| Layer {
        name: layer_name(weight, node.label()),
        weight: weight.to_owned(),
        shape,
        kind,
        stored,
        nodes: vec![node.id().to_owned()],
        inputs: vec![node.input(0).unwrap_or_default().to_owned()],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{convolutions, perceptron, quantized};

    #[test]
    fn layers_are_found_with_their_names() {
        let found = layers(&perceptron()).unwrap();
        let told: Vec<_> = found
            .iter()
            .map(|layer| (layer.name.as_str(), layer.rows(), layer.columns()))
            .collect();
        assert_eq!(told, [("first", 6, 5), ("block.second", 4, 6), ("third", 3, 4)]);
        assert!(!found[0].turned() && found[1].turned() && found[2].turned());
        let found = layers(&convolutions()).unwrap();
        let told: Vec<_> = found
            .iter()
            .map(|layer| (layer.name.as_str(), layer.rows(), layer.columns()))
            .collect();
        assert_eq!(told, [("stem", 4, 18), ("head", 3, 4)]);
    }

    #[test]
    fn a_weight_that_nodes_make_is_one() {
        let found = layers(&quantized(&perceptron(), &["first.weight", "matrix"], 4)).unwrap();
        let made = Stored::Made {
            by: "DequantizeLinear".into(),
        };
        assert_eq!(
            (&found[0].stored, &found[1].stored, &found[2].stored),
            (&made, &made, &Stored::Float)
        );
        assert_eq!(found[1].weight, "matrix");
    }

    #[test]
    fn a_matrix_turns_and_turns_back() {
        let layer = &layers(&perceptron()).unwrap()[1];
        let values: Vec<f32> = (0..24_u8).map(f32::from).collect();
        let matrix = layer.turn(&values, true);
        assert_eq!(matrix[..3], [0.0, 4.0, 8.0]);
        assert_eq!(layer.turn(&matrix, false), values);
    }
}
