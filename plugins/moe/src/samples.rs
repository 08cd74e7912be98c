//! Tokens of the calibration data, as layers see them.

use kmr_sdk::{Error, ErrorCode, Host, Result, RunRequest, model::Tensor};

/// Rows of a value, not more than wanted, from all over the data.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// Numbers of a row.
    pub width: usize,
    /// Row by row.
    pub values: Vec<f32>,
}

impl Rows {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.values.len() / self.width.max(1)
    }
}

/// Values that are held at a time, in numbers; more layers are run one after the other.
const MOST_HELD: usize = 64 << 20;

/// The last axis of each of `values` on up to `tokens` tokens of `samples` calibration samples. `widths` says how long
/// that axis is.
///
/// # Errors
/// If the model cannot be run, or a value is not what it should be.
pub fn rows(
    host: &Host<'_>,
    values: &[(String, usize)],
    samples: usize,
    tokens: usize,
    visit: &mut dyn FnMut(usize, Rows) -> Result<()>,
) -> Result<()> {
    let mut start = 0;
    while start < values.len() {
        let mut end = start;
        let mut held = 0_usize;
        while end < values.len() && (end == start || held.saturating_add(size(values, end, tokens)) <= MOST_HELD) {
            held = held.saturating_add(size(values, end, tokens));
            end += 1;
        }
        let found = run(host, &values[start..end], samples, tokens)?;
        for (at, rows) in (start..end).zip(found) {
            visit(at, rows)?;
        }
        start = end;
    }
    Ok(())
}

fn size(values: &[(String, usize)], at: usize, tokens: usize) -> usize {
    values[at].1.saturating_mul(tokens).saturating_mul(2)
}

fn run(host: &Host<'_>, values: &[(String, usize)], samples: usize, tokens: usize) -> Result<Vec<Rows>> {
    let mut outputs: Vec<String> = Vec::new();
    for (value, _) in values {
        if !outputs.contains(value) {
            outputs.push(value.clone());
        }
    }
    let request = RunRequest {
        outputs: outputs.clone(),
        limit: Some(samples),
        ..RunRequest::default()
    };
    let mut thinned: Vec<Thinned> = values.iter().map(|&(_, width)| Thinned::new(width, tokens)).collect();
    for batch in host.run(&request)? {
        let batch = batch?;
        for ((value, width), kept) in values.iter().zip(&mut thinned) {
            let position = outputs.iter().position(|output| output == value).unwrap_or(0);
            kept.add(numbers(value, batch.output(position)?, *width)?.as_ref());
        }
    }
    let kept = values.iter().zip(thinned).map(|((value, _), kept)| {
        let rows = kept.finish();
        if rows.count() == 0 {
            let message = "was observed on no token: the calibration data is empty";
            return Err(Error::invalid_request(message).at(format!("value `{value}`")));
        }
        Ok(rows)
    });
    kept.collect()
}

fn numbers<'t>(value: &str, tensor: &'t Tensor, width: usize) -> Result<std::borrow::Cow<'t, [f32]>> {
    let place = || format!("value `{value}`");
    if tensor.shape().last() != Some(&width) {
        let message = format!(
            "has shape {:?} at run time; its last axis should be {width}",
            tensor.shape()
        );
        return Err(Error::new(ErrorCode::SHAPE, message).at(place()));
    }
    let numbers = tensor.to_f32().map_err(|error| Error::from(error).at(place()))?;
    if numbers.iter().any(|number| !number.is_finite()) {
        return Err(Error::unsupported("is not finite on the calibration data").at(place()));
    }
    Ok(numbers)
}

/// Every so-and-so-many-th row: all at first, every other one whenever there are twice as many as wanted.
struct Thinned {
    rows: Rows,
    most: usize,
    stride: usize,
    seen: usize,
}

impl Thinned {
    fn new(width: usize, most: usize) -> Self {
        let rows = Rows {
            width,
            values: Vec::new(),
        };
        Self {
            rows,
            most,
            stride: 1,
            seen: 0,
        }
    }

    fn add(&mut self, numbers: &[f32]) {
        for row in numbers.chunks_exact(self.rows.width.max(1)) {
            if self.seen.is_multiple_of(self.stride) {
                self.rows.values.extend_from_slice(row);
                if self.rows.count() >= self.most.saturating_mul(2) {
                    self.thin();
                }
            }
            self.seen += 1;
        }
    }

    fn thin(&mut self) {
        let width = self.rows.width;
        let others = self.rows.values.chunks_exact(width).step_by(2);
        self.rows.values = others.flatten().copied().collect();
        self.stride *= 2;
    }

    fn finish(mut self) -> Rows {
        if self.rows.count() > self.most {
            // Fewer than twice as many: the rows that are nearest to equal steps.
            let (count, most, width) = (self.rows.count(), self.most, self.rows.width);
            let rows = (0..most).map(|at| at * count / most);
            let values = rows
                .flat_map(|row| self.rows.values[row * width..][..width].to_vec())
                .collect();
            self.rows.values = values;
        }
        self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_from_all_over() {
        for (count, most) in [(3, 5), (5, 5), (7, 5), (10, 5), (1000, 7)] {
            let mut kept = Thinned::new(1, most);
            (0..count).for_each(|at| kept.add(&[at as f32]));
            let rows = kept.finish();
            assert_eq!(rows.count(), count.min(most), "{count}");
            assert_eq!(rows.values[0], 0.0);
            assert!(rows.values.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(rows.values[rows.count() - 1] >= count as f32 * 0.7 - 1.0);
        }
    }
}
