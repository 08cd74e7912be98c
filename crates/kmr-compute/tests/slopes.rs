//! Every derivative that the interpreter gives, against central differences, on the conformance cases of the ONNX project.
//!
//! `conformance/slopes.txt` says of each operator and float32 input how often a derivative was right, refused, or could
//! not be measured: near a kink or a jump, step widths or the two sides disagree. None may be wrong. `UPDATE_CONFORMANCE=1` writes the
//! file anew.

mod common;

use std::{collections::BTreeMap, env, fmt::Write, fs, path::Path};

use common::noise;
use kmr_compute::{ComputeError, Engine, ErrorKind, Feeds, Interpreter, Mode, Program};
use kmr_conformance::{Failure, Verdict, cases, judge};
use kmr_model::{DType, Model, Tensor};

/// Inputs with more elements tell nothing new and take long.
const MOST: usize = 20_000;

#[derive(Clone, Copy, Default)]
struct Counts {
    right: usize,
    refused: usize,
    unmeasured: usize,
}

enum Found {
    Right,
    Refused,
    Unmeasured,
    Wrong(String),
}

/// The sum of float32 outputs times fixed noise, and the sum of the absolute terms.
fn objective(outputs: &[Tensor]) -> (f64, f64) {
    let (mut sum, mut size) = (0.0, 0.0);
    for (position, output) in outputs
        .iter()
        .enumerate()
        .filter(|(_, output)| output.dtype() == DType::FLOAT)
    {
        let weights = noise(output.shape(), position as u64 + 7);
        let (values, weights) = (output.values::<f32>().unwrap(), weights.values::<f32>().unwrap());
        for (value, weight) in values.iter().zip(weights.iter()) {
            let term = f64::from(*value) * f64::from(*weight);
            sum += term;
            size += term.abs();
        }
    }
    (sum, size)
}

/// The slope of the objective by the input `name` along a direction, as the derivative has it.
fn slope(program: &dyn Program, feeds: &Feeds, name: &str, direction: &[f32]) -> Result<f64, ComputeError> {
    let pullback = program.pullback(feeds, &[], &[name], Mode::default())?;
    let outputs = pullback.outputs().iter().enumerate();
    let cotangents = outputs.map(|(position, output)| match output.dtype() {
        DType::FLOAT => noise(output.shape(), position as u64 + 7),
        _ => Tensor::from_vec(output.shape().to_vec(), vec![0.0_f32; output.len()]),
    });
    let cotangents = cotangents.collect();
    let gradient = pullback.pull(cotangents)?.remove(name).expect("it was asked for");
    let gradient = gradient.values::<f32>().unwrap();
    let terms = gradient.iter().zip(direction);
    Ok(terms.map(|(slope, step)| f64::from(*slope) * f64::from(*step)).sum())
}

fn check(program: &dyn Program, feeds: &Feeds, outputs_at_start: &[Tensor], name: &str) -> Found {
    let start = &feeds[name];
    let mut found = Found::Unmeasured;
    for seed in 0..3 {
        let direction = noise(start.shape(), 31 + seed);
        let direction = direction.values::<f32>().unwrap();
        let slope = match slope(program, feeds, name, &direction) {
            Ok(slope) => slope,
            Err(_) => return Found::Refused,
        };
        let values = start.values::<f32>().unwrap();
        let mut size = 0.0_f64;
        // Where a shape follows the values, there is nothing to compare.
        let mut at = |step: f32| -> Option<f64> {
            let moved = values.iter().zip(direction.iter()).map(|(value, d)| value + step * d);
            let mut feeds = feeds.clone();
            feeds.insert(name.into(), Tensor::from_vec(start.shape().to_vec(), moved.collect()));
            let outputs = program.forward(&feeds, &[], Mode::default()).ok()?;
            let alike = outputs
                .iter()
                .zip(outputs_at_start)
                .all(|(a, b)| a.shape() == b.shape());
            let (sum, terms) = objective(&outputs);
            size = size.max(terms);
            (alike && sum.is_finite()).then_some(sum)
        };
        const STEP: f32 = 2e-3;
        let around = [at(-2.0 * STEP), at(-STEP), at(0.0), at(STEP), at(2.0 * STEP)];
        let [Some(far_left), Some(left), Some(here), Some(right), Some(far_right)] = around else {
            continue;
        };
        let step = f64::from(STEP);
        let (wide, narrow) = ((far_right - far_left) / (4.0 * step), (right - left) / (2.0 * step));
        let sides = ((right - here) - (here - left)).abs() / step;
        // What rounding to float32 leaves uncertain in a difference over so short a step.
        let noise = 1e-4 * size;
        let scale = slope.abs().max(narrow.abs());
        if !slope.is_finite() || (wide - narrow).abs().max(0.5 * sides) > 0.01 * scale + noise {
            continue;
        }
        if (slope - narrow).abs() > 0.03 * scale + 3.0 * noise {
            return Found::Wrong(format!("{slope} is not {narrow}"));
        }
        found = Found::Right;
    }
    found
}

#[test]
fn no_derivative_is_wrong() {
    let mut counts: BTreeMap<(String, usize), Counts> = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in cases().expect("the archives are whole") {
        let path = case.path();
        let verdict = judge(&case, |model: &Model, feeds: &kmr_conformance::Feeds| {
            let failed = |error: ComputeError| match error.kind() {
                ErrorKind::Unsupported => Failure::Refused(error.to_string()),
                _ => Failure::Failed(error.to_string()),
            };
            let program = Interpreter.load(model).map_err(failed)?;
            let outputs = program.forward(feeds, &[], Mode::default()).map_err(failed)?;
            for (name, input) in feeds {
                if input.dtype() != DType::FLOAT || input.is_empty() || input.len() > MOST {
                    continue;
                }
                let found = check(&*program, feeds, &outputs, name);
                if let Found::Wrong(message) = &found {
                    wrong.push(format!("{path} by `{name}`: {message}"));
                }
                let [node] = model.graph.nodes.as_slice() else { continue };
                let Some(position) = node.inputs().iter().position(|input| input == name) else {
                    continue;
                };
                let row = counts.entry((node.op_type().to_owned(), position)).or_default();
                match found {
                    Found::Right => row.right += 1,
                    Found::Refused => row.refused += 1,
                    Found::Unmeasured | Found::Wrong(_) => row.unmeasured += 1,
                }
            }
            Ok(outputs)
        });
        if let Verdict::Wrong(message) = verdict {
            wrong.push(format!("{path}: {message}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} derivatives are wrong:\n  {}",
        wrong.len(),
        wrong.join("\n  ")
    );
    let mut list = String::from("# operator, input: cases whose derivative is right, refused, not measured\n");
    for ((operator, position), row) in &counts {
        let Counts {
            right,
            refused,
            unmeasured,
        } = row;
        writeln!(list, "{operator} {position}: {right} {refused} {unmeasured}").unwrap();
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/slopes.txt");
    if env::var_os("UPDATE_CONFORMANCE").is_some() {
        fs::write(&file, &list).expect("the list can be written");
        return;
    }
    let earlier = fs::read_to_string(&file).expect("the list is there");
    let changed: Vec<&str> = list.lines().filter(|line| !earlier.contains(line)).collect();
    assert!(
        changed.is_empty(),
        "the list says otherwise (UPDATE_CONFORMANCE=1 writes it anew):\n{}",
        changed.join("\n")
    );
}
