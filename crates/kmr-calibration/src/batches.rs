//! Passes over the calibration data.

use kmr_sdk::{Batch, Host, Result, RunRequest};

/// Samples in a batch where few values are asked for.
const BATCH: usize = 16;
/// Samples of a value that are held at once, as far as one sample in a batch allows: where more values are asked for, there
/// are fewer samples in a batch.
const HELD: usize = 8 * BATCH;
/// Values that are asked for in one pass.
const VALUES: usize = 24 * BATCH;

/// Runs the candidate on up to `samples` calibration samples as often as `values` take, and gives every batch to
/// `take`, with the position among `values` of the first that the batch holds. `doing` says what for.
///
/// With one pass, the host may go on from it when the candidate is edited and run again in the same call.
///
/// # Errors
/// If there is no calibration data, the candidate cannot be run, or `take` fails.
pub fn each_batch(
    host: &Host<'_>,
    values: &[&str],
    samples: usize,
    doing: &str,
    mut take: impl FnMut(usize, &Batch) -> Result<()>,
) -> Result<()> {
    let batch = (HELD / values.len().max(1)).clamp(1, BATCH);
    for (pass, chunk) in values.chunks(VALUES).enumerate() {
        let first = pass * VALUES;
        let request = RunRequest {
            outputs: chunk.iter().map(|&value| value.to_owned()).collect(),
            batch: Some(batch),
            limit: Some(samples),
            hold: values.len() <= VALUES,
            ..Default::default()
        };
        for batch in host.run(&request)? {
            host.progress(first as f64 / values.len() as f64, doing)?;
            take(first, &batch?)?;
        }
    }
    Ok(())
}
