//! Compares a plugin's interface with the host's, in both directions.

use std::path::Path;

use kmr_abi::{
    PluginRoot_Ref,
    abi_stable::{
        StableAbi,
        abi_stability::abi_checking::{
            AbiInstability, AbiInstabilityErrors, check_layout_compatibility,
        },
        library::LibHeader,
        type_layout::{TLFieldOrFunction, TypeLayout},
    },
};

use crate::{LoadError, plugin_file::incompatible};

/// Checks that the plugin's interface has no more or no less than the host's, at the ends only.
pub fn check(path: &Path, header: &'static LibHeader) -> Result<(), LoadError> {
    let plugin = header.layout().ok_or_else(|| {
        incompatible(path, "does not say what its interface looks like")
            .with_help("a plugin is exported with `kmr_sdk::export_plugin!`")
    })?;
    compare(<PluginRoot_Ref as StableAbi>::LAYOUT, plugin).map_err(|errors| {
        incompatible(
            path,
            format!(
                "its interface differs from this kmr's: {}",
                first_cause(&errors)
            ),
        )
        .with_help("rebuild the plugin with the kmr-sdk of this kmr")
        .with_details(errors.to_string())
    })
}

/// The check has a direction: the second must have all of the first. A newer plugin passes the first way, an
/// older one the other.
fn compare(
    host: &'static TypeLayout,
    plugin: &'static TypeLayout,
) -> Result<(), AbiInstabilityErrors> {
    match check_layout_compatibility(host, plugin) {
        Ok(()) => Ok(()),
        Err(errors) if check_layout_compatibility(plugin, host).is_err() => Err(errors),
        Err(_) => Ok(()),
    }
}

/// Where the first difference is and what it is, on one line: the whole report is a thousand lines with the
/// cause at the end.
fn first_cause(errors: &AbiInstabilityErrors) -> String {
    let Some((error, cause)) = errors
        .errors
        .iter()
        .find_map(|error| Some((error, error.errs.first()?)))
    else {
        return "for no known reason".into();
    };
    let steps: Vec<String> = error
        .stack_trace
        .iter()
        .map(|step| step_name(&step.expected))
        .collect();
    let place = match steps.as_slice() {
        [] => "the root".into(),
        [first @ .., last] if first.len() > 2 => format!("{} > … > {last}", steps[0]),
        _ => steps.join(" > "),
    };
    format!("at {place}, {}", describe(cause))
}

fn step_name(step: &TLFieldOrFunction) -> String {
    match step {
        TLFieldOrFunction::Field(field) => format!("{}: {}", field.name(), field.layout().name()),
        TLFieldOrFunction::Function(function) => format!("fn {}", function.name),
    }
}

fn describe(cause: &AbiInstability) -> String {
    match cause {
        AbiInstability::Size(it) => {
            format!("{} bytes here, {} in the plugin", it.expected, it.found)
        }
        AbiInstability::Alignment(it) => format!(
            "aligned to {} here, {} in the plugin",
            it.expected, it.found
        ),
        AbiInstability::FieldCountMismatch(it) => {
            format!("{} members here, {} in the plugin", it.expected, it.found)
        }
        AbiInstability::UnexpectedField(it) => {
            format!(
                "`{}` here, `{}` in the plugin",
                it.expected.name(),
                it.found.name()
            )
        }
        AbiInstability::Name(it) => format!("{} here, {} in the plugin", it.expected, it.found),
        AbiInstability::Package(it) => {
            format!("from {} here, from {} in the plugin", it.expected, it.found)
        }
        AbiInstability::MismatchedPrimitive(it) => {
            format!("{:?} here, {:?} in the plugin", it.expected, it.found)
        }
        other => {
            let text = format!("{other:?}");
            let name = text
                .split(|c: char| !c.is_alphanumeric())
                .next()
                .unwrap_or_default();
            format!("a difference of kind {name}")
        }
    }
}

#[cfg(test)]
mod tests {
    use kmr_abi::abi_stable::{
        self, StableAbi,
        std_types::{RString, RVec},
    };

    use super::*;

    macro_rules! generation {
        ($module:ident { $($field:ident: $type:ty,)* }) => {
            #[expect(dead_code, reason = "only the layouts are used")]
            mod $module {
                use super::*;
                #[repr(C)]
                #[derive(StableAbi)]
                #[sabi(kind(Prefix(prefix_ref = Root_Ref)))]
                #[sabi(missing_field(option))]
                pub struct Root {
                    #[sabi(last_prefix_field)]
                    pub info: u64,
                    $(pub $field: $type,)*
                }
                pub const LAYOUT: &TypeLayout = <Root_Ref as StableAbi>::LAYOUT;
            }
        };
    }
    generation!(first {});
    generation!(second { added: RString });
    generation!(other { added: RVec<u32>, });

    #[test]
    fn older_and_newer_plugins_pass_and_others_do_not() {
        assert!(
            compare(second::LAYOUT, first::LAYOUT).is_ok(),
            "an older plugin"
        );
        assert!(
            compare(first::LAYOUT, second::LAYOUT).is_ok(),
            "a newer plugin"
        );
        let errors = compare(second::LAYOUT, other::LAYOUT).unwrap_err();
        let cause = first_cause(&errors);
        assert!(
            errors.to_string().lines().count() > 20,
            "the whole report is long"
        );
        assert_eq!(cause.lines().count(), 1, "{cause}");
        assert!(cause.contains("added"), "{cause}");
        assert!(cause.len() < 160, "{cause}");
    }
}
