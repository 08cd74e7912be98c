//! How much each block matters.

use kmr_calibration::each_batch;
use kmr_sdk::{
    Error, ErrorCode, Host, Result, SessionRequest,
    model::{Graph, Tensor},
};

use super::{blocks::Block, removal};
use crate::weights::finite;

/// Samples in each batch of outputs, of which two models' lie in memory.
const BATCH: usize = 4;

/// Blocks that are observed in one pass.
const AT_ONCE: usize = 8;

/// The blocks' positions, the one of least influence first: one less the mean cosine of what goes in and what comes
/// out (block influence, "ShortGPT", arXiv 2403.03853, equation 1). Every token counts, of images every sample.
///
/// # Errors
/// If the candidate cannot be run on calibration data, or a value is not finite.
pub fn by_angle(host: &Host<'_>, blocks: &[Block], samples: usize) -> Result<Vec<usize>> {
    let mut angles: Vec<Angles> = blocks.iter().map(|_| Angles::default()).collect();
    for (blocks, angles) in blocks.chunks(AT_ONCE).zip(angles.chunks_mut(AT_ONCE)) {
        let mut values: Vec<&str> = Vec::new();
        for value in blocks.iter().flat_map(|block| [&block.input, &block.output]) {
            if !values.contains(&value.as_str()) {
                values.push(value);
            }
        }
        each_batch(host, &values, samples, "block influence", |_, batch| {
            let observed = |name: &str| {
                let found = batch.outputs.iter().find(|(value, _)| value == name);
                found
                    .map(|(_, tensor)| tensor)
                    .ok_or_else(|| Error::not_found(format!("`{name}` was not observed")))
            };
            for (block, angles) in blocks.iter().zip(angles.iter_mut()) {
                angles.add(
                    observed(&block.input)?,
                    observed(&block.output)?,
                    batch.size,
                    &block.output,
                )?;
            }
            Ok(())
        })
        .map_err(without_data)?;
    }
    Ok(ascending(&angles.iter().map(Angles::mean).collect::<Vec<_>>()))
}

/// The blocks' positions in the order in which they go: each time the one without which the model's first output, with
/// those gone that went before, points least elsewhere than that of the whole model. Past the first `most`, the rest
/// follow in the order of the graph.
///
/// # Errors
/// As [`by_angle`].
pub fn by_output(
    host: &Host<'_>,
    graph: &Graph,
    blocks: &[Block],
    most: usize,
    samples: usize,
    seed: u64,
) -> Result<Vec<usize>> {
    let mut order: Vec<usize> = Vec::new();
    while order.len() < blocks.len().min(most) {
        let mut best: Option<(f64, usize)> = None;
        for place in (0..blocks.len()).filter(|place| !order.contains(place)) {
            host.progress(order.len() as f64 / most as f64, "removing blocks on trial")?;
            let gone: Vec<&Block> = order.iter().chain([&place]).map(|&place| &blocks[place]).collect();
            let score = change_of_output(host, graph, &gone, samples, seed)?;
            if best.is_none_or(|(least, _)| score < least) {
                best = Some((score, place));
            }
        }
        order.extend(best.map(|(_, place)| place));
    }
    let rest = (0..blocks.len()).filter(|place| !order.contains(place));
    order.extend(rest.collect::<Vec<_>>());
    Ok(order)
}

/// One less the mean cosine of the first output with and without the blocks `gone`.
fn change_of_output(host: &Host<'_>, graph: &Graph, gone: &[&Block], samples: usize, seed: u64) -> Result<f64> {
    let request = SessionRequest {
        batch: Some(BATCH.min(samples)),
        samples: Some(samples),
        seed,
        ..Default::default()
    };
    let output = graph
        .outputs
        .first()
        .ok_or_else(|| Error::unsupported("the model has no output"))?;
    let mut whole = host.open_session(&request).map_err(without_data)?;
    let mut without = host
        .open_session_with(&request, &removal::detour(graph, gone))
        .map_err(without_data)?;
    let mut angles = Angles::default();
    while let (Some(batch), Some(_)) = (whole.next_batch().map_err(without_data)?, without.next_batch()?) {
        let (before, after) = (whole.forward(&[output.name()])?, without.forward(&[output.name()])?);
        if let (Some((_, before)), Some((_, after))) = (before.first(), after.first()) {
            angles.add(before, after, batch.size, output.name())?;
        }
    }
    Ok(angles.mean())
}

fn without_data(error: Error) -> Error {
    match error.code {
        ErrorCode::NOT_FOUND => Error::invalid_configuration(format!(
            "blocks are judged on calibration data: {}; give the manifest `data.calibration`",
            error.message
        )),
        _ => error,
    }
}

/// Cosines, while they are added up.
#[derive(Default)]
struct Angles {
    sum: f64,
    count: usize,
}

impl Angles {
    /// Adds the cosine of each row of two values of the same shape: the last axis at every place, or of images, which
    /// have more than three axes, each of so many samples.
    fn add(&mut self, before: &Tensor, after: &Tensor, samples: usize, name: &str) -> Result<()> {
        let row = match *before.shape() {
            [.., last] if before.shape().len() <= 3 => last,
            _ => before.len() / samples.max(1),
        };
        if before.shape() != after.shape() {
            let (left, right) = (before.shape(), after.shape());
            let message = format!("is to be compared with what has another shape: {left:?} and {right:?}");
            return Err(Error::unsupported(message).at(format!("value `{name}`")));
        }
        let (before, after) = (finite(before, name)?, finite(after, name)?);
        for (before, after) in before.chunks(row.max(1)).zip(after.chunks(row.max(1))) {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
            let size = (dot(before, before) * dot(after, after)).sqrt();
            self.sum += match size > 0.0 {
                true => dot(before, after) / size,
                // Two vectors of zeros are alike; one of zeros has no direction.
                false => f64::from(u8::from(before == after)),
            };
            self.count += 1;
        }
        Ok(())
    }

    /// One less the mean; nothing observed changes nothing.
    fn mean(&self) -> f64 {
        match self.count {
            0 => 0.0,
            count => 1.0 - self.sum / count as f64,
        }
    }
}

/// Positions by score; equal ones in their order.
fn ascending(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    order
}
