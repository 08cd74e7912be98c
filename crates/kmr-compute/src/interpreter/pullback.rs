//! Vector–Jacobian products, on Burn's tape.

use std::collections::{BTreeMap, BTreeSet};

use burn::backend::{AutodiffBackend, Dispatch, DispatchDevice, Shape, TensorData, ops::FloatTensorOps};
use kmr_model::{DType, Tensor};

use super::{
    B, Datum, Float, Network, Value, ValueId, execution,
    plan::Key,
    value::{device, from_vec, into_vec, is_tracked, reshape, shape, upload},
};
use crate::{ComputeError, ErrorKind, Feeds, Mode, Pullback};

/// The tape of one execution.
struct Tape {
    outputs: Vec<Tensor>,
    recorded: Vec<Value>,
    leaves: BTreeMap<String, Float>,
}

pub fn new(
    network: &Network,
    feeds: &Feeds,
    outputs: &[&str],
    trainable: &[&str],
    mode: Mode,
) -> Result<Box<dyn Pullback>, ComputeError> {
    let (mut values, asked) = execution::prepare(network, feeds, outputs)?;
    let tape = DispatchDevice::autodiff(device());
    let leaf = |value: Float| {
        let shape = shape(&value);
        let recorded = B::float_from_data(TensorData::new(into_vec(value), shape), &tape);
        B::float_set_require_grad(recorded, true)
    };
    let mut leaves: BTreeMap<ValueId, Float> = BTreeMap::new();
    let mut inner: BTreeSet<ValueId> = BTreeSet::new();
    for name in trainable {
        let id = network.find(name)?;
        let value = match (values.remove(&id), &network.initial[id]) {
            (Some(value), _) => execution::exchanged(network, id, value)?,
            (None, Some(tensor)) => Value::from_tensor((**tensor).clone()),
            (None, None) => {
                inner.insert(id);
                continue;
            }
        };
        let Value::Float(value) = value else {
            return Err(ComputeError::new(
                ErrorKind::Shape,
                format!("value `{name}`"),
                format!("is {}; derivatives are by float32 values", value.dtype()),
            ));
        };
        let value = leaf(value);
        values.insert(id, Datum::Tensor(Value::Float(value.clone())));
        leaves.insert(id, value);
    }
    let key = Key {
        fed: values.keys().copied().collect(),
        outputs: asked.clone(),
        trainable: inner.clone(),
        merge: false,
    };
    // The derivative by an inner value is that by zeros added to it.
    let values = execution::run(network, &key, values, mode, |id, value| match value {
        Datum::Tensor(Value::Float(float)) if inner.contains(&id) => {
            let shape = shape(&float);
            let zeros = leaf(from_vec(vec![0.0; shape.iter().product()], shape));
            leaves.insert(id, zeros.clone());
            Datum::Tensor(Value::Float(B::float_add(float, zeros)))
        }
        other => other,
    })?;
    let values = execution::collect(network, values, &asked)?;
    let values = asked.iter().zip(values);
    let recorded = values.map(|(&id, value)| execution::exchanged(network, id, value));
    let recorded = recorded.collect::<Result<Vec<Value>, _>>()?;
    let mut named = BTreeMap::new();
    for name in trainable {
        let leaf = leaves.get(&network.find(name)?).cloned().ok_or_else(|| {
            ComputeError::new(
                ErrorKind::Shape,
                format!("value `{name}`"),
                "is not float32; derivatives are by float32 values",
            )
        })?;
        named.insert((*name).to_owned(), leaf);
    }
    Ok(Box::new(Tape {
        outputs: recorded.iter().cloned().map(Value::into_tensor).collect(),
        recorded,
        leaves: named,
    }))
}

impl Pullback for Tape {
    fn outputs(&self) -> &[Tensor] {
        &self.outputs
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
        let mut sum: Option<Float> = None;
        for (position, (cotangent, recorded)) in cotangents.iter().zip(&self.recorded).enumerate() {
            let expected = self.outputs[position].shape();
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
            let Value::Float(float) = recorded else {
                continue;
            };
            if !is_tracked(float) || cotangent.is_empty() {
                continue;
            }
            let length = cotangent.len();
            let flat = reshape(float.clone(), vec![length]);
            let weight = reshape(upload(cotangent), vec![length]);
            let product = B::float_sum(B::float_mul(flat, weight));
            let product = B::float_reshape(product, Shape::from(vec![1]));
            sum = Some(match sum {
                Some(sum) => B::float_add(sum, product),
                None => product,
            });
        }
        let gradients = sum.map(<Dispatch as AutodiffBackend>::backward);
        Ok(self
            .leaves
            .iter()
            .map(|(name, leaf)| {
                let gradient = gradients
                    .as_ref()
                    .and_then(|gradients| <Dispatch as AutodiffBackend>::grad(leaf, gradients));
                let tensor = match gradient {
                    Some(gradient) => Value::Float(gradient).into_tensor(),
                    None => {
                        let shape = shape(leaf);
                        Tensor::from_vec(shape.clone(), vec![0.0_f32; shape.iter().product()])
                    }
                };
                (name.clone(), tensor)
            })
            .collect())
    }
}
