//! Whether two splits share a sample.

use std::collections::HashMap;

use crate::Dataset;

/// The SHA-256 of one sample's inputs as they are stored: the values' bytes, row-major and
/// little-endian, input after input in the order of the inputs' names; of a text, what stands for it before it is padded.
pub type SampleDigest = [u8; 32];

/// Every sample of `b` that `a` has, too: positions in `a` and in `b`, in the order of `b`. A
/// sample that occurs several times in `a` counts once, at its first place.
///
/// Samples are compared as they are stored, so that the same picture as uint8 and as float32 are
/// two; labels are left aside.
pub fn overlaps(a: &Dataset, b: &Dataset) -> Vec<(usize, usize)> {
    let mut places: HashMap<SampleDigest, usize> = HashMap::with_capacity(a.len());
    for (place, digest) in a.digests().enumerate() {
        places.entry(digest).or_insert(place);
    }
    let samples = b.digests().enumerate();
    samples
        .filter_map(|(place, digest)| Some((*places.get(&digest)?, place)))
        .collect()
}

/// The first sample of `b` that `a` has, too: its positions in `a` and in `b`.
pub fn overlap(a: &Dataset, b: &Dataset) -> Option<(usize, usize)> {
    overlaps(a, b).into_iter().next()
}
