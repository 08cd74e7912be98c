//! Writes the adapters of an npz file as a PEFT folder, and reads one back: for `tests/python/peft_folder.py`.
//!
//! `peft_folder write ADAPTERS.npz FOLDER` takes arrays `<layer>.lora_A.weight`, `<layer>.lora_B.weight` and
//! `<layer>.lora_scaling`; `peft_folder read FOLDER ADAPTERS.npz` writes such.

use std::path::Path;

use kmr_formats::{read_npz, read_peft, write_npz, write_peft};
use kmr_model::{
    Graph, Tensor,
    adapters::{A, B, SCALING, adapters},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, from, to] = arguments.as_slice() else {
        return Err("usage: peft_folder write ADAPTERS.npz FOLDER | peft_folder read FOLDER ADAPTERS.npz".into());
    };
    if what == "write" {
        let mut graph = Graph::new("adapters");
        for (name, tensor) in read_npz(Path::new(from))? {
            graph.initializers.insert(name, tensor.into());
        }
        write_peft(Path::new(to), &adapters(&graph)?, None)?;
    } else {
        let mut arrays: Vec<(String, Tensor)> = Vec::new();
        for adapter in read_peft(Path::new(from))? {
            arrays.push((format!("{}{SCALING}", adapter.layer), Tensor::scalar(adapter.scaling)));
            arrays.push((format!("{}{A}", adapter.layer), adapter.a));
            arrays.push((format!("{}{B}", adapter.layer), adapter.b));
        }
        write_npz(
            Path::new(to),
            arrays.iter().map(|(name, tensor)| (name.as_str(), tensor)),
        )?;
    }
    Ok(())
}
