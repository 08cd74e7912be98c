//! What inference knows of a value, which may be a part only.

use super::{Known, Numbers, dim::Dim};
use crate::{DType, Dimension, Tensor, ValueInfo, proto, tensor::element_count};
use proto::__buffa::oneof::type_proto::Value as TypeValue;

/// Constants with more elements than this are not followed.
pub(super) const FOLLOWED_ELEMENTS: usize = 1024;

/// The same for stored floats: those that matter are the scales of a Resize, one per axis.
const FOLLOWED_FLOATS: usize = 16;

/// How the tensors of a value are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrapping {
    /// A tensor.
    Tensor,
    /// A sequence of tensors.
    Sequence,
    /// A tensor that may be absent.
    Optional,
    /// A sequence of tensors that may be absent.
    OptionalSequence,
}

/// The elements of a small tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Values {
    /// Of integers and bools, each known or not.
    Integers(Vec<Dim>),
    /// Of floating-point numbers, exact.
    Floats(Vec<f64>),
}

impl Values {
    pub fn len(&self) -> usize {
        match self {
            Self::Integers(values) => values.len(),
            Self::Floats(values) => values.len(),
        }
    }

    /// `number` as a value of `dtype` holds it; `None` for types that are not followed.
    pub fn rounded(dtype: DType, number: f64) -> Option<f64> {
        match dtype {
            DType::FLOAT => Some(f64::from(number as f32)),
            DType::DOUBLE => Some(number),
            DType::FLOAT16 => Some(half::f16::from_f64(number).to_f64()),
            DType::BFLOAT16 => Some(half::bf16::from_f64(number).to_f64()),
            _ => None,
        }
    }
}

/// The range of an integer type.
pub(super) fn range(dtype: DType) -> Option<std::ops::RangeInclusive<i128>> {
    let signed = |bits: u32| -(1_i128 << (bits - 1))..=(1_i128 << (bits - 1)) - 1;
    let unsigned = |bits: u32| 0..=(1_i128 << bits) - 1;
    Some(match dtype {
        DType::BOOL => 0..=1,
        DType::INT64 => signed(64),
        DType::INT32 => signed(32),
        DType::INT16 => signed(16),
        DType::INT8 => signed(8),
        DType::UINT64 => unsigned(64),
        DType::UINT32 => unsigned(32),
        DType::UINT16 => unsigned(16),
        DType::UINT8 => unsigned(8),
        _ => return None,
    })
}

/// What is known of one value: of its tensor, or of every tensor in it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fact {
    pub wrapping: Wrapping,
    pub dtype: Option<DType>,
    /// `None` where not even the rank is known.
    pub shape: Option<Vec<Dim>>,
    pub values: Option<Values>,
    pub follows_shape: bool,
    /// Whether this is a sequence without elements, so that whatever joins it is all that is in it.
    pub empty: bool,
}

impl Fact {
    pub fn tensor(dtype: Option<DType>, shape: Option<Vec<Dim>>) -> Self {
        Self {
            wrapping: Wrapping::Tensor,
            dtype,
            shape,
            values: None,
            follows_shape: false,
            empty: false,
        }
    }

    pub fn sized(dtype: DType, shape: &[usize]) -> Self {
        Self::tensor(Some(dtype), Some(shape.iter().map(|&size| size.into()).collect()))
    }

    /// These values, where type and shape let them be followed.
    #[must_use]
    pub fn with_values(mut self, values: Option<Values>) -> Self {
        let count = self.shape.as_ref().and_then(|shape| {
            let sizes = shape.iter().map(|size| usize::try_from(size.fixed()?).ok());
            element_count(&sizes.collect::<Option<Vec<_>>>()?)
        });
        self.values = values.filter(|values| values.len() <= FOLLOWED_ELEMENTS && count == Some(values.len()));
        match (&mut self.values, self.dtype) {
            (Some(Values::Integers(values)), Some(dtype)) => {
                let range = range(dtype);
                for value in &mut *values {
                    let fits = |value: i128| range.as_ref().is_some_and(|range| range.contains(&value));
                    if range.is_none() || value.fixed().is_some_and(|value| !fits(value)) {
                        *value = Dim::Unknown;
                    }
                }
                if !values.iter().any(Dim::is_known) && !values.is_empty() {
                    self.values = None;
                }
            }
            (Some(Values::Floats(values)), Some(dtype)) => {
                let rounded = values.iter().map(|&value| Values::rounded(dtype, value));
                self.values = rounded.collect::<Option<_>>().map(Values::Floats);
            }
            _ => self.values = None,
        }
        self
    }

    /// A stored tensor, with its values if it is small.
    pub fn stored(tensor: &Tensor) -> Self {
        let values = match tensor.dtype() {
            DType::FLOAT | DType::DOUBLE | DType::FLOAT16 | DType::BFLOAT16 if tensor.len() <= FOLLOWED_FLOATS => {
                floats(tensor).map(Values::Floats)
            }
            dtype if range(dtype).is_some() && tensor.len() <= FOLLOWED_ELEMENTS => {
                integers(tensor).map(Values::Integers)
            }
            _ => None,
        };
        Self::sized(tensor.dtype(), tensor.shape()).with_values(values)
    }

    /// The tensor of a message, read only if it is small; `None` if it has no shape.
    pub fn message(message: &proto::TensorProto) -> Option<Self> {
        let shape: Option<Vec<usize>> = message.dims.iter().map(|&size| usize::try_from(size).ok()).collect();
        let shape = shape?;
        if element_count(&shape)? <= FOLLOWED_ELEMENTS
            && let Ok(tensor) = crate::codec::tensor_from_message(message)
        {
            return Some(Self::stored(&tensor));
        }
        Some(Self::sized(DType::from_number(message.data_type?), &shape))
    }

    /// The tensor of a sparse message.
    pub fn sparse(message: &proto::SparseTensorProto) -> Option<Self> {
        let sizes: Option<Vec<usize>> = message.dims.iter().map(|&size| usize::try_from(size).ok()).collect();
        let number = message.values.as_option()?.data_type?;
        Some(Self::sized(DType::from_number(number), &sizes?))
    }

    /// What a declaration says, where `size` gives what is known of a declared dimension.
    pub fn declared(value: &ValueInfo, size: &dyn Fn(usize, &Dimension) -> Dim) -> Option<Self> {
        Self::of_type(value.0.r#type.as_option()?, size)
    }

    /// The same for the wire message of a type.
    pub fn of_type(declared: &proto::TypeProto, size: &dyn Fn(usize, &Dimension) -> Dim) -> Option<Self> {
        let (wrapping, tensor) = unwrap(declared)?;
        let dtype = tensor.elem_type.filter(|&number| number > 0).map(DType::from_number);
        let shape = tensor.shape.as_option().map(|shape| {
            let sizes = crate::value::dimensions(shape);
            sizes
                .iter()
                .enumerate()
                .map(|(axis, wanted)| size(axis, wanted))
                .collect()
        });
        Some(Self {
            wrapping,
            ..Self::tensor(dtype, shape)
        })
    }

    /// The values, one after the other, where they are integers; unknown ones where only their number
    /// is known.
    pub fn list(&self) -> Option<Vec<Dim>> {
        match (&self.values, self.shape.as_deref()) {
            (Some(Values::Integers(values)), _) => Some(values.clone()),
            (_, Some([])) => Some(vec![Dim::Unknown]),
            (_, Some([Dim::Fixed(length)])) => {
                let length = usize::try_from(*length)
                    .ok()
                    .filter(|&length| length <= FOLLOWED_ELEMENTS)?;
                Some(vec![Dim::Unknown; length])
            }
            _ => None,
        }
    }

    /// The shape, if it is of numbers alone.
    pub fn fixed_shape(&self) -> Option<Vec<usize>> {
        let sizes = self.shape.as_ref()?.iter();
        sizes.map(|size| usize::try_from(size.fixed()?).ok()).collect()
    }

    /// What holds of both.
    pub fn join(&self, other: &Self) -> Option<Self> {
        if self.wrapping != other.wrapping {
            return None;
        }
        match (self.empty, other.empty) {
            (true, _) if self.dtype == other.dtype => return Some(other.clone()),
            (_, true) if self.dtype == other.dtype => return Some(self.clone()),
            _ => {}
        }
        let shape = match (&self.shape, &other.shape) {
            (Some(a), Some(b)) => join_shapes(a, b),
            _ => None,
        };
        let values = match (&self.values, &other.values) {
            (Some(Values::Integers(a)), Some(Values::Integers(b))) if a.len() == b.len() => {
                let joined = a.iter().zip(b).map(|(a, b)| a.join(b));
                Some(Values::Integers(joined.collect()))
            }
            (Some(a), Some(b)) if a == b => Some(a.clone()),
            _ => None,
        };
        let joined = Self {
            wrapping: self.wrapping,
            ..Self::tensor(self.dtype.filter(|_| self.dtype == other.dtype), shape)
        };
        Some(Self {
            follows_shape: self.follows_shape || other.follows_shape,
            ..joined.with_values(values)
        })
    }

    /// Fills in what is not known with what a declaration says, as far as they do not contradict.
    pub fn fill(&mut self, declared: &Self) {
        if self.wrapping != declared.wrapping {
            return;
        }
        if self.dtype.is_some() && declared.dtype.is_some() && self.dtype != declared.dtype {
            return;
        }
        self.dtype = self.dtype.or(declared.dtype);
        match (&mut self.shape, &declared.shape) {
            (None, Some(_)) => self.shape.clone_from(&declared.shape),
            (Some(shape), Some(declared)) if shape.len() == declared.len() => {
                let fits = shape.iter().zip(declared).all(|(a, b)| a.equals(b) != Some(false));
                for (size, declared) in shape.iter_mut().zip(declared).filter(|_| fits) {
                    if !size.is_known() {
                        *size = declared.clone();
                    }
                }
            }
            _ => {}
        }
    }

    /// The public form, if type and shape are known completely.
    pub fn known(&self) -> Option<Known> {
        if self.wrapping != Wrapping::Tensor {
            return None;
        }
        let numbers = match &self.values {
            Some(Values::Integers(values)) => {
                let values = values.iter().map(|value| i64::try_from(value.fixed()?).ok());
                values.collect::<Option<_>>().map(Numbers::Integers)
            }
            Some(Values::Floats(values)) if self.dtype == Some(DType::FLOAT) => {
                Some(Numbers::Floats(values.iter().map(|&value| value as f32).collect()))
            }
            _ => None,
        };
        Some(Known {
            dtype: self.dtype?,
            shape: self.fixed_shape()?,
            follows_shape: self.follows_shape && numbers.is_some(),
            numbers,
        })
    }
}

/// What holds of both shapes; `None` if their ranks differ.
pub(super) fn join_shapes(a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    (a.len() == b.len()).then(|| a.iter().zip(b).map(|(a, b)| a.join(b)).collect())
}

fn unwrap(declared: &proto::TypeProto) -> Option<(Wrapping, &proto::type_proto::Tensor)> {
    match declared.value.as_ref()? {
        TypeValue::TensorType(tensor) => Some((Wrapping::Tensor, tensor)),
        TypeValue::SequenceType(sequence) => match unwrap_once(sequence.elem_type.as_option()?)? {
            TypeValue::TensorType(tensor) => Some((Wrapping::Sequence, tensor)),
            _ => None,
        },
        TypeValue::OptionalType(optional) => match unwrap_once(optional.elem_type.as_option()?)? {
            TypeValue::TensorType(tensor) => Some((Wrapping::Optional, tensor)),
            TypeValue::SequenceType(sequence) => match unwrap_once(sequence.elem_type.as_option()?)? {
                TypeValue::TensorType(tensor) => Some((Wrapping::OptionalSequence, tensor)),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

fn unwrap_once(declared: &proto::TypeProto) -> Option<&TypeValue> {
    declared.value.as_ref()
}

fn floats(tensor: &Tensor) -> Option<Vec<f64>> {
    Some(match tensor.dtype() {
        DType::DOUBLE => tensor.values::<f64>().ok()?.into_owned(),
        _ => tensor.to_f32().ok()?.iter().map(|&value| value.into()).collect(),
    })
}

fn integers(tensor: &Tensor) -> Option<Vec<Dim>> {
    Some(match tensor.dtype() {
        DType::INT16 => tensor
            .values::<i16>()
            .ok()?
            .iter()
            .map(|&v| i64::from(v).into())
            .collect(),
        DType::UINT16 => tensor
            .values::<u16>()
            .ok()?
            .iter()
            .map(|&v| i64::from(v).into())
            .collect(),
        DType::UINT32 => tensor
            .values::<u32>()
            .ok()?
            .iter()
            .map(|&v| i64::from(v).into())
            .collect(),
        DType::UINT64 => tensor
            .values::<u64>()
            .ok()?
            .iter()
            .map(|&v| i128::from(v).into())
            .collect(),
        _ => tensor.to_i64().ok()?.into_iter().map(Dim::from).collect(),
    })
}
