//! Which weights are trained.

use kmr_sdk::{
    Error, Result,
    model::{
        DType, Graph,
        parameters::{Parameter, parameters},
    },
};

use crate::config::Config;

/// The parameters of `graph` that the patterns of the configuration choose.
///
/// # Errors
/// If a pattern matches nothing, or nothing is left to train.
pub fn select(graph: &Graph, config: &Config) -> Result<Vec<Parameter>> {
    let all = parameters(graph);
    let labels = graph.nodes.iter().map(|node| node.label());
    let known = all.iter().map(|parameter| parameter.tensor.as_str()).chain(labels);
    config.ignore.check(known.clone())?;
    if let Some(train) = &config.train {
        train.check(known).map_err(|error| error.at("config.train"))?;
    }
    let any = !all.is_empty();
    let names = |parameter: &Parameter| -> Vec<String> {
        let readers = parameter.readers.iter().filter_map(|id| graph.node(id));
        let readers = readers.map(|node| node.label().to_owned());
        std::iter::once(parameter.tensor.clone()).chain(readers).collect()
    };
    let chosen = |parameter: &Parameter| {
        let names = names(parameter);
        let names = || names.iter().map(String::as_str);
        config.train.as_ref().is_none_or(|train| train.covers(names())) && !config.ignore.covers(names())
    };
    let found: Vec<Parameter> = all.into_iter().filter(chosen).collect();
    match found.is_empty() {
        false => Ok(found),
        true => Err(nothing(graph, any)),
    }
}

fn nothing(graph: &Graph, any: bool) -> Error {
    if any {
        let message = "`train` and `ignore` leave no weight to train; let them leave one";
        return Error::invalid_configuration(message).at("config");
    }
    let others = graph
        .initializers
        .iter()
        .filter(|(_, stored)| stored.tensor.dtype() != DType::FLOAT);
    match others.max_by_key(|(_, stored)| stored.tensor.len()) {
        Some((name, stored)) => {
            let message = format!(
                "is {}, and the model has no float32 weight to train; distill in a stage before that which quantizes",
                stored.tensor.dtype()
            );
            Error::unsupported(message).at(format!("tensor `{name}`"))
        }
        None => Error::unsupported("the model has no weights to train"),
    }
}
