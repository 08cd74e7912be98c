//! The configuration of `quantize`.

use kmr_methods::{Clipping, Granularity, Grid, Scheme, calibration::RangeMethod, gptq};
use kmr_sdk::{Error, Ignore, Result, wire::Per};
use serde::{Deserialize, Deserializer, de};

/// How codes are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Each weight to its nearest code, the scale reaching the whole range.
    MinMax,
    /// Each weight to its nearest code, the scale of least squared error.
    Mse,
    /// Against the Gram matrix of what the weights multiply (GPTQ, arXiv 2210.17323).
    #[default]
    Gptq,
}

/// What scales are stored in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scales {
    #[default]
    Float32,
    Float16,
}

/// What becomes of activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activations {
    /// They stay floating-point numbers.
    #[default]
    Float,
    /// Eight bits by scales from calibration data.
    Static,
    /// Eight bits by scales that are found at run time: matrix products alone.
    Dynamic,
}

/// Which layers work on integers where activations have static scales.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntegerLayers {
    /// Those that integers are estimated to make faster, what goes between them included.
    #[default]
    Faster,
    All,
}

/// How the ranges of activations are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Calibration {
    MinMax,
    Percentile,
    Entropy,
    #[default]
    Mse,
}

/// Something that the target's processor decides where nobody else does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    #[default]
    Auto,
    Always(bool),
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Flag(bool),
            Text(String),
        }
        let written = kmr_sdk::serde_json::Value::deserialize(deserializer)?;
        match Written::deserialize(&written) {
            Ok(Written::Flag(flag)) => Ok(Self::Always(flag)),
            Ok(Written::Text(text)) if text == "auto" => Ok(Self::Auto),
            _ => {
                let message = format!("takes \"auto\", true or false; got {written}");
                Err(de::Error::custom(message))
            }
        }
    }
}

/// Who shares a scale: `"tensor"`, `"channel"`, or the number of neighbors in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing(pub Granularity);

impl<'de> Deserialize<'de> for Sharing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Group(u64),
            Text(String),
        }
        let written = kmr_sdk::serde_json::Value::deserialize(deserializer)?;
        let expected = || {
            let message = format!("takes \"tensor\", \"channel\", or the size of a group, 2 or more; got {written}");
            de::Error::custom(message)
        };
        match Written::deserialize(&written) {
            Ok(Written::Text(text)) if text == "tensor" => Ok(Self(Granularity::Tensor)),
            Ok(Written::Text(text)) if text == "channel" => Ok(Self(Granularity::Channel)),
            Ok(Written::Group(size)) if size >= 2 => {
                Ok(Self(Granularity::Group(usize::try_from(size).map_err(|_| expected())?)))
            }
            _ => Err(expected()),
        }
    }
}

/// The configuration of `quantize`. The README of this folder says what each key does.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub method: Method,
    pub granularity: Sharing,
    pub symmetric: bool,
    pub scales: Scales,
    pub act_order: bool,
    pub damping: f64,
    pub passes: usize,
    pub prefix: bool,
    pub samples: usize,
    pub activations: Activations,
    pub integer_layers: IntegerLayers,
    pub calibration: Calibration,
    pub percentile: f64,
    pub reduce_range: Choice,
    pub weight_kernels: bool,
    pub fold_batch_norm: bool,
    pub bias_correction: bool,
    pub equalize: bool,
    pub smooth: f64,
    pub awq: u8,
    pub embeddings: bool,
    pub channel_group: usize,
    pub ignore: Ignore,
}

impl Default for Config {
    fn default() -> Self {
        let gptq = gptq::Options::default();
        Self {
            method: Method::default(),
            granularity: Sharing(Granularity::Channel),
            symmetric: true,
            scales: Scales::default(),
            act_order: gptq.act_order,
            damping: gptq.damping,
            passes: gptq.passes,
            prefix: false,
            samples: 512,
            activations: Activations::default(),
            integer_layers: IntegerLayers::default(),
            calibration: Calibration::default(),
            percentile: 99.99,
            reduce_range: Choice::default(),
            weight_kernels: false,
            fold_batch_norm: true,
            bias_correction: true,
            equalize: false,
            smooth: 0.0,
            awq: 0,
            embeddings: true,
            channel_group: 16,
            ignore: Ignore::default(),
        }
    }
}

impl Config {
    /// Refuses what contradicts itself.
    ///
    /// # Errors
    /// The first such key.
    pub fn check(&self, per: Per) -> Result<()> {
        let refuse =
            |key: &str, message: String| Err(Error::invalid_configuration(message).at(format!("config.{key}")));
        if self.channel_group == 0 {
            return refuse("channel_group", "has to be 1 or more; got 0".into());
        }
        if per == Per::ChannelGroup && self.activations != Activations::Float {
            return refuse(
                "activations",
                "integer kernels take one number of bits for a weight; turn the knob per \"layer\", or let activations \
                 stay \"float\""
                    .into(),
            );
        }
        if self.samples == 0 {
            return refuse("samples", "has to be 1 or more; got 0".into());
        }
        if !(0.0..=1.0).contains(&self.damping) {
            return refuse("damping", format!("has to be in [0, 1]; got {}", self.damping));
        }
        if !(0.0..=1.0).contains(&self.smooth) {
            return refuse(
                "smooth",
                format!("has to be in [0, 1], 0 being off; got {}", self.smooth),
            );
        }
        if !matches!(self.awq, 0 | 2..=8) {
            return refuse("awq", format!("has to be 0 (off), or 2 to 8 bits; got {}", self.awq));
        }
        if self.awq > 0 && self.smooth > 0.0 {
            return refuse("awq", "moves the same factors as `smooth`; remove one of both".into());
        }
        if self.prefix && per == Per::ChannelGroup {
            return refuse(
                "prefix",
                "goes from whole layer to whole layer; remove it, or turn the knob per \"layer\"".into(),
            );
        }
        if self.prefix && self.method != Method::Gptq {
            return refuse(
                "prefix",
                "is for method = \"gptq\", the one that looks at inputs".into(),
            );
        }
        if !(self.percentile > 50.0 && self.percentile <= 100.0) {
            return refuse("percentile", format!("has to be in (50, 100]; got {}", self.percentile));
        }
        if self.scales == Scales::Float16 && (self.activations != Activations::Float || self.weight_kernels) {
            return refuse(
                "scales",
                "kernels take float32 scales; remove it, or let activations stay \"float\" without `weight_kernels`"
                    .into(),
            );
        }
        if self.activations != Activations::Float {
            if !self.symmetric {
                return refuse(
                    "symmetric",
                    "integer kernels take symmetric weights alone; remove it, or let activations stay \"float\"".into(),
                );
            }
            if matches!(self.granularity.0, Granularity::Group(_)) {
                return refuse(
                    "granularity",
                    "integer kernels take one scale per tensor or channel; remove it, or let activations stay \"float\""
                        .into(),
                );
            }
        }
        Ok(())
    }

    /// How weights become integers of so many `bits`.
    ///
    /// # Errors
    /// If there is no such grid.
    pub fn scheme(&self, bits: u8, granularity: Granularity) -> Result<Scheme> {
        let grid = match self.symmetric {
            true => Grid::symmetric(bits),
            false => Grid::asymmetric(bits),
        };
        let grid = grid.map_err(|error| Error::invalid_configuration(error.to_string()))?;
        Ok(Scheme {
            grid: match self.scales {
                Scales::Float32 => grid,
                Scales::Float16 => grid.with_half_scales(),
            },
            granularity,
            clipping: match self.method {
                Method::MinMax => Clipping::MinMax,
                Method::Mse | Method::Gptq => Clipping::Mse,
            },
        })
    }

    /// Who shares a scale in a layer of so many columns.
    pub fn sharing(&self, columns: usize) -> Granularity {
        match self.granularity.0 {
            // A group that holds a whole row is a channel.
            Granularity::Group(size) if size >= columns => Granularity::Channel,
            granularity => granularity,
        }
    }

    /// The options of GPTQ.
    pub fn gptq(&self) -> gptq::Options {
        gptq::Options {
            damping: self.damping,
            act_order: self.act_order,
            passes: self.passes,
            ..Default::default()
        }
    }

    /// How the range of an activation of this grid is taken from its histogram.
    pub fn range_method(&self, grid: Grid) -> RangeMethod {
        match self.calibration {
            Calibration::MinMax => RangeMethod::MinMax,
            Calibration::Percentile => RangeMethod::Percentile(self.percentile),
            Calibration::Entropy => RangeMethod::Entropy { bits: grid.bits() },
            Calibration::Mse => RangeMethod::Mse { grid },
        }
    }
}
