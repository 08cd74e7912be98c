//! A file's footer: its columns, and where their pieces lie.

use super::Trouble;
use super::thrift::Fields;

/// The first and the last bytes of a file.
const MAGIC: &[u8] = b"PAR1";
/// The same where the footer is encrypted.
const ENCRYPTED: &[u8] = b"PARE";

/// What of a file is needed to read columns.
#[derive(Debug)]
pub(super) struct Footer {
    pub(super) columns: Vec<ColumnType>,
    /// For each group of rows the pieces of all columns that are no groups themselves, depth first.
    groups: Vec<Vec<Chunk>>,
}

/// A column of the table.
#[derive(Debug)]
pub(super) struct ColumnType {
    pub(super) name: String,
    /// Its place among the pieces of a group of rows.
    leaf: usize,
    /// What it holds, or what it holds that is not read.
    pub(super) kind: Result<Kind, &'static str>,
    /// Whether a row may have nothing here.
    pub(super) optional: bool,
}

/// What is read as cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Truth,
    Signed32,
    Signed64,
    Unsigned32,
    Unsigned64,
    Float32,
    Float64,
}

/// A piece of a column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    physical: i64,
    codec: i64,
    /// Bytes from the start of the file.
    start: Option<u64>,
    length: Option<u64>,
    elsewhere: bool,
    encrypted: bool,
}

impl Kind {
    /// The number that Parquet has for the type of its values.
    fn physical(self) -> i64 {
        match self {
            Self::Truth => 0,
            Self::Signed32 | Self::Unsigned32 => 1,
            Self::Signed64 | Self::Unsigned64 => 2,
            Self::Float32 => 4,
            Self::Float64 => 5,
            Self::Text => 6,
        }
    }
}

impl Footer {
    /// The footer of a file.
    pub(super) fn read(file: &[u8]) -> Result<Self, Trouble> {
        let body = file.strip_prefix(MAGIC).or(file.strip_prefix(ENCRYPTED));
        let body = body.ok_or("does not begin with `PAR1`: this is no Parquet file")?;
        let body = match (body.strip_suffix(MAGIC), body.strip_suffix(ENCRYPTED)) {
            (Some(body), _) => body,
            (_, Some(_)) => return Err(Trouble::Unread("the file is encrypted".to_owned())),
            _ => return Err("does not end with `PAR1`: the file is cut short".into()),
        };
        let (body, length) = body.split_last_chunk().ok_or("the file has no footer")?;
        let length = u32::from_le_bytes(*length) as usize;
        let start = body.len().checked_sub(length);
        let start = start.ok_or_else(|| format!("the footer takes {length} bytes; there are {}", body.len()))?;
        let metadata = Fields::read(&mut &body[start..]).map_err(|message| format!("the footer {message}"))?;
        Ok(Self {
            columns: columns(&metadata)?,
            groups: metadata
                .structs(4)
                .map(|group| group.structs(1).map(Chunk::new).collect())
                .collect(),
        })
    }

    /// The pieces of a column, in the order of its rows.
    pub(super) fn chunks(&self, column: &ColumnType) -> impl Iterator<Item = Result<Chunk, Trouble>> {
        let leaf = column.leaf;
        self.groups.iter().enumerate().map(move |(group, chunks)| {
            let chunk = chunks.get(leaf).copied();
            chunk.ok_or_else(|| format!("is missing in row group {group}").into())
        })
    }
}

/// The columns that a schema lists, depth first under its root.
fn columns(metadata: &Fields<'_>) -> Result<Vec<ColumnType>, Trouble> {
    let mut elements = metadata.structs(2);
    let children = |element: &Fields<'_>| u64::try_from(element.integer(5).unwrap_or(0)).unwrap_or(0);
    let short = || Trouble::from("the schema ends too early");
    let mut left = children(elements.next().ok_or_else(short)?);
    let (mut columns, mut leaf) = (Vec::new(), 0);
    while left > 0 {
        let element = elements.next().ok_or_else(short)?;
        left -= 1;
        columns.push(ColumnType {
            name: String::from_utf8_lossy(element.bytes(4).unwrap_or_default()).into_owned(),
            leaf,
            kind: kind(element),
            optional: element.integer(3) == Some(1),
        });
        // What is under it is passed over, however deep.
        let mut below = children(element);
        leaf += usize::from(below == 0);
        while below > 0 {
            let children = children(elements.next().ok_or_else(short)?);
            leaf += usize::from(children == 0);
            below = (below - 1).checked_add(children).ok_or_else(short)?;
        }
    }
    Ok(columns)
}

/// What a column holds; what that is called where it is not read.
fn kind(element: &Fields<'_>) -> Result<Kind, &'static str> {
    if element.integer(5).is_some_and(|children| children > 0) || element.integer(3) == Some(2) {
        return Err("lists or records");
    }
    let logical = element.fields(10);
    let named = match (logical.and_then(Fields::first), element.integer(6)) {
        (Some(5), _) | (None, Some(5)) => Err("decimals"),
        (Some(6), _) | (None, Some(6)) => Err("dates"),
        (Some(7), _) | (None, Some(7 | 8)) => Err("times"),
        (Some(8), _) | (None, Some(9 | 10)) => Err("timestamps"),
        (Some(11), _) => Err("nothing at all"),
        (Some(13), _) | (None, Some(20)) => Err("BSON"),
        // A text, an enumeration, JSON.
        (Some(1 | 4 | 12), _) | (None, Some(0 | 4 | 19)) => Ok(Some(true)),
        (Some(10), _) => Ok(logical
            .and_then(|union| union.fields(10)?.truth(2))
            .filter(|signed| !signed)),
        (None, Some(11..=14)) => Ok(Some(false)),
        (None, _) => Ok(None),
        (Some(_), _) => Err("values of a kind that is not known"),
    };
    // Texts, and integers without a sign, are told by their names alone.
    let named = named?;
    Ok(match (element.integer(1), named) {
        (Some(0), None) => Kind::Truth,
        (Some(1), None) => Kind::Signed32,
        (Some(1), Some(false)) => Kind::Unsigned32,
        (Some(2), None) => Kind::Signed64,
        (Some(2), Some(false)) => Kind::Unsigned64,
        (Some(4), None) => Kind::Float32,
        (Some(5), None) => Kind::Float64,
        // Older writers do not say that bytes are text.
        (Some(6), None | Some(true)) => Kind::Text,
        (Some(3), _) => return Err("timestamps"),
        (Some(7), _) => return Err("bytes"),
        _ => return Err("values of a kind that is not known"),
    })
}

impl Chunk {
    fn new(chunk: &Fields<'_>) -> Self {
        let metadata = chunk.fields(3);
        let integer = |number| metadata.and_then(|metadata| metadata.integer(number));
        let place = |number| integer(number).and_then(|place| u64::try_from(place).ok());
        // A dictionary lies before the first page of data; some writers put 0 where there is none.
        let first = place(9);
        let dictionary = place(11).filter(|&place| place > 0 && first.is_none_or(|first| place < first));
        Self {
            physical: integer(1).unwrap_or(-1),
            codec: integer(4).unwrap_or(-1),
            start: dictionary.or(first),
            length: place(7),
            elsewhere: chunk.bytes(1).is_some(),
            encrypted: chunk.get(8).is_some(),
        }
    }

    /// Its bytes, and the number of their compression.
    pub(super) fn bytes<'f>(&self, file: &'f [u8], kind: Kind) -> Result<(&'f [u8], i64), Trouble> {
        if self.encrypted {
            return Err(Trouble::Unread("is encrypted".to_owned()));
        }
        if self.elsewhere {
            return Err(Trouble::Unread("lies in another file".to_owned()));
        }
        if self.physical != kind.physical() {
            return Err("has values of another type than the schema says".into());
        }
        let range = self.start.zip(self.length);
        let range = range.and_then(|(start, length)| Some((start, start.checked_add(length)?)));
        let bytes = range.and_then(|(start, end)| file.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?));
        match bytes {
            Some(bytes) => Ok((bytes, self.codec)),
            None => Err(format!("lies outside of the file, which has {} bytes", file.len()).into()),
        }
    }
}
