//! The weights of convolutions and matrix products: where they are and how they lie.

use kmr_sdk::{
    Error, Result,
    model::{Graph, Node, Tensor, codec},
};

/// What reads a weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// The node's id.
    pub node: String,
    /// What people call the node.
    pub label: String,
    /// The value that the weight multiplies.
    pub input: String,
    /// The dimension of `input` that channels lie along; negative counts from the last.
    pub channel_axis: i64,
    /// Groups of a convolution; 1 elsewhere.
    pub groups: usize,
}

/// A weight of a Conv, ConvTranspose, Gemm or MatMul that is an initializer of floating-point numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// The initializer.
    pub tensor: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The axis of its input channels.
    pub input_axis: usize,
    /// The axis of its output channels.
    pub output_axis: usize,
    /// Whether the output axis runs through the groups of a convolution, the input axis lying within one
    /// (Conv), or the other way round (ConvTranspose).
    pub groups_on_output: bool,
    /// The nodes that read it, at least one.
    pub readers: Vec<Reader>,
}

impl Weight {
    /// What people call it: the first node that reads it.
    pub fn label(&self) -> &str {
        &self.readers[0].label
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The channel of a reader's input that the element at this row-major position multiplies.
    pub fn input_channel(&self, reader: &Reader, element: usize) -> usize {
        let within = self.coordinate(element, self.input_axis);
        if reader.groups <= 1 || !self.groups_on_output {
            return within;
        }
        let outputs_per_group = (self.shape[self.output_axis] / reader.groups).max(1);
        let group = self.coordinate(element, self.output_axis) / outputs_per_group;
        group * self.shape[self.input_axis] + within
    }

    /// The position on `axis` of the element at this row-major position.
    pub fn coordinate(&self, element: usize, axis: usize) -> usize {
        element / self.stride(axis) % self.shape[axis].max(1)
    }

    /// Elements between neighbours on `axis`.
    pub fn stride(&self, axis: usize) -> usize {
        self.shape[axis + 1..].iter().product::<usize>().max(1)
    }
}

/// The weights of `graph`, in the order in which nodes first read them. A tensor that nodes read in
/// different ways is left out.
pub fn weights(graph: &Graph) -> Vec<Weight> {
    let index = graph.index();
    let mut found: Vec<Weight> = Vec::new();
    for node in &graph.nodes {
        let Some(weight) = weight_of(graph, node) else {
            continue;
        };
        let known = found.iter_mut().find(|known| known.tensor == weight.tensor);
        match known {
            Some(known) => known.readers.extend(weight.readers),
            None => found.push(weight),
        }
    }
    found.retain(|weight| {
        index.consumers(&weight.tensor).len() == weight.readers.len() && !index.is_captured(&weight.tensor)
    });
    found
}

/// The weight that `node` multiplies with, if it is an operator and a weight of the kind meant here.
pub fn weight_of(graph: &Graph, node: &Node) -> Option<Weight> {
    let tensor = node.input(1)?;
    let initializer = graph.tensor(tensor)?;
    let shape = initializer.shape().to_vec();
    let rank = shape.len();
    if !initializer.dtype().is_float() || rank < 2 {
        return None;
    }
    let (output_axis, input_axis, channel_axis) = match node.op_type() {
        _ if !node.domain().is_empty() => return None,
        "Conv" => (0, 1, 1),
        "ConvTranspose" => (1, 0, 1),
        "Gemm" if node.int("transA").unwrap_or(0) != 0 => return None,
        "Gemm" if node.int("transB").unwrap_or(0) != 0 => (0, 1, -1),
        "Gemm" => (1, 0, -1),
        "MatMul" => (rank - 1, rank - 2, -1),
        _ => return None,
    };
    let groups = if node.op_type().starts_with("Conv") {
        node.int("group").unwrap_or(1)
    } else {
        1
    };
    Some(Weight {
        tensor: tensor.into(),
        shape,
        input_axis,
        output_axis,
        groups_on_output: node.op_type() == "Conv",
        readers: vec![Reader {
            node: node.id().into(),
            label: node.label().into(),
            input: node.input(0)?.into(),
            channel_axis,
            groups: usize::try_from(groups).ok().filter(|&groups| groups > 0)?,
        }],
    })
}

/// The values of initializer `name` as float32, all of them finite.
///
/// # Errors
/// If there is no such initializer, or it holds what is no finite number.
pub fn finite_values(graph: &Graph, name: &str) -> Result<Vec<f32>> {
    let tensor = stored(graph, name)?;
    finite(
        &tensor.ok_or_else(|| Error::not_found("does not exist").at(format!("tensor `{name}`")))?,
        name,
    )
}

/// The tensor that `name` is stored as, in an initializer or a Constant node.
///
/// # Errors
/// If a Constant node's tensor is malformed.
pub fn stored(graph: &Graph, name: &str) -> Result<Option<Tensor>> {
    if let Some(tensor) = graph.tensor(name) {
        return Ok(Some((**tensor).clone()));
    }
    let constant = graph.node(name).filter(|node| node.is("Constant"));
    let message = constant.and_then(|node| node.attribute("value")?.t.as_option());
    Ok(message.map(codec::tensor_from_message).transpose()?)
}

/// The values of `tensor`, called `name`, as float32, all of them finite.
///
/// # Errors
/// If it holds what is no finite number.
pub fn finite(tensor: &Tensor, name: &str) -> Result<Vec<f32>> {
    let place = || format!("tensor `{name}`");
    let values = tensor.to_f32().map_err(|error| Error::from(error).at(place()))?;
    let count = values.iter().filter(|value| !value.is_finite()).count();
    if count > 0 {
        let message = format!(
            "holds {count} values that are NaN or infinite, so that nothing can be ranked by it; \
             export the model again from a checkpoint whose weights are finite"
        );
        return Err(Error::unsupported(message).at(place()));
    }
    Ok(values.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::graph;

    #[test]
    fn a_grouped_convolution_reads_the_channels_of_its_group() {
        let mut graph = graph(&["x"], &["y"]);
        graph
            .initializers
            .insert("w".into(), Tensor::from_vec(vec![4, 2, 1, 1], vec![1.0_f32; 8]).into());
        graph.nodes.push(std::sync::Arc::new(
            Node::new("Conv", "conv", &["x", "w"], &["y"]).with_int("group", 2),
        ));
        let weights = weights(&graph);
        let channels: Vec<_> = (0..8)
            .map(|e| weights[0].input_channel(&weights[0].readers[0], e))
            .collect();
        assert_eq!(channels, [0, 1, 0, 1, 2, 3, 2, 3]);
    }

    #[test]
    fn a_weight_that_something_else_reads_is_left_alone() {
        let mut graph = graph(&["x"], &["y", "z"]);
        graph
            .initializers
            .insert("w".into(), Tensor::from_vec(vec![2, 2], vec![1.0_f32; 4]).into());
        graph
            .nodes
            .push(std::sync::Arc::new(Node::new("MatMul", "product", &["x", "w"], &["y"])));
        assert_eq!(weights(&graph).len(), 1);
        graph
            .nodes
            .push(std::sync::Arc::new(Node::new("Relu", "", &["w"], &["z"])));
        assert!(weights(&graph).is_empty());
    }

    #[test]
    fn weights_that_are_not_numbers_are_named() {
        let tensor = Tensor::from_vec(vec![3], vec![1.0, f32::NAN, f32::INFINITY]);
        let error = finite(&tensor, "conv1.weight").unwrap_err().to_string();
        assert!(
            error.starts_with("tensor `conv1.weight`: holds 2 values that are NaN or infinite"),
            "{error}"
        );
    }
}
