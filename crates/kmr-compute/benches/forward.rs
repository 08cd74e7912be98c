//! Times whole models: `forward MODEL BATCH [--threads N] [--input RAW --output RAW]`.
//!
//! The input is random, or float32 values read from a file; the outputs can be written the same way.
//! `onnxruntime_forward.py` compares values and speed with ONNX Runtime.

use std::time::Instant;

use kmr_compute::{Engine, Feeds, Interpreter, Mode};
use kmr_model::{Dimension, Model, Tensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [path, batch, rest @ ..] = arguments.as_slice() else {
        println!("forward MODEL BATCH [--threads N] [--input RAW --output RAW]");
        return Ok(());
    };
    let option = |name: &str| rest.iter().position(|a| a == name).and_then(|at| rest.get(at + 1));
    if let Some(threads) = option("--threads") {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads.parse()?)
            .build_global()?;
    }
    let batch: usize = batch.parse()?;
    let model = Model::decode(std::fs::read(path)?.into())?;
    let program = Interpreter.load(&model)?;
    let mut feeds = Feeds::new();
    for input in model.graph.feeds() {
        let shape: Vec<usize> = input
            .shape()
            .unwrap_or_default()
            .iter()
            .map(|dimension| match dimension {
                Dimension::Fixed(size) => *size,
                _ => batch,
            })
            .collect();
        let length = shape.iter().product();
        let values = match option("--input") {
            Some(file) => bytemuck::allocation::pod_collect_to_vec(&std::fs::read(file)?),
            None => (0..length).map(|k: usize| (k * 7919 % 1000) as f32 / 1000.0).collect(),
        };
        feeds.insert(input.name().into(), Tensor::from_vec(shape, values));
    }
    let mut best = f64::INFINITY;
    for _ in 0..8 {
        let start = Instant::now();
        let outputs = program.forward(&feeds, &[], Mode::default())?;
        best = best.min(start.elapsed().as_secs_f64());
        if let Some(file) = option("--output") {
            std::fs::write(file, outputs[0].bytes())?;
        }
    }
    println!("{}", batch as f64 / best);
    Ok(())
}
