//! What is really computed for a token: `active_macs` and `active_params`, with the balance of the experts.

use std::collections::{BTreeMap, HashMap, HashSet};

use kmr_methods::experts::{Balance, balance};
use kmr_sdk::{
    Error, ErrorCode, Host, MeasureRequest, Meter, NoConfig, Reading, Result, RunRequest,
    model::{
        GraphIndex, Model,
        cost::Costs,
        experts::{FoundExperts, find, networks},
        shapes::{self, Shapes},
    },
    serde_json::{Value, json},
};

/// The meter `active_macs`: multiply-accumulate operations for one token.
pub struct ActiveMacs;

impl Meter for ActiveMacs {
    type Config = NoConfig;

    fn new(_: NoConfig) -> Result<Self> {
        Ok(Self)
    }

    fn measure(&mut self, host: &Host<'_>, request: &MeasureRequest) -> Result<Reading> {
        let model = host.graph()?;
        let layers = find(&model.graph);
        let shapes = shapes::infer(&model, &host.feeds(&model))?;
        let costs = Costs::with_shapes(&model, &shapes)?;
        let tokens = tokens(&model, &layers, &shapes)? as f64;
        let routed: HashSet<&str> = nodes(&layers).collect();
        let mut total = 0.0;
        for layer in costs
            .layers
            .iter()
            .filter(|layer| !routed.contains(layer.node.as_str()))
        {
            let macs = layer.macs.ok_or_else(|| {
                Error::unsupported("cannot be counted: its multiplications are not known")
                    .at(format!("node `{}`", layer.label))
            })?;
            total += macs as f64 / tokens;
        }
        let loads = loads(host, &layers, request)?;
        let index = model.graph.index();
        for (layer, loads) in layers.iter().zip(&loads) {
            let each = layer
                .each
                .iter()
                .map(|expert| products(&index, &model, &shapes, &expert.nodes));
            total += loads.average(&each.collect::<Result<Vec<_>>>()?);
        }
        Ok(reading(total, &layers, &loads))
    }
}

/// The meter `active_params`: parameters that compute for one token.
pub struct ActiveParams;

impl Meter for ActiveParams {
    type Config = NoConfig;

    fn new(_: NoConfig) -> Result<Self> {
        Ok(Self)
    }

    fn measure(&mut self, host: &Host<'_>, request: &MeasureRequest) -> Result<Reading> {
        let model = host.graph()?;
        let layers = find(&model.graph);
        let shapes = shapes::infer(&model, &host.feeds(&model))?;
        let costs = Costs::with_shapes(&model, &shapes)?;
        let by_node: HashMap<&str, u64> = costs
            .layers
            .iter()
            .map(|layer| (layer.node.as_str(), layer.params))
            .collect();
        let of = |nodes: &[String]| nodes.iter().filter_map(|node| by_node.get(node.as_str())).sum::<u64>();
        let loads = loads(host, &layers, request)?;
        let mut total = costs.params() as f64;
        for (layer, loads) in layers.iter().zip(&loads) {
            let each: Vec<u64> = layer.each.iter().map(|expert| of(&expert.nodes)).collect();
            total += loads.average(&each) - each.iter().sum::<u64>() as f64;
        }
        Ok(reading(total, &layers, &loads))
    }
}

/// The ids of all experts' nodes.
fn nodes(layers: &[FoundExperts]) -> impl Iterator<Item = &str> {
    layers
        .iter()
        .flat_map(|layer| &layer.each)
        .flat_map(|expert| expert.nodes.iter().map(String::as_str))
}

/// Tokens that a sample has: rows of the routed layers, else of the feed-forward layers, else the sample itself.
fn tokens(model: &Model, layers: &[FoundExperts], shapes: &Shapes) -> Result<usize> {
    let rows = |value: &str| -> Result<usize> {
        let shape = shapes.shape(value).and_then(|shape| shape.split_last());
        let rows = shape
            .map(|(_, rows)| rows.iter().product::<usize>())
            .filter(|&rows| rows > 0);
        rows.ok_or_else(|| {
            Error::unsupported("has no shape that tells how many tokens there are").at(format!("value `{value}`"))
        })
    };
    if let Some(layer) = layers.first() {
        return rows(&layer.tokens);
    }
    networks(&model.graph)
        .first()
        .map_or(Ok(1), |network| rows(&network.input))
}

/// Multiplications of one row.
fn products(index: &GraphIndex<'_>, model: &Model, shapes: &Shapes, nodes: &[String]) -> Result<u64> {
    let places = nodes.iter().filter_map(|id| index.producer(id));
    let nodes = places.map(|at| &model.graph.nodes[at]);
    let products = nodes.filter(|node| node.is("Gemm") || node.is("MatMul"));
    let each = products.map(|node| {
        let weight = node.input(1).and_then(|weight| shapes.shape(weight));
        let weight = weight.map(|shape| shape.iter().map(|&size| size as u64).product::<u64>());
        weight.ok_or_else(|| {
            Error::unsupported("multiplies by a matrix of unknown shape").at(format!("node `{}`", node.label()))
        })
    });
    each.sum()
}

/// How many tokens a layer had, and how many of them each expert was given.
struct Loads {
    tokens: u64,
    experts: Vec<u64>,
}

impl Loads {
    /// The mean over tokens of what their experts have.
    fn average(&self, each: &[u64]) -> f64 {
        let sum: f64 = self
            .experts
            .iter()
            .zip(each)
            .map(|(&load, &own)| load as f64 * own as f64)
            .sum();
        sum / self.tokens.max(1) as f64
    }
}

/// What each layer's router chose on the data.
fn loads(host: &Host<'_>, layers: &[FoundExperts], request: &MeasureRequest) -> Result<Vec<Loads>> {
    let mut loads: Vec<Loads> = layers
        .iter()
        .map(|layer| Loads {
            tokens: 0,
            experts: vec![0; layer.count()],
        })
        .collect();
    if layers.is_empty() {
        return Ok(loads);
    }
    let run = RunRequest {
        split: request.split,
        limit: request.limit,
        outputs: layers.iter().map(|layer| layer.chosen.clone()).collect(),
        ..RunRequest::default()
    };
    for batch in host.run(&run)? {
        let batch = batch?;
        for (position, (layer, loads)) in layers.iter().zip(&mut loads).enumerate() {
            let chosen = batch.output(position)?.to_i64()?;
            let top_k = layer.experts.router.top_k;
            loads.tokens += (chosen.len() / top_k.max(1)) as u64;
            for expert in chosen {
                let load = usize::try_from(expert)
                    .ok()
                    .and_then(|expert| loads.experts.get_mut(expert));
                *load.ok_or_else(|| {
                    let message = format!("chose expert {expert} of {}", layer.count());
                    Error::new(ErrorCode::SHAPE, message).at(format!("router `{}`", layer.label()))
                })? += 1;
            }
        }
    }
    match loads.iter().position(|loads| loads.tokens == 0) {
        Some(at) => Err(Error::invalid_request("was observed on no token: the data is empty")
            .at(format!("router `{}`", layers[at].label()))),
        None => Ok(loads),
    }
}

fn reading(value: f64, layers: &[FoundExperts], loads: &[Loads]) -> Reading {
    let mut reading = Reading::of(value);
    let told: Vec<Value> = layers
        .iter()
        .zip(loads)
        .map(|(layer, loads)| {
            let Balance { variation, most, idle } = balance(&loads.experts);
            json!({
                "layer": layer.label(),
                "experts": layer.count(),
                "experts_per_token": layer.experts.router.top_k,
                "tokens": loads.tokens,
                "loads": loads.experts,
                "variation": variation,
                "busiest": most,
                "idle": idle,
            })
        })
        .collect();
    let worst = loads.iter().map(|loads| balance(&loads.experts));
    let worst: BTreeMap<&str, f64> = worst.fold(BTreeMap::new(), |mut worst, balance| {
        let entry = worst.entry("variation").or_insert(0.0);
        *entry = entry.max(balance.variation);
        let entry = worst.entry("busiest").or_insert(0.0);
        *entry = entry.max(balance.most);
        worst
    });
    reading
        .details
        .extend(worst.into_iter().map(|(key, value)| (key.to_owned(), json!(value))));
    reading.details.insert("layers".into(), told.into());
    reading
}

#[cfg(test)]
mod tests;
