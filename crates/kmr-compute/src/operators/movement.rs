//! Moving elements by a list of where each comes from: the one path of all operators that do not compute.

use burn::backend::ops::FloatTensorOps;
use kmr_model::{DType, Tensor};

use super::strided::{self, Cells};
use crate::{
    ComputeError,
    interpreter::{B, Call, Float, Value, from_vec, indices, is_tracked, reshape, with_slice},
};

/// The elements at `from` of all `sources`, which count on from one to the next, under `shape`.
///
/// Derivatives go back the same way. Positions must exist.
pub fn collect(
    call: &Call<'_>,
    sources: Vec<Value>,
    shape: Vec<usize>,
    from: Vec<usize>,
) -> Result<Value, ComputeError> {
    let Some(dtype) = sources.first().map(Value::dtype) else {
        return Err(call.wrong("has no inputs"));
    };
    if let Some(other) = sources.iter().map(Value::dtype).find(|&other| other != dtype) {
        return Err(call.wrong(format!("mixes {dtype} and {other}")));
    }
    if dtype == DType::FLOAT {
        let floats = sources.into_iter().filter_map(|source| match source {
            Value::Float(float) => Some(float),
            _ => None,
        });
        return Ok(Value::Float(pick(floats.collect(), shape, from)));
    }
    let wrong = |message: String| call.unsupported(message);
    let mut starts = Vec::with_capacity(sources.len());
    let mut cells = Vec::with_capacity(sources.len());
    let mut end = 0;
    for source in sources {
        let tensor = source.into_tensor();
        starts.push(end);
        end += tensor.len();
        cells.push(Cells::new(&tensor).map_err(wrong)?);
    }
    let mut bytes = Vec::with_capacity(from.len() * cells[0].size);
    for position in from {
        let source = starts.partition_point(|&start| start <= position) - 1;
        bytes.extend_from_slice(cells[source].get(position - starts[source]));
    }
    Cells::tensor(dtype, shape, bytes).map(Value::Host).map_err(wrong)
}

fn pick(floats: Vec<Float>, shape: Vec<usize>, from: Vec<usize>) -> Float {
    if from.is_empty() {
        return from_vec(Vec::new(), shape);
    }
    if !floats.iter().any(is_tracked) {
        // Each source is read where it lies.
        if let [float] = floats.as_slice() {
            let values = with_slice(float.clone(), |values| from.iter().map(|&at| values[at]).collect());
            return from_vec(values, shape);
        }
        let mut all = Vec::new();
        for float in floats {
            with_slice(float, |values| all.extend_from_slice(values));
        }
        return from_vec(from.iter().map(|&at| all[at]).collect(), shape);
    }
    let flat = floats.into_iter().map(|float| {
        let length = crate::interpreter::shape(&float).iter().product();
        (length, reshape(float, vec![length]))
    });
    let mut flat: Vec<Float> = flat.filter(|&(length, _)| length > 0).map(|(_, float)| float).collect();
    let flat = if flat.len() == 1 {
        flat.remove(0)
    } else {
        B::float_cat(flat, 0)
    };
    let from = from.into_iter().map(|at| at as i64).collect();
    reshape(B::float_select(flat, 0, indices(from)), shape)
}

/// For each axis, the index in the source of each index of the result; `None` takes the fill.
pub type AxisMaps = Vec<Vec<Option<usize>>>;

/// The value with each axis mapped by itself; elements that an axis maps to nothing are `fill`, one
/// element, or zero.
pub fn map_axes(call: &Call<'_>, value: Value, maps: &AxisMaps, fill: Option<Value>) -> Result<Value, ComputeError> {
    const NOWHERE: usize = usize::MAX;
    let source = value.shape();
    let count: usize = source.iter().product();
    let shape: Vec<usize> = maps.iter().map(Vec::len).collect();
    let total = super::host::count(call, &shape)?;
    let mut from = Vec::with_capacity(total.min(1));
    if total > 0 {
        from.push(0);
    }
    for (map, stride) in maps.iter().zip(strided::strides(&source)) {
        let mut next = Vec::with_capacity(from.len() * map.len());
        for &base in &from {
            next.extend(map.iter().map(|index| match index {
                Some(index) if base != NOWHERE => base + index * stride as usize,
                _ => NOWHERE,
            }));
        }
        from = next;
    }
    if !from.contains(&NOWHERE) {
        return collect(call, vec![value], shape, from);
    }
    for at in &mut from {
        if *at == NOWHERE {
            *at = count;
        }
    }
    let fill = match fill {
        Some(fill) if fill.shape().iter().product::<usize>() == 1 => fill,
        Some(fill) => return Err(call.wrong(format!("fills with {:?}", fill.shape()))),
        None => zero(call, value.dtype())?,
    };
    collect(call, vec![value, fill], shape, from)
}

/// The zero of a type, as a value of rank 0.
pub fn zero(call: &Call<'_>, dtype: DType) -> Result<Value, ComputeError> {
    super::cast::converted(call, &Tensor::scalar(0_u8), dtype).map(Value::from_tensor)
}
