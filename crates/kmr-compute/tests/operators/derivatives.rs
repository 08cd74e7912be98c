//! Derivatives of single operators against central differences.

use kmr_compute::{Mode, Program};
use kmr_model::{Node, Tensor};

use super::{
    common::{feeds, floats, integers, load, model, noise},
    plain,
};

/// Checks the derivative of a node by its first input, which is float32.
#[track_caller]
fn check(opset: i64, operator: &str, x: &Tensor, others: &[(&str, Tensor)], attributes: impl FnOnce(Node) -> Node) {
    let mut names = vec!["x"];
    names.extend(others.iter().map(|(name, _)| *name));
    let node = attributes(Node::new(operator, "the node", &names, &["y"]));
    let model = model(opset, vec![node], &[("x", x.clone())], others, &["y"]);
    let program = load(&model);
    let start = feeds(&[("x", x.clone())]);
    let pullback = program.pullback(&start, &["y"], &["x"], Mode::default()).unwrap();
    let cotangent = noise(pullback.outputs()[0].shape(), 7);
    let plain_output = program.forward(&start, &["y"], Mode::default()).unwrap();
    assert_eq!(pullback.outputs()[0].bytes(), plain_output[0].bytes(), "{operator}");
    let gradient = pullback.pull(vec![cotangent.clone()]).unwrap().remove("x").unwrap();
    let direction = noise(x.shape(), 8);
    let (d, g) = (direction.values::<f32>().unwrap(), gradient.values::<f32>().unwrap());
    let slope: f64 = d.iter().zip(g.iter()).map(|(&d, &g)| f64::from(d) * f64::from(g)).sum();
    let step = 1e-3;
    let measured = (objective(&*program, x, &d, step, &cotangent) - objective(&*program, x, &d, -step, &cotangent))
        / (2.0 * f64::from(step));
    assert!(
        (slope - measured).abs() < 1e-2 * (1.0 + measured.abs()),
        "{operator}: {slope} is not {measured}"
    );
    assert!(slope != 0.0, "{operator} depends on its input");
}

fn objective(program: &dyn Program, x: &Tensor, direction: &[f32], step: f32, cotangent: &Tensor) -> f64 {
    let values = x.values::<f32>().unwrap();
    let moved: Vec<f32> = values.iter().zip(direction).map(|(x, d)| x + step * d).collect();
    let start = feeds(&[("x", floats(x.shape(), &moved))]);
    let y = program.forward(&start, &["y"], Mode::default()).unwrap().remove(0);
    let (y, c) = (y.values::<f32>().unwrap(), cotangent.values::<f32>().unwrap());
    y.iter().zip(c.iter()).map(|(&y, &c)| f64::from(y) * f64::from(c)).sum()
}

#[test]
fn functions_of_single_elements() {
    // Away from kinks and poles.
    let x = floats(&[2, 3], &[-0.8, -0.3, 0.2, 0.4, 0.7, 0.9]);
    for operator in [
        "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Atanh", "Erf", "Elu", "Celu", "Selu",
        "Softsign", "Softplus", "Mish", "Swish", "Sigmoid",
    ] {
        check(24, operator, &x, &[], plain);
    }
    check(24, "ThresholdedRelu", &x, &[], |n| n.with_float("alpha", 0.1));
    check(24, "Shrink", &x, &[], |n| {
        n.with_float("lambd", 0.25).with_float("bias", 0.1)
    });
    check(24, "PRelu", &x, &[("slope", floats(&[3], &[0.1, 0.2, 0.3]))], plain);
}

#[test]
fn reductions() {
    let x = floats(&[2, 3], &[0.5, 1.5, 2.0, 3.0, 0.25, 1.0]);
    let axes = [("axes", integers(&[1], &[1]))];
    for operator in [
        "ReduceSum",
        "ReduceMean",
        "ReduceMax",
        "ReduceProd",
        "ReduceL1",
        "ReduceL2",
        "ReduceSumSquare",
        "ReduceLogSum",
        "ReduceLogSumExp",
    ] {
        check(20, operator, &x, &axes, plain);
    }
    check(14, "CumSum", &x, &[("axis", Tensor::scalar(1_i64))], |n| {
        n.with_int("exclusive", 1).with_int("reverse", 1)
    });
}

#[test]
fn movements() {
    let x = noise(&[2, 3], 1);
    let list = |values: &[i64]| integers(&[values.len()], values);
    check(19, "Pad", &x, &[("pads", list(&[0, 1, 1, 1]))], |n| {
        n.with_string("mode", "reflect")
    });
    check(13, "Tile", &x, &[("repeats", list(&[2, 1]))], plain);
    check(13, "GatherElements", &x, &[("at", integers(&[2, 1], &[2, 0]))], |n| {
        n.with_int("axis", 1)
    });
    check(13, "GatherND", &x, &[("at", integers(&[1, 2], &[1, 1]))], plain);
    check(14, "Trilu", &x, &[], plain);
    let updates = integers(&[1, 1], &[0]);
    check(
        13,
        "ScatterND",
        &x,
        &[("at", updates), ("updates", floats(&[1, 3], &[1.0; 3]))],
        plain,
    );
    check(13, "TopK", &x, &[("k", list(&[2]))], plain);
    check(12, "Einsum", &x, &[("w", noise(&[3, 4], 2))], |n| {
        n.with_string("equation", "ij,jk->ki")
    });
}
