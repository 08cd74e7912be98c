//! Activation functions, known by what they compute.

use crate::{Build, Graph, GraphIndex, Node, Tensor};

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// x · sigmoid(x).
    Silu,
    /// x · Φ(x), Φ being the normal distribution's.
    Gelu,
    /// The same by its approximation with the hyperbolic tangent.
    GeluTanh,
}

/// Nodes that the spelling of an activation may take.
const MOST_NODES: usize = 24;

/// Where functions are compared.
const POINTS: [f64; 14] = [
    -7.5, -4.1, -2.6, -1.7, -1.1, -0.6, -0.2, 0.15, 0.5, 0.9, 1.4, 2.3, 3.9, 8.0,
];

/// Relative difference up to which two spellings are the same function: constants are float32, and the two GELUs are
/// 4e-4 apart.
const TOLERANCE: f64 = 2e-6;

impl Activation {
    const ALL: [Self; 4] = [Self::Relu, Self::Silu, Self::Gelu, Self::GeluTanh];

    /// Its value at `x`.
    pub fn at(self, x: f64) -> f64 {
        match self {
            Self::Relu => x.max(0.0),
            Self::Silu => x / (1.0 + (-x).exp()),
            Self::Gelu => 0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2)),
            Self::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }
        }
    }

    /// Adds nodes that apply it to `value`, in operators that operator set 16 has.
    pub(super) fn write(self, build: &mut Build, value: &str, name: &str) -> String {
        let scalar = |build: &mut Build, value: f32| build.constant("scalar", Tensor::scalar(value));
        let plain = |node: Node| node;
        match self {
            Self::Relu => build.node("Relu", &[value], name, plain),
            Self::Silu => {
                let sigmoid = build.node("Sigmoid", &[value], &format!("{name}.sigmoid"), plain);
                build.node("Mul", &[value, &sigmoid], name, plain)
            }
            Self::Gelu => {
                let root = scalar(build, std::f32::consts::SQRT_2);
                let (one, half) = (scalar(build, 1.0), scalar(build, 0.5));
                let scaled = build.node("Div", &[value, &root], &format!("{name}.scaled"), plain);
                let erf = build.node("Erf", &[&scaled], &format!("{name}.erf"), plain);
                let raised = build.node("Add", &[&erf, &one], &format!("{name}.raised"), plain);
                let product = build.node("Mul", &[value, &raised], &format!("{name}.product"), plain);
                build.node("Mul", &[&product, &half], name, plain)
            }
            Self::GeluTanh => {
                let cube = scalar(build, 0.044715);
                let root = scalar(build, (2.0 / std::f64::consts::PI).sqrt() as f32);
                let (one, half) = (scalar(build, 1.0), scalar(build, 0.5));
                let square = build.node("Mul", &[value, value], &format!("{name}.square"), plain);
                let cubed = build.node("Mul", &[&square, value], &format!("{name}.cubed"), plain);
                let small = build.node("Mul", &[&cubed, &cube], &format!("{name}.small"), plain);
                let inner = build.node("Add", &[value, &small], &format!("{name}.inner"), plain);
                let scaled = build.node("Mul", &[&inner, &root], &format!("{name}.scaled"), plain);
                let tanh = build.node("Tanh", &[&scaled], &format!("{name}.tanh"), plain);
                let raised = build.node("Add", &[&tanh, &one], &format!("{name}.raised"), plain);
                let product = build.node("Mul", &[value, &raised], &format!("{name}.product"), plain);
                build.node("Mul", &[&product, &half], name, plain)
            }
        }
    }
}

/// A value that follows from one or two others, element by element, as an activation or a gated one does.
pub(super) struct Activated {
    /// What it is.
    pub activation: Activation,
    /// The value that the function is applied to.
    pub inner: String,
    /// The value that the result is multiplied by.
    pub factor: Option<String>,
    /// The ids of the nodes between.
    pub nodes: Vec<String>,
}

/// What `value` is, if nodes make it element by element as `f(a)` or `f(a) · b` from values for which `ends` holds.
pub(super) fn activated(
    graph: &Graph,
    index: &GraphIndex<'_>,
    value: &str,
    ends: &dyn Fn(&str) -> bool,
) -> Option<Activated> {
    let mut region = Region {
        graph,
        steps: Vec::new(),
        leaves: Vec::new(),
    };
    let last = region.visit(index, value, ends, 0)?;
    if region.steps.is_empty() {
        return None;
    }
    let nodes = || region.steps.iter().map(|step| step.output.clone()).collect();
    let holds = |leaves: &[usize], expected: &dyn Fn(&[f64]) -> f64, points: &[[f64; 2]]| {
        points.iter().all(|point| {
            let mut values = vec![0.0; region.leaves.len()];
            leaves.iter().zip(point).for_each(|(&leaf, &x)| values[leaf] = x);
            let (found, wanted) = (region.evaluate(last, &values), expected(point));
            found.is_some_and(|found| (found - wanted).abs() <= TOLERANCE * wanted.abs().max(1.0))
        })
    };
    for activation in Activation::ALL {
        match region.leaves.len() {
            1 => {
                let points: Vec<_> = POINTS.iter().map(|&x| [x, 0.0]).collect();
                if holds(&[0], &|point| activation.at(point[0]), &points) {
                    return Some(Activated {
                        activation,
                        inner: region.leaves[0].clone(),
                        factor: None,
                        nodes: nodes(),
                    });
                }
            }
            2 => {
                let pairs = POINTS.iter().flat_map(|&x| [-1.3, 0.7].map(|factor| [x, factor]));
                let points: Vec<_> = pairs.collect();
                for order in [[0, 1], [1, 0]] {
                    if holds(&order, &|point| activation.at(point[0]) * point[1], &points) {
                        return Some(Activated {
                            activation,
                            inner: region.leaves[order[0]].clone(),
                            factor: Some(region.leaves[order[1]].clone()),
                            nodes: nodes(),
                        });
                    }
                }
            }
            _ => return None,
        }
    }
    None
}

#[derive(Clone, Copy)]
enum Source {
    Leaf(usize),
    Step(usize),
    Number(f64),
}

struct Step<'g> {
    node: &'g Node,
    output: String,
    inputs: Vec<Source>,
}

/// Nodes that work element by element, in the order in which they run.
struct Region<'g> {
    graph: &'g Graph,
    steps: Vec<Step<'g>>,
    leaves: Vec<String>,
}

impl<'g> Region<'g> {
    fn visit(
        &mut self,
        index: &GraphIndex<'_>,
        value: &str,
        ends: &dyn Fn(&str) -> bool,
        depth: usize,
    ) -> Option<Source> {
        if let Some(number) = self.number(index, value) {
            return Some(Source::Number(number));
        }
        if let Some(known) = self.steps.iter().position(|step| step.output == value) {
            return Some(Source::Step(known));
        }
        if ends(value) {
            let known = self.leaves.iter().position(|leaf| leaf == value);
            return Some(Source::Leaf(known.unwrap_or_else(|| {
                self.leaves.push(value.to_owned());
                self.leaves.len() - 1
            })));
        }
        let node = &*self.graph.nodes[index.producer(value)?];
        let elementwise = matches!(
            node.op_type(),
            "Add"
                | "Sub"
                | "Mul"
                | "Div"
                | "Pow"
                | "Neg"
                | "Identity"
                | "Relu"
                | "Sigmoid"
                | "Tanh"
                | "Erf"
                | "Max"
                | "Min"
                | "Gelu"
                | "Swish"
        );
        if !elementwise || !node.domain().is_empty() || depth >= MOST_NODES || node.inputs().len() > 2 {
            return None;
        }
        let inputs: Vec<Source> = node
            .inputs()
            .iter()
            .map(|input| self.visit(index, input, ends, depth + 1))
            .collect::<Option<_>>()?;
        if self.steps.len() >= MOST_NODES {
            return None;
        }
        self.steps.push(Step {
            node,
            output: node.id().to_owned(),
            inputs,
        });
        Some(Source::Step(self.steps.len() - 1))
    }

    /// The number that `value` is, where it is one constant.
    fn number(&self, index: &GraphIndex<'_>, value: &str) -> Option<f64> {
        let held = match self.graph.tensor(value) {
            Some(tensor) => (**tensor).clone(),
            None => crate::cost::constant_tensor(&self.graph.nodes[index.producer(value)?]).ok()??,
        };
        if held.len() != 1 {
            return None;
        }
        let values = held.to_f32().ok()?;
        values.first().map(|&number| f64::from(number))
    }

    fn evaluate(&self, last: Source, leaves: &[f64]) -> Option<f64> {
        let mut values: Vec<f64> = Vec::with_capacity(self.steps.len());
        let read = |values: &[f64], source: Source| match source {
            Source::Leaf(leaf) => leaves[leaf],
            Source::Step(step) => values[step],
            Source::Number(number) => number,
        };
        for step in &self.steps {
            let arguments: Vec<f64> = step.inputs.iter().map(|&source| read(&values, source)).collect();
            values.push(compute(step.node, &arguments)?);
        }
        Some(read(&values, last))
    }
}

fn compute(node: &Node, arguments: &[f64]) -> Option<f64> {
    Some(match (node.op_type(), arguments) {
        ("Add", [a, b]) => a + b,
        ("Sub", [a, b]) => a - b,
        ("Mul", [a, b]) => a * b,
        ("Div", [a, b]) => a / b,
        ("Pow", [a, b]) => a.powf(*b),
        ("Max", [a, b]) => a.max(*b),
        ("Min", [a, b]) => a.min(*b),
        ("Neg", [x]) => -x,
        ("Identity", [x]) => *x,
        ("Relu", [x]) => x.max(0.0),
        ("Sigmoid", [x]) => 1.0 / (1.0 + (-x).exp()),
        ("Tanh", [x]) => x.tanh(),
        ("Erf", [x]) => libm::erf(*x),
        ("Gelu", [x]) => match node.string("approximate") {
            None | Some("none") => Activation::Gelu.at(*x),
            Some("tanh") => Activation::GeluTanh.at(*x),
            Some(_) => return None,
        },
        ("Swish", [x]) => x / (1.0 + (-f64::from(node.float("alpha").unwrap_or(1.0)) * x).exp()),
        _ => return None,
    })
}
