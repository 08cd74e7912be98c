//! Where the log records of plugins go.

use kmr_abi::{AbiResult, LogLevel, LogSink, abi_stable::std_types::RStr, guard};
use log::{Level, LevelFilter};

/// Passes a plugin's log records on to this process's logger, under the plugin's name.
pub(crate) struct HostLog {
    plugin: String,
}

impl HostLog {
    pub(crate) fn new(plugin: &str) -> Self {
        Self {
            plugin: plugin.to_owned(),
        }
    }
}

impl LogSink for HostLog {
    fn log(&self, level: LogLevel, target: RStr<'_>, text: RStr<'_>) -> AbiResult<()> {
        guard(|| {
            if let Some(level) = severity(level) {
                let target = format!("plugin {}: {target}", self.plugin);
                log::log!(target: &target, level, "{text}");
            }
            Ok(())
        })
    }
}

/// The border's number of a level.
pub(crate) fn level(filter: LevelFilter) -> LogLevel {
    LogLevel(filter as u32)
}

fn severity(level: LogLevel) -> Option<Level> {
    match level {
        LogLevel::OFF => None,
        LogLevel::ERROR => Some(Level::Error),
        LogLevel::WARN => Some(Level::Warn),
        LogLevel::INFO => Some(Level::Info),
        LogLevel::DEBUG => Some(Level::Debug),
        // Levels are open: a more detailed one than this version knows is still a trace.
        _ => Some(Level::Trace),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_cross_by_their_documented_numbers() {
        assert_eq!(level(LevelFilter::Off), LogLevel::OFF);
        for filter in LevelFilter::iter() {
            assert_eq!(severity(level(filter)), filter.to_level());
        }
        assert_eq!(severity(LogLevel(99)), Some(Level::Trace));
    }
}
