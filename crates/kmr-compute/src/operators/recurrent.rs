//! Recurrent layers, on Burn's operations, which have derivatives.

use burn::backend::{
    Slice,
    ops::{ActivationOps, FloatTensorOps},
};

use super::{Operator, activation::scalar, onnx};
use crate::{
    ComputeError,
    interpreter::{B, Call, Float, Outputs, Value, from_vec, mask, reshape, shape},
};

pub const OPERATORS: &[Operator] = &[
    onnx("RNN", |call| run(call, Cell::Plain)),
    onnx("GRU", |call| {
        let linear_before_reset = call.int("linear_before_reset", 0) != 0;
        run(call, Cell::Gated { linear_before_reset })
    }),
    onnx("LSTM", |call| {
        let coupled = call.int("input_forget", 0) != 0;
        run(call, Cell::Memory { coupled })
    }),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cell {
    Plain,
    /// Gates z (update), r (reset) and h (candidate).
    Gated {
        linear_before_reset: bool,
    },
    /// Gates i (input), o (output), f (forget) and c (candidate); the forget gate may be what the input gate leaves.
    Memory {
        coupled: bool,
    },
}

impl Cell {
    fn gates(self) -> usize {
        match self {
            Self::Plain => 1,
            Self::Gated { .. } => 3,
            Self::Memory { .. } => 4,
        }
    }

    fn activations(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &["Tanh"],
            Self::Gated { .. } => &["Sigmoid", "Tanh"],
            Self::Memory { .. } => &["Sigmoid", "Tanh", "Tanh"],
        }
    }
}

/// An activation with its coefficients.
#[derive(Clone, Copy)]
enum Activation {
    Relu,
    Tanh,
    Sigmoid,
    Softsign,
    Softplus,
    LeakyRelu(f32),
    Elu(f32),
    Affine(f32, f32),
    ScaledTanh(f32, f32),
    HardSigmoid(f32, f32),
}

impl Activation {
    fn apply(self, x: Float) -> Float {
        match self {
            Self::Relu => B::relu(x),
            Self::Tanh => B::float_tanh(x),
            Self::Sigmoid => B::sigmoid(x),
            Self::Softsign => {
                let below = B::float_add_scalar(B::float_abs(x.clone()), scalar(1.0));
                B::float_div(x, below)
            }
            Self::Softplus => {
                let tail = B::float_exp(B::float_neg(B::float_abs(x.clone())));
                B::float_add(B::relu(x), B::float_log1p(tail))
            }
            Self::LeakyRelu(alpha) => B::leaky_relu(x, scalar(alpha)),
            Self::Elu(alpha) => {
                let below = B::float_clamp_max(x.clone(), scalar(0.0));
                let below = B::float_add_scalar(B::float_exp(below), scalar(-1.0));
                B::float_add(B::relu(x), B::float_mul_scalar(below, scalar(alpha)))
            }
            Self::Affine(alpha, beta) => line(x, alpha, beta),
            Self::ScaledTanh(alpha, beta) => {
                let tanh = B::float_tanh(B::float_mul_scalar(x, scalar(beta)));
                B::float_mul_scalar(tanh, scalar(alpha))
            }
            Self::HardSigmoid(alpha, beta) => B::float_clamp(line(x, alpha, beta), scalar(0.0), scalar(1.0)),
        }
    }
}

fn line(x: Float, alpha: f32, beta: f32) -> Float {
    B::float_add_scalar(B::float_mul_scalar(x, scalar(alpha)), scalar(beta))
}

/// The activations of all directions; coefficients are taken in their order by those that have some.
fn activations(call: &Call<'_>, cell: Cell, directions: usize) -> Result<Vec<Activation>, ComputeError> {
    let count = cell.activations().len() * directions;
    let given: Vec<String> = call.node.attribute("activations").map_or_else(Vec::new, |attribute| {
        let names = attribute.strings.iter();
        names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    });
    let names: Vec<String> = if given.is_empty() {
        let own = cell.activations().iter().map(ToString::to_string);
        own.cycle().take(count).collect()
    } else {
        given
    };
    if names.len() != count {
        return Err(call.wrong(format!("has {count} activations; got {names:?}")));
    }
    let mut alphas = call.node.floats("activation_alpha").unwrap_or_default().iter().copied();
    let mut betas = call.node.floats("activation_beta").unwrap_or_default().iter().copied();
    let needed = |value: Option<f32>, name: &str| {
        value.ok_or_else(|| call.wrong(format!("activation `{name}` has no coefficients")))
    };
    let mut result = Vec::with_capacity(count);
    for name in names {
        result.push(match name.to_ascii_lowercase().as_str() {
            "relu" => Activation::Relu,
            "tanh" => Activation::Tanh,
            "sigmoid" => Activation::Sigmoid,
            "softsign" => Activation::Softsign,
            "softplus" => Activation::Softplus,
            "leakyrelu" => Activation::LeakyRelu(alphas.next().unwrap_or(0.01)),
            "elu" => Activation::Elu(alphas.next().unwrap_or(1.0)),
            "affine" => Activation::Affine(needed(alphas.next(), &name)?, needed(betas.next(), &name)?),
            "scaledtanh" => Activation::ScaledTanh(needed(alphas.next(), &name)?, needed(betas.next(), &name)?),
            "hardsigmoid" => Activation::HardSigmoid(alphas.next().unwrap_or(0.2), betas.next().unwrap_or(0.5)),
            _ => return Err(call.unsupported(format!("activation `{name}` is not known here"))),
        });
    }
    Ok(result)
}

/// `count` elements from `start` on along `axis`.
fn part(x: &Float, axis: usize, start: usize, count: usize) -> Float {
    let slices: Vec<Slice> = shape(x)
        .iter()
        .enumerate()
        .map(|(at, &size)| match at == axis {
            true => Slice::new(start as isize, Some((start + count) as isize), 1),
            false => Slice::new(0, Some(size as isize), 1),
        })
        .collect();
    B::float_slice(x.clone(), &slices)
}

/// Number `direction` along the first axis, without that axis.
fn of_direction(x: &Float, direction: usize) -> Float {
    let own = shape(x);
    reshape(part(x, 0, direction, 1), own[1..].to_vec())
}

struct Sizes {
    steps: usize,
    batch: usize,
    input: usize,
    hidden: usize,
}

/// The parameters and the state of one direction.
struct Direction {
    cell: Cell,
    activations: Vec<Activation>,
    clip: Option<f32>,
    hidden: usize,
    /// `[hidden, gates·hidden]`.
    recurrence: Float,
    /// The biases of the recurrence, `[1, gates·hidden]`, where they are not added to the input's already.
    recurrent_bias: Option<Float>,
    /// Of the gates i, o and f, `[1, hidden]` each.
    peepholes: Option<[Float; 3]>,
    state: Float,
    memory: Float,
}

impl Direction {
    fn clipped(&self, x: Float) -> Float {
        match self.clip {
            Some(bound) => B::float_clamp(x, scalar(-bound), scalar(bound)),
            None => x,
        }
    }

    fn activate(&self, number: usize, x: Float) -> Float {
        self.activations[number].apply(self.clipped(x))
    }

    fn gate(&self, gates: &Float, number: usize) -> Float {
        part(gates, 1, number * self.hidden, self.hidden)
    }

    /// The state and the memory after one step; `input` holds the gates' inputs, `[batch, gates·hidden]`.
    fn step(&self, input: &Float) -> (Float, Float) {
        match self.cell {
            Cell::Plain => {
                let sum = B::float_add(
                    input.clone(),
                    B::float_matmul(self.state.clone(), self.recurrence.clone()),
                );
                (self.activate(0, sum), self.memory.clone())
            }
            Cell::Gated { linear_before_reset } => (self.gated(input, linear_before_reset), self.memory.clone()),
            Cell::Memory { coupled } => self.remembering(input, coupled),
        }
    }

    fn gated(&self, input: &Float, linear_before_reset: bool) -> Float {
        let hidden = self.hidden;
        let recurrence = part(&self.recurrence, 1, 0, 2 * hidden);
        let gates = B::float_add(
            part(input, 1, 0, 2 * hidden),
            B::float_matmul(self.state.clone(), recurrence),
        );
        let update = self.activate(0, self.gate(&gates, 0));
        let reset = self.activate(0, self.gate(&gates, 1));
        let recurrence = self.gate(&self.recurrence, 2);
        let candidate = if linear_before_reset {
            let mut sum = B::float_matmul(self.state.clone(), recurrence);
            if let Some(bias) = &self.recurrent_bias {
                sum = B::float_add(sum, self.gate(bias, 2));
            }
            B::float_mul(reset, sum)
        } else {
            B::float_matmul(B::float_mul(reset, self.state.clone()), recurrence)
        };
        let candidate = self.activate(1, B::float_add(self.gate(input, 2), candidate));
        let rest = line(update.clone(), -1.0, 1.0);
        B::float_add(B::float_mul(rest, candidate), B::float_mul(update, self.state.clone()))
    }

    fn remembering(&self, input: &Float, coupled: bool) -> (Float, Float) {
        let gates = B::float_add(
            input.clone(),
            B::float_matmul(self.state.clone(), self.recurrence.clone()),
        );
        let peeping = |gate: Float, number: usize, memory: &Float| match &self.peepholes {
            Some(peepholes) => B::float_add(gate, B::float_mul(memory.clone(), peepholes[number].clone())),
            None => gate,
        };
        let enter = self.activate(0, peeping(self.gate(&gates, 0), 0, &self.memory));
        let keep = if coupled {
            line(enter.clone(), -1.0, 1.0)
        } else {
            self.activate(0, peeping(self.gate(&gates, 2), 2, &self.memory))
        };
        let candidate = self.activate(1, self.gate(&gates, 3));
        let memory = B::float_add(B::float_mul(keep, self.memory.clone()), B::float_mul(enter, candidate));
        let leave = self.activate(0, peeping(self.gate(&gates, 1), 1, &memory));
        (B::float_mul(leave, self.activate(2, memory.clone())), memory)
    }
}

fn run(call: &mut Call<'_>, cell: Cell) -> Outputs {
    let (mut x, w, r) = (call.float(0)?, call.float(1)?, call.float(2)?);
    let bias = call.optional_float(3)?;
    let lengths = call.optional_integers(4)?;
    let mut state = call.optional_float(5)?;
    let is_memory = matches!(cell, Cell::Memory { .. });
    let mut memory = if is_memory { call.optional_float(6)? } else { None };
    let peepholes = if is_memory { call.optional_float(7)? } else { None };
    // In layout 1 the batch comes first.
    let batch_first = call.int("layout", 0) == 1;
    if batch_first {
        let swapped = |x: Float, call: &Call<'_>| match shape(&x).len() {
            3 => Ok(B::float_swap_dims(x, 0, 1)),
            _ => Err(call.wrong(format!("an operand of {:?}", shape(&x)))),
        };
        x = swapped(x, call)?;
        state = state.map(|state| swapped(state, call)).transpose()?;
        memory = memory.map(|memory| swapped(memory, call)).transpose()?;
    }
    let backward = match call.node.string("direction").unwrap_or("forward") {
        "forward" => &[false][..],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        other => return Err(call.wrong(format!("attribute `direction` is `{other}`"))),
    };
    let directions = backward.len();
    let activations = activations(call, cell, directions)?;

    let (xs, ws, rs) = (shape(&x), shape(&w), shape(&r));
    let gates = cell.gates();
    let hidden = rs.last().copied().unwrap_or(0);
    let [steps, batch, input] = xs[..] else {
        return Err(call.wrong(format!("an input of {xs:?}")));
    };
    let sizes = Sizes {
        steps,
        batch,
        input,
        hidden,
    };
    let declared = call.int("hidden_size", hidden as i64);
    let expected = |x: &Option<Float>, want: &[usize]| x.as_ref().is_none_or(|x| shape(x) == want);
    let fits = ws == [directions, gates * hidden, input]
        && rs == [directions, gates * hidden, hidden]
        && declared == hidden as i64
        && expected(&bias, &[directions, 2 * gates * hidden])
        && expected(&state, &[directions, batch, hidden])
        && expected(&memory, &[directions, batch, hidden])
        && expected(&peepholes, &[directions, 3 * hidden]);
    if !fits {
        return Err(call.wrong(format!(
            "an input of {xs:?} with weights of {ws:?} and {rs:?}, and hidden size {declared}; or another operand does not fit them"
        )));
    }
    if xs.contains(&0) || hidden == 0 {
        return Err(call.unsupported(format!("an empty input of {xs:?}")));
    }
    let lengths = match lengths {
        Some(lengths) => {
            let lengths: Option<Vec<usize>> = lengths
                .iter()
                .map(|&length| usize::try_from(length).ok().filter(|&length| length <= steps))
                .collect();
            let lengths = lengths.filter(|lengths| lengths.len() == batch);
            Some(lengths.ok_or_else(|| call.wrong("sequence_lens do not fit the input"))?)
        }
        None => None,
    };
    let clip = call.node.float("clip").filter(|&clip| clip > 0.0);

    let (mut outputs, mut states, mut memories) = (Vec::new(), Vec::new(), Vec::new());
    let zeros = || from_vec(vec![0.0; batch * hidden], vec![batch, hidden]);
    let per_direction = activations.len() / directions;
    for (number, &backward) in backward.iter().enumerate() {
        let mut input_bias = None;
        let mut recurrent_bias = None;
        if let Some(bias) = &bias {
            let own = part(bias, 0, number, 1);
            let of_input = part(&own, 1, 0, gates * hidden);
            let of_recurrence = part(&own, 1, gates * hidden, gates * hidden);
            input_bias = Some(match cell {
                // The candidate's recurrent bias is scaled by the reset gate.
                Cell::Gated {
                    linear_before_reset: true,
                } => {
                    let candidate = from_vec(vec![0.0; hidden], vec![1, hidden]);
                    let gates = part(&of_recurrence, 1, 0, 2 * hidden);
                    let added = B::float_cat(vec![gates, candidate], 1);
                    recurrent_bias = Some(of_recurrence);
                    B::float_add(of_input, added)
                }
                _ => B::float_add(of_input, of_recurrence),
            });
        }
        let direction = Direction {
            cell,
            activations: activations[number * per_direction..][..per_direction].to_vec(),
            clip,
            hidden,
            recurrence: B::float_swap_dims(of_direction(&r, number), 0, 1),
            recurrent_bias,
            peepholes: peepholes.as_ref().map(|peepholes| {
                let own = part(peepholes, 0, number, 1);
                [0, 1, 2].map(|gate| part(&own, 1, gate * hidden, hidden))
            }),
            state: state.as_ref().map_or_else(zeros, |state| of_direction(state, number)),
            memory: memory
                .as_ref()
                .map_or_else(zeros, |memory| of_direction(memory, number)),
        };
        let weights = B::float_swap_dims(of_direction(&w, number), 0, 1);
        let (output, state, memory) =
            unrolled(direction, &x, weights, input_bias, &sizes, lengths.as_deref(), backward);
        outputs.push(output);
        states.push(state);
        memories.push(memory);
    }

    // Y is [steps, directions, batch, hidden], or [batch, steps, directions, hidden].
    let stacked = |parts: Vec<Float>, axis: usize| {
        let mut full = shape(&parts[0]);
        full.insert(axis, 1);
        let parts = parts.into_iter().map(|part| reshape(part, full.clone())).collect();
        B::float_cat(parts, axis)
    };
    let mut y = stacked(outputs, 1);
    let (mut state, mut memory) = (stacked(states, 0), stacked(memories, 0));
    if batch_first {
        y = B::float_permute(y, &[2, 0, 1, 3]);
        state = B::float_swap_dims(state, 0, 1);
        memory = B::float_swap_dims(memory, 0, 1);
    }
    let mut values = vec![Value::Float(y), Value::Float(state)];
    if is_memory {
        values.push(Value::Float(memory));
    }
    Ok(values)
}

/// One direction over all steps: its outputs `[steps, batch, hidden]`, its last state and its last memory.
fn unrolled(
    mut direction: Direction,
    x: &Float,
    weights: Float,
    bias: Option<Float>,
    sizes: &Sizes,
    lengths: Option<&[usize]>,
    backward: bool,
) -> (Float, Float, Float) {
    let &Sizes {
        steps,
        batch,
        input,
        hidden,
    } = sizes;
    // What the input adds to the gates, for all steps at once.
    let mut added = B::float_matmul(reshape(x.clone(), vec![steps * batch, input]), weights);
    if let Some(bias) = bias {
        added = B::float_add(added, bias);
    }
    let mut outputs = Vec::with_capacity(steps);
    for count in 0..steps {
        let step = if backward { steps - 1 - count } else { count };
        let (mut state, mut memory) = direction.step(&part(&added, 0, step * batch, batch));
        let mut output = state.clone();
        if let Some(lengths) = lengths
            && lengths.iter().any(|&length| step >= length)
        {
            // Behind the end of a sequence its state stays, and its output is zero.
            let ended = || {
                let ended = lengths
                    .iter()
                    .flat_map(|&length| std::iter::repeat_n(step >= length, hidden));
                mask(ended.collect(), vec![batch, hidden])
            };
            state = B::float_mask_where(state, ended(), direction.state.clone());
            memory = B::float_mask_where(memory, ended(), direction.memory.clone());
            let zeros = from_vec(vec![0.0; batch * hidden], vec![batch, hidden]);
            output = B::float_mask_where(output, ended(), zeros);
        }
        outputs.push(reshape(output, vec![1, batch, hidden]));
        direction.state = state;
        direction.memory = memory;
    }
    if backward {
        outputs.reverse();
    }
    (B::float_cat(outputs, 0), direction.state, direction.memory)
}
