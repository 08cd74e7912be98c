//! Routed experts ("Outrageously Large Neural Networks", arXiv 1701.06538) in the place of feed-forward networks.

use kmr_model::experts::{self, Choice, FeedForward, Linear, RoutedExperts, Router, SharedExpert};

use super::DecoderConfig;
use crate::HuggingFaceError;
use crate::config::json::Object;
use crate::network::Network;

/// The experts of a decoder; the graph computes only those that tokens are given to ([`kmr_model::experts`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpertsConfig {
    /// Whose names their tensors have.
    pub names: ExpertNames,
    /// For each layer whether it has experts.
    pub layers: Vec<bool>,
    /// How many there are in a layer.
    pub count: usize,
    /// How many a token is given to.
    pub top_k: usize,
    /// Neurons of an expert.
    pub intermediate: usize,
    /// Whether the shares of the chosen ones are divided by their sum.
    pub renormalize: bool,
    /// Neurons of the expert that sees every token, where there is one.
    pub shared: Option<usize>,
}

/// The names that the tensors of experts have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertNames {
    /// `block_sparse_moe.experts.0.w1`, `w3`, `w2`.
    Mixtral,
    /// `mlp.experts.0.gate_proj`, `up_proj`, `down_proj`.
    Qwen,
}

impl ExpertNames {
    /// The module of a layer's experts.
    fn module(self) -> &'static str {
        match self {
            Self::Mixtral => "block_sparse_moe",
            Self::Qwen => "mlp",
        }
    }

    /// An expert's gate, its way up and its way down.
    fn products(self) -> [&'static str; 3] {
        match self {
            Self::Mixtral => ["w1", "w3", "w2"],
            Self::Qwen => ["gate_proj", "up_proj", "down_proj"],
        }
    }
}

impl ExpertsConfig {
    /// Whether a layer has experts.
    pub fn in_layer(&self, layer: usize) -> bool {
        self.layers.get(layer).copied().unwrap_or(false)
    }

    pub(super) fn read(config: &Object, model_type: &str, layers: usize) -> Result<Option<Self>, HuggingFaceError> {
        let names = match model_type {
            "mixtral" => ExpertNames::Mixtral,
            "qwen2_moe" | "qwen3_moe" => ExpertNames::Qwen,
            _ => return Ok(None),
        };
        // Written as `num_experts` before transformers 5.
        let count = match config.count("num_local_experts")? {
            Some(_) => config.size("num_local_experts")?,
            None => config.size("num_experts")?,
        };
        let top_k = config.size("num_experts_per_tok")?;
        if top_k > count {
            let message = format!("is {top_k}, and there are {count} experts");
            return Err(config.error("num_experts_per_tok", message));
        }
        let mixtral = names == ExpertNames::Mixtral;
        let step = if mixtral {
            1
        } else {
            config.size_or("decoder_sparse_step", 1)?
        };
        let dense = if mixtral {
            None
        } else {
            config.counts("mlp_only_layers")?
        };
        let dense = dense.unwrap_or_default();
        Ok(Some(Self {
            names,
            layers: (0..layers)
                .map(|layer| !dense.contains(&layer) && (layer + 1).is_multiple_of(step))
                .collect(),
            count,
            top_k,
            intermediate: config.size(if mixtral {
                "intermediate_size"
            } else {
                "moe_intermediate_size"
            })?,
            renormalize: mixtral || config.flag("norm_topk_prob")?.unwrap_or(false),
            shared: match model_type {
                "qwen2_moe" => Some(config.size("shared_expert_intermediate_size")?),
                _ => None,
            },
        }))
    }

    /// The modules of an expert's products in a layer.
    pub(crate) fn expert(&self, prefix: &str, expert: usize) -> [String; 3] {
        let module = self.names.module();
        self.names
            .products()
            .map(|product| format!("{prefix}{module}.experts.{expert}.{product}"))
    }

    /// The tensor that scores the experts of a layer.
    pub(crate) fn router(&self, prefix: &str) -> String {
        format!("{prefix}{}.gate.weight", self.names.module())
    }

    /// Rows of tokens through the experts of the layer with this prefix.
    pub(super) fn write(
        &self,
        network: &mut Network,
        config: &DecoderConfig,
        rows: &str,
        prefix: &str,
    ) -> Result<String, HuggingFaceError> {
        let hidden = config.hidden;
        let module = format!("{prefix}{}", self.names.module());
        let linear = |network: &mut Network, module: &str, shape: [usize; 2]| -> Result<Linear, HuggingFaceError> {
            let weight = network.parameter(&format!("{module}.weight"), &shape)?;
            Ok(Linear::outputs_first(&weight, None))
        };
        let feed_forward = |network: &mut Network, [gate, up, down]: &[String; 3], inner: usize| {
            Ok::<_, HuggingFaceError>(FeedForward {
                gate: Some(linear(network, gate, [inner, hidden])?),
                up: linear(network, up, [inner, hidden])?,
                down: linear(network, down, [hidden, inner])?,
                activation: config.activation,
            })
        };
        let mut made = Vec::new();
        for expert in 0..self.count {
            made.push(feed_forward(network, &self.expert(prefix, expert), self.intermediate)?);
        }
        let shared = match self.shared {
            None => None,
            Some(inner) => {
                let names = ["gate_proj", "up_proj", "down_proj"].map(|part| format!("{module}.shared_expert.{part}"));
                let gate = format!("{module}.shared_expert_gate");
                Some(SharedExpert {
                    network: feed_forward(network, &names, inner)?,
                    gate: Some(linear(network, &gate, [1, hidden])?),
                })
            }
        };
        let output = format!("{module}.output");
        let routed = RoutedExperts {
            input: rows.to_owned(),
            output: output.clone(),
            router: Router {
                scores: linear(network, &format!("{module}.gate"), [self.count, hidden])?,
                choice: Choice::SoftmaxThenTopK {
                    renormalize: self.renormalize,
                },
                top_k: self.top_k,
            },
            experts: made,
            shared,
        };
        network.append(|build| experts::write(build, &routed, hidden, &module))?;
        Ok(output)
    }
}
