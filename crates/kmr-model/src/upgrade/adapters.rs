//! How to adapt to each new definition.
//!
//! A row is an operator and the operator set that brought the new definition. `history.txt` lists what there is
//! to be adapted to; a test holds the two together.

use super::site::{Refusal, Site};

mod attributes;
mod normalization;
mod resize;

/// Changes the node of a site from the words of one operator set to those of the next.
pub(super) type Adapter = fn(&mut Site) -> Result<(), Refusal>;

/// The adapter of `op_type` to its definition from `opset`.
pub(super) fn find(op_type: &str, opset: i64) -> Option<Adapter> {
    Some(match (op_type, opset) {
        // What is new has a default, or may be left out, and then means what the old definition meant.
        ("ArgMax" | "ArgMin", 12)
        | ("AveragePool", 10 | 19)
        | ("Cast" | "CastLike", 19 | 24)
        | ("Constant", 11 | 12)
        | ("DepthToSpace", 11)
        | ("DequantizeLinear" | "QuantizeLinear", 13 | 19 | 21 | 23)
        | ("Erf", 13)
        | ("GRU" | "LSTM" | "RNN", 14)
        | ("GatherND", 12)
        | ("Gemm", 11)
        | ("Loop", 11)
        | ("LpPool", 18)
        | ("MaxPool", 8 | 10)
        | ("OptionalHasElement", 18)
        | ("Pad", 18)
        | ("Reshape", 14)
        | ("Resize", 18)
        | ("ScatterElements" | "ScatterND", 16)
        | ("Shape", 15)
        | ("TopK", 11) => |_| Ok(()),
        ("BatchNormalization", 9) => normalization::spatial,
        ("BatchNormalization", 14) => normalization::inference,
        ("Clip", 11) => attributes::clip,
        ("DFT", 20) => attributes::transform_axis,
        ("Dropout", 10) => normalization::mask,
        ("Dropout", 12) => attributes::ratio,
        ("GridSample", 20) => resize::grid_modes,
        ("GroupNormalization", 21) => normalization::channel_parameters,
        ("Softmax" | "LogSoftmax" | "Hardmax", 13) => normalization::coerced,
        ("Pad", 11) => attributes::pads,
        (
            "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean" | "ReduceMin"
            | "ReduceProd" | "ReduceSumSquare",
            18,
        )
        | ("ReduceSum" | "Squeeze" | "Unsqueeze", 13) => attributes::axes,
        ("Resize", 11) => resize::coordinates,
        ("Resize", 13) => resize::removed_mode,
        ("RoiAlign", 16) => resize::regions,
        ("Scatter", 11) => attributes::scatter,
        ("Slice", 10) => attributes::slice,
        ("Split", 13) => attributes::split,
        ("Split", 18) => attributes::split_count,
        ("TopK", 10) => attributes::top,
        ("Upsample", 9) => attributes::scales,
        ("Upsample", 10) => resize::upsample,
        // Known, and refused: Scan 9 moved the batch axis out of the operator; Attention 24 and 25 are not implemented
        // anywhere else in kmr, so that nothing could check an adapter.
        _ => return None,
    })
}
