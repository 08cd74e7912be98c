//! Positions as rotations of queries and keys ("RoFormer", arXiv 2104.09864), halves of a head being the pairs.

use kmr_model::{DType, Tensor};

use crate::attention::Heads;
use crate::config::{Rotary, RotaryScaling};
use crate::network::Network;

/// Cosines and sines of each position, to be multiplied with half a head: [sequence, 1, size / 2], with one more axis of
/// 1 for grouped heads.
pub(super) struct Rotation {
    cosines: String,
    sines: String,
}

impl Rotation {
    /// `positions` is int64 [sequence].
    pub fn new(network: &mut Network, rotary: &Rotary, heads: Heads, positions: &str) -> Self {
        let (frequencies, factor) = rotary.frequencies(heads.size);
        let frequencies = match rotary.scaling {
            RotaryScaling::Dynamic {
                factor,
                positions: most,
            } => grown(network, rotary.base, heads.size, (factor, most), positions),
            _ => network.constant(
                "rotary.frequencies",
                Tensor::from_vec(vec![frequencies.len()], frequencies),
            ),
        };
        let last = network.integers("last_axis", &[-1]);
        let places = network.with("Cast", &[positions], "rotary.positions", |node| {
            node.with_int("to", DType::FLOAT.number().into())
        });
        let places = network.op("Unsqueeze", &[&places, &last], "rotary.column");
        let angles = network.op("Mul", &[&places, &frequencies], "rotary.angles");
        let axes: &[i64] = if heads.are_grouped() { &[1, 2] } else { &[1] };
        let axes = network.integers("rotary.axes", axes);
        let mut of = |function: &str, name: &str| {
            let mut made = network.op(function, &[&angles], &format!("rotary.{name}.plain"));
            if factor != 1.0 {
                let factor = network.scalar("rotary.factor", factor);
                made = network.op("Mul", &[&made, &factor], &format!("rotary.{name}.scaled"));
            }
            network.op("Unsqueeze", &[&made, &axes], &format!("rotary.{name}"))
        };
        Self {
            cosines: of("Cos", "cosines"),
            sines: of("Sin", "sines"),
        }
    }

    /// `x`, whose last axis is a head, turned by its positions.
    pub fn turn(&self, network: &mut Network, x: &str, name: &str) -> String {
        let name = |part: &str| format!("{name}.{part}");
        let (first, second) = (name("first"), name("second"));
        network.many("Split", &[x], &name("halves"), &[&first, &second], |node| {
            node.with_int("axis", -1).with_int("num_outputs", 2)
        });
        let mut product = |half: &str, by: &str, part: &str| network.op("Mul", &[half, by], &name(part));
        let (kept, crossed) = (
            product(&first, &self.cosines, "first.kept"),
            product(&second, &self.sines, "first.crossed"),
        );
        let (other, moved) = (
            product(&second, &self.cosines, "second.kept"),
            product(&first, &self.sines, "second.crossed"),
        );
        let first = network.op("Sub", &[&kept, &crossed], &name("first.turned"));
        let second = network.op("Add", &[&other, &moved], &name("second.turned"));
        network.with("Concat", &[&first, &second], &name("turned"), |node| {
            node.with_int("axis", -1)
        })
    }
}

/// Frequencies of a θ that grows once the sequence is longer than `most`: θ · (f · n / most − f + 1)^(d / (d − 2)).
fn grown(network: &mut Network, base: f64, size: usize, (factor, most): (f64, usize), positions: &str) -> String {
    let float = |node: kmr_model::Node| node.with_int("to", DType::FLOAT.number().into());
    let d = size as f64;
    let most_integer = network.integers("rotary.most", &[most as i64]);
    let length = network.op("Shape", &[positions], "rotary.length");
    let length = network.op("Max", &[&length, &most_integer], "rotary.counted");
    let length = network.with("Cast", &[&length], "rotary.counted.real", float);
    let (by, most) = (
        network.scalar("rotary.growth", factor as f32),
        network.scalar("rotary.most.real", most as f32),
    );
    let less = network.scalar("rotary.growth.less", (factor - 1.0) as f32);
    let length = network.op("Mul", &[&length, &by], "rotary.stretched");
    let ratio = network.op("Div", &[&length, &most], "rotary.ratio");
    let ratio = network.op("Sub", &[&ratio, &less], "rotary.excess");
    let power = network.scalar("rotary.power", (d / (d - 2.0)) as f32);
    let ratio = network.op("Pow", &[&ratio, &power], "rotary.times");
    let base = network.scalar("rotary.base", base as f32);
    let base = network.op("Mul", &[&ratio, &base], "rotary.grown");
    let exponents: Vec<f32> = (0..size / 2).map(|pair| (2 * pair) as f32 / size as f32).collect();
    let exponents = network.constant("rotary.exponents", Tensor::from_vec(vec![size / 2], exponents));
    let turns = network.op("Pow", &[&base, &exponents], "rotary.turns");
    network.op("Reciprocal", &[&turns], "rotary.frequencies")
}
