//! `kmr`: makes a trained model fit a budget.

mod arguments;
mod commands;
mod exit;
mod failure;
mod files;
mod pipeline;
mod table;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

// Activations come and go by the megabyte; the system's allocator returns them to the kernel each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = arguments::Arguments::parse();
    let common = &arguments.common;
    let verbosity = if common.quiet { -1 } else { common.verbose.into() };
    terminal::initialize(common.color, verbosity);
    if let Some(threads) = common.threads
        && let Err(error) = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.into())
            .build_global()
    {
        log::warn!("cannot compute with {threads} threads: {error}");
    }
    match commands::execute(&arguments) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if common.json {
                println!("{:#}", failure.to_json());
            } else {
                eprint!("{}", failure.render(terminal::color()));
            }
            ExitCode::from(failure.code())
        }
    }
}
