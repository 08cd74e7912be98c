//! Amounts of a cost and scales of pixel values, as they are written.

use std::{fmt, str::FromStr};

/// How much of a cost is allowed.
#[derive(Clone, Debug, PartialEq)]
pub enum Amount {
    /// A share of the original model's cost, above 0 and at most 1: `"30%"` is 0.3.
    Share(f64),
    /// A number in a unit. Multiples of bytes (`"300 kB"`, `"300 KiB"`) are given in bytes with
    /// the unit `"bytes"`; without a unit the number counts in the meter's own unit.
    Absolute {
        /// The number, in `unit`; finite and not negative.
        value: f64,
        /// The unit as written, or `"bytes"`.
        unit: Option<String>,
    },
}

impl Amount {
    /// The allowed cost as a number in the meter's unit, for an original model of this cost.
    pub fn limit(&self, original: f64) -> f64 {
        match self {
            Self::Share(share) => share * original,
            Self::Absolute { value, .. } => *value,
        }
    }

    /// Reads `"30%"`, `"300 kB"`, `"300 KiB"`, `"3.5 ms"` or `"120000"`.
    ///
    /// The error is the way out, in words.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        const FORMS: &str = "write a share of the original such as \"30%\", a size such as \
                             \"300 kB\" or \"300 KiB\", or a whole number";
        let text = text.trim();
        let digits = text
            .find(|letter: char| !(letter.is_ascii_digit() || letter == '.' || letter == '_'))
            .unwrap_or(text.len());
        let number = text[..digits].replace('_', "").parse::<f64>();
        let Some(number) = number.ok().filter(|number| number.is_finite()) else {
            return Err(FORMS.to_string());
        };
        let unit = text[digits..].trim();
        let bytes = |multiple: f64| {
            Ok(Self::Absolute {
                value: number * multiple,
                unit: Some(BYTES.to_string()),
            })
        };
        match unit {
            "%" if number > 0.0 && number <= 100.0 => Ok(Self::Share(number / 100.0)),
            "%" => Err("a share of the original is above 0% and at most 100%".to_string()),
            "" => Ok(Self::Absolute {
                value: number,
                unit: None,
            }),
            "B" | "byte" | BYTES => bytes(1.0),
            "kB" => bytes(1e3),
            "MB" => bytes(1e6),
            "GB" => bytes(1e9),
            "KiB" => bytes(1024.0),
            "MiB" => bytes(1024.0 * 1024.0),
            "GiB" => bytes(1024.0 * 1024.0 * 1024.0),
            "KB" | "kb" | "Kb" | "K" | "k" => Err("write kB for 1000 bytes or KiB for 1024 bytes".to_string()),
            other if other.chars().all(char::is_alphabetic) && other.len() <= 16 => Ok(Self::Absolute {
                value: number,
                unit: Some(other.to_string()),
            }),
            _ => Err(FORMS.to_string()),
        }
    }
}

impl FromStr for Amount {
    type Err = String;

    /// Reads an amount as manifests have it. The error is the way out, in words.
    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

/// The unit of every meter that counts bytes.
pub(crate) const BYTES: &str = "bytes";

impl fmt::Display for Amount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Rounded, so that 7% does not come out as 7.000000000000001%.
            Self::Share(share) => write!(formatter, "{}%", (share * 1e8).round() / 1e6),
            Self::Absolute { value, unit: None } => write!(formatter, "{value}"),
            Self::Absolute {
                value,
                unit: Some(unit),
            } => write!(formatter, "{value} {unit}"),
        }
    }
}

/// The factor that turns stored uint8 values into float32 inputs: `x * numerator / denominator`.
///
/// It is kept as a fraction because `x / 255` and `x * (1 / 255)` differ in the last bit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Finite and not zero.
    pub numerator: f64,
    /// Finite and not zero.
    pub denominator: f64,
}

impl Scale {
    /// Reads `"1/255"` or `"0.5"`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (numerator, denominator) = text.split_once('/').unwrap_or((text, "1"));
        Self::new(numerator.trim().parse().ok()?, denominator.trim().parse().ok()?)
    }

    pub(crate) fn new(numerator: f64, denominator: f64) -> Option<Self> {
        let usable = |number: f64| number.is_finite() && number != 0.0;
        (usable(numerator) && usable(denominator)).then_some(Self { numerator, denominator })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_in_all_their_forms() {
        let bytes = |value| {
            Ok(Amount::Absolute {
                value,
                unit: Some("bytes".to_string()),
            })
        };
        assert_eq!(Amount::parse("30%"), Ok(Amount::Share(0.3)));
        assert_eq!(Amount::parse(" 12.5 % "), Ok(Amount::Share(0.125)));
        assert_eq!(Amount::parse("300 kB"), bytes(300_000.0));
        assert_eq!(Amount::parse("300KiB"), bytes(307_200.0));
        assert_eq!(Amount::parse("1_200 B"), bytes(1_200.0));
        let plain = Amount::Absolute {
            value: 120_000.0,
            unit: None,
        };
        assert_eq!(Amount::parse("120000"), Ok(plain));
        let time = Amount::Absolute {
            value: 3.5,
            unit: Some("ms".to_string()),
        };
        assert_eq!(Amount::parse("3.5 ms"), Ok(time));
        for wrong in ["", "%", "0%", "130%", "-3 kB", "kB", "1.2.3", "30 k", "5 m/s", "inf"] {
            assert!(Amount::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_share_is_shown_as_it_was_written() {
        for text in ["7%", "30%", "12.5%", "0.1%", "100%"] {
            assert_eq!(Amount::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn scales_are_fractions_or_numbers() {
        let fraction = Scale::parse("1/255").unwrap();
        assert_eq!((fraction.numerator, fraction.denominator), (1.0, 255.0));
        let number = Scale::parse("0.5").unwrap();
        assert_eq!((number.numerator, number.denominator), (0.5, 1.0));
        for wrong in ["", "1/0", "0", "1/2/3", "x", "nan", "1/inf"] {
            assert_eq!(Scale::parse(wrong), None, "{wrong:?}");
        }
    }
}
