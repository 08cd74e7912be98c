//! Where the runtime's library is.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

use kmr_compute::{ComputeError, ErrorKind};
use ort::{LoadDynamicError, environment::Environment, logging::LogLevel};

/// The environment variable that names the library.
pub const VARIABLE: &str = "KMR_ORT_DYLIB";

/// What led to the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// [`VARIABLE`] names it.
    Variable,
    /// It comes with Python's package `onnxruntime`.
    Python,
    /// The system's loader knows it.
    System,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Variable => VARIABLE,
            Self::Python => "Python's package",
            Self::System => "the system's loader",
        })
    }
}

/// The library, loaded.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its file; a bare name where the system's loader found it.
    pub path: PathBuf,
    /// Its version: `1.32.0`, or `1.32` where its file's name does not tell more.
    pub version: String,
    /// What led to it.
    pub origin: Origin,
    pub(crate) environment: Environment,
}

/// Looks for the library and loads it, once in a process: the file that `KMR_ORT_DYLIB` names; that of Python's
/// package `onnxruntime`, asked of the interpreter in `VIRTUAL_ENV` and of `python3`; that of the system's loader.
///
/// # Errors
/// If `KMR_ORT_DYLIB` names a file that does not load or is too old. Others like that are logged and passed over.
pub fn find() -> Result<Option<&'static Found>, ComputeError> {
    static FOUND: OnceLock<Result<Option<Found>, ComputeError>> = OnceLock::new();
    match FOUND.get_or_init(search) {
        Ok(found) => Ok(found.as_ref()),
        Err(error) => Err(error.clone()),
    }
}

fn search() -> Result<Option<Found>, ComputeError> {
    if let Some(named) = env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        let refused = |message: String| {
            ComputeError::new(
                ErrorKind::Unsupported,
                format!("{VARIABLE}={}", named.display()),
                message,
            )
            .with_help(format!(
                "let {VARIABLE} name libonnxruntime.so, version 1.17 or newer, or unset it"
            ))
        };
        let path = fs::canonicalize(&named).map_err(|error| refused(error.to_string()))?;
        let found = load(path, Origin::Variable).map_err(|error| refused(error.to_string()))?;
        return Ok(Some(found));
    }
    let packaged = pythons().iter().find_map(|python| packaged(python));
    let known = ["libonnxruntime.so", "libonnxruntime.so.1"].map(|name| (PathBuf::from(name), Origin::System));
    let candidates = packaged.map(|path| (path, Origin::Python)).into_iter().chain(known);
    for (path, origin) in candidates {
        match load(path.clone(), origin) {
            Ok(found) => return Ok(Some(found)),
            Err(LoadError::Library(LoadDynamicError::Dlopen { error, .. })) if origin == Origin::System => {
                log::debug!("{}: {error}", path.display());
            }
            Err(error) => log::warn!("ONNX Runtime of {origin} is passed over: {error}"),
        }
    }
    Ok(None)
}

/// Why a library is not used.
enum LoadError {
    Library(LoadDynamicError),
    Environment(ort::Error),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Library(error) => error.fmt(f),
            Self::Environment(error) => error.fmt(f),
        }
    }
}

fn load(path: PathBuf, origin: Origin) -> Result<Found, LoadError> {
    let environment = ort::init_from(&path)
        .map_err(LoadError::Library)?
        .with_name("kmr")
        .with_telemetry(false)
        .with_logger(Arc::new(|level, _, _, place, message| log_line(level, place, message)))
        .build()
        .map_err(LoadError::Environment)?;
    let version = version(&path);
    log::info!("ONNX Runtime {version} at {}, found through {origin}", path.display());
    Ok(Found {
        path,
        version,
        origin,
        environment,
    })
}

/// A line of the runtime's log. Its errors come back as results, too, and its warnings are for its developers.
fn log_line(level: LogLevel, place: &str, message: &str) {
    let level = match level {
        LogLevel::Fatal => log::Level::Error,
        LogLevel::Error => log::Level::Info,
        LogLevel::Warning => log::Level::Debug,
        LogLevel::Info | LogLevel::Verbose => log::Level::Trace,
    };
    log::log!(target: "onnxruntime", level, "{message} ({place})");
}

/// The version of the library at `path`, which is loaded: from its file's name, or else from itself, without a patch.
fn version(path: &Path) -> String {
    let file = path.canonicalize().unwrap_or_default();
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let full = |version: &&str| version.split('.').count() == 3;
    match (
        name.rsplit_once(".so.").map(|(_, version)| version).filter(full),
        ort::util::probe(path),
    ) {
        (Some(version), _) => version.to_owned(),
        (None, Some(minor)) => format!("1.{minor}"),
        (None, None) => "unknown".to_owned(),
    }
}

/// The Python interpreters to ask, the nearest first.
fn pythons() -> Vec<PathBuf> {
    let environment = env::var_os("VIRTUAL_ENV").filter(|folder| !folder.is_empty());
    let own = environment.map(|folder| Path::new(&folder).join("bin/python3"));
    own.into_iter().chain(["python3".into()]).collect()
}

/// Prints the folder of the package without running any of it. What lies in the working folder is not asked.
const SCRIPT: &str = "
import importlib.util, sys
sys.path[:] = [folder for folder in sys.path if folder]
spec = importlib.util.find_spec('onnxruntime')
print(*(spec.submodule_search_locations or ()) if spec else (), sep='\\n')
";

/// How long an interpreter may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The library in the package of the interpreter `python`.
fn packaged(python: &Path) -> Option<PathBuf> {
    let mut child = Command::new(python)
        .args(["-c", SCRIPT])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().ok()?.is_none() {
        if Instant::now() > deadline {
            log::warn!(
                "{} does not answer where its package `onnxruntime` is",
                python.display()
            );
            child.kill().and_then(|()| child.wait()).ok()?;
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let answer = String::from_utf8(child.wait_with_output().ok()?.stdout).ok()?;
    let files = fs::read_dir(Path::new(answer.lines().next()?).join("capi")).ok()?;
    let is_library = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("libonnxruntime.so"))
    };
    files
        .filter_map(|file| Some(file.ok()?.path()))
        .filter(is_library)
        .max()
}
