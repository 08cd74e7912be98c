//! What goes to the terminal: color, log lines and progress bars that do not tear each other.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);
static COLOR: AtomicBool = AtomicBool::new(false);

/// When to color.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Whether messages are colored.
pub fn color() -> bool {
    COLOR.load(Ordering::Relaxed)
}

/// Settles color and logging; `verbosity` counts `-v` against `-q`, and KMR_LOG overrides it.
pub fn initialize(choice: ColorChoice, verbosity: i16) {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let color = match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => io::stderr().is_terminal() && !no_color,
    };
    COLOR.store(color, Ordering::Relaxed);
    let level = match verbosity {
        i16::MIN..=-2 => log::LevelFilter::Off,
        -1 => log::LevelFilter::Error,
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        2 => log::LevelFilter::Debug,
        _ => log::LevelFilter::Trace,
    };
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Off)
        .filter_module("kmr", level)
        // What plugins log, see `kmr_loader`'s log sink.
        .filter_module("plugin", level)
        .parse_env("KMR_LOG")
        .write_style(if color {
            env_logger::WriteStyle::Always
        } else {
            env_logger::WriteStyle::Never
        })
        .target(env_logger::Target::Pipe(Box::new(AroundBars)))
        .format_timestamp(None)
        .init();
}

/// Standard error with progress bars taken out of the way.
struct AroundBars;

impl Write for AroundBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| io::stderr().lock().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Prints data on standard output. A reader that has gone away (`| head`) ends the program quietly.
pub fn print(arguments: std::fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_fmt(arguments).and_then(|()| out.flush()) {
        if error.kind() != io::ErrorKind::BrokenPipe {
            log::error!("cannot write to standard output: {error}");
        }
        std::process::exit(crate::exit::USAGE.into());
    }
}

/// Prints data.
macro_rules! text {
    ($($argument:tt)*) => { $crate::terminal::print(format_args!($($argument)*)) };
}

/// Prints data and ends the line.
macro_rules! line {
    ($($argument:tt)*) => { $crate::terminal::print(format_args!("{}\n", format_args!($($argument)*))) };
}

pub(crate) use {line, text};

/// Progress of one command: a moving line on a terminal, plain lines otherwise.
pub struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
}

impl Progress {
    /// Progress that is shown, or none at all.
    pub fn new(quiet: bool) -> Self {
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let bar = BARS.add(ProgressBar::new_spinner());
            bar.set_style(
                ProgressStyle::with_template("{spinner} {elapsed_precise} {wide_msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, quiet }
    }

    /// A line that stays.
    pub fn line(&self, text: &str) {
        if !self.quiet {
            BARS.suspend(|| eprintln!("{text}"));
        }
    }

    /// What is going on now; only a terminal shows it.
    pub fn now(&self, text: impl Into<String>) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.into());
        }
    }
}

impl Progress {
    /// Takes the moving line away.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
