//! Replacing files as a whole: one, or several that belong together.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use crate::{current, portable::unique};

/// What writes a file's content.
pub type Content<'w> = &'w mut dyn FnMut(&mut File) -> io::Result<()>;

/// Writes the file `path` so that at any moment either the old or the whole new content is there, also after a power
/// failure: the content goes to a new file in the same folder, is synced, and takes the name.
///
/// A link is followed: what it leads to is replaced.
///
/// # Errors
/// Those of `write` and of the system; `InvalidInput` where a folder, a device or a pipe is in the way. The old content
/// is then still there, and nothing else.
pub fn replace_file(path: &Path, write: Content<'_>) -> io::Result<()> {
    replace_files(&mut [(path, write)])
}

/// Writes several files as [`replace_file`] writes one: all are whole and on disk before the first takes its name. They
/// take their names in order, so the one that makes use of the others comes last.
///
/// # Errors
/// As [`replace_file`]. Where a later one cannot take its name, earlier ones that were new are removed again.
pub fn replace_files(files: &mut [(&Path, Content<'_>)]) -> io::Result<()> {
    let mut staged = Vec::with_capacity(files.len());
    for (path, write) in files.iter_mut() {
        let mut file = Staged::beside(&destination(path)?)?;
        write(&mut file.file)?;
        file.file.sync_all()?;
        staged.push(file);
    }
    let mut new = Vec::new();
    for file in staged {
        let target = file.target.clone();
        let known = target.exists();
        if let Err(error) = file.commit() {
            for target in new {
                // The first error is the one to report.
                let _ = fs::remove_file(target);
            }
            return Err(error);
        }
        if !known {
            new.push(target);
        }
    }
    Ok(())
}

/// Where the content for `path` goes: through links, and never in the place of a device, a pipe or a folder.
///
/// # Errors
/// `InvalidInput` where one of these is in the way.
pub fn destination(path: &Path) -> io::Result<PathBuf> {
    match path.metadata() {
        Ok(metadata) if !metadata.is_file() => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
        }
        Ok(_) => path.canonicalize(),
        Err(_) => Ok(path.to_owned()),
    }
}

/// A new file that has no name yet, or a name that nobody looks for.
struct Staged {
    file: File,
    /// Its temporary name, if it has one; then it is removed with this value.
    named: Option<PathBuf>,
    temporary: PathBuf,
    target: PathBuf,
}

impl Staged {
    fn beside(target: &Path) -> io::Result<Self> {
        let temporary = temporary_beside(target)?;
        let (file, named) = match current().unnamed_file(folder_of(target))? {
            Some(file) => (file, None),
            None => {
                let file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
                (file, Some(temporary.clone()))
            }
        };
        Ok(Self {
            file,
            named,
            temporary,
            target: target.to_owned(),
        })
    }

    fn commit(mut self) -> io::Result<()> {
        if self.named.is_none() {
            current().name_file(&self.file, &self.temporary)?;
            self.named = Some(self.temporary.clone());
        }
        fs::rename(&self.temporary, &self.target)?;
        self.named = None;
        sync_folder(folder_of(&self.target))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(named) = &self.named {
            // There is an error to report already, and nothing else that could be done about this one.
            let _ = fs::remove_file(named);
        }
    }
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// What is renamed stays on its file system, so that what is temporary lies beside it.
pub(crate) fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path ends in no name"))?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}-{}.tmp", std::process::id(), unique()));
    Ok(path.with_file_name(temporary))
}

#[cfg(unix)]
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Other systems do not open folders; their renames are durable by themselves or not at all.
#[cfg(not(unix))]
pub(crate) fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn count(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_content_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        replace_file(&path, &mut |file| file.write_all(b"first")).unwrap();
        let error = replace_file(&path, &mut |file| {
            file.write_all(b"half of the sec")?;
            Err(io::Error::other("no space left"))
        });
        assert_eq!(error.unwrap_err().to_string(), "no space left");
        assert_eq!(fs::read(&path).unwrap(), b"first");
        replace_file(&path, &mut |file| file.write_all(b"second")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(count(folder.path()), 1, "no temporary file is left");
    }

    #[test]
    fn files_that_belong_together_come_together_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let (data, model) = (folder.path().join("data"), folder.path().join("model"));
        let write = |fails: bool| {
            replace_files(&mut [
                (&data, &mut |file| file.write_all(b"data")),
                (&model, &mut |file| match fails {
                    true => Err(io::Error::other("full")),
                    false => file.write_all(b"model"),
                }),
            ])
        };
        assert!(write(true).is_err());
        assert_eq!(count(folder.path()), 0);
        write(false).unwrap();
        assert_eq!(
            (fs::read(&data).unwrap(), fs::read(&model).unwrap()),
            (b"data".to_vec(), b"model".to_vec())
        );
        // A folder in the way of the second stops the first.
        fs::remove_file(&data).unwrap();
        fs::remove_file(&model).unwrap();
        fs::create_dir(&model).unwrap();
        assert!(write(false).is_err());
        assert_eq!(count(folder.path()), 1);
    }

    #[test]
    fn a_path_without_a_file_or_a_folder_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(replace_file(Path::new("/"), &mut |_| Ok(())).is_err());
        assert!(replace_file(&folder.path().join("none/file"), &mut |_| Ok(())).is_err());
        assert!(replace_file(folder.path(), &mut |_| Ok(())).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_devices_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, b"old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        replace_file(&link, &mut |file| file.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(link.is_symlink());
        let error = replace_file(Path::new("/dev/null"), &mut |_| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "it is not a regular file");
    }
}
