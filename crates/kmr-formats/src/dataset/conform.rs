//! A data set against what a model takes.

use kmr_model::DType;

use super::{Dataset, Sample};
use crate::{ErrorKind, FormatError};

/// What a model takes at one input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedInput {
    /// The input's name.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// The shape of one sample, which of a row leaves out the axis of samples; none where any size will do.
    pub sample_shape: Vec<Option<usize>>,
}

impl Dataset {
    /// Fits the data set to a model's inputs, of which each of its samples is a row or a call.
    ///
    /// Axes of size 1 are added or left out where nothing else differs, arrays that are no input
    /// are dropped, and the array of a file without names gets the name of the only input.
    ///
    /// # Errors
    ///
    /// A missing array, and one of another shape or element type.
    pub fn conform(&mut self, expected: &[ExpectedInput], sample: Sample) -> Result<(), FormatError> {
        self.sample = sample;
        if let ([only], true) = (expected, self.unnamed)
            && let Some((_, array)) = self.inputs.shift_remove_index(0)
        {
            self.inputs.insert(only.name.clone(), array);
            self.unnamed = false;
        }
        let mut inputs = crate::NamedArrays::with_capacity(expected.len());
        for input in expected {
            let array = self.conforming(input)?;
            inputs.insert(input.name.clone(), array);
        }
        self.inputs = inputs;
        Ok(())
    }

    fn conforming(&self, input: &ExpectedInput) -> Result<kmr_model::Tensor, FormatError> {
        let error = |message: String| FormatError::new(ErrorKind::Shape, &self.path, message).array(&input.name);
        let Some(array) = self.inputs.get(&input.name) else {
            let names: Vec<String> = self.inputs.keys().map(|name| format!("`{name}`")).collect();
            let help = format!("the arrays here are {}", names.join(", "));
            let message = "the model has this input, the data have no such array".to_string();
            return Err(error(message).help(help));
        };
        let dtype = self.batch_dtype(array.dtype());
        if dtype != input.dtype {
            let help = match (dtype, input.dtype) {
                (DType::UINT8, DType::FLOAT) => "declare `scale`, such as \"1/255\", in [data]",
                _ => "store the array in the type that the model takes",
            };
            let message = format!("the model takes {}; the array is {dtype}", input.dtype);
            return Err(error(message).help(help));
        }
        let sample = &array.shape()[1..];
        let shape = fitted(sample, &input.sample_shape).ok_or_else(|| {
            let wanted: Vec<String> = input
                .sample_shape
                .iter()
                .map(|size| size.map_or("?".to_string(), |size| size.to_string()))
                .collect();
            error(format!(
                "the model takes samples of shape [{}]; the array's are {sample:?}",
                wanted.join(", ")
            ))
        })?;
        let shape = std::iter::once(array.shape()[0]).chain(shape).collect();
        array.reshaped(shape).map_err(|cause| error(cause.to_string()))
    }
}

/// The sample's shape with axes of size 1 added or left out, if it fits in this way.
fn fitted(sample: &[usize], expected: &[Option<usize>]) -> Option<Vec<usize>> {
    let direct = sample.len() == expected.len()
        && sample
            .iter()
            .zip(expected)
            .all(|(size, wanted)| wanted.is_none_or(|wanted| wanted == *size));
    if direct {
        return Some(sample.to_vec());
    }
    let sizes: Option<Vec<usize>> = expected.iter().copied().collect();
    let sizes = sizes?;
    let squeezed = |shape: &[usize]| -> Vec<usize> { shape.iter().copied().filter(|size| *size != 1).collect() };
    (squeezed(sample) == squeezed(&sizes)).then_some(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_of_size_one_come_and_go() {
        let known = |shape: &[usize]| shape.iter().copied().map(Some).collect::<Vec<_>>();
        assert_eq!(fitted(&[28, 28], &known(&[1, 28, 28])), Some(vec![1, 28, 28]));
        assert_eq!(fitted(&[1, 28, 28], &known(&[28, 28])), Some(vec![28, 28]));
        assert_eq!(fitted(&[], &known(&[1])), Some(vec![1]));
        assert_eq!(fitted(&[5], &[None]), Some(vec![5]));
        assert_eq!(fitted(&[28, 28], &known(&[784])), None);
        assert_eq!(fitted(&[28, 27], &known(&[1, 28, 28])), None);
        assert_eq!(fitted(&[28, 28], &[None, Some(28), Some(28)]), None);
    }
}
