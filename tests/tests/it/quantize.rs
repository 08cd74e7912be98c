//! Quantization, alone and with pruning under one budget.

use std::{fs, path::Path};

use kmr_formats::{read_npz, write_npz};
use kmr_model::{DType, Dimension, Graph, Model, Node, Tensor, ValueInfo};
use kmr_tests::{Bench, kmr};
use serde_json::Value;

use crate::{SHORT, engines::runtime_is_there};

/// The short run with quantization in place of pruning.
fn short(at_most: &str, policy: &str, rules: &str) -> Bench {
    let head = SHORT.split("[policy]").next().unwrap().replace("95%", at_most);
    Bench::new(&format!(
        "{head}[output]\nnames = \"short\"\n[policy]\n{policy}\n[[stage]]\nname = \"pack\"\n{rules}"
    ))
}

fn quantize(values: &str, per: &str, config: &str) -> String {
    format!(
        "[[stage.rule]]\nuse = \"quantize\"\nknobs.weight_bits = {{ values = {values}, per = \"{per}\" }}\n\
         config = {{ samples = 48, {config} }}\n"
    )
}

const SCHEDULED: &str = "use = \"scheduled\"";
const KNAPSACK: &str = "use = \"knapsack\"\nseed = 7\n\
                        config = { proxy = { meter = \"kl\", samples = 50 }, refine = { generations = 1, lambda = 2 } }";

fn model(bench: &Bench) -> Model {
    let bytes = fs::read(bench.path("run/model.onnx")).unwrap();
    Model::decode(bytes.into()).unwrap()
}

fn count(model: &Model, op_type: &str) -> usize {
    model.graph.nodes.iter().filter(|node| node.is(op_type)).count()
}

/// The answers of the model at `path` to the inputs in `inputs`, in an engine.
fn answers(bench: &Bench, path: &Path, inputs: &Path, engine: &str) -> Vec<f32> {
    let outputs = bench.path("answers.npz");
    let [model, from, to] = [path, inputs, &outputs].map(|path| path.to_str().unwrap());
    let mut arguments = vec!["infer", model, "--inputs", from, "--outputs", to, "--engine", engine];
    if inputs.ends_with("test-10k.npz") {
        arguments.extend(["--scale", "1/255", "--value", "logits"]);
    }
    kmr(&arguments).expect(0, &[]);
    let found = read_npz(&outputs).unwrap();
    let (_, answers) = found.iter().next().unwrap();
    answers.to_f32().unwrap().into_owned()
}

/// What every artifact must be: as long as the report says, and the same to both engines but for rounding.
fn check(bench: &Bench) -> Value {
    let report = bench.report();
    let artifact = bench.path("run/model.onnx");
    let length = fs::metadata(&artifact).unwrap().len();
    assert_eq!(report["artifact"]["bytes"], length);
    assert_eq!(report["budget"]["reached"], length as f64);
    report
}

#[test]
fn four_bits_keep_the_answers_in_an_eighth_of_the_bytes() {
    let rule = quantize("[32, 4]", "model", "");
    let bench = short("15%", SCHEDULED, &rule);
    bench.run(&["--no-latency"]).expect(0, &["weights float32 -> 4 bits"]);
    let report = check(&bench);
    let top1 = &report["quality"]["search"];
    let drop = top1["before"].as_f64().unwrap() - top1["after"].as_f64().unwrap();
    assert!(drop <= 0.03, "{top1}");
    let model = model(&bench);
    assert_eq!(model.opset(), 21);
    let four = model
        .graph
        .initializers
        .values()
        .filter(|i| i.tensor.dtype() == DType::INT4)
        .count();
    assert_eq!(four, 22, "21 convolutions and a linear layer");
    assert_eq!(count(&model, "BatchNormalization"), 0);
    assert_eq!(count(&model, "DequantizeLinear"), 0, "what decodes is constant");
    assert_eq!(
        report["meters"]["params"]["after"], 271_404.0,
        "batch normalizations are biases now"
    );
}

#[test]
fn three_bits_are_really_three() {
    let bench = short("11.5%", SCHEDULED, &quantize("[32, 3]", "model", ""));
    bench.run(&["--no-latency"]).expect(0, &[]);
    check(&bench);
    let model = model(&bench);
    let words = model
        .graph
        .initializers
        .values()
        .find(|i| i.tensor.dtype() == DType::UINT64 && i.tensor.len() > 1000);
    // The first convolution's 144 weights are no longer as four-bit integers.
    assert_eq!(words.unwrap().tensor.len(), (270_608_usize - 144).div_ceil(21));
}

#[test]
fn static_activations_answer_alike_in_both_engines() {
    let bench = short(
        "28%",
        SCHEDULED,
        &quantize("[32, 8]", "model", "activations = \"static\""),
    );
    bench.run(&["--no-latency"]).expect(0, &[]);
    check(&bench);
    let model = model(&bench);
    assert!(
        count(&model, "QuantizeLinear") >= 30,
        "{}",
        count(&model, "QuantizeLinear")
    );
    assert_eq!(count(&model, "Relu"), 0, "rectifiers are part of quantization");
    if !runtime_is_there() {
        return;
    }
    let (artifact, test) = (bench.path("run/model.onnx"), kmr_tests::example().join("test-10k.npz"));
    let classes = |answers: &[f32]| -> Vec<usize> {
        let best = |row: &[f32]| (0..10).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        answers.chunks(10).map(best).collect()
    };
    let builtin = classes(&answers(&bench, &artifact, &test, "builtin"));
    let runtime = classes(&answers(&bench, &artifact, &test, "onnxruntime"));
    let flips = builtin.iter().zip(&runtime).filter(|(one, other)| one != other).count();
    assert!(flips <= 30, "{flips} of 10,000 answers differ");
}

#[test]
fn pruning_and_quantization_share_a_budget_whatever_the_threads() {
    let rules = format!(
        "{}[[stage.rule]]\nuse = \"prune\"\nknobs.channel_sparsity = {{ values = [0.0, 0.25], per = \"layer\" }}\n",
        quantize("[32, 4, 2]", "layer", "")
    );
    let run = |threads: &str| {
        let bench = short("13%", KNAPSACK, &rules);
        // The order in the manifest is the other way round.
        let run = bench.run(&["--no-latency", "--threads", threads]);
        run.expect(0, &["warning", "prune", "contender", "knapsack", "refined"]);
        let report = check(&bench);
        (report, fs::read(bench.path("run/model.onnx")).unwrap())
    };
    let (report, bytes) = run("1");
    assert_eq!(bytes, run("2").1);
    let contenders = report["contenders"].as_array().unwrap();
    let labels: Vec<&str> = contenders
        .iter()
        .map(|contender| contender["label"].as_str().unwrap())
        .collect();
    assert_eq!(labels, ["uniform", "greedy", "knapsack", "refined"]);
    assert!(contenders.iter().all(|contender| contender["holdout"].is_number()));
    for contender in contenders {
        assert!(contender["costs"]["size_bytes"].as_f64() <= report["budget"]["limit"].as_f64());
    }
}

#[test]
fn channels_of_one_layer_may_have_different_bits() {
    let rules = quantize("[32, 4, 2]", "channel_group", "method = \"mse\", channel_group = 32");
    let bench = short("12%", KNAPSACK, &rules);
    bench.run(&["--no-latency"]).expect(0, &["weights of channels 0 to 31"]);
    check(&bench);
    assert!(count(&model(&bench), "Concat") > 0, "no layer was cut into parts");
    if runtime_is_there() {
        let test = kmr_tests::example().join("test-10k.npz");
        let artifact = bench.path("run/model.onnx");
        let [builtin, runtime] = ["builtin", "onnxruntime"].map(|engine| answers(&bench, &artifact, &test, engine));
        let apart = builtin.iter().zip(&runtime).map(|(one, other)| (one - other).abs());
        assert!(apart.fold(0.0_f32, f32::max) < 1e-2);
    }
    let rules = quantize("[32, 4]", "channel_group", "activations = \"static\"");
    short("20%", SCHEDULED, &rules)
        .run(&[])
        .expect(20, &["config.activations", "one number of bits", "\"layer\""]);
}

#[test]
fn several_limits_hold_at_once() {
    let bench = short("20%", KNAPSACK, "");
    let text = fs::read_to_string(bench.path("pipeline.toml")).unwrap();
    let limits = "[[budget.limit]]\nmeter = \"size_bytes\"\nat_most = \"14%\"\n\
                  [[budget.limit]]\nmeter = \"macs\"\nat_most = \"95%\"\n";
    let text = text.replace("[budget]\nmeter = \"size_bytes\"\nat_most = \"20%\"\n", limits);
    let prune = "[[stage.rule]]\nuse = \"prune\"\nknobs.channel_sparsity = { values = [0.0, 0.25], per = \"layer\" }\n";
    bench.write(
        "pipeline.toml",
        (text + prune + &quantize("[32, 4, 2]", "layer", "")).as_bytes(),
    );
    bench.run(&["--no-latency"]).expect(0, &[]);
    let report = bench.report();
    let met: Vec<&Value> = report["limits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|limit| &limit["met"])
        .collect();
    assert_eq!(met, [true, true]);
}

#[test]
fn one_search_solves_for_many_budgets() {
    let bench = short("20%", KNAPSACK, &quantize("[32, 8, 4, 2]", "layer", ""));
    let [manifest, out] = ["pipeline.toml", "curve"].map(|name| bench.path(name).to_str().unwrap().to_owned());
    let arguments = ["frontier", &manifest, "--out", &out, "--budgets", "20%,12%,100000"];
    kmr(&arguments).expect(0, &["20%", "12%", "100000"]);
    let text = fs::read_to_string(bench.path("curve/frontier.json")).unwrap();
    let curve: Value = serde_json::from_str(&text).unwrap();
    let points = curve["points"].as_array().unwrap();
    assert_eq!(points.len(), 3);
    for (point, limit) in points.iter().zip([222_735, 133_641, 100_000]) {
        let file = bench.path("curve").join(point["file"].as_str().unwrap());
        let length = fs::metadata(file).unwrap().len();
        assert!(length <= limit, "{length} of {limit}");
        assert_eq!(point["costs"]["size_bytes"], length as f64);
        assert!(point["holdout"].is_number());
    }
    let short_of = ["frontier", &manifest, "--out", &out, "--budgets", "20%,1%"];
    kmr(&short_of).expect(30, &["no assignment of the knobs reaches 1%"]);
}

#[test]
fn what_cannot_be_met_or_made_is_said_with_the_way_out() {
    let bench = short("2%", SCHEDULED, &quantize("[32, 4]", "layer", "method = \"mse\""));
    bench.run(&["--no-latency"]).expect(
        30,
        &[
            "smallest seen",
            "at their last value: quantize.weight_bits of conv1 = 4",
        ],
    );
    assert!(bench.path("run/best-effort.onnx").exists());

    let both = quantize("[32, 4]", "layer", "")
        + "[[stage.rule]]\nuse = \"prune_unstructured\"\nknobs.weight_sparsity = { values = [0.0, 0.5], per = \"model\" }\n";
    short("20%", SCHEDULED, &both)
        .run(&[])
        .expect(20, &["quantize", "prune_unstructured"]);

    let bench = short("20%", SCHEDULED, &quantize("[32, 4]", "layer", ""));
    let text = fs::read_to_string(bench.path("pipeline.toml")).unwrap();
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("calibration")).collect();
    bench.write("pipeline.toml", kept.join("\n").as_bytes());
    bench.run(&[]).expect(
        20,
        &[
            "looks at calibration data",
            "method = \"mse\"".split(' ').next().unwrap(),
        ],
    );

    for (values, config, told) in [
        ("[32, 9]", "", "9"),
        ("[32, 4]", "granularity = 1", "config.granularity"),
        (
            "[32, 4]",
            "granularity = 32, activations = \"static\"",
            "integer kernels",
        ),
        ("[32, 4]", "damping = 2.0", "config.damping"),
    ] {
        short("20%", SCHEDULED, &quantize(values, "layer", config))
            .run(&[])
            .expect(20, &[told]);
    }
}

/// `[N, 6]` through two products and a normalization, with weights of every awkward kind.
fn awkward() -> Model {
    let mut graph = Graph::new("awkward");
    let shape = |size| [Dimension::Named("N".into()), Dimension::Fixed(size)];
    graph.inputs = vec![ValueInfo::tensor("x", DType::FLOAT, &shape(12))];
    graph.outputs = vec![ValueInfo::tensor("y", DType::FLOAT, &shape(5))];
    let mut number = 1_u32;
    let mut next = || {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (number >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut store = |name: &str, shape: &[usize], value: &dyn Fn(usize, f32) -> f32| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|at| value(at, next())).collect();
        graph
            .initializers
            .insert(name.into(), Tensor::from_vec(shape.to_vec(), values).into());
    };
    store("first", &[12, 30], &|at, value| if at % 30 == 3 { 0.0 } else { value });
    store("constant", &[30, 7], &|_, _| 0.25);
    store("narrow", &[1, 7], &|_, value| value);
    store("last", &[1, 5], &|_, value| value);
    store("bias", &[5], &|_, value| value);
    let nodes = [
        Node::new("MatMul", "a", &["x", "first"], &["a"]),
        Node::new("Relu", "b", &["a"], &["b"]),
        Node::new("MatMul", "c", &["b", "constant"], &["c"]),
        Node::new("Gemm", "d", &["c", "narrow"], &["d"]).with_int("transB", 1),
        Node::new("Gemm", "y", &["d", "last", "bias"], &["y"]),
    ];
    graph.nodes = nodes.into_iter().map(Into::into).collect();
    let model = Model::new(graph, 8, 13);
    model.graph.check().unwrap();
    model
}

#[test]
fn awkward_weights_run_in_every_form() {
    for config in [
        "",
        "granularity = 5",
        "symmetric = false, granularity = 7",
        "granularity = \"tensor\", method = \"min_max\"",
        "activations = \"static\", integer_layers = \"all\", calibration = \"entropy\"",
        "activations = \"dynamic\"",
        "weight_kernels = true",
    ] {
        for bits in [8, 3] {
            let rule = quantize(&format!("[32, {bits}]"), "model", config);
            let bench = Bench::new(&format!(
                "schema = 1\n[model]\npath = \"awkward.onnx\"\n[data]\ncalibration = {{ path = \"c.npz\" }}\n\
                 search = {{ path = \"s.npz\" }}\nholdout = {{ path = \"h.npz\" }}\n[budget]\nmeter = \"params\"\n\
                 at_most = \"100%\"\n[quality]\nmeter = \"cosine\"\ndrop_at_most = inf\n[policy]\n{SCHEDULED}\n\
                 [[stage]]\nname = \"pack\"\n{rule}"
            ));
            let text = fs::read_to_string(bench.path("pipeline.toml")).unwrap();
            // A budget that is met from the start asks for nothing.
            let text = text.replace(
                "meter = \"params\"\nat_most = \"100%\"",
                "meter = \"size_bytes\"\nat_most = \"99%\"",
            );
            bench.write("pipeline.toml", text.as_bytes());
            bench.write("awkward.onnx", &awkward().encode_to_vec());
            for (seed, name) in ["c.npz", "s.npz", "h.npz"].into_iter().enumerate() {
                let values: Vec<f32> = (0..32 * 12)
                    .map(|at| ((at * 37 + seed * 11) as f32 * 0.7).sin())
                    .collect();
                write_npz(&bench.path(name), [("x", &Tensor::from_vec(vec![32, 12], values))]).unwrap();
            }
            let run = bench.run(&["--no-latency"]);
            // Nodes that decode may weigh more than so few weights save: the file tells.
            assert!([0, 30].contains(&run.code), "{config} {bits}: {}", run.err);
            let name = if run.code == 0 {
                "run/model.onnx"
            } else {
                "run/best-effort.onnx"
            };
            let artifact = bench.path(name);
            let (inputs, report) = (bench.path("h.npz"), bench.report());
            let cosine = report["meters"]["cosine"]["after"].as_f64().unwrap();
            assert!(cosine > if bits == 8 { 0.98 } else { 0.6 }, "{config} {bits}: {cosine}");
            if runtime_is_there() {
                let builtin = answers(&bench, &artifact, &inputs, "builtin");
                let runtime = answers(&bench, &artifact, &inputs, "onnxruntime");
                let most = builtin.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
                let off = builtin
                    .iter()
                    .zip(&runtime)
                    .fold(0.0_f32, |off, (a, b)| off.max((a - b).abs()));
                assert!(off <= 0.03 * most, "{config} {bits}: {off} of {most}");
            }
        }
    }
}
