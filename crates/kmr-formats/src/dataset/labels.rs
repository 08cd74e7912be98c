//! Labels as they are stored, checked.

use std::path::Path;

use kmr_model::{DType, ModelError, Tensor};

use crate::{ErrorKind, FormatError};

/// The labels of `count` samples as int64.
pub(super) fn read(path: &Path, name: &str, labels: &Tensor, count: usize) -> Result<Vec<i64>, FormatError> {
    let error = |message: String| FormatError::new(ErrorKind::Labels, path, message).array(name);
    let samples = match labels.shape() {
        [samples] | [samples, 1] => *samples,
        other => {
            let message = format!("labels are one number per sample; the shape is {other:?}");
            return Err(error(message).help("store class numbers, not one-hot rows"));
        }
    };
    if samples != count {
        return Err(error(format!("{samples} labels for {count} samples")));
    }
    let numbers = integers(labels)
        .map_err(|cause| error(cause.to_string()))?
        .ok_or_else(|| {
            error(format!("labels are whole numbers; these are {}", labels.dtype()))
                .help("store class numbers as an integer type")
        })?;
    let below_zero = |label: &Option<i64>| label.is_none_or(|label| label < 0);
    if let Some(sample) = numbers.iter().position(below_zero) {
        let message = match numbers[sample] {
            Some(label) => format!("sample {sample} has the label {label}"),
            None => format!("sample {sample} has a label beyond 63 bits"),
        };
        return Err(error(message).help("labels count from 0"));
    }
    Ok(numbers.into_iter().flatten().collect())
}

/// The numbers of an integer tensor, none for those that int64 cannot hold; nothing for other
/// element types.
fn integers(labels: &Tensor) -> Result<Option<Vec<Option<i64>>>, ModelError> {
    macro_rules! widened {
        ($($dtype:ident => $rust:ty),*) => {
            match labels.dtype() {
                $(DType::$dtype => {
                    let values = labels.values::<$rust>()?;
                    Some(values.iter().map(|value| i64::try_from(*value).ok()).collect())
                })*
                _ => None,
            }
        };
    }
    Ok(widened!(
        UINT8 => u8, INT8 => i8, UINT16 => u16, INT16 => i16,
        UINT32 => u32, INT32 => i32, UINT64 => u64, INT64 => i64
    ))
}
