//! How long nodes take in floating point and on integers: what was measured of single operators in ONNX Runtime 1.32 on
//! one core with AVX-512 VNNI, in nanoseconds. Only how they compare matters, and that is much the same elsewhere.

use kmr_sdk::model::{Graph, Node, shapes::Shapes};

/// What any node takes beside its work.
const NODE: f64 = 500.0;
/// What a convolution on integers takes more of that, and one of each channel alone once more.
const INTEGER_CONVOLUTION: f64 = 300.0;
/// One multiplication with addition, by channels in full or each channel alone.
const FLOAT_DENSE: f64 = 1.0 / 57.0;
const FLOAT_DEPTHWISE: f64 = 1.0 / 36.0;
const INTEGER_DENSE: f64 = 1.0 / 150.0;
const INTEGER_DEPTHWISE: f64 = 1.0 / 16.0;
/// Channels that convolutions in floating point work on at once.
const BLOCK: usize = 16;
/// Writing one sum as it is.
const WRITE: f64 = 0.1;
/// Rounding one sum to eight bits.
const REQUANTIZE: f64 = 0.15;
/// One number to eight bits or from them.
const CONVERT: f64 = 0.14;
/// One number of an image from the layout of one kind of kernel to that of the other.
const RELAYOUT: f64 = 0.25;
/// One number through an activation that a convolution in floating point has for nothing.
const ACTIVATION: f64 = 0.4;

/// The times of a graph's nodes at known sizes.
pub struct Times<'g> {
    graph: &'g Graph,
    shapes: &'g Shapes,
}

impl<'g> Times<'g> {
    /// Times of `graph`'s nodes.
    pub fn new(graph: &'g Graph, shapes: &'g Shapes) -> Self {
        Self { graph, shapes }
    }

    /// The node in floating point, and on integers.
    pub fn node(&self, node: &Node) -> (f64, f64) {
        let made = self.elements(node.id());
        let read = node.input(0).map_or(0.0, |value| self.elements(value));
        match node.op_type() {
            "Conv" => self.convolution(node).unwrap_or_default(),
            "Gemm" | "MatMul" => {
                let width = node.input(0).and_then(|value| self.shapes.shape(value)?.last());
                let products = made * width.map_or(0.0, |&width| width as f64);
                (
                    NODE + FLOAT_DENSE * products,
                    NODE + REQUANTIZE * made + INTEGER_DENSE * products,
                )
            }
            "Add" => (NODE + 0.1 * made, NODE + 0.19 * made),
            // A factor for each channel leaves the layout of kernels in floating point and comes back to it.
            "Mul" if self.is_image(node.id()) && self.broadcasts(node) => {
                (3.0 * NODE + (0.39 + RELAYOUT) * made, NODE + 0.5 * made)
            }
            "Mul" => (NODE + 0.25 * made, NODE + 0.3 * made),
            "Sigmoid" => (0.05 * made, NODE + 0.26 * made),
            "LeakyRelu" => (0.1 * made, NODE + 0.26 * made),
            "Concat" => (NODE + 0.15 * made, NODE + 0.2 * made),
            "AveragePool" | "GlobalAveragePool" | "MaxPool" => (NODE + 0.12 * read, NODE + 0.12 * read),
            _ => (0.0, 0.0),
        }
    }

    /// From a node on integers to readers in floating point.
    pub fn to_float(&self, value: &str, readers: &[&Node]) -> f64 {
        let activated = readers.iter().any(|reader| {
            let activation = matches!(reader.op_type(), "HardSwish" | "HardSigmoid" | "Clip" | "Relu");
            activation && self.graph.node(value).is_some_and(|made| made.is("Conv"))
        });
        let activation = if activated { ACTIVATION } else { 0.0 };
        self.to_integers(value) + activation * self.elements(value)
    }

    /// From a node in floating point to readers on integers.
    pub fn to_integers(&self, value: &str) -> f64 {
        let (nodes, each) = match self.is_image(value) {
            true => (2.0, CONVERT + RELAYOUT),
            false => (1.0, CONVERT),
        };
        nodes * NODE + each * self.elements(value)
    }

    fn convolution(&self, node: &Node) -> Option<(f64, f64)> {
        let [outputs, inputs, window @ ..] = self.shapes.shape(node.input(1)?)? else {
            return None;
        };
        let made = self.elements(node.id());
        let window = window.iter().product::<usize>() as f64;
        let places = made / (*outputs).max(1) as f64;
        let depthwise = node.int("group").unwrap_or(1) > 1 && *inputs == 1;
        let products = made * *inputs as f64 * window;
        let blocked = |channels: usize| match channels {
            // Images of few channels are read as they are.
            0..BLOCK => channels as f64,
            _ => channels.next_multiple_of(BLOCK) as f64,
        };
        Some(if depthwise {
            (
                NODE + WRITE * made + FLOAT_DEPTHWISE * places * blocked(*outputs) * window,
                NODE + 2.0 * INTEGER_CONVOLUTION + REQUANTIZE * made + INTEGER_DEPTHWISE * products,
            )
        } else {
            (
                NODE + WRITE * made + FLOAT_DENSE * places * blocked(*outputs) * blocked(*inputs) * window,
                NODE + INTEGER_CONVOLUTION + REQUANTIZE * made + INTEGER_DENSE * products,
            )
        })
    }

    fn is_image(&self, value: &str) -> bool {
        self.shapes.shape(value).is_some_and(|shape| shape.len() == 4)
    }

    fn broadcasts(&self, node: &Node) -> bool {
        let shapes: Vec<_> = node.inputs().iter().map(|input| self.shapes.shape(input)).collect();
        shapes.windows(2).any(|pair| pair[0] != pair[1])
    }

    fn elements(&self, value: &str) -> f64 {
        self.shapes
            .shape(value)
            .map_or(0.0, |shape| shape.iter().product::<usize>() as f64)
    }
}
