//! Weights of codes as the package `compressed-tensors` stores them, by its format `pack-quantized`.
//!
//! A weight [outputs, inputs] of a Linear layer becomes `weight_packed`, int32 with the codes of a row one behind the
//! other from the lowest bits on, each stored as code + 2^(bits − 1); `weight_scale`, float32 [outputs, groups], or [1]
//! for one scale; `weight_shape`, int64 [2]; and `weight_zero_point`, packed like the weight but along outputs, or for one
//! scale an int8.

use std::collections::BTreeMap;

use kmr_formats::NamedArrays;
use kmr_model::{DType, Graph, Tensor};
use serde_json::{Value, json};

use super::gathered::Gathered;
use super::integers::{IntegerMatrix, Made};
use crate::HuggingFaceError;
use crate::config::Config;
use crate::error::shown;

/// What a folder holds of a model's weights.
pub(super) struct Packed {
    /// Tensors by the names that they are stored under.
    pub tensors: NamedArrays,
    /// `quantization_config`, where there are codes.
    pub config: Option<Value>,
    /// Which weights are packed, and in how many bits.
    weights: Vec<(String, u8)>,
}

/// How the codes of a layer are stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Scheme {
    bits: u8,
    symmetric: bool,
    sharing: Sharing,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sharing {
    Tensor,
    Channel,
    Group(usize),
}

impl Scheme {
    fn of(matrix: &IntegerMatrix) -> Self {
        Self {
            bits: matrix.bits,
            symmetric: matrix.is_symmetric(),
            sharing: match matrix.groups() {
                1 if matrix.has_one_scale() => Sharing::Tensor,
                1 => Sharing::Channel,
                _ => Sharing::Group(matrix.group),
            },
        }
    }

    fn config(self, targets: &[String]) -> Value {
        let (strategy, group) = match self.sharing {
            Sharing::Tensor => ("tensor", Value::Null),
            Sharing::Channel => ("channel", Value::Null),
            Sharing::Group(size) => ("group", size.into()),
        };
        json!({
            "targets": targets,
            "weights": {
                "num_bits": self.bits, "type": "int", "symmetric": self.symmetric, "strategy": strategy,
                "group_size": group, "dynamic": false,
            },
            "input_activations": null,
            "output_activations": null,
        })
    }
}

/// Why codes are written as floating-point numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    Table,
    Expert,
    Ragged(usize, usize),
    Mixed,
    FewRows,
}

impl Reason {
    fn text(self) -> String {
        match self {
            Self::Table => "compressed-tensors stores the weights of Linear layers alone".into(),
            // transformers 5.24 joins experts while it loads, and finds none of them once anything is packed.
            Self::Expert => "`transformers` does not load experts beside packed weights".into(),
            Self::Ragged(group, columns) => format!("groups of {group} do not divide rows of {columns}"),
            // compressed-tensors 0.20.1 fails on zero points that lie in one word.
            Self::FewRows => "compressed-tensors does not unpack 4-bit zero points of eight rows or fewer".into(),
            Self::Mixed => "some of its channels are no integers".into(),
        }
    }
}

/// Packs the weights that are made of codes; those that the format cannot say become floating-point numbers of the type
/// that the others have, with a warning.
pub(super) fn pack(gathered: &Gathered, config: &Config, graph: &Graph, warnings: &mut Vec<String>) -> Packed {
    let dtype = gathered.dtype();
    let mut packed = Packed {
        tensors: NamedArrays::new(),
        config: None,
        weights: Vec::new(),
    };
    let mut schemes: BTreeMap<Scheme, Vec<&str>> = BTreeMap::new();
    let mut plain: BTreeMap<Reason, Vec<(&str, usize, usize)>> = BTreeMap::new();
    let mut ignore = Vec::new();
    for (name, tensor) in &gathered.tensors {
        let module = name.strip_suffix(".weight");
        let linear = module.filter(|_| is_linear(graph, config, name));
        let matrix = match gathered.made.get(name) {
            Some(made) => expressible(made, linear.is_some(), config),
            None => {
                let other_head = module.filter(|_| gathered.is_unused(name) && tensor.shape().len() == 2);
                ignore.extend(linear.or(other_head).map(str::to_owned));
                packed.tensors.insert(name.clone(), tensor.clone());
                continue;
            }
        };
        match (matrix, module) {
            (Ok(matrix), Some(module)) => {
                schemes.entry(Scheme::of(matrix)).or_default().push(module);
                packed.weights.push((name.clone(), matrix.bits));
                packed.tensors.extend(stored(matrix, name));
            }
            (reason, _) => {
                let reason = reason.err().unwrap_or(Reason::Table);
                let number = tensor.to_f32().map(|values| rounded(&values, dtype, tensor.shape()));
                let number = number.unwrap_or_else(|_| tensor.clone());
                let codes = match &gathered.made[name] {
                    Made::Codes(matrix) => stored(matrix, name).iter().map(|(_, part)| part.byte_len()).sum(),
                    Made::Mixed(_) => 0,
                };
                plain.entry(reason).or_default().push((name, number.byte_len(), codes));
                ignore.extend(linear.map(str::to_owned));
                packed.tensors.insert(name.clone(), number);
            }
        }
    }
    for (reason, tensors) in plain {
        warnings.push(warning(reason, &tensors, dtype));
    }
    if schemes.is_empty() {
        return packed;
    }
    if tied_head(config) {
        ignore.push("lm_head".into());
    }
    if dtype != DType::FLOAT {
        let name = dtype.name().unwrap_or("the folder's type");
        warnings.push(format!(
            "scales are stored as float32; whatever loads the folder as {name} rounds them to it"
        ));
    }
    let groups: serde_json::Map<String, Value> = schemes
        .iter()
        .enumerate()
        .map(|(at, (scheme, modules))| {
            let targets = targets(modules, config, gathered.layers.len());
            (format!("group_{at}"), scheme.config(&targets))
        })
        .collect();
    packed.config = Some(json!({
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": ignore,
        "kv_cache_scheme": null,
        "global_compression_ratio": null,
    }));
    packed
}

impl Packed {
    /// Checks tensors that were read back: all are there, byte for byte, and codes are worth what the model has.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`], naming the first that differs.
    pub fn check(&self, read: &NamedArrays, gathered: &Gathered) -> Result<(), HuggingFaceError> {
        let damaged = |name: &str| Err(HuggingFaceError::damaged(&format!("tensor `{}`", shown(name))));
        if let Some(name) = read.keys().find(|name| !self.tensors.contains_key(*name)) {
            return damaged(name);
        }
        for (name, tensor) in &self.tensors {
            if read.get(name) != Some(tensor) {
                return damaged(name);
            }
        }
        for (name, bits) in &self.weights {
            let worth = unpacked(read, name, *bits).map(|matrix| matrix.values());
            if worth.as_ref() != gathered.tensors.get(name) {
                return damaged(name);
            }
        }
        Ok(())
    }
}

fn expressible<'m>(made: &'m Made, linear: bool, config: &Config) -> Result<&'m IntegerMatrix, Reason> {
    match made {
        _ if matches!(config, Config::Decoder(decoder) if decoder.experts.is_some()) => Err(Reason::Expert),
        _ if !linear => Err(Reason::Table),
        Made::Mixed(_) => Err(Reason::Mixed),
        Made::Codes(matrix) if matrix.is_ragged() => Err(Reason::Ragged(matrix.group, matrix.columns)),
        Made::Codes(matrix) if matrix.bits == 4 && matrix.rows <= 8 && !matrix.is_symmetric() => Err(Reason::FewRows),
        Made::Codes(matrix) => Ok(matrix),
    }
}

/// Whether a tensor is the weight of what is a Linear layer in `transformers`: only products read it, and no expert has it.
fn is_linear(graph: &Graph, config: &Config, name: &str) -> bool {
    let mut readers = 0;
    for node in &graph.nodes {
        for (slot, _) in node.inputs().iter().enumerate().filter(|(_, input)| *input == name) {
            if !node.is("Gemm") || slot != 1 {
                return false;
            }
            readers += 1;
        }
    }
    readers > 0 && !is_routed(config, name)
}

/// Whether a tensor is an expert's, or chooses experts.
fn is_routed(config: &Config, name: &str) -> bool {
    let Config::Decoder(decoder) = config else { return false };
    let Some(experts) = &decoder.experts else { return false };
    let layer = config.layer_of(name);
    config.expert_of(name).is_some() || layer.is_some_and(|layer| experts.router(&decoder.layer(layer)) == name)
}

/// Whether the head is the table of tokens, and has no tensor of its own.
fn tied_head(config: &Config) -> bool {
    use crate::decoder::DecoderHead;
    matches!(config, Config::Decoder(decoder) if decoder.head == DecoderHead::LanguageModel { tied: true })
}

fn warning(reason: Reason, tensors: &[(&str, usize, usize)], dtype: DType) -> String {
    let (first, _, _) = tensors[0];
    let which = match tensors.len() {
        1 => format!("`{}` is", shown(first)),
        count => format!("{count} tensors (`{}` and others) are", shown(first)),
    };
    let bytes: usize = tensors.iter().map(|(_, bytes, _)| bytes).sum();
    let codes: usize = tensors.iter().map(|(_, _, codes)| codes).sum();
    let instead = match codes {
        0 => String::new(),
        codes => format!(" instead of {codes}"),
    };
    let name = dtype.name().unwrap_or("floating-point");
    format!(
        "{which} written as {name} numbers, {bytes} bytes{instead}: {}",
        reason.text()
    )
}

/// Numbers rounded to a floating-point type.
fn rounded(values: &[f32], dtype: DType, shape: &[usize]) -> Tensor {
    let like = Tensor::new(
        dtype,
        shape.to_vec(),
        vec![0; values.len() * dtype.bits().unwrap_or(32).div_ceil(8)].into(),
    );
    let made = like.and_then(|like| like.with_f32(values.to_vec()));
    made.unwrap_or_else(|_| Tensor::from_vec(shape.to_vec(), values.to_vec()))
}

/// What the modules are found by: their names behind any prefix, and one pattern for a part that all layers have alike.
fn targets(modules: &[&str], config: &Config, layers: usize) -> Vec<String> {
    let prefix = match config {
        Config::Encoder(config) => config.prefix.as_str(),
        Config::Decoder(config) => config.prefix.as_str(),
    };
    let mut targets: Vec<String> = Vec::new();
    let mut parts: BTreeMap<&str, usize> = BTreeMap::new();
    let part = |module: &'_ str| -> Option<usize> {
        let layer = config.layer_of(module)?;
        module
            .find(&format!(".{layer}."))
            .map(|at| at + layer.to_string().len() + 2)
    };
    for module in modules {
        if let Some(start) = part(module) {
            *parts.entry(&module[start..]).or_default() += 1;
        }
    }
    for module in modules {
        let inside = module.strip_prefix(prefix).unwrap_or(module);
        let pattern = match part(module) {
            Some(start) if parts.get(&module[start..]) == Some(&layers) => {
                let before = config.before_layers();
                let before = before.strip_prefix(prefix).unwrap_or(&before);
                format!("{}\\d+\\.{}", escaped(before), escaped(&module[start..]))
            }
            _ => escaped(inside),
        };
        let target = format!("re:(.*\\.)?{pattern}$");
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    targets
}

/// A name as a regular expression.
fn escaped(name: &str) -> String {
    let mut made = String::new();
    for character in name.chars() {
        if !character.is_ascii_alphanumeric() && character != '_' {
            made.push('\\');
        }
        made.push(character);
    }
    made
}

/// The tensors of a packed weight.
fn stored(matrix: &IntegerMatrix, name: &str) -> Vec<(String, Tensor)> {
    let (rows, columns, groups) = (matrix.rows, matrix.columns, matrix.groups());
    let scheme = Scheme::of(matrix);
    let one = scheme.sharing == Sharing::Tensor;
    let (shape, scales) = match one {
        true => (vec![1], vec![matrix.scales[0]]),
        false => (vec![rows, groups], matrix.scales.clone()),
    };
    let part = |what: &str| format!("{name}_{what}");
    let mut tensors = vec![
        (part("packed"), words(&matrix.codes, columns, matrix.bits)),
        (part("scale"), Tensor::from_vec(shape, scales)),
        (
            part("shape"),
            Tensor::from_vec(vec![2], vec![rows as i64, columns as i64]),
        ),
    ];
    if !scheme.symmetric {
        let zeros = match one {
            true => Tensor::from_vec(vec![1], vec![matrix.zeros[0] as i8]),
            false => turned(&words(&turned_codes(&matrix.zeros, groups), rows, matrix.bits)),
        };
        tensors.push((part("zero_point"), zeros));
    }
    tensors
}

/// Signed codes in 32-bit words, row by row: int32 [rows, words].
fn words(codes: &[i16], columns: usize, bits: u8) -> Tensor {
    let bits = usize::from(bits);
    let width = (columns * bits).div_ceil(32);
    let offset = 1_i16 << (bits - 1);
    let mut packed = Vec::with_capacity(codes.len() / columns * width);
    for row in codes.chunks_exact(columns) {
        // Both 4 and 8 divide 32: no code lies in two words.
        packed.extend(row.chunks(32 / bits).map(|codes| {
            let word = codes
                .iter()
                .rev()
                .fold(0_u32, |word, code| word << bits | (code + offset) as u32);
            word as i32
        }));
    }
    Tensor::from_vec(vec![codes.len() / columns, width], packed)
}

/// Columns as rows.
fn turned_codes(codes: &[i16], columns: usize) -> Vec<i16> {
    (0..columns)
        .flat_map(|column| codes.iter().skip(column).step_by(columns).copied())
        .collect()
}

/// A matrix of int32 with columns as rows.
fn turned(matrix: &Tensor) -> Tensor {
    let [rows, columns] = matrix.shape()[..] else {
        return matrix.clone();
    };
    let values = matrix.values::<i32>().unwrap_or_default();
    let moved = (0..columns).flat_map(|column| (0..rows).map(move |row| row * columns + column));
    Tensor::from_vec(vec![columns, rows], moved.map(|at| values[at]).collect())
}

/// The matrix of a packed weight; none where the parts do not fit each other.
fn unpacked(tensors: &NamedArrays, name: &str, bits: u8) -> Option<IntegerMatrix> {
    let part = |what: &str| tensors.get(&format!("{name}_{what}"));
    let shape = part("shape")?.to_i64().ok()?;
    let [rows, columns] = shape[..] else { return None };
    let (rows, columns) = (usize::try_from(rows).ok()?, usize::try_from(columns).ok()?);
    let packed = part("packed")?;
    let scale = part("scale")?;
    let groups = match scale.shape() {
        [1] => 1,
        &[found, groups] if found == rows => groups,
        _ => return None,
    };
    let scales = scale.values::<f32>().ok()?;
    let scales = match scale.shape() {
        [1] => vec![scales[0]; rows],
        _ => scales.into_owned(),
    };
    let zeros = match part("zero_point") {
        None => vec![0; rows * groups],
        Some(zero) if zero.shape() == [1] => vec![i16::from(*zero.values::<i8>().ok()?.first()?); rows],
        Some(zero) => turned_codes(&codes(&turned(zero), rows, bits)?, rows),
    };
    Some(IntegerMatrix {
        rows,
        columns,
        group: columns.div_ceil(groups),
        codes: codes(packed, columns, bits)?,
        scales,
        zeros,
        bits,
    })
}

/// The signed codes in words, `columns` of each row.
fn codes(words: &Tensor, columns: usize, bits: u8) -> Option<Vec<i16>> {
    let [_, width] = words.shape()[..] else { return None };
    let (per_word, bits) = (32 / usize::from(bits), usize::from(bits));
    let values = words.values::<i32>().ok()?;
    let code = |row: &[i32], at: usize| {
        let stored = row[at / per_word] as u32 >> (at % per_word * bits) & ((1 << bits) - 1);
        stored as i16 - (1 << (bits - 1))
    };
    Some(
        values
            .chunks_exact(width)
            .flat_map(|row| (0..columns).map(move |at| code(row, at)))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const CASES: [&str; 6] = [
        "group4",
        "group4_zero",
        "channel8",
        "channel8_zero",
        "tensor4",
        "tensor8_zero",
    ];

    /// A case of `tests/fixtures/packed.py`: the matrix, and what the package stores.
    fn case(fixture: &NamedArrays, case: &str) -> (IntegerMatrix, NamedArrays) {
        let part = |name: &str| &fixture[&format!("{case}.{name}")];
        let small = |name: &str| -> Vec<i16> {
            let values = part(name).values::<i8>().unwrap();
            values.iter().map(|&value| i16::from(value)).collect()
        };
        let [rows, columns] = part("codes").shape()[..] else {
            panic!()
        };
        let scale = part("weight_scale");
        let one = scale.shape() == [1];
        let every_row = if one { rows } else { 1 };
        let matrix = IntegerMatrix {
            rows,
            columns,
            group: columns / (scale.len() * every_row / rows),
            codes: small("codes"),
            scales: scale.values::<f32>().unwrap().repeat(every_row),
            zeros: small("zeros").repeat(every_row),
            bits: if case.contains('4') { 4 } else { 8 },
        };
        let prefix = format!("{case}.");
        let own = fixture
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?.to_owned(), tensor.clone())));
        (matrix, own.collect())
    }

    #[test]
    fn codes_lie_as_the_package_packs_them() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/packed.safetensors");
        let fixture = kmr_formats::read_safetensors(&path).unwrap();
        for name in CASES {
            let (matrix, package) = case(&fixture, name);
            let own: NamedArrays = stored(&matrix, "weight").into_iter().collect();
            assert_eq!(own.len(), if matrix.is_symmetric() { 3 } else { 4 }, "{name}");
            for (part, tensor) in &own {
                assert_eq!(Some(tensor), package.get(part), "{name}: {part}");
            }
            assert_eq!(&matrix.values(), &package["weight"], "{name}");
            assert_eq!(unpacked(&package, "weight", matrix.bits), Some(matrix), "{name}");
        }
    }

    #[test]
    fn names_become_patterns_of_themselves() {
        assert_eq!(escaped("layers.0.q_proj"), "layers\\.0\\.q_proj");
    }
}
