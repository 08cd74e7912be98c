//! Generates the ONNX message types from `schema/onnx.proto`, without a protoc binary.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=schema/onnx.proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let compiled = protox::Compiler::new(["schema"])?
        .include_imports(true)
        .open_file("onnx.proto")?
        .encode_file_descriptor_set();
    let descriptors = out.join("onnx.descriptors");
    fs::write(&descriptors, compiled)?;
    buffa_build::Config::new()
        .descriptor_set(descriptors)
        .files(&["onnx.proto"])
        .use_bytes_type()
        .generate_views(false)
        .generate_json(false)
        .include_file("messages.rs")
        .compile()
}
