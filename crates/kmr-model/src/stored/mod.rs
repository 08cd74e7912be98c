//! Weights that nodes make from integers: how they are written into a graph, and found in one.
//!
//! A weight's initializer goes, and nodes make a value of the same name from what is stored instead: nobody who reads
//! it changes, subgraphs included. What these nodes are decides what a runtime makes of them. Ending in a Mul they are
//! constant, and are computed once, when the model is loaded: it then runs as fast as the original. Ending in a
//! DequantizeLinear they are kept, for kernels that work on integers.
//!
//! ONNX has integers of 8 and 4 bits. Codes of other sizes lie in 64-bit words, all weights of one size in one chain of
//! nodes. A word holds ⌊64 / bits⌋ codes, counted from the lowest code of their grid, the first in its lowest bits.

mod find;
mod write;

pub use find::{
    Codes, Half, Integers, Spread, StoredWeights, initializer_of, is_only_cast, own_initializer_of, stored_weights,
};
pub use write::{IntegerWeight, Pack, add_half, narrow, store_half, store_integers, stored_bytes};

/// What the nodes end in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decode {
    /// A Mul: computed once by a runtime.
    Constant,
    /// A DequantizeLinear, for kernels that work on integers.
    Kernel,
}

/// Which elements of a weight share a scale and a zero point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// All of them.
    Tensor,
    /// Those of an output channel.
    Channel,
    /// So many neighbors of an output channel; its last group may be shorter.
    Group(usize),
}
