//! Constants as initializers of the main graph, where rules and meters look for weights.
//!
//! Some exporters keep all weights in Constant nodes, or in the initializers of subgraphs.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    DType, Dimension, Graph, Initializer, Model, ModelError, Node, Tensor, ValueInfo,
    codec::{self, Decoder},
    names::Names,
    proto,
    subgraphs::{self, NestingGuard},
};

/// The first IR version whose initializers need no declaration among the inputs.
const UNDECLARED_INITIALIZERS: i64 = 4;
/// The first IR version with sparse initializers.
const SPARSE_INITIALIZERS: i64 = 5;

impl Model {
    /// The same model, its Constant nodes and the initializers of its subgraphs being initializers of the main graph,
    /// and what was done, a line for each kind of change.
    ///
    /// Other nodes keep their ids. A value whose name exists several times, as in both branches of an If, gets a new
    /// name. What a graph puts out directly stays where it is, and so does what functions hold: inline them first.
    ///
    /// # Errors
    /// If a constant's tensor contradicts itself.
    pub fn lift_constants(&self) -> Result<(Self, Vec<String>), ModelError> {
        let mut lifting = Lifting {
            names: Names::of(self)?,
            decoder: Decoder::new(0),
            sparse: self.ir_version() >= SPARSE_INITIALIZERS,
            lifted: Vec::new(),
            constants: [0; 2],
            initializers: 0,
            renamed: 0,
        };
        let mut graph = lifting.main(&self.graph)?;
        let lifted = std::mem::take(&mut lifting.lifted);
        if lifted.is_empty() {
            return Ok((self.clone(), Vec::new()));
        }
        let names: HashSet<&str> = lifted.iter().map(|(name, _)| name.as_str()).collect();
        graph.value_info.retain(|value| !names.contains(value.name()));
        for (name, initializer) in lifted {
            if self.ir_version() < UNDECLARED_INITIALIZERS {
                let tensor = &initializer.tensor;
                let shape: Vec<_> = tensor.shape().iter().map(|&size| Dimension::Fixed(size)).collect();
                graph.inputs.push(ValueInfo::tensor(&name, tensor.dtype(), &shape));
            }
            graph.initializers.insert(name, initializer);
        }
        graph.check()?;
        Ok((self.with_graph(graph), lifting.changes()))
    }
}

struct Lifting {
    names: Names,
    decoder: Decoder,
    /// Whether the file's version knows sparse initializers.
    sparse: bool,
    lifted: Vec<(String, Initializer)>,
    /// How many Constant nodes: of the main graph and of subgraphs.
    constants: [usize; 2],
    initializers: usize,
    renamed: usize,
}

/// What values are called now that were called otherwise, graph by graph from the outermost to the present one; a name
/// that a graph gives to a value of its own stands for itself there.
#[derive(Default)]
struct Renames(Vec<HashMap<String, Option<String>>>);

impl Renames {
    fn insert(&mut self, name: String, now: Option<String>) {
        if let Some(scope) = self.0.last_mut() {
            scope.insert(name, now);
        }
    }

    fn rename(&self, name: &mut String) {
        let known = self.0.iter().rev().find_map(|scope| scope.get(name.as_str()));
        if let Some(Some(now)) = known {
            name.clone_from(now);
        }
    }
}

impl Lifting {
    fn changes(&self) -> Vec<String> {
        let counted = [
            (self.constants[0], "Constant node", "into initializers"),
            (
                self.constants[1],
                "Constant node",
                "of subgraphs into initializers of the main graph",
            ),
            (
                self.initializers,
                "initializer",
                "of subgraphs into initializers of the main graph",
            ),
        ];
        let counted = counted.iter().filter(|(count, ..)| *count > 0);
        let mut changes: Vec<String> = counted
            .map(|(count, what, where_to)| {
                let plural = if *count == 1 { "" } else { "s" };
                format!("lifted {count} {what}{plural} {where_to}")
            })
            .collect();
        if self.renamed > 0 {
            let count = self.renamed;
            changes.push(format!(
                "gave {count} of them new names, because theirs existed several times"
            ));
        }
        changes
    }

    fn main(&mut self, graph: &Graph) -> Result<Graph, ModelError> {
        let mut result = graph.clone();
        result.nodes.clear();
        let outputs: HashSet<&str> = graph.outputs.iter().map(ValueInfo::name).collect();
        for node in &graph.nodes {
            if let Some((name, initializer)) = self.constant(node.proto(), &outputs)? {
                self.constants[0] += 1;
                self.lifted.push((name, initializer));
                continue;
            }
            if !node.has_subgraph() {
                result.nodes.push(node.clone());
                continue;
            }
            let mut message = node.proto().clone();
            for inner in subgraphs::messages_mut(&mut message) {
                self.subgraph(inner, &mut Renames::default(), NestingGuard::default())?;
            }
            let changed = message != *node.proto();
            result.nodes.push(if changed {
                Arc::new(Node::from_proto(message)?)
            } else {
                node.clone()
            });
        }
        Ok(result)
    }

    fn subgraph(
        &mut self,
        graph: &mut proto::GraphProto,
        renames: &mut Renames,
        guard: NestingGuard,
    ) -> Result<(), ModelError> {
        let guard = guard.enter()?;
        renames.0.push(HashMap::new());
        let made = graph.node.iter().flat_map(|node| &node.output).map(String::as_str);
        for name in subgraphs::start(graph).chain(made) {
            renames.insert(name.to_owned(), None);
        }
        let shown: Vec<String> = graph
            .output
            .iter()
            .chain(&graph.input)
            .filter_map(|v| v.name.clone())
            .collect();
        let shown: HashSet<&str> = shown.iter().map(String::as_str).collect();
        let mut moved: HashSet<String> = HashSet::new();
        let (kept, dense): (Vec<_>, Vec<_>) = std::mem::take(&mut graph.initializer)
            .into_iter()
            .partition(|tensor| shown.contains(tensor.name.as_deref().unwrap_or_default()));
        graph.initializer = kept;
        for tensor in dense {
            let (name, initializer) = self.decoder.dense(tensor)?;
            self.initializers += 1;
            self.adopt(name, initializer, renames, &mut moved);
        }
        let name = |tensor: &proto::SparseTensorProto| tensor.values.as_option().and_then(|v| v.name.clone());
        let (kept, sparse): (Vec<_>, Vec<_>) = std::mem::take(&mut graph.sparse_initializer)
            .into_iter()
            .partition(|tensor| name(tensor).is_some_and(|name| shown.contains(name.as_str())));
        graph.sparse_initializer = kept;
        for tensor in sparse {
            let (name, initializer) = self.sparse_decoder(&tensor).sparse(tensor)?;
            self.initializers += 1;
            self.adopt(name, initializer, renames, &mut moved);
        }
        for mut node in std::mem::take(&mut graph.node) {
            if let Some((name, initializer)) = self.constant(&node, &shown)? {
                self.constants[1] += 1;
                self.adopt(name, initializer, renames, &mut moved);
                continue;
            }
            node.input.iter_mut().for_each(|input| renames.rename(input));
            for inner in subgraphs::messages_mut(&mut node) {
                self.subgraph(inner, renames, guard)?;
            }
            graph.node.push(node);
        }
        // A graph may put out a value of the graphs around it, which may be called otherwise now.
        graph
            .output
            .iter_mut()
            .filter_map(|output| output.name.as_mut())
            .for_each(|name| renames.rename(name));
        graph
            .value_info
            .retain(|value| !moved.contains(value.name.as_deref().unwrap_or_default()));
        for annotation in &mut graph.quantization_annotation {
            let parameters = annotation.quant_parameter_tensor_names.iter_mut();
            let names = parameters.filter_map(|entry| entry.value.as_mut());
            names
                .chain(annotation.tensor_name.as_mut())
                .for_each(|name| renames.rename(name));
        }
        renames.0.pop();
        Ok(())
    }

    /// Makes a constant of a subgraph one of the main graph.
    fn adopt(&mut self, name: String, initializer: Initializer, renames: &mut Renames, moved: &mut HashSet<String>) {
        let unique = if self.names.is_unique(&name) {
            name.clone()
        } else {
            self.renamed += 1;
            self.names.fresh(&name)
        };
        if unique != name {
            renames.insert(name.clone(), Some(unique.clone()));
        }
        moved.insert(name);
        self.lifted.push((unique, initializer));
    }

    /// The initializer in place of a node, if it is a Constant node that can be one: its name and itself.
    fn constant(
        &self,
        node: &proto::NodeProto,
        shown: &HashSet<&str>,
    ) -> Result<Option<(String, Initializer)>, ModelError> {
        let standard = matches!(node.domain.as_deref(), None | Some("" | "ai.onnx"));
        let ([name], [attribute]) = (node.output.as_slice(), node.attribute.as_slice()) else {
            return Ok(None);
        };
        if node.op_type.as_deref() != Some("Constant") || !standard || name.is_empty() || shown.contains(name.as_str())
        {
            return Ok(None);
        }
        let lifted = self.value(name, attribute).map_err(|error| {
            let place = format!("node `{}`: {}", node.name.as_deref().unwrap_or(name), error.place());
            error.with_place(place)
        })?;
        Ok(lifted.map(|initializer| (name.clone(), initializer)))
    }

    fn value(&self, name: &str, attribute: &proto::AttributeProto) -> Result<Option<Initializer>, ModelError> {
        if !attribute.ref_attr_name.as_deref().unwrap_or_default().is_empty() {
            return Ok(None);
        }
        let texts = |texts: &[Bytes], dims: Vec<i64>| proto::TensorProto {
            dims,
            data_type: Some(DType::STRING.number()),
            string_data: texts.to_vec(),
            ..Default::default()
        };
        let tensor = match attribute.name.as_deref().unwrap_or_default() {
            "value" => attribute.t.as_option().cloned(),
            "sparse_value" if self.sparse => {
                let Some(mut sparse) = attribute.sparse_tensor.as_option().cloned() else {
                    return Ok(None);
                };
                sparse.values.get_or_insert_default().name = Some(name.into());
                let (_, initializer) = self.sparse_decoder(&sparse).sparse(sparse)?;
                return Ok(Some(initializer));
            }
            "value_int" => attribute.i.map(|value| message(&Tensor::scalar(value))),
            "value_float" => attribute.f.map(|value| message(&Tensor::scalar(value))),
            "value_ints" => Some(message(&Tensor::from_vec(
                vec![attribute.ints.len()],
                attribute.ints.clone(),
            ))),
            "value_floats" => Some(message(&Tensor::from_vec(
                vec![attribute.floats.len()],
                attribute.floats.clone(),
            ))),
            "value_string" => attribute
                .s
                .as_ref()
                .map(|text| texts(std::slice::from_ref(text), vec![])),
            "value_strings" => Some(texts(&attribute.strings, vec![attribute.strings.len() as i64])),
            _ => None,
        };
        let Some(mut tensor) = tensor else { return Ok(None) };
        tensor.name = Some(name.into());
        let (_, initializer) = self.decoder.dense(tensor)?;
        Ok(Some(initializer))
    }

    /// A decoder that gives a sparse tensor the memory that its own length justifies.
    fn sparse_decoder(&self, tensor: &proto::SparseTensorProto) -> Decoder {
        let length = |part: Option<&proto::TensorProto>| {
            part.map_or(0, |part| {
                part.raw_data.as_ref().map_or(0, Bytes::len) + (part.int64_data.len() + part.float_data.len()) * 4
            })
        };
        Decoder::new(length(tensor.values.as_option()) + length(tensor.indices.as_option()))
    }
}

fn message(tensor: &Tensor) -> proto::TensorProto {
    codec::tensor_to_message("", tensor)
}
