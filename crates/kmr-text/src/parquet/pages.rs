//! The pages of a piece of a column: found, and unpacked into no more than they can hold.

use std::borrow::Cow;
use std::io::Read;

use super::Trouble;
use super::thrift::Fields;

/// Bytes that any page may have, however few it is packed into.
const ALWAYS: u64 = 4 << 20;
/// Bytes that a larger page may have for each that it is packed into.
const PER_BYTE: u64 = 64;

/// A page, unpacked.
#[derive(Debug)]
pub(super) struct Page<'b> {
    pub(super) content: Content,
    /// How many values there are, those that are not there included.
    pub(super) count: u64,
    /// The number of the encoding.
    pub(super) encoding: i64,
    /// Which values are there; nothing where the page has this among `values`.
    pub(super) levels: Option<Cow<'b, [u8]>>,
    pub(super) values: Cow<'b, [u8]>,
}

/// What a page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Values that others are numbers of.
    Dictionary,
    Data,
}

/// Pages of a piece of a column, one by one.
pub(super) struct Pages<'b> {
    bytes: &'b [u8],
    codec: i64,
}

impl<'b> Pages<'b> {
    pub(super) fn new(bytes: &'b [u8], codec: i64) -> Self {
        Self { bytes, codec }
    }

    /// The next page that is not an index.
    pub(super) fn next(&mut self) -> Result<Option<Page<'b>>, Trouble> {
        loop {
            if self.bytes.is_empty() {
                return Ok(None);
            }
            let header = Fields::read(&mut self.bytes).map_err(|message| format!("has a page whose head {message}"))?;
            let size = |number| header.integer(number).and_then(|size| u32::try_from(size).ok());
            let (Some(unpacked), Some(packed)) = (size(2), size(3)) else {
                return Err("has a page whose head says no size".into());
            };
            let split = self.bytes.split_at_checked(packed as usize);
            let (body, rest) =
                split.ok_or_else(|| format!("has a page of {packed} bytes, where {} are left", self.bytes.len()))?;
            self.bytes = rest;
            let unpacked = u64::from(unpacked);
            let (kind, content) = match header.integer(1) {
                Some(0) => (5, Content::Data),
                Some(1) => continue,
                Some(2) => (7, Content::Dictionary),
                Some(3) => return second_version(&header, body, unpacked, self.codec).map(Some),
                _ => return Err(Trouble::Unread("has a page of a kind that is not known".to_owned())),
            };
            let own = header
                .fields(kind)
                .ok_or("has a page whose head does not say what is in it")?;
            return Ok(Some(Page {
                content,
                count: count(own)?,
                encoding: own.integer(2).unwrap_or(-1),
                levels: None,
                values: unpack(body, self.codec, unpacked)?,
            }));
        }
    }
}

fn count(own: &Fields<'_>) -> Result<u64, Trouble> {
    let count = own.integer(1).and_then(|count| u64::try_from(count).ok());
    count.ok_or_else(|| "has a page whose head does not say how many values it has".into())
}

/// A page whose levels lie before its values, never packed.
fn second_version<'b>(header: &Fields<'_>, body: &'b [u8], unpacked: u64, codec: i64) -> Result<Page<'b>, Trouble> {
    let own = header
        .fields(8)
        .ok_or("has a page whose head does not say what is in it")?;
    let length = |number| own.integer(number).and_then(|length| usize::try_from(length).ok());
    let split = |bytes: &'b [u8], number| {
        let split = bytes.split_at_checked(length(number).unwrap_or(usize::MAX));
        split.ok_or_else(|| Trouble::from("has a page that is shorter than what says which values are there"))
    };
    // Of repetition there is nothing where no value is repeated.
    let (repetition, rest) = split(body, 6)?;
    let (levels, values) = split(rest, 5)?;
    let before = (repetition.len() + levels.len()) as u64;
    let left = unpacked.checked_sub(before);
    let left = left.ok_or("has a page that is shorter than what says which values are there")?;
    let codec = if own.truth(7).unwrap_or(true) { codec } else { 0 };
    // Nothing is packed where there is nothing.
    let codec = if left == 0 && values.is_empty() { 0 } else { codec };
    Ok(Page {
        content: Content::Data,
        count: count(own)?,
        encoding: own.integer(4).unwrap_or(-1),
        levels: Some(levels.into()),
        values: unpack(values, codec, left)?,
    })
}

/// The `length` bytes that `packed` stands for.
fn unpack(packed: &[u8], codec: i64, length: u64) -> Result<Cow<'_, [u8]>, Trouble> {
    let most = ALWAYS.max((packed.len() as u64).saturating_mul(PER_BYTE));
    if length > most {
        return Err(format!(
            "has a page of {} bytes that is said to hold {length}; {most} are read of it at most",
            packed.len()
        )
        .into());
    }
    let reader: Box<dyn Read + '_> = match codec {
        0 => return exactly(packed.into(), length),
        1 => {
            // Its length is at the beginning, and what it says is made room for.
            let stated = snap::raw::decompress_len(packed).map_err(|cause| damaged(&cause))?;
            if stated as u64 != length {
                return Err(format!("has a page of {stated} bytes whose head says {length}").into());
            }
            let unpacked = snap::raw::Decoder::new().decompress_vec(packed);
            return Ok(unpacked.map_err(|cause| damaged(&cause))?.into());
        }
        2 => Box::new(flate2::read::MultiGzDecoder::new(packed)),
        4 => Box::new(brotli_decompressor::Decompressor::new(packed, 4096)),
        6 => Box::new(ruzstd::decoding::StreamingDecoder::new(packed).map_err(|cause| damaged(&cause))?),
        other => {
            let name = match other {
                3 => "LZO",
                5 | 7 => "LZ4",
                _ => "a way that is not known",
            };
            let message = format!("is packed by {name}; Snappy, gzip, Brotli and Zstandard are read");
            return Err(Trouble::Unread(message));
        }
    };
    let mut unpacked = Vec::new();
    let read = reader.take(length + 1).read_to_end(&mut unpacked);
    read.map_err(|cause| damaged(&cause))?;
    exactly(unpacked.into(), length)
}

fn damaged(cause: &dyn std::fmt::Display) -> Trouble {
    format!("has a page that is damaged: {cause}").into()
}

fn exactly(bytes: Cow<'_, [u8]>, length: u64) -> Result<Cow<'_, [u8]>, Trouble> {
    match bytes.len() as u64 {
        there if there == length => Ok(bytes),
        there if there > length => Err(format!("has a page of more than the {length} bytes that its head says").into()),
        there => Err(format!("has a page of {there} bytes whose head says {length}").into()),
    }
}
