//! Tables that words are looked up in, and products that score words.

use std::collections::{BTreeMap, HashSet};

use kmr_sdk::{
    Error, Result,
    model::{DType, Graph, GraphIndex, Model, Node, shapes::Shapes, stored::own_initializer_of},
};

/// Nodes that may lie between a model's input and the lookup of its ids, or a matrix and its product.
const FORMS: usize = 16;

/// A model's words.
#[derive(Clone, Debug, PartialEq)]
pub struct Vocabulary {
    /// How many there are.
    pub rows: usize,
    /// The tables, one at least.
    pub tables: Vec<Table>,
    /// The products that score words.
    pub heads: Vec<Head>,
}

/// A table with a row for each word.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The initializer: words × width.
    pub tensor: String,
    /// Who looks words up in it, one at least.
    pub lookups: Vec<Lookup>,
}

/// A Gather.
#[derive(Clone, Debug, PartialEq)]
pub struct Lookup {
    /// The node's id.
    pub node: String,
    /// The value that holds ids.
    pub ids: String,
}

/// A product that gives each word a score, on the last axis of what it makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// The product's id.
    pub product: String,
    /// The initializer with the words, and their axis.
    pub weight: (String, usize),
    /// The initializer, of one number for each word, that is added.
    pub bias: Option<String>,
    /// The id of the node whose output has all of this: the product, or the sum with the bias.
    pub end: String,
    /// The rank of that.
    pub rank: usize,
    /// Its element type.
    pub dtype: DType,
}

impl Vocabulary {
    /// The ids of the nodes that lose words.
    pub fn nodes(&self) -> Vec<String> {
        let lookups = self
            .tables
            .iter()
            .flat_map(|table| &table.lookups)
            .map(|lookup| &lookup.node);
        lookups
            .chain(self.heads.iter().map(|head| &head.product))
            .cloned()
            .collect()
    }
}

/// The vocabulary that `input` is looked up in, or the largest one; none if there is none. `outputs` says whether
/// products that score its words belong to it.
///
/// # Errors
/// If there is no such input, or something else reads the table.
pub fn find(model: &Model, shapes: &Shapes, input: Option<&str>, outputs: bool) -> Result<Option<Vocabulary>> {
    let graph = &model.graph;
    let index = graph.index();
    // By input and size: the lookups in each table, in the order of the graph.
    let mut found: Vec<(&str, usize, Table)> = Vec::new();
    for node in &graph.nodes {
        let Some((tensor, rows, ids)) = lookup(graph, &index, node) else {
            continue;
        };
        let Some(feed) = source(graph, &index, ids) else {
            continue;
        };
        let lookup = Lookup {
            node: node.id().to_owned(),
            ids: ids.to_owned(),
        };
        match found
            .iter_mut()
            .find(|(of, _, table)| *of == feed && table.tensor == tensor)
        {
            Some((_, _, table)) => table.lookups.push(lookup),
            None => {
                let table = Table {
                    tensor: tensor.to_owned(),
                    lookups: vec![lookup],
                };
                found.push((feed, rows, table));
            }
        }
    }
    let wanted = |feed: &str| input.is_none_or(|input| input == feed);
    let largest = found
        .iter()
        .filter(|(feed, ..)| wanted(feed))
        .max_by_key(|(_, rows, _)| *rows);
    let Some(&(feed, rows, _)) = largest else {
        return match input {
            Some(input) => {
                let feeds: Vec<&str> = found.iter().map(|(feed, ..)| *feed).collect();
                let message = format!(
                    "no table is looked up by `{input}`; inputs that are: {}",
                    feeds.join(", ")
                );
                Err(Error::invalid_configuration(message).at("config.input"))
            }
            None => Ok(None),
        };
    };
    let of_it = found.into_iter().filter(|(of, size, _)| (*of, *size) == (feed, rows));
    let tables: Vec<Table> = of_it.map(|(_, _, table)| table).collect();
    let heads = heads(model, shapes, &index, &tables, rows, outputs);
    for table in &tables {
        alone(graph, &index, table, &heads)?;
    }
    Ok(Some(Vocabulary { rows, tables, heads }))
}

/// The table, its rows and the ids of a lookup. A table that is stored in fewer bits may be cast first.
fn lookup<'g>(graph: &'g Graph, index: &GraphIndex<'_>, node: &'g Node) -> Option<(&'g str, usize, &'g str)> {
    let looks_up = node.is("Gather") && node.int("axis").unwrap_or(0) == 0;
    let (mut table, ids) = node.input(0).zip(node.input(1)).filter(|_| looks_up)?;
    for _ in 0..FORMS {
        if graph.tensor(table).is_some() {
            break;
        }
        let maker = &graph.nodes[index.producer(table)?];
        table = maker.input(0).filter(|_| maker.is("Cast") || maker.is("Identity"))?;
    }
    let tensor = graph.tensor(table).filter(|tensor| tensor.dtype().is_float())?;
    match *tensor.shape() {
        [rows, width] if rows > 0 && width > 0 => Some((table, rows, ids)),
        _ => None,
    }
}

/// The input of the model that `ids` are, in other forms at most.
fn source<'g>(graph: &'g Graph, index: &GraphIndex<'_>, ids: &'g str) -> Option<&'g str> {
    let mut value = ids;
    for _ in 0..FORMS {
        if graph.feeds().any(|feed| feed.name() == value) {
            return Some(value);
        }
        let maker = &graph.nodes[index.producer(value)?];
        let forms = [
            "Cast",
            "Identity",
            "Reshape",
            "Flatten",
            "Squeeze",
            "Unsqueeze",
            "Transpose",
            "Slice",
        ];
        if !maker.domain().is_empty() || !forms.contains(&maker.op_type()) {
            return None;
        }
        value = maker.input(0)?;
    }
    None
}

/// The initializer that a product's right operand is, or is another form of, and the axis of its outputs there.
fn matrix<'g>(graph: &'g Graph, index: &GraphIndex<'_>, product: &'g Node) -> Option<(&'g str, usize)> {
    let mut axis = match product.op_type() {
        "MatMul" => 1,
        "Gemm" if product.int("transA").unwrap_or(0) == 0 => usize::from(product.int("transB").unwrap_or(0) == 0),
        _ => return None,
    };
    let mut value = product.input(1).filter(|_| product.domain().is_empty())?;
    for _ in 0..FORMS {
        if let Some(tensor) = graph.tensor(value) {
            let fits = tensor.shape().len() == 2 && tensor.dtype().is_float();
            return fits.then_some((value, axis));
        }
        let maker = &graph.nodes[index.producer(value)?];
        match maker.op_type() {
            _ if !maker.domain().is_empty() => return None,
            "Transpose" if matches!(maker.ints("perm"), None | Some([1, 0])) => axis = 1 - axis,
            "Cast" | "Identity" => {}
            _ => return None,
        }
        value = maker.input(0)?;
    }
    None
}

/// The products with one of `tables`; with `outputs`, also those with a matrix of its own whose scores the model shows.
fn heads(
    model: &Model,
    shapes: &Shapes,
    index: &GraphIndex<'_>,
    tables: &[Table],
    rows: usize,
    outputs: bool,
) -> Vec<Head> {
    let graph = &model.graph;
    let mut heads = Vec::new();
    for product in &graph.nodes {
        let Some((weight, axis)) = matrix(graph, index, product) else {
            continue;
        };
        let size = graph
            .tensor(weight)
            .and_then(|tensor| tensor.shape().get(axis).copied());
        let tied = tables.iter().any(|table| table.tensor == weight);
        let scores = outputs && is_shown(graph, index, product.id());
        if size != Some(rows) || !(tied && axis == 0 || scores) {
            continue;
        }
        // The vector that `value` is, or is a Cast of, if nothing else reads it.
        let own = |value: &str| {
            let (name, vector) = own_initializer_of(graph, index, value)?;
            (vector.shape() == [rows]).then(|| name.to_owned())
        };
        let (mut bias, mut end) = (product.input(2).and_then(own), product.id());
        // A bias that is shared, or one number for all, is not cut; the product could not take it then.
        let shared = product.input(2).is_some() && bias.is_none();
        if let Some((reader, _)) = index.sole_consumer(product.id())
            && graph.nodes[reader].is("Add")
            && product.input(2).is_none()
        {
            let sum = &graph.nodes[reader];
            if let Some(added) = sum.inputs().iter().find_map(|added| own(added)) {
                (bias, end) = (Some(added), sum.id());
            }
        }
        let known = shapes.shape(end).map(<[usize]>::len).zip(shapes.dtype(end));
        let Some((rank, dtype)) = known.filter(|_| !shared) else {
            continue;
        };
        heads.push(Head {
            product: product.id().to_owned(),
            weight: (weight.to_owned(), axis),
            bias,
            end: end.to_owned(),
            rank,
            dtype,
        });
    }
    heads
}

/// Whether the model puts `value` out, through nodes that work on each element, or give it another shape, at most.
fn is_shown(graph: &Graph, index: &GraphIndex<'_>, value: &str) -> bool {
    let mut seen: HashSet<&str> = HashSet::new();
    let mut waiting = vec![value];
    while let Some(value) = waiting.pop() {
        if graph.outputs.iter().any(|output| output.name() == value) {
            return true;
        }
        for &(reader, _) in index.consumers(value) {
            let node = &graph.nodes[reader];
            let each = [
                "Reshape",
                "Add",
                "Sub",
                "Mul",
                "Div",
                "Tanh",
                "Cast",
                "Identity",
                "Softmax",
                "LogSoftmax",
            ];
            if node.domain().is_empty() && each.contains(&node.op_type()) && seen.insert(node.id()) {
                waiting.push(node.id());
            }
        }
    }
    false
}

/// Refuses a table that anything but its lookups and the heads reads.
fn alone(graph: &Graph, index: &GraphIndex<'_>, table: &Table, heads: &[Head]) -> Result<()> {
    let refused = |reader: &str| {
        let message = format!("its rows cannot be removed: {reader} reads it, too");
        Err(Error::unsupported(message).at(format!("tensor `{}`", table.tensor)))
    };
    if !index.is_inner(&table.tensor) {
        return refused("a subgraph or an output of the model");
    }
    // Forms of the table, each read by products of the heads or by other forms.
    let mut waiting: BTreeMap<&str, usize> = BTreeMap::from([(table.tensor.as_str(), 0)]);
    while let Some((value, depth)) = waiting.pop_first() {
        for &(reader, slot) in index.consumers(value) {
            let node = &graph.nodes[reader];
            let looks_up = slot == 0 && table.lookups.iter().any(|lookup| lookup.node == node.id());
            let scores = slot == 1 && heads.iter().any(|head| head.product == node.id());
            if looks_up || scores {
                continue;
            }
            let form = node.domain().is_empty() && ["Transpose", "Cast", "Identity"].contains(&node.op_type());
            if !form || depth >= FORMS || !index.is_inner(node.id()) {
                return refused(&format!("node `{}`", node.label()));
            }
            waiting.insert(node.id(), depth + 1);
        }
    }
    Ok(())
}
