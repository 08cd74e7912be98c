//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use kmr_formats::gguf::GgufKind;
use kmr_manifest::Amount;

use crate::{commands::gguf_kind, engine::EngineChoice, terminal::ColorChoice};

/// Makes a trained model fit a budget.
#[derive(Debug, Parser)]
#[command(name = "kmr", version, about, propagate_version = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Options of every command.
    #[command(flatten)]
    pub common: Common,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Common {
    /// Print the result, or the error, as JSON on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Color messages
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
    /// Log more; repeat for still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Show no progress and log errors alone
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Threads to compute with [default: one per core]
    #[arg(long, global = true, env = "KMR_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub threads: Option<u16>,
    /// A plugin, or a folder of plugins, to look in first; repeatable
    #[arg(long = "plugin-path", global = true, value_name = "PATH")]
    pub plugin_paths: Vec<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring a model within a budget, as a manifest says
    Run(Run),
    /// Solve for many budgets with one search
    Frontier(Frontier),
    /// Print every cost of a model
    Measure(Measure),
    /// Run a model on arrays
    Infer(Infer),
    /// Read a model and write it again, changed as the options say
    Convert(Convert),
    /// Take low-rank adapters out of a model as a PEFT folder, or merge such a folder into one
    Adapters(Adapters),
    /// Look at plugins
    #[command(subcommand)]
    Plugin(Plugin),
    /// Look at manifests
    #[command(subcommand)]
    Manifest(Manifest),
}

/// `kmr run`
#[derive(Debug, Args)]
pub struct Run {
    /// The manifest
    pub manifest: PathBuf,
    /// The folder for the model, its report and the journal
    #[arg(long, value_name = "DIR", default_value = "run")]
    pub out: PathBuf,
    /// Leave out the rule with this id; repeatable
    #[arg(long, value_name = "ID")]
    pub disable: Vec<String>,
    /// What quality is judged in
    #[arg(long, env = "KMR_ENGINE", value_name = "ENGINE", default_value = "auto")]
    pub engine: EngineChoice,
    /// Leave out the latency of the report
    #[arg(long)]
    pub no_latency: bool,
}

/// `kmr frontier`
#[derive(Debug, Args)]
pub struct Frontier {
    /// The manifest; its budget's limit gives way to `--budgets`, and its policy to the knapsack
    pub manifest: PathBuf,
    /// The folder for the models and `frontier.json`
    #[arg(long, value_name = "DIR", default_value = "frontier")]
    pub out: PathBuf,
    /// Limits of the budget's meter, as `50%,30%,120000`
    #[arg(long, value_name = "AMOUNT,...", value_delimiter = ',', required = true, value_parser = amount)]
    pub budgets: Vec<(String, Amount)>,
    /// Leave out the rule with this id; repeatable
    #[arg(long, value_name = "ID")]
    pub disable: Vec<String>,
    /// What quality is judged in
    #[arg(long, env = "KMR_ENGINE", value_name = "ENGINE", default_value = "auto")]
    pub engine: EngineChoice,
}

/// An amount, with what was written.
fn amount(text: &str) -> Result<(String, Amount), String> {
    Ok((text.trim().to_owned(), text.parse()?))
}

/// `kmr measure`
#[derive(Debug, Args)]
pub struct Measure {
    /// The model
    pub model: PathBuf,
    /// The shape of an input whose dimensions are open, as `image=1,3,224,224`; open dimensions are 1 otherwise
    #[arg(long = "input", value_name = "NAME=SHAPE", value_parser = named_shape)]
    pub inputs: Vec<(String, Vec<usize>)>,
    /// Print the costs of every layer too
    #[arg(long)]
    pub layers: bool,
    /// Measure how long inference takes in ONNX Runtime, too
    #[arg(long)]
    pub latency: bool,
    /// Batch sizes to measure latency at, where first dimensions are open
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1", requires = "latency", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: Vec<u32>,
    /// Numbers of threads to measure latency with
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1", requires = "latency", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub latency_threads: Vec<u16>,
    /// A model whose latency is measured in turn with the first one's; repeatable
    #[arg(long, value_name = "MODEL", requires = "latency")]
    pub compare: Vec<PathBuf>,
}

/// `kmr adapters`
#[derive(Debug, Args)]
pub struct Adapters {
    /// The model
    pub model: PathBuf,
    /// The folder for the adapters; with `--merge`, the file for the model
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    /// A PEFT folder whose adapters go into the model's weights
    #[arg(long, value_name = "DIR")]
    pub merge: Option<PathBuf>,
    /// The name or path of the model that the adapters belong to, for their configuration
    #[arg(long, value_name = "NAME", conflicts_with = "merge")]
    pub base: Option<String>,
}

/// `kmr infer`
#[derive(Debug, Args)]
pub struct Infer {
    /// The model
    pub model: PathBuf,
    /// Arrays named like the model's inputs, samples first (npz)
    #[arg(long, value_name = "NPZ")]
    pub inputs: PathBuf,
    /// Where the named results go (npz)
    #[arg(long, value_name = "NPZ")]
    pub outputs: PathBuf,
    /// A value to put out, also an inner one; repeatable [default: the model's outputs]
    #[arg(long = "value", value_name = "NAME")]
    pub values: Vec<String>,
    /// Samples to compute at a time
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,
    /// Take each sample as a whole call: arrays have one axis more than the inputs; the default where an
    /// input has no open first dimension
    #[arg(long)]
    pub calls: bool,
    /// What uint8 arrays are multiplied with for float32 inputs, as `1/255`
    #[arg(long, value_name = "FACTOR")]
    pub scale: Option<String>,
    /// What runs the model; `auto` is the built-in engine here
    #[arg(long, env = "KMR_ENGINE", value_name = "ENGINE", default_value = "auto")]
    pub engine: EngineChoice,
}

/// `kmr convert`
#[derive(Debug, Args)]
pub struct Convert {
    /// The model to read: an ONNX file, a GGUF file, or a folder of `transformers`
    pub input: PathBuf,
    /// What to write: an ONNX file; a GGUF file where the name ends in `.gguf`; with `--like`, a new folder of
    /// `transformers` where it does not end in `.onnx`
    pub output: PathBuf,
    /// The folder or GGUF file that the model came from, for a folder or a GGUF file of what became of it [default:
    /// the input, where it is one]
    #[arg(long, value_name = "SOURCE")]
    pub like: Option<PathBuf>,
    /// What matrices are stored as in a GGUF file, unless a block says their integers exactly: f32, f16, q8_0, q4_0,
    /// q4_1, q4_k or q6_k [default: f16]
    #[arg(long, value_name = "TYPE", value_parser = gguf_kind)]
    pub gguf_type: Option<GgufKind>,
    /// Replace calls of the model's own functions by their nodes
    #[arg(long)]
    pub inline_functions: bool,
    /// Say the model in the words of this version of the standard operator set
    #[arg(long, value_name = "VERSION")]
    pub opset: Option<i64>,
    /// Make initializers of Constant nodes and of what subgraphs hold
    #[arg(long)]
    pub lift_constants: bool,
    /// Give inner values the shortest names, drop what only describes, and store equal small tensors once
    #[arg(long)]
    pub short_names: bool,
    /// Write weights to `OUTPUT.data` beside the model [default: only beyond 2 GiB]
    #[arg(long)]
    pub external_data: bool,
}

/// `kmr plugin`
#[derive(Debug, Subcommand)]
pub enum Plugin {
    /// List the plugins that are found and what they offer
    List,
    /// Show what a plugin says of itself, without running it
    Inspect {
        /// The shared library
        library: PathBuf,
    },
}

/// `kmr manifest`
#[derive(Debug, Subcommand)]
pub enum Manifest {
    /// Check a manifest, its files and the plugins that it asks for
    Check {
        /// The manifest
        manifest: PathBuf,
    },
    /// Print the JSON Schema of manifests
    Schema,
}

fn named_shape(text: &str) -> Result<(String, Vec<usize>), String> {
    let malformed = || format!("`{text}` is not of the form NAME=SIZE,SIZE,...");
    let (name, sizes) = text.split_once('=').ok_or_else(malformed)?;
    let shape = sizes
        .split(',')
        .map(|size| size.trim().parse::<usize>().ok().filter(|&size| size > 0))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(malformed)?;
    Ok((name.to_owned(), shape))
}
