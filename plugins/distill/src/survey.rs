//! What there is to train on, found out by going through it once.

use std::collections::BTreeMap;

use kmr_sdk::{Error, ErrorCode, Host, Result, SessionRequest, model::Tensor};

/// The training data, as batches of the size asked for show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Batches in a pass.
    pub batches: usize,
    /// Samples in these.
    pub samples: usize,
    /// Whether a last batch that is not full is left out.
    pub whole_batches: bool,
    /// The shapes of a batch's inputs.
    pub feeds: BTreeMap<String, Vec<usize>>,
    /// The least and the greatest label, where there are labels.
    pub labels: Option<(i64, i64)>,
}

/// Draws every batch of a pass once, without running a model. A last batch that is not full is left out, unless it is
/// the only one.
///
/// # Errors
/// If there is no training data.
pub fn survey(host: &Host<'_>, request: &SessionRequest) -> Result<Survey> {
    let request = SessionRequest {
        trainable: Vec::new(),
        augment: false,
        whole_batches: false,
        edits: None,
        ..request.clone()
    };
    let mut session = host.open_session(&request).map_err(|error| match error.code {
        ErrorCode::NOT_FOUND => no_data(),
        _ => error,
    })?;
    let mut found = Survey {
        batches: 0,
        samples: 0,
        whole_batches: false,
        feeds: BTreeMap::new(),
        labels: None,
    };
    let (mut full, mut last) = (0, 0);
    while let Some(batch) = session.next_batch()? {
        if found.batches == 0 {
            let shape = |(name, tensor): (String, Tensor)| (name, tensor.shape().to_vec());
            found.feeds = batch.inputs.clone().into_iter().map(shape).collect();
            full = batch.size;
        }
        if batch.labels.is_some() {
            for &label in batch.labels()?.iter() {
                let (least, greatest) = found.labels.unwrap_or((label, label));
                found.labels = Some((least.min(label), greatest.max(label)));
            }
        }
        found.batches += 1;
        found.samples += batch.size;
        last = batch.size;
        if host.cancelled()? {
            return Err(Error::cancelled());
        }
    }
    if found.samples == 0 {
        return Err(no_data());
    }
    found.whole_batches = found.batches > 1 || full == request.batch.unwrap_or(full);
    if last < full {
        found.batches -= 1;
        found.samples -= last;
    }
    Ok(found)
}

fn no_data() -> Error {
    let message =
        "there is no training data; give the manifest a `data.training`, or a `data.calibration` with samples";
    Error::invalid_configuration(message).at("rule `distill`")
}
