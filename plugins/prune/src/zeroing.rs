//! Weights set to zero, and what that saves.

use kmr_sdk::{
    Applied, Host, Result,
    model::{Layout, Model, Patch, Tensor},
};

use crate::{
    storage::{element_width, store},
    weights::Weight,
};

/// Collects the weights that a rule sets to zero.
pub struct Zeroing<'m> {
    model: &'m Model,
    patch: Patch,
    applied: Applied,
    sparse: usize,
    dense: Vec<String>,
}

impl<'m> Zeroing<'m> {
    /// Nothing is set to zero yet.
    pub fn of(model: &'m Model) -> Self {
        Self {
            model,
            patch: Patch::new(),
            applied: Applied::default(),
            sparse: 0,
            dense: Vec::new(),
        }
    }

    /// Sets the elements at `positions` of `weight` to zero, and stores it in whichever layout is smaller.
    pub fn zero(&mut self, weight: &Weight, positions: impl IntoIterator<Item = usize>) -> Result<()> {
        let Some(tensor) = self.model.graph.tensor(&weight.tensor) else {
            return Ok(());
        };
        let Some(width) = element_width(tensor) else {
            return Ok(());
        };
        let mut bytes = tensor.bytes().to_vec();
        let mut zeroed = 0;
        for position in positions {
            let element = &mut bytes[position * width..(position + 1) * width];
            zeroed += usize::from(element.iter().any(|&byte| byte != 0));
            element.fill(0);
        }
        if zeroed > 0 {
            let after = Tensor::new(tensor.dtype(), tensor.shape().to_vec(), bytes.into())?;
            self.store(weight, tensor, after);
        }
        Ok(())
    }

    /// Gives `weight` other `values`, some of them zero, and stores it in whichever layout is smaller.
    pub fn replace(&mut self, weight: &Weight, values: Vec<f32>) -> Result<()> {
        if let Some(tensor) = self.model.graph.tensor(&weight.tensor) {
            self.store(weight, tensor, tensor.with_f32(values)?);
        }
        Ok(())
    }

    fn store(&mut self, weight: &Weight, before: &Tensor, after: Tensor) {
        let nonzero = [before, &after].map(|tensor| crate::storage::stored_count(tensor).unwrap_or(tensor.len()));
        self.applied
            .change(weight.label(), "nonzero weights", nonzero[0], nonzero[1]);
        match store(&mut self.patch, self.model, &weight.tensor, after) {
            Layout::Sparse => self.sparse += 1,
            Layout::Dense => self.dense.push(weight.label().to_owned()),
        }
    }

    /// Edits the candidate with what there is so far, so that it can be observed.
    ///
    /// # Errors
    /// If the host refuses the edits.
    pub fn edit(&mut self, host: &Host<'_>) -> Result<()> {
        let patch = std::mem::take(&mut self.patch);
        if !patch.edits.is_empty() {
            host.edit(&patch)?;
        }
        Ok(())
    }

    /// Edits the candidate, and says what was done; `complete` says that the values are those that they stay.
    ///
    /// # Errors
    /// If the host refuses the edits.
    pub fn finish(mut self, host: &Host<'_>, complete: bool) -> Result<Applied> {
        self.edit(host)?;
        if !self.dense.is_empty() {
            let named = self
                .dense
                .iter()
                .take(3)
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            let more = match self.dense.len().saturating_sub(3) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            self.applied.notes.push(format!(
                "stored zeros save no bytes in {named}{more}: dense storage writes them, and the sparse form, with 8 \
                 bytes of index for each nonzero value, would be larger"
            ));
        }
        if self.sparse > 0 {
            self.applied.notes.push(format!(
                "written in ONNX's sparse form, which is smaller: {} of {} tensors",
                self.sparse,
                self.sparse + self.dense.len()
            ));
        }
        self.applied.complete = complete;
        Ok(self.applied)
    }
}
