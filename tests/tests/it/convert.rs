//! `kmr convert`, models with data beside them, and writes that fail.

use std::{fs, path::Path, process::Command, sync::Arc};

use bytes::Bytes;
use kmr_model::{
    Graph, Model, Node, Tensor, ValueInfo,
    codec::{DecodeOptions, ExternalData},
};
use kmr_tests::{Bench, build_folder, example, kmr, kmr_in};

fn model() -> String {
    example().join("resnet20.onnx").to_str().unwrap().to_owned()
}

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<_> = entries.collect();
    files.sort();
    files
}

/// Reads data files that lie in a folder.
struct Beside<'p>(&'p Path);

impl ExternalData for Beside<'_> {
    fn read(&self, _: &str, entries: &[(String, String)]) -> Result<Bytes, kmr_model::ModelError> {
        let entry = |key: &str| &entries.iter().find(|(known, _)| known == key).unwrap().1;
        let number = |key: &str| entry(key).parse::<usize>().unwrap();
        let bytes = Bytes::from(fs::read(self.0.join(entry("location"))).unwrap());
        Ok(bytes.slice(number("offset")..number("offset") + number("length")))
    }
}

fn read_beside(folder: &Path, name: &str) -> Model {
    let bytes = fs::read(folder.join(name)).unwrap();
    let beside = Beside(folder);
    DecodeOptions::with_external_data(&beside).decode(bytes.into()).unwrap()
}

#[test]
fn a_conversion_without_options_changes_nothing() {
    let bench = Bench::new("");
    let out = bench.path("out.onnx");
    let run = kmr(&["convert", &model(), out.to_str().unwrap(), "--json"]);
    run.expect(0, &["wrote"]);
    assert_eq!(fs::read(&out).unwrap(), fs::read(model()).unwrap());
    assert_eq!(run.json()["changes"], serde_json::json!([]));
}

#[test]
fn weights_can_lie_beside_the_model_and_come_back() {
    let bench = Bench::new("");
    fs::create_dir(bench.path("apart")).unwrap();
    let apart = bench.path("apart/net.onnx");
    let run = kmr(&[
        "convert",
        &model(),
        apart.to_str().unwrap(),
        "--external-data",
        "--json",
    ]);
    run.expect(0, &["moved weights of", "net.onnx.data"]);
    assert_eq!(files(&bench.path("apart")), ["net.onnx", "net.onnx.data"]);
    let (own, data) = (
        fs::metadata(&apart).unwrap().len(),
        fs::metadata(bench.path("apart/net.onnx.data")).unwrap().len(),
    );
    assert_eq!(
        (&run.json()["bytes"], &run.json()["data"]["bytes"]),
        (&own.into(), &data.into())
    );
    let read = read_beside(&bench.path("apart"), "net.onnx");
    assert_eq!(read.with_external_data(Some("net.onnx.data")).encoded_len(), own + data);
    // One file again, byte by byte what it was.
    let again = bench.path("again.onnx");
    kmr(&["convert", apart.to_str().unwrap(), again.to_str().unwrap()]).expect(0, &[]);
    assert_eq!(fs::read(&again).unwrap(), fs::read(model()).unwrap());
    // Other commands read it, too.
    let measured = |path: &Path| kmr(&["measure", path.to_str().unwrap(), "--json"]).json()["meters"].clone();
    assert_eq!(measured(&apart), measured(&again));
    // Data that is cut short is one clear error.
    fs::write(bench.path("apart/net.onnx.data"), b"short").unwrap();
    kmr(&["measure", apart.to_str().unwrap()]).expect(25, &["of `net.onnx.data`, which has 5", "tensor `"]);
    fs::remove_file(bench.path("apart/net.onnx.data")).unwrap();
    kmr(&["measure", apart.to_str().unwrap()]).expect(25, &["`net.onnx.data`, which cannot be read"]);
}

/// A network whose weight is in a Constant node.
fn with_constant() -> Model {
    let mut graph = Graph::new("constant");
    let value = |name| ValueInfo::tensor(name, kmr_model::DType::FLOAT, &[kmr_model::Dimension::Fixed(3)]);
    graph.inputs.push(value("x"));
    graph.outputs.push(value("y"));
    let constant = Node::new("Constant", "", &[], &["w"]).with_floats("value_floats", &[1.0, 2.0, 3.0]);
    graph.nodes.push(Arc::new(constant));
    let mut own = Node::new("Own", "", &["x", "w"], &["y"]).proto().clone();
    own.domain = Some("far.away".into());
    graph.nodes.push(Arc::new(Node::from_proto(own).unwrap()));
    Model::new(graph, 8, 17)
}

#[test]
fn a_conversion_says_what_it_did() {
    let bench = Bench::new("");
    bench.write("in.onnx", &with_constant().encode_to_vec());
    let options = [
        "convert",
        "in.onnx",
        "out.onnx",
        "--lift-constants",
        "--inline-functions",
        "--json",
    ];
    let run = kmr_in(bench.folder.path(), &options);
    run.expect(0, &["lifted 1 Constant node into initializers"]);
    assert_eq!(
        run.json()["changes"],
        serde_json::json!(["lifted 1 Constant node into initializers"])
    );
    let lifted = Model::decode(fs::read(bench.path("out.onnx")).unwrap().into()).unwrap();
    assert_eq!(
        lifted.graph.tensor("w"),
        Some(&Tensor::from_vec(vec![3], vec![1.0_f32, 2.0, 3.0]).into())
    );
    assert_eq!(lifted.graph.nodes.len(), 1);
}

#[cfg(unix)]
#[test]
fn a_write_that_fails_leaves_what_was_there_and_nothing_else() {
    let kmr = build_folder().join("kmr");
    // With the signal ignored the write fails; without, the system ends the process in the middle of it.
    for (signal, code) in [("trap '' XFSZ", Some(2)), ("true", None)] {
        for options in [&[][..], &["--external-data"]] {
            let bench = Bench::new("");
            bench.write("out.onnx", b"what was there");
            let script = format!("{signal}; ulimit -f 8; exec \"$@\"");
            let output = Command::new("sh")
                .args(["-c", &script, "sh"])
                .arg(&kmr)
                .args(["convert", &model(), "out.onnx"])
                .args(options)
                .current_dir(bench.folder.path())
                .output()
                .unwrap();
            assert_eq!(
                output.status.code(),
                code,
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            assert_eq!(fs::read(bench.path("out.onnx")).unwrap(), b"what was there");
            // A system without files that have no name leaves the one that the process did not live to remove.
            if code.is_some() || cfg!(target_os = "linux") {
                assert_eq!(files(bench.folder.path()), ["out.onnx", "pipeline.toml"]);
            }
        }
    }
}

/// The example's short run on a model whose weights lie beside it, written with its weights beside it.
#[test]
fn a_run_counts_its_budget_on_all_that_it_writes() {
    let manifest = crate::SHORT.replace("{example}/resnet20.onnx", "net.onnx");
    let bench = Bench::new(
        &format!("[output]\nexternal_data = true\n{}", manifest.replace("schema = 1", "")).replacen(
            "[output]",
            "schema = 1\n[output]",
            1,
        ),
    );
    kmr_in(
        bench.folder.path(),
        &["convert", &model(), "net.onnx", "--external-data"],
    )
    .expect(0, &[]);
    bench.run(&["--quiet"]).expect(0, &[]);
    let report = bench.report();
    let length = |name: &str| fs::metadata(bench.path("run").join(name)).unwrap().len();
    let written = length("model.onnx") + length("weights.data");
    assert_eq!(report["artifact"]["bytes"], serde_json::json!(written));
    assert_eq!(
        report["artifact"]["weights"]["bytes"],
        serde_json::json!(length("weights.data"))
    );
    assert_eq!(report["budget"]["reached"].as_f64(), Some(written as f64));
    assert!(report["budget"]["reached"].as_f64() <= report["budget"]["limit"].as_f64());
    assert_eq!(
        files(&bench.path("run")),
        [
            "certificate.json",
            "journal.ndjson",
            "model.onnx",
            "report.json",
            "weights.data"
        ]
    );
    read_beside(&bench.path("run"), "model.onnx");
}

/// The example's network, all its weights moved to Constant nodes as some exporters have them.
#[test]
fn weights_in_constant_nodes_are_pruned() {
    let original = Model::decode(fs::read(model()).unwrap().into()).unwrap();
    let mut graph = original.graph.clone();
    let tensors = std::mem::take(&mut graph.initializers);
    let constants = tensors.iter().map(|(name, initializer)| {
        let mut node = Node::new("Constant", "", &[], &[name]);
        node.set_attribute(kmr_model::proto::AttributeProto {
            name: Some("value".into()),
            r#type: Some(4),
            t: Some(kmr_model::codec::tensor_to_message(name, &initializer.tensor)).into(),
            ..Default::default()
        });
        Arc::new(node)
    });
    graph.nodes.splice(0..0, constants.collect::<Vec<_>>());
    let bytes = original.with_graph(graph).encode_to_vec();
    let bench = Bench::new(&crate::SHORT.replace("{example}/resnet20.onnx", "net.onnx"));
    bench.write("net.onnx", &bytes);
    bench.run(&["--quiet"]).expect(0, &[]);
    let report = bench.report();
    assert_eq!(
        report["meters"]["size_bytes"]["before"].as_f64(),
        Some(bytes.len() as f64)
    );
    let pruned = Model::decode(fs::read(bench.path("run/model.onnx")).unwrap().into()).unwrap();
    let count = |tensor: &Tensor| tensor.len();
    let before: usize = tensors.values().map(|initializer| count(&initializer.tensor)).sum();
    let after: usize = pruned
        .graph
        .initializers
        .values()
        .map(|initializer| count(&initializer.tensor))
        .sum();
    assert!(after < before, "{after} of {before} elements");
    assert!(pruned.graph.nodes.iter().all(|node| node.op_type() != "Constant"));
}

#[test]
fn an_operator_set_can_be_asked_for() {
    let bench = Bench::new("");
    let out = bench.path("newer.onnx");
    let run = kmr(&["convert", &model(), out.to_str().unwrap(), "--opset", "21", "--json"]);
    run.expect(0, &["to 21"]);
    assert!(!run.json()["changes"].as_array().unwrap().is_empty());
    let upgraded = Model::decode(fs::read(&out).unwrap().into()).unwrap();
    assert_eq!(upgraded.opset(), 21);
    let refused = kmr(&["convert", &model(), out.to_str().unwrap(), "--opset", "99"]);
    refused.expect(25, &["99"]);
    assert_eq!(Model::decode(fs::read(&out).unwrap().into()).unwrap(), upgraded);
}
