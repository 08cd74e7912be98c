//! How long nodes take in floating point and on integers: what was measured of single operators in ONNX Runtime 1.32 on
//! one core with AVX-512 VNNI, in nanoseconds. Only how they compare matters, and that is much the same elsewhere.

use kmr_sdk::model::{Graph, Node, shapes::Shapes};

/// What any node takes beside its work.
const NODE: f64 = 1_000.0;
/// What a convolution on integers takes more of that.
const INTEGER_CONVOLUTION: f64 = 500.0;
/// One multiplication with addition, by channels in full or each channel alone.
const FLOAT_DENSE: f64 = 1.0 / 57.0;
const FLOAT_DEPTHWISE: f64 = 1.0 / 36.0;
const INTEGER_DENSE: f64 = 1.0 / 150.0;
const INTEGER_DEPTHWISE: f64 = 1.0 / 16.0;
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
            "Conv" => {
                let (products, depthwise) = self.convolution(node);
                let extra = NODE + INTEGER_CONVOLUTION + REQUANTIZE * made;
                match depthwise {
                    true => (
                        NODE + FLOAT_DEPTHWISE * products,
                        extra + INTEGER_CONVOLUTION + INTEGER_DEPTHWISE * products,
                    ),
                    false => (NODE + FLOAT_DENSE * products, extra + INTEGER_DENSE * products),
                }
            }
            "Gemm" | "MatMul" => {
                let width = node.input(0).and_then(|value| self.shapes.shape(value)?.last());
                let products = made * width.map_or(0.0, |&width| width as f64);
                (
                    NODE + FLOAT_DENSE * products,
                    NODE + REQUANTIZE * made + INTEGER_DENSE * products,
                )
            }
            "Add" => (NODE + 0.1 * made, NODE + 0.19 * made),
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
        let image = self.shapes.shape(value).is_some_and(|shape| shape.len() == 4);
        NODE + (CONVERT + if image { RELAYOUT } else { 0.0 }) * self.elements(value)
    }

    /// The multiplications of a convolution, and whether each channel is one alone.
    fn convolution(&self, node: &Node) -> (f64, bool) {
        let weight = node.input(1).and_then(|weight| self.shapes.shape(weight));
        let Some([_, inputs, window @ ..]) = weight else {
            return (0.0, false);
        };
        let each = inputs * window.iter().product::<usize>();
        let grouped = node.int("group").unwrap_or(1) > 1;
        (self.elements(node.id()) * each as f64, grouped && *inputs == 1)
    }

    fn elements(&self, value: &str) -> f64 {
        self.shapes
            .shape(value)
            .map_or(0.0, |shape| shape.iter().product::<usize>() as f64)
    }
}
