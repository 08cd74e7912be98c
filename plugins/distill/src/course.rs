//! How many batches and steps a training has, and where it is.

/// The batches of a training, grouped into steps. A step never reaches into the next pass over the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// Batches in a pass over the data.
    pub pass: usize,
    /// Batches in all.
    pub batches: usize,
    /// Batches in a step.
    accumulate: usize,
}

impl Course {
    /// `epochs` passes of `pass` batches each, at least one batch.
    pub fn new(epochs: f64, pass: usize, accumulate: usize) -> Self {
        let batches = (epochs * pass as f64).round().max(1.0);
        Self {
            pass,
            batches: batches as usize,
            accumulate,
        }
    }

    /// Steps in all.
    pub fn steps(&self) -> usize {
        self.steps_before(self.batches)
    }

    /// The number of the step that batch `batch` belongs to: how many are done before it.
    pub fn step_of(&self, batch: usize) -> usize {
        batch / self.pass * self.pass.div_ceil(self.accumulate) + batch % self.pass / self.accumulate
    }

    /// How many steps `batches` batches take.
    fn steps_before(&self, batches: usize) -> usize {
        batches / self.pass * self.pass.div_ceil(self.accumulate) + (batches % self.pass).div_ceil(self.accumulate)
    }

    /// How many batches are in the step of batch `batch`.
    pub fn step_size(&self, batch: usize) -> usize {
        let begin = batch - batch % self.pass % self.accumulate;
        let pass_end = (batch / self.pass + 1) * self.pass;
        self.accumulate.min(pass_end - begin).min(self.batches - begin)
    }

    /// Whether batch `batch` is the last of its step.
    pub fn ends_step(&self, batch: usize) -> bool {
        let begin = batch - batch % self.pass % self.accumulate;
        batch + 1 == begin + self.step_size(batch)
    }

    /// Whether batch `batch` is the last of a pass.
    pub fn ends_pass(&self, batch: usize) -> bool {
        (batch + 1).is_multiple_of(self.pass)
    }

    /// What people call the place of batch `batch`.
    pub fn place(&self, batch: usize) -> String {
        format!("epoch {}, batch {}", batch / self.pass + 1, batch % self.pass + 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_of_an_epoch() {
        assert_eq!(Course::new(0.5, 10, 1).batches, 5);
        assert_eq!(Course::new(0.001, 10, 1).batches, 1);
        let course = Course::new(1.5, 10, 4);
        assert_eq!((course.batches, course.steps()), (15, 5));
        assert_eq!(course.place(12), "epoch 2, batch 3");
    }

    proptest! {
        #[test]
        fn steps_cover_all_batches_once(epochs in 0.0..4.0, pass in 1_usize..20, accumulate in 1_usize..9) {
            let course = Course::new(epochs, pass, accumulate);
            let mut steps = 0;
            let mut inside = 0;
            for batch in 0..course.batches {
                prop_assert_eq!(course.step_of(batch), steps);
                inside += 1;
                prop_assert!(course.step_size(batch) <= accumulate);
                if course.ends_step(batch) {
                    prop_assert_eq!(course.step_size(batch), inside);
                    inside = 0;
                    steps += 1;
                } else {
                    prop_assert!(!course.ends_pass(batch));
                }
            }
            prop_assert_eq!((inside, steps), (0, course.steps()));
        }
    }
}
