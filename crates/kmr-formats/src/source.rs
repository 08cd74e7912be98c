//! Where a data set is stored, and which samples of it are meant.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use kmr_model::Tensor;

use crate::dataset::{Dataset, Scale};
use crate::{ErrorKind, FormatError, NamedArrays, read_idx, read_npy, read_npz};

/// How a data set is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One npz file with an array per input and one of labels.
    Npz,
    /// An IDX file of inputs and one of labels, plain or compressed by gzip.
    Idx,
    /// A folder with one npy file per input and one of labels, or one npy file of inputs.
    Npy,
}

/// Where a data set is stored, and which samples of it are meant.
#[derive(Clone, Debug)]
pub struct DatasetSource {
    /// The file or folder.
    pub path: PathBuf,
    /// A file of labels beside the inputs: IDX or npy.
    pub labels_path: Option<PathBuf>,
    /// The format; found out from the file when absent.
    pub format: Option<Format>,
    /// The name of the array of labels inside `path`.
    pub labels_name: String,
    /// The seed to shuffle by, before `skip` and `take` count.
    pub shuffle: Option<u64>,
    /// Samples left out at the start.
    pub skip: u64,
    /// The greatest number of samples.
    pub take: Option<u64>,
    /// How uint8 inputs become float32.
    pub scale: Option<Scale>,
}

impl DatasetSource {
    /// All samples of a file or folder, in its order, with labels in the array `labels`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            labels_path: None,
            format: None,
            labels_name: String::from("labels"),
            shuffle: None,
            skip: 0,
            take: None,
            scale: None,
        }
    }

    /// Reads the samples that are meant.
    ///
    /// # Errors
    ///
    /// Files that cannot be read or are damaged, arrays that do not fit each other, labels that
    /// are no labels, and a choice that leaves no sample.
    pub fn read(&self) -> Result<Dataset, FormatError> {
        let format = match self.format {
            Some(format) => format,
            None => sniff(&self.path)?,
        };
        let mut unnamed = false;
        let mut arrays = match format {
            Format::Npz => read_npz(&self.path)?,
            Format::Idx => {
                unnamed = true;
                NamedArrays::from([(UNNAMED.to_string(), read_idx(&self.path)?)])
            }
            Format::Npy if self.path.is_dir() => read_npy_folder(&self.path)?,
            Format::Npy => {
                unnamed = true;
                NamedArrays::from([(UNNAMED.to_string(), read_npy(&self.path)?)])
            }
        };
        let labels = match &self.labels_path {
            Some(path) => Some((path.as_path(), read_labels(path)?)),
            None => arrays
                .shift_remove(&self.labels_name)
                .map(|labels| (self.path.as_path(), labels)),
        };
        let labels = labels.map(|(path, labels)| (path, self.labels_name.as_str(), labels));
        let dataset = Dataset::from_arrays(&self.path, arrays, labels, self.scale, unnamed)?;
        dataset.select(self.shuffle, self.skip, self.take)
    }
}

/// The name of the only input of a file that has no names; see [`Dataset::conform`].
pub(crate) const UNNAMED: &str = "inputs";

/// Finds the format from the file's first bytes.
fn sniff(path: &Path) -> Result<Format, FormatError> {
    if path.is_dir() {
        return Ok(Format::Npy);
    }
    let mut start = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(6).read_to_end(&mut start))
        .map_err(|cause| FormatError::io(path, "open the file", &cause))?;
    match start.as_slice() {
        [b'P', b'K', ..] => Ok(Format::Npz),
        [0x1f, 0x8b, ..] | [0, 0, ..] => Ok(Format::Idx),
        b"\x93NUMPY" => Ok(Format::Npy),
        [] => Err(FormatError::new(ErrorKind::Empty, path, "the file is empty")
            .help("give an npz file, an IDX file or a folder of npy files")),
        _ => Err(
            FormatError::new(ErrorKind::Unsupported, path, "the file is neither npz, IDX nor npy")
                .help("give an npz file, an IDX file or a folder of npy files"),
        ),
    }
}

fn read_labels(path: &Path) -> Result<Tensor, FormatError> {
    match sniff(path)? {
        Format::Idx => read_idx(path),
        Format::Npy if path.is_file() => read_npy(path),
        _ => Err(
            FormatError::new(ErrorKind::Unsupported, path, "a file of labels is an IDX or npy file")
                .help("leave `labels` out when the inputs' file holds the labels, too"),
        ),
    }
}

fn read_npy_folder(path: &Path) -> Result<NamedArrays, FormatError> {
    let list = |cause| FormatError::io(path, "list the folder", &cause);
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(list)? {
        let file = entry.map_err(list)?.path();
        if file.extension().is_some_and(|extension| extension == "npy") {
            files.push(file);
        }
    }
    // The system lists folders in any order.
    files.sort();
    let mut arrays = NamedArrays::new();
    for file in files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let array = read_npy(&file)?;
        arrays.insert(name.into_owned(), array);
    }
    Ok(arrays)
}
