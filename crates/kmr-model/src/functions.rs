//! Model-local functions, replaced by what they stand for.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use buffa::Message;

use crate::{
    ErrorKind, Model, ModelError, Node,
    names::Names,
    proto,
    subgraphs::{self, NestingGuard},
};

/// Nodes that a model may have after inlining, whatever it has before: calls of calls multiply.
const NODES: usize = 250_000;

/// What a call names: domain, name and overload.
type Key = (String, String, String);

impl Model {
    /// The same model without functions of its own: each call is replaced by the function's nodes; and what was done,
    /// a line for each function.
    ///
    /// The nodes that make a call's outputs keep the outputs' names, so the ids of all other nodes stay. Inner values
    /// are called after the call and have names of their own. Functions that training information may call stay.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if a function imports another version of an operator set than the model, or the
    /// result has too many nodes; [`ErrorKind::Malformed`] if functions call each other in a circle, or a call does
    /// not fit its function.
    pub fn inline_functions(&self) -> Result<(Self, Vec<String>), ModelError> {
        if !self.has_functions() {
            return Ok((self.clone(), Vec::new()));
        }
        let mut functions = HashMap::new();
        for function in &self.shell.functions {
            if functions.insert(function_key(function), function).is_some() {
                return Err(malformed(function, "exists twice"));
            }
        }
        check_circles(&functions)?;
        let mut inlining = Inlining {
            imports: self
                .operator_sets()
                .into_iter()
                .map(|set| (set.domain, set.version))
                .collect(),
            names: Names::of(self)?,
            added: BTreeSet::new(),
            checked: HashSet::new(),
            calls: BTreeMap::new(),
            nodes: 0,
            limit: NODES.max((self.encoded_len() / 64) as usize),
            functions,
        };
        let mut graph = self.graph.clone();
        graph.nodes.clear();
        for node in &self.graph.nodes {
            if inlining.is_plain(node.proto()) {
                graph.nodes.push(node.clone());
                continue;
            }
            for message in inlining.expand(vec![node.proto().clone()], NestingGuard::default())? {
                graph.nodes.push(Arc::new(Node::from_proto(message)?));
            }
        }
        graph.check()?;
        let (added, calls) = (inlining.added, inlining.calls);
        let mut model = self.with_graph(graph);
        let shell = Arc::make_mut(&mut model.shell);
        for (domain, version) in added {
            shell.opset_import.push(proto::OperatorSetIdProto {
                domain: Some(domain),
                version: Some(version),
                ..Default::default()
            });
        }
        let mut changes: Vec<String> = calls
            .iter()
            .map(|((domain, name, _), count)| match count {
                1 => format!("inlined the function `{}` at its one call", qualified(domain, name)),
                _ => format!("inlined the function `{}` at {count} calls", qualified(domain, name)),
            })
            .collect();
        if shell.training_info.is_empty() {
            let unused = shell
                .functions
                .iter()
                .filter(|function| !calls.contains_key(&function_key(function)));
            changes.extend(
                unused.map(|function| format!("removed the function `{}`, which nothing calls", label(function))),
            );
            shell.functions.clear();
        }
        Ok((model, changes.into_iter().map(crate::error::shown).collect()))
    }
}

struct Inlining<'m> {
    functions: HashMap<Key, &'m proto::FunctionProto>,
    /// The model's operator sets.
    imports: HashMap<String, i64>,
    names: Names,
    /// Operator sets that functions import and the model does not.
    added: BTreeSet<(String, i64)>,
    checked: HashSet<Key>,
    calls: BTreeMap<Key, usize>,
    nodes: usize,
    limit: usize,
}

impl<'m> Inlining<'m> {
    /// Whether neither a node nor what stands in it can be a call.
    fn is_plain(&self, node: &proto::NodeProto) -> bool {
        !self.functions.contains_key(&node_key(node)) && subgraphs::messages(node).next().is_none()
    }

    /// These nodes with every call in them replaced, calls in subgraphs and in functions' bodies too.
    fn expand(
        &mut self,
        nodes: Vec<proto::NodeProto>,
        guard: NestingGuard,
    ) -> Result<Vec<proto::NodeProto>, ModelError> {
        let guard = guard.enter()?;
        let mut result = Vec::with_capacity(nodes.len());
        // Calls are replaced from the outside in: an attribute that a body passes on has its value by then.
        let mut left = nodes;
        left.reverse();
        while let Some(mut node) = left.pop() {
            // Long texts count as many nodes: a call copies them.
            const BYTES_OF_A_NODE: usize = 256;
            let length = node.try_encoded_len().map_or(0, |length| length as usize);
            self.nodes += 1 + length / BYTES_OF_A_NODE;
            if self.nodes > self.limit {
                let message = format!("come to more than {} nodes when they are inlined", self.limit);
                return Err(ModelError::new(
                    ErrorKind::Unsupported,
                    "the model's functions",
                    message,
                ));
            }
            let key = node_key(&node);
            if let Some(&function) = self.functions.get(&key) {
                self.check_imports(&key, function)?;
                *self.calls.entry(key).or_default() += 1;
                left.extend(self.instance(function, &node)?.into_iter().rev());
                continue;
            }
            for graph in subgraphs::messages_mut(&mut node) {
                graph.node = self.expand(std::mem::take(&mut graph.node), guard)?;
            }
            result.push(node);
        }
        Ok(result)
    }

    /// Refuses a function whose operators are not those of the model.
    fn check_imports(&mut self, key: &Key, function: &proto::FunctionProto) -> Result<(), ModelError> {
        if !self.checked.insert(key.clone()) {
            return Ok(());
        }
        let mut used = BTreeSet::new();
        let mut visit = |node: &proto::NodeProto| {
            if !self.functions.contains_key(&node_key(node)) {
                used.insert(domain(node.domain.as_deref()).to_owned());
            }
        };
        each_node(&function.node, &mut visit, NestingGuard::default())?;
        for used in used {
            let imports = function.opset_import.iter();
            let own = imports
                .filter(|set| domain(set.domain.as_deref()) == used)
                .find_map(|set| set.version);
            let Some(own) = own else {
                let message = format!("uses operators of {}, which it does not import", set_name(&used));
                return Err(malformed(function, message));
            };
            match self.imports.get(&used) {
                Some(&version) if version == own => {}
                Some(version) => {
                    let message = format!(
                        "imports version {own} of {}, and the model imports version {version}",
                        set_name(&used)
                    );
                    let place = format!("function `{}`", label(function));
                    return Err(ModelError::new(ErrorKind::Unsupported, place, message)
                        .with_help("export the model with one version for all"));
                }
                None => {
                    self.imports.insert(used.clone(), own);
                    self.added.insert((used, own));
                }
            }
        }
        Ok(())
    }

    /// The nodes that stand for one call.
    fn instance(
        &mut self,
        function: &'m proto::FunctionProto,
        call: &proto::NodeProto,
    ) -> Result<Vec<proto::NodeProto>, ModelError> {
        if call.input.len() > function.input.len() || call.output.len() > function.output.len() {
            let message = format!(
                "is called with {} inputs and {} outputs; it has {} and {}",
                call.input.len(),
                call.output.len(),
                function.input.len(),
                function.output.len()
            );
            return Err(malformed(function, message));
        }
        let prefix = call_label(call).to_owned();
        let mut values = Values {
            scopes: vec![HashMap::new()],
            prefix: &prefix,
            function,
            call,
        };
        for (position, formal) in function.input.iter().enumerate() {
            let actual = call.input.get(position).cloned().unwrap_or_default();
            values.scopes[0].insert(formal.clone(), actual);
        }
        let mut passed = Vec::new();
        for (formal, actual) in function
            .output
            .iter()
            .zip(&call.output)
            .filter(|(_, actual)| !actual.is_empty())
        {
            match values.scopes[0].get(formal) {
                // An output that is an input goes through a node: a value has one name.
                Some(input) => passed.push(identity(input, actual)),
                None => drop(values.scopes[0].insert(formal.clone(), actual.clone())),
            }
        }
        let made = function.output.iter().filter(|output| !function.input.contains(output));
        let mut targets: HashSet<String> = made.cloned().collect();
        let mut nodes = Vec::with_capacity(function.node.len() + passed.len());
        for node in &function.node {
            let mut node = node.clone();
            values.node(&mut node, &mut targets, &mut self.names, NestingGuard::default())?;
            nodes.push(node);
        }
        if !passed.is_empty() {
            self.imports.entry(String::new()).or_insert_with(|| {
                let version = 13;
                self.added.insert((String::new(), version));
                version
            });
        }
        nodes.extend(passed);
        Ok(nodes)
    }
}

/// What the values of a function's body are called at one call of it.
struct Values<'c> {
    /// The names by graph, the body's first.
    scopes: Vec<HashMap<String, String>>,
    prefix: &'c str,
    function: &'c proto::FunctionProto,
    call: &'c proto::NodeProto,
}

impl Values<'_> {
    fn find(&self, name: &str) -> Option<&String> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name))
    }

    fn read(&self, name: &mut String) -> Result<(), ModelError> {
        if name.is_empty() {
            return Ok(());
        }
        match self.find(name) {
            Some(now) => name.clone_from(now),
            None => {
                return Err(malformed(
                    self.function,
                    format!("reads `{name}`, which nothing before it produces"),
                ));
            }
        }
        Ok(())
    }

    fn define(&mut self, name: &mut String, names: &mut Names) -> Result<(), ModelError> {
        if name.is_empty() {
            return Ok(());
        }
        let now = names.fresh(&format!("{}/{name}", self.prefix));
        let scope = self.scopes.last_mut();
        if scope.is_some_and(|scope| scope.insert(name.clone(), now.clone()).is_some()) {
            return Err(malformed(
                self.function,
                format!("writes `{name}`, which exists already"),
            ));
        }
        *name = now;
        Ok(())
    }

    /// Makes a node of the body one of the call's. `targets` are outputs of the function that are still to be made.
    fn node(
        &mut self,
        node: &mut proto::NodeProto,
        targets: &mut HashSet<String>,
        names: &mut Names,
        guard: NestingGuard,
    ) -> Result<(), ModelError> {
        for input in &mut node.input {
            self.read(input)?;
        }
        let mut attributes = Vec::with_capacity(node.attribute.len());
        for mut attribute in std::mem::take(&mut node.attribute) {
            let wanted = attribute.ref_attr_name.as_deref().unwrap_or_default();
            if !wanted.is_empty() {
                attributes.extend(self.passed(wanted, &attribute)?);
                continue;
            }
            for graph in attribute.g.as_option_mut().into_iter().chain(&mut attribute.graphs) {
                self.graph(graph, names, guard)?;
            }
            attributes.push(attribute);
        }
        node.attribute = attributes;
        if let Some(name) = node.name.as_mut().filter(|name| !name.is_empty()) {
            *name = format!("{}/{name}", self.prefix);
        }
        for output in &mut node.output {
            let outer = self.scopes.len() == 1 && targets.remove(output.as_str());
            match self.scopes[0].get(output.as_str()).filter(|_| outer) {
                Some(actual) => output.clone_from(actual),
                None => self.define(output, names)?,
            }
        }
        Ok(())
    }

    /// The value of the function's attribute `wanted` at this call, as the attribute that asks for it.
    fn passed(
        &self,
        wanted: &str,
        asking: &proto::AttributeProto,
    ) -> Result<Option<proto::AttributeProto>, ModelError> {
        let given = self.call.attribute.iter().chain(&self.function.attribute_proto);
        let Some(found) = given.into_iter().find(|given| given.name.as_deref() == Some(wanted)) else {
            return Ok(None);
        };
        if let (Some(asked), Some(given)) = (asking.r#type, found.r#type)
            && asked != given
        {
            let message = format!("is called with an attribute `{wanted}` of another type than it takes");
            return Err(malformed(self.function, message));
        }
        let mut attribute = found.clone();
        attribute.name.clone_from(&asking.name);
        Ok(Some(attribute))
    }

    fn graph(
        &mut self,
        graph: &mut proto::GraphProto,
        names: &mut Names,
        guard: NestingGuard,
    ) -> Result<(), ModelError> {
        let guard = guard.enter()?;
        self.scopes.push(HashMap::new());
        let inputs: HashSet<String> = graph.input.iter().filter_map(|input| input.name.clone()).collect();
        for input in &mut graph.input {
            self.define(input.name.get_or_insert_default(), names)?;
        }
        let dense = graph.initializer.iter_mut();
        let sparse = graph
            .sparse_initializer
            .iter_mut()
            .map(|sparse| sparse.values.get_or_insert_default());
        for tensor in dense.chain(sparse) {
            let name = tensor.name.get_or_insert_default();
            // The default of an input has the input's name.
            if inputs.contains(name) {
                self.read(name)?;
            } else {
                self.define(name, names)?;
            }
        }
        for node in &mut graph.node {
            self.node(node, &mut HashSet::new(), names, guard)?;
        }
        for output in &mut graph.output {
            self.read(output.name.get_or_insert_default())?;
        }
        for value in &mut graph.value_info {
            let name = value.name.get_or_insert_default();
            if let Some(now) = self.find(name).cloned() {
                *name = now;
            }
        }
        for annotation in &mut graph.quantization_annotation {
            let parameters = annotation.quant_parameter_tensor_names.iter_mut();
            for name in annotation
                .tensor_name
                .iter_mut()
                .chain(parameters.filter_map(|entry| entry.value.as_mut()))
            {
                if let Some(now) = self.find(name).cloned() {
                    *name = now;
                }
            }
        }
        self.scopes.pop();
        Ok(())
    }
}

fn identity(input: &str, output: &str) -> proto::NodeProto {
    Node::new("Identity", "", &[input], &[output]).proto().clone()
}

/// Visits every node, those of subgraphs too.
fn each_node(
    nodes: &[proto::NodeProto],
    visit: &mut impl FnMut(&proto::NodeProto),
    guard: NestingGuard,
) -> Result<(), ModelError> {
    let guard = guard.enter()?;
    for node in nodes {
        visit(node);
        for graph in subgraphs::messages(node) {
            each_node(&graph.node, visit, guard)?;
        }
    }
    Ok(())
}

/// Refuses functions that call each other in a circle.
fn check_circles(functions: &HashMap<Key, &proto::FunctionProto>) -> Result<(), ModelError> {
    let mut calls: HashMap<Key, HashSet<Key>> = HashMap::new();
    let mut callers: HashMap<Key, Vec<Key>> = HashMap::new();
    for (key, function) in functions {
        let mut called = HashSet::new();
        let mut visit = |node: &proto::NodeProto| {
            let callee = node_key(node);
            if functions.contains_key(&callee) {
                called.insert(callee);
            }
        };
        each_node(&function.node, &mut visit, NestingGuard::default())?;
        for callee in &called {
            callers.entry(callee.clone()).or_default().push(key.clone());
        }
        calls.insert(key.clone(), called);
    }
    let mut ready: Vec<Key> = calls
        .iter()
        .filter(|(_, called)| called.is_empty())
        .map(|(key, _)| key.clone())
        .collect();
    while let Some(done) = ready.pop() {
        calls.remove(&done);
        for caller in callers.remove(&done).unwrap_or_default() {
            if let Some(called) = calls.get_mut(&caller) {
                called.remove(&done);
                if called.is_empty() {
                    ready.push(caller);
                }
            }
        }
    }
    match calls.keys().min().and_then(|key| functions.get(key)) {
        Some(function) => Err(malformed(function, "calls itself, or a function that does")),
        None => Ok(()),
    }
}

fn domain(domain: Option<&str>) -> &str {
    match domain {
        None | Some("ai.onnx") => "",
        Some(domain) => domain,
    }
}

fn key(of: Option<&str>, name: Option<&str>, overload: Option<&str>) -> Key {
    (
        domain(of).to_owned(),
        name.unwrap_or_default().to_owned(),
        overload.unwrap_or_default().to_owned(),
    )
}

fn node_key(node: &proto::NodeProto) -> Key {
    key(
        node.domain.as_deref(),
        node.op_type.as_deref(),
        node.overload.as_deref(),
    )
}

fn function_key(function: &proto::FunctionProto) -> Key {
    key(
        function.domain.as_deref(),
        function.name.as_deref(),
        function.overload.as_deref(),
    )
}

fn qualified(domain: &str, name: &str) -> String {
    if domain.is_empty() {
        name.to_owned()
    } else {
        format!("{domain}:{name}")
    }
}

fn label(function: &proto::FunctionProto) -> String {
    qualified(
        domain(function.domain.as_deref()),
        function.name.as_deref().unwrap_or_default(),
    )
}

/// What a call's inner values are called after.
fn call_label(call: &proto::NodeProto) -> &str {
    let outputs = call.output.iter().map(String::as_str);
    let mut names = call.name.as_deref().into_iter().chain(outputs);
    names.find(|name| !name.is_empty()).unwrap_or("call")
}

fn set_name(domain: &str) -> String {
    if domain.is_empty() {
        "ONNX's own operator set".to_owned()
    } else {
        format!("the operator set `{domain}`")
    }
}

fn malformed(function: &proto::FunctionProto, message: impl Into<String>) -> ModelError {
    ModelError::new(ErrorKind::Malformed, format!("function `{}`", label(function)), message)
}
