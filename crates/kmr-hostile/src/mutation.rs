//! Damage by a seed: what happens to files, and what fuzzers do to them.

/// A stream of numbers from a seed (SplitMix64).
pub struct Numbers(u64);

impl Numbers {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.draw() % limit as u64) as usize
    }
}

/// Bytes that mean something to one of the readers: ends of ranges of integers, as varints and in
/// little-endian order.
const TELLING: [&[u8]; 8] = [
    &[0x00],
    &[0xff],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x20],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
];

/// `original` with one to four of: a flipped bit, another byte, telling bytes, a part left out, a part
/// said twice, a part moved, the end cut off.
pub fn mutated(original: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for _ in 0..=numbers.below(4) {
        if bytes.is_empty() {
            break;
        }
        let place = numbers.below(bytes.len());
        let end = (place + 1 + numbers.below(24)).min(bytes.len());
        match numbers.below(8) {
            0 | 1 => bytes[place] ^= 1 << numbers.below(8),
            2 => bytes[place] = numbers.draw() as u8,
            3 => drop(bytes.splice(place..=place, TELLING[numbers.below(TELLING.len())].iter().copied())),
            4 => drop(bytes.drain(place..end)),
            5 => {
                let part = bytes[place..end].to_vec();
                drop(bytes.splice(place..place, part));
            }
            6 => {
                let part: Vec<u8> = bytes.drain(place..end).collect();
                let to = numbers.below(bytes.len() + 1);
                drop(bytes.splice(to..to, part));
            }
            _ => bytes.truncate(place),
        }
    }
    bytes
}
