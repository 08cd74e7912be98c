//! Recurrent networks.

use kmr_model::{Node, Tensor};

use super::{Network, builder::Net};

pub fn networks() -> Vec<Network> {
    vec![stacked(), gated(), plain(), over_words(), read_images()]
}

struct Layer {
    op: &'static str,
    gates: usize,
    input: usize,
    hidden: usize,
    directions: usize,
}

impl Layer {
    /// The layer's outputs; states, lengths and peepholes as given, `""` for none.
    fn on(&self, net: &Net, x: &str, states: [&str; 2], outputs: usize, with: fn(Node) -> Node) -> Vec<String> {
        let rows = self.gates * self.hidden;
        let w = net.weight(&[self.directions, rows, self.input]);
        let r = net.weight(&[self.directions, rows, self.hidden]);
        let b = net.weight(&[self.directions, 2 * rows]);
        let mut inputs = vec![x, &w, &r, &b, "", states[0]];
        if self.gates == 4 {
            inputs.push(states[1]);
        }
        while inputs.last() == Some(&"") {
            inputs.pop();
        }
        let direction = if self.directions == 2 {
            "bidirectional"
        } else {
            "forward"
        };
        net.many(self.op, &inputs, outputs, |node| {
            let node = node.with_int("hidden_size", self.hidden as i64);
            with(node.with_string("direction", direction))
        })
    }
}

/// Two LSTMs, the first in both directions, initial states of zeros whose batch is computed.
fn stacked() -> Network {
    let net = Net::new();
    let x = net.input("x", &[5, 2, 3]);
    let shape = net.op("Shape", &[&x]);
    let batch = net.with("Gather", &[&shape, &net.integers(&[1])], |n| n.with_int("axis", 0));
    let state = |directions: i64, hidden: i64| {
        let (first, last) = (net.integers(&[directions]), net.integers(&[hidden]));
        net.op("ConstantOfShape", &[&net.concat(&[&first, &batch, &last], 0)])
    };
    let first = Layer {
        op: "LSTM",
        gates: 4,
        input: 3,
        hidden: 4,
        directions: 2,
    };
    let states = [state(2, 4), state(2, 4)];
    let y = first.on(&net, &x, [&states[0], &states[1]], 1, |n| n);
    let y = net.transpose(&y[0], &[0, 2, 1, 3]);
    let y = net.reshape(&y, &[0, 0, 8]);
    let second = Layer {
        input: 8,
        hidden: 5,
        directions: 1,
        ..first
    };
    let y = second.on(&net, &y, ["", ""], 3, |n| n);
    let last = net.op("Squeeze", &[&y[1], &net.integers(&[0])]);
    let all = net.op("Squeeze", &[&y[0], &net.integers(&[1])]);
    let a = net.linear(&last, 5, 3);
    let b = net.linear(&all, 5, 2);
    net.network("stacked_lstm", 14, &[&a, &b], 2)
}

fn gated() -> Network {
    let net = Net::new();
    let x = net.input("x", &[4, 2, 3]);
    let layer = Layer {
        op: "GRU",
        gates: 3,
        input: 6,
        hidden: 5,
        directions: 1,
    };
    let x = net.linear(&x, 3, 6);
    let state = net.weight(&[1, 2, 5]);
    let y = layer.on(&net, &x, [&state, ""], 2, |n| n.with_int("linear_before_reset", 1));
    let y = net.op("Squeeze", &[&y[1], &net.integers(&[0])]);
    let y = net.linear(&y, 5, 3);
    net.network("gru", 14, &[&y], 2)
}

fn plain() -> Network {
    let net = Net::new();
    let x = net.input("x", &[4, 2, 3]);
    let layer = Layer {
        op: "RNN",
        gates: 1,
        input: 3,
        hidden: 6,
        directions: 1,
    };
    let y = layer.on(&net, &x, ["", ""], 1, |n| n);
    let y = net.with("ReduceMax", &[&y[0]], |n| {
        n.with_ints("axes", &[0, 1]).with_int("keepdims", 0)
    });
    let y = net.linear(&y, 6, 3);
    net.network("rnn", 14, &[&y], 1)
}

/// The columns of an embedding go with what reads them.
fn over_words() -> Network {
    let net = Net::new();
    let x = net.input("x", &[3, 2]);
    let ids = net.with("Cast", &[&x], |n| n.with_int("to", 7));
    let ids = net.op("Abs", &[&ids]);
    let y = net.with("Gather", &[&net.weight(&[9, 6]), &ids], |n| n.with_int("axis", 0));
    let layer = Layer {
        op: "LSTM",
        gates: 4,
        input: 6,
        hidden: 3,
        directions: 1,
    };
    let y = layer.on(&net, &y, ["", ""], 2, |n| n);
    let y = net.op("Squeeze", &[&y[1], &net.integers(&[0])]);
    let y = net.linear(&y, 3, 3);
    net.network("words", 14, &[&y], 2)
}

/// A convolutional network whose columns an LSTM reads.
fn read_images() -> Network {
    let net = Net::new();
    let x = net.input("x", &[1, 1, 4, 6]);
    let x = net.conv(&x, &[5, 1, 3, 3], 1);
    let x = net.transpose(&x, &[3, 0, 1, 2]);
    let shape = net.op("Shape", &[&x]);
    let at = |axis: i64| {
        net.with("Gather", &[&shape, &net.store(Tensor::scalar(axis))], |n| {
            n.with_int("axis", 0)
        })
    };
    let (width, batch, depth) = (at(0), at(1), net.op("Mul", &[&at(2), &at(3)]));
    let parts = [width, batch, depth].map(|part| net.op("Unsqueeze", &[&part, &net.integers(&[0])]));
    let target = net.concat(&[&parts[0], &parts[1], &parts[2]], 0);
    let y = net.op("Reshape", &[&x, &target]);
    let layer = Layer {
        op: "LSTM",
        gates: 4,
        input: 20,
        hidden: 4,
        directions: 1,
    };
    let y = layer.on(&net, &y, ["", ""], 1, |n| n);
    let y = net.op("Squeeze", &[&y[0], &net.integers(&[1])]);
    let y = net.linear(&y, 4, 3);
    net.network("images_by_columns", 14, &[&y], 2)
}
