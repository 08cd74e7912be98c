//! Carries the plugin's `log` records to the host.

use std::sync::OnceLock;

use kmr_abi::{LogLevel, LogSinkBox};
use log::{Level, LevelFilter, Log, Metadata, Record};

static SINK: OnceLock<LogSinkBox> = OnceLock::new();
static BRIDGE: Bridge = Bridge;

struct Bridge;

/// Sends records of the `log` crate, from any thread of the plugin, to `sink`.
pub(crate) fn install(level: LogLevel, sink: LogSinkBox) {
    if SINK.set(sink).is_ok() && log::set_logger(&BRIDGE).is_ok() {
        log::set_max_level(filter(level));
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

impl Log for Bridge {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            Level::Error => LogLevel::ERROR,
            Level::Warn => LogLevel::WARN,
            Level::Info => LogLevel::INFO,
            Level::Debug => LogLevel::DEBUG,
            Level::Trace => LogLevel::TRACE,
        };
        if let Some(sink) = SINK.get() {
            // Logging has nowhere to report its own failure to.
            let _ = sink.log(level, record.target().into(), record.args().to_string().as_str().into());
        }
    }

    fn flush(&self) {}
}
