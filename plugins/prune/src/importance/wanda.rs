//! Weights by what they multiply: |w| times the norm of the input channel, after "A Simple and Effective Pruning
//! Approach for Large Language Models" (arXiv 2306.11695, equation 1).

use std::collections::{BTreeMap, HashMap};

use kmr_sdk::{Error, Host, ObserveRequest, Result, Statistic, model::Graph};

use super::{ElementScores, needs_data};
use crate::weights::{Reader, Weight, finite, finite_values};

/// |w| · ‖x‖ for every element of `weights`, where ‖x‖ is the root mean square of the input channel that the element
/// multiplies, over `samples` of the calibration data. A weight that several nodes read counts for all of them.
///
/// # Errors
/// If the model cannot be observed, or a number is not finite.
pub fn scores(host: &Host<'_>, graph: &Graph, weights: &[Weight], samples: usize) -> Result<ElementScores> {
    let norms = mean_squares(host, weights, samples)?;
    weights
        .iter()
        .map(|weight| Ok((weight.tensor.clone(), weight_scores(graph, weight, &norms)?)))
        .collect()
}

/// Mean squares per channel, by value and channel axis.
type MeanSquares = HashMap<(String, i64), Vec<f32>>;

fn mean_squares(host: &Host<'_>, weights: &[Weight], samples: usize) -> Result<MeanSquares> {
    let mut wanted: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for reader in weights.iter().flat_map(|weight| &weight.readers) {
        let input = input_of(reader)?;
        let values = wanted.entry(reader.channel_axis).or_default();
        if !values.contains(input) {
            values.push(input.clone());
        }
    }
    let mut found = MeanSquares::new();
    for (channel_axis, values) in wanted {
        let request = ObserveRequest {
            values,
            statistics: vec![Statistic::MeanSquare],
            channel_axis,
            samples: Some(samples),
            ..Default::default()
        };
        let observed = host
            .observe(&request)
            .map_err(|error| needs_data(error, "wanda", "l1"))?;
        for value in request.values {
            let tensor = observed.get(&value, Statistic::MeanSquare)?;
            let numbers = finite(tensor, &format!("{value}/mean_square"))?;
            found.insert((value, channel_axis), numbers);
        }
    }
    Ok(found)
}

fn weight_scores(graph: &Graph, weight: &Weight, norms: &MeanSquares) -> Result<Vec<f32>> {
    let mut totals = vec![0.0_f32; weight.len()];
    for reader in &weight.readers {
        let squares = squares_of(reader, weight, norms)?;
        for (element, total) in totals.iter_mut().enumerate() {
            *total += squares[weight.input_channel(reader, element)];
        }
    }
    let values = finite_values(graph, &weight.tensor)?;
    Ok(values
        .iter()
        .zip(totals)
        .map(|(value, square)| value.abs() * square.sqrt())
        .collect())
}

/// What the weight multiplies there, which has to be observed.
fn input_of(reader: &Reader) -> Result<&String> {
    reader.input.as_ref().ok_or_else(|| {
        let message = "`wanda` needs what a weight multiplies, which cannot be observed inside of a subgraph or a \
                       recurrent layer; take importance = \"l1\", or name this layer under ignore";
        Error::unsupported(message).at(format!("node `{}`", reader.label))
    })
}

fn squares_of<'a>(reader: &Reader, weight: &Weight, norms: &'a MeanSquares) -> Result<&'a [f32]> {
    let per_group = weight.shape[weight.input_axis];
    let channels = if weight.groups_on_output {
        per_group * reader.groups
    } else {
        per_group
    };
    let squares = norms.get(&(input_of(reader)?.clone(), reader.channel_axis));
    squares
        .map(Vec::as_slice)
        .filter(|squares| squares.len() == channels)
        .ok_or_else(|| {
            let message =
                format!("its input has another number of channels than the {channels} that its weight multiplies");
            Error::unsupported(message).at(format!("node `{}`", reader.label))
        })
}

#[cfg(test)]
mod tests {
    use kmr_sdk::model::Tensor;

    use super::*;
    use crate::testing::{ModelHost, residual_network};

    #[test]
    fn a_weight_counts_by_its_input_channel() {
        let model = residual_network();
        let host = ModelHost::new(model.clone()).observing(|_, request| {
            assert_eq!(request.samples, Some(32));
            let channels = |value: &str| {
                if value == "image" {
                    1
                } else if value == "block.first.relu" {
                    12
                } else {
                    10
                }
            };
            let request = request.values.iter().map(|value| {
                let channels = if value == "flatten" { 16 } else { channels(value) };
                let squares = (0..channels).map(|channel| (channel * channel) as f32).collect();
                (
                    format!("{value}/mean_square"),
                    Tensor::from_vec(vec![channels], squares),
                )
            });
            request.collect()
        });
        let weights = crate::weights::weights(&model.graph);
        let scores = host.with(|host| scores(host, &model.graph, &weights, 32)).unwrap();
        let values = finite_values(&model.graph, "wide.weight").unwrap();
        for (element, score) in scores["wide.weight"].iter().enumerate() {
            let channel = element / 9 % 10;
            assert_eq!(*score, values[element].abs() * channel as f32);
        }
        let values = finite_values(&model.graph, "linear.weight").unwrap();
        assert_eq!(scores["linear.weight"][16 + 3], values[16 + 3].abs() * 3.0);
    }
}
