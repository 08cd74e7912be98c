//! Values of a configuration by their keys, each checked for its type.

use serde_json::{Map, Value};

use crate::error::shown;
use crate::{ErrorKind, HuggingFaceError};

/// The largest count that a configuration can mean.
const MOST: u64 = 1 << 40;

/// An object of a configuration. A key that is `null` is as good as absent.
#[derive(Clone, Copy)]
pub(crate) struct Object<'c> {
    map: &'c Map<String, Value>,
    /// What stands before a key in messages: `rope_scaling.`.
    prefix: &'static str,
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl<'c> Object<'c> {
    pub fn new(map: &'c Map<String, Value>) -> Self {
        Self { map, prefix: "" }
    }

    /// An error about a key.
    pub fn error(&self, key: &str, message: impl std::fmt::Display) -> HuggingFaceError {
        HuggingFaceError::new(ErrorKind::Config, format!("`{}{key}` {message}", self.prefix))
            .help("take the configuration that was saved with these tensors")
    }

    fn wrong(&self, key: &str, wanted: &str, value: &Value) -> HuggingFaceError {
        let found = match value {
            Value::Number(number) => number.to_string(),
            other => kind(other).to_owned(),
        };
        self.error(key, format!("must be {wanted}; it is {found}"))
    }

    fn value(&self, key: &str) -> Option<&'c Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &self,
        key: &str,
        wanted: &str,
        take: impl FnOnce(&'c Value) -> Option<T>,
    ) -> Result<Option<T>, HuggingFaceError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        take(value).map(Some).ok_or_else(|| self.wrong(key, wanted, value))
    }

    /// A whole number from 0 on.
    pub fn count(&self, key: &str) -> Result<Option<usize>, HuggingFaceError> {
        self.typed(key, "a whole number", |value| {
            let count = value.as_u64().filter(|&count| count <= MOST)?;
            usize::try_from(count).ok()
        })
    }

    /// A whole number above 0 that must be there.
    pub fn size(&self, key: &str) -> Result<usize, HuggingFaceError> {
        match self.count(key)? {
            Some(0) => Err(self.error(key, "must not be 0")),
            Some(size) => Ok(size),
            None => Err(self.error(key, "is missing")),
        }
    }

    /// A whole number above 0, or `otherwise`.
    pub fn size_or(&self, key: &str, otherwise: usize) -> Result<usize, HuggingFaceError> {
        match self.value(key) {
            Some(_) => self.size(key),
            None => Ok(otherwise),
        }
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>, HuggingFaceError> {
        self.typed(key, "a number", |value| {
            value.as_f64().filter(|number| number.is_finite())
        })
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>, HuggingFaceError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub fn text(&self, key: &str) -> Result<Option<&'c str>, HuggingFaceError> {
        self.typed(key, "a text", Value::as_str)
    }

    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'c str>>, HuggingFaceError> {
        self.typed(key, "a list of texts", |value| {
            value.as_array()?.iter().map(Value::as_str).collect()
        })
    }

    pub fn counts(&self, key: &str) -> Result<Option<Vec<usize>>, HuggingFaceError> {
        self.typed(key, "a list of whole numbers", |value| {
            let count = |value: &Value| value.as_u64().and_then(|count| usize::try_from(count).ok());
            value.as_array()?.iter().map(count).collect()
        })
    }

    pub fn object(&self, key: &'static str) -> Result<Option<Self>, HuggingFaceError> {
        let map = self.typed(key, "an object", Value::as_object)?;
        let prefix = match key {
            "rope_scaling" => "rope_scaling.",
            "rope_parameters" => "rope_parameters.",
            _ => "",
        };
        Ok(map.map(|map| Self { map, prefix }))
    }

    /// How many entries an object has.
    pub fn entries(&self, key: &'static str) -> Result<Option<usize>, HuggingFaceError> {
        self.typed(key, "an object", |value| value.as_object().map(Map::len))
    }

    pub fn keys(&self) -> impl Iterator<Item = &'c String> {
        self.map.keys()
    }

    /// An error about a text that is none of those that are known.
    pub fn unknown(&self, key: &str, value: &str, known: &[&str]) -> HuggingFaceError {
        let message = format!("`{}{key}` is `{}`, which is not known", self.prefix, shown(value));
        HuggingFaceError::new(ErrorKind::Unknown, message).help(format!("known are {}", known.join(", ")))
    }
}
