//! Plugins whose code runs in this process.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use kmr_abi::{
    AbiResult, LogLevel, LogSink_TO, MeterBox, PluginRoot_Ref, PolicyBox, RuleBox,
    abi_stable::{
        erased_types::TD_Opaque,
        std_types::{RResult, RStr, RString},
    },
    guard,
};
use kmr_sdk::{
    Action, Applied, Ask, Error, ErrorCode, History, MeasureRequest, Reading, Result, Target,
    wire::{Metadata, MeterConfiguration, PolicyConfiguration, RuleConfiguration},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Environment, HostServices, LoadError, LoadErrorKind, LoadedPlugin, MeterInstance, PluginFile,
    PolicyInstance, RuleInstance, abi_host, library, plugin_file::incompatible,
};

/// Loads and starts a plugin, or finds it loaded.
pub fn load(
    file: &PluginFile,
    environment: &Environment,
) -> Result<Box<dyn LoadedPlugin>, LoadError> {
    // Libraries stay, so equal bytes are linked once.
    static LOADED: Mutex<Option<HashMap<String, PluginRoot_Ref>>> = Mutex::new(None);
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let loaded = loaded.get_or_insert_with(HashMap::new);
    let root = match loaded.get(file.sha256()) {
        Some(root) => *root,
        None => {
            let root = start(file, environment)?;
            loaded.insert(file.sha256().to_owned(), root);
            root
        }
    };
    Ok(Box::new(InProcess {
        root,
        metadata: file.metadata().clone(),
    }))
}

fn start(file: &PluginFile, environment: &Environment) -> Result<PluginRoot_Ref, LoadError> {
    let root = library::link(file)?;
    let failed = |doing: &str, error: Error| {
        LoadError::new(
            LoadErrorKind::Failed,
            file.path(),
            format!("{doing}: {error}"),
        )
    };
    let document =
        received(root.info()()).map_err(|error| failed("fails to describe itself", error))?;
    if document.as_str() != file.document() {
        return Err(incompatible(
            file.path(),
            "its code and its file describe two different plugins",
        )
        .with_help("build it again from clean")
        .with_details(format!(
            "in the file: {}\nin the code: {document}",
            file.document()
        )));
    }
    let environment = kmr_abi::Environment {
        threads: environment.threads.max(1) as u64,
        log_level: LogLevel(environment.log_level as u32),
        log: LogSink_TO::from_value(HostLog, TD_Opaque),
    };
    received(root.start()(environment)).map_err(|error| failed("fails to start", error))?;
    Ok(root)
}

/// Passes a plugin's log records on to this process's own logger.
struct HostLog;

impl kmr_abi::LogSink for HostLog {
    fn log(&self, level: LogLevel, target: RStr<'_>, text: RStr<'_>) -> AbiResult<()> {
        guard(|| {
            let level = match level.0 {
                0 | 1 => log::Level::Error,
                2 => log::Level::Warn,
                3 => log::Level::Info,
                4 => log::Level::Debug,
                _ => log::Level::Trace,
            };
            log::log!(target: target.as_str(), level, "{text}");
            Ok(())
        })
    }
}

fn received<T>(result: AbiResult<T>) -> Result<T> {
    match result {
        RResult::ROk(value) => Ok(value),
        RResult::RErr(error) => Err(error.into()),
    }
}

fn document(value: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string(value)?)
}

fn answer<T: DeserializeOwned>(json: RString) -> Result<T> {
    serde_json::from_str(&json).map_err(|error| {
        Error::new(
            ErrorCode::OTHER,
            format!("the plugin's answer cannot be read: {error}"),
        )
    })
}

struct InProcess {
    root: PluginRoot_Ref,
    metadata: Metadata,
}

impl LoadedPlugin for InProcess {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn make_rule(
        &self,
        id: &str,
        configuration: &RuleConfiguration,
    ) -> Result<Box<dyn RuleInstance>> {
        let rule = received(self.root.make_rule()(
            id.into(),
            document(configuration)?.as_str().into(),
        ))?;
        Ok(Box::new(Rule(rule)))
    }

    fn make_meter(
        &self,
        id: &str,
        configuration: &MeterConfiguration,
    ) -> Result<Box<dyn MeterInstance>> {
        let meter = received(self.root.make_meter()(
            id.into(),
            document(configuration)?.as_str().into(),
        ))?;
        Ok(Box::new(Meter(meter)))
    }

    fn make_policy(
        &self,
        id: &str,
        configuration: &PolicyConfiguration,
    ) -> Result<Box<dyn PolicyInstance>> {
        let policy = received(self.root.make_policy()(
            id.into(),
            document(configuration)?.as_str().into(),
        ))?;
        Ok(Box::new(Policy(policy)))
    }
}

struct Rule(RuleBox);

impl RuleInstance for Rule {
    fn targets(&mut self, host: &dyn HostServices) -> Result<Vec<Target>> {
        answer(received(abi_host::lend(host, |host| self.0.targets(host)))?)
    }

    fn apply(&mut self, host: &dyn HostServices, action: &Action) -> Result<Applied> {
        let action = document(action)?;
        answer(received(abi_host::lend(host, |host| {
            self.0.apply(host, action.as_str().into())
        }))?)
    }
}

struct Meter(MeterBox);

impl MeterInstance for Meter {
    fn measure(&mut self, host: &dyn HostServices, request: &MeasureRequest) -> Result<Reading> {
        let request = document(request)?;
        let reading = received(abi_host::lend(host, |host| {
            self.0.measure(host, request.as_str().into())
        }))?;
        Ok(Reading {
            value: reading.value,
            scores: reading.scores.into_vec(),
            details: answer(reading.details)?,
        })
    }
}

struct Policy(PolicyBox);

impl PolicyInstance for Policy {
    fn next(&mut self, history: &History) -> Result<Ask> {
        answer(received(self.0.next(document(history)?.as_str().into()))?)
    }
}
