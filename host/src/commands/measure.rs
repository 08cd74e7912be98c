//! `kmr measure`: prints every cost of a model.

use kmr_model::{Dimension, Model, cost, shapes};
use serde_json::json;

use crate::{
    arguments::{Common, Measure},
    exit,
    failure::Failure,
    files,
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
        crate::terminal::line!(
            "{:#}",
            json!({"schema": 1, "model": arguments.model, "inputs": feeds, "meters": readings, "layers": layers})
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
    Ok(exit::SUCCESS)
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
