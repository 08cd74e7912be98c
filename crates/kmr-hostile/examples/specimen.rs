//! Writes the specimen to standard output: the first file of the fuzzer's corpus.

use std::io::{self, Write};

fn main() -> io::Result<()> {
    io::stdout().write_all(&kmr_hostile::specimen::everything())
}
