//! Multiplications of routed experts, whose numbers of tokens depend on data while their sum does not.

use std::collections::HashMap;

use crate::{Graph, experts, shapes::Shapes};

/// Multiply-accumulate operations by the id of the node that multiplies, for the experts of layers in which they can be
/// told: where all experts of a layer cost alike, each counts as what it has on average, and where every token goes to
/// every expert, each counts in full.
pub(super) fn of(graph: &Graph, shapes: &Shapes) -> HashMap<String, u64> {
    let mut counted = HashMap::new();
    for found in experts::find(graph) {
        counted.extend(layer(graph, shapes, &found).into_iter().flatten());
    }
    counted
}

fn layer(graph: &Graph, shapes: &Shapes, found: &experts::FoundExperts) -> Option<Vec<(String, u64)>> {
    let tokens = *shapes.shape(&found.tokens)?.first()? as u64;
    let (count, top_k) = (found.count() as u64, found.experts.router.top_k as u64);
    let makers: HashMap<&str, &crate::Node> = graph.nodes.iter().map(|node| (node.id(), &**node)).collect();
    let products = |expert: &experts::FoundExpert| -> Option<Vec<(String, u64)>> {
        let nodes = expert.nodes.iter().filter_map(|id| makers.get(id.as_str()));
        let products = nodes.filter(|node| node.is("Gemm") || node.is("MatMul"));
        let each = products.map(|node| {
            let weight = shapes.shape(node.input(1)?)?.iter();
            let each = weight.map(|&size| size as u64).try_fold(1_u64, u64::checked_mul)?;
            Some((node.id().to_owned(), each))
        });
        each.collect()
    };
    let all: Vec<Vec<(String, u64)>> = found.each.iter().map(products).collect::<Option<_>>()?;
    let costs = |products: &[(String, u64)]| products.iter().map(|&(_, each)| each).collect::<Vec<_>>();
    let alike = all.iter().all(|products| costs(products) == costs(&all[0]));
    if !alike && top_k != count {
        return None;
    }
    let mut shares = Vec::new();
    for (position, products) in (0_u64..).zip(all) {
        for (node, each) in products {
            let total = tokens.checked_mul(top_k)?.checked_mul(each)?;
            // Shares that add up to the whole.
            let until = |position: u64| (u128::from(total) * u128::from(position) / u128::from(count)) as u64;
            shares.push((node, until(position + 1) - until(position)));
        }
    }
    Some(shares)
}
