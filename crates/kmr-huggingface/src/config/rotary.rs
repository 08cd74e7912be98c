//! Rotary positions ("RoFormer", arXiv 2104.09864) and how they are stretched over longer texts.

use std::f64::consts::TAU;

use super::json::Object;
use crate::HuggingFaceError;

/// θ where a configuration names none.
const DEFAULT_BASE: f64 = 10_000.0;

/// How queries and keys are turned by their positions.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// θ: the wavelengths are 2π · θ^(2i/d) for i below d/2.
    pub base: f64,
    /// How they are changed.
    pub scaling: RotaryScaling,
}

/// How wavelengths are changed for texts that are longer than those of the first training.
#[derive(Clone, Debug, PartialEq)]
pub enum RotaryScaling {
    /// Not at all: `default`.
    None,
    /// `linear`: all are so many times as long (arXiv 2306.15595).
    Linear {
        /// How many times.
        factor: f64,
    },
    /// `dynamic`: θ grows with the length of the sequence, once that exceeds `positions`.
    Dynamic {
        /// How strongly.
        factor: f64,
        /// The length up to which nothing changes.
        positions: usize,
    },
    /// `llama3`: long ones are stretched, short ones stay, those between go from one to the other.
    Llama3 {
        /// How many times the long ones are stretched.
        factor: f64,
        /// Wavelengths above `positions` / this are long.
        low_frequency_factor: f64,
        /// Those below `positions` / this are short.
        high_frequency_factor: f64,
        /// The length of the first training.
        positions: usize,
    },
    /// `yarn` (arXiv 2309.00071).
    Yarn {
        /// How many times the long ones are stretched.
        factor: f64,
        /// What queries and keys are multiplied by.
        attention_factor: f64,
        /// Turns within `positions` from which on a wavelength stays.
        beta_fast: f64,
        /// Turns up to which it is stretched in full.
        beta_slow: f64,
        /// The length of the first training.
        positions: usize,
        /// Whether the borders are moved to whole dimensions.
        truncate: bool,
    },
}

impl Rotary {
    /// Reads `rope_parameters`, or `rope_theta` and `rope_scaling` as older files have them.
    pub(crate) fn read(config: &Object, positions: usize, default_base: Option<f64>) -> Result<Self, HuggingFaceError> {
        let newer = config.object("rope_parameters")?;
        let scaling = match newer {
            Some(newer) => Some(newer),
            None => config.object("rope_scaling")?,
        };
        let own_base = scaling
            .map(|scaling| scaling.number("rope_theta"))
            .transpose()?
            .flatten();
        let base = own_base.or(config.number("rope_theta")?);
        let base = base.or(default_base).unwrap_or(DEFAULT_BASE);
        if base <= 1.0 {
            return Err(config.error("rope_theta", format!("is {base}; it must be above 1")));
        }
        let partial = match scaling {
            Some(scaling) => scaling.number("partial_rotary_factor")?,
            None => None,
        };
        let partial = partial.or(config.number("partial_rotary_factor")?);
        if partial.is_some_and(|partial| partial != 1.0) {
            let message = "is not 1: heads that are turned in part are not known here";
            return Err(config.error("partial_rotary_factor", message));
        }
        let scaling = match scaling {
            Some(object) => RotaryScaling::read(config, &object, positions)?,
            None => RotaryScaling::None,
        };
        Ok(Self { base, scaling })
    }

    /// The frequencies 1 / θ^(2i/d) of a head of `size` d, changed by all but [`RotaryScaling::Dynamic`], in the float32
    /// arithmetic of `transformers`; and what sines and cosines are multiplied by.
    pub(crate) fn frequencies(&self, size: usize) -> (Vec<f32>, f32) {
        let exponent = |pair: usize| (2 * pair) as f32 / size as f32;
        let turn = |pair: usize| (self.base as f32).powf(exponent(pair));
        let plain = (0..size / 2).map(|pair| 1.0 / turn(pair));
        match self.scaling {
            RotaryScaling::None | RotaryScaling::Dynamic { .. } => (plain.collect(), 1.0),
            RotaryScaling::Linear { factor } => (plain.map(|frequency| frequency / factor as f32).collect(), 1.0),
            RotaryScaling::Llama3 {
                factor,
                low_frequency_factor: low,
                high_frequency_factor: high,
                positions,
            } => {
                let positions = positions as f64;
                let changed = |frequency: f32| {
                    let wavelength = TAU as f32 / frequency;
                    if wavelength > (positions / low) as f32 {
                        frequency / factor as f32
                    } else if wavelength < (positions / high) as f32 {
                        frequency
                    } else {
                        let smooth = (positions as f32 / wavelength - low as f32) / (high - low) as f32;
                        (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
                    }
                };
                (plain.map(changed).collect(), 1.0)
            }
            RotaryScaling::Yarn {
                factor,
                attention_factor,
                beta_fast,
                beta_slow,
                positions,
                truncate,
            } => {
                let dimension =
                    |turns: f64| size as f64 * (positions as f64 / (turns * TAU)).ln() / (2.0 * self.base.ln());
                let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                low = low.max(0.0);
                high = high.min(size as f64 - 1.0);
                if low == high {
                    high += 0.001;
                }
                let changed = |pair: usize| {
                    let ramp = ((pair as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    let (kept, stretched) = (1.0 / turn(pair), 1.0 / (factor as f32 * turn(pair)));
                    let share = 1.0 - ramp;
                    stretched * (1.0 - share) + kept * share
                };
                ((0..size / 2).map(changed).collect(), attention_factor as f32)
            }
        }
    }
}

impl RotaryScaling {
    fn read(config: &Object, object: &Object, positions: usize) -> Result<Self, HuggingFaceError> {
        const KNOWN: [&str; 5] = ["default", "linear", "dynamic", "llama3", "yarn"];
        let (key, kind) = match object.text("rope_type")? {
            Some(kind) => ("rope_type", kind),
            None => ("type", object.text("type")?.unwrap_or("default")),
        };
        let required = |key: &str| object.number(key)?.ok_or_else(|| object.error(key, "is missing"));
        let positive = |key: &str, value: f64| match value > 0.0 {
            true => Ok(value),
            false => Err(object.error(key, format!("is {value}; it must be above 0"))),
        };
        let factor = || positive("factor", required("factor")?);
        let trained = || -> Result<usize, HuggingFaceError> {
            let key = "original_max_position_embeddings";
            config.size_or(key, object.size_or(key, positions)?)
        };
        match kind {
            "default" => Ok(Self::None),
            "linear" => Ok(Self::Linear { factor: factor()? }),
            "dynamic" => Ok(Self::Dynamic {
                factor: factor()?,
                positions,
            }),
            "llama3" => {
                let low = positive("low_freq_factor", required("low_freq_factor")?)?;
                let high = positive("high_freq_factor", required("high_freq_factor")?)?;
                if high <= low {
                    return Err(object.error("high_freq_factor", "must be above `low_freq_factor`"));
                }
                Ok(Self::Llama3 {
                    factor: factor()?,
                    low_frequency_factor: low,
                    high_frequency_factor: high,
                    positions: trained()?,
                })
            }
            "yarn" => Self::yarn(object, positions, trained()?),
            other => Err(object.unknown(key, other, &KNOWN)),
        }
    }

    fn yarn(object: &Object, positions: usize, trained: usize) -> Result<Self, HuggingFaceError> {
        let factor = match object.number("factor")? {
            Some(factor) => factor,
            None => positions as f64 / trained as f64,
        };
        let grown = |scale: f64| {
            if factor <= 1.0 {
                1.0
            } else {
                0.1 * scale * factor.ln() + 1.0
            }
        };
        let scales = (object.number("mscale")?, object.number("mscale_all_dim")?);
        let attention_factor = match (object.number("attention_factor")?, scales) {
            (Some(given), _) => given,
            (None, (Some(own), Some(all))) if own != 0.0 && all != 0.0 => grown(own) / grown(all),
            _ => grown(1.0),
        };
        let turns = |key: &str, otherwise: f64| -> Result<f64, HuggingFaceError> {
            let given = object.number(key)?.filter(|&turns| turns != 0.0).unwrap_or(otherwise);
            match given > 0.0 {
                true => Ok(given),
                false => Err(object.error(key, format!("is {given}; it must be above 0"))),
            }
        };
        if factor <= 0.0 {
            return Err(object.error("factor", format!("is {factor}; it must be above 0")));
        }
        Ok(Self::Yarn {
            factor,
            attention_factor,
            beta_fast: turns("beta_fast", 32.0)?,
            beta_slow: turns("beta_slow", 1.0)?,
            positions: trained,
            truncate: object.flag("truncate")?.unwrap_or(true),
        })
    }
}
