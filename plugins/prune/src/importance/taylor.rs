//! The first-order change of the loss when a weight is set to zero: |w · ∂L/∂w|, after "Importance Estimation for
//! Neural Network Pruning" (arXiv 1906.10771, equation 8), one term per batch of calibration data.

use kmr_sdk::{
    Batch, Error, Host, Result, SessionRequest,
    model::{Edit, Graph, Patch, Tensor, stored::is_only_cast},
};

use super::{ElementScores, needs_data};
use crate::weights::{finite, finite_values};

/// Samples in each batch: each batch adds one |w · g|, and in large batches gradients cancel out.
const BATCH: usize = 32;

/// |w · g| of the initializers `names`, summed over batches of about `samples` calibration samples.
///
/// The loss is the cross entropy with the labels; without labels, with the class that the model itself finds most
/// likely. Where the first output is no row of class scores, it is half the output's squared norm.
///
/// # Errors
/// If the model cannot be differentiated, there is no data, or a number is not finite.
pub fn scores(host: &Host<'_>, graph: &Graph, names: &[String], samples: usize) -> Result<ElementScores> {
    let request = SessionRequest {
        trainable: names.to_vec(),
        batch: Some(BATCH.min(samples)),
        seed: host.seed()?,
        ..Default::default()
    };
    let without_data = |error| needs_data(error, "taylor", "group_l2");
    let weights = names
        .iter()
        .map(|name| finite_values(graph, name))
        .collect::<Result<Vec<_>>>()?;
    let widened = widened(graph, names, &weights);
    let mut session = host.open_session_with(&request, &widened).map_err(without_data)?;
    drop(widened);
    let mut sums: Vec<Vec<f32>> = weights.iter().map(|values| vec![0.0; values.len()]).collect();
    let mut seen = 0;
    while seen < samples {
        host.progress(seen as f64 / samples as f64, "taylor importance")?;
        let Some(batch) = session.next_batch().map_err(without_data)? else {
            break;
        };
        seen += batch.size;
        session.clear()?;
        let outputs = session.forward(&[])?;
        let (name, output) = outputs
            .first()
            .ok_or_else(|| Error::unsupported("the model has no output"))?;
        let cotangent = cotangent(&batch, name, output)?;
        session.backward(&[(name, &cotangent)])?;
        for ((name, values), sums) in names.iter().zip(&weights).zip(&mut sums) {
            let gradient = finite(&session.gradient(name)?, &format!("gradient of {name}"))?;
            if gradient.len() != sums.len() {
                let message = format!("has {} elements; its tensor has {}", gradient.len(), sums.len());
                return Err(Error::unsupported(message).at(format!("gradient of `{name}`")));
            }
            for ((sum, value), gradient) in sums.iter_mut().zip(values).zip(&gradient) {
                *sum += (value * gradient).abs();
            }
        }
    }
    if seen == 0 {
        let message = "the calibration data has no samples; `taylor` needs some, `group_l2` needs none";
        return Err(Error::invalid_configuration(message).at("config.importance"));
    }
    Ok(names.iter().cloned().zip(sums).collect())
}

/// Edits that make weights of 16 bits float32, as derivatives have to be, where nodes only ever cast them.
fn widened(graph: &Graph, names: &[String], weights: &[Vec<f32>]) -> Patch {
    let index = graph.index();
    let mut patch = Patch::new();
    for (name, values) in names.iter().zip(weights) {
        let short = graph.tensor(name).filter(|_| is_only_cast(graph, &index, name));
        if let Some(tensor) = short {
            patch.push(Edit::StoreTensor {
                name: name.clone(),
                tensor: Tensor::from_vec(tensor.shape().to_vec(), values.clone()),
            });
        }
    }
    patch
}

/// The derivative of the batch's mean loss by the model's first output.
fn cotangent(batch: &Batch, name: &str, output: &Tensor) -> Result<Tensor> {
    let values = finite(output, name)?;
    let share = 1.0 / batch.size.max(1) as f32;
    let classes = match *output.shape() {
        [_, classes] if classes > 1 => classes,
        // Half the squared norm.
        _ => {
            return Ok(Tensor::from_vec(
                output.shape().to_vec(),
                values.iter().map(|v| v * share).collect(),
            ));
        }
    };
    let labels = batch.labels.as_ref().map(|_| batch.labels()).transpose()?;
    let mut derivative = Vec::with_capacity(values.len());
    for (row, scores) in values.chunks_exact(classes).enumerate() {
        let target = match labels.as_deref().and_then(|labels| labels.get(row)) {
            Some(&label) => usize::try_from(label)
                .ok()
                .filter(|&label| label < classes)
                .ok_or_else(|| {
                    let message = format!("label {label} lies outside of the {classes} classes of output `{name}`");
                    Error::invalid_request(message).at("calibration data")
                })?,
            None => most_likely(scores),
        };
        let greatest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = scores.iter().map(|score| (score - greatest).exp()).sum();
        derivative.extend(scores.iter().enumerate().map(|(class, score)| {
            let probability = (score - greatest).exp() / total;
            (probability - if class == target { 1.0 } else { 0.0 }) * share
        }));
    }
    Ok(Tensor::from_vec(output.shape().to_vec(), derivative))
}

/// The first of the greatest scores.
fn most_likely(scores: &[f32]) -> usize {
    let mut best = 0;
    for (class, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = class;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use kmr_testkit::halved;

    use super::*;
    use crate::testing::{ModelHost, residual_network};

    fn batch(labels: Option<Vec<i64>>) -> Batch {
        Batch {
            size: 2,
            inputs: Vec::new(),
            labels: labels.map(|labels| Tensor::from_vec(vec![labels.len()], labels)),
            outputs: Vec::new(),
        }
    }

    #[test]
    fn the_cotangent_is_the_slope_of_the_cross_entropy() {
        let logits = vec![0.3_f32, -1.0, 2.0, 0.0, 0.5, 0.1];
        let labels = [2_usize, 0];
        let loss = |logits: &[f32]| -> f64 {
            let rows = logits.chunks_exact(3).zip(labels).map(|(row, label)| {
                let total: f64 = row.iter().map(|&v| f64::from(v).exp()).sum();
                total.ln() - f64::from(row[label])
            });
            rows.sum::<f64>() / 2.0
        };
        let tensor = Tensor::from_vec(vec![2, 3], logits.clone());
        let slope = cotangent(&batch(Some(vec![2, 0])), "logits", &tensor).unwrap();
        for (place, &slope) in slope.values::<f32>().unwrap().iter().enumerate() {
            let moved = |by: f32| {
                let mut logits = logits.clone();
                logits[place] += by;
                loss(&logits)
            };
            let difference = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!(
                (difference - f64::from(slope)).abs() < 1e-4,
                "{place}: {difference} {slope}"
            );
        }
    }

    #[test]
    fn labels_out_of_range_and_none_at_all() {
        let tensor = Tensor::from_vec(vec![2, 2], vec![1.0_f32, 3.0, 3.0, 1.0]);
        let error = cotangent(&batch(Some(vec![0, 2])), "logits", &tensor).unwrap_err();
        assert!(
            error.to_string().contains("label 2 lies outside of the 2 classes"),
            "{error}"
        );
        let own = cotangent(&batch(None), "logits", &tensor).unwrap();
        assert_eq!(own, cotangent(&batch(Some(vec![1, 0])), "logits", &tensor).unwrap());
    }

    #[test]
    fn weights_of_16_bits_are_widened_for_the_session() {
        let graph = residual_network().graph;
        let names = ["linear.weight".to_owned()];
        let tensor = graph.tensor(&names[0]).unwrap();
        let values = |tensor: &Tensor| [tensor.to_f32().unwrap().into_owned()];
        assert!(widened(&graph, &names, &values(tensor)).edits.is_empty());
        let stored = halved(&graph, |name| name == names[0]);
        let names = ["linear.weight_stored".to_owned()];
        let half = stored.tensor(&names[0]).unwrap().clone();
        let rounded = values(&half);
        let wide = widened(&stored, &names, &rounded).apply(&stored).unwrap();
        let held = wide.tensor(&names[0]).unwrap().values::<f32>().unwrap();
        assert_eq!(*held, rounded[0]);
        // What computes with 16 bits itself stays as it is.
        let mut narrow = graph.clone();
        let narrowed = (*half).clone();
        narrow.initializers.insert("linear.weight".into(), narrowed.into());
        assert!(
            widened(&narrow, &["linear.weight".to_owned()], &rounded)
                .edits
                .is_empty()
        );
    }

    #[test]
    fn every_batch_adds_its_share() {
        let model = residual_network();
        let mut host = ModelHost::new(model.clone());
        let images = Tensor::from_vec(vec![2, 1, 8, 8], vec![0.0_f32; 128]);
        let labels = Tensor::from_vec(vec![2], vec![1_i64, 0]);
        host.batches = vec![
            (images.clone(), Some(labels.clone())),
            (images.clone(), Some(labels.clone())),
            (images, Some(labels)),
        ];
        host.logits = Tensor::from_vec(vec![2, 2], vec![0.0_f32; 4]);
        let names = vec!["linear.weight".to_owned()];
        let scores = host.with(|host| scores(host, &model.graph, &names, 4)).unwrap();
        let weights = finite_values(&model.graph, "linear.weight").unwrap();
        // Two batches of two; the slope by the first logit is ½ · (½ − 0).
        for (score, weight) in scores["linear.weight"].iter().zip(weights) {
            assert_eq!(*score, 2.0 * (weight * 0.25).abs());
        }
    }
}
