//! What fine-tuning costs: parameters that are trained, and bytes of the optimizer's state.

use std::collections::BTreeSet;

use kmr_sdk::{
    Error, Host, MeasureRequest, Meter, NoConfig, Reading, Result,
    model::{Graph, adapters::adapters, parameters::parameters, stored::stored_weights},
    serde_json::json,
};
use serde::Deserialize;

/// Elements that fine-tuning trains: those of adapters where the graph has any, else of everything trainable.
fn trainable(graph: &Graph) -> Result<(usize, usize)> {
    let adapters = adapters(graph)?;
    if adapters.is_empty() {
        return Ok((everything(graph), 0));
    }
    let of_adapters = adapters.iter().map(|adapter| adapter.parameters()).sum();
    Ok((of_adapters, adapters.len()))
}

/// Elements of all trainable parameters of float32, and of weights of 16 bits that are cast to it.
pub fn everything(graph: &Graph) -> usize {
    let parameters = parameters(graph);
    let tensors = parameters
        .iter()
        .filter_map(|parameter| graph.tensor(&parameter.tensor));
    let stored = stored_weights(graph);
    let scales: BTreeSet<&str> = stored.integers.iter().map(|weight| weight.scale.as_str()).collect();
    let halves: BTreeSet<&str> = stored.halves.iter().map(|weight| weight.tensor.as_str()).collect();
    let halves = halves.difference(&scales).filter_map(|name| graph.tensor(name));
    tensors.chain(halves).map(|tensor| tensor.len()).sum()
}

fn reading(host: &Host<'_>, factor: usize) -> Result<Reading> {
    let (elements, adapters) = trainable(&host.graph()?.graph)?;
    let mut reading = Reading::of((elements * factor) as f64);
    reading.details.insert("adapters".into(), json!(adapters));
    Ok(reading)
}

/// The meter `trainable_params`.
pub struct TrainableParams;

impl Meter for TrainableParams {
    type Config = NoConfig;

    fn new(_: NoConfig) -> Result<Self> {
        Ok(Self)
    }

    fn measure(&mut self, host: &Host<'_>, _: &MeasureRequest) -> Result<Reading> {
        reading(host, 1)
    }
}

/// The optimizer that is counted for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// A mean of gradients and one of their squares: 8 bytes an element.
    #[default]
    AdamW,
    /// The last movement, where there is momentum: 4 bytes an element.
    Sgd,
}

/// The configuration of `optimizer_bytes`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Which optimizer.
    pub optimizer: OptimizerName,
    /// The momentum of "sgd".
    pub momentum: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            optimizer: OptimizerName::default(),
            momentum: 0.9,
        }
    }
}

/// The meter `optimizer_bytes`.
pub struct OptimizerBytes {
    bytes: usize,
}

impl Meter for OptimizerBytes {
    type Config = OptimizerConfig;

    fn new(config: OptimizerConfig) -> Result<Self> {
        let momentum = config.momentum;
        if !(0.0..1.0).contains(&momentum) {
            let message = format!("has to be from 0 to less than 1; got {momentum}");
            return Err(Error::invalid_configuration(message).at("config.momentum"));
        }
        let bytes = match config.optimizer {
            OptimizerName::AdamW => 8,
            OptimizerName::Sgd if momentum > 0.0 => 4,
            OptimizerName::Sgd => 0,
        };
        Ok(Self { bytes })
    }

    fn measure(&mut self, host: &Host<'_>, _: &MeasureRequest) -> Result<Reading> {
        reading(host, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use kmr_testkit::halved;

    use super::*;
    use crate::testing::{ModelHost, convolutions, perceptron, quantized};

    fn bytes(config: &str) -> Result<f64> {
        let config = kmr_sdk::serde_json::from_str(config).unwrap();
        let mut meter = OptimizerBytes::new(config)?;
        let host = ModelHost::new(perceptron(), perceptron());
        Ok(host
            .with(|host| {
                meter.measure(
                    host,
                    &MeasureRequest {
                        split: Default::default(),
                        limit: None,
                    },
                )
            })?
            .value)
    }

    #[test]
    fn states_are_counted() {
        assert_eq!(trainable(&perceptron().graph).unwrap(), (30 + 6 + 24 + 12, 0));
        assert_eq!(
            trainable(&quantized(&perceptron(), &["matrix"], 8).graph).unwrap(),
            (48, 0)
        );
        assert_eq!(
            trainable(&halved(&perceptron().graph, |name| name == "matrix")).unwrap(),
            (72, 0)
        );
        // Running statistics are not trained.
        assert_eq!(trainable(&convolutions().graph).unwrap(), (72 + 8 + 12, 0));
        assert_eq!(bytes("{}").unwrap(), 576.0);
        assert_eq!(bytes(r#"{"optimizer": "sgd"}"#).unwrap(), 288.0);
        assert_eq!(bytes(r#"{"optimizer": "sgd", "momentum": 0}"#).unwrap(), 0.0);
        let error = bytes(r#"{"momentum": 1}"#).unwrap_err().to_string();
        assert_eq!(error, "config.momentum: has to be from 0 to less than 1; got 1");
    }
}
