//! The one place where a plugin's code begins to run.

use std::path::Path;

use abi_stable::{
    StableAbi,
    library::{AbiHeaderRef, LibHeader, LibraryError, RootModule},
    sabi_types::VersionNumber,
};
use kmr_abi::{PluginRoot_Ref, ROOT_SYMBOL};
use kmr_platform::SealedFile;

use crate::{
    error::{ErrorKind, LoaderError, Result},
    file::PluginFile,
    layout,
    metadata::other_contract,
};

/// Loads a private copy of the file, for good, and checks that both sides mean the same by the contract.
pub(crate) fn open(file: &PluginFile) -> Result<PluginRoot_Ref> {
    let header = header(file)?;
    let path = file.path();
    let version = |strings| {
        VersionNumber::new(strings).map_err(|error| LoaderError::new(ErrorKind::Damaged, path, error.to_string()))
    };
    let ours = version(PluginRoot_Ref::VERSION_STRINGS)?;
    let theirs = version(header.version_strings())?;
    if ours.major != theirs.major {
        return Err(other_contract(&theirs.to_string(), path));
    }
    let layout = header.layout().ok_or_else(|| {
        LoaderError::new(
            ErrorKind::Incompatible,
            path,
            "the plugin does not describe its binary layout",
        )
        .with_help("export the plugin with the macro of kmr-sdk")
    })?;
    layout::check(PluginRoot_Ref::LAYOUT, layout).map_err(|mismatch| {
        LoaderError::new(
            ErrorKind::Incompatible,
            path,
            format!(
                "the plugin's contract {theirs} and this kmr's {ours} differ in their binary layout\n{}",
                mismatch.cause
            ),
        )
        .with_help(format!("build the plugin against kmr-abi {ours}"))
        .with_details(mismatch.details)
    })?;
    root_module(header, path)
}

/// Maps the library into this process and finds what it exports.
#[expect(unsafe_code, reason = "running a library's code takes trust in it")]
fn header(file: &PluginFile) -> Result<&'static LibHeader> {
    let name = file.path().file_name().unwrap_or_default().to_string_lossy();
    let sealed = kmr_platform::sealed_library(file.bytes(), &name).map_err(|error| {
        let message = format!("no private copy of the plugin can be made: {error}");
        LoaderError::new(ErrorKind::Failed, file.path(), message)
    })?;
    // Leaked: a path that is closed and used again makes the dynamic linker return the older library.
    let sealed: &'static SealedFile = Box::leak(Box::new(sealed));
    let refused = |error: libloading::Error| {
        let message = error.to_string().replace(&*sealed.path().to_string_lossy(), &name);
        let message = format!("the dynamic linker refuses the plugin: {message}");
        LoaderError::new(ErrorKind::Incompatible, file.path(), message)
            .with_help("build the plugin for this system; `ldd` shows what it needs")
    };
    // SAFETY: the file is a whole shared library that nobody can change any more; that its constructors behave is
    // what loading a plugin into the process takes for granted.
    let library = unsafe { map(sealed.path()) }.map_err(refused)?;
    // Never unloaded: threads, thread-local destructors and returned values may refer to it until the process ends.
    let library = Box::leak(Box::new(library));
    // SAFETY: at this symbol lies a header that begins with a magic text and abi_stable's version; `upgrade` checks
    // both before it looks further.
    let header = unsafe { library.get::<AbiHeaderRef>(ROOT_SYMBOL) };
    let header = header.map_err(|_| {
        LoaderError::new(ErrorKind::Damaged, file.path(), "the plugin exports no root module")
            .with_help("call the export macro of kmr-sdk once in the plugin")
    })?;
    header.upgrade().map_err(|error| contract_below(&error, file.path()))
}

#[cfg(unix)]
#[expect(unsafe_code, reason = "running a library's code takes trust in it")]
unsafe fn map(path: &Path) -> std::result::Result<libloading::os::unix::Library, libloading::Error> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    // A function that cannot be resolved is an error now, not the end of the process later.
    // SAFETY: the caller's.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
}

#[cfg(not(unix))]
#[expect(unsafe_code, reason = "running a library's code takes trust in it")]
unsafe fn map(path: &Path) -> std::result::Result<libloading::Library, libloading::Error> {
    // SAFETY: the caller's.
    unsafe { libloading::Library::new(path) }
}

#[expect(
    unsafe_code,
    reason = "the layout check of both directions is ours, not abi_stable's"
)]
fn root_module(header: &'static LibHeader, path: &Path) -> Result<PluginRoot_Ref> {
    // SAFETY: `layout::check` found the two layouts compatible in at least one direction.
    unsafe { header.init_root_module_with_unchecked_layout::<PluginRoot_Ref>() }
        .map_err(|error| contract_below(&error, path))
}

/// The error for what abi_stable itself refuses.
fn contract_below(error: &LibraryError, path: &Path) -> LoaderError {
    let (kind, message) = match error {
        LibraryError::InvalidAbiHeader(_) => (
            ErrorKind::Incompatible,
            "the plugin is built with another generation of abi_stable",
        ),
        LibraryError::InvalidCAbi { .. } => (
            ErrorKind::Incompatible,
            "the plugin's compiler passes values in another way",
        ),
        LibraryError::RootModule { .. } => (ErrorKind::Failed, "the plugin failed while it set up its root module"),
        _ => (ErrorKind::Incompatible, "the plugin cannot be bound to this kmr"),
    };
    LoaderError::new(kind, path, message)
        .with_help("build the plugin with this kmr's version of kmr-sdk")
        .with_details(error.to_string())
}
