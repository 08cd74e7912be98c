//! Ways that work on every system.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use memmap2::Mmap;

use crate::{Keep, SealedFile};

/// A system that nothing special is known of.
#[cfg(not(target_os = "linux"))]
pub struct Portable;

#[cfg(not(target_os = "linux"))]
impl crate::Platform for Portable {}

#[allow(unsafe_code)]
pub fn map(path: &Path) -> io::Result<Bytes> {
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        // An empty mapping is an error on some systems.
        return Ok(Bytes::new());
    }
    // SAFETY: the mapping is read-only. Writers elsewhere are the documented risk of `Platform::map`: kmr's own
    // files are replaced as a whole, never written in place.
    let mapping = unsafe { Mmap::map(&file)? };
    Ok(Bytes::from_owner(mapping))
}

/// A number that no other call in this process gets.
pub(crate) fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A file that is removed with this value.
#[derive(Debug)]
pub struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        // It lies in the temporary folder: at worst the system clears it away.
        let _ = fs::remove_file(&self.0);
    }
}

/// A read-only file in the temporary folder: the best there is where memory has no files.
pub fn sealed_file(name: &str, bytes: &[u8]) -> io::Result<SealedFile> {
    let name = format!("kmr-{}-{}-{name}", std::process::id(), unique());
    let path = std::env::temp_dir().join(name);
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    let keep = Removed(path.clone());
    file.write_all(bytes)?;
    let mut permissions = file.metadata()?.permissions();
    permissions.set_readonly(true);
    file.set_permissions(permissions)?;
    Ok(SealedFile {
        path,
        _keep: Keep::Disk(keep),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_file_lasts_as_long_as_its_value() {
        let sealed = sealed_file("test", b"content").unwrap();
        let path = sealed.path().to_owned();
        assert_eq!(fs::read(&path).unwrap(), b"content");
        assert!(fs::metadata(&path).unwrap().permissions().readonly());
        drop(sealed);
        assert!(!path.exists());
    }

    #[test]
    fn a_mapping_outlives_the_file_it_came_from() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        fs::write(&path, b"mapped").unwrap();
        let bytes = map(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(bytes, b"mapped".as_slice());
        assert_eq!(bytes.as_ptr() as usize % 64, 0);
        fs::write(&path, b"").unwrap();
        assert!(map(&path).unwrap().is_empty());
    }
}
