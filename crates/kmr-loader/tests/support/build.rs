//! Builds a plugin's project outside of this workspace.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

/// Builds the project in `folder` of this crate and gives the shared library `name`.
///
/// The project is copied away from the workspace, with paths to crates made absolute and the workspace's versions of
/// dependencies, so that nothing is fetched. Projects share what they build.
pub fn build(folder: &str, name: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = here.join(folder).canonicalize().unwrap();
    let projects = Path::new(env!("CARGO_TARGET_TMPDIR")).join("projects");
    let project = projects.join(name);
    fs::create_dir_all(&projects).unwrap();
    // Tests may run in processes of their own, all at once.
    let lock = File::create(projects.join("lock")).unwrap();
    lock.lock().unwrap();
    copy(&source, &project);
    let manifest = fs::read_to_string(source.join("Cargo.toml")).unwrap();
    fs::write(project.join("Cargo.toml"), absolute_paths(&manifest, &source)).unwrap();
    fs::copy(here.join("../../Cargo.lock"), project.join("Cargo.lock")).unwrap();
    let target = projects.join("target");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--quiet"])
        .current_dir(&project)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_PROFILE_DEV_DEBUG", "none")
        .status()
        .unwrap();
    assert!(status.success(), "{} does not build", source.display());
    target.join("debug").join(kmr_platform::library_file_name(name))
}

fn copy(source: &Path, target: &Path) {
    fs::create_dir_all(target).unwrap();
    for entry in fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), target.join(entry.file_name()));
        if entry.file_name() == "target" || entry.file_name() == "Cargo.lock" {
            continue;
        }
        if from.is_dir() {
            copy(&from, &to);
        } else if fs::read(&to).ok() != Some(fs::read(&from).unwrap()) {
            // A file that is the same keeps its time, so that cargo does not build it again.
            fs::copy(&from, &to).unwrap();
        }
    }
}

/// Resolves every `path = "..."` against the folder that the manifest was in.
fn absolute_paths(manifest: &str, folder: &Path) -> String {
    let mut parts = manifest.split("path = \"");
    let mut absolute = parts.next().unwrap().to_owned();
    for part in parts {
        let (path, rest) = part.split_once('"').unwrap();
        let path = folder.join(path).canonicalize().unwrap();
        absolute += &format!("path = \"{}\"{rest}", path.display());
    }
    absolute
}
