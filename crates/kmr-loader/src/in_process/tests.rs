//! Plugins written straight against the contract, without the manners of the SDK.

use kmr_abi::{
    Meter_TO, PluginRoot, Policy_TO, Rule_TO,
    abi_stable::{
        prefix_type::PrefixTypeTrait,
        std_types::{RErr, ROk, RStr, RVec},
    },
};
use serde_json::json;

use super::*;
use crate::tiny_library::{NATIVE_MACHINE, tiny_library};

#[path = "../../tests/support/host.rs"]
mod host;

/// Answers with its configuration, whatever that is.
struct Echo(String);

impl kmr_abi::Rule for Echo {
    fn targets(&mut self, _: HostRef<'_>) -> AbiResult<RString> {
        ROk(self.0.as_str().into())
    }

    fn apply(&mut self, _: HostRef<'_>, _: RStr<'_>) -> AbiResult<RString> {
        RErr(PluginError::new(ErrorCode::PANIC, "panicked: off the rails").at("rule.c:3"))
    }
}

impl kmr_abi::Meter for Echo {
    fn measure(&mut self, _: HostRef<'_>, request: RStr<'_>) -> AbiResult<kmr_abi::Reading> {
        let whole = request.as_str().contains("\"limit\":null");
        ROk(kmr_abi::Reading {
            value: if whole { 0.5 } else { f64::NAN },
            scores: RVec::from(vec![0.0, 1.0]),
            details: if self.0.contains("list") {
                "[]"
            } else {
                r#"{"classes":2}"#
            }
            .into(),
        })
    }
}

impl kmr_abi::Policy for Echo {
    fn next(&mut self, _: RStr<'_>) -> AbiResult<RString> {
        ROk(r#"{"ask":"sing"}"#.into())
    }
}

extern "C" fn info() -> AbiResult<RString> {
    ROk(RString::new())
}

extern "C" fn start(_: Environment) -> AbiResult<()> {
    ROk(())
}

extern "C" fn make_rule(_: RStr<'_>, configuration: RStr<'_>) -> AbiResult<RuleBox> {
    let configuration: RuleConfiguration = serde_json::from_str(configuration.as_str()).unwrap();
    let answer = configuration.config["answer"].as_str().unwrap().to_owned();
    ROk(Rule_TO::from_value(Echo(answer), TD_Opaque))
}

extern "C" fn make_meter(_: RStr<'_>, configuration: RStr<'_>) -> AbiResult<MeterBox> {
    ROk(Meter_TO::from_value(Echo(configuration.into()), TD_Opaque))
}

extern "C" fn make_policy(_: RStr<'_>, configuration: RStr<'_>) -> AbiResult<PolicyBox> {
    ROk(Policy_TO::from_value(Echo(configuration.into()), TD_Opaque))
}

fn plugin() -> InProcess {
    let metadata = json!({
        "abi": kmr_abi::VERSION,
        "plugin": {"name": "raw", "version": "0.1.0"},
        "extensions": [
            {"kind": "rule", "id": "echo"},
            {"kind": "meter", "id": "half", "measures": "quality"},
            {"kind": "policy", "id": "sing"},
        ],
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libraw.so");
    let library = tiny_library(NATIVE_MACHINE, ".kmr", metadata.to_string().as_bytes());
    std::fs::write(&path, library).unwrap();
    let root = PluginRoot {
        info,
        start,
        make_rule,
        make_meter,
        make_policy,
    };
    InProcess(Arc::new(Loaded {
        file: PluginFile::open(&path).unwrap(),
        root: root.leak_into_prefix(),
    }))
}

fn rule(answer: &str) -> Box<dyn RuleInstance> {
    let configuration = serde_json::from_value(json!({"config": {"answer": answer}}));
    plugin().rule("echo", &configuration.unwrap()).unwrap()
}

#[test]
fn answers_are_read_as_documents() {
    let host = host::RecordingHost::default();
    let answer = r#"[{"knob":"bits","target":"y","label":"conv","values":[32,8],"newer":1}]"#;
    let targets = rule(answer).targets(host.lend()).unwrap();
    assert_eq!(targets[0].values, [32, 8]);
    for garbage in ["", "garbage", "{}", r#"[{"knob":1}]"#, "[]]"] {
        let error = rule(garbage).targets(host.lend()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed);
        assert!(
            error
                .message()
                .starts_with("plugin `raw`: `targets` of rule `echo` answered")
        );
        assert!(error.help().is_some());
    }
}

#[test]
fn an_instance_is_not_called_again_after_a_panic() {
    let host = host::RecordingHost::default();
    let mut rule = rule("[]");
    rule.targets(host.lend()).unwrap();
    let panic = rule.apply(host.lend(), &Action::default()).unwrap_err();
    assert_eq!(
        panic.message(),
        "plugin `raw`: `apply` of rule `echo` failed: panicked: off the rails at rule.c:3"
    );
    let poisoned = rule.targets(host.lend()).unwrap_err();
    assert_eq!(poisoned.failure().unwrap().code, ErrorCode::POISONED);
}

#[test]
fn readings_are_checked() {
    let host = host::RecordingHost::default();
    let meter = |config| {
        let configuration = serde_json::from_value(json!({"config": config})).unwrap();
        plugin().meter("half", &configuration).unwrap()
    };
    let whole: MeasureRequest = serde_json::from_value(json!({"split": "evaluation"})).unwrap();
    let reading = meter(json!({})).measure(host.lend(), &whole).unwrap();
    assert_eq!((reading.value, reading.scores.as_slice()), (0.5, [0.0, 1.0].as_slice()));
    assert_eq!(reading.details["classes"], 2);
    let part = MeasureRequest {
        limit: Some(1),
        ..whole.clone()
    };
    let nan = meter(json!({})).measure(host.lend(), &part).unwrap_err();
    assert!(nan.message().contains("NaN"), "{nan}");
    let list = meter(json!({"list": true})).measure(host.lend(), &whole).unwrap_err();
    assert!(list.message().contains("no JSON object"), "{list}");
}

#[test]
fn what_the_metadata_does_not_name_is_missing() {
    let error = plugin().rule("half", &RuleConfiguration::default()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Missing);
    assert_eq!(error.message(), "plugin `raw` has no rule `half`");
    assert_eq!(error.help(), Some("it offers `echo`"));
}
