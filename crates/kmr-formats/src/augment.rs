//! Images that change a little from one pass to the next, so that training sees more of them than there are.

use kmr_model::{DType, Tensor};

use crate::shuffle::SplitMix64;

/// How images change. Rows are `[channels, height, width]`, or `[height, width]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Augmentation {
    /// The greatest shift along each axis, in pixels; zeros come in at the edge.
    pub shift: usize,
    /// Whether an image is mirrored left to right half of the time.
    pub flip: bool,
}

impl Augmentation {
    /// Changes each image of a batch by a stream of its own, which `seed` and its `places` name.
    ///
    /// # Errors
    /// If the batch is not float32 with a height and a width for each of `places`.
    pub fn apply(&self, batch: &Tensor, seed: u64, places: &[usize]) -> Result<Tensor, String> {
        let (count, height, width) = match *batch.shape() {
            [count, height, width] | [count, _, height, width] => (count, height, width),
            _ => return Err(format!("images have a height and a width; got {:?}", batch.shape())),
        };
        if batch.dtype() != DType::FLOAT || count != places.len() {
            return Err(format!(
                "expected {} float32 images; got {:?} of {}",
                places.len(),
                batch.shape(),
                batch.dtype()
            ));
        }
        let source = batch.values::<f32>().map_err(|error| error.to_string())?;
        let mut target = vec![0.0_f32; source.len()];
        let image = source.len().checked_div(count).unwrap_or(0);
        let plane = (height * width).max(1);
        for ((place, source), target) in places
            .iter()
            .zip(source.chunks_exact(image.max(1)))
            .zip(target.chunks_exact_mut(image.max(1)))
        {
            let change = self.draw(seed, *place);
            for (source, target) in source.chunks_exact(plane).zip(target.chunks_exact_mut(plane)) {
                change.copy(source, target, height, width);
            }
        }
        Ok(Tensor::from_vec(batch.shape().to_vec(), target))
    }

    fn draw(&self, seed: u64, place: usize) -> Change {
        let mut random = SplitMix64(seed ^ (place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // The first numbers of streams with neighboring seeds resemble each other.
        let mut random = SplitMix64(random.next());
        let range = 2 * self.shift as u64 + 1;
        let mut shift = || random.below(range) as isize - self.shift as isize;
        Change {
            down: shift(),
            right: shift(),
            mirrored: self.flip && random.below(2) == 1,
        }
    }
}

/// What happens to one image.
struct Change {
    down: isize,
    right: isize,
    mirrored: bool,
}

impl Change {
    fn copy(&self, source: &[f32], target: &mut [f32], height: usize, width: usize) {
        for row in 0..height {
            let Some(from) = row.checked_add_signed(-self.down).filter(|from| *from < height) else {
                continue;
            };
            let source = &source[from * width..][..width];
            for (column, value) in target[row * width..][..width].iter_mut().enumerate() {
                let Some(from) = column.checked_add_signed(-self.right).filter(|from| *from < width) else {
                    continue;
                };
                *value = source[if self.mirrored { width - 1 - from } else { from }];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Tensor {
        Tensor::from_vec(vec![1, 1, 2, 3], vec![1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0])
    }

    #[test]
    fn pixels_move_and_zeros_come_in() {
        let mut target = [0.0; 6];
        let change = Change {
            down: 1,
            right: -1,
            mirrored: false,
        };
        change.copy(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &mut target, 2, 3);
        assert_eq!(target, [0.0, 0.0, 0.0, 2.0, 3.0, 0.0]);
    }

    #[test]
    fn mirrored_pixels_change_sides() {
        let mut target = [0.0; 6];
        let change = Change {
            down: 0,
            right: 0,
            mirrored: true,
        };
        change.copy(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &mut target, 2, 3);
        assert_eq!(target, [3.0, 2.0, 1.0, 6.0, 5.0, 4.0]);
    }

    #[test]
    fn nothing_asked_changes_nothing() {
        let same = Augmentation::default().apply(&image(), 3, &[8]).unwrap();
        assert_eq!(same, image());
    }

    #[test]
    fn every_change_comes_about_as_often() {
        let augmentation = Augmentation { shift: 1, flip: true };
        let mut counts = std::collections::BTreeMap::new();
        for place in 0..18_000 {
            let change = augmentation.draw(5, place);
            *counts.entry((change.down, change.right, change.mirrored)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 18);
        // 1000 expected each; five standard deviations are 154.
        assert!(counts.values().all(|count| (846..1154).contains(count)), "{counts:?}");
    }

    #[test]
    fn an_image_changes_by_its_place_and_the_seed() {
        let augmentation = Augmentation { shift: 1, flip: true };
        let two = Tensor::from_vec(vec![2, 1, 2, 3], (0..12_u8).map(f32::from).collect());
        let both = augmentation.apply(&two, 1, &[4, 9]).unwrap();
        let second = Tensor::from_vec(vec![1, 1, 2, 3], (6..12_u8).map(f32::from).collect());
        let alone = augmentation.apply(&second, 1, &[9]).unwrap();
        assert_eq!(both.values::<f32>().unwrap()[6..], alone.values::<f32>().unwrap()[..]);
    }

    #[test]
    fn other_batches_are_refused() {
        let augmentation = Augmentation { shift: 1, flip: false };
        let row = Tensor::from_vec(vec![1, 4], vec![0.0_f32; 4]);
        assert!(augmentation.apply(&row, 0, &[0]).unwrap_err().contains("[1, 4]"));
        assert!(
            augmentation
                .apply(&image(), 0, &[0, 1])
                .unwrap_err()
                .contains("expected 2")
        );
    }
}
