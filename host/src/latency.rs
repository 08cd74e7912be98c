//! How long inference takes in ONNX Runtime.
//!
//! Machines are noisy: models are run in turn, round by round, so that what slows one slows all, and the ratio of two
//! is the median of the ratios within rounds.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use kmr_compute::{ComputeError, Engine, ErrorKind, Feeds, Mode};
use kmr_model::{DType, Dimension, Model, Tensor};
use kmr_onnxruntime::{Found, Options};
use kmr_run::LatencyReport;

/// The shapes of a model's inputs.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// One model's times, in milliseconds of wall-clock time.
#[derive(Clone, Debug)]
pub struct Timing {
    /// A quarter of the rounds took less.
    pub lower: f64,
    /// Half of the rounds took less.
    pub median: f64,
    /// A quarter of the rounds took more.
    pub upper: f64,
    /// The median over rounds of this model's time by the first model's.
    pub ratio: f64,
    /// How many rounds were timed.
    pub rounds: usize,
}

/// Rounds that come before any is timed.
const WARM_UP: usize = 2;
/// The fewest and the most rounds that are timed.
const ROUNDS: (usize, usize) = (5, 10_000);
/// Milliseconds that a round of a comparison may take; a longer one, as of many long texts, takes the memory of the
/// machine as well.
const LONGEST_ROUND: f64 = 5_000.0;

/// The times of models on inputs of their own, of rounds that take about `duration`.
///
/// # Errors
/// If ONNX Runtime does not run a model.
pub fn measure(
    found: &Found,
    models: &[(&Model, Feeds)],
    threads: NonZeroUsize,
    duration: Duration,
) -> Result<Vec<Timing>, ComputeError> {
    let engine = found.engine(Options {
        threads,
        ..Options::default()
    });
    let programs = models.iter().map(|(model, feeds)| Ok((engine.load(model)?, feeds)));
    let programs = programs.collect::<Result<Vec<_>, ComputeError>>()?;
    let mut rounds: Vec<Vec<f64>> = Vec::new();
    let mut begin = Instant::now();
    for round in 0..WARM_UP + ROUNDS.1 {
        if round == WARM_UP {
            rounds.clear();
            begin = Instant::now();
        }
        if round >= WARM_UP + ROUNDS.0 && begin.elapsed() >= duration {
            break;
        }
        let times = programs.iter().map(|(program, feeds)| {
            let start = Instant::now();
            program.forward(feeds, &[], Mode::default())?;
            Ok(start.elapsed().as_secs_f64() * 1e3)
        });
        rounds.push(times.collect::<Result<_, ComputeError>>()?);
    }
    let timing = |model: usize| {
        let sorted = |value: &dyn Fn(&Vec<f64>) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let times = sorted(&|round| round[model]);
        let ratios = sorted(&|round| round[model] / round[0]);
        Timing {
            lower: times[times.len() / 4],
            median: times[times.len() / 2],
            upper: times[times.len() * 3 / 4],
            ratio: ratios[ratios.len() / 2],
            rounds: times.len(),
        }
    };
    Ok((0..models.len()).map(timing).collect())
}

/// `shapes` with `batch` for every open first dimension.
///
/// # Errors
/// If the model takes no batches of this size.
pub fn batched(model: &Model, shapes: &Shapes, batch: usize) -> Result<Shapes, ComputeError> {
    let mut shapes = shapes.clone();
    let mut taken = batch == 1;
    for input in model.graph.feeds() {
        let open = input
            .shape()
            .is_some_and(|shape| !matches!(shape.first(), None | Some(Dimension::Fixed(_))));
        if let Some(first) = shapes
            .get_mut(input.name())
            .and_then(|shape| shape.first_mut())
            .filter(|_| open)
        {
            *first = batch;
            taken = true;
        }
    }
    if taken {
        Ok(shapes)
    } else {
        let message = format!("no input has an open first dimension; a batch of {batch} is not possible");
        Err(ComputeError::new(ErrorKind::Shape, "", message).with_help("measure it at a batch of 1"))
    }
}

/// Inputs of these shapes: fractions where numbers are float32, zeros elsewhere, which index whatever they index.
///
/// # Errors
/// If an input is no tensor of a known type and shape.
pub fn inputs(model: &Model, shapes: &Shapes) -> Result<Feeds, ComputeError> {
    let feeds = model.graph.feeds().map(|input| {
        let name = input.name();
        let unknown = || {
            ComputeError::new(
                ErrorKind::Shape,
                format!("input `{name}`"),
                "has no known type and shape",
            )
        };
        let (dtype, shape) = input.dtype().zip(shapes.get(name)).ok_or_else(unknown)?;
        let count: usize = shape.iter().product();
        let tensor = if dtype == DType::FLOAT {
            let values = (0..count).map(|position| (position * 7919 % 1009) as f32 / 1009.0);
            Tensor::from_vec(shape.clone(), values.collect())
        } else {
            let bytes = vec![0; dtype.byte_len(count).ok_or_else(unknown)?];
            Tensor::new(dtype, shape.clone(), bytes.into()).map_err(|_| unknown())?
        };
        Ok((name.to_owned(), tensor))
    });
    feeds.collect()
}

/// The latency of the original and of what was made of it, on one thread, at batches of 1 and, where there are
/// batches and a round of them is no longer than [`LONGEST_ROUND`], of 64.
///
/// # Errors
/// If ONNX Runtime does not run one of them.
pub fn compare(found: &Found, models: [&Model; 2], shapes: &Shapes) -> Result<Vec<LatencyReport>, ComputeError> {
    const DURATION: Duration = Duration::from_millis(250);
    let mut reports: Vec<LatencyReport> = Vec::new();
    for batch in [1, 64] {
        let one = reports.first().map_or(0.0, |single| single.before + single.after);
        let round = one * batch as f64;
        if round > LONGEST_ROUND {
            log::info!(
                "latency at a batch of {batch} is not measured: a round takes about {:.0} s",
                round / 1e3
            );
            continue;
        }
        let Ok(shapes) = batched(models[0], shapes, batch) else {
            continue;
        };
        let feeds = inputs(models[0], &shapes)?;
        let models = models.map(|model| (model, feeds.clone()));
        let timings = measure(found, &models, NonZeroUsize::MIN, DURATION)?;
        reports.push(LatencyReport {
            batch,
            threads: 1,
            before: timings[0].median,
            after: timings[1].median,
            ratio: timings[1].ratio,
        });
    }
    Ok(reports)
}

#[cfg(test)]
mod tests {
    use kmr_model::{Graph, ValueInfo};

    use super::*;

    fn model(first: Dimension) -> Model {
        let mut graph = Graph::new("test");
        let shape = [first, Dimension::Fixed(3)];
        graph.inputs.push(ValueInfo::tensor("x", DType::FLOAT, &shape));
        graph.inputs.push(ValueInfo::tensor("tokens", DType::INT64, &shape));
        Model::new(graph, 8, 17)
    }

    #[test]
    fn batches_fill_open_first_dimensions_alone() {
        let shapes = Shapes::from([("x".into(), vec![1, 3]), ("tokens".into(), vec![1, 3])]);
        let open = model(Dimension::Named("batch".into()));
        let batched_shapes = batched(&open, &shapes, 5).unwrap();
        let feeds = inputs(&open, &batched_shapes).unwrap();
        assert_eq!(feeds["x"].shape(), [5, 3]);
        assert!(
            feeds["x"]
                .to_f32()
                .unwrap()
                .iter()
                .all(|value| (0.0..1.0).contains(value))
        );
        assert_eq!(feeds["tokens"].to_i64().unwrap(), [0; 15]);
        let fixed = model(Dimension::Fixed(1));
        assert_eq!(batched(&fixed, &shapes, 1).unwrap(), shapes);
        assert!(
            batched(&fixed, &shapes, 5)
                .unwrap_err()
                .to_string()
                .contains("a batch of 5")
        );
        assert!(inputs(&open, &Shapes::new()).is_err());
    }
}
