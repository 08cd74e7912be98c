//! The template is built apart from this workspace, loaded as the host loads it, and saves bytes.

use std::{
    collections::HashMap,
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

use kmr_abi::{
    AbiResult, BatchIteratorBox, Host_TO, HostRef, OutputBuffer_TO, OutputBufferBox, SessionBox, SharedTensor_TO,
    SharedTensorBox, TensorDescription,
    abi_stable::{
        erased_types::TD_Opaque,
        sabi_types::RRef,
        std_types::{RSlice, RSliceMut, RStr, RVec},
    },
    guard,
};
use kmr_loader::{Plugin, PluginFile, RuleInstance};
use kmr_sdk::{
    Action, Assignment, Error,
    model::{DType, Dimension, Graph, Model, Node, Tensor, ValueInfo},
    serde_json::{self, json},
    tensors::{describe, read_description},
    wire::{EditRequest, Extension, RuleConfiguration},
};

/// Builds a copy of the template, with the workspace's versions so that nothing is fetched.
fn build() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let projects = Path::new(env!("CARGO_TARGET_TMPDIR")).join("projects");
    let project = projects.join("template");
    fs::create_dir_all(project.join("src")).unwrap();
    fs::copy(here.join("template/src/lib.rs"), project.join("src/lib.rs")).unwrap();
    let manifest = fs::read_to_string(here.join("template/Cargo.toml")).unwrap();
    let absolute = manifest.replace("path = \"..\"", &format!("path = \"{}\"", here.display()));
    assert_ne!(absolute, manifest);
    fs::write(project.join("Cargo.toml"), absolute).unwrap();
    fs::copy(here.join("../../Cargo.lock"), project.join("Cargo.lock")).unwrap();
    let status = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--quiet"])
        .current_dir(&project)
        .env("CARGO_TARGET_DIR", projects.join("target"))
        .env("CARGO_PROFILE_DEV_DEBUG", "none")
        .status()
        .unwrap();
    assert!(status.success(), "the template does not build");
    let name = format!(
        "{}half_precision{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    );
    projects.join("target/debug").join(name)
}

/// A host that holds a model and lets it be edited.
struct ModelHost {
    model: Mutex<Model>,
    committed: Mutex<HashMap<u64, Tensor>>,
}

impl ModelHost {
    fn new(model: Model) -> Self {
        Self {
            model: Mutex::new(model),
            committed: Mutex::default(),
        }
    }

    fn model(&self) -> Model {
        self.model.lock().unwrap().clone()
    }

    fn lend(&self) -> HostRef<'_> {
        Host_TO::from_ptr(RRef::new(self), TD_Opaque)
    }
}

struct Shared(String, Tensor);

impl kmr_abi::SharedTensor for Shared {
    fn description(&self) -> AbiResult<TensorDescription> {
        guard(|| Ok(describe(&self.0, self.1.dtype(), self.1.shape())))
    }
    fn bytes<'a>(&'a self) -> AbiResult<RSlice<'a, u8>> {
        guard(|| Ok(RSlice::from_slice(self.1.bytes())))
    }
}

struct Buffer<'a>(TensorDescription, Vec<u8>, &'a Mutex<HashMap<u64, Tensor>>);

impl kmr_abi::OutputBuffer for Buffer<'_> {
    fn bytes<'a>(&'a mut self) -> AbiResult<RSliceMut<'a, u8>> {
        guard(|| Ok(RSliceMut::from_mut_slice(&mut self.1)))
    }
    fn commit(&mut self) -> AbiResult<u64> {
        guard(|| {
            let (dtype, shape) = read_description(&self.0)?;
            let tensor = Tensor::new(dtype, shape, std::mem::take(&mut self.1).into()).map_err(Error::from)?;
            let mut committed = self.2.lock().unwrap();
            let number = committed.len() as u64;
            committed.insert(number, tensor);
            Ok(number)
        })
    }
}

fn absent<T>() -> AbiResult<T> {
    guard(|| Err(Error::unsupported("this host does not run models").into()))
}

impl kmr_abi::Host for ModelHost {
    fn graph(&self, _: RStr<'_>) -> AbiResult<RVec<u8>> {
        guard(|| Ok(self.model().encode_without_tensors().into()))
    }
    fn tensor(&self, _: RStr<'_>, name: RStr<'_>) -> AbiResult<SharedTensorBox> {
        guard(|| {
            let tensor = self
                .model()
                .graph
                .tensor(name.as_str())
                .map(|tensor| (**tensor).clone());
            let tensor = tensor.ok_or_else(|| Error::not_found("no such tensor"))?;
            Ok(SharedTensor_TO::from_value(Shared(name.to_string(), tensor), TD_Opaque))
        })
    }
    fn output<'a>(&'a self, description: TensorDescription) -> AbiResult<OutputBufferBox<'a>> {
        guard(|| {
            let (dtype, shape) = read_description(&description)?;
            let bytes = vec![0; dtype.byte_len(shape.iter().product()).unwrap()];
            Ok(OutputBuffer_TO::from_value(
                Buffer(description, bytes, &self.committed),
                TD_Opaque,
            ))
        })
    }
    fn edit(&self, operations: RStr<'_>, attachments: RSlice<'_, RVec<u8>>) -> AbiResult<()> {
        guard(|| {
            let request: EditRequest = serde_json::from_str(operations.as_str()).map_err(Error::from)?;
            let take = |number| {
                let tensor = self.committed.lock().unwrap().remove(&number);
                tensor.ok_or_else(|| Error::invalid_request("no such buffer"))
            };
            let patch = request.to_patch(attachments.as_slice(), take)?;
            let mut model = self.model.lock().unwrap();
            *model = model.with_graph(patch.apply(&model.graph).map_err(Error::from)?);
            Ok(())
        })
    }
    fn run<'a>(&'a self, _: RStr<'_>) -> AbiResult<BatchIteratorBox<'a>> {
        absent()
    }
    fn observe(&self, _: RStr<'_>) -> AbiResult<RVec<SharedTensorBox>> {
        absent()
    }
    fn open_session<'a>(&'a self, _: RStr<'_>, _: RSlice<'_, RVec<u8>>) -> AbiResult<SessionBox<'a>> {
        absent()
    }
    fn progress(&self, _: f64, _: RStr<'_>) -> AbiResult<()> {
        guard(|| Ok(()))
    }
    fn cancelled(&self) -> AbiResult<bool> {
        guard(|| Ok(false))
    }
    fn seed(&self) -> AbiResult<u64> {
        guard(|| Ok(0))
    }
    fn threads(&self) -> AbiResult<u64> {
        guard(|| Ok(1))
    }
}

/// Two products in a row; the weights `a` and `b` are worth halving, `tiny` is not, `huge` cannot be.
fn model() -> Model {
    let mut graph = Graph::new("two products");
    let float = |name, width| {
        let shape = [Dimension::Named("n".into()), Dimension::Fixed(width)];
        ValueInfo::tensor(name, DType::FLOAT, &shape)
    };
    graph.inputs.push(float("x", 32));
    graph.outputs.push(float("y", 32));
    let weight = |scale: f32| {
        let values = (0..1024).map(|i| scale * (i as f32 - 512.0) / 512.0).collect();
        Tensor::from_vec::<f32>(vec![32, 32], values)
    };
    graph.initializers.insert("a".into(), weight(1.0).into());
    graph.initializers.insert("b".into(), weight(0.5).into());
    graph.initializers.insert("huge".into(), weight(1e6).into());
    graph
        .initializers
        .insert("tiny".into(), Tensor::from_vec(vec![32], vec![0.0_f32; 32]).into());
    let nodes = [
        Node::new("MatMul", "first", &["x", "a"], &["xa"]),
        Node::new("Add", "bias", &["xa", "tiny"], &["biased"]),
        Node::new("MatMul", "second", &["biased", "b"], &["xab"]),
        Node::new("MatMul", "third", &["xab", "huge"], &["y"]),
    ];
    graph.nodes = nodes.into_iter().map(Into::into).collect();
    graph.check().unwrap();
    Model::new(graph, 8, 17)
}

fn half(target: &str, value: bool) -> Assignment {
    Assignment {
        knob: "half".into(),
        target: target.into(),
        value: json!(value),
    }
}

#[test]
fn the_template_is_short_loads_and_saves_bytes() {
    let lines = include_str!("../template/src/lib.rs").lines().count();
    assert!(lines <= 60, "the template has {lines} lines");

    let file = PluginFile::open(&build()).unwrap();
    assert_eq!(file.metadata().plugin.name, "half-precision");
    assert!(matches!(file.metadata().extensions.as_slice(), [Extension::Rule(rule)] if rule.id == "half"));

    let plugin = file.load(NonZeroUsize::MIN).unwrap();
    let configuration: RuleConfiguration =
        serde_json::from_value(json!({"knobs": {"half": {"values": [false, true], "per": "layer"}}})).unwrap();
    let mut rule: Box<dyn RuleInstance> = plugin.rule("half", &configuration).unwrap();

    let before = model();
    let host = ModelHost::new(before.clone());
    let targets = rule.targets(host.lend()).unwrap();
    let names: Vec<_> = targets.iter().map(|target| target.target.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(targets[0].layers, ["xa"]);

    let all_off = Action {
        assignments: vec![half("a", false), half("b", false)],
        ..Action::default()
    };
    rule.apply(host.lend(), &all_off).unwrap();
    assert_eq!(
        host.model().encode_to_vec(),
        before.encode_to_vec(),
        "off changes nothing"
    );

    let one = Action {
        assignments: vec![half("a", true), half("b", false)],
        ..Action::default()
    };
    let applied = rule.apply(host.lend(), &one).unwrap();
    assert_eq!((applied.changes.len(), applied.changes[0].after.as_str()), (1, "16"));
    let after = host.model();
    let saved = before.encoded_len() - after.encoded_len();
    assert!(
        (1900..=2048).contains(&saved),
        "1024 halves save about 2048 bytes, less a Cast; saved {saved}"
    );
    assert_eq!(after.encode_to_vec().len() as u64, after.encoded_len());

    let graph = &after.graph;
    assert_eq!(graph.tensor("a").unwrap().dtype(), DType::FLOAT16);
    assert_eq!(graph.tensor("b"), before.graph.tensor("b"));
    let cast = graph.node("a_float32").unwrap();
    assert_eq!(
        (cast.op_type(), cast.int("to")),
        ("Cast", Some(i64::from(DType::FLOAT.number())))
    );
    assert_eq!(graph.node("xa").unwrap().inputs(), ["x", "a_float32"]);
}
