//! Plugins whose code runs in this process.

use std::{fmt, num::NonZeroUsize, path::Path, sync::Arc};

use kmr_abi::{
    AbiResult, Environment, ErrorCode, HostRef, LogSink_TO, MeterBox, PluginError, PluginRoot_Ref, PolicyBox, RuleBox,
    abi_stable::{erased_types::TD_Opaque, std_types::RString},
};
use kmr_sdk::{
    Ask, History, Reading,
    wire::{
        Action, Applied, Extension, MeasureRequest, Metadata, MeterConfiguration, PolicyConfiguration,
        RuleConfiguration, Target,
    },
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::{ErrorKind, Failure, LoaderError, Result},
    file::PluginFile,
    log_sink::{self, HostLog},
    open,
    plugin::{MeterInstance, Plugin, PolicyInstance, RuleInstance},
};

/// A plugin in this process. Its library stays loaded until the process ends.
#[derive(Clone)]
pub struct InProcess(Arc<Loaded>);

struct Loaded {
    file: PluginFile,
    root: PluginRoot_Ref,
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InProcess").field(&self.0.file).finish()
    }
}

impl PluginFile {
    /// Loads the plugin into this process and starts it with a budget of threads.
    ///
    /// From here on the plugin's code runs with all of this process's rights and can end it.
    ///
    /// # Errors
    /// [`ErrorKind::Incompatible`] where the dynamic linker or the check of the binary layout refuses it (see
    /// [`LoaderError::details`]), [`ErrorKind::Damaged`] where it exports no root module, [`ErrorKind::Failed`] where
    /// its start fails.
    pub fn load(&self, threads: NonZeroUsize) -> Result<InProcess> {
        let loaded = Loaded {
            root: open::open(self)?,
            file: self.clone(),
        };
        let name = &self.metadata().plugin.name;
        let environment = Environment {
            threads: threads.get() as u64,
            log_level: log_sink::level(log::max_level()),
            log: LogSink_TO::from_value(HostLog::new(name), TD_Opaque),
        };
        let started = loaded.root.start()(environment).into_result();
        started.map_err(|error| loaded.failure("its start", error))?;
        Ok(InProcess(Arc::new(loaded)))
    }
}

impl Loaded {
    fn name(&self) -> &str {
        &self.file.metadata().plugin.name
    }

    /// What the plugin itself said went wrong.
    fn failure(&self, what: &str, error: PluginError) -> LoaderError {
        let failure = Failure {
            plugin: self.name().to_owned(),
            code: error.code,
            message: error.message.into(),
            location: error.location.into(),
        };
        let place = match (failure.code, failure.location.as_str()) {
            (_, "") => String::new(),
            (ErrorCode::PANIC, line) => format!(" at {line}"),
            (_, subject) => format!(" ({subject})"),
        };
        let message = format!("plugin `{}`: {what} failed: {}{place}", failure.plugin, failure.message);
        self.error(message).with_failure(failure)
    }

    /// What the plugin did against the contract.
    fn breach(&self, what: &str, complaint: impl std::fmt::Display) -> LoaderError {
        self.error(format!("plugin `{}`: {what} {complaint}", self.name()))
            .with_help("this is a defect of the plugin; tell its authors")
    }

    fn error(&self, message: String) -> LoaderError {
        LoaderError::new(ErrorKind::Failed, self.file.path(), message)
    }

    /// Checks that the metadata names an extension before the plugin's code is asked for it.
    fn require(&self, kind: &str, id: &str) -> Result<()> {
        let extensions = &self.file.metadata().extensions;
        let ids: Vec<&str> = extensions
            .iter()
            .filter(|extension| extension.kind() == kind)
            .map(Extension::id)
            .collect();
        if ids.contains(&id) {
            return Ok(());
        }
        let offers = match ids.as_slice() {
            [] => format!("it offers no {kind} at all"),
            ids => format!("it offers `{}`", ids.join("`, `")),
        };
        let message = format!("plugin `{}` has no {kind} `{id}`", self.name());
        Err(LoaderError::new(ErrorKind::Missing, self.file.path(), message).with_help(offers))
    }
}

impl InProcess {
    /// Makes an extension, with what its later failures are told with.
    fn make<T>(
        &self,
        kind: &str,
        id: &str,
        configuration: &impl Serialize,
        make: impl FnOnce(PluginRoot_Ref, &str) -> AbiResult<T>,
    ) -> Result<Instance<T>> {
        self.0.require(kind, id)?;
        let configuration = document(configuration);
        let name = format!("{kind} `{id}`");
        match make(self.0.root, &configuration).into_result() {
            Ok(inner) => Ok(Instance {
                inner,
                plugin: Arc::clone(&self.0),
                name,
                poisoned: false,
            }),
            Err(error) => Err(self.0.failure(&format!("making {name}"), error)),
        }
    }
}

impl Plugin for InProcess {
    fn metadata(&self) -> &Metadata {
        self.0.file.metadata()
    }

    fn sha256(&self) -> &str {
        self.0.file.sha256()
    }

    fn path(&self) -> &Path {
        self.0.file.path()
    }

    fn rule(&self, id: &str, configuration: &RuleConfiguration) -> Result<Box<dyn RuleInstance>> {
        let rule = self.make("rule", id, configuration, |root, configuration| {
            root.make_rule()(id.into(), configuration.into())
        })?;
        Ok(Box::new(rule))
    }

    fn meter(&self, id: &str, configuration: &MeterConfiguration) -> Result<Box<dyn MeterInstance>> {
        let meter = self.make("meter", id, configuration, |root, configuration| {
            root.make_meter()(id.into(), configuration.into())
        })?;
        Ok(Box::new(meter))
    }

    fn policy(&self, id: &str, configuration: &PolicyConfiguration) -> Result<Box<dyn PolicyInstance>> {
        let policy = self.make("policy", id, configuration, |root, configuration| {
            root.make_policy()(id.into(), configuration.into())
        })?;
        Ok(Box::new(policy))
    }
}

/// An extension across the border. It refuses itself after a panic even where the plugin's side would not.
struct Instance<T> {
    inner: T,
    plugin: Arc<Loaded>,
    name: String,
    poisoned: bool,
}

impl<T> Instance<T> {
    fn call<R>(&mut self, what: &str, call: impl FnOnce(&mut T) -> AbiResult<R>) -> Result<R> {
        let what = format!("{what} of {}", self.name);
        let result = if self.poisoned {
            let message = "the instance panicked earlier and is not called again";
            Err(PluginError::new(ErrorCode::POISONED, message))
        } else {
            call(&mut self.inner).into_result()
        };
        result.map_err(|error| {
            self.poisoned |= error.code == ErrorCode::PANIC;
            self.plugin.failure(&what, error)
        })
    }

    /// A call whose answer is a document.
    fn ask<A: DeserializeOwned>(&mut self, what: &str, call: impl FnOnce(&mut T) -> AbiResult<RString>) -> Result<A> {
        let answer = self.call(what, call)?;
        serde_json::from_str(&answer).map_err(|error| {
            self.plugin.breach(
                &format!("{what} of {}", self.name),
                format_args!("answered what cannot be read: {error}"),
            )
        })
    }
}

impl RuleInstance for Instance<RuleBox> {
    fn targets(&mut self, host: HostRef<'_>) -> Result<Vec<Target>> {
        self.ask("`targets`", |rule| rule.targets(host))
    }

    fn apply(&mut self, host: HostRef<'_>, action: &Action) -> Result<Applied> {
        let action = document(action);
        self.ask("`apply`", |rule| rule.apply(host, action.as_str().into()))
    }
}

impl MeterInstance for Instance<MeterBox> {
    fn measure(&mut self, host: HostRef<'_>, request: &MeasureRequest) -> Result<Reading> {
        let request = document(request);
        let reading = self.call("`measure`", |meter| meter.measure(host, request.as_str().into()))?;
        let breach = |complaint: &str| {
            let what = format!("`measure` of {}", self.name);
            self.plugin.breach(&what, complaint)
        };
        if reading.value.is_nan() {
            return Err(breach("read what is not a number (NaN)"));
        }
        let details = match reading.details.as_str() {
            "" => Default::default(),
            text => serde_json::from_str(text).map_err(|_| breach("gave details that are no JSON object"))?,
        };
        Ok(Reading {
            value: reading.value,
            scores: reading.scores.to_vec(),
            details,
        })
    }
}

impl PolicyInstance for Instance<PolicyBox> {
    fn next(&mut self, history: &History) -> Result<Ask> {
        let history = document(history);
        self.ask("`next`", |policy| policy.next(history.as_str().into()))
    }
}

/// A document for the other side.
fn document(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("documents have text keys and nothing that cannot be written")
}

#[cfg(test)]
mod tests;
