//! Attention.

use super::{Network, builder::Net};

pub fn networks() -> Vec<Network> {
    vec![encoder(), fused(), windowed()]
}

const WIDTH: usize = 12;
const HEADS: i64 = 3;

fn layer_norm(net: &Net, x: &str) -> String {
    let (scale, bias) = (net.positive(&[WIDTH]), net.weight(&[WIDTH]));
    net.with("LayerNormalization", &[x, &scale, &bias], |n| n.with_int("axis", -1))
}

fn attention(net: &Net, [q, k, v]: [&str; 3]) -> String {
    let scores = net.op("MatMul", &[q, k]);
    let scores = net.op("Mul", &[&scores, &net.floats(&[], &[0.5])]);
    let scores = net.with("Softmax", &[&scores], |n| n.with_int("axis", -1));
    let y = net.op("MatMul", &[&scores, v]);
    let y = net.transpose(&y, &[0, 2, 1, 3]);
    net.reshape(&y, &[0, -1, WIDTH as i64])
}

fn feed_forward(net: &Net, x: &str) -> String {
    let y = net.linear(x, WIDTH, 10);
    let half = net.op("Div", &[&y, &net.floats(&[], &[std::f32::consts::SQRT_2])]);
    let half = net.op("Erf", &[&half]);
    let half = net.op("Add", &[&half, &net.floats(&[], &[1.0])]);
    let y = net.op("Mul", &[&y, &half]);
    net.linear(&y, 10, WIDTH)
}

fn encoder() -> Network {
    let net = Net::new();
    let x = net.input("x", &[2, 5, WIDTH]);
    let y = layer_norm(&net, &x);
    let head = |order: &[i64]| {
        let y = net.linear(&y, WIDTH, WIDTH);
        let y = net.reshape(&y, &[0, 0, HEADS, WIDTH as i64 / HEADS]);
        net.transpose(&y, order)
    };
    let [q, k, v] = [&[0, 2, 1, 3], &[0, 2, 3, 1], &[0, 2, 1, 3]].map(|order| head(order));
    let y = attention(&net, [&q, &k, &v]);
    let y = net.linear(&y, WIDTH, WIDTH);
    let x = net.op("Add", &[&x, &y]);
    let y = layer_norm(&net, &x);
    let y = feed_forward(&net, &y);
    let y = net.op("Add", &[&x, &y]);
    let y = net.with("ReduceMean", &[&y], |n| {
        n.with_ints("axes", &[1]).with_int("keepdims", 0)
    });
    let y = net.linear(&y, WIDTH, 3);
    net.network("encoder", 17, &[&y], 2)
}

/// Queries, keys and values from one product.
fn fused() -> Network {
    let net = Net::new();
    let x = net.input("x", &[2, 5, WIDTH]);
    let y = net.linear(&x, WIDTH, 3 * WIDTH);
    let y = net.reshape(&y, &[2, 5, 3, HEADS, WIDTH as i64 / HEADS]);
    let y = net.transpose(&y, &[2, 0, 3, 1, 4]);
    let parts = net.many("Split", &[&y], 3, |n| n.with_int("axis", 0));
    let parts: Vec<String> = parts
        .iter()
        .map(|part| net.op("Squeeze", &[part, &net.integers(&[0])]))
        .collect();
    let k = net.transpose(&parts[1], &[0, 1, 3, 2]);
    let y = attention(&net, [&parts[0], &k, &parts[2]]);
    let y = net.linear(&y, WIDTH, 3);
    net.network("fused_attention", 13, &[&y], 1)
}

/// Three slices for queries, keys and values, and a stored bias for each head.
fn windowed() -> Network {
    let net = Net::new();
    let x = net.input("x", &[2, 5, WIDTH]);
    let all = net.linear(&x, WIDTH, 3 * WIDTH);
    let parts = net.many("Split", &[&all, &net.integers(&[12, 12, 12])], 3, |n| {
        n.with_int("axis", 2)
    });
    let head = |x: &str, order: &[i64]| {
        let y = net.reshape(x, &[0, 5, HEADS, -1]);
        net.transpose(&y, order)
    };
    let q = head(&parts[0], &[0, 2, 1, 3]);
    let k = head(&parts[1], &[0, 2, 3, 1]);
    let v = head(&parts[2], &[0, 2, 1, 3]);
    let scores = net.op("MatMul", &[&q, &k]);
    let scores = net.op("Add", &[&scores, &net.weight(&[1, HEADS as usize, 5, 5])]);
    let scores = net.with("Softmax", &[&scores], |n| n.with_int("axis", -1));
    let y = net.op("MatMul", &[&scores, &v]);
    let y = net.transpose(&y, &[0, 2, 1, 3]);
    let y = net.reshape(&y, &[0, 0, WIDTH as i64]);
    let y = net.linear(&y, WIDTH, 3);
    net.network("windowed_attention", 13, &[&y], 1)
}
