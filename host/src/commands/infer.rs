//! `kmr infer`: runs a model on arrays.

use std::{collections::BTreeMap, sync::Arc};

use kmr_compute::Interpreter;
use kmr_formats::{Dataset, Sample, Scale, read_npz, write_npz};
use kmr_model::{Model, ModelError, Tensor, shapes};

use crate::{
    arguments::{Common, Infer},
    engine::{self, EngineChoice},
    exit,
    failure::Failure,
    files,
    pipeline::{Forward, expected_inputs, format_failure, sample_kind},
};

pub fn execute(arguments: &Infer, common: &Common) -> Result<u8, Failure> {
    let destination = files::destination(&arguments.outputs)?;
    let model = files::read_model(&arguments.model)?;
    let place = || arguments.model.display().to_string();
    let mut arrays = read_npz(&arguments.inputs).map_err(|error| format_failure(&error))?;
    arrays.shift_remove("labels");
    let scale = arguments.scale.as_deref().map(parse_scale).transpose()?;
    let mut data = Dataset::new(&arguments.inputs, arrays, None, scale).map_err(|error| format_failure(&error))?;
    let sample = if arguments.calls {
        Sample::Call
    } else {
        sample_kind(&model)
    };
    data.conform(&expected_inputs(&model, sample)?, sample)
        .map_err(|error| format_failure(&error))?;
    check_sizes(&model, &data, arguments.batch as usize).map_err(|error| Failure::model(&arguments.model, &error))?;
    let names: Vec<String> = if arguments.values.is_empty() {
        model
            .graph
            .outputs
            .iter()
            .map(|output| output.name().to_owned())
            .collect()
    } else {
        arguments.values.clone()
    };
    let engine: Box<dyn kmr_compute::Engine> = match arguments.engine {
        EngineChoice::Auto | EngineChoice::Builtin => Box::new(Interpreter),
        EngineChoice::Onnxruntime => Box::new(engine::required()?.engine(engine::options())),
    };
    let program = engine
        .load(&model)
        .map_err(|error| Failure::new(exit::INPUT, error.to_string()).at(place()))?;
    let forward = Forward {
        program: Arc::from(program),
        data: Arc::new(data),
        cache: None,
    };
    let (data, batch) = (&forward.data, arguments.batch as usize);
    let mut results: BTreeMap<usize, Vec<Tensor>> = BTreeMap::new();
    for start in (0..data.len()).step_by(batch) {
        let range = start..(start + batch).min(data.len());
        let outputs = forward.outputs(&names, range).map_err(|error| {
            let failure = Failure::new(exit::INPUT, error.to_string()).at(place());
            match error.help() {
                Some(help) => failure.help(help),
                None => failure,
            }
        })?;
        for (position, output) in outputs.into_iter().enumerate() {
            results.entry(position).or_default().push(output);
        }
    }
    let mut named: Vec<(&str, Tensor)> = Vec::new();
    for (name, parts) in names.iter().zip(results.into_values()) {
        named.push((name, joined(name, &parts, batch, data.len())?));
    }
    write_npz(&destination, named.iter().map(|(name, tensor)| (*name, tensor)))
        .map_err(|error| Failure::new(exit::USAGE, error.to_string()).help("choose another file with `--outputs`"))?;
    if !common.quiet {
        eprintln!("wrote {} ({} samples)", arguments.outputs.display(), data.len());
    }
    if common.json {
        let shapes: serde_json::Map<_, _> = named
            .iter()
            .map(|(name, tensor)| ((*name).to_owned(), tensor.shape().into()))
            .collect();
        crate::terminal::line!(
            "{:#}",
            serde_json::json!({"schema": 1, "path": arguments.outputs, "arrays": shapes})
        );
    }
    Ok(exit::SUCCESS)
}

/// Refuses a model with a value that no memory holds, which would otherwise end the process.
fn check_sizes(model: &Model, data: &Dataset, batch: usize) -> Result<(), ModelError> {
    const LARGEST: usize = 1 << 40;
    let calls = data.calls(0..batch).into_iter();
    let feeds = calls
        .take(1)
        .flatten()
        .map(|(name, tensor)| (name, tensor.shape().to_vec()))
        .collect();
    let shapes = shapes::infer(model, &feeds)?;
    for (name, known) in shapes.iter() {
        let bytes = known
            .shape
            .iter()
            .try_fold(known.dtype.bits().unwrap_or(8), |bits, &size| bits.checked_mul(size));
        if bytes.is_none_or(|bits| bits / 8 > LARGEST) {
            let message = format!("is too large: its shape is {:?}", known.shape);
            return Err(ModelError::new(
                kmr_model::ErrorKind::Unsupported,
                format!("value `{name}`"),
                message,
            ));
        }
    }
    Ok(())
}

fn parse_scale(text: &str) -> Result<Scale, Failure> {
    let (numerator, denominator) = text.split_once('/').unwrap_or((text, "1"));
    let number = |text: &str| {
        text.trim()
            .parse::<f64>()
            .ok()
            .filter(|value| value.is_finite() && *value != 0.0)
    };
    match (number(numerator), number(denominator)) {
        (Some(numerator), Some(denominator)) => Ok(Scale { numerator, denominator }),
        _ => Err(Failure::new(exit::USAGE, format!("`{text}` is no factor"))
            .help("write a number or a fraction, as `1/255`")),
    }
}

/// The batches' results as one tensor along the axis of samples.
fn joined(name: &str, parts: &[Tensor], batch: usize, samples: usize) -> Result<Tensor, Failure> {
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
        return Err(Failure::new(exit::INTERNAL, format!("no result for `{name}`")));
    };
    if parts.len() == 1 {
        return Ok(first.clone());
    }
    let per_sample = first.shape().first() == Some(&batch)
        && parts.iter().all(|part| part.shape().get(1..) == first.shape().get(1..))
        && last.shape().first() == Some(&(samples - (parts.len() - 1) * batch));
    if !per_sample {
        let message = format!(
            "`{name}` has no axis of samples: its shape is {:?} for {batch} samples",
            first.shape()
        );
        return Err(Failure::new(exit::USAGE, message).help("compute all samples at once with a larger `--batch`"));
    }
    let mut shape = first.shape().to_vec();
    shape[0] = samples;
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.bytes().iter().copied()).collect();
    Tensor::new(first.dtype(), shape, bytes.into()).map_err(|error| Failure::new(exit::INTERNAL, error.to_string()))
}
