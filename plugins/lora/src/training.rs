//! Training adapters: the base is frozen, and the answers of a teacher or the labels are the aim.

use kmr_methods::loss::{Loss, cross_entropy, divergence, mean_square};
use kmr_sdk::{
    Batch, Error, ErrorCode, Host, Result, Session, SessionRequest, Split, log,
    logits::{self, Layout},
    model::{Graph, Patch, Tensor},
    serde_json,
};
use serde::{Deserialize, Serialize};

use crate::config::{Config, refuse};

/// Adapters after training.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// The tensors, in the order of their names.
    pub tensors: Vec<Tensor>,
    /// The mean loss of each pass over the data.
    pub losses: Vec<f64>,
}

/// What is remembered at the end of each pass.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Done {
    losses: Vec<f64>,
}

/// Trains the tensors `names` of the candidate with the edits of `patch`.
///
/// # Errors
/// If there is no data, labels are needed and there are none, the outputs of student and teacher do not go together, or
/// the loss or a gradient is not finite.
pub fn train(host: &Host<'_>, graph: &Graph, patch: &Patch, names: &[&str], config: &Config) -> Result<Trained> {
    let training = Training::new(host, graph, config)?;
    let request = SessionRequest {
        trainable: names.iter().map(|&name| name.to_owned()).collect(),
        optimizer: config.optimizer(),
        // Where activations are rounded, too, their gradients go on.
        straight_through: true,
        ..training.request("candidate")
    };
    let mut student = host.open_session_with(&request, patch).map_err(without_data)?;
    let mut teacher = match config.soft_share > 0.0 {
        true => Some(
            host.open_session(&training.request(&config.teacher))
                .map_err(without_data)?,
        ),
        false => None,
    };
    let losses = training.run(host, &mut student, teacher.as_mut())?;
    let tensors = names
        .iter()
        .map(|name| student.parameter(name))
        .collect::<Result<Vec<_>>>()?;
    if let Some(at) = tensors.iter().position(|tensor| !is_finite(tensor)) {
        return Err(diverged(&format!("`{}` is not finite", names[at]), "after training"));
    }
    Ok(Trained { tensors, losses })
}

struct Training<'c> {
    config: &'c Config,
    seed: u64,
    /// Batches in a pass.
    pass: usize,
    /// The candidate's value that holds the scores.
    output: String,
}

impl<'c> Training<'c> {
    fn new(host: &Host<'_>, graph: &Graph, config: &'c Config) -> Result<Self> {
        if config.dropout > 0.0 && graph.nodes.iter().any(|node| node.is("BatchNormalization")) {
            return refuse(
                "dropout",
                "dropping needs training mode, in which the base's batch normalizations would move; write 0, or fold \
                 them first",
            );
        }
        let mut training = Self {
            config,
            seed: config.seed.map_or_else(|| host.seed(), Ok)?,
            pass: 0,
            output: logits::value(graph, config.output.as_deref(), "output")?,
        };
        let mut counting = host
            .open_session(&training.request("candidate"))
            .map_err(without_data)?;
        while counting.next_batch().map_err(without_data)?.is_some() {
            training.pass += 1;
        }
        if training.pass == 0 {
            return Err(Error::invalid_request("has no samples to train on").at("training data"));
        }
        Ok(training)
    }

    fn request(&self, model: &str) -> SessionRequest {
        SessionRequest {
            model: model.to_owned(),
            split: Split::Training,
            batch: Some(self.config.batch),
            seed: self.seed,
            augment: self.config.augment,
            ..Default::default()
        }
    }

    fn run(
        &self,
        host: &Host<'_>,
        student: &mut Session<'_>,
        mut teacher: Option<&mut Session<'_>>,
    ) -> Result<Vec<f64>> {
        let schedule = self.config.schedule()?;
        let mut done: Done = match student.resume()? {
            Some(note) => serde_json::from_str(&note)?,
            None => Done::default(),
        };
        if let Some(teacher) = teacher.as_deref_mut() {
            // It catches up by drawing what the student has drawn.
            for _ in &done.losses {
                while teacher.next_batch()?.is_some() {}
            }
        }
        student.train(self.config.dropout > 0.0)?;
        let steps = self.pass * self.config.epochs;
        for epoch in done.losses.len()..self.config.epochs {
            let mut sum = 0.0;
            for at in 0..self.pass {
                let step = epoch * self.pass + at;
                let place = format!(
                    "epoch {} of {}, batch {} of {}",
                    epoch + 1,
                    self.config.epochs,
                    at + 1,
                    self.pass
                );
                host.progress(step as f64 / steps as f64, &place)?;
                let loss = self.batch(student, teacher.as_deref_mut(), &place)?;
                if !loss.is_finite() {
                    return Err(diverged(&format!("the loss is {loss}"), &place));
                }
                sum += loss;
                match student.step(schedule.rate(step, steps)) {
                    Ok(norm) if norm.is_finite() => {}
                    Ok(norm) => return Err(diverged(&format!("the norm of the gradient is {norm}"), &place)),
                    Err(error) if error.code == ErrorCode::INVALID_REQUEST => {
                        return Err(diverged(&error.message, &place));
                    }
                    Err(error) => return Err(error),
                }
            }
            ended(student)?;
            teacher.as_deref_mut().map_or(Ok(()), ended)?;
            done.losses.push(sum / self.pass as f64);
            student.checkpoint(&serde_json::to_string(&done)?)?;
            log::info!("adapters: epoch {}: mean loss {:.4}", epoch + 1, done.losses[epoch]);
        }
        Ok(done.losses)
    }

    /// The loss of the next batch, its derivative pulled back.
    fn batch(&self, student: &mut Session<'_>, teacher: Option<&mut Session<'_>>, place: &str) -> Result<f64> {
        let batch = drawn(student, place)?;
        let own = first(student.forward(&[&self.output])?, &self.output)?;
        let aim = match teacher {
            Some(teacher) => {
                let same = drawn(teacher, place)?;
                if same.size != batch.size {
                    let message = format!("the teacher drew {} samples and the student {}", same.size, batch.size);
                    return Err(Error::new(ErrorCode::OTHER, message).at(place));
                }
                Some(first(teacher.forward(&[&self.output])?, &self.output)?)
            }
            None => None,
        };
        let (loss, slope) =
            self.graded(&batch, &own, aim.as_ref())
                .map_err(|error| match error.location.is_empty() {
                    true => error.at(place),
                    false => error,
                })?;
        student.backward(&[(&self.output, &slope)])?;
        Ok(loss)
    }

    /// The loss and its derivative by the student's scores.
    fn graded(&self, batch: &Batch, own: &Tensor, aim: Option<&Tensor>) -> Result<(f64, Tensor)> {
        let config = self.config;
        let layout = Layout::of(&self.output, own.shape(), config.class_axis)?;
        let rows = layout.rows(&own.to_f32()?);
        let (mut value, mut slopes) = (0.0, vec![0.0; rows.len()]);
        let mut add = |loss: Loss, share: f64| {
            value += share * loss.value;
            for (sum, slope) in slopes.iter_mut().zip(&loss.derivative) {
                *sum += (share * f64::from(*slope)) as f32;
            }
        };
        if let Some(aim) = aim {
            if aim.shape() != own.shape() {
                let message = format!(
                    "`{}` has shape {:?} in the teacher and {:?} in the candidate; name another by `output`",
                    self.output,
                    aim.shape(),
                    own.shape()
                );
                return Err(Error::new(ErrorCode::SHAPE, message).at("config.output"));
            }
            let aim = layout.rows(&aim.to_f32()?);
            // One number is no distribution, but a quantity.
            let loss = match layout.classes() {
                1 => mean_square(&rows, &aim),
                classes => divergence(&rows, &aim, classes, config.temperature),
            };
            add(
                loss.map_err(|error| Error::invalid_request(error.to_string()))?,
                config.soft_share,
            );
        }
        if config.soft_share < 1.0 {
            let labels = batch.labels().map_err(|error| {
                Error::invalid_configuration(format!("{}; write 1 to train by the teacher alone", error.message))
                    .at("config.soft_share")
            })?;
            if layout.classes() < 2 || labels.len() * layout.classes() != rows.len() {
                let message = format!(
                    "{} labels do not name classes of `{}` of shape {:?}; write 1 to train by the teacher alone",
                    labels.len(),
                    self.output,
                    own.shape()
                );
                return Err(Error::new(ErrorCode::SHAPE, message).at("config.soft_share"));
            }
            let loss = cross_entropy(&rows, layout.classes(), &labels, config.label_smoothing);
            let loss = loss.map_err(|error| Error::invalid_request(error.to_string()).at("training data"))?;
            add(loss, 1.0 - config.soft_share);
        }
        Ok((value, layout.tensor(&slopes)))
    }
}

fn first(values: Vec<(String, Tensor)>, name: &str) -> Result<Tensor> {
    let first = values.into_iter().next();
    Ok(first
        .ok_or_else(|| Error::not_found("was not computed").at(format!("value `{name}`")))?
        .1)
}

fn drawn(session: &mut Session<'_>, place: &str) -> Result<Batch> {
    session.next_batch()?.ok_or_else(|| {
        Error::new(
            ErrorCode::OTHER,
            "the training data ended sooner than when its batches were counted",
        )
        .at(place)
    })
}

/// Ends a pass over the data.
fn ended(session: &mut Session<'_>) -> Result<()> {
    match session.next_batch()? {
        None => Ok(()),
        Some(_) => Err(Error::new(
            ErrorCode::OTHER,
            "the training data goes on longer than when its batches were counted",
        )),
    }
}

fn is_finite(tensor: &Tensor) -> bool {
    tensor
        .to_f32()
        .is_ok_and(|values| values.iter().all(|value| value.is_finite()))
}

fn diverged(what: &str, place: &str) -> Error {
    let message = format!(
        "{what}, so training has failed and the model stays as it was; try a smaller `learning_rate` or a `clip_norm` \
         of 1"
    );
    Error::new(ErrorCode::OTHER, message).at(place)
}

fn without_data(error: Error) -> Error {
    match error.code {
        ErrorCode::NOT_FOUND => Error::invalid_configuration(format!(
            "training needs data: {}; give the manifest `data.training` or `data.calibration`, or write 0",
            error.message
        ))
        .at("config.epochs"),
        _ => error,
    }
}
