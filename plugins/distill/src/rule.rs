//! The rule `distill`.

use std::collections::BTreeMap;

use kmr_sdk::{
    Action, Applied, Error, ErrorCode, Host, KnobSettings, Result, Rule, Session, SessionRequest, Split, Target,
    logits::{self, Layout},
    model::{Model, Node, Patch, shapes},
};

use crate::{
    average::{Average, running_statistics},
    config::{Config, REFERENCE, refused},
    course::Course,
    epochs::Epochs,
    features::features,
    latent,
    objective::Objective,
    selection::Selection,
    session_edits::SessionEdits,
    survey::{Survey, survey},
    training::Training,
    zeros,
};

/// The rule `distill`.
pub struct Distill {
    config: Config,
    epochs: Epochs,
}

impl Rule for Distill {
    type Config = Config;

    fn new(config: Config, knobs: KnobSettings) -> Result<Self> {
        config.check()?;
        if config.epochs.is_some() {
            return Err(refused(
                "epochs",
                "is a knob of this rule: write knobs.epochs = { values = [0, 2] }",
            ));
        }
        Ok(Self {
            config,
            epochs: Epochs::read(&knobs)?,
        })
    }

    fn targets(&mut self, host: &Host<'_>) -> Result<Vec<Target>> {
        let model = host.graph()?;
        let layers = Selection::of(&model.graph, &self.config)?.readers;
        if self.config.teacher != REFERENCE {
            check_teacher(host, &model, &self.config)?;
        }
        Ok(self.epochs.target(layers).into_iter().collect())
    }

    fn apply(&mut self, host: &Host<'_>, action: &Action) -> Result<Applied> {
        let epochs = Epochs::assigned(action)?;
        if epochs == 0.0 {
            return Ok(Applied {
                complete: true,
                ..Applied::default()
            });
        }
        if action.costs_only {
            // Training moves the values of tensors, and neither their shapes nor how they are stored.
            return Ok(Applied::default());
        }
        train(host, &self.config, epochs)
    }
}

/// Trains the candidate and stores what comes of it.
///
/// # Errors
/// If there is nothing to train, or to train on, or training fails.
pub fn train(host: &Host<'_>, config: &Config, epochs: f64) -> Result<Applied> {
    let mut applied = Applied::default();
    let model = host.graph()?;
    let selection = Selection::of(&model.graph, config)?;
    let mut trained = selection.tensors.clone();
    let request = SessionRequest {
        split: Split::Training,
        batch: Some(config.batch),
        seed: config.seed.map_or_else(|| host.seed(), Ok)?,
        augment: config.augment,
        optimizer: config.optimizer(),
        ..SessionRequest::default()
    };
    let data = survey(host, &request)?;
    let request = SessionRequest {
        whole_batches: data.whole_batches,
        ..request
    };
    if !data.whole_batches {
        applied.notes.push(format!(
            "all {} samples are in one batch: there are fewer than the {} of a batch",
            data.samples, config.batch
        ));
    }
    let alpha = share_of_teacher(config, &data, &mut applied)?;
    let teacher_model = match alpha > 0.0 || !config.features.is_empty() {
        true => Some(teacher_model(host, config)?),
        false => None,
    };
    let mut edits = SessionEdits::on(&model.graph);
    if config.keep_zeros {
        let kept = zeros::keep(&mut edits, &trained);
        if kept > 0 {
            applied.notes.push(format!("the zeros of {kept} tensors stay zero"));
        }
    }
    let mut latents = Vec::new();
    for weight in &selection.integers {
        latents.push(latent::integers(&mut edits, weight)?);
    }
    for weight in &selection.halves {
        latents.push(latent::half(&mut edits, weight)?);
    }
    trained.extend(latents.iter().map(|latent| latent.tensor.clone()));
    let averaged = trained.clone();
    let mut objective = Objective {
        logits: logits::value(&model.graph, config.output.as_deref(), "output")?,
        teacher_logits: String::new(),
        class_axis: config.class_axis,
        alpha,
        temperature: config.temperature,
        label_smoothing: config.label_smoothing,
        features: Vec::new(),
    };
    if let Some(teacher) = &teacher_model {
        objective.teacher_logits = teacher_logits(teacher, config)?;
        let models = (&model, teacher);
        let (features, projections) = features(&config.features, models, &data.feeds, request.seed, &mut edits)?;
        objective.features = features;
        trained.extend(projections);
    }
    if alpha < 1.0 {
        check_labels(&model, &data, &objective)?;
    }
    let batch_statistics = config.batch_statistics.unwrap_or_else(|| {
        let mut nodes = model.graph.nodes.iter();
        nodes.any(|node| node.is("BatchNormalization"))
    });
    let rounds = |node: &Node| matches!(node.op_type(), "QuantizeLinear" | "DynamicQuantizeLinear");
    let request = SessionRequest {
        trainable: trained,
        straight_through: !latents.is_empty() || model.graph.nodes.iter().any(|node| rounds(node)),
        ..request
    };
    let mut student = open(host, &request, &edits.finish())?;
    let mut teacher = match &teacher_model {
        Some(_) => Some(open_teacher(host, config, &request)?),
        None => None,
    };
    let mut average = match config.average {
        Some(decay) => {
            let statistics = if batch_statistics {
                running_statistics(&model.graph)
            } else {
                Vec::new()
            };
            Some(Average::new(&student, averaged.into_iter().chain(statistics), decay)?)
        }
        None => None,
    };
    let training = Training {
        objective: &objective,
        course: Course::new(epochs, data.batches, config.accumulate),
        schedule: config.schedule()?,
        batch_statistics,
    };
    let done = training.run(host, &mut student, teacher.as_mut(), average.as_mut())?;
    if let Some(average) = average {
        average.finish(&mut student)?;
    }
    student.store(&[])?;
    if !latents.is_empty() {
        host.edit(&latent::stored(&model.graph, &student, &latents)?)?;
        applied.notes.push(format!(
            "{} stored weights trained through the numbers behind their codes",
            latents.len()
        ));
    }
    let last = done.losses.last().copied().unwrap_or(done.first);
    applied.change(
        "the whole model",
        "loss",
        format!("{:.4}", done.first),
        format!("{last:.4}"),
    );
    applied.notes.push(format!(
        "trained for {epochs} epochs of {} samples, {} steps; mean loss {}",
        data.samples,
        training.course.steps(),
        done.losses
            .iter()
            .map(|loss| format!("{loss:.4}"))
            .collect::<Vec<_>>()
            .join(", ")
    ));
    Ok(applied)
}

/// The share of the soft loss: all, where there are no labels.
fn share_of_teacher(config: &Config, data: &Survey, applied: &mut Applied) -> Result<f64> {
    if data.labels.is_some() || config.alpha == 1.0 {
        return Ok(config.alpha);
    }
    if config.alpha == 0.0 {
        let message = "trains by labels alone, and the training data has none; give it labels, or let the teacher say \
                       what is right with an alpha of 1";
        return Err(refused("alpha", message));
    }
    applied
        .notes
        .push("the training data has no labels: the teacher alone says what is right".into());
    Ok(1.0)
}

fn teacher_model(host: &Host<'_>, config: &Config) -> Result<Model> {
    host.graph_of(&config.teacher).map_err(|error| match error.code {
        ErrorCode::NOT_FOUND => {
            let message = format!(
                "there is no model `{}`; name its file under `[models]` in the manifest, or leave `teacher` out to \
                 learn from the model as it was before it was changed",
                config.teacher
            );
            refused("teacher", message)
        }
        _ => error,
    })
}

/// The value of the teacher that is learned from.
fn teacher_logits(teacher: &Model, config: &Config) -> Result<String> {
    let wanted = match &config.teacher_output {
        Some(output) => Some(output.as_str()),
        // An output of the same name is meant, where there is one.
        None => config.output.as_deref().filter(|output| has_value(teacher, output)),
    };
    logits::value(&teacher.graph, wanted, "teacher_output")
}

/// Refuses a teacher of which it is known before anything is trained that nothing can be learned from it.
fn check_teacher(host: &Host<'_>, model: &Model, config: &Config) -> Result<()> {
    let teacher = teacher_model(host, config)?;
    let own = logits::value(&model.graph, config.output.as_deref(), "output")?;
    let others = teacher_logits(&teacher, config)?;
    let feeds = host.feeds(model);
    let (shapes, of_teacher) = (shapes::infer(model, &feeds)?, shapes::infer(&teacher, &feeds)?);
    match (shapes.shape(&own), of_teacher.shape(&others)) {
        (Some(shape), Some(other)) if shape != other => Err(refused(
            "teacher",
            format!(
                "the value `{others}` of model `{}` has the shape {other:?}, where `{own}` of the model that learns has \
                 {shape:?}",
                config.teacher
            ),
        )),
        _ => Ok(()),
    }
}

fn open<'h>(host: &'h Host<'_>, request: &SessionRequest, edits: &Patch) -> Result<Session<'h>> {
    match edits.edits.is_empty() {
        true => host.open_session(request),
        false => host.open_session_with(request, edits),
    }
}

/// A session of the teacher, which draws what the student draws.
fn open_teacher<'h>(host: &'h Host<'_>, config: &Config, request: &SessionRequest) -> Result<Session<'h>> {
    host.open_session(&SessionRequest {
        model: config.teacher.clone(),
        trainable: Vec::new(),
        straight_through: false,
        ..request.clone()
    })
}

fn has_value(model: &Model, name: &str) -> bool {
    let mut outputs = model.graph.nodes.iter().flat_map(|node| node.outputs());
    outputs.any(|output| output == name)
}

/// Refuses labels that name no class, as far as the number of classes is known before the model runs.
fn check_labels(model: &Model, data: &Survey, objective: &Objective) -> Result<()> {
    let feeds: &BTreeMap<_, _> = &data.feeds;
    let shapes = shapes::infer(model, feeds)?;
    let (Some((least, greatest)), Some(shape)) = (data.labels, shapes.shape(&objective.logits)) else {
        return Ok(());
    };
    let classes = Layout::of(&objective.logits, shape, objective.class_axis)?.classes();
    let wrong = [least, greatest]
        .into_iter()
        .find(|&label| usize::try_from(label).map_or(true, |label| label >= classes));
    match wrong.filter(|_| classes > 1) {
        None => Ok(()),
        Some(label) => {
            let message = format!(
                "label {label} is none of the {classes} classes of `{}`, which count from 0; mend the labels, or name \
                 another value by `output`, or set alpha = 1",
                objective.logits
            );
            Err(Error::invalid_request(message).at("training data"))
        }
    }
}

#[cfg(test)]
mod tests;
