//! Bad input: one clear error each, nothing lost, no panic.

use std::{fs, path::Path};

use kmr_formats::write_npz;
use kmr_model::{Edit, Model, Patch, Tensor};
use kmr_tests::{Bench, Run, build_folder, example, fixture};

use crate::SHORT;

fn with(from: &str, to: &str) -> Bench {
    assert!(SHORT.contains(from), "the manifest has `{from}`");
    Bench::new(&SHORT.replace(from, to))
}

/// A run with a file of this content as the model.
fn with_model(bytes: &[u8]) -> Run {
    let bench = with("{example}/resnet20.onnx", "model.onnx");
    bench.write("model.onnx", bytes);
    let run = bench.run(&[]);
    assert!(!bench.path("run/model.onnx").exists());
    run
}

/// A run with these arrays as the search split.
fn with_search(images: &Tensor, labels: &Tensor) -> Run {
    let bench = with("{example}/search-5k.npz\", take = 200", "search.npz\"");
    write_npz(&bench.path("search.npz"), [("image", images), ("labels", labels)]).unwrap();
    bench.run(&[])
}

fn images(count: usize) -> Tensor {
    let pixels = (0..count * 784).map(|i| (i * 31 % 251) as u8).collect();
    Tensor::from_vec(vec![count, 1, 28, 28], pixels)
}

#[test]
fn damaged_models() {
    let model = fs::read(example().join("resnet20.onnx")).unwrap();
    with_model(&model[..model.len() / 2]).expect(25, &["error: ", "model.onnx", "help: "]);
    with_model(&model[..100]).expect(25, &["model.onnx"]);
    with_model(b"").expect(25, &["empty"]);
    let noise: Vec<u8> = (0..5000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    with_model(&noise).expect(25, &["not a readable ONNX model"]);
    with_model(b"once upon a time there was a model").expect(25, &["model.onnx"]);
}

#[test]
fn weights_that_are_no_numbers() {
    let bytes = fs::read(example().join("resnet20.onnx")).unwrap();
    let model = Model::decode(bytes.into()).unwrap();
    let name = "layer2.0.conv1.weight";
    let tensor = model.graph.tensor(name).unwrap();
    let mut values = tensor.values::<f32>().unwrap().into_owned();
    values[7] = f32::NAN;
    let mut patch = Patch::new();
    patch.push(Edit::StoreTensor {
        name: name.into(),
        tensor: Tensor::from_vec(tensor.shape().to_vec(), values),
    });
    let broken = model.with_graph(patch.apply(&model.graph).unwrap());
    with_model(&broken.encode_to_vec()).expect(25, &["layer2.0.conv1.weight", "NaN at element 7"]);
}

#[test]
fn data_that_does_not_fit() {
    let labels = |values: Vec<i64>| Tensor::from_vec(vec![values.len()], values);
    let no_images = Tensor::from_vec(vec![0, 1, 28, 28], Vec::<u8>::new());
    with_search(&no_images, &labels(vec![])).expect(25, &["empty", "search.npz"]);
    with_search(&images(3), &labels(vec![1, 2, 77])).expect(25, &["77", "10 classes"]);
    with_search(&images(3), &labels(vec![1, 2])).expect(25, &["labels"]);
    let wide = Tensor::from_vec(vec![2, 1, 14, 14], vec![0_u8; 2 * 196]);
    with_search(&wide, &labels(vec![1, 2])).expect(25, &["image", "14"]);
}

#[test]
fn splits_that_overlap() {
    let bench = with(
        "search = { path = \"{example}/search-5k.npz\"",
        "search = { path = \"{example}/test-10k.npz\"",
    );
    bench
        .run(&[])
        .expect(20, &["`search` and `holdout` overlap", "pipeline.toml:"]);
}

#[test]
fn folders_that_cannot_be_written() {
    let bench = Bench::new(SHORT);
    bench.write("file", b"precious");
    let mut arguments = vec!["run", "pipeline.toml", "--out", "file"];
    kmr_tests::kmr_in(bench.folder.path(), &arguments).expect(2, &["cannot write `file`", "--out"]);
    assert_eq!(fs::read(bench.path("file")).unwrap(), b"precious");
    arguments[3] = "/proc/run";
    kmr_tests::kmr_in(bench.folder.path(), &arguments).expect(2, &["cannot write `/proc/run`"]);
    if Path::new("/dev/full").exists() {
        let model = example().join("resnet20.onnx");
        kmr_tests::kmr(&["convert", model.to_str().unwrap(), "/proc/self/x"]).expect(2, &["cannot write"]);
    }
}

#[test]
fn manifests_with_a_mistake() {
    let said = |from: &str, to: &str, texts: &[&str]| {
        with(from, to).run(&[]).expect(20, texts);
    };
    said(
        "[0.0, 0.25, 0.5]",
        "[0.0, 0.25, 1.2]",
        &["takes values in [0, 0.95]; got 1.2", "pipeline.toml:25:", "help: "],
    );
    said("seed = 7", "sede = 7", &["`sede`", "did you mean"]);
    said("drop_at_most = 0.2", "drop_at_most = \"much\"", &["pipeline.toml:"]);
    said("resnet20.onnx", "resnet21.onnx", &["resnet21.onnx"]);
    with("use = \"prune\"", "use = \"prnue\"")
        .run(&[])
        .expect(21, &["prnue", "prune"]);
    Bench::new(SHORT)
        .run(&["--disable", "nobody"])
        .expect(20, &["no rule has the id `nobody`", "prune"]);
    Bench::new("not = [toml").run(&[]).expect(20, &["pipeline.toml:1"]);
}

#[test]
fn files_that_are_no_plugins() {
    let bench = Bench::new(&format!("{SHORT}\n[plugins]\npaths = [\"plugins\"]\n"));
    bench.run(&[]).expect(21, &["plugins"]);

    let bench = Bench::new(&format!("{SHORT}\n[plugins]\npaths = [\"libplugin.so\"]\n"));
    bench.write("libplugin.so", b"this is a text");
    bench.run(&[]).expect(22, &["libplugin.so", "error: "]);
    let whole = fs::read(build_folder().join("libkmr_prune.so")).unwrap();
    for length in [whole.len() - 1, whole.len() / 2, 1000, 64] {
        bench.write("libplugin.so", &whole[..length]);
        bench.run(&[]).expect(22, &["libplugin.so", "error: "]);
    }
    let mut foreign = whole.clone();
    let needle = b"{\"abi\":\"1.0.0\"";
    let position = foreign.windows(needle.len()).position(|window| window == needle);
    let position = position.expect("the metadata states the contract's version");
    foreign[position + 8] = b'9';
    bench.write("libplugin.so", &foreign);
    bench.run(&[]).expect(22, &["9.0.0"]);
}

#[test]
fn plugins_that_misbehave() {
    let library = fixture("misbehaving", "misbehaving");
    let run = |rule: &str| {
        let manifest = SHORT.replace("use = \"prune\"", &format!("use = \"{rule}\"")).replace(
            "knobs.channel_sparsity = { values = [0.0, 0.25, 0.5], per = \"layer\" }",
            "knobs.level = {}",
        );
        let bench = Bench::new(&manifest);
        let done = bench.run(&["--plugin-path", library.to_str().unwrap()]);
        (bench, done)
    };
    run("panics_in_targets")
        .1
        .expect(24, &["panicked", "panics.rs:", "--disable"]);
    run("panics_in_apply").1.expect(24, &["panicked", "panics.rs:"]);
    run("repeated_targets").1.expect(24, &["twice"]);
    let words = [
        "`false_costs` gives other costs when only costs are asked for: size_bytes",
        "instead of",
        "pipeline.toml:",
        "--disable false_costs",
    ];
    run("false_costs").1.expect(24, &words);
    for rule in ["edits_then_fails", "breaks_shapes", "changes_nothing", "raises_cost"] {
        let (bench, done) = run(rule);
        done.expect(30, &["best-effort.onnx"]);
        let original = fs::read(example().join("resnet20.onnx")).unwrap();
        assert!(
            fs::read(bench.path("run/best-effort.onnx")).unwrap() == original,
            "{rule} leaves the model as it was"
        );
    }
    for meter in ["nan_meter", "panicking_meter"] {
        let bench = with("meter = \"top1\"", &format!("meter = \"{meter}\""));
        bench
            .run(&["--plugin-path", library.to_str().unwrap()])
            .expect(24, &["error: "]);
    }
}
