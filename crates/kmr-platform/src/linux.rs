//! Linux: libraries are loaded from sealed memory files.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsRawFd,
    path::PathBuf,
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    io::Errno,
};

use crate::{Platform, SealedFile, Storage, private_copy::private_copy};

pub(crate) struct Linux;

impl Platform for Linux {
    fn sealed_library(&self, library: &[u8], name: &str) -> io::Result<SealedFile> {
        sealed_memory(library, name).or_else(|error| {
            log::debug!("no sealed memory file ({error}); a private copy of {name} serves");
            private_copy(library, name)
        })
    }
}

fn sealed_memory(library: &[u8], name: &str) -> io::Result<SealedFile> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know NOEXEC_SEAL; later ones may insist on it (vm.memfd_noexec = 2). Mapping the
    // file as a library does not need the mode bits that it takes away.
    let descriptor = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create(name, flags)?,
        other => other?,
    };
    let mut file = File::from(descriptor);
    file.write_all(library)?;
    fcntl_add_seals(
        &file,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
    )?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    if !path.exists() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "/proc is not mounted",
        ));
    }
    Ok(SealedFile {
        path,
        sealed: true,
        _storage: Storage::Memory {
            _descriptor: file.into(),
        },
    })
}
