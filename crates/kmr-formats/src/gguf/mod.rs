//! The GGUF format of llama.cpp: metadata by key, and tensors in its own block encodings.
//!
//! After "GGUF specification" of the ggml project (versions 2 and 3, little-endian). The file is mapped, and a tensor
//! is a view of it until somebody asks for its numbers.

mod decode;
mod encode;
mod encode_super;
mod kind;
mod llama;
mod read;
mod tensor;
mod value;
mod write;

use std::path::Path;

use indexmap::IndexMap;

use crate::FormatError;

pub use kind::GgufKind;
pub use llama::{LlamaWeights, from_hugging_face, to_hugging_face};
pub use tensor::{EncodingError, GgufTensor};
pub use value::{GgufArray, GgufNumber, GgufValue};

/// What starts every file.
const MAGIC: [u8; 4] = *b"GGUF";
/// The version that is written.
const VERSION: u32 = 3;
/// The key of the alignment of tensors.
const ALIGNMENT: &str = "general.alignment";
/// The alignment where that key is absent.
const DEFAULT_ALIGNMENT: u64 = 32;
/// The most axes that a tensor has.
const AXES: usize = 4;

/// A GGUF file: metadata and tensors, each in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gguf {
    /// Metadata by key, such as `general.architecture`.
    pub metadata: IndexMap<String, GgufValue>,
    /// Tensors by name, such as `blk.0.attn_q.weight`.
    pub tensors: IndexMap<String, GgufTensor>,
}

impl Gguf {
    /// Reads a file. Large files are mapped, and must not change while the result lives.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, is damaged, or holds a version or a tensor type that is not known here.
    pub fn read(path: &Path) -> Result<Self, FormatError> {
        let bytes = kmr_platform::map_file(path).map_err(|cause| FormatError::io(path, "open the file", &cause))?;
        Self::read_from(path, bytes)
    }

    /// [`Gguf::read`] from bytes; `path` is their name in messages.
    ///
    /// # Errors
    ///
    /// Those of [`Gguf::read`].
    pub fn read_from(path: &Path, bytes: bytes::Bytes) -> Result<Self, FormatError> {
        read::read(path, bytes)
    }

    /// Writes a file of version 3. The same content gives the same bytes; a file that is there is replaced only when
    /// all is written.
    ///
    /// # Errors
    ///
    /// An alignment that is no power of two, a tensor of more than four axes, and a file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), FormatError> {
        write::write(self, path)
    }

    /// The bytes that [`Gguf::write`] writes.
    ///
    /// # Errors
    ///
    /// Those of [`Gguf::write`] but for the writing.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        write::to_bytes(self)
    }

    /// The length in bytes of the file that [`Gguf::write`] makes.
    ///
    /// # Errors
    ///
    /// Those of [`Gguf::write`] but for the writing.
    pub fn encoded_len(&self) -> Result<u64, FormatError> {
        write::encoded_len(self)
    }

    /// The metadata of this key.
    pub fn value(&self, key: &str) -> Option<&GgufValue> {
        self.metadata.get(key)
    }

    /// The alignment of tensors, if it is one.
    fn alignment(&self) -> Option<u64> {
        match self.metadata.get(ALIGNMENT) {
            None => Some(DEFAULT_ALIGNMENT),
            Some(value) => value.as_u64().filter(|alignment| alignment.is_power_of_two()),
        }
    }
}
