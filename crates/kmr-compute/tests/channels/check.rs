//! A cut model against the whole one in which nothing reads what is cut.

use std::collections::BTreeMap;

use kmr_compute::{Engine, Feeds, Interpreter, Mode};
use kmr_model::{
    DType, Model, Tensor,
    channels::{ChannelAnalysis, analyze},
    shapes::{self, Shapes},
};

use super::silence::{Random, cuts, silenced};

/// What has been tried.
#[derive(Debug, Default)]
pub struct Tally {
    /// Groups with more than one unit.
    pub groups: usize,
    pub units: usize,
    /// Cuts whose outputs were compared.
    pub compared: usize,
    /// Of these, those that change the outputs.
    pub changed: usize,
    /// Cuts of models that the interpreter refuses: shapes alone were compared.
    pub shapes_only: usize,
    /// By reason: channels that are refused.
    pub refused: BTreeMap<String, usize>,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.groups += other.groups;
        self.units += other.units;
        self.compared += other.compared;
        self.changed += other.changed;
        self.shapes_only += other.shapes_only;
        for (reason, channels) in other.refused {
            *self.refused.entry(reason).or_default() += channels;
        }
    }
}

/// Noise for inputs of these shapes.
pub fn feeds(shapes: &[(String, Vec<usize>)]) -> Feeds {
    let mut random = Random(3);
    let noise = |shape: &[usize]| {
        let count = shape.iter().product();
        let values = (0..count).map(|_| 2.0 * random.float()).collect();
        Tensor::from_vec(shape.to_vec(), values)
    };
    let mut noise = noise;
    shapes
        .iter()
        .map(|(name, shape)| (name.clone(), noise(shape)))
        .collect()
}

/// Cuts every group of `model` on its own, and all of them together.
///
/// # Panics
/// If a cut model has other shapes than it should, or computes something else.
pub fn every_group(name: &str, model: &Model, feeds: &Feeds) -> Tally {
    let sizes = feeds.iter().map(|(name, value)| (name.clone(), value.shape().to_vec()));
    let sizes: BTreeMap<String, Vec<usize>> = sizes.collect();
    let shapes = shapes::infer(model, &sizes).unwrap_or_else(|error| panic!("{name}: {error}"));
    let analysis = analyze(model, &shapes).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut tally = Tally::default();
    for refusal in &analysis.refused {
        *tally.refused.entry(refusal.reason.clone()).or_default() += refusal.channels;
    }
    let subject = Subject {
        name,
        model,
        feeds,
        sizes,
        shapes,
        // What is not finite cannot be multiplied by zero.
        whole: run(model, feeds).filter(|outputs| outputs.iter().all(is_finite)),
    };
    let mut together = BTreeMap::new();
    for (number, group) in analysis.groups.iter().filter(|group| group.channels > 1).enumerate() {
        tally.groups += 1;
        tally.units += group.channels;
        let cuts = cuts(group, number as u64);
        for keep in &cuts {
            subject.cut(&analysis, &[(group.id.clone(), keep.clone())].into(), &mut tally);
        }
        together.extend(cuts.into_iter().next_back().map(|keep| (group.id.clone(), keep)));
    }
    if together.len() > 1 {
        subject.cut(&analysis, &together, &mut tally);
    }
    tally
}

struct Subject<'a> {
    name: &'a str,
    model: &'a Model,
    feeds: &'a Feeds,
    sizes: BTreeMap<String, Vec<usize>>,
    shapes: Shapes,
    /// The outputs; none where the interpreter refuses the model.
    whole: Option<Vec<Tensor>>,
}

impl Subject<'_> {
    fn cut(&self, analysis: &ChannelAnalysis, keep: &BTreeMap<String, Vec<usize>>, tally: &mut Tally) {
        let place = || format!("{}: {keep:?}", self.name);
        let patch = analysis
            .cut(self.model, keep)
            .unwrap_or_else(|error| panic!("{}: {error}", place()));
        let graph = patch
            .apply(&self.model.graph)
            .unwrap_or_else(|error| panic!("{}: {error}", place()));
        let cut = self.model.with_graph(graph);
        self.check_shapes(analysis, keep, &cut);
        let Some(whole) = &self.whole else {
            tally.shapes_only += 1;
            return;
        };
        let silenced = silenced(self.model, &self.shapes, analysis, keep);
        let (got, want) = match (run(&cut, self.feeds), run(&silenced, self.feeds)) {
            (Some(got), Some(want)) => (got, want),
            // An integer division by a sum that has become zero.
            (None, None) => {
                tally.shapes_only += 1;
                return;
            }
            _ => panic!("{}: one of both models does not run", place()),
        };
        tally.compared += 1;
        tally.changed += usize::from((0..want.len()).any(|k| distance(&want[k], &whole[k]) > 1e-3));
        for (got, want) in got.iter().zip(&want) {
            assert_eq!(got.shape(), want.shape(), "{}", place());
            let distance = distance(got, want);
            assert!(distance < 1e-4, "{}: outputs differ by {distance}", place());
        }
    }

    /// Every axis has lost exactly the channels of the groups on it.
    fn check_shapes(&self, analysis: &ChannelAnalysis, keep: &BTreeMap<String, Vec<usize>>, cut: &Model) {
        let after = shapes::infer(cut, &self.sizes).unwrap_or_else(|error| panic!("{}: {keep:?}: {error}", self.name));
        let mut lost: BTreeMap<(&str, usize), usize> = BTreeMap::new();
        for (id, keep) in keep {
            let group = analysis.group(id).unwrap();
            for slice in group.slices.iter().chain(&group.values) {
                let removed = (0..group.channels).filter(|unit| !keep.contains(unit));
                let removed = removed.map(|unit| slice.indices[unit].len());
                *lost.entry((&slice.tensor, slice.axis)).or_default() += removed.sum::<usize>();
            }
        }
        for output in self.model.graph.nodes.iter().flat_map(|node| node.outputs()) {
            let (Some(before), Some(after)) = (self.shapes.shape(output), after.shape(output)) else {
                continue;
            };
            let sizes = before.iter().enumerate();
            let expected: Vec<usize> = sizes
                .map(|(axis, size)| size - lost.get(&(output, axis)).copied().unwrap_or(0))
                .collect();
            assert_eq!(after, expected, "{}: {output} of {keep:?}", self.name);
        }
    }
}

fn is_finite(tensor: &Tensor) -> bool {
    tensor
        .values::<f32>()
        .is_ok_and(|values| values.iter().all(|value| value.is_finite()))
}

/// The greatest difference, as a share of the greatest number.
fn distance(left: &Tensor, right: &Tensor) -> f32 {
    if left.dtype() != DType::FLOAT {
        return if left == right { 0.0 } else { 1.0 };
    }
    let (left, right) = (left.values::<f32>().unwrap(), right.values::<f32>().unwrap());
    let greatest = right
        .iter()
        .map(|v| v.abs())
        .filter(|v| v.is_finite())
        .fold(1e-6, f32::max);
    let differences = left.iter().zip(right.iter()).map(|(&l, &r)| {
        if l == r || (l.is_nan() && r.is_nan()) {
            0.0
        } else if l.is_finite() && r.is_finite() {
            (l - r).abs() / greatest
        } else {
            f32::INFINITY
        }
    });
    differences.fold(0.0, f32::max)
}

/// The outputs; none where the interpreter refuses the model, or what is in it (a division by zero).
fn run(model: &Model, feeds: &Feeds) -> Option<Vec<Tensor>> {
    let program = Interpreter.load(model).ok()?;
    program.forward(feeds, &[], Mode::default()).ok()
}
