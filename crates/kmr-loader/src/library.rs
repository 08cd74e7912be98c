//! Looks at a shared library's bytes without running any of its code.
//!
//! The dynamic linker trusts its input: a library that is cut short ends the process with SIGBUS. So everything that
//! the linker maps, and the tables that describe it, must lie within the file before it gets to see the file.

use std::ops::Range;

use kmr_abi::METADATA_SECTION;
use object::{
    Architecture, BinaryFormat, Endianness, File, FileKind, Object, ObjectKind, ObjectSection, ObjectSegment,
};

/// Why a file cannot be a plugin for this process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    /// Not a whole shared library.
    Damaged(String),
    /// A whole shared library without plugin metadata.
    NoMetadata,
    /// A plugin, but for another machine.
    Foreign(String),
}

/// Where the metadata lies in the file.
pub(crate) fn metadata_range(bytes: &[u8]) -> Result<Range<usize>, Defect> {
    if bytes.is_empty() {
        return Err(Defect::Damaged("the file is empty".to_owned()));
    }
    let file = parse(bytes)?;
    if file.kind() != ObjectKind::Dynamic {
        return Err(Defect::Damaged(
            "the file is compiled code, but not a shared library".to_owned(),
        ));
    }
    let length = bytes.len() as u64;
    for segment in file.segments() {
        require_within(segment.file_range(), length)?;
    }
    for section in file.sections() {
        if let Some(range) = section.file_range() {
            require_within(range, length)?;
        }
    }
    let section = file.section_by_name(METADATA_SECTION);
    let (start, size) = section
        .and_then(|section| section.file_range())
        .ok_or(Defect::NoMetadata)?;
    require_native(&file)?;
    // Within the file by the check above, so within the address space.
    Ok(start as usize..(start + size) as usize)
}

fn parse(bytes: &[u8]) -> Result<File<'_>, Defect> {
    if FileKind::parse(bytes).is_err() {
        let start = &bytes[..bytes.len().min(512)];
        let is_text = start
            .utf8_chunks()
            .next()
            .is_some_and(|chunk| chunk.valid().len() + 3 >= start.len() && !chunk.valid().contains('\0'));
        let what = if is_text { "a text file" } else { "something else" };
        return Err(Defect::Damaged(format!("the file is no shared library but {what}")));
    }
    File::parse(bytes).map_err(|error| Defect::Damaged(format!("the shared library is cut short or damaged ({error})")))
}

fn require_within((start, size): (u64, u64), length: u64) -> Result<(), Defect> {
    if start.checked_add(size).is_some_and(|end| end <= length) {
        return Ok(());
    }
    Err(Defect::Damaged(format!(
        "the shared library is cut short: it describes {size} bytes from byte {start} on, the file has {length}"
    )))
}

fn require_native(file: &File<'_>) -> Result<(), Defect> {
    if file.format() != BinaryFormat::native_object() {
        return Err(Defect::Foreign(format!(
            "the plugin is a {:?} library; this is {}",
            file.format(),
            std::env::consts::OS
        )));
    }
    let native = match std::env::consts::ARCH {
        "x86_64" => Architecture::X86_64,
        "aarch64" => Architecture::Aarch64,
        _ => return Ok(()),
    };
    let endianness = if cfg!(target_endian = "little") {
        Endianness::Little
    } else {
        Endianness::Big
    };
    if (file.architecture(), file.endianness(), file.is_64()) == (native, endianness, true) {
        return Ok(());
    }
    let theirs = match file.architecture() {
        Architecture::Unknown => "an unknown architecture".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    };
    Err(Defect::Foreign(format!(
        "the plugin is built for {theirs}; this machine is {}",
        std::env::consts::ARCH
    )))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tiny_library::{NATIVE_MACHINE, tiny_library};

    #[test]
    fn the_section_is_found_where_it_lies() {
        let library = tiny_library(NATIVE_MACHINE, ".kmr", b"metadata");
        let range = metadata_range(&library).unwrap();
        assert_eq!(&library[range], b"metadata");
    }

    #[test]
    fn every_truncation_is_damage() {
        let library = tiny_library(NATIVE_MACHINE, ".kmr", b"metadata");
        for length in 0..library.len() {
            let result = metadata_range(&library[..length]);
            assert!(matches!(result, Err(Defect::Damaged(_))), "{length}: {result:?}");
        }
    }

    #[test]
    fn other_files_are_told_apart() {
        let message = |bytes: &[u8]| match metadata_range(bytes) {
            Err(Defect::Damaged(message)) => message,
            other => panic!("{other:?}"),
        };
        assert!(message(b"").contains("empty"));
        assert!(message("größer als nötig\n".repeat(60).as_bytes()).contains("a text file"));
        assert!(message(b"{}").contains("a text file"));
        assert!(message(&[0xff; 100]).contains("something else"));
    }

    #[test]
    fn a_library_without_metadata_and_one_for_another_machine() {
        let without = tiny_library(NATIVE_MACHINE, ".text", b"");
        assert_eq!(metadata_range(&without), Err(Defect::NoMetadata));
        let foreign = tiny_library(object::elf::EM_S390, ".kmr", b"metadata");
        assert!(matches!(metadata_range(&foreign), Err(Defect::Foreign(_))));
    }

    proptest! {
        #[test]
        fn no_change_of_bytes_panics_or_leads_outside(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut library = tiny_library(NATIVE_MACHINE, ".kmr", b"metadata");
            for (place, byte) in changes {
                let place = place.index(library.len());
                library[place] = byte;
            }
            if let Ok(range) = metadata_range(&library) {
                prop_assert!(library.get(range).is_some());
            }
        }
    }
}
