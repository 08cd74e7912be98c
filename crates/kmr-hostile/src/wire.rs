//! Protobuf by hand: what no honest writer would write.

/// A length-delimited field.
pub fn field(number: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = varint(number << 3 | 2);
    bytes.extend(varint(content.len() as u64));
    bytes.extend(content);
    bytes
}

/// An integer field.
pub fn integer(number: u64, value: i64) -> Vec<u8> {
    let mut bytes = varint(number << 3);
    bytes.extend(varint(value as u64));
    bytes
}

/// A base-128 number.
pub fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// `core` inside of `depth` rounds of `layers`, outermost first: each is a field of this number, behind
/// the bytes that stand before it.
///
/// Written back to front, so that it takes linear time.
pub fn nested(core: &[u8], depth: usize, layers: &[(&[u8], u64)]) -> Vec<u8> {
    let mut reversed: Vec<u8> = core.iter().rev().copied().collect();
    for _ in 0..depth {
        for (before, number) in layers.iter().rev() {
            let mut head = before.to_vec();
            head.extend(varint(number << 3 | 2));
            head.extend(varint(reversed.len() as u64));
            reversed.extend(head.iter().rev());
        }
    }
    reversed.reverse();
    reversed
}
