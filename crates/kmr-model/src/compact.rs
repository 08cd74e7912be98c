//! Models without the bytes that only describe: long names, documentation, tensors that are stored twice.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use indexmap::IndexMap;

use crate::{
    Initializer, Layout, Model, ModelError, Node, ValueInfo,
    names::Names,
    proto,
    subgraphs::{self, NestingGuard},
};

/// Tensors of more bytes are not compared: names are what repeats in them, values hardly ever.
const LARGEST_SHARED: usize = 4096;

/// What graphs are called whose names only describe; ONNX asks for one.
const GRAPH_NAME: &str = "g";

/// The same model with initializers of equal type, shape and bytes stored once, where they are small.
///
/// Those that the graph takes in or puts out stay, and so do those whose name exists several times. Models with
/// training graphs or device placements, which name values too, come back as they are.
///
/// # Errors
/// Where graphs stand too deep in each other.
pub fn shared_initializers(model: &Model) -> Result<Model, ModelError> {
    if names_elsewhere(model) {
        return Ok(model.clone());
    }
    let names = Names::of(model)?;
    let declared: HashSet<&str> = interface(model).collect();
    let mut first: HashMap<(i32, &[usize], &Bytes), &str> = HashMap::new();
    let mut stands_for: HashMap<String, String> = HashMap::new();
    for (name, initializer) in &model.graph.initializers {
        let tensor = &initializer.tensor;
        let known = initializer.layout == Layout::Dense && tensor.dtype().bits().is_some();
        let open = names.is_unique(name) && !declared.contains(name.as_str());
        if !known || !open || tensor.byte_len() > LARGEST_SHARED {
            continue;
        }
        let same = (tensor.dtype().number(), tensor.shape(), tensor.bytes());
        match first.get(&same) {
            Some(&other) => drop(stands_for.insert(name.clone(), other.to_owned())),
            None => drop(first.insert(same, name)),
        }
    }
    if stands_for.is_empty() {
        return Ok(model.clone());
    }
    let mut parts = Parts::of(model);
    parts.initializers.retain(|(name, _)| !stands_for.contains_key(name));
    parts.value_info.retain(|value| !stands_for.contains_key(value.name()));
    parts.rename(&stands_for)?;
    parts.into_model(model)
}

/// The same model under short names and without what only describes: node names, documentation, declared types of
/// inner values, the producer. The values that are named most often get the shortest names.
///
/// The main graph's inputs and outputs keep their names, and so do functions all of theirs. Of subgraphs in nodes that
/// are not ONNX's own, inputs and outputs keep them too, since such operators may look for them; types stay declared
/// of what such operators make. Models with training graphs or device placements, which name values too, come back as
/// they are. Deterministic.
///
/// # Errors
/// Where graphs stand too deep in each other.
pub fn short_names(model: &Model) -> Result<Model, ModelError> {
    if names_elsewhere(model) {
        return Ok(model.clone());
    }
    let mut parts = Parts::of(model);
    parts.describe_nothing()?;
    let mut kept: HashSet<String> = interface(model).map(str::to_owned).collect();
    for node in &parts.nodes {
        keep_foreign(node, &mut kept, NestingGuard::default())?;
    }
    let mut uses: IndexMap<String, usize> = IndexMap::new();
    parts.visit(&mut |name| *uses.entry(name.clone()).or_default() += 1)?;
    uses.retain(|name, _| !kept.contains(name));
    // A stable sort: of equally frequent names, the first to be met is the first to be renamed.
    uses.sort_by(|_, one, _, other| other.cmp(one));
    let free = (0..).map(short).filter(|name| !kept.contains(name));
    let now: HashMap<String, String> = uses.into_keys().zip(free).collect();
    parts.rename(&now)?;
    let short = parts.into_model(model)?;
    let mut shell = (*short.shell).clone();
    (shell.producer_name, shell.producer_version, shell.doc_string) = (None, None, None);
    Ok(Model {
        shell: Arc::new(shell),
        ..short
    })
}

/// Whether something beside the graph names its values: renaming would have to follow.
fn names_elsewhere(model: &Model) -> bool {
    let placed = |node: &Arc<Node>| !node.proto().device_configurations.is_empty();
    !model.shell.training_info.is_empty() || model.graph.nodes.iter().any(placed)
}

/// The names by which a model is fed and read.
fn interface(model: &Model) -> impl Iterator<Item = &str> {
    let graph = &model.graph;
    graph.inputs.iter().chain(&graph.outputs).map(ValueInfo::name)
}

/// The shortest names in order: `a` to `Z`, then two letters or digits of which the first is a letter, and so on.
fn short(mut position: usize) -> String {
    const LETTERS: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    const FIRST: usize = 52;
    let mut name = Vec::new();
    let mut of_this_length = FIRST;
    while position >= of_this_length {
        position -= of_this_length;
        of_this_length = of_this_length.saturating_mul(LETTERS.len());
        name.push(0);
    }
    for letter in name.iter_mut().rev() {
        *letter = LETTERS[position % LETTERS.len()];
        position /= LETTERS.len();
    }
    let first = char::from(LETTERS[position]);
    std::iter::once(first).chain(name.into_iter().map(char::from)).collect()
}

/// Whether a node's operator is ONNX's own.
fn is_standard(node: &proto::NodeProto) -> bool {
    matches!(node.domain.as_deref(), None | Some("" | "ai.onnx"))
}

/// Notes the names that operators of others may look for.
fn keep_foreign(node: &proto::NodeProto, kept: &mut HashSet<String>, guard: NestingGuard) -> Result<(), ModelError> {
    for graph in subgraphs::messages(node) {
        let guard = guard.enter()?;
        if !is_standard(node) {
            let declared = graph.input.iter().chain(&graph.output);
            kept.extend(declared.filter_map(|value| value.name.clone()));
        }
        for node in &graph.node {
            keep_foreign(node, kept, guard)?;
        }
    }
    Ok(())
}

/// What is called with every place that names a value.
type Visitor<'v> = dyn FnMut(&mut String) + 'v;

/// A graph taken apart, to be changed.
struct Parts {
    nodes: Vec<proto::NodeProto>,
    initializers: Vec<(String, Initializer)>,
    inputs: Vec<ValueInfo>,
    outputs: Vec<ValueInfo>,
    value_info: Vec<ValueInfo>,
    shell: proto::GraphProto,
}

impl Parts {
    fn of(model: &Model) -> Self {
        let graph = model.graph.clone();
        Self {
            nodes: graph.nodes.iter().map(|node| node.proto().clone()).collect(),
            initializers: graph.initializers.into_iter().collect(),
            inputs: graph.inputs,
            outputs: graph.outputs,
            value_info: graph.value_info,
            shell: (*graph.shell).clone(),
        }
    }

    fn into_model(self, model: &Model) -> Result<Model, ModelError> {
        let nodes = self.nodes.into_iter().map(|node| Node::from_proto(node).map(Arc::new));
        let mut graph = model.graph.clone();
        graph.nodes = nodes.collect::<Result<_, _>>()?;
        graph.initializers = self.initializers.into_iter().collect();
        graph.inputs = self.inputs;
        graph.outputs = self.outputs;
        graph.value_info = self.value_info;
        graph.shell = Arc::new(self.shell);
        graph.check()?;
        Ok(model.with_graph(graph))
    }

    fn rename(&mut self, now: &HashMap<String, String>) -> Result<(), ModelError> {
        self.visit(&mut |name| {
            if let Some(now) = now.get(name) {
                name.clone_from(now);
            }
        })
    }

    /// Visits every place of the graph and its subgraphs that names a value.
    fn visit(&mut self, visitor: &mut Visitor<'_>) -> Result<(), ModelError> {
        self.initializers.iter_mut().for_each(|(name, _)| visitor(name));
        for value in self
            .inputs
            .iter_mut()
            .chain(&mut self.outputs)
            .chain(&mut self.value_info)
        {
            visit_optional(&mut value.0.name, visitor);
        }
        visit_annotations(&mut self.shell, visitor);
        let mut nodes = self.nodes.iter_mut();
        nodes.try_for_each(|node| visit_node(node, visitor, NestingGuard::default()))
    }

    fn describe_nothing(&mut self) -> Result<(), ModelError> {
        for value in self.inputs.iter_mut().chain(&mut self.outputs) {
            undocument(&mut value.0);
        }
        let foreign = made_by_others(&self.nodes);
        self.value_info.retain(|value| foreign.contains(value.name()));
        self.value_info.iter_mut().for_each(|value| undocument(&mut value.0));
        self.shell.name = Some(GRAPH_NAME.to_owned());
        self.shell.doc_string = None;
        let mut nodes = self.nodes.iter_mut();
        nodes.try_for_each(|node| describe_nothing(node, NestingGuard::default()))
    }
}

fn visit_name(name: &mut String, visitor: &mut Visitor<'_>) {
    // An optional input or output that is absent has an empty name.
    if !name.is_empty() {
        visitor(name);
    }
}

fn visit_optional(name: &mut Option<String>, visitor: &mut Visitor<'_>) {
    name.iter_mut().for_each(|name| visit_name(name, visitor));
}

fn visit_node(node: &mut proto::NodeProto, visitor: &mut Visitor<'_>, guard: NestingGuard) -> Result<(), ModelError> {
    let named = node.input.iter_mut().chain(&mut node.output);
    named.for_each(|name| visit_name(name, visitor));
    for graph in subgraphs::messages_mut(node) {
        visit_graph(graph, visitor, guard.enter()?)?;
    }
    Ok(())
}

fn visit_graph(
    graph: &mut proto::GraphProto,
    visitor: &mut Visitor<'_>,
    guard: NestingGuard,
) -> Result<(), ModelError> {
    let sparse = graph.sparse_initializer.iter_mut();
    let sparse = sparse.filter_map(|tensor| tensor.values.as_option_mut());
    for tensor in graph.initializer.iter_mut().chain(sparse) {
        visit_optional(&mut tensor.name, visitor);
    }
    let declared = graph
        .input
        .iter_mut()
        .chain(&mut graph.output)
        .chain(&mut graph.value_info);
    declared.for_each(|value| visit_optional(&mut value.name, visitor));
    visit_annotations(graph, visitor);
    graph
        .node
        .iter_mut()
        .try_for_each(|node| visit_node(node, visitor, guard))
}

fn visit_annotations(graph: &mut proto::GraphProto, visitor: &mut Visitor<'_>) {
    for annotation in &mut graph.quantization_annotation {
        visit_optional(&mut annotation.tensor_name, visitor);
        for parameter in &mut annotation.quant_parameter_tensor_names {
            visit_optional(&mut parameter.value, visitor);
        }
    }
}

/// What operators that are not ONNX's own make: only a declaration tells its type.
fn made_by_others(nodes: &[proto::NodeProto]) -> HashSet<String> {
    let foreign = nodes.iter().filter(|node| !is_standard(node));
    foreign.flat_map(|node| node.output.iter().cloned()).collect()
}

fn undocument(value: &mut proto::ValueInfoProto) {
    value.doc_string = None;
    value.metadata_props.clear();
}

fn describe_nothing(node: &mut proto::NodeProto, guard: NestingGuard) -> Result<(), ModelError> {
    (node.name, node.doc_string) = (None, None);
    node.metadata_props.clear();
    for attribute in &mut node.attribute {
        attribute.doc_string = None;
        attribute
            .t
            .as_option_mut()
            .into_iter()
            .for_each(|tensor| tensor.name = None);
    }
    for graph in subgraphs::messages_mut(node) {
        let guard = guard.enter()?;
        graph.name = Some(GRAPH_NAME.to_owned());
        graph.doc_string = None;
        let foreign = made_by_others(&graph.node);
        graph
            .value_info
            .retain(|value| value.name.as_ref().is_some_and(|name| foreign.contains(name)));
        let declared = graph
            .input
            .iter_mut()
            .chain(&mut graph.output)
            .chain(&mut graph.value_info);
        declared.for_each(undocument);
        let mut nodes = graph.node.iter_mut();
        nodes.try_for_each(|node| describe_nothing(node, guard))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_come_by_length_and_none_twice() {
        let names: Vec<String> = (0..52 + 52 * 62 + 2).map(short).collect();
        assert_eq!(
            (names[0].as_str(), names[51].as_str(), names[52].as_str()),
            ("a", "Z", "aa")
        );
        assert_eq!((names[53].as_str(), names[52 + 62].as_str()), ("ab", "ba"));
        assert_eq!(names[52 + 52 * 62], "aaa");
        assert!(names.is_sorted_by_key(String::len));
        let unique: HashSet<&String> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
    }
}
