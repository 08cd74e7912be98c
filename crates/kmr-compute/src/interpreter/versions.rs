//! Which versions of the standard operator set are executed, and what old versions did otherwise.
//!
//! Operators know the differences from version 7 on. Older files are executed where their operators mean the
//! same, or where a row here or [`align`] says how they differ.

use kmr_model::Node;

use super::{Datum, Value, reshape};
use crate::ComputeError;

/// The newest version whose operators are known.
pub const NEWEST: i64 = 28;
/// The version since which broadcasting is that of NumPy.
pub const BROADCASTING: i64 = 7;

/// Operators whose first versions are not executed, with the version from which on they are, and why.
const SINCE: &[(&str, i64, &str)] = &[
    ("Cast", 6, "names its type by a string"),
    ("Concat", 4, "has another default axis"),
    ("GRU", 7, "has other outputs"),
    ("GlobalLpPool", 2, "has another exponent"),
    ("LSTM", 7, "has other outputs"),
    ("LpPool", 2, "has another exponent"),
    ("Pad", 2, "names its sizes otherwise"),
    ("RNN", 7, "has other outputs"),
    ("Reshape", 5, "has its shape as an attribute"),
    ("Selu", 6, "has other default coefficients"),
    ("Split", 2, "has its sizes as an input"),
    ("Tile", 6, "repeats along one axis"),
    ("Upsample", 7, "has other attributes"),
];

/// Operators of two operands that broadcast otherwise before [`BROADCASTING`].
const BINARY: &[&str] = &[
    "Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor",
];

/// Why `node`, of the standard domain, is not executed at version `opset`, if it is not.
pub fn refusal(node: &Node, opset: i64) -> Option<String> {
    if opset > NEWEST {
        return Some(format!(
            "version {opset} of the operator set is newer than the newest known, {NEWEST}"
        ));
    }
    if opset < 1 {
        return Some("there is no such version of the operator set".to_owned());
    }
    let name = node.op_type();
    if let Some((_, since, why)) = SINCE.iter().find(|row| row.0 == name && opset < row.1) {
        return Some(format!("before version {since} it {why}"));
    }
    let trains = matches!(name, "BatchNormalization" | "Dropout") && opset < 7 && node.int("is_test").unwrap_or(0) == 0;
    if trains {
        return Some("without the attribute `is_test` it is in training mode".to_owned());
    }
    if name == "BatchNormalization" && opset < 9 && node.int("spatial") == Some(0) {
        return Some("statistics of each position (`spatial` = 0) are not known".to_owned());
    }
    None
}

/// Whether a node broadcasts as NumPy does, so that [`align`] changes nothing.
pub fn means_the_same(node: &Node, opset: i64) -> bool {
    opset >= BROADCASTING || !(BINARY.contains(&node.op_type()) || node.op_type() == "PRelu")
}

/// Gives operand 1 the shape that makes NumPy's broadcasting do what old versions did.
///
/// Binary operators then broadcast operand 1 alone, and only with the attribute `broadcast`: its dimensions lie
/// along those of operand 0 from `axis` on, by default the last ones. A slope of PRelu lies along axis 1.
///
/// # Errors
/// What is wrong with the shapes.
pub fn align(node: &Node, opset: i64, inputs: &mut [Option<Datum>]) -> Result<(), String> {
    if means_the_same(node, opset) {
        return Ok(());
    }
    let binary = BINARY.contains(&node.op_type());
    let [Some(Datum::Tensor(first)), Some(Datum::Tensor(second)), ..] = inputs else {
        return Ok(());
    };
    let (full, shape) = (first.shape(), second.shape());
    let axis = if !binary {
        // One slope for all, or one for each channel.
        if shape.len() != 1 || shape == [1] {
            return Ok(());
        }
        1
    } else if node.int("broadcast").unwrap_or(0) == 0 {
        return if full == shape {
            Ok(())
        } else {
            Err(format!(
                "shapes {full:?} and {shape:?} differ, and it does not broadcast"
            ))
        };
    } else {
        match node.int("axis") {
            None => return Ok(()),
            Some(axis) if axis < 0 => usize::try_from(axis + full.len() as i64),
            Some(axis) => usize::try_from(axis),
        }
        .unwrap_or(usize::MAX)
    };
    let behind = axis
        .checked_add(shape.len())
        .and_then(|end| full.len().checked_sub(end));
    let behind = behind.ok_or_else(|| format!("shape {shape:?} does not lie within {full:?} from axis {axis} on"))?;
    let mut aligned = shape;
    aligned.extend(std::iter::repeat_n(1, behind));
    let value = match second.clone() {
        Value::Float(float) => Value::Float(reshape(float, aligned)),
        Value::Host(tensor) => Value::Host(tensor.reshaped(aligned).map_err(|error| error.to_string())?),
    };
    *second = value;
    Ok(())
}

/// [`align`], as an error of the call.
pub fn aligned(call: &mut super::Call<'_>) -> Result<(), ComputeError> {
    let (node, opset) = (call.node, call.opset);
    align(node, opset, call.inputs_mut()).map_err(|message| call.wrong(message))
}
