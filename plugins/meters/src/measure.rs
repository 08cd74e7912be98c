//! Drives the host over the data and gathers the scores.

use kmr_sdk::{Batch, Batches, Error, ErrorCode, Host, MeasureRequest, Reading, Result, RunRequest, model::Tensor};

use crate::{
    config::{ClassConfig, OutputConfig},
    output::Vectors,
};

/// Scores each sample by its class scores and its label: the mean of `score(class scores, label)` over positions.
///
/// # Errors
/// If the data has no labels, or one that is no class; if the output has fewer than `least_classes` classes or is
/// otherwise unsuitable; if a score is not finite.
pub fn labeled(
    host: &Host<'_>,
    config: &ClassConfig,
    request: &MeasureRequest,
    least_classes: usize,
    mut score: impl FnMut(&[f32], usize) -> f64,
) -> Result<Reading> {
    let mut scores = Vec::new();
    let mut gathered = Vec::new();
    for batch in run(host, request, "candidate", config.output.as_deref(), config.batch)? {
        let batch = batch?;
        stop_if_cancelled(host)?;
        let (name, tensor) = judged(&batch)?;
        let vectors =
            Vectors::classes(tensor, batch.size, config.axis, least_classes).map_err(|error| about(error, name))?;
        let labels = labels(&batch)?;
        for (row, &label) in labels.iter().enumerate() {
            let sample = scores.len();
            let label = class(label, vectors.length(), sample)?;
            let mut sum = 0.0;
            for position in 0..vectors.positions() {
                let vector = vectors.vector(row, position, &mut gathered);
                let value = score(vector, label);
                if !value.is_finite() {
                    return Err(about(not_finite(vector, sample), name));
                }
                sum += value;
            }
            scores.push(sum / vectors.positions() as f64);
        }
    }
    reading(scores)
}

/// What of an output is compared with the original model's.
pub struct Compared<'c> {
    output: Option<&'c str>,
    batch: Option<usize>,
    /// The dimension of the classes; none if a sample is compared as a whole.
    axis: Option<i64>,
    /// The fewest elements that can be compared.
    least: usize,
}

impl<'c> Compared<'c> {
    /// Class scores, position by position.
    pub fn classes(config: &'c ClassConfig) -> Self {
        Self {
            output: config.output.as_deref(),
            batch: config.batch,
            axis: Some(config.axis),
            least: 2,
        }
    }

    /// The whole output of each sample.
    pub fn whole(config: &'c OutputConfig) -> Self {
        Self {
            output: config.output.as_deref(),
            batch: config.batch,
            axis: None,
            least: 1,
        }
    }

    /// The direction of each sample's whole output, which a single number does not have.
    pub fn directions(config: &'c OutputConfig) -> Self {
        Self {
            least: 2,
            ..Self::whole(config)
        }
    }

    fn vectors<'t>(&self, tensor: &'t Tensor, samples: usize) -> Result<Vectors<'t>> {
        match self.axis {
            Some(axis) => Vectors::classes(tensor, samples, axis, self.least),
            None => Vectors::whole(tensor, samples, self.least),
        }
    }
}

/// Scores each sample by what the candidate makes of it and what the original model makes of it: the mean of
/// `score(reference, candidate)` over positions.
///
/// # Errors
/// If the outputs are unsuitable or do not fit each other; if a score is not finite.
pub fn paired(
    host: &Host<'_>,
    compared: Compared<'_>,
    request: &MeasureRequest,
    score: impl Fn(&[f32], &[f32]) -> f64,
) -> Result<Reading> {
    let mut scores = Vec::new();
    let (mut gathered, mut gathered_reference) = (Vec::new(), Vec::new());
    let start = |model| run(host, request, model, compared.output, compared.batch);
    let (mut candidates, mut references) = (start("candidate")?, start("reference")?);
    while let Some((candidate, reference)) = next_pair(&mut candidates, &mut references)? {
        stop_if_cancelled(host)?;
        let (name, output, original) = judged_pair(&candidate, &reference)?;
        let view = |tensor| {
            compared
                .vectors(tensor, candidate.size)
                .map_err(|error| about(error, name))
        };
        let (output, original) = (view(output)?, view(original)?);
        for row in 0..candidate.size {
            let sample = scores.len();
            let mut sum = 0.0;
            for position in 0..output.positions() {
                let vector = output.vector(row, position, &mut gathered);
                let reference = original.vector(row, position, &mut gathered_reference);
                let value = score(reference, vector);
                if !value.is_finite() {
                    return Err(blame(name, reference, vector, sample));
                }
                sum += value;
            }
            scores.push(sum / output.positions() as f64);
        }
    }
    reading(scores)
}

pub fn run<'h>(
    host: &'h Host<'_>,
    request: &MeasureRequest,
    model: &str,
    output: Option<&str>,
    batch: Option<usize>,
) -> Result<Batches<'h>> {
    host.run(&RunRequest {
        model: model.into(),
        split: request.split,
        outputs: output.map(String::from).into_iter().collect(),
        batch,
        limit: request.limit,
        ..RunRequest::default()
    })
}

/// The judged value of the candidate with its name, and that of the original model, which has the same shape.
pub fn judged_pair<'b>(candidate: &'b Batch, reference: &'b Batch) -> Result<(&'b str, &'b Tensor, &'b Tensor)> {
    let ((name, output), (_, original)) = (judged(candidate)?, judged(reference)?);
    if output.shape() != original.shape() {
        let (now, before) = (output.shape(), original.shape());
        let message = format!("its shape is {now:?}, where the original model's is {before:?}");
        return Err(about(Error::new(ErrorCode::SHAPE, message), name));
    }
    Ok((name, output, original))
}

/// The next batch of both runs, which must be of the same samples.
pub fn next_pair(candidates: &mut Batches<'_>, references: &mut Batches<'_>) -> Result<Option<(Batch, Batch)>> {
    let (candidate, reference) = (candidates.next().transpose()?, references.next().transpose()?);
    match (candidate, reference) {
        (Some(candidate), Some(reference)) if candidate.size == reference.size => Ok(Some((candidate, reference))),
        (None, None) => Ok(None),
        _ => Err(Error::new(
            ErrorCode::OTHER,
            "the host ran the model and the original model over different samples",
        )),
    }
}

pub fn stop_if_cancelled(host: &Host<'_>) -> Result<()> {
    if host.cancelled()? {
        Err(Error::cancelled())
    } else {
        Ok(())
    }
}

/// The output that is judged: the one asked for, or the model's first.
pub fn judged(batch: &Batch) -> Result<(&str, &Tensor)> {
    match batch.outputs.first() {
        Some((name, tensor)) => Ok((name, tensor)),
        None => Err(Error::not_found("the model has no outputs to judge")),
    }
}

pub fn labels(batch: &Batch) -> Result<std::borrow::Cow<'_, [i64]>> {
    if batch.labels.is_none() {
        return Err(Error::not_found(
            "the data has no labels; `agreement`, `kl`, `cosine` and `sqnr` need none",
        ));
    }
    let labels = batch.labels()?;
    if labels.len() == batch.size {
        Ok(labels)
    } else {
        let (count, size) = (labels.len(), batch.size);
        Err(Error::new(
            ErrorCode::SHAPE,
            format!("there are {count} labels for {size} samples"),
        ))
    }
}

pub fn class(label: i64, classes: usize, sample: usize) -> Result<usize> {
    let class = usize::try_from(label).ok().filter(|&class| class < classes);
    class.ok_or_else(|| {
        Error::invalid_request(format!(
            "sample {sample} has label {label}, but the model has {classes} classes, counted from 0"
        ))
    })
}

pub fn reading(scores: Vec<f64>) -> Result<Reading> {
    if scores.is_empty() {
        return Err(Error::invalid_request("there are no samples to measure on"));
    }
    Ok(Reading::mean(scores))
}

/// Why a comparison has no finite score. What is wrong with the original comes first, as the cause of the rest.
fn blame(output: &str, reference: &[f32], candidate: &[f32], sample: usize) -> Error {
    let nan = |vector: &[f32]| vector.iter().any(|value| value.is_nan());
    let finite = |vector: &[f32]| vector.iter().all(|value| value.is_finite());
    if nan(reference) || (!nan(candidate) && finite(candidate)) {
        not_finite(reference, sample).at(format!("output `{output}` of the original model"))
    } else {
        about(not_finite(candidate, sample), output)
    }
}

fn not_finite(vector: &[f32], sample: usize) -> Error {
    let what = if vector.iter().any(|value| value.is_nan()) {
        "NaN"
    } else {
        "infinite"
    };
    Error::new(ErrorCode::OTHER, format!("it is {what} at sample {sample}"))
}

pub fn about(error: Error, output: &str) -> Error {
    error.at(format!("output `{output}`"))
}

#[cfg(test)]
mod tests {
    use kmr_sdk::{Meter, Split, model::Tensor, serde_json::json};

    use super::*;
    use crate::{
        accuracy::Top,
        agreement::Agreement,
        divergence::Divergence,
        loss::Loss,
        signal::{CEILING, Cosine, SignalToNoise},
        testing::CannedHost,
    };

    const WHOLE: MeasureRequest = MeasureRequest {
        split: Split::Evaluation,
        limit: None,
    };

    fn meter<M: Meter>(config: kmr_sdk::serde_json::Value) -> M {
        M::new(kmr_sdk::serde_json::from_value(config).unwrap()).unwrap()
    }

    fn measured<M: Meter>(host: &CannedHost, request: &MeasureRequest) -> Result<Reading> {
        host.with(|host| meter::<M>(json!({})).measure(host, request))
    }

    fn failure<M: Meter>(host: &CannedHost) -> String {
        measured::<M>(host, &WHOLE).unwrap_err().to_string()
    }

    /// Five samples of three classes, in batches of two; the original model answers 0 1 2 0 1.
    fn host() -> CannedHost {
        let original = [0, 1, 2, 0, 1].map(|answer| [0, 1, 2].map(|class| f32::from(u8::from(class == answer))));
        let mut candidate = original;
        candidate[2] = [5.0, 0.0, 0.0];
        let tensor = |rows: [[f32; 3]; 5]| Tensor::from_vec(vec![5, 3], rows.concat());
        CannedHost::new(tensor(candidate), tensor(original)).labeled(vec![0, 1, 2, 0, 2])
    }

    #[test]
    fn scores_keep_the_order_of_the_samples_over_batches() {
        let reading = measured::<Top<1>>(&host(), &WHOLE).unwrap();
        assert_eq!(reading.scores, [1.0, 1.0, 0.0, 1.0, 0.0]);
        assert_eq!(reading.value, 0.6);
        let reading = measured::<Agreement>(&host(), &WHOLE).unwrap();
        assert_eq!(reading.scores, [1.0, 1.0, 0.0, 1.0, 1.0]);
        let reading = measured::<SignalToNoise>(&host(), &WHOLE).unwrap();
        // Sample 2: signal 1, noise 5² + 1.
        let expected = -10.0 * 26_f64.log10();
        assert!((reading.scores[2] - expected).abs() < 1e-12);
        assert!((reading.value - (4.0 * CEILING + expected) / 5.0).abs() < 1e-12);
    }

    #[test]
    fn split_limit_batch_and_output_reach_the_host_in_both_runs() {
        let host = host();
        let request = MeasureRequest {
            split: Split::Evaluation,
            limit: Some(3),
        };
        let config = json!({ "output": "logits", "batch": 2 });
        let reading = host
            .with(|host| meter::<Cosine>(config).measure(host, &request))
            .unwrap();
        assert_eq!(reading.scores.len(), 3);
        let expected = |model: &str| RunRequest {
            model: model.into(),
            split: Split::Evaluation,
            outputs: vec!["logits".into()],
            batch: Some(2),
            limit: Some(3),
            ..RunRequest::default()
        };
        assert_eq!(host.requests(), [expected("candidate"), expected("reference")]);
    }

    #[test]
    fn a_score_is_the_mean_over_positions() {
        // Two samples, two classes, three places; the label's score is highest at 2 of 3 and at none.
        let values = vec![1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0_f32];
        let tensor = Tensor::from_vec(vec![2, 2, 3], values);
        let host = CannedHost::new(tensor.clone(), tensor).labeled(vec![0, 1]);
        let reading = measured::<Top<1>>(&host, &WHOLE).unwrap();
        assert_eq!(reading.scores, [2.0 / 3.0, 0.0]);
        assert_eq!(measured::<Agreement>(&host, &WHOLE).unwrap().value, 1.0);
    }

    #[test]
    fn labels_that_cannot_be_used_are_errors() {
        assert_eq!(
            failure::<Top<1>>(&host().labeled(vec![0, 1, 2, 3, 0])),
            "sample 3 has label 3, but the model has 3 classes, counted from 0"
        );
        assert!(failure::<Loss>(&host().labeled(vec![0, 1, 2, 0, -1])).starts_with("sample 4 has label -1"));
        assert!(failure::<Top<1>>(&host().unlabeled()).starts_with("the data has no labels"));
        assert!(measured::<Divergence>(&host().unlabeled(), &WHOLE).is_ok());
        assert_eq!(
            failure::<Top<5>>(&host()),
            "output `logits`: it has 3 along axis 1, where this meter needs at least 6 classes"
        );
    }

    #[test]
    fn nan_is_wrong_for_answers_and_an_error_for_the_rest() {
        let broken = |sample: usize| {
            let mut rows = vec![0.5_f32; 15];
            rows[3 * sample + 1] = f32::NAN;
            Tensor::from_vec(vec![5, 3], rows)
        };
        let sound = Tensor::from_vec(vec![5, 3], vec![0.5_f32; 15]);
        let host = CannedHost::new(broken(3), sound.clone()).labeled(vec![0; 5]);
        assert_eq!(
            measured::<Top<1>>(&host, &WHOLE).unwrap().scores,
            [1.0, 1.0, 1.0, 0.0, 1.0]
        );
        assert_eq!(
            measured::<Agreement>(&host, &WHOLE).unwrap().scores,
            [1.0, 1.0, 1.0, 0.0, 1.0]
        );
        for message in [
            failure::<Loss>(&host),
            failure::<Divergence>(&host),
            failure::<Cosine>(&host),
            failure::<SignalToNoise>(&host),
        ] {
            assert_eq!(message, "output `logits`: it is NaN at sample 3");
        }
        let host = CannedHost::new(sound, broken(4));
        for message in [
            failure::<Agreement>(&host),
            failure::<Divergence>(&host),
            failure::<Cosine>(&host),
        ] {
            assert_eq!(message, "output `logits` of the original model: it is NaN at sample 4");
        }
    }

    #[test]
    fn an_infinite_score_names_whose_output_makes_it() {
        let (plain, masked) = ([0.0, 0.0_f32], [0.0, f32::NEG_INFINITY]);
        let tensor = |row: [f32; 2]| Tensor::from_vec(vec![1, 2], row.to_vec());
        let host = CannedHost::new(tensor(masked), tensor(plain)).labeled(vec![1]);
        assert_eq!(failure::<Loss>(&host), "output `logits`: it is infinite at sample 0");
        assert_eq!(
            failure::<Divergence>(&host),
            "output `logits`: it is infinite at sample 0"
        );
        let host = CannedHost::new(tensor(plain), tensor(masked));
        assert!(failure::<Cosine>(&host).starts_with("output `logits` of the original model"));
    }

    #[test]
    fn runs_that_do_not_fit_each_other_are_errors() {
        let tensor =
            |samples: usize, classes: usize| Tensor::from_vec(vec![samples, classes], vec![0.0_f32; samples * classes]);
        assert_eq!(
            failure::<Divergence>(&CannedHost::new(tensor(2, 3), tensor(2, 4))),
            "output `logits`: its shape is [2, 3], where the original model's is [2, 4]"
        );
        for (candidate, reference) in [(2, 3), (3, 2), (2, 4), (4, 2)] {
            let host = CannedHost::new(tensor(candidate, 3), tensor(reference, 3));
            assert!(failure::<Cosine>(&host).contains("different samples"));
        }
        let empty = CannedHost::new(tensor(0, 3), tensor(0, 3)).labeled(Vec::new());
        assert_eq!(failure::<Cosine>(&empty), "there are no samples to measure on");
        assert_eq!(failure::<Loss>(&empty), "there are no samples to measure on");
    }

    #[test]
    fn a_cancelled_measurement_ends() {
        let host = host().cancelled();
        for result in [measured::<Loss>(&host, &WHOLE), measured::<Cosine>(&host, &WHOLE)] {
            assert_eq!(result.unwrap_err().code, ErrorCode::CANCELLED);
        }
    }

    #[test]
    fn unknown_configuration_is_refused() {
        assert!(kmr_sdk::serde_json::from_value::<ClassConfig>(json!({ "outputs": "logits" })).is_err());
        assert!(kmr_sdk::serde_json::from_value::<OutputConfig>(json!({ "axis": 1 })).is_err());
        let config: ClassConfig = kmr_sdk::serde_json::from_value(json!({ "axis": -1 })).unwrap();
        assert_eq!(
            config,
            ClassConfig {
                axis: -1,
                ..Default::default()
            }
        );
    }
}
