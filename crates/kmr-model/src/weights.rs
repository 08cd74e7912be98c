//! The weights of convolutions and matrix products: where they are and how they lie.
//!
//! A matrix may reach its product through nodes that only give it another form: a Transpose, as frameworks store a row
//! for each output, or a Cast from a shorter type.

use std::collections::{HashMap, HashSet};

use crate::{Graph, Node, proto};

/// What reads a weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// The node's id; of a node inside a subgraph, that of the node of the main graph around it.
    pub node: String,
    /// What people call the node itself.
    pub label: String,
    /// The value that the weight multiplies; none where it cannot be observed: inside a subgraph, or the state of a
    /// recurrent layer.
    pub input: Option<String>,
    /// The dimension of `input` that channels lie along; negative counts from the last.
    pub channel_axis: i64,
    /// Groups of a convolution; 1 elsewhere.
    pub groups: usize,
}

/// A weight of a convolution, a matrix product or a recurrent layer that is an initializer of floating-point numbers.
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

    /// Whether both give the same axes the same meaning.
    fn is_read_like(&self, other: &Self) -> bool {
        (self.input_axis, self.output_axis, self.groups_on_output)
            == (other.input_axis, other.output_axis, other.groups_on_output)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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

    /// The row-major position of each element of the matrix that has a row for each output, and in it everything that
    /// makes the output in the order of the tensor (of a convolution, input channels and then the taps of the kernel).
    pub fn matrix_positions(&self) -> impl Iterator<Item = usize> + use<> {
        let before: usize = self.shape[..self.output_axis].iter().product();
        let rows = self.shape[self.output_axis];
        let after = self.stride(self.output_axis);
        let columns = before * after;
        (0..rows * columns).map(move |at| {
            let (row, column) = (at / columns, at % columns);
            (column / after * rows + row) * after + column % after
        })
    }

    /// Columns of that matrix from one input channel to the next: the taps of a kernel.
    pub fn taps(&self) -> usize {
        let outputs_after = if self.output_axis > self.input_axis {
            self.shape[self.output_axis]
        } else {
            1
        };
        self.stride(self.input_axis) / outputs_after.max(1)
    }

    /// Elements between neighbours on `axis`.
    pub fn stride(&self, axis: usize) -> usize {
        self.shape[axis + 1..].iter().product::<usize>().max(1)
    }
}

/// The weights of `graph`, in the order in which nodes first read them, those inside subgraphs included. A tensor that
/// nodes read in different ways is left out.
pub fn weights(graph: &Graph) -> Vec<Weight> {
    let forms = graph.nodes.iter().filter(|node| gives_form(node));
    let mut reading = Reading {
        graph,
        forms: forms.map(|node| (node.id(), &**node)).collect(),
        passed: Vec::new(),
        found: Vec::new(),
        places: HashMap::new(),
        uses: HashMap::new(),
        complete: true,
    };
    for node in &graph.nodes {
        reading.node(node.proto(), node.id(), &HashSet::new(), 0);
    }
    for output in &graph.outputs {
        *reading.uses.entry(output.name().to_owned()).or_default() += 1;
    }
    if !reading.complete {
        return Vec::new();
    }
    let (uses, passed, mut found) = (reading.uses, reading.passed, reading.found);
    let used = |name: &str, times: usize| uses.get(name) == Some(&times);
    let shared: HashSet<String> = passed
        .into_iter()
        .filter_map(|(tensor, form)| (!used(&form, 1)).then_some(tensor))
        .collect();
    found.retain(|weight| {
        used(&weight.tensor, weight.readers.len()) && !shared.contains(&weight.tensor) && !weight.shape.contains(&0)
    });
    found
}

/// Subgraphs nested deeper than this are not entered, and nothing that they may read is pruned.
const DEEPEST: usize = 64;

/// Forms that may lie between a weight and the product that reads it.
const FORMS: usize = 4;

/// Whether `node` makes nothing but another form of a tensor.
fn gives_form(node: &Node) -> bool {
    node.domain().is_empty() && matches!(node.op_type(), "Transpose" | "Cast" | "Identity")
}

/// Weights while a graph is read.
struct Reading<'g> {
    graph: &'g Graph,
    /// The nodes of the main graph that give tensors another form, by what they make.
    forms: HashMap<&'g str, &'g Node>,
    /// Tensors, and the forms of theirs that products read.
    passed: Vec<(String, String)>,
    found: Vec<Weight>,
    /// The position of each in `found`.
    places: HashMap<String, usize>,
    /// How often each value is read.
    uses: HashMap<String, usize>,
    /// Whether every subgraph has been read.
    complete: bool,
}

impl Reading<'_> {
    /// Reads a node inside of (or the same as) the node `around` of the main graph, where the subgraphs on the way have
    /// values of their `own`.
    fn node(&mut self, node: &proto::NodeProto, around: &str, own: &HashSet<&str>, depth: usize) {
        for input in node.input.iter().filter(|input| !own.contains(input.as_str())) {
            *self.uses.entry(input.clone()).or_default() += 1;
        }
        if let Ok(node) = Node::from_proto(without_subgraphs(node)) {
            for (mut weight, forms) in found_in(self.graph, &node, |value| self.forms.get(value).copied()) {
                let within = forms.iter().chain([&weight.tensor]);
                if within.into_iter().any(|name| own.contains(name.as_str())) {
                    continue;
                }
                self.passed
                    .extend(forms.into_iter().map(|form| (weight.tensor.clone(), form)));
                if depth > 0 {
                    for reader in &mut weight.readers {
                        reader.input = None;
                        reader.node = around.to_owned();
                    }
                }
                match self.places.get(&weight.tensor) {
                    // Read in another way: it is not counted as a reader, so that the weight is left out.
                    Some(&place) if self.found[place].is_read_like(&weight) => {
                        self.found[place].readers.extend(weight.readers);
                    }
                    Some(_) => {}
                    None => {
                        self.places.insert(weight.tensor.clone(), self.found.len());
                        self.found.push(weight);
                    }
                }
            }
        }
        let attributes = node.attribute.iter();
        for graph in attributes.flat_map(|a| a.g.as_option().into_iter().chain(&a.graphs)) {
            self.subgraph(graph, around, own, depth + 1);
        }
    }

    fn subgraph(&mut self, graph: &proto::GraphProto, around: &str, outer: &HashSet<&str>, depth: usize) {
        if depth > DEEPEST {
            self.complete = false;
            return;
        }
        let inputs = graph.input.iter().filter_map(|input| input.name.as_deref());
        let stored = graph.initializer.iter().filter_map(|tensor| tensor.name.as_deref());
        let made = graph
            .node
            .iter()
            .flat_map(|node| node.output.iter().map(String::as_str));
        let mut own = outer.clone();
        own.extend(inputs.chain(stored).chain(made));
        for node in &graph.node {
            self.node(node, around, &own, depth);
        }
        let outputs = graph.output.iter().filter_map(|output| output.name.as_deref());
        for output in outputs.filter(|output| !own.contains(output)) {
            *self.uses.entry(output.to_owned()).or_default() += 1;
        }
    }
}

/// The node itself, without copies of what is inside it.
fn without_subgraphs(node: &proto::NodeProto) -> proto::NodeProto {
    let plain = |attribute: &&proto::AttributeProto| !attribute.g.is_set() && attribute.graphs.is_empty();
    let plain = |attribute: &&proto::AttributeProto| plain(attribute) && !attribute.t.is_set();
    proto::NodeProto {
        input: node.input.clone(),
        output: node.output.clone(),
        name: node.name.clone(),
        op_type: node.op_type.clone(),
        domain: node.domain.clone(),
        attribute: node.attribute.iter().filter(plain).cloned().collect(),
        ..Default::default()
    }
}

/// The weights that `node` multiplies with, if it is an operator and they are weights of the kind meant here.
pub fn weights_of(graph: &Graph, node: &Node) -> Vec<Weight> {
    let maker = |value: &str| graph.node(value).map(|node| &**node).filter(|node| gives_form(node));
    found_in(graph, node, maker)
        .into_iter()
        .map(|(weight, _)| weight)
        .collect()
}

/// The same, with the values in which each is read, where that is not the tensor itself.
fn found_in<'g>(graph: &'g Graph, node: &Node, maker: impl Fn(&str) -> Option<&'g Node>) -> Vec<(Weight, Vec<String>)> {
    if !node.domain().is_empty() {
        return Vec::new();
    }
    let slots: &[usize] = match node.op_type() {
        "Conv" | "ConvTranspose" | "Gemm" | "MatMul" => &[1],
        "LSTM" | "GRU" | "RNN" => &[1, 2],
        _ => &[],
    };
    let mut found = Vec::new();
    for &slot in slots {
        if let Some(weight) = weight_of(graph, node, slot) {
            found.push((weight, Vec::new()));
        } else if matches!(node.op_type(), "Gemm" | "MatMul") {
            found.extend(formed_weight(graph, node, slot, &maker));
        }
    }
    found
}

/// The matrix that reaches `node` in other forms.
fn formed_weight<'g>(
    graph: &'g Graph,
    node: &Node,
    slot: usize,
    maker: impl Fn(&str) -> Option<&'g Node>,
) -> Option<(Weight, Vec<String>)> {
    let (mut value, mut turned, mut forms) = (node.input(slot)?, false, Vec::new());
    while graph.tensor(value).is_none() {
        let form = maker(value).filter(|_| forms.len() < FORMS)?;
        forms.push(value.to_owned());
        match form.op_type() {
            "Transpose" if matches!(form.ints("perm"), None | Some([1, 0])) => turned = !turned,
            "Transpose" => return None,
            _ => {}
        }
        value = form.input(0)?;
    }
    let mut direct = node.clone();
    let inputs = &mut direct.proto_mut().input;
    *inputs.get_mut(slot)? = value.to_owned();
    let mut weight = weight_of(graph, &direct, slot).filter(|weight| weight.shape.len() == 2)?;
    if turned {
        std::mem::swap(&mut weight.input_axis, &mut weight.output_axis);
    }
    Some((weight, forms))
}

fn weight_of(graph: &Graph, node: &Node, slot: usize) -> Option<Weight> {
    let tensor = node.input(slot)?;
    let initializer = graph.tensor(tensor)?;
    let shape = initializer.shape().to_vec();
    let rank = shape.len();
    if !initializer.dtype().is_float() || rank < 2 {
        return None;
    }
    let (output_axis, input_axis, channel_axis) = match node.op_type() {
        "Conv" => (0, 1, 1),
        "ConvTranspose" => (1, 0, 1),
        "Gemm" if node.int("transA").unwrap_or(0) != 0 => return None,
        "Gemm" if node.int("transB").unwrap_or(0) != 0 => (0, 1, -1),
        "Gemm" => (1, 0, -1),
        "MatMul" => (rank - 1, rank - 2, -1),
        // Directions, then gates and hidden units, then what they read.
        "LSTM" | "GRU" | "RNN" if rank == 3 => (1, 2, -1),
        _ => return None,
    };
    let groups = if node.op_type().starts_with("Conv") {
        node.int("group").unwrap_or(1)
    } else {
        1
    };
    let recurrence = slot == 2;
    Some(Weight {
        tensor: tensor.into(),
        shape,
        input_axis,
        output_axis,
        groups_on_output: node.op_type() == "Conv",
        readers: vec![Reader {
            node: node.id().into(),
            label: node.label().into(),
            input: if recurrence { None } else { Some(node.input(0)?.into()) },
            channel_axis,
            groups: usize::try_from(groups).ok().filter(|&groups| groups > 0)?,
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Dimension, Tensor, ValueInfo};

    fn graph(inputs: &[&str], outputs: &[&str]) -> Graph {
        let mut graph = Graph::new("test");
        let declare = |name: &&str| ValueInfo::tensor(name, DType::FLOAT, &[Dimension::Unknown, Dimension::Unknown]);
        graph.inputs = inputs.iter().map(declare).collect();
        graph.outputs = outputs.iter().map(declare).collect();
        graph
    }

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
    fn a_matrix_has_a_row_for_each_output() {
        let mut graph = graph(&["x"], &["y"]);
        let mut matrix = |op: &str, shape: &[usize]| {
            let tensor = Tensor::from_vec(shape.to_vec(), vec![1.0_f32; shape.iter().product()]);
            graph.initializers.insert("w".into(), tensor.into());
            let weight = weights_of(&graph, &Node::new(op, "", &["x", "w"], &["y"])).remove(0);
            (weight.matrix_positions().collect::<Vec<_>>(), weight.taps())
        };
        assert_eq!(matrix("MatMul", &[3, 2]), (vec![0, 2, 4, 1, 3, 5], 1));
        assert_eq!(matrix("Conv", &[2, 2, 1, 2]), ((0..8).collect(), 2));
        assert_eq!(
            matrix("ConvTranspose", &[2, 2, 1, 2]),
            (vec![0, 1, 4, 5, 2, 3, 6, 7], 2)
        );
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

    /// An If whose branches read `w` and `v`.
    fn with_branches(graph: &mut Graph) {
        let branch = |weight: &str, output: &str| proto::GraphProto {
            node: vec![Node::new("MatMul", "inner", &["x", weight], &[output]).proto().clone()],
            output: vec![proto::ValueInfoProto {
                name: Some(output.into()),
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut node = Node::new("If", "choice", &["condition"], &["z"]);
        for (name, graph) in [("then_branch", branch("w", "a")), ("else_branch", branch("v", "b"))] {
            node.set_attribute(proto::AttributeProto {
                name: Some(name.into()),
                r#type: Some(5),
                g: Some(graph).into(),
                ..Default::default()
            });
        }
        graph.nodes.push(std::sync::Arc::new(node));
    }

    #[test]
    fn weights_inside_subgraphs_are_found() {
        let mut graph = graph(&["x", "condition"], &["z"]);
        for name in ["w", "v"] {
            let tensor = Tensor::from_vec(vec![2, 2], vec![1.0_f32; 4]);
            graph.initializers.insert(name.into(), tensor.into());
        }
        with_branches(&mut graph);
        let found = weights(&graph);
        let told: Vec<_> = found
            .iter()
            .map(|w| (w.tensor.as_str(), w.readers[0].node.as_str(), w.label()))
            .collect();
        assert_eq!(told, [("w", "z", "inner"), ("v", "z", "inner")]);
        assert!(found.iter().all(|weight| weight.readers[0].input.is_none()));
        // Read in another way inside: left alone.
        let turned = Node::new("Gemm", "", &["x", "w"], &["g"]).with_int("transB", 1);
        graph.nodes.push(std::sync::Arc::new(turned));
        assert_eq!(weights(&graph).len(), 1);
    }

    #[test]
    fn both_weights_of_a_recurrent_layer_are_found() {
        let mut graph = graph(&["x"], &["y"]);
        for (name, inputs) in [("w", 3), ("r", 4)] {
            let tensor = Tensor::from_vec(vec![1, 16, inputs], vec![1.0_f32; 16 * inputs]);
            graph.initializers.insert(name.into(), tensor.into());
        }
        let node = Node::new("LSTM", "", &["x", "w", "r"], &["y"]);
        graph.nodes.push(std::sync::Arc::new(node));
        let found = weights(&graph);
        let inputs: Vec<_> = found
            .iter()
            .map(|w| (w.tensor.as_str(), w.input_axis, w.readers[0].input.is_some()))
            .collect();
        assert_eq!(inputs, [("w", 2, true), ("r", 2, false)]);
    }

    /// As frameworks write a linear layer: a row for each output, turned before the product.
    #[test]
    fn a_turned_matrix_is_a_weight_of_its_product() {
        let mut graph = graph(&["x"], &["y"]);
        let tensor = Tensor::from_vec(vec![5, 3], vec![1.0_f32; 15]);
        graph.initializers.insert("w".into(), tensor.into());
        let mut add = |node: Node| graph.nodes.push(std::sync::Arc::new(node));
        add(Node::new("Cast", "", &["w"], &["long"]).with_int("to", 1));
        add(Node::new("Transpose", "", &["long"], &["turned"]).with_ints("perm", &[1, 0]));
        add(Node::new("MatMul", "product", &["x", "turned"], &["y"]));
        let found = weights(&graph);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].output_axis, found[0].input_axis, found[0].label()),
            (0, 1, "product")
        );
        assert_eq!(found[0].readers[0].input.as_deref(), Some("x"));
        assert_eq!(weights_of(&graph, &graph.nodes[2]), found);
        // What something else reads in this form stays.
        graph
            .nodes
            .push(std::sync::Arc::new(Node::new("Relu", "", &["turned"], &["z"])));
        assert!(weights(&graph).is_empty());
    }

    #[test]
    fn empty_weights_are_no_weights() {
        let mut graph = graph(&["x"], &["y"]);
        let tensor = Tensor::from_vec(vec![0, 4], Vec::<f32>::new());
        graph.initializers.insert("w".into(), tensor.into());
        let node = Node::new("MatMul", "", &["x", "w"], &["y"]);
        graph.nodes.push(std::sync::Arc::new(node));
        assert!(weights(&graph).is_empty());
    }
}
