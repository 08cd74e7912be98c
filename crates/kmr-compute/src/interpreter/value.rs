//! Values during an execution, and how they cross between Burn and tensors.

use burn::backend::{
    AllocationProperty, AutodiffBackend, BackendTensor, Bytes as BurnBytes, DType as BurnType, Dispatch,
    DispatchDevice, DispatchKindConversion, DispatchTensor, Flex, FlexDevice, Shape, TensorData, TensorMetadata,
    ops::{BoolTensorOps, FloatTensorOps, IntTensorOps},
    read_sync,
};
use kmr_model::{DType, Tensor};

/// Burn's operations, with the backend and the rank known at run time.
pub type B = Dispatch;
/// A float32 tensor of Burn.
pub type Float = DispatchTensor;

/// A value during an execution.
#[derive(Clone, Debug)]
pub enum Value {
    /// float32, on the device and possibly on the tape.
    Float(Float),
    /// Any other type, exact.
    Host(Tensor),
}

impl Value {
    /// A tensor as a value.
    pub fn from_tensor(tensor: Tensor) -> Self {
        if tensor.dtype() == DType::FLOAT {
            Self::Float(upload(&tensor))
        } else {
            Self::Host(tensor)
        }
    }

    /// The value as a tensor, off the tape.
    pub fn into_tensor(self) -> Tensor {
        match self {
            Self::Float(float) => download(float),
            Self::Host(tensor) => tensor,
        }
    }

    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Float(float) => shape(float),
            Self::Host(tensor) => tensor.shape().to_vec(),
        }
    }

    pub fn dtype(&self) -> DType {
        match self {
            Self::Float(_) => DType::FLOAT,
            Self::Host(tensor) => tensor.dtype(),
        }
    }
}

/// The CPU.
pub fn device() -> DispatchDevice {
    DispatchDevice::from(FlexDevice)
}

pub fn shape(float: &Float) -> Vec<usize> {
    float.shape().iter().copied().collect()
}

pub fn reshape(float: Float, shape: Vec<usize>) -> Float {
    if self::shape(&float) == shape {
        float
    } else {
        B::float_reshape(float, Shape::from(shape))
    }
}

/// A plain tensor that owns `values`.
pub fn from_vec(values: Vec<f32>, shape: Vec<usize>) -> Float {
    B::float_from_data(TensorData::new(values, shape), &device())
}

/// A plain tensor with the values of a float32 tensor, which it shares: weights are not copied, unless they lie in a file
/// where no float32 may.
pub fn upload(tensor: &Tensor) -> Float {
    let bytes = tensor.bytes();
    let shape = tensor.shape().to_vec();
    if bytemuck::try_cast_slice::<u8, f32>(bytes).is_err() {
        return from_vec(bytemuck::allocation::pod_collect_to_vec(bytes), shape);
    }
    let shared = BurnBytes::from_shared(bytes.clone(), AllocationProperty::Other);
    B::float_from_data(TensorData::from_bytes(shared, shape, BurnType::F32), &device())
}

/// Whether operations on the tensor are recorded.
pub fn is_tracked(float: &Float) -> bool {
    matches!(float.device(), DispatchDevice::Autodiff(_))
}

/// The tensor off the tape.
pub fn plain(float: Float) -> Float {
    if is_tracked(&float) {
        <B as AutodiffBackend>::inner(float)
    } else {
        float
    }
}

fn data(float: Float) -> TensorData {
    match read_sync(B::float_into_data(plain(float))) {
        Ok(data) => data,
        Err(error) => panic!("a tensor could not be read back: {error:?}"),
    }
}

/// The values, without a copy where nobody else holds them.
pub fn into_vec(float: Float) -> Vec<f32> {
    match data(float).try_into_vec::<f32>() {
        Ok(values) => values,
        Err(error) => panic!("a float32 tensor holds something else: {error:?}"),
    }
}

/// Runs `read` on the values, without a copy where they are contiguous.
pub fn with_slice<R>(float: Float, read: impl FnOnce(&[f32]) -> R) -> R {
    let native = <Float as DispatchKindConversion<Flex>>::try_into_backend(plain(float));
    match native {
        Ok(tensor) => {
            let tensor = tensor.float().to_contiguous();
            match tensor.as_slice::<f32>() {
                Some(values) => read(values),
                None => panic!("a float32 tensor holds something else"),
            }
        }
        Err(error) => panic!("a tensor left the CPU: {error}"),
    }
}

/// The tensor in row-major order, if it is off the tape.
///
/// Some of Burn's operations round differently on a view than on a copy of it. A value that is fed is a
/// copy, so that only copies may be computed with where the result must not depend on the start.
pub fn canonical(float: Float) -> Float {
    if is_tracked(&float) {
        return float;
    }
    match <Float as DispatchKindConversion<Flex>>::try_into_backend(float) {
        Ok(tensor) => {
            let tensor = BackendTensor::Float(tensor.float().to_contiguous());
            <Float as DispatchKindConversion<Flex>>::from_backend(tensor)
        }
        Err(error) => panic!("a tensor left the CPU: {error}"),
    }
}

struct Shared(BurnBytes);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn download(float: Float) -> Tensor {
    let shape = shape(&float);
    let (bytes, _, dtype) = data(float).into_parts();
    assert_eq!(dtype, BurnType::F32, "only float32 lives on the device");
    match Tensor::new(DType::FLOAT, shape, bytes::Bytes::from_owner(Shared(bytes))) {
        Ok(tensor) => tensor,
        Err(error) => panic!("a tensor's bytes do not fill its shape: {error}"),
    }
}

/// A tensor of indices for Burn's own operations.
pub fn indices(values: Vec<i64>) -> DispatchTensor {
    let length = values.len();
    B::int_from_data(TensorData::new(values, [length]), &device())
}

/// A mask for Burn's own operations.
pub fn mask(values: Vec<bool>, shape: Vec<usize>) -> DispatchTensor {
    B::bool_from_data(TensorData::new(values, shape), &device())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_shared_and_copied_only_where_no_float32_may_lie() {
        let tensor = Tensor::from_vec(vec![3], vec![1.0_f32, 2.0, 3.0]);
        with_slice(upload(&tensor), |values| {
            assert_eq!(values.as_ptr().cast(), tensor.bytes().as_ptr());
        });
        let mut bytes = vec![0];
        bytes.extend_from_slice(tensor.bytes());
        let odd = bytes::Bytes::from(bytes).slice(1..);
        let odd = Tensor::new(DType::FLOAT, vec![3], odd).unwrap();
        with_slice(upload(&odd), |values| assert_eq!(values, [1.0, 2.0, 3.0]));
    }
}
