//! What is reported about a manifest, and how it is rendered.

use std::fmt;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};

/// The manifest's text and the name under which problems quote it.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    name: String,
    text: String,
}

impl Source {
    pub(crate) fn new(path: &Path, text: impl Into<String>) -> Arc<Self> {
        Arc::new(Self {
            name: path.display().to_string(),
            text: text.into(),
        })
    }

    /// The manifest's path as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Line and column of a byte offset, both counted from 1, columns in characters.
    ///
    /// An offset behind the text is taken as its end, one inside a character as its start.
    pub fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let before = &self.text[..self.text.floor_char_boundary(offset)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        (line, before[line_start..].chars().count() + 1)
    }

    pub(crate) fn excerpt(&self, span: &Range<usize>) -> &str {
        self.text.get(span.clone()).unwrap_or_default()
    }
}

impl SourceCode for Source {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        lines_before: usize,
        lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let inner = self.text.read_span(span, lines_before, lines_after)?;
        Ok(Box::new(MietteSpanContents::new_named(
            self.name.clone(),
            inner.data(),
            *inner.span(),
            inner.line(),
            inner.column(),
            inner.line_count(),
        )))
    }
}

/// What sort of mistake a [`Problem`] is; the host chooses its exit code by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The manifest itself could not be read.
    Unreadable,
    /// The text is not TOML.
    Syntax,
    /// A key that does not exist or one that is missing.
    Key,
    /// A value of the wrong type.
    Type,
    /// A value out of its range or in conflict with another one.
    Value,
    /// The model or a data file does not exist.
    File,
    /// A plugin path does not exist.
    PluginPath,
    /// No usable plugin offers a rule, meter or policy of this name.
    Extension,
    /// Worth knowing, and no reason to stop.
    Warning,
}

impl ErrorKind {
    /// A stable name for machine-readable output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Syntax => "syntax",
            Self::Key => "key",
            Self::Type => "type",
            Self::Value => "value",
            Self::File => "file",
            Self::PluginPath => "plugin-path",
            Self::Extension => "extension",
            Self::Warning => "warning",
        }
    }
}

/// One mistake in a manifest: what, where, and the way out.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    origin: Arc<Source>,
    kind: ErrorKind,
    message: String,
    span: Range<usize>,
    label: String,
    help: String,
}

impl Problem {
    pub(crate) fn new(
        origin: &Arc<Source>,
        kind: ErrorKind,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            origin: Arc::clone(origin),
            kind,
            message: one_line(&message.into()),
            span,
            label: String::from("here"),
            help: one_line(&help.into()),
        }
    }

    /// Replaces the words that a graphical renderer puts under the quoted text.
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// What sort of mistake it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What is wrong, without its place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The way out; may be empty.
    pub fn help(&self) -> &str {
        &self.help
    }

    /// Byte range in the manifest's text.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The manifest's path as it was given.
    pub fn file(&self) -> &str {
        self.origin.name()
    }

    /// Line and column, both counted from 1, columns in characters.
    pub fn line_and_column(&self) -> (usize, usize) {
        self.origin.line_and_column(self.span.start)
    }

    /// The plain three-line form: message, place, help. No newline at the end.
    pub fn render(&self, color: bool) -> String {
        let paint = |code, text: &str| match color {
            true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            false => text.to_string(),
        };
        let (title, title_color) = match self.kind {
            ErrorKind::Warning => ("warning", "1;33"),
            _ => ("error", "1;31"),
        };
        let (line, column) = self.line_and_column();
        let mut rendered = format!(
            "{}: {}\n  {} {}:{line}:{column}",
            paint(title_color, title),
            self.message,
            paint("1;34", "-->"),
            self.origin.name(),
        );
        if !self.help.is_empty() {
            // Writing into a String cannot fail.
            let _ = write!(rendered, "\n  {}: {}", paint("1;36", "help"), self.help);
        }
        rendered
    }
}

impl Diagnostic for Problem {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(format!("kmr::manifest::{}", self.kind.name())))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.kind {
            ErrorKind::Warning => miette::Severity::Warning,
            _ => miette::Severity::Error,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        (!self.help.is_empty()).then(|| Box::new(&self.help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&*self.origin)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let label = LabeledSpan::new_with_span(Some(self.label.clone()), self.span.clone());
        Some(Box::new(std::iter::once(label)))
    }
}

/// `text` without line breaks and without what a terminal would obey; too long a text is cut.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 1000;
    let end = text.floor_char_boundary(LONGEST);
    let mut line = String::with_capacity(end);
    for letter in text[..end].chars() {
        match letter.is_control() {
            true => line.extend(letter.escape_default()),
            false => line.push(letter),
        }
    }
    if end < text.len() {
        line.push('…');
    }
    line
}

/// Everything that one step found wrong with a manifest, in the order of the text; never empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    // Boxed to keep results small.
    first: Box<Problem>,
    rest: Vec<Problem>,
}

impl Error {
    /// The error made of these problems, or none when there is no problem.
    pub(crate) fn from_problems(mut problems: Vec<Problem>) -> Option<Self> {
        /// Nobody reads more at once, and each is quoted with its place in the text.
        const MOST: usize = 100;
        problems.sort_by_key(|problem| problem.span.start);
        if let Some(next) = problems.get(MOST) {
            let count = problems.len() - MOST;
            let message = format!("{count} more mistakes from here on");
            let last = Problem::new(&next.origin, next.kind, next.span(), message, "mend those above first");
            problems.truncate(MOST);
            problems.push(last);
        }
        let mut problems = problems.into_iter();
        let first = problems.next()?;
        Some(Self {
            first: Box::new(first),
            rest: problems.collect(),
        })
    }

    /// The kind of the first problem.
    pub fn kind(&self) -> ErrorKind {
        self.first.kind
    }

    /// The first problem.
    pub fn first(&self) -> &Problem {
        &self.first
    }

    /// All problems, in the order of the text.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        std::iter::once(self.first()).chain(&self.rest)
    }

    /// Every problem in its plain form, with an empty line between two. No newline at the end.
    pub fn render(&self, color: bool) -> String {
        let rendered: Vec<String> = self.problems().map(|problem| problem.render(color)).collect();
        rendered.join("\n\n")
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self {
            first: Box::new(problem),
            rest: Vec::new(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(formatter)
    }
}

impl std::error::Error for Error {}

impl Diagnostic for Error {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.first.code()
    }

    fn severity(&self) -> Option<miette::Severity> {
        self.first.severity()
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Diagnostic::help(self.first())
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.first.source_code()
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.first.labels()
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        let rest = self.rest.iter().map(|problem| problem as &dyn Diagnostic);
        (!self.rest.is_empty()).then(|| Box::new(rest) as Box<dyn Iterator<Item = _>>)
    }
}
