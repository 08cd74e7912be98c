//! One vector for a whole text, as sentence-transformers makes it ("Sentence-BERT", arXiv 1908.10084).

use std::path::Path;

use kmr_model::{DType, Tensor};
use serde_json::Value;

use crate::config::json::Object;
use crate::error::shown;
use crate::folder::{inside, read_json, read_object};
use crate::network::Network;
use crate::tokens::Tokens;
use crate::{ErrorKind, HuggingFaceError};

const MODULES: &str = "modules.json";

/// How the vectors of a text's tokens become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pooling {
    /// What is put side by side, at least one, in the order of sentence-transformers: as [`Pool`] lists them.
    pub pools: Vec<Pool>,
    /// Whether the result is divided by its length.
    pub normalize: bool,
}

/// One way to make one vector of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pool {
    /// The first token's.
    First,
    /// The greatest of each number.
    Max,
    /// The mean over tokens that are no padding.
    Mean,
    /// Their sum, divided by the root of their count.
    RootMean,
}

/// Keys of a pooling's configuration, and values of its newer `pooling_mode`.
const KNOWN: [(&str, &str, Pool); 4] = [
    ("pooling_mode_cls_token", "cls", Pool::First),
    ("pooling_mode_max_tokens", "max", Pool::Max),
    ("pooling_mode_mean_tokens", "mean", Pool::Mean),
    (
        "pooling_mode_mean_sqrt_len_tokens",
        "mean_sqrt_len_tokens",
        Pool::RootMean,
    ),
];

impl Pooling {
    /// Reads `modules.json` and what it names; `None` for a folder without one.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>, HuggingFaceError> {
        let path = folder.join(MODULES);
        if !path.exists() {
            return Ok(None);
        }
        let mut pooling: Option<Self> = None;
        for (kind, place) in modules(&path)? {
            let name = kind.rsplit('.').next().unwrap_or(&kind);
            let refuse = |message: String| {
                Err(HuggingFaceError::new(ErrorKind::Unknown, message)
                    .file(&path)
                    .help("known are a Transformer, a Pooling, and a Normalize, in this order"))
            };
            match (name, &mut pooling) {
                ("Transformer", None) if place.is_empty() => {}
                ("Pooling", None) => {
                    let Some(own) = inside(folder, &place) else {
                        return refuse(format!("module `{}` lies outside of the folder", shown(&kind)));
                    };
                    pooling = Some(Self::read_pools(&own.join("config.json"))?);
                }
                ("Normalize", Some(pooling)) => pooling.normalize = true,
                _ => return refuse(format!("module `{}` at `{}` is not known", shown(&kind), shown(&place))),
            }
        }
        Ok(pooling)
    }

    fn read_pools(path: &Path) -> Result<Self, HuggingFaceError> {
        let map = read_object(path)?;
        let config = Object::new(&map);
        let read = || -> Result<Vec<Pool>, HuggingFaceError> {
            if let Some(mode) = config.text("pooling_mode")? {
                return match KNOWN.iter().find(|(_, known, _)| *known == mode) {
                    Some(&(_, _, pool)) => Ok(vec![pool]),
                    None => Err(config.unknown("pooling_mode", mode, &KNOWN.map(|(_, known, _)| known))),
                };
            }
            let mut pools = Vec::new();
            for key in config.keys().filter(|key| key.starts_with("pooling_mode_")) {
                if config.flag(key)?.unwrap_or(false) {
                    match KNOWN.iter().find(|(known, _, _)| known == key) {
                        Some(&(_, _, pool)) => pools.push(pool),
                        None => return Err(config.unknown(key, "true", &KNOWN.map(|(known, _, _)| known))),
                    }
                }
            }
            pools.sort();
            match pools.is_empty() {
                true => Err(config.error("pooling_mode", "names no way to pool")),
                false => Ok(pools),
            }
        };
        let pools = read().map_err(|error| error.file(path))?;
        Ok(Self {
            pools,
            normalize: false,
        })
    }

    /// How many times as wide as a token's vector the result is.
    fn parts(&self) -> usize {
        self.pools.len()
    }

    /// Adds the output `sentence_embedding`, float32 [batch, width · pools], of `states`, [batch, sequence, width].
    pub(crate) fn write(&self, network: &mut Network, tokens: &Tokens, states: &str, width: usize) {
        let pools: Vec<String> = self
            .pools
            .iter()
            .map(|pool| pool.write(network, tokens, states))
            .collect();
        let pools: Vec<&str> = pools.iter().map(String::as_str).collect();
        let (last, output) = (network.integers("last_axis", &[-1]), "sentence_embedding");
        let joined = match pools[..] {
            [one] => one.to_owned(),
            _ => network.with("Concat", &pools, "pooling.joined", |node| node.with_int("axis", -1)),
        };
        if self.normalize {
            let least = network.scalar("pooling.least_length", 1e-12);
            let length = network.op("ReduceL2", &[&joined, &last], "pooling.length");
            let length = network.op("Max", &[&length, &least], "pooling.divisor");
            network.op("Div", &[&joined, &length], output);
        } else {
            network.op("Identity", &[&joined], output);
        }
        network.output(output, &["batch"], width * self.parts());
    }
}

impl Pool {
    fn write(self, network: &mut Network, tokens: &Tokens, states: &str) -> String {
        let places = network.integers("pooling.places", &[1]);
        let last = network.integers("last_axis", &[-1]);
        let without_axis = |node: kmr_model::Node| node.with_int("keepdims", 0);
        match self {
            Self::First => {
                let zero = network.constant("zero", Tensor::scalar(0_i64));
                network.with("Gather", &[states, &zero], "pooling.first", |node| {
                    node.with_int("axis", 1)
                })
            }
            Self::Max => {
                let tokens = cast(network, &tokens.mask, DType::BOOL, "pooling.tokens");
                let tokens = network.op("Unsqueeze", &[&tokens, &last], "pooling.visible");
                let least = network.scalar("pooling.least", -1e9);
                let seen = network.op("Where", &[&tokens, states, &least], "pooling.seen");
                network.with("ReduceMax", &[&seen, &places], "pooling.max", without_axis)
            }
            Self::Mean | Self::RootMean => {
                let name = |part: &str| match self {
                    Self::Mean => format!("pooling.mean.{part}"),
                    _ => format!("pooling.root_mean.{part}"),
                };
                let mask = cast(network, &tokens.mask, DType::FLOAT, &name("mask"));
                let count = network.op("ReduceSum", &[&mask, &places], &name("count"));
                let least = network.scalar("pooling.least_count", 1e-9);
                let mut count = network.op("Max", &[&count, &least], &name("tokens"));
                if self == Self::RootMean {
                    count = network.op("Sqrt", &[&count], &name("root"));
                }
                let mask = network.op("Unsqueeze", &[&mask, &last], &name("weights"));
                let seen = network.op("Mul", &[states, &mask], &name("seen"));
                let sum = network.with("ReduceSum", &[&seen, &places], &name("sum"), without_axis);
                network.op("Div", &[&sum, &count], &name("vector"))
            }
        }
    }
}

fn cast(network: &mut Network, x: &str, to: DType, name: &str) -> String {
    network.with("Cast", &[x], name, |node| node.with_int("to", to.number().into()))
}

/// The modules that `modules.json` lists: type and path of each.
fn modules(path: &Path) -> Result<Vec<(String, String)>, HuggingFaceError> {
    let malformed = |message: String| {
        HuggingFaceError::new(ErrorKind::Malformed, message)
            .file(path)
            .help("take the `modules.json` that sentence-transformers saved")
    };
    let list: Vec<Value> = serde_json::from_slice(&read_json(path)?)
        .map_err(|cause| malformed(format!("is no list of modules: {cause}")))?;
    let module = |entry: &Value| {
        let text = |key: &str| entry.get(key)?.as_str().map(str::to_owned);
        Some((text("type")?, text("path")?))
    };
    list.iter()
        .map(|entry| module(entry).ok_or_else(|| malformed("has a module without `type` or `path`".into())))
        .collect()
}
