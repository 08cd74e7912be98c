//! Inner values that are to be like the teacher's ("FitNets", arXiv 1412.6550).

use std::collections::BTreeMap;

use kmr_sdk::{
    Error, ErrorCode, Result,
    model::{
        Model, Tensor,
        shapes::{self, Shapes},
    },
};

use crate::{
    config::{FeaturePair, refused},
    session_edits::SessionEdits,
};

/// An inner value with its aim.
#[derive(Clone, Debug, PartialEq)]
pub struct Feature {
    /// The student's value, projected to the teacher's channels where they differ.
    pub student: String,
    /// The teacher's value.
    pub teacher: String,
    /// What the mean square of the difference is multiplied by.
    pub weight: f64,
}

/// The pairs of values, and the projections that are trained with them: a convolution of one place or a matrix, in the
/// session alone.
///
/// # Errors
/// If a value does not exist, or the shapes differ in more than the number of channels.
pub fn features(
    pairs: &[FeaturePair],
    (student, teacher): (&Model, &Model),
    feeds: &BTreeMap<String, Vec<usize>>,
    seed: u64,
    edits: &mut SessionEdits<'_>,
) -> Result<(Vec<Feature>, Vec<String>)> {
    if pairs.is_empty() {
        return Ok(Default::default());
    }
    let (of_student, of_teacher) = (shapes::infer(student, feeds)?, shapes::infer(teacher, feeds)?);
    let (mut features, mut projections) = (Vec::new(), Vec::new());
    for (at, pair) in pairs.iter().enumerate() {
        let wanted = pair.teacher.as_deref().unwrap_or(&pair.student);
        let from = shape(&of_student, student, &pair.student, &format!("features[{at}].student"))?;
        let to = shape(&of_teacher, teacher, wanted, &format!("features[{at}].teacher"))?;
        let mut value = pair.student.clone();
        if from != to {
            let Some(axis) = channels(from, to) else {
                let message = format!(
                    "`{}` has the shape {from:?} and the teacher's `{wanted}` {to:?}; only their channels may differ",
                    pair.student
                );
                return Err(Error::new(ErrorCode::SHAPE, message).at(format!("config.features[{at}]")));
            };
            let (inputs, outputs) = (from[axis], to[axis]);
            let values = noise(inputs * outputs, inputs, seed.wrapping_add(at as u64));
            let name = format!("feature_{at}");
            let last = axis + 1 == from.len();
            let shape = match last {
                true => vec![inputs, outputs],
                false => [vec![outputs, inputs], vec![1; from.len() - 2]].concat(),
            };
            let weight = edits.tensor(&format!("{name}.weight"), Tensor::from_vec(shape, values));
            let op_type = if last { "MatMul" } else { "Conv" };
            value = edits.node(op_type, &[&value, &weight], &name, None, |node| node);
            projections.push(weight);
        }
        features.push(Feature {
            student: value,
            teacher: wanted.to_owned(),
            weight: pair.weight,
        });
    }
    Ok((features, projections))
}

fn shape<'s>(shapes: &'s Shapes, model: &Model, value: &str, key: &str) -> Result<&'s [usize]> {
    let graph = &model.graph;
    let made = graph
        .nodes
        .iter()
        .any(|node| node.outputs().iter().any(|output| output == value));
    if !made {
        return Err(refused(key, format!("the model has no inner value `{value}`")));
    }
    shapes.shape(value).ok_or_else(|| {
        let message = format!("the shape of `{value}` is only known when the model runs; choose another value");
        refused(key, message)
    })
}

/// The axis that alone differs, if channels can lie along it: the last, or the second.
fn channels(from: &[usize], to: &[usize]) -> Option<usize> {
    if from.len() != to.len() || from.len() < 2 {
        return None;
    }
    let mut differing = (0..from.len()).filter(|&axis| from[axis] != to[axis]);
    let axis = differing.next().filter(|_| differing.next().is_none())?;
    // A channel axis that is second and last is that of a matrix.
    (axis == 1 || axis + 1 == from.len())
        .then_some(axis)
        .filter(|&axis| axis > 0)
}

/// Numbers between ±√(3 / inputs), so that a projection keeps the size of what it projects.
fn noise(count: usize, inputs: usize, seed: u64) -> Vec<f32> {
    let bound = (3.0 / inputs.max(1) as f64).sqrt();
    let mut state = seed;
    // SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let unit = |bits: u64| (bits >> 11) as f64 / (1_u64 << 53) as f64;
    (0..count)
        .map(|_| ((2.0 * unit(next()) - 1.0) * bound) as f32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_of_channels() {
        assert_eq!(channels(&[2, 8, 4, 4], &[2, 16, 4, 4]), Some(1));
        assert_eq!(channels(&[2, 5, 8], &[2, 5, 16]), Some(2));
        assert_eq!(channels(&[2, 8], &[2, 16]), Some(1));
        assert_eq!(channels(&[2, 8, 4, 4], &[2, 16, 2, 2]), None);
        assert_eq!(channels(&[2, 8, 4, 4], &[2, 8, 2, 4]), None);
        assert_eq!(channels(&[2, 8], &[2, 8, 1]), None);
        assert_eq!(channels(&[2, 8], &[3, 8]), None);
    }

    #[test]
    fn noise_keeps_sizes() {
        let values = noise(4096, 16, 7);
        let square = values.iter().map(|value| value * value).sum::<f32>() / 4096.0;
        assert!((square - 1.0 / 16.0).abs() < 5e-3, "{square}");
        assert_eq!(values, noise(4096, 16, 7));
        assert_ne!(values, noise(4096, 16, 8));
    }
}
