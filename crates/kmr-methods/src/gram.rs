//! The products of every two inputs of a layer, added up so that no digits are lost.

use kmr_kernels::Products;

/// A variance below this part of the square is rounding of float32.
const ROUNDING: f64 = 1e-10;
/// The inputs of one group of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    /// The mean of every column.
    pub means: Vec<f32>,
    /// The mean of xᵀx, columns × columns; where the inputs are centered, of what is left when the means are taken away,
    /// with zeros for columns that hardly vary.
    pub metric: Vec<f64>,
}

/// [`Inputs`] while they are added up, in the order of the rows.
#[derive(Clone, Debug)]
pub struct Gram {
    rows: u64,
    /// The first row. Products are those of differences from it: where a column hardly varies, products of the numbers
    /// themselves would leave nothing but rounding of its variance.
    origin: Vec<f32>,
    totals: Vec<f64>,
    products: Products,
}

impl Gram {
    /// Nothing of `columns` inputs yet.
    pub fn new(columns: usize) -> Self {
        Self {
            rows: 0,
            origin: Vec::new(),
            totals: vec![0.0; columns],
            products: Products::new(columns),
        }
    }

    /// How many inputs there are.
    pub fn columns(&self) -> usize {
        self.totals.len()
    }

    /// Adds one row.
    ///
    /// # Panics
    /// If it has fewer numbers than there are columns.
    pub fn add(&mut self, row: &[f32]) {
        let row = &row[..self.columns()];
        if self.origin.is_empty() {
            self.origin = row.to_vec();
        }
        let (origin, totals) = (&self.origin, &mut self.totals);
        self.products.add(|differences| {
            let pairs = row.iter().zip(origin);
            for ((difference, (value, origin)), total) in differences.iter_mut().zip(pairs).zip(totals) {
                *difference = value - origin;
                *total += f64::from(*difference);
            }
        });
        self.rows += 1;
    }

    /// What has been added up; `centered` takes the means away.
    pub fn finished(mut self, centered: bool) -> Inputs {
        let columns = self.columns();
        self.origin.resize(columns, 0.0);
        let count = self.rows.max(1) as f64;
        let shifts: Vec<f64> = self.totals.iter().map(|total| total / count).collect();
        let origins: Vec<f64> = self.origin.iter().copied().map(f64::from).collect();
        let mut metric = self.products.finished();
        let varies: Vec<bool> = (0..columns)
            .map(|at| {
                let square = metric[at * columns + at] / count;
                square - shifts[at] * shifts[at] > ROUNDING * (square + origins[at] * origins[at])
            })
            .collect();
        for (row, values) in metric.chunks_mut(columns.max(1)).enumerate() {
            let (shift, origin) = (shifts[row], origins[row]);
            for (column, value) in values.iter_mut().enumerate() {
                let product = *value / count;
                *value = match centered {
                    true if varies[row] && varies[column] => product - shift * shifts[column],
                    true => 0.0,
                    false => product + (origin * shifts[column] + shift * origins[column]) + origin * origins[column],
                };
            }
        }
        let means = origins.iter().zip(&shifts);
        Inputs {
            means: means.map(|(origin, shift)| (origin + shift) as f32).collect(),
            metric,
        }
    }
}

/// Whether the row at `position` is among those taken where about one in `stride` is, by a fixed pattern without a
/// period: rows of an image that a fixed step takes could all lie in one of its columns.
pub fn is_taken(position: u64, stride: u64) -> bool {
    spread(position) < u64::MAX / stride.max(1)
}

/// A number that looks random for each position (the finalizer of SplitMix64).
fn spread(position: u64) -> u64 {
    let mut mixed = position.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn moments_are_those_of_the_rows(
            columns in 1_usize..6, rows in prop::collection::vec(prop::collection::vec(-4_f32..4.0, 6), 1..150),
        ) {
            let mut gram = Gram::new(columns);
            rows.iter().for_each(|row| gram.add(&row[..columns]));
            let found = gram.finished(false);
            for (at, found) in found.metric.iter().enumerate() {
                let products = rows.iter().map(|row| f64::from(row[at / columns]) * f64::from(row[at % columns]));
                let expected = products.sum::<f64>() / rows.len() as f64;
                prop_assert!((found - expected).abs() < 1e-4, "{found} {expected}");
            }
        }
    }

    #[test]
    fn one_row_in_so_many_is_taken() {
        let taken = (0..100_000).filter(|&position| is_taken(position, 7)).count();
        assert!((14_000..14_600).contains(&taken), "{taken}");
        assert!((0..100).all(|position| is_taken(position, 1)));
    }
}
