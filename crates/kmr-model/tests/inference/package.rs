//! What `onnx` finds, kmr finds, or more.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
};

use buffa::Message;
use kmr_model::{DType, Dimension, Model, proto, shapes};
use shapes::{Shapes, Type, Wrapping};

const FOUND: &[u8] = include_bytes!("onnx.txt.zst");
const DIFFERENCES: &str = include_str!("differences.txt");

/// A case and what onnx finds about its values: their paths and types.
struct Section<'t> {
    case: &'t str,
    values: Vec<(String, &'t str)>,
}

fn sections(text: &str) -> Vec<Section<'_>> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    for line in text.lines() {
        if let Some(case) = line.strip_prefix("= ") {
            sections.push(Section {
                case: case.trim_start_matches('~'),
                values: Vec::new(),
            });
        } else {
            let (name, found) = line.split_once(' ').expect("a value and a type");
            sections
                .last_mut()
                .expect("a case")
                .values
                .push((name.to_owned(), found));
        }
    }
    sections
}

/// Drops what the file declares about values that can be inferred, as `make.py` does.
fn strip(graph: &mut proto::GraphProto) {
    graph.value_info.clear();
    for output in &mut graph.output {
        output.r#type = buffa::MessageField::none();
    }
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        if let Some(inner) = attribute.g.as_option_mut() {
            strip(inner);
        }
    }
}

fn stripped(bytes: &[u8]) -> Model {
    let mut message = proto::ModelProto::decode_from_slice(bytes).expect("a model");
    strip(message.graph.as_option_mut().expect("a graph"));
    Model::decode(message.encode_to_vec().into()).expect("a model that is read")
}

/// The value at `path`, which goes through subgraphs as `NODE/ATTRIBUTE/VALUE`.
fn find(shapes: &Shapes, path: &str) -> Option<Type> {
    if let Some(found) = shapes.partial(path) {
        return Some(found);
    }
    let slashes: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
    slashes.windows(2).find_map(|pair| {
        let body = shapes.body(&path[..pair[0]], &path[pair[0] + 1..pair[1]])?;
        find(&body.shapes, &path[pair[1] + 1..])
    })
}

/// Whether `ours` says at least what `theirs` says.
fn covers(ours: &Type, theirs: &str) -> bool {
    let (wrapping, tensor) = match theirs.strip_suffix(')') {
        None => (Wrapping::Tensor, theirs),
        Some(inner) => match inner.split_once('(').expect("a wrap") {
            ("seq", tensor) => (Wrapping::Sequence, tensor),
            (_, inner) => match inner.strip_prefix("seq(") {
                Some(tensor) => (Wrapping::OptionalSequence, tensor.trim_end_matches(')')),
                None => (Wrapping::Optional, inner),
            },
        },
    };
    let (number, sizes) = match tensor.strip_suffix('*') {
        Some(number) => (number, None),
        None => {
            let (number, sizes) = tensor.split_once('[').expect("a shape");
            let sizes = sizes.trim_end_matches(']').split(',').filter(|size| !size.is_empty());
            (number, Some(sizes.collect::<Vec<_>>()))
        }
    };
    let dtype = DType::from_number(number.parse().expect("a number"));
    if ours.wrapping != wrapping || ours.dtype != Some(dtype) {
        return false;
    }
    let (Some(sizes), Some(ours)) = (sizes, &ours.shape) else {
        return ours.shape.is_some() || tensor.ends_with('*');
    };
    sizes.len() == ours.len()
        && sizes.iter().zip(ours).all(|(theirs, ours)| match (*theirs, ours) {
            ("?", _) => true,
            (theirs, Dimension::Fixed(ours)) => theirs.parse() == Ok(*ours),
            (theirs, Dimension::Named(ours)) => theirs == ours,
            (_, Dimension::Unknown) => false,
        })
}

fn show(found: Option<&Type>) -> String {
    let Some(found) = found else {
        return "nothing".to_owned();
    };
    let shape = found.shape.as_ref().map(|shape| {
        let sizes: Vec<String> = shape.iter().map(Dimension::to_string).collect();
        format!("[{}]", sizes.join(","))
    });
    let dtype = found.dtype.map_or("?".to_owned(), |dtype| dtype.number().to_string());
    format!("{:?} {dtype}{}", found.wrapping, shape.unwrap_or("*".to_owned()))
}

#[test]
fn what_onnx_finds_is_found() {
    let mut text = String::new();
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(FOUND).expect("a fixture");
    decoder.read_to_string(&mut text).expect("a fixture of text");
    let cases: BTreeMap<String, _> = kmr_conformance::cases()
        .expect("cases")
        .into_iter()
        .map(|case| (case.path(), case))
        .collect();
    let listed: BTreeSet<&str> = DIFFERENCES
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(": ").expect("a value, and a reason").0)
        .collect();

    let (mut compared, mut more, mut found) = (0, 0, BTreeMap::new());
    for section in sections(&text) {
        let model = stripped(&cases.get(section.case).expect("a case of the suites").model);
        let shapes = match shapes::infer_symbolic(&model) {
            Ok(shapes) => shapes,
            Err(error) => {
                found.insert(section.case.to_owned(), error.to_string());
                continue;
            }
        };
        for (path, theirs) in section.values {
            compared += 1;
            let ours = find(&shapes, &path);
            if !ours.as_ref().is_some_and(|ours| covers(ours, theirs)) {
                let message = format!("onnx has {theirs}, kmr has {}", show(ours.as_ref()));
                found.insert(format!("{} {path}", section.case), message);
            } else if theirs.contains(['?', '*']) && show(ours.as_ref()).find(['?', '*']).is_none() {
                more += 1;
            }
        }
    }
    println!(
        "{compared} values compared, {more} known better than to onnx, {} differ",
        found.len()
    );
    let unlisted: Vec<String> = found
        .iter()
        .filter(|(place, _)| !listed.contains(place.as_str()))
        .map(|(place, message)| format!("{place}: {message}"))
        .collect();
    assert!(unlisted.is_empty(), "not in differences.txt:\n{}", unlisted.join("\n"));
    let settled: Vec<&&str> = listed.iter().filter(|place| !found.contains_key(**place)).collect();
    assert!(settled.is_empty(), "no longer different: {settled:?}");
    assert!(compared > 15_000, "only {compared} values were compared");
}
