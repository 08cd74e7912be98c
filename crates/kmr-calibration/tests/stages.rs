//! Going through a deep model stage by stage: what each stage reads, and what is held in memory meanwhile.

use std::sync::Arc;

use kmr_abi::{
    AbiResult, Batch, BatchIteratorBox,
    abi_stable::std_types::{RNone, ROk, RVec},
};
use kmr_calibration::{Layer, Product, observe, stages};
use kmr_methods::{
    Matrix,
    sparse_gpt::{Options, Pattern, sparse_gpt},
};
use kmr_sdk::{
    Host,
    model::{DType, Dimension, Graph, Model, Node, Tensor, ValueInfo},
    wire::RunRequest,
};
use kmr_testkit::{Answers, Subject, batches, held, lend};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const LAYERS: usize = 12;
const WIDTH: usize = 256;
const ROWS: usize = 32;

/// Numbers between -1 and 1 without a pattern.
fn noise(count: usize, mut state: u64) -> Vec<f32> {
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Twelve layers in a row, each a product and a rectifier. The last but one is read twice.
fn deep() -> Model {
    let mut graph = Graph::new("deep");
    let shape = [Dimension::Named("N".into()), Dimension::Fixed(WIDTH)];
    graph.inputs = vec![ValueInfo::tensor("x", DType::FLOAT, &shape)];
    graph.outputs = vec![ValueInfo::tensor(&format!("y{}", LAYERS - 1), DType::FLOAT, &shape)];
    for layer in 0..LAYERS {
        let scale = 2.5 / (WIDTH as f32).sqrt();
        let values = noise(WIDTH * WIDTH, layer as u64 + 1)
            .iter()
            .map(|v| v * scale)
            .collect();
        let tensor = Tensor::from_vec(vec![WIDTH, WIDTH], values);
        graph.initializers.insert(format!("w{layer}"), tensor.into());
        let before = if layer == 0 {
            "x".into()
        } else {
            format!("y{}", layer - 1)
        };
        let (product, after) = (format!("p{layer}"), format!("y{layer}"));
        let product = Node::new("MatMul", "", &[&before, &format!("w{layer}")], &[&product]);
        graph.nodes.push(Arc::new(product));
        graph
            .nodes
            .push(Arc::new(Node::new("Relu", "", &[&format!("p{layer}")], &[&after])));
    }
    graph.check().unwrap();
    Model::new(graph, 8, 17)
}

/// Every `y` of the model on the data, as far as `last`.
fn forward(graph: &Graph, last: &str) -> Vec<f32> {
    let mut x = noise(ROWS * WIDTH, 77);
    for layer in 0..LAYERS {
        if last == "x" {
            return x;
        }
        let weight = graph.tensor(&format!("w{layer}")).unwrap();
        let weight = weight.to_f32().unwrap();
        let mut y = vec![0.0_f32; ROWS * WIDTH];
        for (x, y) in x.chunks(WIDTH).zip(y.chunks_mut(WIDTH)) {
            for (&x, weights) in x.iter().zip(weight.chunks(WIDTH)) {
                y.iter_mut().zip(weights).for_each(|(y, w)| *y += x * w);
            }
        }
        y.iter_mut().for_each(|y| *y = y.max(0.0));
        x = y;
        if last == format!("y{layer}") {
            break;
        }
    }
    x
}

struct DeepHost {
    subject: Subject,
}

impl DeepHost {
    fn with<R>(&self, body: impl FnOnce(&Host<'_>) -> R) -> R {
        lend(self, body)
    }

    fn new() -> Self {
        Self {
            subject: Subject::new(deep()),
        }
    }
}

impl Answers for DeepHost {
    fn subject(&self) -> Option<&Subject> {
        Some(&self.subject)
    }

    fn run(&self, request: RunRequest) -> AbiResult<BatchIteratorBox<'_>> {
        let graph = self.subject.candidate().graph;
        let outputs = request.outputs.iter().map(|name| {
            let tensor = Tensor::from_vec(vec![ROWS, WIDTH], forward(&graph, name));
            held(name, &tensor)
        });
        let batch = Batch {
            size: ROWS as u64,
            inputs: RVec::new(),
            labels: RNone,
            outputs: outputs.collect(),
        };
        ROk(batches(std::iter::once(batch)))
    }
}

fn products() -> Vec<Vec<Product>> {
    let product = |layer: usize| Product {
        node: format!("p{layer}"),
        input: if layer == 0 {
            "x".into()
        } else {
            format!("y{}", layer - 1)
        },
        groups: 1,
    };
    (0..LAYERS).map(|layer| vec![product(layer)]).collect()
}

fn layer(products: &[Product]) -> Layer<'_> {
    Layer {
        products,
        shape: &[WIDTH, WIDTH],
        columns: WIDTH,
        centered: false,
    }
}

/// Half of every weight, by SparseGPT: the mean of what the last layer was seen to read, that of what it reads in the end,
/// and the most memory that it took.
fn halve(groups: &[Vec<usize>]) -> ([f32; 2], usize) {
    let host = DeepHost::new();
    let products = products();
    let graph = deep().graph;
    let base = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let mut seen = 0.0;
    host.with(|host| {
        for group in groups {
            let layers: Vec<Layer<'_>> = group.iter().map(|&at| layer(&products[at])).collect();
            let inputs = observe(host, &graph, &layers, ROWS).unwrap();
            for (&at, inputs) in group.iter().zip(inputs) {
                seen = mean(&inputs[0].means);
                let name = format!("w{at}");
                let tensor = host.tensor(&name).unwrap();
                let values = tensor.to_f32().unwrap();
                let turned = |values: &[f32]| -> Vec<f32> {
                    let at = (0..values.len()).map(|at| values[at % WIDTH * WIDTH + at / WIDTH]);
                    at.collect()
                };
                let matrix = turned(&values);
                let matrix = Matrix::new(WIDTH, WIDTH, &matrix).unwrap();
                let pattern = Pattern::Share { removed: WIDTH / 2 };
                let sparse = sparse_gpt(matrix, &inputs[0].metric, pattern, &Options::default()).unwrap();
                let sparse = Tensor::from_vec(vec![WIDTH, WIDTH], turned(&sparse));
                host.replace(&name, &sparse).unwrap();
            }
        }
    });
    let peak = MEMORY.peak_usage().saturating_sub(base);
    let read = forward(&host.subject.candidate().graph, &format!("y{}", LAYERS - 2));
    ([seen, mean(&read)], peak)
}

fn mean(numbers: &[f32]) -> f32 {
    numbers.iter().sum::<f32>() / numbers.len() as f32
}

/// One test: another one beside it would be measured, too.
#[test]
fn a_deep_model_is_gone_through_with_one_stage_in_memory() {
    // Layers that read the same are one stage, and share what was found.
    let mut graph = deep().graph;
    let twin = Node::new("MatMul", "", &["y1", "w11"], &["twin"]);
    graph.nodes.push(Arc::new(twin));
    let nodes: Vec<String> = (0..LAYERS).map(|at| format!("p{at}")).collect();
    let readers = nodes[..LAYERS - 1].iter().map(|node| [node.as_str()]);
    let found = stages(&graph, readers.chain([["twin"]]));
    let expected: Vec<Vec<usize>> = (0..LAYERS - 1)
        .map(|at| if at == 2 { vec![2, 11] } else { vec![at] })
        .collect();
    assert_eq!(found, expected);

    let host = DeepHost::new();
    let products = products();
    let twice = [layer(&products[3]), layer(&products[3])];
    let inputs = host.with(|host| observe(host, &deep().graph, &twice, ROWS)).unwrap();
    assert!(Arc::ptr_eq(&inputs[0], &inputs[1]));
    let x = forward(&deep().graph, "y2");
    let mean: f32 = x.chunks(WIDTH).map(|row| row[5]).sum::<f32>() / ROWS as f32;
    assert!((inputs[0][0].means[5] - mean).abs() < 1e-5);

    let one_by_one = stages(&deep().graph, nodes.iter().map(|node| [node.as_str()]));
    assert_eq!(one_by_one.len(), LAYERS);
    let ([seen, read], staged) = halve(&one_by_one);
    let ([whole, changed], at_once) = halve(&[(0..LAYERS).collect()]);
    println!("{staged} bytes stage by stage, {at_once} bytes at once");
    assert!(
        (seen - read).abs() < 1e-5 * read,
        "a stage sees what the stages before it give: {seen} {read}"
    );
    assert!((whole - changed).abs() > 1e-3 * changed, "{whole} {changed}");
    // At once: twelve finished matrices at least. Stage by stage: sums, the finished matrix, its factor, and weights.
    let gram = 8 * WIDTH * WIDTH;
    assert!(at_once > LAYERS * gram);
    assert!(staged < 6 * gram, "{staged}");
}
