//! Rules that train, on the example.

use std::{fs, time::Duration};

use kmr_model::{DType, Dimension, Model, ValueInfo};
use kmr_tests::{Bench, example, fixture};

use crate::SHORT;

/// A stage that shrinks, and one that recovers with the rule in the place of `{rule}`.
const RECOVER: &str = r#"
[[stage]]
name = "recover"
[[stage.rule]]
{rule}
"#;

/// A manifest with 400 images to train on, whose model has lost a lot before it recovers.
fn manifest(rule: &str) -> String {
    let short = SHORT
        .replace(
            "search = {",
            "training = { path = \"{example}/train-10k.npz\", skip = 100, take = 400 }\n\
             augment = { shift = 1, flip = true }\nsearch = {",
        )
        .replace("\"95%\"", "\"60%\"")
        .replace("drop_at_most = 0.2", "drop_at_most = 0.5")
        .replace("use = \"greedy\"", "use = \"scheduled\"")
        .replace(
            "values = [0.0, 0.25, 0.5], per = \"layer\"",
            "values = [0.0, 0.4], per = \"model\"",
        );
    let kept: Vec<&str> = short.lines().filter(|line| !line.starts_with("config.")).collect();
    format!("{}\n{}", kept.join("\n"), RECOVER.replace("{rule}", rule))
}

const DISTILL: &str = "use = \"distill\"\nknobs.epochs.values = [0, 2]\nconfig = { learning_rate = 0.02, batch = 40 }";

#[test]
fn distillation_wins_back_what_pruning_lost() {
    let bench = Bench::new(&manifest(DISTILL));
    bench.run(&[]).expect(0, &["distill.epochs"]);
    let report = bench.report();
    let steps = report["steps"].as_array().unwrap();
    let recovery = steps.last().unwrap();
    assert_eq!(recovery["rule"], "distill");
    let quality = |step: &serde_json::Value| step["quality"].as_f64().unwrap();
    assert!(quality(recovery) > quality(&steps[steps.len() - 2]) + 0.1, "{steps:?}");
    let artifact = fs::read(bench.path("run/model.onnx")).unwrap();
    assert_eq!(report["budget"]["reached"].as_f64().unwrap(), artifact.len() as f64);
    assert!(
        !bench.path("run/checkpoints").exists(),
        "a whole run leaves no checkpoints"
    );
}

#[test]
fn a_floor_that_recovery_does_not_reach_is_said_to_be_that() {
    let weak = DISTILL.replace("learning_rate = 0.02", "learning_rate = 1e-9");
    let strict = manifest(&weak).replace("drop_at_most = 0.5", "drop_at_most = 0.0");
    Bench::new(&strict)
        .run(&[])
        .expect(31, &["no recovery brings the quality up to the floor"]);
}

#[test]
fn a_teacher_may_come_from_a_file() {
    let artifact = |bench: &Bench| fs::read(bench.path("run/model.onnx")).unwrap();
    let own = Bench::new(&manifest(DISTILL));
    own.run(&[]).expect(0, &[]);
    let rule = DISTILL.replace("batch = 40", "batch = 40, teacher = \"large\"");
    let named = format!("{}\n[models]\nlarge = \"{{example}}/resnet20.onnx\"\n", manifest(&rule));
    let bench = Bench::new(&named);
    bench.run(&[]).expect(0, &[]);
    assert!(artifact(&bench) == artifact(&own), "the same teacher teaches the same");
    assert_eq!(
        bench.report()["models"]["large"]["sha256"],
        bench.report()["model"]["sha256"]
    );
    let unnamed = Bench::new(&manifest(&rule));
    unnamed
        .run(&[])
        .expect(20, &["config.teacher", "there is no model `large`", "[models]"]);
}

#[test]
fn a_teacher_that_cannot_teach_is_refused_by_its_name() {
    let rule = DISTILL.replace("batch = 40", "batch = 40, teacher = \"large\"");
    let refused = |file: &str, edit: &dyn Fn(&mut Model), code: i32, texts: &[&str]| {
        let named = format!("{}\n[models]\nlarge = \"{file}\"\n", manifest(&rule));
        let bench = Bench::new(&named);
        let mut model = Model::decode(fs::read(example().join("resnet20.onnx")).unwrap().into()).unwrap();
        edit(&mut model);
        bench.write("teacher.onnx", &model.encode_to_vec());
        bench.write("broken.onnx", b"no model");
        bench.run(&[]).expect(code, texts);
        assert!(!bench.path("run/model.onnx").exists());
    };
    let declare = |name: &'static str, dtype: DType, shape: &'static [usize]| {
        move |model: &mut Model| {
            let sizes: Vec<Dimension> = std::iter::once(Dimension::Named("N".into()))
                .chain(shape.iter().map(|size| Dimension::Fixed(*size)))
                .collect();
            model.graph.inputs[0] = ValueInfo::tensor(name, dtype, &sizes);
        }
    };
    let first = |model: &Model| model.graph.inputs[0].name().to_owned();
    let original = Model::decode(fs::read(example().join("resnet20.onnx")).unwrap().into()).unwrap();
    assert_eq!(first(&original), "image");
    refused(
        "teacher.onnx",
        &|model| {
            let extra = ValueInfo::tensor("extra", DType::FLOAT, &[Dimension::Named("N".into())]);
            model.graph.inputs.push(extra);
        },
        20,
        &[
            "model `large`, ",
            "teacher.onnx, has an input `extra`, which nothing is fed to",
            "pipeline.toml:",
            "`image` float32 [",
        ],
    );
    refused(
        "teacher.onnx",
        &declare("image", DType::FLOAT, &[1, 32, 32]),
        20,
        &[
            "model `large`, ",
            "takes [N, 1, 32, 32] at `image`, which is fed [",
            "[any, 1, 28, 28])",
        ],
    );
    refused(
        "teacher.onnx",
        &declare("image", DType::FLOAT16, &[1, 28, 28]),
        20,
        &["model `large`, ", "takes float16 at `image`, which is fed float32"],
    );
    refused("broken.onnx", &|_| {}, 25, &["model `large`: ", "broken.onnx"]);
}

#[test]
fn training_gives_the_same_bytes_whatever_the_number_of_threads() {
    let results = ["1", "2"].map(|threads| {
        let bench = Bench::new(&manifest(DISTILL));
        bench.run(&["--threads", threads]).expect(0, &[]);
        let text = fs::read_to_string(bench.path("run/certificate.json")).unwrap();
        let mut certificate: serde_json::Value = serde_json::from_str(&text).unwrap();
        certificate["manifest"]["path"].take();
        (fs::read(bench.path("run/model.onnx")).unwrap(), certificate)
    });
    assert!(results[0].0 == results[1].0);
    let certificate = &results[0].1;
    assert_eq!(*certificate, results[1].1);
    assert_eq!(certificate["data"]["training"]["samples"], 400);
    assert_eq!(certificate["artifact"]["bytes"], results[0].0.len());
    let steps = certificate["steps"].as_array().unwrap();
    assert!(!steps.is_empty() && steps.iter().all(|step| step["accepted"] == true));
}

#[test]
fn a_run_that_is_killed_while_it_trains_goes_on_from_its_checkpoint() {
    let rule = DISTILL.replace("[0, 2]", "[0, 4]");
    let undisturbed = Bench::new(&manifest(&rule));
    undisturbed.run(&[]).expect(0, &[]);

    let bench = Bench::new(&manifest(&rule));
    let mut child = bench.start(&[]);
    let checkpoints = bench.path("run/checkpoints");
    let written = || fs::read_dir(&checkpoints).is_ok_and(|mut files| files.any(|file| is_whole(&file)));
    while !written() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "the run ended before it could be killed"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    bench.run(&["-v"]).expect(0, &["goes on from a checkpoint"]);
    let read = |bench: &Bench| fs::read(bench.path("run/model.onnx")).unwrap();
    assert!(
        read(&bench) == read(&undisturbed),
        "a run that was cut off ends in other bytes"
    );
}

/// Whether this is a checkpoint under its own name.
fn is_whole(file: &std::io::Result<fs::DirEntry>) -> bool {
    file.as_ref()
        .is_ok_and(|file| file.path().extension().is_some_and(|extension| extension == "npz"))
}

fn penalized(config: &str) -> String {
    let feature = "/layer3/layer3.2/Add_output_0";
    manifest(&format!(
        "use = \"penalized\"\nconfig = {{ feature = \"{feature}\", {config} }}\nknobs.passes.values = [0, 1]"
    ))
}

#[test]
fn a_third_partys_loss_trains_the_model() {
    let library = fixture("third-party", "third_party_extensions");
    let bench = Bench::new(&penalized("smoothing = 0.1"));
    bench
        .run(&["-v", "--plugin-path", library.to_str().unwrap()])
        .expect(0, &["penalized loss fell: true", "penalized.passes"]);
}

#[test]
fn training_that_is_asked_for_wrongly_is_refused_by_name() {
    let library = fixture("third-party", "third_party_extensions");
    for (mistake, texts) in [
        (
            "integers",
            ["training needs a float32 tensor; this one is int64", "some_integers"],
        ),
        (
            "shape",
            [
                "the cotangent is float32 of shape [200]; the value has shape [20, 10]",
                "logits",
            ],
        ),
        ("order", ["run a forward pass before each backward pass", "third-party"]),
        ("numbers", ["the gradient is not finite", "(at "]),
    ] {
        let bench = Bench::new(&penalized(&format!("mistake = \"{mistake}\"")));
        let run = bench.run(&["-v", "--plugin-path", library.to_str().unwrap()]);
        assert!(!run.err.contains("panicked at"), "{}", run.err);
        for text in texts {
            assert!(
                run.err.contains(text) || run.out.contains(text),
                "{mistake}: `{text}`\n{}",
                run.err
            );
        }
        // The reduction stands without the recovery.
        assert!(bench.path("run/model.onnx").exists() || bench.path("run/best-effort.onnx").exists());
    }
}

#[test]
fn a_loss_that_is_no_number_ends_training_and_names_the_batch() {
    let rule = DISTILL.replace("learning_rate = 0.02", "learning_rate = 1e30");
    let bench = Bench::new(&manifest(&rule));
    let run = bench.run(&["-v"]);
    assert!(!run.err.contains("panicked at"), "{}", run.err);
    for text in ["the loss is NaN", "(at epoch 1, batch ", "`learning_rate`"] {
        assert!(
            run.err.contains(text) || run.out.contains(text),
            "`{text}`\n{}",
            run.err
        );
    }
}

#[test]
fn training_data_may_share_samples_with_calibration_and_nothing_else() {
    let bench = Bench::new(&manifest(DISTILL).replace("skip = 100, take = 400", "take = 400"));
    bench.run(&[]).expect(0, &[]);
    let overlapping = manifest(DISTILL).replace(
        "training = { path = \"{example}/train-10k.npz\", skip = 100, take = 400 }",
        "training = { path = \"{example}/search-5k.npz\", take = 400 }",
    );
    Bench::new(&overlapping)
        .run(&[])
        .expect(20, &["the splits `training` and `search` overlap"]);
}
