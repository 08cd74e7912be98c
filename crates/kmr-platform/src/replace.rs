//! Replacing a file as a whole.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use crate::portable::unique;

pub fn replace(path: &Path, write: &mut dyn FnMut(&mut File) -> io::Result<()>) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let temporary = temporary_beside(path)?;
    let result = write_synced(&temporary, write)
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync_folder(folder));
    if result.is_err() {
        // The first error is the one to report; the file may not even exist.
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// A renamed file stays on its file system, so the temporary one lies beside it.
fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}-{}.tmp", std::process::id(), unique()));
    Ok(path.with_file_name(temporary))
}

fn write_synced(path: &Path, write: &mut dyn FnMut(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    write(&mut file)?;
    file.sync_all()
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Other systems do not open folders; their renames are durable by themselves or not at all.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_failed_replacement_leaves_the_old_content_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        replace(&path, &mut |file| file.write_all(b"first")).unwrap();
        let error = replace(&path, &mut |file| {
            file.write_all(b"half of the sec")?;
            Err(io::Error::other("no space left"))
        });
        assert_eq!(error.unwrap_err().to_string(), "no space left");
        assert_eq!(fs::read(&path).unwrap(), b"first");
        replace(&path, &mut |file| file.write_all(b"second")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no temporary file is left"
        );
    }

    #[test]
    fn a_path_without_a_file_or_a_folder_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(replace(Path::new("/"), &mut |_| Ok(())).is_err());
        assert!(replace(&folder.path().join("none/file"), &mut |_| Ok(())).is_err());
    }
}
