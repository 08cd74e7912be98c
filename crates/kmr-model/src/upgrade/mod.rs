//! Newer operator sets: the same model, said in the words of a later version of ONNX.
//!
//! Each operator set is one step. At each step, a node whose operator has another definition from there on is
//! adapted. Which definitions changed is listed in `history.txt`, made from the onnx package by
//! `make_history.py`; how to adapt to each change is a row of the table in [`adapters`]. An operator that changed
//! in a way that has no row is refused by name, never passed on in the hope that it means the same.

mod adapters;
mod facts;
mod history;
mod opset;
mod site;

use std::{fmt, sync::Arc};

use crate::{
    ErrorKind, Model, ModelError, Node,
    error::shown,
    proto,
    subgraphs::{self, NestingGuard},
};
use facts::Facts;
use site::Site;

pub use opset::{NEWEST, OLDEST};

/// What was done to one node at one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What people call the node.
    pub node: String,
    /// Its operator, before the step.
    pub op_type: String,
    /// The operator set that brought the new definition.
    pub opset: i64,
    /// What was done.
    pub what: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            node,
            op_type,
            opset,
            what,
        } = self;
        f.write_str(&shown(format!(
            "node `{node}` ({op_type}), operator set {opset}: {what}"
        )))
    }
}

/// The same model for the standard operator set `to`, and what was done to which node.
///
/// The main graph, all subgraphs and all functions are upgraded. Values keep their names; what attributes said
/// and inputs say now comes from new Constant nodes. The IR version is raised where the operator set needs it;
/// initializers that are declared as inputs, as IR versions up to 3 want it, stay declared. A model that has this
/// operator set already is returned as it is.
///
/// # Errors
/// [`ErrorKind::Unsupported`], naming node, operator and operator set, if there is no way known to say a node in
/// the new words; if `to` is older than the model's operator set or outside of [`OLDEST`]`..=`[`NEWEST`]; or if
/// the model carries training information.
pub fn upgrade(model: &Model, to: i64) -> Result<(Model, Vec<Change>), ModelError> {
    let from = model.opset();
    if from == to && functions_from(model).all(|opset| opset == to) {
        return Ok((model.clone(), Vec::new()));
    }
    check_range(from, to)?;
    if !model.shell.training_info.is_empty() {
        return Err(
            unsupported("", "carries training information, which cannot be upgraded")
                .with_help("export the model for inference"),
        );
    }
    let mut upgrading = Upgrading {
        to,
        facts: Facts::of(model)?,
        changes: Vec::new(),
    };
    let messages = model.graph.nodes.iter().map(|node| node.proto().clone()).collect();
    let mut graph = model.graph.clone();
    graph.nodes = upgrading
        .nodes(messages, from, NestingGuard::default())?
        .into_iter()
        .map(|message| Node::from_proto(message).map(Arc::new))
        .collect::<Result<_, _>>()?;
    graph.check()?;
    let mut upgraded = model.with_graph(graph);
    let shell = Arc::make_mut(&mut upgraded.shell);
    for function in &mut shell.functions {
        let from = opset::imported(&function.opset_import).unwrap_or(from);
        check_range(from, to)?;
        function.node = upgrading.nodes(std::mem::take(&mut function.node), from, NestingGuard::default())?;
        opset::import(&mut function.opset_import, to);
    }
    opset::import(&mut shell.opset_import, to);
    let needed = opset::ir_version(to);
    shell.ir_version = Some(shell.ir_version.unwrap_or_default().max(needed));
    Ok((upgraded, upgrading.changes))
}

fn functions_from(model: &Model) -> impl Iterator<Item = i64> {
    let functions = model.shell.functions.iter();
    functions.filter_map(|function| opset::imported(&function.opset_import))
}

fn check_range(from: i64, to: i64) -> Result<(), ModelError> {
    if !(OLDEST..=NEWEST).contains(&from) || !(from..=NEWEST).contains(&to) {
        let message = format!("has operator set {from}, which cannot become {to}");
        let help = format!("operator sets from {OLDEST} on can become newer ones up to {NEWEST}");
        return Err(unsupported("", &message).with_help(help));
    }
    Ok(())
}

fn unsupported(place: &str, message: &str) -> ModelError {
    ModelError::new(ErrorKind::Unsupported, place, message)
}

struct Upgrading {
    to: i64,
    facts: Facts,
    changes: Vec<Change>,
}

impl Upgrading {
    /// These nodes and what is in them, in the words of the wanted operator set.
    fn nodes(
        &mut self,
        mut nodes: Vec<proto::NodeProto>,
        from: i64,
        guard: NestingGuard,
    ) -> Result<Vec<proto::NodeProto>, ModelError> {
        for node in &mut nodes {
            for graph in subgraphs::messages_mut(node) {
                let guard = guard.enter()?;
                graph.node = self.nodes(std::mem::take(&mut graph.node), from, guard)?;
            }
        }
        for opset in from + 1..=self.to {
            let mut adapted = Vec::with_capacity(nodes.len());
            for node in nodes {
                self.step(node, opset, &mut adapted)?;
            }
            nodes = adapted;
        }
        Ok(nodes)
    }

    /// Takes one node over one step.
    fn step(
        &mut self,
        message: proto::NodeProto,
        opset: i64,
        adapted: &mut Vec<proto::NodeProto>,
    ) -> Result<(), ModelError> {
        let op_type = message.op_type.clone().unwrap_or_default();
        let standard = matches!(message.domain.as_deref(), None | Some("" | "ai.onnx"));
        if !standard || !history::changed(&op_type, opset) {
            adapted.push(message);
            return Ok(());
        }
        let node = Node::from_proto(message)?;
        let label = node.label().to_owned();
        let refused = |reason: &str| {
            let place = format!("node `{label}` ({op_type})");
            let message = format!("cannot be upgraded to operator set {opset}: {reason}");
            unsupported(&place, &message).with_help(format!(
                "upgrade to operator set {} at most, or export the model anew",
                opset - 1
            ))
        };
        let adapter = adapters::find(&op_type, opset)
            .ok_or_else(|| refused("its definition changed there, in a way that is not known here"))?;
        let mut site = Site::new(node, self.to, &mut self.facts);
        adapter(&mut site).map_err(|reason| refused(&reason))?;
        let (nodes, what) = site.finish();
        adapted.extend(nodes);
        if !what.is_empty() {
            self.changes.push(Change {
                node: label.clone(),
                op_type: op_type.clone(),
                opset,
                what,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
