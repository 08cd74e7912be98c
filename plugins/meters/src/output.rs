//! An output of a batch, cut into the vectors that scores are made from.

use std::borrow::Cow;

use kmr_sdk::{
    Error, ErrorCode, Result,
    model::{DType, Tensor},
};

/// Vectors of one output: `positions` of them in each sample, all of the same length.
pub struct Vectors<'t> {
    values: Cow<'t, [f32]>,
    length: usize,
    /// Number of vectors before and after the dimension that they lie along.
    before: usize,
    after: usize,
}

impl<'t> Vectors<'t> {
    /// One vector of class scores per position, along dimension `axis` (negative counts from the last).
    ///
    /// # Errors
    /// [`ErrorCode::SHAPE`] if there is no such dimension after that of the samples, if it holds fewer than
    /// `least` classes, or if the output is not of floating point.
    pub fn classes(tensor: &'t Tensor, samples: usize, axis: i64, least: usize) -> Result<Self> {
        let shape = sample_shape(tensor, samples)?;
        let wanted = if axis < 0 {
            axis + tensor.shape().len() as i64
        } else {
            axis
        };
        let found = usize::try_from(wanted - 1).ok().filter(|&found| found < shape.len());
        let Some(found) = found else {
            let shape = tensor.shape();
            return Err(unsuitable(format!(
                "its shape {shape:?} has no axis {axis} for classes after the one for samples (see `axis` in the meter's config)"
            )));
        };
        let length = shape[found];
        if length < least {
            return Err(unsuitable(format!(
                "it has {length} along axis {axis}, where this meter needs at least {least} classes"
            )));
        }
        let vectors = Self {
            values: floats(tensor)?,
            length,
            before: shape[..found].iter().product(),
            after: shape[found + 1..].iter().product(),
        };
        if vectors.positions() == 0 {
            return Err(unsuitable(format!("it is empty: its shape is {:?}", tensor.shape())));
        }
        Ok(vectors)
    }

    /// One vector per sample: all of its elements.
    ///
    /// # Errors
    /// [`ErrorCode::SHAPE`] if a sample has fewer than `least` elements, or none, or the output is not of floating
    /// point.
    pub fn whole(tensor: &'t Tensor, samples: usize, least: usize) -> Result<Self> {
        let length = sample_shape(tensor, samples)?.iter().product();
        if length == 0 {
            return Err(unsuitable(format!("it is empty: its shape is {:?}", tensor.shape())));
        }
        if length < least {
            return Err(unsuitable(format!(
                "it has {length} element for each sample, where this meter needs at least {least}; use `sqnr`"
            )));
        }
        Ok(Self {
            values: floats(tensor)?,
            length,
            before: 1,
            after: 1,
        })
    }

    /// Number of vectors in a sample.
    pub fn positions(&self) -> usize {
        self.before * self.after
    }

    /// Number of elements in a vector.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The vector at a position of a sample; `gathered` is where it is put together if it does not lie in one
    /// piece.
    pub fn vector<'v>(&'v self, sample: usize, position: usize, gathered: &'v mut Vec<f32>) -> &'v [f32] {
        let (before, after) = (position / self.after, position % self.after);
        let start = (sample * self.before + before) * self.length * self.after + after;
        if self.after == 1 {
            return &self.values[start..start + self.length];
        }
        gathered.clear();
        gathered.extend(self.values[start..].iter().step_by(self.after).take(self.length));
        gathered
    }
}

/// The shape of one sample.
fn sample_shape(tensor: &Tensor, samples: usize) -> Result<&[usize]> {
    match tensor.shape() {
        [first, rest @ ..] if *first == samples => Ok(rest),
        shape => Err(unsuitable(format!(
            "its shape is {shape:?}, whose first dimension is not that of the {samples} samples"
        ))),
    }
}

/// The values, which must be of floating point.
///
/// # Errors
/// [`ErrorCode::SHAPE`] for other element types.
pub fn floats(tensor: &Tensor) -> Result<Cow<'_, [f32]>> {
    match tensor.dtype() {
        DType::FLOAT | DType::FLOAT16 | DType::BFLOAT16 | DType::DOUBLE => Ok(tensor.to_f32()?),
        other => Err(unsuitable(format!(
            "it is {other}, where this meter needs floating point"
        ))),
    }
}

fn unsuitable(message: String) -> Error {
    Error::new(ErrorCode::SHAPE, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>();
        Tensor::from_vec(shape.to_vec(), (0..count).map(|value| value as f32).collect())
    }

    fn all(vectors: &Vectors<'_>, sample: usize) -> Vec<Vec<f32>> {
        let positions = 0..vectors.positions();
        positions
            .map(|position| vectors.vector(sample, position, &mut Vec::new()).to_vec())
            .collect()
    }

    #[test]
    fn classes_lie_along_their_axis() {
        let tensor = counting(&[2, 3]);
        let vectors = Vectors::classes(&tensor, 2, 1, 2).unwrap();
        assert_eq!(all(&vectors, 1), [[3.0, 4.0, 5.0]]);

        let tensor = counting(&[2, 3, 2]);
        let vectors = Vectors::classes(&tensor, 2, 1, 2).unwrap();
        assert_eq!(all(&vectors, 1), [[6.0, 8.0, 10.0], [7.0, 9.0, 11.0]]);
        let vectors = Vectors::classes(&tensor, 2, -1, 2).unwrap();
        assert_eq!(all(&vectors, 1), [[6.0, 7.0], [8.0, 9.0], [10.0, 11.0]]);

        let tensor = counting(&[2, 2, 2, 2]);
        let vectors = Vectors::classes(&tensor, 2, 2, 2).unwrap();
        assert_eq!(all(&vectors, 1), [[8.0, 10.0], [9.0, 11.0], [12.0, 14.0], [13.0, 15.0]]);
    }

    #[test]
    fn whole_outputs_are_flattened() {
        let tensor = counting(&[2, 2, 2]);
        let vectors = Vectors::whole(&tensor, 2, 1).unwrap();
        assert_eq!(all(&vectors, 1), [[4.0, 5.0, 6.0, 7.0]]);
        assert_eq!(all(&Vectors::whole(&counting(&[2]), 2, 1).unwrap(), 0), [[0.0]]);
    }

    #[test]
    fn what_cannot_be_judged_is_refused() {
        let message = |tensor: &Tensor, axis| match Vectors::classes(tensor, 2, axis, 2) {
            Ok(_) => panic!("{:?} was taken", tensor.shape()),
            Err(error) => error.message,
        };
        for axis in [0, 2, -2, -3, i64::MIN, i64::MAX] {
            assert!(message(&counting(&[2, 3]), axis).contains("has no axis"), "{axis}");
        }
        assert!(message(&counting(&[2]), 1).contains("has no axis 1"));
        assert!(message(&counting(&[3, 3]), 1).contains("first dimension is not that of the 2 samples"));
        assert!(message(&counting(&[]), 1).contains("its shape is []"));
        assert!(message(&counting(&[2, 1]), 1).contains("at least 2 classes"));
        assert!(message(&counting(&[2, 3, 0]), 1).contains("it is empty"));
        let integers = Tensor::from_vec(vec![2, 2], vec![0_i64; 4]);
        assert!(message(&integers, 1).contains("needs floating point"));
        assert!(Vectors::whole(&counting(&[2, 0]), 2, 1).is_err());
        assert!(Vectors::whole(&counting(&[2]), 2, 2).is_err());
    }
}
