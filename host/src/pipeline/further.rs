//! The models that the manifest names beside the one under reduction, and whether they take what that is fed.

use std::{collections::BTreeMap, path::PathBuf};

use kmr_formats::{Dataset, Sample};
use kmr_manifest::{ErrorKind, Placed};
use kmr_model::{DType, Dimension, Graph, Model, ValueInfo};

use super::{context::FurtherModel, data::Splits, plan::Plan, setup};
use crate::{failure::Failure, files};

/// Reads the models of `[models]`, each in the operator set that rules need.
///
/// # Errors
/// A file that is no model that runs here, by its name; a model that needs an input which the model under reduction is not
/// fed, or in another type or shape.
pub fn read(plan: &Plan, model: &Model, splits: &Splits) -> Result<BTreeMap<String, FurtherModel>, Failure> {
    let read = |(name, path): (&String, &Placed<PathBuf>)| {
        let about = |failure: Failure| failure.of_model(name);
        let (original, file) = files::read_reported(&path.value).map_err(about)?;
        if let Some(misfit) = misfit(&original.graph, &model.graph, splits) {
            let message = format!("model `{name}`, {}, {misfit}", path.value.display());
            let fed: Vec<String> = model.graph.feeds().map(declared).collect();
            let help = format!(
                "it is fed what the model under reduction is: {}; name a model with the same inputs",
                fed.join(", ")
            );
            let problem = plan
                .manifest
                .problem(ErrorKind::Value, path.span.clone(), message, help);
            return Err(kmr_manifest::Error::from(problem).into());
        }
        let further = setup::prepared(&original, &path.value, plan.opset()).map_err(about)?;
        setup::check_operators(&further, &path.value).map_err(about)?;
        Ok((name.clone(), FurtherModel::new(further, file)))
    };
    plan.manifest.models.iter().map(read).collect()
}

/// The first input that does not fit what there is, and why.
fn misfit(further: &Graph, reduced: &Graph, splits: &Splits) -> Option<String> {
    further.feeds().find_map(|input| {
        let name = input.name();
        let Some(fed) = reduced.feeds().find(|fed| fed.name() == name) else {
            return Some(format!("has an input `{name}`, which nothing is fed to"));
        };
        if let (Some(wanted), Some(given)) = (input.dtype(), fed.dtype())
            && wanted != given
        {
            return Some(format!("takes {wanted} at `{name}`, which is fed {given}"));
        }
        let wanted = input.shape()?;
        let given = fed.shape().unwrap_or_default();
        splits.all().find_map(|data| {
            let there = sizes(data, name)?;
            let fits =
                wanted.len() == there.len() && wanted.iter().zip(&there).all(|(wanted, there)| fits(wanted, *there));
            (!fits).then(|| {
                format!(
                    "takes [{}] at `{name}`, which is fed [{}]{}",
                    listed(&wanted),
                    listed(&given),
                    of_data(&there, data),
                )
            })
        })
    })
}

/// The sizes of an input in every call on these data; none where batches of any size are made.
fn sizes(data: &Dataset, name: &str) -> Option<Vec<Option<usize>>> {
    let call = data.calls(0..1).into_iter().next()?;
    let (_, array) = call.into_iter().find(|(known, _)| known == name)?;
    let mut sizes: Vec<Option<usize>> = array.shape().iter().copied().map(Some).collect();
    if let (Sample::Row, Some(first)) = (data.sample(), sizes.first_mut()) {
        *first = None;
    }
    Some(sizes)
}

fn fits(wanted: &Dimension, there: Option<usize>) -> bool {
    match wanted {
        Dimension::Fixed(size) => there == Some(*size),
        _ => true,
    }
}

fn of_data(there: &[Option<usize>], data: &Dataset) -> String {
    let sizes: Vec<String> = there
        .iter()
        .map(|size| size.map_or("any".to_owned(), |size| size.to_string()))
        .collect();
    format!(" (of {}: [{}])", data.path().display(), sizes.join(", "))
}

/// An input, with its type and shape.
fn declared(input: &ValueInfo) -> String {
    let dtype = input.dtype().map_or("any".to_owned(), |dtype: DType| dtype.to_string());
    let shape = input
        .shape()
        .map_or(String::new(), |shape| format!(" [{}]", listed(&shape)));
    format!("`{}` {dtype}{shape}", input.name())
}

fn listed(shape: &[Dimension]) -> String {
    let sizes: Vec<String> = shape.iter().map(Dimension::to_string).collect();
    sizes.join(", ")
}
