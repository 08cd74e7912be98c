//! How much memory a hostile Parquet file can ask for. One test in a binary of its own: the allocator counts for the whole
//! process.

use std::{fs, path::PathBuf};

use kmr_hostile::mutation::{Numbers, mutated};
use kmr_text::{Content, Limits, TextSource, Texts, Tokenizer};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes that may be in use for each byte of the file.
const PER_BYTE: usize = 256;
/// Bytes that may be in use whatever the file.
const ALWAYS: usize = 192 << 20;

#[test]
fn no_file_asks_for_more_than_it_can_hold() {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let tokenizer = Tokenizer::read(&fixtures.join("words.json")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let mut numbers = Numbers::new(11);
    let mut highest = 0;
    let mut check = |name: &str, content: &[u8]| {
        fs::write(&path, content).unwrap();
        let texts = Texts {
            text: Some("text".into()),
            ..Texts::default()
        };
        let source = TextSource::new(&path, Content::Texts(texts));
        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        drop(source.read(&tokenizer, Limits::default()));
        let used = MEMORY.peak_usage() - before;
        assert!(
            used <= content.len() * PER_BYTE + ALWAYS,
            "{name}: {} bytes of file, {used} of memory",
            content.len()
        );
        highest = highest.max(used);
    };
    for name in ["repeated", "unfolded", "plain", "snappy", "zstd", "gzip", "brotli"] {
        let whole = fs::read(fixtures.join(format!("parquet/{name}.parquet"))).unwrap();
        check(name, &whole);
        for _ in 0..300 {
            check(name, &mutated(&whole, &mut numbers));
        }
    }
    // The test would see a page or a column that is unfolded whole.
    assert!(highest > 32 << 20, "{highest}");
}
