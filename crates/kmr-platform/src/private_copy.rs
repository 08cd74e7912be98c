//! A library copied into a folder that only this user may enter: what is left where memory files are not to be had.

use std::{
    io,
    path::{Component, Path},
};

use crate::{SealedFile, Storage};

pub(crate) fn private_copy(library: &[u8], name: &str) -> io::Result<SealedFile> {
    let mut components = Path::new(name).components();
    let (Some(Component::Normal(name)), None) = (components.next(), components.next()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = tempfile::Builder::new().prefix("kmr-plugin-").tempdir()?;
    let path = folder.path().join(name);
    std::fs::write(&path, library)?;
    let mut permissions = std::fs::metadata(&path)?.permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&path, permissions)?;
    Ok(SealedFile {
        path,
        sealed: false,
        _storage: Storage::Folder { _folder: folder },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_lives_as_long_as_its_handle() {
        let copy = private_copy(b"library", "libcopy.so").unwrap();
        let path = copy.path().to_owned();
        assert_eq!(std::fs::read(&path).unwrap(), b"library");
        drop(copy);
        assert!(!path.exists());
    }

    #[test]
    fn a_name_that_leaves_the_folder_is_refused() {
        assert!(private_copy(b"library", "../libcopy.so").is_err());
        assert!(private_copy(b"library", "").is_err());
    }
}
