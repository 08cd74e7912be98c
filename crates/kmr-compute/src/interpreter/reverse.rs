//! Vector–Jacobian products: every node on the way from a trainable value records its derivative, and a pull walks
//! them back.
//!
//! A node's derivative is the one that its operator has here, see [`Recorded`], or that of Burn's tape over this node
//! alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use burn::backend::{AutodiffBackend, Dispatch, ops::FloatTensorOps};
use kmr_model::{DType, Tensor};

use super::{
    B, Call, Datum, Float, Network, Value, ValueId,
    execution::{self, Values},
    plan::Key,
    value::{canonical, from_vec, into_vec, is_tracked, plain, reshape, shape, upload, with_slice},
    versions,
};
use crate::{BatchNorm, ComputeError, ErrorKind, Feeds, Mode, Pullback};

/// From the cotangents of an operator's outputs to those of its inputs, each by position; `None` is zero.
pub type Backward = Box<dyn FnOnce(Vec<Option<Float>>) -> Result<Vec<Option<Float>>, ComputeError> + Send>;

/// What an operator gives that knows its own derivative.
pub struct Recorded {
    /// Its outputs, as without derivatives, to the last bit.
    pub outputs: Vec<Value>,
    /// Its derivative.
    pub backward: Backward,
    /// Inputs that training moves otherwise than by gradients, with their new values: running statistics.
    pub moved: Vec<(usize, Float)>,
}

impl Recorded {
    /// One output, with the cotangents of inputs by that of the output.
    pub fn one(
        output: Float,
        backward: impl FnOnce(Float) -> Result<Vec<Option<Float>>, ComputeError> + Send + 'static,
    ) -> Self {
        Self::value(Value::Float(output), backward)
    }

    /// The same for an output that may be an integer, whose cotangent is of real numbers all the same.
    pub fn value(
        output: Value,
        backward: impl FnOnce(Float) -> Result<Vec<Option<Float>>, ComputeError> + Send + 'static,
    ) -> Self {
        Self {
            outputs: vec![output],
            backward: Box::new(|cotangents| match cotangents.into_iter().next().flatten() {
                Some(cotangent) => backward(cotangent),
                None => Ok(Vec::new()),
            }),
            moved: Vec::new(),
        }
    }
}

/// A kernel that refuses sizes which were checked before.
pub fn kernel_error(error: kmr_kernels::GeometryError) -> ComputeError {
    ComputeError::new(ErrorKind::Internal, "", error.to_string())
}

/// What a node on the way has recorded.
struct Entry {
    outputs: Vec<Option<ValueId>>,
    pull: Pull,
}

/// From cotangents of a node's outputs to those of what it reads.
type Pull = Box<dyn FnOnce(Vec<Option<Float>>) -> Result<Vec<(ValueId, Float)>, ComputeError> + Send>;

/// One execution, ready to be walked back.
struct Record {
    outputs: Vec<Tensor>,
    asked: Vec<ValueId>,
    entries: Vec<Entry>,
    trainable: Vec<(String, ValueId, Vec<usize>)>,
    moved: Vec<(String, Tensor)>,
}

pub fn new(
    network: &Network,
    feeds: &Feeds,
    outputs: &[&str],
    trainable: &[&str],
    mode: Mode,
) -> Result<Box<dyn Pullback>, ComputeError> {
    let (mut values, asked) = execution::prepare(network, feeds, outputs)?;
    let mut wanted: Vec<(String, ValueId, Vec<usize>)> = Vec::with_capacity(trainable.len());
    let mut active: BTreeSet<ValueId> = BTreeSet::new();
    let mut inner: BTreeSet<ValueId> = BTreeSet::new();
    for name in trainable {
        let id = network.find(name)?;
        active.insert(id);
        let value = match (values.get(&id), &network.initial[id]) {
            (Some(value), _) => Some(execution::exchanged(network, id, value.clone())?),
            (None, Some(tensor)) => Some(Value::from_tensor((**tensor).clone())),
            (None, None) => None,
        };
        let shape = match &value {
            Some(value) => float_shape(name, value)?,
            None => {
                inner.insert(id);
                Vec::new()
            }
        };
        // What follows a trainable value is not constant, so the value must be among those that are given.
        if let Some(value) = value {
            values.insert(id, Datum::Tensor(value));
        }
        wanted.push(((*name).to_owned(), id, shape));
    }
    let key = Key {
        fed: values.keys().copied().collect(),
        outputs: asked.clone(),
        trainable: inner,
        merge: false,
    };
    let mut recorder = Recorder {
        network,
        mode,
        active,
        entries: Vec::new(),
        moved: Vec::new(),
    };
    let plan = execution::plan(network, &key);
    execution::begin(network, &plan, mode)?;
    for step in &plan.steps {
        for &position in &step.nodes {
            if recorder.on_the_way(position) {
                recorder.node(&key, position, &mut values)?;
            } else {
                execution::node(network, &key, position, step, &mut values, mode)?;
            }
        }
        for dropped in &step.dropped {
            values.remove(dropped);
        }
    }
    for (name, id, shape) in &mut wanted {
        if let Some(value) = values.get(id) {
            *shape = float_shape(name, &execution::exchanged(network, *id, value.clone())?)?;
        }
    }
    let Recorder { entries, moved, .. } = recorder;
    let values = execution::collect(network, values, &asked)?;
    let results = asked.iter().zip(values);
    let results = results.map(|(&id, value)| execution::exchanged(network, id, value).map(Value::into_tensor));
    Ok(Box::new(Record {
        outputs: results.collect::<Result<_, _>>()?,
        asked,
        entries,
        trainable: wanted,
        moved,
    }))
}

fn float_shape(name: &str, value: &Value) -> Result<Vec<usize>, ComputeError> {
    match value {
        Value::Float(float) => Ok(shape(float)),
        Value::Host(tensor) => Err(ComputeError::new(
            ErrorKind::Shape,
            format!("value `{name}`"),
            format!("is {}; derivatives are by float32 values", tensor.dtype()),
        )),
    }
}

/// Executes nodes and keeps their derivatives.
struct Recorder<'n> {
    network: &'n Network,
    mode: Mode,
    /// Values that depend on trainable ones, and these themselves.
    active: BTreeSet<ValueId>,
    entries: Vec<Entry>,
    moved: Vec<(String, Tensor)>,
}

impl Recorder<'_> {
    /// Whether the node at `position` must be executed here.
    fn on_the_way(&self, position: usize) -> bool {
        let prepared = &self.network.nodes[position];
        let moves = self.mode.batch_norm == BatchNorm::Batch && prepared.node.is("BatchNormalization");
        moves || prepared.reads().any(|id| self.active.contains(id))
    }

    fn node(&mut self, key: &Key, position: usize, values: &mut Values) -> Result<(), ComputeError> {
        let made = match self.own(position, values)? {
            Some(made) => made,
            None => self.taped(key, position, values)?,
        };
        for (id, value) in self.network.nodes[position].outputs.iter().zip(made) {
            if let Some(id) = id
                && !key.fed.contains(id)
            {
                values.insert(*id, value);
            }
        }
        Ok(())
    }

    /// Executes a node by an operator that knows its derivative; `None` where it does not for these inputs.
    fn own(&mut self, position: usize, values: &Values) -> Result<Option<Vec<Datum>>, ComputeError> {
        let network = self.network;
        let prepared = &network.nodes[position];
        let record = prepared.operator.as_ref().ok().and_then(|operator| operator.record);
        let Some(record) = record.filter(|_| versions::means_the_same(&prepared.node, network.opset)) else {
            return Ok(None);
        };
        let inputs: Vec<Option<Datum>> = prepared
            .inputs
            .iter()
            .map(|id| id.and_then(|id| execution::find(network, values, id)))
            .collect();
        let narrow = |datum: &Datum| matches!(datum, Datum::Tensor(Value::Host(tensor)) if tensor.dtype().is_float());
        if inputs.iter().flatten().any(narrow) {
            return Ok(None);
        }
        let needs: Vec<bool> = prepared
            .inputs
            .iter()
            .map(|id| id.is_some_and(|id| self.active.contains(&id)))
            .collect();
        let mut call = Call::new(&prepared.node, network.opset, self.mode, inputs);
        call.version = prepared.version;
        call.position = position;
        let recorded = execution::guarded(network, position, || {
            call.tensors_alone()?;
            record(&mut call, &needs)
        })?;
        let Some(recorded) = recorded else {
            return Ok(None);
        };
        for (input, float) in recorded.moved {
            if let Some(id) = prepared.inputs[input] {
                let tensor = Value::Float(float).into_tensor();
                self.moved.push((network.names[id].clone(), tensor));
            }
        }
        if needs.contains(&true) {
            self.active.extend(prepared.outputs.iter().flatten());
            let inputs = prepared.inputs.clone();
            self.entries.push(Entry {
                outputs: prepared.outputs.clone(),
                pull: Box::new(move |cotangents| {
                    let pulled = (recorded.backward)(cotangents)?;
                    let pulled = inputs.into_iter().zip(pulled);
                    Ok(pulled.filter_map(|(id, cotangent)| Some((id?, cotangent?))).collect())
                }),
            });
        }
        Ok(Some(recorded.outputs.into_iter().map(Datum::Tensor).collect()))
    }

    /// Executes a node on Burn's tape.
    fn taped(&mut self, key: &Key, position: usize, values: &Values) -> Result<Vec<Datum>, ComputeError> {
        let network = self.network;
        let prepared = &network.nodes[position];
        let mut leaves: BTreeMap<ValueId, Float> = BTreeMap::new();
        for id in prepared.reads().filter(|id| self.active.contains(id)) {
            match execution::find(network, values, *id) {
                Some(Datum::Tensor(Value::Float(float))) => {
                    let recorded = <Dispatch as AutodiffBackend>::from_inner(float);
                    leaves.insert(*id, B::float_set_require_grad(recorded, true));
                }
                // Integers that QuantizeLinear made, whose cotangent would be lost without a word.
                Some(Datum::Tensor(Value::Host(_))) if !matches!(prepared.node.op_type(), "Shape" | "Size") => {
                    return Err(ComputeError::new(
                        ErrorKind::Unsupported,
                        format!("node `{}`", prepared.node.label()),
                        format!(
                            "operator `{}` has no derivative by the integers of `{}`",
                            prepared.node.op_type(),
                            network.names[*id]
                        ),
                    ));
                }
                Some(Datum::Tensor(Value::Host(_))) | None => {}
                // Fed or constant: what depends on trainable values is refused where it is made.
                Some(Datum::Sequence(_) | Datum::Optional(_)) => {}
            }
        }
        let find = |id: ValueId| match leaves.get(&id) {
            Some(leaf) => Some(Datum::Tensor(Value::Float(leaf.clone()))),
            None => execution::find(network, values, id),
        };
        let made = execution::compute(network, key.merge, position, self.mode, find)?;
        let mut recorded: Vec<Option<Float>> = Vec::with_capacity(made.len());
        let mut results = Vec::with_capacity(made.len());
        for datum in made {
            match datum {
                Datum::Tensor(Value::Float(float)) if is_tracked(&float) => {
                    results.push(Datum::Tensor(Value::Float(canonical(plain(float.clone())))));
                    recorded.push(Some(float));
                }
                other => {
                    if other.holds(&is_tracked) {
                        return Err(ComputeError::new(
                            ErrorKind::Unsupported,
                            format!("node `{}`", prepared.node.label()),
                            format!("gives {}, through which there is no derivative", other.kind()),
                        ));
                    }
                    results.push(other);
                    recorded.push(None);
                }
            }
        }
        let outputs = prepared.outputs.iter().zip(&recorded);
        let depend = outputs.filter(|(_, float)| float.is_some());
        self.active.extend(depend.filter_map(|(id, _)| *id));
        if recorded.iter().any(Option::is_some) {
            self.entries.push(Entry {
                outputs: prepared.outputs.clone(),
                pull: Box::new(move |cotangents| Ok(pull_tape(cotangents, recorded, leaves))),
            });
        }
        Ok(results)
    }
}

/// Walks back Burn's tape of one node.
fn pull_tape(
    cotangents: Vec<Option<Float>>,
    recorded: Vec<Option<Float>>,
    leaves: BTreeMap<ValueId, Float>,
) -> Vec<(ValueId, Float)> {
    let mut sum: Option<Float> = None;
    for (cotangent, recorded) in cotangents.into_iter().zip(recorded) {
        let (Some(cotangent), Some(recorded)) = (cotangent, recorded) else {
            continue;
        };
        // Burn's tape takes no product of tensors without axes.
        let length = vec![shape(&recorded).iter().product()];
        let product = B::float_mul(reshape(recorded, length.clone()), reshape(cotangent, length));
        let product = reshape(B::float_sum(product), vec![1]);
        sum = Some(match sum {
            Some(sum) => B::float_add(sum, product),
            None => product,
        });
    }
    let Some(sum) = sum else { return Vec::new() };
    let mut gradients = <Dispatch as AutodiffBackend>::backward(sum);
    let pulled = leaves.into_iter();
    pulled
        .filter_map(|(id, leaf)| Some((id, <Dispatch as AutodiffBackend>::grad_remove(&leaf, &mut gradients)?)))
        .collect()
}

impl Pullback for Record {
    fn outputs(&self) -> &[Tensor] {
        &self.outputs
    }

    fn moved(&self) -> &[(String, Tensor)] {
        &self.moved
    }

    fn pull(self: Box<Self>, cotangents: Vec<Tensor>) -> Result<BTreeMap<String, Tensor>, ComputeError> {
        if cotangents.len() != self.outputs.len() {
            return Err(ComputeError::new(
                ErrorKind::Shape,
                "",
                format!(
                    "expected a cotangent for each of {} outputs; got {}",
                    self.outputs.len(),
                    cotangents.len()
                ),
            ));
        }
        let mut sums: HashMap<ValueId, Float> = HashMap::new();
        for (position, (cotangent, output)) in cotangents.iter().zip(&self.outputs).enumerate() {
            let expected = output.shape();
            if cotangent.dtype() != DType::FLOAT || cotangent.shape() != expected {
                return Err(ComputeError::new(
                    ErrorKind::Shape,
                    format!("cotangent {position}"),
                    format!(
                        "is {} {:?}; expected float32 {expected:?}",
                        cotangent.dtype(),
                        cotangent.shape()
                    ),
                ));
            }
            if output.dtype() == DType::FLOAT && !cotangent.is_empty() {
                add(&mut sums, self.asked[position], upload(cotangent));
            }
        }
        let kept: BTreeSet<ValueId> = self.trainable.iter().map(|(_, id, _)| *id).collect();
        for entry in self.entries.into_iter().rev() {
            let take = |id: &Option<ValueId>| match id {
                Some(id) if kept.contains(id) => sums.get(id).cloned(),
                Some(id) => sums.remove(id),
                None => None,
            };
            let cotangents: Vec<Option<Float>> = entry.outputs.iter().map(take).collect();
            if cotangents.iter().all(Option::is_none) {
                continue;
            }
            for (id, cotangent) in (entry.pull)(cotangents)? {
                add(&mut sums, id, cotangent);
            }
        }
        let trainable = self.trainable.into_iter();
        Ok(trainable
            .map(|(name, id, shape)| {
                let gradient = match sums.get(&id) {
                    Some(gradient) => Value::Float(gradient.clone()).into_tensor(),
                    None => Tensor::from_vec(shape.clone(), vec![0.0_f32; shape.iter().product()]),
                };
                (name, gradient)
            })
            .collect())
    }
}

/// Adds a cotangent to those that the value has already.
fn add(sums: &mut HashMap<ValueId, Float>, id: ValueId, cotangent: Float) {
    let sum = match sums.remove(&id) {
        None => cotangent,
        Some(sum) => {
            let full = shape(&sum);
            let mut values = into_vec(sum);
            with_slice(cotangent, |added| {
                for (value, added) in values.iter_mut().zip(added) {
                    *value += added;
                }
            });
            from_vec(values, full)
        }
    };
    sums.insert(id, sum);
}
