//! Thrift's compact protocol, as far as Parquet's footers and page headers need it: values without a schema.
//!
//! Nothing is allocated by a number in the file: what a list or a struct takes grows with the bytes that it is made of.

/// Structs and lists in each other; Parquet's own are 7 deep.
const DEEPEST: usize = 24;

/// A value.
#[derive(Debug)]
pub(super) enum Value<'b> {
    Truth(bool),
    Integer(i64),
    Bytes(&'b [u8]),
    List(Vec<Self>),
    Struct(Fields<'b>),
    /// A number of floating point, a set or a map, of which nothing here is made.
    Other,
}

/// The fields of a struct by their numbers.
#[derive(Debug, Default)]
pub(super) struct Fields<'b>(Vec<(i16, Value<'b>)>);

impl<'b> Fields<'b> {
    /// Reads a struct from the beginning of `bytes`, and leaves what follows it there.
    pub(super) fn read(bytes: &mut &'b [u8]) -> Result<Self, String> {
        fields(bytes, 0)
    }

    pub(super) fn get(&self, number: i16) -> Option<&Value<'b>> {
        let found = self.0.iter().find(|(known, _)| *known == number);
        found.map(|(_, value)| value)
    }

    pub(super) fn integer(&self, number: i16) -> Option<i64> {
        match self.get(number) {
            Some(Value::Integer(value)) => Some(*value),
            _ => None,
        }
    }

    pub(super) fn truth(&self, number: i16) -> Option<bool> {
        match self.get(number) {
            Some(Value::Truth(value)) => Some(*value),
            _ => None,
        }
    }

    pub(super) fn bytes(&self, number: i16) -> Option<&'b [u8]> {
        match self.get(number) {
            Some(Value::Bytes(bytes)) => Some(bytes),
            _ => None,
        }
    }

    pub(super) fn fields(&self, number: i16) -> Option<&Fields<'b>> {
        match self.get(number) {
            Some(Value::Struct(fields)) => Some(fields),
            _ => None,
        }
    }

    /// The structs of a list; none where there is no such list.
    pub(super) fn structs(&self, number: i16) -> impl Iterator<Item = &Fields<'b>> {
        let list = match self.get(number) {
            Some(Value::List(list)) => &list[..],
            _ => &[],
        };
        list.iter().filter_map(|value| match value {
            Value::Struct(fields) => Some(fields),
            _ => None,
        })
    }

    /// The number of the first field, which is what a union is told by.
    pub(super) fn first(&self) -> Option<i16> {
        self.0.first().map(|(number, _)| *number)
    }
}

fn cut() -> String {
    "ends in the middle of a field".to_owned()
}

fn byte(bytes: &mut &[u8]) -> Result<u8, String> {
    let (first, rest) = bytes.split_first().ok_or_else(cut)?;
    *bytes = rest;
    Ok(*first)
}

fn take<'b>(bytes: &mut &'b [u8], count: u64) -> Result<&'b [u8], String> {
    let count = usize::try_from(count).map_err(|_| cut())?;
    let (taken, rest) = bytes.split_at_checked(count).ok_or_else(cut)?;
    *bytes = rest;
    Ok(taken)
}

/// A whole number in as many bytes of seven bits as it needs.
pub(super) fn variable(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let next = byte(bytes)?;
        value |= u64::from(next & 0x7f) << shift;
        if next < 0x80 {
            return Ok(value);
        }
    }
    Err("has a number of more than 64 bits".to_owned())
}

/// A signed number: the sign is in the lowest bit.
fn signed(bytes: &mut &[u8]) -> Result<i64, String> {
    let value = variable(bytes)?;
    Ok((value >> 1) as i64 ^ -((value & 1) as i64))
}

fn fields<'b>(bytes: &mut &'b [u8], depth: usize) -> Result<Fields<'b>, String> {
    let mut found = Fields::default();
    let mut number = 0_i16;
    loop {
        let head = byte(bytes)?;
        let kind = head & 15;
        if kind == 0 {
            return Ok(found);
        }
        number = match head >> 4 {
            0 => i16::try_from(signed(bytes)?).map_err(|_| "has a field without a number".to_owned())?,
            step => number.wrapping_add(i16::from(step)),
        };
        let value = match kind {
            1 | 2 => Value::Truth(kind == 1),
            _ => value(bytes, kind, depth)?,
        };
        found.0.push((number, value));
    }
}

fn value<'b>(bytes: &mut &'b [u8], kind: u8, depth: usize) -> Result<Value<'b>, String> {
    if depth > DEEPEST {
        return Err(format!("has structs in each other, more than {DEEPEST} deep"));
    }
    Ok(match kind {
        // In a list a truth is a byte of its own.
        1 | 2 => Value::Truth(byte(bytes)? == 1),
        3 => Value::Integer(i64::from(byte(bytes)?.cast_signed())),
        4..=6 => Value::Integer(signed(bytes)?),
        7 => {
            take(bytes, 8)?;
            Value::Other
        }
        8 => {
            let length = variable(bytes)?;
            Value::Bytes(take(bytes, length)?)
        }
        9 | 10 => {
            let head = byte(bytes)?;
            let count = match head >> 4 {
                15 => variable(bytes)?,
                count => u64::from(count),
            };
            let mut list = Vec::new();
            for _ in 0..count {
                list.push(value(bytes, head & 15, depth + 1)?);
            }
            Value::List(list)
        }
        11 => {
            let count = variable(bytes)?;
            let kinds = if count > 0 { byte(bytes)? } else { 0 };
            for _ in 0..count {
                value(bytes, kinds >> 4, depth + 1)?;
                value(bytes, kinds & 15, depth + 1)?;
            }
            Value::Other
        }
        12 => Value::Struct(fields(bytes, depth + 1)?),
        other => return Err(format!("has a field of the unknown kind {other}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_are_read_and_what_follows_is_left() {
        // 1: 150, 2: "ab", 3: [1, 0], 20: {}, and a byte after the end.
        let bytes = [
            0x15, 0xac, 0x02, 0x18, 2, b'a', b'b', 0x19, 0x25, 2, 0, 0x0c, 40, 0, 0, 9,
        ];
        let mut rest = &bytes[..];
        let fields = Fields::read(&mut rest).unwrap();
        assert_eq!(rest, [9]);
        assert_eq!(fields.integer(1), Some(150));
        assert_eq!(fields.bytes(2), Some(&b"ab"[..]));
        assert!(matches!(fields.get(3), Some(Value::List(list)) if list.len() == 2));
        assert_eq!(fields.fields(20).and_then(Fields::first), None);
        for length in 0..bytes.len() - 1 {
            assert!(Fields::read(&mut &bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn nesting_and_lengths_are_bounded() {
        let deep = [0x1c; 1000];
        assert!(Fields::read(&mut &deep[..]).unwrap_err().contains("deep"));
        // A list of lists of lists.
        let deep = [0x19; 1000];
        assert!(Fields::read(&mut &deep[..]).is_err());
        // A text and a list of 2^63 elements.
        let long = [0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1];
        assert!(Fields::read(&mut &long[..]).is_err());
        let long = [0x19, 0xf5, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1];
        assert!(Fields::read(&mut &long[..]).is_err());
        assert!(variable(&mut &[0xff; 11][..]).unwrap_err().contains("64 bits"));
    }
}
