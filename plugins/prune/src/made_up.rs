//! Zeros that the weights which remain make up for: SparseGPT, stage by stage through the model, each on what the
//! stages before it really give.

use kmr_calibration::{Layer, Product, observe, stages};
use kmr_methods::{
    Matrix, MethodError,
    sparse_gpt::{Options, Pattern, sparse_gpt},
};
use kmr_sdk::{
    Error, Host, Result, RunRequest, log,
    model::{Graph, Model},
};

use crate::{
    importance::needs_data,
    weights::{Weight, finite_values},
    zeroing::Zeroing,
};

/// A weight, and where it gets zeros.
pub struct Wanted<'w> {
    pub weight: &'w Weight,
    pub pattern: Pattern,
}

/// Refuses weights whose inputs cannot be observed, and a host without calibration data.
///
/// # Errors
/// As it says.
pub fn check(host: &Host<'_>, graph: &Graph, weights: &[Weight]) -> Result<()> {
    for weight in weights {
        products(graph, weight)?;
    }
    let request = RunRequest {
        batch: Some(1),
        limit: Some(1),
        ..Default::default()
    };
    // Whatever else is wrong is told when the model is run in earnest.
    match host.run(&request).map_err(|error| needs_data(error, "sparsegpt", "l1")) {
        Err(error) if error.location == "config.importance" => Err(error),
        _ => Ok(()),
    }
}

/// Sets zeros in the weights of `model`, the candidate, by stages: what a stage multiplies is observed when the stages
/// before it have theirs. Only one stage's Gram matrices are held at a time.
///
/// # Errors
/// If the candidate cannot be observed, or a weight is not finite.
pub fn make_up(
    host: &Host<'_>,
    model: &Model,
    wanted: &[Wanted<'_>],
    samples: usize,
    zeroing: &mut Zeroing<'_>,
) -> Result<()> {
    let graph = &model.graph;
    let products: Vec<Vec<Product>> = wanted
        .iter()
        .map(|wanted| products(graph, wanted.weight))
        .collect::<Result<_>>()?;
    let nodes = products
        .iter()
        .map(|products| products.iter().map(|product| product.node.as_str()));
    for stage in stages(graph, nodes) {
        let layers: Vec<Layer<'_>> = stage
            .iter()
            .map(|&position| {
                let weight = wanted[position].weight;
                Layer {
                    products: &products[position],
                    shape: &weight.shape,
                    columns: weight.len() / weight.shape[weight.output_axis].max(1),
                    centered: false,
                }
            })
            .collect();
        let inputs = observe(host, graph, &layers, samples).map_err(|error| needs_data(error, "sparsegpt", "l1"))?;
        for ((&position, layer), inputs) in stage.iter().zip(&layers).zip(inputs) {
            let Wanted { weight, pattern } = &wanted[position];
            let grams: Vec<&[f64]> = inputs.iter().map(|inputs| inputs.metric.as_slice()).collect();
            let values = compensated(graph, weight, layer.columns, *pattern, &grams)?;
            zeroing.replace(weight, values)?;
        }
        zeroing.edit(host)?;
    }
    Ok(())
}

/// The values of `weight` with zeros, in the order of the tensor. There is a Gram matrix for each group.
fn compensated(graph: &Graph, weight: &Weight, columns: usize, pattern: Pattern, grams: &[&[f64]]) -> Result<Vec<f32>> {
    let mut values = finite_values(graph, &weight.tensor)?;
    let positions: Vec<usize> = weight.matrix_positions().collect();
    let matrix: Vec<f32> = positions.iter().map(|&position| values[position]).collect();
    let at = |error: MethodError| Error::unsupported(error.to_string()).at(format!("tensor `{}`", weight.tensor));
    let rows = matrix.len() / columns.max(1) / grams.len().max(1);
    let part = rows * columns;
    if part == 0 || part * grams.len() != matrix.len() {
        let message = "has outputs that its groups do not divide";
        return Err(Error::unsupported(message).at(format!("tensor `{}`", weight.tensor)));
    }
    for ((gram, values_of_group), positions) in grams.iter().zip(matrix.chunks(part)).zip(positions.chunks(part)) {
        let matrix = Matrix::new(rows, columns, values_of_group).map_err(at)?;
        let options = Options::default();
        let zeroed = match sparse_gpt(matrix, gram, pattern, &options) {
            // Inputs beyond what numbers can hold are taken as all alike.
            Err(error @ (MethodError::NotPositive { .. } | MethodError::NotFinite { .. })) => {
                log::warn!("tensor `{}` is judged by magnitudes: {error}", weight.tensor);
                let mut unit = vec![0.0; columns * columns];
                unit.iter_mut().step_by(columns + 1).for_each(|value| *value = 1.0);
                sparse_gpt(matrix, &unit, pattern, &options).map_err(at)?
            }
            zeroed => zeroed.map_err(at)?,
        };
        for (&position, value) in positions.iter().zip(zeroed) {
            values[position] = value;
        }
    }
    Ok(values)
}

/// The products that read `weight`.
///
/// # Errors
/// If what it multiplies cannot be observed.
fn products(graph: &Graph, weight: &Weight) -> Result<Vec<Product>> {
    let rank = weight.shape.len();
    let products = weight.readers.iter().map(|reader| {
        let node = graph.node(&reader.node).filter(|node| node.label() == reader.label);
        let observed = node.is_some_and(|node| match node.op_type() {
            "Conv" => (3..=4).contains(&rank),
            "Gemm" | "MatMul" => rank == 2,
            _ => false,
        });
        let input = reader.input.clone().filter(|_| observed);
        input
            .map(|input| Product {
                node: reader.node.clone(),
                input,
                groups: reader.groups,
            })
            .ok_or_else(|| {
                let message = "`sparsegpt` needs what a weight multiplies, which is known of matrix products with one \
                               matrix and of convolutions over up to two dimensions outside of subgraphs; take \
                               importance = \"l1\", or name this layer under ignore";
                Error::unsupported(message).at(format!("node `{}`", reader.label))
            })
    });
    products.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kmr_sdk::model::{DType, Dimension, Node, Tensor, ValueInfo};

    use super::*;
    use crate::testing::{
        ModelHost,
        arithmetic::{Value, values},
        noise,
    };

    const WIDTH: usize = 24;

    /// Two layers, the second with a row for each output; inputs that have much in common.
    fn host() -> ModelHost {
        let mut graph = Graph::new("layers");
        let shape = [Dimension::Named("N".into()), Dimension::Fixed(WIDTH)];
        graph.inputs = vec![ValueInfo::tensor("x", DType::FLOAT, &shape)];
        graph.outputs = vec![ValueInfo::tensor("y", DType::FLOAT, &shape)];
        for (name, seed) in [("first", 1), ("second", 2)] {
            let tensor = Tensor::from_vec(vec![WIDTH, WIDTH], noise(WIDTH * WIDTH, seed));
            graph.initializers.insert(name.into(), tensor.into());
        }
        for node in [
            Node::new("MatMul", "", &["x", "first"], &["product"]),
            Node::new("Relu", "", &["product"], &["h"]),
            Node::new("Gemm", "", &["h", "second"], &["y"]).with_int("transB", 1),
        ] {
            graph.nodes.push(Arc::new(node));
        }
        let mut host = ModelHost::new(Model::new(graph, 8, 17));
        let feed = |seed: u64| {
            let (common, own) = (noise(4 * 50, seed), noise(WIDTH * 50, seed + 1));
            let number = |at: usize| common[at / WIDTH * 4 + at % 4] + 0.3 * own[at];
            Value::new(&[50, WIDTH], (0..WIDTH * 50).map(number).collect())
        };
        host.feeds = vec![feed(10), feed(20)];
        host
    }

    /// How far the outputs are off after half of the weights are gone.
    fn off(host: &ModelHost, before: &Model) -> f32 {
        let after = host.candidate();
        let feed = [("x", host.feeds[0].clone())];
        let (left, right) = (&values(&before.graph, &feed)["y"], &values(&after.graph, &feed)["y"]);
        left.numbers
            .iter()
            .zip(&right.numbers)
            .map(|(a, b)| (a - b).powi(2))
            .sum()
    }

    #[test]
    fn what_remains_makes_up_for_zeros_layer_by_layer() {
        let host = host();
        let base = host.candidate();
        let weights = crate::weights::weights(&base.graph);
        let half = |weight: &Weight| {
            let mut order: Vec<usize> = (0..weight.len()).collect();
            let values = finite_values(&base.graph, &weight.tensor).unwrap();
            order.sort_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs()));
            order.truncate(weight.len() / 2);
            order
        };
        let mut magnitudes = Zeroing::of(&base);
        weights
            .iter()
            .for_each(|weight| magnitudes.zero(weight, half(weight)).unwrap());
        let simple = self::host();
        simple.with(|host| magnitudes.finish(host, true)).unwrap();

        let mut zeroing = Zeroing::of(&base);
        let wanted: Vec<Wanted<'_>> = weights
            .iter()
            .map(|weight| Wanted {
                weight,
                pattern: Pattern::Share { removed: WIDTH / 2 },
            })
            .collect();
        host.with(|host| make_up(host, &base, &wanted, 100, &mut zeroing))
            .unwrap();
        host.with(|host| zeroing.finish(host, true)).unwrap();
        for name in ["first", "second"] {
            let tensor = host.candidate().graph.tensor(name).unwrap().clone();
            let zeros = tensor.to_f32().unwrap().iter().filter(|value| **value == 0.0).count();
            assert_eq!(zeros, tensor.len() / 2);
        }
        let (ours, theirs) = (off(&host, &base), off(&simple, &base));
        assert!(ours < 0.4 * theirs, "{ours} {theirs}");
        // The second layer was looked at when the first was done.
        let asked = host.asked.lock().unwrap().clone();
        assert_eq!(asked, [["x".to_owned()], ["h".to_owned()]]);
    }

    #[test]
    fn what_cannot_be_observed_is_told() {
        let host = ModelHost::new(host().candidate());
        let graph = host.candidate().graph;
        let weights = crate::weights::weights(&graph);
        let error = host.with(|host| check(host, &graph, &weights)).unwrap_err().to_string();
        assert!(
            error.starts_with("config.importance: `sparsegpt` needs calibration data"),
            "{error}"
        );
        let mut inside = weights;
        inside[0].readers[0].input = None;
        let error = host.with(|host| check(host, &graph, &inside)).unwrap_err().to_string();
        assert!(error.contains("take importance = \"l1\""), "{error}");
    }
}
