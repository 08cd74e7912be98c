//! From the committed archives to cases.

use std::io::Read;

use bytes::Bytes;

use crate::{Case, DataSet};

const ARCHIVES: [(&str, &[u8]); 2] = [
    ("onnx-1.12", include_bytes!("../archives/onnx-1.12.tar.zst")),
    ("onnx-1.23", include_bytes!("../archives/onnx-1.23.tar.zst")),
];

/// An archive that is not what `make.py` writes.
#[derive(Debug, thiserror::Error)]
#[error("archive `{archive}`: {message}")]
pub struct ArchiveError {
    archive: &'static str,
    message: String,
}

/// All cases of all archives, in the order of the archives and of their names.
///
/// # Errors
/// If an archive is damaged.
pub fn cases() -> Result<Vec<Case>, ArchiveError> {
    let mut cases = Vec::new();
    for (archive, packed) in ARCHIVES {
        let error = |message: String| ArchiveError { archive, message };
        let mut plain = Vec::new();
        ruzstd::decoding::StreamingDecoder::new(packed)
            .map_err(|e| error(e.to_string()))?
            .read_to_end(&mut plain)
            .map_err(|e| error(e.to_string()))?;
        let members = members(Bytes::from(plain)).map_err(error)?;
        for (path, bytes) in members {
            add(&mut cases, &path, bytes).ok_or_else(|| error(format!("holds `{path}`, out of place")))?;
        }
    }
    Ok(cases)
}

/// Adds a member to its case, which is the last one: members are sorted, `0/…` before `model.onnx`.
fn add(cases: &mut Vec<Case>, path: &str, bytes: Bytes) -> Option<()> {
    let mut parts = path.split('/');
    let (suite, name, part) = (parts.next()?, parts.next()?, parts.next()?);
    if !matches!(cases.last(), Some(last) if last.suite == suite && last.name == name) {
        cases.push(Case::new(suite, name));
    }
    let case = cases.last_mut()?;
    if part == "model.onnx" {
        case.model = bytes;
        return Some(());
    }
    let set: usize = part.parse().ok()?;
    let (kind, position) = parts.next()?.strip_suffix(".pb")?.split_once('_')?;
    let position: usize = position.parse().ok()?;
    // Numbers that skip some would ask for memory that nothing fills.
    const NUMBERS: usize = 1000;
    if set >= NUMBERS || position >= NUMBERS {
        return None;
    }
    if case.data.len() <= set {
        case.data.resize_with(set + 1, DataSet::default);
    }
    let values = match kind {
        "input" => &mut case.data[set].inputs,
        "output" => &mut case.data[set].outputs,
        _ => return None,
    };
    if values.len() <= position {
        values.resize(position + 1, None);
    }
    values[position] = Some(bytes);
    Some(())
}

/// The files of a POSIX `ustar` archive.
fn members(archive: Bytes) -> Result<Vec<(String, Bytes)>, String> {
    const BLOCK: usize = 512;
    let mut members = Vec::new();
    let mut at = 0;
    while let Some(header) = archive.get(at..at + BLOCK) {
        let text = |from: usize, length: usize| {
            let field = &header[from..from + length];
            let end = field.iter().position(|&byte| byte == 0).unwrap_or(length);
            std::str::from_utf8(&field[..end]).map_err(|e| e.to_string())
        };
        let name = text(0, 100)?;
        if name.is_empty() {
            break;
        }
        let size = usize::from_str_radix(text(124, 12)?.trim(), 8).map_err(|e| e.to_string())?;
        let path = match text(345, 155)? {
            "" => name.to_owned(),
            prefix => format!("{prefix}/{name}"),
        };
        let start = at + BLOCK;
        let end = start.checked_add(size).filter(|&end| end <= archive.len());
        let end = end.ok_or_else(|| format!("`{path}` is cut off"))?;
        members.push((path, archive.slice(start..end)));
        at = end.next_multiple_of(BLOCK);
    }
    Ok(members)
}
