//! Graphs inside of nodes: what they compute, what they read from around them, and that no bit depends on how
//! they are asked.

mod common;

use std::sync::Arc;

use common::{feeds, floats, integers, load, model, noise};
use kmr_compute::{Engine, ErrorKind, Feeds, Interpreter, Mode};
use kmr_model::{DType, Dimension, Graph, Model, Node, Tensor, ValueInfo};

/// A subgraph of these nodes. Outputs are declared as float32 of the shape `[2]`.
fn graph(nodes: &[Node], inputs: &[&str], initializers: &[(&str, Tensor)], outputs: &[&str]) -> Graph {
    let mut graph = Graph::new("inner");
    graph.nodes = nodes.iter().cloned().map(Arc::new).collect();
    for (name, tensor) in initializers {
        graph.initializers.insert((*name).to_owned(), tensor.clone().into());
    }
    let declared = |names: &[&str]| {
        let names = names.iter();
        names
            .map(|name| ValueInfo::tensor(name, DType::FLOAT, &[Dimension::Fixed(2)]))
            .collect()
    };
    (graph.inputs, graph.outputs) = (declared(inputs), declared(outputs));
    graph
}

fn truth(value: bool) -> Tensor {
    Tensor::new(DType::BOOL, vec![], vec![u8::from(value)].into()).unwrap()
}

fn choice(then_branch: Graph, else_branch: Graph) -> Node {
    let node = Node::new("If", "choice", &["condition"], &["y"]);
    node.with_subgraph("then_branch", &then_branch)
        .with_subgraph("else_branch", &else_branch)
}

/// `y = condition ? relu(2·x) + w : −x`, where `w` is an initializer around and 2 one inside.
fn choosing() -> (Model, [(&'static str, Tensor); 2]) {
    let then_branch = graph(
        &[
            Node::new("Mul", "", &["before", "two"], &["doubled"]),
            Node::new("Relu", "", &["doubled"], &["rectified"]),
            Node::new("Add", "", &["rectified", "w"], &["sum"]),
        ],
        &[],
        &[("two", floats(&[1], &[2.0]))],
        &["sum"],
    );
    let else_branch = graph(
        &[Node::new("Neg", "", &["before"], &["negated"])],
        &[],
        &[],
        &["negated"],
    );
    let nodes = vec![
        Node::new("Identity", "", &["x"], &["before"]),
        choice(then_branch, else_branch),
    ];
    let inputs = [("x", floats(&[2], &[1.0, -3.0])), ("condition", truth(true))];
    let mut model = model(17, nodes, &inputs[..1], &[("w", floats(&[2], &[10.0, 20.0]))], &["y"]);
    model
        .graph
        .inputs
        .push(ValueInfo::tensor("condition", DType::BOOL, &[]));
    (model, inputs)
}

fn forward(model: &Model, feeds: &Feeds) -> Vec<Tensor> {
    load(model).forward(feeds, &[], Mode::default()).unwrap()
}

#[test]
fn either_branch_runs_and_reads_what_is_around_it() {
    let (model, inputs) = choosing();
    let mut feeds = feeds(&inputs);
    assert_eq!(forward(&model, &feeds), [floats(&[2], &[12.0, 20.0])]);
    feeds.insert("condition".into(), truth(false));
    assert_eq!(forward(&model, &feeds), [floats(&[2], &[-1.0, 3.0])]);
}

#[test]
fn captured_values_may_be_fed_replaced_and_asked_for() {
    let (model, inputs) = choosing();
    let program = load(&model);
    let mut given = feeds(&inputs[1..]);
    given.insert("before".into(), floats(&[2], &[5.0, 6.0]));
    given.insert("w".into(), floats(&[2], &[0.5, 0.5]));
    let outputs = program.forward(&given, &["y", "before"], Mode::default()).unwrap();
    assert_eq!(outputs, [floats(&[2], &[10.5, 12.5]), floats(&[2], &[5.0, 6.0])]);

    let error = program.forward(&feeds(&inputs[1..]), &[], Mode::default()).unwrap_err();
    assert_eq!((error.kind(), error.place()), (ErrorKind::Name, "input `x`"));
}

#[test]
fn derivatives_go_through_the_branch_that_is_taken() {
    let (model, inputs) = choosing();
    let program = load(&model);
    for (taken, expected) in [(true, [2.0, 0.0]), (false, [-1.0, -1.0])] {
        let mut feeds = feeds(&inputs);
        feeds.insert("condition".into(), truth(taken));
        let pullback = program.pullback(&feeds, &["y"], &["x", "w"], Mode::default()).unwrap();
        assert_eq!(pullback.outputs(), forward(&model, &feeds));
        let gradients = pullback.pull(vec![floats(&[2], &[1.0, 1.0])]).unwrap();
        assert_eq!(gradients["x"], floats(&[2], &expected));
        let by_w = if taken { [1.0, 1.0] } else { [0.0, 0.0] };
        assert_eq!(gradients["w"], floats(&[2], &by_w));
    }
}

/// A loop that halves `state` and collects it, until it is smaller than 1 or the trips end.
fn halving(opset: i64) -> Model {
    let body = graph(
        &[
            Node::new("Mul", "", &["state", "half"], &["next"]),
            Node::new("ReduceMax", "", &["next"], &["largest"]).with_int("keepdims", 0),
            Node::new("Greater", "", &["largest", "one"], &["goes_on"]),
            Node::new("Add", "", &["next", "x"], &["collected"]),
        ],
        &["iteration", "condition_in", "state"],
        &[("half", floats(&[], &[0.5])), ("one", floats(&[], &[1.0]))],
        &["goes_on", "next", "collected"],
    );
    let node = Node::new("Loop", "loop", &["trips", "start", "x"], &["final", "all"]);
    let x = [("x", floats(&[2], &[8.0, 4.0]))];
    let mut model = model(
        opset,
        vec![node.with_subgraph("body", &body)],
        &x,
        &[],
        &["final", "all"],
    );
    model.graph.inputs.push(ValueInfo::tensor("trips", DType::INT64, &[]));
    model.graph.inputs.push(ValueInfo::tensor("start", DType::BOOL, &[]));
    model
}

#[test]
fn a_loop_ends_by_its_count_or_its_condition() {
    let model = halving(16);
    let run = |trips: i64, start: bool| {
        let inputs = [
            ("x", floats(&[2], &[8.0, 4.0])),
            ("trips", integers(&[], &[trips])),
            ("start", truth(start)),
        ];
        forward(&model, &feeds(&inputs))
    };
    let twice = [floats(&[2], &[2.0, 1.0]), floats(&[2, 2], &[12.0, 6.0, 10.0, 5.0])];
    assert_eq!(run(2, true), twice);
    assert_eq!(run(i64::MAX, true)[0], floats(&[2], &[1.0, 0.5]));
    assert_eq!(run(i64::MAX, true)[1].shape(), [3, 2]);
    for (trips, start) in [(0, true), (-1, true), (5, false)] {
        assert_eq!(run(trips, start), [floats(&[2], &[8.0, 4.0]), floats(&[0, 2], &[])]);
    }
}

#[test]
fn a_loop_without_end_is_an_error() {
    let body = graph(
        &[Node::new("Identity", "", &["condition_in"], &["condition_out"])],
        &["iteration", "condition_in", "state"],
        &[],
        &["condition_out", "state"],
    );
    let node = Node::new("Loop", "endless", &["", "", "x"], &["y"]).with_subgraph("body", &body);
    let x = [("x", floats(&[2], &[8.0, 4.0]))];
    let model = model(16, vec![node], &x, &[], &["y"]);
    let error = load(&model).forward(&feeds(&x), &[], Mode::default()).unwrap_err();
    assert!(error.to_string().contains("does not end"), "{error}");
}

#[test]
fn asking_for_more_and_starting_later_change_no_bit_in_and_around_subgraphs() {
    let x = [("x", noise(&[2, 3, 8, 8], 5))];
    let weights = [
        ("w", noise(&[3, 3, 3, 3], 6)),
        ("scale", noise(&[3], 7)),
        ("shift", noise(&[3], 8)),
        ("mean", noise(&[3], 9)),
        ("variance", floats(&[3], &[0.5, 1.0, 2.0])),
        ("trips", integers(&[], &[3])),
    ];
    let conv = |from: &str, to: &str| Node::new("Conv", to, &[from, "w"], &[to]).with_ints("pads", &[1, 1, 1, 1]);
    let body = graph(
        &[
            conv("state", "convolved"),
            Node::new(
                "BatchNormalization",
                "",
                &["convolved", "scale", "shift", "mean", "variance"],
                &["normalized"],
            ),
            Node::new("Add", "", &["normalized", "outer"], &["added"]),
            Node::new("Relu", "", &["added"], &["next"]),
            Node::new("Identity", "", &["condition_in"], &["condition_out"]),
        ],
        &["iteration", "condition_in", "state"],
        &[],
        &["condition_out", "next"],
    );
    let nodes = vec![
        conv("x", "first"),
        Node::new("Relu", "", &["first"], &["outer"]),
        Node::new("Loop", "", &["trips", "", "outer"], &["last"]).with_subgraph("body", &body),
        conv("last", "y"),
    ];
    let model = model(16, nodes, &x, &weights, &["y"]);
    let whole = |threads: usize, names: &[&str]| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| load(&model).forward(&feeds(&x), names, Mode::default()).unwrap())
    };
    let y = whole(1, &["y"]);
    let more = whole(3, &["first", "outer", "last", "y"]);
    assert_eq!(more[3], y[0]);
    for (name, value) in ["first", "outer", "last"].iter().zip(&more) {
        let mut given = feeds(&x);
        given.insert((*name).to_owned(), value.clone());
        let again = load(&model).forward(&given, &["y"], Mode::default()).unwrap();
        assert_eq!(again, y, "from `{name}`");
    }
    let tape = load(&model)
        .pullback(&feeds(&x), &["y"], &["w"], Mode::default())
        .unwrap();
    let close = tape.outputs()[0].values::<f32>().unwrap().into_owned();
    let expected = y[0].values::<f32>().unwrap().into_owned();
    assert!(
        close
            .iter()
            .zip(&expected)
            .all(|(a, b)| (a - b).abs() <= 1e-4 * b.abs().max(1.0))
    );
    let gradient = tape.pull(vec![floats(y[0].shape(), &vec![1.0; y[0].len()])]).unwrap();
    assert!(gradient["w"].values::<f32>().unwrap().iter().any(|&value| value != 0.0));
}

#[test]
fn an_unknown_operator_in_a_branch_is_in_the_way_of_that_branch_alone() {
    let fine = graph(&[Node::new("Neg", "", &["x"], &["a"])], &[], &[], &["a"]);
    let unknown = graph(&[Node::new("Nonsense", "odd", &["x"], &["a"])], &[], &[], &["a"]);
    let inputs = [("x", floats(&[2], &[1.0, 2.0]))];
    let mut model = model(17, vec![choice(unknown, fine)], &inputs, &[], &["y"]);
    model
        .graph
        .inputs
        .push(ValueInfo::tensor("condition", DType::BOOL, &[]));
    let refusals = Interpreter.supports(&model);
    assert_eq!((refusals.len(), refusals[0].node.as_str()), (1, "odd"));
    let mut given = feeds(&inputs);
    given.insert("condition".into(), truth(true));
    let error = load(&model).forward(&given, &[], Mode::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(
        error.to_string(),
        "node `odd`: operator `Nonsense` (opset 17) is not supported"
    );
    given.insert("condition".into(), truth(false));
    assert_eq!(forward(&model, &given), [floats(&[2], &[-1.0, -2.0])]);
}

#[test]
fn values_that_do_not_exist_around_a_subgraph_are_errors_that_name_them() {
    let missing = || graph(&[Node::new("Neg", "", &["nowhere"], &["a"])], &[], &[], &["a"]);
    let unsorted = || {
        let nodes = [
            Node::new("Neg", "", &["later"], &["a"]),
            Node::new("Neg", "", &["condition"], &["later"]),
        ];
        graph(&nodes, &[], &[], &["a"])
    };
    for (inner, named) in [(missing(), "nowhere"), (unsorted(), "later")] {
        let nodes = vec![choice(inner.clone(), inner)];
        let model = model(17, nodes, &[], &[("condition", truth(true))], &["y"]);
        let Err(error) = Interpreter.load(&model) else {
            panic!("`{named}` was found");
        };
        assert_eq!(error.kind(), ErrorKind::Name);
        assert!(error.to_string().contains(&format!("`{named}`")), "{error}");
    }
}

#[test]
fn graphs_nest_as_deep_as_the_limit_and_are_refused_behind_it() {
    let nested = |depth: usize| {
        let mut inner = graph(&[Node::new("Neg", "", &["x"], &["y"])], &[], &[], &["y"]);
        for _ in 1..depth {
            inner = graph(&[choice(inner.clone(), inner_leaf())], &[], &[], &["y"]);
        }
        let x = [("x", floats(&[2], &[1.0, 2.0]))];
        let mut model = model(17, vec![choice(inner, inner_leaf())], &x, &[], &["y"]);
        model
            .graph
            .inputs
            .push(ValueInfo::tensor("condition", DType::BOOL, &[]));
        let mut given = feeds(&x);
        given.insert("condition".into(), truth(true));
        load(&model).forward(&given, &[], Mode::default())
    };
    assert_eq!(nested(48).unwrap(), [floats(&[2], &[-1.0, -2.0])]);
    let error = nested(49).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("48 deep"), "{error}");
}

fn inner_leaf() -> Graph {
    graph(&[Node::new("Abs", "", &["x"], &["y"])], &[], &[], &["y"])
}

#[test]
fn sequences_and_optionals_live_between_nodes() {
    // Collects iteration numbers in a sequence, and joins them.
    let body = graph(
        &[
            Node::new("SequenceInsert", "", &["list", "iteration"], &["longer"]),
            Node::new("Identity", "", &["condition_in"], &["condition_out"]),
        ],
        &["iteration", "condition_in", "list"],
        &[],
        &["condition_out", "longer"],
    );
    let nodes = vec![
        Node::new("SequenceEmpty", "", &[], &["empty"]).with_int("dtype", 7),
        Node::new("Loop", "", &["x", "", "empty"], &["list"]).with_subgraph("body", &body),
        Node::new("ConcatFromSequence", "", &["list"], &["joined"])
            .with_int("axis", 0)
            .with_int("new_axis", 1),
        Node::new("SequenceLength", "", &["list"], &["length"]),
        Node::new("SequenceErase", "", &["list", "first"], &["shorter"]),
        Node::new("SequenceAt", "", &["shorter", "first"], &["second"]),
        Node::new("Optional", "", &["second"], &["perhaps"]),
        Node::new("OptionalHasElement", "", &["perhaps"], &["there"]),
        Node::new("OptionalGetElement", "", &["perhaps"], &["element"]),
    ];
    let x = [("x", integers(&[], &[4]))];
    let outputs = ["joined", "length", "second", "there", "element"];
    let model = model(18, nodes, &x, &[("first", integers(&[], &[0]))], &outputs);
    let expected = [
        integers(&[4], &[0, 1, 2, 3]),
        integers(&[], &[4]),
        integers(&[], &[1]),
        truth(true),
        integers(&[], &[1]),
    ];
    assert_eq!(forward(&model, &feeds(&x)), expected);

    let error = load(&model)
        .forward(&feeds(&x), &["list"], Mode::default())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("is a sequence"), "{error}");
}
