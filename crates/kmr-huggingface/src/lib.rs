//! Transformers in the folders of Hugging Face's `transformers` and sentence-transformers as models of kmr.
//!
//! [`open`] reads `config.json` and `model.safetensors` (or its shards) and makes a graph of standard ONNX operators.
//! Its tensors have the names and the layout that the file has, large files stay mapped, and weights of 16 bits stay so:
//! there the tensor is called `<name>_stored`, and a Cast makes the float32 value `<name>`.
//!
//! All inputs are int64 [batch, sequence], both open: `input_ids`, `attention_mask` (1 for a token, 0 for padding), and
//! `token_type_ids` for BERT and RoBERTa. There is one output, float32:
//!
//! | folder | output | shape |
//! |---|---|---|
//! | an encoder with `modules.json` and a pooling | `sentence_embedding` | [batch, hidden · pools] |
//! | `…ForSequenceClassification` | `logits` | [batch, labels] |
//! | `…ForCausalLM`, `…ForMaskedLM` | `logits` | [batch, sequence, vocabulary] |
//! | any other | `last_hidden_state` | [batch, sequence, hidden] |
//!
//! Rows of `last_hidden_state` and `logits` at padding are finite, and mean nothing. Sizes are those of the
//! configuration; longer sequences than an encoder has positions for are an error when the model runs.
//!
//! [`open_gguf`] makes the same graph of a Llama in a GGUF file.
//!
//! [`write_back`] makes a folder of a changed model again, and [`Source`] a folder or a GGUF file.
//!
//! [`decoder`] and [`encoder`] make the same graphs from a configuration and any source of named [`Tensors`].

mod attention;
mod config;
mod decoder;
mod encoder;
mod error;
mod folder;
mod network;
mod open;
mod pooling;
mod source;
mod tensors;
mod tokens;
mod write;

pub use config::{Config, MODEL_TYPES, Rotary, RotaryScaling};
pub use decoder::{DecoderConfig, DecoderHead, ExpertNames, ExpertsConfig, decoder};
pub use encoder::{EncoderConfig, EncoderFamily, EncoderHead, encoder};
pub use error::{ErrorKind, HuggingFaceError};
pub use open::{Opened, is_folder, open, open_gguf, read_config};
pub use pooling::{Pool, Pooling};
pub use source::Source;
pub use tensors::Tensors;
pub use write::{GGUF_KINDS, Written, check_folder, write_back};
