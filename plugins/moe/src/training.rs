//! Training routers of split layers: by the session, on the training data.
//!
//! A router is asked for the experts that matter, and which ones do is known without any label: those whose output is far
//! from its mean, since the mean stands for an expert that is not chosen. So each router learns the distribution
//! of the squares of these distances over experts, token by token.

use kmr_methods::{
    loss::divergence,
    ridge::Linear,
    schedule::{Decay, Schedule},
};
use kmr_sdk::{
    Error, ErrorCode, Host, Method, Optimizer, Result, Session, SessionRequest, Split as Data, log,
    model::{Build, Graph, Tensor},
};

use crate::{config::TrainConfig, network::Network, prediction::Distances, samples::Rows};

/// A router to be trained.
pub struct Student<'l> {
    /// What the layer is called.
    pub label: &'l str,
    /// The value that it reads, tokens along all axes but the last.
    pub input: &'l str,
    /// What it chooses from.
    pub experts: &'l [Network],
    /// How far outputs of these are from their means.
    pub distances: &'l Distances,
    /// Where it begins.
    pub router: &'l Linear,
}

/// Shares of the squared distances below this are taken as this, so that logarithms stay finite.
const LEAST: f64 = 1e-6;

/// The routers of `students` after training; each stays as it was where training has not lowered its loss.
///
/// # Errors
/// If there is no data to train on, a value is not what it should be, or the loss is not finite.
pub fn train(host: &Host<'_>, graph: &Graph, students: &[Student<'_>], config: &TrainConfig) -> Result<Vec<Linear>> {
    let mut build = Build::on(graph);
    build.place(None);
    let nodes: Vec<RouterNodes> = students.iter().map(|student| student.add(&mut build)).collect();
    let request = SessionRequest {
        model: "candidate".to_owned(),
        split: Data::Training,
        trainable: nodes
            .iter()
            .flat_map(|nodes| [nodes.weights.clone(), nodes.intercepts.clone()])
            .collect(),
        batch: Some(config.batch),
        seed: host.seed()?,
        optimizer: Optimizer {
            method: Method::AdamW {
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
            },
            ..Optimizer::default()
        },
        ..SessionRequest::default()
    };
    let mut session = host
        .open_session_with(&request, &build.finish())
        .map_err(without_data)?;
    let schedule = Schedule::new(config.learning_rate, 0.1, Decay::Cosine)
        .map_err(|error| Error::invalid_configuration(error.to_string()).at("config.train.learning_rate"))?;
    let mut pass = 0;
    while session.next_batch().map_err(without_data)?.is_some() {
        pass += 1;
    }
    if pass == 0 {
        return Err(Error::invalid_request("has no samples to train on").at("training data"));
    }
    let before = looked_at(host, &mut session, students, &nodes)?;
    let steps = pass * config.epochs;
    let mut step = 0;
    for epoch in 1..=config.epochs {
        while session.next_batch()?.is_some() {
            host.progress(
                step as f64 / steps as f64,
                &format!("routers: epoch {epoch} of {}", config.epochs),
            )?;
            let losses = graded(&mut session, students, &nodes, Pull::Back)?;
            if let Some(at) = losses.iter().position(|(loss, _)| !loss.is_finite()) {
                let message = "the router's loss is not finite; try a smaller `learning_rate`";
                return Err(Error::new(ErrorCode::OTHER, message).at(format!("layer `{}`", students[at].label)));
            }
            session.step(schedule.rate(step.min(steps - 1), steps))?;
            step += 1;
        }
    }
    let after = looked_at(host, &mut session, students, &nodes)?;
    let mut trained = Vec::new();
    for (at, (student, nodes)) in students.iter().zip(&nodes).enumerate() {
        let better = after[at] < before[at];
        let kept = if better { "" } else { "; it stays as it was" };
        log::info!(
            "the router of {}: divergence {:.4} before training, {:.4} after{kept}",
            student.label,
            before[at],
            after[at]
        );
        trained.push(match better {
            true => nodes.read(&session, student)?,
            false => student.router.clone(),
        });
    }
    Ok(trained)
}

/// Whether derivatives are wanted.
#[derive(Clone, Copy, PartialEq)]
enum Pull {
    Back,
    Nothing,
}

/// A router as nodes of the session's model.
struct RouterNodes {
    /// Inputs × experts.
    weights: String,
    intercepts: String,
    scores: String,
    /// What all scores were multiplied with, so that they are of a softmax's size. The order of experts does not change.
    factor: f64,
}

impl RouterNodes {
    fn read(&self, session: &Session<'_>, student: &Student<'_>) -> Result<Linear> {
        let weights = session.parameter(&self.weights)?.to_f32()?.into_owned();
        let intercepts = session.parameter(&self.intercepts)?.to_f32()?.into_owned();
        let experts = student.experts.len();
        let inputs = weights.len() / experts.max(1);
        let weight = |at: usize| f64::from(weights[at % inputs * experts + at / inputs]);
        Ok(Linear {
            weights: (0..weights.len()).map(|at| weight(at) / self.factor).collect(),
            intercepts: intercepts.iter().map(|&value| f64::from(value) / self.factor).collect(),
        })
    }
}

impl Student<'_> {
    /// Adds the router to what the session sees.
    fn add(&self, build: &mut Build) -> RouterNodes {
        let (experts, inputs) = (
            self.experts.len(),
            self.router.weights.len() / self.experts.len().max(1),
        );
        // Distances of one unit on average: their squares' logarithms differ by about as much.
        let factor = 1.0 / self.distances.typical();
        let weight = |at: usize| (self.router.weights[at % experts * inputs + at / experts] * factor) as f32;
        let weights = Tensor::from_vec(vec![inputs, experts], (0..experts * inputs).map(weight).collect());
        let intercepts = self.router.intercepts.iter().map(|&value| (value * factor) as f32);
        let intercepts = Tensor::from_vec(vec![experts], intercepts.collect());
        let weights = build.tensor("router.weight", weights);
        let intercepts = build.tensor("router.bias", intercepts);
        let product = build.node("MatMul", &[self.input, &weights], "router.product", |node| node);
        let scores = build.node("Add", &[&product, &intercepts], "router.scores", |node| node);
        RouterNodes {
            weights,
            intercepts,
            scores,
            factor,
        }
    }

    /// The logarithms of what experts should get, token by token.
    fn aims(&self, tokens: &Rows) -> Vec<f32> {
        let distances = self.distances.of(self.experts, tokens);
        let shares = distances.chunks_exact(self.experts.len()).flat_map(|row| {
            let total: f64 = row.iter().map(|distance| distance * distance).sum();
            let share = move |&distance: &f64| match total > 0.0 {
                true => (distance * distance / total).max(LEAST).ln() as f32,
                false => 0.0,
            };
            row.iter().map(share).collect::<Vec<_>>()
        });
        shares.collect()
    }
}

/// The mean loss of each router over all training data.
fn looked_at(
    host: &Host<'_>,
    session: &mut Session<'_>,
    students: &[Student<'_>],
    nodes: &[RouterNodes],
) -> Result<Vec<f64>> {
    let mut sums = vec![(0.0, 0.0); students.len()];
    while session.next_batch()?.is_some() {
        host.progress(0.0, "looking at routers")?;
        for (sum, (loss, tokens)) in sums.iter_mut().zip(graded(session, students, nodes, Pull::Nothing)?) {
            sum.0 += loss * tokens as f64;
            sum.1 += tokens as f64;
        }
    }
    Ok(sums.into_iter().map(|(sum, count)| sum / count).collect())
}

/// The mean loss of each router on the batch drawn last, and over how many tokens.
fn graded(
    session: &mut Session<'_>,
    students: &[Student<'_>],
    nodes: &[RouterNodes],
    pull: Pull,
) -> Result<Vec<(f64, usize)>> {
    let inputs = students.iter().map(|student| student.input);
    let names: Vec<&str> = inputs.chain(nodes.iter().map(|nodes| nodes.scores.as_str())).collect();
    let values = session.forward(&names)?;
    let value = |name: &str| {
        let found = values.iter().find(|(own, _)| own == name);
        found
            .map(|(_, tensor)| tensor)
            .ok_or_else(|| Error::not_found("was not computed").at(format!("value `{name}`")))
    };
    let (mut losses, mut slopes) = (Vec::new(), Vec::new());
    for (student, nodes) in students.iter().zip(nodes) {
        let (tokens, scores) = (value(student.input)?, value(&nodes.scores)?);
        let rows = Rows {
            width: tokens.shape().last().copied().unwrap_or(0),
            values: tokens.to_f32()?.into_owned(),
        };
        let loss = divergence(&scores.to_f32()?, &student.aims(&rows), student.experts.len(), 1.0)
            .map_err(|error| Error::unsupported(error.to_string()).at(format!("layer `{}`", student.label)))?;
        losses.push((loss.value, rows.count()));
        slopes.push(Tensor::from_vec(scores.shape().to_vec(), loss.derivative));
    }
    if pull == Pull::Back {
        let cotangents = nodes.iter().zip(&slopes);
        let cotangents: Vec<(&str, &Tensor)> = cotangents
            .map(|(nodes, slope)| (nodes.scores.as_str(), slope))
            .collect();
        session.backward(&cotangents)?;
    }
    Ok(losses)
}

fn without_data(error: Error) -> Error {
    match error.code {
        ErrorCode::NOT_FOUND => Error::invalid_configuration(format!(
            "training routers needs data: {}; give the manifest `data.training` or `data.calibration`, or leave `train` \
             out",
            error.message
        ))
        .at("config.train"),
        _ => error,
    }
}
