//! What a manifest says, as plain data.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Value;

use crate::{Amount, Error, ErrorKind, Placed, Problem, Scale, Source, suggest};

/// A checked manifest. Paths are relative to the working directory, no longer to the manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub(crate) source: Arc<Source>,
    pub(crate) directory: PathBuf,
    /// `[model]`
    pub model: Model,
    /// `[models]`: files of further models that rules may look at, by name.
    pub models: IndexMap<String, Placed<PathBuf>>,
    /// `[data]`
    pub data: Data,
    /// `[budget]`: at least one limit, each of another meter.
    pub budget: Vec<Limit>,
    /// `[quality]`
    pub quality: Quality,
    /// `[policy]`
    pub policy: Policy,
    /// `[[stage]]`: at least one.
    pub stages: Vec<Stage>,
    /// `[plugins] paths`: plugin files or folders of them.
    pub plugins: Vec<Placed<PathBuf>>,
    /// `[meters]`
    pub meters: Meters,
    /// `[target]`
    pub target: Target,
    /// `[output]`
    pub output: Output,
}

/// `[model]`
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Model {
    /// The model's file.
    pub path: Placed<PathBuf>,
    /// Shapes for the model's inputs by name, where the model itself leaves dimensions open.
    pub inputs: IndexMap<String, Placed<Vec<usize>>>,
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Data {
    /// What rules may read.
    pub calibration: Option<DataSource>,
    /// What rules may train on, where that is not the calibration data.
    pub training: Option<DataSource>,
    /// What the search judges its candidates by.
    pub search: DataSource,
    /// What the final floor is judged by, and nothing else.
    pub holdout: Option<DataSource>,
    /// How uint8 arrays become float32 inputs.
    pub scale: Option<Placed<Scale>>,
    /// The name of the array that holds the labels.
    pub labels: Placed<String>,
    /// What one sample is; what the model's inputs suggest when absent.
    pub sample: Option<DataSample>,
    /// The tokenizer of splits of texts; the model's own when absent.
    pub tokenizer: Option<Placed<PathBuf>>,
    /// How images change while a rule trains on them.
    pub augment: Option<Augment>,
}

/// `[data.augment]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Augment {
    /// The greatest shift in pixels, along each axis.
    pub shift: u64,
    /// Whether images are mirrored left to right half of the time.
    pub flip: bool,
}

impl Data {
    /// The splits that the manifest gives, by name.
    pub fn splits(&self) -> impl Iterator<Item = (&'static str, &DataSource)> {
        [
            ("calibration", self.calibration.as_ref()),
            ("training", self.training.as_ref()),
            ("search", Some(&self.search)),
            ("holdout", self.holdout.as_ref()),
        ]
        .into_iter()
        .filter_map(|(name, source)| Some((name, source?)))
    }
}

/// One split of the data.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct DataSource {
    /// An npz file, an IDX file of inputs, a folder of npy files, or a file of texts.
    pub path: Placed<PathBuf>,
    /// The IDX file of labels that goes with an IDX file of inputs.
    pub labels: Option<Placed<PathBuf>>,
    /// The seed by which samples are shuffled before `skip` and `take` count.
    pub shuffle: Option<u64>,
    /// Samples left out at the start.
    pub skip: u64,
    /// The greatest number of samples used; all when absent.
    pub take: Option<u64>,
    /// The format, when the path does not tell it.
    pub format: Option<DataFormat>,
    /// How texts become samples; none where the file holds arrays.
    pub texts: Option<TextData>,
    /// The whole entry.
    pub span: Range<usize>,
}

/// How texts become samples.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TextData {
    /// The column of texts.
    pub text: Option<String>,
    /// What is made of them.
    pub samples: TextSamples,
}

/// What of texts is a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextSamples {
    /// A text, or two.
    Texts {
        /// The column of texts that the tokenizer joins to them.
        pair: Option<String>,
        /// The column of texts that they are compared with.
        against: Option<String>,
        /// The column of classes or scores.
        label: Option<String>,
        /// Tokens that longer texts are cut to.
        max_length: Option<u64>,
        /// Tokens that all texts are padded to.
        length: Option<u64>,
    },
    /// A run of tokens of the whole text.
    Windows {
        /// Tokens of each, at least 2.
        window: u64,
        /// Tokens from one to the next, 1 to `window`.
        stride: u64,
    },
}

impl Default for TextSamples {
    fn default() -> Self {
        Self::Texts {
            pair: None,
            against: None,
            label: None,
            max_length: None,
            length: None,
        }
    }
}

/// What one sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataSample {
    /// A position on the first axis of every input.
    Row,
    /// A whole call of the model: each array has one axis more than its input.
    Call,
}

/// How a split is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataFormat {
    /// One npz file with an array per input and one of labels.
    Npz,
    /// A pair of IDX files, plain or compressed by gzip.
    Idx,
    /// A folder with one npy file per input and `labels.npy`.
    Npy,
    /// A text to a line.
    Lines,
    /// A JSON object to a line.
    Jsonl,
    /// Values apart by commas under a line of names.
    Csv,
    /// Values apart by tabs under a line of names.
    Tsv,
    /// Apache Parquet.
    Parquet,
}

impl DataFormat {
    /// Whether it holds texts.
    pub fn is_text(self) -> bool {
        !matches!(self, Self::Npz | Self::Idx | Self::Npy)
    }
}

/// An upper limit on a cost meter.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// The cost meter's id.
    pub meter: Placed<String>,
    /// The most it may read.
    pub at_most: Placed<Amount>,
}

/// `[quality]`
#[derive(Clone, Debug, PartialEq)]
pub struct Quality {
    /// The quality meter's id.
    pub meter: Placed<String>,
    /// How good the result must be.
    pub floor: Placed<Floor>,
    /// The confidence of the final non-inferiority test, in (0, 1).
    pub confidence: f64,
}

/// The floor under the quality, in the meter's unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Floor {
    /// Quality may fall by this much against the original; infinity means no floor.
    DropAtMost(f64),
    /// Quality must be at least this.
    AtLeast(f64),
}

/// `[policy]`
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The policy's id.
    pub name: Placed<String>,
    /// The seed of everything random in the run.
    pub seed: u64,
    /// What happens when an action does not lower the cost or breaks the floor.
    pub on_no_progress: OnNoProgress,
    /// The greatest number of accepted steps.
    pub max_steps: Option<u64>,
    /// The policy's own settings.
    pub config: Config,
}

/// What happens when an action does not lower the cost or breaks the floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnNoProgress {
    /// The run ends, as Algorithm 1 of arXiv 2508.14000 has it.
    Stop,
    /// The action is discarded and the policy is asked again.
    Skip,
}

/// `[[stage]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// A name that no other stage has.
    pub name: Placed<String>,
    /// Where the stage ends before the whole budget is met.
    pub until: Option<Until>,
    /// At least one rule, some perhaps disabled.
    pub rules: Vec<RuleUse>,
    /// The stage's header.
    pub span: Range<usize>,
}

/// The cost at which a stage ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Until {
    /// The cost meter, when it is not the budget's only one.
    pub meter: Option<Placed<String>>,
    /// The cost to come down to.
    pub at_most: Placed<Amount>,
}

/// `[[stage.rule]]`
#[derive(Clone, Debug, PartialEq)]
pub struct RuleUse {
    /// The rule's id as its plugin declares it.
    pub rule: Placed<String>,
    /// The name of this use of the rule, which no other use has.
    pub id: Placed<String>,
    /// Whether the rule takes part.
    pub enabled: bool,
    /// The role that the author of the manifest expects.
    pub role: Option<Placed<Role>>,
    /// The knobs that are turned; a knob that is not named stays off.
    pub knobs: Vec<KnobUse>,
    /// The rule's own settings.
    pub config: Config,
    /// The rule's header.
    pub span: Range<usize>,
}

/// What a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It lowers a cost.
    Reduce,
    /// It raises quality and leaves the cost.
    Recover,
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Reduce => "reduce",
            Self::Recover => "recover",
        })
    }
}

/// `knobs.NAME`
#[derive(Clone, Debug, PartialEq)]
pub struct KnobUse {
    /// The knob's name.
    pub name: Placed<String>,
    /// The values to search, the first being *off*: numbers, texts or booleans.
    pub values: Option<Placed<Vec<Placed<Value>>>>,
    /// Whether every layer has a value of its own.
    pub per: Option<Placed<Per>>,
}

/// Whether a knob has one value or one per layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// One value for the whole model.
    Model,
    /// One value for each layer, or each group of layers that must change together.
    Layer,
    /// One value for each group of neighboring channels of a layer.
    ChannelGroup,
}

impl fmt::Display for Per {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Model => "model",
            Self::Layer => "layer",
            Self::ChannelGroup => "channel_group",
        })
    }
}

/// `[meters]`
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Meters {
    /// Meters that are read before and after, beside those that decide.
    pub report: Vec<Placed<String>>,
    /// Settings of meters by meter id.
    pub config: IndexMap<String, Config>,
}

/// `[target]`
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Target {
    /// The instruction-set level that the artifact is laid out for; portable when absent.
    pub cpu: Option<Placed<String>>,
}

/// `[output]`
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// The artifact's format.
    pub format: OutputFormat,
    /// What inner values are called in it.
    pub names: OutputNames,
    /// Whether its weights go to a file of their own; they do so anyway where one file cannot hold all.
    pub external_data: bool,
}

/// The artifact's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutputFormat {
    /// One ONNX file.
    Onnx,
}

/// What inner values are called in the artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputNames {
    /// What they are called in the model.
    Keep,
    /// As shortly as possible; inputs and outputs keep their names.
    Short,
}

/// Settings that a rule, meter or policy reads by itself: a JSON object and the place of each
/// of its members.
#[derive(Clone, Debug)]
pub struct Config {
    /// Always an object.
    pub value: Value,
    pub(crate) places: BTreeMap<String, Range<usize>>,
}

impl Config {
    pub(crate) fn empty(span: Range<usize>) -> Self {
        Self {
            value: Value::Object(serde_json::Map::new()),
            places: BTreeMap::from([(String::new(), span)]),
        }
    }

    /// The place of a member by its JSON pointer, such as `/proxy/meter`, or of the nearest
    /// table around it.
    pub fn span(&self, pointer: &str) -> Range<usize> {
        let mut pointer = pointer;
        loop {
            if let Some(span) = self.places.get(pointer) {
                return span.clone();
            }
            let Some(parent) = pointer.rfind('/') else {
                return 0..0;
            };
            pointer = &pointer[..parent];
        }
    }
}

impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Manifest {
    /// The text and the name of the manifest.
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// The folder that relative paths start from.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Every use of a rule, disabled ones included, in order.
    pub fn rules(&self) -> impl Iterator<Item = &RuleUse> {
        self.stages.iter().flat_map(|stage| &stage.rules)
    }

    /// Switches off the uses of rules with these ids, as `enabled = false` does.
    ///
    /// # Errors
    ///
    /// An id that no rule of this manifest has; nothing is switched off then.
    pub fn disable<T: AsRef<str>>(&mut self, ids: &[T]) -> Result<(), Error> {
        let known: Vec<&str> = self.rules().map(|rule| rule.id.as_str()).collect();
        let problems = ids
            .iter()
            .map(AsRef::as_ref)
            .filter(|id| !known.contains(id))
            .map(|id| {
                let help = match suggest::nearest(id, known.iter().copied()) {
                    Some(near) => format!("did you mean {}?", suggest::quoted(near)),
                    None => format!("the ids are {}", suggest::listed(known.iter().copied())),
                };
                let message = format!("no rule has the id {}", suggest::quoted(id));
                let place = self.stages.first().map_or(0..0, |stage| stage.span.clone());
                self.problem(ErrorKind::Value, place, message, help)
            })
            .collect();
        if let Some(error) = Error::from_problems(problems) {
            return Err(error);
        }
        for rule in self.stages.iter_mut().flat_map(|stage| &mut stage.rules) {
            if ids.iter().any(|id| id.as_ref() == rule.id.value) {
                rule.enabled = false;
            }
        }
        Ok(())
    }

    /// A problem at a place of this manifest, for what only the host can judge: a plugin that
    /// refuses its settings, a split of the wrong shape.
    pub fn problem(
        &self,
        kind: ErrorKind,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Problem {
        Problem::new(&self.source, kind, span, message, help)
    }
}
