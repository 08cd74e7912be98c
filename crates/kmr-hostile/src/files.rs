//! Hostile ONNX files, written by hand, each with what is to come of it.

use crate::wire::{field, integer, nested, varint};

/// A hostile file.
pub struct HostileFile {
    /// What is wrong with it, or large in it.
    pub name: &'static str,
    /// The file.
    pub bytes: Vec<u8>,
    /// A part of the message that refuses it; `None` for a file that has to be read.
    pub refusal: Option<&'static str>,
}

/// The numbers of the fields of ONNX's messages.
mod number {
    pub const MODEL_IR_VERSION: u64 = 1;
    pub const MODEL_GRAPH: u64 = 7;
    pub const MODEL_OPSET_IMPORT: u64 = 8;
    pub const MODEL_FUNCTIONS: u64 = 25;
    pub const OPSET_VERSION: u64 = 2;
    pub const GRAPH_NODE: u64 = 1;
    pub const GRAPH_INITIALIZER: u64 = 5;
    pub const GRAPH_INPUT: u64 = 11;
    pub const GRAPH_OUTPUT: u64 = 12;
    pub const GRAPH_SPARSE_INITIALIZER: u64 = 15;
    pub const NODE_INPUT: u64 = 1;
    pub const NODE_OUTPUT: u64 = 2;
    pub const NODE_OP_TYPE: u64 = 4;
    pub const NODE_ATTRIBUTE: u64 = 5;
    pub const NODE_DOC_STRING: u64 = 6;
    pub const NODE_DOMAIN: u64 = 7;
    pub const ATTRIBUTE_NAME: u64 = 1;
    pub const ATTRIBUTE_I: u64 = 3;
    pub const ATTRIBUTE_S: u64 = 4;
    pub const ATTRIBUTE_T: u64 = 5;
    pub const ATTRIBUTE_G: u64 = 6;
    pub const ATTRIBUTE_INTS: u64 = 8;
    pub const ATTRIBUTE_TP: u64 = 14;
    pub const ATTRIBUTE_TYPE: u64 = 20;
    pub const TENSOR_DIMS: u64 = 1;
    pub const TENSOR_DATA_TYPE: u64 = 2;
    pub const TENSOR_INT32_DATA: u64 = 5;
    pub const TENSOR_STRING_DATA: u64 = 6;
    pub const TENSOR_NAME: u64 = 8;
    pub const TENSOR_RAW_DATA: u64 = 9;
    pub const SPARSE_VALUES: u64 = 1;
    pub const SPARSE_INDICES: u64 = 2;
    pub const SPARSE_DIMS: u64 = 3;
    pub const VALUE_NAME: u64 = 1;
    pub const VALUE_TYPE: u64 = 2;
    pub const TYPE_TENSOR: u64 = 1;
    pub const TYPE_SEQUENCE: u64 = 4;
    pub const TENSOR_TYPE_ELEMENT: u64 = 1;
    pub const TENSOR_TYPE_SHAPE: u64 = 2;
    pub const SHAPE_DIM: u64 = 1;
    pub const DIM_VALUE: u64 = 1;
    pub const FUNCTION_NAME: u64 = 1;
    pub const FUNCTION_INPUT: u64 = 4;
    pub const FUNCTION_OUTPUT: u64 = 5;
    pub const FUNCTION_NODE: u64 = 7;
    pub const FUNCTION_DOMAIN: u64 = 10;
}
use number::*;

const FLOAT: i64 = 1;
const UINT8: i64 = 2;
const INT64: i64 = 7;
const STRING: i64 = 8;

/// Nesting that no honest file has.
const DEPTH: usize = 10_000;
/// Nodes, tensors and the like in a file that is large, but honest.
pub const MANY: usize = 100_000;

/// Every hostile file.
pub fn all() -> Vec<HostileFile> {
    [bytes(), tensors(), graphs(), nesting(), shapes(), channels(), large()]
        .into_iter()
        .flatten()
        .collect()
}

fn refused(name: &'static str, bytes: Vec<u8>, refusal: &'static str) -> HostileFile {
    HostileFile {
        name,
        bytes,
        refusal: Some(refusal),
    }
}

fn read(name: &'static str, bytes: Vec<u8>) -> HostileFile {
    HostileFile {
        name,
        bytes,
        refusal: None,
    }
}

/// Files that are no messages.
fn bytes() -> Vec<HostileFile> {
    let length_of = |length: u64| {
        let mut bytes = varint(MODEL_GRAPH << 3 | 2);
        bytes.extend(varint(length));
        bytes
    };
    vec![
        refused("an empty file", vec![], "empty"),
        refused("a text", b"not a model\n".to_vec(), "not a readable ONNX model"),
        refused(
            "a length beyond the file",
            length_of(1 << 40),
            "not a readable ONNX model",
        ),
        refused("the greatest length", length_of(u64::MAX), "not a readable ONNX model"),
        refused("a varint without an end", vec![0x08; 1], "not a readable ONNX model"),
        refused("no graph", integer(MODEL_IR_VERSION, 8), "no graph"),
        refused("no version", field(MODEL_GRAPH, &[]), "IR version"),
        refused(
            "a name that is not UTF-8",
            model(&[relu("x", "y"), initializer(&[0xff], FLOAT, &[0], &[])]),
            "UTF-8",
        ),
        read(
            "an attribute's text that is not UTF-8",
            model(&[
                relu("x", "y"),
                constant(&[field(ATTRIBUTE_S, &[0xff, 0xfe]), integer(ATTRIBUTE_TYPE, 3)]),
            ]),
        ),
        read("a graph without outputs", model(&[node("Constant", &[], "c", &[])])),
        read("an opset of the future", with_opset(1000, &[relu("x", "y")])),
        read("a negative opset", with_opset(-1, &[relu("x", "y")])),
    ]
}

/// Tensors that contradict themselves.
fn tensors() -> Vec<HostileFile> {
    let with = |tensor: Vec<u8>| model(&[relu("x", "y"), tensor]);
    let float = |dims: &[i64], length: usize| with(initializer(b"w", FLOAT, dims, &vec![0; length]));
    vec![
        refused(
            "a dimension of 2^40",
            float(&[1 << 40], 4),
            "takes 4398046511104 bytes; got 4",
        ),
        refused("sizes whose product overflows", float(&[1 << 40; 3], 4), "uncountable"),
        refused(
            "sizes whose product overflows to 0",
            float(&[1 << 32, 1 << 32], 0),
            "uncountable",
        ),
        refused(
            "a zero behind an overflow",
            float(&[i64::MAX, i64::MAX, 0], 0),
            "uncountable",
        ),
        refused("a negative dimension", float(&[-4], 4), "negative dimension"),
        refused("the least dimension", float(&[i64::MIN], 0), "negative dimension"),
        refused(
            "data shorter than its shape",
            float(&[2, 3], 23),
            "takes 24 bytes; got 23",
        ),
        refused(
            "data longer than its shape",
            float(&[2, 3], 25),
            "takes 24 bytes; got 25",
        ),
        refused("no data", float(&[7], 0), "takes 28 bytes; got 0"),
        refused(
            "typed data shorter than its shape",
            with(field(
                GRAPH_INITIALIZER,
                &[
                    field(TENSOR_NAME, b"w"),
                    integer(TENSOR_DATA_TYPE, UINT8),
                    integer(TENSOR_DIMS, 3),
                    field(TENSOR_INT32_DATA, &[1, 2]),
                ]
                .concat(),
            )),
            "takes 3 bytes; got 2",
        ),
        refused(
            "fewer texts than the shape has",
            with(field(
                GRAPH_INITIALIZER,
                &[
                    field(TENSOR_NAME, b"w"),
                    integer(TENSOR_DATA_TYPE, STRING),
                    integer(TENSOR_DIMS, 1 << 40),
                    field(TENSOR_STRING_DATA, b"one"),
                ]
                .concat(),
            )),
            "1 texts",
        ),
        refused(
            "a sparse tensor of 2^40 elements",
            with(sparse(&[1 << 40], 1, &[0])),
            "sparse tensor `s`",
        ),
        refused(
            "a sparse tensor of 2^80 elements",
            with(sparse(&[1 << 40; 2], 1, &[0])),
            "sparse tensor `s`",
        ),
        refused(
            "a sparse index outside",
            with(sparse(&[4], 1, &[4])),
            "outside its shape",
        ),
        refused(
            "a negative sparse index",
            with(sparse(&[4], 1, &[-1])),
            "sparse tensor `s`",
        ),
        refused("a sparse index given twice", with(sparse(&[4], 2, &[1, 1])), "twice"),
        refused(
            "a sparse value without an index",
            with(sparse(&[4], 2, &[1])),
            "not one for each value",
        ),
        refused(
            "a negative sparse dimension",
            with(sparse(&[-4], 1, &[0])),
            "negative dimension",
        ),
        refused(
            "a sparse tensor without indices",
            with(field(
                GRAPH_SPARSE_INITIALIZER,
                &field(SPARSE_VALUES, &tensor(b"s", FLOAT, &[1], &[0; 4])),
            )),
            "lacks its values or its indices",
        ),
        read("many dimensions of 1", float(&vec![1; MANY], 4)),
    ]
}

/// Graphs whose names contradict each other.
fn graphs() -> Vec<HostileFile> {
    let weight = || initializer(b"w", FLOAT, &[1], &[0; 4]);
    vec![
        refused(
            "a cycle",
            model(&[node("Relu", &["b"], "a", &[]), node("Relu", &["a"], "b", &[])]),
            "reads `b`, which nothing before it produces",
        ),
        refused(
            "a node that reads itself",
            model(&[node("Relu", &["a"], "a", &[])]),
            "reads `a`",
        ),
        refused(
            "a missing input",
            model(&[node("Relu", &["none"], "a", &[])]),
            "reads `none`",
        ),
        refused(
            "an output twice",
            model(&[relu("x", "y"), relu("x", "y")]),
            "writes `y`, which exists already",
        ),
        refused(
            "a tensor twice",
            model(&[relu("x", "y"), weight(), weight()]),
            "tensor `w`: exists twice",
        ),
        refused(
            "an input twice",
            model(&[input("z", &[1]), input("z", &[1])]),
            "input `z`: is declared twice",
        ),
        refused(
            "an output declared twice",
            model(&[relu("x", "y"), output("y"), output("y")]),
            "is declared twice",
        ),
        refused(
            "an output of nothing",
            model(&[relu("x", "y"), output("none")]),
            "is produced by nothing",
        ),
        refused(
            "a node without an operator",
            model(&[node("", &["x"], "y", &[])]),
            "has no operator type",
        ),
        refused(
            "a node without an output",
            model(&[node("Relu", &["x"], "", &[])]),
            "has no output",
        ),
        refused(
            "a name that would take the terminal",
            model(&[node("Relu", &["\u{1b}[31m\n"], "a", &[])]),
            "\\u{1b}[31m\\n",
        ),
        refused(
            "a name of a million bytes",
            model(&[node("Relu", &[&"n".repeat(1_000_000)], "a", &[])]),
            "which nothing before it produces",
        ),
        read(
            "functions that call each other",
            calling(&[("f", &["g"]), ("g", &["f"])]),
        ),
        read("a function that calls itself", calling(&[("f", &["f"])])),
        read("calls that double forty times", doubling(40, 0)),
        read("calls that double a long text", doubling(16, 100_000)),
    ]
}

/// Messages in messages in messages.
fn nesting() -> Vec<HostileFile> {
    let start = [field(NODE_OP_TYPE, b"If"), field(NODE_OUTPUT, b"o")].concat();
    let graphs: &[(&[u8], u64)] = &[(b"", GRAPH_NODE), (&start, NODE_ATTRIBUTE), (b"", ATTRIBUTE_G)];
    let types: &[(&[u8], u64)] = &[(b"", TYPE_SEQUENCE), (b"", 1)];
    let typed = |depth| {
        field(
            GRAPH_INPUT,
            &[field(VALUE_NAME, b"t"), field(VALUE_TYPE, &nested(b"", depth, types))].concat(),
        )
    };
    let attribute_type = |depth| constant(&[field(ATTRIBUTE_TP, &nested(b"", depth, types))]);
    let functions = [
        field(FUNCTION_NAME, b"f"),
        field(
            FUNCTION_NODE,
            &nested(&start, DEPTH, &[graphs[1], graphs[2], graphs[0]]),
        ),
    ];
    // A field of a number that no message has, in groups: kept as it is by readers that know nothing of it.
    let groups = [[0xa3, 0x06].repeat(DEPTH), [0xa4, 0x06].repeat(DEPTH)].concat();
    vec![
        refused(
            "subgraphs 10,000 deep",
            model(&[nested(b"", DEPTH, graphs)]),
            "nests more than",
        ),
        refused("types 10,000 deep", model(&[typed(DEPTH)]), "nests more than"),
        refused(
            "types of attributes 10,000 deep",
            model(&[attribute_type(DEPTH)]),
            "nests more than",
        ),
        refused(
            "a function with subgraphs 10,000 deep",
            [model(&[relu("x", "y")]), field(MODEL_FUNCTIONS, &functions.concat())].concat(),
            "nests more than",
        ),
        refused(
            "unknown groups 10,000 deep",
            [model(&[relu("x", "y")]), groups].concat(),
            "nests more than",
        ),
        read("subgraphs 40 deep", model(&[nested(b"", 40, graphs)])),
        read("types 60 deep", model(&[typed(60)])),
    ]
}

/// Shapes that grow on the way.
fn shapes() -> Vec<HostileFile> {
    let sizes = |values: &[i64]| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        initializer(b"sizes", INT64, &[values.len() as i64], &bytes)
    };
    let huge = |op: &'static str, inputs: &[&str], values: &[i64]| {
        model(&[sizes(values), node(op, inputs, "y", &[]), output("y")])
    };
    let scalar = |name: &str, value: i64| initializer(name.as_bytes(), INT64, &[], &value.to_le_bytes());
    let mut ranges = vec![scalar("0", 0), scalar("1", 1), scalar("1024", 1024)];
    ranges.extend((0..MANY).map(|k| node("Range", &["0", "1024", "1"], &format!("r{k}"), &[])));
    let mut copies = vec![sizes(&[1; 1024]), node("Identity", &["sizes"], "i0", &[])];
    copies.extend(chain("Identity", "i", MANY));
    let mut ranks = vec![input("i0", &[1; 1000])];
    ranks.extend(chain("Identity", "i", MANY));
    let mut unsqueezed = vec![input("u0", &[1]), scalar("axis", 0)];
    unsqueezed.extend((0..MANY).map(|k| node("Unsqueeze", &[&format!("u{k}"), "axis"], &format!("u{}", k + 1), &[])));
    vec![
        read(
            "ConstantOfShape of 2^40",
            huge("ConstantOfShape", &["sizes"], &[1 << 40]),
        ),
        read(
            "ConstantOfShape of 2^80",
            huge("ConstantOfShape", &["sizes"], &[1 << 40, 1 << 40]),
        ),
        read(
            "ConstantOfShape of less than nothing",
            huge("ConstantOfShape", &["sizes"], &[-1]),
        ),
        read(
            "Expand to 2^60",
            huge("Expand", &["x", "sizes"], &[1 << 30, 1 << 30, 1]),
        ),
        read("Tile by 2^62", huge("Tile", &["x", "sizes"], &[1 << 62])),
        read(
            "Range to the greatest number",
            model(&[
                scalar("a", i64::MIN),
                scalar("b", i64::MAX),
                scalar("c", 1),
                node("Range", &["a", "b", "c"], "y", &[]),
            ]),
        ),
        read(
            "an input of 2^62 elements",
            model(&[input("z", &[1 << 31, 1 << 31]), relu("z", "y"), output("y")]),
        ),
        read(
            "an input of 2^80 elements",
            model(&[input("z", &[1 << 40, 1 << 40]), relu("z", "y"), output("y")]),
        ),
        read(
            "an input of negative size",
            model(&[input("z", &[-4]), relu("z", "y"), output("y")]),
        ),
        read(
            "axes of 2^25",
            model(&[input("z", &[1 << 25]), relu("z", "y"), output("y")]),
        ),
        read(
            "a stored axis of 2^24 without elements",
            model(&[
                input("z", &[1, 0]),
                initializer(b"w", FLOAT, &[0, 1 << 24], &[]),
                node("MatMul", &["z", "w"], "p", &[]),
                relu("p", "y"),
                node("ReduceSum", &["y"], "sum", &[]),
                output("sum"),
            ]),
        ),
        read("100,000 ranges of 1,024", model(&ranges)),
        read("100,000 copies of 1,024 numbers", model(&copies)),
        read("100,000 values of rank 1,000", model(&ranks)),
        read("100,000 axes added one by one", model(&unsqueezed)),
    ]
}

/// Honest structures, many times.
fn large() -> Vec<HostileFile> {
    let numbered = |part: &dyn Fn(usize) -> Vec<u8>| -> Vec<Vec<u8>> { (0..MANY).map(part).collect() };
    let weight = |name: &str, dims: &[i64]| {
        let bytes = 4 * dims.iter().product::<i64>() as usize;
        initializer(name.as_bytes(), FLOAT, dims, &vec![0x3f; bytes])
    };
    let and = |first: Vec<Vec<u8>>, rest: Vec<Vec<u8>>| model(&[first, rest].concat());
    let names = |prefix: &str| -> Vec<String> { (0..MANY).map(|k| format!("{prefix}{k}")).collect() };
    let wide = |names: &[String], op: &str| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        node(op, &names, "y", &[])
    };
    let image = || input("c0", &[1, 1, 1, 1]);
    vec![
        read(
            "100,000 nodes in a row",
            and(
                vec![input("r0", &[4])],
                [chain("Relu", "r", MANY), vec![output(&format!("r{MANY}"))]].concat(),
            ),
        ),
        read(
            "100,000 nodes side by side",
            and(vec![input("z", &[4])], numbered(&|k| relu("z", &format!("y{k}")))),
        ),
        read(
            "100,000 tensors",
            and(vec![relu("x", "y")], numbered(&|k| weight(&format!("w{k}"), &[1]))),
        ),
        read(
            "100,000 inputs",
            and(vec![relu("x", "y")], numbered(&|k| input(&format!("i{k}"), &[1]))),
        ),
        read(
            "100,000 outputs",
            and(
                vec![input("z", &[4])],
                numbered(&|k| [relu("z", &format!("y{k}")), output(&format!("y{k}"))].concat()),
            ),
        ),
        read(
            "100,000 inputs of one node",
            and(
                vec![wide(&names("i"), "Sum")],
                numbered(&|k| input(&format!("i{k}"), &[1])),
            ),
        ),
        refused(
            "100,000 attributes of one node",
            model(&[
                input("z", &[4]),
                node(
                    "Relu",
                    &["z"],
                    "y",
                    &numbered(&|k| {
                        field(
                            NODE_ATTRIBUTE,
                            &[
                                field(ATTRIBUTE_NAME, format!("a{k}").as_bytes()),
                                integer(ATTRIBUTE_I, 1),
                            ]
                            .concat(),
                        )
                    }),
                ),
            ]),
            "asks for more memory",
        ),
        read(
            "100,000 convolutions in a row",
            and(
                vec![image()],
                numbered(&|k| {
                    [
                        weight(&format!("w{k}"), &[1, 1, 1, 1]),
                        node(
                            "Conv",
                            &[&format!("c{k}"), &format!("w{k}")],
                            &format!("c{}", k + 1),
                            &[],
                        ),
                    ]
                    .concat()
                }),
            ),
        ),
        read(
            "20,000 pairs of convolutions of two channels",
            and(
                vec![image()],
                (0..MANY / 5)
                    .flat_map(|k| {
                        [
                            weight(&format!("w{k}"), &[2, 1, 1, 1]),
                            weight(&format!("v{k}"), &[1, 2, 1, 1]),
                            node("Conv", &["c0", &format!("w{k}")], &format!("d{k}"), &[]),
                            node("Conv", &[&format!("d{k}"), &format!("v{k}")], &format!("e{k}"), &[]),
                        ]
                    })
                    .collect(),
            ),
        ),
        read(
            "100,000 quantized weights",
            and(
                vec![weight("scale", &[])],
                numbered(&|k| {
                    [
                        initializer(format!("q{k}").as_bytes(), UINT8, &[1], &[1]),
                        node("DequantizeLinear", &[&format!("q{k}"), "scale"], &format!("d{k}"), &[]),
                    ]
                    .concat()
                }),
            ),
        ),
        read(
            "products with a weight behind 100,000 casts",
            and(
                vec![input("z", &[1, 1]), weight("k0", &[1, 1])],
                [
                    chain("Identity", "k", MANY),
                    (0..1000)
                        .map(|k| node("MatMul", &["z", &format!("k{MANY}")], &format!("m{k}"), &[]))
                        .collect(),
                ]
                .concat(),
            ),
        ),
        read(
            "100,000 products with one weight",
            and(
                vec![input("z", &[1, 2]), weight("w", &[2, 2])],
                numbered(&|k| node("MatMul", &["z", "w"], &format!("m{k}"), &[])),
            ),
        ),
        read(
            "100,000 constants",
            and(
                vec![],
                numbered(&|k| {
                    node(
                        "Constant",
                        &[],
                        &format!("c{k}"),
                        &[field(
                            NODE_ATTRIBUTE,
                            &[
                                field(ATTRIBUTE_NAME, b"value"),
                                integer(ATTRIBUTE_TYPE, 4),
                                field(ATTRIBUTE_T, &tensor(b"", FLOAT, &[1], &[0; 4])),
                            ]
                            .concat(),
                        )],
                    )
                }),
            ),
        ),
        read(
            "100,000 foreign operators",
            and(
                vec![input("z", &[4])],
                numbered(&|k| {
                    field(
                        GRAPH_NODE,
                        &[
                            field(NODE_OP_TYPE, b"Odd"),
                            field(NODE_DOMAIN, b"foreign"),
                            field(NODE_INPUT, b"z"),
                            field(NODE_OUTPUT, format!("y{k}").as_bytes()),
                        ]
                        .concat(),
                    )
                }),
            ),
        ),
        read(
            "100,000 subgraphs",
            and(
                vec![input("z", &[4])],
                numbered(&|k| {
                    node(
                        "If",
                        &["z"],
                        &format!("y{k}"),
                        &[field(
                            NODE_ATTRIBUTE,
                            &[
                                field(ATTRIBUTE_NAME, b"then_branch"),
                                field(
                                    ATTRIBUTE_G,
                                    &field(
                                        GRAPH_NODE,
                                        &[
                                            field(NODE_OP_TYPE, b"Neg"),
                                            field(NODE_INPUT, b"z"),
                                            field(NODE_OUTPUT, b"n"),
                                        ]
                                        .concat(),
                                    ),
                                ),
                            ]
                            .concat(),
                        )],
                    )
                }),
            ),
        ),
        read(
            "a list of a million integers",
            model(&[
                input("z", &[4]),
                node(
                    "Transpose",
                    &["z"],
                    "y",
                    &[field(
                        NODE_ATTRIBUTE,
                        &[
                            field(ATTRIBUTE_NAME, b"perm"),
                            field(ATTRIBUTE_INTS, &[1; 1_000_000]),
                            integer(ATTRIBUTE_TYPE, 7),
                        ]
                        .concat(),
                    )],
                ),
            ]),
        ),
    ]
}

/// Channels that each have to do with everything else.
fn channels() -> Vec<HostileFile> {
    let ints = |name: &[u8], values: &[i64]| {
        let values: Vec<u8> = values
            .iter()
            .flat_map(|&value| integer(ATTRIBUTE_INTS, value))
            .collect();
        let attribute = [field(ATTRIBUTE_NAME, name), values, integer(ATTRIBUTE_TYPE, 7)];
        field(NODE_ATTRIBUTE, &attribute.concat())
    };
    let convolution = |channels: usize| {
        [
            input("c0", &[1, 1, 1, 1]),
            initializer(b"w", FLOAT, &[channels as i64, 1, 1, 1], &vec![0; 4 * channels]),
            node("Conv", &["c0", "w"], "c", &[]),
        ]
    };
    let slice = |k: usize, channel: usize| {
        let channel = channel as i64;
        let bounds = [
            ints(b"starts", &[channel]),
            ints(b"ends", &[channel + 1]),
            ints(b"axes", &[1]),
        ];
        node("Slice", &["c"], &format!("s{k}"), &bounds)
    };
    let sliced = |channels: usize, slices: usize, more: &dyn Fn(usize) -> Vec<u8>| {
        let mut parts = convolution(channels).to_vec();
        parts.extend((0..slices).map(|k| slice(k, k % channels)));
        parts.extend((0..slices).map(more));
        with_opset(9, &parts)
    };
    let mut unknown = vec![initializer(b"w", FLOAT, &[0, 1 << 20], &[])];
    unknown.extend((0..MANY / 2).flat_map(|k| {
        [
            node("Unheard", &["x"], &format!("u{k}"), &[]),
            node("MatMul", &[&format!("u{k}"), "w"], &format!("m{k}"), &[]),
        ]
    }));
    let captures: Vec<u8> = (0..MANY / 10)
        .flat_map(|k| field(NODE_INPUT, format!("y{k}").as_bytes()))
        .collect();
    let inside = [captures, field(NODE_OUTPUT, b"n"), field(NODE_OP_TYPE, b"Sum")].concat();
    let branch = [
        field(ATTRIBUTE_NAME, b"then_branch"),
        field(ATTRIBUTE_G, &field(GRAPH_NODE, &inside)),
    ];
    let mut captured: Vec<Vec<u8>> = (0..MANY / 10).map(|k| relu("x", &format!("y{k}"))).collect();
    captured.push(node(
        "Unheard",
        &["x"],
        &"n".repeat(1_000_000),
        &[field(NODE_ATTRIBUTE, &branch.concat())],
    ));
    let many = 1 << 40;
    let mut reshapes = vec![
        input("z", &[1 << 20]),
        initializer(b"two", INT64, &[2], &[1024_i64.to_le_bytes(); 2].concat()),
    ];
    reshapes.extend((0..MANY / 10).map(|k| node("Reshape", &["z", "two"], &format!("r{k}"), &[])));
    let group = [
        field(ATTRIBUTE_NAME, b"group"),
        integer(ATTRIBUTE_I, many),
        integer(ATTRIBUTE_TYPE, 2),
    ];
    let group = field(NODE_ATTRIBUTE, &group.concat());
    let grouped = |inputs: i64, outputs: i64| {
        model(&[
            input("z", &[1, inputs, 1, 1]),
            initializer(b"w", FLOAT, &[outputs, 0, 1, 1], &[]),
            node("Conv", &["z", "w"], "y", std::slice::from_ref(&group)),
        ])
    };
    vec![
        read("a convolution of 2^40 groups without channels", grouped(0, 0)),
        read("a convolution of 2^40 groups", grouped(many, many)),
        read("10,000 reshapes of one long axis", model(&reshapes)),
        read(
            "10,000 channels, each sliced off",
            sliced(MANY / 10, MANY / 10, &|_| vec![]),
        ),
        read(
            "1,000 channels, each sliced off twenty times",
            sliced(1000, MANY / 5, &|_| vec![]),
        ),
        read(
            "1,000 channels, each sliced off, and 10,000 readers of their shape",
            sliced(1000, MANY / 10, &|k| node("Shape", &["c"], &format!("z{k}"), &[])),
        ),
        read(
            "50,000 products of unknown shape with one weight of no elements",
            model(&unknown),
        ),
        read("10,000 captures of one node of a long name", model(&captured)),
    ]
}

fn chain(op: &str, prefix: &str, length: usize) -> Vec<Vec<u8>> {
    (0..length)
        .map(|k| node(op, &[&format!("{prefix}{k}")], &format!("{prefix}{}", k + 1), &[]))
        .collect()
}

fn model(parts: &[Vec<u8>]) -> Vec<u8> {
    with_opset(17, parts)
}

/// A model of these fields of its graph; `x` is an input.
fn with_opset(opset: i64, parts: &[Vec<u8>]) -> Vec<u8> {
    let mut graph = parts.concat();
    graph.extend(input("x", &[1]));
    [
        integer(MODEL_IR_VERSION, 8),
        field(MODEL_OPSET_IMPORT, &integer(OPSET_VERSION, opset)),
        field(MODEL_GRAPH, &graph),
    ]
    .concat()
}

fn node(op_type: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    field(GRAPH_NODE, &node_message(op_type, inputs, output, attributes))
}

fn node_message(op_type: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut content: Vec<u8> = inputs
        .iter()
        .flat_map(|name| field(NODE_INPUT, name.as_bytes()))
        .collect();
    content.extend(field(NODE_OUTPUT, output.as_bytes()));
    content.extend(field(NODE_OP_TYPE, op_type.as_bytes()));
    content.extend(attributes.concat());
    content
}

fn relu(input: &str, output: &str) -> Vec<u8> {
    node("Relu", &[input], output, &[])
}

/// A Constant node whose attribute `value` has these fields.
fn constant(fields: &[Vec<u8>]) -> Vec<u8> {
    let attribute = [field(ATTRIBUTE_NAME, b"value"), fields.concat()].concat();
    node("Constant", &[], "constant", &[field(NODE_ATTRIBUTE, &attribute)])
}

fn tensor(name: &[u8], data_type: i64, dims: &[i64], raw: &[u8]) -> Vec<u8> {
    let mut content: Vec<u8> = dims.iter().flat_map(|&size| integer(TENSOR_DIMS, size)).collect();
    content.extend(integer(TENSOR_DATA_TYPE, data_type));
    content.extend(field(TENSOR_NAME, name));
    content.extend(field(TENSOR_RAW_DATA, raw));
    content
}

fn initializer(name: &[u8], data_type: i64, dims: &[i64], raw: &[u8]) -> Vec<u8> {
    field(GRAPH_INITIALIZER, &tensor(name, data_type, dims, raw))
}

/// The sparse tensor `s` with this number of values.
fn sparse(dims: &[i64], values: usize, indices: &[i64]) -> Vec<u8> {
    let positions: Vec<u8> = indices.iter().flat_map(|index| index.to_le_bytes()).collect();
    let mut content = field(
        SPARSE_VALUES,
        &tensor(b"s", FLOAT, &[values as i64], &vec![1; 4 * values]),
    );
    content.extend(field(
        SPARSE_INDICES,
        &tensor(b"", INT64, &[indices.len() as i64], &positions),
    ));
    content.extend(dims.iter().flat_map(|&size| integer(SPARSE_DIMS, size)));
    field(GRAPH_SPARSE_INITIALIZER, &content)
}

fn input(name: &str, dims: &[i64]) -> Vec<u8> {
    field(GRAPH_INPUT, &declared(name, dims))
}

fn output(name: &str) -> Vec<u8> {
    field(GRAPH_OUTPUT, &field(VALUE_NAME, name.as_bytes()))
}

fn declared(name: &str, dims: &[i64]) -> Vec<u8> {
    let shape: Vec<u8> = dims
        .iter()
        .flat_map(|&size| field(SHAPE_DIM, &integer(DIM_VALUE, size)))
        .collect();
    let tensor = [integer(TENSOR_TYPE_ELEMENT, FLOAT), field(TENSOR_TYPE_SHAPE, &shape)].concat();
    [
        field(VALUE_NAME, name.as_bytes()),
        field(VALUE_TYPE, &field(TYPE_TENSOR, &tensor)),
    ]
    .concat()
}

/// A model that calls the first of these functions, each of which calls others one after the other.
fn calling(functions: &[(&str, &[&str])]) -> Vec<u8> {
    let mut bytes = model(&[field(GRAPH_NODE, &call(functions[0].0, "x", "y", 0)), output("y")]);
    for (name, calls) in functions {
        bytes.extend(function(name, calls, 0));
    }
    bytes
}

/// Functions each of which calls the next twice, the last of them having a text of this length.
fn doubling(depth: usize, text: usize) -> Vec<u8> {
    let names: Vec<String> = (0..depth).map(|k| format!("f{k}")).collect();
    let mut bytes = model(&[field(GRAPH_NODE, &call("f0", "x", "y", 0)), output("y")]);
    for (k, name) in names.iter().enumerate() {
        bytes.extend(match names.get(k + 1) {
            Some(next) => function(name, &[next, next], 0),
            None => function(name, &["Relu"], text),
        });
    }
    bytes
}

fn call(name: &str, input: &str, output: &str, text: usize) -> Vec<u8> {
    let mut content = node_message(name, &[input], output, &[]);
    if name != "Relu" {
        content.extend(field(NODE_DOMAIN, b"local"));
    }
    content.extend(field(NODE_DOC_STRING, &vec![b't'; text]));
    content
}

fn function(name: &str, calls: &[&str], text: usize) -> Vec<u8> {
    let mut content = [field(FUNCTION_NAME, name.as_bytes()), field(FUNCTION_INPUT, b"v0")].concat();
    content.extend(field(FUNCTION_OUTPUT, format!("v{}", calls.len()).as_bytes()));
    for (k, name) in calls.iter().enumerate() {
        content.extend(field(
            FUNCTION_NODE,
            &call(name, &format!("v{k}"), &format!("v{}", k + 1), text),
        ));
    }
    content.extend(field(FUNCTION_DOMAIN, b"local"));
    content.extend(field(9, &integer(OPSET_VERSION, 17)));
    field(MODEL_FUNCTIONS, &content)
}
