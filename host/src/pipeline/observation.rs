//! Statistics of inner values on calibration data, for rules.

use std::sync::Arc;

use kmr_compute::{BatchNorm, ComputeError, Feeds, Mode, Observation, Program};
use kmr_formats::Dataset;
use kmr_model::Tensor;
use kmr_sdk::wire;

use super::forward::BATCH;

/// The statistics that `request` asks for on the first `samples` samples, named `<value>/<statistic>`.
pub fn observe(
    program: &dyn Program,
    data: &Arc<Dataset>,
    samples: usize,
    request: &wire::ObserveRequest,
) -> Result<Vec<(String, Tensor)>, ComputeError> {
    let statistics = request.statistics.iter().map(|statistic| statistic.name().parse());
    let observation = Observation {
        values: request.values.clone(),
        statistics: statistics.collect::<Result<_, _>>()?,
        channel_axis: request.channel_axis,
        mode: Mode {
            batch_norm: match request.batch_norm {
                wire::BatchNorm::Running => BatchNorm::Running,
                wire::BatchNorm::Batch => BatchNorm::Batch,
            },
            ..Mode::default()
        },
    };
    let starts = (0..samples).step_by(BATCH);
    let calls = starts.flat_map(|start| data.calls(start..(start + BATCH).min(samples)));
    let batches = calls.map(|inputs| Ok::<_, ComputeError>(Feeds::from_iter(inputs)));
    let observed = kmr_compute::observe(program, batches, &observation)?;
    Ok(observed.into_iter().collect())
}
