//! A tokenizer and the file that it came from.

use std::path::{Path, PathBuf};

use kmr_formats::gguf::Gguf;
use kmr_formats::{ErrorKind, FormatError};
use serde_json::Value;
use tokenizers::{PostProcessor, TruncationParams, TruncationStrategy};

use crate::pretokenizer;

/// Names that vocabularies have for the token that fills up, in the order of preference.
const PADDING: [&str; 4] = ["[PAD]", "<pad>", "<|pad|>", "<|endoftext|>"];

/// A tokenizer without truncation and padding of its own.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    padding: u32,
    /// One more than the greatest token; counting them takes a copy of all.
    vocabulary: usize,
}

/// Tokens of one text, or of two that the tokenizer joins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Their numbers.
    pub ids: Vec<u32>,
    /// Which text each belongs to, 0 or 1.
    pub kinds: Vec<u32>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json` of Hugging Face, or the tokenizer in a GGUF file's metadata.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or holds no tokenizer, and in GGUF one that is not known here.
    pub fn read(path: &Path) -> Result<Self, FormatError> {
        let bytes = kmr_platform::map_file(path).map_err(|cause| FormatError::io(path, "open the file", &cause))?;
        if bytes.starts_with(b"GGUF") {
            return Self::from_gguf(path, &Gguf::read_from(path, bytes)?);
        }
        Self::from_json(path, &bytes)
    }

    /// The tokenizer of a `tokenizer.json`'s bytes; `path` is their name in messages.
    ///
    /// # Errors
    ///
    /// Bytes that describe no tokenizer.
    pub fn from_json(path: &Path, bytes: &[u8]) -> Result<Self, FormatError> {
        let error = |message: String| {
            FormatError::new(ErrorKind::Malformed, path, format!("this is no tokenizer: {message}"))
                .help("give the `tokenizer.json` of a Hugging Face folder, or a GGUF file")
        };
        let document: Value = serde_json::from_slice(bytes).map_err(|cause| error(cause.to_string()))?;
        if document.get("model").is_none() {
            return Err(error("it has no `model`".into()));
        }
        let inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|cause| error(cause.to_string()))?;
        Ok(Self::new(path, inner, None))
    }

    /// The tokenizer in a GGUF file's metadata; `path` is the file's name in messages.
    ///
    /// # Errors
    ///
    /// Metadata without a tokenizer, or with one that is not known here.
    pub fn from_gguf(path: &Path, gguf: &Gguf) -> Result<Self, FormatError> {
        let document = pretokenizer::tokenizer_json(path, gguf)?;
        let inner = tokenizers::Tokenizer::from_bytes(document.to_string()).map_err(|cause| {
            let message = format!("its tokenizer contradicts itself: {cause}");
            FormatError::new(ErrorKind::Malformed, path, message)
        })?;
        let padding = gguf.value("tokenizer.ggml.padding_token_id").and_then(|id| id.as_u64());
        Ok(Self::new(path, inner, padding.and_then(|id| u32::try_from(id).ok())))
    }

    fn new(path: &Path, mut inner: tokenizers::Tokenizer, padding: Option<u32>) -> Self {
        let stated = padding.or(inner.get_padding().map(|padding| padding.pad_id));
        let named = || PADDING.iter().find_map(|name| inner.token_to_id(name));
        let padding = stated.or_else(named).unwrap_or(0);
        // What a data set is cut and padded to is said there.
        inner.with_padding(None);
        inner.with_truncation(None).expect("no truncation fits anything");
        let greatest = inner.get_vocab(true).into_values().max();
        Self {
            vocabulary: greatest.map_or(0, |id| id as usize + 1),
            inner,
            path: path.to_path_buf(),
            padding,
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One more than the greatest token.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The token that fills up; masked, so that any will do.
    pub fn padding(&self) -> u32 {
        self.padding
    }

    /// The `tokenizer.json` of this tokenizer, without truncation and padding.
    ///
    /// # Errors
    ///
    /// A tokenizer that cannot be said in JSON.
    pub fn to_json(&self) -> Result<String, FormatError> {
        self.inner
            .to_string(true)
            .map_err(|cause| self.error(&cause.to_string()))
    }

    /// This tokenizer with texts cut to `length` tokens, those that it adds included.
    ///
    /// # Errors
    ///
    /// A length that the tokens which it adds fill alone.
    pub fn cut(mut self, length: usize, pairs: bool) -> Result<Self, FormatError> {
        let added = self
            .inner
            .get_post_processor()
            .map_or(0, |added| added.added_tokens(pairs));
        if length <= added {
            let message = format!("`max_length` is {length}; the tokenizer alone adds {added} tokens");
            return Err(FormatError::new(ErrorKind::Shape, &self.path, message).help("write a greater `max_length`"));
        }
        let truncation = TruncationParams {
            max_length: length,
            strategy: TruncationStrategy::LongestFirst,
            ..Default::default()
        };
        self.inner
            .with_truncation(Some(truncation))
            .map_err(|cause| FormatError::new(ErrorKind::Shape, &self.path, cause.to_string()))?;
        Ok(self)
    }

    /// The tokens of a text, or of two that are joined, with those that the tokenizer adds.
    ///
    /// # Errors
    ///
    /// What the tokenizer refuses.
    pub fn encode(&self, text: &str, pair: Option<&str>) -> Result<Encoded, FormatError> {
        let encoding = match pair {
            Some(pair) => self.inner.encode((text, pair), true),
            None => self.inner.encode(text, true),
        };
        let encoding = encoding.map_err(|cause| self.error(&cause.to_string()))?;
        Ok(Encoded {
            ids: encoding.get_ids().to_vec(),
            kinds: encoding.get_type_ids().to_vec(),
        })
    }

    /// The tokens of running text, without any that the tokenizer adds.
    ///
    /// # Errors
    ///
    /// What the tokenizer refuses.
    pub fn encode_running(&self, text: &str) -> Result<Vec<u32>, FormatError> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|cause| self.error(&cause.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn error(&self, cause: &str) -> FormatError {
        FormatError::new(
            ErrorKind::Unsupported,
            &self.path,
            format!("the tokenizer refuses: {cause}"),
        )
    }
}
