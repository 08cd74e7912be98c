//! Routed experts ("Outrageously Large Neural Networks", arXiv 1701.06538) in standard ONNX operators.
//!
//! A router gives each token a score for each of E experts, the k best are chosen, and the token's result is the sum of
//! what these experts make of it, weighted by their scores. Only what is chosen is computed:
//!
//! ```text
//! tokens  = Reshape(input, [-1, d])                      T × d
//! scores  = Gemm(tokens, router)                         T × E, or MatMul, and Add
//! weights, chosen = TopK(Softmax(scores), k)             T × k each; see Choice
//! sum     = zeros of T × d, or the shared expert
//! for each expert e:
//!     where = NonZero(Equal(chosen, e))                  2 × n: token and place of each hit; n may be 0
//!     rows  = Gather(where, 0)
//!     made  = expert(Gather(tokens, rows)) · GatherND(weights, Transpose(where))
//!     sum   = ScatterND(sum, Unsqueeze(rows, 1), made, reduction = "add")
//! output  = Reshape(sum, Shape(input))
//! ```
//!
//! Operator set 16 or newer has all of these. Tensors keep the names that their owner gave them, and a weight may also be
//! a value that nodes decode ([`stored`](crate::stored)). [`write`] makes these nodes, [`find`] knows them by how they
//! are connected, whatever they are called.

mod activation;
mod find;
mod network;
mod write;

pub use activation::Activation;
pub use find::{FoundExpert, FoundExperts, find};
pub use network::{FeedForward, FoundNetwork, Linear, networks};
pub use write::write;

/// How experts are chosen and weighted, given a token's scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The k greatest of the softmax over all scores weigh as they are, or divided by their sum.
    SoftmaxThenTopK {
        /// Whether they are divided by their sum.
        renormalize: bool,
    },
    /// The k greatest scores; the softmax over these weighs.
    TopKThenSoftmax,
    /// The k greatest scores; each of these experts counts in full.
    Unweighted,
}

/// What chooses experts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router {
    /// From a token to a score for each expert.
    pub scores: Linear,
    /// How scores choose and weigh.
    pub choice: Choice,
    /// How many experts a token is given to, 1 to as many as there are.
    pub top_k: usize,
}

/// An expert that sees every token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedExpert {
    /// The expert.
    pub network: FeedForward,
    /// What it is multiplied by is the sigmoid of this, of one output.
    pub gate: Option<Linear>,
}

/// A layer of routed experts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutedExperts {
    /// The value that it reads: any number of axes, and then the hidden width.
    pub input: String,
    /// The value that it makes, of the same shape.
    pub output: String,
    /// What chooses.
    pub router: Router,
    /// The experts, in the order of the router's scores.
    pub experts: Vec<FeedForward>,
    /// An expert for every token.
    pub shared: Option<SharedExpert>,
}

impl RoutedExperts {
    /// The names of all weights and biases, the router's first, in the order in which they are read.
    pub fn tensors(&self) -> Vec<&str> {
        let mut linears = vec![&self.router.scores];
        if let Some(shared) = &self.shared {
            linears.extend(shared.network.linears().chain(&shared.gate));
        }
        linears.extend(self.experts.iter().flat_map(FeedForward::linears));
        linears.into_iter().flat_map(Linear::tensors).collect()
    }
}
