//! The weights that can be quantized, and how they lie as matrices.

use std::borrow::Cow;

use kmr_calibration::Product;
use kmr_sdk::model::{Graph, GraphIndex, Node, Tensor, stored::initializer_of, weights};

use crate::values::stored_bits;

/// What reads a weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// Products whose inputs can be observed; every row of the matrix is one output of theirs.
    Products(Vec<Product>),
    /// Transposed convolutions, products of stacks of matrices, recurrent layers, and whatever lies in a subgraph.
    Unobserved,
    /// Gather: every row of the matrix is one entry. Products may read the rows, too.
    Embedding,
}

/// A float32 weight that can be quantized, or one of 16 bits that is only ever cast to float32.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The initializer, which is the target's id.
    pub tensor: String,
    /// What people call it.
    pub label: String,
    /// The ids of the nodes that multiply or gather it, in the order of the graph.
    pub nodes: Vec<String>,
    /// The id of the first node that reads it, before which it has to be there: the first of these, or one that gives it
    /// another form for them.
    pub reader: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The axis of its output channels: the rows of the matrix.
    pub axis: usize,
    /// What reads it.
    pub reads: Use,
    /// The bits that an element takes now.
    pub stored_bits: usize,
}

impl Layer {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The rows of the matrix: output channels.
    pub fn rows(&self) -> usize {
        self.shape[self.axis]
    }

    /// The columns of the matrix: everything that makes one output.
    pub fn columns(&self) -> usize {
        self.len() / self.rows().max(1)
    }

    /// Groups of the convolutions that read it.
    pub fn groups(&self) -> usize {
        match &self.reads {
            Use::Products(products) => products.first().map_or(1, |product| product.groups),
            _ => 1,
        }
    }

    /// The elements in the order of the matrix.
    pub fn in_matrix_order<'v, T: Copy>(&self, values: &'v [T]) -> Cow<'v, [T]> {
        match self.moves() {
            None => Cow::Borrowed(values),
            Some((before, rows, after)) => {
                let columns = before * after;
                let element = |at: usize| {
                    let (row, column) = (at / columns, at % columns);
                    values[(column / after * rows + row) * after + column % after]
                };
                Cow::Owned((0..values.len()).map(element).collect())
            }
        }
    }

    /// The elements of the matrix in the order of the tensor.
    pub fn in_tensor_order<'v, T: Copy>(&self, matrix: &'v [T]) -> Cow<'v, [T]> {
        match self.moves() {
            None => Cow::Borrowed(matrix),
            Some((before, rows, after)) => {
                let element = |at: usize| {
                    let (outer, row, inner) = (at / (rows * after), at / after % rows, at % after);
                    matrix[row * before * after + outer * after + inner]
                };
                Cow::Owned((0..matrix.len()).map(element).collect())
            }
        }
    }

    /// Elements before, along and after the axis, where the tensor lies otherwise than the matrix.
    fn moves(&self) -> Option<(usize, usize, usize)> {
        let before: usize = self.shape[..self.axis].iter().product();
        let after: usize = self.shape[self.axis + 1..].iter().product();
        (before > 1).then_some((before, self.shape[self.axis], after))
    }
}

/// The weights of `graph` that can be quantized, in the order in which nodes first read them.
pub fn layers(graph: &Graph, embeddings: bool) -> Vec<Layer> {
    let index = graph.index();
    let bits = |name: &str| stored_bits(graph, &index, name);
    let reader = |name: &str, nodes: &[String]| {
        let first = index.consumers(name).iter().map(|&(reader, _)| reader).min();
        let first = first.map(|reader| graph.nodes[reader].id().to_owned());
        first.or_else(|| nodes.first().cloned()).unwrap_or_default()
    };
    let found = weights::weights(graph).into_iter();
    let mut layers: Vec<Layer> = found
        .filter_map(|weight| bits(&weight.tensor).map(|bits| (weight, bits)))
        .map(|(weight, stored_bits)| {
            let nodes: Vec<String> = weight.readers.iter().map(|reader| reader.node.clone()).collect();
            Layer {
                stored_bits,
                label: label(&weight.tensor, weight.label()),
                reader: reader(&weight.tensor, &nodes),
                nodes,
                axis: weight.output_axis,
                reads: products(graph, &weight),
                tensor: weight.tensor,
                shape: weight.shape,
            }
        })
        .collect();
    if embeddings {
        for node in &graph.nodes {
            let Some(table) = embedding(graph, &index, node) else {
                continue;
            };
            let readers = index.consumers(table.value);
            let by_rows = |&(reader, slot): &(usize, usize)| {
                let node = &graph.nodes[reader];
                (slot == 0 && embedding(graph, &index, node).is_some()) || multiplies_rows(graph, &index, node, slot)
            };
            let known = layers.iter().any(|layer| layer.tensor == table.name);
            let inner = index.is_inner(table.name) && index.is_inner(table.value);
            let Some(stored_bits) = bits(table.name).filter(|_| !known && inner && readers.iter().all(by_rows)) else {
                continue;
            };
            let nodes: Vec<String> = readers
                .iter()
                .map(|&(reader, _)| graph.nodes[reader].id().to_owned())
                .collect();
            layers.push(Layer {
                tensor: table.name.to_owned(),
                label: label(table.value, node.label()),
                reader: reader(table.name, &nodes),
                nodes,
                shape: table.tensor.shape().to_vec(),
                axis: 0,
                reads: Use::Embedding,
                stored_bits,
            });
        }
    }
    let place = |layer: &Layer| layer.nodes.first().and_then(|node| index.producer(node));
    layers.sort_by_key(place);
    layers
}

/// A table that entries are looked up in.
struct Table<'g> {
    /// What is read.
    value: &'g str,
    /// The initializer: that, or what one Cast makes it of.
    name: &'g str,
    tensor: &'g Tensor,
}

/// The table that `node` looks entries up in.
fn embedding<'g>(graph: &'g Graph, index: &GraphIndex<'_>, node: &'g Node) -> Option<Table<'g>> {
    let value = node
        .input(0)
        .filter(|_| node.is("Gather") && node.int("axis").unwrap_or(0) == 0)?;
    let (name, tensor) = initializer_of(graph, index, value)?;
    let cast_once = name == value || index.sole_consumer(name).is_some();
    let fits = cast_once && tensor.shape().len() == 2 && !tensor.is_empty();
    fits.then_some(Table { value, name, tensor })
}

/// Whether `node` reads a matrix in this slot to multiply something with each of its rows, as the output layer of a model
/// does that is its table of embeddings, too.
fn multiplies_rows(graph: &Graph, index: &GraphIndex<'_>, node: &Node, slot: usize) -> bool {
    if node.is("Transpose") {
        let turned = node.ints("perm").is_none_or(|order| order == [1, 0]);
        let reads = |&(reader, slot): &(usize, usize)| slot == 1 && graph.nodes[reader].is("MatMul");
        return turned && index.is_inner(node.id()) && index.consumers(node.id()).iter().all(reads);
    }
    node.is("Gemm") && slot == 1 && node.int("transB") == Some(1)
}

fn products(graph: &Graph, weight: &weights::Weight) -> Use {
    let rank = weight.shape.len();
    let product = |reader: &weights::Reader| {
        let node = graph.node(&reader.node).filter(|node| node.label() == reader.label)?;
        let observed = match node.op_type() {
            // Of up to two spatial dimensions.
            "Conv" => (3..=4).contains(&rank),
            "Gemm" | "MatMul" => rank == 2,
            _ => false,
        };
        observed.then(|| {
            Some(Product {
                node: reader.node.clone(),
                input: reader.input.clone()?,
                groups: reader.groups,
            })
        })?
    };
    let products: Option<Vec<Product>> = weight.readers.iter().map(product).collect();
    products.map_or(Use::Unobserved, Use::Products)
}

/// What people call a layer: its weight without `.weight`, as training code names layers, or the node.
fn label(tensor: &str, node: &str) -> String {
    match tensor.strip_suffix(".weight") {
        Some(layer) if !layer.is_empty() => layer.to_owned(),
        _ => node.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use kmr_sdk::half;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{graph, node, tensor};

    fn layer(shape: &[usize], axis: usize) -> Layer {
        Layer {
            tensor: "w".into(),
            label: "w".into(),
            nodes: vec!["y".into()],
            reader: "y".into(),
            shape: shape.to_vec(),
            axis,
            reads: Use::Unobserved,
            stored_bits: 32,
        }
    }

    /// What reads a weight of 16 bits first is not the product, but the Cast before it.
    #[test]
    fn a_weight_is_needed_before_its_form() {
        let halves = Tensor::from_vec(vec![3, 4], vec![half::bf16::ONE; 12]);
        let nodes = vec![
            node("Relu", &["x"], "h"),
            node("Cast", &["w"], "wide").with_int("to", 1),
            node("Gemm", &["h", "wide"], "y").with_int("transB", 1),
        ];
        let found = layers(&graph(&[2, 4], &[("w", halves)], nodes), true);
        let told: Vec<_> = found
            .iter()
            .map(|layer| (&*layer.tensor, &*layer.nodes[0], &*layer.reader))
            .collect();
        assert_eq!(told, [("w", "y", "wide")]);
        assert_eq!(found[0].stored_bits, 16);
    }

    #[test]
    fn a_matrix_has_a_row_for_each_output() {
        let product = layer(&[2, 3], 1);
        assert_eq!(*product.in_matrix_order(&[0, 1, 2, 10, 11, 12]), [0, 10, 1, 11, 2, 12]);
        let transposed = layer(&[2, 2, 2], 1);
        assert_eq!(
            *transposed.in_matrix_order(&[0, 1, 2, 3, 4, 5, 6, 7]),
            [0, 1, 4, 5, 2, 3, 6, 7]
        );
    }

    #[test]
    fn a_table_of_16_bits_is_one_too() {
        let halves = Tensor::from_vec(vec![5, 4], vec![half::f16::ONE; 20]);
        let found = |readers: Vec<Node>| {
            let mut graph = Graph::new("tied");
            graph.initializers.insert("w_stored".into(), halves.clone().into());
            let cast = node("Cast", &["w_stored"], "table.weight").with_int("to", 1);
            graph.nodes = std::iter::once(cast).chain(readers).map(Into::into).collect();
            graph.outputs = vec![kmr_sdk::model::ValueInfo::untyped("y")];
            layers(&graph, true)
        };
        let rows = node("Gather", &["table.weight", "ids"], "rows");
        let tied = node("Gemm", &["rows", "table.weight"], "y").with_int("transB", 1);
        let [table] = &found(vec![rows.clone(), tied.clone()])[..] else {
            panic!("one table")
        };
        assert_eq!(
            (&*table.tensor, &*table.label, &*table.reader),
            ("w_stored", "table", "table.weight")
        );
        assert_eq!((table.stored_bits, &table.reads), (16, &Use::Embedding));
        // Another form of the table has to stay.
        let other = node("Cast", &["w_stored"], "other").with_int("to", 1);
        assert!(found(vec![other, rows, tied]).is_empty());
    }

    #[test]
    fn a_table_may_be_the_output_layer_too() {
        let table = |last: Vec<Node>| {
            let mut graph = Graph::new("tied");
            graph.initializers.insert("table.weight".into(), tensor(&[5, 3]).into());
            let rows = node("Gather", &["table.weight", "ids"], "rows");
            graph.nodes = std::iter::once(rows).chain(last).map(Into::into).collect();
            graph.outputs = vec![kmr_sdk::model::ValueInfo::untyped("y")];
            layers(&graph, true)
        };
        let turned = node("Transpose", &["table.weight"], "turned").with_ints("perm", &[1, 0]);
        let found = table(vec![turned.clone(), node("MatMul", &["rows", "turned"], "y")]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].axis, &found[0].reads), (0, &Use::Embedding));
        assert_eq!(found[0].nodes, ["rows", "turned"]);
        let product = node("Gemm", &["rows", "table.weight"], "y").with_int("transB", 1);
        assert_eq!(table(vec![product]).len(), 1);
        assert!(table(vec![node("MatMul", &["turned_otherwise", "table.weight"], "y")]).is_empty());
        assert!(table(vec![turned, node("MatMul", &["turned", "rows"], "y")]).is_empty());
    }

    proptest! {
        #[test]
        fn there_and_back(shape in prop::collection::vec(1_usize..5, 1..5), axis in 0_usize..5) {
            let layer = layer(&shape, axis % shape.len());
            let values: Vec<usize> = (0..layer.len()).collect();
            let matrix = layer.in_matrix_order(&values).into_owned();
            prop_assert_eq!(layer.in_tensor_order(&matrix), values);
        }
    }
}
