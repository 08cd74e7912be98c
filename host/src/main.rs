//! `kmr`: makes a trained model fit a budget.

mod arguments;
mod commands;
mod engine;
mod exit;
mod failure;
mod files;
mod latency;
mod pipeline;
mod table;
mod terminal;

use std::{
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
};

use clap::Parser;
use failure::Failure;

// Activations come and go by the megabyte; the system's allocator returns them to the kernel each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = match arguments::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let common = &arguments.common;
    let verbosity = if common.quiet { -1 } else { common.verbose.into() };
    terminal::initialize(common.color, verbosity);
    // A panic is a defect; the failure below says so once, and `-vv` says the rest.
    panic::set_hook(Box::new(|panic| log::debug!("{panic}")));
    if let Some(threads) = common.threads
        && let Err(error) = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.into())
            .build_global()
    {
        log::warn!("cannot compute with {threads} threads: {error}");
    }
    let done = panic::catch_unwind(AssertUnwindSafe(|| commands::execute(&arguments)));
    match done.unwrap_or_else(|_| Err(internal())) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if common.json {
                terminal::line!("{:#}", failure.to_json());
            } else {
                eprint!("{}", failure.render(terminal::color()));
            }
            ExitCode::from(failure.code())
        }
    }
}

fn internal() -> Failure {
    Failure::new(exit::INTERNAL, "kmr itself went wrong").help("run it again with `-vv` and report what it says")
}

/// A command line that cannot be understood, or one that asks for help.
fn usage(error: &clap::Error) -> ExitCode {
    let code = u8::try_from(error.exit_code()).unwrap_or(exit::USAGE);
    if error.use_stderr() && std::env::args().any(|argument| argument == "--json") {
        let message = error.kind().as_str().unwrap_or("the command line is wrong");
        let failure = Failure::new(code, message).help("`kmr --help` lists the commands and their options");
        terminal::line!("{:#}", failure.to_json());
    } else if let Err(error) = error.print() {
        log::debug!("cannot print: {error}");
    }
    ExitCode::from(code)
}
