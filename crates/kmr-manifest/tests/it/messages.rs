//! Every message, as it is read by people.

use std::fmt::Write as _;

use kmr_manifest::{Error, Role};

use crate::sample::{GOOD, catalog, changed, parse, rule};

/// What is replaced in the good manifest, and by what.
type Change = (&'static str, &'static str);

const SYNTAX: &[Change] = &[
    ("path = \"resnet20.onnx\"", "path = resnet20.onnx"),
    ("seed = 7", "seed = 7\nseed = 8"),
    ("[budget]", "[budget"),
    ("[quality]", "[budget]"),
    ("seed = 7", "seed 7"),
];

const KEYS: &[Change] = &[
    ("drop_at_most", "drop_atmost"),
    ("[quality]", "[qualty]"),
    ("take = 512", "evaluation = 512"),
    ("schema = 1\n", ""),
    ("path = \"resnet20.onnx\"\n", ""),
    ("at_most = \"30%\"\n", ""),
    ("drop_at_most = 0.005\n", ""),
    ("name = \"recover\"\n", ""),
    ("use = \"quantize\"\n", ""),
    ("path = \"resnet20.onnx\"", "\"a\\nb\" = 1\npath = \"resnet20.onnx\""),
];

const TYPES: &[Change] = &[
    ("path = \"resnet20.onnx\"", "path = 3"),
    ("take = 512", "take = \"many\""),
    ("take = 512", "take = 0"),
    ("skip = 10", "skip = -1"),
    ("enabled = true", "enabled = \"yes\""),
    ("confidence = 0.95", "confidence = nan"),
    ("x = [1, 1, 28, 28]", "x = [0, 1, 28, 28]"),
    ("at_most = \"30%\"", "at_most = 0.3"),
    ("scale = \"1/255\"", "scale = \"1/0\""),
    (
        "search = { path = \"search.npz\", skip = 10, format = \"npz\" }",
        "search = \"search.npz\"",
    ),
    ("[output]\nformat = \"onnx\"", "[[output]]"),
    ("paths = [\"plugins\"]", "paths = \"plugins\""),
    ("values = [32, 8, 4]", "values = 32"),
    ("values = [32, 8, 4]", "values = []"),
    ("values = [32, 8, 4]", "values = [[32, 8]]"),
    (
        "knobs.weight_bits = { values = [32, 8, 4] }",
        "knobs.weight_bits = [32, 8, 4]",
    ),
    ("epochs = 2", "epochs = inf"),
    ("use = \"distill\"", "use = \"\""),
    (
        "[[stage]]\nname = \"recover\"\n\n[[stage.rule]]",
        "[[stage]]\nname = \"recover\"\n\n[stage.rule]",
    ),
];

const TEXTS: &[Change] = &[
    ("skip = 10, format = \"npz\"", "format = \"npz\", text = \"sentence\""),
    ("skip = 10, format = \"npz\"", "window = 512"),
    (
        "search.npz\", skip = 10, format = \"npz\"",
        "search.txt\", stride = 256",
    ),
    (
        "search.npz\", skip = 10, format = \"npz\"",
        "search.txt\", window = 512, stride = 513",
    ),
    ("search.npz\", skip = 10, format = \"npz\"", "search.txt\", window = 1"),
    (
        "search.npz\", skip = 10, format = \"npz\"",
        "search.txt\", window = 512, label = \"class\"",
    ),
    (
        "skip = 10, format = \"npz\"",
        "format = \"csv\", labels = \"labels.npy\"",
    ),
    ("skip = 10, format = \"npz\"", "format = \"xlsx\""),
];

const VALUES: &[Change] = &[
    ("schema = 1", "schema = 2"),
    ("at_most = \"30%\"", "at_most = \"130%\""),
    ("at_most = \"30%\"", "at_most = \"0%\""),
    ("at_most = \"30%\"", "at_most = \"300 KB\""),
    ("at_most = \"30%\"", "at_most = \"small\""),
    ("confidence = 0.95", "confidence = 95"),
    ("drop_at_most = 0.005", "drop_at_most = -0.005"),
    ("drop_at_most = 0.005", "drop_at_most = 0.005\nat_least = 0.9"),
    ("drop_at_most = 0.005", "at_least = inf"),
    ("on_no_progress = \"skip\"", "on_no_progress = \"skp\""),
    ("format = \"onnx\"", "format = \"gguf\""),
    ("name = \"recover\"", "name = \"shrink\""),
    ("use = \"quantize\"", "use = \"distill\""),
    ("id = \"prune-channels\"", "id = \"../prune\""),
    ("values = [32, 8, 4]", "values = [32, 8, 8.0]"),
    (
        "[[stage.rule]]\nuse = \"distill\"\nrole = \"recover\"\nconfig = { temperature = 4.0, epochs = 2 }\n",
        "",
    ),
    (
        "[budget]\n",
        "[[budget.limit]]\nmeter = \"macs\"\nat_most = 5\n[budget]\n",
    ),
    ("[budget]\n", "[budget]\nlimit = [{ meter = \"macs\", at_most = 5 }]\n"),
    (
        "[budget]\nmeter = \"size_bytes\"\nat_most = \"30%\"",
        "[budget]\nlimit = [{ meter = \"macs\", at_most = 5 }, { meter = \"macs\", at_most = 6 }]",
    ),
];

const OFFERS: &[Change] = &[
    ("use = \"prune\"", "use = \"prnue\""),
    ("use = \"distill\"", "use = \"rewrite\""),
    ("use = \"distill\"", "use = \"factorize\""),
    ("use = \"greedy\"", "use = \"knapsack\""),
    ("meter = \"top1\"", "meter = \"top_1\""),
    ("meter = \"top1\"", "meter = \"f1\""),
    ("meter = \"top1\"", "meter = \"macs\""),
    ("meter = \"size_bytes\"", "meter = \"kl\""),
    (
        "meter = \"size_bytes\"\nat_most = \"30%\"",
        "meter = \"macs\"\nat_most = \"300 kB\"",
    ),
    (
        "meter = \"size_bytes\"\nat_most = \"30%\"",
        "meter = \"latency\"\nat_most = \"3 s\"",
    ),
    ("meter = \"size_bytes\"", "meter = \"sizebytes\""),
    ("meter = \"loss\"", "meter = \"lost\""),
    ("report = [\"macs\", \"kl\"]", "report = [\"macs\"]"),
    ("role = \"recover\"", "role = \"reduce\""),
    ("until = \"40%\"\n", ""),
    ("name = \"recover\"\n", "name = \"recover\"\nuntil = \"35%\"\n"),
    (
        "[budget]\nmeter = \"size_bytes\"\nat_most = \"30%\"",
        "[budget]\nlimit = [{ meter = \"macs\", at_most = 5 }, { meter = \"size_bytes\", at_most = 6 }]",
    ),
];

const KNOBS: &[Change] = &[
    ("0.0, 0.1, 0.2, 0.3", "0.0, 1.2"),
    ("0.0, 0.1, 0.2, 0.3", "0.0, \"high\""),
    ("32, 8, 4", "32, 3"),
    ("0.0, 0.1, 0.2, 0.3", "0.1, 0.2"),
    ("0.0, 0.1, 0.2, 0.3", "0.0, 0.2, 0.1"),
    ("32, 8, 4", "32, 4, 8"),
    ("knobs.weight_bits", "knobs.weight_bit"),
    ("knobs.weight_bits = { values = [32, 8, 4] }", ""),
    ("values = [32, 8, 4]", "per = \"model\""),
    (
        "knobs.channel_sparsity = { values = [0.0, 0.1, 0.2, 0.3], per = \"layer\" }",
        "knobs.pattern = {}",
    ),
    ("role = \"recover\"", "knobs.temperature = {}"),
];

/// Renders what one change makes of the good manifest; it must be exactly one problem.
fn chapter(changes: &[Change]) -> String {
    let mut rendered = String::new();
    for (from, to) in changes {
        let text = changed(from, to);
        let result = parse(&text).and_then(|manifest| manifest.resolve(&catalog()));
        let error = result.expect_err(&format!("{from} -> {to}"));
        let problems = error.problems().count();
        assert_eq!(problems, 1, "{from} -> {to}:\n{}", error.render(false));
        let change = format!("{from}  ->  {to}").replace('\n', " ⏎ ");
        writeln!(rendered, "# {change}\n{}\n", error.render(false)).unwrap();
    }
    rendered
}

#[test]
fn syntax() {
    insta::assert_snapshot!(chapter(SYNTAX));
}

#[test]
fn keys() {
    insta::assert_snapshot!(chapter(KEYS));
}

#[test]
fn types() {
    insta::assert_snapshot!(chapter(TYPES));
}

#[test]
fn values() {
    insta::assert_snapshot!(chapter(VALUES));
}

#[test]
fn texts() {
    insta::assert_snapshot!(chapter(TEXTS));
}

#[test]
fn offers() {
    insta::assert_snapshot!(chapter(OFFERS));
}

#[test]
fn knobs() {
    insta::assert_snapshot!(chapter(KNOBS));
}

fn rendered(result: Result<impl std::fmt::Debug, Error>) -> String {
    result.expect_err("a mistake").render(false)
}

#[test]
fn two_offers_of_one_name() {
    let mut catalog = catalog();
    let mut second = rule("prune", Role::Reduce, Vec::new());
    second.plugin = "acme".to_string();
    catalog.rules.push(second);
    insta::assert_snapshot!(rendered(parse(GOOD).unwrap().resolve(&catalog)));
}

#[test]
fn no_plugin_at_all() {
    let nothing = kmr_manifest::Catalog::default();
    insta::assert_snapshot!(rendered(parse(GOOD).unwrap().resolve(&nothing)));
}

#[test]
fn an_unknown_id_to_disable() {
    let mut manifest = parse(GOOD).unwrap();
    let near = rendered(manifest.disable(&["quantise"]));
    let far = rendered(manifest.disable(&["everything"]));
    insta::assert_snapshot!(format!("{near}\n\n{far}"));
}

#[test]
fn warnings() {
    let text = changed("holdout = {", "calibration2 = {").replacen("calibration =", "holdout2 =", 1);
    assert!(parse(&text).is_err());
    let without_holdout: String = GOOD
        .lines()
        .filter(|line| !line.starts_with("holdout"))
        .map(|line| format!("{line}\n"))
        .collect();
    let mut manifest = parse(&without_holdout).unwrap();
    manifest.disable(&["distill"]).unwrap();
    let resolved = manifest.resolve(&catalog()).unwrap();
    let warnings: Vec<String> = resolved.warnings.iter().map(|w| w.render(false)).collect();
    insta::assert_snapshot!(warnings.join("\n\n"));
}

/// The good manifest's stages as one, its rules being those of `uses`, by id and offer.
fn one_stage(uses: &[(&str, &str)]) -> String {
    let (head, rest) = GOOD.split_once("[[stage]]").unwrap();
    let (_, tail) = rest.split_once("[plugins]").unwrap();
    let rules = uses.iter().map(|(id, offer)| match *offer {
        "distill" => format!("[[stage.rule]]\nuse = \"distill\"\nid = \"{id}\"\n"),
        "prune" => format!("[[stage.rule]]\nuse = \"prune\"\nid = \"{id}\"\nknobs.channel_sparsity = {{}}\n"),
        _ => format!("[[stage.rule]]\nuse = \"{offer}\"\nid = \"{id}\"\nknobs.weight_bits = {{}}\n"),
    });
    let rules: String = rules.collect();
    format!("{head}[[stage]]\nname = \"shrink\"\n{rules}[plugins]{tail}")
}

/// What is offered, with more declared of rules: id, `after`, `conflicts`.
fn declaring(declared: &[(&str, &str, &str)]) -> kmr_manifest::Catalog {
    let mut catalog = catalog();
    for &(id, after, conflicts) in declared {
        let rule = catalog.rules.iter_mut().find(|rule| rule.id == id).unwrap();
        rule.after = after.split_whitespace().map(str::to_owned).collect();
        rule.conflicts = conflicts.split_whitespace().map(str::to_owned).collect();
    }
    catalog
}

#[test]
fn rules_come_in_the_order_that_they_declare() {
    let catalog = declaring(&[("quantize", "prune distill unknown", ""), ("distill", "prune", "")]);
    let order = |uses: &[(&str, &str)]| {
        let resolved = parse(&one_stage(uses)).unwrap().resolve(&catalog).unwrap();
        let rules: Vec<String> = resolved.stages[0].rules.iter().map(|rule| rule.id.clone()).collect();
        let warnings: Vec<String> = resolved.warnings.iter().map(|w| w.render(false)).collect();
        (rules, warnings)
    };
    let (q, d, p, p2) = (("q", "quantize"), ("d", "distill"), ("p", "prune"), ("p2", "prune"));
    assert_eq!(
        order(&[p, p2, d, q]),
        (["p", "p2", "d", "q"].map(str::to_owned).into(), vec![])
    );
    assert_eq!(order(&[q]), (vec!["q".to_owned()], vec![]));
    let (rules, warnings) = order(&[q, p2, d, p]);
    assert_eq!(rules, ["p2", "p", "d", "q"]);
    insta::assert_snapshot!(warnings.join("\n\n"));
}

#[test]
fn rules_that_cannot_share_a_stage() {
    let text = one_stage(&[("p", "prune"), ("q", "quantize"), ("d", "distill")]);
    let refused = |declared: &[(&str, &str, &str)]| rendered(parse(&text).unwrap().resolve(&declaring(declared)));
    let conflict = refused(&[("prune", "", "quantize")]);
    let cycle = refused(&[
        ("prune", "quantize", ""),
        ("quantize", "prune", ""),
        ("distill", "prune", ""),
    ]);
    insta::assert_snapshot!(format!("{conflict}\n\n{cycle}"));
    let apart = declaring(&[("prune", "", "quantize")]);
    assert!(parse(GOOD).unwrap().resolve(&apart).is_ok(), "stages of their own");
}

#[test]
fn a_stage_too_late() {
    let resolved = parse(GOOD)
        .unwrap()
        .resolve(&declaring(&[("prune", "quantize", "")]))
        .unwrap();
    let warnings: Vec<String> = resolved.warnings.iter().map(|w| w.render(false)).collect();
    insta::assert_snapshot!(warnings.join("\n\n"));
    let other = declaring(&[("quantize", "prune", "")]);
    assert_eq!(parse(GOOD).unwrap().resolve(&other).unwrap().warnings, []);
}

#[test]
fn an_empty_manifest_and_many_mistakes_at_once() {
    let empty = rendered(parse(""));
    let text = changed("take = 512", "tkae = 512").replace("seed = 7", "seed = \"7\"");
    insta::assert_snapshot!(format!("{empty}\n\n---\n\n{}", rendered(parse(&text))));
}

#[test]
fn missing_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipeline.toml");
    std::fs::write(&path, GOOD).unwrap();
    std::fs::write(folder.path().join("train.npz"), "").unwrap();
    std::fs::write(folder.path().join("search.npz"), "").unwrap();
    std::fs::write(folder.path().join("t10k-images.gz"), "").unwrap();
    let manifest = kmr_manifest::Manifest::read(&path).unwrap();
    let shown = rendered(manifest.check_files());
    let folder = folder.path().display().to_string();
    insta::assert_snapshot!(shown.replace(&folder, "FOLDER"));
}

#[test]
fn unreadable_manifests() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none.toml");
    let latin = folder.path().join("latin.toml");
    std::fs::write(&latin, b"schema = 1\nname = \"caf\xe9\"\n").unwrap();
    let read = |path| rendered(kmr_manifest::Manifest::read(path));
    let shown = format!("{}\n\n{}", read(&missing), read(&latin));
    let folder = folder.path().display().to_string();
    insta::assert_snapshot!(shown.replace(&folder, "FOLDER"));
}

#[test]
fn color_is_only_added_when_asked_for() {
    let error = parse(&changed("[quality]", "[qualty]")).unwrap_err();
    let (plain, colored) = (error.render(false), error.render(true));
    assert!(!plain.contains('\u{1b}'));
    let mut stripped = colored.clone();
    for code in ["1;31", "1;34", "1;36", "0"] {
        stripped = stripped.replace(&format!("\u{1b}[{code}m"), "");
    }
    assert_ne!(colored, plain);
    assert_eq!(stripped, plain);
}

#[test]
fn the_graphical_form_has_label_and_help() {
    use miette::Diagnostic;
    let error = parse(&changed("take = 512", "tkae = 512")).unwrap_err();
    let label = error.labels().unwrap().next().unwrap();
    let start = label.offset();
    let source = error.first();
    assert_eq!((start, label.len()), (source.span().start, "tkae".len()));
    assert_eq!(error.help().unwrap().to_string(), "did you mean `take`?");
    let contents = error.source_code().unwrap();
    let contents = contents.read_span(label.inner(), 0, 0).unwrap();
    assert_eq!(contents.name(), Some("pipeline.toml"));
    assert_eq!(contents.line() + 1, source.line_and_column().0);
}

#[test]
fn further_models_have_names_of_their_own() {
    let reserved = parse(&changed("teacher = ", "reference = ")).unwrap_err();
    let number = parse(&changed("\"resnet56.onnx\"", "56")).unwrap_err();
    insta::assert_snapshot!(format!("{}\n\n{}", reserved.render(false), number.render(false)));
}
