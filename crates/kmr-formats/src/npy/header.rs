//! The header of an npy file: a magic number, a version, and a Python dictionary as text.

use std::io::Read;

use kmr_model::DType;

use super::TYPES;
use crate::bounded::Bounded;
use crate::{ErrorKind, FormatError};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// numpy's own limit on what it evaluates is 10,000 bytes.
const LONGEST: u32 = 1 << 16;
const MOST_DIMENSIONS: usize = 32;

pub(super) struct Header {
    pub(super) dtype: DType,
    pub(super) item_size: usize,
    pub(super) big_endian: bool,
    pub(super) fortran_order: bool,
    pub(super) shape: Vec<usize>,
    pub(super) byte_len: u64,
}

impl Header {
    pub(super) fn read<R: Read>(reader: &mut Bounded<'_, R>) -> Result<Self, FormatError> {
        let magic: [u8; 6] = reader.fixed("the npy header")?;
        if magic != *MAGIC {
            return Err(reader.error(ErrorKind::Malformed, "this is no npy array"));
        }
        let [major, minor] = reader.fixed("the npy header")?;
        let length = match major {
            1 => u32::from(u16::from_le_bytes(reader.fixed("the npy header")?)),
            2 | 3 => u32::from_le_bytes(reader.fixed("the npy header")?),
            _ => {
                let message = format!("npy version {major}.{minor} is not known");
                return Err(reader.error(ErrorKind::Unsupported, message));
            }
        };
        if length > LONGEST {
            let message = format!("the npy header claims {length} bytes");
            return Err(reader.error(ErrorKind::Malformed, message));
        }
        let text = reader.bytes(u64::from(length), "the npy header")?;
        Self::parse(&text).map_err(|(kind, message)| reader.error(kind, message))
    }

    fn parse(text: &[u8]) -> Result<Self, (ErrorKind, String)> {
        let malformed = |message: &str| (ErrorKind::Malformed, message.to_string());
        let text = std::str::from_utf8(text).map_err(|_| malformed("the npy header is no text"))?;
        let fields = Fields::parse(text).ok_or_else(|| {
            let shown: String = text.trim_end().chars().take(80).collect();
            let message = format!("the npy header cannot be read: {}", shown.escape_debug());
            (ErrorKind::Malformed, message)
        })?;
        let (big_endian, name) = match fields.descr.split_at_checked(1) {
            Some((">", name)) => (true, name),
            Some(("<" | "|" | "=", name)) => (false, name),
            _ => (false, fields.descr),
        };
        let Some((_, dtype)) = TYPES.iter().find(|(known, _)| *known == name) else {
            let message = format!(
                "element type {} is not supported; numbers of up to 64 bits and booleans are",
                fields.descr.escape_debug()
            );
            return Err((ErrorKind::Unsupported, message));
        };
        // The names end in the size in bytes.
        let item_size = usize::from(name.as_bytes()[1] - b'0');
        let byte_len = fields
            .shape
            .iter()
            .try_fold(item_size as u64, |product, size| product.checked_mul(*size as u64))
            .ok_or_else(|| {
                let message = format!("shape {:?} has more values than can be counted", fields.shape);
                (ErrorKind::Malformed, message)
            })?;
        Ok(Self {
            dtype: *dtype,
            item_size,
            big_endian,
            fortran_order: fields.fortran_order,
            shape: fields.shape,
            byte_len,
        })
    }
}

/// The header as numpy writes it: version 1, padded with spaces so that values start at a
/// multiple of 64 bytes. A rank that needs more than 65,535 bytes does not occur.
pub(super) fn write(name: &str, shape: &[usize]) -> Vec<u8> {
    let order = match name {
        "u1" | "i1" | "b1" => '|',
        _ => '<',
    };
    let sizes: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let sizes = match shape {
        [_] => sizes.trim_end(),
        _ => sizes.trim_end_matches(", "),
    };
    let mut text = format!("{{'descr': '{order}{name}', 'fortran_order': False, 'shape': ({sizes}), }}");
    const BEFORE_TEXT: usize = 10;
    let unpadded = BEFORE_TEXT + text.len() + 1;
    text.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(64) - unpadded));
    text.push('\n');
    let mut bytes = MAGIC.to_vec();
    bytes.extend([1, 0]);
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

/// The three entries of the header's dictionary.
struct Fields<'t> {
    descr: &'t str,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl<'t> Fields<'t> {
    fn parse(text: &'t str) -> Option<Self> {
        let mut cursor = Cursor { rest: text.trim() };
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        cursor.expect('{')?;
        while !cursor.accept('}') {
            let name = cursor.quoted()?;
            cursor.expect(':')?;
            match name {
                "descr" => descr = Some(cursor.quoted_or_list()?),
                "fortran_order" => fortran_order = Some(cursor.boolean()?),
                "shape" => shape = Some(cursor.tuple()?),
                _ => return None,
            }
            if !cursor.accept(',') {
                cursor.expect('}')?;
                break;
            }
        }
        cursor.rest.is_empty().then_some(Self {
            descr: descr?,
            fortran_order: fortran_order?,
            shape: shape?,
        })
    }
}

/// Reads the few Python literals that occur in a header.
struct Cursor<'t> {
    rest: &'t str,
}

impl<'t> Cursor<'t> {
    fn accept(&mut self, letter: char) -> bool {
        match self.rest.strip_prefix(letter) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, letter: char) -> Option<()> {
        self.accept(letter).then_some(())
    }

    fn take_until(&mut self, end: char) -> Option<&'t str> {
        let (taken, rest) = self.rest.split_once(end)?;
        self.rest = rest.trim_start();
        Some(taken)
    }

    fn quoted(&mut self) -> Option<&'t str> {
        let quote = self.rest.chars().next().filter(|q| "'\"".contains(*q))?;
        self.rest = &self.rest[1..];
        self.take_until(quote)
    }

    /// A text, or the list that describes a structured type, as it is written.
    fn quoted_or_list(&mut self) -> Option<&'t str> {
        if !self.rest.starts_with('[') {
            return self.quoted();
        }
        let start = self.rest;
        self.take_until(']')?;
        Some(&start[..start.len() - self.rest.len()])
    }

    fn boolean(&mut self) -> Option<bool> {
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest.trim_start();
                return Some(value);
            }
        }
        None
    }

    fn tuple(&mut self) -> Option<Vec<usize>> {
        self.expect('(')?;
        let inside = self.take_until(')')?.trim();
        let inside = inside.strip_suffix(',').unwrap_or(inside).trim();
        if inside.is_empty() {
            return Some(Vec::new());
        }
        let sizes: Option<Vec<usize>> = inside
            .split(',')
            // Python 2 wrote long integers with an L.
            .map(|size| size.trim().trim_end_matches('L').parse().ok())
            .collect();
        sizes.filter(|sizes| sizes.len() <= MOST_DIMENSIONS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_as_numpy_writes_them_are_read() {
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }   \n";
        let header = Header::parse(text.as_bytes()).ok().unwrap();
        assert_eq!((header.dtype, header.shape), (DType::FLOAT, vec![3, 4]));
        assert_eq!((header.byte_len, header.fortran_order), (48, false));
        let text = "{\"shape\": (5L,), 'fortran_order': True, 'descr': '>i8'}";
        let header = Header::parse(text.as_bytes()).ok().unwrap();
        assert_eq!((header.dtype, header.shape), (DType::INT64, vec![5]));
        assert!(header.big_endian && header.fortran_order);
        let text = "{'descr': '|b1', 'fortran_order': False, 'shape': (), }";
        let header = Header::parse(text.as_bytes()).ok().unwrap();
        assert_eq!((header.dtype, header.byte_len), (DType::BOOL, 1));
    }

    #[test]
    fn other_headers_are_refused() {
        let kind = |text: &str| Header::parse(text.as_bytes()).err().unwrap().0;
        let with = |descr: &str, shape: &str| {
            kind(&format!(
                "{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"
            ))
        };
        assert_eq!(with("'|O'", "(3,)"), ErrorKind::Unsupported);
        assert_eq!(with("'<U10'", "(3,)"), ErrorKind::Unsupported);
        assert_eq!(with("[('a', '<f4')]", "(3,)"), ErrorKind::Unsupported);
        assert_eq!(with("'é4'", "(3,)"), ErrorKind::Unsupported);
        assert_eq!(with("''", "(3,)"), ErrorKind::Unsupported);
        assert_eq!(with("'<f4'", "(-3,)"), ErrorKind::Malformed);
        let huge = "(4294967296, 4294967296, 4)";
        assert_eq!(with("'<f4'", huge), ErrorKind::Malformed);
        for text in ["", "{", "{}", "{'descr': '<f4'}", "{'other': 1}", "[1]"] {
            assert_eq!(kind(text), ErrorKind::Malformed, "{text}");
        }
    }

    #[test]
    fn written_headers_align_the_values() {
        for shape in [vec![], vec![7], vec![60_000, 28, 28], vec![1; 32]] {
            let bytes = write("f4", &shape);
            assert_eq!(bytes.len() % 64, 0);
            let header = Header::parse(&bytes[10..]).ok().unwrap();
            assert_eq!(header.shape, shape);
        }
        let text = write("u1", &[7]);
        let text = std::str::from_utf8(&text[10..]).unwrap();
        assert!(text.starts_with("{'descr': '|u1', 'fortran_order': False, 'shape': (7,), }"));
    }
}
