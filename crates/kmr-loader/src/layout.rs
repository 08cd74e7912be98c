//! Whether a plugin's view of the binary contract and ours fit together.
//!
//! abi_stable's check has a direction: an interface accepts an implementation that has more at the end, never one
//! that has less. A plugin may be newer *or* older than the host, so either direction will do: what the older side
//! does not know, the newer side reads as absent.

use abi_stable::{
    abi_stability::abi_checking::{
        AbiInstability, AbiInstabilityError, AbiInstabilityErrors, check_layout_compatibility,
    },
    type_layout::{TLFieldOrFunction, TypeLayout},
};

/// How two layouts differ.
#[derive(Debug)]
pub(crate) struct Mismatch {
    /// Where and how, on one line.
    pub(crate) cause: String,
    /// Everything that abi_stable has to say: hundreds of lines.
    pub(crate) details: String,
}

/// Checks both directions.
pub(crate) fn check(ours: &'static TypeLayout, theirs: &'static TypeLayout) -> Result<(), Mismatch> {
    let Err(forward) = check_layout_compatibility(ours, theirs) else {
        return Ok(());
    };
    let Err(backward) = check_layout_compatibility(theirs, ours) else {
        return Ok(());
    };
    // One direction complains about what was legitimately appended, and may stop there.
    let (errors, side) = if complains_of_growth(&forward) && !complains_of_growth(&backward) {
        (backward, Side::Plugin)
    } else {
        (forward, Side::Host)
    };
    Err(Mismatch {
        cause: cause(&errors, side),
        details: errors.to_string(),
    })
}

fn complains_of_growth(errors: &AbiInstabilityErrors) -> bool {
    let mut all = errors.errors.iter().flat_map(|error| &error.errs);
    all.any(|error| matches!(error, AbiInstability::FieldCountMismatch(_)))
}

/// Who stood on the `expected` side of a check.
#[derive(Clone, Copy)]
enum Side {
    Host,
    Plugin,
}

/// The innermost difference: a type's parts are checked, and complained about, before the type itself.
fn cause(errors: &AbiInstabilityErrors, side: Side) -> String {
    let first = errors.errors.iter().find(|error| !error.errs.is_empty());
    let Some(AbiInstabilityError { stack_trace, errs, .. }) = first else {
        return "the layouts differ".to_owned();
    };
    let place: Vec<String> = stack_trace.iter().map(|step| name(&step.expected)).collect();
    format!("at {}: {}", place.join(" > "), describe(&errs[0], side))
}

fn name(step: &TLFieldOrFunction) -> String {
    match step {
        // A field without a name is a wrapper's: its type says more than its number.
        TLFieldOrFunction::Field(field) if field.name().parse::<usize>().is_ok() => field.layout().name().to_owned(),
        TLFieldOrFunction::Field(field) => field.name().to_owned(),
        TLFieldOrFunction::Function(function) => format!("{}()", function.name),
    }
}

fn describe(difference: &AbiInstability, side: Side) -> String {
    match difference {
        AbiInstability::Name(names) => pair("type", names.expected, names.found, side),
        AbiInstability::Size(sizes) => pair("size in bytes", sizes.expected, sizes.found, side),
        AbiInstability::Alignment(alignments) => pair("alignment", alignments.expected, alignments.found, side),
        AbiInstability::FieldCountMismatch(counts) => pair("number of fields", counts.expected, counts.found, side),
        AbiInstability::UnexpectedField(fields) => pair("field", fields.expected.name(), fields.found.name(), side),
        AbiInstability::MismatchedPrimitive(types) => pair(
            "primitive type",
            format!("{:?}", types.expected),
            format!("{:?}", types.found),
            side,
        ),
        AbiInstability::MismatchedPrefixSize(sizes) => {
            pair("fields of the first version", sizes.expected, sizes.found, side)
        }
        AbiInstability::PackageVersion(versions) => pair("package version", versions.expected, versions.found, side),
        other => {
            let debug = format!("{other:?}");
            let words = debug.split(['(', ' ', '{']).next().unwrap_or_default();
            format!("{words} (abi_stable's term)")
        }
    }
}

fn pair(what: &str, expected: impl std::fmt::Display, found: impl std::fmt::Display, side: Side) -> String {
    match side {
        Side::Host => format!("{what} `{expected}` here, `{found}` in the plugin"),
        Side::Plugin => format!("{what} `{found}` here, `{expected}` in the plugin"),
    }
}

#[cfg(test)]
mod tests {
    use abi_stable::StableAbi;

    use super::*;

    macro_rules! generation {
        ($module:ident, $($field:ident: $type:ty),*; $last:ident: $last_type:ty; $($new:ident: $new_type:ty),*) => {
            mod $module {
                #![expect(non_camel_case_types, reason = "abi_stable names them so")]
                #![allow(unsafe_code, reason = "derived")]
                #![allow(dead_code, reason = "layouts are compared, not used")]
                use abi_stable::StableAbi;

                #[repr(C)]
                #[derive(StableAbi)]
                #[sabi(kind(Prefix(prefix_ref = Root_Ref)))]
                #[sabi(missing_field(option))]
                pub struct Root {
                    $(pub $field: $type,)*
                    #[sabi(last_prefix_field)]
                    pub $last: $last_type,
                    $(pub $new: $new_type,)*
                }
            }
        };
    }

    generation!(first, name: u32; make: u64;);
    generation!(second, name: u32; make: u64; more: u32);
    generation!(broken, name: u32; make: i64;);
    generation!(broken_and_longer, name: u32; make: i64; more: u32);

    #[test]
    fn newer_and_older_plugins_fit() {
        let (first, second) = (first::Root_Ref::LAYOUT, second::Root_Ref::LAYOUT);
        check(first, first).unwrap();
        check(first, second).unwrap();
        check(second, first).unwrap();
    }

    #[test]
    fn a_changed_field_is_named_from_either_side() {
        let expected = "at Root > make: type `u64` here, `i64` in the plugin";
        for (host, plugin) in [
            (first::Root_Ref::LAYOUT, broken::Root_Ref::LAYOUT),
            (second::Root_Ref::LAYOUT, broken::Root_Ref::LAYOUT),
            (first::Root_Ref::LAYOUT, broken_and_longer::Root_Ref::LAYOUT),
        ] {
            let mismatch = check(host, plugin).unwrap_err();
            assert_eq!(mismatch.cause, expected);
            assert!(mismatch.details.lines().count() > 2);
        }
    }
}
