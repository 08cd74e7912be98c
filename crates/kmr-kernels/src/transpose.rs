//! Transposition of small matrices.

/// A matrix to read: where it starts, and the floats from one row to the next.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub floats: &'a [f32],
    pub stride: usize,
    pub rows: usize,
    pub columns: usize,
}

/// Columns that are written together, so that their rows stay in the first-level cache.
const CHUNK: usize = 64;
/// Floats of a cache line.
const LINE: usize = 16;

/// Writes column `c` of `matrix` to `target[c * stride..]`.
pub(crate) fn transpose(matrix: Matrix<'_>, target: &mut [f32], stride: usize) {
    let Matrix {
        floats,
        stride: from,
        rows,
        columns,
    } = matrix;
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(floats.len() >= (rows - 1) * from + columns);
    assert!(target.len() >= (columns - 1) * stride + rows);
    let (whole_rows, whole_columns) = (rows / 4 * 4, columns / 4 * 4);
    for first in (0..whole_columns).step_by(CHUNK) {
        let chunk = first..(first + CHUNK).min(whole_columns);
        for row in (0..whole_rows).step_by(4) {
            prefetch(floats, (row..row + 4).map(|row| row * from + chunk.end));
            for column in chunk.clone().step_by(4) {
                // SAFETY: the block of four by four lies inside both matrices, which the assertions bound.
                unsafe {
                    let source = floats.as_ptr().add(row * from + column);
                    let block: [[f32; 4]; 4] =
                        std::array::from_fn(|index| source.add(index * from).cast::<[f32; 4]>().read_unaligned());
                    for (index, values) in turn(block).into_iter().enumerate() {
                        let to = target.as_mut_ptr().add((column + index) * stride + row);
                        to.cast::<[f32; 4]>().write_unaligned(values);
                    }
                }
            }
        }
        for row in whole_rows..rows {
            for column in chunk.clone() {
                target[column * stride + row] = floats[row * from + column];
            }
        }
    }
    for column in whole_columns..columns {
        for row in 0..rows {
            target[column * stride + row] = floats[row * from + column];
        }
    }
}

/// Asks for the next chunk, which begins at one index for each row; it need not exist.
#[inline(always)]
fn prefetch(floats: &[f32], starts: impl Iterator<Item = usize>) {
    for start in starts {
        for index in (start..start + CHUNK).step_by(LINE) {
            let address = floats.as_ptr().wrapping_add(index);
            #[cfg(target_arch = "x86_64")]
            // SAFETY: every x86-64 has SSE, and a prefetch accesses nothing.
            unsafe {
                use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T0>(address.cast());
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = address;
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn turn(block: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    use std::arch::x86_64::{__m128, _mm_movehl_ps, _mm_movelh_ps, _mm_unpackhi_ps, _mm_unpacklo_ps};
    // SAFETY: four floats and a register of four lanes are the same bytes, and every x86-64 has SSE.
    unsafe {
        let [a, b, c, d]: [__m128; 4] = std::mem::transmute(block);
        let (low, high) = (_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
        let (next_low, next_high) = (_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
        std::mem::transmute([
            _mm_movelh_ps(low, next_low),
            _mm_movehl_ps(next_low, low),
            _mm_movelh_ps(high, next_high),
            _mm_movehl_ps(next_high, high),
        ])
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn turn(block: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    std::array::from_fn(|column| std::array::from_fn(|row| block[row][column]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_become_rows() {
        let floats: Vec<f32> = (0..300).map(|i| i as f32).collect();
        for rows in 0..10 {
            for columns in 0..10 {
                let matrix = Matrix {
                    floats: &floats,
                    stride: 13,
                    rows,
                    columns,
                };
                let mut target = vec![-1.0; 200];
                transpose(matrix, &mut target, 11);
                for column in 0..columns {
                    for row in 0..rows {
                        assert_eq!(target[column * 11 + row], floats[row * 13 + column]);
                    }
                }
                let written = target.iter().filter(|&&value| value >= 0.0).count();
                assert_eq!(written, rows * columns);
            }
        }
    }
}
