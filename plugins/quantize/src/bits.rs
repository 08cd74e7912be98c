//! The values of the knob: how many bits a weight is stored in.

use kmr_sdk::{
    Error, KnobSettings, Result,
    serde_json::{Number, Value},
    wire::Per,
};

/// The name of the knob.
pub const KNOB: &str = "weight_bits";

/// How a weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bits {
    /// As it is.
    Off,
    /// In float16.
    Float16,
    /// In bfloat16.
    BFloat16,
    /// In integers of so many bits, 2 to 8.
    Integer(u8),
}

impl Bits {
    /// Reads a value of the knob: 32, 16, `"bf16"`, or 8 down to 2.
    pub fn read(value: &Value) -> Option<Self> {
        if value.as_str() == Some("bf16") {
            return Some(Self::BFloat16);
        }
        match value.as_f64()? {
            32.0 => Some(Self::Off),
            16.0 => Some(Self::Float16),
            bits @ (2.0 | 3.0 | 4.0 | 5.0 | 6.0 | 7.0 | 8.0) => Some(Self::Integer(bits as u8)),
            _ => None,
        }
    }

    /// The value that reads as this.
    pub fn value(self) -> Value {
        match self {
            Self::Off => Value::from(32),
            Self::Float16 => Value::from(16),
            Self::BFloat16 => Value::from("bf16"),
            Self::Integer(bits) => Value::Number(Number::from(bits)),
        }
    }

    /// What people call it.
    pub fn name(self) -> String {
        match self {
            Self::Off => "float32".into(),
            Self::Float16 => "float16".into(),
            Self::BFloat16 => "bfloat16".into(),
            Self::Integer(bits) => format!("{bits} bits"),
        }
    }
}

/// The values that a manifest turns the knob through, *off* first, and where.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The values in their order.
    pub values: Vec<Bits>,
    /// Where the knob is turned.
    pub per: Per,
}

impl Setting {
    /// The knob's setting in `knobs`; no values if the manifest does not turn it.
    ///
    /// # Errors
    /// If a value is none of the knob's, or the first is not *off*.
    pub fn read(knobs: &KnobSettings) -> Result<Self> {
        let place = || format!("knob `{KNOB}`");
        let written = knobs.get(KNOB);
        let mut values: Vec<Bits> = Vec::new();
        for value in written.map_or(&[][..], |setting| &setting.values) {
            let bits = Bits::read(value).ok_or_else(|| {
                let message = format!("takes 32 (off), 16, \"bf16\" and 8 to 2; got {value}");
                Error::invalid_configuration(message).at(place())
            })?;
            if !values.contains(&bits) {
                values.push(bits);
            }
        }
        if values.first().is_some_and(|&first| first != Bits::Off) {
            return Err(Error::invalid_configuration("the first value means off, and has to be 32").at(place()));
        }
        Ok(Self {
            values,
            per: written.map_or(Per::Layer, |setting| setting.per),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &str) -> Result<Setting> {
        let knobs = format!(r#"{{"{KNOB}": {{"values": {values}, "per": "layer"}}}}"#);
        Setting::read(&kmr_sdk::serde_json::from_str(&knobs).unwrap())
    }

    #[test]
    fn every_value_reads_as_itself() {
        let setting = read(r#"[32, 16, "bf16", 8, 6.0, 4, 3, 2]"#).unwrap();
        assert_eq!(setting.values.len(), 8);
        for bits in setting.values {
            assert_eq!(Bits::read(&bits.value()), Some(bits));
        }
    }

    #[test]
    fn others_are_refused() {
        let refused = |values| read(values).unwrap_err().to_string();
        assert_eq!(
            refused("[32, 9]"),
            "knob `weight_bits`: takes 32 (off), 16, \"bf16\" and 8 to 2; got 9"
        );
        assert!(refused("[8, 4]").contains("has to be 32"));
        assert!(refused("[32, 1]").contains("got 1"));
    }
}
