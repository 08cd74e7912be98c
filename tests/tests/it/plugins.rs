//! Plugins that others ship, and plugins that are switched off.

use std::fs;

use kmr_tests::{Bench, build_folder, fixture, kmr_in};

use crate::SHORT;

#[test]
fn a_third_partys_meter_and_policy_take_part() {
    let library = fixture("third-party", "third_party_extensions");
    let manifest = SHORT
        .replace("meter = \"top1\"", "meter = \"macro_f1\"")
        .replace("use = \"greedy\"", "use = \"random_walk\"");
    let kept: Vec<&str> = manifest.lines().filter(|line| !line.starts_with("config.")).collect();
    let bench = Bench::new(&kept.join("\n"));
    bench
        .run(&["--plugin-path", library.to_str().unwrap()])
        .expect(0, &["macro_f1 (holdout)"]);
    let plugins = bench.report()["plugins"].to_string();
    assert!(plugins.contains("sha256") && plugins.contains("third"));
}

#[test]
fn a_disabled_rule_leaves_its_plugin_unopened() {
    let bench = Bench::new(&SHORT.replace("use = \"prune\"", "use = \"prune\"\nenabled = false"));
    bench.run(&[]).expect(20, &["error: "]);
    let two = format!(
        "{SHORT}\n[[stage.rule]]\nuse = \"prune_unstructured\"\nid = \"zeros\"\nknobs.weight_sparsity = {{ values = [0.0, 0.9] }}\n"
    );
    let bench = Bench::new(&two);
    bench.run(&["--disable", "zeros"]).expect(0, &[]);
    let steps = bench.report()["steps"].to_string();
    assert!(!steps.contains("zeros"));
}

#[test]
fn plugins_are_found_by_the_environment_and_beside_the_program() {
    let bench = Bench::new("");
    let plugins = bench.path("plugins");
    fs::create_dir(&plugins).unwrap();
    fs::copy(build_folder().join("kmr"), bench.path("kmr")).unwrap();
    fs::copy(build_folder().join("libkmr_prune.so"), plugins.join("libkmr_prune.so")).unwrap();
    let listed = std::process::Command::new(bench.path("kmr"))
        .args(["plugin", "list"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains("rule prune"));
    assert!(!String::from_utf8_lossy(&listed.stdout).contains("top1"));
    let missing = kmr_in(bench.folder.path(), &["plugin", "list", "--plugin-path", "nowhere"]);
    missing.expect(21, &["nowhere"]);
}
