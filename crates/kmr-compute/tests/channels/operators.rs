//! Every operator of the conformance suites between two products: the one before it makes each axis of its inputs
//! into channels, the one after it sums over each axis of its outputs.

use std::{collections::BTreeMap, sync::Arc};

use kmr_compute::Feeds;
use kmr_conformance::{Case, cases};
use kmr_model::{
    DType, Graph, Initializer, Model, Node, Tensor, ValueInfo,
    codec::tensor_from_message,
    proto,
    shapes::{self, Shapes},
};

use super::{
    check::{Tally, every_group},
    silence::Random,
};

/// Longer axes are left as they are.
const LONGEST: usize = 16;

#[test]
fn what_operators_lose_their_outputs_lose() {
    let mut total = Tally::default();
    let (mut models, mut offering) = (0, 0);
    let mut by_suite: BTreeMap<String, (usize, usize, usize)> = BTreeMap::new();
    for case in cases().unwrap() {
        for all in [false, true] {
            let Some((model, feeds)) = between_products(&case, all) else {
                continue;
            };
            models += 1;
            let tally = every_group(&case.path(), &model, &feeds);
            offering += usize::from(tally.groups > 0);
            let counts = by_suite.entry(case.suite.clone()).or_default();
            counts.0 += 1;
            counts.1 += tally.groups;
            counts.2 += tally.compared;
            total.add(tally);
        }
    }
    println!("{models} models, {offering} of them with groups; models, groups, cuts compared: {by_suite:#?}");
    println!("{total:#?}");
    assert!(
        models > 1000 && offering > 500,
        "{offering} of {models} models have groups"
    );
    assert!(total.compared > 2000 && total.changed * 2 > total.compared, "{total:?}");
}

/// The case as the middle of a network: its first input of floats is fed through products, the others are stored; with
/// `all`, stored floats go through products, too.
fn between_products(case: &Case, all: bool) -> Option<(Model, Feeds)> {
    let model = Model::decode(case.model.clone()).ok()?;
    let data = case.data.first()?;
    if model.opset() < 7 {
        return None;
    }
    let mut around = Around {
        graph: model.graph.clone(),
        before: Vec::new(),
        after: Vec::new(),
        random: Random(5),
    };
    let mut feeds = Feeds::new();
    let inputs = std::mem::take(&mut around.graph.inputs);
    for (place, input) in inputs.iter().enumerate() {
        let name = input.name();
        if around.graph.initializers.contains_key(name) {
            continue;
        }
        let message = proto_of(data.inputs.get(place)?.as_ref()?)?;
        let tensor = tensor_from_message(&message).ok()?;
        // Nothing times zero makes a number of what is none.
        if tensor
            .to_f32()
            .is_ok_and(|values| values.iter().any(|value| !value.is_finite()))
        {
            return None;
        }
        let wrapped = kind(tensor.dtype()).is_some() && !tensor.shape().is_empty() && !tensor.is_empty();
        if !wrapped || !(feeds.is_empty() || all) {
            around
                .graph
                .initializers
                .insert(name.to_owned(), Initializer::from(tensor));
            continue;
        }
        let raw = format!("{name}/raw");
        if feeds.is_empty() {
            let sizes: Vec<_> = tensor
                .shape()
                .iter()
                .map(|&size| kmr_model::Dimension::Fixed(size))
                .collect();
            around
                .graph
                .inputs
                .push(ValueInfo::tensor(&raw, tensor.dtype(), &sizes));
            feeds.insert(raw.clone(), tensor.clone());
        } else {
            around
                .graph
                .initializers
                .insert(raw.clone(), Initializer::from(tensor.clone()));
        }
        around.make_channels(&raw, name, &tensor);
    }
    if feeds.is_empty() {
        return None;
    }
    let mut nodes = std::mem::take(&mut around.before);
    nodes.extend(around.graph.nodes.iter().cloned());
    around.graph.nodes = nodes;
    around.graph.value_info.clear();
    let sizes = feeds
        .iter()
        .map(|(name, value)| (name.clone(), value.shape().to_vec()))
        .collect();
    let middle = model.with_graph(around.graph.clone());
    let shapes = shapes::infer(&middle, &sizes).ok()?;
    let outputs: Vec<String> = around
        .graph
        .outputs
        .iter()
        .map(|output| output.name().to_owned())
        .collect();
    around.graph.outputs.clear();
    for output in outputs.iter().filter(|output| !output.is_empty()) {
        around.sum(output, &shapes);
    }
    if around.graph.outputs.is_empty() {
        return None;
    }
    let after = std::mem::take(&mut around.after);
    around.graph.nodes.extend(after);
    around.graph.check().ok()?;
    Some((model.with_graph(around.graph), feeds))
}

fn proto_of(bytes: &[u8]) -> Option<proto::TensorProto> {
    buffa::Message::decode_from_slice(bytes).ok()
}

/// The number of the type, if values of it can be made from floats and counted as floats.
fn kind(dtype: DType) -> Option<i64> {
    let kinds = [
        DType::FLOAT,
        DType::DOUBLE,
        DType::FLOAT16,
        DType::UINT8,
        DType::INT8,
        DType::INT32,
    ];
    kinds.contains(&dtype).then(|| dtype.number().into())
}

struct Around {
    graph: Graph,
    before: Vec<Arc<Node>>,
    after: Vec<Arc<Node>>,
    random: Random,
}

impl Around {
    /// Nearly the unit matrix, with nothing negative in it.
    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> String {
        let name = format!("{name}/matrix");
        let values = (0..rows * columns).map(|element| {
            let noise = 0.3 * self.random.float().abs();
            if element / columns == element % columns {
                1.0 + noise
            } else {
                noise
            }
        });
        let tensor = Tensor::from_vec(vec![rows, columns], values.collect());
        self.graph.initializers.insert(name.clone(), Initializer::from(tensor));
        name
    }

    /// Nodes that multiply `axis` of `x` by a matrix: the last one writes `y`.
    fn product(&mut self, x: &str, y: &str, rank: usize, axis: usize, [rows, columns]: [usize; 2]) -> Vec<Arc<Node>> {
        let matrix = self.matrix(y, rows, columns);
        let mut order: Vec<i64> = (0..rank as i64).collect();
        order.swap(axis, rank - 1);
        let [turned, multiplied] = ["turned", "multiplied"].map(|what| format!("{y}/{what}"));
        let nodes = [
            Node::new("Transpose", "", &[x], &[&turned]).with_ints("perm", &order),
            Node::new("MatMul", "", &[&turned, &matrix], &[&multiplied]),
            Node::new("Transpose", "", &[&multiplied], &[y]).with_ints("perm", &order),
        ];
        nodes.map(Arc::new).into()
    }

    /// Makes every axis of `name` into channels, from `raw`.
    fn make_channels(&mut self, raw: &str, name: &str, tensor: &Tensor) {
        let cast =
            |from: &str, to: &str, dtype: i64| Arc::new(Node::new("Cast", "", &[from], &[to]).with_int("to", dtype));
        let mut value = format!("{name}/0");
        self.before.push(cast(raw, &value, 1));
        let rank = tensor.shape().len();
        for (axis, &size) in tensor
            .shape()
            .iter()
            .enumerate()
            .filter(|(_, size)| (2..=LONGEST).contains(*size))
        {
            let next = format!("{name}/{}", axis + 1);
            let nodes = self.product(&value, &next, rank, axis, [size, size]);
            self.before.extend(nodes);
            value = next;
        }
        let kind = kind(tensor.dtype()).unwrap_or(1);
        self.before.push(cast(&value, name, kind));
    }

    /// Sums over every axis of `output`, in two ways each.
    fn sum(&mut self, output: &str, shapes: &Shapes) {
        let Some(known) = shapes.get(output) else {
            return;
        };
        if known.dtype == DType::STRING || known.shape.contains(&0) {
            return;
        }
        let mut value = format!("{output}/0");
        let cast = Node::new("Cast", "", &[output], &[&value]).with_int("to", 1);
        self.after.push(Arc::new(cast));
        let rank = known.shape.len();
        for (axis, &size) in known.shape.iter().enumerate() {
            let next = format!("{output}/{}", axis + 1);
            let nodes = self.product(&value, &next, rank, axis, [size, 2]);
            self.after.extend(nodes);
            value = next;
        }
        self.graph.outputs.push(ValueInfo::tensor(&value, DType::FLOAT, &[]));
    }
}
