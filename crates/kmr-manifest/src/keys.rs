//! The one table of the keys that a manifest may have.

use serde_json::{Map, Value, json};

/// One key of a manifest.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The table that the key stands in, `""` for the top; one shared name for tables of the
    /// same shape (`"split"`, `"rule"`, `"knob"`).
    pub table: &'static str,
    /// The key itself; `"*"` for any name.
    pub name: &'static str,
    /// What is written behind it.
    pub kind: ValueKind,
    /// Whether it must be there.
    pub required: bool,
    /// One line about it, the default included.
    pub about: &'static str,
}

/// What is written behind a key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValueKind {
    /// A text.
    Text,
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Boolean,
    /// A whole number of at least this.
    Whole(u64),
    /// A number.
    Number,
    /// A share, a size or a whole number.
    Amount,
    /// An amount, or a table of a meter and an amount.
    Until,
    /// A factor: a number or a fraction as a text.
    Scale,
    /// Whole numbers of at least 1.
    Shape,
    /// Texts.
    Texts,
    /// Numbers, texts or booleans.
    Values,
    /// Anything.
    Free,
    /// A table, by its shared name.
    Table(&'static str),
    /// Tables, by their shared name.
    Tables(&'static str),
}

const fn key(table: &'static str, name: &'static str, kind: ValueKind, required: bool, about: &'static str) -> Key {
    Key {
        table,
        name,
        kind,
        required,
        about,
    }
}

use ValueKind::{
    Amount, Boolean, Choice, Free, Number, Scale, Shape, Table, Tables, Text, Texts, Until, Values, Whole,
};

/// Every key, table by table.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("", "schema", Whole(1), true, "the version of these keys: write `schema = 1`"),
    key("", "model", Table("model"), true, "the model to make smaller"),
    key("", "models", Table("models"), false, "further models that rules may look at, such as a teacher"),
    key("", "data", Table("data"), true, "samples by split"),
    key("", "budget", Table("budget"), true, "what the result may cost"),
    key("", "quality", Table("quality"), true, "how good the result must be"),
    key("", "policy", Table("policy"), false, "who picks the next action"),
    key("", "stage", Tables("stage"), true, "rules that are searched together; stages run in order"),
    key("", "plugins", Table("plugins"), false, "where plugins are found"),
    key("", "meters", Table("meters"), false, "meters beside those that decide"),
    key("", "target", Table("target"), false, "what the artifact is laid out for"),
    key("", "output", Table("output"), false, "the artifact"),

    key("model", "path", Text, true, "the model's file, relative to the manifest like every path"),
    key("model", "inputs", Table("model.inputs"), false, "shapes for inputs whose dimensions the model leaves open"),
    key("model.inputs", "*", Shape, false, "the shape of the input of this name, batch included"),

    key("models", "*", Text, false, "the file of the model of this name, of the same inputs"),

    key("data", "calibration", Table("split"), false, "what rules may read"),
    key("data", "training", Table("split"), false, "what rules may train on; default the calibration data, which it may share samples with"),
    key("data", "search", Table("split"), true, "what the search judges candidates by"),
    key("data", "holdout", Table("split"), false, "what the final floor is judged by, and nothing else"),
    key("data", "scale", Scale, false, "factor from stored uint8 to float32, such as \"1/255\""),
    key("data", "labels", Text, false, "name of the array of labels; default \"labels\""),
    key("data", "sample", Choice(&["row", "call"]), false, "a row of every input, or a whole call (arrays with one axis more); default by the inputs"),
    key("data", "tokenizer", Text, false, "the tokenizer of splits of texts: a tokenizer.json, or a GGUF file; default the model's own"),
    key("data", "augment", Table("augment"), false, "how images change while a rule trains on them; default not at all"),
    key("augment", "shift", Whole(0), false, "greatest shift in pixels along each axis; zeros come in; default 0"),
    key("augment", "flip", Boolean, false, "whether images are mirrored left to right half of the time; default false"),
    key("split", "path", Text, true, "an npz file, an IDX file of inputs, a folder of npy files, or a file of texts"),
    key("split", "labels", Text, false, "the IDX file of labels"),
    key("split", "shuffle", Whole(0), false, "seed to shuffle by, before skip and take; not shuffled by default"),
    key("split", "skip", Whole(0), false, "samples left out at the start; default 0"),
    key("split", "take", Whole(1), false, "greatest number of samples; default all"),
    key("split", "format", Choice(&["npz", "idx", "npy", "lines", "jsonl", "csv", "tsv", "parquet"]), false, "the format, when the path does not tell it"),
    key("split", "text", Text, false, "the column of texts; files of lines have none"),
    key("split", "pair", Text, false, "the column of texts that the tokenizer joins to them"),
    key("split", "against", Text, false, "the column of texts that they are compared with, each embedded on its own"),
    key("split", "label", Text, false, "the column of classes (whole numbers from 0) or scores"),
    key("split", "max_length", Whole(1), false, "tokens that longer texts are cut to; not cut by default"),
    key("split", "length", Whole(1), false, "tokens that all texts are padded to; default the longest of the file"),
    key("split", "window", Whole(2), false, "tokens of a sample of running text; default a sample is a text"),
    key("split", "stride", Whole(1), false, "tokens from one window to the next; default the window"),

    key("budget", "meter", Text, false, "cost meter of the limit"),
    key("budget", "at_most", Amount, false, "\"30%\" of the original, \"300 kB\", \"300 KiB\" or a whole number"),
    key("budget", "limit", Tables("limit"), false, "several limits, each with a meter and at_most, instead of one"),
    key("limit", "meter", Text, true, "cost meter of the limit"),
    key("limit", "at_most", Amount, true, "as in [budget]"),

    key("quality", "meter", Text, true, "quality meter that decides"),
    key("quality", "drop_at_most", Number, false, "how far quality may fall, in the meter's unit; inf for no floor"),
    key("quality", "at_least", Number, false, "the least quality, instead of drop_at_most"),
    key("quality", "confidence", Number, false, "confidence of the final test, between 0 and 1; default 0.95"),

    key("policy", "use", Text, false, "the policy's id; default \"greedy\""),
    key("policy", "seed", Whole(0), false, "seed of everything random in the run; default 0"),
    key("policy", "on_no_progress", Choice(&["stop", "skip"]), false, "what a useless action does; default \"skip\""),
    key("policy", "max_steps", Whole(1), false, "greatest number of accepted steps"),
    key("policy", "config", Table("config"), false, "the policy's own settings"),

    key("stage", "name", Text, true, "a name that no other stage has"),
    key("stage", "until", Until, false, "cost at which the stage ends; needed unless it is the last that reduces"),
    key("stage", "rule", Tables("rule"), true, "the rules of the stage"),
    key("until", "meter", Text, true, "cost meter"),
    key("until", "at_most", Amount, true, "as in [budget]"),

    key("rule", "use", Text, true, "the rule's id as its plugin declares it"),
    key("rule", "id", Text, false, "a name for this use that no other has; default the rule's id"),
    key("rule", "enabled", Boolean, false, "whether the rule takes part; default true"),
    key("rule", "role", Choice(&["reduce", "recover"]), false, "the role you expect; checked against the plugin"),
    key("rule", "knobs", Table("rule.knobs"), false, "the knobs to turn; others stay off"),
    key("rule", "config", Table("config"), false, "the rule's own settings"),
    key("rule.knobs", "*", Table("knob"), false, "the knob of this name"),
    key("knob", "values", Values, false, "values to search, the first being off; default the rule's own"),
    key("knob", "per", Choice(&["model", "layer", "channel_group"]), false, "one value for the model, one per layer, or one per group of channels; default the rule's own"),

    key("plugins", "paths", Texts, false, "plugin files or folders of them"),

    key("meters", "report", Texts, false, "meters to read before and after"),
    key("meters", "config", Table("meters.config"), false, "settings of meters, by meter id"),
    key("meters.config", "*", Table("config"), false, "the settings of the meter of this name"),

    key("config", "*", Free, false, "read by the rule, meter or policy itself"),

    key("target", "cpu", Text, false, "instruction-set level such as \"x86-64-v4\"; default portable"),

    key("output", "format", Choice(&["onnx"]), false, "default \"onnx\""),
    key("output", "names", Choice(&["keep", "short"]), false, "default \"keep\"; \"short\" saves the bytes of inner names"),
    key("output", "external_data", Boolean, false, "weights in a file of their own; default: only beyond 2 GiB"),
];

/// The keys of one table.
pub(crate) fn keys_of(table: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.table == table)
}

/// The key of this name in a table, when there is one.
pub(crate) fn find(table: &str, name: &str) -> Option<&'static Key> {
    keys_of(table).find(|key| key.name == name)
}

/// All keys as text, one per line, tables after the table that names them.
pub fn listing() -> String {
    let mut lines = Vec::new();
    list_table("", "", &mut lines);
    let widest = lines.iter().map(|(path, _)| path.len()).max().unwrap_or(0);
    lines
        .into_iter()
        .map(|(path, about)| format!("{path:widest$}  {about}\n"))
        .collect()
}

fn list_table(table: &str, prefix: &str, lines: &mut Vec<(String, &'static str)>) {
    for key in keys_of(table) {
        let name = match key.name {
            "*" => "NAME",
            name => name,
        };
        let path = format!("{prefix}{name}");
        match key.kind {
            Table("config") | Free => lines.push((path, key.about)),
            Table(inner) => {
                lines.push((path.clone(), key.about));
                list_table(inner, &format!("{path}."), lines);
            }
            Tables(inner) => {
                lines.push((format!("[[{path}]]"), key.about));
                list_table(inner, &format!("{path}."), lines);
            }
            _ => lines.push((path, key.about)),
        }
    }
}

/// The JSON Schema (draft 2020-12) of a manifest, for editors.
pub fn schema() -> Value {
    let mut schema = table_schema("");
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("kmr manifest, schema 1");
    schema
}

fn table_schema(table: &str) -> Value {
    let mut properties = Map::new();
    let mut any_name = json!(false);
    for key in keys_of(table) {
        let mut value = value_schema(key.kind);
        value["description"] = json!(key.about);
        match key.name {
            "*" => any_name = value,
            name => {
                properties.insert(name.to_string(), value);
            }
        }
    }
    let required: Vec<&str> = keys_of(table).filter(|key| key.required).map(|key| key.name).collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": any_name,
    })
}

fn value_schema(kind: ValueKind) -> Value {
    let amount = json!({ "type": ["string", "integer"] });
    match kind {
        Text => json!({ "type": "string" }),
        Choice(choices) => json!({ "type": "string", "enum": choices }),
        Boolean => json!({ "type": "boolean" }),
        Whole(least) => json!({ "type": "integer", "minimum": least }),
        Number => json!({ "type": "number" }),
        Amount => amount,
        Until => json!({ "anyOf": [amount, table_schema("until")] }),
        Scale => json!({ "type": ["string", "number"] }),
        Shape => json!({ "type": "array", "items": { "type": "integer", "minimum": 1 } }),
        Texts => json!({ "type": "array", "items": { "type": "string" } }),
        Values => json!({
            "type": "array",
            "minItems": 1,
            "items": { "type": ["number", "string", "boolean"] },
        }),
        Free => json!({}),
        Table(table) => table_schema(table),
        Tables(table) => json!({
            "type": "array",
            "minItems": 1,
            "items": table_schema(table),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_reachable_and_no_key_is_declared_twice() {
        for key in KEYS {
            let named = |kind| matches!(kind, Table(name) | Tables(name) if name == key.table);
            let reachable = key.table.is_empty() || key.table == "until" || KEYS.iter().any(|other| named(other.kind));
            assert!(reachable, "{key:?}");
            let same = keys_of(key.table).filter(|other| other.name == key.name);
            assert_eq!(same.count(), 1, "{key:?}");
        }
    }

    #[test]
    fn the_listing_reads_well() {
        insta::assert_snapshot!(listing());
    }
}
