//! The most bytes that are alive at one time.

use std::collections::HashMap;

use super::level::Level;
use crate::{ErrorKind, ModelError, shapes::Shapes};

/// The peak of the main graph.
pub(super) fn of(level: &Level, shapes: &Shapes) -> Result<u64, ModelError> {
    let mut last_use: HashMap<&str, usize> = HashMap::new();
    for position in 0..level.nodes.len() {
        last_use.extend(level.reads(position).into_iter().map(|name| (name, position)));
    }
    for output in &level.outputs {
        last_use.insert(output, usize::MAX);
    }
    let bytes = |name: &str, place: String| {
        let known = shapes.get(name).and_then(|known| known.byte_len());
        known.map(|bytes| bytes as u64).ok_or_else(|| {
            let message = format!("the size of `{name}` is not known");
            ModelError::new(ErrorKind::Unsupported, place, message).with_help(format!(
                "declare the type of `{name}` in the model's value_info, or give the shapes of the inputs"
            ))
        })
    };
    let mut live = 0_u64;
    let mut ending: HashMap<usize, u64> = HashMap::new();
    let begin = |name: &str, bytes: u64, here: usize, live: &mut u64, ending: &mut HashMap<usize, u64>| {
        *live = live.saturating_add(bytes);
        let end = last_use.get(name).copied().unwrap_or(here);
        let sum = ending.entry(end).or_default();
        *sum = sum.saturating_add(bytes);
    };
    for feed in &level.feeds {
        let bytes = bytes(feed, format!("input `{feed}`"))?;
        begin(feed, bytes, 0, &mut live, &mut ending);
    }
    let constants = level.constants();
    let mut peak = live;
    for (position, node) in level.nodes.iter().enumerate() {
        for (attribute, inner) in level.inner(position) {
            if let Some(body) = shapes.body(node.id(), attribute)
                && body.repeats != Some(0)
            {
                peak = peak.max(live.saturating_add(of(inner, &body.shapes)?));
            }
        }
        if !constants.contains(node.id()) {
            for output in node.outputs().iter().filter(|output| !output.is_empty()) {
                let place = format!("node `{}` ({})", node.label(), node.op_type());
                begin(output, bytes(output, place)?, position, &mut live, &mut ending);
            }
        }
        peak = peak.max(live);
        live = live.saturating_sub(ending.remove(&position).unwrap_or(0));
    }
    Ok(peak)
}
