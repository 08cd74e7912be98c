//! A naive interpreter of the operators that the tests' models use.

use std::collections::HashMap;

use kmr_sdk::model::{Graph, Node, Tensor};

/// A shape and the numbers, integers among them, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    pub shape: Vec<usize>,
    pub numbers: Vec<f32>,
}

impl Value {
    pub fn new(shape: &[usize], numbers: Vec<f32>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), numbers.len());
        Self {
            shape: shape.to_vec(),
            numbers,
        }
    }

    pub fn of(tensor: &Tensor) -> Self {
        let numbers = match tensor.to_f32() {
            Ok(numbers) => numbers.into_owned(),
            Err(_) => match tensor.values::<u16>() {
                Ok(short) => short.iter().map(|&number| number.into()).collect(),
                Err(_) => tensor
                    .to_i64()
                    .unwrap()
                    .into_iter()
                    .map(|number| number as f32)
                    .collect(),
            },
        };
        Self::new(tensor.shape(), numbers)
    }

    pub fn tensor(&self) -> Tensor {
        Tensor::from_vec(self.shape.clone(), self.numbers.clone())
    }

    /// The number at `at`, by broadcasting.
    fn get(&self, at: &[usize]) -> f32 {
        let lead = at.len() - self.shape.len();
        let index = self.shape.iter().enumerate().fold(0, |index, (axis, &size)| {
            index * size + if size == 1 { 0 } else { at[lead + axis] }
        });
        self.numbers[index]
    }
}

/// Every value of `graph` for `feeds`.
pub fn values(graph: &Graph, feeds: &[(&str, Value)]) -> HashMap<String, Value> {
    let mut values: HashMap<String, Value> = feeds
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    for (name, initializer) in &graph.initializers {
        values.insert(name.clone(), Value::of(&initializer.tensor));
    }
    for node in &graph.nodes {
        let inputs: Vec<&Value> = node.inputs().iter().map(|name| &values[name]).collect();
        let value = compute(node, &inputs);
        values.insert(node.id().to_owned(), value);
    }
    values
}

fn each(shape: &[usize], function: impl Fn(&[usize]) -> f32) -> Value {
    let count: usize = shape.iter().product();
    let at = |mut rest: usize| {
        let mut at = vec![0; shape.len()];
        for axis in (0..shape.len()).rev() {
            at[axis] = rest % shape[axis];
            rest /= shape[axis];
        }
        at
    };
    Value::new(shape, (0..count).map(|place| function(&at(place))).collect())
}

fn compute(node: &Node, inputs: &[&Value]) -> Value {
    let x = inputs[0];
    match node.op_type() {
        "Identity" | "Cast" => x.clone(),
        "Relu" => each(&x.shape, |at| x.get(at).max(0.0)),
        "Add" | "Mul" => {
            let longer = inputs.iter().max_by_key(|value| value.shape.len()).unwrap();
            let lead = |value: &Value| longer.shape.len() - value.shape.len();
            let size = |value: &Value, axis: usize| match axis.checked_sub(lead(value)) {
                Some(axis) => value.shape[axis],
                None => 1,
            };
            let axes = 0..longer.shape.len();
            let shape: Vec<usize> = axes
                .map(|axis| inputs.iter().map(|value| size(value, axis)).max().unwrap())
                .collect();
            each(&shape, |at| match node.is("Add") {
                true => x.get(at) + inputs[1].get(at),
                false => x.get(at) * inputs[1].get(at),
            })
        }
        "MatMul" | "Gemm" => {
            let turned = node.int("transB") == Some(1);
            let right = inputs[1];
            let (inner, columns) = match turned {
                true => (right.shape[1], right.shape[0]),
                false => (right.shape[0], right.shape[1]),
            };
            let (rows, _) = x.shape.split_at(x.shape.len() - 1);
            each(&[rows, &[columns]].concat(), |at| {
                let (row, column) = at.split_at(at.len() - 1);
                let term = |k: usize| {
                    let place = if turned { [column[0], k] } else { [k, column[0]] };
                    x.get(&[row, &[k]].concat()) * right.get(&place)
                };
                (0..inner).map(term).sum::<f32>() + inputs.get(2).map_or(0.0, |bias| bias.get(column))
            })
        }
        "Transpose" => each(&[x.shape[1], x.shape[0]], |at| x.get(&[at[1], at[0]])),
        "Gather" => {
            let axis = node.int("axis").unwrap_or(0) as usize;
            let ids = inputs[1];
            let shape = [&x.shape[..axis], &ids.shape, &x.shape[axis + 1..]].concat();
            each(&shape, |at| {
                let id = ids.get(&at[axis..axis + ids.shape.len()]) as usize;
                x.get(&[&at[..axis], &[id], &at[axis + ids.shape.len()..]].concat())
            })
        }
        // Behind the last axis alone.
        "Pad" => {
            let (last, more) = (x.shape.len() - 1, *inputs[1].numbers.last().unwrap() as usize);
            let mut shape = x.shape.clone();
            shape[last] += more;
            each(&shape, |at| match at[last] < x.shape[last] {
                true => x.get(at),
                false => inputs[2].numbers[0],
            })
        }
        "LayerNormalization" => {
            let (last, width) = (x.shape.len() - 1, *x.shape.last().unwrap());
            each(&x.shape, |at| {
                let row: Vec<f32> = (0..width).map(|k| x.get(&[&at[..last], &[k]].concat())).collect();
                let mean = row.iter().sum::<f32>() / width as f32;
                let variance = row.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / width as f32;
                let normal = (x.get(at) - mean) / (variance + 1e-5).sqrt();
                normal * inputs[1].get(&at[last..]) + inputs[2].get(&at[last..])
            })
        }
        other => panic!("no {other} here"),
    }
}
