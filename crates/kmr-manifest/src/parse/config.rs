//! Free settings: TOML to JSON, with the place of every member.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::DeValue;

use crate::reader::{Context, Section, integer, number};
use crate::{Config, ErrorKind};

/// The table behind `config`, empty when there is none.
pub(super) fn config(section: &Section<'_, '_>, name: &str) -> Config {
    match section.table(name) {
        Some(table) => table_config(&table),
        None => Config::empty(section.span()),
    }
}

/// A table that is itself a `config`.
pub(super) fn table_config(table: &Section<'_, '_>) -> Config {
    let mut places = BTreeMap::from([(String::new(), table.span())]);
    let mut members = Map::new();
    for (name, value) in table.entries() {
        let pointer = format!("/{}", escaped(&name));
        let value = json(table.context(), value, pointer, &mut places);
        members.insert(name.value, value);
    }
    Config {
        value: Value::Object(members),
        places,
    }
}

/// A name as a JSON pointer writes it (RFC 6901, section 3).
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn json(
    context: &Context,
    value: &Spanned<DeValue<'_>>,
    pointer: String,
    places: &mut BTreeMap<String, Range<usize>>,
) -> Value {
    let converted = match value.get_ref() {
        DeValue::Array(items) => {
            let items = items.iter().enumerate().map(|(index, item)| {
                let pointer = format!("{pointer}/{index}");
                json(context, item, pointer, places)
            });
            Value::Array(items.collect())
        }
        DeValue::Table(table) => {
            let members = table.iter().map(|(key, member)| {
                let name: &str = key.get_ref();
                let pointer = format!("{pointer}/{}", escaped(name));
                let member = json(context, member, pointer, places);
                (name.to_string(), member)
            });
            Value::Object(members.collect())
        }
        _ => scalar(value.get_ref()).unwrap_or_else(|| {
            let shown = context.shown(&value.span());
            let message = format!("settings take finite numbers of 64 bits; got {shown}");
            let help = "leave the setting out where there is no limit";
            context.report(ErrorKind::Value, value.span(), message, help);
            Value::Null
        }),
    };
    places.insert(pointer, value.span());
    converted
}

/// A text, boolean, date or finite number as JSON; dates become texts.
pub(super) fn scalar(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Boolean(boolean) => Value::from(*boolean),
        DeValue::Datetime(date) => Value::from(date.to_string()),
        DeValue::Integer(_) => Value::from(integer(value)?),
        // Not finite: `Value::from(f64)` would turn it into null silently.
        DeValue::Float(_) => Value::Number(serde_json::Number::from_f64(number(value)?)?),
        DeValue::Array(_) | DeValue::Table(_) => return None,
    })
}
