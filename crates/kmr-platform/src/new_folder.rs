//! Folders that are there with all of their files, or not at all.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::replace::{folder_of, sync_folder, temporary_beside};

/// Makes the folder `path` of what `write` puts into the folder that it is given: a new one beside it, which takes the
/// name when all is written. An empty folder gives way.
///
/// # Errors
/// Those of `write` and of the system; `AlreadyExists` where something else has the name already. Nothing is left then.
pub fn new_folder<E: From<io::Error>>(path: &Path, write: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    let target = vacant(path)?;
    let staged = Staged(temporary_beside(&target)?);
    fs::create_dir(&staged.0)?;
    write(&staged.0)?;
    sync_folder(&staged.0)?;
    // Systems differ in whether a folder can take the place of an empty one.
    if target.exists() {
        fs::remove_dir(&target)?;
    }
    fs::rename(&staged.0, &target)?;
    Ok(sync_folder(folder_of(&target))?)
}

/// Where a new folder for `path` goes: through links, and never in the place of anything but an empty folder.
///
/// # Errors
/// `AlreadyExists` where something else has the name.
pub fn vacant(path: &Path) -> io::Result<PathBuf> {
    let taken = |message: &str| Err(io::Error::new(io::ErrorKind::AlreadyExists, message.to_owned()));
    match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path.to_owned()),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.is_dir() => taken("a file has this name"),
        Ok(_) if fs::read_dir(path)?.next().is_some() => taken("the folder is there already, and is not empty"),
        Ok(_) => path.canonicalize(),
    }
}

/// A folder that goes with this value, unless it has another name by then.
struct Staged(PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        // There is an error to report already, or nothing is left to remove.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_folder_is_there_as_a_whole_or_not_at_all() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("new");
        let failed = new_folder(&path, |folder| {
            fs::write(folder.join("half"), "x")?;
            Err(io::Error::other("no more"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "no more");
        assert!(names(outer.path()).is_empty());
        fs::create_dir(&path).unwrap();
        new_folder(&path, |folder| fs::write(folder.join("whole"), "x")).unwrap();
        assert_eq!(
            (names(outer.path()), names(&path)),
            (vec!["new".into()], vec!["whole".into()])
        );
    }

    #[test]
    fn nothing_is_overwritten() {
        let outer = tempfile::tempdir().unwrap();
        fs::write(outer.path().join("mine"), "x").unwrap();
        for path in [outer.path(), &outer.path().join("mine")] {
            let refused = new_folder(path, |_| Ok::<(), io::Error>(())).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists, "{}", path.display());
        }
        assert_eq!(names(outer.path()), ["mine"]);
    }
}
