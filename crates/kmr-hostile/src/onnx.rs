//! ONNX models: everything that is done with one before it runs.

use buffa::Message;
use bytes::Bytes;
use kmr_model::{
    Model, ModelError, channels,
    cost::{self, Costs},
    proto, shapes, upgrade,
};

use crate::{Outcome, message};

/// Reads a model, writes it, and uses it.
///
/// # Panics
/// If a rule is broken.
pub fn exercise(bytes: &[u8]) -> Outcome {
    match read(bytes) {
        Some(model) => {
            used(&model);
            Outcome::Read
        }
        None => Outcome::Refused,
    }
}

/// Reads a model, checks, writes, reads again and rewrites it.
///
/// # Panics
/// If a rule is broken.
pub fn read(bytes: &[u8]) -> Option<Model> {
    let model = match Model::decode(Bytes::copy_from_slice(bytes)) {
        Ok(model) => model,
        Err(error) => {
            check(&error);
            return None;
        }
    };
    written_and_read(&model, bytes);
    model.graph.check().expect("a model that was read is sound");
    let index = model.graph.index();
    for (position, node) in model.graph.nodes.iter().enumerate() {
        assert_eq!(index.producer(node.id()), Some(position));
    }
    for rewritten in [model.inline_functions(), model.lift_constants()] {
        match rewritten {
            Err(error) => check(&error),
            Ok((rewritten, changes)) => {
                rewritten.graph.check().expect("a model that was rewritten is sound");
                changes.iter().for_each(|change| message::check(change));
            }
        }
    }
    Some(model)
}

/// Upgrades a model, infers its shapes, counts its costs and finds its channels.
///
/// # Panics
/// If a rule is broken.
pub fn used(model: &Model) {
    for opset in [model.opset().saturating_add(1), upgrade::NEWEST] {
        match upgrade::upgrade(model, opset) {
            Err(error) => check(&error),
            Ok((upgraded, changes)) => {
                upgraded.graph.check().expect("a model that was upgraded is sound");
                assert_eq!(upgraded.opset(), opset);
                changes.iter().for_each(|change| message::check(&change.to_string()));
            }
        }
    }
    let feeds = shapes::default_feeds(model);
    match shapes::infer(model, &feeds) {
        Err(error) => check(&error),
        Ok(shapes) => match channels::analyze(model, &shapes) {
            Err(error) => check(&error),
            Ok(analysis) => {
                for group in &analysis.groups {
                    assert!(group.channels > 0, "group {} has channels", group.id);
                }
            }
        },
    }
    match Costs::of(model, &feeds) {
        Err(error) => check(&error),
        Ok(costs) => {
            for name in cost::NAMES {
                if let Err(error) = costs.cost(name) {
                    check(&error);
                }
            }
        }
    }
}

/// Writes the model that was read from `bytes`, and reads it again.
fn written_and_read(model: &Model, bytes: &[u8]) {
    let written = model.encode_to_vec();
    assert_eq!(written.len() as u64, model.encoded_len());
    same(&canonical(bytes), &canonical(&written), "writing changed the model");
    let again = match Model::decode(Bytes::copy_from_slice(&written)) {
        Ok(again) => again,
        Err(error) => panic!("what was written cannot be read: {error}"),
    };
    // Compared as bytes: a model may hold numbers that are not equal to themselves.
    same(&written, &again.encode_to_vec(), "reading changed the model");
    drop(model.encode_without_tensors());
}

fn same(left: &[u8], right: &[u8], broken: &str) {
    const SHOWN: usize = 32;
    if left != right {
        let place = left.iter().zip(right).take_while(|(a, b)| a == b).count();
        let show = |bytes: &[u8]| {
            let part = &bytes[place.saturating_sub(SHOWN)..bytes.len().min(place + SHOWN)];
            part.escape_ascii().to_string()
        };
        panic!("{broken} at byte {place}:\n  {}\n  {}", show(left), show(right));
    }
}

/// The message in canonical order.
fn canonical(bytes: &[u8]) -> Vec<u8> {
    let options = buffa::DecodeOptions::new()
        .with_recursion_limit(1000)
        .with_element_memory_limit(usize::MAX);
    let message: Result<proto::ModelProto, _> = options.decode_from_slice(bytes);
    message.expect("a model that was read is a message").encode_to_vec()
}

fn check(error: &ModelError) {
    message::check(&error.to_string());
    if let Some(help) = error.help() {
        message::check(help);
    }
}
