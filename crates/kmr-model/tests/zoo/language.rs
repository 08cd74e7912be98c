//! Whole language models, from token ids to scores.

use super::{Network, builder::Net};

pub fn networks() -> Vec<Network> {
    let grouped = decoder("grouped_decoder", 4, 2, true);
    let shared = decoder("one_key_decoder", 3, 1, false);
    let rows = [
        rows_decoder("rows_decoder", 2, 2),
        rows_decoder("rows_one_key_decoder", 1, 3),
    ];
    [bert(), grouped, shared].into_iter().chain(rows).collect()
}

const WIDTH: usize = 12;
const INNER: usize = 10;
const WORDS: usize = 101;
const TOKENS: usize = 5;

/// The batch and the length of `ids`, as exporters compute them.
fn sizes(net: &Net, ids: &str) -> [String; 2] {
    let shape = net.op("Shape", &[ids]);
    [0, 1].map(|axis| net.op("Gather", &[&shape, &net.integers(&[axis])]))
}

/// `x` as [batch, length, heads, rest].
fn split_heads(net: &Net, [batch, length]: [&str; 2], x: &str, heads: usize, depth: usize) -> String {
    let (heads, depth) = (net.integers(&[heads as i64]), net.integers(&[depth as i64]));
    let shape = net.concat(&[batch, length, &heads, &depth], 0);
    net.op("Reshape", &[x, &shape])
}

fn attend(net: &Net, [q, k, v]: [&str; 3], mask: &str, depth: usize, width: usize) -> String {
    let scores = net.op("MatMul", &[q, &net.transpose(k, &[0, 1, 3, 2])]);
    let scores = net.op("Div", &[&scores, &net.floats(&[], &[(depth as f32).sqrt()])]);
    let scores = net.op("Add", &[&scores, mask]);
    let scores = net.with("Softmax", &[&scores], |n| n.with_int("axis", -1));
    let y = net.op("MatMul", &[&scores, v]);
    let y = net.transpose(&y, &[0, 2, 1, 3]);
    net.reshape(&y, &[0, 0, width as i64])
}

/// An encoder of the BERT kind: learned positions, normalization after each sum, scores by the table of words.
fn bert() -> Network {
    const HEADS: usize = 3;
    let net = Net::new();
    let ids = net.ids("ids", &[2, TOKENS]);
    let mask = net.ids("mask", &[2, TOKENS]);
    let [batch, length] = sizes(&net, &ids);
    let sizes = [batch.as_str(), length.as_str()];
    let norm = |x: &str| {
        let (scale, bias) = (net.positive(&[WIDTH]), net.weight(&[WIDTH]));
        net.with("LayerNormalization", &[x, &scale, &bias], |n| n.with_int("axis", -1))
    };
    let table = net.weight(&[WORDS, WIDTH]);
    let words = net.op("Gather", &[&table, &ids]);
    let places = net.weight(&[8, WIDTH]);
    let places = net.op("Slice", &[&places, &net.integers(&[0]), &length, &net.integers(&[0])]);
    let mut x = norm(&net.op("Add", &[&words, &places]));
    let mask = net.op("Unsqueeze", &[&mask, &net.integers(&[1, 2])]);
    let mask = net.with("Cast", &[&mask], |n| n.with_int("to", 1));
    let mask = net.op("Sub", &[&net.floats(&[], &[1.0]), &mask]);
    let mask = net.op("Mul", &[&mask, &net.floats(&[], &[-1e4])]);
    for _ in 0..2 {
        let depth = WIDTH / HEADS;
        let head = || {
            let y = net.linear_rows(&x, WIDTH, WIDTH, true);
            net.transpose(&split_heads(&net, sizes, &y, HEADS, depth), &[0, 2, 1, 3])
        };
        let (q, k, v) = (head(), head(), head());
        let y = attend(&net, [&q, &k, &v], &mask, depth, WIDTH);
        x = norm(&net.op("Add", &[&net.linear_rows(&y, WIDTH, WIDTH, true), &x]));
        let y = net.linear_rows(&x, WIDTH, INNER, true);
        let y = net.linear_rows(&net.op("Gelu", &[&y]), INNER, WIDTH, true);
        x = norm(&net.op("Add", &[&y, &x]));
    }
    let y = net.op("MatMul", &[&x, &net.transpose(&table, &[1, 0])]);
    net.network("bert", 20, &[&y], 4)
}

fn root_norm(net: &Net, x: &str, width: usize) -> String {
    let square = net.op("Pow", &[x, &net.floats(&[], &[2.0])]);
    let mean = net.op("ReduceMean", &[&square, &net.integers(&[-1])]);
    let mean = net.op("Add", &[&mean, &net.floats(&[], &[1e-6])]);
    let root = net.op("Reciprocal", &[&net.op("Sqrt", &[&mean])]);
    net.op("Mul", &[&net.positive(&[width]), &net.op("Mul", &[x, &root])])
}

/// A decoder of the Llama kind: rotated positions, a gated feed-forward part, queries in groups that share a key.
fn decoder(name: &'static str, heads: usize, keys: usize, norms: bool) -> Network {
    const DEPTH: usize = 4;
    let net = Net::new();
    let ids = net.ids("ids", &[2, TOKENS]);
    let [batch, length] = sizes(&net, &ids);
    let sizes = [batch.as_str(), length.as_str()];
    let place = net.op(
        "Range",
        &[
            &net.scalar(0),
            &net.op("Squeeze", &[&length, &net.integers(&[0])]),
            &net.scalar(1),
        ],
    );
    let row = net.op("Unsqueeze", &[&place, &net.integers(&[1])]);
    let later = net.op("Less", &[&row, &place]);
    let mask = net.op("Where", &[&later, &net.floats(&[], &[-1e9]), &net.floats(&[], &[0.0])]);
    let turns = net.with("Cast", &[&row], |n| n.with_int("to", 1));
    let turns = net.op("Mul", &[&turns, &net.floats(&[1, DEPTH / 2], &[1.0, 0.1])]);
    let turns = net.concat(&[&turns, &turns], -1);
    let (cosine, sine) = (net.op("Cos", &[&turns]), net.op("Sin", &[&turns]));
    let rotate = |x: &str| {
        let part = |start: i64, end: i64| {
            let bounds = [[start], [end], [3]].map(|bound| net.integers(&bound));
            net.op("Slice", &[x, &bounds[0], &bounds[1], &bounds[2]])
        };
        let half = DEPTH as i64 / 2;
        let turned = net.concat(&[&net.op("Neg", &[&part(half, i64::MAX)]), &part(0, half)], -1);
        let (x, turned) = (net.op("Mul", &[x, &cosine]), net.op("Mul", &[&turned, &sine]));
        net.op("Add", &[&x, &turned])
    };
    let table = net.weight(&[WORDS, WIDTH]);
    let mut x = net.op("Gather", &[&table, &ids]);
    for _ in 0..2 {
        let y = root_norm(&net, &x, WIDTH);
        let head = |count: usize, normed: bool| {
            let y = net.linear_rows(&y, WIDTH, count * DEPTH, false);
            let y = split_heads(&net, sizes, &y, count, DEPTH);
            let y = if normed { root_norm(&net, &y, DEPTH) } else { y };
            net.transpose(&y, &[0, 2, 1, 3])
        };
        let (q, k, v) = (
            rotate(&head(heads, norms)),
            rotate(&head(keys, norms)),
            head(keys, false),
        );
        let repeated = |x: &str| {
            let y = net.op("Unsqueeze", &[x, &net.integers(&[2])]);
            let [keys, repeats, depth, heads] =
                [keys, heads / keys, DEPTH, heads].map(|size| net.integers(&[size as i64]));
            let target = net.concat(&[&batch, &keys, &repeats, &length, &depth], 0);
            let y = net.op("Expand", &[&y, &target]);
            let target = net.concat(&[&batch, &heads, &length, &depth], 0);
            net.op("Reshape", &[&y, &target])
        };
        let y = attend(&net, [&q, &repeated(&k), &repeated(&v)], &mask, DEPTH, heads * DEPTH);
        x = net.op("Add", &[&x, &net.linear_rows(&y, heads * DEPTH, WIDTH, false)]);
        let y = root_norm(&net, &x, WIDTH);
        let gate = net.linear_rows(&y, WIDTH, INNER, false);
        let gate = net.op("Mul", &[&gate, &net.op("Sigmoid", &[&gate])]);
        let y = net.op("Mul", &[&gate, &net.linear_rows(&y, WIDTH, INNER, false)]);
        x = net.op("Add", &[&x, &net.linear_rows(&y, INNER, WIDTH, false)]);
    }
    let y = root_norm(&net, &x, WIDTH);
    let y = net.linear_rows(&y, WIDTH, WORDS, false);
    net.network(name, 18, &[&y], 4)
}

/// The same with tokens as the rows of matrices, products that are Gemms, and an axis for the queries that share a key.
fn rows_decoder(name: &'static str, keys: usize, shared: usize) -> Network {
    const DEPTH: usize = 4;
    let net = Net::new();
    let ids = net.ids("ids", &[2, TOKENS]);
    let sizes = net.op("Shape", &[&ids]);
    let gemm = |x: &str, from: usize, to: usize| {
        let w = net.weight(&[to, from]);
        net.with("Gemm", &[x, &w], |n| n.with_int("transB", 1))
    };
    let length = net.with("Shape", &[&ids], |n| n.with_int("start", 1));
    let place = net.op(
        "Range",
        &[&net.scalar(0), &net.op("Squeeze", &[&length]), &net.scalar(1)],
    );
    let column = net.op("Unsqueeze", &[&place, &net.integers(&[-1])]);
    let seen = net.op("LessOrEqual", &[&place, &column]);
    let mask = net.op(
        "Where",
        &[&seen, &net.floats(&[], &[0.0]), &net.floats(&[], &[f32::MIN])],
    );
    let turns = net.with("Cast", &[&column], |n| n.with_int("to", 1));
    let turns = net.op("Mul", &[&turns, &net.floats(&[DEPTH / 2], &[1.0, 0.1])]);
    let axes = net.integers(&[1, 2]);
    let [cosines, sines] = ["Cos", "Sin"].map(|function| net.op("Unsqueeze", &[&net.op(function, &[&turns]), &axes]));
    let turn = |x: &str| {
        let halves = net.many("Split", &[x], 2, |n| n.with_int("axis", -1).with_int("num_outputs", 2));
        let product = |half: usize, by: &str| net.op("Mul", &[&halves[half], by]);
        let first = net.op("Sub", &[&product(0, &cosines), &product(1, &sines)]);
        let second = net.op("Add", &[&product(1, &cosines), &product(0, &sines)]);
        net.concat(&[&first, &second], -1)
    };
    let depth = DEPTH as i64;
    let (queries, others) = (net.integers(&[-1, shared as i64, depth]), net.integers(&[-1, 1, depth]));
    let split = |rows: &str, rest: &str| net.op("Reshape", &[rows, &net.concat(&[&sizes, rest], 0)]);
    let table = net.weight(&[WORDS, WIDTH]);
    let embedded = net.op("Gather", &[&table, &ids]);
    let mut x = net.with("Flatten", &[&embedded], |n| n.with_int("axis", 2));
    for _ in 0..2 {
        let y = root_norm(&net, &x, WIDTH);
        let width = keys * shared * DEPTH;
        let q = turn(&split(&gemm(&y, WIDTH, width), &queries));
        let k = turn(&split(&gemm(&y, WIDTH, keys * DEPTH), &others));
        let v = split(&gemm(&y, WIDTH, keys * DEPTH), &others);
        let q = net.transpose(&q, &[0, 2, 3, 1, 4]);
        let k = net.transpose(&k, &[0, 2, 3, 4, 1]);
        let v = net.transpose(&v, &[0, 2, 3, 1, 4]);
        let scores = net.op("Mul", &[&net.op("MatMul", &[&q, &k]), &net.floats(&[], &[0.5])]);
        let scores = net.op("Add", &[&scores, &mask]);
        let scores = net.with("Softmax", &[&scores], |n| n.with_int("axis", -1));
        let y = net.transpose(&net.op("MatMul", &[&scores, &v]), &[0, 3, 1, 2, 4]);
        let y = net.with("Flatten", &[&y], |n| n.with_int("axis", 2));
        x = net.op("Add", &[&x, &gemm(&y, width, WIDTH)]);
        let y = root_norm(&net, &x, WIDTH);
        let gate = gemm(&y, WIDTH, INNER);
        let gate = net.op("Mul", &[&gate, &net.op("Sigmoid", &[&gate])]);
        let y = net.op("Mul", &[&gate, &gemm(&y, WIDTH, INNER)]);
        x = net.op("Add", &[&x, &gemm(&y, INNER, WIDTH)]);
    }
    let y = root_norm(&net, &x, WIDTH);
    let y = net.with("Gemm", &[&y, &table], |n| n.with_int("transB", 1));
    let y = net.op("Reshape", &[&y, &net.concat(&[&sizes, &net.integers(&[-1])], 0)]);
    net.network(name, 20, &[&y], 4)
}
