//! The metadata document, checked and put together at compile time.
//!
//! Everything here runs in const evaluation inside the author's build, so that a mistake in the metadata is a
//! compile error. Messages are fixed texts because const panics cannot format.

/// What the document is made from.
pub struct Source<'a> {
    pub abi: &'a str,
    pub name: &'a str,
    pub version: &'a str,
    pub license: &'a str,
    pub description: &'a str,
    /// Kind, id as a quoted literal, and the metadata as a JSON object.
    pub extensions: &'a [(&'a str, &'a str, &'a str)],
}

/// Checks the source and gives the length of its document in bytes.
pub const fn checked_length(source: &Source<'_>) -> usize {
    let mut at = 0;
    while at < source.extensions.len() {
        let (kind, id, metadata) = source.extensions[at];
        check_id(id.as_bytes());
        check(kind, metadata.as_bytes());
        let mut before = 0;
        while before < at {
            let (other_kind, other_id, _) = source.extensions[before];
            if equal(kind.as_bytes(), other_kind.as_bytes()) && equal(id.as_bytes(), other_id.as_bytes()) {
                panic!("two extensions of one kind have the same id");
            }
            before += 1;
        }
        at += 1;
    }
    let mut counter = Writer { bytes: [], length: 0 };
    counter.document(source);
    counter.length
}

/// The document, of [`checked_length`] bytes.
pub const fn encode<const LENGTH: usize>(source: &Source<'_>) -> [u8; LENGTH] {
    let mut writer = Writer {
        bytes: [0; LENGTH],
        length: 0,
    };
    writer.document(source);
    writer.bytes
}

/// Whether a checked object has no members.
const fn is_empty_object(json: &[u8]) -> bool {
    byte(json, space(json, 1)) == b'}'
}

/// Writes into `bytes`, or only counts where there is no room at all.
struct Writer<const LENGTH: usize> {
    bytes: [u8; LENGTH],
    length: usize,
}

impl<const LENGTH: usize> Writer<LENGTH> {
    const fn document(&mut self, source: &Source<'_>) {
        self.raw("{\"abi\":");
        self.text(source.abi);
        self.raw(",\"plugin\":{\"name\":");
        self.text(source.name);
        self.raw(",\"version\":");
        self.text(source.version);
        self.raw(",\"license\":");
        self.text(source.license);
        self.raw(",\"description\":");
        self.text(source.description);
        self.raw("},\"extensions\":[");
        let mut at = 0;
        while at < source.extensions.len() {
            let (kind, id, metadata) = source.extensions[at];
            self.raw(if at == 0 { "{\"kind\":" } else { ",{\"kind\":" });
            self.text(kind);
            self.raw(",\"id\":");
            self.raw(id);
            if !is_empty_object(metadata.as_bytes()) {
                self.raw(",");
            }
            self.raw(metadata.split_at(1).1);
            at += 1;
        }
        self.raw("]}");
    }

    const fn byte(&mut self, byte: u8) {
        if LENGTH > 0 {
            self.bytes[self.length] = byte;
        }
        self.length += 1;
    }

    const fn raw(&mut self, text: &str) {
        let text = text.as_bytes();
        let mut at = 0;
        while at < text.len() {
            self.byte(text[at]);
            at += 1;
        }
    }

    const fn text(&mut self, text: &str) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.byte(b'"');
        let text = text.as_bytes();
        let mut at = 0;
        while at < text.len() {
            match text[at] {
                byte @ (b'"' | b'\\') => {
                    self.byte(b'\\');
                    self.byte(byte);
                }
                byte @ 0..0x20 => {
                    self.raw("\\u00");
                    self.byte(DIGITS[(byte >> 4) as usize]);
                    self.byte(DIGITS[(byte & 15) as usize]);
                }
                byte => self.byte(byte),
            }
            at += 1;
        }
        self.byte(b'"');
    }
}

/// What a JSON value has to be.
enum Form {
    Anything,
    Text,
    Flag,
    List(&'static Form),
    OneOf(&'static [&'static str], &'static str),
    Object(&'static Shape),
}

/// What an object has to look like.
struct Shape {
    /// Key, form, and whether it must be there.
    members: &'static [(&'static str, Form, bool)],
    unknown: &'static str,
    missing: &'static str,
}

const RULE: Shape = Shape {
    members: &[
        ("summary", Form::Text, false),
        (
            "role",
            Form::OneOf(&["reduce", "recover"], "a rule's `role` is \"reduce\" or \"recover\""),
            false,
        ),
        (
            "locality",
            Form::OneOf(
                &["graph", "prefix", "tensor"],
                "a rule's `locality` is \"graph\", \"prefix\" or \"tensor\"",
            ),
            false,
        ),
        ("knobs", Form::List(&Form::Object(&KNOB)), false),
        ("opset", Form::Anything, false),
        ("after", Form::List(&Form::Text), false),
        ("conflicts", Form::List(&Form::Text), false),
    ],
    unknown: "a rule's metadata takes `summary`, `role`, `locality`, `knobs`, `opset`, `after` and `conflicts` alone",
    missing: "",
};

const KNOB: Shape = Shape {
    members: &[
        ("name", Form::Text, true),
        ("description", Form::Text, false),
        ("domain", Form::Object(&DOMAIN), true),
        (
            "per",
            Form::List(&Form::OneOf(
                &["model", "layer", "channel_group"],
                "a knob's `per` lists \"model\", \"layer\" and \"channel_group\" alone",
            )),
            false,
        ),
        ("default", Form::List(&Form::Anything), false),
    ],
    unknown: "a knob's metadata takes `name`, `description`, `domain`, `per` and `default` alone",
    missing: "a knob's metadata needs `name` and `domain`",
};

const DOMAIN: Shape = Shape {
    members: &[
        ("min", Form::Anything, false),
        ("max", Form::Anything, false),
        ("choices", Form::List(&Form::Anything), false),
    ],
    unknown: "a knob's `domain` is {\"min\": ..., \"max\": ...} or {\"choices\": [...]}",
    missing: "a knob's `domain` is {\"min\": ..., \"max\": ...} or {\"choices\": [...]}",
};

const METER: Shape = Shape {
    members: &[
        ("summary", Form::Text, false),
        (
            "measures",
            Form::OneOf(&["quality", "cost"], "a meter `measures` \"quality\" or \"cost\""),
            true,
        ),
        ("needs_labels", Form::Flag, false),
        ("higher_is_better", Form::Flag, false),
        ("unit", Form::Text, false),
    ],
    unknown: "a meter's metadata takes `summary`, `measures`, `needs_labels`, `higher_is_better` and `unit` alone",
    missing: "a meter's metadata needs `measures`",
};

const POLICY: Shape = Shape {
    members: &[("summary", Form::Text, false)],
    unknown: "a policy's metadata takes `summary` alone",
    missing: "",
};

const fn check(kind: &str, json: &[u8]) {
    let shape = match kind.as_bytes() {
        b"rule" => &RULE,
        b"meter" => &METER,
        b"policy" => &POLICY,
        _ => panic!("an extension is a `rule`, a `meter` or a `policy`"),
    };
    let end = object(json, 0, shape);
    if space(json, end) != json.len() {
        panic!("the metadata goes on after its end");
    }
}

/// Ids stand in manifests, file names and messages, so they are plain.
const fn check_id(quoted: &[u8]) {
    if quoted.len() < 3 || quoted[0] != b'"' {
        panic!("an extension's id is a text in plain quotes, and not empty");
    }
    let mut at = 1;
    while at < quoted.len() - 1 {
        if !matches!(quoted[at], b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.') {
            panic!("an extension's id is made of a-z, 0-9, `_`, `-` and `.`");
        }
        at += 1;
    }
}

const fn equal(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && begins(left, 0, right)
}

const fn begins(json: &[u8], from: usize, text: &[u8]) -> bool {
    if json.len() < from + text.len() {
        return false;
    }
    let mut at = 0;
    while at < text.len() {
        if json[from + at] != text[at] {
            return false;
        }
        at += 1;
    }
    true
}

const fn byte(json: &[u8], at: usize) -> u8 {
    if at < json.len() { json[at] } else { 0 }
}

const fn space(json: &[u8], mut at: usize) -> usize {
    while matches!(byte(json, at), b' ' | b'\t' | b'\r' | b'\n') {
        at += 1;
    }
    at
}

/// Reads a value of this form from `at` and gives the place after it.
const fn value(json: &[u8], at: usize, form: &Form) -> usize {
    match form {
        Form::Anything => anything(json, at),
        Form::Text => string(json, at),
        Form::Flag => match (begins(json, at, b"true"), begins(json, at, b"false")) {
            (true, _) => at + 4,
            (_, true) => at + 5,
            _ => panic!("the metadata has something else where true or false must stand"),
        },
        Form::List(item) => list(json, at, item),
        Form::OneOf(choices, message) => {
            let end = string(json, at);
            let mut choice = 0;
            while choice < choices.len() {
                let text = choices[choice].as_bytes();
                if end - at == text.len() + 2 && begins(json, at + 1, text) {
                    return end;
                }
                choice += 1;
            }
            panic!("{}", *message)
        }
        Form::Object(shape) => object(json, at, shape),
    }
}

const fn list(json: &[u8], at: usize, item: &Form) -> usize {
    if byte(json, at) != b'[' {
        panic!("the metadata has something else where a list must stand");
    }
    let mut at = space(json, at + 1);
    if byte(json, at) == b']' {
        return at + 1;
    }
    loop {
        at = space(json, value(json, at, item));
        match byte(json, at) {
            b',' => at = space(json, at + 1),
            b']' => return at + 1,
            _ => {
                panic!("the metadata has a list without a comma or a closing bracket after an item")
            }
        }
    }
}

const ANY_OBJECT: Shape = Shape {
    members: &[],
    unknown: "",
    missing: "",
};

const fn object(json: &[u8], at: usize, shape: &Shape) -> usize {
    if byte(json, at) != b'{' {
        panic!("the metadata has something else where an object must stand");
    }
    let mut found = 0_u64;
    let mut at = space(json, at + 1);
    if byte(json, at) == b'}' {
        at += 1;
    } else {
        loop {
            let key = at;
            at = string(json, at);
            let (form, bit) = member(json, key, at, shape);
            if found & bit != 0 {
                panic!("the metadata has a key twice in one object");
            }
            found |= bit;
            at = space(json, at);
            if byte(json, at) != b':' {
                panic!("the metadata has a key without `:` after it");
            }
            at = space(json, value(json, space(json, at + 1), form));
            match byte(json, at) {
                b',' => at = space(json, at + 1),
                b'}' => {
                    at += 1;
                    break;
                }
                _ => panic!("the metadata has an object without a comma or a closing brace after a value"),
            }
        }
    }
    let mut member = 0;
    while member < shape.members.len() {
        if shape.members[member].2 && found & (1 << member) == 0 {
            panic!("{}", shape.missing);
        }
        member += 1;
    }
    at
}

/// The form of the member whose quoted key lies in `start..end`, and a bit of its own.
const fn member(json: &[u8], start: usize, end: usize, shape: &Shape) -> (&'static Form, u64) {
    let mut member = 0;
    while member < shape.members.len() {
        let (key, form, _) = &shape.members[member];
        if end - start == key.len() + 2 && begins(json, start + 1, key.as_bytes()) {
            return (form, 1 << member);
        }
        member += 1;
    }
    if !shape.members.is_empty() {
        panic!("{}", shape.unknown);
    }
    (&Form::Anything, 0)
}

const fn anything(json: &[u8], at: usize) -> usize {
    match byte(json, at) {
        b'"' => string(json, at),
        b'[' => list(json, at, &Form::Anything),
        b'{' => object(json, at, &ANY_OBJECT),
        b't' if begins(json, at, b"true") => at + 4,
        b'f' if begins(json, at, b"false") => at + 5,
        b'n' if begins(json, at, b"null") => at + 4,
        b'-' | b'0'..=b'9' => number(json, at),
        _ => panic!("the metadata has something that is no JSON value; a comma too many?"),
    }
}

const fn number(json: &[u8], mut at: usize) -> usize {
    if byte(json, at) == b'-' {
        at += 1;
    }
    if byte(json, at) == b'0' && byte(json, at + 1).is_ascii_digit() {
        panic!("a number in the metadata begins with a needless 0");
    }
    at = digits(json, at);
    if byte(json, at) == b'.' {
        at = digits(json, at + 1);
    }
    if matches!(byte(json, at), b'e' | b'E') {
        at += 1;
        if matches!(byte(json, at), b'+' | b'-') {
            at += 1;
        }
        at = digits(json, at);
    }
    at
}

const fn digits(json: &[u8], mut at: usize) -> usize {
    if !byte(json, at).is_ascii_digit() {
        panic!("the metadata has a number without a digit where one must stand");
    }
    while byte(json, at).is_ascii_digit() {
        at += 1;
    }
    at
}

const fn string(json: &[u8], at: usize) -> usize {
    if byte(json, at) != b'"' {
        panic!("the metadata has something else where a text in quotes must stand");
    }
    let mut at = at + 1;
    loop {
        match byte(json, at) {
            b'"' => return at + 1,
            b'\\' => match byte(json, at + 1) {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => at += 2,
                _ => panic!("the metadata has an escape that JSON does not know"),
            },
            0..0x20 => panic!("the metadata has a text with a line break or without an end"),
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Domain, Extension, Metadata};

    #[test]
    fn the_document_reads_back() {
        const EXTENSIONS: &[(&str, &str, &str)] = &[
            (
                "rule",
                r#""halve""#,
                r#"{ "summary": "halves", "knobs": [{"name": "half", "domain": {"min": -1, "max": 0.5}, "default": [0, 2.5e-1]}] }"#,
            ),
            ("policy", r#""halve""#, "{ }"),
        ];
        const SOURCE: Source<'static> = Source {
            abi: "1.0.0",
            name: "a \"quoted\" name",
            version: "0.1.0",
            license: "",
            description: "two\nlines",
            extensions: EXTENSIONS,
        };
        const DOCUMENT: [u8; checked_length(&SOURCE)] = encode(&SOURCE);
        let metadata: Metadata = serde_json::from_slice(&DOCUMENT).unwrap();
        assert_eq!(metadata.plugin.name, "a \"quoted\" name");
        assert_eq!(metadata.plugin.description, "two\nlines");
        let Extension::Rule(rule) = &metadata.extensions[0] else {
            panic!("{metadata:?}");
        };
        assert_eq!(rule.id, "halve");
        assert_eq!(rule.knobs[0].domain, Domain::Range { min: -1.0, max: 0.5 });
        assert_eq!(metadata.extensions[1].kind(), "policy");
    }

    #[test]
    fn mistakes_do_not_compile() {
        let refused = |kind: &'static str, json: &'static str| {
            let payload = std::panic::catch_unwind(|| check(kind, json.as_bytes())).unwrap_err();
            match payload.downcast::<String>() {
                Ok(text) => *text,
                Err(payload) => (*payload.downcast::<&str>().unwrap()).to_owned(),
            }
        };
        let cases = [
            ("rule", r#"{"summary":"x","role":"destroy"}"#, "`role`"),
            ("rule", r#"{"summary":"x","sumary":"y"}"#, "takes `summary`"),
            (
                "rule",
                r#"{"summary":"x","knobs":[{"name":"k"}]}"#,
                "needs `name` and `domain`",
            ),
            ("rule", r#"{"summary":"x","summary":"x"}"#, "twice"),
            ("rule", r#"{"summary":"x",}"#, "text in quotes"),
            ("rule", r#"{"summary":"x","after":["a",]}"#, "text in quotes"),
            ("rule", r#"{"summary":"x""#, "closing brace"),
            ("meter", r#"{"summary":"x"}"#, "needs `measures`"),
            (
                "meter",
                r#"{"summary":"x","measures":"quality","needs_labels":1}"#,
                "true or false",
            ),
            ("policy", r#"{"summary":"x"} {}"#, "after its end"),
            ("engine", r#"{"summary":"x"}"#, "an extension is"),
        ];
        for (kind, json, expected) in cases {
            let message = refused(kind, json);
            assert!(message.contains(expected), "{json}: {message}");
        }
    }
}
