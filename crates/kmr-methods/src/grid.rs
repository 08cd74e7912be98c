//! The integers that real numbers are rounded to, and who shares a scale.

use std::ops::Range;

use crate::MethodError;

/// The codes of a quantized number: `2^bits` integers (one fewer when narrow), worth
/// `(code − zero point) × scale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grid {
    bits: u8,
    low: i16,
    high: i16,
    half_scales: bool,
}

impl Grid {
    /// Signed codes from −2^(bits−1) to 2^(bits−1) − 1, with zero point 0; `bits` in 2..=8.
    ///
    /// Seven bits stored in eight are the reduced range that kernels without VNNI need.
    ///
    /// # Errors
    /// If `bits` is outside its domain.
    pub fn symmetric(bits: u8) -> Result<Self, MethodError> {
        check("the bits of a symmetric grid", bits, 2)?;
        let high = (1 << (bits - 1)) - 1;
        Ok(Self {
            bits,
            low: -high - 1,
            high,
            half_scales: false,
        })
    }

    /// As [`symmetric`](Self::symmetric), without the lowest code: −x is worth the negative of x.
    ///
    /// # Errors
    /// If `bits` is outside its domain.
    pub fn narrow(bits: u8) -> Result<Self, MethodError> {
        let whole = Self::symmetric(bits)?;
        Ok(Self {
            low: -whole.high,
            ..whole
        })
    }

    /// Unsigned codes from 0 to 2^bits − 1, the zero point among them; `bits` in 1..=8.
    ///
    /// For signed storage subtract 2^(bits−1) from codes and zero points alike.
    ///
    /// # Errors
    /// If `bits` is outside its domain.
    pub fn asymmetric(bits: u8) -> Result<Self, MethodError> {
        check("the bits of an asymmetric grid", bits, 1)?;
        let high = (1 << bits) - 1;
        Ok(Self {
            bits,
            low: 0,
            high,
            half_scales: false,
        })
    }

    /// The same codes, with scales that float16 holds exactly.
    pub fn with_half_scales(self) -> Self {
        Self {
            half_scales: true,
            ..self
        }
    }

    /// The bits of a code.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether the zero point is always 0.
    pub fn is_symmetric(&self) -> bool {
        self.low < 0
    }

    /// Whether float16 holds every scale exactly.
    pub fn has_half_scales(&self) -> bool {
        self.half_scales
    }

    /// The lowest code.
    pub fn low(&self) -> i16 {
        self.low
    }

    /// The highest code.
    pub fn high(&self) -> i16 {
        self.high
    }

    /// The finest scale, and its zero point, whose grid reaches from `low` to `high` and holds 0
    /// exactly. The bounds are finite; a side without 0 is extended to it.
    ///
    /// A symmetric grid uses its lowest code where the negative side is the longer one. A range of 0
    /// alone has scale 1. The scale is a normal number (runtimes may flush others to zero), and at
    /// most so large that no code overflows.
    pub(crate) fn cover(&self, low: f64, high: f64) -> (f32, i32) {
        let (low, high) = (low.min(0.0), high.max(0.0));
        let (first, last) = (f64::from(self.low), f64::from(self.high));
        let scale = if low == high {
            return (1.0, 0);
        } else if self.is_symmetric() {
            (high / last).max(low / first)
        } else {
            (high - low) / last
        };
        let scale = self.admissible(scale);
        let zero = if self.is_symmetric() {
            0.0
        } else {
            (-low / f64::from(scale)).round_ties_even().clamp(first, last)
        };
        (scale, zero as i32)
    }

    /// The float32 nearest to a positive `scale` that is normal and lets no code overflow; with half scales the float16
    /// that is nearest.
    pub(crate) fn admissible(&self, scale: f64) -> f32 {
        if self.half_scales {
            let (least, most) = (half::f16::MIN_POSITIVE_SUBNORMAL, half::f16::MAX);
            return half::f16::from_f64(scale.clamp(least.into(), most.into())).into();
        }
        let most = 0.99 * f64::from(f32::MAX) / f64::from(self.high.max(-self.low));
        scale.clamp(f64::from(f32::MIN_POSITIVE), most) as f32
    }

    /// The lowest and highest `code − zero point`.
    pub(crate) fn levels(&self, zero_point: i32) -> (f32, f32) {
        let level = |code: i16| (i32::from(code) - zero_point) as f32;
        (level(self.low), level(self.high))
    }
}

fn check(what: &'static str, bits: u8, least: u8) -> Result<(), MethodError> {
    if (least..=8).contains(&bits) {
        return Ok(());
    }
    let domain = if least == 2 { "from 2 to 8" } else { "from 1 to 8" };
    Err(MethodError::Domain {
        what,
        domain,
        value: f64::from(bits),
    })
}

/// Which weights share a scale and a zero point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Granularity {
    /// All of them.
    Tensor,
    /// Those of a row.
    Channel,
    /// So many neighbors in a row. The last group of a row is shorter where the size does not divide.
    Group(usize),
}

impl Granularity {
    /// How many scales a row of `columns` has to itself; 0 when it has none.
    pub(crate) fn per_row(&self, columns: usize) -> usize {
        match *self {
            Self::Tensor => 0,
            Self::Channel => 1,
            Self::Group(size) => columns.div_ceil(size),
        }
    }

    /// How many scales a matrix has: 1, `rows`, or `rows` × groups, row by row.
    ///
    /// # Errors
    /// If a group has no members.
    pub fn count(&self, rows: usize, columns: usize) -> Result<usize, MethodError> {
        match *self {
            Self::Tensor => Ok(1),
            Self::Group(0) => {
                let (what, domain) = ("the size of a group", "at least 1");
                Err(MethodError::Domain {
                    what,
                    domain,
                    value: 0.0,
                })
            }
            _ => Ok(rows * self.per_row(columns)),
        }
    }

    /// The part of the row-by-row values that scale `index` is for.
    pub(crate) fn members(&self, index: usize, rows: usize, columns: usize) -> Range<usize> {
        match *self {
            Self::Tensor => 0..rows * columns,
            Self::Channel => index * columns..(index + 1) * columns,
            Self::Group(size) => {
                let groups = columns.div_ceil(size);
                let (row, group) = (index / groups, index % groups);
                let start = group * size;
                row * columns + start..row * columns + (start.saturating_add(size)).min(columns)
            }
        }
    }
}
