//! The plugin's side of the contract, around what its author wrote: every entry runs inside the guard, and an
//! instance that panicked is not called again.

use kmr_abi::{
    AbiResult, DropGuarded, Environment, ErrorCode, HostRef, Meter_TO, MeterBox, PluginRoot_Ref, Policy_TO, PolicyBox,
    Rule_TO, RuleBox,
    abi_stable::{
        erased_types::TD_Opaque,
        library::{CheckTypeLayout, LibHeader, RootModuleResult},
        std_types::{RErr, ROk, RStr, RString, RVec},
    },
    guard,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    Error, Host, Meter, Policy, Result, Rule, logging,
    wire::{MeterConfiguration, PolicyConfiguration, RuleConfiguration},
};

/// A value of the author's, whose functions and destructor run guarded.
struct Guarded<T> {
    value: DropGuarded<T>,
    poisoned: bool,
}

impl<T> Guarded<T> {
    fn new(value: T) -> Self {
        let value = DropGuarded::new(value, |error| {
            log::error!("{} while it was dropped, at {}", error.message, error.location);
        });
        Self { value, poisoned: false }
    }

    fn call<R>(&mut self, body: impl FnOnce(&mut T) -> Result<R>) -> AbiResult<R> {
        if self.poisoned {
            return RErr(Error::new(ErrorCode::POISONED, "refuses calls since it panicked").into());
        }
        // An error of the guard itself is a panic; one that the body returns is not.
        match guard(|| Ok(body(&mut self.value))) {
            ROk(Ok(value)) => ROk(value),
            ROk(Err(error)) => RErr(error.into()),
            RErr(panic) => {
                self.poisoned = true;
                RErr(panic)
            }
        }
    }
}

struct RuleEntry<R>(Guarded<R>);

impl<R: Rule> kmr_abi::Rule for RuleEntry<R> {
    fn targets(&mut self, host: HostRef<'_>) -> AbiResult<RString> {
        self.0.call(|rule| answer(&rule.targets(&Host::new(host))?))
    }

    fn apply(&mut self, host: HostRef<'_>, action: RStr<'_>) -> AbiResult<RString> {
        self.0.call(|rule| {
            let action = serde_json::from_str(action.as_str())?;
            answer(&rule.apply(&Host::new(host), &action)?)
        })
    }
}

struct MeterEntry<M>(Guarded<M>);

impl<M: Meter> kmr_abi::Meter for MeterEntry<M> {
    fn measure(&mut self, host: HostRef<'_>, request: RStr<'_>) -> AbiResult<kmr_abi::Reading> {
        self.0.call(|meter| {
            let request = serde_json::from_str(request.as_str())?;
            let reading = meter.measure(&Host::new(host), &request)?;
            Ok(kmr_abi::Reading {
                value: reading.value,
                scores: RVec::from(reading.scores),
                details: answer(&reading.details)?,
            })
        })
    }
}

struct PolicyEntry<P>(Guarded<P>);

impl<P: Policy> kmr_abi::Policy for PolicyEntry<P> {
    fn next(&mut self, history: RStr<'_>) -> AbiResult<RString> {
        self.0.call(|policy| {
            let history = serde_json::from_str(history.as_str())?;
            answer(&policy.next(&history)?)
        })
    }
}

fn answer(document: &impl Serialize) -> Result<RString> {
    Ok(serde_json::to_string(document)?.into())
}

fn configuration<T: DeserializeOwned>(json: RStr<'_>) -> Result<T> {
    serde_json::from_str(json.as_str()).map_err(|error| Error::invalid_configuration(error.to_string()))
}

fn config<T: DeserializeOwned>(table: Map<String, Value>) -> Result<T> {
    serde_path_to_error::deserialize(Value::Object(table)).map_err(|error| {
        let place = match error.path().iter().len() {
            0 => "config".to_owned(),
            _ => format!("config.{}", error.path()),
        };
        Error::invalid_configuration(error.into_inner().to_string()).at(place)
    })
}

/// Makes a rule behind the contract.
pub fn make_rule<R: Rule>(json: RStr<'_>) -> Result<RuleBox> {
    let RuleConfiguration {
        config: table,
        knobs,
        platform,
    } = configuration(json)?;
    let mut rule = R::new(config(table)?, knobs)?;
    rule.laid_out_for(&platform);
    Ok(Rule_TO::from_value(RuleEntry(Guarded::new(rule)), TD_Opaque))
}

/// Makes a meter behind the contract.
pub fn make_meter<M: Meter>(json: RStr<'_>) -> Result<MeterBox> {
    let MeterConfiguration { config: table } = configuration(json)?;
    let meter = M::new(config(table)?)?;
    Ok(Meter_TO::from_value(MeterEntry(Guarded::new(meter)), TD_Opaque))
}

/// Makes a policy behind the contract.
pub fn make_policy<P: Policy>(json: RStr<'_>) -> Result<PolicyBox> {
    let PolicyConfiguration { config: table, seed } = configuration(json)?;
    let policy = P::new(config(table)?, seed)?;
    Ok(Policy_TO::from_value(PolicyEntry(Guarded::new(policy)), TD_Opaque))
}

/// What is said when the host asks for what the plugin does not have.
pub fn unknown_extension(kind: &str, id: &str) -> Error {
    Error::not_found(format!("this plugin has no {kind} `{id}`"))
}

/// Sets up what the plugin has a copy of its own of.
pub fn start(environment: Environment) -> AbiResult<()> {
    guard(|| {
        logging::install(environment.log_level, environment.log);
        #[cfg(feature = "rayon")]
        {
            let threads = usize::try_from(environment.threads).unwrap_or(usize::MAX).max(1);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build_global()
                .map_err(|error| Error::new(ErrorCode::OTHER, error.to_string()))?;
        }
        Ok(())
    })
}

/// The header that the exported static of a plugin holds.
#[allow(unsafe_code)]
pub const fn header(root: extern "C" fn() -> RootModuleResult) -> LibHeader {
    // SAFETY: `export_plugin!` is the only caller, and its function returns a `PluginRoot_Ref`.
    unsafe { LibHeader::from_constructor::<PluginRoot_Ref>(root, CheckTypeLayout::Yes) }
}

/// Exports the plugin: one call for each shared library, naming everything that it offers.
///
/// Each entry is a kind (`rule`, `meter` or `policy`), an id, the type that implements it, and its metadata
/// as JSON members, checked at compile time. Name, version, licence and description are those of the crate.
///
/// ```text
/// kmr_sdk::export_plugin! {
///     rule "halve" => Halve {
///         "summary": "stores weights in half precision",
///         "role": "reduce",
///         "locality": "tensor",
///         "knobs": [{ "name": "half", "domain": { "choices": [false, true] }, "per": ["layer"] }]
///     }
///     meter "macro_f1" => MacroF1 { "summary": "mean F1 over classes", "measures": "quality", "needs_labels": true }
/// }
/// ```
///
/// A panic must be able to unwind to the guard, so a profile with `panic = "abort"` does not compile.
#[macro_export]
macro_rules! export_plugin {
    ($($kind:ident $id:literal => $extension:ty { $($member:tt)* })+) => {
        #[cfg(panic = "abort")]
        compile_error!("a kmr plugin needs `panic = \"unwind\"`: the host cannot survive a plugin that aborts");

        const _: () = {
            use $crate::internal::kmr_abi;
            use kmr_abi::{AbiResult, Environment, MeterBox, PluginRoot, PluginRoot_Ref, PolicyBox, RuleBox};
            use kmr_abi::abi_stable::{
                library::{LibHeader, RootModuleResult, __call_root_module_loader},
                prefix_type::PrefixTypeTrait,
                std_types::{RStr, RString},
            };

            const EXTENSIONS: &[(&str, &str, &str)] =
                &[$((stringify!($kind), stringify!($id), concat!("{", stringify!($($member)*), "}"))),+];
            const PLUGIN: $crate::metadata::Source<'static> = $crate::metadata::Source {
                abi: kmr_abi::VERSION,
                name: env!("CARGO_PKG_NAME"),
                version: env!("CARGO_PKG_VERSION"),
                license: env!("CARGO_PKG_LICENSE"),
                description: env!("CARGO_PKG_DESCRIPTION"),
                extensions: EXTENSIONS,
            };
            const LENGTH: usize = $crate::metadata::checked_length(&PLUGIN);

            // Exported so that no linker drops the section.
            #[used]
            #[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".kmr"))]
            #[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__kmr"))]
            #[unsafe(export_name = "kmr_plugin_metadata")]
            pub static METADATA: [u8; LENGTH] = $crate::metadata::encode(&PLUGIN);

            extern "C" fn info() -> AbiResult<RString> {
                kmr_abi::guard(|| Ok(String::from_utf8_lossy(&METADATA).into_owned().into()))
            }
            extern "C" fn start(environment: Environment) -> AbiResult<()> {
                $crate::internal::start(environment)
            }
            extern "C" fn make_rule(id: RStr<'_>, configuration: RStr<'_>) -> AbiResult<RuleBox> {
                kmr_abi::guard(|| {
                    $($crate::export_plugin!(@make rule $kind, $id, $extension, make_rule, id, configuration);)+
                    Err($crate::internal::unknown_extension("rule", id.as_str()).into())
                })
            }
            extern "C" fn make_meter(id: RStr<'_>, configuration: RStr<'_>) -> AbiResult<MeterBox> {
                kmr_abi::guard(|| {
                    $($crate::export_plugin!(@make meter $kind, $id, $extension, make_meter, id, configuration);)+
                    Err($crate::internal::unknown_extension("meter", id.as_str()).into())
                })
            }
            extern "C" fn make_policy(id: RStr<'_>, configuration: RStr<'_>) -> AbiResult<PolicyBox> {
                kmr_abi::guard(|| {
                    $($crate::export_plugin!(@make policy $kind, $id, $extension, make_policy, id, configuration);)+
                    Err($crate::internal::unknown_extension("policy", id.as_str()).into())
                })
            }
            fn root() -> PluginRoot_Ref {
                PluginRoot { info, start, make_rule, make_meter, make_policy }.leak_into_prefix()
            }
            extern "C" fn load() -> RootModuleResult {
                __call_root_module_loader(root)
            }
            // A static of our own instead of abi_stable's attribute, which writes `#[no_mangle]` without the
            // `unsafe` that edition 2024 asks for.
            #[unsafe(export_name = "kmr_plugin_root")]
            pub static ROOT: LibHeader = $crate::internal::header(load);
        };
    };
    (@make rule rule, $id:literal, $extension:ty, $make:ident, $wanted:ident, $configuration:ident) => {
        $crate::export_plugin!(@made $id, $extension, $make, $wanted, $configuration)
    };
    (@make meter meter, $id:literal, $extension:ty, $make:ident, $wanted:ident, $configuration:ident) => {
        $crate::export_plugin!(@made $id, $extension, $make, $wanted, $configuration)
    };
    (@make policy policy, $id:literal, $extension:ty, $make:ident, $wanted:ident, $configuration:ident) => {
        $crate::export_plugin!(@made $id, $extension, $make, $wanted, $configuration)
    };
    (@make $($other:tt)*) => {};
    (@made $id:literal, $extension:ty, $make:ident, $wanted:ident, $configuration:ident) => {
        if $wanted.as_str() == $id {
            return Ok($crate::internal::$make::<$extension>($configuration)?);
        }
    };
}
