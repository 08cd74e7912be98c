//! Graphs of a few operators in float64, forward and backward.

use std::collections::{BTreeMap, HashMap};

use kmr_sdk::model::{DType, Graph, Node, Tensor};

#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

impl Value {
    pub fn of(tensor: &Tensor) -> Self {
        let data = match tensor.dtype() {
            DType::INT4 | DType::UINT4 => {
                let signed = tensor.dtype() == DType::INT4;
                let nibble = |at: usize| {
                    let code = i16::from(tensor.bytes()[at / 2] >> (at % 2 * 4) & 0xf);
                    f64::from(if signed && code > 7 { code - 16 } else { code })
                };
                (0..tensor.len()).map(nibble).collect()
            }
            DType::UINT64 => tensor.values::<u64>().unwrap().iter().map(|&v| v as f64).collect(),
            dtype if dtype.is_float() => tensor.to_f32().unwrap().iter().map(|&v| v.into()).collect(),
            _ => tensor.to_i64().unwrap().iter().map(|&v| v as f64).collect(),
        };
        Self {
            shape: tensor.shape().to_vec(),
            data,
        }
    }

    pub fn tensor(&self) -> Tensor {
        Tensor::from_vec(
            self.shape.clone(),
            self.data.iter().map(|&v| v as f32).collect::<Vec<f32>>(),
        )
    }

    fn zeros(shape: &[usize]) -> Self {
        Self {
            shape: shape.to_vec(),
            data: vec![0.0; shape.iter().product()],
        }
    }

    fn integers(&self) -> Vec<i64> {
        self.data.iter().map(|&v| v as i64).collect()
    }
}

/// Where element `at` of a value of `shape` reads from in one of `from` that is broadcast to it.
fn place(at: usize, shape: &[usize], from: &[usize]) -> usize {
    let (mut rest, mut place, mut stride) = (at, 0, 1);
    for axis in (0..shape.len()).rev() {
        let position = rest % shape[axis];
        rest /= shape[axis];
        if let Some(own) = (axis + from.len()).checked_sub(shape.len()) {
            if from[own] > 1 {
                place += position * stride;
            }
            stride *= from[own];
        }
    }
    place
}

fn broadcast(a: &[usize], b: &[usize]) -> Vec<usize> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |own| shape[own]);
    (0..rank).map(|axis| size(a, axis).max(size(b, axis))).collect()
}

fn product(a: &Value, b: &Value) -> Value {
    let (rows, inner, columns) = (a.shape[0], a.shape[1], b.shape[1]);
    let mut made = Value::zeros(&[rows, columns]);
    for row in 0..rows {
        for column in 0..columns {
            made.data[row * columns + column] = (0..inner)
                .map(|at| a.data[row * inner + at] * b.data[at * columns + column])
                .sum();
        }
    }
    made
}

fn permuted(value: &Value, order: &[usize]) -> Value {
    let shape: Vec<usize> = order.iter().map(|&axis| value.shape[axis]).collect();
    let mut made = Value::zeros(&shape);
    for (at, element) in made.data.iter_mut().enumerate() {
        let mut rest = at;
        let mut position = vec![0; shape.len()];
        for axis in (0..shape.len()).rev() {
            position[order[axis]] = rest % shape[axis];
            rest /= shape[axis];
        }
        let from = position
            .iter()
            .zip(&value.shape)
            .fold(0, |place, (position, size)| place * size + position);
        *element = value.data[from];
    }
    made
}

fn order(node: &Node, rank: usize) -> Vec<usize> {
    match node.ints("perm") {
        Some(perm) => perm.iter().map(|&axis| axis as usize).collect(),
        None => (0..rank).rev().collect(),
    }
}

/// Every value of `graph` that its operators make of `feeds` and `tensors`. With `batch`, normalizations use the
/// batch's own statistics, and put what the running ones become into `moved`.
pub fn forward(
    graph: &Graph,
    mut values: HashMap<String, Value>,
    batch: bool,
    moved: &mut BTreeMap<String, Value>,
) -> HashMap<String, Value> {
    for node in &graph.nodes {
        let input = |slot: usize| &values[node.input(slot).unwrap()];
        let pairwise = |of: fn(f64, f64) -> f64| {
            let (a, b) = (input(0), input(1));
            let mut made = Value::zeros(&broadcast(&a.shape, &b.shape));
            let shape = made.shape.clone();
            for (at, element) in made.data.iter_mut().enumerate() {
                *element = of(a.data[place(at, &shape, &a.shape)], b.data[place(at, &shape, &b.shape)]);
            }
            made
        };
        let single = |of: &dyn Fn(f64) -> f64| Value {
            shape: input(0).shape.clone(),
            data: input(0).data.iter().map(|&v| of(v)).collect(),
        };
        let made = match node.op_type() {
            "Add" => pairwise(|a, b| a + b),
            "Sub" => pairwise(|a, b| a - b),
            "Mul" => pairwise(|a, b| a * b),
            "Div" => pairwise(|a, b| a / b),
            "Relu" => single(&|v: f64| v.max(0.0)),
            "Identity" | "Cast" => input(0).clone(),
            "Round" => single(&f64::round_ties_even),
            "Clip" => {
                let (low, high) = (input(1).data[0], input(2).data[0]);
                single(&|v: f64| v.clamp(low, high))
            }
            "Reshape" => Value {
                shape: input(1).integers().iter().map(|&size| size as usize).collect(),
                data: input(0).data.clone(),
            },
            "Transpose" => permuted(input(0), &order(node, input(0).shape.len())),
            "Slice" => {
                let (columns, end) = (input(0).shape[1], input(2).data[0] as usize);
                let rows = input(0).data.chunks(columns).flat_map(|row| row[..end].to_vec());
                Value {
                    data: rows.collect(),
                    shape: vec![input(0).shape[0], end],
                }
            }
            "MatMul" => product(input(0), input(1)),
            "Gemm" => {
                let mut made = product(input(0), input(1));
                let columns = made.shape[1];
                let bias = &input(2).data;
                made.data
                    .iter_mut()
                    .enumerate()
                    .for_each(|(at, v)| *v += bias[at % columns]);
                made
            }
            "DequantizeLinear" => {
                let (codes, scale) = (input(0), input(1));
                let zero = node.input(2).map(|name| &values[name]);
                let axis = node.int("axis").unwrap_or(1) as usize;
                let block = node.int("block_size").unwrap_or(0) as usize;
                let mut made = codes.clone();
                for (at, element) in made.data.iter_mut().enumerate() {
                    let inner: usize = codes.shape[axis.min(codes.shape.len() - 1) + 1..].iter().product();
                    let position = at / inner % codes.shape[axis.min(codes.shape.len() - 1)];
                    let which = match (scale.shape.len(), block) {
                        (0, _) => 0,
                        (1, 0) => position,
                        _ => {
                            (at / inner / codes.shape[axis] * scale.shape[axis] + position / block) * inner + at % inner
                        }
                    };
                    let zero = zero.map_or(0.0, |zero| zero.data[which]);
                    *element = f64::from(((*element - zero) as f32) * scale.data[which] as f32);
                }
                made
            }
            "BatchNormalization" => {
                let channels = input(0).shape[1];
                let rows = (input(0).data.len() / channels) as f64;
                let mut made = input(0).clone();
                let mut running = [input(3).clone(), input(4).clone()];
                for channel in 0..channels {
                    let own: Vec<f64> = input(0).data.iter().skip(channel).step_by(channels).copied().collect();
                    let mean = own.iter().sum::<f64>() / rows;
                    let variance = own.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / rows;
                    let (mean, variance) = match batch {
                        true => {
                            running[0].data[channel] = 0.9 * running[0].data[channel] + 0.1 * mean;
                            running[1].data[channel] = 0.9 * running[1].data[channel] + 0.1 * variance;
                            (mean, variance)
                        }
                        false => (running[0].data[channel], running[1].data[channel]),
                    };
                    for element in made.data.iter_mut().skip(channel).step_by(channels) {
                        *element = (*element - mean) / (variance + 1e-5).sqrt() * input(1).data[channel]
                            + input(2).data[channel];
                    }
                }
                if batch {
                    let names = [node.input(3).unwrap(), node.input(4).unwrap()];
                    moved.extend(names.map(str::to_owned).into_iter().zip(running));
                }
                made
            }
            other => panic!("this host does not know {other}"),
        };
        values.insert(node.outputs()[0].clone(), made);
    }
    values
}

/// What the model says to rows of inputs.
pub fn evaluate(graph: &Graph, rows: &[Vec<f32>], output: &str) -> Vec<f64> {
    let mut values: HashMap<String, Value> = graph
        .initializers
        .iter()
        .map(|(name, stored)| (name.clone(), Value::of(&stored.tensor)))
        .collect();
    let x = Tensor::from_vec(vec![rows.len(), rows[0].len()], rows.concat());
    values.insert("x".into(), Value::of(&x));
    forward(graph, values, false, &mut BTreeMap::new())[output].data.clone()
}

/// Derivatives of every value, given those of some. The normalizations' are those of the stored statistics; rounding is
/// the identity.
pub fn backward(
    graph: &Graph,
    values: &HashMap<String, Value>,
    mut slopes: HashMap<String, Value>,
) -> HashMap<String, Value> {
    for node in graph.nodes.iter().rev() {
        let Some(slope) = slopes.get(&node.outputs()[0]).cloned() else {
            continue;
        };
        let input = |slot: usize| &values[node.input(slot).unwrap()];
        let mut add = |slot: usize, of: &dyn Fn(usize) -> f64| {
            let name = node.input(slot).unwrap();
            let own = &values[name].shape;
            let total = slopes.entry(name.to_owned()).or_insert_with(|| Value::zeros(own));
            for at in 0..slope.data.len() {
                total.data[place(at, &slope.shape, own)] += of(at);
            }
        };
        let other = |slot: usize, at: usize| input(slot).data[place(at, &slope.shape, &input(slot).shape)];
        match node.op_type() {
            "Add" => [0, 1].into_iter().for_each(|slot| add(slot, &|at| slope.data[at])),
            "Sub" => {
                add(0, &|at| slope.data[at]);
                add(1, &|at| -slope.data[at]);
            }
            "Mul" => [0, 1]
                .into_iter()
                .for_each(|slot| add(slot, &|at| slope.data[at] * other(1 - slot, at))),
            "Div" => {
                add(0, &|at| slope.data[at] / other(1, at));
                add(1, &|at| -slope.data[at] * other(0, at) / other(1, at).powi(2));
            }
            "Relu" => add(0, &|at| if other(0, at) > 0.0 { slope.data[at] } else { 0.0 }),
            "Clip" => {
                let range = input(1).data[0]..=input(2).data[0];
                add(0, &|at| {
                    if range.contains(&other(0, at)) {
                        slope.data[at]
                    } else {
                        0.0
                    }
                });
            }
            "Round" | "Identity" | "Cast" => add(0, &|at| slope.data[at]),
            "BatchNormalization" => {
                let channels = slope.shape[1];
                let deviation = |at: usize| (input(4).data[at % channels] + 1e-5).sqrt();
                add(0, &|at| slope.data[at] * input(1).data[at % channels] / deviation(at));
            }
            "MatMul" | "Gemm" => {
                let turned = |value: &Value| permuted(value, &[1, 0]);
                let whole = [product(&slope, &turned(input(1))), product(&turned(input(0)), &slope)];
                for (slot, whole) in whole.into_iter().enumerate() {
                    let total = slopes
                        .entry(node.inputs()[slot].clone())
                        .or_insert_with(|| Value::zeros(&whole.shape));
                    total
                        .data
                        .iter_mut()
                        .zip(whole.data)
                        .for_each(|(total, value)| *total += value);
                }
                if node.op_type() == "Gemm" {
                    let bias = &node.inputs()[2];
                    let total = slopes
                        .entry(bias.clone())
                        .or_insert_with(|| Value::zeros(&values[bias].shape));
                    let columns = slope.shape[1];
                    slope
                        .data
                        .iter()
                        .enumerate()
                        .for_each(|(at, value)| total.data[at % columns] += value);
                }
            }
            "Reshape" | "Transpose" | "Slice" => {
                let mut whole = Value::zeros(&input(0).shape);
                match node.op_type() {
                    "Reshape" => whole.data.clone_from(&slope.data),
                    "Transpose" => {
                        let order = order(node, slope.shape.len());
                        let mut back = vec![0; order.len()];
                        order.iter().enumerate().for_each(|(at, &axis)| back[axis] = at);
                        whole = permuted(&slope, &back);
                    }
                    _ => {
                        let (columns, end) = (whole.shape[1], slope.shape[1]);
                        for (row, own) in whole.data.chunks_mut(columns).zip(slope.data.chunks(end)) {
                            row[..end].copy_from_slice(own);
                        }
                    }
                }
                let name = node.inputs()[0].clone();
                let total = slopes.entry(name).or_insert_with(|| Value::zeros(&whole.shape));
                total
                    .data
                    .iter_mut()
                    .zip(whole.data)
                    .for_each(|(total, value)| *total += value);
            }
            other => panic!("this host does not differentiate {other}"),
        }
    }
    slopes
}
