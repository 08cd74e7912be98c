//! Linux.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    io::Errno,
};

use crate::{Keep, Platform, SealedFile};

pub struct Linux;

impl Platform for Linux {
    fn sealed_file(&self, name: &str, bytes: &[u8]) -> io::Result<SealedFile> {
        let mut file = File::from(memory_file(name)?);
        file.write_all(bytes)?;
        fcntl_add_seals(
            &file,
            SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
        )?;
        let descriptor = OwnedFd::from(file);
        Ok(SealedFile {
            path: format!("/proc/self/fd/{}", descriptor.as_raw_fd()).into(),
            _keep: Keep::Memory(descriptor),
        })
    }
}

fn memory_file(name: &str) -> io::Result<OwnedFd> {
    // The kernel takes at most 249 bytes.
    let end = name
        .char_indices()
        .map(|(at, _)| at)
        .find(|&at| at > 200)
        .unwrap_or(name.len());
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know NOEXEC_SEAL, later ones may insist on it (vm.memfd_noexec = 2). A library is
    // mapped, not executed, so it can do without the mode bits.
    match memfd_create(&name[..end], flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => Ok(memfd_create(&name[..end], flags)?),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};

    use super::*;

    #[test]
    fn nobody_can_change_a_sealed_file() {
        let sealed = Linux.sealed_file(&"long name ".repeat(40), b"library").unwrap();
        assert_eq!(fs::read(sealed.path()).unwrap(), b"library");
        let mut file = OpenOptions::new().write(true).open(sealed.path()).unwrap();
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(0).is_err());
        assert_eq!(fs::read(sealed.path()).unwrap(), b"library");
    }
}
