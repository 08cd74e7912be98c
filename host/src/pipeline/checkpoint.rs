//! Where training goes on after it was cut off.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use kmr_abi::{ErrorCode, PluginError};
use kmr_compute::OptimizerState;
use kmr_formats::{Augmentation, Dataset, read_npz, write_npz};
use kmr_model::{Model, Tensor};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Where a session stood.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// The pass over the data.
    pub epoch: u64,
    /// Samples of it that were drawn.
    pub next: u64,
    /// Forward passes so far.
    pub passes: u64,
    /// What the plugin noted.
    pub note: String,
}

/// The checkpoint of one session: a file whose name says what was trained, on what, and how.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    file: PathBuf,
}

/// A checkpoint, read back.
type Read = (Place, BTreeMap<String, Tensor>, OptimizerState);

const PLACE: &str = "place";
const STEPS: &str = "steps";
const TENSOR: &str = "tensor/";
const FIRST: &str = "first/";
const SECOND: &str = "second/";

/// What makes two sessions the same.
pub struct Key<'a> {
    /// The rule, its settings and what it was asked to apply.
    pub settings: &'a str,
    /// The session's request.
    pub request: &'a str,
    /// The model, with the session's own edits.
    pub model: &'a Model,
    /// The samples.
    pub data: &'a Dataset,
    /// How they change.
    pub augmentation: Augmentation,
}

impl Key<'_> {
    /// The digest of it all, in hexadecimal.
    pub fn digest(&self) -> String {
        let mut digest = Sha256::new();
        let mut part = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        part(env!("CARGO_PKG_VERSION").as_bytes());
        part(self.settings.as_bytes());
        part(self.request.as_bytes());
        part(format!("{:?}", self.augmentation).as_bytes());
        part(&self.model.encode_without_tensors());
        for initializer in self.model.graph.initializers.values() {
            part(initializer.tensor.bytes());
        }
        for sample in self.data.digests() {
            part(&sample);
        }
        for label in self.data.labels().unwrap_or_default() {
            part(&label.to_le_bytes());
        }
        if let Some(targets) = self.data.targets() {
            part(targets.bytes());
        }
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Checkpoints {
    /// The checkpoint of what `key` names, in `folder`.
    pub fn new(folder: &Path, key: &str) -> Self {
        Self {
            file: folder.join(format!("{key}.npz")),
        }
    }

    /// Writes the checkpoint whole, in place of the one before.
    pub fn write(
        &self,
        place: &Place,
        tensors: &BTreeMap<String, Tensor>,
        optimizer: &OptimizerState,
    ) -> Result<(), PluginError> {
        let failed = |message: String| PluginError::new(ErrorCode::OTHER, message).at(self.file.display().to_string());
        if let Some(folder) = self.file.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|error| failed(format!("the checkpoint cannot be written: {error}")))?;
        }
        let place = serde_json::to_vec(place).map_err(|error| failed(error.to_string()))?;
        let mut arrays: Vec<(String, Tensor)> = vec![
            (PLACE.to_owned(), Tensor::from_vec(vec![place.len()], place)),
            (
                STEPS.to_owned(),
                Tensor::from_vec(vec![1], vec![optimizer.steps as i64]),
            ),
        ];
        let named = tensors.iter();
        arrays.extend(named.map(|(name, tensor)| (format!("{TENSOR}{name}"), tensor.clone())));
        for (prefix, state) in [(FIRST, &optimizer.first), (SECOND, &optimizer.second)] {
            let states = state.iter();
            arrays.extend(states.map(|(name, values)| {
                let tensor = Tensor::from_vec(vec![values.len()], values.clone());
                (format!("{prefix}{name}"), tensor)
            }));
        }
        let arrays = arrays.iter().map(|(name, tensor)| (name.as_str(), tensor));
        write_npz(&self.file, arrays).map_err(|error| failed(error.to_string()))
    }

    /// Reads the checkpoint, if there is one.
    pub fn read(&self) -> Result<Option<Read>, PluginError> {
        if !self.file.exists() {
            return Ok(None);
        }
        let failed = |message: String| {
            let message = format!("the checkpoint is damaged ({message}); remove it to train from the start");
            PluginError::new(ErrorCode::OTHER, message).at(self.file.display().to_string())
        };
        let arrays = read_npz(&self.file).map_err(|error| failed(error.to_string()))?;
        let place = arrays.get(PLACE).ok_or_else(|| failed("no place".to_owned()))?;
        let place: Place = serde_json::from_slice(place.bytes()).map_err(|error| failed(error.to_string()))?;
        let steps = arrays
            .get(STEPS)
            .and_then(|steps| steps.values::<i64>().ok()?.first().copied());
        let mut optimizer = OptimizerState {
            steps: steps
                .and_then(|steps| u64::try_from(steps).ok())
                .ok_or_else(|| failed("no steps".to_owned()))?,
            ..OptimizerState::default()
        };
        let mut tensors = BTreeMap::new();
        for (key, tensor) in &arrays {
            let values = || tensor.values::<f32>().map(|values| values.into_owned());
            if let Some(name) = key.strip_prefix(TENSOR) {
                tensors.insert(name.to_owned(), tensor.clone());
            } else if let Some(name) = key.strip_prefix(FIRST) {
                let values = values().map_err(|error| failed(error.to_string()))?;
                optimizer.first.insert(name.to_owned(), values);
            } else if let Some(name) = key.strip_prefix(SECOND) {
                let values = values().map_err(|error| failed(error.to_string()))?;
                optimizer.second.insert(name.to_owned(), values);
            }
        }
        Ok(Some((place, tensors, optimizer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(&folder.path().join("checkpoints"), "key");
        assert!(checkpoints.read().unwrap().is_none());
        let place = Place {
            epoch: 2,
            next: 300,
            passes: 7,
            note: "half".into(),
        };
        let tensors = BTreeMap::from([("layer/w".to_owned(), Tensor::from_vec(vec![1, 2], vec![1.0_f32, -0.5]))]);
        let optimizer = OptimizerState {
            steps: 9,
            first: BTreeMap::from([("layer/w".to_owned(), vec![0.25, 4.0])]),
            second: BTreeMap::new(),
        };
        checkpoints.write(&place, &tensors, &optimizer).unwrap();
        assert_eq!(checkpoints.read().unwrap().unwrap(), (place, tensors, optimizer));
    }

    #[test]
    fn damage_is_told_with_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(folder.path(), "key");
        std::fs::write(folder.path().join("key.npz"), b"no archive").unwrap();
        let error = checkpoints.read().unwrap_err();
        assert!(error.message.contains("remove it to train from the start"), "{error:?}");
        assert!(error.location.contains("key.npz"), "{error:?}");
    }
}
