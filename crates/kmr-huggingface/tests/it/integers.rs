//! Weights of codes on their way back.

use std::path::Path;

use kmr_formats::gguf::{Gguf, GgufKind};
use kmr_formats::read_safetensors;
use kmr_huggingface::{ErrorKind, HuggingFaceError, Source, Written, open, open_gguf, write_back};
use kmr_model::stored::{Decode, IntegerWeight, Sharing, store_integers};
use kmr_model::{Build, DType, Model, ModelError, Node, Tensor};

use crate::{folders, outputs::output};

/// How a weight is stored.
#[derive(Clone, Copy)]
struct Form {
    bits: u8,
    symmetric: bool,
    sharing: Sharing,
}

const FOUR: Form = Form {
    bits: 4,
    symmetric: true,
    sharing: Sharing::Group(6),
};
const EIGHT: Form = Form {
    bits: 8,
    symmetric: true,
    sharing: Sharing::Channel,
};

fn pack(codes: &[u8], bits: u8) -> Result<Vec<u64>, ModelError> {
    let word = |codes: &[u8]| codes.iter().rev().fold(0, |word, &code| word << bits | u64::from(code));
    Ok(codes.chunks(usize::from(64 / bits)).map(word).collect())
}

/// Codes of a matrix, with scales that reach over all of them.
struct Coded {
    name: String,
    shape: Vec<usize>,
    form: Form,
    codes: Vec<i16>,
    scales: Vec<f32>,
    zeros: Vec<i32>,
}

fn coded(name: &str, tensor: &Tensor, form: Form) -> Coded {
    let [rows, columns] = tensor.shape()[..] else {
        panic!("{name} is no matrix")
    };
    let values = tensor.to_f32().unwrap();
    let group = match form.sharing {
        Sharing::Group(size) => size,
        _ => columns,
    };
    let mut made = Coded {
        name: name.into(),
        shape: vec![rows, columns],
        form,
        codes: Vec::new(),
        scales: Vec::new(),
        zeros: Vec::new(),
    };
    let levels = f32::from((1_i16 << form.bits) - 1);
    let ends = |values: &[f32]| {
        values
            .iter()
            .fold((0.0_f32, 0.0_f32), |(a, b), &v| (a.min(v), b.max(v)))
    };
    let whole = ends(&values);
    for row in values.chunks(columns) {
        for part in row.chunks(group) {
            let (least, most) = if form.sharing == Sharing::Tensor {
                whole
            } else {
                ends(part)
            };
            let (scale, zero, low) = match form.symmetric {
                true => (
                    least.abs().max(most) / (levels / 2.0).floor(),
                    0.0,
                    -(levels / 2.0).ceil(),
                ),
                false => (
                    (most - least) / levels,
                    (-least / ((most - least) / levels)).round(),
                    0.0,
                ),
            };
            made.codes.extend(
                part.iter()
                    .map(|value| (value / scale + zero).round().clamp(low, low + levels) as i16),
            );
            made.scales.push(scale);
            made.zeros.push(zero as i32);
        }
    }
    if form.sharing == Sharing::Tensor {
        made.scales.truncate(1);
        made.zeros.truncate(1);
    }
    made
}

/// The model with these weights, found by the ends of their names, stored as codes.
fn quantized(model: &Model, forms: &[(&str, Form)], decode: Decode) -> Model {
    let graph = &model.graph;
    let weights: Vec<Coded> = forms
        .iter()
        .flat_map(|(ending, form)| {
            let names = graph.initializers.keys().filter(move |name| name.ends_with(ending));
            names.map(|name| coded(name, graph.tensor(name).unwrap(), *form))
        })
        .collect();
    assert!(weights.len() >= forms.len());
    let reader = |name: &str| {
        graph
            .nodes
            .iter()
            .find(|node| node.inputs().iter().any(|input| input == name))
    };
    let stored: Vec<IntegerWeight<'_>> = weights
        .iter()
        .map(|weight| IntegerWeight {
            tensor: &weight.name,
            shape: &weight.shape,
            axis: 0,
            reader: reader(&weight.name).map(|node| node.id()),
            bits: weight.form.bits,
            low: if weight.form.symmetric {
                -(1 << (weight.form.bits - 1))
            } else {
                0
            },
            sharing: weight.form.sharing,
            codes: &weight.codes,
            scales: &weight.scales,
            zero_points: &weight.zeros,
            half_scales: false,
            decode,
            spelled_zero: false,
        })
        .collect();
    let mut build = Build::on(graph);
    store_integers(&mut build, &stored, Some(graph.nodes[0].id()), &pack).unwrap();
    let graph = build.finish().apply(graph).unwrap();
    Model::new(graph, 10, 21)
}

fn model(fixture: &str) -> Model {
    open(&folders::path(fixture)).unwrap().model
}

fn written(model: &Model, fixture: &str) -> (tempfile::TempDir, Written) {
    let target = tempfile::tempdir().unwrap();
    let written = write_back(model, &folders::path(fixture), target.path()).unwrap();
    (target, written)
}

fn config(folder: &Path) -> serde_json::Value {
    folders::object(&folder.join("config.json"))
        .remove("quantization_config")
        .unwrap_or_default()
}

#[test]
fn every_form_of_codes_is_packed() {
    let original = model("llama");
    for decode in [Decode::Constant, Decode::Kernel] {
        for bits in [2, 3, 4, 6, 8] {
            for symmetric in [true, false] {
                for sharing in [Sharing::Tensor, Sharing::Channel, Sharing::Group(6)] {
                    let form = Form {
                        bits,
                        symmetric,
                        sharing,
                    };
                    let model = quantized(&original, &[("layers.0.self_attn.q_proj.weight", form)], decode);
                    let (folder, told) = written(&model, "llama");
                    assert!(told.warnings.is_empty(), "{told:?}");
                    let found = config(folder.path());
                    let group = &found["config_groups"]["group_0"];
                    let weights = &group["weights"];
                    assert_eq!(weights["num_bits"], if bits <= 4 { 4 } else { 8 });
                    // A zero point that all groups have is none.
                    assert!(weights["symmetric"] == symmetric || sharing == Sharing::Tensor);
                    assert_eq!(
                        group["targets"],
                        serde_json::json!([r"re:(.*\.)?layers\.0\.self_attn\.q_proj$"])
                    );
                    let strategy = match sharing {
                        Sharing::Tensor => "tensor",
                        Sharing::Channel => "channel",
                        Sharing::Group(_) => "group",
                    };
                    assert_eq!(weights["strategy"], strategy);
                    let ignored = found["ignore"].as_array().unwrap();
                    assert!(
                        ignored.contains(&"model.layers.1.self_attn.q_proj".into())
                            && ignored.contains(&"lm_head".into())
                    );
                    assert!(!ignored.contains(&"model.layers.0.self_attn.q_proj".into()));
                    let tensors = read_safetensors(&folder.path().join("model.safetensors")).unwrap();
                    let part = |part: &str| tensors.get(&format!("model.layers.0.self_attn.q_proj.weight{part}"));
                    assert!(part("").is_none());
                    let words = if bits <= 4 { 3 } else { 5 };
                    assert_eq!(part("_packed").unwrap().shape(), [60, words]);
                    assert_eq!(part("_shape").unwrap().to_i64().unwrap(), [60, 18]);
                    assert_eq!(part("_zero_point").is_some(), weights["symmetric"] == false);
                }
            }
        }
    }
}

#[test]
fn layers_may_differ_in_bits() {
    let forms = [
        ("layer.0.attention.self.query.weight", FOUR),
        ("layer.1.attention.self.query.weight", EIGHT),
        ("intermediate.dense.weight", EIGHT),
    ];
    let model = quantized(&model("bert"), &forms, Decode::Constant);
    let (target, _) = written(&model, "bert");
    let groups = &config(target.path())["config_groups"];
    let four = r"re:(.*\.)?encoder\.layer\.0\.attention\.self\.query$";
    assert_eq!(groups["group_0"]["targets"], serde_json::json!([four]));
    let eight = [
        r"re:(.*\.)?encoder\.layer\.1\.attention\.self\.query$",
        r"re:(.*\.)?encoder\.layer\.\d+\.intermediate\.dense$",
    ];
    let mut found: Vec<&str> = groups["group_1"]["targets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t.as_str().unwrap())
        .collect();
    found.sort_unstable();
    assert_eq!(found, eight);
}

fn refused(model: &Model, fixture: &str) -> HuggingFaceError {
    let outer = tempfile::tempdir().unwrap();
    let target = outer.path().join("new");
    let error = write_back(model, &folders::path(fixture), &target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Inexpressible, "{error}");
    assert!(error.way_out().is_some());
    assert_eq!(folders::files(outer.path()), [], "nothing is left");
    error
}

#[test]
fn what_the_format_has_no_words_for_becomes_numbers_that_compute_the_same() {
    let ragged = Form {
        sharing: Sharing::Group(8),
        ..FOUR
    };
    let forms = [
        ("embed_tokens.weight", EIGHT),
        ("up_proj.weight", ragged),
        ("gate_proj.weight", FOUR),
    ];
    let model = quantized(&model("llama"), &forms, Decode::Constant);
    let (folder, told) = written(&model, "llama");
    let [table, groups] = &told.warnings[..] else {
        panic!("{told:?}")
    };
    // 61 rows of 18 numbers: a scale for each row, and codes.
    assert!(
        table.contains("`model.embed_tokens.weight` is written as float32 numbers, 4392 bytes instead of 1480"),
        "{table}"
    );
    assert!(
        groups.contains("2 tensors (`model.layers.0.mlp.up_proj.weight` and others)")
            && groups.contains("groups of 8 do not divide rows of 18"),
        "{groups}"
    );
    // Without the rest, the folder is one that kmr opens.
    let dense = quantized(&self::model("llama"), &forms[..2], Decode::Constant);
    let (folder_of_numbers, _) = written(&dense, "llama");
    assert!(config(folder_of_numbers.path()).is_null() && !config(folder.path()).is_null());
    let again = open(folder_of_numbers.path()).unwrap().model;
    let stored = kmr_formats::read_npz(&folders::path("llama").join("expected.npz")).unwrap();
    assert_eq!(output(&again, &stored, "b"), output(&dense, &stored, "b"));
}

#[test]
fn numbers_have_the_type_of_the_folder() {
    // Weights of 16 bits are no initializers by their own names: the codes come from a float32 copy.
    let folder = folders::copy("llama_tied");
    let mut wide = open(folder.path()).unwrap().model;
    let name = "model.embed_tokens.weight";
    let values = wide
        .graph
        .tensor(&format!("{name}_stored"))
        .unwrap()
        .to_f32()
        .unwrap()
        .into_owned();
    let shape = wide.graph.tensor(&format!("{name}_stored")).unwrap().shape().to_vec();
    wide.graph.nodes.retain(|node| node.id() != name);
    wide.graph.initializers.shift_remove(&format!("{name}_stored"));
    wide.graph
        .initializers
        .insert(name.into(), Tensor::from_vec(shape, values).into());
    let model = quantized(&wide, &[(name, EIGHT)], Decode::Constant);
    let target = tempfile::tempdir().unwrap();
    let told = write_back(&model, folder.path(), target.path()).unwrap();
    assert!(
        told.changes.is_empty() && told.warnings[0].contains("written as bfloat16 numbers"),
        "{told:?}"
    );
    let tensors = read_safetensors(&target.path().join("model.safetensors")).unwrap();
    assert_eq!(tensors[name].dtype(), DType::BFLOAT16);
}

#[test]
fn channels_of_one_weight_may_be_stored_in_parts() {
    let mut model = model("llama");
    let name = "model.layers.0.mlp.up_proj.weight";
    let whole = model.graph.tensor(name).unwrap().clone();
    let values = whole.to_f32().unwrap();
    let cut = |from: usize, to: usize| Tensor::from_vec(vec![to - from, 18], values[from * 18..to * 18].to_vec());
    let reader = model
        .graph
        .nodes
        .iter()
        .position(|node| node.inputs().iter().any(|input| input == name))
        .unwrap();
    model.graph.initializers.shift_remove(name);
    model.graph.initializers.insert("half.one".into(), cut(0, 7).into());
    model.graph.initializers.insert("half.two".into(), cut(7, 15).into());
    let concat = Node::new("Concat", "", &["half.one", "half.two"], &[name]).with_int("axis", 0);
    model.graph.nodes.insert(reader, concat.into());
    let channel = Form { bits: 4, ..EIGHT };
    let both = quantized(&model, &[("half.one", channel), ("half.two", EIGHT)], Decode::Constant);
    let (folder, told) = written(&both, "llama");
    assert!(told.warnings.is_empty(), "{told:?}");
    let weights = &config(folder.path())["config_groups"]["group_0"]["weights"];
    assert_eq!(
        (weights["num_bits"].as_u64(), weights["strategy"].as_str()),
        (Some(8), Some("channel"))
    );
    let half = quantized(&model, &[("half.one", channel)], Decode::Constant);
    let (_, told) = written(&half, "llama");
    assert!(
        told.warnings[0].contains("some of its channels are no integers"),
        "{told:?}"
    );
}

#[test]
fn experts_become_numbers() {
    for (fixture, endings) in [
        ("qwen3_moe", ["experts.1.up_proj.weight", "mlp.gate.weight"]),
        ("mixtral", ["experts.1.w3.weight", "block_sparse_moe.gate.weight"]),
    ] {
        let forms = endings.map(|ending| (ending, EIGHT));
        let model = quantized(&model(fixture), &forms, Decode::Constant);
        let (folder, told) = written(&model, fixture);
        assert!(
            told.warnings[0].contains("does not load experts beside packed weights"),
            "{told:?}"
        );
        assert!(config(folder.path()).is_null());
    }
}

#[test]
fn activations_of_integers_are_refused() {
    let mut model = model("bert");
    let last = model.graph.nodes.len() - 1;
    let rows = model.graph.nodes[last].inputs()[0].clone();
    model
        .graph
        .initializers
        .insert("s".into(), Tensor::scalar(0.5_f32).into());
    let quantize = Node::new("QuantizeLinear", "q", &[&rows, "s"], &["rows_codes"]);
    let real = Node::new("DequantizeLinear", "d", &["rows_codes", "s"], &["rows_real"]);
    let mut reader = model.graph.nodes[last].proto().clone();
    reader.input[0] = "rows_real".into();
    model.graph.nodes[last] = Node::from_proto(reader).unwrap().into();
    model.graph.nodes.insert(last, real.into());
    model.graph.nodes.insert(last, quantize.into());
    let error = refused(&model, "bert").to_string();
    assert!(
        error.contains("node `q` (QuantizeLinear) makes integers of activations"),
        "{error}"
    );
}

#[test]
fn a_model_with_other_names_or_another_network_is_refused() {
    let quantized = quantized(&model("bert"), &[("query.weight", EIGHT)], Decode::Constant);
    let short = kmr_model::compact::short_names(&quantized).unwrap();
    let error = refused(&short, "bert").to_string();
    assert!(error.contains("no tensor of the model has a name"), "{error}");
    let mut changed = quantized.clone();
    let node = changed.graph.nodes.iter().position(|node| node.is("Gelu")).unwrap();
    let mut proto = changed.graph.nodes[node].proto().clone();
    proto.op_type = Some("Relu".into());
    changed.graph.nodes[node] = Node::from_proto(proto).unwrap().into();
    assert!(
        refused(&changed, "bert")
            .to_string()
            .contains("has no place in the architecture")
    );
}

#[test]
fn nothing_that_is_there_is_written_over() {
    let target = tempfile::tempdir().unwrap();
    std::fs::write(target.path().join("mine"), "x").unwrap();
    let before = folders::files(target.path());
    let error = write_back(&model("bert"), &folders::path("bert"), target.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exists);
    assert!(error.to_string().contains("is not empty"), "{error}");
    assert_eq!(folders::files(target.path()), before);
}

/// The folder of a made llama whose rows are blocks.
fn blocky(hidden: usize, tied: bool) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 2 * hidden, "vocab_size": 61,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": tied,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let mut seed = 1_u64;
    let mut noise = |count: usize, around: f32, wide: f32| -> Vec<f32> {
        (0..count)
            .map(|_| {
                seed = seed
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                around + wide * ((seed >> 40) as f32 / (1 << 23) as f32 - 1.0)
            })
            .collect()
    };
    let mut tensors = kmr_formats::NamedArrays::new();
    let mut matrix = |name: String, rows: usize, columns: usize| {
        tensors.insert(
            name,
            Tensor::from_vec(vec![rows, columns], noise(rows * columns, 0.0, 0.1)),
        );
    };
    matrix("model.embed_tokens.weight".into(), 61, hidden);
    if !tied {
        matrix("lm_head.weight".into(), 61, hidden);
    }
    for layer in 0..2 {
        let name = |part: &str| format!("model.layers.{layer}.{part}_proj.weight");
        for (part, rows, columns) in [
            ("self_attn.q", hidden, hidden),
            ("self_attn.k", hidden / 2, hidden),
            ("self_attn.v", hidden / 2, hidden),
            ("self_attn.o", hidden, hidden),
            ("mlp.gate", 2 * hidden, hidden),
            ("mlp.up", 2 * hidden, hidden),
            ("mlp.down", hidden, 2 * hidden),
        ] {
            matrix(name(part), rows, columns);
        }
    }
    let norms = ["input_layernorm", "post_attention_layernorm"];
    let norms = norms
        .iter()
        .flat_map(|norm| (0..2).map(move |layer| format!("model.layers.{layer}.{norm}.weight")));
    for name in norms.chain(["model.norm.weight".into()]) {
        tensors.insert(name, Tensor::from_vec(vec![hidden], noise(hidden, 1.0, 0.2)));
    }
    let path = folder.path().join("model.safetensors");
    kmr_formats::write_safetensors(&path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))).unwrap();
    folder
}

fn to_gguf(model: &Model, source: &Path, kind: GgufKind) -> (tempfile::TempDir, Result<Written, HuggingFaceError>) {
    let scratch = tempfile::tempdir().unwrap();
    let source = Source::read(source).unwrap();
    let told = source.write_gguf(model, &scratch.path().join("model.gguf"), kind, Default::default());
    (scratch, told)
}

/// The largest difference of answers to `llama`'s tokens, as a part of the largest answer.
fn apart(one: &Model, other: &Model) -> f32 {
    let stored = kmr_formats::read_npz(&folders::path("llama").join("expected.npz")).unwrap();
    let (one, other) = (output(one, &stored, "a"), output(other, &stored, "a"));
    let (one, other) = (one.to_f32().unwrap(), other.to_f32().unwrap());
    let largest = one.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    one.iter()
        .zip(other.iter())
        .fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()))
        / largest
}

#[test]
fn a_llama_goes_to_gguf_and_back() {
    for tied in [false, true] {
        let folder = blocky(256, tied);
        let model = open(folder.path()).unwrap().model;
        for (kind, most) in [
            (GgufKind::F32, 0.0),
            (GgufKind::F16, 0.002),
            (GgufKind::Q8_0, 0.02),
            (GgufKind::Q6K, 0.06),
            (GgufKind::Q4K, 0.2),
            (GgufKind::Q4_1, 0.25),
            (GgufKind::Q4_0, 0.5),
        ] {
            let (file, told) = to_gguf(&model, folder.path(), kind);
            let told = told.unwrap();
            assert!(
                told.warnings.iter().all(|warning| warning.contains("no tokenizer")),
                "{told:?}"
            );
            let path = file.path().join("model.gguf");
            let again = open_gguf(&path).unwrap().model;
            let difference = apart(&model, &again);
            assert!(
                difference <= most && (difference > 0.0 || kind == GgufKind::F32),
                "{kind}: {difference}"
            );
            let gguf = Gguf::read(&path).unwrap();
            for (name, tensor) in &gguf.tensors {
                let wanted = if tensor.shape().len() == 1 { GgufKind::F32 } else { kind };
                assert_eq!(tensor.kind(), wanted, "{name}");
            }
            // And from the file to a folder again.
            let target = tempfile::tempdir().unwrap();
            write_back(&again, &path, target.path()).unwrap();
            assert_eq!(apart(&again, &open(target.path()).unwrap().model), 0.0);
        }
    }
}

#[test]
fn blocks_keep_the_codes_of_weights() {
    let folder = blocky(64, false);
    let original = open(folder.path()).unwrap().model;
    let group = |bits: u8, symmetric: bool, sharing: Sharing| Form {
        bits,
        symmetric,
        sharing,
    };
    let forms = [
        ("q_proj.weight", group(4, true, Sharing::Group(32))),
        ("k_proj.weight", group(4, false, Sharing::Group(32))),
        ("v_proj.weight", group(8, true, Sharing::Group(32))),
        ("o_proj.weight", group(8, true, Sharing::Channel)),
        ("gate_proj.weight", group(3, true, Sharing::Channel)),
        ("up_proj.weight", group(8, false, Sharing::Group(32))),
        ("down_proj.weight", group(4, true, Sharing::Group(16))),
    ];
    let model = quantized(&original, &forms, Decode::Constant);
    let (file, told) = to_gguf(&model, folder.path(), GgufKind::F16);
    let told = told.unwrap();
    assert_eq!(
        told.changes,
        [
            "4 weights keep their codes as Q4_0; scales are rounded to float16",
            "2 weights keep their codes as Q4_1; scales are rounded to float16",
            "4 weights keep their codes as Q8_0; scales are rounded to float16",
        ]
    );
    let path = file.path().join("model.gguf");
    let gguf = Gguf::read(&path).unwrap();
    let kind = |name: &str| gguf.tensors[&format!("blk.1.{name}.weight")].kind();
    let kinds = [
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    ]
    .map(kind);
    let (q4_0, q4_1, q8_0, f16) = (GgufKind::Q4_0, GgufKind::Q4_1, GgufKind::Q8_0, GgufKind::F16);
    assert_eq!(kinds, [q4_0, q4_1, q8_0, q8_0, q4_0, f16, f16]);
    // Only scales were rounded: all weights are within what that takes of each.
    let again = open_gguf(&path).unwrap().model;
    for (ending, form) in forms {
        let name = format!(
            "model.layers.1.{}.{ending}",
            if ending.starts_with(['q', 'k', 'v', 'o']) {
                "self_attn"
            } else {
                "mlp"
            }
        );
        let made = coded(&name, original.graph.tensor(&name).unwrap(), form);
        let columns = made.shape[1];
        let group = columns * made.shape[0] / made.scales.len();
        let found = again
            .graph
            .tensor(&name)
            .or(again.graph.tensor(&format!("{name}_stored")))
            .unwrap()
            .to_f32()
            .unwrap()
            .into_owned();
        for (at, value) in found.iter().enumerate() {
            let (scale, zero) = (made.scales[at / group], made.zeros[at / group]);
            let exact = (f32::from(made.codes[at]) - zero as f32) * scale;
            let span = scale * (1 << form.bits) as f32;
            assert!((value - exact).abs() <= span * 0.0006, "{name} {at}: {value} {exact}");
        }
    }
}

#[test]
fn rows_that_are_no_blocks_are_said() {
    let folder = blocky(96, false);
    let model = open(folder.path()).unwrap().model;
    let (_file, told) = to_gguf(&model, folder.path(), GgufKind::Q4K);
    let told = told.unwrap().warnings.join("\n");
    assert!(
        told.contains("are stored as Q4_1 instead of Q4_K: rows of 96 are no blocks of 256"),
        "{told}"
    );
    let (_file, told) = to_gguf(&self::model("llama"), &folders::path("llama"), GgufKind::Q8_0);
    let told = told.unwrap().warnings.join("\n");
    assert!(
        told.contains("stored as F16 instead of Q8_0: rows of 18 are no blocks of 32"),
        "{told}"
    );
}

#[test]
fn what_gguf_does_not_say_is_refused_by_name() {
    for (fixture, why) in [
        ("bert", "an encoder is not written to GGUF"),
        ("llama_tied", "(`rope_scaling`)"),
        ("qwen3_kinds", "without a head"),
        ("qwen2_window", "windows of attention"),
        ("mixtral", "routed experts"),
    ] {
        let (file, told) = to_gguf(&model(fixture), &folders::path(fixture), GgufKind::F16);
        let error = told.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Inexpressible);
        assert!(error.to_string().contains(why), "{fixture}: {error}");
        assert_eq!(folders::files(file.path()), []);
    }
    for fixture in ["qwen3", "mistral"] {
        let (file, told) = to_gguf(&model(fixture), &folders::path(fixture), GgufKind::F32);
        told.unwrap();
        let again = open_gguf(&file.path().join("model.gguf")).unwrap().model;
        assert_eq!(apart(&model(fixture), &again), 0.0, "{fixture}");
    }
}
