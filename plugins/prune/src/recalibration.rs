//! Batch normalization measured anew: what is left of a cut model has other means and variances.

use kmr_sdk::{
    Applied, Error, ErrorCode, Host, ObserveRequest, Result, Statistic,
    model::{DType, Edit, Graph, Patch, Tensor},
    wire::BatchNorm,
};

use crate::weights::finite;

/// The stored statistics of one BatchNormalization.
struct Statistics {
    input: String,
    mean: String,
    variance: String,
    channels: usize,
}

/// Replaces the mean and variance of every BatchNormalization of the candidate by those of its input on `samples` of
/// the calibration data, every normalization before it using its batch's own.
///
/// The variance is the population's, which is what ONNX's inference form divides by.
///
/// # Errors
/// If the candidate cannot be observed, or what is observed is not finite.
pub fn recalibrate(host: &Host<'_>, samples: usize, applied: &mut Applied) -> Result<()> {
    let graph = host.graph()?.graph;
    let norms = statistics(&graph, applied);
    if norms.is_empty() {
        return Ok(());
    }
    let mut values: Vec<String> = Vec::new();
    for norm in &norms {
        if !values.contains(&norm.input) {
            values.push(norm.input.clone());
        }
    }
    let observed = host.observe(&ObserveRequest {
        values,
        statistics: vec![Statistic::Mean, Statistic::Variance],
        samples: Some(samples),
        batch_norm: BatchNorm::Batch,
        ..Default::default()
    })?;
    let mut patch = Patch::new();
    for norm in &norms {
        for (name, statistic) in [(&norm.mean, Statistic::Mean), (&norm.variance, Statistic::Variance)] {
            let values = finite(
                observed.get(&norm.input, statistic)?,
                &format!("{}/{}", norm.input, statistic.name()),
            )?;
            if values.len() != norm.channels {
                let message = format!("has {} channels; its normalization has {}", values.len(), norm.channels);
                return Err(Error::new(ErrorCode::SHAPE, message).at(format!("value `{}`", norm.input)));
            }
            // Variances are not negative; rounding may say otherwise.
            let clean = |value: f32| {
                if statistic == Statistic::Variance {
                    value.max(0.0)
                } else {
                    value
                }
            };
            let tensor = Tensor::from_vec(vec![values.len()], values.into_iter().map(clean).collect::<Vec<f32>>());
            patch.push(Edit::StoreTensor {
                name: name.clone(),
                tensor,
            });
        }
    }
    host.edit(&patch)?;
    applied.notes.push(format!(
        "{} batch normalizations recalibrated on up to {samples} samples",
        norms.len()
    ));
    Ok(())
}

/// The statistics that can be replaced: float32 initializers that nothing else reads.
fn statistics(graph: &Graph, applied: &mut Applied) -> Vec<Statistics> {
    let index = graph.index();
    let mut found = Vec::new();
    for node in graph.nodes.iter().filter(|node| node.is("BatchNormalization")) {
        let own = |slot: usize| {
            let name = node.input(slot)?;
            let tensor = graph.tensor(name)?;
            (index.sole_consumer(name).is_some() && tensor.dtype() == DType::FLOAT)
                .then(|| (name.to_owned(), tensor.len()))
        };
        match (node.input(0), own(3), own(4)) {
            (Some(input), Some((mean, channels)), Some((variance, _))) => found.push(Statistics {
                input: input.to_owned(),
                mean,
                variance,
                channels,
            }),
            _ => applied.notes.push(format!(
                "`{}` keeps its statistics: they are no float32 tensors of its own",
                node.label()
            )),
        }
    }
    found
}
