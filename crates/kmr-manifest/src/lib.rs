//! The manifest of a run: TOML text in, a checked [`Manifest`] with the place of every value out.
//!
//! Reading has three steps, each of which reports every mistake it finds at once:
//!
//! 1. [`Manifest::parse`] checks what the text alone can tell: syntax, keys, types, ranges,
//!    names that must be unique.
//! 2. [`Manifest::check_files`] checks that the model, the data and the plugin paths exist.
//! 3. [`Manifest::resolve`] checks the names of rules, meters and policies and the values of
//!    knobs against a [`Catalog`], which the host fills from the metadata of its plugins.
//!
//! A mistake is one [`Problem`]: what is wrong, where (file, line and column), and the way out.
//! Every key is declared once, in [`KEYS`]; the unknown-key check, [`listing`] and [`schema`]
//! are made from that table.

mod amount;
mod catalog;
mod diagnostic;
mod files;
mod keys;
mod manifest;
mod parse;
mod place;
mod reader;
mod resolve;
mod suggest;

pub use amount::{Amount, Scale};
pub use catalog::{
    Catalog, Domain, ExtensionKind, KnobOffer, Measures, MeterOffer, PolicyOffer, RuleOffer, Unavailable,
};
pub use diagnostic::{Error, ErrorKind, Problem, Source};
pub use keys::{KEYS, Key, ValueKind, listing, schema};
pub use manifest::{
    Augment, Config, Data, DataFormat, DataSample, DataSource, Floor, KnobUse, Limit, Manifest, Meters, Model,
    OnNoProgress, Output, OutputFormat, OutputNames, Per, Policy, Quality, Role, RuleUse, Stage, Target, TextData,
    TextSamples, Until,
};
pub use place::Placed;
pub use resolve::{
    Resolved, ResolvedLimit, ResolvedMeter, ResolvedPolicy, ResolvedQuality, ResolvedRule, ResolvedStage,
};

/// The manifest schema that this version reads.
pub const SCHEMA: u64 = 1;
