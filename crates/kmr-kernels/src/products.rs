//! Products of every two columns, for Gram matrices.

use rayon::prelude::*;

use crate::{LANES, Lanes, Lanewise, Panel};

/// Rows that are multiplied at once, where the sums are many: they come from memory and go back each time.
const ROWS: usize = 512;
/// Rows that are multiplied at once where few sums fit into the processor's cache; as many as make one part of the sums.
const FEW_ROWS: usize = 64;
/// Rows between one panel and the next, so that panels do not fight for the same lines of the cache.
const GAP: usize = 1;
/// Panels that are few.
const FEW_PANELS: usize = 8;

/// The sums of the products of the columns of one panel with those of another.
type Tile = [Lanes; LANES];

/// For every two columns, the sum of the products of their numbers in all rows. Products are added up in float32, 64 rows at
/// a time, and rounded alike everywhere.
#[derive(Clone, Debug)]
pub struct Products {
    lanewise: Lanewise,
    columns: usize,
    /// By panel, with itself and those behind it.
    sums: Vec<Vec<Tile>>,
    /// Rows that wait until there are enough of them to be multiplied, panel by panel; zeros beyond the last column.
    rows: Vec<Panel>,
    /// Rows that are enough.
    capacity: usize,
    held: usize,
    row: Vec<f32>,
}

impl Products {
    /// Nothing of `columns` columns yet.
    pub fn new(columns: usize) -> Self {
        let panels = columns.div_ceil(LANES);
        let capacity = if panels <= FEW_PANELS { FEW_ROWS } else { ROWS };
        Self {
            lanewise: Lanewise::detect(),
            columns,
            sums: (0..panels)
                .map(|first| vec![[[0.0; LANES]; LANES]; panels - first])
                .collect(),
            rows: vec![[0.0; LANES]; panels * (capacity + GAP)],
            capacity,
            held: 0,
            row: vec![0.0; columns],
        }
    }

    /// Adds the row that `write` writes.
    pub fn add(&mut self, write: impl FnOnce(&mut [f32])) {
        write(&mut self.row);
        let panels = self.rows.iter_mut().skip(self.held).step_by(self.capacity + GAP);
        for (panel, values) in panels.zip(self.row.chunks(LANES)) {
            panel[..values.len()].copy_from_slice(values);
        }
        self.held += 1;
        if self.held == self.capacity {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let panels: Vec<&[Panel]> = self
            .rows
            .chunks(self.capacity + GAP)
            .map(|panel| &panel[..self.held])
            .collect();
        let lanewise = self.lanewise;
        self.sums.par_iter_mut().enumerate().for_each(|(own, tiles)| {
            for (tile, others) in tiles.iter_mut().zip(&panels[own..]) {
                lanewise.add_products(panels[own], others, tile);
            }
        });
        self.held = 0;
    }

    /// The sums: columns × columns, row by row.
    pub fn finished(mut self) -> Vec<f64> {
        self.flush();
        let columns = self.columns;
        let mut sums = vec![0.0; columns * columns];
        for (row, tiles) in self.sums.iter().enumerate() {
            for (column, tile) in tiles.iter().enumerate() {
                let (row, column) = (row * LANES, (row + column) * LANES);
                for (row, lanes) in (row..columns).zip(tile) {
                    for (column, &lane) in (column..columns).zip(lanes) {
                        sums[row * columns + column] = lane;
                        sums[column * columns + row] = lane;
                    }
                }
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_those_of_every_two_columns(
            columns in prop_oneof![1_usize..37, 130_usize..150],
            rows in prop::collection::vec(prop::collection::vec(-4_f32..4.0, 150), 0..600),
        ) {
            let mut products = Products::new(columns);
            rows.iter().for_each(|row| products.add(|own| own.copy_from_slice(&row[..columns])));
            let sums = products.finished();
            for row in 0..columns {
                for column in 0..columns {
                    let each = rows.iter().map(|values| f64::from(values[row]) * f64::from(values[column]));
                    let (found, expected) = (sums[row * columns + column], each.sum::<f64>());
                    prop_assert!((found - expected).abs() < 1e-6 * 16.0 * (1 + rows.len()) as f64, "{} {}", found, expected);
                }
            }
        }
    }
}
