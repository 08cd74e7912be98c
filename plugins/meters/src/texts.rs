//! Meters of texts against numpy, scipy and scikit-learn; see `fixtures/make.py`.

use kmr_sdk::{
    ErrorCode, MeasureRequest, Meter, Reading, Result, Split,
    model::Tensor,
    serde_json::{Value, from_str, from_value, json},
};

use crate::{
    accuracy::Accuracy,
    embedding::{EmbeddingCosine, Similarity},
    f1::F1,
    logistic::Classifier,
    next_token::{NextTokenDivergence, NextTokenFlips},
    perplexity::{NextTokenLoss, Perplexity},
    probe::Probe,
    testing::CannedHost,
};

fn fixture() -> Value {
    from_str(include_str!("../fixtures/text.json")).unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|value| value.as_f64().unwrap() as f32)
        .collect()
}

fn integers(value: &Value) -> Vec<i64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|value| value.as_i64().unwrap())
        .collect()
}

fn tensor(shape: &[usize], value: &Value) -> Tensor {
    Tensor::from_vec(shape.to_vec(), floats(value))
}

fn measured<M: Meter>(host: &CannedHost, config: Value) -> Result<Reading> {
    let request = MeasureRequest {
        split: Split::Evaluation,
        limit: None,
    };
    host.with(|host| M::new(from_value(config).unwrap())?.measure(host, &request))
}

/// Checks the value, and that the scores have it as their mean.
fn expect<M: Meter>(host: &CannedHost, config: Value, samples: usize, value: &Value) -> Reading {
    let reading = measured::<M>(host, config).unwrap();
    let value = value.as_f64().unwrap();
    assert!(
        (reading.value - value).abs() < 1e-9 * value.abs().max(1.0),
        "{} {value}",
        reading.value
    );
    assert_eq!(reading.scores.len(), samples);
    let mean = reading.scores.iter().sum::<f64>() / samples as f64;
    assert!((mean - value).abs() < 1e-9 * value.abs().max(1.0), "{mean} {value}");
    reading
}

fn tokens(fixture: &Value) -> CannedHost {
    let logits = |key: &str| tensor(&[3, 5, 7], &fixture[key]);
    let targets = Tensor::from_vec(vec![3, 5], integers(&fixture["targets"]));
    CannedHost::new(logits("candidate"), logits("reference")).judged_by(targets)
}

#[test]
fn next_tokens() {
    let fixture = &fixture()["tokens"];
    let host = tokens(fixture);
    let reading = expect::<Perplexity>(&host, json!({}), 3, &fixture["perplexity"]);
    assert_eq!(reading.details["tokens"], json!(11));
    expect::<NextTokenLoss>(&host, json!({}), 3, &fixture["loss"]);
    expect::<NextTokenDivergence>(&host, json!({}), 3, &fixture["kl"]);
    expect::<NextTokenFlips>(&host, json!({"batch": 2}), 3, &fixture["flips"]);
}

#[test]
fn data_without_targets_are_judged_by_their_tokens() {
    let fixture = &fixture()["tokens"];
    let logits = tensor(&[3, 5, 7], &fixture["candidate"]);
    let ids = vec![0, 1, 2, 3, 4, 6, 5, 4, 0, 0, 1, 1, 2, 2, 3_i64];
    let mask = vec![1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1_i64];
    let targets = vec![1, 2, 3, 4, -1, 5, 4, -1, -1, -1, 1, 2, 2, 3, -1_i64];
    let plain = CannedHost::new(logits.clone(), logits.clone())
        .with_input("input_ids", Tensor::from_vec(vec![3, 5], ids))
        .with_input("attention_mask", Tensor::from_vec(vec![3, 5], mask));
    let judged = CannedHost::new(logits.clone(), logits).judged_by(Tensor::from_vec(vec![3, 5], targets));
    assert_eq!(
        measured::<Perplexity>(&plain, json!({})).unwrap(),
        measured::<Perplexity>(&judged, json!({})).unwrap()
    );
    let message = measured::<Perplexity>(&plain, json!({"tokens": "ids"}))
        .unwrap_err()
        .to_string();
    assert!(message.contains("neither targets nor an input `ids`"), "{message}");
}

#[test]
fn tokens_that_cannot_be_judged() {
    let fixture = &fixture()["tokens"];
    let message = |targets: Tensor| {
        let host = tokens(fixture).judged_by(targets);
        measured::<Perplexity>(&host, json!({})).unwrap_err().to_string()
    };
    let none = message(Tensor::from_vec(vec![3, 5], vec![-1_i64; 15]));
    assert_eq!(none, "there are no tokens to measure on");
    let beyond = message(Tensor::from_vec(vec![3, 5], vec![7_i64; 15]));
    assert!(
        beyond.contains("the data have the token 7, but the output has 7 numbers at each position"),
        "{beyond}"
    );
    let shape = message(Tensor::from_vec(vec![3], vec![0_i64; 3]));
    assert!(
        shape.contains("targets of shape [2], where the output has 2 samples of 5 positions"),
        "{shape}"
    );
    let mut broken = floats(&fixture["candidate"]);
    broken[5 * 7 + 3] = f32::NAN;
    let broken = Tensor::from_vec(vec![3, 5, 7], broken);
    let host = CannedHost::new(broken.clone(), broken);
    let host = host.judged_by(Tensor::from_vec(vec![3, 5], vec![1_i64; 15]));
    let error = measured::<Perplexity>(&host, json!({})).unwrap_err();
    assert_eq!(
        error.to_string(),
        "output `logits`: the score is NaN at sample 1, position 0"
    );
    assert_eq!(
        measured::<NextTokenDivergence>(&host.cancelled(), json!({}))
            .unwrap_err()
            .code,
        ErrorCode::CANCELLED
    );
}

#[test]
fn answers_of_classifiers() {
    let fixture = &fixture()["classes"];
    let scores = tensor(&[40, 4], &fixture["scores"]);
    let host = CannedHost::new(scores.clone(), scores).labeled(integers(&fixture["labels"]));
    expect::<Accuracy>(&host, json!({}), 40, &fixture["accuracy"]);
    expect::<F1>(&host, json!({}), 40, &fixture["macro"]);
    expect::<F1>(&host, json!({"positive": 1}), 40, &fixture["of_one"]);
    // No sample has the class 3, but answers may have it; nothing has the class 9.
    assert!(measured::<F1>(&host, json!({"positive": 9})).is_err());
}

#[test]
fn accuracy_over_positions() {
    let fixture = &fixture()["tokens"];
    let reading = measured::<Accuracy>(&tokens(fixture), json!({})).unwrap();
    let candidate = floats(&fixture["candidate"]);
    let targets = integers(&fixture["targets"]);
    let best = |at: usize| {
        let logits = &candidate[at * 7..][..7];
        (0..7).max_by(|l, r| logits[*l].total_cmp(&logits[*r])).unwrap() as i64
    };
    let judged: Vec<usize> = (0..15).filter(|at| targets[*at] >= 0).collect();
    let right = judged.iter().filter(|at| best(**at) == targets[**at]).count();
    assert!((reading.value - right as f64 / judged.len() as f64).abs() < 1e-12);
}

#[test]
fn pairs_against_people() {
    let fixture = &fixture()["pairs"];
    let embeddings = tensor(&[12, 2, 6], &fixture["embeddings"]);
    let people: Vec<f64> = fixture["people"]
        .as_array()
        .unwrap()
        .iter()
        .map(|value| value.as_f64().unwrap())
        .collect();
    let host = CannedHost::new(embeddings.clone(), embeddings.clone())
        .giving("embedding")
        .judged_by(Tensor::from_vec(vec![12], people));
    expect::<Similarity>(&host, json!({}), 12, &fixture["pearson"]);
    expect::<Similarity>(&host, json!({"correlation": "spearman"}), 12, &fixture["spearman"]);
    expect::<EmbeddingCosine>(&host, json!({}), 12, &json!(1.0));
    // Classes are scores, too; equal ones have no correlation.
    let message = measured::<Similarity>(&host.labeled(vec![1; 12]), json!({}))
        .unwrap_err()
        .to_string();
    assert!(message.contains("what does not vary"), "{message}");
    let single = embeddings.reshaped(vec![24, 6]).unwrap();
    let host = CannedHost::new(single.clone(), single)
        .giving("embedding")
        .labeled(vec![1; 24]);
    let message = measured::<Similarity>(&host, json!({})).unwrap_err().to_string();
    assert_eq!(
        message,
        "output `embedding`: this meter compares two texts, and each sample has one: name the column of the second with \
         `against`, beside `text`"
    );
}

#[test]
fn classifiers_are_no_language_models_and_give_no_embeddings() {
    let scores = Tensor::from_vec(vec![4, 10], vec![0.5_f32; 40]);
    let host = CannedHost::new(scores.clone(), scores).labeled(vec![0, 1, 0, 1]);
    let messages = |config: Value| {
        [
            measured::<Perplexity>(&host, config.clone()),
            measured::<NextTokenLoss>(&host, config.clone()),
            measured::<NextTokenDivergence>(&host, config.clone()),
            measured::<NextTokenFlips>(&host, config),
        ]
        .map(|reading| reading.unwrap_err().to_string())
    };
    for message in messages(json!({})) {
        assert_eq!(
            message,
            "output `logits`: this meter needs the scores of every next token, samples × positions × vocabulary; the \
             model gives the shape [2, 10], which has no positions, as classifiers do"
        );
    }
    let embedding = [
        measured::<EmbeddingCosine>(&host, json!({})),
        measured::<Similarity>(&host, json!({})),
        measured::<Probe>(&host, json!({})),
    ];
    for message in embedding.map(|reading| reading.unwrap_err().to_string()) {
        assert_eq!(
            message,
            "output `logits`: this meter needs embeddings, samples × numbers, or states of tokens, samples × tokens × \
             numbers; the model gives scores of classes, [2, 10]: name the value that holds embeddings with `output`, or \
             use a meter of classes"
        );
    }
    // Who names the output means it.
    let named = measured::<EmbeddingCosine>(&host, json!({"output": "logits"}));
    assert!((named.unwrap().value - 1.0).abs() < 1e-9);
}

#[test]
fn outputs_that_are_no_embeddings() {
    let message = |shape: &[usize]| {
        let tensor = Tensor::from_vec(shape.to_vec(), vec![0.5_f32; shape.iter().product()]);
        let host = CannedHost::new(tensor.clone(), tensor)
            .giving("y")
            .labeled(vec![0; shape[0]]);
        measured::<EmbeddingCosine>(&host, json!({})).unwrap_err().to_string()
    };
    assert!(message(&[2, 3, 4, 4]).contains("gives [2, 3, 4, 4], and no input `attention_mask` says"));
    assert!(message(&[2, 1]).contains("gives [2, 1], and one number has no direction"));
    assert!(message(&[2]).contains("samples × tokens × numbers; the model gives [2]"));
}

#[test]
fn states_of_tokens_are_pooled_where_they_are_no_filling() {
    // Two texts of three states; the last state of the second only fills up.
    let states = vec![1.0, 0.0, 3.0, 0.0, 2.0, 6.0, 2.0, 2.0, 4.0, 0.0, 99.0, -99.0_f32];
    let states = Tensor::from_vec(vec![2, 3, 2], states);
    let pooled = |values: Vec<f32>| Tensor::from_vec(vec![2, 1, 2], values);
    let mask = Tensor::from_vec(vec![2, 3], vec![1, 1, 1, 1, 1, 0_i64]);
    for (pooling, expected) in [
        ("mean", vec![2.0, 2.0, 3.0, 1.0]),
        ("first", vec![1.0, 0.0, 2.0, 2.0]),
        ("last", vec![2.0, 6.0, 4.0, 0.0]),
    ] {
        let host = CannedHost::new(states.clone(), states.clone()).with_input("attention_mask", mask.clone());
        let config: crate::embedding::EmbeddingConfig = from_value(json!({"pooling": pooling})).unwrap();
        let expected = pooled(expected).values::<f32>().unwrap().to_vec();
        let embedded = host.with(|host| {
            let mut batches = host.run(&Default::default()).unwrap();
            let batch = batches.next().unwrap().unwrap();
            crate::embedding::embeddings(&batch, &batch.outputs[0].1, &config).unwrap()
        });
        assert_eq!(embedded.concat().concat(), expected, "{pooling}");
    }
}

fn probe(fixture: &Value) -> CannedHost {
    let asked = tensor(&[30, 8], &fixture["asked"]);
    CannedHost::new(asked.clone(), asked)
        .giving("embedding")
        .labeled(integers(&fixture["asked_labels"]))
        .trained_on(tensor(&[60, 8], &fixture["known"]), integers(&fixture["known_labels"]))
}

#[test]
fn a_probe_answers_as_scikit_learn() {
    for classes in ["two", "three"] {
        let fixture = &fixture()[classes];
        let reading = measured::<Probe>(&probe(fixture), json!({"strength": 0.7})).unwrap();
        let right: Vec<f64> = integers(&fixture["right"]).iter().map(|right| *right as f64).collect();
        assert_eq!(reading.scores, right, "{classes}");
    }
}

#[test]
fn the_line_is_that_of_scikit_learn() {
    let fixture = &fixture()["two"];
    let known: Vec<Vec<f32>> = floats(&fixture["known"]).chunks(8).map(<[f32]>::to_vec).collect();
    let labels: Vec<usize> = integers(&fixture["known_labels"])
        .iter()
        .map(|label| *label as usize)
        .collect();
    let line = Classifier::fit(&known, &labels, 2, 0.7).unwrap().line(1).to_vec();
    let expected = fixture["weights"].as_array().unwrap();
    assert_eq!(line.len(), expected.len());
    for (weight, expected) in line.iter().zip(expected) {
        assert!(
            (weight - expected.as_f64().unwrap()).abs() < 1e-6,
            "{weight} {expected}"
        );
    }
}

#[test]
fn a_probe_of_one_class_or_of_no_numbers() {
    let fixture = &fixture()["two"];
    let known = tensor(&[60, 8], &fixture["known"]);
    let message = measured::<Probe>(&probe(fixture).trained_on(known, vec![0; 60]), json!({}))
        .unwrap_err()
        .to_string();
    assert!(message.contains("one class alone"), "{message}");
    let broken = Tensor::from_vec(vec![60, 8], vec![f32::INFINITY; 480]);
    let labels = integers(&fixture["known_labels"]);
    let message = measured::<Probe>(&probe(fixture).trained_on(broken, labels), json!({}))
        .unwrap_err()
        .to_string();
    assert!(message.contains("an embedding of sample 0 is not finite"), "{message}");
    assert!(measured::<Probe>(&probe(fixture), json!({"strength": 0.0})).is_err());
}
