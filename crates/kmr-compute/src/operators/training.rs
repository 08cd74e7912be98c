//! One step of an optimizer, from the preview of ONNX's training operators.

use super::{
    Operator, Run,
    reals::{Reals, number, rounded},
};
use crate::{
    ComputeError,
    interpreter::{Call, Outputs},
};

const fn training(name: &'static str, run: fn(&mut Call<'_>) -> Outputs) -> Operator {
    Operator {
        name,
        domain: "ai.onnx.preview.training",
        run: Run::Tensors(run),
        record: None,
    }
}

pub const OPERATORS: &[Operator] = &[
    training("Adagrad", adagrad),
    training("Momentum", momentum),
    training("Adam", adam),
];

fn attribute(call: &Call<'_>, name: &str, default: f32) -> f64 {
    call.float_attribute(name, default).into()
}

/// An attribute that must be given.
fn required(call: &Call<'_>, name: &str) -> Result<f64, ComputeError> {
    let value = call.node.float(name);
    Ok(value
        .ok_or_else(|| call.wrong(format!("attribute `{name}` is missing")))?
        .into())
}

/// Applies `update` to the elements of `N` tensors of each optimized one, the parameter and its gradient first.
/// It returns the parameter and the states anew; outputs come in groups, first all parameters.
fn each<const N: usize>(call: &mut Call<'_>, update: impl Fn([f64; N]) -> [f64; N]) -> Outputs {
    let given = call.input_count().saturating_sub(2);
    if given == 0 || !given.is_multiple_of(N) {
        return Err(call.wrong(format!("{given} tensors are no multiple of {N}")));
    }
    let count = given / N;
    // Outputs have no gradients.
    let mut groups: Vec<Vec<_>> = (0..N).map(|_| Vec::new()).collect();
    for number in 0..count {
        let mut tensors = Vec::with_capacity(N);
        for group in 0..N {
            tensors.push(Reals::new(call, 2 + group * count + number)?);
        }
        let shape = tensors[0].shape.clone();
        if tensors.iter().any(|tensor| tensor.shape != shape) {
            return Err(call.wrong(format!(
                "a parameter of {shape:?} with another shape's gradient or state"
            )));
        }
        let mut results: Vec<Vec<f64>> = vec![Vec::new(); N];
        for at in 0..tensors[0].values.len() {
            let updated = update(std::array::from_fn(|group| tensors[group].values[at]));
            for (result, value) in results.iter_mut().zip(updated) {
                result.push(value);
            }
        }
        for (group, result) in results.into_iter().enumerate() {
            groups[group].push(rounded(call, tensors[0].dtype, shape.clone(), result)?);
        }
    }
    groups.remove(1);
    Ok(groups.into_iter().flatten().collect())
}

fn adagrad(call: &mut Call<'_>) -> Outputs {
    let (rate, step) = (number(call, 0)?, number(call, 1)?);
    let decay = attribute(call, "decay_factor", 0.0);
    let epsilon = attribute(call, "epsilon", 1e-6);
    let norm = attribute(call, "norm_coefficient", 0.0);
    let rate = rate / (1.0 + step * decay);
    each(call, |[x, gradient, squares]| {
        let gradient = norm * x + gradient;
        let squares = squares + gradient * gradient;
        [x - rate * gradient / (squares.sqrt() + epsilon), gradient, squares]
    })
}

fn momentum(call: &mut Call<'_>) -> Outputs {
    let (rate, step) = (number(call, 0)?, number(call, 1)?);
    let (alpha, beta) = (required(call, "alpha")?, required(call, "beta")?);
    let norm = required(call, "norm_coefficient")?;
    let nesterov = match call.node.string("mode").unwrap_or_default() {
        "standard" => false,
        "nesterov" => true,
        other => return Err(call.wrong(format!("attribute `mode` is `{other}`"))),
    };
    let beta = if step > 0.0 { beta } else { 1.0 };
    each(call, |[x, gradient, velocity]| {
        let gradient = norm * x + gradient;
        let velocity = alpha * velocity + beta * gradient;
        let change = if nesterov {
            gradient + alpha * velocity
        } else {
            velocity
        };
        [x - rate * change, gradient, velocity]
    })
}

fn adam(call: &mut Call<'_>) -> Outputs {
    let (rate, step) = (number(call, 0)?, number(call, 1)?);
    let (alpha, beta) = (attribute(call, "alpha", 0.9), attribute(call, "beta", 0.999));
    // The specification's default is not that of its own cases.
    let epsilon = call.node.float("epsilon");
    let epsilon = epsilon.ok_or_else(|| call.unsupported("the default of `epsilon` is not certain"))?;
    let epsilon = f64::from(epsilon);
    let norm = attribute(call, "norm_coefficient", 0.0);
    let after = attribute(call, "norm_coefficient_post", 0.0);
    let rate = if step > 0.0 {
        rate * (1.0 - beta.powf(step)).sqrt() / (1.0 - alpha.powf(step))
    } else {
        rate
    };
    each(call, |[x, gradient, mean, squares]| {
        let gradient = norm * x + gradient;
        let mean = alpha * mean + (1.0 - alpha) * gradient;
        let squares = beta * squares + (1.0 - beta) * gradient * gradient;
        let x = x - rate * mean / (squares.sqrt() + epsilon);
        [(1.0 - after) * x, gradient, mean, squares]
    })
}
