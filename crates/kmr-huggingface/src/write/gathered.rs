//! The tensors of a changed model by the names that their folder gives them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use kmr_formats::NamedArrays;
use kmr_model::{DType, Graph, Model, Tensor};

use super::integers::{Finder, Made, folded};
use crate::config::Config;
use crate::error::shown;
use crate::network::STORED;
use crate::{ErrorKind, HuggingFaceError};

/// What a changed model's folder will hold.
pub(super) struct Gathered {
    /// All tensors by their new names, in the order of the old files; those that are made of codes as float32.
    pub tensors: NamedArrays,
    /// Those that are made of codes, by their new names.
    pub made: HashMap<String, Made>,
    /// The model with tensors in the place of what makes weights of codes.
    pub folded: Graph,
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
        refuse_quantized_activations(&model.graph)?;
        let finder = Finder::new(&model.graph);
        let used = tensors.keys().filter(|name| is_used(name));
        let mut made: HashMap<String, Made> = used
            .filter_map(|name| Some((name.clone(), finder.find(name)?)))
            .collect();
        let folded = folded(&model.graph, &made);
        let values = Values::of(&folded);
        if !tensors
            .keys()
            .any(|name| is_used(name) && values.read.contains(name.as_str()))
        {
            let message = "no tensor of the model has a name that it had where the model came from";
            return Err(HuggingFaceError::new(ErrorKind::Inexpressible, message).help(
                "give the folder or file that it came from; names are kept with `names = \"keep\"` under `[output]`",
            ));
        }
        let mut parts: BTreeMap<(usize, Option<usize>), Part> = BTreeMap::new();
        let mut found = BTreeMap::new();
        for name in tensors.keys().filter(|name| is_used(name)) {
            let tensor = values.tensor(name)?;
            match config.layer_of(name) {
                Some(layer) => {
                    let expert = config.expert_of(name).map(|(_, expert, _)| expert);
                    parts.entry((layer, expert)).or_default().count(name, tensor.is_some());
                }
                None if tensor.is_none() => return Err(inexpressible(format!("tensor `{}` is gone", shown(name)))),
                None => {}
            }
            found.extend(tensor.map(|tensor| (name.as_str(), tensor)));
        }
        let layers: BTreeSet<usize> = parts
            .iter()
            .filter(|(_, part)| part.is_there)
            .map(|((layer, _), _)| *layer)
            .collect();
        for ((layer, expert), part) in parts.iter().filter(|((layer, _), _)| layers.contains(layer)) {
            match part.gone {
                // An expert may go as a whole.
                Some(gone) if part.is_there || expert.is_none() => {
                    let message = format!("layer {layer} is there in part: tensor `{}` is gone", shown(gone));
                    return Err(inexpressible(message));
                }
                _ => {}
            }
        }
        let left = |layer: usize| {
            let of_layer = parts.range((layer, Some(0))..=(layer, Some(usize::MAX)));
            of_layer
                .filter(|(_, part)| part.is_there)
                .filter_map(|((_, expert), _)| *expert)
        };
        let layers: Vec<usize> = layers.into_iter().collect();
        let mut gathered = Self {
            tensors: NamedArrays::new(),
            made: HashMap::new(),
            folded: Graph::default(),
            layers,
            unused: HashSet::new(),
        };
        for (name, tensor) in tensors {
            let mut renamed = name.clone();
            if let Some(layer) = config.layer_of(name) {
                let Ok(place) = gathered.layers.binary_search(&layer) else {
                    continue;
                };
                if let Some((before, expert, after)) = config.expert_of(name) {
                    let Some(place) = left(layer).position(|other| other == expert) else {
                        continue;
                    };
                    renamed = format!("{before}{place}.{after}");
                }
                renamed = config.in_layer(&renamed, layer, place);
            }
            if let Some(made) = made.remove(name) {
                gathered.made.insert(renamed.clone(), made);
            }
            match found.remove(name.as_str()) {
                Some(tensor) => gathered.tensors.insert(renamed, tensor),
                None => {
                    gathered.unused.insert(renamed.clone());
                    gathered.tensors.insert(renamed, tensor.clone())
                }
            };
        }
        gathered.folded = folded;
        Ok(gathered)
    }

    /// The shape of a tensor that the model has.
    pub fn shape(&self, name: &str) -> Result<&[usize], HuggingFaceError> {
        let tensor = self.tensors.get(name);
        tensor
            .map(Tensor::shape)
            .ok_or_else(|| inexpressible(format!("tensor `{}` is gone", shown(name))))
    }

    /// The element type that all weights of the model have that are no codes; float32 where there are several.
    pub fn dtype(&self) -> DType {
        let plain = |name: &str| !self.unused.contains(name) && !self.made.contains_key(name);
        let used = self.tensors.iter().filter(|(name, _)| plain(name));
        let mut types = used.map(|(_, tensor)| tensor.dtype());
        let first = types.next().unwrap_or(DType::FLOAT);
        if types.all(|dtype| dtype == first) {
            first
        } else {
            DType::FLOAT
        }
    }

    /// Whether a tensor is no part of the model.
    pub fn is_unused(&self, name: &str) -> bool {
        self.unused.contains(name)
    }

    /// Leaves out tensors that are no part of the model and had a size that changed.
    pub fn drop_what_does_not_fit(&mut self, old: &Config, new: &Config, warnings: &mut Vec<String>) {
        let sizes = [(old.vocabulary(), new.vocabulary()), (old.hidden(), new.hidden())];
        let gone: Vec<usize> = sizes
            .iter()
            .filter(|(old, new)| old != new)
            .map(|(old, _)| *old)
            .collect();
        let unused = &self.unused;
        self.tensors.retain(|name, tensor| {
            let stays = !unused.contains(name) || !tensor.shape().iter().any(|size| gone.contains(size));
            if !stays {
                warnings.push(format!("left out `{}`: it does not fit the new sizes", shown(name)));
            }
            stays
        });
    }
}

/// Tensors that can only go together: those of an expert, or of the rest of a layer.
#[derive(Default)]
struct Part<'n> {
    /// Whether one is there.
    is_there: bool,
    /// One that is not.
    gone: Option<&'n str>,
}

impl<'n> Part<'n> {
    fn count(&mut self, name: &'n str, is_there: bool) {
        if is_there {
            self.is_there = true;
        } else {
            self.gone.get_or_insert(name);
        }
    }
}

/// The float values of a model by name, as far as they are stored.
struct Values<'m> {
    graph: &'m Graph,
    read: HashSet<&'m str>,
}

impl<'m> Values<'m> {
    fn of(graph: &'m Graph) -> Self {
        let nodes = graph.nodes.iter();
        let read = nodes
            .flat_map(|node| node.inputs().iter().map(String::as_str))
            .collect();
        Self { graph, read }
    }

    /// The tensor behind the value `name`; `None` if nothing reads it any more.
    fn tensor(&self, name: &str) -> Result<Option<Tensor>, HuggingFaceError> {
        if !self.read.contains(name) {
            return Ok(None);
        }
        let graph = self.graph;
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

/// A model's products on integers are no folder's.
fn refuse_quantized_activations(graph: &Graph) -> Result<(), HuggingFaceError> {
    let quantizing = ["QuantizeLinear", "DynamicQuantizeLinear"];
    match graph
        .nodes
        .iter()
        .find(|node| quantizing.iter().any(|name| node.is(name)))
    {
        None => Ok(()),
        Some(node) => {
            let message = format!(
                "node `{}` ({}) makes integers of activations, which is not written but as ONNX",
                shown(node.label()),
                node.op_type()
            );
            Err(HuggingFaceError::new(ErrorKind::Inexpressible, message)
                .help("quantize weights alone (`activations = \"float\"`), or write the model as ONNX"))
        }
    }
}

fn inexpressible(message: String) -> HuggingFaceError {
    HuggingFaceError::new(ErrorKind::Inexpressible, message)
        .help("write the model as ONNX instead; a folder of plain weights cannot say this")
}
