//! The models of a test, one of which is edited.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kmr_abi::{CANDIDATE, REFERENCE, abi_stable::std_types::RVec};
use kmr_sdk::{
    Error, Result,
    model::{Graph, Model, Patch, Tensor},
    wire::EditRequest,
};

use crate::Buffers;

/// A candidate, perhaps a reference, and the buffers that edits take.
pub struct Subject {
    candidate: Mutex<Model>,
    reference: Option<Model>,
    pub(crate) buffers: Buffers,
}

impl Subject {
    /// A candidate alone.
    pub fn new(candidate: Model) -> Self {
        Self {
            candidate: Mutex::new(candidate),
            reference: None,
            buffers: Buffers::default(),
        }
    }

    /// The same with a reference.
    #[must_use]
    pub fn beside(mut self, reference: Model) -> Self {
        self.reference = Some(reference);
        self
    }

    fn locked(&self) -> MutexGuard<'_, Model> {
        self.candidate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The candidate as it is now.
    pub fn candidate(&self) -> Model {
        self.locked().clone()
    }

    /// The reference, where there is one.
    pub fn reference(&self) -> Option<&Model> {
        self.reference.as_ref()
    }

    /// Puts another candidate there.
    pub fn replace(&self, candidate: Model) {
        *self.locked() = candidate;
    }

    /// The model of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn model(&self, name: &str) -> Result<Model> {
        match (name, &self.reference) {
            (CANDIDATE, _) => Ok(self.candidate()),
            (REFERENCE, Some(reference)) => Ok(reference.clone()),
            _ => Err(Error::not_found(format!("no model `{name}`"))),
        }
    }

    /// An initializer of a model.
    ///
    /// # Errors
    /// If there is none.
    pub fn tensor(&self, model: &str, name: &str) -> Result<Tensor> {
        let model = self.model(model)?;
        let tensor = model.graph.tensor(name);
        tensor
            .map(|tensor| (**tensor).clone())
            .ok_or_else(|| Error::not_found(format!("no tensor `{name}`")))
    }

    /// Changes the candidate.
    ///
    /// # Errors
    /// If the patch does not fit it.
    pub fn change(&self, patch: &Patch) -> Result<()> {
        let mut candidate = self.locked();
        let graph = applied(patch, &candidate.graph)?;
        *candidate = candidate.with_graph(graph);
        Ok(())
    }

    /// `graph` with the edits of a request, whose buffers are taken.
    ///
    /// # Errors
    /// If a buffer was not committed, or the edits do not fit.
    pub fn edited(&self, graph: &Graph, request: EditRequest, attachments: &[RVec<u8>]) -> Result<Graph> {
        applied(&self.buffers.patch(request, attachments)?, graph)
    }
}

fn applied(patch: &Patch, graph: &Graph) -> Result<Graph> {
    let applied = patch.apply(graph);
    applied.map_err(|error| Error::invalid_request(error.to_string()))
}
