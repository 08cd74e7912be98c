//! What end-to-end tests share: the built program, its plugins, and small inputs.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
};

use serde_json::Value;

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests lie in the repository")
}

/// The folder of the example.
pub fn example() -> PathBuf {
    root().join("examples/fashion-mnist")
}

/// The folder that this profile's binaries are built into.
fn profile_folder() -> PathBuf {
    let test = env::current_exe().expect("a test knows its own path");
    let folder = test.ancestors().nth(2).expect("tests are built into PROFILE/deps");
    folder.to_owned()
}

fn cargo(arguments: &[&str], target: Option<&Path>) {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(arguments);
    if let Some(target) = target {
        command.env("CARGO_TARGET_DIR", target);
    }
    let output = command.output().expect("cargo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {arguments:?} failed:\n{errors}");
}

/// The folder of the program and its plugins, built as this test was.
pub fn build_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = profile_folder();
        // The whole workspace: a part of it would have other features, and be built again from the ground up.
        let mut arguments = vec!["build", "--workspace"];
        if folder.ends_with("release") {
            arguments.push("--release");
        }
        cargo(&arguments, folder.parent());
        folder
    })
}

/// The shared library of a fixture under `tests/fixtures`, built apart from the workspace.
pub fn fixture(project: &str, library: &str) -> PathBuf {
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_at_a_time = LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let manifest = root().join("tests/fixtures").join(project).join("Cargo.toml");
    let target = profile_folder().join("fixtures");
    let manifest = manifest.to_str().expect("paths are UTF-8 here");
    cargo(&["build", "--release", "--manifest-path", manifest], Some(&target));
    let file = format!("{}{library}{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
    target.join("release").join(file)
}

/// What the program did.
pub struct Run {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Run {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts the exit code and that the messages say all of `texts`, and that nothing panicked.
    #[track_caller]
    pub fn expect(&self, code: i32, texts: &[&str]) -> &Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        assert!(!self.err.contains("panicked at"), "{}", self.err);
        for text in texts {
            let found = self.err.contains(text) || self.out.contains(text);
            assert!(found, "`{text}` is not said in:\n{}\n{}", self.out, self.err);
        }
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.out, self.err))
    }
}

/// Runs `kmr` with these arguments.
pub fn kmr(arguments: &[&str]) -> Run {
    kmr_in(root(), arguments)
}

/// Runs `kmr` in a folder.
pub fn kmr_in(folder: &Path, arguments: &[&str]) -> Run {
    Run::of(command(folder, arguments).output().expect("kmr starts"))
}

/// Waits for a program that was started.
pub fn finish(child: Child) -> Run {
    Run::of(child.wait_with_output().expect("the program ends"))
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(build_folder().join("kmr"));
    command
        .current_dir(folder)
        .args(arguments)
        .env_remove("KMR_PLUGIN_PATH")
        .env_remove("KMR_LOG");
    command
}

/// A folder with a manifest in it, for one test.
pub struct Bench {
    /// The folder.
    pub folder: tempfile::TempDir,
}

impl Bench {
    /// A folder with the manifest `pipeline.toml`, in which `{example}` stands for the example's folder.
    pub fn new(manifest: &str) -> Self {
        let bench = Self {
            folder: tempfile::tempdir().expect("there is a temporary folder"),
        };
        let manifest = manifest.replace("{example}", example().to_str().expect("paths are UTF-8 here"));
        bench.write("pipeline.toml", manifest.as_bytes());
        bench
    }

    /// A file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into the folder.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).expect("the temporary folder can be written");
    }

    /// `kmr run pipeline.toml --out run` in the folder, with more arguments.
    pub fn run(&self, arguments: &[&str]) -> Run {
        let mut all = vec!["run", "pipeline.toml", "--out", "run"];
        all.extend_from_slice(arguments);
        kmr_in(self.folder.path(), &all)
    }

    /// The same, started and not waited for.
    pub fn start(&self, arguments: &[&str]) -> Child {
        let mut all = vec!["run", "pipeline.toml", "--out", "run"];
        all.extend_from_slice(arguments);
        let mut command = command(self.folder.path(), &all);
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kmr starts")
    }

    /// The report of a run.
    #[track_caller]
    pub fn report(&self) -> Value {
        let text = std::fs::read_to_string(self.path("run/report.json")).expect("there is a report");
        serde_json::from_str(&text).expect("the report is JSON")
    }
}
