//! The files that a model is written as: one, or one with the weights in another beside it.

use std::io::{self, Write};

use buffa::{Message, Rope};
use bytes::Bytes;

use super::encode::{Data, store_elsewhere};
use crate::{ErrorKind, Model, ModelError, proto, subgraphs::NestingGuard};

/// The data file's name for a model that nobody gave one, and that does not fit one file.
const DEFAULT_LOCATION: &str = "model.onnx.data";

/// Tensors of fewer bytes stay in the model's file, as ONNX's own tools have it: most are shapes and scales.
const SMALLEST: usize = 1024;

/// Tensors from this size on begin on a page of the data file, so that readers can map each by itself.
const PAGED_FROM: usize = 1 << 20;
const PAGE: u64 = 4096;
/// The others begin where vector instructions like it.
const LINE: u64 = 64;

/// A model, ready to be written: its own file, and the file beside it that holds its weights, if there is one.
#[derive(Debug)]
pub struct ModelFiles {
    message: proto::ModelProto,
    model_len: u64,
    data: Option<DataFile>,
}

impl Model {
    /// The model's files.
    ///
    /// All is one file unless [`Model::with_external_data`] asked for two, or the model takes more than the 2 GiB that
    /// protobuf can hold; then initializers of 1 KiB and more, those of subgraphs too, go to the second.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if what must stay in the model's file takes more than 2 GiB.
    pub fn files(&self) -> Result<ModelFiles, ModelError> {
        if self.external_data().is_none() {
            let message = self.message(&mut Data::Inline);
            if let Ok(length) = message.try_encoded_len() {
                return Ok(ModelFiles {
                    message,
                    model_len: length.into(),
                    data: None,
                });
            }
        }
        let location = self.external_data().unwrap_or(DEFAULT_LOCATION);
        let mut data = DataFile::new(location);
        let mut message = self.message(&mut Data::Beside(&mut data));
        if let Some(graph) = message.graph.as_option_mut() {
            let guard = NestingGuard::default().enter()?;
            for node in &mut graph.node {
                subgraphs(node, &mut data, guard)?;
            }
        }
        let model_len = message.try_encoded_len().map_err(|_| {
            ModelError::new(
                ErrorKind::Unsupported,
                "",
                "what is left in the model's file takes more than 2 GiB, which protobuf cannot hold",
            )
            .with_help("make initializers of its Constant nodes: `kmr convert --inline-functions --lift-constants`")
        })?;
        Ok(ModelFiles {
            message,
            model_len: model_len.into(),
            data: (!data.pieces.is_empty()).then_some(data),
        })
    }
}

fn subgraphs(node: &mut proto::NodeProto, data: &mut DataFile, guard: NestingGuard) -> Result<(), ModelError> {
    for attribute in &mut node.attribute {
        for graph in attribute.g.as_option_mut().into_iter().chain(&mut attribute.graphs) {
            let guard = guard.enter()?;
            for tensor in &mut graph.initializer {
                if let Some(bytes) = tensor.raw_data.take_if(|bytes| DataFile::takes(bytes)) {
                    let entries = data.add(bytes);
                    store_elsewhere(tensor, entries);
                }
            }
            for node in &mut graph.node {
                subgraphs(node, data, guard)?;
            }
        }
    }
    Ok(())
}

impl ModelFiles {
    /// The length of all files.
    #[expect(clippy::len_without_is_empty, reason = "a model's file is never empty")]
    pub fn len(&self) -> u64 {
        self.model_len + self.data.as_ref().map_or(0, DataFile::len)
    }

    /// The length of the model's own file.
    pub fn model_len(&self) -> u64 {
        self.model_len
    }

    /// The file beside it.
    pub fn data(&self) -> Option<&DataFile> {
        self.data.as_ref()
    }

    /// Writes the model's own file. Weights are written from where they lie.
    ///
    /// # Errors
    /// Those of `writer`.
    pub fn write_model(&self, writer: &mut dyn Write) -> io::Result<()> {
        self.segments()?
            .iter()
            .try_for_each(|segment| writer.write_all(segment))
    }

    /// Whether `bytes` are the model's own file.
    pub fn is_model(&self, mut bytes: &[u8]) -> bool {
        let Ok(segments) = self.segments() else { return false };
        for segment in segments {
            match bytes.split_at_checked(segment.len()) {
                Some((begin, rest)) if begin == segment => bytes = rest,
                _ => return false,
            }
        }
        bytes.is_empty()
    }

    fn segments(&self) -> io::Result<Vec<Bytes>> {
        let mut rope = Rope::new();
        self.message.try_encode(&mut rope).map_err(io::Error::other)?;
        Ok(rope.into_segments())
    }
}

/// The file beside a model's that holds its weights.
#[derive(Debug)]
pub struct DataFile {
    location: String,
    pieces: Vec<(u64, Bytes)>,
    length: u64,
}

impl DataFile {
    fn new(location: &str) -> Self {
        Self {
            location: location.to_owned(),
            pieces: Vec::new(),
            length: 0,
        }
    }

    /// Whether a tensor of these bytes goes to the data file.
    pub(super) fn takes(bytes: &[u8]) -> bool {
        bytes.len() >= SMALLEST
    }

    /// Appends a tensor; returns the entries that lead to it.
    pub(super) fn add(&mut self, bytes: Bytes) -> Vec<(String, String)> {
        let alignment = if bytes.len() >= PAGED_FROM { PAGE } else { LINE };
        let offset = self.length.next_multiple_of(alignment);
        self.length = offset + bytes.len() as u64;
        let entries = vec![
            ("location".to_owned(), self.location.clone()),
            ("offset".to_owned(), offset.to_string()),
            ("length".to_owned(), bytes.len().to_string()),
        ];
        self.pieces.push((offset, bytes));
        entries
    }

    /// The file's name, which the model's own file repeats: it lies in the same folder.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// The file's length.
    #[expect(clippy::len_without_is_empty, reason = "without weights there is no such file")]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Writes the file. Weights are written from where they lie.
    ///
    /// # Errors
    /// Those of `writer`.
    pub fn write(&self, writer: &mut dyn Write) -> io::Result<()> {
        let mut written = 0;
        for (offset, bytes) in &self.pieces {
            writer.write_all(&[0; PAGE as usize][..(offset - written) as usize])?;
            writer.write_all(bytes)?;
            written = offset + bytes.len() as u64;
        }
        Ok(())
    }

    /// Whether `bytes` are this file, gaps aside.
    pub fn is(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == self.length
            && self
                .pieces
                .iter()
                .all(|(offset, piece)| bytes[*offset as usize..][..piece.len()] == piece[..])
    }
}
