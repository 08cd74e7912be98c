//! One run through a plan.

use std::{
    collections::{BTreeSet, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use kmr_model::{Dimension, Tensor};

use super::{
    Body, Call, Datum, Network, Value, ValueId, lock,
    plan::{Key, Plan, Step},
    value::{canonical, is_tracked},
    versions,
};
use crate::{
    BatchNorm, ComputeError, ErrorKind, Feeds, Mode,
    operators::{self, Run},
};

/// Values of one execution, by id.
pub type Values = HashMap<ValueId, Datum>;

pub fn forward(network: &Network, feeds: &Feeds, outputs: &[&str], mode: Mode) -> Result<Vec<Tensor>, ComputeError> {
    let (values, asked) = prepare(network, feeds, outputs)?;
    let key = Key {
        fed: values.keys().copied().collect(),
        outputs: asked.clone(),
        trainable: BTreeSet::new(),
        merge: mode.batch_norm == BatchNorm::Running,
    };
    let plan = plan(network, &key);
    begin(network, &plan, mode)?;
    let values = steps(network, &key, &plan, values, mode)?;
    let values = collect(network, values, &asked)?;
    let named = asked.iter().zip(values);
    named
        .map(|(&id, value)| exchanged(network, id, value).map(Value::into_tensor))
        .collect()
}

/// The values `asked`, in their order.
pub fn collect(network: &Network, mut values: Values, asked: &[ValueId]) -> Result<Vec<Datum>, ComputeError> {
    // The last asker of a value takes it, so that it need not be copied.
    let mut askers: HashMap<ValueId, usize> = HashMap::new();
    for id in asked {
        *askers.entry(*id).or_default() += 1;
    }
    let mut results = Vec::with_capacity(asked.len());
    for id in asked {
        let left = askers.entry(*id).or_default();
        *left -= 1;
        let value = if *left > 0 {
            values.get(id).cloned()
        } else {
            values.remove(id)
        };
        results.push(take(network, *id, value)?);
    }
    Ok(results)
}

/// A value that leaves the engine, which is a tensor.
pub fn exchanged(network: &Network, id: ValueId, value: Datum) -> Result<Value, ComputeError> {
    value.tensor().map_err(|kind| {
        ComputeError::new(
            ErrorKind::Unsupported,
            format!("value `{}`", network.names[id]),
            format!("is {kind}; an engine exchanges tensors alone"),
        )
    })
}

/// The fed values, checked, and the ids of the asked ones.
pub fn prepare(network: &Network, feeds: &Feeds, outputs: &[&str]) -> Result<(Values, Vec<ValueId>), ComputeError> {
    let mut values = Values::new();
    for (name, tensor) in feeds {
        let id = network.find(name)?;
        check_feed(network, id, tensor)?;
        values.insert(id, Datum::from_tensor(tensor.clone()));
    }
    let asked = if outputs.is_empty() {
        network.outputs.clone()
    } else {
        outputs
            .iter()
            .map(|name| network.find(name))
            .collect::<Result<_, _>>()?
    };
    Ok((values, asked))
}

fn check_feed(network: &Network, id: ValueId, tensor: &Tensor) -> Result<(), ComputeError> {
    let place = || format!("input `{}`", network.names[id]);
    let Some(declared) = network.declared.get(&id) else {
        return Ok(());
    };
    if let Some(dtype) = declared.dtype
        && dtype != tensor.dtype()
    {
        let message = format!("is declared as {dtype}; fed was {}", tensor.dtype());
        return Err(ComputeError::new(ErrorKind::Shape, place(), message));
    }
    if let Some(shape) = &declared.shape {
        let fits = shape.len() == tensor.shape().len()
            && shape.iter().zip(tensor.shape()).all(|(want, got)| match want {
                Dimension::Fixed(size) => size == got,
                _ => true,
            });
        if !fits {
            let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
            let message = format!("is declared as [{}]; fed was {:?}", shape.join(", "), tensor.shape());
            return Err(ComputeError::new(ErrorKind::Shape, place(), message));
        }
    }
    Ok(())
}

/// A value that an execution must have left behind.
fn take(network: &Network, id: ValueId, value: Option<Datum>) -> Result<Datum, ComputeError> {
    let value = value.or_else(|| constant(network, id));
    value.ok_or_else(|| {
        ComputeError::new(
            ErrorKind::Internal,
            format!("value `{}`", network.names[id]),
            "was not computed",
        )
    })
}

/// Checks that a plan can be executed, and computes its constants.
pub fn begin(network: &Network, plan: &Plan, mode: Mode) -> Result<(), ComputeError> {
    if let Some(&missing) = plan.missing.first() {
        return Err(ComputeError::new(
            ErrorKind::Name,
            format!("input `{}`", network.names[missing]),
            "is not fed",
        ));
    }
    for &position in &plan.constants {
        fold(network, position, mode)?;
    }
    Ok(())
}

/// Runs the steps of a plan that has begun.
pub fn steps(
    network: &Network,
    key: &Key,
    plan: &Plan,
    mut values: Values,
    mode: Mode,
) -> Result<Values, ComputeError> {
    for step in &plan.steps {
        let done = if step.nodes.len() > 1 {
            merged(network, step, &mut values)?
        } else {
            false
        };
        if !done {
            for &position in &step.nodes {
                node(network, key, position, step, &mut values, mode)?;
            }
        }
        for dropped in &step.dropped {
            values.remove(dropped);
        }
    }
    Ok(values)
}

pub fn plan(network: &Network, key: &Key) -> Arc<Plan> {
    let mut plans = lock(&network.plans);
    if let Some(plan) = plans.get(key) {
        return plan.clone();
    }
    // Keys follow the caller's questions; a run asks few kinds of them.
    if plans.len() >= 256 {
        plans.clear();
    }
    let plan = Arc::new(Plan::new(network, key));
    plans.insert(key.clone(), plan.clone());
    plan
}

/// An initializer or the output of a folded node.
fn constant(network: &Network, id: ValueId) -> Option<Datum> {
    let mut constants = lock(&network.constants);
    if let Some(value) = constants.get(&id) {
        return Some(value.clone());
    }
    let value = Datum::from_tensor((**network.initial[id].as_ref()?).clone());
    if !network.passing.contains(&id) {
        constants.insert(id, value.clone());
    }
    Some(value)
}

/// Executes a node whose inputs are constant, once.
fn fold(network: &Network, position: usize, mode: Mode) -> Result<(), ComputeError> {
    let prepared = &network.nodes[position];
    let known = |id: &ValueId| lock(&network.constants).contains_key(id);
    if prepared.outputs.iter().flatten().all(known) {
        return Ok(());
    }
    let inputs = prepared.inputs.iter();
    let inputs = inputs.map(|id| id.and_then(|id| constant(network, id)));
    let inputs = inputs.collect();
    let mut call = Call::new(&prepared.node, network.opset, mode, inputs);
    call.version = prepared.version;
    let subgraphs = prepared.subgraphs.iter();
    // What a constant is computed with must not depend on who asks for it first: merging changes no bit.
    let bodies = subgraphs.map(|subgraph| Body::new(subgraph, mode, true, |id| constant(network, id)));
    call.bodies = bodies.collect();
    let outputs = execute(network, position, call)?;
    let mut constants = lock(&network.constants);
    for (id, value) in prepared.outputs.iter().zip(outputs) {
        if let Some(id) = id {
            constants.insert(*id, value);
        }
    }
    Ok(())
}

/// A value of this execution, or a constant.
pub fn find(network: &Network, values: &Values, id: ValueId) -> Option<Datum> {
    values.get(&id).cloned().or_else(|| constant(network, id))
}

/// Executes one node of a step.
pub fn node(
    network: &Network,
    key: &Key,
    position: usize,
    step: &Step,
    values: &mut Values,
    mode: Mode,
) -> Result<(), ComputeError> {
    let prepared = &network.nodes[position];
    let mut call = call(network, key.merge, position, mode, |id| find(network, values, id));
    // Constants are never among the values of one execution.
    let mut weights = prepared.inputs.iter().skip(1).flatten();
    if prepared.node.is("Conv") && weights.all(|id| !values.contains_key(id)) {
        call.packed = Some(&prepared.packed);
    }
    // Whoever holds a buffer alone may reuse it.
    if step.nodes.len() == 1 {
        for id in prepared.reads() {
            if step.dropped.contains(id) {
                values.remove(id);
            }
        }
    }
    let outputs = execute(network, position, call)?;
    for (id, value) in prepared.outputs.iter().zip(outputs) {
        if let Some(id) = id
            && !key.fed.contains(id)
        {
            values.insert(*id, value);
        }
    }
    Ok(())
}

/// The outputs of a node on the values that `find` gives.
pub fn compute(
    network: &Network,
    merge: bool,
    position: usize,
    mode: Mode,
    find: impl Fn(ValueId) -> Option<Datum>,
) -> Result<Vec<Datum>, ComputeError> {
    execute(network, position, call(network, merge, position, mode, find))
}

fn call<'n>(
    network: &'n Network,
    merge: bool,
    position: usize,
    mode: Mode,
    find: impl Fn(ValueId) -> Option<Datum>,
) -> Call<'n> {
    let prepared = &network.nodes[position];
    let inputs = prepared.inputs.iter().map(|id| id.and_then(&find)).collect();
    let mut call = Call::new(&prepared.node, network.opset, mode, inputs);
    call.version = prepared.version;
    call.position = position;
    let subgraphs = prepared.subgraphs.iter();
    call.bodies = subgraphs
        .map(|subgraph| Body::new(subgraph, mode, merge, &find))
        .collect();
    call
}

/// Executes a step of several nodes at once; `false` where it must go node by node.
fn merged(network: &Network, step: &Step, values: &mut Values) -> Result<bool, ComputeError> {
    let first = &network.nodes[step.nodes[0]];
    let float = |id: ValueId| match values.get(&id).cloned().or_else(|| constant(network, id)) {
        Some(Datum::Tensor(Value::Float(float))) => Some(float),
        _ => None,
    };
    let mut finish = operators::Fused::default();
    let mut previous = first.outputs[0];
    for &position in &step.nodes[1..] {
        let prepared = &network.nodes[position];
        match prepared.node.op_type() {
            "BatchNormalization" => {
                let parameters = prepared.inputs[1..].iter().flatten();
                let parameters: Option<Vec<_>> = parameters.map(|&id| float(id)).collect();
                let Some(parameters) = parameters else {
                    return Ok(false);
                };
                let epsilon = prepared.node.float("epsilon").unwrap_or(1e-5);
                finish.affine = operators::running_affine(parameters, epsilon);
                if finish.affine.is_none() {
                    return Ok(false);
                }
            }
            "Add" => {
                let other = prepared.inputs.iter().find(|&&id| id != previous);
                let Some(add) = other.copied().flatten().and_then(float) else {
                    return Ok(false);
                };
                finish.add = Some(add);
            }
            _ => finish.relu = true,
        }
        previous = prepared.outputs[0];
    }
    let inputs: Vec<Option<Datum>> = first
        .inputs
        .iter()
        .map(|id| id.and_then(float).map(|float| Datum::Tensor(Value::Float(float))))
        .collect();
    if inputs
        .iter()
        .zip(&first.inputs)
        .any(|(value, id)| value.is_some() != id.is_some())
    {
        return Ok(false);
    }
    let mut call = Call::new(&first.node, network.opset, Mode::default(), inputs);
    let mut weights = first.inputs.iter().skip(1).flatten();
    if weights.all(|id| !values.contains_key(id)) {
        call.packed = Some(&first.packed);
    }
    let result = guarded(network, step.nodes[0], || {
        operators::fused_convolution(&mut call, finish)
    })?;
    match (result, previous) {
        (Some(result), Some(id)) => {
            values.insert(id, Datum::Tensor(Value::Float(result)));
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Executes an operator, and checks what it returns.
fn execute(network: &Network, position: usize, mut call: Call<'_>) -> Result<Vec<Datum>, ComputeError> {
    let prepared = &network.nodes[position];
    let operator = match &prepared.operator {
        Ok(operator) => operator,
        Err(refusal) => return Err(refusal.clone().into()),
    };
    let outputs = guarded(network, position, || {
        versions::aligned(&mut call)?;
        match operator.run {
            Run::Tensors(run) => {
                call.tensors_alone()?;
                Ok(run(&mut call)?.into_iter().map(Datum::Tensor).collect::<Vec<_>>())
            }
            Run::Data(run) => run(&mut call),
        }
    })?;
    let named = prepared.outputs.iter().rposition(Option::is_some);
    if let Some(last) = named
        && outputs.len() <= last
    {
        return Err(call.unsupported(format!("output {last} is not computed here")));
    }
    let outputs: Vec<Datum> = outputs
        .into_iter()
        .map(|value| match value {
            Datum::Tensor(Value::Float(float)) => Datum::Tensor(Value::Float(canonical(float))),
            other => other,
        })
        .collect();
    let Some(narrow) = call.narrow() else {
        return Ok(outputs);
    };
    outputs
        .into_iter()
        .map(|value| match value {
            Datum::Tensor(Value::Float(float)) if is_tracked(&float) => {
                Err(call.unsupported(format!("has no derivative through {narrow}")))
            }
            Datum::Tensor(value @ Value::Float(_)) => operators::cast(&value.into_tensor(), narrow)
                .map(|tensor| Datum::Tensor(Value::Host(tensor)))
                .map_err(|message| call.wrong(message)),
            other => Ok(other),
        })
        .collect()
}

/// Turns a panic inside an operator into an error that names the node.
///
/// Operators check what they pass on; this is for what a library refuses without saying so before.
pub fn guarded<R>(
    network: &Network,
    position: usize,
    run: impl FnOnce() -> Result<R, ComputeError>,
) -> Result<R, ComputeError> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no reason given");
        let node = &network.nodes[position].node;
        Err(ComputeError::new(
            ErrorKind::Internal,
            format!("node `{}` ({})", node.label(), node.op_type()),
            format!("failed: {message}"),
        ))
    })
}
