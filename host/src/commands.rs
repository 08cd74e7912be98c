//! The commands, one module each.

mod adapters;
mod convert;
mod frontier;
mod infer;
mod manifest;
mod measure;
mod plugin;
mod run;

use crate::{
    arguments::{Arguments, Command},
    failure::Failure,
};

pub use convert::like::gguf_kind;

/// Runs the command; returns the exit code of a command that came to an end.
pub fn execute(arguments: &Arguments) -> Result<u8, Failure> {
    let common = &arguments.common;
    match &arguments.command {
        Command::Run(run) => run::execute(run, common),
        Command::Frontier(frontier) => frontier::execute(frontier, common),
        Command::Measure(measure) => measure::execute(measure, common),
        Command::Infer(infer) => infer::execute(infer, common),
        Command::Convert(convert) => convert::execute(convert, common),
        Command::Adapters(adapters) => adapters::execute(adapters, common),
        Command::Plugin(plugin) => plugin::execute(plugin, common),
        Command::Manifest(manifest) => manifest::execute(manifest, common),
    }
}
