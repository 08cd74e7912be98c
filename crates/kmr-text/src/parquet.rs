//! Columns of Apache Parquet files: texts, whole numbers, numbers of floating point and truths, packed or not.
//!
//! Written here since the crate `parquet` trusts its files: it makes room by numbers in them, recurses as deep as they say
//! and panics where a page is cut short.

mod footer;
mod pages;
mod thrift;
mod values;

use kmr_formats::{ErrorKind, FormatError};

use crate::columns::Column;
use crate::table::Source;
use footer::{ColumnType, Footer};
use pages::Pages;

/// Bytes that cells may take, however short the file.
const ALWAYS: u64 = 32 << 20;
/// Bytes that they may take for each of a longer file: a dictionary's value is repeated in few bits.
const PER_BYTE: u64 = 128;

/// Fills `columns` by their names.
///
/// # Errors
///
/// A file that is no Parquet, is damaged, encrypted or larger unpacked than it can be; a column that is not there, or is of
/// a type, a compression or an encoding that is not read; a row that has nothing in a column.
pub(crate) fn read(source: &Source<'_>, columns: &mut [Column]) -> Result<(), FormatError> {
    let file = &source.content[..];
    let footer = Footer::read(file).map_err(|trouble| match trouble {
        Trouble::Damaged(message) => source.error(ErrorKind::Malformed, message),
        Trouble::Unread(message) => source
            .error(ErrorKind::Unsupported, message)
            .help("write the file plainly"),
        Trouble::Said(error) => error,
    })?;
    let mut left = ALWAYS.max((file.len() as u64).saturating_mul(PER_BYTE));
    for column in columns.iter_mut() {
        let Some(found) = footer.columns.iter().find(|found| found.name == column.name) else {
            return Err(missing(source, column, &footer));
        };
        fill(source, &footer, found, column, &mut left)?;
    }
    let rows = columns.first().map_or(0, |column| column.cells.len());
    match columns.iter().find(|column| column.cells.len() != rows) {
        Some(other) => {
            let message = format!(
                "has {} rows, and column `{}` has {rows}",
                other.cells.len(),
                columns[0].name
            );
            Err(source.error(ErrorKind::Malformed, message).array(&other.name))
        }
        None => Ok(()),
    }
}

/// Names that a message lists.
const LISTED: usize = 16;

fn missing(source: &Source<'_>, column: &Column, footer: &Footer) -> FormatError {
    let known = footer.columns.iter().take(LISTED);
    let known: Vec<String> = known.map(|known| shown(&known.name)).collect();
    let more = match footer.columns.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message = format!("there is no column {}", shown(&column.name));
    source
        .error(ErrorKind::Shape, message)
        .help(format!("the columns are {}{more}", known.join(", ")))
}

/// A name of the file for a message: without control characters, and cut where it is long.
fn shown(name: &str) -> String {
    let cut: String = name.chars().take(32).collect();
    let more = if cut.len() < name.len() { "…" } else { "" };
    format!("`{}{more}`", cut.escape_debug())
}

fn fill(
    source: &Source<'_>,
    footer: &Footer,
    found: &ColumnType,
    column: &mut Column,
    left: &mut u64,
) -> Result<(), FormatError> {
    let name = column.name.clone();
    let error = |kind, message: String| source.error(kind, message).array(&name);
    let kind = found.kind.map_err(|what| {
        let message = format!("the column holds {what}; texts, numbers and truths are read");
        error(ErrorKind::Unsupported, message).help("write the column as texts or numbers")
    })?;
    for chunk in footer.chunks(found) {
        let cells = chunk.and_then(|chunk| {
            let (bytes, codec) = chunk.bytes(&source.content, kind)?;
            values::cells(Pages::new(bytes, codec), kind, found.optional, &mut |cell| {
                let row = column.cells.len() + 1;
                let Some(cell) = cell else {
                    let empty = error(ErrorKind::Empty, format!("row {row} has nothing here"));
                    return Err(Trouble::Said(empty.help("leave the row out, or put a value there")));
                };
                let taken = (size_of::<(usize, String)>() + cell.len()) as u64;
                let Some(rest) = left.checked_sub(taken) else {
                    let length = source.content.len();
                    let message = format!("row {row} is past what is read of a file of {length} bytes");
                    let large = error(ErrorKind::Malformed, message);
                    return Err(Trouble::Said(
                        large.help("write the table as several files, or as JSON lines"),
                    ));
                };
                *left = rest;
                column.push(row, cell.to_owned());
                Ok(())
            })
        });
        let row = column.cells.len() + 1;
        cells.map_err(|trouble| match trouble {
            Trouble::Damaged(message) => error(
                ErrorKind::Malformed,
                format!("the column {message} (from row {row} on)"),
            ),
            Trouble::Unread(message) => error(ErrorKind::Unsupported, format!("the column {message}"))
                .help("write the file again, such as by `pandas.read_parquet(path).to_parquet(other)`"),
            Trouble::Said(error) => error,
        })?;
    }
    Ok(())
}

/// Why a file cannot be read.
#[derive(Debug)]
enum Trouble {
    /// It does not follow its format.
    Damaged(String),
    /// It does, in a way that is not read here.
    Unread(String),
    /// What is said already.
    Said(FormatError),
}

impl From<String> for Trouble {
    fn from(message: String) -> Self {
        Self::Damaged(message)
    }
}

impl From<&str> for Trouble {
    fn from(message: &str) -> Self {
        Self::Damaged(message.to_owned())
    }
}
