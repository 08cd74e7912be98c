//! Hostile files: what is said about each, and how much memory it can ask for.
//!
//! One test in a binary of its own: the allocator counts for the whole process. With `VERBOSE` set it tells the
//! memory for each file.

use bytes::Bytes;
use kmr_hostile::{files, onnx};
use kmr_model::Model;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes that may be in use for each byte of the file.
const PER_BYTE: usize = 256;
/// Bytes that may be in use whatever the file.
const ALWAYS: usize = 256 << 20;

/// The most memory in use while `work` runs, beside what was in use before it.
fn peak(work: impl FnOnce()) -> usize {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    work();
    MEMORY.peak_usage() - before
}

#[test]
fn hostile_models_get_one_message_and_little_memory() {
    let verbose = std::env::var_os("VERBOSE").is_some();
    let files = files::all();
    let mut broken = Vec::new();
    for file in files {
        if verbose {
            eprint!("{:>9} B ", file.bytes.len());
        }
        let message = match Model::decode(Bytes::copy_from_slice(&file.bytes)) {
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        let as_expected = match (&message, file.refusal) {
            (Some(message), Some(refusal)) => message.contains(refusal),
            (None, None) => true,
            _ => false,
        };
        if !as_expected {
            broken.push(format!("{}: {message:?}", file.name));
        }
        let used = peak(|| {
            onnx::exercise(&file.bytes);
        });
        if verbose {
            eprintln!("{:>9} KiB  {}", used >> 10, file.name);
        }
        if used > file.bytes.len() * PER_BYTE + ALWAYS {
            broken.push(format!(
                "{}: {} bytes of file, {used} of memory",
                file.name,
                file.bytes.len()
            ));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
