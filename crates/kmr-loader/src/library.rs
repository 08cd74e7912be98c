//! Links a library into this process, for good.

use kmr_abi::{
    PluginRoot_Ref,
    abi_stable::library::{AbiHeaderRef, LibHeader, LibraryError, RootModule},
};
use libloading::Library;

use crate::{
    LoadError, LoadErrorKind, PluginFile, layout,
    plugin_file::{incompatible, other_version},
};

/// Links the plugin's bytes from a sealed file and gives its root, checked.
pub fn link(file: &PluginFile) -> Result<PluginRoot_Ref, LoadError> {
    let header = header(file)?;
    let plugin = header.version_strings();
    let host = PluginRoot_Ref::VERSION_STRINGS;
    let differs = match (plugin.parsed(), host.parsed()) {
        (Ok(plugin), Ok(host)) => plugin.major != host.major,
        _ => true,
    };
    if differs {
        return Err(other_version(
            file.path(),
            plugin.version.as_str(),
            host.version.as_str(),
        ));
    }
    layout::check(file.path(), header)?;
    root(header).map_err(|error| {
        LoadError::new(
            LoadErrorKind::Failed,
            file.path(),
            "its root could not be made",
        )
        .with_help("the plugin panics or fails as it is loaded; ask its author")
        .with_details(error.to_string())
    })
}

#[allow(unsafe_code)]
fn root(header: &'static LibHeader) -> Result<PluginRoot_Ref, LibraryError> {
    // SAFETY: `layout::check` found the layouts compatible in one direction or the other, and what one side
    // has more of lies at the ends of prefix types, whose accessors know how much is there.
    unsafe { header.init_root_module_with_unchecked_layout::<PluginRoot_Ref>() }
}

#[allow(unsafe_code)]
fn header(file: &PluginFile) -> Result<&'static LibHeader, LoadError> {
    let name = file.metadata().plugin.name.as_str();
    let sealed = kmr_platform::current()
        .sealed_file(name, file.bytes())
        .map_err(|error| {
            LoadError::new(
                LoadErrorKind::Failed,
                file.path(),
                format!("cannot be put into a memory file: {error}"),
            )
        })?;
    // SAFETY: this runs the constructors of a library that the caller chose to trust. It is whole, and
    // nobody can change it any more.
    let library = unsafe { open(&sealed) }.map_err(|error| {
        let details = error.to_string();
        incompatible(file.path(), "cannot be linked")
            .with_help("a library that it needs may be missing; see `ldd` and the details")
            .with_details(details)
    })?;
    // Never unloaded, and its path never used for another library.
    let library: &'static Library = Box::leak(Box::new(library));
    std::mem::forget(sealed);
    // SAFETY: the symbol is a static `LibHeader`, and a reference to its `AbiHeader`, with which it begins,
    // is checked by magic number and version before the rest is looked at.
    let symbol = unsafe { library.get::<AbiHeaderRef>(kmr_abi::ROOT_SYMBOL) };
    let header = *symbol.map_err(|error| {
        incompatible(
            file.path(),
            format!("has metadata, but no `{}`", kmr_abi::ROOT_SYMBOL),
        )
        .with_help("a plugin is exported with `kmr_sdk::export_plugin!`")
        .with_details(error.to_string())
    })?;
    header.upgrade().map_err(|error| {
        incompatible(
            file.path(),
            "is built with another abi_stable or C interface than this kmr",
        )
        .with_help("rebuild the plugin with the kmr-sdk of this kmr")
        .with_details(error.to_string())
    })
}

/// Every symbol is looked up now, so that what is missing is an error here, and none is shared with other
/// plugins.
#[cfg(unix)]
#[allow(unsafe_code)]
unsafe fn open(sealed: &kmr_platform::SealedFile) -> Result<Library, libloading::Error> {
    use libloading::os::unix;
    // SAFETY: as the caller's.
    unsafe { unix::Library::open(Some(sealed.path()), unix::RTLD_NOW | unix::RTLD_LOCAL) }
        .map(Into::into)
}

#[cfg(not(unix))]
#[allow(unsafe_code)]
unsafe fn open(sealed: &kmr_platform::SealedFile) -> Result<Library, libloading::Error> {
    // SAFETY: as the caller's.
    unsafe { Library::new(sealed.path()) }
}
