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

/// Files that are read and written in bounds, and that inference, costs or channels still take more for than these
/// bounds allow. The list may only become shorter.
const UNBOUNDED: [&str; 12] = [
    "a stored axis of 2^24 without elements",
    "100,000 ranges of 1,024",
    "100,000 copies of 1,024 numbers",
    "100,000 values of rank 1,000",
    "100,000 axes added one by one",
    "100,000 inputs",
    "100,000 inputs of one node",
    "100,000 convolutions in a row",
    "20,000 pairs of convolutions of two channels",
    "100,000 quantized weights",
    "products with a weight behind 100,000 casts",
    "100,000 products with one weight",
];

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
    for name in UNBOUNDED {
        assert!(files.iter().any(|file| file.name == name), "{name} is a file");
    }
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
            let model = onnx::read(&file.bytes);
            if let Some(model) = model.filter(|_| !UNBOUNDED.contains(&file.name)) {
                onnx::used(&model);
            }
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
