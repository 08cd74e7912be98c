//! Weights as integers.

use crate::{Granularity, Grid};

/// A quantized matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// Output channels.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Who shares a scale.
    pub granularity: Granularity,
    /// The codes there are.
    pub grid: Grid,
    /// `rows` × `columns` codes of the grid, row by row.
    pub codes: Vec<i16>,
    /// As many as [`Granularity::count`] says; positive, normal numbers.
    pub scales: Vec<f32>,
    /// One for each scale; 0 for a symmetric grid.
    pub zero_points: Vec<i32>,
}

impl Quantized {
    /// The real numbers that the codes are worth, as ONNX's DequantizeLinear has them: the exact
    /// difference of code and zero point, times the scale in float32.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.codes.len()];
        for (index, (&scale, &zero_point)) in self.scales.iter().zip(&self.zero_points).enumerate() {
            let members = self.granularity.members(index, self.rows, self.columns);
            for (value, &code) in values[members.clone()].iter_mut().zip(&self.codes[members]) {
                *value = (i32::from(code) - zero_point) as f32 * scale;
            }
        }
        values
    }

    /// The codes counted from the grid's lowest: what [`pack`](crate::pack::pack) takes.
    pub fn offset_codes(&self) -> Vec<u8> {
        self.codes.iter().map(|code| (code - self.grid.low()) as u8).collect()
    }
}
