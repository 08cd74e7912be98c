//! The `log` crate of a plugin, bridged to the host's.

use std::sync::OnceLock;

use kmr_abi::{Environment, LogLevel};
use log::{Level, LevelFilter, Log, Metadata, Record};

struct HostLogger(Environment);

static LOGGER: OnceLock<HostLogger> = OnceLock::new();

/// Sends this library's log records to the host.
pub(crate) fn install(environment: Environment) {
    let logger = LOGGER.get_or_init(|| HostLogger(environment));
    if log::set_logger(logger).is_ok() {
        log::set_max_level(filter(environment.log_level));
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level.0 {
        0 => LevelFilter::Off,
        1 => LevelFilter::Error,
        2 => LevelFilter::Warn,
        3 => LevelFilter::Info,
        4 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    }
}

/// The number of a level at the border.
pub(crate) fn number(level: Level) -> LogLevel {
    LogLevel(level as u32)
}

impl Log for HostLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= filter(self.0.log_level)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let text = record.args().to_string();
            (self.0.log)(
                number(record.level()),
                record.target().into(),
                text.as_str().into(),
            );
        }
    }

    fn flush(&self) {}
}
