//! Looks into a library file without running any of it.

use object::{Architecture, BinaryFormat, Object, ObjectKind, ObjectSection};

/// Why a file is no plugin, and the way out.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub message: String,
    pub help: &'static str,
}

const NOT_A_LIBRARY: &str = "a plugin is a compiled library (`crate-type = [\"cdylib\"]`)";
/// The message about a good library that is no plugin.
pub const NO_METADATA: &str = "is a shared library, but not a kmr plugin: it has no metadata";
const COPY_AGAIN: &str = "build or copy it again";

impl Refusal {
    fn new(message: impl Into<String>, help: &'static str) -> Self {
        let message = message.into();
        Self { message, help }
    }
}

/// The metadata section of a whole shared library for this system.
///
/// # Errors
/// Why `bytes` are not that.
pub fn metadata_section(bytes: &[u8]) -> Result<&[u8], Refusal> {
    if bytes.is_empty() {
        return Err(Refusal::new("the file is empty", COPY_AGAIN));
    }
    if object::FileKind::parse(bytes).is_err() {
        return Err(Refusal::new("is not a shared library", NOT_A_LIBRARY));
    }
    #[cfg(all(unix, not(target_vendor = "apple")))]
    elf::check_extents(bytes)?;
    let damaged =
        |error: object::Error| Refusal::new(format!("is a damaged library: {error}"), COPY_AGAIN);
    let file = object::File::parse(bytes).map_err(damaged)?;
    check_target(&file)?;
    let section = file
        .section_by_name(kmr_abi::METADATA_SECTION)
        .ok_or_else(|| {
            Refusal::new(
                NO_METADATA,
                "a plugin is exported with `kmr_sdk::export_plugin!`",
            )
        })?;
    section.data().map_err(damaged)
}

fn check_target(file: &object::File<'_>) -> Result<(), Refusal> {
    const FORMAT: BinaryFormat = if cfg!(target_vendor = "apple") {
        BinaryFormat::MachO
    } else if cfg!(windows) {
        BinaryFormat::Pe
    } else {
        BinaryFormat::Elf
    };
    const OTHER_SYSTEM: &str = "get the plugin's build for this system";
    if file.format() != FORMAT {
        let message = format!("is a library for another system ({:?})", file.format());
        return Err(Refusal::new(message, OTHER_SYSTEM));
    }
    if architecture_name(file.architecture()) != std::env::consts::ARCH {
        let found = architecture_name(file.architecture());
        let message = format!(
            "is built for {found}; this program runs on {}",
            std::env::consts::ARCH
        );
        return Err(Refusal::new(message, OTHER_SYSTEM));
    }
    if file.kind() != ObjectKind::Dynamic {
        return Err(Refusal::new("is not a shared library", NOT_A_LIBRARY));
    }
    Ok(())
}

fn architecture_name(architecture: Architecture) -> String {
    match architecture {
        Architecture::X86_64 => "x86_64".into(),
        Architecture::Aarch64 => "aarch64".into(),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// The dynamic linker maps what the headers say and dies of SIGBUS where the file ends before that.
#[cfg(all(unix, not(target_vendor = "apple")))]
mod elf {
    use object::{
        Endianness, FileKind,
        elf::{FileHeader32, FileHeader64, SHT_NOBITS},
        read::elf::{FileHeader, ProgramHeader, SectionHeader},
    };

    use super::{COPY_AGAIN, Refusal};

    pub fn check_extents(bytes: &[u8]) -> Result<(), Refusal> {
        match FileKind::parse(bytes) {
            Ok(FileKind::Elf64) => check::<FileHeader64<Endianness>>(bytes),
            Ok(FileKind::Elf32) => check::<FileHeader32<Endianness>>(bytes),
            _ => Ok(()),
        }
    }

    fn check<H: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Result<(), Refusal> {
        let length = bytes.len() as u64;
        let short = |_: object::Error| cut_short(length, None);
        let header = H::parse(bytes).map_err(short)?;
        let endian = header.endian().map_err(short)?;
        let headers_end = Into::<u64>::into(header.e_shoff(endian)).saturating_add(
            u64::from(header.e_shentsize(endian)) * u64::from(header.e_shnum(endian)),
        );
        let mut end = headers_end;
        if headers_end <= length {
            for segment in header.program_headers(endian, bytes).map_err(short)? {
                let (offset, size) = segment.file_range(endian);
                end = end.max(offset.saturating_add(size));
            }
            for section in header.section_headers(endian, bytes).map_err(short)? {
                if section.sh_type(endian) != SHT_NOBITS {
                    let (offset, size) = (
                        section.sh_offset(endian).into(),
                        section.sh_size(endian).into(),
                    );
                    end = end.max(u64::saturating_add(offset, size));
                }
            }
        }
        if end > length {
            Err(cut_short(length, Some(end)))
        } else {
            Ok(())
        }
    }

    fn cut_short(length: u64, needed: Option<u64>) -> Refusal {
        let message = match needed {
            Some(needed) => {
                format!("is cut short: it ends after {length} of at least {needed} bytes")
            }
            None => format!("is cut short: it ends after {length} bytes"),
        };
        Refusal::new(message, COPY_AGAIN)
    }
}
