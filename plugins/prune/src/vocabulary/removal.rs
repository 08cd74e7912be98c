//! Taking words out of a graph, which takes and gives the same ids as before.

use std::collections::{BTreeMap, BTreeSet};

use kmr_sdk::{
    Error, Result,
    model::{Build, DType, Edit, Graph, Model, Node, Tensor},
};

use super::tables::{Head, Vocabulary};

/// The words that stay.
pub struct Words {
    /// Their ids, ascending: the first has row 0 from then on.
    pub kept: Vec<usize>,
    /// The one that all others are read as.
    pub unknown: usize,
}

impl Words {
    /// For each of `rows` ids its new row; `missing` for those without one.
    fn map(&self, rows: usize, missing: usize) -> Vec<usize> {
        let mut map = vec![missing; rows];
        for (row, &id) in self.kept.iter().enumerate() {
            map[id] = row;
        }
        map
    }
}

/// Edits that leave the rows of `words` alone. Ids are looked up in a small table first, so that the same tokenizer
/// serves; scores get their old places back, and words without a row score `missing_score`.
///
/// # Errors
/// If the model's operator set has no Pad that takes its sizes as an input (before version 11), or the graph is not the
/// one that was looked at.
pub fn patch(
    model: &Model,
    vocabulary: &Vocabulary,
    words: &Words,
    missing_score: f32,
) -> Result<kmr_sdk::model::Patch> {
    let graph = &model.graph;
    let mut build = Build::on(graph);
    if !vocabulary.heads.is_empty() && model.opset() < 11 {
        let message = "scores of words need operator set 11; `kmr convert --opset 21` says the model in a newer one";
        return Err(Error::unsupported(message));
    }
    let axes = vocabulary.tables.iter().map(|table| (table.tensor.as_str(), 0));
    let heads = vocabulary.heads.iter();
    let heads = heads.flat_map(|head| {
        [
            Some((head.weight.0.as_str(), head.weight.1)),
            head.bias.as_deref().map(|bias| (bias, 0)),
        ]
    });
    let cut: BTreeSet<(&str, usize)> = axes.chain(heads.flatten()).collect();
    for (name, axis) in cut {
        build.store(name, kept(graph, name, axis, &words.kept)?);
    }
    let unknown = words
        .kept
        .binary_search(&words.unknown)
        .map_err(|_| Error::not_found(format!("the id {} is not among those that are kept", words.unknown)))?;
    let table = &vocabulary.tables[0].tensor;
    let rows = numbers(words.map(vocabulary.rows, unknown))?;
    let rows = build.tensor(&format!("{table}_rows"), rows);
    let mut translated: BTreeMap<&str, String> = BTreeMap::new();
    for lookup in vocabulary.tables.iter().flat_map(|table| &table.lookups) {
        let known = translated.get(lookup.ids.as_str()).cloned();
        let translated = known.unwrap_or_else(|| {
            build.place(Some(&lookup.node));
            let short = build.node(
                "Gather",
                &[&rows, &lookup.ids],
                &format!("{}_short", lookup.ids),
                |node| node,
            );
            let made = build.node("Cast", &[&short], &format!("{}_row", lookup.ids), |node| {
                node.with_int("to", DType::INT64.number().into())
            });
            translated.insert(&lookup.ids, made.clone());
            made
        });
        build.rewire(&lookup.node, 1, &translated);
    }
    if !vocabulary.heads.is_empty() {
        let places = numbers(words.map(vocabulary.rows, words.kept.len()))?;
        let places = build.tensor(&format!("{table}_places"), places);
        for head in &vocabulary.heads {
            spread(graph, &mut build, head, &places, missing_score)?;
        }
    }
    Ok(build.finish())
}

/// Gives the scores of `head` their old places: one more score for all that is missing, and from there by `places`.
fn spread(graph: &Graph, build: &mut Build, head: &Head, places: &str, missing_score: f32) -> Result<()> {
    let name = head.end.as_str();
    let node = graph
        .node(name)
        .ok_or_else(|| Error::not_found("does not exist").at(format!("node `{name}`")))?;
    build.place(Some(name));
    let short = build.name(&format!("{name}_kept"));
    let mut proto = node.proto().clone();
    proto.output[0].clone_from(&short);
    build.edit(Edit::AddNode {
        node: Box::new(Node::from_proto(proto)?),
        before: Some(name.to_owned()),
    });
    let mut pads = vec![0_i64; 2 * head.rank];
    if let Some(last) = pads.last_mut() {
        *last = 1;
    }
    let pads = build.constant("vocabulary_pads", Tensor::from_vec(vec![pads.len()], pads));
    let zero = vec![0_u8; head.dtype.byte_len(1).unwrap_or(4)];
    let score = Tensor::new(head.dtype, Vec::new(), zero.into())?.with_f32(vec![missing_score])?;
    let score = build.constant("vocabulary_missing", score);
    let padded = build.node("Pad", &[&short, &pads, &score], &format!("{name}_padded"), |node| node);
    let indices = build.node("Cast", &[places], &format!("{name}_places"), |node| {
        node.with_int("to", DType::INT64.number().into())
    });
    let last = head.rank as i64 - 1;
    build.node_into("Gather", &[&padded, &indices], &[name], |node| {
        node.with_int("axis", last)
    });
    // Only now: new nodes are placed by the old one.
    build.edit(Edit::RemoveNode { node: name.to_owned() });
    Ok(())
}

/// Row numbers in the shortest type that every runtime looks up.
fn numbers(rows: Vec<usize>) -> Result<Tensor> {
    let shape = vec![rows.len()];
    if let Some(short) = rows
        .iter()
        .map(|&row| u16::try_from(row).ok())
        .collect::<Option<Vec<u16>>>()
    {
        return Ok(Tensor::from_vec(shape, short));
    }
    let long = rows
        .into_iter()
        .map(i32::try_from)
        .collect::<std::result::Result<Vec<i32>, _>>();
    Ok(Tensor::from_vec(
        shape,
        long.map_err(|_| Error::unsupported("a vocabulary of more than 2 billion words"))?,
    ))
}

/// The elements of initializer `name` at `rows` of `axis`.
fn kept(graph: &Graph, name: &str, axis: usize, rows: &[usize]) -> Result<Tensor> {
    let changed = || {
        let message = "is not as it was when the rule looked at it";
        Error::unsupported(message).at(format!("tensor `{name}`"))
    };
    let tensor = graph.tensor(name).ok_or_else(changed)?;
    tensor.taken(axis, rows).ok_or_else(changed)
}
