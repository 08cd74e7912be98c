//! Tensors, as they go into the runtime and come out of it.

use std::fmt::Debug;

use half::{bf16, f16};
use kmr_compute::{ComputeError, ErrorKind};
use kmr_model::{DType, Element, Tensor};
use ort::{
    session::SessionInputValue,
    value::{DynValue, PrimitiveTensorElementType, TensorElementType},
};

/// Calls `$with` with every element type but bool: in Rust, in ONNX, in the runtime.
macro_rules! element_types {
    ($with:ident $arguments:tt) => {
        $with!($arguments
            f32 FLOAT Float32, f64 DOUBLE Float64, f16 FLOAT16 Float16, bf16 BFLOAT16 Bfloat16,
            i8 INT8 Int8, i16 INT16 Int16, i32 INT32 Int32, i64 INT64 Int64,
            u8 UINT8 Uint8, u16 UINT16 Uint16, u32 UINT32 Uint32, u64 UINT64 Uint64)
    };
}

/// The tensor `name`, for the runtime.
pub fn give(name: &str, tensor: &Tensor) -> Result<SessionInputValue<'static>, ComputeError> {
    macro_rules! by_type {
        (() $($rust:ident $onnx:ident $runtime:ident),*) => {
            match tensor.dtype() {
                $(DType::$onnx => given::<$rust>(tensor),)*
                DType::BOOL => {
                    let values: Vec<bool> = tensor.bytes().iter().map(|&byte| byte != 0).collect();
                    ort::value::Tensor::from_array((tensor.shape(), values)).map(Into::into)
                }
                other => return Err(no_border(name, &other)),
            }
        };
    }
    element_types!(by_type()).map_err(|error| failed(name, &error))
}

fn given<T>(tensor: &Tensor) -> ort::Result<SessionInputValue<'static>>
where
    T: Element + PrimitiveTensorElementType + Debug,
{
    // The element type was looked at already.
    let values = tensor
        .values::<T>()
        .map(|values| values.into_owned())
        .unwrap_or_default();
    ort::value::Tensor::from_array((tensor.shape(), values)).map(Into::into)
}

/// The value `name`, from the runtime.
pub fn take(name: &str, value: &DynValue) -> Result<Tensor, ComputeError> {
    let Some(element) = value.dtype().tensor_type() else {
        return Err(no_border(name, value.dtype()));
    };
    macro_rules! by_type {
        (() $($rust:ident $onnx:ident $runtime:ident),*) => {
            match element {
                $(TensorElementType::$runtime => taken::<$rust>(value),)*
                TensorElementType::Bool => value.try_extract_tensor::<bool>().map(|(shape, values)| {
                    let bytes: Vec<u8> = values.iter().map(|&value| value.into()).collect();
                    Tensor::new(DType::BOOL, sizes(shape), bytes.into())
                }),
                other => return Err(no_border(name, &other)),
            }
        };
    }
    let tensor = element_types!(by_type()).map_err(|error| failed(name, &error))?;
    tensor.map_err(|error| ComputeError::new(ErrorKind::Internal, format!("value `{name}`"), error.to_string()))
}

fn taken<T: Element + PrimitiveTensorElementType>(
    value: &DynValue,
) -> ort::Result<Result<Tensor, kmr_model::ModelError>> {
    let (shape, values) = value.try_extract_tensor::<T>()?;
    Ok(Ok(Tensor::from_vec(sizes(shape), values.to_vec())))
}

fn sizes(shape: &[i64]) -> Vec<usize> {
    shape
        .iter()
        .map(|&size| usize::try_from(size).unwrap_or_default())
        .collect()
}

/// A value that does not cross, as packed integers and sequences do not.
fn no_border(name: &str, kind: &dyn std::fmt::Display) -> ComputeError {
    let message = format!("is {kind}, which goes neither into ONNX Runtime nor out of it");
    ComputeError::new(ErrorKind::Unsupported, format!("value `{name}`"), message)
        .with_help("ask for the value behind its Cast or DequantizeLinear")
}

fn failed(name: &str, error: &ort::Error) -> ComputeError {
    ComputeError::new(ErrorKind::Internal, format!("value `{name}`"), error.to_string())
}
