//! The tensors of a changed model by the names that their folder gives them.

use std::collections::{BTreeMap, HashSet};

use kmr_formats::NamedArrays;
use kmr_model::{DType, Model, Tensor};

use crate::config::Config;
use crate::error::shown;
use crate::network::STORED;
use crate::{ErrorKind, HuggingFaceError};

/// What a changed model's folder will hold.
pub(super) struct Gathered {
    /// All tensors by their new names, in the order of the old files.
    pub tensors: NamedArrays,
    /// The layers that are left, by their old numbers.
    pub layers: Vec<usize>,
    /// Tensors that are no part of the model, by their new names.
    unused: HashSet<String>,
}

impl Gathered {
    /// Gathers what is left in `model` of the tensors that `original` was made of.
    pub fn new(
        model: &Model,
        original: &Model,
        config: &Config,
        tensors: &NamedArrays,
    ) -> Result<Self, HuggingFaceError> {
        let initializers = &original.graph.initializers;
        let is_used =
            |name: &str| initializers.contains_key(name) || initializers.contains_key(&format!("{name}{STORED}"));
        let values = Values::of(model);
        // For every layer how many of its tensors are there, and one that is not.
        let mut layers: BTreeMap<usize, (usize, Option<&str>)> = BTreeMap::new();
        let mut found = BTreeMap::new();
        for name in tensors.keys().filter(|name| is_used(name)) {
            let tensor = values.tensor(name)?;
            let missing = tensor.is_none();
            match config.layer_of(name) {
                Some(layer) if missing => {
                    layers.entry(layer).or_default().1.get_or_insert(name);
                }
                Some(layer) => layers.entry(layer).or_default().0 += 1,
                None if missing => {
                    let message = format!("tensor `{}` is gone", shown(name));
                    return Err(inexpressible(message));
                }
                None => {}
            }
            found.extend(tensor.map(|tensor| (name.as_str(), tensor)));
        }
        let halved = layers.iter().find(|(_, (there, gone))| *there > 0 && gone.is_some());
        if let Some((layer, (_, Some(gone)))) = halved {
            let message = format!("layer {layer} is there in part: tensor `{}` is gone", shown(gone));
            return Err(inexpressible(message));
        }
        let layers: Vec<usize> = layers
            .into_iter()
            .filter(|(_, (there, _))| *there > 0)
            .map(|(layer, _)| layer)
            .collect();
        let mut gathered = Self {
            tensors: NamedArrays::new(),
            layers,
            unused: HashSet::new(),
        };
        for (name, tensor) in tensors {
            let renamed = match config.layer_of(name) {
                None => name.clone(),
                Some(layer) => match gathered.layers.binary_search(&layer) {
                    Ok(place) => config.in_layer(name, layer, place),
                    Err(_) => continue,
                },
            };
            match found.remove(name.as_str()) {
                Some(tensor) => gathered.tensors.insert(renamed, tensor),
                None => {
                    gathered.unused.insert(renamed.clone());
                    gathered.tensors.insert(renamed, tensor.clone())
                }
            };
        }
        Ok(gathered)
    }

    /// The shape of a tensor that the model has.
    pub fn shape(&self, name: &str) -> Result<&[usize], HuggingFaceError> {
        let tensor = self.tensors.get(name);
        tensor
            .map(Tensor::shape)
            .ok_or_else(|| inexpressible(format!("tensor `{}` is gone", shown(name))))
    }

    /// The element type that all weights of the model have; float32 where there are several.
    pub fn dtype(&self) -> DType {
        let used = self.tensors.iter().filter(|(name, _)| !self.unused.contains(*name));
        let mut types = used.map(|(_, tensor)| tensor.dtype());
        let first = types.next().unwrap_or(DType::FLOAT);
        if types.all(|dtype| dtype == first) {
            first
        } else {
            DType::FLOAT
        }
    }

    /// Leaves out tensors that are no part of the model and had a size that changed.
    pub fn drop_what_does_not_fit(&mut self, old: &Config, new: &Config, warnings: &mut Vec<String>) {
        let sizes = [(old.vocabulary(), new.vocabulary()), (old.hidden(), new.hidden())];
        let gone: Vec<usize> = sizes
            .iter()
            .filter(|(old, new)| old != new)
            .map(|(old, _)| *old)
            .collect();
        let unused = std::mem::take(&mut self.unused);
        self.tensors.retain(|name, tensor| {
            let stays = !unused.contains(name) || !tensor.shape().iter().any(|size| gone.contains(size));
            if !stays {
                warnings.push(format!("left out `{}`: it does not fit the new sizes", shown(name)));
            }
            stays
        });
    }
}

/// The float values of a model by name, as far as they are stored.
struct Values<'m> {
    model: &'m Model,
    read: HashSet<&'m str>,
}

impl<'m> Values<'m> {
    fn of(model: &'m Model) -> Self {
        let nodes = model.graph.nodes.iter();
        let read = nodes
            .flat_map(|node| node.inputs().iter().map(String::as_str))
            .collect();
        Self { model, read }
    }

    /// The tensor behind the value `name`; `None` if nothing reads it any more.
    fn tensor(&self, name: &str) -> Result<Option<Tensor>, HuggingFaceError> {
        if !self.read.contains(name) {
            return Ok(None);
        }
        let graph = &self.model.graph;
        if let Some(tensor) = graph.tensor(name) {
            return Ok(Some(Tensor::clone(tensor)));
        }
        let Some(node) = graph.node(name) else {
            return Ok(None);
        };
        let stored = node.input(0).and_then(|input| graph.tensor(input));
        match stored {
            Some(stored) if node.is("Cast") && matches!(stored.dtype(), DType::FLOAT16 | DType::BFLOAT16) => {
                Ok(Some(Tensor::clone(stored)))
            }
            _ => {
                let message = format!("tensor `{}` is made by nodes ({})", shown(name), node.op_type());
                Err(inexpressible(message))
            }
        }
    }
}

fn inexpressible(message: String) -> HuggingFaceError {
    HuggingFaceError::new(ErrorKind::Inexpressible, message)
        .help("write the model as ONNX instead; a folder of plain weights cannot say this")
}
