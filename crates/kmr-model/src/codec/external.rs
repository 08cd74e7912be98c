//! Data that lies in files beside the model: brought into the messages that ask for it.

use super::{decode::ExternalData, malformed, shell};
use crate::{DType, ErrorKind, ModelError, proto, subgraphs::NestingGuard, tensor::element_count};

/// Brings the data of a tensor into its message, if it lies elsewhere. The bytes are shared, not copied.
pub(super) fn resolve(message: &mut proto::TensorProto, source: &dyn ExternalData) -> Result<(), ModelError> {
    if message.data_location != Some(shell::EXTERNAL) {
        return Ok(());
    }
    let name = message.name.clone().unwrap_or_default();
    let place = || format!("tensor `{name}`");
    let dtype = DType::from_number(message.data_type.unwrap_or_default());
    let shape = shell::shape(&name, &message.dims)?;
    let needed = element_count(&shape).and_then(|count| dtype.byte_len(count));
    let needed = needed.ok_or_else(|| {
        ModelError::new(
            ErrorKind::Unsupported,
            place(),
            format!("{dtype} of shape {shape:?} cannot lie in a file beside the model"),
        )
    })?;
    let entries: Vec<_> = std::mem::take(&mut message.external_data)
        .into_iter()
        .map(|entry| (entry.key.unwrap_or_default(), entry.value.unwrap_or_default()))
        .collect();
    let mut bytes = source.read(&name, &entries)?;
    // Where no length is given, the range is what the shape asks for.
    if bytes.len() > needed && !has_length(&entries) {
        bytes.truncate(needed);
    }
    if bytes.len() != needed {
        let length = bytes.len();
        return Err(malformed(
            place(),
            format!("{dtype} of shape {shape:?} takes {needed} bytes; the file beside the model holds {length} for it"),
        ));
    }
    message.data_location = None;
    super::typed::clear_all(message);
    message.raw_data = Some(bytes);
    Ok(())
}

/// Whether `entries` state a length; writers put 0 for "to the end", too.
fn has_length(entries: &[(String, String)]) -> bool {
    entries
        .iter()
        .any(|(key, value)| key == "length" && value.trim() != "0")
}

/// Resolves every tensor of a model's message: initializers, attributes, subgraphs, functions, training.
pub(super) fn resolve_all(message: &mut proto::ModelProto, source: &dyn ExternalData) -> Result<(), ModelError> {
    let guard = NestingGuard::default();
    if let Some(main) = message.graph.as_option_mut() {
        graph(main, source, guard)?;
    }
    for function in &mut message.functions {
        attributes(&mut function.attribute_proto, source, guard)?;
        nodes(&mut function.node, source, guard)?;
    }
    for training in &mut message.training_info {
        for part in [&mut training.initialization, &mut training.algorithm] {
            if let Some(part) = part.as_option_mut() {
                graph(part, source, guard)?;
            }
        }
    }
    Ok(())
}

fn graph(message: &mut proto::GraphProto, source: &dyn ExternalData, guard: NestingGuard) -> Result<(), ModelError> {
    let guard = guard.enter()?;
    message.initializer.iter_mut().try_for_each(|t| resolve(t, source))?;
    message
        .sparse_initializer
        .iter_mut()
        .try_for_each(|t| sparse(t, source))?;
    nodes(&mut message.node, source, guard)
}

fn nodes(messages: &mut [proto::NodeProto], source: &dyn ExternalData, guard: NestingGuard) -> Result<(), ModelError> {
    messages
        .iter_mut()
        .try_for_each(|node| attributes(&mut node.attribute, source, guard))
}

fn attributes(
    messages: &mut [proto::AttributeProto],
    source: &dyn ExternalData,
    guard: NestingGuard,
) -> Result<(), ModelError> {
    for attribute in messages {
        let tensors = attribute.t.as_option_mut().into_iter().chain(&mut attribute.tensors);
        for tensor in tensors {
            resolve(tensor, source)?;
        }
        let sparse_tensors = attribute.sparse_tensor.as_option_mut().into_iter();
        for tensor in sparse_tensors.chain(&mut attribute.sparse_tensors) {
            sparse(tensor, source)?;
        }
        for inner in attribute.g.as_option_mut().into_iter().chain(&mut attribute.graphs) {
            graph(inner, source, guard)?;
        }
    }
    Ok(())
}

fn sparse(message: &mut proto::SparseTensorProto, source: &dyn ExternalData) -> Result<(), ModelError> {
    let parts = [&mut message.values, &mut message.indices];
    parts
        .into_iter()
        .filter_map(|part| part.as_option_mut())
        .try_for_each(|tensor| resolve(tensor, source))
}
