//! Which channels of a model can be removed, and what has to be removed with each.
//!
//! Every axis of every value is a row of elements. Each operator says which elements of its inputs and
//! outputs belong together (module `relations`): the elements of a convolution's output channel, of its
//! weight's row and of its bias are one, and so are two channels that an Add brings together. What an
//! operator cannot lose an element of (the axis that a Softmax normalizes, a graph output, anything that
//! is not understood) is fixed. A connected set of elements without a fixed one is a *unit*: it can be
//! removed, nothing else has to go with it, and every consumer either computes the remaining channels
//! as before or sums over them. So a cut model computes, to rounding, what the model computes in which
//! the weights that read the removed channels are zero.
//!
//! Units that touch the same axes in the same way form a [`ChannelGroup`].

mod cut;
mod elements;
mod groups;
mod layout;
mod mend;
mod normalization;
mod products;
mod recurrent;
mod relations;
mod reshape;
mod trial;

use std::collections::BTreeMap;

use crate::{Model, ModelError, Patch, shapes::Shapes};

/// What [`analyze`] found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChannelAnalysis {
    /// The groups whose channels can be removed, in the order of their first producers.
    pub groups: Vec<ChannelGroup>,
    /// The channels that cannot, and why.
    pub refused: Vec<Refusal>,
}

/// Channels that are alike: each can be removed on its own, with everything that [`slices`] couples to
/// it. Removing from one group never asks for a removal from another.
///
/// [`slices`]: ChannelGroup::slices
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelGroup {
    /// The id of the first node that produces these channels, followed by `#2`, `#3`, ... where that
    /// node's channels belong to several groups. It survives edits upstream, and cuts (but a
    /// convolution in groups that is cut to one channel each is a depthwise one from then on).
    pub id: String,
    /// Number of units that can be removed; one must stay.
    pub channels: usize,
    /// The nodes whose output channels these are.
    pub producers: Vec<Producer>,
    /// Where each unit lies in the stored tensors.
    pub slices: Vec<TensorSlice>,
    /// Where each unit lies in the values computed at run time.
    pub values: Vec<TensorSlice>,
    /// What nodes say about the number of these channels, and [`ChannelAnalysis::cut`] mends.
    pub adjustments: Vec<Adjustment>,
}

/// A node that makes channels: a product with a stored weight.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Producer {
    /// The node's id.
    pub node: String,
    /// The stored weight (also where it reaches the node through a DequantizeLinear).
    pub weight: String,
    /// The weight's axis with one element per output channel.
    pub axis: usize,
}

/// Where the units of a group lie on one axis of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSlice {
    /// The name of the tensor or value.
    pub tensor: String,
    /// The axis.
    pub axis: usize,
    /// The axis' size, before any cut.
    pub size: usize,
    /// For each unit, its indices on the axis, ascending.
    pub indices: Vec<Vec<usize>>,
}

/// Something that a node says about a number of channels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Adjustment {
    /// An integer attribute that grows with the size of an axis: the groups of a depthwise convolution, the hidden
    /// units of an LSTM.
    Count {
        /// The node's id.
        node: String,
        /// The attribute.
        attribute: String,
        /// The value whose axis is counted.
        value: String,
        /// The axis.
        axis: usize,
    },
    /// The sizes that a Split cuts `axis` of its input into.
    SplitSizes {
        /// The node's id.
        node: String,
        /// The value that is split.
        input: String,
        /// The axis.
        axis: usize,
    },
    /// The starts and ends of a Slice.
    SliceBounds {
        /// The node's id.
        node: String,
        /// The value that is sliced.
        input: String,
        /// The starts as they are.
        starts: Vec<i64>,
        /// The ends as they are.
        ends: Vec<i64>,
        /// The axes that may lose elements.
        bounds: Vec<Bound>,
    },
    /// A constant that spells sizes of a value: the target of a Reshape, or a part of it that a Concat joins with
    /// others.
    Sizes {
        /// The id of the node that reads the constant.
        node: String,
        /// The input that holds it.
        slot: usize,
        /// The value whose sizes these are.
        output: String,
        /// The axis of `output` that the first number is the size of.
        axis: usize,
        /// The constant.
        sizes: Vec<i64>,
    },
}

/// Where a Slice begins and ends on one axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bound {
    /// The place of the axis among the starts and ends.
    pub place: usize,
    /// The axis.
    pub axis: usize,
    /// The first element taken.
    pub start: usize,
    /// The first element after it that is not taken.
    pub end: usize,
}

/// Channels that cannot be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The ids of the nodes that produce them.
    pub members: Vec<String>,
    /// The node, input or output that forbids it, as people would name it.
    pub node: String,
    /// Why.
    pub reason: String,
    /// How many channels this is about.
    pub channels: usize,
}

/// Finds the channels of `model` that can be removed.
///
/// `shapes` are those that [`crate::shapes::infer`] finds for `model`; which shapes the model was fed
/// does not matter to what is found, as long as channels are not resized by it.
///
/// # Errors
/// [`crate::ErrorKind::Unsupported`] if there are more axes, or more nodes that read long ones, than the size of the model lets be followed.
/// Axes that are too long are told among the refused.
pub fn analyze(model: &Model, shapes: &Shapes) -> Result<ChannelAnalysis, ModelError> {
    let relations = relations::Relations::collect(model, shapes)?;
    let mut analysis = groups::form(relations);
    trial::refuse_what_does_not_fit(model, shapes, &mut analysis)?;
    Ok(analysis)
}

impl ChannelAnalysis {
    /// The group with this id.
    pub fn group(&self, id: &str) -> Option<&ChannelGroup> {
        self.groups.iter().find(|group| group.id == id)
    }

    /// The edits that leave only the units `keep` (ascending) of each group named, all other groups
    /// being kept whole. `model` must be the one that was analyzed.
    ///
    /// Groups share tensors (one's output channels are the next one's input channels): cut all of them
    /// in one call.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Name`] if a group does not exist, [`crate::ErrorKind::Shape`] if `keep` is empty or not
    /// ascending or exceeds the group, or `model` is not the one analyzed.
    pub fn cut(&self, model: &Model, keep: &BTreeMap<String, Vec<usize>>) -> Result<Patch, ModelError> {
        cut::patch(self, model, keep)
    }
}
