use kmr_sdk::{
    model::{DType, Dimension, Graph, Node, Tensor, ValueInfo},
    serde_json::{self, json},
};

use super::*;
use crate::testing::{
    ModelHost,
    arithmetic::{Value as Numbers, values},
    noise,
};

const ROWS: usize = 300;
const WIDTH: usize = 5;

/// Words looked up, a layer, and scores of words: by the table itself (turned), by a matrix of its own with a bias, or
/// none.
fn language_model(head: &str) -> Model {
    let mut graph = Graph::new("language");
    let sizes = |last: &[usize]| -> Vec<Dimension> {
        let open = [Dimension::Named("N".into()), Dimension::Fixed(4)];
        open.into_iter()
            .chain(last.iter().map(|&size| Dimension::Fixed(size)))
            .collect()
    };
    graph.inputs = vec![ValueInfo::tensor("ids", DType::INT64, &sizes(&[]))];
    let mut store = |name: &str, shape: &[usize], seed| {
        let numbers = noise(shape.iter().product(), seed);
        graph
            .initializers
            .insert(name.into(), Tensor::from_vec(shape.to_vec(), numbers).into());
    };
    store("words", &[ROWS, WIDTH], 1);
    store("layer", &[WIDTH, WIDTH], 2);
    if head == "own" {
        store("scores.weight", &[ROWS, WIDTH], 3);
        store("scores.bias", &[ROWS], 4);
    }
    let mut node = |node: Node| graph.nodes.push(Arc::new(node));
    node(Node::new("Gather", "", &["words", "ids"], &["embedded"]));
    node(Node::new("MatMul", "", &["embedded", "layer"], &["h"]));
    match head {
        "tied" => {
            node(Node::new("Transpose", "", &["words"], &["turned"]).with_ints("perm", &[1, 0]));
            node(Node::new("MatMul", "", &["h", "turned"], &["y"]));
        }
        "own" => {
            node(Node::new("Transpose", "", &["scores.weight"], &["turned"]).with_ints("perm", &[1, 0]));
            node(Node::new("MatMul", "", &["h", "turned"], &["product"]));
            node(Node::new("Add", "", &["product", "scores.bias"], &["y"]));
        }
        _ => node(Node::new("Relu", "", &["h"], &["y"])),
    }
    let last = if head == "none" { WIDTH } else { ROWS };
    graph.outputs = vec![ValueInfo::tensor("y", DType::FLOAT, &sizes(&[last]))];
    graph.check().unwrap();
    Model::new(graph, 8, 17)
}

fn sentences() -> Vec<Numbers> {
    let ids = |ids: [usize; 8]| Numbers::new(&[2, 4], ids.map(|id| id as f32).to_vec());
    vec![ids([7, 8, 9, 7, 8, 7, 120, 7]), ids([7, 299, 9, 7, 8, 7, 9, 9])]
}

fn host(model: Model) -> ModelHost {
    let mut host = ModelHost::new(model);
    host.feeds = sentences();
    host
}

fn rule(config: serde_json::Value) -> Result<PruneVocabulary> {
    let knobs = format!(r#"{{"{KNOB}": {{"values": ["off", 0.8, 1.0], "per": "model"}}}}"#);
    PruneVocabulary::new(serde_json::from_value(config)?, serde_json::from_str(&knobs).unwrap())
}

fn action(value: impl Into<Value>) -> Action {
    let assignment = kmr_sdk::Assignment {
        knob: KNOB.into(),
        target: MODEL.into(),
        value: value.into(),
    };
    Action {
        assignments: vec![assignment],
        ..Action::default()
    }
}

#[test]
fn every_word_of_the_corpus_is_answered_as_before_and_the_rest_is_unknown() {
    for head in ["none", "tied", "own"] {
        let base = language_model(head);
        let mut rule = rule(json!({"unknown": 3, "keep": [0]})).unwrap();
        let host = host(base.clone());
        let targets = host.with(|host| rule.targets(host)).unwrap();
        assert_eq!(targets[0].values, [json!("off"), json!(1.0), json!(0.8)]);
        let applied = host.with(|host| rule.apply(host, &action(1.0))).unwrap();
        // 7, 8, 9, 120 and 299 of the corpus, 0 and 3.
        assert!(
            applied.notes[0].starts_with("7 of 300 rows kept, which cover 16 of the corpus' 16 ids"),
            "{applied:?}"
        );
        let cut = host.candidate();
        assert_eq!(cut.graph.tensor("words").unwrap().shape(), [7, WIDTH]);
        if head == "own" {
            assert_eq!(cut.graph.tensor("scores.weight").unwrap().shape(), [7, WIDTH]);
            assert_eq!(cut.graph.tensor("scores.bias").unwrap().shape(), [7]);
        }
        assert!(cut.encoded_len() < base.encoded_len());
        let answers = |model: &Model, ids: &Numbers| values(&model.graph, &[("ids", ids.clone())]).remove("y").unwrap();
        for sentence in sentences() {
            let (before, after) = (answers(&base, &sentence), answers(&cut, &sentence));
            assert_eq!(before.shape, after.shape);
            for (at, (before, after)) in before.numbers.iter().zip(&after.numbers).enumerate() {
                let missing = head != "none" && ![0, 3, 7, 8, 9, 120, 299].contains(&(at % ROWS));
                match missing {
                    true => assert_eq!(*after, -100.0),
                    false => assert_eq!(after, before),
                }
            }
        }
        // A word that is gone is read as the unknown one.
        let with = |id: usize| Numbers::new(&[1, 4], vec![7.0, id as f32, 8.0, 299.0]);
        assert_eq!(answers(&cut, &with(55)), answers(&cut, &with(3)));
        assert_ne!(answers(&cut, &with(9)), answers(&cut, &with(3)));
    }
}

#[test]
fn a_smaller_share_keeps_the_most_frequent() {
    let mut rule = rule(json!({"unknown": 3})).unwrap();
    let host = host(language_model("none"));
    host.with(|host| rule.apply(host, &action(0.8))).unwrap();
    // Seven times 7, four times 9, three times 8: 13 of 16 are more than 80 %.
    assert_eq!(host.candidate().graph.tensor("words").unwrap().shape()[0], 4);
}

#[test]
fn the_graph_is_asked_for_ids_alone() {
    let mut rule = rule(json!({"unknown": 3})).unwrap();
    let host = host(language_model("own"));
    host.with(|host| rule.targets(host)).unwrap();
    host.with(|host| rule.targets(host)).unwrap();
    let asked = host.asked.lock().unwrap().clone();
    assert_eq!(asked, [["embedded".to_owned()]]);
}

#[test]
fn mistakes_are_told() {
    let refused = |config| rule(config).err().unwrap().to_string();
    assert!(refused(json!({})).starts_with("config.unknown: has to be given"));
    assert!(refused(json!({"unknown": 1, "samples": 0})).starts_with("config.samples"));
    let told = |config, model| {
        let mut rule = rule(config).unwrap();
        host(model).with(|host| rule.targets(host)).unwrap_err().to_string()
    };
    assert_eq!(
        told(json!({"unknown": 300}), language_model("none")),
        "config.unknown: the table `words` has 300 rows; there is no id 300"
    );
    assert!(told(json!({"unknown": 0, "input": "tokens"}), language_model("none")).contains("inputs that are: ids"));
    let mut shared = language_model("none");
    shared
        .graph
        .nodes
        .insert(0, Arc::new(Node::new("Relu", "other", &["words"], &["z"])));
    assert_eq!(
        told(json!({"unknown": 0}), shared),
        "tensor `words`: its rows cannot be removed: node `other` reads it, too"
    );
    let mut blind = rule(json!({"unknown": 0})).unwrap();
    let error = ModelHost::new(language_model("none"))
        .with(|host| blind.targets(host))
        .unwrap_err();
    assert!(
        error.to_string().contains("give the manifest `data.calibration`"),
        "{error}"
    );
    let mut wrong = host(language_model("none"));
    wrong.feeds = vec![Numbers::new(&[1, 4], vec![1.0, 2.0, 299.0, 3.0])];
    let mut bad = rule(json!({"unknown": 0})).unwrap();
    let error = wrong.with(|host| bad.apply(host, &action("most"))).unwrap_err();
    assert!(
        error.to_string().contains("takes \"off\" or a share above 0"),
        "{error}"
    );
}
