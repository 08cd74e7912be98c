//! A small interpreter in float64, apart from everything that it is to judge.

use std::collections::HashMap;

use kmr_sdk::model::{DType, Model, Node, Tensor};

/// A value: numbers of any kind as float64.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl Value {
    pub fn of(tensor: &Tensor) -> Self {
        let values = match tensor.dtype() {
            DType::INT64 => tensor.to_i64().unwrap().iter().map(|&value| value as f64).collect(),
            _ => tensor.to_f32().unwrap().iter().map(|&value| value.into()).collect(),
        };
        Self {
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
            values,
        }
    }

    pub fn tensor(&self) -> Tensor {
        match self.dtype {
            DType::INT64 => Tensor::from_vec(self.shape.clone(), self.values.iter().map(|&v| v as i64).collect()),
            _ => Tensor::from_vec(self.shape.clone(), self.values.iter().map(|&v| v as f32).collect()),
        }
    }

    fn float(shape: Vec<usize>, values: Vec<f64>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        Self {
            dtype: DType::FLOAT,
            shape,
            values,
        }
    }

    fn integers(shape: Vec<usize>, values: Vec<f64>) -> Self {
        Self {
            dtype: DType::INT64,
            ..Self::float(shape, values)
        }
    }

    fn rows(&self) -> std::slice::Chunks<'_, f64> {
        self.values.chunks((*self.shape.last().unwrap()).max(1))
    }

    fn map(&self, with: impl Fn(f64) -> f64) -> Self {
        Self {
            values: self.values.iter().map(|&value| with(value)).collect(),
            ..self.clone()
        }
    }

    fn broadcast(&self, other: &Self, with: impl Fn(f64, f64) -> f64) -> Self {
        let rank = self.shape.len().max(other.shape.len());
        let padded = |shape: &[usize]| [vec![1; rank - shape.len()], shape.to_vec()].concat();
        let (left, right) = (padded(&self.shape), padded(&other.shape));
        let shape: Vec<usize> = left
            .iter()
            .zip(&right)
            .map(|(&a, &b)| if a == 1 { b } else { a })
            .collect();
        let place = |own: &[usize], mut at: usize| {
            let (mut place, mut stride) = (0, 1);
            for axis in (0..rank).rev() {
                let position = at % shape[axis];
                at /= shape[axis];
                place += if own[axis] == 1 { 0 } else { position * stride };
                stride *= own[axis];
            }
            place
        };
        let values =
            (0..shape.iter().product()).map(|at| with(self.values[place(&left, at)], other.values[place(&right, at)]));
        Self {
            values: values.collect(),
            shape,
            dtype: self.dtype,
        }
    }

    fn transposed(&self) -> Self {
        let (rows, columns) = (self.shape[0], self.shape[1]);
        let values = (0..rows * columns)
            .map(|at| self.values[at % rows * columns + at / rows])
            .collect();
        Self {
            shape: vec![columns, rows],
            values,
            dtype: self.dtype,
        }
    }

    fn times(&self, other: &Self) -> Self {
        let (inner, columns) = (other.shape[0], other.shape[1]);
        let row = |row: &[f64]| -> Vec<f64> {
            let column = |c: usize| {
                row.iter()
                    .enumerate()
                    .map(|(k, v)| v * other.values[k * columns + c])
                    .sum()
            };
            (0..columns).map(column).collect()
        };
        let mut shape = self.shape.clone();
        *shape.last_mut().unwrap() = columns;
        Self::float(shape, self.values.chunks(inner).flat_map(row).collect())
    }
}

/// Every value of `model` on this input.
pub fn values(model: &Model, input: &Tensor) -> HashMap<String, Value> {
    let mut values: HashMap<String, Value> = HashMap::new();
    for (name, initializer) in &model.graph.initializers {
        values.insert(name.clone(), Value::of(&initializer.tensor));
    }
    let feed = model.graph.feeds().next().unwrap().name().to_owned();
    values.insert(feed, Value::of(input));
    for node in &model.graph.nodes {
        let inputs: Vec<Value> = node.inputs().iter().map(|input| values[input].clone()).collect();
        for (name, value) in node.outputs().iter().zip(computed(node, &inputs)) {
            values.insert(name.clone(), value);
        }
    }
    values
}

fn computed(node: &Node, inputs: &[Value]) -> Vec<Value> {
    let x = &inputs[0];
    let single = |value: Value| vec![value];
    single(match node.op_type() {
        "Add" => x.broadcast(&inputs[1], |a, b| a + b),
        "Mul" => x.broadcast(&inputs[1], |a, b| a * b),
        "Div" => x.broadcast(&inputs[1], |a, b| a / b),
        "Equal" => x.broadcast(&inputs[1], |a, b| f64::from(u8::from(a == b))),
        "Cast" => Value::float(x.shape.clone(), x.values.clone()),
        "Relu" => x.map(|x| x.max(0.0)),
        "Sigmoid" => x.map(|x| 1.0 / (1.0 + (-x).exp())),
        "Tanh" => x.map(f64::tanh),
        "Erf" => x.map(error_function),
        "MatMul" => x.times(&inputs[1]),
        "Gemm" => {
            let weight = if node.int("transB") == Some(1) {
                inputs[1].transposed()
            } else {
                inputs[1].clone()
            };
            let product = x.times(&weight);
            match inputs.get(2) {
                Some(bias) => product.broadcast(bias, |a, b| a + b),
                None => product,
            }
        }
        "Softmax" => {
            let row = |row: &[f64]| -> Vec<f64> {
                let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = row.iter().map(|value| (value - most).exp()).sum();
                row.iter().map(|value| (value - most).exp() / sum).collect()
            };
            Value::float(x.shape.clone(), x.rows().flat_map(row).collect())
        }
        "TopK" => return top_k(x, inputs[1].values[0] as usize),
        "ReduceSum" => Value::float(vec![x.shape[0], 1], x.rows().map(|row| row.iter().sum()).collect()),
        "Shape" => Value::integers(vec![x.shape.len()], x.shape.iter().map(|&size| size as f64).collect()),
        "ConstantOfShape" => {
            let shape: Vec<usize> = x.values.iter().map(|&size| size as usize).collect();
            Value::float(shape.clone(), vec![0.0; shape.iter().product()])
        }
        "Reshape" => {
            let wanted = &inputs[1].values;
            let known: f64 = wanted.iter().filter(|&&size| size > 0.0).product();
            let size = |&size: &f64| {
                if size < 0.0 {
                    x.values.len() / known as usize
                } else {
                    size as usize
                }
            };
            Value {
                shape: wanted.iter().map(size).collect(),
                ..x.clone()
            }
        }
        "NonZero" => {
            let columns = x.shape[1];
            let found: Vec<usize> = (0..x.values.len()).filter(|&at| x.values[at] != 0.0).collect();
            let rows = found.iter().map(|at| (at / columns) as f64);
            let values = rows.chain(found.iter().map(|at| (at % columns) as f64)).collect();
            Value::integers(vec![2, found.len()], values)
        }
        "Gather" => {
            let width: usize = x.shape[1..].iter().product();
            let rows = inputs[1]
                .values
                .iter()
                .flat_map(|&row| x.values[row as usize * width..][..width].to_vec());
            let shape = [&inputs[1].shape, &x.shape[1..]].concat();
            Value {
                shape,
                values: rows.collect(),
                dtype: x.dtype,
            }
        }
        "GatherND" => {
            let at = inputs[1]
                .values
                .chunks(2)
                .map(|at| x.values[at[0] as usize * x.shape[1] + at[1] as usize]);
            Value::float(vec![inputs[1].shape[0]], at.collect())
        }
        "Transpose" => x.transposed(),
        "Unsqueeze" => Value {
            shape: vec![x.shape[0], 1],
            ..x.clone()
        },
        "ScatterND" => {
            assert_eq!(node.string("reduction"), Some("add"));
            let mut sum = x.clone();
            let width = x.shape[1];
            for (row, update) in inputs[1].values.iter().zip(inputs[2].values.chunks(width)) {
                let sums = &mut sum.values[*row as usize * width..][..width];
                sums.iter_mut().zip(update).for_each(|(sum, value)| *sum += value);
            }
            sum
        }
        other => panic!("`{other}` is not for tests"),
    })
}

fn top_k(x: &Value, count: usize) -> Vec<Value> {
    let (mut greatest, mut places) = (Vec::new(), Vec::new());
    for row in x.rows() {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        greatest.extend(order[..count].iter().map(|&at| row[at]));
        places.extend(order[..count].iter().map(|&at| at as f64));
    }
    let shape = vec![x.shape[0], count];
    vec![Value::float(shape.clone(), greatest), Value::integers(shape, places)]
}

/// The error function by its integral, Simpson's rule.
fn error_function(x: f64) -> f64 {
    let (end, steps) = (x.clamp(-6.0, 6.0), 400);
    let at = |step: usize| (-(end * step as f64 / steps as f64).powi(2)).exp();
    let weight = |step: usize| {
        if step == 0 || step == steps {
            1.0
        } else if step % 2 == 1 {
            4.0
        } else {
            2.0
        }
    };
    let sum: f64 = (0..=steps).map(|step| weight(step) * at(step)).sum();
    sum * end / steps as f64 / 3.0 * 2.0 / std::f64::consts::PI.sqrt()
}
