//! Real libraries, built apart from this workspace, well and badly treated.

mod support;

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex},
};

use kmr_loader::{ErrorCode, ErrorKind, InProcess, LoaderError, Plugin, PluginFile, RuleInstance};
use kmr_model::{DType, Dimension, Graph, Model, Node, Tensor, ValueInfo};
use kmr_sdk::wire::{Action, MeasureRequest, MeterConfiguration, RuleConfiguration, Split};
use serde_json::json;
use support::{build::build, host::RecordingHost, model_host::ModelHost};

static MISBEHAVING: LazyLock<PathBuf> = LazyLock::new(|| build("fixtures/misbehaving", "misbehaving"));

fn load(path: &Path) -> InProcess {
    PluginFile::open(path).unwrap().load(NonZeroUsize::MIN).unwrap()
}

fn configured(config: serde_json::Value) -> RuleConfiguration {
    serde_json::from_value(json!({"config": config})).unwrap()
}

fn rule(plugin: &InProcess, config: serde_json::Value) -> Box<dyn RuleInstance> {
    plugin.rule("misbehave", &configured(config)).unwrap()
}

fn error<T>(result: Result<T, LoaderError>) -> LoaderError {
    result.err().expect("this cannot succeed")
}

/// A changed copy of the library, opened.
fn open_changed(change: impl FnOnce(&mut Vec<u8>)) -> Result<PluginFile, LoaderError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libchanged.so");
    let mut bytes = fs::read(&*MISBEHAVING).unwrap();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
    PluginFile::open(&path)
}

fn find(bytes: &[u8], text: &[u8]) -> usize {
    let mut windows = bytes.windows(text.len());
    windows.position(|window| window == text).unwrap()
}

#[test]
fn metadata_and_hash_are_read_without_running_code() {
    let file = PluginFile::open(&MISBEHAVING).unwrap();
    let metadata = file.metadata();
    assert_eq!(metadata.plugin.name, "misbehaving");
    let offers: Vec<_> = metadata.extensions.iter().map(|e| (e.kind(), e.id())).collect();
    assert_eq!(
        offers,
        [("rule", "misbehave"), ("meter", "not_a_number"), ("policy", "give_up")]
    );
    assert_eq!(file.sha256().len(), 64);
    assert_ne!(open_changed(|bytes| bytes.push(0)).unwrap().sha256(), file.sha256());
}

#[test]
fn a_library_cut_short_anywhere_is_damaged() {
    let length = fs::read(&*MISBEHAVING).unwrap().len();
    for kept in [0, 1, 4, 16, 63, 64, 1000, length / 2, length - 4096, length - 1] {
        let error = error(open_changed(|bytes| bytes.truncate(kept)));
        assert_eq!(error.kind(), ErrorKind::Damaged, "{kept}: {error}");
    }
}

#[test]
fn a_library_for_another_machine_is_incompatible() {
    let error = error(open_changed(|bytes| bytes[18..20].copy_from_slice(&[22, 0])));
    assert_eq!(error.kind(), ErrorKind::Incompatible);
    assert!(error.message().contains("s390"), "{error}");
}

#[test]
fn a_library_without_metadata_is_no_plugin() {
    let error = error(open_changed(|bytes| {
        let name = find(bytes, b"\0.kmr\0");
        bytes[name + 1..name + 5].copy_from_slice(b".txt");
    }));
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.message().contains("no kmr plugin"), "{error}");
}

#[test]
fn a_library_for_another_major_of_the_contract_is_incompatible() {
    let error = error(open_changed(|bytes| {
        let version = find(bytes, br#"{"abi":"1.0.0""#) + br#"{"abi":""#.len();
        bytes[version] = b'2';
    }));
    assert_eq!(error.kind(), ErrorKind::Incompatible);
    assert!(error.message().contains("2.0.0"), "{error}");
}

#[test]
fn damaged_metadata_is_told_or_harmless() {
    for offset in 0..60 {
        let opened = open_changed(|bytes| {
            let start = find(bytes, br#"{"abi":"1.0.0""#);
            bytes[start + offset] ^= 0x15;
        });
        if let Err(error) = opened {
            let expected = [ErrorKind::Damaged, ErrorKind::Incompatible];
            assert!(expected.contains(&error.kind()), "{offset}: {error}");
        }
    }
}

#[test]
fn panics_become_errors_with_their_place() {
    let plugin = load(&MISBEHAVING);
    let host = RecordingHost::default();
    let panicked = |error: LoaderError, place: &str| {
        assert_eq!(error.kind(), ErrorKind::Failed);
        let failure = error.failure().unwrap();
        assert_eq!(
            (failure.code, failure.plugin.as_str()),
            (ErrorCode::PANIC, "misbehaving")
        );
        assert!(
            failure.message.ends_with(&format!("told to panic in {place}")),
            "{failure:?}"
        );
        assert!(failure.location.starts_with("src/lib.rs:"), "{failure:?}");
        assert!(error.message().contains(" at src/lib.rs:"), "{error}");
    };
    panicked(
        error(plugin.rule("misbehave", &configured(json!({"panic_in": "new"})))),
        "new",
    );
    let mut in_targets = rule(&plugin, json!({"panic_in": "targets"}));
    panicked(error(in_targets.targets(host.lend())), "targets");
    let mut in_apply = rule(&plugin, json!({"panic_in": "apply"}));
    in_apply.targets(host.lend()).unwrap();
    panicked(error(in_apply.apply(host.lend(), &Action::default())), "apply");

    let poisoned = error(in_apply.targets(host.lend()));
    assert_eq!(poisoned.failure().unwrap().code, ErrorCode::POISONED);
    let mut another = rule(&plugin, json!({}));
    another.apply(host.lend(), &Action::default()).unwrap();
}

#[test]
fn a_panic_while_dropping_is_logged_and_survived() {
    Records::install();
    let plugin = load(&MISBEHAVING);
    drop(rule(&plugin, json!({"panic_in": "drop"})));
    assert!(Records::any("plugin misbehaving", "told to panic in drop"));
}

#[test]
fn log_records_of_a_plugin_reach_the_host() {
    Records::install();
    let plugin = load(&MISBEHAVING);
    let host = RecordingHost::default();
    rule(&plugin, json!({})).apply(host.lend(), &Action::default()).unwrap();
    assert!(Records::any("plugin misbehaving", "applying"));
}

#[test]
fn a_failure_after_an_edit_says_where() {
    let plugin = load(&MISBEHAVING);
    let host = RecordingHost::default();
    let error = error(rule(&plugin, json!({"fail": true})).apply(host.lend(), &Action::default()));
    assert_eq!(host.edits().len(), 1);
    let failure = error.failure().unwrap();
    assert_eq!(failure.code, ErrorCode::UNSUPPORTED);
    assert_eq!(failure.location, "conv1");
    assert_eq!(error.place(), &*MISBEHAVING);
}

#[test]
fn a_configuration_that_the_plugin_refuses_is_a_failure() {
    let plugin = load(&MISBEHAVING);
    let error = error(plugin.rule("misbehave", &configured(json!({"unknown": 1}))));
    assert_eq!(error.failure().unwrap().code, ErrorCode::INVALID_CONFIGURATION);
}

#[test]
fn meters_and_policies_cross_too() {
    let plugin = load(&MISBEHAVING);
    let host = RecordingHost::default();
    let mut meter = plugin.meter("not_a_number", &MeterConfiguration::default()).unwrap();
    let request = MeasureRequest {
        split: Split::Evaluation,
        limit: None,
    };
    let error = error(meter.measure(host.lend(), &request));
    assert!(error.message().contains("NaN"), "{error}");
    assert!(error.failure().is_none());
    plugin.policy("give_up", &Default::default()).unwrap();
}

#[test]
fn two_files_are_two_plugins() {
    let folder = tempfile::tempdir().unwrap();
    let second = folder.path().join("libsecond.so");
    let mut bytes = fs::read(&*MISBEHAVING).unwrap();
    let name = find(&bytes, br#""name":"misbehaving""#);
    bytes[name..name + 20].copy_from_slice(br#""name":"othername__""#);
    fs::write(&second, bytes).unwrap();

    let plugins = [load(&MISBEHAVING), load(&second)];
    assert_eq!(plugins[1].metadata().plugin.name, "othername__");
    let host = RecordingHost::default();
    let applied = |plugin: &InProcess| {
        let applied = rule(plugin, json!({})).apply(host.lend(), &Action::default());
        applied.unwrap().notes
    };
    assert_eq!([applied(&plugins[0]), applied(&plugins[0])], [["1"], ["2"]]);
    assert_eq!(applied(&plugins[1]), ["1"], "the second plugin has statics of its own");
}

#[test]
fn the_file_may_be_overwritten_once_it_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libplugin.so");
    fs::copy(&*MISBEHAVING, &path).unwrap();
    let file = PluginFile::open(&path).unwrap();
    fs::write(&path, vec![0; 100]).unwrap();
    let plugin = file.load(NonZeroUsize::MIN).unwrap();
    fs::remove_file(&path).unwrap();
    let host = RecordingHost::default();
    rule(&plugin, json!({})).apply(host.lend(), &Action::default()).unwrap();
}

#[test]
fn the_template_of_the_sdk_builds_apart_and_does_its_work() {
    let plugin = load(&build("../kmr-sdk/template", "half_precision"));
    let mut graph = Graph::new("product");
    let square = [Dimension::Fixed(32), Dimension::Fixed(32)];
    graph.inputs.push(ValueInfo::tensor("input", DType::FLOAT, &square));
    graph.outputs.push(ValueInfo::tensor("output", DType::FLOAT, &square));
    let weights: Vec<f32> = (0..1024).map(|index| index as f32 / 64.0).collect();
    let weight = Tensor::from_vec(vec![32, 32], weights.clone());
    graph.initializers.insert("weight".into(), weight.into());
    let node = Node::new("MatMul", "product", &["input", "weight"], &["output"]);
    graph.nodes.push(node.into());
    let before = Model::new(graph, 10, 21);
    let host = ModelHost::new(before.clone());

    let knobs = json!({"knobs": {"half": {"values": [false, true], "per": "layer"}}});
    let mut rule = plugin.rule("half", &serde_json::from_value(knobs).unwrap()).unwrap();
    let targets = rule.targets(host.lend()).unwrap();
    assert_eq!(targets.len(), 1);
    assert_eq!(
        (targets[0].target.as_str(), &targets[0].layers),
        ("weight", &vec!["output".into()])
    );
    let assignment = json!({"assignments": [{"knob": "half", "target": "weight", "value": true}]});
    let applied = rule
        .apply(host.lend(), &serde_json::from_value(assignment).unwrap())
        .unwrap();
    assert_eq!(applied.changes.len(), 1);

    let after = host.candidate();
    after.graph.check().unwrap();
    let stored = after.graph.tensor("weight").unwrap();
    assert_eq!((stored.dtype(), stored.byte_len()), (DType::FLOAT16, 2048));
    assert_eq!(*stored.to_f32().unwrap(), weights);
    assert!(after.encoded_len() < before.encoded_len());
}

/// Keeps the log records of this process.
struct Records(Mutex<Vec<(String, String)>>);

static RECORDS: Records = Records(Mutex::new(Vec::new()));

impl Records {
    fn install() {
        // Every test that needs it asks for it; the first one does it.
        let _ = log::set_logger(&RECORDS);
        log::set_max_level(log::LevelFilter::Info);
    }

    fn any(target: &str, text: &str) -> bool {
        let records = RECORDS.0.lock().unwrap();
        records.iter().any(|(t, x)| t.starts_with(target) && x.contains(text))
    }
}

impl log::Log for Records {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut records = self.0.lock().unwrap();
        records.push((record.target().to_owned(), record.args().to_string()));
    }

    fn flush(&self) {}
}
