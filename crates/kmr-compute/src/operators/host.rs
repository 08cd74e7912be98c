//! Exact arithmetic on the host: one definition for all number types.
//!
//! float32 lives on the device and is differentiable there; float16 and bfloat16 are widened to it. What
//! is left comes here: float64 and the integers, and float32 where an operator has no other form.

use std::borrow::Cow;

use kmr_model::{DType, Element, Tensor};

use super::strided;
use crate::{
    ComputeError,
    interpreter::{Call, Value},
};

/// What operators need of a number type. Integers wrap around, as in C.
pub trait Number: Element + PartialOrd {
    const ZERO: Self;
    const ONE: Self;
    /// The identity of [`larger`](Number::larger).
    const LOWEST: Self;
    /// The identity of [`smaller`](Number::smaller).
    const HIGHEST: Self;

    fn add(self, other: Self) -> Self;
    fn subtract(self, other: Self) -> Self;
    fn multiply(self, other: Self) -> Self;
    /// Integers are cut off towards zero; `None` where an integer has no quotient.
    fn divide(self, other: Self) -> Option<Self>;
    /// The remainder with the sign of `self`, as `fmod` of C.
    fn remainder(self, other: Self) -> Option<Self>;
    /// The remainder with the sign of `other`, as `%` of Python.
    fn modulo(self, other: Self) -> Option<Self>;
    fn negative(self) -> Self;
    fn absolute(self) -> Self;
    /// -1, 0 or 1; NaN stays.
    fn sign(self) -> Self;
    /// The larger one; NaN where either is.
    fn larger(self, other: Self) -> Self;
    /// The smaller one; NaN where either is.
    fn smaller(self, other: Self) -> Self;
    fn to_f64(self) -> f64;
    /// Integers are cut off towards zero, and end at their limits.
    fn from_f64(value: f64) -> Self;
}

macro_rules! integers {
    ($($rust:ty)*) => { $(impl Number for $rust {
        const ZERO: Self = 0;
        const ONE: Self = 1;
        const LOWEST: Self = <$rust>::MIN;
        const HIGHEST: Self = <$rust>::MAX;

        fn add(self, other: Self) -> Self { self.wrapping_add(other) }
        fn subtract(self, other: Self) -> Self { self.wrapping_sub(other) }
        fn multiply(self, other: Self) -> Self { self.wrapping_mul(other) }
        fn divide(self, other: Self) -> Option<Self> { self.checked_div(other) }
        fn remainder(self, other: Self) -> Option<Self> {
            (other != 0).then(|| self.wrapping_rem(other))
        }
        fn modulo(self, other: Self) -> Option<Self> {
            let rest = self.remainder(other)?;
            let crosses = rest != 0 && (rest < Self::ZERO) != (other < Self::ZERO);
            Some(if crosses { rest.wrapping_add(other) } else { rest })
        }
        fn negative(self) -> Self { self.wrapping_neg() }
        fn absolute(self) -> Self { if self < Self::ZERO { self.wrapping_neg() } else { self } }
        fn sign(self) -> Self {
            if self < Self::ZERO { Self::ZERO.wrapping_sub(1) } else { Self::from(self != 0) }
        }
        fn larger(self, other: Self) -> Self { self.max(other) }
        fn smaller(self, other: Self) -> Self { self.min(other) }
        fn to_f64(self) -> f64 { self as f64 }
        fn from_f64(value: f64) -> Self { value as Self }
    })* };
}
integers!(u8 i8 u16 i16 u32 i32 u64 i64);

macro_rules! floats {
    ($($rust:ty)*) => { $(impl Number for $rust {
        const ZERO: Self = 0.0;
        const ONE: Self = 1.0;
        const LOWEST: Self = <$rust>::NEG_INFINITY;
        const HIGHEST: Self = <$rust>::INFINITY;

        fn add(self, other: Self) -> Self { self + other }
        fn subtract(self, other: Self) -> Self { self - other }
        fn multiply(self, other: Self) -> Self { self * other }
        fn divide(self, other: Self) -> Option<Self> { Some(self / other) }
        fn remainder(self, other: Self) -> Option<Self> { Some(self % other) }
        fn modulo(self, other: Self) -> Option<Self> {
            let rest = self % other;
            Some(if rest == 0.0 {
                Self::ZERO.copysign(other)
            } else if (rest < 0.0) != (other < 0.0) {
                rest + other
            } else {
                rest
            })
        }
        fn negative(self) -> Self { -self }
        fn absolute(self) -> Self { self.abs() }
        fn sign(self) -> Self { if self == 0.0 || self.is_nan() { self } else { self.signum() } }
        fn larger(self, other: Self) -> Self {
            if self.is_nan() || self > other { self } else { other }
        }
        fn smaller(self, other: Self) -> Self {
            if self.is_nan() || self < other { self } else { other }
        }
        fn to_f64(self) -> f64 { self.into() }
        fn from_f64(value: f64) -> Self { value as Self }
    })* };
}
floats!(f32 f64);

/// Runs `$body` with `$number` as the Rust type of `$dtype`, or `$otherwise` if it has none.
macro_rules! with_number {
    ($dtype:expr, $number:ident => $body:expr, else $otherwise:expr) => {
        with_number!(@arms $dtype, $number, $body, $otherwise,
            FLOAT f32, DOUBLE f64, UINT8 u8, INT8 i8, UINT16 u16, INT16 i16, UINT32 u32, INT32 i32,
            UINT64 u64, INT64 i64)
    };
    (@arms $dtype:expr, $number:ident, $body:expr, $otherwise:expr, $($name:ident $rust:ty),*) => {
        match $dtype {
            $(::kmr_model::DType::$name => {
                type $number = $rust;
                $body
            })*
            _ => $otherwise,
        }
    };
}
pub(super) use with_number;

/// A new tensor of a function of each element, for every number type.
macro_rules! map_numbers {
    ($call:expr, $tensor:expr, $number:ident, $function:expr) => {{
        let tensor = $tensor;
        $crate::operators::host::with_number!(tensor.dtype(), $number => {
            $crate::operators::host::map::<$number>($call, tensor, $function)
        }, else Err($crate::operators::host::unknown($call, tensor.dtype())))
    }};
}
pub(super) use map_numbers;

/// A new tensor of a function of each pair of elements, for every number type; both have one shape.
/// The function gives `None` where there is no result.
macro_rules! zip_numbers {
    ($call:expr, $a:expr, $b:expr, $number:ident, $function:expr) => {{
        let (a, b) = ($a, $b);
        $crate::operators::host::with_number!(a.dtype(), $number => {
            $crate::operators::host::zip::<$number, $number>($call, a, b, $function)
        }, else Err($crate::operators::host::unknown($call, a.dtype())))
    }};
}
pub(super) use zip_numbers;

/// The refusal of an element type.
pub fn unknown(call: &Call<'_>, dtype: DType) -> ComputeError {
    call.unsupported(format!("is not known for elements of {dtype}"))
}

/// The values of a tensor, which are `T`.
pub fn values<'t, T: Element>(call: &Call<'_>, tensor: &'t Tensor) -> Result<Cow<'t, [T]>, ComputeError> {
    tensor.values().map_err(|error| call.wrong(error.to_string()))
}

/// A tensor over bytes.
pub fn from_bytes(call: &Call<'_>, dtype: DType, shape: Vec<usize>, bytes: Vec<u8>) -> Result<Tensor, ComputeError> {
    Tensor::new(dtype, shape, bytes.into()).map_err(|error| call.wrong(error.to_string()))
}

/// A tensor of bool.
pub fn truths(call: &Call<'_>, shape: &[usize], values: impl Iterator<Item = bool>) -> Result<Tensor, ComputeError> {
    from_bytes(call, DType::BOOL, shape.to_vec(), values.map(u8::from).collect())
}

pub fn map<T: Number>(call: &Call<'_>, tensor: &Tensor, function: impl Fn(T) -> T) -> Result<Tensor, ComputeError> {
    let values = values::<T>(call, tensor)?;
    let results = values.iter().map(|&value| function(value)).collect();
    Ok(Tensor::from_vec(tensor.shape().to_vec(), results))
}

pub fn zip<T: Number, R: Element>(
    call: &Call<'_>,
    a: &Tensor,
    b: &Tensor,
    function: impl Fn(T, T) -> Option<R>,
) -> Result<Tensor, ComputeError> {
    let (x, y) = (values::<T>(call, a)?, values::<T>(call, b)?);
    let results: Option<Vec<R>> = x.iter().zip(y.iter()).map(|(&x, &y)| function(x, y)).collect();
    let results = results.ok_or_else(|| call.wrong("divides by zero or overflows"))?;
    Ok(Tensor::from_vec(a.shape().to_vec(), results))
}

/// A value's numbers off the tape: float16 and bfloat16 as float32, with the result narrowed again.
pub fn numbers(call: &mut Call<'_>, value: Value) -> Result<Tensor, ComputeError> {
    match value.dtype() {
        DType::FLOAT16 | DType::BFLOAT16 => Ok(Value::Float(call.widened(value)?).into_tensor()),
        _ => Ok(value.into_tensor()),
    }
}

/// Both tensors, of one type, broadcast to one shape.
pub fn broadcast(call: &Call<'_>, a: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor), ComputeError> {
    if a.dtype() != b.dtype() {
        return Err(call.wrong(format!("mixes {} and {}", a.dtype(), b.dtype())));
    }
    let shape = call.broadcast(a.shape(), b.shape())?;
    count(call, &shape)?;
    let expand = |x: &Tensor| strided::expand(x, &shape).map_err(|message| call.wrong(message));
    Ok((expand(a)?, expand(b)?))
}

/// The most elements that an operator makes where its inputs do not hold as many.
const MOST: usize = 1 << 31;

/// The number of elements of a shape that is computed, if a tensor of it may be made.
pub fn count(call: &Call<'_>, shape: &[usize]) -> Result<usize, ComputeError> {
    shape
        .iter()
        .try_fold(1_usize, |product, &size| product.checked_mul(size))
        .filter(|&count| count <= MOST)
        .ok_or_else(|| call.wrong(format!("shape {shape:?} is too large")))
}

/// The one element of a tensor of integers.
pub fn integer(call: &Call<'_>, tensor: &Tensor) -> Result<i64, ComputeError> {
    let values = tensor.to_i64().map_err(|error| call.wrong(error.to_string()))?;
    match values.as_slice() {
        [value] => Ok(*value),
        _ => Err(call.wrong(format!("expected one number; got {:?}", tensor.shape()))),
    }
}
