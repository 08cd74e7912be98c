//! Safetensors and the folders of PEFT.

use std::fs;
use std::path::Path;

use kmr_formats::{
    ErrorKind, FormatError, NamedArrays, read_peft, read_safetensors, read_safetensors_from, write_peft,
    write_safetensors,
};
use kmr_model::{DType, Tensor, adapters::Adapter};
use proptest::prelude::*;
use serde_json::{Value, json};

fn tensors() -> impl Strategy<Value = Tensor> {
    let types = [
        DType::FLOAT,
        DType::DOUBLE,
        DType::BFLOAT16,
        DType::BOOL,
        DType::INT16,
        DType::UINT64,
    ];
    let shape = prop::collection::vec(0_usize..5, 0..4);
    (prop::sample::select(types.to_vec()), shape, any::<u8>()).prop_map(|(dtype, shape, first)| {
        let length = dtype.byte_len(shape.iter().product()).unwrap();
        let bytes: Vec<u8> = (0..length).map(|i| first.wrapping_add(i as u8)).collect();
        Tensor::new(dtype, shape, bytes.into()).unwrap()
    })
}

/// A file of this header and this many zero bytes.
fn file(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

fn refused(bytes: &[u8]) -> FormatError {
    read_safetensors_from(Path::new("adapters"), std::io::Cursor::new(bytes)).unwrap_err()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn safetensors_round_trip(
        arrays in prop::collection::hash_map("[a-zA-Z0-9_./:é\"-]{1,12}", tensors(), 0..5),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let arrays: NamedArrays = arrays.into_iter().collect();
        write_safetensors(&path, arrays.iter().map(|(name, array)| (name.as_str(), array))).unwrap();
        prop_assert_eq!(&read_safetensors(&path).unwrap(), &arrays);
        let bytes = fs::read(&path).unwrap();
        prop_assert_eq!(u64::from_le_bytes(bytes[..8].try_into().unwrap()) % 8, 0);
    }

    #[test]
    fn damage_is_an_error_or_reads(place in 0_usize..400, by in 1_u8..255, cut in 0_usize..400) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let tensor = Tensor::from_vec(vec![2, 3], vec![1.0_f32; 6]);
        write_safetensors(&path, [("a", &tensor), ("b", &tensor)]).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let length = bytes.len();
        bytes[place % length] ^= by;
        let _ = read_safetensors_from(&path, std::io::Cursor::new(&bytes));
        bytes[place % length] ^= by;
        prop_assert!(read_safetensors_from(&path, std::io::Cursor::new(&bytes[..cut % length])).is_err());
    }

    #[test]
    fn adapters_round_trip(
        sizes in prop::collection::vec((1_usize..4, 1_usize..5, 1_usize..5, any::<bool>(), 1_u8..9), 1..5),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let adapters: Vec<Adapter> = sizes
            .iter()
            .enumerate()
            .map(|(at, &(rank, inputs, outputs, image, scaling))| {
                let (kernel, ones) = if image { (vec![3, 3], vec![1, 1]) } else { (vec![], vec![]) };
                let tensor = |shape: Vec<usize>| Tensor::from_vec(shape.clone(), vec![at as f32; shape.iter().product()]);
                let a = tensor([vec![rank, inputs], kernel].concat());
                let b = tensor([vec![outputs, rank], ones].concat());
                Adapter::new(&format!("block.{at}.fc"), a, b, f32::from(scaling) / 4.0).unwrap()
            })
            .collect();
        write_peft(folder.path(), &adapters, None).unwrap();
        let read = read_peft(folder.path()).unwrap();
        for (read, written) in read.iter().zip(&adapters) {
            prop_assert!((read.scaling - written.scaling).abs() < 1e-6);
            prop_assert_eq!((&read.layer, &read.a, &read.b), (&written.layer, &written.a, &written.b));
        }
        prop_assert_eq!(read.len(), adapters.len());
    }
}

#[test]
fn hostile_headers_are_told() {
    let entry = |dtype: &str, shape: Value, offsets: Value| {
        json!({"x": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).to_string()
    };
    let cases = [
        (vec![1, 0, 0], "the header's length takes 8 bytes"),
        (
            u64::MAX.to_le_bytes().to_vec(),
            "the header takes 18446744073709551615 bytes",
        ),
        (
            99_999_999_u64.to_le_bytes().to_vec(),
            "the header takes 99999999 bytes; there can be at most 0",
        ),
        (file("[]", 0), "the header is no JSON object"),
        (file(&"[".repeat(100_000), 0), "the header is no JSON object"),
        (
            file(&entry("F32", json!([2]), json!([0, 4])), 4),
            "takes 8 bytes; got 4",
        ),
        (
            file(&entry("F32", json!([2]), json!([8, 0])), 8),
            "its bytes 8..0 do not lie in the 8",
        ),
        (
            file(&entry("F32", json!([2]), json!([0, 8])), 4),
            "its bytes 0..8 do not lie in the 4",
        ),
        (
            file(&entry("F32", json!([1]), json!([4, 8])), 8),
            "begin at 4, those before it end at 0",
        ),
        (
            file(&entry("F32", json!([1]), json!([0, 4])), 8),
            "4 bytes at the end belong to no tensor",
        ),
        (
            file(&entry("F32", json!([usize::MAX, 3]), json!([0, 4])), 4),
            "uncountable",
        ),
        (file(&entry("F32", json!([-1]), json!([0, 4])), 4), "invalid value"),
        (
            file(&entry("F8_E4M3", json!([4]), json!([0, 4])), 4),
            "element type `F8_E4M3` is not supported",
        ),
    ];
    for (bytes, expected) in cases {
        let error = refused(&bytes).to_string();
        assert!(
            error.contains(expected) && error.starts_with("adapters: "),
            "{expected}: {error}"
        );
    }
    let twice = json!({
        "x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "y": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    });
    assert!(
        refused(&file(&twice.to_string(), 4))
            .to_string()
            .contains("begin at 0, those before it end at 4")
    );
}

#[test]
fn what_cannot_be_written_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let tensor = Tensor::scalar(1.0_f32);
    let error = write_safetensors(&path, [("a", &tensor), ("a", &tensor)]).unwrap_err();
    assert!(
        error.to_string().contains("array `a`: the name occurs twice"),
        "{error}"
    );
    assert!(write_safetensors(&path, [("__metadata__", &tensor)]).is_err());
    let nibbles = Tensor::new(DType::INT4, vec![2], vec![0].into()).unwrap();
    let error = write_safetensors(&path, [("a", &nibbles)]).unwrap_err();
    assert!(error.to_string().contains("has no name for int4"), "{error}");
    let error = write_peft(folder.path(), &[], None).unwrap_err();
    assert_eq!((error.kind(), path.exists()), (ErrorKind::Empty, false));
}

fn adapter(layer: &str, rank: usize, scaling: f32) -> Adapter {
    let a = Tensor::from_vec(vec![rank, 2], vec![0.5_f32; 2 * rank]);
    Adapter::new(
        layer,
        a,
        Tensor::from_vec(vec![3, rank], vec![0.25_f32; 3 * rank]),
        scaling,
    )
    .unwrap()
}

#[test]
fn the_configuration_is_as_peft_writes_it() {
    let folder = tempfile::tempdir().unwrap();
    let config =
        || -> Value { serde_json::from_slice(&fs::read(folder.path().join("adapter_config.json")).unwrap()).unwrap() };
    write_peft(
        folder.path(),
        &[adapter("a.q", 4, 2.0), adapter("a.v", 4, 2.0)],
        Some("tiny"),
    )
    .unwrap();
    let plain = config();
    assert_eq!(
        (&plain["r"], &plain["lora_alpha"], &plain["peft_type"]),
        (&json!(4), &json!(8), &json!("LORA"))
    );
    assert_eq!(
        (&plain["target_modules"], &plain["rank_pattern"]),
        (&json!(["a.q", "a.v"]), &json!({}))
    );
    assert_eq!(plain["base_model_name_or_path"], "tiny");
    let names: Vec<String> = read_safetensors(&folder.path().join("adapter_model.safetensors"))
        .unwrap()
        .into_keys()
        .collect();
    assert_eq!(
        names[..2],
        [
            "base_model.model.a.q.lora_A.weight",
            "base_model.model.a.q.lora_B.weight"
        ]
    );
    // A layer whose name ends another's comes after it.
    write_peft(
        folder.path(),
        &[adapter("q", 2, 1.0), adapter("a.q", 4, 1.5), adapter("b", 2, 1.0)],
        None,
    )
    .unwrap();
    let mixed = config();
    assert_eq!(mixed["r"], 2);
    let keys: Vec<&String> = mixed["rank_pattern"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["a.q", "q", "b"]);
    assert_eq!(mixed["alpha_pattern"]["a.q"], 6);
    let read = read_peft(folder.path()).unwrap();
    let told: Vec<_> = read
        .iter()
        .map(|adapter| (adapter.layer.as_str(), adapter.rank, adapter.scaling))
        .collect();
    assert_eq!(told, [("a.q", 4, 1.5), ("b", 2, 1.0), ("q", 2, 1.0)]);
}

#[test]
fn other_adapters_than_plain_ones_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter_config.json");
    write_peft(folder.path(), &[adapter("a.q", 4, 2.0)], None).unwrap();
    let written: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let with = |key: &str, value: Value| {
        let mut config = written.clone();
        config[key] = value;
        fs::write(&path, config.to_string()).unwrap();
        read_peft(folder.path())
    };
    for (key, value, expected) in [
        (
            "peft_type",
            json!("IA3"),
            "peft_type is \"IA3\"; only plain LoRA is read",
        ),
        ("use_dora", json!(true), "use_dora is true"),
        ("bias", json!("all"), "bias is \"all\""),
        ("r", json!(8), "its rank is 4; the configuration says 8"),
        (
            "rank_pattern",
            json!({".*q": 4}),
            "the pattern `.*q` is more than a layer's name",
        ),
        ("lora_alpha", json!("much"), "is no configuration of LoRA"),
    ] {
        let error = with(key, value).unwrap_err().to_string();
        assert!(error.contains(expected), "{key}: {error}");
    }
    let stabilized = with("use_rslora", json!(true)).unwrap();
    assert_eq!(stabilized[0].scaling, 4.0);
    let tensor = Tensor::scalar(1.0_f32);
    let tensors = folder.path().join("adapter_model.safetensors");
    write_safetensors(&tensors, [("base_model.model.head.weight", &tensor)]).unwrap();
    let error = with("r", json!(4)).unwrap_err().to_string();
    assert!(
        error.contains("array `base_model.model.head.weight`: this is no A or B"),
        "{error}"
    );
    write_safetensors(&tensors, [("base_model.model.q.lora_A.weight", &tensor)]).unwrap();
    let error = with("r", json!(4)).unwrap_err().to_string();
    assert!(error.contains("array `q.lora_B.weight`: is missing"), "{error}");
    fs::remove_file(&path).unwrap();
    assert_eq!(read_peft(folder.path()).unwrap_err().kind(), ErrorKind::Io);
}

/// A safetensors file of these float32 values whose data begin `shift` bytes after a multiple of eight.
fn shifted(values: &[f32], shift: usize) -> Vec<u8> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut header = format!(
        r#"{{"a":{{"dtype":"F32","shape":[{}],"data_offsets":[0,{}]}}}}"#,
        values.len(),
        bytes.len()
    );
    header.push_str(&" ".repeat((8 + shift - header.len() % 8) % 8));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&bytes);
    file
}

#[test]
fn misaligned_tensors_are_copied_once_and_aligned_ones_never() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    for shift in 0..8 {
        std::fs::write(&path, shifted(&[1.5, -2.0, 3.0], shift)).unwrap();
        let tensor = &read_safetensors(&path).unwrap()["a"];
        let values = tensor.values::<f32>().unwrap();
        assert_eq!(*values, [1.5, -2.0, 3.0]);
        assert!(matches!(values, std::borrow::Cow::Borrowed(_)), "shift {shift}");
    }
}

#[test]
fn a_large_file_is_mapped_and_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let values = vec![0.5_f32; (kmr_platform::MAPPED_FROM / 4) as usize];
    std::fs::write(&path, shifted(&values, 0)).unwrap();
    let tensors = read_safetensors(&path).unwrap();
    // What is replaced by a rename stays what it was.
    kmr_platform::replace_file(&path, &mut |file| std::io::Write::write_all(file, b"other")).unwrap();
    assert!(tensors["a"].values::<f32>().unwrap().iter().all(|&value| value == 0.5));
}
