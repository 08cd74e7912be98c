//! The values of pages as cells.

use super::Trouble;
use super::footer::Kind;
use super::pages::{Content, Page, Pages};
use super::thrift::variable;

/// Gives `put` every cell of a piece of a column, nothing where a row has none.
pub(super) fn cells(
    mut pages: Pages<'_>,
    kind: Kind,
    optional: bool,
    put: &mut dyn FnMut(Option<&str>) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let mut dictionary: Option<Vec<String>> = None;
    let mut buffer = String::new();
    while let Some(page) = pages.next()? {
        if page.content == Content::Dictionary {
            if dictionary.is_some() {
                return Err("has two dictionaries".into());
            }
            dictionary = Some(entries(&page, kind)?);
            continue;
        }
        let (mut levels, values) = levels(&page, optional)?;
        let mut values = Values::new(values, &page, kind, dictionary.as_deref())?;
        for _ in 0..page.count {
            let there = match &mut levels {
                Some(levels) => levels.next()? == 1,
                None => true,
            };
            match there {
                true => put(Some(values.next(&mut buffer)?))?,
                false => put(None)?,
            }
        }
    }
    Ok(())
}

/// The values of a dictionary.
fn entries(page: &Page<'_>, kind: Kind) -> Result<Vec<String>, Trouble> {
    // 2 is what older writers call it here, too.
    if !matches!(page.encoding, 0 | 2) {
        return Err(unknown_encoding(page.encoding));
    }
    let mut values = Values::Plain {
        kind,
        bytes: &page.values,
        bit: 0,
    };
    let mut buffer = String::new();
    let mut entries = Vec::new();
    for _ in 0..page.count {
        entries.push(values.next(&mut buffer)?.to_owned());
    }
    Ok(entries)
}

/// Which values of a page are there, and its values.
fn levels<'p>(page: &'p Page<'_>, optional: bool) -> Result<(Option<Runs<'p>>, &'p [u8]), Trouble> {
    let values = &page.values[..];
    if !optional {
        return Ok((None, values));
    }
    let (levels, values) = match &page.levels {
        Some(levels) => (&levels[..], values),
        None => with_length(values)?,
    };
    Ok((Some(Runs::new(levels, 1)), values))
}

/// Bytes whose number stands before them, and what follows.
fn with_length(bytes: &[u8]) -> Result<(&[u8], &[u8]), Trouble> {
    let split = bytes
        .split_first_chunk()
        .and_then(|(length, rest)| rest.split_at_checked(u32::from_le_bytes(*length) as usize));
    split.ok_or_else(short)
}

fn short() -> Trouble {
    "has a page that ends before its last value".into()
}

fn unknown_encoding(encoding: i64) -> Trouble {
    let name = match encoding {
        4 => "BIT_PACKED",
        5 => "DELTA_BINARY_PACKED",
        6 => "DELTA_LENGTH_BYTE_ARRAY",
        7 => "DELTA_BYTE_ARRAY",
        9 => "BYTE_STREAM_SPLIT",
        _ => "one that is not known",
    };
    Trouble::Unread(format!(
        "has values in the encoding {name}; PLAIN, RLE and dictionaries are read"
    ))
}

/// The values of a page, one by one.
enum Values<'p> {
    Plain {
        kind: Kind,
        bytes: &'p [u8],
        /// The place of the next truth in the first byte.
        bit: u8,
    },
    Entries {
        numbers: Runs<'p>,
        dictionary: &'p [String],
    },
    Truths(Runs<'p>),
}

impl<'p> Values<'p> {
    fn new(bytes: &'p [u8], page: &Page<'_>, kind: Kind, dictionary: Option<&'p [String]>) -> Result<Self, Trouble> {
        Ok(match page.encoding {
            0 => Self::Plain { kind, bytes, bit: 0 },
            3 if kind == Kind::Truth => Self::Truths(Runs::new(with_length(bytes)?.0, 1)),
            2 | 8 => {
                let dictionary = dictionary.ok_or("has numbers of a dictionary that is not there")?;
                // A page without values may have nothing here.
                let (width, bytes) = bytes.split_first().unwrap_or((&0, &[]));
                if *width > 32 {
                    return Err(format!("has numbers of {width} bits").into());
                }
                Self::Entries {
                    numbers: Runs::new(bytes, u32::from(*width)),
                    dictionary,
                }
            }
            other => return Err(unknown_encoding(other)),
        })
    }

    /// The next one; a number is written into `buffer`.
    fn next<'c>(&'c mut self, buffer: &'c mut String) -> Result<&'c str, Trouble> {
        match self {
            Self::Entries { numbers, dictionary } => {
                let number = numbers.next()?;
                let entry = usize::try_from(number).ok().and_then(|number| dictionary.get(number));
                let entry = entry.map(String::as_str);
                entry.ok_or_else(|| {
                    format!("has the number {number} of a dictionary of {} values", dictionary.len()).into()
                })
            }
            Self::Truths(runs) => Ok(if runs.next()? == 1 { "1" } else { "0" }),
            Self::Plain { kind, bytes, bit } => {
                match kind {
                    Kind::Text => {
                        let (text, rest) = with_length(bytes)?;
                        *bytes = rest;
                        return std::str::from_utf8(text).map_err(|_| "is not UTF-8".into());
                    }
                    Kind::Truth => {
                        let truth = bytes.first().ok_or_else(short)? >> *bit & 1;
                        *bit = (*bit + 1) % 8;
                        if *bit == 0 {
                            *bytes = &bytes[1..];
                        }
                        return Ok(if truth == 1 { "1" } else { "0" });
                    }
                    Kind::Signed32 => *buffer = i32::from_le_bytes(fixed(bytes)?).to_string(),
                    Kind::Unsigned32 => *buffer = u32::from_le_bytes(fixed(bytes)?).to_string(),
                    Kind::Signed64 => *buffer = i64::from_le_bytes(fixed(bytes)?).to_string(),
                    Kind::Unsigned64 => *buffer = u64::from_le_bytes(fixed(bytes)?).to_string(),
                    // With a point, so that 3.0 is a score, as it is in JSON.
                    Kind::Float32 => *buffer = format!("{:?}", f32::from_le_bytes(fixed(bytes)?)),
                    Kind::Float64 => *buffer = format!("{:?}", f64::from_le_bytes(fixed(bytes)?)),
                }
                Ok(buffer)
            }
        }
    }
}

fn fixed<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Trouble> {
    let (first, rest) = bytes.split_first_chunk().ok_or_else(short)?;
    *bytes = rest;
    Ok(*first)
}

/// Small numbers, some repeated, some packed in bits.
struct Runs<'p> {
    bytes: &'p [u8],
    /// Bits of each, at most 32.
    width: u32,
    left: u64,
    run: Run<'p>,
}

enum Run<'p> {
    Repeated(u32),
    Packed { bytes: &'p [u8], bit: usize },
}

impl<'p> Runs<'p> {
    fn new(bytes: &'p [u8], width: u32) -> Self {
        Self {
            bytes,
            width,
            left: 0,
            run: Run::Repeated(0),
        }
    }

    fn next(&mut self) -> Result<u32, Trouble> {
        while self.left == 0 {
            self.start()?;
        }
        self.left -= 1;
        Ok(match &mut self.run {
            Run::Repeated(value) => *value,
            Run::Packed { bytes, bit } => {
                let mut word = [0; 8];
                let from = &bytes[*bit / 8..];
                let count = from.len().min(8);
                word[..count].copy_from_slice(&from[..count]);
                let value = u64::from_le_bytes(word) >> (*bit % 8) & ((1 << self.width) - 1);
                *bit += self.width as usize;
                value as u32
            }
        })
    }

    /// Begins the next run.
    fn start(&mut self) -> Result<(), Trouble> {
        if self.bytes.is_empty() {
            return Err(short());
        }
        let head = variable(&mut self.bytes).map_err(|_| short())?;
        let count = head >> 1;
        if head & 1 == 0 {
            let mut word = [0; 4];
            let (value, rest) = self
                .bytes
                .split_at_checked(self.width.div_ceil(8) as usize)
                .ok_or_else(short)?;
            word[..value.len()].copy_from_slice(value);
            (self.bytes, self.left, self.run) = (rest, count, Run::Repeated(u32::from_le_bytes(word)));
            return Ok(());
        }
        // Some writers cut the filling of the last group off.
        let wanted = count.saturating_mul(u64::from(self.width));
        let there = usize::try_from(wanted).unwrap_or(usize::MAX).min(self.bytes.len());
        let (bytes, rest) = self.bytes.split_at(there);
        self.left = match self.width {
            0 => count.saturating_mul(8),
            width => (there as u64 * 8 / u64::from(width)).min(count.saturating_mul(8)),
        };
        (self.bytes, self.run) = (rest, Run::Packed { bytes, bit: 0 });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(bytes: &[u8], width: u32, count: usize) -> Result<Vec<u32>, Trouble> {
        let mut runs = Runs::new(bytes, width);
        (0..count).map(|_| runs.next()).collect()
    }

    #[test]
    fn runs_of_the_format_s_own_examples() {
        // 0 to 7 in three bits, then five times 4.
        let bytes = [3, 0b1000_1000, 0b1100_0110, 0b1111_1010, 10, 4];
        assert_eq!(numbers(&bytes, 3, 13).unwrap(), [0, 1, 2, 3, 4, 5, 6, 7, 4, 4, 4, 4, 4]);
        assert!(numbers(&bytes, 3, 14).is_err());
        // 32 bits, and none.
        let wide = [2, 0xff, 0xff, 0xff, 0xff, 3, 1, 0, 0, 0x80];
        assert_eq!(numbers(&wide, 32, 2).unwrap(), [u32::MAX, 0x8000_0001]);
        assert_eq!(numbers(&[5], 0, 16).unwrap(), [0; 16]);
        // A run of nothing is no end.
        assert_eq!(numbers(&[0, 0, 2, 1], 1, 1).unwrap(), [1]);
        assert!(numbers(&[0x80], 1, 1).is_err());
    }
}
