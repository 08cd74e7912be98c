//! Tensors that cross: shared inputs, host-allocated outputs, and views lent for a call.
#![allow(
    missing_docs,
    non_local_definitions,
    clippy::all,
    reason = "sabi_trait and the StableAbi derive write items that the comments here do not reach"
)]

use abi_stable::{
    StableAbi, sabi_trait,
    std_types::{RBox, RSlice, RSliceMut, RString, RVec},
};

use crate::AbiResult;

/// Alignment of an [`OutputBuffer`]'s memory in bytes: a cache line, and the widest vector register.
pub const BUFFER_ALIGNMENT: usize = 64;

/// An element type, by its number in ONNX's `TensorProto.DataType`. Open.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ElementType(pub i32);

/// What a tensor is called and looks like. Frozen.
#[repr(C)]
#[derive(StableAbi, Clone, PartialEq, Eq, Debug)]
pub struct TensorDescription {
    /// The name of the value or initializer; empty where it has none.
    pub name: RString,
    /// The element type.
    pub element_type: ElementType,
    /// The size of every dimension; empty for a scalar.
    pub shape: RVec<u64>,
}

/// A tensor that the plugin lends for one call, row-major and little-endian. Frozen.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct BorrowedTensor<'a> {
    /// What it is.
    pub description: TensorDescription,
    /// Its bytes, exactly as many as the description asks for.
    pub bytes: RSlice<'a, u8>,
}

/// A tensor that the host holds, row-major and little-endian, for reading.
///
/// The handle keeps the memory alive, outlives the call that gave it, and may be read and dropped on any
/// thread. The memory is the same for as long as the handle lives, and nobody writes to it.
#[sabi_trait]
pub trait SharedTensor: Send + Sync {
    /// What the tensor is.
    ///
    /// # Errors
    /// If the host is gone.
    fn description(&self) -> AbiResult<TensorDescription>;

    /// The bytes, as many as the description asks for. They may lie at any address.
    ///
    /// # Errors
    /// [`ErrorCode::IO`](crate::ErrorCode::IO) if a file behind the tensor cannot be read.
    #[sabi(last_prefix_field)]
    fn bytes<'a>(&'a self) -> AbiResult<RSlice<'a, u8>>;
}

/// An owned [`SharedTensor`].
pub type SharedTensorBox = SharedTensor_TO<'static, RBox<()>>;

/// Memory that the host allocated for a tensor that the plugin makes.
///
/// Dropping it without [`commit`](OutputBuffer::commit) discards it.
#[sabi_trait]
pub trait OutputBuffer: Send {
    /// The memory: zeroed, [`BUFFER_ALIGNMENT`]-byte aligned, as many bytes as the description asked for.
    ///
    /// # Errors
    /// [`ErrorCode::INVALID_REQUEST`](crate::ErrorCode::INVALID_REQUEST) after `commit`.
    fn bytes<'a>(&'a mut self) -> AbiResult<RSliceMut<'a, u8>>;

    /// Hands the memory to the host, which keeps it under the number returned until the call of the plugin
    /// ends. A `store_tensor` operation of [`Host::edit`](crate::Host::edit) with this number as `"buffer"`
    /// puts it into the model; a number can be stored once.
    ///
    /// # Errors
    /// [`ErrorCode::INVALID_REQUEST`](crate::ErrorCode::INVALID_REQUEST) if it was committed before.
    #[sabi(last_prefix_field)]
    fn commit(&mut self) -> AbiResult<u64>;
}

/// An owned [`OutputBuffer`], bounded by the host that lent it.
pub type OutputBufferBox<'a> = OutputBuffer_TO<'a, RBox<()>>;
