//! Models on disk: files that are read and written, with the data that lies beside them.

use std::{
    cell::RefCell,
    collections::HashMap,
    io::{self, BufWriter, Write},
    path::{Component, Path, PathBuf},
};

use bytes::Bytes;
use kmr_huggingface::HuggingFaceError;
use kmr_model::{
    ErrorKind, Model, ModelError,
    codec::{DataFile, DecodeOptions, ExternalData, ModelFiles},
};
use kmr_run::FileReport;

use crate::{exit, failure::Failure};

/// Refuses a pipe or a device, of which reading may never end.
fn check_regular(path: &Path) -> Result<(), Failure> {
    match path.metadata() {
        Ok(metadata) if !metadata.is_file() => {
            Err(Failure::new(exit::INPUT, "is not a regular file").at(path.display().to_string()))
        }
        _ => Ok(()),
    }
}

/// What a report says of a file.
pub fn file_report(path: &Path, bytes: &[u8]) -> FileReport {
    FileReport {
        path: path.display().to_string(),
        bytes: bytes.len() as u64,
        sha256: kmr_run::sha256(bytes),
    }
}

/// The bytes of the file at `path`, mapped.
pub fn read(path: &Path) -> Result<Bytes, Failure> {
    check_regular(path)?;
    kmr_platform::map_file(path).map_err(|error| {
        Failure::new(exit::INPUT, format!("cannot read the file: {error}")).at(path.display().to_string())
    })
}

/// The model at `path`: an ONNX file, a GGUF file, or a folder of `transformers`.
pub fn read_model(path: &Path) -> Result<Model, Failure> {
    match is_transformer(path) {
        true => read_transformer(path),
        false => decode(path, read(path)?),
    }
}

/// [`read_model`], and what a report says of it. A folder or a GGUF file is known by the ONNX file that it becomes.
pub fn read_reported(path: &Path) -> Result<(Model, FileReport), Failure> {
    if !is_transformer(path) {
        let bytes = read(path)?;
        let report = file_report(path, &bytes);
        return Ok((decode(path, bytes)?, report));
    }
    let model = read_transformer(path)?;
    let files = model.files().map_err(|error| Failure::model(path, &error))?;
    let digest = kmr_run::sha256_of(|writer| {
        files.write_model(writer)?;
        files.data().map_or(Ok(()), |data| data.write(writer))
    });
    let digest = digest.map_err(|error| Failure::new(exit::INPUT, error.to_string()).at(path.display().to_string()))?;
    let report = FileReport {
        path: path.display().to_string(),
        bytes: files.len(),
        sha256: digest,
    };
    Ok((model, report))
}

/// Whether a model is made of what lies at `path`, rather than stored there.
pub fn is_transformer(path: &Path) -> bool {
    path.is_dir() || path.extension().is_some_and(|ending| ending == "gguf")
}

fn read_transformer(path: &Path) -> Result<Model, Failure> {
    let opened = match path.is_dir() {
        true => kmr_huggingface::open(path),
        false => {
            check_regular(path)?;
            kmr_huggingface::open_gguf(path)
        }
    };
    let opened = opened.map_err(|error| transformer_failure(path, &error))?;
    if !opened.unused.is_empty() {
        log::info!("tensors that are no part of the model: {}", opened.unused.join(", "));
    }
    if let Some(first) = opened.uncounted.first() {
        log::warn!(
            "{}: {} tensors belong to more layers or experts than the configuration counts, and are left out, as `{first}`",
            path.display(),
            opened.uncounted.len(),
        );
    }
    Ok(opened.model)
}

/// A folder of `transformers` or a GGUF file that cannot be used, or not be written.
pub fn transformer_failure(path: &Path, error: &HuggingFaceError) -> Failure {
    use kmr_huggingface::ErrorKind;
    let code = match error.kind() {
        ErrorKind::Unwritable | ErrorKind::Exists => exit::USAGE,
        ErrorKind::Damaged => exit::VERIFICATION,
        _ => exit::INPUT,
    };
    let place = error.path().unwrap_or(path).display().to_string();
    let failure = Failure::new(code, error.message()).at(place);
    match error.way_out() {
        Some(help) => failure.help(help),
        None => failure,
    }
}

/// The model whose file at `path` holds `bytes`.
pub fn decode(path: &Path, bytes: Bytes) -> Result<Model, Failure> {
    let folder = Folder {
        path: folder_of(path),
        files: RefCell::default(),
    };
    let model = DecodeOptions::with_external_data(&folder).decode(bytes);
    model.map_err(|error| Failure::model(path, &error))
}

/// Where a result for `path` goes: through links, and never in the place of a device, a pipe or a folder.
pub fn destination(path: &Path) -> Result<PathBuf, Failure> {
    kmr_platform::destination(path).map_err(|error| unwritable(path, &error))
}

/// A result that cannot be written.
pub fn unwritable(path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::new(exit::USAGE, format!("cannot write `{}`: {error}", path.display()));
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            failure.help("free some space, or choose another file")
        }
        _ => failure.help("choose another file"),
    }
}

/// Writes a model's files: its own at `path`, its weights' beside it.
pub fn write_model(path: &Path, files: &ModelFiles) -> Result<(), Failure> {
    let mut own = |file: &mut std::fs::File| buffered(file, |writer| files.write_model(writer));
    let written = match files.data() {
        None => kmr_platform::replace_file(path, &mut own),
        Some(data) => {
            let mut weights = |file: &mut std::fs::File| buffered(file, |writer| data.write(writer));
            kmr_platform::replace_files(&mut [(&data_path(path, data), &mut weights), (path, &mut own)])
        }
    };
    written.map_err(|error| unwritable(path, &error))
}

/// A model's files, as they lie on the disk.
pub struct ReadBack {
    /// The model's own.
    pub model: Bytes,
    /// Its weights', where they have one.
    pub data: Option<Bytes>,
}

/// Reads what was written to `path` again; `damaged` is the failure of a file that is not what was written to it.
pub fn read_back(path: &Path, files: &ModelFiles, damaged: impl FnOnce(&Path) -> Failure) -> Result<ReadBack, Failure> {
    let model = read(path)?;
    if !files.is_model(&model) {
        return Err(damaged(path));
    }
    let Some(data) = files.data() else {
        return Ok(ReadBack { model, data: None });
    };
    let path = data_path(path, data);
    let weights = read(&path)?;
    if !data.is(&weights) {
        return Err(damaged(&path));
    }
    Ok(ReadBack {
        model,
        data: Some(weights),
    })
}

/// Where the weights of the model at `path` lie.
pub fn data_path(path: &Path, data: &DataFile) -> PathBuf {
    folder_of(path).join(data.location())
}

/// Small pieces in few calls; large ones go through as they are.
pub fn buffered(file: &mut std::fs::File, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(1 << 18, file);
    write(&mut writer)?;
    writer.flush()
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The folder of a model, whose files it may name.
struct Folder {
    path: PathBuf,
    /// The files that were opened, by the names that the model has for them.
    files: RefCell<HashMap<String, Bytes>>,
}

impl ExternalData for Folder {
    fn read(&self, name: &str, entries: &[(String, String)]) -> Result<Bytes, ModelError> {
        let refused = |message: String| {
            ModelError::new(ErrorKind::Malformed, format!("tensor `{name}`"), message)
                .with_help("keep a model's data files in the model's own folder")
        };
        // Of two entries with one key the later counts, as in ONNX's own tools.
        let entry = |key: &str| {
            entries
                .iter()
                .rev()
                .find(|(known, _)| known == key)
                .map(|(_, value)| value.trim())
        };
        let location = entry("location").filter(|location| !location.is_empty());
        let location = location.ok_or_else(|| refused("lies in another file and does not say in which".into()))?;
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => match text.parse::<u64>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(refused(format!(
                    "has the {key} `{text}` in `{location}`, which is no number of bytes"
                ))),
            },
        };
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        let file = self
            .open(location)
            .map_err(|message| refused(format!("lies in `{location}`, {message}")))?;
        let total = file.len() as u64;
        // Writers put a length of 0 for "to the end", too.
        let length = match length {
            Some(length) if length > 0 => length,
            _ => total.saturating_sub(offset),
        };
        let end = offset.checked_add(length).filter(|&end| end <= total);
        let end = end.ok_or_else(|| {
            refused(format!(
                "takes {length} bytes from byte {offset} of `{location}`, which has {total}"
            ))
        })?;
        Ok(file.slice(offset as usize..end as usize))
    }
}

impl Folder {
    fn open(&self, location: &str) -> Result<Bytes, String> {
        if let Some(open) = self.files.borrow().get(location) {
            return Ok(open.clone());
        }
        let relative = Path::new(location);
        let inside = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
        if !relative.components().all(inside) {
            return Err("which is not in the model's folder".into());
        }
        let unreadable = |error: io::Error| format!("which cannot be read: {error}");
        let folder = self.path.canonicalize().map_err(unreadable)?;
        let path = folder.join(relative).canonicalize().map_err(unreadable)?;
        if !path.starts_with(&folder) {
            return Err(format!("a link out of the model's folder to {}", path.display()));
        }
        if !path.metadata().map_err(unreadable)?.is_file() {
            return Err("which is not a regular file".into());
        }
        let bytes = kmr_platform::map_file(&path).map_err(unreadable)?;
        self.files.borrow_mut().insert(location.to_owned(), bytes.clone());
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect()
    }

    #[test]
    fn data_is_read_from_the_models_folder_and_from_nowhere_else() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("model");
        std::fs::create_dir_all(path.join("deep")).unwrap();
        std::fs::write(path.join("data"), b"0123456789").unwrap();
        std::fs::write(path.join("deep/data"), b"deep").unwrap();
        std::fs::write(outer.path().join("secret"), b"secret").unwrap();
        let folder = Folder {
            path: path.clone(),
            files: RefCell::default(),
        };
        let read = |pairs: &[(&str, &str)]| folder.read("t", &entries(pairs));
        assert_eq!(
            read(&[("location", "data"), ("offset", "2"), ("length", "3")]).unwrap(),
            "234"
        );
        assert_eq!(read(&[("location", "./data"), ("offset", "8")]).unwrap(), "89");
        assert_eq!(read(&[("location", "data"), ("length", "0")]).unwrap(), "0123456789");
        assert_eq!(read(&[("location", "deep/data"), ("checksum", "?")]).unwrap(), "deep");
        let secret = outer.path().join("secret");
        let mut refused = vec![
            (
                vec![("location", secret.to_str().unwrap())],
                "is not in the model's folder",
            ),
            (vec![("location", "../secret")], "is not in the model's folder"),
            (vec![("location", "deep/../data")], "is not in the model's folder"),
            (vec![("location", "missing")], "cannot be read"),
            (vec![("location", "deep")], "not a regular file"),
            (vec![("location", "")], "does not say in which"),
            (vec![], "does not say in which"),
            (vec![("location", "data"), ("offset", "-1")], "no number of bytes"),
            (
                vec![("location", "data"), ("offset", "8"), ("length", "3")],
                "from byte 8 of `data`, which has 10",
            ),
            (vec![("location", "data"), ("offset", "11")], "which has 10"),
            (
                vec![
                    ("location", "data"),
                    ("offset", "18446744073709551615"),
                    ("length", "2"),
                ],
                "which has 10",
            ),
        ];
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("../secret", path.join("link")).unwrap();
            std::os::unix::fs::symlink("data", path.join("inside")).unwrap();
            std::os::unix::fs::symlink("..", path.join("up")).unwrap();
            std::os::unix::fs::symlink("/dev/zero", path.join("zero")).unwrap();
            assert_eq!(read(&[("location", "inside"), ("length", "1")]).unwrap(), "0");
            refused.push((vec![("location", "link")], "a link out of the model's folder"));
            refused.push((vec![("location", "up/secret")], "a link out of the model's folder"));
            refused.push((vec![("location", "zero")], "a link out of the model's folder"));
        }
        for (pairs, message) in refused {
            let error = read(&pairs).unwrap_err();
            assert!(error.to_string().contains(message), "{pairs:?}: {error}");
            assert_eq!(error.place(), "tensor `t`");
        }
    }
}
