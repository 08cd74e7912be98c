//! Tensors across the border.

use abi_stable::{
    StableAbi, sabi_trait,
    std_types::{RBox, RSlice, RSliceMut, RString, RVec},
};

use crate::AbiResult;

/// An element type by its number in ONNX's `TensorProto.DataType`.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElementType(pub i32);

/// A tensor's name, element type and shape.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct TensorDescription {
    /// The name of the initializer or value; may be empty.
    pub name: RString,
    /// The element type.
    pub element_type: ElementType,
    /// The shape; empty for a scalar.
    pub shape: RVec<u64>,
}

/// A read-only tensor that the host holds. The handle keeps the memory alive; the memory may be mapped
/// from elsewhere.
#[sabi_trait]
pub trait SharedTensor: Send + Sync {
    /// What it is.
    fn description(&self) -> AbiResult<TensorDescription>;
    /// Its bytes: row-major, little-endian, packed as ONNX's `raw_data`, aligned for its element type.
    #[sabi(last_prefix_field)]
    fn bytes(&self) -> AbiResult<RSlice<'_, u8>>;
}

/// An owned [`SharedTensor`].
pub type SharedTensorBox = SharedTensor_TO<'static, RBox<()>>;

/// Memory that the host allocated for a plugin to fill; 64-byte aligned and zeroed.
#[sabi_trait]
pub trait OutputBuffer: Send {
    /// The bytes to fill.
    fn bytes(&mut self) -> AbiResult<RSliceMut<'_, u8>>;
    /// Stores the tensor in the candidate under the name of its description. Once.
    #[sabi(last_prefix_field)]
    fn commit(&mut self) -> AbiResult<()>;
}

/// An owned [`OutputBuffer`].
pub type OutputBufferBox = OutputBuffer_TO<'static, RBox<()>>;

/// A tensor with the name it was asked for by.
#[repr(C)]
#[derive(StableAbi)]
pub struct NamedTensor {
    /// The name.
    pub name: RString,
    /// The tensor.
    pub tensor: SharedTensorBox,
}
