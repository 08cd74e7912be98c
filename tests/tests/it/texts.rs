//! Runs on texts: small transformers, a small tokenizer, lines and Parquet, and what is wrong with them.

use std::{fmt::Write as _, fs, path::Path};

use kmr_formats::{read_safetensors, write_safetensors};
use kmr_tests::{Bench, Run, kmr, root};
use serde_json::{Value, json};

use crate::SHORT;

/// Words of the tokenizer: those of the Parquet files, and more.
const WORDS: &str = "[PAD] [UNK] [CLS] [SEP] The jury said it . ' isn t 1961 a year ? naïve café — dash \" quoted , text \
                     0 1 2 3 4 5 6 7 8 9 10 11 12 one two three four five six seven eight nine ten red green blue grey";

/// A run of one stage.
const RUN: &str = r#"
schema = 1
[model]
path = "model"
[data]
{data}
[budget]
meter = "{cost}"
at_most = "{limit}"
[quality]
meter = "{meter}"
drop_at_most = {drop}
[policy]
use = "scheduled"
"#;

/// A stage that stores all weights in eight bits.
const PACK: &str = r#"
[[stage]]
name = "pack"
[[stage.rule]]
use = "quantize"
knobs.weight_bits = { values = [32, 8], per = "model" }
"#;

const WINDOWS: &str = r#"calibration = { path = "calibration.txt", window = 12 }
search = { path = "search.txt", window = 12, stride = 6 }
holdout = { path = "holdout.txt", window = 12 }"#;

const LINES: &str = r#"calibration = { path = "calibration.txt" }
search = { path = "search.txt" }
holdout = { path = "holdout.txt" }"#;

/// A tokenizer of whole words, which puts `[CLS]` and `[SEP]` around texts.
fn tokenizer() -> Vec<u8> {
    let words = WORDS.split(' ').filter(|word| !word.is_empty()).enumerate();
    let vocabulary: serde_json::Map<String, Value> = words.map(|(id, word)| (word.to_owned(), id.into())).collect();
    let special = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let sequence = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let known = |token: &str, id: usize| (token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]}));
    let document = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[CLS]"), sequence("A"), special("[SEP]")],
            "pair": [special("[CLS]"), sequence("A"), special("[SEP]"), sequence("B"), special("[SEP]")],
            "special_tokens": Value::Object([known("[CLS]", 2), known("[SEP]", 3)].into_iter().collect()),
        },
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    });
    serde_json::to_vec(&document).unwrap()
}

/// Lines of words, no two alike, drawn by a seed.
fn lines(seed: u64, count: usize, words: usize) -> String {
    let all: Vec<&str> = WORDS.split(' ').filter(|word| !word.is_empty()).skip(4).collect();
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        all[(state >> 33) as usize % all.len()]
    };
    let line = |_| (0..words).map(|_| next()).collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = (0..count).map(line).collect();
    lines.join("\n") + "\n"
}

fn fixture(name: &str) -> std::path::PathBuf {
    root().join("crates/kmr-huggingface/tests/fixtures").join(name)
}

/// A manifest of one stage, with a limit on a cost and on the drop of quality.
fn manifest(data: &str, (cost, limit): (&str, &str), (meter, drop): (&str, f64), stage: &str) -> String {
    let run = RUN.replace("{data}", data).replace("{cost}", cost);
    let run = run.replace("{limit}", limit).replace("{meter}", meter);
    run.replace("{drop}", &drop.to_string()) + stage
}

/// A run on a folder of a fixture's model with the tokenizer in it, and texts of so many words beside it.
fn bench(model: &str, data: &str, meter: &str, drop: f64, words: usize) -> Bench {
    let bench = Bench::new(&manifest(data, ("size_bytes", "90%"), (meter, drop), PACK));
    let folder = bench.path("model");
    copy(&fixture(model), &folder);
    fs::write(folder.join("tokenizer.json"), tokenizer()).unwrap();
    for (seed, name) in [(1, "calibration"), (2, "search"), (3, "holdout")] {
        bench.write(&format!("{name}.txt"), lines(seed, 24, words).as_bytes());
    }
    bench
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

/// What is said from the error on, without the bench's folder.
fn error(bench: &Bench, run: &Run) -> String {
    let start = run.err.find("error: ").unwrap_or(0);
    let folder = format!("{}/", bench.folder.path().display());
    format!("exit code {}\n{}", run.code, run.err[start..].replace(&folder, ""))
}

#[test]
fn a_language_model_is_packed_and_judged_by_its_perplexity() {
    let bench = bench("llama", WINDOWS, "perplexity", 20.0, 12);
    bench.run(&[]).expect(0, &["judged by perplexity", "budget met"]);
    let report = bench.report();
    let artifact = fs::read(bench.path("run/model.onnx")).unwrap();
    assert_eq!(report["budget"]["reached"].as_f64().unwrap(), artifact.len() as f64);
    let reading = &report["meters"]["perplexity"];
    let (before, after) = (reading["before"].as_f64().unwrap(), reading["after"].as_f64().unwrap());
    assert!(
        before > 10.0 && before != after && (before - after).abs() < 20.0,
        "{reading}"
    );
}

#[test]
fn parquet_gives_what_json_lines_give() {
    let data = |name: &str| {
        let path = root().join("crates/kmr-text/tests/fixtures/parquet").join(name);
        let split = |range: &str| {
            format!(
                "{{ path = \"{}\", text = \"text\", pair = \"pair\", label = \"flag\", {range} }}",
                path.display()
            )
        };
        format!(
            "calibration = {}\nsearch = {}\nholdout = {}",
            split("take = 8"),
            split("skip = 8, take = 16"),
            split("skip = 24")
        )
    };
    let result = |name: &str| {
        let bench = bench("bert_classifier", &data(name), "agreement", 0.5, 1);
        bench.run(&[]).expect(0, &["judged by agreement on 16 samples"]);
        let report = bench.report();
        (report["data"].clone(), fs::read(bench.path("run/model.onnx")).unwrap())
    };
    let wanted = result("rows.jsonl");
    assert!(result("zstd.parquet") == wanted);
    assert!(result("snappy.parquet") == wanted);
}

#[test]
fn what_is_wrong_with_texts_and_their_models_is_said() {
    let mut chapter = String::new();
    let mut tell = |title: &str, bench: &Bench| {
        let run = bench.run(&["--engine", "builtin"]);
        assert!(!run.err.contains("panicked at"), "{}", run.err);
        assert!(!bench.path("run/model.onnx").exists(), "{title}");
        writeln!(chapter, "# {title}\n{}", error(bench, &run)).unwrap();
    };

    let sharded = bench("llama_rope3", WINDOWS, "perplexity", 20.0, 12);
    fs::remove_file(sharded.path("model/model-00002-of-00003.safetensors")).unwrap();
    tell("a shard is missing", &sharded);

    let holed = bench("llama", WINDOWS, "perplexity", 20.0, 12);
    let path = holed.path("model/model.safetensors");
    let mut tensors = read_safetensors(&path).unwrap();
    tensors.shift_remove("model.layers.1.mlp.up_proj.weight").unwrap();
    write_safetensors(&path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))).unwrap();
    tell("a tensor is missing", &holed);

    let binary = bench("bert_classifier", LINES, "agreement", 0.5, 6);
    binary.write("search.txt", b"The jury\nsaid \xff\xfe it\n");
    tell("a text is not UTF-8", &binary);

    let foreign = bench("bert_classifier", LINES, "agreement", 0.5, 6);
    let words = root().join("crates/kmr-text/tests/fixtures/words.json");
    fs::copy(words, foreign.path("model/tokenizer.json")).unwrap();
    tell("a tokenizer has more tokens than the model", &foreign);

    for model in ["bert_classifier", "roberta"] {
        let long = bench(model, LINES, "cosine", 0.5, 19);
        tell(&format!("texts are longer than the positions of {model}"), &long);
    }
    let fits = bench(
        "roberta",
        &LINES.replace(".txt\"", ".txt\", max_length = 18"),
        "cosine",
        0.5,
        19,
    );
    fits.run(&[]).expect(0, &[]);

    // The graph alone knows its positions.
    let alone = bench("bert_classifier", LINES, "agreement", 0.5, 19);
    let file = alone.path("alone.onnx");
    kmr(&["convert", alone.path("model").to_str().unwrap(), file.to_str().unwrap()]).expect(0, &[]);
    let manifest = fs::read_to_string(alone.path("pipeline.toml")).unwrap();
    let manifest = manifest
        .replace("path = \"model\"", "path = \"alone.onnx\"")
        .replace("[data]", "[data]\ntokenizer = \"model/tokenizer.json\"");
    alone.write("pipeline.toml", manifest.as_bytes());
    tell("texts are longer than the positions of a file", &alone);
    // Where its configuration lies beside it, the line is named.
    fs::copy(alone.path("model/config.json"), alone.path("config.json")).unwrap();
    tell(
        "texts are longer than the positions of a file with its configuration",
        &alone,
    );

    let unknown = bench("llama", WINDOWS, "perplexity", 20.0, 12);
    let config = fs::read_to_string(unknown.path("model/config.json")).unwrap();
    fs::write(
        unknown.path("model/config.json"),
        config.replace("LlamaForCausalLM", "LlamaForTokenClassification"),
    )
    .unwrap();
    tell("an architecture is not known", &unknown);

    let damaged = bench(
        "bert_classifier",
        "search = { path = \"search.parquet\", text = \"text\" }",
        "agreement",
        0.5,
        6,
    );
    let whole = fs::read(root().join("crates/kmr-text/tests/fixtures/parquet/snappy.parquet")).unwrap();
    damaged.write("search.parquet", &whole[..2000]);
    tell("a Parquet file is cut short", &damaged);

    let arrays = bench(
        "bert_classifier",
        "search = { path = \"search.npz\", window = 8 }",
        "agreement",
        0.5,
        6,
    );
    arrays.write("search.npz", b"");
    tell("a window is given for arrays", &arrays);

    let hidden = bench("bert", WINDOWS, "perplexity", 20.0, 12);
    tell("states of tokens are no scores of tokens", &hidden);

    let image = Bench::new(&SHORT.replace("\"top1\"", "\"perplexity\""));
    tell("an image classifier has no perplexity", &image);

    let scored = "calibration = { path = \"calibration.txt\" }\n\
                  search = { path = \"search.csv\", text = \"t\", label = \"s\" }";
    let single = bench("sentences", scored, "embedding_similarity", 0.5, 6);
    single.write("search.csv", b"t,s\nThe jury,0.5\nsaid it,0.25\n");
    tell("pairs are compared, and there are none", &single);

    insta::assert_snapshot!(chapter);
}

#[test]
fn blocks_that_are_not_there_are_told() {
    let bench = bench("bert_classifier", LINES, "agreement", 0.9, 6);
    let manifest = fs::read_to_string(bench.path("pipeline.toml")).unwrap();
    let manifest = manifest.replace("use = \"quantize\"", "use = \"prune_depth\"").replace(
        "knobs.weight_bits = { values = [32, 8], per = \"model\" }",
        "knobs.blocks_removed = { values = [0, 9] }",
    );
    bench.write("pipeline.toml", manifest.as_bytes());
    let told = "knob `blocks_removed` changes nothing at 9: of 4 blocks one stays, so that it takes at most 3";
    bench.run(&[]).expect(30, &[told]);
}

/// A stage that makes three experts of each feed-forward layer, two of them active.
const SPLIT: &str = r#"
[[stage]]
name = "split"
[[stage.rule]]
use = "moe_split"
knobs.active = { values = [0, 2], per = "model" }
config = { experts = 3{train} }
"#;

#[test]
fn routers_of_split_layers_can_be_trained() {
    let bench = bench("llama", WINDOWS, "perplexity", 0.1, 40);
    let split = |train: &str| {
        let (limit, quality) = (("active_macs", "99%"), ("next_token_kl", f64::INFINITY));
        manifest(WINDOWS, limit, quality, &SPLIT.replace("{train}", train))
    };
    let run = |train: &str, threads: &str| {
        bench.write("pipeline.toml", split(train).as_bytes());
        let run = bench.run(&["-v", "--threads", threads]);
        run.expect(0, &[]);
        (fs::read(bench.path("run/model.onnx")).unwrap(), run)
    };
    let (closed, _) = run("", "2");
    let (trained, said) = run(", train = { epochs = 20, learning_rate = 0.01 }", "2");
    let (again, _) = run(", train = { epochs = 20, learning_rate = 0.01 }", "1");
    assert!(trained == again, "training depends on the number of threads");
    assert_ne!(closed, trained);
    let mut told = 0;
    for line in said.err.lines().filter(|line| line.contains("the router of ")) {
        let number = |after: &str| {
            let text = line.split_once(after).unwrap().1;
            let text = text.split([' ', ',']).next().unwrap();
            text.parse::<f64>().unwrap()
        };
        assert!(number("training, ") < number("divergence "), "{line}");
        told += 1;
    }
    assert_eq!(told, 2, "{}", said.err);
    // Nothing but routers and what is fitted after them is another.
    let names = |bytes: Vec<u8>| {
        let model = kmr_model::Model::decode(bytes.into()).unwrap();
        let tensors = model.graph.initializers.iter().map(|(name, _)| name.clone());
        tensors.collect::<Vec<_>>()
    };
    assert_eq!(names(closed), names(trained));

    bench.write("pipeline.toml", split(", train = { epochs = 0 }").as_bytes());
    bench
        .run(&[])
        .expect(20, &["config.train.epochs", "has to be 1 or more"]);
}
