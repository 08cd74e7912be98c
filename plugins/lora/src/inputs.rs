//! What layers multiply their weights with on calibration data: the second moments of every two inputs.

use std::collections::BTreeMap;

use kmr_methods::gram::{Gram, Inputs, is_taken};
use kmr_sdk::{
    Error, ErrorCode, Host, Result, RunRequest,
    model::{Graph, Tensor, windows::Reading},
};

use crate::layers::{Kind, Layer};

/// Values that are asked for in one pass, and samples in a batch: what is held at once.
const VALUES: usize = 24;
const BATCH: usize = 16;
/// Rows that are added up at most, evenly spread over samples and places.
const MOST_ROWS: usize = 8_192;

/// A node of a layer, while its inputs are added up.
struct Watched<'l> {
    layer: &'l Layer,
    input: &'l str,
    reading: Reading,
    seen: u64,
}

/// The mean of what each layer reads and that of xxᵀ, columns × columns, by its weight; over all of its nodes.
///
/// # Errors
/// If there is no calibration data, the candidate cannot be run, or an input is not finite.
pub fn second_moments(
    host: &Host<'_>,
    graph: &Graph,
    layers: &[&Layer],
    samples: usize,
) -> Result<BTreeMap<String, Inputs>> {
    let mut watched = Vec::new();
    let mut grams: BTreeMap<&str, Gram> = BTreeMap::new();
    for &layer in layers {
        grams.insert(&layer.weight, Gram::new(layer.columns()));
        for (id, input) in layer.nodes.iter().zip(&layer.inputs) {
            let node = graph.node(id);
            let node = node.ok_or_else(|| Error::not_found("does not exist").at(format!("node `{id}`")))?;
            let reading = Reading::of(node, &layer.shape, 1)?;
            watched.push(Watched {
                layer,
                input,
                reading,
                seen: 0,
            });
        }
    }
    let mut inputs: Vec<&str> = Vec::new();
    for watch in &watched {
        if !inputs.contains(&watch.input) {
            inputs.push(watch.input);
        }
    }
    for (pass, chunk) in inputs.chunks(VALUES).enumerate() {
        let request = RunRequest {
            outputs: chunk.iter().map(|&value| value.to_owned()).collect(),
            batch: Some(BATCH),
            limit: Some(samples),
            ..Default::default()
        };
        for batch in host.run(&request).map_err(without_data)? {
            host.progress(
                (pass * VALUES) as f64 / inputs.len() as f64,
                "observing what layers read",
            )?;
            let batch = batch?;
            for (value, tensor) in &batch.outputs {
                for watch in watched.iter_mut().filter(|watch| watch.input == value) {
                    if let Some(gram) = grams.get_mut(watch.layer.weight.as_str()) {
                        watch.take(tensor, batch.size, samples, gram)?;
                    }
                }
            }
        }
    }
    let finished = grams
        .into_iter()
        .map(|(weight, gram)| (weight.to_owned(), gram.finished(false)));
    Ok(finished.collect())
}

impl Watched<'_> {
    fn take(&mut self, input: &Tensor, batch: usize, samples: usize, gram: &mut Gram) -> Result<()> {
        let at = |error: Error| error.at(format!("value `{}`", self.input));
        let values = input.to_f32().map_err(|error| at(error.into()))?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(at(Error::unsupported("is not finite on the calibration data")));
        }
        // A call of fixed batch size comes with an axis that counts calls.
        let shape = match input.shape() {
            [1, shape @ ..] if self.layer.kind == Kind::Conv && shape.len() == self.layer.shape.len() => shape,
            shape => shape,
        };
        let rows = self.reading.rows(shape, &values).map_err(|error| at(error.into()))?;
        if rows.columns() != gram.columns() {
            return Err(at(Error::unsupported(
                "does not fit the weights that it is multiplied with",
            )));
        }
        let of_all = rows.count().div_ceil(batch.max(1)).saturating_mul(samples);
        let stride = of_all.div_ceil(MOST_ROWS).max(1) as u64;
        let mut row = vec![0.0; rows.columns()];
        for number in 0..rows.count() {
            self.seen += 1;
            if is_taken(self.seen, stride) {
                rows.write(0, number, &mut row);
                gram.add(&row);
            }
        }
        Ok(())
    }
}

fn without_data(error: Error) -> Error {
    match error.code {
        ErrorCode::NOT_FOUND => Error::invalid_configuration(format!(
            "\"outputs\" looks at calibration data: {}; give the manifest `data.calibration`, or write \"weights\"",
            error.message
        ))
        .at("config.error_norm"),
        _ => error,
    }
}
