//! Cutting tensors of any type along an axis, and joining them.

use burn::{backend::ops::FloatTensorOps, tensor::Slice};
use kmr_model::Tensor;

use super::strided;
use crate::interpreter::{B, Value, canonical, reshape};

/// The elements `start..start + length` along `axis`, which lie inside the value.
pub fn cut(value: &Value, axis: usize, start: usize, length: usize) -> Result<Value, String> {
    let shape = value.shape();
    let mut target = shape.clone();
    target[axis] = length;
    match value {
        Value::Float(_) if target.contains(&0) => Ok(Value::from_tensor(Tensor::from_vec(target, Vec::<f32>::new()))),
        Value::Float(float) => {
            let slices = shape.iter().enumerate().map(|(at, &size)| {
                let (start, length) = if at == axis { (start, length) } else { (0, size) };
                Slice::new(start as isize, Some((start + length) as isize), 1)
            });
            let slices: Vec<Slice> = slices.collect();
            Ok(Value::Float(canonical(B::float_slice(float.clone(), &slices))))
        }
        Value::Host(tensor) => {
            let size = strided::element_size(tensor.dtype())?;
            let inner = shape[axis + 1..].iter().product::<usize>() * size;
            let slabs: usize = shape[..axis].iter().product();
            let mut bytes = Vec::with_capacity(slabs * length * inner);
            for slab in 0..slabs {
                let start = (slab * shape[axis] + start) * inner;
                bytes.extend_from_slice(&tensor.bytes()[start..][..length * inner]);
            }
            let tensor = Tensor::new(tensor.dtype(), target, bytes.into());
            Ok(Value::Host(tensor.map_err(|error| error.to_string())?))
        }
    }
}

/// One value, whose parts along `axis` are `values`.
pub fn join(values: Vec<Value>, axis: usize) -> Result<Value, String> {
    let Some(first) = values.first() else {
        return Err("there is nothing to join".to_owned());
    };
    let (dtype, mut shape) = (first.dtype(), first.shape());
    if axis >= shape.len() {
        return Err(format!("axis {axis} does not exist at rank {}", shape.len()));
    }
    shape[axis] = 0;
    for value in &values {
        let mut own = value.shape();
        if value.dtype() != dtype || own.len() != shape.len() {
            let (own, other) = (value.dtype(), value.shape());
            return Err(format!("joins {dtype} {:?} and {own} {other:?}", first.shape()));
        }
        shape[axis] += std::mem::take(&mut own[axis]);
        let joined = std::mem::take(&mut shape[axis]);
        if own != shape {
            return Err(format!("joins shapes {:?} and {:?}", first.shape(), value.shape()));
        }
        shape[axis] = joined;
    }
    let floats = values.iter().map(|value| match value {
        Value::Float(float) if !value.shape().contains(&0) => Some(float.clone()),
        _ => None,
    });
    if matches!(first, Value::Float(_)) && !shape.contains(&0) {
        let floats = floats.flatten().collect();
        return Ok(Value::Float(canonical(B::float_cat(floats, axis))));
    }
    let size = strided::element_size(dtype)?;
    let tensors: Vec<Tensor> = values.into_iter().map(Value::into_tensor).collect();
    let slabs: usize = shape[..axis].iter().product();
    let mut bytes = Vec::with_capacity(tensors.iter().map(Tensor::byte_len).sum());
    for slab in 0..slabs {
        for tensor in &tensors {
            let length = tensor.shape()[axis..].iter().product::<usize>() * size;
            bytes.extend_from_slice(&tensor.bytes()[slab * length..][..length]);
        }
    }
    let tensor = Tensor::new(dtype, shape, bytes.into()).map_err(|error| error.to_string())?;
    Ok(Value::from_tensor(tensor))
}

/// One value, whose elements along the new `axis` are `values`.
pub fn stack(values: Vec<Value>, axis: usize) -> Result<Value, String> {
    let rank = values.first().map_or(0, |value| value.shape().len());
    if axis > rank {
        return Err(format!("axis {axis} does not exist at rank {}", rank + 1));
    }
    let values = values.into_iter().map(|value| {
        let mut shape = value.shape();
        shape.insert(axis.min(shape.len()), 1);
        shaped(value, shape)
    });
    join(values.collect::<Result<_, _>>()?, axis)
}

/// The element at `position` along `axis`, without the axis.
pub fn element(value: &Value, axis: usize, position: usize) -> Result<Value, String> {
    let value = cut(value, axis, position, 1)?;
    let mut shape = value.shape();
    shape.remove(axis);
    shaped(value, shape)
}

/// The value under another shape with as many elements.
pub fn shaped(value: Value, shape: Vec<usize>) -> Result<Value, String> {
    match value {
        Value::Float(float) => Ok(Value::Float(reshape(float, shape))),
        Value::Host(tensor) => {
            let tensor = tensor.reshaped(shape).map_err(|error| error.to_string())?;
            Ok(Value::Host(tensor))
        }
    }
}
