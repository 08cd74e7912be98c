//! `kmr measure`: prints every cost of a model.

use std::{num::NonZeroUsize, path::Path, time::Duration};

use kmr_compute::ComputeError;
use kmr_model::{Dimension, Model, cost, shapes};
use serde_json::json;

use crate::{
    arguments::{Common, Measure},
    engine, exit,
    failure::Failure,
    files,
    latency::{self, Shapes, Timing},
    table::{Table, number},
};

pub fn execute(arguments: &Measure, common: &Common) -> Result<u8, Failure> {
    let model = files::read_model(&arguments.model)?;
    let mut feeds = shapes::default_feeds(&model);
    for (name, shape) in &arguments.inputs {
        if !feeds.contains_key(name) {
            let known: Vec<&str> = feeds.keys().map(String::as_str).collect();
            return Err(Failure::new(exit::USAGE, format!("the model has no input `{name}`"))
                .at(arguments.model.display().to_string())
                .help(format!("its inputs are {}", known.join(", "))));
        }
        feeds.insert(name.clone(), shape.clone());
    }
    let costs = cost::Costs::of(&model, &feeds).map_err(|error| {
        let failure = Failure::model(&arguments.model, &error);
        match guessed(&model, &arguments.inputs) {
            Some(example) => failure.help(format!("open dimensions were taken as 1; give their sizes: {example}")),
            None => failure,
        }
    })?;
    let latencies = if arguments.latency {
        latencies(arguments, &model, &feeds)?
    } else {
        Vec::new()
    };
    let mut known = Vec::new();
    for name in cost::NAMES {
        match costs.cost(name) {
            Ok(value) => known.push((name, value)),
            Err(error) => log::warn!("{name} is not known: {error}"),
        }
    }
    if common.json {
        let readings: serde_json::Map<_, _> = known
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        let layers: Vec<_> = costs.layers.iter().map(layer_json).collect();
        let latencies: Vec<_> = latencies.iter().map(Latency::to_json).collect();
        crate::terminal::line!(
            "{:#}",
            json!({
                "schema": 1,
                "model": arguments.model,
                "inputs": feeds,
                "meters": readings,
                "layers": layers,
                "latency": latencies,
            })
        );
        return Ok(exit::SUCCESS);
    }
    if arguments.layers {
        let mut table = Table::new(&["layer", "operator", "params", "MACs", "output"]);
        for layer in costs
            .layers
            .iter()
            .filter(|layer| layer.params > 0 || layer.macs != Some(0))
        {
            table.row([
                layer.label.clone(),
                layer.op_type.clone(),
                number(layer.params as f64),
                layer.macs.map_or("?".to_owned(), |macs| number(macs as f64)),
                layer
                    .output_shape
                    .as_ref()
                    .map_or("?".to_owned(), |shape| format!("{shape:?}")),
            ]);
        }
        crate::terminal::line!("{}", table.render());
    }
    let mut table = Table::new(&["meter", "reading"]);
    for (name, value) in known {
        table.row([name.to_owned(), number(value as f64)]);
    }
    crate::terminal::text!("{}", table.render());
    if !latencies.is_empty() {
        let mut table = Table::new(&[
            "latency",
            "batch",
            "threads",
            "median ms",
            "quartiles",
            "ratio",
            "rounds",
        ]);
        for latency in latencies {
            table.row(latency.cells());
        }
        crate::terminal::text!("\n{}", table.render());
    }
    Ok(exit::SUCCESS)
}

/// A model's times at one batch size and number of threads.
struct Latency<'a> {
    model: &'a Path,
    batch: u32,
    threads: u16,
    timing: Timing,
}

impl Latency<'_> {
    fn cells(&self) -> [String; 7] {
        let Timing {
            lower,
            median,
            upper,
            ratio,
            rounds,
        } = self.timing;
        [
            self.model.display().to_string(),
            self.batch.to_string(),
            self.threads.to_string(),
            format!("{median:.3}"),
            format!("{lower:.3} to {upper:.3}"),
            format!("{ratio:.3}"),
            number(rounds as f64),
        ]
    }

    fn to_json(&self) -> serde_json::Value {
        json!({
            "model": self.model,
            "batch": self.batch,
            "threads": self.threads,
            "median_ms": self.timing.median,
            "lower_quartile_ms": self.timing.lower,
            "upper_quartile_ms": self.timing.upper,
            "ratio": self.timing.ratio,
            "rounds": self.timing.rounds,
        })
    }
}

/// Times `first` in turn with the models that it is compared with, setting by setting.
fn latencies<'a>(arguments: &'a Measure, first: &Model, shapes: &Shapes) -> Result<Vec<Latency<'a>>, Failure> {
    const DURATION: Duration = Duration::from_secs(1);
    let found = engine::required()?;
    let failure = |path: &Path, error: &ComputeError| {
        let failure = Failure::new(exit::INPUT, error.to_string()).at(path.display().to_string());
        match error.help() {
            Some(help) => failure.help(help),
            None => failure,
        }
    };
    let mut models = vec![(&arguments.model, first.clone(), shapes.clone())];
    for path in &arguments.compare {
        let model = files::read_model(path)?;
        let mut own = shapes::default_feeds(&model);
        own.extend(
            shapes
                .clone()
                .into_iter()
                .filter(|(name, _)| model.graph.feeds().any(|feed| feed.name() == name)),
        );
        models.push((path, model, own));
    }
    let mut latencies = Vec::new();
    for &batch in &arguments.batch {
        let fed = models.iter().map(|(path, model, shapes)| {
            let shapes = latency::batched(model, shapes, batch as usize);
            let feeds = shapes.and_then(|shapes| latency::inputs(model, &shapes));
            Ok((model, feeds.map_err(|error| failure(path, &error))?))
        });
        let fed = fed.collect::<Result<Vec<_>, Failure>>()?;
        for &threads in &arguments.latency_threads {
            let number = NonZeroUsize::new(threads.into()).unwrap_or(NonZeroUsize::MIN);
            let timings = latency::measure(found, &fed, number, DURATION);
            let timings = timings.map_err(|error| failure(&arguments.model, &error))?;
            let named = models.iter().zip(timings);
            latencies.extend(named.map(|((path, ..), timing)| Latency {
                model: path,
                batch,
                threads,
                timing,
            }));
        }
    }
    Ok(latencies)
}

/// The option that gives the first input with open dimensions a shape, unless it was given one.
fn guessed(model: &Model, given: &[(String, Vec<usize>)]) -> Option<String> {
    let mut feeds = model.graph.feeds();
    let feed = feeds.find(|feed| {
        let open = |shape: Vec<Dimension>| !shape.iter().all(|size| matches!(size, Dimension::Fixed(_)));
        feed.shape().is_some_and(open) && !given.iter().any(|(name, _)| name == feed.name())
    })?;
    let sizes = feed.shape()?.into_iter().enumerate();
    let sizes = sizes.map(|(axis, size)| match size {
        Dimension::Fixed(size) => size.to_string(),
        _ if axis == 0 => "1".to_owned(),
        _ => "SIZE".to_owned(),
    });
    Some(format!(
        "`--input {}={}`",
        feed.name(),
        sizes.collect::<Vec<_>>().join(",")
    ))
}

fn layer_json(layer: &cost::LayerCost) -> serde_json::Value {
    json!({
        "layer": layer.label,
        "operator": layer.op_type,
        "params": layer.params,
        "macs": layer.macs,
        "output_shape": layer.output_shape,
    })
}
