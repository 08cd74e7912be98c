//! Which weights are trained.

use kmr_sdk::{
    Error, Result,
    model::{
        DType, Graph,
        parameters::parameters,
        stored::{Half, Integers, stored_weights},
    },
};

use crate::config::Config;

/// The weights that are trained.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// Float32 initializers.
    pub tensors: Vec<String>,
    /// Weights of integers.
    pub integers: Vec<Integers>,
    /// Weights of 16 bits.
    pub halves: Vec<Half>,
    /// The ids of the nodes that read them.
    pub readers: Vec<String>,
}

impl Selection {
    /// The weights of `graph` that the patterns of the configuration choose.
    ///
    /// # Errors
    /// If a pattern matches nothing, or nothing is left to train.
    pub fn of(graph: &Graph, config: &Config) -> Result<Self> {
        let index = graph.index();
        let (all, stored) = (parameters(graph), stored_weights(graph));
        let values = stored.integers.iter().map(|weight| weight.value.as_str());
        let values = values.chain(stored.halves.iter().map(|weight| weight.value.as_str()));
        let labels = graph.nodes.iter().map(|node| node.label());
        let known = all
            .iter()
            .map(|parameter| parameter.tensor.as_str())
            .chain(values)
            .chain(labels);
        config.ignore.check(known.clone())?;
        if let Some(train) = &config.train {
            train.check(known).map_err(|error| error.at("config.train"))?;
        }
        let chosen = |name: &str, readers: &[String]| {
            let labels = readers.iter().filter_map(|id| graph.node(id)).map(|node| node.label());
            let names: Vec<&str> = std::iter::once(name).chain(labels).collect();
            let names = || names.iter().copied();
            config.train.as_ref().is_none_or(|train| train.covers(names())) && !config.ignore.covers(names())
        };
        let readers_of = |value: &str| -> Vec<String> {
            let nodes = index.consumers(value).iter().map(|&(node, _)| &graph.nodes[node]);
            nodes.map(|node| node.id().to_owned()).collect()
        };
        let mut found = Self::default();
        let any = !all.is_empty() || !stored.integers.is_empty() || !stored.halves.is_empty();
        for parameter in all {
            if chosen(&parameter.tensor, &parameter.readers) {
                found.tensors.push(parameter.tensor);
                found.read_by(parameter.readers);
            }
        }
        if config.quantization_aware {
            for weight in stored.integers {
                let readers = readers_of(&weight.value);
                if chosen(&weight.value, &readers) {
                    found.integers.push(weight);
                    found.read_by(readers);
                }
            }
            for weight in stored.halves {
                let readers = readers_of(&weight.value);
                if index.is_inner(&weight.value) && chosen(&weight.value, &readers) {
                    found.halves.push(weight);
                    found.read_by(readers);
                }
            }
        }
        match found.readers.is_empty() {
            false => Ok(found),
            true => Err(nothing(graph, any, config)),
        }
    }

    fn read_by(&mut self, readers: Vec<String>) {
        for reader in readers {
            if !self.readers.contains(&reader) {
                self.readers.push(reader);
            }
        }
    }
}

fn nothing(graph: &Graph, any: bool, config: &Config) -> Error {
    let others = graph
        .initializers
        .iter()
        .filter(|(_, stored)| stored.tensor.dtype() != DType::FLOAT);
    let greatest = others.max_by_key(|(_, stored)| stored.tensor.len());
    match greatest {
        Some((name, stored)) if any && !config.quantization_aware => {
            let message = format!(
                "is {}, and no float32 weight is left to train; set quantization_aware = true to train quantized \
                 weights",
                stored.tensor.dtype()
            );
            Error::unsupported(message).at(format!("tensor `{name}`"))
        }
        _ if any => {
            let message = "`train` and `ignore` leave no weight to train; let them leave one";
            Error::invalid_configuration(message).at("config")
        }
        Some((name, stored)) => {
            let message = format!(
                "is {}, and the model has no weight that can be trained; distill in a stage before that which stores \
                 weights so",
                stored.tensor.dtype()
            );
            Error::unsupported(message).at(format!("tensor `{name}`"))
        }
        None => Error::unsupported("the model has no weights to train"),
    }
}
