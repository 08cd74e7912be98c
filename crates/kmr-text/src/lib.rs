//! Texts as data sets: what a tokenizer makes of lines, tables and running text becomes a
//! [`Dataset`](kmr_formats::Dataset) with the arrays that transformers take, `input_ids`, `attention_mask`,
//! `token_type_ids` and `position_ids`, int64 each. A model takes those that it has inputs for.
//!
//! - **Texts** ([`Content::Texts`]): a sample is a text, or two joined by the tokenizer, padded at the end to the longest
//!   of the file or to a stated length; with a class or a score from a column. Two texts that are embedded apart are one
//!   sample that is a call of its own, of two rows.
//! - **Windows** ([`Content::Windows`]): a sample is a run of tokens of the whole text; its targets are the tokens that
//!   follow each, where no window before has them.
//!
//! A blank line of a file of lines or of JSON is no sample and is passed over; an empty text in a table is an error, since
//! its label says that something should be there, and so is nothing in a row of Parquet. Samples are compared by their
//! tokens, however they are padded.

mod columns;
mod gguf_metadata;
mod parquet;
mod pretokenizer;
mod rows;
mod source;
mod table;
mod tokenizer;
mod windows;

pub use gguf_metadata::gguf_metadata;
pub use source::{Content, Format, Limits, TextSource, Texts};
pub use tokenizer::{Encoded, Tokenizer};
