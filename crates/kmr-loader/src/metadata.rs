//! Reads a plugin's metadata, the contract's version first: another major may mean another form of the rest.

use std::path::Path;

use kmr_sdk::wire::Metadata;
use serde::Deserialize;
use serde_json::Value;

use crate::error::{ErrorKind, LoaderError, Result};

pub(crate) fn parse(section: &[u8], path: &Path) -> Result<Metadata> {
    let end = section.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let unreadable = |error: &dyn std::fmt::Display| {
        LoaderError::new(
            ErrorKind::Damaged,
            path,
            format!("the plugin's metadata cannot be read: {error}"),
        )
        .with_help("build the plugin again, or fetch the file again")
    };
    let value: Value = serde_json::from_slice(&section[..end]).map_err(|error| unreadable(&error))?;
    let version = value.get("abi").and_then(Value::as_str);
    let version = version.ok_or_else(|| unreadable(&"it does not say its `abi` version"))?;
    let theirs = major(version).ok_or_else(|| unreadable(&format_args!("`{version}` is no version")))?;
    if Some(theirs) != major(kmr_abi::VERSION) {
        return Err(other_contract(version, path));
    }
    Metadata::deserialize(&value).map_err(|error| unreadable(&error))
}

/// The error for a plugin of another major version of the contract.
pub(crate) fn other_contract(version: &str, path: &Path) -> LoaderError {
    let ours = kmr_abi::VERSION;
    let major = ours.split('.').next().unwrap_or(ours);
    LoaderError::new(
        ErrorKind::Incompatible,
        path,
        format!("the plugin is built for contract {version}; this kmr speaks {ours}"),
    )
    .with_help(format!("build the plugin against kmr-abi {major}.x"))
}

/// The first of three dot-separated numbers.
fn major(version: &str) -> Option<u64> {
    let mut numbers = version.splitn(3, '.');
    let major = numbers.next()?.parse().ok()?;
    numbers.next()?.parse::<u64>().ok()?;
    numbers.next()?;
    Some(major)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(abi: &str) -> String {
        format!(
            r#"{{"abi":"{abi}","plugin":{{"name":"p","version":"0.1.0","license":"MIT","description":""}},"extensions":[]}}"#
        )
    }

    fn kind(section: &[u8]) -> ErrorKind {
        parse(section, Path::new("libp.so")).unwrap_err().kind()
    }

    #[test]
    fn padding_and_newer_minor_versions_are_accepted() {
        let mut section = metadata("1.99.7").into_bytes();
        section.extend([0; 7]);
        assert_eq!(parse(&section, Path::new("libp.so")).unwrap().plugin.name, "p");
    }

    #[test]
    fn another_major_is_incompatible_whatever_the_rest_looks_like() {
        for section in [metadata("2.0.0"), r#"{"abi":"0.9.0","else":1}"#.to_owned()] {
            let error = parse(section.as_bytes(), Path::new("libp.so")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Incompatible);
            assert_eq!(error.help(), Some("build the plugin against kmr-abi 1.x"));
        }
    }

    #[test]
    fn garbage_is_damage() {
        let twice = metadata("1.0.0").repeat(2);
        for section in [
            "",
            "garbage",
            "[]",
            "{}",
            r#"{"abi":"1.0.0"}"#,
            &metadata("one"),
            &twice,
        ] {
            assert_eq!(kind(section.as_bytes()), ErrorKind::Damaged, "{section}");
        }
        assert_eq!(kind(b"\xff\xfe"), ErrorKind::Damaged);
    }
}
