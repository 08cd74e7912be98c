//! Data in and out: named arrays in npy, npz, IDX and safetensors files, the [`Dataset`]s made of them, and low-rank
//! adapters in the folders of Hugging Face's PEFT. Whole models in [GGUF](gguf).
//!
//! Every reader checks what a file declares against what the file can hold before it allocates,
//! reads no byte twice, and turns damage into one [`FormatError`] that names the file, the array
//! and the offset. Values are kept as they are stored; uint8 arrays become float32 batch by batch.

mod atomic;
mod augment;
mod bounded;
mod dataset;
mod error;
pub mod gguf;
mod idx;
mod npy;
mod npz;
mod overlap;
mod peft;
mod safetensors;
mod shuffle;
mod source;

pub use augment::Augmentation;
pub use dataset::{Dataset, ExpectedInput, Inputs, Sample, Scale};
pub use error::{ErrorKind, FormatError};
pub use idx::{read_idx, read_idx_from};
pub use npy::{read_npy, read_npy_from, write_npy};
pub use npz::{read_npz, read_npz_from, write_npz};
pub use overlap::{SampleDigest, overlap, overlaps};
pub use peft::{read_peft, write_peft};
pub use safetensors::{read_safetensors, read_safetensors_from, write_safetensors};
pub use shuffle::permutation;
pub use source::{DatasetSource, Format};

/// Arrays by name, in the order of the file.
pub type NamedArrays = indexmap::IndexMap<String, kmr_model::Tensor>;
