//! `kmr measure`: prints every cost of a model.

use kmr_model::{cost, shapes};
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
    let costs = cost::Costs::of(&model, &feeds).map_err(|error| Failure::model(&arguments.model, &error))?;
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

fn layer_json(layer: &cost::LayerCost) -> serde_json::Value {
    json!({
        "layer": layer.label,
        "operator": layer.op_type,
        "params": layer.params,
        "macs": layer.macs,
        "output_shape": layer.output_shape,
    })
}
