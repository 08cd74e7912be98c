//! Shape inference and cost accounting on graphs built by hand.

use std::{collections::BTreeMap, sync::Arc};

use kmr_model::{
    DType, Dimension, ErrorKind, Graph, Initializer, Model, Node, Tensor, ValueInfo, channels, cost::Costs, shapes,
};
use proptest::prelude::*;

fn graph(input: &[Dimension], nodes: Vec<Node>, tensors: Vec<(&str, Tensor)>) -> Graph {
    let mut graph = Graph::new("test");
    graph.inputs = vec![ValueInfo::tensor("x", DType::FLOAT, input)];
    graph.nodes = nodes.into_iter().map(Arc::new).collect();
    for (name, tensor) in tensors {
        graph.initializers.insert(name.into(), Initializer::from(tensor));
    }
    if let Some(last) = graph.nodes.last() {
        let declared = ValueInfo::tensor(last.id(), DType::FLOAT, &[Dimension::Unknown]);
        graph.outputs = vec![declared];
    }
    graph
}

fn image() -> Vec<Dimension> {
    vec![
        Dimension::Named("batch".into()),
        Dimension::Fixed(3),
        Dimension::Fixed(8),
        Dimension::Fixed(8),
    ]
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::from_vec(shape.to_vec(), vec![0.0_f32; shape.iter().product()])
}

fn integers(values: &[i64]) -> Tensor {
    Tensor::from_vec(vec![values.len()], values.to_vec())
}

fn feeds(shape: &[usize]) -> BTreeMap<String, Vec<usize>> {
    BTreeMap::from([("x".to_owned(), shape.to_vec())])
}

#[test]
fn a_reshape_chain_of_an_exporter_resolves_at_any_batch() {
    let nodes = vec![
        Node::new("Shape", "", &["x"], &["shape"]),
        Node::new("Gather", "", &["shape", "zero"], &["batch"]),
        Node::new("Unsqueeze", "", &["batch", "axes"], &["batch_list"]),
        Node::new("Mul", "", &["channels", "four"], &["inner"]),
        Node::new("Concat", "", &["batch_list", "inner", "rest"], &["target"]).with_int("axis", 0),
        Node::new("Reshape", "", &["x", "target"], &["y"]),
    ];
    let tensors = vec![
        ("zero", Tensor::scalar(0_i64)),
        ("axes", integers(&[0])),
        ("channels", integers(&[3])),
        ("four", integers(&[4])),
        ("rest", integers(&[-1])),
    ];
    let model = Model::new(graph(&image(), nodes, tensors), 8, 17);
    let found = shapes::infer(&model, &feeds(&[5, 3, 8, 8])).unwrap();
    assert_eq!(found.shape("y"), Some(&[5, 12, 16][..]));
    assert!(found.get("target").unwrap().follows_shape);
    let found = shapes::infer(&model, &BTreeMap::new()).unwrap();
    assert_eq!(found.shape("y"), Some(&[1, 12, 16][..]));
}

#[test]
fn a_contradiction_names_the_node() {
    let nodes = vec![Node::new("Conv", "stem", &["x", "w"], &["y"])];
    let model = Model::new(graph(&image(), nodes, vec![("w", zeros(&[4, 2, 3, 3]))]), 8, 17);
    let error = shapes::infer(&model, &BTreeMap::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shape);
    assert_eq!(
        error.to_string(),
        "node `stem` (Conv): a weight of shape [4, 2, 3, 3] in 1 group(s) does not fit an input of shape [1, 3, 8, 8]"
    );
}

#[test]
fn feeds_that_contradict_the_declaration_are_refused() {
    let model = Model::new(graph(&image(), vec![], vec![]), 8, 17);
    let error = shapes::infer(&model, &feeds(&[1, 4, 8, 8])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "input `x`: is declared as [batch, 3, 8, 8], which [1, 4, 8, 8] does not fit"
    );
    // Two inputs of one length: both are named.
    let mut two = Graph::new("two");
    let axes = ["batch", "length"].map(|name| Dimension::Named(name.into()));
    two.inputs = ["ids", "mask"]
        .map(|name| ValueInfo::tensor(name, DType::INT64, &axes))
        .into();
    let lengths = [("ids".to_owned(), vec![2, 17]), ("mask".to_owned(), vec![2, 12])];
    let error = shapes::infer(&Model::new(two, 8, 17), &lengths.into()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "input `mask`: is declared as [batch, length], which [2, 12] does not fit: `length` is 17 in input `ids`"
    );
    let unknown = BTreeMap::from([("z".to_owned(), vec![1])]);
    let error = shapes::infer(&model, &unknown).unwrap_err();
    assert_eq!(error.help(), Some("the model's inputs are x"));
}

#[test]
fn an_unknown_operator_is_unknown_unless_declared() {
    let nodes = vec![
        Node::new("Mystery", "", &["x"], &["a"]),
        Node::new("Relu", "", &["a"], &["b"]),
    ];
    let mut graph = graph(&image(), nodes, vec![]);
    let model = Model::new(graph.clone(), 8, 17);
    let found = shapes::infer(&model, &BTreeMap::new()).unwrap();
    assert_eq!((found.shape("a"), found.shape("b")), (None, None));

    let declared = [Dimension::Named("batch".into()), Dimension::Fixed(7)];
    graph.value_info.push(ValueInfo::tensor("a", DType::FLOAT, &declared));
    let model = Model::new(graph, 8, 17);
    let found = shapes::infer(&model, &feeds(&[2, 3, 8, 8])).unwrap();
    assert_eq!(found.shape("b"), Some(&[2, 7][..]));
}

/// A depthwise-separable block and a classifier, counted by hand.
#[test]
fn costs_are_those_counted_by_hand() {
    let nodes = vec![
        Node::new("Conv", "depthwise", &["x", "w1"], &["a"])
            .with_int("group", 3)
            .with_ints("pads", &[1, 1, 1, 1]),
        Node::new("Conv", "pointwise", &["a", "w2", "b2"], &["b"]),
        Node::new("GlobalAveragePool", "", &["b"], &["c"]),
        Node::new("Flatten", "", &["c"], &["d"]),
        Node::new("DequantizeLinear", "", &["wq", "scale", "zero"], &["w3"]).with_int("axis", 0),
        Node::new("Gemm", "head", &["d", "w3"], &["y"]).with_int("transB", 1),
    ];
    let weights = vec![
        ("w1", zeros(&[3, 1, 3, 3])),
        ("w2", Tensor::from_vec(vec![5, 3, 1, 1], vec![1.0_f32; 15])),
        ("b2", Tensor::from_vec(vec![5], vec![-0.0_f32, 0.0, 1.0, 2.0, 3.0])),
        (
            "wq",
            Tensor::from_vec(vec![2, 5], vec![0_u8, 1, 2, 3, 4, 0, 1, 2, 1, 1]),
        ),
        ("scale", Tensor::from_vec(vec![2], vec![0.5_f32, 0.25])),
        ("zero", Tensor::from_vec(vec![2], vec![0_u8, 1])),
        ("unused_axes", integers(&[2, 3])),
    ];
    let model = Model::new(graph(&image(), nodes, weights), 8, 17);
    let costs = Costs::of(&model, &BTreeMap::new()).unwrap();
    assert_eq!(costs.cost("params"), Ok(27 + 15 + 5 + 10));
    // The three ones of the second row stand for zero, and so does one value of the first.
    assert_eq!(costs.cost("nonzero_params"), Ok(15 + 3 + (4 + 2)));
    assert_eq!(costs.cost("macs"), Ok(27 * 64 + 15 * 64 + 10));
    // The most is alive at the pointwise convolution: its input and its output.
    let at_pointwise = (3 + 5) * 64 * 4;
    // The dequantized weight is made later, when little else is alive.
    assert_eq!(costs.cost("peak_activation_bytes"), Ok(at_pointwise));
    assert_eq!(costs.cost("size_bytes"), Ok(model.encode_to_vec().len() as u64));
    let layers: Vec<_> = costs
        .layers
        .iter()
        .map(|layer| (layer.label.as_str(), layer.params, layer.macs.unwrap()))
        .collect();
    assert_eq!(
        layers,
        [("depthwise", 27, 27 * 64), ("pointwise", 20, 15 * 64), ("head", 10, 10)]
    );
    assert!(costs.cost("latency").is_err());
}

#[test]
fn what_cannot_be_counted_says_what_to_declare() {
    let nodes = vec![
        Node::new("NonZero", "", &["x"], &["a"]),
        Node::new("MatMul", "product", &["a", "w"], &["y"]),
    ];
    let model = Model::new(graph(&image(), nodes, vec![("w", zeros(&[8, 4]))]), 8, 17);
    let costs = Costs::of(&model, &BTreeMap::new()).unwrap();
    assert_eq!(costs.cost("params"), Ok(32));
    let error = costs.cost("macs").unwrap_err();
    assert_eq!(
        error.to_string(),
        "node `product` (MatMul): cannot be counted: the shape of `a` is not known"
    );
    assert!(error.help().unwrap().starts_with("declare the type of `a`"));
}

const OPERATORS: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "AffineGrid",
    "And",
    "ArgMax",
    "ArgMin",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Attention",
    "AveragePool",
    "BatchNormalization",
    "Bernoulli",
    "BitCast",
    "BitShift",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "BlackmanWindow",
    "Cast",
    "CastLike",
    "CausalConvWithState",
    "Ceil",
    "Celu",
    "CenterCropPad",
    "Clip",
    "Col2Im",
    "Compress",
    "Concat",
    "ConcatFromSequence",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "Cos",
    "Cosh",
    "CumProd",
    "CumSum",
    "DFT",
    "DeformConv",
    "DepthToSpace",
    "DequantizeLinear",
    "Det",
    "Div",
    "Dropout",
    "DynamicQuantizeLinear",
    "Einsum",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "EyeLike",
    "Flatten",
    "Floor",
    "GRU",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalLpPool",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "GridSample",
    "GroupNormalization",
    "HammingWindow",
    "HannWindow",
    "HardSigmoid",
    "HardSwish",
    "Hardmax",
    "Identity",
    "ImageDecoder",
    "InstanceNormalization",
    "IsInf",
    "IsNaN",
    "LRN",
    "LSTM",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "LinearAttention",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "LpPool",
    "MatMul",
    "MatMulInteger",
    "Max",
    "MaxPool",
    "MaxRoiPool",
    "MaxUnpool",
    "Mean",
    "MeanVarianceNormalization",
    "MelWeightMatrix",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Multinomial",
    "Neg",
    "NegativeLogLikelihoodLoss",
    "NonMaxSuppression",
    "NonZero",
    "Not",
    "OneHot",
    "Optional",
    "OptionalGetElement",
    "OptionalHasElement",
    "Or",
    "PRelu",
    "Pad",
    "Pow",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
    "RMSNormalization",
    "RNN",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Range",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "RegexFullMatch",
    "Relu",
    "Reshape",
    "Resize",
    "ReverseSequence",
    "RoiAlign",
    "RotaryEmbedding",
    "Round",
    "STFT",
    "Scatter",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceLength",
    "Shape",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Size",
    "Slice",
    "Softmax",
    "SoftmaxCrossEntropyLoss",
    "Softplus",
    "Softsign",
    "SpaceToDepth",
    "Split",
    "SplitToSequence",
    "Sqrt",
    "Squeeze",
    "StringConcat",
    "StringNormalizer",
    "StringSplit",
    "Sub",
    "Sum",
    "SwiGLU",
    "Swish",
    "Tan",
    "Tanh",
    "TensorScatter",
    "TfIdfVectorizer",
    "ThresholdedRelu",
    "Tile",
    "TopK",
    "Transpose",
    "Trilu",
    "Unique",
    "Unsqueeze",
    "Upsample",
    "Where",
    "Xor",
];
const ATTRIBUTES: &[&str] = &[
    "axis",
    "group",
    "transA",
    "keepdims",
    "ceil_mode",
    "blocksize",
    "to",
    "k",
    "start",
    "end",
    "allowzero",
    "num_outputs",
    "batch_dims",
    "block_size",
    "value_int",
    "hidden_size",
    "layout",
    "new_axis",
    "onesided",
    "inverse",
    "q_num_heads",
    "kv_num_heads",
    "output_height",
    "sample_size",
    "noop_with_empty_axes",
];
const LISTS: &[&str] = &[
    "axes",
    "pads",
    "strides",
    "dilations",
    "kernel_shape",
    "perm",
    "split",
    "starts",
    "ends",
    "output_shape",
    "output_padding",
    "shape",
    "scales",
    "pooled_shape",
    "ngram_indexes",
];

#[test]
fn nothing_can_be_counted_whatever_its_axes() {
    let rank = vec![Dimension::Unknown; 3];
    let model = Model::new(
        graph(&rank, vec![Node::new("Relu", "", &["x"], &["y"])], Vec::new()),
        8,
        17,
    );
    let feeds = BTreeMap::from([("x".to_owned(), vec![2, usize::MAX, 0])]);
    let shapes = shapes::infer(&model, &feeds).unwrap();
    assert_eq!(shapes.get("y").map(|known| known.len()), Some(0));
    assert!(Costs::of(&model, &feeds).is_ok());
}

fn awkward() -> impl Strategy<Value = i64> {
    prop_oneof![8 => -4_i64..5, 1 => Just(i64::MAX), 1 => Just(i64::MIN), 1 => Just(1 << 40)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Nonsense is an error or unknown, never a panic, and what is known can be counted.
    #[test]
    fn nonsense_never_panics(
        operators in prop::collection::vec((
            prop::sample::select(OPERATORS),
            prop::collection::vec(0_usize..9, 1..5),
            prop::collection::vec((prop::sample::select(ATTRIBUTES), awkward()), 0..4),
            prop::collection::vec((prop::sample::select(LISTS), prop::collection::vec(awkward(), 0..5)), 0..4),
        ), 1..6),
        input in prop::collection::vec(prop_oneof![9 => 0_usize..6, 1 => Just(usize::MAX)], 0..5),
        list in prop::collection::vec(awkward(), 0..5),
        opset in prop::sample::select(&[1_i64, 6, 9, 13, 17, 18, 21, 28][..]),
    ) {
        let mut names: Vec<String> =
            ["x", "w", "v", "list", "one", "scales"].map(String::from).to_vec();
        let mut nodes = Vec::new();
        for (position, (operator, inputs, integers, lists)) in operators.iter().enumerate() {
            let inputs: Vec<&str> = inputs.iter().map(|&i| names[i % names.len()].as_str()).collect();
            let output = format!("v{position}");
            let mut node = Node::new(operator, "", &inputs, &[&output]);
            for (name, value) in integers {
                node = node.with_int(name, *value);
            }
            for (name, values) in lists {
                node = node.with_ints(name, values);
            }
            nodes.push(node);
            names.push(output);
        }
        let tensors = vec![
            ("w", zeros(&[4, 2, 3, 3])),
            ("v", zeros(&[4])),
            ("list", integers(&list)),
            ("one", Tensor::scalar(1_i64)),
            ("scales", Tensor::from_vec(vec![2], vec![f32::INFINITY, 1e30])),
        ];
        let rank = vec![Dimension::Unknown; input.len()];
        let model = Model::new(graph(&rank, nodes, tensors), 8, opset);
        // What holds for open sizes holds for these; the declared output, which need not be true, is left out.
        let mut undeclared = model.graph.clone();
        undeclared.outputs.clear();
        let undeclared = model.with_graph(undeclared);
        let (open, fixed) = (shapes::infer_symbolic(&undeclared), shapes::infer(&undeclared, &feeds(&input)));
        if !input.contains(&0) {
            prop_assert!(open.is_ok() || fixed.is_err(), "{:?}", open);
            if let (Ok(open), Ok(fixed)) = (&open, &fixed) {
                for (name, known) in fixed.iter() {
                    let Some(found) = open.partial(name) else {
                        continue;
                    };
                    prop_assert!(found.dtype.is_none_or(|dtype| dtype == known.dtype), "{}", name);
                    let fits = |(size, &known): (&Dimension, &usize)| !matches!(size, Dimension::Fixed(size) if *size != known);
                    let agrees = found.shape.as_ref().is_none_or(|shape| {
                        shape.len() == known.shape.len() && shape.iter().zip(&known.shape).all(fits)
                    });
                    prop_assert!(agrees, "{}: {:?} and {:?}", name, found, known);
                }
            }
        }
        if let Ok(costs) = Costs::of(&model, &feeds(&input)) {
            for name in kmr_model::cost::NAMES {
                let _ = costs.cost(name);
            }
        }
        if let Ok(found) = shapes::infer(&model, &feeds(&input))
            && let Ok(analysis) = channels::analyze(&model, &found)
        {
            let keep = analysis.groups.iter().map(|group| (group.id.clone(), vec![0])).collect();
            let patch = analysis.cut(&model, &keep).unwrap();
            let cut = model.with_graph(patch.apply(&model.graph).unwrap());
            let after = shapes::infer(&cut, &feeds(&input)).unwrap();
            let output = model.graph.outputs[0].name();
            prop_assert_eq!(after.shape(output), found.shape(output));
        }
    }
}

#[test]
fn weights_that_nodes_decode_count_in_place_of_what_they_are_made_from() {
    let size = [Dimension::Named("batch".into()), Dimension::Fixed(4)];
    let bytes = Tensor::new(
        DType::INT8,
        vec![4, 3],
        vec![1_u8, 0, 255, 4, 0, 6, 7, 8, 9, 0, 11, 12].into(),
    )
    .unwrap();
    let product = || Node::new("MatMul", "", &["x", "w"], &["y"]);
    let plain = vec![
        Node::new("Cast", "", &["codes"], &["real"]).with_int("to", 1),
        Node::new("Mul", "", &["real", "scale"], &["w"]),
        product(),
    ];
    let tensors = vec![("codes", bytes), ("scale", zeros(&[3]))];
    let costs = Costs::of(&Model::new(graph(&size, plain, tensors), 10, 21), &BTreeMap::new()).unwrap();
    assert_eq!((costs.params(), costs.nonzero_params()), (12, 9));
    assert_eq!(
        costs.peak_activation_bytes().unwrap(),
        4 * 4 + 4 * 3,
        "constants are no activations"
    );
    let layers: Vec<_> = costs
        .layers
        .iter()
        .map(|layer| (layer.node.as_str(), layer.params))
        .collect();
    assert_eq!(layers, [("y", 12)]);

    // A Constant node of numbers is one, too.
    let mut scale = Node::new("Constant", "", &[], &["scale"]);
    scale.set_attribute(kmr_model::proto::AttributeProto {
        name: Some("value_floats".into()),
        r#type: Some(6),
        floats: vec![1.0; 3],
        ..Default::default()
    });
    let scaled = vec![
        scale,
        Node::new("Mul", "", &["v", "scale"], &["w"]),
        Node::new("MatMul", "", &["x", "w"], &["y"]),
    ];
    let model = Model::new(graph(&size, scaled, vec![("v", zeros(&[4, 3]))]), 10, 21);
    let costs = Costs::of(&model, &BTreeMap::new()).unwrap();
    assert_eq!(costs.peak_activation_bytes().unwrap(), 4 * 4 + 4 * 3);

    // Twelve codes of three bits in one word.
    let packed = vec![
        Node::new("BitShift", "", &["words", "shifts"], &["shifted"]).with_string("direction", "RIGHT"),
        Node::new("BitwiseAnd", "", &["shifted", "mask"], &["masked"]),
        Node::new("Cast", "", &["masked"], &["real"]).with_int("to", 1),
        Node::new("Reshape", "", &["real", "shape"], &["level"]),
        Node::new("Mul", "", &["level", "scale"], &["w"]),
        product(),
    ];
    let tensors = vec![
        ("words", Tensor::from_vec(vec![1, 1], vec![7_u64])),
        (
            "shifts",
            Tensor::from_vec(vec![12], (0..12).map(|at| 3 * at).collect::<Vec<u64>>()),
        ),
        ("mask", Tensor::scalar(7_u64)),
        ("shape", integers(&[4, 3])),
        ("scale", zeros(&[3])),
    ];
    let costs = Costs::of(&Model::new(graph(&size, packed, tensors), 10, 21), &BTreeMap::new()).unwrap();
    assert_eq!(
        (costs.params(), costs.nonzero_params()),
        (12, 12),
        "packed ones all count"
    );
}
