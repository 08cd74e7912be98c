//! Typed access to TOML tables that reports a mistake once and goes on with a stand-in.
//!
//! Stand-ins never reach a caller of the crate: one problem in the context makes the whole
//! manifest an error.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::keys::{self, Key, ValueKind};
use crate::suggest::{listed, nearest, quoted};
use crate::{Amount, ErrorKind, Placed, Problem, Scale, Source};

/// The text being read and what was found wrong with it.
pub(crate) struct Context {
    pub(crate) source: Arc<Source>,
    problems: RefCell<Vec<Problem>>,
}

impl Context {
    pub(crate) fn new(source: Arc<Source>) -> Self {
        Self {
            source,
            problems: RefCell::default(),
        }
    }

    pub(crate) fn report(
        &self,
        kind: ErrorKind,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let problem = Problem::new(&self.source, kind, span, message, help);
        self.problems.borrow_mut().push(problem);
    }

    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    /// The text of a value for a message: its first line, not too much of it.
    pub(crate) fn shown(&self, span: &Range<usize>) -> String {
        const LONGEST: usize = 40;
        let excerpt = self.source.excerpt(span);
        let line = excerpt.lines().next().unwrap_or_default();
        let mut shown: String = line.chars().take(LONGEST).collect();
        if shown.len() < excerpt.trim_end().len() {
            shown.push('…');
        }
        shown
    }
}

/// One TOML table under the keys that are declared for it.
pub(crate) struct Section<'c, 't> {
    context: &'c Context,
    name: &'static str,
    shown: String,
    table: &'t DeTable<'t>,
    span: Range<usize>,
}

impl<'c, 't> Section<'c, 't> {
    /// Opens a table and reports unknown and missing keys.
    ///
    /// `name` is the table's name in [`keys::KEYS`], `shown` its name in messages.
    pub(crate) fn open(
        context: &'c Context,
        name: &'static str,
        shown: String,
        table: &'t DeTable<'t>,
        span: Range<usize>,
    ) -> Self {
        let section = Self {
            context,
            name,
            shown,
            table,
            span,
        };
        if keys::find(name, "*").is_none() {
            section.report_unknown_keys();
        }
        section.report_missing_keys();
        section
    }

    fn report_unknown_keys(&self) {
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if keys::find(self.name, name).is_some() {
                continue;
            }
            let known = || keys::keys_of(self.name).map(|key| key.name);
            let help = match nearest(name, known()) {
                Some(near) => format!("did you mean {}?", quoted(near)),
                None => format!("the keys here are {}", listed(known())),
            };
            let message = format!("unknown key {} in {}", quoted(name), self.shown);
            self.context.report(ErrorKind::Key, key.span(), message, help);
        }
    }

    fn report_missing_keys(&self) {
        for key in keys::keys_of(self.name).filter(|key| key.required) {
            if self.table.get(key.name).is_none() {
                self.missing(key.name, key.about);
            }
        }
    }

    /// Reports that a key is not there, unless it is there with a spelling mistake, which is
    /// reported already.
    pub(crate) fn missing(&self, name: &str, help: &str) {
        let known = || keys::keys_of(self.name).map(|key| key.name);
        let misspelled = self.table.keys().any(|key| {
            let written: &str = key.get_ref();
            keys::find(self.name, written).is_none() && nearest(written, known()) == Some(name)
        });
        if misspelled {
            return;
        }
        let lacking = match keys::find(self.name, name).map(|key| key.kind) {
            Some(ValueKind::Table(_)) => format!("[{name}]"),
            Some(ValueKind::Tables(_)) => list_header(&self.shown, name),
            _ => quoted(name),
        };
        let message = format!("{} lacks {lacking}", self.shown);
        self.context.report(ErrorKind::Key, self.span.clone(), message, help);
    }

    pub(crate) fn context(&self) -> &'c Context {
        self.context
    }

    pub(crate) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// The value behind a declared key.
    pub(crate) fn value(&self, name: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        debug_assert!(keys::find(self.name, name).is_some(), "undeclared key {name}");
        self.table.get(name)
    }

    /// Every key with its value, for tables whose keys are names.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Placed<String>, &'t Spanned<DeValue<'t>>)> + use<'t> {
        self.table
            .iter()
            .map(|(key, value)| (Placed::new(key.get_ref().to_string(), key.span()), value))
    }

    /// Reads a value by `read`, or reports that the declared kind is expected there.
    fn read<T>(&self, name: &str, read: impl FnOnce(&'t DeValue<'t>) -> Option<T>) -> Option<Placed<T>> {
        let value = self.value(name)?;
        match read(value.get_ref()) {
            Some(read) => Some(Placed::new(read, value.span())),
            None => {
                self.wrong_type(name, value);
                None
            }
        }
    }

    fn wrong_type(&self, name: &str, value: &Spanned<DeValue<'_>>) {
        let Some(key) = keys::find(self.name, name) else {
            return;
        };
        wrong_type(self.context, key, name, value);
    }

    pub(crate) fn text(&self, name: &str) -> Option<Placed<String>> {
        let text = self.read(name, |value| value.as_str().map(str::to_string))?;
        if text.trim().is_empty() {
            let message = format!("{} is empty", quoted(name));
            let help = keys::find(self.name, name).map_or("", |key| key.about);
            self.context.report(ErrorKind::Value, text.span.clone(), message, help);
            return None;
        }
        Some(text)
    }

    pub(crate) fn boolean(&self, name: &str) -> Option<bool> {
        self.read(name, DeValue::as_bool).map(|read| read.value)
    }

    pub(crate) fn number(&self, name: &str) -> Option<Placed<f64>> {
        self.read(name, number)
    }

    /// A whole number not below the declared least one.
    pub(crate) fn whole(&self, name: &str) -> Option<u64> {
        let least = match keys::find(self.name, name)?.kind {
            ValueKind::Whole(least) => least,
            _ => 0,
        };
        let read = |value| integer(value).and_then(|number| u64::try_from(number).ok());
        self.read(name, |value| read(value).filter(|number| *number >= least))
            .map(|read| read.value)
    }

    /// One of the declared choices.
    pub(crate) fn choice(&self, name: &str) -> Option<Placed<&'static str>> {
        let ValueKind::Choice(choices) = keys::find(self.name, name)?.kind else {
            return None;
        };
        let text = self.text(name)?;
        match choices.iter().find(|choice| **choice == text.value) {
            Some(choice) => Some(text.map(|_| *choice)),
            None => {
                let message = format!(
                    "{} is one of {}; got {}",
                    quoted(name),
                    listed(choices.iter().copied()),
                    self.context.shown(&text.span)
                );
                let help = match nearest(&text, choices.iter().copied()) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => keys::find(self.name, name).map_or("", |key| key.about).into(),
                };
                self.context.report(ErrorKind::Value, text.span, message, help);
                None
            }
        }
    }

    pub(crate) fn texts(&self, name: &str) -> Vec<Placed<String>> {
        let read = self.read(name, |value| {
            let items = value.as_array()?.iter();
            items
                .map(|item| {
                    let text = item.get_ref().as_str().filter(|text| !text.is_empty())?;
                    Some(Placed::new(text.to_string(), item.span()))
                })
                .collect()
        });
        read.map(|read: Placed<Vec<_>>| read.value).unwrap_or_default()
    }

    /// An amount: a text or a whole number.
    pub(crate) fn amount(&self, name: &str) -> Option<Placed<Amount>> {
        let value = self.value(name)?;
        let parsed = match value.get_ref() {
            DeValue::String(text) => Amount::parse(text),
            other => match integer(other) {
                Some(count) if count >= 0 => Ok(Amount::Absolute {
                    value: count as f64,
                    unit: None,
                }),
                _ => {
                    self.wrong_type(name, value);
                    return None;
                }
            },
        };
        match parsed {
            Ok(amount) => Some(Placed::new(amount, value.span())),
            Err(help) => {
                let shown = self.context.shown(&value.span());
                let message = format!("{} is not an amount: {shown}", quoted(name));
                self.context.report(ErrorKind::Value, value.span(), message, help);
                None
            }
        }
    }

    /// A factor: a number, or a fraction as a text.
    pub(crate) fn scale(&self, name: &str) -> Option<Placed<Scale>> {
        self.read(name, |value| match value.as_str() {
            Some(text) => Scale::parse(text),
            None => Scale::new(number(value)?, 1.0),
        })
    }

    /// The table behind a key.
    pub(crate) fn table(&self, name: &str) -> Option<Section<'c, 't>> {
        let key = keys::find(self.name, name)?;
        let ValueKind::Table(inner) = key.kind else {
            return None;
        };
        let shown = match self.name {
            "" => format!("[{name}]"),
            _ => format!("{} {name}", self.shown),
        };
        let value = self.value(name)?;
        self.inner_table(key, name, inner, shown, value)
    }

    /// The table behind one of the entries of a table whose keys are names.
    pub(crate) fn entry_table(
        &self,
        name: &str,
        shown: String,
        value: &'t Spanned<DeValue<'t>>,
    ) -> Option<Section<'c, 't>> {
        let key = keys::find(self.name, "*")?;
        let ValueKind::Table(inner) = key.kind else {
            return None;
        };
        self.inner_table(key, name, inner, shown, value)
    }

    fn inner_table(
        &self,
        key: &Key,
        name: &str,
        inner: &'static str,
        shown: String,
        value: &'t Spanned<DeValue<'t>>,
    ) -> Option<Section<'c, 't>> {
        match value.get_ref() {
            DeValue::Table(table) => {
                let span = value.span();
                Some(Section::open(self.context, inner, shown, table, span))
            }
            _ => {
                wrong_type(self.context, key, name, value);
                None
            }
        }
    }

    /// The tables behind a key: `[[name]]`.
    pub(crate) fn tables(&self, name: &str) -> Vec<Section<'c, 't>> {
        let Some(key) = keys::find(self.name, name) else {
            return Vec::new();
        };
        let (ValueKind::Tables(inner), Some(value)) = (key.kind, self.value(name)) else {
            return Vec::new();
        };
        let shown = list_header(&self.shown, name);
        let Some(items) = value.get_ref().as_array() else {
            let message = format!("{} is a list of tables", quoted(name));
            let help = format!("write {shown}, with two brackets");
            self.context.report(ErrorKind::Type, value.span(), message, help);
            return Vec::new();
        };
        if items.is_empty() {
            let message = format!("{} lacks {shown}", self.shown);
            self.context.report(ErrorKind::Value, value.span(), message, key.about);
        }
        items
            .iter()
            .filter_map(|item| self.inner_table(key, name, inner, shown.clone(), item))
            .collect()
    }
}

/// How a list of tables is written inside a table that messages call `outer`.
fn list_header(outer: &str, name: &str) -> String {
    match outer.strip_prefix('[') {
        Some(outer) => format!("[[{}.{name}]]", outer.trim_matches(['[', ']'])),
        None => format!("[[{name}]]"),
    }
}

/// Reports that a value is not of its key's kind.
pub(crate) fn wrong_type(context: &Context, key: &Key, name: &str, value: &Spanned<DeValue<'_>>) {
    let expected = match key.kind {
        ValueKind::Text | ValueKind::Choice(_) => "a text in quotes".to_string(),
        ValueKind::Boolean => "true or false".to_string(),
        ValueKind::Whole(0) => "a whole number".to_string(),
        ValueKind::Whole(least) => format!("a whole number of at least {least}"),
        ValueKind::Number => "a number".to_string(),
        ValueKind::Amount => "a text such as \"30%\" or a whole number".to_string(),
        ValueKind::Until => "an amount, or a table of `meter` and `at_most`".to_string(),
        ValueKind::Scale => "a number other than 0, or a fraction such as \"1/255\"".to_string(),
        ValueKind::Shape => "a list of whole numbers of at least 1".to_string(),
        ValueKind::Texts => "a list of texts".to_string(),
        ValueKind::Values => "a list of numbers, texts or booleans".to_string(),
        ValueKind::Free => "a value".to_string(),
        ValueKind::Table(_) => "a table".to_string(),
        ValueKind::Tables(_) => "a list of tables".to_string(),
    };
    let shown = context.shown(&value.span());
    let message = format!("{} takes {expected}; got {shown}", quoted(name));
    let help = match key.kind {
        ValueKind::Table(_) if shown.starts_with("[[") => {
            format!("write [{name}], with one bracket")
        }
        ValueKind::Table(inner) => {
            let mut keys = keys::keys_of(inner).map(|key| key.name);
            let first = keys.next().filter(|first| *first != "*").unwrap_or("NAME");
            format!("write `{name} = {{ {first} = ... }}`: {}", key.about)
        }
        _ => key.about.to_string(),
    };
    context.report(ErrorKind::Type, value.span(), message, help);
}

/// A TOML integer that fits.
pub(crate) fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A TOML integer or float; infinite ones included, NaN not.
pub(crate) fn number(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Float(float) => float.as_str().parse().ok(),
        other => integer(other).map(|number| number as f64),
    }
    .filter(|number: &f64| !number.is_nan())
}
