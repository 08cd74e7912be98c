//! A naive interpreter of the operators that the test networks use.

use std::collections::HashMap;

use kmr_model::{Model, Node, Tensor, codec::tensor_from_message, shapes};

type Value = (Vec<usize>, Vec<f32>);

/// The first output of `model` for `input` as its only feed.
pub fn run(model: &Model, input: &Tensor) -> Vec<f32> {
    let graph = &model.graph;
    let feeds = [("x".to_owned(), input.shape().to_vec())].into();
    let shapes = shapes::infer(model, &feeds).unwrap();
    let floats = |tensor: &Tensor| tensor.to_f32().map(|values| values.into_owned());
    let mut values: HashMap<String, Value> = HashMap::new();
    values.insert("x".into(), (input.shape().to_vec(), floats(input).unwrap()));
    for (name, initializer) in &graph.initializers {
        if let Ok(numbers) = floats(&initializer.tensor) {
            let shape = initializer.tensor.shape().to_vec();
            values.insert(name.clone(), (shape, numbers));
        }
    }
    for node in &graph.nodes {
        let shape = shapes.shape(node.id()).unwrap().to_vec();
        match node.op_type() {
            "Split" => {
                let mut start = 0;
                for output in node.outputs() {
                    let shape = shapes.shape(output).unwrap().to_vec();
                    let part = part(&values[&node.inputs()[0]], start, &shape);
                    start += shape[1];
                    values.insert(output.clone(), (shape, part));
                }
            }
            "Shape" => {}
            _ => {
                let result = compute(node, &values, &shape);
                values.insert(node.id().to_owned(), (shape, result));
            }
        }
    }
    values[graph.outputs[0].name()].1.clone()
}

fn coordinates(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> + '_ {
    (0..shape.iter().product()).map(move |mut rest| {
        let mut result = vec![0; shape.len()];
        for axis in (0..shape.len()).rev() {
            result[axis] = rest % shape[axis];
            rest /= shape[axis];
        }
        result
    })
}

/// The element at `at`, by broadcasting.
fn get((shape, numbers): &Value, at: &[usize]) -> f32 {
    let lead = at.len() - shape.len();
    let index = shape.iter().enumerate().fold(0, |index, (axis, &size)| {
        index * size + if size == 1 { 0 } else { at[lead + axis] }
    });
    numbers[index]
}

fn part(value: &Value, start: usize, shape: &[usize]) -> Vec<f32> {
    let shifted = coordinates(shape).map(|mut at| {
        at[1] += start;
        at
    });
    shifted.map(|at| get(value, &at)).collect()
}

fn compute(node: &Node, values: &HashMap<String, Value>, shape: &[usize]) -> Vec<f32> {
    let input = |k: usize| &values[&node.inputs()[k]];
    let each =
        |function: &dyn Fn(&[usize]) -> f32| -> Vec<f32> { coordinates(shape).map(|at| function(&at)).collect() };
    match node.op_type() {
        "Constant" => {
            let message = node.attribute("value").unwrap().t.as_option().unwrap();
            let tensor = tensor_from_message(message).unwrap();
            tensor.to_f32().unwrap().into_owned()
        }
        "Relu" => each(&|at| get(input(0), at).max(0.0)),
        "Sigmoid" => each(&|at| 1.0 / (1.0 + (-get(input(0), at)).exp())),
        "Add" => each(&|at| get(input(0), at) + get(input(1), at)),
        "Mul" => each(&|at| get(input(0), at) * get(input(1), at)),
        "PRelu" => each(&|at| {
            let (x, slope) = (get(input(0), at), get(input(1), at));
            if x < 0.0 { x * slope } else { x }
        }),
        "BatchNormalization" => each(&|at| {
            let p = |k: usize| input(k).1[at[1]];
            (get(input(0), at) - p(3)) / (p(4).abs() + 0.1).sqrt() * p(1) + p(2)
        }),
        "GlobalAveragePool" => each(&|at| {
            let sizes = &input(0).0;
            let pixels = coordinates(&sizes[2..]);
            let sum: f32 = pixels.map(|pixel| get(input(0), &[&at[..2], &pixel].concat())).sum();
            sum / (sizes[2] * sizes[3]) as f32
        }),
        "Flatten" | "Reshape" => input(0).1.clone(),
        "Transpose" => {
            let order = node.ints("perm").unwrap();
            each(&|at| {
                let mut from = vec![0; at.len()];
                for (to, &axis) in order.iter().enumerate() {
                    from[axis as usize] = at[to];
                }
                get(input(0), &from)
            })
        }
        "Concat" => {
            let first = input(0).0[1];
            each(&|at| {
                let mut at = at.to_vec();
                if at[1] < first {
                    return get(input(0), &at);
                }
                at[1] -= first;
                get(input(1), &at)
            })
        }
        "MatMul" | "Gemm" => {
            let inner = *input(0).0.last().unwrap();
            let transposed = node.int("transB") == Some(1);
            each(&|at| {
                let (row, column) = at.split_at(at.len() - 1);
                let mut sum = 0.0;
                for k in 0..inner {
                    let right = if transposed { [column[0], k] } else { [k, column[0]] };
                    sum += get(input(0), &[row, &[k]].concat()) * get(input(1), &right);
                }
                sum + if node.inputs().len() > 2 {
                    input(2).1[column[0]]
                } else {
                    0.0
                }
            })
        }
        "Conv" => convolution(node, input(0), input(1), input(2), shape),
        other => panic!("no {other} here"),
    }
}

fn convolution(node: &Node, input: &Value, weight: &Value, bias: &Value, shape: &[usize]) -> Vec<f32> {
    let groups = node.int("group").unwrap() as usize;
    let pad = node.ints("pads").unwrap()[0] as usize;
    let per_group = weight.0[0] / groups;
    let each = coordinates(shape).map(|at| {
        let mut sum = 0.0;
        for k in coordinates(&weight.0[1..]) {
            let (y, x) = (at[2] + k[1], at[3] + k[2]);
            let inside = |p: usize, size: usize| p >= pad && p < size + pad;
            if inside(y, input.0[2]) && inside(x, input.0[3]) {
                let channel = at[1] / per_group * weight.0[1] + k[0];
                sum += get(input, &[at[0], channel, y - pad, x - pad]) * get(weight, &[at[1], k[0], k[1], k[2]]);
            }
        }
        sum + bias.1[at[1]]
    });
    each.collect()
}
