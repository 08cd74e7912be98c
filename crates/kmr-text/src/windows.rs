//! Running text as windows of tokens.

use kmr_formats::{Dataset, ErrorKind, FormatError, NamedArrays, SampleDigest};
use kmr_model::Tensor;
use sha2::{Digest, Sha256};

use crate::table::Source;
use crate::{Format, Limits, Tokenizer};

/// What stands where no token is to be predicted.
const NOT_JUDGED: i64 = -1;

/// How text is cut.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) window: usize,
    pub(crate) stride: usize,
}

pub(crate) fn read(
    source: &Source<'_>,
    column: Option<&str>,
    shape: Shape,
    tokenizer: &Tokenizer,
    limits: Limits,
) -> Result<Dataset, FormatError> {
    let Shape { window, stride } = shape;
    let refuse = |message: String, help: String| Err(source.error(ErrorKind::Shape, message).help(help));
    if window < 2 {
        return refuse(
            format!("`window` is {window}"),
            "a window holds a token and the one after it".into(),
        );
    }
    if stride == 0 || stride > window {
        return refuse(
            format!("`stride` is {stride}, `window` {window}"),
            "write a stride from 1 to the window, so that every token is in one".into(),
        );
    }
    if let Some(most) = limits.positions.filter(|most| window > *most) {
        return refuse(
            format!("`window` is {window}, more than the model's positions, {most}"),
            format!("write `window = {most}`"),
        );
    }
    let tokens = match (column, source.format) {
        (None, Format::Lines) => tokenizer.encode_running(source.text()?)?,
        (None, _) => return Err(source.unnamed()),
        (Some(column), _) => {
            let columns = source.columns(&[column])?;
            let texts: Vec<&str> = columns[0]
                .texts(source.path)?
                .into_iter()
                .map(|(_, text)| text)
                .collect();
            tokenizer.encode_running(&texts.join("\n\n"))?
        }
    };
    if tokens.len() < 2 {
        let message = format!("the text has {} tokens; there is nothing to predict", tokens.len());
        return Err(source.error(ErrorKind::Empty, message));
    }
    cut(source, &tokens, shape, tokenizer.padding())
}

fn cut(source: &Source<'_>, tokens: &[u32], shape: Shape, padding: u32) -> Result<Dataset, FormatError> {
    let Shape { window, stride } = shape;
    let starts = starts(tokens.len(), shape);
    let mut arrays: [Vec<i64>; 5] = std::array::from_fn(|_| Vec::with_capacity(starts.len() * window));
    let mut identities = Vec::with_capacity(starts.len());
    for (number, &start) in starts.iter().enumerate() {
        let here = &tokens[start..tokens.len().min(start + window)];
        // The window before has predicted as far as its end.
        let judged_from = if number == 0 { 1 } else { window - stride };
        let [ids, mask, kinds, positions, targets] = &mut arrays;
        for at in 0..window {
            ids.push(here.get(at).map_or(padding.into(), |id| i64::from(*id)));
            mask.push(i64::from(at < here.len()));
            kinds.push(0);
            positions.push(at as i64);
            let next = here.get(at + 1).filter(|_| at + 1 >= judged_from);
            targets.push(next.map_or(NOT_JUDGED, |id| i64::from(*id)));
        }
        identities.push(identity(here));
    }
    let mut arrays = arrays
        .into_iter()
        .map(|values| Tensor::from_vec(vec![starts.len(), window], values));
    let names = ["input_ids", "attention_mask", "token_type_ids", "position_ids"];
    let inputs: NamedArrays = names.into_iter().map(String::from).zip(arrays.by_ref()).collect();
    let dataset = Dataset::new(source.path, inputs, None, None)?.with_identities(identities)?;
    match arrays.next() {
        Some(targets) => dataset.with_targets(targets),
        None => Ok(dataset),
    }
}

/// Where windows begin: each predicts a token that none before it does.
fn starts(tokens: usize, shape: Shape) -> Vec<usize> {
    let Shape { window, stride } = shape;
    let mut starts = vec![0];
    let mut start = stride;
    // The last token that was predicted lies before `start - stride + window`.
    while start - stride + window < tokens {
        // A window of one token predicts nothing.
        if tokens - start >= 2 {
            starts.push(start);
        }
        start += stride;
    }
    starts
}

fn identity(tokens: &[u32]) -> SampleDigest {
    let mut digest = Sha256::new();
    for id in tokens {
        digest.update(id.to_le_bytes());
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_in_a_window() {
        let starts = |tokens, window, stride| starts(tokens, Shape { window, stride });
        assert_eq!(starts(10, 4, 4), [0, 4, 8]);
        assert_eq!(starts(9, 4, 4), [0, 4]);
        assert_eq!(starts(8, 4, 4), [0, 4]);
        assert_eq!(starts(9, 4, 2), [0, 2, 4, 6]);
        assert_eq!(starts(8, 4, 2), [0, 2, 4]);
        assert_eq!(starts(3, 4, 1), [0]);
        assert_eq!(starts(5, 4, 1), [0, 1]);
    }
}
