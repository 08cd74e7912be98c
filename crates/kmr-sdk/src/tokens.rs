//! What a graph says of the tokens that it reads.

use kmr_model::{Graph, Node};

/// How many tokens a model knows: the rows of the table that the input `tokens` is looked up in, where that is an
/// initializer, or one of fewer bits through a Cast.
pub fn vocabulary(graph: &Graph, tokens: &str) -> Option<usize> {
    let lookup = |node: &Node| node.is("Gather") && node.input(1) == Some(tokens);
    let table = graph.nodes.iter().find(|node| lookup(node))?.input(0)?;
    let cast = graph.nodes.iter().find(|node| node.is("Cast") && node.id() == table);
    let stored = cast.and_then(|cast| cast.input(0)).unwrap_or(table);
    graph.tensor(stored)?.shape().first().copied()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kmr_model::Tensor;

    use super::*;

    #[test]
    fn tokens_are_counted_in_the_table_that_they_are_looked_up_in() {
        let mut graph = Graph::new("test");
        let table = Tensor::from_vec(vec![7, 2], vec![0.0_f32; 14]);
        graph.initializers.insert("stored".into(), table.into());
        graph.nodes = vec![
            Arc::new(Node::new("Cast", "", &["stored"], &["table"])),
            Arc::new(Node::new("Gather", "", &["other", "ids"], &["a"])),
        ];
        assert_eq!(vocabulary(&graph, "ids"), None, "a table that is computed");
        graph.nodes[1] = Arc::new(Node::new("Gather", "", &["table", "ids"], &["a"]));
        assert_eq!(vocabulary(&graph, "ids"), Some(7));
        assert_eq!(vocabulary(&graph, "positions"), None);
    }
}
