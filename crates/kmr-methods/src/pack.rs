//! Codes of a few bits in words of 64.
//!
//! A word holds ⌊64 / bits⌋ codes, the first in its lowest bits; no code straddles two words.

use crate::MethodError;

/// How many words hold `count` codes of `bits`; 0 if `bits` is 0 or more than 8.
pub fn words(count: usize, bits: u8) -> usize {
    match check(bits) {
        Ok(per_word) => count.div_ceil(per_word),
        Err(_) => 0,
    }
}

/// Packs codes of `bits` into [`words`]; unused bits are zero.
///
/// # Errors
/// If `bits` is not in 1..=8, or a code does not fit.
pub fn pack(codes: &[u8], bits: u8) -> Result<Vec<u64>, MethodError> {
    let per_word = check(bits)?;
    if let Some(position) = codes.iter().position(|&code| u16::from(code) >> bits != 0) {
        let code = codes[position];
        return Err(MethodError::Code { code, position, bits });
    }
    let word = |codes: &[u8]| codes.iter().rev().fold(0, |word, &code| word << bits | u64::from(code));
    Ok(codes.chunks(per_word).map(word).collect())
}

/// The first `count` codes of packed words.
///
/// # Errors
/// If `bits` is not in 1..=8, or there are not as many words as `count` codes take.
pub fn unpack(packed: &[u64], count: usize, bits: u8) -> Result<Vec<u8>, MethodError> {
    let per_word = check(bits)?;
    crate::error::check_length("the packed words", words(count, bits), packed.len())?;
    let code = |at: usize| packed[at / per_word] >> (at % per_word * usize::from(bits)) & ((1 << bits) - 1);
    Ok((0..count).map(|at| code(at) as u8).collect())
}

/// How many codes of `bits` a word holds.
fn check(bits: u8) -> Result<usize, MethodError> {
    if (1..=8).contains(&bits) {
        return Ok(usize::from(64 / bits));
    }
    let (what, domain) = ("the bits of a code", "from 1 to 8");
    Err(MethodError::Domain {
        what,
        domain,
        value: f64::from(bits),
    })
}
