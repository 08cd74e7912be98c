//! Arrays of numbers: npz archives, npy files and IDX files, told apart as the program does.

use std::{io::Cursor, path::Path};

use kmr_formats::{FormatError, NamedArrays, read_idx_from, read_npy_from, read_npz_from};

use crate::{Outcome, message};

/// The name of the bytes in messages.
const NAME: &str = "arrays";

/// Reads arrays in every form that there is.
///
/// # Panics
/// If a rule is broken.
pub fn exercise(bytes: &[u8]) -> Outcome {
    let name = Path::new(NAME);
    let one = |tensor| NamedArrays::from([(String::new(), tensor)]);
    let outcomes = [
        check(read_npz_from(name, Cursor::new(bytes))),
        check(read_npy_from(name, Cursor::new(bytes)).map(one)),
        check(read_idx_from(name, Cursor::new(bytes)).map(one)),
    ];
    match outcomes.contains(&Outcome::Read) {
        true => Outcome::Read,
        false => Outcome::Refused,
    }
}

fn check(arrays: Result<NamedArrays, FormatError>) -> Outcome {
    match arrays {
        Ok(arrays) => {
            for tensor in arrays.values() {
                let bits = tensor.dtype().bits().expect("arrays hold numbers");
                assert_eq!(tensor.len() * bits / 8, tensor.byte_len());
            }
            Outcome::Read
        }
        Err(error) => {
            message::check(&error.to_string());
            message::check(error.way_out());
            assert!(error.to_string().starts_with(NAME));
            Outcome::Refused
        }
    }
}
