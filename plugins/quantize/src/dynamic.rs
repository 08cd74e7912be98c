//! Matrix products that quantize their inputs at run time, in the form that runtimes take for one kernel.

use std::collections::{BTreeMap, BTreeSet};

use kmr_sdk::{
    Error, Result,
    model::{Build, DType, Edit, Graph, Node, Patch},
};

use crate::values::is_unscaled;

/// Whether `node` can be such a product: a MatMul, or a Gemm that is one with a bias, of a stored matrix itself and not
/// of another form of one, but for its numbers in 32 bits.
pub fn can_be(graph: &Graph, node: &Node) -> bool {
    let stored = |weight: &str| {
        let cast = graph.node(weight).filter(|node| node.is("Cast"));
        let source = cast.and_then(|cast| cast.input(0)).unwrap_or(weight);
        graph.tensor(source).is_some()
    };
    if !node.input(1).is_some_and(stored) {
        return false;
    }
    let vector = |name: &str| graph.tensor(name).is_some_and(|bias| bias.shape().len() == 1);
    match node.op_type() {
        "MatMul" => true,
        "Gemm" => is_unscaled(node) && node.int("transA").unwrap_or(0) == 0 && node.input(2).is_none_or(vector),
        _ => false,
    }
}

/// Edits that make `products` of `graph`, whose weights a DequantizeLinear makes, products of integers.
///
/// # Errors
/// If a product is not what was made of it before.
pub fn quantized(graph: &Graph, products: &BTreeSet<&str>) -> Result<Patch> {
    let mut build = Build::on(graph);
    // One quantization for all who read the same value.
    let mut sources: BTreeMap<&str, [String; 3]> = BTreeMap::new();
    let mut weights: BTreeMap<&str, String> = BTreeMap::new();
    for node in graph.nodes.iter().filter(|node| products.contains(node.id())) {
        let malformed = || Error::unsupported("has no integer weights").at(node.label());
        let (input, weight) = node.input(0).zip(node.input(1)).ok_or_else(malformed)?;
        let decoding = graph
            .node(weight)
            .filter(|made| made.is("DequantizeLinear"))
            .ok_or_else(malformed)?;
        let (codes, scale) = decoding.input(0).zip(decoding.input(1)).ok_or_else(malformed)?;
        build.place(Some(node.id()));
        let source = sources.entry(input).or_insert_with(|| {
            let outputs = ["codes", "scale", "zero"].map(|part| build.name(&format!("{input}_{part}")));
            let names = outputs.each_ref().map(String::as_str);
            build.node_into("DynamicQuantizeLinear", &[input], &names, |node| node);
            outputs
        });
        let [x, x_scale, x_zero] = source.clone();
        let name = node.id();
        let turned = node.is("Gemm") && node.int("transB").unwrap_or(0) != 0;
        let codes = match (weights.get(weight), turned) {
            (Some(known), _) => known.clone(),
            (None, false) => codes.to_owned(),
            (None, true) => {
                let wanted = format!("{weight}_turned");
                build.node("Transpose", &[codes], &wanted, |node| node.with_ints("perm", &[1, 0]))
            }
        };
        weights.insert(weight, codes.clone());
        let sums = build.node(
            "MatMulInteger",
            &[&x, &codes, &x_zero],
            &format!("{name}_sums"),
            |node| node,
        );
        let real = build.node("Cast", &[&sums], &format!("{name}_real"), |node| {
            node.with_int("to", DType::FLOAT.number().into())
        });
        // Runtimes know the form in which the scales are multiplied first.
        let scales = build.node("Mul", &[&x_scale, scale], &format!("{name}_scales"), |node| node);
        match node.input(2) {
            Some(bias) if node.is("Gemm") => {
                let product = build.node("Mul", &[&real, &scales], &format!("{name}_product"), |node| node);
                build.node_into("Add", &[&product, bias], &[name], |node| node);
            }
            _ => build.node_into("Mul", &[&real, &scales], &[name], |node| node),
        }
        // Only now: new nodes are placed by the old one.
        build.edit(Edit::RemoveNode { node: name.to_owned() });
    }
    for weight in weights.keys() {
        build.edit(Edit::RemoveNode {
            node: (*weight).to_owned(),
        });
    }
    Ok(build.finish())
}
