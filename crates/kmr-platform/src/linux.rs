//! Linux.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, CWD, FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags, fallocate, fcntl_add_seals, linkat,
        memfd_create,
    },
    io::Errno,
};

use crate::{Keep, Platform, SealedFile, scratch};

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

    fn unnamed_file(&self, folder: &Path) -> io::Result<Option<File>> {
        // Naming the file goes by its descriptor's path.
        if !Path::new("/proc/self/fd").exists() {
            return Ok(None);
        }
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::open(folder, flags, Mode::from_raw_mode(0o666)) {
            Ok(descriptor) => Ok(Some(File::from(descriptor))),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn scratch_file(&self, folder: &Path, length: u64) -> io::Result<File> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = match rustix::fs::open(folder, flags, Mode::from_raw_mode(0o600)) {
            Ok(descriptor) => File::from(descriptor),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => return scratch::scratch_file(folder, length),
            Err(error) => return Err(error.into()),
        };
        match fallocate(&file, FallocateFlags::empty(), 0, length) {
            Ok(()) => Ok(file),
            Err(Errno::OPNOTSUPP) => scratch::fill(&file, length).map(|()| file),
            Err(error) => Err(error.into()),
        }
    }

    fn name_file(&self, file: &File, path: &Path) -> io::Result<()> {
        let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
        Ok(linkat(CWD, unnamed, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
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
