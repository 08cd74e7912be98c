//! The smallest file that passes for a shared library: an ELF header, one segment, three sections.

#[cfg(target_arch = "aarch64")]
pub(crate) const NATIVE_MACHINE: object::elf::Machine = object::elf::EM_AARCH64;
#[cfg(not(target_arch = "aarch64"))]
pub(crate) const NATIVE_MACHINE: object::elf::Machine = object::elf::EM_X86_64;

const HEADER: u64 = 64;
const SEGMENT: u64 = 56;
const SECTION: u64 = 64;

/// A 64-bit little-endian shared library with one section of content.
pub(crate) fn tiny_library(machine: object::elf::Machine, section: &str, content: &[u8]) -> Vec<u8> {
    let names = format!("\0{section}\0.shstrtab\0");
    let content_at = HEADER + SEGMENT;
    let names_at = content_at + content.len() as u64;
    let sections_at = (names_at + names.len() as u64).next_multiple_of(8);
    let length = sections_at + 3 * SECTION;

    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    half_words(&mut file, &[object::elf::ET_DYN.0, machine.0]);
    words(&mut file, &[1]);
    long_words(&mut file, &[0, HEADER, sections_at]);
    words(&mut file, &[0]);
    half_words(&mut file, &[HEADER as u16, SEGMENT as u16, 1, SECTION as u16, 3, 2]);

    words(&mut file, &[object::elf::PT_LOAD.0, object::elf::PF_R.0]);
    long_words(&mut file, &[0, 0, 0, length, length, 4096]);

    file.extend_from_slice(content);
    file.extend_from_slice(names.as_bytes());
    file.resize(sections_at as usize, 0);

    let name_of_names = section.len() as u32 + 2;
    section_header(&mut file, 0, object::elf::SHT_NULL.0, 0, 0);
    section_header(&mut file, 1, object::elf::SHT_PROGBITS.0, content_at, content.len());
    section_header(
        &mut file,
        name_of_names,
        object::elf::SHT_STRTAB.0,
        names_at,
        names.len(),
    );
    file
}

fn section_header(file: &mut Vec<u8>, name: u32, kind: u32, offset: u64, size: usize) {
    words(file, &[name, kind]);
    long_words(file, &[0, 0, offset, size as u64]);
    words(file, &[0, 0]);
    long_words(file, &[1, 0]);
}

fn half_words(file: &mut Vec<u8>, values: &[u16]) {
    values
        .iter()
        .for_each(|value| file.extend_from_slice(&value.to_le_bytes()));
}

fn words(file: &mut Vec<u8>, values: &[u32]) {
    values
        .iter()
        .for_each(|value| file.extend_from_slice(&value.to_le_bytes()));
}

fn long_words(file: &mut Vec<u8>, values: &[u64]) {
    values
        .iter()
        .for_each(|value| file.extend_from_slice(&value.to_le_bytes()));
}
